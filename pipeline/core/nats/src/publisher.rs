//! Durable publishing: messages go out in atomic batches, and what JetStream has acknowledged is stored.
//!
//! Guarantee: `Ok` means that JetStream acknowledged every message; with `sync_interval: always` they then outlive
//! power loss. An error means that some, all or none may be stored: the caller publishes the whole again with the same
//! message ids, and what was stored already answers [`Stored::duplicate`].
//!
//! After a crash in the middle of a batch the server has all of it or nothing; a batch that was never committed is
//! forgotten after 10 seconds. The caller repeats, as after an error.
//!
//! An atomic batch (ADR-50, nats-server 2.12 and later) costs one fsync however many messages it holds, which is what
//! makes `sync_interval: always` affordable. It rests on these facts, measured on nats-server 2.15.1:
//! - Only the last message needs a reply subject. The answer to it carries the last sequence; those of the batch are
//!   contiguous.
//! - A batch that holds a message id which is stored already, or the same id twice, is refused whole (10201).
//! - A batch that does not fit is refused whole (10077), even where some of it would fit.
//! - A batch one of whose earlier messages was refused or lost is *incomplete* (10176), whatever the cause: too large
//!   for the stream (10054 if it is the last message), of another stream, or cut off by a reconnect.
//! - The ids of a refused batch are free again.
//!
//! So in all three cases the batch is published again message by message: each then has its own answer.
//!
//! On servers that sync at intervals ([`Publisher::one_by_one`]) an acknowledgement costs no fsync, and an atomic
//! batch, for which the server makes and removes seven files, costs more than it saves: there every message goes out
//! alone.

use std::{
    error::Error,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{
    HeaderMap,
    header::{NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE},
    jetstream::{
        self, ErrorCode,
        context::{PublishAckFuture, PublishErrorKind},
        message::PublishMessage,
        publish::PublishAck,
    },
};
use bytes::Bytes;
use chasqui_contract::{Class, StoreError};
use chasqui_schemas::{header, text::one_line};
use futures::future::join_all;
use tokio::sync::Semaphore;

use crate::{Pauses, coalesce::fitting};

/// Maximum messages in one atomic batch: the server's own limit (ADR-50).
const MAX_BATCH_MESSAGES: usize = 1_000;
/// Maximum messages that are published one by one, in flight together, instead of as an atomic batch. For such a batch
/// the server makes a store of its own, directory and files, and deletes it again: measured at `sync_interval: always`,
/// that costs more than this many fsyncs, and at rest it was nearly all of the latency.
pub const MAX_SINGLES: usize = 16;
/// Maximum bytes in one atomic batch, so that a large batch does not hold up small ones on the same connection for
/// long.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Maximum batches that one publisher has in flight. A stream takes 50 (ADR-50), and buffers 10,000 messages or 128 MB
/// (`max_buffered_msgs`, `max_buffered_size` of nats-server), from all processes together; it drops what is more.
const MAX_BATCHES_IN_FLIGHT: usize = 8;
/// Maximum time of one exchange with the server for one batch, waiting for a turn included. It is longer than a
/// reconnect and an fsync of a busy disk take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after a reconnect an answer is still waited for: time enough for what had waited in the client to be sent
/// and answered. Answers to what was sent before were lost with the old connection.
const GRACE_AFTER_RECONNECT: Duration = Duration::from_millis(500);
/// How often a waiting exchange looks whether there was a reconnect: often enough to add little to the grace above.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Pauses between tries of [`Publisher::insist`]. The first is short, because a full queue soon has room again.
const PAUSES: Pauses = Pauses::new(Duration::from_millis(20), Duration::from_secs(1));
/// How long to wait before the next try after an answer that did not come.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A message to publish.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The subject to publish on.
    pub subject: String,
    /// Publishing again with the same id, within the stream's duplicate window, has no effect. Without one a repeat
    /// stores the message twice.
    pub message_id: Option<String>,
    /// More headers; names are from [`chasqui_schemas::header`]. Line breaks in a value become blanks, because a NATS
    /// header cannot hold them.
    pub headers: Vec<(&'static str, String)>,
    /// The message itself.
    pub payload: Bytes,
}

/// Where a message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream; of a duplicate, the sequence of the first.
    pub sequence: u64,
    /// Whether its message id had been stored before, so that this one was not.
    pub duplicate: bool,
}

