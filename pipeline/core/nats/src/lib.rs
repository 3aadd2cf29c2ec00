//! What Chasqui needs of NATS beyond its client library. It knows no stage.
//!
//! | module | holds |
//! |---|---|
//! | [`settings`] | the settings in `[nats]` |
//! | [`connection`] | the connection: how we log in, how often we try again |
//! | [`key`], [`accounts`] | how users of nats-server prove who they are, and what each may do |
//! | [`publisher`] | durable publishing in atomic batches |
//! | [`coalesce`] | a task that serves requests of several callers together |
//! | [`consumer`] | finding a durable consumer |
//! | [`reader`] | reading one: extend deadlines, acknowledge, store dead letters |
//! | [`letters`] | stores dead letters, as far as there is room for them |
//! | [`headers`] | reads the headers of all that a stream holds |
//! | [`shares`] | what each app holds of a stream |
//! | `pauses` | pauses between tries |
//! | [`release`] | removes from a stream what a consumer has acknowledged |
//! | [`bucket`] | opening a bucket of records, and one record of it |
//! | [`amend`] | changing a record without losing another's change |
//! | [`mirror`], [`cache`] | a bucket in memory: the whole of it, or the records that were read lately |
//! | [`presence`] | which keys a bucket may hold |
//! | `watch_state` | whether a watch is current |
//!
//! `chasqui migrate` creates streams and buckets; here a missing one is an error that names it.

pub mod accounts;
pub mod amend;
pub mod bucket;
pub mod cache;
pub mod coalesce;
pub mod connection;
pub mod consumer;
pub mod headers;
pub mod key;
pub mod letters;
pub mod mirror;
mod pauses;
pub mod presence;
pub mod publisher;
pub mod reader;
pub mod release;
pub mod settings;
pub mod shares;
mod watch_state;

pub use connection::{ConnectError, ConnectOptions, connect};
pub use consumer::find_consumer;
pub use letters::{Letter, Letters, dead_letter, raw_headers, unreadable_headers};
pub use pauses::Pauses;
pub use publisher::{Outgoing, PublishError, Publisher, Stored};
pub use release::keep_releasing;
pub use settings::Settings;
pub use shares::Shares;

use chasqui_contract::StoreError;

/// The error of a store that cannot be reached or answered with an error of its own.
pub fn unavailable(store: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unavailable { store, source: Some(source.into()) }
}
