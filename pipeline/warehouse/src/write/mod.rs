//! Into ClickHouse: the trace stream, and the samples of the queues.

pub mod insert;
mod native;
pub mod queue_metrics;
pub(crate) mod row;
pub mod rows;
pub(crate) mod states;
pub mod writer;
