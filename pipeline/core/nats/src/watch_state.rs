//! Whether a watch of a bucket is current, so that what it reported may be used.
//!
//! Guarantee: [`WatchState::is_current`] is true only while the watch is caught up, and on the same connection as when
//! it was. A connection that hangs without being closed is noticed after some 15 seconds; until then nothing that this
//! process decides from an old record can be published either, because publishing needs the same connection.

use std::{
    error::Error,
    future::Future,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_nats::{Client, connection::State, jetstream::kv};
use futures::StreamExt;

/// Pause before a watch that ended is started again.
pub(crate) const WATCH_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How often a watch checks whether the connection is still the one that it began on.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// [`WatchState::current_on`] while not caught up: no connection has this number.
const NOT_CURRENT: u64 = 0;

/// Why a watch failed.
pub(crate) type WatchError = Box<dyn Error + Send + Sync>;

/// The state of one watch.
#[derive(Debug)]
pub(crate) struct WatchState {
    client: Client,
    /// Number of the connection on which the watch is caught up; the client counts its connections from 1.
    current_on: AtomicU64,
}

impl WatchState {
    pub(crate) fn new(client: Client) -> Self {
        WatchState { client, current_on: AtomicU64::new(NOT_CURRENT) }
    }

    /// The number of the present connection. Relaxed is enough: only the number itself matters, and one that
    /// is read late is late by nanoseconds, where a second is promised.
    pub(crate) fn connection(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// A subject that answers to this process can be sent to.
    pub(crate) fn new_inbox(&self) -> String {
        self.client.new_inbox()
    }

    /// Notes that the watch which began on `connection` is caught up. Released here and acquired in
    /// [`WatchState::is_current`], so that a reader who sees it also sees the records that were applied before.
    pub(crate) fn caught_up(&self, connection: u64) {
        self.current_on.store(connection, Ordering::Release);
    }

    pub(crate) fn is_current(&self) -> bool {
        let current_on = self.current_on.load(Ordering::Acquire);
        current_on != NOT_CURRENT
            && current_on == self.connection()
            && self.client.connection_state() == State::Connected
    }

    /// Runs `watch`, which is one watch until it ends, again and again.
    pub(crate) async fn watch_again_and_again<W: Future<Output = Result<(), WatchError>>>(
        &self,
        bucket: &str,
        watch: impl Fn() -> W,
    ) {
        loop {
            let ended = watch().await;
            self.current_on.store(NOT_CURRENT, Ordering::Release);
            if let Err(error) = ended {
                tracing::warn!(bucket, error = &*error, "the watch of the bucket ended: watching it again");
            }
            tokio::time::sleep(WATCH_AGAIN_AFTER).await;
        }
    }

    /// Hands every change to `apply`, until the watch fails or the connection is another than `connection`.
    pub(crate) async fn apply_changes(
        &self,
        connection: u64,
        mut changes: kv::Watch,
        mut apply: impl FnMut(kv::Entry),
    ) -> Result<(), WatchError> {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                change = changes.next() => apply(change.ok_or("the watch ended")??),
                _ = look.tick() => {
                    if self.connection() != connection {
                        return Ok(());
                    }
                }
            }
        }
    }
}
