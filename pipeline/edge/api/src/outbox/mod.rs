//! The way of a submission from a request to NATS: memory, and disk while NATS is away.
//!
//! ```text
//! requests ──► a queue per lane ──► writer ──► NATS
//!                                     │          ▲
//!                                     └► spool ──┴─ drainer ──► held
//! ```
//!
//! Guarantee: `Outbox::submit` answers `Ok` when NATS or the spool has the submission, durably. Order is kept, for each app and
//! lane: as long as something is in the spool, everything goes through the spool. All is bounded; what does not fit is
//! refused. A full stream is refused too and not spooled: its producers shall slow down.
//!
//! A writer takes what is there, one batch at a time: while it waits for an fsync, the next batch gathers, and shares one.
//!
//! Ids are fixed before. So what NATS took and could not confirm, or what a killed process had published and not yet removed
//! from its spool, comes again under the same id, and dedupe drops it. That holds within the dedupe window: what was longer
//! in the spool is not published but held (`held.rs`), until a person releases it.
//!
//! After a crash: what was in a queue was not answered; what was in the spool goes out after the next start, before
//! anything new.

mod carry;
mod held;
mod shared;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use chasqui_contract::{Clock, Ledger};
use chasqui_nats::{Outgoing, Publisher};
use chasqui_schemas::{Lane, api::Durability, door::Door, header, subject, submission};
use chasqui_spool::{Spool, SpoolError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use uuid::Uuid;

use crate::{idempotency::Request, settings::Settings};
use shared::Shared;

pub use carry::Carrier;
pub(crate) use shared::Place;

/// Maximum bytes of a record in the spool: the largest submission, and what stands beside it.
const MAX_RECORD_BYTES: usize = submission::MAX_BYTES + (16 << 10);
/// Maximum wait of a submission for NATS or the disk.
const STORE_TIMEOUT: Duration = Duration::from_secs(12);

/// A submission that passed every check.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) app: String,
    pub(crate) lane: Lane,
    pub(crate) id: Uuid,
    #[serde(with = "serde_bytes")]
    pub(crate) payload: Vec<u8>,
    pub(crate) traceparent: Option<String>,
    pub(crate) door: Door,
    /// What its `Idempotency-Key` stands for.
    pub(crate) request: Option<Request>,
}

/// Why a submission was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// No room.
    Full,
    /// Larger than the broker takes.
    TooLarge,
    /// Neither NATS nor the disk answers.
    Unavailable,
    /// Another body waits under the same key.
    Conflict,
}

struct Waiting {
    entry: Entry,
    answer: oneshot::Sender<Result<Durability, NotTaken>>,
}

/// Takes submissions. Clones share one.
#[derive(Clone)]
pub(crate) struct Outbox {
    queues: Arc<[(Lane, mpsc::Sender<Waiting>)]>,
    shared: Arc<Shared>,
}

/// What an outbox is made of.
pub(crate) struct Parts {
    pub(crate) client: async_nats::Client,
    pub(crate) publisher: Publisher,
    pub(crate) ledger: Arc<OnceLock<Arc<dyn Ledger>>>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long repeats are known.
    pub(crate) window: Duration,
}

impl Outbox {
    /// Opens the spool, with what a process before has left.
    pub(crate) fn open(settings: &Settings, dir: &Path, parts: Parts) -> Result<(Self, Carrier), SpoolError> {
        let spool = Spool::open(dir, settings.spool_bytes, MAX_RECORD_BYTES)?;
        let held = held::Held::open(&dir.join("held"))?;
        let shared = Arc::new(Shared::new(spool, held)?);
        let (mut queues, mut receivers) = (Vec::new(), Vec::new());
        for lane in Lane::ALL {
            let (sender, receiver) = mpsc::channel(settings.queue_submissions.max(1));
            queues.push((lane, sender));
            receivers.push(receiver);
        }
        let carrier = Carrier { queues: receivers, shared: Arc::clone(&shared), parts };
        Ok((Outbox { queues: queues.into(), shared }, carrier))
    }

    /// Returns when the submission is stored.
    pub(crate) async fn submit(&self, entry: Entry) -> Result<Durability, NotTaken> {
        // What waits here already is durable, and publishing it again would only be a repeat.
        if let Some(place) = self.shared.place(entry.id)
            && place.app == entry.app
            && entry.request.is_some()
        {
            return if place.request == entry.request { Ok(Durability::Spooled) } else { Err(NotTaken::Conflict) };
        }
        let queue = self.queues.iter().find(|(lane, _)| *lane == entry.lane);
        let Some((_, queue)) = queue else { return Err(NotTaken::Unavailable) };
        let (answer, answered) = oneshot::channel();
        queue.try_send(Waiting { entry, answer }).map_err(|_| NotTaken::Full)?;
        match timeout(STORE_TIMEOUT, answered).await {
            Ok(Ok(answer)) => answer,
            _ => Err(NotTaken::Unavailable),
        }
    }

    /// Where a submission waits, if it waits here.
    pub(crate) fn place(&self, id: Uuid) -> Option<Place> {
        self.shared.place(id)
    }

    /// Submissions that a person decides about.
    pub(crate) fn held(&self) -> Vec<(Uuid, Place)> {
        self.shared.all_held()
    }

    /// Puts a held submission into the spool, from where it is published. False where there is none.
    pub(crate) async fn release(&self, id: Uuid, now: Timestamp) -> Result<bool, SpoolError> {
        self.shared.with(move |inside| inside.release(id, now)).await
    }

    /// Removes a held submission for good. False where there is none.
    pub(crate) async fn discard(&self, id: Uuid) -> Result<bool, SpoolError> {
        self.shared.with(move |inside| inside.discard(id)).await
    }
}

impl Entry {
    fn encode(&self) -> Result<Vec<u8>, SpoolError> {
        // What cannot be encoded has no place there.
        rmp_serde::to_vec_named(self).map_err(|_| SpoolError::Full)
    }

    /// The message, for the lane's queue.
    fn message(&self, spooled_ms: Option<u64>) -> Outgoing {
        let door = Door { spooled_ms, ..self.door.clone() };
        let mut headers = vec![(header::CONTENT_TYPE, "application/json".to_owned())];
        headers.extend(serde_json::to_string(&door).ok().map(|door| (header::DOOR, door)));
        headers.extend(self.traceparent.clone().map(|parent| (header::TRACEPARENT, parent)));
        let (subject, payload) = (subject::submit(self.lane, &self.app), Bytes::from(self.payload.clone()));
        Outgoing { subject, message_id: None, headers, payload }
    }

    /// Milliseconds since it was accepted.
    fn age_ms(&self, now: Timestamp) -> u64 {
        u64::try_from(now.duration_since(self.door.received_at).as_millis()).unwrap_or(0)
    }
}
