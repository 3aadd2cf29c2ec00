//! Opening a bucket of records, and one record of it.

use async_nats::jetstream::{self, kv::Store};
use chasqui_contract::StoreError;
use chasqui_schemas::bucket::Bucket;

use crate::unavailable;

/// Opens a bucket.
///
/// # Errors
/// The bucket does not exist (`chasqui migrate` creates it) or the broker cannot be reached.
pub async fn open(context: &jetstream::Context, bucket: Bucket) -> Result<Store, StoreError> {
    context.get_key_value(bucket.as_str()).await.map_err(|error| unavailable(bucket.as_str(), error))
}

/// The error of a record that does not parse.
pub fn bad_record(bucket: Bucket, name: &str, source: serde_json::Error) -> StoreError {
    StoreError::BadRecord { store: bucket.as_str(), key: name.to_owned(), source: Box::new(source) }
}
