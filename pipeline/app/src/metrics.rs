//! What this process counts, for Prometheus to read (`/metrics`).
//!
//! Everything that Chasqui measures of itself is an event of the target `chasqui::metrics`, wherever it happens;
//! [`telemetry`](crate::telemetry) sends them by OTLP, and here they are kept. Names are those of the events, by the
//! conventions of OpenMetrics: counters end in `_total`, and what was measured in milliseconds is told in seconds.
//!
//! Bounded: labels come from the topology and the configuration, never from messages; at most `MAX_SERIES` are kept, and
//! what comes beyond is counted. After a crash counters begin at zero, which Prometheus expects.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

/// Far more than there are.
const MAX_SERIES: usize = 4_000;
/// Upper bounds of histograms: those of OpenTelemetry, so that both ways say the same.
const BOUNDS: [f64; 15] = [0., 5., 10., 25., 50., 75., 100., 250., 500., 750., 1_000., 2_500., 5_000., 7_500., 10_000.];
/// Counts how often each loop went round.
const BEATS: &str = "chasqui_beats";

/// What each is, by the name in events.
const HELP: [(&str, &str); 29] = [
    (BEATS, "Housekeeping rounds of the loops around stages; one that stops is stuck"),
    ("chasqui_batch_size", "Messages in one commit"),
    ("chasqui_circuit_changes", "Providers taken out of service and back, by the new state"),
    ("chasqui_export_backlog", "Messages of the trace stream that wait for the exporter"),
    ("chasqui_export_lag_ms", "Age of the oldest message of a batch of traces when it was exported"),
    ("chasqui_export_lost", "Messages of the trace stream that were removed before they were exported"),
    ("chasqui_export_rejected", "Steps of notifications that the collector refused for good"),
    ("chasqui_export_spans", "Steps of notifications that the collector took"),
    ("chasqui_gateway_callbacks_ignored", "Callbacks of providers that say nothing of use"),
    ("chasqui_gateway_lost", "Opens and clicks that neither NATS nor the spool took"),
    ("chasqui_gateway_spooled", "Messages that went to the gateway's spool because NATS did not take them"),
    ("chasqui_messages", "Messages committed, by decision; retry and dead are failures"),
    ("chasqui_provider_call_ms", "How long calls of providers took"),
    ("chasqui_provider_calls", "Calls of providers, by outcome"),
    ("chasqui_queue_in_flight", "Messages handed out and not acknowledged"),
    ("chasqui_queue_in_per_second", "Messages that came, since the sample before"),
    ("chasqui_queue_oldest_ms", "Age of the oldest message that is not acknowledged"),
    ("chasqui_queue_out_per_second", "Messages that were acknowledged, since the sample before"),
    ("chasqui_queue_pending", "Messages not handed out yet, each of up to 128 notifications"),
    ("chasqui_queue_redelivered", "Messages in flight that were handed out more than once"),
    ("chasqui_queue_rows_lost", "Samples of queues that are missing, by who did not answer"),
    ("chasqui_queue_sampled_timestamp_ms", "When the queues were sampled last"),
    ("chasqui_queue_waiting", "Requests for messages that the server holds; 0 for a while: nobody consumes"),
    ("chasqui_redeliveries", "Messages committed that had been handed out before"),
    ("chasqui_store_errors", "Decisions that had to wait because a store did not answer"),
    ("chasqui_stream_bytes", "Bytes in a JetStream stream"),
    ("chasqui_trace_backlog", "Messages of the trace stream that are not written to ClickHouse yet"),
    ("chasqui_trace_lag_ms", "Age of the oldest message of a batch of traces when it was written"),
    ("chasqui_trace_rows", "Steps of notifications written to ClickHouse"),
];

/// All that was counted. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    families: BTreeMap<&'static str, Family>,
    series: usize,
    refused: u64,
}

#[derive(Debug)]
struct Family {
    kind: Kind,
    /// By their labels, as they are printed.
    series: BTreeMap<String, Series>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug)]
struct Series {
    /// Of a histogram the sum.
    value: f64,
    /// Of a histogram how many were in which bucket, the last without a bound.
    buckets: [u64; BOUNDS.len() + 1],
    updated_at: Instant,
}

