//! Which of the notifications that replace one another is the newest, so that an older one is not sent after it.

use async_trait::async_trait;
use chasqui_schemas::collapse::Version;

use crate::StoreError;

/// Keeps the newest version under each key ([`chasqui_schemas::collapse::Collapse::key`]), for longer than anything waits
/// on its way. The newest under a key only becomes newer.
#[async_trait]
pub trait Newest: Send + Sync {
    /// Records `version`, unless a newer one is on record. Answers the newest.
    ///
    /// A repeat is safe.
    async fn raise(&self, key: &str, version: Version) -> Result<Version, StoreError>;

    /// The newest version on record.
    async fn newest(&self, key: &str) -> Result<Option<Version>, StoreError>;
}
