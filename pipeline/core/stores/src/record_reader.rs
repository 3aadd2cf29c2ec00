//! One bucket as stages read it: from memory where a watch keeps that current, else from the server.
//!
//! Guarantee: a record written a second ago is seen. A record that does not parse is an error, never "no record": a
//! misspelt opt-out must not become a notification.
//!
//! After a crash nothing is missing: memory fills again from the bucket.

use std::sync::Arc;

use async_nats::jetstream::{self, kv::Store};
use chasqui_contract::StoreError;
use chasqui_nats::{
    bucket::{bad_record, open},
    cache::Cache,
    mirror::{Mirror, Parsed, parse},
    presence::Presence,
    unavailable,
};
use chasqui_schemas::record::Record;

/// Reads the records of one bucket.
#[derive(Debug)]
pub(crate) struct RecordReader<T: Record> {
    store: Store,
    memory: Memory<T>,
}

/// Which of the bucket's records are kept in memory.
#[derive(Debug)]
enum Memory<T: Record> {
    /// All: for buckets that are small and asked with every message.
    All(Mirror<T>),
    /// Those that were asked for lately: for buckets that hold a record for each user or address.
    Recent(Cache<T>),
    /// The same, and which there may be at all: where most users or addresses have none.
    RecentFew(Cache<T>, Presence),
}

impl<T: Record> RecordReader<T> {
    /// Opens the bucket, and begins to keep all its records in memory. Must be called in a tokio runtime.
    pub(crate) async fn mirrored(context: &jetstream::Context) -> Result<Self, StoreError> {
        let store = open(context, T::BUCKET).await?;
        let mirror = Mirror::start(context.client(), store.clone());
        Ok(RecordReader { store, memory: Memory::All(mirror) })
    }

    /// Opens the bucket, and begins to keep in memory what is asked for. Must be called in a tokio runtime.
    pub(crate) async fn cached(context: &jetstream::Context) -> Result<Self, StoreError> {
        let store = open(context, T::BUCKET).await?;
        let cache = Cache::start(context.client(), store.clone());
        Ok(RecordReader { store, memory: Memory::Recent(cache) })
    }

    /// As [`RecordReader::cached`], for a bucket in which most of what is asked for is not.
    pub(crate) async fn cached_few(context: &jetstream::Context) -> Result<Self, StoreError> {
        let store = open(context, T::BUCKET).await?;
        let presence = Presence::start(context.client(), store.clone());
        let cache = Cache::start(context.client(), store.clone());
        Ok(RecordReader { store, memory: Memory::RecentFew(cache, presence) })
    }

    /// The record `name`, if there is one.
    pub(crate) async fn get(&self, name: &str) -> Result<Option<Arc<T>>, StoreError> {
        let key = T::KEYED_BY.key(name);
        let record = match &self.memory {
            Memory::All(mirror) => match mirror.get(&key) {
                Some(mirrored) => mirrored,
                None => self.ask_server(&key).await?,
            },
            Memory::RecentFew(_, presence) if presence.is_absent(&key) => None,
            Memory::Recent(cache) | Memory::RecentFew(cache, _) => cache.get(&key, || self.ask_server(&key)).await?,
        };
        record.transpose().map_err(|source| bad_record(T::BUCKET, &T::KEYED_BY.shown(name), source))
    }

    async fn ask_server(&self, key: &str) -> Result<Option<Parsed<T>>, StoreError> {
        // The client refuses an empty key as an error; to us it is a record that does not exist.
        if key.is_empty() {
            return Ok(None);
        }
        let json = self.store.get(key).await.map_err(|error| unavailable(T::BUCKET, error))?;
        Ok(json.map(|json| parse(&json)))
    }

    /// The bucket itself, for writing.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Drops the record under `key` from the cache, because we have just written it: the next reader here asks the
    /// server instead of waiting for the watch. A mirror has only its watch.
    pub(crate) fn forget(&self, key: &str) {
        match &self.memory {
            Memory::All(_) => {}
            Memory::Recent(cache) => cache.forget(key),
            Memory::RecentFew(cache, presence) => {
                presence.add(key);
                cache.forget(key);
            }
        }
    }
}
