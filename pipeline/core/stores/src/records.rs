//! The state buckets as commands write them: `chasqui contacts put` and the others.
//!
//! Guarantee: `Ok` from a write means stored. A record is checked before it is written ([`Bucket::check`]), by the type
//! that stages read it with; a record that they could not use is refused, and the error names the field. It is written in its
//! normal form. What is legal and surely a mistake is written, and told.
//!
//! An import writes atomic batches, an fsync for up to a thousand records. A record that cannot be used is answered and the
//! others go on. After a crash in the middle of it some records are stored: import the whole file again, which writes each
//! record as the file has it.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use async_nats::jetstream::{
    self,
    kv::{DeleteErrorKind, Entry, Operation, Store},
};
use bytes::Bytes;
use chasqui_contract::StoreError;
use chasqui_nats::{Outgoing, Publisher, bucket::open, unavailable};
use chasqui_schemas::{
    bucket::{KeyedBy, untoken},
    record::{Bucket, Checked, Violation},
};
use futures::{Stream, StreamExt, TryStreamExt, future::join};
use jiff::Timestamp;

/// Maximum bytes of a record, as JSON: half of what NATS takes as one message by default. Only templates in many
/// locales come near it.
pub const MAX_RECORD_BYTES: usize = 512 * 1024;
/// Maximum bytes of a record's name. Its key takes three times as many at most, which fits in the 4 KiB that NATS allows
/// a line with a subject.
pub const MAX_NAME_BYTES: usize = 255;
/// Maximum wait until every watch has received a deletion. A watch that takes longer has lost its connection, and reads
/// the bucket anew when it is back.
const WATCHES_CATCH_UP_WITHIN: Duration = Duration::from_secs(5);
/// Maximum records of an import that are written at a time: the server takes no more in an atomic batch (ADR-50).
const IMPORTED_AT_ONCE: usize = 1_000;
/// Bytes of records from which on no more are written at a time: as many as the publisher puts into an atomic batch.
const IMPORTED_BYTES: usize = 4 * 1024 * 1024;
/// Maximum time in which an import goes on trying to write the same records: longer than a server takes to restart.
const IMPORT_PATIENCE: Duration = Duration::from_secs(60);

/// Maximum records that are asked for at a time to list them.
const READS_IN_FLIGHT: usize = 32;

/// A record's name and JSON.
pub type Named = (String, Bytes);

/// What a record must be beside what its type says: what only somebody above the stores knows.
pub type Check = fn(&[u8]) -> Result<(), Violation>;

/// A record that was stored, by its name, and what in it is surely a mistake.
pub type Stored = (String, Vec<Violation>);

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
    /// A line of a file holds no record.
    #[error("line {number} {wrong}")]
    Line {
        /// Which line, from 1 on.
        number: u64,
        /// What is wrong with it.
        wrong: String,
    },
    /// The bucket cannot take it now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A record as it was written once.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    /// Its number; later writes to the bucket have higher ones.
    pub number: u64,
    /// When it was written.
    pub at: Timestamp,
    /// `None` where it was deleted.
    pub json: Option<Bytes>,
}

/// One bucket, for reading and writing.
#[derive(Debug, Clone)]
pub struct Records {
    bucket: Bucket,
    also: Check,
    store: Store,
    publisher: Publisher,
}

impl Records {
    /// Opens a bucket.
    ///
    /// # Errors
    /// `Unavailable` where it is missing or does not answer.
    pub async fn open(context: &jetstream::Context, bucket: Bucket) -> Result<Self, StoreError> {
        let publisher = Publisher::new(context.clone());
        Ok(Records { bucket, also: |_| Ok(()), store: open(context, bucket.as_str()).await?, publisher })
    }

    /// Refuses what `also` refuses, too.
    #[must_use]
    pub fn checking(self, also: Check) -> Self {
        Records { also, ..self }
    }

    /// Writes the record `name`; what names are depends on the bucket ([`Bucket::keyed_by`]). Answers what in it is surely a
    /// mistake.
    ///
    /// # Errors
    /// `Wrong` where the record or its name cannot be used; else the bucket's own.
    pub async fn put(&self, name: &str, json: Bytes) -> Result<Vec<Violation>, RecordError> {
        let (put, doubts) = self.outgoing(name, &json)?;
        self.publisher.publish(&[put]).await.map_err(|error| error.of_store(self.bucket.as_str()))?;
        Ok(doubts)
    }

    /// The message that writes a record, and what is surely a mistake in it. The KV client would publish the same, but one at a time, and its error does not
    /// tell a full bucket from a lost one.
    fn outgoing(&self, name: &str, json: &[u8]) -> Result<(Outgoing, Vec<Violation>), RecordError> {
        let Checked { json, doubts } = check(self.bucket, self.also, name, json)?;
        let subject = format!("{}{}", self.store.prefix, self.key(name));
        Ok((Outgoing { subject, message_id: None, headers: Vec::new(), payload: json.into() }, doubts))
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

    /// The record and what it was before, the oldest first: as many writes as the bucket keeps.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn history(&self, name: &str) -> Result<Vec<Revision>, StoreError> {
        if name.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |error: async_nats::Error| unavailable(self.bucket.as_str(), error);
        let entries = self.store.history(self.key(name)).await.map_err(|error| failed(error.into()))?;
        let revision = |entry: Entry| Revision {
            number: entry.revision,
            at: Timestamp::from_nanosecond(entry.created.unix_timestamp_nanos()).unwrap_or_default(),
            json: (entry.operation == Operation::Put).then_some(entry.value),
        };
        entries.map_ok(revision).map_err(|error| failed(error.into())).try_collect().await
    }

