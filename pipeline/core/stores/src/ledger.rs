//! The ledger: a claim is a message whose id is what is claimed, in one of two streams, `LEDGER` and `ATTEMPTS`. Ends of
//! attempts are in `ATTEMPTS` too: module `ends`.
//!
//! A ledger has one question, *am I the first?*, and JetStream answers it by itself: within the stream's duplicate window
//! it does not store a message id again, and acknowledges with `duplicate` and the sequence of the first message, which
//! is then read back for its value.
//!
//! Guarantee: of all claims of one id within the window exactly one is answered [`Claim::First`], and only after it is
//! durably stored; all others get its value. The streams need `limits` retention, `max_age` = `duplicate_window` = the
//! window, `allow_atomic_publish` and `allow_direct`.
//!
//! A claim of an idempotency key that is given back stays where it is. That it was given back is a message of its own, on a
//! subject of the claim; who finds the claim taken asks the stream's leader for these.
//!
//! Claims that come at the same time are published together ([`chasqui_nats::coalesce`]): one atomic batch, one fsync.
//!
//! After a crash the claim is repeated, and gets `Taken` with its own value if it had been stored.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::jetstream::{
    self,
    stream::{DirectGetErrorKind, LastRawMessageErrorKind, Stream},
};
use async_trait::async_trait;
use bytes::Bytes;
use chasqui_contract::{Book, Claim, Ledger, StoreError};
use chasqui_nats::{
    Outgoing, PublishError, Publisher, Stored,
    bucket::bad_record,
    coalesce::{Coalescer, Pace, ask},
    publisher::MAX_SINGLES,
    unavailable,
};
use chasqui_schemas::{key_claim::GivenBack, stream, subject};
use futures::{StreamExt, stream as streams};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::ends::Ends;

/// Maximum claims that wait for a batch: two full batches. Callers beyond that wait.
const QUEUED_CLAIMS: usize = 2_048;
/// Maximum claims in a batch: the server takes no more in an atomic one (ADR-50).
const MAX_BATCH: usize = 1_000;
/// Pause between the beginnings of two atomic batches of one book under load, unless they are full. Each costs the server
/// a temporary store with files, so few and large ones are much cheaper. A few claims are published at once, one by one.
const PACE: Duration = Duration::from_millis(160);
/// Maximum batches of one book that wait for an answer: enough to keep the disk busy while the next one fills.
const BATCHES_IN_FLIGHT: usize = 4;
/// Maximum bytes of a claim's value: ids and short answers, far from what a message may hold.
const MAX_VALUE_BYTES: usize = 64 * 1024;
/// Maximum values that are read back at the same time.
const READS_IN_FLIGHT: usize = 64;
/// Maximum records that are read of a claim that was given back: one for each delivery, and there are far fewer.
const MAX_GIVEN_BACK: usize = 1_000;

/// The ledger on JetStream. After a drop, claims that wait are still stored.
#[derive(Debug)]
pub struct NatsLedger {
    dedupe: mpsc::Sender<PendingClaim>,
    attempts: mpsc::Sender<PendingClaim>,
    /// The stream of the book of idempotency keys.
    claimed: Stream,
    ends: Ends,
}

#[derive(Debug)]
struct PendingClaim {
    id: String,
    value: Bytes,
    answer: oneshot::Sender<Result<Claim, StoreError>>,
}

/// The stream of one book.
#[derive(Clone)]
struct ClaimStream {
    store: &'static str,
    subject: &'static str,
    stream: Stream,
    publisher: Publisher,
}

impl NatsLedger {
    /// Opens both books, for claims that may wait until a batch is worth it. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// `Unavailable` where a stream is missing or does not answer.
    pub async fn open(context: &jetstream::Context, publisher: Publisher) -> Result<Self, StoreError> {
        let pace = if publisher.makes_batches() { PACE } else { Duration::ZERO };
        Self::open_paced(context, publisher, pace).await
    }

