//! Which keys a large bucket may hold, in a few megabytes, so that a record that is not there costs no round trip.
//!
//! Guarantee: [`Presence::is_absent`] is true only where the server, asked within the last second, held nothing under the
//! key. A false answer says nothing: then the server is asked. That rests on three things:
//! - A watch reports every key of the bucket and every change. Keys are added and never removed.
//! - Again and again the server is asked how far its bucket has come. Only what the watch had reported that far counts, and
//!   only for `FRESH` from the question on. So a watch that lags and a connection that hangs end the answers at once, and
//!   make none wrong.
//! - On every new connection the whole bucket is read again: a server that lost power may have lost writes, and give
//!   their numbers to others. So it is where the bucket was made anew.
//!
//! After a crash nothing is missing: memory fills again from the bucket. Its size is fixed (`WORDS`).

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream::{
    consumer::{DeliverPolicy, push},
    kv::Store,
    stream::Info,
};
use futures::StreamExt;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::watch_state::{WATCH_AGAIN_AFTER, WatchError, WatchState};

/// Words of 64 bits: 4 MiB. Each key sets four bits of one word. So with a million keys one look-up in a thousand asks the
/// server in vain, with five million one in twenty, with twenty million most do.
const WORDS: usize = 512 * 1024;
/// How long an answer counts. It is what the directory promises: a record written a second ago is seen.
const FRESH: Duration = Duration::from_secs(1);
/// How often the server is asked how far the bucket has come: often enough for an answer that takes half a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);

/// The bucket was deleted and made anew, and its numbers began anew.
#[derive(Debug, thiserror::Error)]
#[error("the bucket was made anew")]
struct Recreated;

/// When a bucket was made, in nanoseconds since 1970.
fn created(info: &Info) -> i128 {
    info.created.unix_timestamp_nanos()
}

/// The keys of a bucket. Dropping it ends the watch.
#[derive(Debug)]
pub struct Presence {
    shared: Arc<Shared>,
    watch: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    watch_state: WatchState,
    words: Box<[AtomicU64]>,
    began: Instant,
    /// The moment as of which `words` has every key, in nanoseconds since `began`; zero before there is one.
    as_of: AtomicU64,
}

impl Presence {
    /// Begins to watch `bucket`; must be called in a tokio runtime.
    pub fn start(client: async_nats::Client, bucket: Store) -> Self {
        let shared = Arc::new(Shared {
            watch_state: WatchState::new(client),
            words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
            began: Instant::now(),
            as_of: AtomicU64::new(0),
        });
        let watching = Arc::clone(&shared);
        let watch = tokio::spawn(async move {
            watching.watch_state.watch_again_and_again(&bucket.name, || watching.watch(&bucket)).await;
        });
        Presence { shared, watch }
    }

    /// Whether the bucket has certainly nothing under `key`.
    pub fn is_absent(&self, key: &str) -> bool {
        // Acquired, so that all keys of that moment are seen too.
        let as_of = self.shared.as_of.load(Ordering::Acquire);
        as_of != 0 && self.shared.began.elapsed() < Duration::from_nanos(as_of) + FRESH && !self.shared.has(key)
    }

    /// Adds `key`, which this process has written: it asks the server for it before the watch reports it.
    pub fn add(&self, key: &str) {
        self.shared.add(key);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Shared {
    /// The word and the bits of a key.
    fn place(&self, key: &str) -> (&AtomicU64, u64) {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let hash = hasher.finish();
        let bits = (0..4).fold(0, |bits, n| bits | 1 << (hash >> (6 * n) & 63));
        (&self.words[(hash >> 24) as usize % WORDS], bits)
    }

    fn has(&self, key: &str) -> bool {
        let (word, bits) = self.place(key);
        word.load(Ordering::Relaxed) & bits == bits
    }

    fn add(&self, key: &str) {
        let (word, bits) = self.place(key);
        word.fetch_or(bits, Ordering::Relaxed);
    }

    /// Reads the whole bucket, then its changes, until the connection or the bucket is another.
    async fn watch(&self, bucket: &Store) -> Result<(), WatchError> {
        let connection = self.watch_state.connection();
        let created = created(&bucket.stream.get_info().await?);
        let mut position = 0;
        loop {
            // Where it fails on the same connection, it goes on from where it was: the bucket may be large.
            let failed = self.follow(connection, bucket, created, &mut position).await.err();
            if self.watch_state.connection() != connection {
                return Ok(());
            }
            if let Some(error) = failed {
                if error.is::<Recreated>() {
                    return Err(error);
                }
                tracing::debug!(
                    bucket = bucket.name,
                    error = &*error,
                    "the watch of the keys failed: going on with it"
                );
                tokio::time::sleep(WATCH_AGAIN_AFTER).await;
            }
        }
    }

    /// Watches the bucket from `position` on, and moves it, until that fails or nothing comes any more.
    async fn follow(
        &self,
        connection: u64,
        bucket: &Store,
        created: i128,
        position: &mut u64,
    ) -> Result<(), WatchError> {
        // Asked before the watch begins, which reports all that comes later.
        let info = bucket.stream.get_info().await?;
        if self::created(&info) != created {
            return Err(Recreated.into());
        }
        let consumer = bucket.stream.create_consumer(push::OrderedConfig {
            deliver_subject: self.watch_state.new_inbox(),
            // Not of headers alone: nats-server 2.15.1 ends when it makes them for a header block of one byte.
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: *position + 1 },
            ..push::OrderedConfig::default()
        });
        let consumer = consumer.await?;
        if consumer.cached_info().num_pending == 0 {
            *position = info.state.last_sequence.max(*position);
        }
        let positions = watch::Sender::new(*position);
        let changes = consumer.messages().await?;
        let ended = tokio::select! {
            failed = self.add_all(bucket, changes, &positions) => Err(failed),
            ended = self.confirm(connection, bucket, created, positions.subscribe()) => ended,
        };
        *position = *positions.borrow();
        ended
    }

    /// Adds every key that the watch reports; returns why it ended.
    async fn add_all(&self, bucket: &Store, mut changes: push::Ordered, positions: &watch::Sender<u64>) -> WatchError {
        loop {
            let change = match changes.next().await {
                Some(Ok(change)) => change,
                Some(Err(error)) => return error.into(),
                None => return "the watch ended".into(),
            };
            self.add(change.subject.strip_prefix(bucket.prefix.as_str()).unwrap_or(&change.subject));
            match change.info() {
                Ok(info) => _ = positions.send_replace(info.stream_sequence),
                Err(error) => return error,
            }
        }
    }

    /// Notes again and again as of when the watch has reported everything. Returns where that cannot be told: the
    /// connection is another, or what the server numbered last was purged, so that no watch reports it.
    async fn confirm(
        &self,
        connection: u64,
        bucket: &Store,
        created: i128,
        mut positions: watch::Receiver<u64>,
    ) -> Result<(), WatchError> {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            if self.watch_state.connection() != connection {
                return Ok(());
            }
            let (asked_at, before) = (self.began.elapsed(), *positions.borrow());
            // Without an answer nothing is confirmed; the next look asks again.
            let Ok(info) = bucket.stream.get_info().await else { continue };
            if self::created(&info) != created {
                return Err(Recreated.into());
            }
            let last = info.state.last_sequence;
            let reported = timeout(FRESH, positions.wait_for(|position| *position >= last)).await.is_ok();
            if reported {
                // Five centuries fit. Released for `is_absent`.
                self.as_of.store(asked_at.as_nanos() as u64, Ordering::Release);
            } else if *positions.borrow() == before {
                return Ok(());
            }
        }
    }
}
