//! Metrics: what Chasqui measures of itself, each declared once.
//!
//! A measurement is a tracing event of the target [`TARGET`], made by [`measure!`](crate::measure). The process turns
//! these events into OTLP metrics and into the answer of `/metrics`.

/// The target of the events.
pub const TARGET: &str = "chasqui::metrics";

crate::vocabulary! {
    /// A metric, spelled as the field of its events: its kind, as tracing-opentelemetry reads it, and its name.
    pub enum Metric "metric" {
        Beats = "monotonic_counter.chasqui_beats": "Housekeeping rounds of the loops around stages; one that stops is stuck.",
        BatchSize = "histogram.chasqui_batch_size": "Messages in one commit.",
        CircuitChanges = "monotonic_counter.chasqui_circuit_changes": "Providers taken out of service and back, by the new state.",
        DeadLettersCut = "monotonic_counter.chasqui_dead_letters_cut": "Dead letters whose payload is not stored, because there are too many.",
        DeadLettersLost = "monotonic_counter.chasqui_dead_letters_lost": "Dead letters not stored, because there are too many; their trace is all that is left.",
        DeferralsRefused = "monotonic_counter.chasqui_deferrals_refused": "Messages made dead letters because their app has too much waiting for its time.",
        ExportBacklog = "gauge.chasqui_export_backlog": "Messages of the trace stream that wait for the exporter.",
        ExportLag = "histogram.chasqui_export_lag_ms": "Age of the oldest message of a batch of traces when it was exported.",
        ExportLost = "monotonic_counter.chasqui_export_lost": "Messages of the trace stream that were removed before they were exported.",
        ExportRejected = "monotonic_counter.chasqui_export_rejected": "Steps of notifications that the collector refused for good.",
        ExportSpans = "monotonic_counter.chasqui_export_spans": "Steps of notifications that the collector took.",
        GatewayCallbacksIgnored = "monotonic_counter.chasqui_gateway_callbacks_ignored": "Callbacks of providers that say nothing of use.",
        GatewayHeld = "monotonic_counter.chasqui_gateway_held": "Submissions that were in the gateway's spool longer than repeats are known: a person releases them.",
        GatewayLost = "monotonic_counter.chasqui_gateway_lost": "Opens and clicks that neither NATS nor the spool took.",
        GatewaySpooled = "monotonic_counter.chasqui_gateway_spooled": "Messages that went to the gateway's spool because NATS did not take them.",
        Messages = "monotonic_counter.chasqui_messages": "Messages committed, by decision; retry and dead are failures.",
        NewerVersions = "monotonic_counter.chasqui_newer_versions": "Messages put back because a newer version wrote them; a process of that version must take them.",
        ProviderCallTime = "histogram.chasqui_provider_call_ms": "How long calls of providers took.",
        ProviderCalls = "monotonic_counter.chasqui_provider_calls": "Calls that were made to providers, by outcome.",
        QueueInFlight = "gauge.chasqui_queue_in_flight": "Messages handed out and not acknowledged.",
        QueueInRate = "gauge.chasqui_queue_in_per_second": "Messages per second that came since the previous sample.",
        QueueOldest = "gauge.chasqui_queue_oldest_ms": "Age of the oldest message that is not acknowledged.",
        QueueOutRate = "gauge.chasqui_queue_out_per_second": "Messages per second that were acknowledged since the previous sample.",
        QueuePending = "gauge.chasqui_queue_pending": "Messages not handed out yet, each of up to 128 notifications.",
        QueueRedelivered = "gauge.chasqui_queue_redelivered": "Messages in flight that were handed out more than once.",
        QueueRowsLost = "monotonic_counter.chasqui_queue_rows_lost": "Samples of queues that are missing, by the server that did not answer.",
        QueueSampledAt = "gauge.chasqui_queue_sampled_timestamp_ms": "When the queues were last sampled, since 1970.",
        QueueWaiting = "gauge.chasqui_queue_waiting": "Requests for messages that the server holds; if it stays 0, nothing consumes the queue.",
        Redeliveries = "monotonic_counter.chasqui_redeliveries": "Messages committed that had been handed out before.",
        RejectionsLost = "monotonic_counter.chasqui_rejections_lost": "Rejections not stored; their trace is all that is left.",
        Restarts = "monotonic_counter.chasqui_restarts": "Times that a process began its roles anew, because one panicked or a connection was given up.",
        StoreErrors = "monotonic_counter.chasqui_store_errors": "Decisions that had to wait because a store did not answer.",
        StreamBytes = "gauge.chasqui_stream_bytes": "Bytes in a JetStream stream.",
        StreamMaxBytes = "gauge.chasqui_stream_max_bytes": "Maximum bytes of a JetStream stream, where it has one.",
        TraceBacklog = "gauge.chasqui_trace_backlog": "Messages of the trace stream that are not written to ClickHouse yet.",
        TraceLag = "histogram.chasqui_trace_lag_ms": "Age of the oldest message of a batch of traces when it was written.",
        TraceRows = "monotonic_counter.chasqui_trace_rows": "Steps of notifications written to ClickHouse.",
    }
}

