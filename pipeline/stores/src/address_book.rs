//! The address book on the KV buckets that the directory reads.
//!
//! Guarantee: a record is changed only as it was read (compare and set), so that a device registered at the same moment
//! is not lost; who comes second reads again, a bounded number of times. What was there already is left alone. The
//! directory that wrote sees it at once.
//!
//! After a crash the call is repeated, and finds done what was done.

use std::time::Duration;

use async_nats::jetstream::kv::{CreateErrorKind, Operation, UpdateErrorKind};
use async_trait::async_trait;
use bytes::Bytes;
use chasqui_contract::{AddressBook, StoreError};
use chasqui_schemas::{
    bucket::{Bucket, address_key, token},
    record::{Contacts, Suppression},
};
use jiff::Timestamp;
use serde::Serialize;

use crate::{NatsDirectory, unavailable};

/// How often a record is read again that somebody else changed meanwhile.
const TRIES: u32 = 10;
/// Pause before the second try; the others are longer.
const PAUSE: Duration = Duration::from_millis(5);

#[async_trait]
impl AddressBook for NatsDirectory {
    async fn remove_device(
        &self,
        user: &str,
        device: &str,
        token_text: &str,
        gone_since: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let (store, key) = (Bucket::Contacts.as_str(), token(user));
        let bad = |source: serde_json::Error| bad_record(store, user, source);
        for tried in 0..TRIES {
            tokio::time::sleep(PAUSE * tried).await;
            let entry = self.contacts.entry(&key).await.map_err(|error| unavailable(store, error))?;
            let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else { return Ok(true) };
            let mut contacts: Contacts = serde_json::from_slice(&entry.value).map_err(bad)?;
            let removed = contacts.remove_device(device, token_text, gone_since);
            let gone = !contacts.has_device(device, token_text);
            if !removed {
                return Ok(gone);
            }
            let updated = self.contacts.update(&key, json(&contacts).map_err(bad)?, entry.revision).await;
            self.cached_contacts.forget(&key);
            match updated {
                Ok(_) => return Ok(gone),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(unavailable(store, error)),
            }
        }
        Err(unavailable(store, "others change the record again and again"))
    }

    async fn suppress(&self, address: &str, suppression: Suppression) -> Result<(), StoreError> {
        let (store, key) = (Bucket::Suppressions.as_str(), address_key(address));
        let record = json(&suppression).map_err(|error| bad_record(store, &key, error))?;
        let created = self.suppressions.create(&key, record).await;
        self.cached_suppressions.forget(&key);
        match created {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(unavailable(store, error)),
        }
    }
}

fn json(record: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(record).map(Bytes::from)
}

fn bad_record(store: &'static str, key: &str, source: serde_json::Error) -> StoreError {
    StoreError::BadRecord { store, key: key.to_owned(), source: Box::new(source) }
}
