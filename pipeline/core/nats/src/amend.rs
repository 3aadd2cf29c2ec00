//! Read, change, write back: one record of a bucket, without losing what others write at the same time.
//!
//! Guarantee: `Ok` means stored. The record is written only if nobody has written it since it was read (compare and set
//! on its revision), so two changes at once lose nothing: the second reads again, `TRIES` times at most. A change that
//! changes nothing writes nothing. What is written is in its normal form, as it was read.
//!
//! After a crash: call it again.

use std::time::Duration;

use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use chasqui_contract::StoreError;
use chasqui_schemas::record::{self, Record};
use jiff::Timestamp;

use crate::{bucket::bad_record, unavailable};

/// Maximum times a record is read while others keep writing it. Each loser of a race comes one write further, so ten
/// are enough for ten writers at once; more than that is an error, and the caller repeats later.
const TRIES: u32 = 10;
/// Pause before the second try; each later one is longer by as much.
const PAUSE: Duration = Duration::from_millis(5);

/// Writes what `change` makes of the record under `key`, unless that is nothing; returns what `change` answers beside.
/// Errors call the record `shown`.
///
/// # Errors
/// The record cannot be used, the broker cannot be reached, or others change the record again and again.
pub async fn amend<T: Record, R>(
    store: &Store,
    key: &str,
    shown: &str,
    change: impl Fn(Option<T>) -> (Option<T>, R),
) -> Result<R, StoreError> {
    amend_dated(store, key, shown, |record, _written_at| change(record)).await
}

/// As [`amend`], for a change that depends on when the record was written.
///
/// # Errors
/// As [`amend`].
pub async fn amend_dated<T: Record, R>(
    store: &Store,
    key: &str,
    shown: &str,
    change: impl Fn(Option<T>, Timestamp) -> (Option<T>, R),
) -> Result<R, StoreError> {
    let bad = |source: serde_json::Error| bad_record(T::BUCKET, shown, source);
    for tried in 0..TRIES {
        tokio::time::sleep(PAUSE * tried).await;
        let entry = store.entry(key).await.map_err(|error| unavailable(T::BUCKET, error))?;
        // A deleted record has a revision too. Without any, zero says that there must be none.
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let nanoseconds = entry.as_ref().map_or(0, |entry| entry.created.unix_timestamp_nanos());
        let written_at = Timestamp::from_nanosecond(nanoseconds).unwrap_or_default();
        let value = entry.filter(|entry| entry.operation == Operation::Put).map(|entry| entry.value);
        let record = value.map(|json| record::read(&json)).transpose().map_err(bad)?;
        let (changed, answer) = change(record, written_at);
        let Some(changed) = changed else { return Ok(answer) };
        let json = serde_json::to_vec(&changed).map_err(bad)?;
        match store.update(key, json.into(), revision).await {
            Ok(_) => return Ok(answer),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
            Err(error) => return Err(unavailable(T::BUCKET, error)),
        }
    }
    Err(unavailable(T::BUCKET, "others change the record again and again"))
}
