//! Reads a durable consumer: extends deadlines, acknowledges, stores dead letters.
//!
//! Guarantee: a message is acknowledged only by [`ack_all`] or after [`store_dead_letters`] has stored it as a dead
//! letter. After a crash what was not acknowledged comes again.

use std::time::Duration;

use async_nats::jetstream::{
    self, AckKind, Context,
    consumer::{PullConsumer, pull},
    message::Acker,
};
use chasqui_schemas::{Reason, header};
use futures::{StreamExt, stream::ReadyChunks};
use tokio::{
    task::JoinSet,
    time::{Instant, interval_at, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Letter, Letters, Outgoing, Pauses, dead_letter, find_consumer, keep_releasing, raw_headers, unreadable_headers,
};

/// Maximum messages that the client reads ahead, and maximum bytes of them.
const READ_AHEAD_MESSAGES: usize = 500;
const READ_AHEAD_BYTES: usize = 8 * 1024 * 1024;
/// How often the server says that it still knows our request; after two of these without a word the client repeats it.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The stream or its consumer is not there, or JetStream cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot read consumer `{consumer}` of stream `{stream}`: `chasqui migrate` creates it")]
pub struct ReadError {
    /// The stream.
    pub stream: &'static str,
    /// The consumer.
    pub consumer: &'static str,
    /// What the client said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A durable pull consumer.
pub struct StreamReader {
    context: Context,
    stream: &'static str,
    name: &'static str,
    /// When the stream was created, in Unix nanoseconds: differs from that of an earlier stream of the same name.
    pub incarnation: i128,
    /// How often the deadlines of held messages must be extended: a third of the consumer's deadline.
    pub extend_every: Duration,
    /// The task that removes what is acknowledged from the stream; it ends with this reader.
    releasing: JoinSet<()>,
}

impl StreamReader {
    /// Finds the consumer `name` of `stream`.
    pub async fn open(context: Context, stream: &'static str, name: &'static str) -> Result<Self, ReadError> {
        let found = async {
            let consumer = find_consumer(&context, stream, name).await?;
            let info = context.get_stream(stream).await?;
            Ok((info.cached_info().created.unix_timestamp_nanos(), consumer.cached_info().config.ack_wait))
        };
        let (incarnation, ack_wait) =
            found.await.map_err(|source: async_nats::Error| ReadError { stream, consumer: name, source })?;
        let extend_every = (ack_wait / 3).max(Duration::from_millis(10));
        Ok(StreamReader { context, stream, name, incarnation, extend_every, releasing: JoinSet::new() })
    }

    /// Removes from the stream, from now on, what this consumer has acknowledged and, if it exists, `follower` too
    /// ([`keep_releasing`]).
    pub fn releasing(mut self, follower: Option<&'static str>) -> Self {
        self.releasing.spawn(keep_releasing(self.context.clone(), self.stream, self.name.to_owned(), follower));
        self
    }

    /// Starts to read, and tries again while the broker is away; `None` once `stop` is cancelled.
    pub async fn messages(&self, stop: &CancellationToken) -> Option<pull::Stream> {
        let mut pauses = Pauses::default();
        loop {
            let started = tokio::select! {
                () = stop.cancelled() => return None,
                started = self.try_messages() => started,
            };
            match started {
                Ok(messages) => return Some(messages),
                Err(error) => {
                    tracing::warn!(
                        error = &*error,
                        stream = self.stream,
                        consumer = self.name,
                        "cannot read the stream: trying again"
                    );
                    tokio::select! {
                        () = stop.cancelled() => return None,
                        () = sleep(pauses.pause()) => {}
                    }
                }
            }
        }
    }

    /// Starts to read chunk by chunk: what is there, at most `most` messages at a time.
    pub fn chunks<'a>(&'a self, most: usize, stop: &'a CancellationToken) -> Chunks<'a> {
        Chunks { reader: self, most, stop, messages: None }
    }

    async fn try_messages(&self) -> Result<pull::Stream, async_nats::Error> {
        let consumer: PullConsumer = self.context.get_consumer_from_stream(self.name, self.stream).await?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(READ_AHEAD_MESSAGES)
            .max_bytes_per_batch(READ_AHEAD_BYTES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await?;
        Ok(messages)
    }
}

/// See [`StreamReader::chunks`].
pub struct Chunks<'a> {
    reader: &'a StreamReader,
    most: usize,
    stop: &'a CancellationToken,
    messages: Option<ReadyChunks<pull::Stream>>,
}

impl Chunks<'_> {
    /// Waits for the next chunk, and reads anew where reading has ended; `None` once `stop` is cancelled.
    pub async fn next(&mut self) -> Option<Vec<jetstream::Message>> {
        loop {
            let messages = match &mut self.messages {
                Some(messages) => messages,
                none => none.insert(self.reader.messages(self.stop).await?.ready_chunks(self.most)),
            };
            let chunk = tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                chunk = messages.next() => chunk.unwrap_or_default(),
            };
            let mut ended = chunk.is_empty();
            let mut read = Vec::with_capacity(chunk.len());
            for message in chunk {
                match message {
                    Ok(message) => read.push(message),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, stream = self.reader.stream, "reading the stream ended");
                        ended = true;
                    }
                }
            }
            if ended {
                self.messages = None;
            }
            if !read.is_empty() {
                return Some(read);
            }
        }
    }
}