/// Why messages are not known to be stored. JetStream's error codes decide which, never a text.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The stream, one of its subjects, or the server is at a limit.
    #[error("the stream takes no more (JetStream error {code}: {description})")]
    Full {
        /// JetStream's error code: 10077, 10023, 10047, 10028, 10002, 10122, 10210 or 10167.
        code: u64,
        /// JetStream's own words.
        description: String,
    },
    /// No answer: not connected, timed out, no such stream (yet), or no leader (yet).
    #[error("JetStream did not confirm the messages; publish them again")]
    Unavailable(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// A message is larger than the server or the stream allows.
    #[error("a message to `{subject}` is larger than the server or its stream allows: {bytes} bytes")]
    TooLarge {
        /// The subject that it was to be published on.
        subject: String,
        /// Its size in bytes, headers included.
        bytes: usize,
    },
    /// JetStream will never store it: the stream's settings or the message are wrong.
    #[error("JetStream refused the messages (error {code}: {description})")]
    Refused {
        /// JetStream's error code; zero where the client or an answer without a code refused it.
        code: u64,
        /// JetStream's own words.
        description: String,
    },
}

impl PublishError {
    /// What the caller should do about it.
    pub fn class(&self) -> Class {
        match self {
            PublishError::Full { .. } => Class::Overloaded,
            PublishError::Unavailable(_) => Class::RetryAfter(RETRY_AFTER),
            PublishError::TooLarge { .. } | PublishError::Refused { .. } => Class::Permanent,
        }
    }

    /// Whether it passes by itself: the broker is away or busy. A stream without room is neither.
    fn is_passing(&self) -> bool {
        match self {
            PublishError::Full { code, .. } => {
                [ErrorCode::STREAM_TOO_MANY_REQUESTS.0, ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT.0].contains(code)
            }
            other => other.class().is_transient(),
        }
    }

    /// Whether a message that names the last one before it was refused because another has come since.
    pub fn is_stale(&self) -> bool {
        // A replicated stream answers the second code while another such message is being replicated.
        let codes = [ErrorCode::STREAM_WRONG_LAST_SEQUENCE, ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT];
        matches!(self, PublishError::Refused { code, .. } if codes.iter().any(|stale| stale.0 == *code))
    }

    /// The same, as the error of a port that publishes to `store`.
    ///
    /// A stream whose settings are wrong is as good as unavailable: its messages wait until an operator has acted,
    /// instead of all becoming dead letters.
    pub fn of_store(self, store: &'static str) -> StoreError {
        match self {
            PublishError::Full { .. } => StoreError::Full { store },
            PublishError::TooLarge { .. } => StoreError::Refused { store, source: Box::new(self) },
            other => StoreError::Unavailable { store, source: Some(Box::new(other)) },
        }
    }
}

/// Publishes durably. Clones share one bound on batches in flight; see [`Publisher::apart`].
#[derive(Debug, Clone)]
pub struct Publisher {
    context: jetstream::Context,
    turns: Arc<Semaphore>,
    /// Whether more than a few messages go out in atomic batches.
    batches: bool,
}

impl Publisher {
    /// Publishes through `context`.
    pub fn new(mut context: jetstream::Context) -> Self {
        // Every exchange is timed here as a whole; the context's own time-out would cut it short.
        context.set_timeout(EXCHANGE_TIMEOUT);
        Publisher { context, turns: Arc::new(Semaphore::new(MAX_BATCHES_IN_FLIGHT)), batches: true }
    }

    /// Without atomic batches, for servers that do not sync before they acknowledge.
    #[must_use]
    pub fn one_by_one(self) -> Self {
        Publisher { batches: false, ..self }
    }

    /// JetStream, on the connection that it publishes on.
    pub(crate) fn context(&self) -> &jetstream::Context {
        &self.context
    }

    /// Whether a batch costs the server more than its messages: then it should be large.
    pub fn makes_batches(&self) -> bool {
        self.batches
    }

    /// Another publisher on the same connection, with a bound of its own on batches in flight. Each stream should have
    /// one, so that a stream which does not answer does not hold up the others.
    #[must_use]
    pub fn apart(&self) -> Self {
        self.apart_for(MAX_BATCHES_IN_FLIGHT)
    }

    /// The same for a caller that publishes single messages, `in_flight` at once.
    #[must_use]
    pub fn apart_for(&self, in_flight: usize) -> Self {
        Publisher { turns: Arc::new(Semaphore::new(in_flight)), ..self.clone() }
    }

