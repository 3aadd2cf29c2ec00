//! The in-app inbox: a stream of messages for each user, which the producer's app reads.

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use uuid::Uuid;

use crate::StoreError;

/// Appends to inboxes.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Appends `message` (JSON) to the inbox of `user` of `app`, once per `delivery_id`: a repeat has no effect, however late
    /// it comes. `since` is when the submission was stored: the inbox cannot have got the delivery earlier.
    async fn append(
        &self,
        app: &str,
        user: &str,
        delivery_id: Uuid,
        since: Timestamp,
        message: Bytes,
    ) -> Result<(), StoreError>;
}
