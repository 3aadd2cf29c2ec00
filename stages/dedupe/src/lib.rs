//! Dedupe: of all notifications with one idempotency key to one recipient of one app, the first goes on.
//!
//! Guarantee: within the ledger's window exactly one of them goes on; every other is suppressed and names it.
//!
//! After a crash the message comes again and finds the key claimed by itself, so it goes on as the first time.
//! Nothing in the decision tells the two apart: the trace event of the second replaces that of the first.

use std::sync::Arc;

use bytes::Bytes;
use chasqui_contract::{Book, Claim, Decide, Decision, Ledger, StoreError};
use chasqui_schemas::{Notification, Reason, id, stream};
use uuid::Uuid;

#[cfg(test)]
mod tests;

/// The dedupe stage.
pub struct Dedupe {
    /// Where idempotency keys are claimed.
    pub ledger: Arc<dyn Ledger>,
}

impl Decide for Dedupe {
    const STAGE: chasqui_schemas::Stage = chasqui_schemas::Stage::Dedupe;
    type Input = Notification;

    async fn decide(&self, notification: Notification) -> Result<Decision, StoreError> {
        let claim = id::claim(&[
            "dedupe",
            &notification.app,
            &notification.recipient.key(),
            &notification.request.idempotency_key,
        ]);
        let own = Bytes::from(notification.id.to_string());
        let original = match self.ledger.claim(Book::Dedupe, &claim, own).await? {
            Claim::First => return Ok(Decision::forward(notification)),
            Claim::Taken { value, .. } => Uuid::try_parse_ascii(&value).map_err(|source| StoreError::BadRecord {
                store: stream::LEDGER,
                // Not the claim: it is made of the recipient, and this is traced.
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
