//! The ledger: first come, first served, for ever within a window.
//!
//! One question carries both promises "sent once": *am I the first to say this?* The dedupe stage claims a
//! notification's idempotency key; the send stage claims that an attempt has begun. How an attempt ended is said by who
//! began it, or by who found it begun and took it over: whichever comes first holds for all.

use async_trait::async_trait;
use bytes::Bytes;

use crate::StoreError;

/// Which claims; each book has a window of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Book {
    /// Idempotency keys. Window: the promised one, 24 hours by default.
    Dedupe,
    /// Provider attempts. Window: longer than any redelivery may take.
    Attempts,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Nobody had claimed it; it is ours, durably.
    First,
    /// It was claimed before: by another, or by ourselves before a crash.
    Taken {
        /// With this value.
        value: Bytes,
        /// Its place in the book: what is recorded later has a greater one.
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

    /// Records how an attempt ended that we began: only who was answered [`Claim::First`] may call this. Answers the end
    /// that is on record where it is not this one, because another has taken the attempt over.
    ///
    /// A repeat after an error, with the same value, is safe.
    async fn end(&self, id: &str, value: Bytes) -> Result<Option<Bytes>, StoreError>;

    /// Records how an attempt ended that another began, or we before a crash, at the place `begun`. Answers the end that
    /// is on record where it is not this one.
    ///
    /// A repeat after an error is safe: it may answer our own value.
    async fn take_over(&self, id: &str, begun: u64, value: Bytes) -> Result<Option<Bytes>, StoreError>;
}
