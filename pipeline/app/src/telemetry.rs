//! Logs to standard error, and exports spans and metrics of Chasqui itself by OTLP over HTTP where an endpoint is set.
//!
//! A span covers one batch, and follows OpenTelemetry's messaging conventions. Notifications are traced in ClickHouse,
//! not here. Without an endpoint no layer wants the spans, and `tracing` skips their call sites at no cost. A process
//! that serves also holds its metrics for Prometheus ([`crate::metrics`]).
//!
//! After a crash the spans and metrics that were not exported yet are lost.

use std::io::IsTerminal;

use anyhow::Context;
use chasqui_schemas::metric;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    metrics::SdkMeterProvider,
    trace::{Sampler, SdkTracerProvider},
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    metrics::Metrics,
    settings::{LogFormat, LogSettings, TelemetrySettings},
};

/// Target of the spans of batches.
const SPANS: &str = "chasqui::batch";

/// Exporters to flush at the end.
#[derive(Default)]
pub struct Telemetry {
    spans: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

/// Begins to log and to export. `filter` replaces `log.filter`; RUST_LOG overrides both. A process without a `filter`
/// serves, and `prometheus` holds its metrics for `/metrics`.
pub fn start(
    log: &LogSettings,
    otlp: &TelemetrySettings,
    filter: Option<&str>,
    prometheus: &Metrics,
) -> anyhow::Result<Telemetry> {
    let mut telemetry = Telemetry::default();
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();

    let only = |target| Targets::new().with_target(target, LevelFilter::INFO);
    if filter.is_none() {
        layers.push(prometheus.clone().with_filter(only(metric::TARGET)).boxed());
    }
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| filter.unwrap_or(&log.filter).to_owned());
    let directives = format!("{directives},{SPANS}=off,{}=off", metric::TARGET);
    let filter = EnvFilter::try_new(&directives).with_context(|| format!("the log filter `{directives}` is wrong"))?;
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    layers.push(match log.format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
    });

    anyhow::ensure!(!otlp.otlp_endpoint.has_login(), "telemetry.otlp_endpoint: a login cannot stand in it");
    let endpoint = otlp.otlp_endpoint.as_str().trim_end_matches('/');
    if !endpoint.is_empty() {
        let resource = Resource::builder().with_service_name("chasqui").build();
        let exporter = SpanExporter::builder().with_http().with_endpoint(format!("{endpoint}/v1/traces")).build();
        let spans = SdkTracerProvider::builder()
            .with_batch_exporter(exporter.context("telemetry.otlp_endpoint cannot be used")?)
            .with_sampler(Sampler::TraceIdRatioBased(otlp.sample_ratio))
            .with_resource(resource.clone())
            .build();
        let exporter = MetricExporter::builder().with_http().with_endpoint(format!("{endpoint}/v1/metrics")).build();
        let metrics = SdkMeterProvider::builder()
            .with_periodic_exporter(exporter.context("telemetry.otlp_endpoint cannot be used")?)
            .with_resource(resource)
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(spans.tracer("chasqui"));
        layers.push(layer.with_filter(only(SPANS)).boxed());
        let layer = tracing_opentelemetry::MetricsLayer::new(metrics.clone());
        layers.push(layer.with_filter(only(metric::TARGET)).boxed());
        telemetry = Telemetry { spans: Some(spans), metrics: Some(metrics) };
    }

    tracing_subscriber::registry().with(layers).try_init().context("logging is already set up")?;
    Ok(telemetry)
}

impl Telemetry {
    /// Exports what is left. Errors are ignored: a collector that is away must not stop the process from ending.
    pub fn shutdown(self) {
        if let Some(spans) = self.spans {
            _ = spans.shutdown();
        }
        if let Some(metrics) = self.metrics {
            _ = metrics.shutdown();
        }
    }
}
