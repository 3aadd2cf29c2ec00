//! The address book, on the buckets that the directory reads.
//!
//! Guarantee: a record is changed as it was read ([`chasqui_nats::amend`]), so a device that registers at the same
//! moment is not lost. An address that is suppressed already keeps its first reason. The directory that made a change
//! sees it at once, before its watch gets it from the server.
//!
//! After a crash the call is repeated, and finds its work done.

use async_nats::jetstream::kv::CreateErrorKind;
use async_trait::async_trait;
use chasqui_contract::{AddressBook, StoreError};
use chasqui_nats::{amend::amend_dated, bucket::bad_record, unavailable};
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

    async fn suppress(&self, address: &str, suppression: Suppression) -> Result<(), StoreError> {
        let key = Suppression::KEYED_BY.key(address);
        let json = serde_json::to_vec(&suppression)
            .map_err(|error| bad_record(Suppression::BUCKET, &Suppression::KEYED_BY.shown(address), error))?;
        let created = self.suppressions.store().create(&key, json.into()).await;
        self.suppressions.forget(&key);
        match created {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(unavailable(Suppression::BUCKET, error)),
        }
    }
}