impl<S: Subscriber> Layer<S> for Metrics {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut reading = Reading::default();
        event.record(&mut reading);
        self.keep(reading, Instant::now());
    }
}

impl Metrics {
    fn keep(&self, Reading { metric, labels }: Reading, now: Instant) {
        let Some((kind, name, value)) = metric else { return };
        let mut kept = self.kept();
        let Kept { families, series: count, refused } = &mut *kept;
        let family = families.entry(name).or_insert_with(|| Family { kind, series: BTreeMap::new() });
        if !family.series.contains_key(&labels) {
            if *count >= MAX_SERIES {
                *refused += 1;
                return;
            }
            *count += 1;
        }
        let new = || Series { value: 0.0, buckets: [0; BOUNDS.len() + 1], updated_at: now };
        let series = family.series.entry(labels).or_insert_with(new);
        series.updated_at = now;
        match kind {
            Kind::Counter => series.value += value,
            Kind::Gauge => series.value = value,
            Kind::Histogram => {
                series.value += value;
                series.buckets[BOUNDS.iter().position(|bound| value <= *bound).unwrap_or(BOUNDS.len())] += 1;
            }
        }
    }

    /// The loops that have not moved for longer than `limit`.
    pub fn stalled(&self, now: Instant, limit: Duration) -> Vec<String> {
        let kept = self.kept();
        let beats = kept.families.get(BEATS).into_iter().flat_map(|family| &family.series);
        let stalled = beats.filter(|(_, series)| now.duration_since(series.updated_at) > limit);
        stalled.map(|(labels, _)| labels.clone()).collect()
    }

