//! The records of a large bucket that were read lately, kept current by a watch.
//!
//! Guarantee: a cached record is answered only while the watch is current (`WatchState`), and never in a form older
//! than the last change that the watch reported: a record that was read before that report is not kept. So a change is
//! seen as soon as the server has reported it, within milliseconds, and where the watch is lost each record is read
//! from the server.
//!
//! After a crash, and after every reconnect, it begins empty. Its size is bounded by `RECORDS`.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_nats::jetstream::kv::Store;
use chasqui_contract::StoreError;
use moka::sync::Cache as Recent;
use tokio::task::JoinHandle;

use crate::{
    mirror::Parsed,
    watch_state::{WatchError, WatchState},
};

/// Maximum records kept, "no such record" included: some tens of megabytes of contacts.
const RECORDS: u64 = 20_000;

/// A bounded part of a bucket in memory. Dropping it ends the watch.
#[derive(Debug)]
pub struct Cache<T: Send + Sync + 'static> {
    shared: Arc<Shared<T>>,
    watch: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared<T: Send + Sync + 'static> {
    watch_state: WatchState,
    recent: Recent<String, Option<Parsed<T>>>,
    /// How many changes the watch has reported. A reader that finds another number after its read than before keeps
    /// nothing.
    changes: Mutex<u64>,
}

impl<T: Send + Sync + 'static> Cache<T> {
    /// Begins to watch `bucket`; must be called in a tokio runtime.
    pub fn start(client: async_nats::Client, bucket: Store) -> Self {
        let shared = Arc::new(Shared {
            watch_state: WatchState::new(client),
            recent: Recent::new(RECORDS),
            changes: Mutex::new(0),
        });
        let watching = Arc::clone(&shared);
        let watch = tokio::spawn(async move {
            watching.watch_state.watch_again_and_again(&bucket.name, || watching.watch(&bucket)).await;
        });
        Cache { shared, watch }
    }

    /// The record under `key`, from memory or by `read`.
    pub async fn get<R: Future<Output = Result<Option<Parsed<T>>, StoreError>>>(
        &self,
        key: &str,
        read: impl FnOnce() -> R,
    ) -> Result<Option<Parsed<T>>, StoreError> {
        if !self.shared.watch_state.is_current() {
            return Box::pin(read()).await;
        }
        if let Some(known) = self.shared.recent.get(key) {
            return Ok(known);
        }
        let before = *self.shared.changes();
        let record = Box::pin(read()).await?;
        let changes = self.shared.changes();
        if *changes == before && self.shared.watch_state.is_current() {
            self.shared.recent.insert(key.to_owned(), record.clone());
        }
        Ok(record)
    }

    /// Forgets the record under `key`, which this process has written: it sees the new one before the watch reports it.
    pub fn forget(&self, key: &str) {
        self.shared.forget(|recent| recent.invalidate(key));
    }
}

impl<T: Send + Sync + 'static> Drop for Cache<T> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl<T: Send + Sync + 'static> Shared<T> {
    fn changes(&self) -> MutexGuard<'_, u64> {
        // A panic elsewhere leaves nothing half done under this lock, so a poisoned counter is still right.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn watch(&self, bucket: &Store) -> Result<(), WatchError> {
        let connection = self.watch_state.connection();
        let changes = bucket.watch_all().await?;
        // What changed between two watches was reported by neither.
        self.forget(|recent| recent.invalidate_all());
        self.watch_state.caught_up(connection);
        self.watch_state
            .apply_changes(connection, changes, |entry| self.forget(|recent| recent.invalidate(&entry.key)))
            .await
    }

    fn forget(&self, what: impl FnOnce(&Recent<String, Option<Parsed<T>>>)) {
        let mut changes = self.changes();
        *changes += 1;
        what(&self.recent);
    }
}
