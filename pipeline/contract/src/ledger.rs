//! The ledger: first come, first served, for ever within a window.
//!
//! One question carries both promises "sent once": *am I the first to say this?* The dedupe stage claims a
//! notification's idempotency key; the send stage claims that an attempt started, and then how it finished.

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
    /// It was claimed before, with this value: by another, or by ourselves before a crash.
    Taken(Bytes),
}

/// Records claims.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Claims `id` with `value`, unless it is claimed already.
    ///
    /// `id` is from [`chasqui_schemas::id::claim`]. A repeat after an error is safe: it answers `Taken` with our own value.
    async fn claim(&self, book: Book, id: &str, value: Bytes) -> Result<Claim, StoreError>;
}
