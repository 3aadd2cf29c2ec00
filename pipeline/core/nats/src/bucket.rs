//! Opening a bucket of records, and the error for one record of it that does not parse.

use async_nats::jetstream::{self, kv::Store};
use chasqui_contract::StoreError;

use crate::unavailable;

/// Opens the bucket `name`.
///
/// # Errors
/// The bucket does not exist (`chasqui migrate` creates it) or the broker cannot be reached.
pub async fn open(context: &jetstream::Context, name: &'static str) -> Result<Store, StoreError> {
    context.get_key_value(name).await.map_err(|error| unavailable(name, error))
}

/// The error of the record `name` of `bucket` that cannot be used.
pub fn bad_record(
    bucket: &'static str,
    name: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::BadRecord { store: bucket, key: name.to_owned(), source: source.into() }
}
