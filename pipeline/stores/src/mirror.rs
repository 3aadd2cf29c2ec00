//! A whole bucket in memory, parsed, kept current by a watch.
//!
//! Guarantee: [`Mirror::get`] answers only while it is current: caught up with the bucket, and on the same connection
//! as when it did. Otherwise it answers nothing and the caller asks the server. A connection that hangs without being
//! closed is noticed after some 15 seconds; until then nothing this process decides from an old record can be
//! published either, because publishing needs the same connection.
//!
//! After a crash, and after every reconnect, the whole bucket is read again. Its size is bounded by the bucket's own
//! limit.

use std::{
    collections::HashSet,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Client,
    connection::State,
    jetstream::kv::{Operation, Store},
};
use bytes::Bytes;
use dashmap::DashMap;
use futures::StreamExt;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

/// Pause between two watches, where one ended.
const WATCH_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How often a watch looks whether the connection is still the one it began on.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// [`Shared::current_on`] while not caught up: no connection has this number.
const NOT_CURRENT: u64 = 0;

/// A record as parsed once: usable, or why not.
pub(crate) type Parsed<T> = Result<Arc<T>, Arc<serde_json::Error>>;

/// Parses a record.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8]) -> Parsed<T> {
    serde_json::from_slice(json).map(Arc::new).map_err(Arc::new)
}

/// A bucket in memory. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Mirror<T> {
    shared: Arc<Shared<T>>,
    watch: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared<T> {
    client: Client,
    records: DashMap<String, Parsed<T>>,
    /// Number of the connection on which the watch is caught up; the client counts its connections from 1.
    current_on: AtomicU64,
}

impl<T: DeserializeOwned + Send + Sync + 'static> Mirror<T> {
    /// Begins to mirror `bucket`; must be called in a tokio runtime.
    pub(crate) fn start(client: Client, bucket: Store) -> Self {
        let shared = Arc::new(Shared { client, records: DashMap::new(), current_on: AtomicU64::new(NOT_CURRENT) });
        let watch = tokio::spawn(shared.clone().keep_watching(bucket));
        Mirror { shared, watch }
    }

    /// The record under `key`, `Some(None)` if there is none; `None` if only the server knows.
    pub(crate) fn get(&self, key: &str) -> Option<Option<Parsed<T>>> {
        self.shared.is_current().then(|| self.shared.records.get(key).map(|record| record.clone()))
    }
}

impl<T> Drop for Mirror<T> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl<T: DeserializeOwned> Shared<T> {
    fn connection(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    fn is_current(&self) -> bool {
        let current_on = self.current_on.load(Ordering::Acquire);
        current_on != NOT_CURRENT
            && current_on == self.connection()
            && self.client.connection_state() == State::Connected
    }

    async fn keep_watching(self: Arc<Self>, bucket: Store) {
        loop {
            let ended = self.watch(&bucket).await;
            self.current_on.store(NOT_CURRENT, Ordering::Release);
            if let Err(error) = ended {
                tracing::warn!(bucket = bucket.name, error = &*error, "lost sight of the bucket; reading it again");
            }
            tokio::time::sleep(WATCH_AGAIN_AFTER).await;
        }
    }

    /// Reads the whole bucket, then its changes, until the watch fails or the connection changes.
    async fn watch(&self, bucket: &Store) -> Result<(), Box<dyn Error + Send + Sync>> {
        let connection = self.connection();
        // Asked before the watch begins: if the bucket was empty then, all that is in it later is told as a change.
        let was_empty = bucket.stream.get_info().await?.state.messages == 0;
        let mut changes = bucket.watch_with_history(">").await?;
        // The keys told of until caught up. The records of the watch before stay until then, so that a reader between
        // two watches never takes a record that is not read yet for one that does not exist.
        let mut told = Some(HashSet::new());
        if was_empty {
            self.caught_up(connection, &mut told);
        }
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        loop {
            let entry = tokio::select! {
                change = changes.next() => change.ok_or("the watch ended")??,
                _ = look.tick() => {
                    if self.connection() != connection {
                        return Ok(());
                    }
                    continue;
                }
            };
            if let Some(told) = &mut told {
                told.insert(entry.key.clone());
            }
            self.apply(entry.key, entry.operation, &entry.value);
            if entry.delta == 0 {
                self.caught_up(connection, &mut told);
            }
        }
    }

    /// Forgets what was deleted between two watches; that, no watch tells.
    fn caught_up(&self, connection: u64, told: &mut Option<HashSet<String>>) {
        if let Some(told) = told.take() {
            self.records.retain(|key, _| told.contains(key));
            self.current_on.store(connection, Ordering::Release);
        }
    }

    fn apply(&self, key: String, operation: Operation, value: &Bytes) {
        match operation {
            Operation::Put => _ = self.records.insert(key, parse(value)),
            Operation::Delete | Operation::Purge => _ = self.records.remove(&key),
        }
    }
}
