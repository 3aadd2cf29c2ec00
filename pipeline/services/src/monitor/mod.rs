//! Watches the queues: depth, age and rates of every stream and consumer, every few seconds, into ClickHouse and as
//! metrics.
//!
//! | module | does |
//! |---|---|
//! | [`sampler`] | asks the broker |
//! | `rows` | what two looks say; pure |
//!
//! Guarantee: it slows nothing else down, and nothing stops it. A broker that is away, a cluster without a leader, a ClickHouse
//! that does not answer cost samples, which are counted (`chasqui_queue_rows_lost`), and nothing else. One monitor is
//! enough for an installation; of several, which sample at the same moments, each sample is stored once.
//!
//! Metrics by stage, lane and channel: `chasqui_queue_pending`, `_in_flight`, `_redelivered`, `_waiting`, `_oldest_ms`,
//! `_in_per_second`, `_out_per_second`; by stream `chasqui_stream_bytes`,
//! `chasqui_stream_max_bytes`; and `chasqui_queue_sampled_timestamp_ms`, when.
//!
//! After a crash there is a gap. It keeps nothing but the sample before, for rates.

mod rows;
pub mod sampler;

use std::{collections::BTreeMap, time::Duration};

use async_nats::Client;
use chasqui_schemas::measure;
use chasqui_warehouse::write::queue_metrics::{QueueMetric, insert_sample};
use jiff::Timestamp;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

pub use sampler::{Sample, Sampler};

/// The manual of `[monitor]`, with every default.
pub const DEFAULTS: &str = include_str!("../../monitor.toml");

/// `[monitor]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in monitor.toml")]
pub struct MonitorSettings {
    pub sample_ms: u64,
}

/// Least time between samples: sampling more often would be a load.
const SHORTEST: Duration = Duration::from_millis(500);

/// Samples at every multiple of `every` since 1970, until `stop`. `clickhouse` has the database set.
pub async fn run_monitor(client: Client, clickhouse: clickhouse::Client, every: Duration, stop: CancellationToken) {
    let every = every.max(SHORTEST);
    let mut sampler = Sampler::new(client);
    let mut refused = false;
    loop {
        let (wait, at) = next(Timestamp::now(), every);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        let sample = sampler.sample(at).await;
        publish_metrics(&sample);
        if sample.rows.is_empty() {
            continue;
        }
        match insert_sample(&clickhouse, at, &sample.rows).await {
            Ok(()) => refused = false,
            Err(error) => {
                count_lost("clickhouse", sample.rows.len());
                // Once for an outage: the writer logs it too.
                if !std::mem::replace(&mut refused, true) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "samples of the queues are lost");
                }
            }
        }
    }
}

/// How long to wait for the next moment, and which it is.
fn next(now: Timestamp, every: Duration) -> (Duration, Timestamp) {
    let every = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
    let past = now.as_millisecond().rem_euclid(every);
    let wait = Duration::from_millis((every - past) as u64);
    (wait, Timestamp::from_millisecond(now.as_millisecond() + every - past).unwrap_or(now))
}

fn publish_metrics(sample: &Sample) {
    if sample.unanswered > 0 {
        count_lost("nats", sample.unanswered);
    }
    let mut bytes = BTreeMap::new();
    for row in &sample.rows {
        bytes.insert(row.stream, (row.bytes, row.max_bytes));
        let QueueMetric { stage, lane, channel, pending, in_flight, redelivered, waiting, oldest_ms, .. } = *row;
        measure!(QueuePending, pending, stage, lane, channel);
        measure!(QueueInFlight, in_flight, stage, lane, channel);
        measure!(QueueRedelivered, redelivered, stage, lane, channel);
        measure!(QueueWaiting, waiting, stage, lane, channel);
        measure!(QueueOldest, oldest_ms, stage, lane, channel);
        measure!(QueueInRate, row.in_per_s, stage, lane, channel);
        measure!(QueueOutRate, row.out_per_s, stage, lane, channel);
    }
    for (stream, (bytes, max_bytes)) in bytes {
        measure!(StreamBytes, bytes, stream);
        if max_bytes > 0 {
            measure!(StreamMaxBytes, max_bytes, stream);
        }
    }
    if !sample.rows.is_empty() {
        let at = sample.at.as_millisecond();
        measure!(QueueSampledAt, at);
    }
}

fn count_lost(by: &'static str, rows: usize) {
    let rows = rows as u64;
    measure!(QueueRowsLost, rows, by);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monitors_that_start_at_different_times_sample_at_the_same_moments() {
        let every = Duration::from_secs(5);
        let moment = |ms| next(Timestamp::from_millisecond(ms).unwrap(), every);
        assert_eq!(moment(12_001), (Duration::from_millis(2_999), Timestamp::from_second(15).unwrap()));
        assert_eq!(moment(14_999).1, Timestamp::from_second(15).unwrap());
        assert_eq!(moment(15_000), (every, Timestamp::from_second(20).unwrap()), "never the same twice");
    }
}
