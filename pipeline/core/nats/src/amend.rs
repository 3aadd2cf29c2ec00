//! Changes a record of a bucket without losing another's change.
//!
//! Guarantee: `Ok` means stored. The record is written only if its revision is still the one that was read (compare and
//! set), so two changes at once lose nothing: the second reads the record again, a bounded number of times. A change
//! that changes nothing writes nothing.
//!
//! After a crash the change is made again.

use std::time::Duration;

use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use chasqui_contract::StoreError;
use chasqui_schemas::bucket::Bucket;
use serde::{Serialize, de::DeserializeOwned};

use crate::{bucket::bad_record, unavailable};

/// Maximum tries: a record that others write this often while we change it is an error, and the caller repeats later.
const TRIES: u32 = 10;
/// Pause before the second try; each later one is longer by as much.
const PAUSE: Duration = Duration::from_millis(5);

/// Writes what `change` makes of the record under `key`, unless that is nothing; returns what `change` answers beside.
/// `name` is the key as errors show it.
///
/// # Errors
/// The record cannot be used, the broker cannot be reached, or others change the record again and again.
pub async fn amend<T: Serialize + DeserializeOwned, R>(
    store: &Store,
    bucket: Bucket,
    key: &str,
    name: &str,
    change: impl Fn(Option<T>) -> (Option<T>, R),
) -> Result<R, StoreError> {
    let bad = |source: serde_json::Error| bad_record(bucket, name, source);
    for tried in 0..TRIES {
        tokio::time::sleep(PAUSE * tried).await;
        let entry = store.entry(key).await.map_err(|error| unavailable(bucket.as_str(), error))?;
        // A deleted record has a revision too. Without any, zero says that there must be none.
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let value = entry.filter(|entry| entry.operation == Operation::Put).map(|entry| entry.value);
        let record = value.map(|json| serde_json::from_slice(&json)).transpose().map_err(bad)?;
        let (changed, answer) = change(record);
        let Some(changed) = changed else { return Ok(answer) };
        let json = serde_json::to_vec(&changed).map_err(bad)?;
        match store.update(key, json.into(), revision).await {
            Ok(_) => return Ok(answer),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
            Err(error) => return Err(unavailable(bucket.as_str(), error)),
        }
    }
    Err(unavailable(bucket.as_str(), "others change the record again and again"))
}