    /// Publishes `messages` and returns once all of them are stored; the answers are in their order.
    ///
    /// All must go to **one stream**, which must have `allow_atomic_publish`: a batch is one stream's. Up to 1,000
    /// messages or 4 MiB are one atomic batch; more are several, one after the other; a few are published one by one. A
    /// batch that holds repeats, or that does not fit as a whole, is published message by message, so that JetStream
    /// stores what it can.
    ///
    /// # Errors
    /// See [`PublishError`]. After an error some of the messages may be stored; repeat the whole, with the same ids.
    pub async fn publish(&self, messages: &[Outgoing]) -> Result<Vec<Stored>, PublishError> {
        // This is checked beforehand, because an error in the middle would leave an open batch on the server.
        let max_payload = self.context.client().max_payload();
        if let Some(large) = messages.iter().find(|message| message.size() > max_payload) {
            return Err(large.too_large());
        }
        let mut stored = Vec::with_capacity(messages.len());
        let mut rest = messages;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(batch_len(rest));
            stored.extend(self.exchange(batch).await?);
            rest = later;
        }
        Ok(stored)
    }

    /// Publishes `messages`, which must all go to one stream, and answers each of them: where they do not fit together,
    /// what fits is stored. It waits for nothing and repeats nothing.
    pub async fn publish_each(&self, messages: &[Outgoing]) -> Vec<Result<Stored, PublishError>> {
        let (mut answers, mut rest) = (Vec::with_capacity(messages.len()), messages);
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(batch_len(rest));
            let answered = self.timed(async { Ok(self.publish_batch_each(batch).await) }).await;
            // Whether it is stored, nobody knows.
            let unknown = |_| batch.iter().map(|_| Err(PublishError::Unavailable(None))).collect();
            answers.extend(answered.unwrap_or_else(unknown));
            rest = later;
        }
        answers
    }

    async fn publish_batch_each(&self, batch: &[Outgoing]) -> Vec<Result<Stored, PublishError>> {
        let _turn = self.turns.acquire().await.ok();
        let max_payload = self.context.client().max_payload();
        let all_fit = batch.iter().all(|message| message.size() <= max_payload);
        if self.batches && batch.len() > MAX_SINGLES && all_fit {
            match self.publish_atomically(batch).await {
                Ok(stored) => return stored.into_iter().map(Ok).collect(),
                Err(error @ PublishError::Unavailable(_)) => {
                    tracing::debug!(error = &error as &dyn Error, "a batch was not confirmed");
                    return batch.iter().map(|_| Err(PublishError::Unavailable(None))).collect();
                }
                // None of it is stored.
                Err(_) => {}
            }
        }
        let mut acks = Vec::with_capacity(batch.len());
        for message in batch {
            acks.push(self.send(message, message.header_map(None)).await);
        }
        let mut answers = Vec::with_capacity(batch.len());
        for (message, ack) in batch.iter().zip(acks) {
            answers.push(match ack {
                Ok(ack) => ack.await.map(|ack| stored(&ack)).map_err(|error| classify(message, error)),
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// Publishes `messages`, again and again for as long as the stream is full or the broker is away.
    ///
    /// # Errors
    /// Only [`Class::Permanent`] ones: no repeat can help.
    pub async fn insist(&self, messages: &[Outgoing]) -> Result<(), PublishError> {
        self.publish_while(messages, |error| error.class().is_transient()).await
    }

    /// Publishes each of `messages` that the stream takes, again and again for as long as the broker is away. Returns the
    /// others by their place, and why; it never waits for room.
    pub async fn offer(&self, messages: &[Outgoing]) -> Vec<(usize, PublishError)> {
        if self.publish_while(messages, PublishError::is_passing).await.is_ok() {
            return Vec::new();
        }
        // One by one they show which are refused; what was stored before answers as a repeat.
        let offers = messages.iter().enumerate().map(|(index, message)| async move {
            let refused = self.publish_while(std::slice::from_ref(message), PublishError::is_passing).await.err();
            refused.map(|error| (index, error))
        });
        join_all(offers).await.into_iter().flatten().collect()
    }

    async fn publish_while(
        &self,
        messages: &[Outgoing],
        again: impl Fn(&PublishError) -> bool,
    ) -> Result<(), PublishError> {
        let mut pauses = PAUSES;
        while let Err(error) = self.publish(messages).await {
            if !again(&error) {
                return Err(error);
            }
            let subject = messages.first().map(|message| message.subject.as_str());
            if pauses.at_longest() {
                tracing::warn!(
                    subject,
                    error = &error as &dyn Error,
                    "messages are not stored yet: publishing them again"
                );
            } else {
                tracing::debug!(
                    subject,
                    error = &error as &dyn Error,
                    "messages are not stored yet: publishing them again"
                );
            }
            tokio::time::sleep(pauses.pause()).await;
        }
        Ok(())
    }

    /// Publishes one batch within bounded time.
    async fn exchange(&self, batch: &[Outgoing]) -> Result<Vec<Stored>, PublishError> {
        self.timed(self.publish_batch(batch)).await
    }

    async fn timed<T>(&self, publishing: impl Future<Output = Result<T, PublishError>>) -> Result<T, PublishError> {
        let exchange = async {
            tokio::select! {
                answer = publishing => answer,
                () = self.reconnected() => Err(PublishError::Unavailable(None)),
            }
        };
        let answer = tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await;
        answer.unwrap_or_else(|elapsed| Err(PublishError::Unavailable(Some(Box::new(elapsed)))))
    }

    /// Returns when there has been a reconnect, and answers cannot be expected any more.
    async fn reconnected(&self) {
        // Relaxed is enough: only the number matters, no other memory is read because of it.
        let statistics = self.context.client().statistics();
        let before = statistics.connects.load(Ordering::Relaxed);
        while statistics.connects.load(Ordering::Relaxed) == before {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        tokio::time::sleep(GRACE_AFTER_RECONNECT).await;
    }

    async fn publish_batch(&self, batch: &[Outgoing]) -> Result<Vec<Stored>, PublishError> {
        // The error is that the semaphore is closed, which never happens; then the bound would be missing and nothing
        // else.
        let _turn = self.turns.acquire().await.ok();
        if !self.batches || batch.len() <= MAX_SINGLES {
            return self.publish_singly(batch).await;
        }
        match self.publish_atomically(batch).await {
            Err(PublishError::Full { .. }) => self.publish_singly(batch).await,
            Err(PublishError::Refused { code, .. }) if code == CONTAINS_DUPLICATE || code == INCOMPLETE => {
                self.publish_singly(batch).await
            }
            answer => answer,
        }
    }

    /// Publishes all of `batch` or nothing, with one acknowledgement.
    async fn publish_atomically(&self, batch: &[Outgoing]) -> Result<Vec<Stored>, PublishError> {
        let Some((last, before)) = batch.split_last() else { return Ok(Vec::new()) };
        let client = self.context.client();
        let batch_id = uuid::Uuid::now_v7().simple().to_string();
        let count = batch.len() as u64;
        for (message, sequence) in before.iter().zip(1u64..) {
            let headers = message.header_map(Some((&batch_id, sequence)));
            client.publish_with_headers(message.subject.clone(), headers, message.payload.clone()).await.map_err(
                |error| match error.kind() {
                    async_nats::client::PublishErrorKind::MaxPayloadExceeded => message.too_large(),
                    async_nats::client::PublishErrorKind::InvalidSubject => refused_here(&error),
                    async_nats::client::PublishErrorKind::Send => PublishError::Unavailable(Some(Box::new(error))),
                },
            )?;
        }
        let mut headers = last.header_map(Some((&batch_id, count)));
        headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        let ack = self.send(last, headers).await?.await.map_err(|error| classify(last, error))?;
        if ack.batch_size != Some(count) || ack.sequence < count {
            return Err(PublishError::Refused {
                code: 0,
                description: "the batch was not acknowledged as one: nats-server 2.12 or later is needed".to_owned(),
            });
        }
        let first = ack.sequence - count + 1;
        Ok((first..=ack.sequence).map(|sequence| Stored { sequence, duplicate: false }).collect())
    }

    /// Publishes each message on its own, all in flight together: every message has its own answer.
    async fn publish_singly(&self, batch: &[Outgoing]) -> Result<Vec<Stored>, PublishError> {
        let mut acks = Vec::with_capacity(batch.len());
        for message in batch {
            acks.push(self.send(message, message.header_map(None)).await?);
        }
        let mut answers = Vec::with_capacity(batch.len());
        for (message, ack) in batch.iter().zip(acks) {
            answers.push(stored(&ack.await.map_err(|error| classify(message, error))?));
        }
        Ok(answers)
    }

    async fn send(&self, message: &Outgoing, headers: HeaderMap) -> Result<PublishAckFuture, PublishError> {
        let publish = PublishMessage::build().payload(message.payload.clone()).headers(headers);
        self.context.send_publish(message.subject.clone(), publish).await.map_err(|error| classify(message, error))
    }
}

fn stored(ack: &PublishAck) -> Stored {
    Stored { sequence: ack.sequence, duplicate: ack.duplicate }
}

const CONTAINS_DUPLICATE: u64 = ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE.0;
const INCOMPLETE: u64 = ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH.0;

impl Outgoing {
    fn header_map(&self, batch: Option<(&str, u64)>) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            // The client panics on a line break.
            map.append(*name, one_line(value, usize::MAX).as_ref());
        }
        if let Some(id) = &self.message_id {
            map.insert(header::MSG_ID, one_line(id, usize::MAX).as_ref());
        }
        if let Some((id, sequence)) = batch {
            map.insert(NATS_BATCH_ID, id);
            map.insert(NATS_BATCH_SEQUENCE, sequence.to_string());
        }
        map
    }

    /// At most this many bytes count towards the server's `max_payload`: payload, headers, and the headers of a batch.
    pub(crate) fn size(&self) -> usize {
        const LINE: usize = ": \r\n".len();
        const BATCH_HEADERS: usize = 160;
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + LINE).sum();
        let id = self.message_id.as_ref().map_or(0, |id| header::MSG_ID.len() + id.len() + LINE);
        self.payload.len() + headers + id + BATCH_HEADERS
    }

    fn too_large(&self) -> PublishError {
        PublishError::TooLarge { subject: self.subject.clone(), bytes: self.size() }
    }
}

/// How many of `messages` go into the next batch.
fn batch_len(messages: &[Outgoing]) -> usize {
    fitting(messages, MAX_BATCH_MESSAGES, MAX_BATCH_BYTES, Outgoing::size)
}

fn refused_here(error: &dyn Error) -> PublishError {
    PublishError::Refused { code: 0, description: error.to_string() }
}

fn classify(message: &Outgoing, error: jetstream::context::PublishError) -> PublishError {
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => message.too_large(),
        PublishErrorKind::StreamNotFound
        | PublishErrorKind::TimedOut
        | PublishErrorKind::BrokenPipe
        | PublishErrorKind::MaxAckPending => PublishError::Unavailable(Some(Box::new(error))),
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence | PublishErrorKind::Other => {
            match error.source().and_then(|source| source.downcast_ref::<jetstream::Error>()) {
                Some(answer) => classify_answer(message, answer.clone()),
                // Not an answer of JetStream's: the connection was closed, or something else answered.
                None => PublishError::Unavailable(Some(Box::new(error))),
            }
        }
    }
}

