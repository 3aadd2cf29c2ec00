//! Who has claimed an idempotency key. A claim that was given back counts no more: the next one to ask gets the next
//! *generation* of it ([`chasqui_schemas::key_claim`]).
//!
//! Guarantee: each generation has one holder, and none has two at a time: the next one can be claimed only after it is on
//! record that the one before ended without a call of a provider. Whoever asks again gets the same answer, unless it has
//! given its claim back meanwhile; then it counts like any other.
//!
//! The window of a key begins with the first generation.

use bytes::Bytes;
use chasqui_contract::{Book, Claim, Ledger, StoreError};
use chasqui_schemas::{
    key_claim::{Holder, is_given_back, next},
    stream,
};
use uuid::Uuid;

/// Maximum generations of a claim: each one costs two questions. Who has failed so often may use another key.
const MAX_GENERATIONS: usize = 100;

/// Who has the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The one who asks.
    Ours {
        /// The generation of the claim that it holds.
        claim: String,
        /// Who had the key before, and gave it back.
        after: Option<Uuid>,
    },
    /// Another one.
    Theirs(Holder),
}

/// Claims `claim`, or the first generation after it that is not given back, for `own`.
///
/// # Errors
/// The ledger's. A claim that names no notification is a `BadRecord`.
pub async fn claim(ledger: &dyn Ledger, claim: String, own: &Holder) -> Result<Claimed, StoreError> {
    let (mut claim, mut after) = (claim, None);
    let mut value = Bytes::from(own.to_string());
    for generation in 1.. {
        let taken = match ledger.claim(Book::Dedupe, &claim, value.clone()).await? {
            Claim::First => break,
            Claim::Taken { value, .. } => value,
        };
        let text = std::str::from_utf8(&taken).unwrap_or_default();
        let holder: Holder = text.parse().map_err(|source| StoreError::BadRecord {
            store: stream::LEDGER,
            // The key of this error is traced, and the claim is derived from the recipient: name the notification.
            key: own.notification.to_string(),
            source: Box::new(source),
        })?;
        if !is_given_back(holder.notification, &ledger.given_back(&claim).await?) {
            if holder.notification == own.notification {
                break;
            }
            return Ok(Claimed::Theirs(holder));
        }
        if generation == MAX_GENERATIONS {
            return Ok(Claimed::Theirs(holder));
        }
        if holder.notification == own.notification {
            value = taken;
        }
        (claim, after) = (next(&claim), Some(holder.notification));
    }
    Ok(Claimed::Ours { claim, after })
}