    /// Deletes the record, if there is one. What it was stays in its history; [`Records::erase`] leaves nothing.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.store.delete(self.key(name)).await {
            Err(error) if error.kind() != DeleteErrorKind::InvalidKey => Err(unavailable(self.bucket.as_str(), error)),
            _ => Ok(()),
        }
    }

    /// Deletes the record, its history and every trace of its name. An ordinary deletion leaves a marker that is called as the record
    /// was; here the marker is removed too, once every watch has received it. What remains are bytes on the server's
    /// disk that nothing can read, until the server compacts its file.
    ///
    /// # Errors
    /// `Unavailable`; then some of it may be left: call it again.
    pub async fn erase(&self, name: &str) -> Result<(), StoreError> {
        let failed = |error: async_nats::Error| unavailable(self.bucket.as_str(), error);
        let key = self.key(name);
        if self.store.entry(&key).await.map_err(|error| failed(error.into()))?.is_none() {
            return Ok(());
        }
        self.store.purge(&key).await.map_err(|error| failed(error.into()))?;
        self.watches_caught_up().await?;
        match self.store.entry(&key).await.map_err(|error| failed(error.into()))? {
            Some(marker) if marker.operation != Operation::Put => {
                let subject = format!("{}{key}", self.store.prefix);
                let purge = self.store.stream.purge().sequence(marker.revision + 1).filter(subject);
                purge.await.map_err(|error| failed(error.into()))?;
            }
            // The marker is gone, or the record was written anew meanwhile, and that must stay.
            _ => {}
        }
        Ok(())
    }

    /// Erases what a record was, and leaves what it is.
    ///
    /// # Errors
    /// `Unavailable`; then some of it may be left: call it again.
    pub async fn erase_past(&self, name: &str) -> Result<(), StoreError> {
        let subject = format!("{}{}", self.store.prefix, self.key(name));
        let purged = self.store.stream.purge().filter(subject).keep(1).await;
        purged.map(drop).map_err(|error| unavailable(self.bucket.as_str(), error))
    }

    /// Waits until the server has sent every change to every watch.
    async fn watches_caught_up(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + WATCHES_CATCH_UP_WITHIN;
        loop {
            let watches: Vec<_> = self
                .store
                .stream
                .consumers()
                .try_collect()
                .await
                .map_err(|error| unavailable(self.bucket.as_str(), error))?;
            if watches.iter().all(|watch| watch.num_pending == 0) || Instant::now() > deadline {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The names of all records, unordered; where records are keyed by address, the hashes of the addresses.
    ///
    /// # Errors
    /// `Unavailable`, where the listing begins or later in the stream.
    pub async fn names(&self) -> Result<impl Stream<Item = Result<String, StoreError>> + use<>, StoreError> {
        let bucket = self.bucket;
        let keys = self.store.keys().await.map_err(|error| unavailable(bucket.as_str(), error))?;
        Ok(keys.map(move |key| {
            let key = key.map_err(|error| unavailable(bucket.as_str(), error))?;
            // A key that no name has was written past Chasqui; it is listed as it is, so that it can be found.
            Ok(untoken(&key).unwrap_or(key))
        }))
    }

    /// All records as they were written, unordered, by their names or the hashes of their addresses.
    ///
    /// # Errors
    /// As [`Records::names`].
    pub async fn all(&self) -> Result<impl Stream<Item = Result<Named, StoreError>>, StoreError> {
        let (bucket, keyed_by) = (self.bucket.as_str(), self.bucket.keyed_by());
        let read = move |name: Result<String, StoreError>| async move {
            let name = name?;
            let key = if keyed_by == KeyedBy::Address { name.clone() } else { keyed_by.key(&name) };
            let json = self.store.get(key).await.map_err(|error| unavailable(bucket, error))?;
            Ok(json.map(|json| (name, json)))
        };
        // A record that was deleted meanwhile is none.
        Ok(self.names().await?.map(read).buffered(READS_IN_FLIGHT).try_filter_map(|found| async { Ok(found) }))
    }

    /// Writes records, many at a time, in their order: of a name that comes twice the later record stays. Calls `answer`
    /// for each of them in turn, also for those that are errors already.
    ///
    /// # Errors
    /// The bucket is full, or cannot be reached for a minute. Of what has no answer yet some may be stored.
    pub async fn import(
        &self,
        records: impl Stream<Item = Result<Named, RecordError>> + Send,
        mut answer: impl FnMut(Result<Stored, RecordError>) + Send,
    ) -> Result<(), StoreError> {
        let mut records = pin!(records);
        let mut next = self.gather(&mut records).await;
        while !next.answers.is_empty() {
            let mut batch = next;
            // While the server writes, the next ones are read and checked.
            let (refused, gathered) = join(self.write(&batch.messages), self.gather(&mut records)).await;
            for (message, error) in refused? {
                batch.answers[batch.places[message]] = Err(error.into());
            }
            batch.answers.into_iter().for_each(&mut answer);
            next = gathered;
        }
        Ok(())
    }

    async fn gather(&self, records: &mut (impl Stream<Item = Result<Named, RecordError>> + Unpin)) -> Batch {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        while batch.answers.len() < IMPORTED_AT_ONCE && bytes < IMPORTED_BYTES {
            let Some(record) = records.next().await else { break };
            let checked = record.and_then(|(name, json)| {
                let (message, doubts) = self.outgoing(&name, &json)?;
                bytes += message.payload.len();
                batch.places.push(batch.answers.len());
                batch.messages.push(message);
                Ok((name, doubts))
            });
            batch.answers.push(checked);
        }
        batch
    }

    /// Writes `messages` and answers, by their places, which of them are too large for the server.
    async fn write(&self, messages: &[Outgoing]) -> Result<Vec<(usize, StoreError)>, StoreError> {
        let store = self.bucket.as_str();
        let offered = tokio::time::timeout(IMPORT_PATIENCE, self.publisher.offer(messages)).await;
        let refused = offered.map_err(|elapsed| unavailable(store, elapsed))?.into_iter();
        let judged = refused.map(|(message, error)| match error.of_store(store) {
            error @ StoreError::Refused { .. } => Ok((message, error)),
            error => Err(error),
        });
        judged.collect()
    }

    fn key(&self, name: &str) -> String {
        self.bucket.keyed_by().key(name)
    }
}

/// Records that an import writes together.
#[derive(Default)]
struct Batch {
    messages: Vec<Outgoing>,
    /// Of all records that were read; those that are refused are errors.
    answers: Vec<Result<Stored, RecordError>>,
    /// The place of each message among the answers.
    places: Vec<usize>,
}

/// Refuses what stages could not use as the record `name` of `bucket`.
fn check(bucket: Bucket, also: Check, name: &str, json: &[u8]) -> Result<Checked, RecordError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(wrong(name, format!("its name must have 1 to {MAX_NAME_BYTES} bytes")));
    }
    bucket.keyed_by().check(name).map_err(|problem| wrong(name, problem.to_owned()))?;
    if json.len() > MAX_RECORD_BYTES {
        return Err(wrong(name, format!("it has {} bytes, at most {MAX_RECORD_BYTES} are allowed", json.len())));
    }
    let checked = bucket.check(json).map_err(|violation| wrong(name, violation.to_string()))?;
    also(&checked.json).map_err(|violation| wrong(name, violation.to_string()))?;
    Ok(checked)
}

