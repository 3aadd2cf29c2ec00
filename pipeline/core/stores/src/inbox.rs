//! In-app inboxes: the stream `INBOX`, a subject per app and user.
//!
//! Guarantee: `Ok` means stored, and an inbox holds a delivery once, however long after the first append it is given again:
//! another attempt may come hours later, a replay days later, and what a cut-off process had sent arrives when it pleases.
//! So every append looks first whether the inbox holds the delivery, and asks the server to store it only if nothing was
//! appended since the look. The stream's duplicate window, which forgets after minutes, is not relied on.
//!
//! A look is one small request where nobody has written to the inbox since the submission. Otherwise what came since is
//! read, at most a whole inbox (`streams.inbox_messages`).
//!
//! After a crash the stage appends again, with the same id.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use async_nats::{
    StatusCode,
    jetstream::{Context, message::StreamMessage},
};
use async_trait::async_trait;
use bytes::Bytes;
use chasqui_contract::{Inbox, StoreError};
use chasqui_nats::{Outgoing, Publisher, unavailable};
use chasqui_schemas::{header, stream, subject};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::Mutex;
use uuid::Uuid;

/// Maximum appends at once. Those to one inbox go one after the other, or each would make the others look again.
const AT_ONCE: usize = 256;
/// Maximum tries of an append while other processes append to the same inbox.
const TRIES: usize = 16;
/// Maximum difference between the clocks of two servers: the leaders of two streams say when something was stored.
const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Where the server is asked for a message.
const GET: &str = "$JS.API.DIRECT.GET.INBOX";

/// The inboxes on JetStream.
#[derive(Debug)]
pub struct NatsInbox {
    context: Context,
    publisher: Publisher,
    /// Whose turn it is, for the inboxes whose hash is the place.
    turns: Box<[Mutex<()>; AT_ONCE]>,
}

/// A request for the next message of a subject, from a time or a sequence on.
#[derive(Serialize)]
struct Next<'a> {
    next_by_subj: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

impl NatsInbox {
    /// Appends through the connection of `publisher`, with its own limit of messages in flight; `context` is for looks.
    pub fn new(context: Context, publisher: &Publisher) -> Self {
        let turns = Box::new(std::array::from_fn(|_| Mutex::default()));
        NatsInbox { context, publisher: publisher.apart_for(AT_ONCE), turns }
    }

    /// Asks for one message.
    async fn get(&self, subject: String, request: Bytes) -> Result<Option<StreamMessage>, StoreError> {
        let answer = self.context.client().request(subject, request).await;
        let answer = answer.map_err(|error| unavailable(stream::INBOX, error))?;
        match answer.status {
            None => Ok(Some(StreamMessage::try_from(answer).map_err(|error| unavailable(stream::INBOX, error))?)),
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => Err(unavailable(stream::INBOX, format!("the server answers {status}"))),
        }
    }

    /// Whether the message `id` is among those that `subject` got from `since` to the sequence `last`.
    async fn holds(&self, subject: &str, id: &str, since: Timestamp, last: u64) -> Result<bool, StoreError> {
        let mut next = Next { next_by_subj: subject, start_time: Some(since), seq: None };
        loop {
            let request = serde_json::to_vec(&next).map_err(|error| unavailable(stream::INBOX, error))?;
            let Some(message) = self.get(GET.to_owned(), request.into()).await? else {
                // The last message was there a moment ago: it has just been deleted, or a replica lags behind.
                return Err(unavailable(stream::INBOX, "an inbox changes while it is read"));
            };
            if message.headers.get(header::MSG_ID).is_some_and(|found| found.as_str() == id) {
                return Ok(true);
            }
            if message.sequence >= last {
                return Ok(false);
            }
            next = Next { start_time: None, seq: Some(message.sequence + 1), ..next };
        }
    }
}

#[async_trait]
impl Inbox for NatsInbox {
    async fn append(
        &self,
        app: &str,
        user: &str,
        delivery_id: Uuid,
        since: Timestamp,
        message: Bytes,
    ) -> Result<(), StoreError> {
        let subject = subject::inbox(app, user);
        let id = delivery_id.simple().to_string();
        let since = since.checked_sub(CLOCK_SKEW).unwrap_or(Timestamp::MIN);
        let mut hasher = DefaultHasher::new();
        subject.hash(&mut hasher);
        let _turn = self.turns[(hasher.finish() % AT_ONCE as u64) as usize].lock().await;
        for _ in 0..TRIES {
            let last = self.get(format!("{GET}.{subject}"), Bytes::new()).await?;
            if let Some(last) = &last
                && last.time.unix_timestamp_nanos() >= since.as_nanosecond()
                && self.holds(&subject, &id, since, last.sequence).await?
            {
                return Ok(());
            }
            let outgoing = Outgoing {
                subject: subject.clone(),
                message_id: Some(id.clone()),
                headers: vec![(header::EXPECTED_LAST, last.map_or(0, |last| last.sequence).to_string())],
                payload: message.clone(),
            };
            match self.publisher.publish(&[outgoing]).await {
                // Somebody has appended since the look.
                Err(error) if error.is_stale() => {}
                answer => return answer.map(drop).map_err(|error| error.of_store(stream::INBOX)),
            }
        }
        Err(unavailable(stream::INBOX, "others append to this inbox all the time"))
    }
}