    /// The same for the critical lane, whose claims do not wait.
    ///
    /// # Errors
    /// As [`NatsLedger::open`].
    pub async fn open_urgent(context: &jetstream::Context, publisher: Publisher) -> Result<Self, StoreError> {
        Self::open_paced(context, publisher, Duration::ZERO).await
    }

    async fn open_paced(
        context: &jetstream::Context,
        publisher: Publisher,
        pace: Duration,
    ) -> Result<Self, StoreError> {
        let pace = Pace { every: pace, few: MAX_SINGLES, many: MAX_BATCH };
        let open =
            async |store: &'static str| context.get_stream(store).await.map_err(|error| unavailable(store, error));
        let (ledger, attempts) = (open(stream::LEDGER).await?, open(stream::ATTEMPTS).await?);
        let ends = Ends::open(attempts.clone(), &publisher).await?;
        let commit = |store, subject, stream| {
            let (claims, requests) = mpsc::channel(QUEUED_CLAIMS);
            let book = ClaimStream { store, subject, stream, publisher: publisher.apart() };
            tokio::spawn(commit(book, Coalescer::new(requests, pace)));
            claims
        };
        Ok(NatsLedger {
            claimed: ledger.clone(),
            dedupe: commit(stream::LEDGER, subject::LEDGER, ledger),
            attempts: commit(stream::ATTEMPTS, subject::ATTEMPTS, attempts),
            ends,
        })
    }
}

/// Each claim is checked before it joins a batch, so that one too large cannot fail the others.
fn check_size(store: &'static str, value: &Bytes) -> Result<(), StoreError> {
    if value.len() <= MAX_VALUE_BYTES {
        return Ok(());
    }
    let source = format!("a claim's value is {} bytes, more than {MAX_VALUE_BYTES}", value.len());
    Err(StoreError::Refused { store, source: source.into() })
}

#[async_trait]
impl Ledger for NatsLedger {
    async fn claim(&self, book: Book, id: &str, value: Bytes) -> Result<Claim, StoreError> {
        let (store, claims) = match book {
            Book::Dedupe => (stream::LEDGER, &self.dedupe),
            Book::Attempts => (stream::ATTEMPTS, &self.attempts),
        };
        check_size(store, &value)?;
        ask(store, claims, |answer| PendingClaim { id: id.to_owned(), value, answer }).await
    }

    async fn given_back(&self, id: &str) -> Result<Vec<GivenBack>, StoreError> {
        let subject = subject::given_back(id);
        let (mut records, mut next) = (Vec::new(), 1);
        while records.len() < MAX_GIVEN_BACK {
            // Of the leader: a replica that lags behind would say that it was not given back.
            let message = match self.claimed.get_first_raw_message_by_subject(&subject, next).await {
                Ok(message) => message,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => break,
                Err(error) => return Err(unavailable(stream::LEDGER, error)),
            };
            next = message.sequence + 1;
            let record = serde_json::from_slice(&message.payload);
            records.push(record.map_err(|error| bad_record(stream::LEDGER, id, error))?);
        }
        Ok(records)
    }

    async fn end(&self, id: &str, value: Bytes) -> Result<Option<Bytes>, StoreError> {
        check_size(stream::ATTEMPTS, &value)?;
        self.ends.end(id, value).await
    }

    async fn take_over(&self, id: &str, begun: u64, value: Bytes) -> Result<Option<Bytes>, StoreError> {
        check_size(stream::ATTEMPTS, &value)?;
        self.ends.take_over(id, begun, value).await
    }
}

/// Commits batch after batch, several at a time.
async fn commit(book: ClaimStream, mut requests: Coalescer<PendingClaim>) {
    let turns = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT));
    // The semaphore is never closed.
    while let Ok(turn) = turns.clone().acquire_owned().await {
        let batch = requests.next(|_| 1).await;
        if batch.is_empty() {
            return;
        }
        let book = book.clone();
        tokio::spawn(async move {
            book.answer(batch).await;
            drop(turn);
        });
    }
}

