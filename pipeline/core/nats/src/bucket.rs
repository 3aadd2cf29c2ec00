//! How a bucket of records is stored, opening one, and the error for one record of it that does not parse.

use async_nats::jetstream::{
    self,
    kv::Store,
    stream::{Config, DiscardPolicy},
};
use chasqui_contract::StoreError;

use crate::unavailable;

/// The stream that holds the bucket `name`, and so many revisions of each record: as the client library makes it, but that
/// it takes atomic batches, which imports need.
pub fn stream_config(name: &str, revisions: i64, replicas: usize) -> Config {
    Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: revisions,
        discard: DiscardPolicy::New,
        num_replicas: replicas,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        allow_atomic_publish: true,
        ..Config::default()
    }
}

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
