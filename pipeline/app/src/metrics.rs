//! Holds what this process measures, for Prometheus to read (`/metrics`).
//!
//! Everything that Chasqui measures of itself is an event, named in [`chasqui_schemas::metric`].
//! [`telemetry`](crate::telemetry) exports the events by OTLP; this module adds them up. It prints their names by the
//! conventions of OpenMetrics: counters end in `_total`, and milliseconds become seconds.
//!
//! Guarantee: memory is bounded. Labels come from the topology and the settings, never from messages. At most
//! `MAX_SERIES` are held, and a counter says how many events were refused beyond. After a crash counters begin at zero,
//! which Prometheus expects.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chasqui_schemas::metric::{Kind, Metric, prometheus};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

/// Maximum series in memory: far more than the topology has.
const MAX_SERIES: usize = 4_000;
/// Upper bounds of the buckets of histograms: OpenTelemetry's own, so that Prometheus and OTLP agree.
const BOUNDS: [f64; 15] = [0., 5., 10., 25., 50., 75., 100., 250., 500., 750., 1_000., 2_500., 5_000., 7_500., 10_000.];

/// Everything that was measured. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// By the field of the event, which holds the metric's kind and name.
    families: BTreeMap<&'static str, Family>,
    series: usize,
    refused: u64,
}

#[derive(Debug, Default)]
struct Family {
    /// By its labels, in the form in which they are printed.
    series: BTreeMap<String, Series>,
}

#[derive(Debug)]
struct Series {
    /// A histogram's sum; else the value itself.
    value: f64,
    /// A histogram's values per bucket. The last bucket has no upper bound.
    buckets: [u64; BOUNDS.len() + 1],
    updated_at: Instant,
}

impl<S: Subscriber> Layer<S> for Metrics {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut reading = Reading::default();
        event.record(&mut reading);
        self.record(reading, Instant::now());
    }
}

impl Metrics {
    fn record(&self, Reading { metric, labels }: Reading, now: Instant) {
        let Some((kind, field, value)) = metric else { return };
        let mut kept = self.kept();
        let Kept { families, series: count, refused } = &mut *kept;
        let family = families.entry(field).or_default();
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
        let beats = kept.families.get(Metric::Beats.as_str()).into_iter().flat_map(|family| &family.series);
        let stalled = beats.filter(|(_, series)| now.duration_since(series.updated_at) > limit);
        stalled.map(|(labels, _)| labels.clone()).collect()
    }

    /// Prints everything in Prometheus' text format 0.0.4.
    pub fn text(&self) -> String {
        let kept = self.kept();
        let mut text = String::new();
        for (name, family) in &kept.families {
            // Writing to a `String` cannot fail.
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
    fn print(&self, field: &str, text: &mut String) -> fmt::Result {
        let Some((kind, name)) = Kind::parse(field) else { return Ok(()) };
        let (shown, unit) = prometheus(kind, name);
        if let Ok(metric) = field.parse::<Metric>() {
            writeln!(text, "# HELP {shown} {}", metric.meaning())?;
        }
        writeln!(text, "# TYPE {shown} {}", kind.as_str())?;
        for (labels, series) in &self.series {
            if kind == Kind::Histogram {
                let before = if labels.is_empty() { String::new() } else { format!("{labels},") };
                let bounds = BOUNDS.iter().map(|bound| (bound / unit).to_string()).chain(["+Inf".to_owned()]);
                let mut count = 0;
                for (bound, more) in bounds.zip(series.buckets) {
                    count += more;
                    writeln!(text, "{shown}_bucket{{{before}le=\"{bound}\"}} {count}")?;
                }
                line(text, &format!("{shown}_sum"), labels, series.value / unit)?;
                line(text, &format!("{shown}_count"), labels, count as f64)?;
            } else {
                line(text, &shown, labels, series.value / unit)?;
            }
        }
        Ok(())
    }
}

fn line(text: &mut String, name: &str, labels: &str, value: f64) -> fmt::Result {
    if labels.is_empty() { writeln!(text, "{name} {value}") } else { writeln!(text, "{name}{{{labels}}} {value}") }
}

/// The metric and labels of one event.
#[derive(Default)]
struct Reading {
    metric: Option<(Kind, &'static str, f64)>,
    labels: String,
}

impl Reading {
    fn number(&mut self, field: &Field, value: f64) {
        match Kind::parse(field.name()) {
            Some((kind, _)) => self.metric = Some((kind, field.name(), value)),
            None => self.label(field, &value.to_string()),
        }
    }

    /// Adds a label. An empty one is left out, as the stages that have no channel leave it empty.
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

    /// What Prometheus reads after the events of `happening`.
    fn text_after(happening: impl FnOnce()) -> String {
        let metrics = Metrics::default();
        with_default(tracing_subscriber::registry().with(metrics.clone()), happening);
        metrics.text()
    }

    #[test]
    fn counters_add_up_gauges_do_not_and_series_are_apart_by_label() {
        let text = text_after(|| {
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
            assert!(text.lines().any(|printed| printed == line), "{line}: {text}");
        }
    }

    #[test]
    fn milliseconds_are_shown_in_seconds_and_buckets_hold_what_is_below() {
        let text = text_after(|| {
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
            assert!(text.lines().any(|printed| printed == line), "{line}: {text}");
        }
    }

    #[test]
    fn a_label_cannot_end_the_line() {
        let text = text_after(|| {
            tracing::event!(target: "chasqui::metrics", Level::INFO, gauge.chasqui_x = 1u64, of = "a\"b\\c\nd");
        });
        assert!(text.contains("chasqui_x{of=\"a\\\"b\\\\c\\nd\"} 1\n"), "{text}");
    }

    #[test]
    fn series_are_bounded_and_what_is_refused_is_counted() {
        let text = text_after(|| {
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
            let metric = Some((Kind::Counter, Metric::Beats.as_str(), 1.0));
            metrics.record(Reading { metric, labels: format!("stage=\"{stage}\"") }, at);
        };
        let (limit, later) = (Duration::from_secs(30), began + Duration::from_secs(31));
        beat("render", began);
        beat("send", began);
        beat("send", later);
        assert_eq!(metrics.stalled(began + limit, limit), Vec::<String>::new());
        assert_eq!(metrics.stalled(later, limit), ["stage=\"render\""]);
    }
}
