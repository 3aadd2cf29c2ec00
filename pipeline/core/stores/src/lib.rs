//! The ports of `chasqui-contract` on NATS, and their twins in memory.
//!
//! | module | holds |
//! |---|---|
//! | [`connection`] | the connection to NATS: who we are, how often we try again |
//! | [`consumer`] | finding a durable consumer |
//! | [`publisher`] | durable publishing in atomic batches |
//! | [`directory`] | contacts, preferences, templates, categories, suppressions: what stages read |
//! | [`address_book`] | the same directory, taking dead addresses out of use |
//! | [`records`] | the same buckets as commands write them |
//! | [`opt_out`] | switches off what a recipient wants no more of |
//! | [`gather`] | requests that come at the same time, served together |
//! | [`ledger`] | claims, first come, first served |
//! | `ends` | how attempts ended, many in a message |
//! | [`inbox`] | in-app inboxes |
//! | [`mod@pepper`] | the secret that keeps addresses out of ids |
//! | [`release`] | frees what a consumer has acknowledged |
//! | [`memory`] | twins of directory with address book, ledger and inbox, for tests of stages |
//!
//! Guarantee: a store and its twin answer alike; one conformance suite (`tests/conformance.rs`) holds both to it.
//! Streams and buckets are made by the runtime's topology; a store that does not find its own says so.

pub mod address_book;
mod amend;
mod cache;
pub mod connection;
pub mod consumer;
pub mod directory;
mod ends;
pub mod gather;
pub mod inbox;
pub mod ledger;
pub mod memory;
mod mirror;
pub mod opt_out;
pub mod pepper;
pub mod publisher;
pub mod records;
pub mod release;
mod sight;

pub use connection::{ConnectError, ConnectOptions, connect};
pub use consumer::find_consumer;
pub use directory::NatsDirectory;
pub use inbox::NatsInbox;
pub use ledger::NatsLedger;
pub use pepper::{PepperError, pepper};
pub use publisher::{Outgoing, PublishError, Publisher, Stored};
pub use records::{RecordError, Records};
pub use release::keep_releasing;

use chasqui_contract::StoreError;

/// The store did not answer as it should.
fn unavailable(store: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unavailable { store, source: Some(source.into()) }
}
