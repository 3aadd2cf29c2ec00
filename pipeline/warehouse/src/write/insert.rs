//! One batch of rows into ClickHouse: the log, and the states that follow from it.
//!
//! Guarantee: when [`insert`] has returned, all of it is stored. Where it fails, some of it may be: the same batch is to
//! be inserted again under the same token, which has an effect once in each table. (Without the token too nothing would
//! be counted twice; but rows would be written twice.)

use std::time::Duration;

use bytes::Bytes;
use chasqui_schemas::clickhouse::TRACE_EVENTS;
use clickhouse::{Client, Compression};

use super::{rows::Rows, states};

/// A server that takes longer than this for one batch is not well; the same batch is tried again.
const INSERT_TIMEOUT: Duration = Duration::from_secs(60);

/// What goes into one table.
pub struct Insert {
    table: &'static str,
    parts: [Bytes; 2],
}

/// The rows as inserts; none where there are no rows. It takes a tenth of a second.
pub fn encode(mut rows: Rows) -> Vec<Insert> {
    rows.sort();
    let [notifications, deliveries] = states::blocks(&rows);
    rows.dedup();
    // In this order a reader who sees that a notification has ended finds its deliveries and its trace.
    let blocks = [(TRACE_EVENTS, rows.block()), deliveries, notifications];
    let full = blocks.into_iter().filter(|(_, block)| !block.is_empty());
    full.map(|(table, block)| Insert { table, parts: block.bytes().map(Bytes::from) }).collect()
}

/// Inserts a batch.
pub async fn insert(client: &Client, inserts: &[Insert], token: &str) -> Result<(), clickhouse::error::Error> {
    // To compress a batch takes longer than to send it.
    let client = client.clone().with_compression(Compression::None);
    for Insert { table, parts } in inserts {
        let mut insert = client
            .insert_formatted_with(format!("INSERT INTO {table} FORMAT Native"))
            .with_timeouts(Some(INSERT_TIMEOUT), Some(INSERT_TIMEOUT))
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplication_token", token)
            // Every key is in the block once already.
            .with_setting("optimize_on_insert", "0")
            // On a cluster: the answer is the shards', not that of a queue before them.
            .with_setting("distributed_foreground_insert", "1")
            // Late receipts of many days may come together.
            .with_setting("max_partitions_per_insert_block", "0");
        for part in parts {
            insert.send(part.clone()).await?;
        }
        insert.end().await?;
    }
    Ok(())
}
