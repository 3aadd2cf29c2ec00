//! The state buckets as commands write them: `chasqui contacts put` and its like.
//!
//! Guarantee: `Ok` from a write means stored. A record that a stage could not use is refused before it is written, by
//! the same types the stages read it with, and the error names the field.
//!
//! After a crash in the middle of an import the records before it are stored; import the whole again.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use async_nats::jetstream::{
    self,
    kv::{DeleteErrorKind, Operation, Store},
};
use bytes::Bytes;
use chasqui_contract::StoreError;
use chasqui_nats::{Outgoing, Publisher, bucket::open, unavailable};
use chasqui_schemas::{
    bucket::{Bucket, address_key, token, untoken},
    record::{Category, Contacts, Preferences, Suppression, Template},
};
use futures::{Stream, StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;

/// Largest record, in bytes of JSON. Templates of many locales are the largest.
pub const MAX_RECORD_BYTES: usize = 512 * 1024;
/// Longest name of a record, in bytes as a user writes it; a key takes up to three times that.
pub const MAX_NAME_BYTES: usize = 255;
/// How long a watcher may take to be told of a change.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// Records of an import on their way at a time: as many as a publisher has in flight.
const IMPORTS_IN_FLIGHT: usize = 8;

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is not what the bucket holds.
    #[error("the record `{name}` is wrong: {wrong}")]
    Wrong {
        /// Which record.
        name: String,
        /// `field: what is wrong with it`.
        wrong: String,
    },
    /// The bucket cannot take it now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One bucket, for reading and writing.
#[derive(Debug, Clone)]
pub struct Records {
    bucket: Bucket,
    store: Store,
    publisher: Publisher,
}

impl Records {
    /// Opens a bucket.
    ///
    /// # Errors
    /// `Unavailable` where it is missing or does not answer.
    pub async fn open(context: &jetstream::Context, bucket: Bucket) -> Result<Self, StoreError> {
        Ok(Records { bucket, store: open(context, bucket).await?, publisher: Publisher::new(context.clone()) })
    }

    /// Writes the record `name`: a user, template key, category or, in `suppressions`, an address.
    ///
    /// # Errors
    /// `Wrong` where the record or its name cannot be used; else the bucket's own.
    pub async fn put(&self, name: &str, json: Bytes) -> Result<(), RecordError> {
        check(self.bucket, name, &json)?;
        // As the KV client puts it, but with typed errors: a bucket is a stream, and a put a message.
        let put = Outgoing {
            subject: format!("{}{}", self.store.prefix, self.key(name)),
            message_id: None,
            headers: Vec::new(),
            payload: json,
        };
        self.publisher.publish(&[put]).await.map_err(|error| error.of_store(self.bucket.as_str()))?;
        Ok(())
    }

    /// The record as it was written.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        if name.is_empty() {
            return Ok(None);
        }
        self.store.get(self.key(name)).await.map_err(|error| unavailable(self.bucket.as_str(), error))
    }

    /// Deletes the record, if there is one.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.store.delete(self.key(name)).await {
            Err(error) if error.kind() != DeleteErrorKind::InvalidKey => Err(unavailable(self.bucket.as_str(), error)),
            _ => Ok(()),
        }
    }

    /// Deletes the record so that no message of it is left: a deletion leaves a marker, whose subject is the record's
    /// name. That goes too, once every watcher was told. Nothing of it can be read then; its bytes are on the server's
    /// disk until that compacts the file, since buckets allow no overwriting.
    ///
    /// # Errors
    /// `Unavailable`; then some of it may be left: again.
    pub async fn erase(&self, name: &str) -> Result<(), StoreError> {
        let failed = |error: async_nats::Error| unavailable(self.bucket.as_str(), error);
        let key = self.key(name);
        if self.store.entry(&key).await.map_err(|error| failed(error.into()))?.is_none() {
            return Ok(());
        }
        self.store.purge(&key).await.map_err(|error| failed(error.into()))?;
        self.told().await?;
        match self.store.entry(&key).await.map_err(|error| failed(error.into()))? {
            Some(marker) if marker.operation != Operation::Put => {
                let subject = format!("{}{key}", self.store.prefix);
                let purge = self.store.stream.purge().sequence(marker.revision + 1).filter(subject);
                purge.await.map_err(|error| failed(error.into()))?;
            }
            // Gone, or written anew meanwhile.
            _ => {}
        }
        Ok(())
    }

    /// Waits until the server has told every watcher all there is to tell; not for one that is away, since it begins anew
    /// when it comes back.
    async fn told(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + TOLD_WITHIN;
        loop {
            let watchers: Vec<_> = self
                .store
                .stream
                .consumers()
                .try_collect()
                .await
                .map_err(|error| unavailable(self.bucket.as_str(), error))?;
            if watchers.iter().all(|watcher| watcher.num_pending == 0) || Instant::now() > deadline {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The names of all records, in no order; in `suppressions` the hashes of addresses, which is all there is.
    ///
    /// # Errors
    /// `Unavailable`, where the listing begins or later in the stream.
    pub async fn names(&self) -> Result<impl Stream<Item = Result<String, StoreError>> + use<>, StoreError> {
        let bucket = self.bucket;
        let keys = self.store.keys().await.map_err(|error| unavailable(bucket.as_str(), error))?;
        Ok(keys.map(move |key| {
            let key = key.map_err(|error| unavailable(bucket.as_str(), error))?;
            // A key that is no spelling of a name was written by someone else; better shown than hidden.
            Ok(untoken(&key).unwrap_or(key))
        }))
    }

    /// Writes many records, many at a time; `done` is told how many are stored so far. The same name twice: which of
    /// the two stays is not said.
    ///
    /// # Errors
    /// The first record that cannot be written ends the import.
    pub async fn import(
        &self,
        records: impl Stream<Item = (String, Bytes)> + Send,
        mut done: impl FnMut(u64) + Send,
    ) -> Result<u64, RecordError> {
        let mut stored = 0;
        let writes = records.map(|(name, json)| async move { self.put(&name, json).await });
        let mut writes = pin!(writes.buffer_unordered(IMPORTS_IN_FLIGHT));
        while writes.try_next().await?.is_some() {
            stored += 1;
            done(stored);
        }
        Ok(stored)
    }

    fn key(&self, name: &str) -> String {
        match self.bucket {
            Bucket::Suppressions => address_key(name),
            Bucket::Contacts | Bucket::Preferences | Bucket::Templates | Bucket::Categories => token(name),
        }
    }
}

/// Whether stages can use `json` as the record `name` of `bucket`.
///
/// # Errors
/// `Wrong`, with the first thing that is.
pub fn check(bucket: Bucket, name: &str, json: &[u8]) -> Result<(), RecordError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(wrong(name, format!("its name must have 1 to {MAX_NAME_BYTES} bytes")));
    }
    if json.len() > MAX_RECORD_BYTES {
        return Err(wrong(name, format!("it has {} bytes, at most {MAX_RECORD_BYTES} are allowed", json.len())));
    }
    let checked = match bucket {
        Bucket::Contacts => parse::<Contacts>(json),
        Bucket::Preferences => parse::<Preferences>(json),
        Bucket::Templates => parse::<Template>(json),
        Bucket::Categories => parse::<Category>(json),
        Bucket::Suppressions => parse::<Suppression>(json),
    };
    checked.map_err(|error| wrong(name, error))
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<(), String> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    serde_path_to_error::deserialize::<_, T>(&mut reader).map_err(|error| {
        // A key that is one word of a vocabulary is told as `?`; the field before it has to do, with line and column.
        let path = error.path().to_string().replace(".?", "");
        // A path of "." is the record itself.
        if path == "." { error.inner().to_string() } else { format!("{path}: {}", error.inner()) }
    })?;
    reader.end().map_err(|error| error.to_string())
}

