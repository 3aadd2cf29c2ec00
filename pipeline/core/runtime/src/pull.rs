//! Demand-driven reading of one pull consumer.
//!
//! The client library's message stream reads ahead into a buffer that we cannot see: when the queue behind a stage is
//! full for minutes, the deadlines of the messages in it pass unextended, and they count as delivered again and again.
//! Here every message is asked for, and the runner knows it as soon as it is here.
//!
//! What comes as a stored message is one, whatever it looks like: the client reads a status from the server's own messages
//! only, and what of a header block cannot be read it hands on as it is.
//!
//! Guarantee: never more than was asked for is on its way, in messages and in bytes. A request that the server forgot
//! (restart, lost connection) is noticed by its missing heartbeats and made again.
//!
//! After a crash the server hands out again what was not acknowledged, when its deadline has passed.

use std::{
    collections::HashMap,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_nats::{
    Client, StatusCode, Subject, Subscriber,
    jetstream::{
        self, AckKind,
        consumer::{PullConsumer, pull::BatchConfig},
    },
};
use chasqui_contract::IncomingMessage;
use chasqui_nats::{find_consumer, unreadable_headers};
use chasqui_schemas::{envelope, header};
use futures::StreamExt;
use jiff::Timestamp;

/// Maximum time of a request: the server ends it then, whether or not it brought messages.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that it still knows a request.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A request of which nothing was heard for this long counts as forgotten: two heartbeats and a little.
const SILENCE: Duration = Duration::from_millis(2_500);
/// Pause after a request that the server refused, so that a refusal is not asked for in a tight loop.
const REFUSED: Duration = Duration::from_millis(500);
/// Maximum bytes asked for at once. It must be more than the largest message (2 MiB): with less than a message's size
/// left, the server ends the request without handing the message out.
const MAX_BYTES: usize = 2_500 * 1024;
/// With this many bytes here no more are asked for: they are enough to work on until more have come.
const ENOUGH_BYTES: usize = MAX_BYTES / 4;
/// Maximum bytes of a header's value that are taken in. Several times what is valid, so that a longer one is refused as one
/// that is too long; and dead letters, which repeat some, stay within the server's 64 KiB of headers.
const MAX_HEADER_BYTES: usize = 1024;

/// A message taken from a consumer, not acknowledged yet.
#[derive(Debug)]
pub struct Pulled {
    /// What it holds.
    pub incoming: IncomingMessage,
    /// How often it has been handed out, this time included.
    pub delivered: u32,
}

/// What [`Puller::poll_next`] reports.
#[derive(Debug)]
pub enum PullEvent {
    /// A message has come.
    Message(Pulled),
    /// A request has ended: nothing comes until [`Puller::request_more`] makes another.
    Ended,
    /// The connection is closed for good.
    Closed,
}

/// Reads one consumer.
pub struct Puller {
    client: Client,
    consumer: PullConsumer,
    inbox: Subject,
    subscription: Subscriber,
    expires: Duration,
    /// Messages that were asked for and are not here yet.
    outstanding: usize,
    /// When the server last sent anything.
    heard_at: Instant,
    /// No request is made before this time.
    not_before: Instant,
    /// Whether a message has come since a request last ended.
    brought: bool,
    /// Where to acknowledge each message that is here, by sequence, and when its deadline was last moved.
    held: HashMap<u64, Held>,
    held_bytes: usize,
}

struct Held {
    reply: Subject,
    extended_at: Instant,
    bytes: usize,
}

impl Puller {
    /// Opens the consumer `consumer` of `stream`.
    ///
    /// # Errors
    /// Fails where it does not exist (`chasqui migrate` creates it) or the broker cannot be reached.
    pub async fn open(client: &Client, stream: &str, consumer: &str) -> Result<Self, async_nats::Error> {
        let context = jetstream::new(client.clone());
        let consumer = find_consumer(&context, stream, consumer).await?;
        let inbox = Subject::from(client.new_inbox());
        let subscription = client.subscribe(inbox.clone()).await?;
        let now = Instant::now();
        Ok(Puller {
            client: client.clone(),
            consumer,
            inbox,
            subscription,
            expires: EXPIRES,
            outstanding: 0,
            heard_at: now,
            not_before: now,
            brought: false,
            held: HashMap::new(),
            held_bytes: 0,
        })
    }

    /// Asks the server for more messages, so that at most `window` are here or on their way.
    pub async fn request_more(&mut self, window: usize) {
        let now = Instant::now();
        if self.outstanding > 0 && now.duration_since(self.heard_at) > SILENCE {
            self.outstanding = 0;
        }
        let batch = window.saturating_sub(self.held.len() + self.outstanding);
        // Half a window at a time: one request then serves many messages.
        if batch < (window / 2).max(1) || self.held_bytes >= ENOUGH_BYTES || now < self.not_before {
            return;
        }
        let request = BatchConfig {
            batch,
            expires: Some(self.expires),
            max_bytes: MAX_BYTES,
            idle_heartbeat: HEARTBEAT,
            ..BatchConfig::default()
        };
        match self.consumer.request_batch(request, self.inbox.clone()).await {
            Ok(()) => {
                if self.outstanding == 0 {
                    self.heard_at = now;
                }
                self.outstanding += batch;
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "pull request not sent");
                self.not_before = now + REFUSED;
            }
        }
    }

    /// The next message, as soon as one is here, or the end of a request or of the connection.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<PullEvent> {
        loop {
            let Some(message) = std::task::ready!(self.subscription.poll_next_unpin(cx)) else {
                return Poll::Ready(PullEvent::Closed);
            };
            self.heard_at = Instant::now();
            match message.status {
                None | Some(StatusCode::OK) => {
                    if let Some(pulled) = self.receive(message) {
                        return Poll::Ready(PullEvent::Message(pulled));
                    }
                }
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                Some(status) => {
                    self.request_ended(status, &message);
                    return Poll::Ready(PullEvent::Ended);
                }
            }
        }
    }

    /// Notes that a request ended: what it did not bring can be asked for again.
    ///
    /// With `max_bytes` the server ends every request by a status, also one that it served in full ("Batch Completed").
    /// So a request that brought nothing was refused, unless the status says that there was nothing to bring.
    fn request_ended(&mut self, status: StatusCode, message: &async_nats::Message) {
        let missing = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Pending-Messages"))
            .and_then(|value| value.as_str().parse().ok());
        // Without a number, nothing is known to be on its way. Too low a count only makes the next request come
        // earlier.
        self.outstanding = missing.map_or(0, |missing| self.outstanding.saturating_sub(missing));
        let brought = std::mem::take(&mut self.brought);
        if !brought && !matches!(status, StatusCode::TIMEOUT | StatusCode::NOT_FOUND) {
            tracing::debug!(%status, description = message.description.as_deref(), "pull request ended");
            self.not_before = Instant::now() + REFUSED;
        }
    }

    fn receive(&mut self, message: async_nats::Message) -> Option<Pulled> {
        self.brought = true;
        self.outstanding = self.outstanding.saturating_sub(1);
        let Some(reply) = message.reply else {
            tracing::warn!(subject = %message.subject, "ignored a message that is not JetStream's");
            return None;
        };
        let Some(JetStreamMeta { delivered, sequence, stored_at }) = parse_ack_subject(&reply) else {
            tracing::warn!(subject = %message.subject, %reply, "ignored a message that is not JetStream's");
            return None;
        };
        let bytes = envelope::unbundled_len(&message.payload);
        let held = Held { reply, extended_at: Instant::now(), bytes };
        if self.held.insert(sequence, held).is_some() {
            // It was handed out again although we work on it, because its deadline passed. The work in hand is enough;
            // its acknowledgement goes to the newer delivery.
            return None;
        }
        self.held_bytes += bytes;
        let headers = message.headers.as_ref();
        let text =
            |name: &str| headers.and_then(|headers| headers.get(name)).map(|value| bounded(value.as_str()).into());
        let incoming = IncomingMessage {
            content_type: text(header::CONTENT_TYPE),
            message_id: text(header::MSG_ID),
            traceparent: text(header::TRACEPARENT),
            door: text(header::DOOR),
            unreadable_headers: unreadable_headers(headers).cloned(),
            subject: message.subject.as_str().into(),
            payload: message.payload,
            stored_at,
            sequence,
            index: 0,
        };
        Some(Pulled { incoming, delivered })
    }

    /// Extends the deadline of each message whose deadline was last moved at least `age` ago.
    pub async fn extend(&mut self, age: Duration) {
        let now = Instant::now();
        for held in self.held.values_mut().filter(|held| now.duration_since(held.extended_at) >= age) {
            held.extended_at = now;
            send_ack(&self.client, held.reply.clone(), AckKind::Progress).await;
        }
    }

    /// Acknowledges a message that is here. The acknowledgement is sent and not waited for: where it is lost, the
    /// message comes again, and doing its work again has no visible effect.
    pub async fn ack(&mut self, sequence: u64) {
        self.let_go(sequence, AckKind::Ack).await;
    }

    /// Puts a message back, to be handed out again `after` a time, or at once.
    pub async fn put_back(&mut self, sequence: u64, after: Option<Duration>) {
        self.let_go(sequence, AckKind::Nak(after)).await;
    }

    async fn let_go(&mut self, sequence: u64, kind: AckKind) {
        if let Some(held) = self.held.remove(&sequence) {
            self.held_bytes -= held.bytes;
            send_ack(&self.client, held.reply, kind).await;
        }
    }

    /// Ends the subscription and puts back what came in it since the last poll, so that nobody has to wait for the
    /// deadlines of these messages.
    ///
    /// It must be called before any message is put back: while the subscription is there, the server would hand that
    /// message out to us again.
    pub async fn close(&mut self) {
        if let Err(error) = self.subscription.unsubscribe().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "unsubscribe not sent");
        }
        loop {
            // One poll, which does not wait: only what is here already is of interest, and Pending means that it was
            // all. Nobody polls the subscription after this, so a lost wake-up is no loss. What is still on its way
            // comes again after its deadline.
            let event = std::future::poll_fn(|cx| Poll::Ready(self.poll_next(cx))).await;
            match event {
                Poll::Ready(PullEvent::Message(pulled)) => self.put_back(pulled.incoming.sequence, None).await,
                // No more is asked for.
                Poll::Ready(PullEvent::Ended) => {}
                Poll::Ready(PullEvent::Closed) | Poll::Pending => return,
            }
        }
    }
}

