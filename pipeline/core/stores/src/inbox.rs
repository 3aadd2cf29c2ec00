//! In-app inboxes: the stream `INBOX`, a subject per app and user.
//!
//! Guarantee: `Ok` means stored. The message id is the delivery's id, so a repeat within the stream's duplicate window
//! has no effect; that window must be longer than a redelivery can take.
//!
//! After a crash the stage appends again, with the same id.

use async_trait::async_trait;
use bytes::Bytes;
use chasqui_contract::{Inbox, StoreError};
use chasqui_nats::{Outgoing, Publisher};
use chasqui_schemas::{stream, subject};
use uuid::Uuid;

/// The inboxes on JetStream.
#[derive(Debug, Clone)]
pub struct NatsInbox {
    publisher: Publisher,
}

impl NatsInbox {
    /// Appends through the connection of `publisher`, with its own limit of messages in flight.
    pub fn new(publisher: Publisher) -> Self {
        NatsInbox { publisher: publisher.apart() }
    }
}

#[async_trait]
impl Inbox for NatsInbox {
    async fn append(&self, app: &str, user: &str, delivery_id: Uuid, message: Bytes) -> Result<(), StoreError> {
        let message = Outgoing {
            subject: subject::inbox(app, user),
            message_id: Some(delivery_id.simple().to_string()),
            headers: Vec::new(),
            payload: message,
        };
        self.publisher.publish(&[message]).await.map_err(|error| error.of_store(stream::INBOX))?;
        Ok(())
    }
}
