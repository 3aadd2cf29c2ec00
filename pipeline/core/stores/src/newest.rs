//! The newest of the notifications that replace one another: the stream `NEWEST`, a subject for each key, of which the server
//! keeps the last message.
//!
//! Guarantee: a version is written only over an older one that its writer has read (compare and set), so the newest stays,
//! whoever writes at the same time. Reads ask the stream's leader, because a replica may lag behind. What is
//! forgotten, by age or because there are very many keys, lets an older one pass.
//!
//! After a crash the call is repeated, and finds its version there.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    stream::{LastRawMessageErrorKind, Stream},
};
use async_trait::async_trait;
use chasqui_contract::{Newest, StoreError};
use chasqui_nats::{Outgoing, Publisher, unavailable};
use chasqui_schemas::{collapse::Version, header, stream, subject};

/// Maximum times that a version is read while others write newer and newer ones; an error then, and the caller repeats.
const TRIES: u32 = 10;
/// Pause before the second try; each later one is longer by as much.
const PAUSE: Duration = Duration::from_millis(5);

/// The newest versions on JetStream.
#[derive(Debug, Clone)]
pub struct NatsNewest {
    stream: Stream,
    publisher: Publisher,
}

impl NatsNewest {
    /// Opens the stream.
    ///
    /// # Errors
    /// `Unavailable` where it is missing or does not answer.
    pub async fn open(context: &jetstream::Context, publisher: &Publisher) -> Result<Self, StoreError> {
        let stream = context.get_stream(stream::NEWEST).await.map_err(|error| unavailable(stream::NEWEST, error))?;
        Ok(NatsNewest { stream, publisher: publisher.apart() })
    }

    /// The newest version of a subject, and the message that holds it; zero where there is none.
    async fn last(&self, subject: &str) -> Result<(Option<Version>, u64), StoreError> {
        match self.stream.get_last_raw_message_by_subject(subject).await {
            // What is no version was written by another program: it is written over.
            Ok(message) => {
                let version = std::str::from_utf8(&message.payload).ok().and_then(|text| text.parse().ok());
                Ok((version, message.sequence))
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok((None, 0)),
            Err(error) => Err(unavailable(stream::NEWEST, error)),
        }
    }
}

#[async_trait]
impl Newest for NatsNewest {
    async fn raise(&self, key: &str, version: Version) -> Result<Version, StoreError> {
        let subject = subject::newest(key);
        for tried in 0..TRIES {
            tokio::time::sleep(PAUSE * tried).await;
            let (newest, sequence) = self.last(&subject).await?;
            if let Some(newest) = newest.filter(|newest| *newest >= version) {
                return Ok(newest);
            }
            let raised = Outgoing {
                subject: subject.clone(),
                message_id: None,
                headers: vec![
                    (header::EXPECTED_LAST, sequence.to_string()),
                    (header::EXPECTED_LAST_OF, subject.clone()),
                ],
                payload: version.to_string().into(),
            };
            match self.publisher.publish(&[raised]).await {
                Ok(_) => return Ok(version),
                Err(error) if error.is_stale() => {}
                Err(error) => return Err(error.of_store(stream::NEWEST)),
            }
        }
        Err(unavailable(stream::NEWEST, "others raise the same key again and again"))
    }

    async fn newest(&self, key: &str) -> Result<Option<Version>, StoreError> {
        Ok(self.last(&subject::newest(key)).await?.0)
    }
}