fn wrong(name: &str, wrong: String) -> RecordError {
    RecordError::Wrong { name: name.chars().take(64).collect(), wrong }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(bucket: Bucket, json: &str) -> String {
        check(bucket, "ada", json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_record_is_refused_and_the_field_named() {
        let told = complaint(Bucket::Contacts, r#"{"devices":[{"id":"a","platform":"symbian","token":"t"}]}"#);
        assert!(told.contains("`ada`") && told.contains("devices[0].platform") && told.contains("symbian"), "{told}");
        let told = complaint(Bucket::Preferences, r#"{"chanels":{"sms":false}}"#);
        assert!(told.contains("chanels"), "{told}");
        let told = complaint(Bucket::Categories, r#"{"ttl_s":"soon"}"#);
        assert!(told.contains("ttl_s"), "{told}");
    }

    #[test]
    fn what_follows_a_record_is_refused() {
        assert!(check(Bucket::Contacts, "ada", b"{} {}").is_err());
        assert!(check(Bucket::Contacts, "ada", b"{} ").is_ok());
    }

    #[test]
    fn a_record_has_a_name_and_a_size() {
        assert!(check(Bucket::Contacts, "", b"{}").is_err());
        assert!(check(Bucket::Contacts, &"a".repeat(MAX_NAME_BYTES + 1), b"{}").is_err());
        let large = format!("{{\"locale\":\"{}\"}}", "a".repeat(MAX_RECORD_BYTES));
        assert!(check(Bucket::Contacts, "ada", large.as_bytes()).is_err());
    }
}
