//! Which producer's span a receipt belongs under. What stages record carries it; a receipt comes from outside, days later
//! perhaps, and knows its notification only.
//!
//! Guarantee: found in memory or in ClickHouse, as long as either knows the notification. One whose root neither knows
//! half a minute after its submission is a stranger, and stays in a trace of its own.

use std::time::Duration;

use chasqui_nats::Pauses;
use chasqui_schemas::{
    clickhouse::TRACE_EVENTS,
    id,
    trace::{RECEIPT_STAGE, TraceEvent, event},
};
use clickhouse::Client;
use compact_str::CompactString;
use jiff::Timestamp;
use moka::{policy::EvictionPolicy, sync::Cache};
use tokio::time::sleep;
use uuid::Uuid;

use crate::write::row::trace_hex;

/// Notifications remembered, of some 150 bytes each: receipts of the last seconds, which ClickHouse may not know yet.
const REMEMBERED: u64 = 100_000;
/// A root is in ClickHouse after this long, unless the writer is behind.
const WRITTEN_WITHIN_MS: i64 = 30_000;
/// How often it is looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Producers {
    known: Cache<Uuid, CompactString>,
    clickhouse: Client,
}

impl Producers {
    pub(crate) fn new(clickhouse: Client) -> Self {
        let known = Cache::builder().max_capacity(REMEMBERED).eviction_policy(EvictionPolicy::lru()).build();
        Producers { known, clickhouse }
    }

    /// Gives receipts among `events` the `traceparent` of their notification. Waits for ClickHouse where it must.
    pub(crate) async fn complete(&self, events: &mut [TraceEvent]) {
        for event in events.iter().filter(|event| [event::NOTIFICATION, event::ATTEMPT].contains(&event.event.as_str()))
        {
            self.known.insert(event.trace_id, event.traceparent.clone());
        }
        let mut pauses = Pauses::default();
        loop {
            let receipts = events.iter().filter(|event| event.stage == RECEIPT_STAGE);
            let mut unknown: Vec<Uuid> =
                receipts.map(|event| event.trace_id).filter(|trace| !self.known.contains_key(trace)).collect();
            if unknown.is_empty() {
                break;
            }
            unknown.sort_unstable();
            unknown.dedup();
            if let Err(error) = self.look_up(&unknown).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "ClickHouse does not answer who produced late receipts; asking again"
                );
                sleep(pauses.pause()).await;
                continue;
            }
            let now_ms = Timestamp::now().as_millisecond();
            let coming =
                |trace: &Uuid| now_ms - id::embedded_ms(*trace) < WRITTEN_WITHIN_MS && !self.known.contains_key(trace);
            if !unknown.iter().any(coming) {
                break;
            }
            sleep(LOOK_INTERVAL).await;
        }
        for event in events.iter_mut().filter(|event| event.stage == RECEIPT_STAGE) {
            event.traceparent = self.known.get(&event.trace_id).unwrap_or_default();
        }
    }

    async fn look_up(&self, traces: &[Uuid]) -> Result<(), clickhouse::error::Error> {
        let sql = format!(
            "SELECT trace_id, attributes['traceparent'] FROM {TRACE_EVENTS} WHERE trace_id IN ? AND event = '{}'",
            event::NOTIFICATION
        );
        let ids: Vec<String> = traces.iter().copied().map(trace_hex).collect();
        let rows: Vec<(String, String)> = self.clickhouse.query(&sql).bind(ids).fetch_all().await?;
        for (trace, traceparent) in rows {
            if let Ok(trace) = trace.parse() {
                self.known.insert(trace, traceparent.into());
            }
        }
        Ok(())
    }
}