    /// All of it as Prometheus reads it (text format 0.0.4).
    pub fn text(&self) -> String {
        let kept = self.kept();
        let mut text = String::new();
        for (name, family) in &kept.families {
            // Writing to a text cannot fail.
            _ = family.print(name, &mut text);
        }
        let refused = kept.refused;
        _ = writeln!(text, "# HELP chasqui_series_refused_total What was not kept because there are too many series");
        _ = writeln!(text, "# TYPE chasqui_series_refused_total counter\nchasqui_series_refused_total {refused}");
        text
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Family {
    fn print(&self, name: &str, text: &mut String) -> fmt::Result {
        let (mut told, unit) = match name.strip_suffix("_ms") {
            Some(name) => (format!("{name}_seconds"), 1_000.0),
            None => (name.to_owned(), 1.0),
        };
        if let Kind::Counter = self.kind {
            told.push_str("_total");
        }
        if let Some((_, help)) = HELP.iter().find(|(known, _)| *known == name) {
            writeln!(text, "# HELP {told} {help}")?;
        }
        writeln!(text, "# TYPE {told} {}", self.kind.as_str())?;
        for (labels, series) in &self.series {
            if let Kind::Histogram = self.kind {
                let before = if labels.is_empty() { String::new() } else { format!("{labels},") };
                let bounds = BOUNDS.iter().map(|bound| (bound / unit).to_string()).chain(["+Inf".to_owned()]);
                let mut count = 0;
                for (bound, more) in bounds.zip(series.buckets) {
                    count += more;
                    writeln!(text, "{told}_bucket{{{before}le=\"{bound}\"}} {count}")?;
                }
                line(text, &format!("{told}_sum"), labels, series.value / unit)?;
                line(text, &format!("{told}_count"), labels, count as f64)?;
            } else {
                line(text, &told, labels, series.value / unit)?;
            }
        }
        Ok(())
    }
}

fn line(text: &mut String, name: &str, labels: &str, value: f64) -> fmt::Result {
    if labels.is_empty() { writeln!(text, "{name} {value}") } else { writeln!(text, "{name}{{{labels}}} {value}") }
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Counter, Kind::Gauge, Kind::Histogram];

    /// How a field of an event says that it is one, as for tracing-opentelemetry.
    fn prefix(self) -> &'static str {
        match self {
            Kind::Counter => "monotonic_counter.",
            Kind::Gauge => "gauge.",
            Kind::Histogram => "histogram.",
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// What one event says.
#[derive(Default)]
struct Reading {
    metric: Option<(Kind, &'static str, f64)>,
    labels: String,
}

impl Reading {
    fn number(&mut self, field: &Field, value: f64) {
        let metric = Kind::ALL.into_iter().find_map(|kind| Some((kind, field.name().strip_prefix(kind.prefix())?)));
        match metric {
            Some((kind, name)) => self.metric = Some((kind, name, value)),
            None => self.label(field, &value.to_string()),
        }
    }

    /// An empty label is none.
    fn label(&mut self, field: &Field, value: &str) {
        if value.is_empty() {
            return;
        }
        let comma = if self.labels.is_empty() { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        _ = write!(self.labels, "{comma}{}=\"{value}\"", field.name());
    }
}

impl Visit for Reading {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.number(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, value as f64);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, value as f64);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.label(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.label(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing::{Level, subscriber::with_default};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What is told after the events of `happening`.
    fn told(happening: impl FnOnce()) -> String {
        let metrics = Metrics::default();
        with_default(tracing_subscriber::registry().with(metrics.clone()), happening);
        metrics.text()
    }

    #[test]
    fn counters_add_up_gauges_do_not_and_series_are_apart_by_label() {
        let text = told(|| {
            for (lane, count) in [("high", 2u64), ("high", 3), ("bulk", 7)] {
                tracing::event!(target: "chasqui::metrics", Level::INFO, monotonic_counter.chasqui_messages = count, stage = "send", lane, channel = "");
                tracing::event!(target: "chasqui::metrics", Level::INFO, gauge.chasqui_queue_pending = count, lane);
            }
        });
        for line in [
            "# TYPE chasqui_messages_total counter",
            "chasqui_messages_total{stage=\"send\",lane=\"high\"} 5",
            "chasqui_messages_total{stage=\"send\",lane=\"bulk\"} 7",
            "# TYPE chasqui_queue_pending gauge",
            "chasqui_queue_pending{lane=\"high\"} 3",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
    }

    #[test]
    fn milliseconds_are_told_in_seconds_and_buckets_hold_what_is_below() {
        let text = told(|| {
            for lag in [3u64, 5, 700, 99_000] {
                tracing::event!(target: "chasqui::metrics", Level::INFO, histogram.chasqui_trace_lag_ms = lag);
            }
        });
        for line in [
            "# TYPE chasqui_trace_lag_seconds histogram",
            "chasqui_trace_lag_seconds_bucket{le=\"0\"} 0",
            "chasqui_trace_lag_seconds_bucket{le=\"0.005\"} 2",
            "chasqui_trace_lag_seconds_bucket{le=\"0.75\"} 3",
            "chasqui_trace_lag_seconds_bucket{le=\"+Inf\"} 4",
            "chasqui_trace_lag_seconds_sum 99.708",
            "chasqui_trace_lag_seconds_count 4",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
    }

    #[test]
    fn a_label_cannot_end_the_line() {
        let text = told(|| {
            tracing::event!(target: "chasqui::metrics", Level::INFO, gauge.chasqui_x = 1u64, of = "a\"b\\c\nd");
        });
        assert!(text.contains("chasqui_x{of=\"a\\\"b\\\\c\\nd\"} 1\n"), "{text}");
    }

    #[test]
    fn series_are_bounded_and_what_is_refused_is_counted() {
        let text = told(|| {
            for n in 0..MAX_SERIES as u64 + 3 {
                tracing::event!(target: "chasqui::metrics", Level::INFO, gauge.chasqui_x = 1u64, n);
            }
        });
        assert_eq!(text.lines().filter(|line| line.starts_with("chasqui_x{")).count(), MAX_SERIES);
        assert!(text.contains("chasqui_series_refused_total 3"), "{text}");
    }

    #[test]
    fn a_loop_that_stops_is_named() {
        let (metrics, began) = (Metrics::default(), Instant::now());
        let beat = |stage: &str, at| {
            let metric = Some((Kind::Counter, BEATS, 1.0));
            metrics.keep(Reading { metric, labels: format!("stage=\"{stage}\"") }, at);
        };
        let (limit, later) = (Duration::from_secs(30), began + Duration::from_secs(31));
        beat("render", began);
        beat("send", began);
        beat("send", later);
        assert_eq!(metrics.stalled(began + limit, limit), Vec::<String>::new());
        assert_eq!(metrics.stalled(later, limit), ["stage=\"render\""]);
    }
}
