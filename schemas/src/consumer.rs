//! Consumers: durable readers of streams, by the names that `nats consumer info <stream> <consumer>` takes.

use crate::{Channel, Lane, Stage};

/// Reads [`crate::stream::TRACES`] and writes to ClickHouse.
pub const TRACES: &str = "clickhouse";
/// Reads [`crate::stream::TRACES`] and exports to another tracing system. It exists only where one is configured.
pub const EXPORT: &str = "otlp";
/// Reads [`crate::stream::RECEIPTS`] and adds them to the traces.
pub const RECEIPTS: &str = "traces";
/// Reads [`crate::stream::CONTACTS`] and keeps the index of whose an address is.
pub const OWNERS: &str = "owners";

/// The consumer of a queue: of one lane, and of one channel where the stage has a queue per channel. On
/// [`crate::stream::DEFERRED`] the consumer of a lane's due messages has the lane's name too.
pub fn of_queue(lane: Lane, channel: Option<Channel>) -> String {
    match channel {
        Some(channel) => format!("{lane}-{channel}"),
        None => lane.to_string(),
    }
}

/// The queues that a stage has in each lane: one, or one per channel for send.
pub fn queues(stage: Stage) -> Vec<Option<Channel>> {
    match stage {
        Stage::Send => Channel::ALL.map(Some).to_vec(),
        _ => vec![None],
    }
}
