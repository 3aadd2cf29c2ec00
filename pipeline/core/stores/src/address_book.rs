//! The address book, on the buckets that the directory reads.
//!
//! Guarantee: a record is changed as it was read ([`chasqui_nats::amend`]), so a device that registers at the same
//! moment is not lost, nor what else is learned of an address. The directory that made a change sees it at once, before
//! its watch gets it from the server.
//!
//! After a crash the call is repeated, and finds its work done.

use async_trait::async_trait;
use chasqui_contract::{AddressBook, StoreError};
use chasqui_nats::amend::{amend, amend_dated};
use chasqui_schemas::record::{Contacts, Record, Suppression};
use jiff::Timestamp;

use crate::directory::NatsDirectory;

#[async_trait]
impl AddressBook for NatsDirectory {
    async fn remove_device(
        &self,
        user: &str,
        device: &str,
        token: &str,
        gone_since: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let key = Contacts::KEYED_BY.key(user);
        let remove = |contacts: Option<Contacts>, written_at| {
            let Some(mut contacts) = contacts else { return (None, true) };
            let removed = contacts.remove_device(device, token, gone_since, written_at);
            let gone = !contacts.has_device(device, token);
            (removed.then_some(contacts), gone)
        };
        let gone = amend_dated(self.contacts.store(), &key, user, remove).await;
        self.contacts.forget(&key);
        gone
    }

    async fn suppress(&self, address: &str, reason: &str, at: Timestamp) -> Result<(), StoreError> {
        let key = Suppression::KEYED_BY.key(address);
        let add = |known: Option<Suppression>| (Suppression::learned(known.as_ref(), reason, at), ());
        let added = amend(self.suppressions.store(), &key, &Suppression::KEYED_BY.shown(address), add).await;
        self.suppressions.forget(&key);
        added
    }
}
