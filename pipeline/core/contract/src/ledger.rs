//! The ledger: within a window, the first claim to an id holds and all later ones see it.
//!
//! Both promises "sent once" rest on one question: *am I the first to claim this?* The dedupe stage claims a
//! notification's idempotency key; the send stage claims that an attempt has begun. The end of an attempt is recorded
//! by the process that began it, or by one that found it begun and took it over: the first of the two records holds.

use async_trait::async_trait;
use bytes::Bytes;
use chasqui_schemas::key_claim::GivenBack;

use crate::StoreError;

/// A kind of claims; each book has a window of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Book {
    /// Idempotency keys. Its window is the promised one, 24 hours by default.
    Dedupe,
    /// Attempts. Its window is longer than any redelivery may take.
    Attempts,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It had not been claimed; the claim is ours, and durable.
    First,
    /// It was claimed before: by another process, or by ours before a crash.
    Taken {
        /// The value of that claim.
        value: Bytes,
        /// Where the claim stands in the book: later records have greater numbers.
        place: u64,
    },
}

/// Records claims, and how attempts ended.
///
/// Every `id` is from [`chasqui_schemas::id::claim`].
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Claims `id` with `value`, unless it is claimed already.
    ///
    /// A repeat after an error is safe: it answers `Taken` with our own value.
    async fn claim(&self, book: Book, id: &str, value: Bytes) -> Result<Claim, StoreError>;

    /// The records that the claim `id` of an idempotency key was given back, in whole or in part
    /// ([`chasqui_schemas::key_claim::GivenBack`]). The runtime writes them.
    async fn given_back(&self, id: &str) -> Result<Vec<GivenBack>, StoreError>;

    /// Records the end of an attempt that this process began: only after the answer [`Claim::First`] may it be called.
    /// Answers the end that is on record where that is another, because another process has taken the attempt over.
    ///
    /// A repeat after an error, with the same value, is safe.
    async fn end(&self, id: &str, value: Bytes) -> Result<Option<Bytes>, StoreError>;

    /// Takes over an attempt that another process began, or this one before a crash, and records `value` as its end.
    /// `begun` is the place of its claim. Answers the end that is on record where that is another.
    ///
    /// A repeat after an error is safe: it may answer our own value.
    async fn take_over(&self, id: &str, begun: u64, value: Bytes) -> Result<Option<Bytes>, StoreError>;
}
