//! A whole bucket in memory, parsed and in its normal form, kept current by a watch.
//!
//! Guarantee: [`Mirror::get`] answers only while the watch is current (`WatchState`). Otherwise it says that it does
//! not know, and the caller asks the server.
//!
//! After a crash, and after every reconnect, the whole bucket is read again. Its size is bounded by the bucket's own
//! limit.

use std::{collections::HashSet, sync::Arc};

use async_nats::{
    Client,
    jetstream::kv::{Operation, Store},
};
use bytes::Bytes;
use chasqui_schemas::record::{self, Record};
use dashmap::DashMap;
use tokio::{sync::watch, task::JoinHandle};

use crate::watch_state::{WatchError, WatchState};

/// A record as parsed once, or why it cannot be used.
pub type Parsed<T> = Result<Arc<T>, Arc<serde_json::Error>>;

/// Reads a record, in its normal form.
pub fn parse<T: Record>(json: &[u8]) -> Parsed<T> {
    record::read(json).map(Arc::new).map_err(Arc::new)
}

/// A bucket in memory. Dropping it ends the watch.
#[derive(Debug)]
pub struct Mirror<T> {
    shared: Arc<Shared<T>>,
    watch: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared<T> {
    watch_state: WatchState,
    records: DashMap<String, Parsed<T>>,
    changes: watch::Sender<()>,
}

impl<T: Record> Mirror<T> {
    /// Begins to mirror `bucket`; must be called in a tokio runtime.
    pub fn start(client: Client, bucket: Store) -> Self {
        let shared = Arc::new(Shared {
            watch_state: WatchState::new(client),
            records: DashMap::new(),
            changes: watch::Sender::new(()),
        });
        let watching = Arc::clone(&shared);
        let watch = tokio::spawn(async move {
            watching.watch_state.watch_again_and_again(&bucket.name, || watching.watch(&bucket)).await;
        });
        Mirror { shared, watch }
    }

    /// Tells of changes; those that nobody has looked at yet count as one. The first is that the bucket has been read.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.changes.subscribe()
    }

    /// All records by their keys; `None` as in [`Mirror::get`].
    pub fn all(&self) -> Option<Vec<(String, Parsed<T>)>> {
        let all = || self.shared.records.iter().map(|record| (record.key().clone(), record.value().clone())).collect();
        self.shared.watch_state.is_current().then(all)
    }

    /// The record under `key`; `Some(None)` if there is none, `None` if the watch is not current and only the server
    /// knows.
    pub fn get(&self, key: &str) -> Option<Option<Parsed<T>>> {
        self.shared.watch_state.is_current().then(|| self.shared.records.get(key).map(|record| record.clone()))
    }
}

impl<T> Drop for Mirror<T> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl<T: Record> Shared<T> {
    /// Reads the whole bucket, then its changes, until the watch fails or the connection changes.
    async fn watch(&self, bucket: &Store) -> Result<(), WatchError> {
        let connection = self.watch_state.connection();
        // Asked before the watch begins: if the bucket was empty then, the watch reports all that comes into it later.
        let was_empty = bucket.stream.get_info().await?.state.messages == 0;
        let changes = bucket.watch_with_history(">").await?;
        // The keys that were reported until the watch is caught up. The records of the watch before stay until then, so
        // that a reader between two watches never takes a record that is not read yet for one that does not exist.
        let mut reported = Some(HashSet::new());
        if was_empty {
            self.caught_up(connection, &mut reported);
        }
        self.watch_state
            .apply_changes(connection, changes, |entry| {
                if let Some(reported) = &mut reported {
                    reported.insert(entry.key.clone());
                }
                self.apply(entry.key, entry.operation, &entry.value);
                if entry.delta == 0 {
                    self.caught_up(connection, &mut reported);
                }
            })
            .await
    }

    /// Forgets what was deleted between two watches, which no watch reports.
    fn caught_up(&self, connection: u64, reported: &mut Option<HashSet<String>>) {
        if let Some(reported) = reported.take() {
            self.records.retain(|key, _| reported.contains(key));
            self.watch_state.caught_up(connection);
            self.changes.send_replace(());
        }
    }

    fn apply(&self, key: String, operation: Operation, value: &Bytes) {
        // What was there before under the key is of no use.
        match operation {
            Operation::Put => _ = self.records.insert(key, parse(value)),
            Operation::Delete | Operation::Purge => _ = self.records.remove(&key),
        }
        self.changes.send_replace(());
    }
}
