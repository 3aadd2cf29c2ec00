//! Dedupe: of all notifications of one app to one recipient with the same idempotency key, the first goes on. Of those that
//! replace one another (`collapse_key`), none goes on after a newer one.
//!
//! Guarantee: within the ledger's window exactly one of them goes on, until it ends before a provider was called: then the
//! next one may ([`idempotency`]). Every other is suppressed, and its trace names the one that went on and
//! says whether that one says the same.
//!
//! After a crash the message comes again, finds the key claimed by itself, and goes on as it did before. Both decisions
//! are the same, so the second trace event replaces the first.

use std::sync::Arc;

use chasqui_contract::{Decide, Decision, Ledger, Newest, StoreError};
use chasqui_rules::idempotency::{self, Claimed};
use chasqui_schemas::{Notification, Reason, collapse::Passage, id, key_claim::Holder};

#[cfg(test)]
mod tests;

/// The dedupe stage.
pub struct Dedupe {
    /// Where it claims idempotency keys.
    pub ledger: Arc<dyn Ledger>,
    /// Where it says which notification is the newest of those that replace one another.
    pub newest: Arc<dyn Newest>,
}

impl Decide for Dedupe {
    const STAGE: chasqui_schemas::Stage = chasqui_schemas::Stage::Dedupe;
    type Input = Notification;

    async fn decide(&self, mut notification: Notification) -> Result<Decision, StoreError> {
        // A test takes no key away from what is meant.
        let kind = if notification.request.test { "dedupe.test" } else { "dedupe" };
        let claim =
            id::claim(&[kind, &notification.app, &notification.recipient.key(), &notification.request.idempotency_key]);
        let own = Holder { notification: notification.id, content: notification.request.fingerprint.clone() };
        let after = match idempotency::claim(&*self.ledger, claim, &own).await? {
            Claimed::Ours { claim, after } => {
                notification.claim = claim;
                after
            }
            Claimed::Theirs(original) => {
                let says_the_same = original.content == own.content;
                let reason = if says_the_same { Reason::Duplicate } else { Reason::DuplicateDiffers };
                return Ok(Decision::suppress(reason).with("original", original.notification.to_string()));
            }
        };
        // After the claim, so that a duplicate, which goes nowhere, stops nobody.
        if let Some(collapse) = notification.collapse(Passage::Passed) {
            let newest = self.newest.raise(&collapse.key, notification.version()).await?;
            if newest > notification.version() {
                return Ok(Decision::suppress(Reason::Superseded).with("newer", newest.notification.to_string()));
            }
        }
        let decision = Decision::forward(notification);
        // Its end is in the trace of that one.
        Ok(match after {
            Some(after) => decision.with("given_back_by", after.to_string()),
            None => decision,
        })
    }
}