fn wrong(name: &str, wrong: String) -> RecordError {
    RecordError::Wrong { name: name.chars().take(64).collect(), wrong }
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::record::{Category, Contacts, Preferences, Record, Suppression};

    use super::*;

    fn refusal<T: Record>(json: &str) -> String {
        check(Bucket::of::<T>(), |_| Ok(()), "ada", json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_record_is_refused_and_the_field_named() {
        let error = refusal::<Contacts>(r#"{"devices":[{"id":"a","platform":"symbian","token":"t"}]}"#);
        assert!(
            error.contains("`ada`") && error.contains("devices[0].platform") && error.contains("symbian"),
            "{error}"
        );
        let error = refusal::<Preferences>(r#"{"chanels":{"sms":false}}"#);
        assert!(error.contains("chanels"), "{error}");
        let error = refusal::<Category>(r#"{"ttl_s":"soon"}"#);
        assert!(error.contains("ttl_s"), "{error}");
    }

    #[test]
    fn what_follows_a_record_is_refused() {
        assert!(check(Bucket::of::<Contacts>(), |_| Ok(()), "ada", b"{} {}").is_err());
        assert!(check(Bucket::of::<Contacts>(), |_| Ok(()), "ada", b"{} ").is_ok());
    }

    #[test]
    fn a_record_has_a_name_and_a_size() {
        let refused =
            |name: &str, json: &str| check(Bucket::of::<Contacts>(), |_| Ok(()), name, json.as_bytes()).is_err();
        assert!(refused("", "{}") && refused(&"a".repeat(MAX_NAME_BYTES + 1), "{}"));
        assert!(refused("ada", &format!("{{\"locale\":\"{}\"}}", "a".repeat(MAX_RECORD_BYTES))));
        let suppression = Bucket::of::<Suppression>();
        let named = |name| check(suppression, |_| Ok(()), name, br#"{"reason":"manual"}"#);
        assert!(named("555 201-0199").unwrap_err().to_string().contains("country's code"));
        assert!(named("+1 (555) 201-0199").is_ok());
    }
}
