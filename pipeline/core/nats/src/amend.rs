//! Changes a record of a bucket as it was read.
//!
//! Guarantee: `Ok` means stored. A record is written back with what else it says, and only if nobody has written it in
//! between (compare and set on its revision), so two changes at once lose nothing: who comes second reads again, a
//! bounded number of times. A change that changes nothing writes nothing.
//!
//! After a crash: do it again.

use std::time::Duration;

use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use chasqui_contract::StoreError;
use chasqui_schemas::bucket::Bucket;
use serde::{Serialize, de::DeserializeOwned};

use crate::{bucket::bad_record, unavailable};

/// How often a record may be written by others while we look at it, before whoever asks comes back later.
const TRIES: u32 = 10;
/// Pause before the second try; the others are longer.
const PAUSE: Duration = Duration::from_millis(5);

/// Writes what `change` makes of the record under `key`, unless it makes nothing; returns what `change` says beside.
/// `name` is the key as errors tell it.
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
        let (changed, told) = change(record);
        let Some(changed) = changed else { return Ok(told) };
        let json = serde_json::to_vec(&changed).map_err(bad)?;
        match store.update(key, json.into(), revision).await {
            Ok(_) => return Ok(told),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
            Err(error) => return Err(unavailable(bucket.as_str(), error)),
        }
    }
    Err(unavailable(bucket.as_str(), "others change the record again and again"))
}
