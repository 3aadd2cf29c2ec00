//! The way of a message from a request to NATS: memory, and disk while NATS does not take it.
//!
//! ```text
//! requests ──► queue ──► writer ──► NATS
//!                          │          ▲
//!                          └► spool ──┘ drainer
//! ```
//!
//! Guarantee: `HitQueue::store` returns `Ok` when NATS or the spool has the messages, durably. `HitQueue::offer` never
//! waits; what it takes gets there a moment later. Order is kept: as long as something is in the spool, everything goes
//! through the spool. Both are bounded; what does not fit is refused or, where no caller waits, counted as lost.
//!
//! The writer takes what is there, never more than one batch at a time: while it waits for NATS or an fsync, the next
//! batch gathers, so a busy disk makes larger groups and not longer queues. NATS has `PATIENCE` to answer, and none
//! where the client knows that there is no connection; then the batch goes to the disk, and what NATS may have taken of
//! it nevertheless is dropped there as a repeat when it comes from the spool. Messages for which no caller waits are
//! gathered for `GATHER` before they are written to the disk: pixels do not cost an fsync each.
//!
//! After a crash: what was in the queue is gone, which concerns only what `HitQueue::offer` took; what was in the spool
//! is sent after the next start, before anything new.

use std::{
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::connection::State;
use bytes::Bytes;
use chasqui_contract::Class;
use chasqui_nats::{Outgoing, Pauses, Publisher};
use chasqui_schemas::{header, measure};
use chasqui_spool::{Spool, SpoolError};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::spawn_blocking,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::hit::Hit;

/// Maximum bytes of a message in the spool: a receipt is far smaller.
pub const MAX_RECORD_BYTES: usize = 64 << 10;
/// Maximum time that NATS has to take a batch; then the disk gets it.
const PATIENCE: Duration = Duration::from_millis(250);
/// Maximum time that messages for which no caller waits gather before an fsync.
const GATHER: Duration = Duration::from_millis(50);
/// Maximum requests whose messages are written together.
const MAX_GROUP: usize = 256;
/// Maximum wait of [`HitQueue::store`]: longer than NATS and an fsync of a busy disk take.
const STORE_TIMEOUT: Duration = Duration::from_secs(8);
/// First and longest pause of the drainer while NATS takes nothing.
const PAUSES: Pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(1));

/// The messages were not stored; the same request may be made again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither NATS nor the spool takes the messages")]
pub struct NotStored;

/// Takes messages. Clones share one queue.
#[derive(Debug, Clone)]
pub struct HitQueue {
    queue: mpsc::Sender<Entry>,
    state: Arc<Shared>,
}

#[derive(Debug)]
struct Entry {
    messages: Vec<Outgoing>,
    stored: Option<oneshot::Sender<Result<(), NotStored>>>,
}

#[derive(Debug)]
struct Shared {
    spool: Mutex<Spool>,
    /// As the spool says, to be asked without waiting for its disk.
    spooling: AtomicBool,
    full: AtomicBool,
    lost: Arc<AtomicU64>,
    /// There is something for the drainer.
    spooled: Notify,
}

/// What has to run behind an [`HitQueue`].
pub struct Carrier {
    queue: mpsc::Receiver<Entry>,
    state: Arc<Shared>,
    publisher: Publisher,
    client: async_nats::Client,
}

impl HitQueue {
    /// A queue of `queue_hits` requests, and what has to run behind it.
    pub fn new(client: async_nats::Client, publisher: &Publisher, spool: Spool, queue_hits: usize) -> (Self, Carrier) {
        let (sender, queue) = mpsc::channel(queue_hits.max(1));
        let state = Arc::new(Shared {
            spooling: AtomicBool::new(!spool.is_empty()),
            full: AtomicBool::new(spool.is_full()),
            spool: Mutex::new(spool),
            lost: Arc::default(),
            spooled: Notify::new(),
        });
        let carrier = Carrier { queue, state: state.clone(), publisher: publisher.apart(), client };
        (HitQueue { queue: sender, state }, carrier)
    }