/// The meaning of JetStream's own error answers (`server/errors.json` of nats-server lists them).
fn classify_answer(message: &Outgoing, answer: jetstream::Error) -> PublishError {
    const SERVICE_UNAVAILABLE: usize = 503;
    match answer.error_code() {
        // What a stream at a limit with `discard: new` answers, whatever the limit: messages, bytes, or messages per
        // subject. A disk that does not take a write answers the same.
        ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED
        | ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT
        | ErrorCode::STREAM_TOO_MANY_REQUESTS => {
            PublishError::Full { code: answer.error_code().0, description: answer.to_string() }
        }
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => message.too_large(),
        // The same message is on its way through another connection, and not stored yet.
        ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT => PublishError::Unavailable(Some(Box::new(answer))),
        _ if answer.code() == SERVICE_UNAVAILABLE => PublishError::Unavailable(Some(Box::new(answer))),
        code => PublishError::Refused { code: code.0, description: answer.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_size(bytes: usize) -> Outgoing {
        Outgoing { subject: "s".into(), message_id: None, headers: Vec::new(), payload: Bytes::from(vec![0; bytes]) }
    }

    #[test]
    fn a_batch_is_bounded_by_number_and_by_bytes() {
        assert_eq!(batch_len(&vec![of_size(1); 2_500]), MAX_BATCH_MESSAGES);
        assert_eq!(batch_len(&vec![of_size(MAX_BATCH_BYTES / 4); 10]), 3);
        assert_eq!(batch_len(&[of_size(1), of_size(MAX_BATCH_BYTES), of_size(1)]), 1);
    }

    #[test]
    fn one_message_larger_than_a_batch_goes_alone() {
        assert_eq!(batch_len(&[of_size(MAX_BATCH_BYTES * 2), of_size(1)]), 1);
    }
}