/// What JetStream says of a message in the subject on which it is acknowledged.
#[derive(Debug, PartialEq)]
struct JetStreamMeta {
    delivered: u32,
    sequence: u64,
    stored_at: Timestamp,
}

/// Reads `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<sequence>.<consumer
/// sequence>.<nanoseconds>.<pending>`, with more tokens behind it from later servers (ADR-15).
///
/// The client library parses it too, but only for a message that has a JetStream context, and each context starts a
/// task.
fn parse_ack_subject(reply: &str) -> Option<JetStreamMeta> {
    const SHORT: usize = 7;
    let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let rest = if tokens.len() > SHORT { tokens.get(2..)? } else { &tokens[..] };
    let [_stream, _consumer, delivered, sequence, _consumer_sequence, stored_at, _pending, ..] = rest else {
        return None;
    };
    Some(JetStreamMeta {
        delivered: delivered.parse().ok()?,
        sequence: sequence.parse().ok()?,
        stored_at: Timestamp::from_nanosecond(stored_at.parse().ok()?).ok()?,
    })
}

/// The beginning of a header's value. It ends at a character.
fn bounded(value: &str) -> &str {
    &value[..value.floor_char_boundary(MAX_HEADER_BYTES)]
}

async fn send_ack(client: &Client, reply: Subject, kind: AckKind) {
    if let Err(error) = client.publish(reply, kind.into()).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "acknowledgement not sent");
    }
}