    /// Queues a message for which no caller waits; if there is no room, it is lost and counted.
    pub(crate) fn offer(&self, hit: &Hit) {
        let message = match hit.message() {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "a hit cannot be written");
                return self.state.lose(1);
            }
        };
        if self.queue.try_send(Entry { messages: vec![message], stored: None }).is_err() {
            self.state.lose(1);
        }
    }

    /// Returns when the messages are stored: all of them, or after an error perhaps some.
    pub(crate) async fn store(&self, hits: &[Hit]) -> Result<(), NotStored> {
        if hits.is_empty() {
            return Ok(());
        }
        let messages: Result<Vec<_>, _> = hits.iter().map(Hit::message).collect();
        let messages = messages.map_err(|error| {
            tracing::error!(error = &error as &dyn Error, "a hit cannot be written");
            NotStored
        })?;
        let (stored, answer) = oneshot::channel();
        self.queue.try_send(Entry { messages, stored: Some(stored) }).map_err(|_| NotStored)?;
        match timeout(STORE_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            _ => Err(NotStored),
        }
    }

    /// Whether what comes now would be taken.
    pub fn is_ready(&self) -> bool {
        self.queue.capacity() > 0 && !self.state.full.load(Ordering::Relaxed)
    }

    /// Counts the messages that are lost.
    pub(crate) fn lost(&self) -> Arc<AtomicU64> {
        self.state.lost.clone()
    }
}

impl Shared {
    /// Even a poisoned lock is used: the spool mends what was left half done.
    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses the spool on a thread where waiting for the disk blocks nothing else.
    async fn with_spool<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Spool) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let state = self.clone();
        let worked = spawn_blocking(move || {
            let mut spool = state.spool();
            let worked = work(&mut spool);
            state.spooling.store(!spool.is_empty(), Ordering::Release);
            state.full.store(spool.is_full(), Ordering::Relaxed);
            worked
        });
        // It fails where the runtime is being shut down.
        worked.await.unwrap_or(Err(SpoolError::Full))
    }

    fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        measure!(GatewayLost, count);
    }
}

impl Carrier {
    /// Carries until every [`HitQueue`] is dropped and what they took is in NATS or the spool. What is in the spool then
    /// stays there for the next start.
    pub async fn run(self) {
        let Carrier { queue, state, publisher, client } = self;
        tokio::select! {
            () = write(queue, &state, &publisher, &client) => {}
            () = drain(&state, &publisher) => {}
        }
    }
}

/// Takes what is queued, stores it in NATS or the spool, takes what came meanwhile.
async fn write(
    mut queue: mpsc::Receiver<Entry>,
    state: &Arc<Shared>,
    publisher: &Publisher,
    client: &async_nats::Client,
) {
    let mut group = Vec::new();
    while queue.recv_many(&mut group, MAX_GROUP).await > 0 {
        let to_disk = state.spooling.load(Ordering::Acquire) || client.connection_state() != State::Connected;
        if to_disk {
            gather(&mut queue, &mut group).await;
        }
        let mut messages = Vec::new();
        let mut waiting = Vec::new();
        let mut unasked = 0;
        for Entry { messages: more, stored } in group.drain(..) {
            messages.extend(more);
            unasked += u64::from(stored.is_none());
            waiting.extend(stored);
        }
        let published = !to_disk && matches!(timeout(PATIENCE, publisher.publish(&messages)).await, Ok(Ok(_)));
        let stored = if published { Ok(()) } else { spool(state, messages).await };
        if stored.is_err() {
            state.lose(unasked);
        }
        for caller in waiting {
            // The caller may have hung up.
            _ = caller.send(stored);
        }
    }
}

