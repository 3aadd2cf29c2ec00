//! The address book on the KV buckets that the directory reads.
//!
//! Guarantee: a record is changed only as it was read ([`chasqui_nats::amend`]), so that a device registered at the same moment
//! is not lost. What was there already is left alone. The directory that wrote sees it at once.
//!
//! After a crash the call is repeated, and finds done what was done.

use async_nats::jetstream::kv::CreateErrorKind;
use async_trait::async_trait;
use chasqui_contract::{AddressBook, StoreError};
use chasqui_nats::{amend::amend, bucket::bad_record, unavailable};
use chasqui_schemas::{
    bucket::{Bucket, address_key, shown, token},
    record::{Contacts, Suppression},
};
use jiff::Timestamp;

use crate::NatsDirectory;

#[async_trait]
impl AddressBook for NatsDirectory {
    async fn remove_device(
        &self,
        user: &str,
        device: &str,
        token_text: &str,
        gone_since: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let key = token(user);
        let remove = |contacts: Option<Contacts>| {
            let Some(mut contacts) = contacts else { return (None, true) };
            let removed = contacts.remove_device(device, token_text, gone_since);
            let gone = !contacts.has_device(device, token_text);
            (removed.then_some(contacts), gone)
        };
        let gone = amend(&self.contacts, Bucket::Contacts, &key, user, remove).await;
        self.cached_contacts.forget(&key);
        gone
    }

    async fn suppress(&self, address: &str, suppression: Suppression) -> Result<(), StoreError> {
        let (store, key) = (Bucket::Suppressions.as_str(), address_key(address));
        let record =
            serde_json::to_vec(&suppression).map_err(|error| bad_record(Bucket::Suppressions, &shown(&key), error))?;
        let created = self.suppressions.create(&key, record.into()).await;
        self.cached_suppressions.forget(&key);
        match created {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(unavailable(store, error)),
        }
    }
}
