//! Finds and deletes the user's messages in the streams.
//!
//! Guarantee: it reads by direct access, so it neither disturbs the consumers nor waits for them. A deleted message is
//! overwritten by nats-server. After a crash, run it again: deleted messages are not found.

use std::time::Duration;

use anyhow::{Context, anyhow};
use async_nats::jetstream::{
    self, ErrorCode,
    message::StreamMessage,
    stream::{DeleteMessageErrorKind, DirectGetErrorKind, Stream},
};
use chasqui_schemas::{envelope, header, stream, subject};
use futures::TryStreamExt;
use jiff::Timestamp;

use super::who::Who;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Sequences in the stream of dead letters, and in that of rejected submissions.
    pub(super) dead: Vec<u64>,
    pub(super) rejected: Vec<u64>,
    /// How many dead letters cannot be read, and when the last of them was stored.
    pub(super) unreadable: u64,
    pub(super) last_unreadable: Option<Timestamp>,
    /// Sequences in the stream of inboxes.
    pub(super) inbox: Vec<u64>,
    /// How many messages wait for a time, and the latest of these times.
    pub(super) deferred: u64,
    pub(super) last_due: Option<Timestamp>,
}

/// Searches dead letters, inboxes and messages that wait for a time.
pub(super) async fn find(context: &jetstream::Context, user: &str, who: &Who) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let is_theirs = |message: &StreamMessage| {
        who.is_in(&message.payload, message.headers.get(header::OPT_OUT).map(|wish| wish.as_str()))
    };
    for name in [stream::DEAD, stream::REJECTED] {
        each(&open(context, name).await?, subject::ALL, |message| match is_theirs(&message) {
            Some(true) if name == stream::DEAD => found.dead.push(message.sequence),
            Some(true) => found.rejected.push(message.sequence),
            // Of a letter without its payload nothing is left that could be the user's.
            Some(false) => {}
            None if message.payload.is_empty() => {}
            None => {
                found.unreadable += 1;
                let stored_at = Timestamp::from_nanosecond(message.time.unix_timestamp_nanos()).ok();
                found.last_unreadable = found.last_unreadable.max(stored_at);
            }
        })
        .await?;
    }
    each(&open(context, stream::INBOX).await?, &subject::inboxes(user), |message| found.inbox.push(message.sequence))
        .await?;
    each(&open(context, stream::DEFERRED).await?, subject::DEFERRED, |message| {
        // Those that wait for one moment wait together.
        let theirs =
            envelope::unbundle(&message.payload).iter().filter(|each| who.is_in(each, None) == Some(true)).count();
        if theirs > 0 {
            found.deferred += theirs as u64;
            let due =
                message.headers.get(header::SCHEDULE).and_then(|at| at.as_str().strip_prefix("@at ")?.parse().ok());
            found.last_due = found.last_due.max(due);
        }
    })
    .await?;
    Ok(found)
}

/// How many messages, batches of trace events and receipts of all users are in the queues.
pub(super) async fn on_their_way(context: &jetstream::Context) -> anyhow::Result<u64> {
    let mut waiting = 0;
    for name in stream::of_stages().chain([stream::TRACES, stream::RECEIPTS]) {
        let mut consumers = open(context, name).await?.consumers();
        while let Some(consumer) = consumers.try_next().await.with_context(|| format!("{name} cannot be read"))? {
            waiting += consumer.num_pending + consumer.num_ack_pending as u64;
        }
    }
    Ok(waiting)
}

/// Deletes messages; those that are gone already are no error.
pub(super) async fn delete(context: &jetstream::Context, name: &str, sequences: &[u64]) -> anyhow::Result<()> {
    let stream = open(context, name).await?;
    for &sequence in sequences {
        match stream.delete_message(sequence).await {
            Ok(_) => {}
            Err(error) if is_gone(error.kind()) => {}
            Err(error) => return Err(error).with_context(|| format!("message {sequence} of {name} stays")),
        }
    }
    Ok(())
}

fn is_gone(kind: DeleteMessageErrorKind) -> bool {
    matches!(kind, DeleteMessageErrorKind::JetStream(error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND)
}

async fn open(context: &jetstream::Context, name: &str) -> anyhow::Result<Stream> {
    let opened = context.get_stream(name).await;
    opened.with_context(|| format!("the stream {name} cannot be read: if it does not exist, run `chasqui migrate`"))
}

/// Hands every message under a subject to `each`, oldest first, up to the last one at the beginning.
async fn each(stream: &Stream, subject: &str, mut each: impl FnMut(StreamMessage)) -> anyhow::Result<()> {
    /// Maximum wait for one message; a server that takes longer has stopped answering.
    const PATIENCE: Duration = Duration::from_secs(10);
    let info = stream.cached_info();
    let mut next = info.state.first_sequence.max(1);
    while next <= info.state.last_sequence {
        let asked = stream.direct_get_next_for_subject(subject, Some(next));
        match tokio::time::timeout(PATIENCE, asked).await.map_err(|_| anyhow!("NATS stopped answering: try again"))? {
            Ok(message) => {
                next = message.sequence + 1;
                each(message);
            }
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => break,
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", info.config.name)),
        }
    }
    Ok(())
}
