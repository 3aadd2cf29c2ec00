//! ClickHouse: from the trace stream into its tables, and back as one tree.
//!
//! | module | does |
//! |---|---|
//! | [`settings`] | `[clickhouse]` and `[export]` |
//! | [`client`] | how to reach ClickHouse, with TLS where it crosses a machine |
//! | [`schema`] | brings the tables up to date; takes a user out of them |
//! | [`mod@write`] | writes the trace stream and the samples of the queues |
//! | [`read`] | a notification as one tree, and as text; outcomes and rates |
//! | [`mod@export`] | sends the trace stream to a collector, by OTLP |
//!
//! Guarantee: an event that the trace stream has acknowledged reaches ClickHouse, at least once; whatever arrives
//! again replaces itself, so that states and rates are exact.

pub mod client;
mod error;
pub mod export;
pub mod read;
pub mod schema;
pub mod settings;
pub mod write;

pub use error::WarehouseError;
pub use export::run_exporter;
pub use read::{
    reconstruct::{TraceTree, load},
    stats,
};
pub use schema::{
    forget,
    migrate::{MigrateSettings, migrate},
};
pub use settings::{ClickHouseSettings, ExportSettings};
pub use write::writer::{WriterSettings, run_writer};
