//! Returns deferred messages to their queues when their time has come.
//!
//! JetStream publishes a scheduled message only within the schedule's own stream, and strips its message id. So due
//! messages are read from there, by one consumer per lane, and published to their queue: as bundles, under ids made of
//! those that they were deferred with. Most are bundles already, of what was deferred together.
//!
//! Guarantee: a due message is acknowledged only when it is stored in its queue. A message whose queue is full is put
//! back for a second, so that it does not hold up those of other queues. A message that names no queue, or that no queue
//! will ever take, becomes a dead letter with its bytes.
//!
//! After a crash due messages come again. Bundled as before, they have the same ids, which the queues take for repeats;
//! bundled differently, they are stored twice, and the ledger lets each notification, and each attempt, through once.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{
    Client,
    jetstream::{self, AckKind},
};
use bytes::Bytes;
use chasqui_contract::{Class, with_sources};
use chasqui_nats::{
    Letters, Outgoing, PublishError, Publisher, find_consumer,
    reader::{Broken, store_dead_letters},
};
use chasqui_schemas::{Lane, consumer, envelope, header, stream, subject};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::{bundle::Bundle, runner::RunError};

/// Maximum messages returned at once. Bundles among them may have 384 KiB each, in each of the lanes.
const BATCH: usize = 100;
/// How long a due message waits when its queue is full: about as long as the queue needs to free some space.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// How often the server confirms that it knows our request. Two missing confirmations mean that it does not.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Returns due messages of all lanes until `stop`.
///
/// # Errors
/// See [`RunError`].
pub async fn run_deferred(
    client: Client,
    publisher: Publisher,
    letters: Letters,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let lanes = Lane::ALL.map(|lane| run_lane(client.clone(), &publisher, &letters, lane, stop.clone()));
    futures::future::try_join_all(lanes).await?;
    Ok(())
}

async fn run_lane(
    client: Client,
    publisher: &Publisher,
    letters: &Letters,
    lane: Lane,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let name = consumer::of_queue(lane, None);
    let open = async {
        let context = jetstream::new(client);
        let consumer = find_consumer(&context, stream::DEFERRED, &name).await?;
        let messages = consumer.stream().max_messages_per_batch(BATCH).heartbeat(HEARTBEAT).messages().await?;
        Ok(messages)
    };
    let opened: Result<_, async_nats::Error> = open.await;
    let messages = opened.map_err(|source| RunError::Open { stream: stream::DEFERRED, consumer: name, source })?;
    let mut batches = messages.ready_chunks(BATCH);
    loop {
        let batch = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            batch = batches.next() => batch.ok_or(RunError::Closed)?,
        };
        let mut broken = Vec::new();
        let mut by_queue: BTreeMap<String, Vec<(Outgoing, jetstream::Message)>> = BTreeMap::new();
        for message in batch {
            match message {
                Ok(message) => match returned(message) {
                    Ok((returned, message)) => {
                        by_queue.entry(returned.subject.clone()).or_default().push((returned, message));
                    }
                    Err(unusable) => broken.push(*unusable),
                },
                Err(error) => tracing::debug!(%lane, error = &error as &dyn std::error::Error, "pulling due messages"),
            }
        }
        for (queue, messages) in by_queue {
            let (outgoing, messages): (Vec<_>, Vec<_>) = messages.into_iter().unzip();
            let published = match bundled(&queue, &outgoing) {
                Ok(bundles) => publisher.publish(&bundles).await,
                Err(error) => Err(error),
            };
            let kind = match published {
                Ok(_) => AckKind::Ack,
                Err(error) if error.class() == Class::Permanent => {
                    // Which of them it is, the queue's answer to each one says.
                    let refused = publisher.offer(&outgoing).await;
                    let mut refused: BTreeMap<_, _> = refused.into_iter().collect();
                    for (index, message) in messages.into_iter().enumerate() {
                        match refused.remove(&index) {
                            None => send_ack(&message, AckKind::Ack).await,
                            Some(error) if error.class() == Class::Permanent => {
                                let (replay_to, why) = (queue.clone(), with_sources(&error));
                                broken.push(Broken { replay_to, ..Broken::undecodable(message, why) });
                            }
                            Some(_) => send_ack(&message, AckKind::Nak(Some(FULL_PAUSE))).await,
                        }
                    }
                    continue;
                }
                Err(error) => {
                    tracing::warn!(
                        queue,
                        error = &error as &dyn std::error::Error,
                        "due messages could not be returned to their queue: trying again in a second"
                    );
                    AckKind::Nak(Some(FULL_PAUSE))
                }
            };
            for message in &messages {
                send_ack(message, kind).await;
            }
        }
        store_dead_letters(letters, subject::DEAD_DEFERRED, broken, &stop).await;
    }
}

/// The same messages, all to `queue`, as few as a bundle's bounds allow.
fn bundled(queue: &str, messages: &[Outgoing]) -> Result<Vec<Outgoing>, PublishError> {
    let parts: Vec<Vec<Bytes>> = messages.iter().map(|message| envelope::unbundle(&message.payload)).collect();
    let (mut bundles, mut bundle) = (Vec::new(), Bundle::default());
    for (message, envelopes) in messages.iter().zip(&parts) {
        bundles.extend(bundle.add_all(message.message_id.as_deref().unwrap_or_default(), envelopes));
    }
    bundles.push(bundle);
    let outgoing = bundles.into_iter().map(|bundle| {
        let (message_id, payload) = bundle.encode()?;
        Ok(Outgoing { subject: queue.to_owned(), message_id: Some(message_id), headers: vec![], payload })
    });
    outgoing.collect()
}

/// The message as it goes to its queue, and as it came.
///
/// # Errors
/// The message, where a header is missing that only we set, or cannot be trusted: it can never be returned.
fn returned(message: jetstream::Message) -> Result<(Outgoing, jetstream::Message), Box<Broken>> {
    let headers = message.headers.as_ref();
    let text = |name: &str| headers.and_then(|headers| headers.get(name)).map(ToString::to_string);
    // Nothing but a queue between stages: these are our rights, and the header may be somebody else's.
    let queue = text(header::SUBJECT).filter(|queue| subject::is_queue(queue));
    let due_id = text(header::DUE_ID);
    let message = Broken::unless_readable(message)
        .map_err(|broken| Box::new(Broken { replay_to: queue.clone().unwrap_or_default(), ..*broken }))?;
    let (Some(subject), Some(due_id)) = (queue, due_id) else {
        let why = format!("its headers `{}` and `{}` do not say what to return where", header::SUBJECT, header::DUE_ID);
        return Err(Box::new(Broken { replay_to: String::new(), ..Broken::undecodable(message, why) }));
    };
    let outgoing = Outgoing { subject, message_id: Some(due_id), headers: vec![], payload: message.payload.clone() };
    Ok((outgoing, message))
}

async fn send_ack(message: &jetstream::Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!(error = &*error, "acknowledgement not sent");
    }
}
