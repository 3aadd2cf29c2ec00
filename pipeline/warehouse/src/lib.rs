//! What happened to every notification: from the trace stream into ClickHouse, and back as one tree.
//!
//! | module | does |
//! |---|---|
//! | [`span`] | builds the trace events of a decision |
//! | [`sink`] | stores events in the durable trace stream |
//! | [`receipts`] | makes trace events of receipts |
//! | [`writer`] | writes the trace stream to ClickHouse |
//! | [`mod@export`] | sends the trace stream to a collector, by OTLP |
//! | [`mod@migrate`] | brings ClickHouse's tables up to date |
//! | [`reconstruct`] | reads a notification's events back as one tree |
//! | [`waterfall`] | draws that tree as text |
//! | [`mod@forget`] | takes a user out of ClickHouse |
//! | [`stats`] | counts outcomes and rates |
//! | [`queue_metrics`] | writes samples of the queues |
//! | [`measure`] | measures what all that costs |
//!
//! Guarantee: an event that the trace stream has acknowledged reaches ClickHouse, at least once; whatever arrives
//! again replaces itself, so that states and rates are exact.

mod consume;
mod ddl;
mod error;
pub mod export;
pub mod forget;
mod insert;
pub mod measure;
pub mod migrate;
mod native;
pub mod queue_metrics;
pub mod receipts;
pub mod reconstruct;
mod row;
mod rows;
pub mod sink;
pub mod span;
mod states;
pub mod stats;
pub mod waterfall;
pub mod writer;

pub use error::TraceError;
pub use export::{ExportConfig, run_exporter};
pub use measure::Measured;
pub use migrate::{MigrateSettings, migrate};
pub use receipts::run_receipts;
pub use reconstruct::{TraceTree, load};
pub use sink::{TraceSink, encoded};
pub use writer::{WriterSettings, run_writer};
