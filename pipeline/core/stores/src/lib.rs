//! The ports of `chasqui-contract` on NATS, and their twins in memory.
//!
//! | module | holds |
//! |---|---|
//! | [`directory`] | contacts, preferences, templates, categories, suppressions: what stages read, each by a `record_reader` |
//! | [`address_book`] | the same directory, which takes dead addresses out of use |
//! | [`records`] | the same buckets, as commands write them |
//! | [`ledger`] | claims, first come, first served |
//! | `ends` | how attempts ended, many in a message |
//! | [`newest`] | the newest of the notifications that replace one another |
//! | [`owners`] | whose an address is: an index that follows the contacts |
//! | [`inbox`] | in-app inboxes |
//! | [`mod@pepper`] | the secret that keeps addresses out of ids |
//! | [`memory`] | twins of directory with address book, ledger and inbox, for tests of stages |
//!
//! Guarantee: a store and its twin answer alike: one conformance suite holds both to it (`tests/servers/conformance.rs`).
//! The runtime's topology creates streams and buckets; a store that does not find its own is an error that names it. What
//! a crash means, each store says.

pub mod address_book;
pub mod directory;
mod ends;
pub mod inbox;
pub mod ledger;
pub mod memory;
pub mod newest;
pub mod owners;
pub mod pepper;
mod record_reader;
pub mod records;

pub use directory::NatsDirectory;
pub use inbox::NatsInbox;
pub use ledger::NatsLedger;
pub use newest::NatsNewest;
pub use owners::OwnersIndex;
pub use pepper::{PepperError, PrivacySettings, pepper};
pub use records::{RecordError, Records, Revision};
