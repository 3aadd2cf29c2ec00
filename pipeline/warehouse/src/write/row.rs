//! A trace event read back from `trace_events`.

use chasqui_schemas::trace::{Attributes, TraceEvent};
use clickhouse::Row;
use compact_str::CompactString;
use serde::Deserialize;
use uuid::Uuid;

/// The columns of `trace_events`, by name; what they mean is said in the DDL and at [`TraceEvent`].
#[derive(Debug, Clone, PartialEq, Row, Deserialize)]
pub(crate) struct EventRow {
    trace_id: String,
    span_id: u64,
    parent_span_id: u64,
    #[serde(with = "clickhouse::serde::uuid")]
    notification_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    request_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    delivery_id: Uuid,
    app: CompactString,
    category: CompactString,
    template: CompactString,
    variant: CompactString,
    locale: CompactString,
    lane: CompactString,
    channel: CompactString,
    provider: CompactString,
    vendor: CompactString,
    stage: CompactString,
    event: CompactString,
    status: CompactString,
    state: CompactString,
    reason: CompactString,
    attempt: u32,
    queued_ns: u64,
    /// Nanoseconds.
    started_at: i64,
    duration_ns: u64,
    attributes: Attributes,
}

/// A trace id as `trace_events` spells it.
pub(crate) fn trace_hex(id: Uuid) -> String {
    id.simple().to_string()
}

impl From<EventRow> for TraceEvent {
    fn from(row: EventRow) -> Self {
        TraceEvent {
            // Written from a UUID; nil if another program wrote something else.
            trace_id: row.trace_id.parse().unwrap_or_default(),
            span_id: row.span_id,
            parent_span_id: row.parent_span_id,
            notification_id: row.notification_id,
            request_id: row.request_id,
            delivery_id: row.delivery_id,
            app: row.app,
            category: row.category,
            template: row.template,
            variant: row.variant,
            locale: row.locale,
            lane: row.lane,
            channel: row.channel,
            provider: row.provider,
            vendor: row.vendor,
            stage: row.stage,
            event: row.event,
            status: row.status,
            state: row.state,
            reason: row.reason,
            attempt: row.attempt,
            queued_ns: row.queued_ns,
            started_at: row.started_at,
            duration_ns: row.duration_ns,
            attributes: row.attributes,
            traceparent: CompactString::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_row_is_the_time_in_its_trace_id() {
        let at = jiff::Timestamp::from_millisecond(1_790_000_000_123).unwrap();
        let id = chasqui_schemas::id::notification(at, Uuid::nil(), "user:ada");
        assert_eq!(chasqui_schemas::id::embedded_ms(id), 1_790_000_000_123);
        assert_eq!(chasqui_schemas::id::embedded_ms(Uuid::nil()), 0);
    }
}