/// The number of messages that the consumer has not acknowledged, including those that were handed out.
pub async fn backlog(context: &Context, stream: &'static str, name: &'static str) -> Result<u64, ReadError> {
    let info = async {
        let mut consumer: PullConsumer = context.get_consumer_from_stream(name, stream).await?;
        Ok(consumer.info().await.map(|info| info.num_pending + info.num_ack_pending as u64)?)
    };
    info.await.map_err(|source: async_nats::Error| ReadError { stream, consumer: name, source })
}

/// Does `work` and meanwhile extends the deadlines of `held`, so that these messages are not handed out to another
/// process.
pub async fn extend_while<T>(held: &[Acker], every: Duration, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = interval_at(Instant::now() + every, every);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => {
                // Without a connection this would wait, and hold up `work`. A deadline that passes because of that, or
                // because an extension failed, costs a redelivery and nothing else: hence the two ignored results.
                let extend = async {
                    for acker in held {
                        acker.ack_with(AckKind::Progress).await.ok();
                    }
                };
                timeout(every / 2, extend).await.ok();
            }
        }
    }
}

/// Acknowledges messages whose effect is stored. Where an acknowledgement is lost the message comes again, which is
/// harmless.
pub async fn ack_all(held: &[Acker]) {
    for acker in held {
        if let Err(error) = acker.ack().await {
            tracing::debug!(error = &*error, "acknowledgement not sent");
        }
    }
}

/// Puts messages back, to be handed out again at once. Where that is lost they come again after their deadlines.
pub async fn put_back_all(held: &[Acker]) {
    for acker in held {
        acker.ack_with(AckKind::Nak(None)).await.ok();
    }
}

/// A message that cannot be used. It becomes a dead letter, so that the messages behind it do not wait.
pub struct Broken {
    pub message: jetstream::Message,
    pub reason: Reason,
    pub why: String,
    /// Where the dead letter can be replayed to; empty where nowhere.
    pub replay_to: String,
}

impl Broken {
    /// A message that cannot be decoded. `dead replay` publishes it where it came from.
    pub fn undecodable(message: jetstream::Message, why: String) -> Self {
        let replay_to = message.subject.to_string();
        Broken { message, reason: Reason::Undecodable, why, replay_to }
    }

    /// The message, where its headers can be read.
    ///
    /// # Errors
    /// Otherwise it cannot be used.
    pub fn unless_readable(message: jetstream::Message) -> Result<jetstream::Message, Box<Broken>> {
        if unreadable_headers(message.headers.as_ref()).is_none() {
            return Ok(message);
        }
        let why = "its headers break the protocol".to_owned();
        Err(Box::new(Broken { reason: Reason::UnreadableHeaders, ..Broken::undecodable(message, why) }))
    }
}

/// Stores what cannot be used as dead letters on `subject`, then acknowledges it. While the broker is away it waits, until
/// `stop` is cancelled; what is left then is put back.
pub async fn store_dead_letters(
    letters: &Letters,
    subject: &'static str,
    broken: Vec<Broken>,
    stop: &CancellationToken,
) {
    for broken in broken {
        let letter = letter(subject, &broken);
        let Broken { message, why, .. } = broken;
        tracing::error!(subject = %message.subject, why, dead_letter = subject, "a message cannot be used");
        let kind = tokio::select! {
            () = letters.store(vec![letter]) => AckKind::Ack,
            () = stop.cancelled() => AckKind::Nak(None),
        };
        // Where this is lost the message comes again, and its dead letter has the same id.
        message.ack_with(kind).await.ok();
    }
}

fn letter(subject: &'static str, Broken { message, reason, why, replay_to }: &Broken) -> Letter {
    let (sequence, delivered, stored) = message
        .info()
        .map_or((0, 0, 0), |info| (info.stream_sequence, info.delivered, info.published.unix_timestamp_nanos()));
    // What a service writes, such as `notify.dead.trace`, is of no stage; the last token says what could not be read.
    let stage = subject.rsplit('.').next().unwrap_or_default();
    let mut headers = dead_letter(*reason, why, stage, replay_to);
    headers.push((header::DELIVERED, delivered.to_string()));
    headers.extend(unreadable_headers(message.headers.as_ref()).map(|block| raw_headers(block)));
    let message = Outgoing {
        subject: subject.to_owned(),
        message_id: Some(format!("{subject}.{stored}.{sequence}")),
        headers,
        payload: message.payload.clone(),
    };
    // Nobody can say whose it was.
    Letter { app: String::new(), stage, message }
}
