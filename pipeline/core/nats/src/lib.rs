//! What Chasqui needs of NATS beyond its client: a toolbox. It knows no port and no stage.
//!
//! | module | holds |
//! |---|---|
//! | [`settings`] | `[nats]` |
//! | [`connection`] | the connection: who we are, how often we try again |
//! | [`publisher`] | durable publishing in atomic batches |
//! | [`gather`] | requests that come at the same time, served together |
//! | [`consumer`] | finding a durable consumer |
//! | [`reader`] | reading one: open, extend, acknowledge, bury |
//! | [`release`] | frees what a consumer has acknowledged |
//! | [`bucket`] | opening a bucket of records, and one record of it |
//! | [`amend`] | changing a record as it was read |
//! | [`mirror`], [`cache`] | a bucket in memory, whole or what was asked for lately; `sight` says whether it is current |
//!
//! Streams and buckets are made by the runtime's topology; whoever does not find its own says so.

pub mod amend;
pub mod bucket;
pub mod cache;
pub mod coalesce;
pub mod connection;
pub mod consumer;
mod dead_letter;
pub mod mirror;
mod pauses;
pub mod publisher;
pub mod reader;
pub mod release;
pub mod settings;
mod watch_state;

pub use connection::{ConnectError, ConnectOptions, connect};
pub use consumer::find_consumer;
pub use dead_letter::dead_letter;
pub use pauses::Pauses;
pub use publisher::{Outgoing, PublishError, Publisher, Stored};
pub use release::keep_releasing;
pub use settings::Settings;

use chasqui_contract::StoreError;

/// The store did not answer as it should.
pub fn unavailable(store: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unavailable { store, source: Some(source.into()) }
}
