//! Dedupe: of all notifications of one app to one recipient with the same idempotency key, the first goes on.
//!
//! Guarantee: within the ledger's window exactly one of them goes on. Every other is suppressed, and its trace names the
//! one that went on.
//!
//! After a crash the message comes again, finds the key claimed by itself, and goes on as it did before. Both decisions
//! are the same, so the second trace event replaces the first.

use std::sync::Arc;

use bytes::Bytes;
use chasqui_contract::{Book, Claim, Decide, Decision, Ledger, StoreError};
use chasqui_schemas::{Notification, Reason, id, stream};
use uuid::Uuid;

#[cfg(test)]
mod tests;

/// The dedupe stage.
pub struct Dedupe {
    /// Where it claims idempotency keys.
    pub ledger: Arc<dyn Ledger>,
}

impl Decide for Dedupe {
    const STAGE: chasqui_schemas::Stage = chasqui_schemas::Stage::Dedupe;
    type Input = Notification;

    async fn decide(&self, notification: Notification) -> Result<Decision, StoreError> {
        // A test takes no key away from what is meant.
        let kind = if notification.request.test { "dedupe.test" } else { "dedupe" };
        let claim =
            id::claim(&[kind, &notification.app, &notification.recipient.key(), &notification.request.idempotency_key]);
        let own = Bytes::from(notification.id.to_string());
        let original = match self.ledger.claim(Book::Dedupe, &claim, own).await? {
            Claim::First => return Ok(Decision::forward(notification)),
            Claim::Taken { value, .. } => Uuid::try_parse_ascii(&value).map_err(|source| StoreError::BadRecord {
                store: stream::LEDGER,
                // The key of this error is traced, and the claim is derived from the recipient: name the notification.
                key: notification.id.to_string(),
                source: source.into(),
            })?,
        };
        if original == notification.id {
            return Ok(Decision::forward(notification));
        }
        Ok(Decision::suppress(Reason::Duplicate).with("original", original.to_string()))
    }
}