/// How measurements of a metric add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They are summed.
    Counter,
    /// The last one counts.
    Gauge,
    /// They are sorted into buckets by size.
    Histogram,
}

impl Kind {
    /// The kind and the metric's name that a field of an event spells; `None` where it is a label.
    pub fn parse(field: &str) -> Option<(Kind, &str)> {
        let (kind, name) = field.split_once('.')?;
        match kind {
            "monotonic_counter" => Some((Kind::Counter, name)),
            "gauge" => Some((Kind::Gauge, name)),
            "histogram" => Some((Kind::Histogram, name)),
            _ => None,
        }
    }

    /// As Prometheus spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A metric's name in Prometheus, and how many of its units are one of those that Prometheus shows: by the conventions
/// of OpenMetrics a counter ends in `_total`, and milliseconds are shown as seconds.
pub fn prometheus(kind: Kind, name: &str) -> (String, f64) {
    let (mut shown, unit) = match name.strip_suffix("_ms") {
        Some(name) => (format!("{name}_seconds"), 1_000.0),
        None => (name.to_owned(), 1.0),
    };
    if kind == Kind::Counter {
        shown.push_str("_total");
    }
    (shown, unit)
}

impl Metric {
    /// The labels that distinguish its measurements. An empty label is left out.
    pub const fn labels(self) -> &'static [&'static str] {
        use Metric::*;
        match self {
            Beats | QueueInFlight | QueueInRate | QueueOldest | QueueOutRate | QueuePending | QueueRedelivered
            | QueueWaiting => &["stage", "lane", "channel"],
            DeadLettersCut | DeadLettersLost | DeferralsRefused => &["stage"],
            BatchSize | NewerVersions | Redeliveries | StoreErrors => &["stage", "lane"],
            Messages => &["stage", "lane", "decision"],
            CircuitChanges => &["provider", "to"],
            GatewayCallbacksIgnored => &["provider", "what"],
            ProviderCallTime => &["provider", "channel", "lane"],
            ProviderCalls => &["provider", "channel", "outcome"],
            QueueRowsLost => &["by"],
            StreamBytes | StreamMaxBytes => &["stream"],
            ExportBacklog | ExportLag | ExportLost | ExportRejected | ExportSpans | GatewayHeld | GatewayLost
            | GatewaySpooled | QueueSampledAt | RejectionsLost | Restarts | TraceBacklog | TraceLag | TraceRows => &[],
        }
    }

    /// Whether a measurement has the labels that are declared, in their order.
    pub const fn has_labels(self, given: &[&str]) -> bool {
        let declared = self.labels();
        let mut at = 0;
        while at < declared.len() && at < given.len() {
            if !is_same(declared[at].as_bytes(), given[at].as_bytes()) {
                return false;
            }
            at += 1;
        }
        declared.len() == given.len()
    }
}

/// `==`, which a constant cannot use.
const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    a.len() == b.len()
}

/// Reports a measurement: `measure!(Messages, count, stage, lane, decision)`, a metric, its value, and variables that
/// have the names of its labels. Other labels than those declared do not compile. The caller's crate depends on
/// `tracing`.
#[macro_export]
macro_rules! measure {
    ($metric:ident, $value:expr $(, $label:ident)*) => {{
        const _: () = assert!($crate::metric::Metric::$metric.has_labels(&[$(stringify!($label)),*]));
        ::tracing::event!(
            target: $crate::metric::TARGET,
            ::tracing::Level::INFO,
            { { $crate::metric::Metric::$metric.as_str() } = $value $(, $label)* }
        );
    }};
}