/// The claims of one id within a batch. The server is asked once for all of them.
struct Group {
    id: String,
    value: Bytes,
    answers: Vec<oneshot::Sender<Result<Claim, StoreError>>>,
}

fn group(batch: Vec<PendingClaim>) -> Vec<Group> {
    let mut places: HashMap<String, usize> = HashMap::with_capacity(batch.len());
    let mut groups: Vec<Group> = Vec::with_capacity(batch.len());
    for PendingClaim { id, value, answer } in batch {
        match places.get(&id).and_then(|&place| groups.get_mut(place)) {
            Some(group) => group.answers.push(answer),
            None => {
                places.insert(id.clone(), groups.len());
                groups.push(Group { id, value, answers: vec![answer] });
            }
        }
    }
    groups
}

impl ClaimStream {
    async fn answer(&self, batch: Vec<PendingClaim>) {
        let groups = group(batch);
        let messages: Vec<_> = groups
            .iter()
            .map(|group| Outgoing {
                subject: self.subject.to_owned(),
                message_id: Some(group.id.clone()),
                headers: Vec::new(),
                payload: group.value.clone(),
            })
            .collect();
        match self.publisher.publish(&messages).await {
            Ok(stored) => {
                streams::iter(groups.into_iter().zip(stored))
                    .for_each_concurrent(READS_IN_FLIGHT, |(group, stored)| self.answer_group(group, stored))
                    .await;
            }
            Err(error) => {
                tracing::warn!(store = self.store, error = &error as &dyn std::error::Error, "claims were not stored");
                let error = Arc::new(error);
                for answer in groups.into_iter().flat_map(|group| group.answers) {
                    // The caller may have dropped its call; its claim holds all the same.
                    _ = answer.send(Err(self.error(&error)));
                }
            }
        }
    }

    async fn answer_group(&self, group: Group, stored: Stored) {
        let mut answers = group.answers.into_iter();
        let value = if stored.duplicate {
            self.read_back(stored.sequence).await
        } else {
            if let Some(first) = answers.next() {
                _ = first.send(Ok(Claim::First));
            }
            Ok(group.value)
        };
        let value = value.map_err(Arc::new);
        for answer in answers {
            _ = answer.send(match &value {
                Ok(value) => Ok(Claim::Taken { value: value.clone(), place: stored.sequence }),
                Err(error) => Err(unavailable(self.store, error.clone())),
            });
        }
    }

    /// The value of the first claim.
    ///
    /// A replica may lag behind, so where it finds nothing the leader is asked. Where the leader finds nothing either, the
    /// claim has just reached its `max_age`: the caller gets an error, and its repeat comes after the window, as a first
    /// claim.
    async fn read_back(&self, sequence: u64) -> Result<Bytes, StoreError> {
        let message = match self.stream.direct_get(sequence).await {
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => {
                self.stream.get_raw_message(sequence).await.map_err(|error| unavailable(self.store, error))?
            }
            answer => answer.map_err(|error| unavailable(self.store, error))?,
        };
        Ok(message.payload)
    }

    fn error(&self, error: &Arc<PublishError>) -> StoreError {
        match **error {
            PublishError::Full { .. } => StoreError::Full { store: self.store },
            _ => unavailable(self.store, error.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_one_id_within_a_batch_ask_once_with_the_value_of_the_first() {
        let (answer, _) = oneshot::channel();
        let mut batch = vec![PendingClaim { id: "a".into(), value: "1".into(), answer }];
        for (id, value) in [("b", "2"), ("a", "3"), ("a", "4")] {
            batch.push(PendingClaim { id: id.into(), value: value.into(), answer: oneshot::channel().0 });
        }
        let groups = group(batch);
        let asked: Vec<_> = groups.iter().map(|g| (g.id.as_str(), &g.value[..], g.answers.len())).collect();
        assert_eq!(asked, [("a", &b"1"[..], 3), ("b", &b"2"[..], 1)]);
    }
}