#[cfg(test)]
mod servers {
    use chasqui_testing::servers::Nats;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_request_is_reported_at_once() {
        let nats = Nats::start().await;
        let client = nats.client().await;
        let stream = jetstream::stream::Config { name: "S".into(), subjects: vec!["s".into()], ..Default::default() };
        let stream = jetstream::new(client.clone()).create_stream(stream).await.unwrap();
        let config = jetstream::consumer::pull::Config { durable_name: Some("c".into()), ..Default::default() };
        stream.create_consumer(config).await.unwrap();
        let mut puller = Puller::open(&client, "S", "c").await.unwrap();
        // As short as the heartbeats allow.
        puller.expires = 2 * HEARTBEAT;
        let began = Instant::now();
        puller.request_more(10).await;
        let event = tokio::time::timeout(SILENCE, std::future::poll_fn(|cx| puller.poll_next(cx))).await.unwrap();
        assert!(matches!(event, PullEvent::Ended), "{event:?}");
        assert!(began.elapsed() >= puller.expires);

        client.publish("s", "later".into()).await.unwrap();
        puller.request_more(10).await;
        let event = tokio::time::timeout(HEARTBEAT, std::future::poll_fn(|cx| puller.poll_next(cx))).await.unwrap();
        assert!(matches!(event, PullEvent::Message(_)), "{event:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_subject_is_parsed_in_both_forms() {
        let expected =
            Some(JetStreamMeta { delivered: 2, sequence: 41, stored_at: Timestamp::from_second(7).unwrap() });
        assert_eq!(parse_ack_subject("$JS.ACK.STAGE_SEND_BULK.bulk-email.2.41.9.7000000000.3"), expected);
        assert_eq!(parse_ack_subject("$JS.ACK._.ACCOUNT.STAGE_SEND_BULK.bulk-email.2.41.9.7000000000.3"), expected);
        assert_eq!(
            parse_ack_subject("$JS.ACK.hub.ACCOUNT.STAGE_SEND_BULK.bulk-email.2.41.9.7000000000.3.token"),
            expected
        );
        for wrong in ["_INBOX.x", "$JS.ACK.a.b.c", "$JS.ACK.s.c.x.41.9.7.3", ""] {
            assert_eq!(parse_ack_subject(wrong), None, "{wrong}");
        }
    }
}