/// Waits a little for more, unless a caller waits for what is there.
async fn gather(queue: &mut mpsc::Receiver<Entry>, group: &mut Vec<Entry>) {
    let until = Instant::now() + GATHER;
    while group.len() < MAX_GROUP && group.iter().all(|entry| entry.stored.is_none()) {
        match timeout_at(until, queue.recv_many(group, MAX_GROUP - group.len())).await {
            Ok(more) if more > 0 => {}
            _ => return,
        }
    }
}

async fn spool(state: &Arc<Shared>, messages: Vec<Outgoing>) -> Result<(), NotStored> {
    let count = messages.len() as u64;
    let records: Result<Vec<_>, _> = messages.into_iter().map(|message| Kept::from(message).encode()).collect();
    let appended = match records {
        Ok(records) => state.with_spool(move |spool| spool.append(&records)).await.map_err(|error| {
            tracing::error!(error = &error as &dyn Error, "neither NATS nor the spool takes messages");
        }),
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "messages cannot be written to the spool");
            Err(())
        }
    };
    match appended {
        Ok(()) => {
            state.spooled.notify_one();
            measure!(GatewaySpooled, count);
            Ok(())
        }
        Err(()) => Err(NotStored),
    }
}

/// Carries from the spool to NATS, in order, for as long as it is polled.
async fn drain(state: &Arc<Shared>, publisher: &Publisher) {
    let mut pauses = PAUSES;
    loop {
        if !state.spooling.load(Ordering::Acquire) {
            state.spooled.notified().await;
            continue;
        }
        match drain_some(state, publisher).await {
            Ok(()) => pauses = PAUSES,
            Err(error) => {
                tracing::warn!(error = &*error, "NATS does not take what is in the spool; trying again");
                sleep(pauses.pause()).await;
            }
        }
    }
}

async fn drain_some(state: &Arc<Shared>, publisher: &Publisher) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (records, position) = state.with_spool(Spool::peek).await?;
    let Some(position) = position else { return Ok(()) };
    let mut messages = Vec::with_capacity(records.len());
    for record in records {
        match Kept::decode(&record) {
            Ok(kept) => messages.push(Outgoing::from(kept)),
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "a record of the spool cannot be read");
                state.lose(1);
            }
        }
    }
    match publisher.publish(&messages).await {
        Ok(_) => {}
        // One of them will never be taken; the others shall not wait for it.
        Err(error) if error.class() == Class::Permanent => {
            for message in messages {
                match publisher.publish(std::slice::from_ref(&message)).await {
                    Ok(_) => {}
                    Err(error) if error.class() == Class::Permanent => {
                        tracing::error!(
                            error = &error as &dyn Error,
                            subject = message.subject,
                            "NATS refuses a message"
                        );
                        state.lose(1);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(state.with_spool(move |spool| spool.advance(position)).await?)
}

/// A message as it is kept on disk.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    subject: String,
    message_id: Option<String>,
    opt_out: Option<String>,
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
}

impl Kept {
    fn encode(&self) -> Result<Vec<u8>, rmp_serde::encode::Error> {
        rmp_serde::to_vec_named(self)
    }

    fn decode(record: &[u8]) -> Result<Self, rmp_serde::decode::Error> {
        rmp_serde::from_slice(record)
    }
}

impl From<Outgoing> for Kept {
    /// The only header that a hit has is its opt-out.
    fn from(message: Outgoing) -> Self {
        let opt_out = message.headers.into_iter().find(|(name, _)| *name == header::OPT_OUT).map(|(_, value)| value);
        Kept { subject: message.subject, message_id: message.message_id, opt_out, payload: message.payload.to_vec() }
    }
}

impl From<Kept> for Outgoing {
    fn from(kept: Kept) -> Self {
        Outgoing {
            subject: kept.subject,
            message_id: kept.message_id,
            headers: kept.opt_out.into_iter().map(|opt_out| (header::OPT_OUT, opt_out)).collect(),
            payload: Bytes::from(kept.payload),
        }
    }
}
