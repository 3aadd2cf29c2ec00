//! The queues over time, in ClickHouse.
//!
//! Guarantee: a sample is inserted as a whole or not at all, and once, however many monitors took it at that moment. It
//! is tried once: a sample that ClickHouse does not take is a gap in a chart, and the next one follows in seconds.

use std::time::Duration;

use chasqui_schemas::clickhouse::QUEUE_METRICS;
use clickhouse::{Client, Row};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use tokio::time::timeout;

use crate::WarehouseError;

/// Maximum time of one insert: the next sample follows in seconds.
const INSERT_TIMEOUT: Duration = Duration::from_secs(5);

/// One queue at one moment; the columns of `queue_metrics`, which documents each.
#[derive(Debug, Clone, PartialEq, Row, Serialize)]
#[allow(missing_docs, reason = "documented in schemas/clickhouse/0005_queue_metrics.sql")]
pub struct QueueMetric {
    #[serde(serialize_with = "moment")]
    pub sampled_at: Timestamp,
    pub stage: &'static str,
    pub lane: &'static str,
    pub channel: &'static str,
    pub stream: &'static str,
    pub consumer: String,
    pub pending: u64,
    pub in_flight: u64,
    pub redelivered: u64,
    pub waiting: u64,
    pub oldest_ms: u64,
    pub bytes: u64,
    pub max_bytes: u64,
    pub in_per_s: f64,
    pub out_per_s: f64,
}

/// As text for people and JSON, and as ClickHouse wants it.
fn moment<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.collect_str(at)
    } else {
        serializer.serialize_i64(at.as_millisecond())
    }
}

/// Inserts the sample of the moment `at`.
///
/// # Errors
/// What ClickHouse said, or that it said nothing for 5 s.
pub async fn insert_sample(client: &Client, at: Timestamp, rows: &[QueueMetric]) -> Result<(), WarehouseError> {
    let inserting = async {
        let mut insert = client
            .insert::<QueueMetric>(QUEUE_METRICS)
            .await?
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplication_token", format!("{QUEUE_METRICS}:{}", at.as_millisecond()))
            .with_setting("distributed_foreground_insert", "1");
        for row in rows {
            insert.write(row).await?;
        }
        insert.end().await
    };
    let inserted = timeout(INSERT_TIMEOUT, inserting).await.unwrap_or(Err(clickhouse::error::Error::TimedOut));
    inserted.map_err(WarehouseError::clickhouse("writing a sample of the queues"))
}
