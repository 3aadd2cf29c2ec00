//! The directory: what is known of users, categories, templates and addresses.

use std::sync::Arc;

use async_trait::async_trait;
use chasqui_schemas::{
    app::AppRecord,
    record::{Category, Contacts, Owners, Preferences, Suppression, Template},
};

use crate::StoreError;

/// Reads the state buckets. `None`: no such record.
///
/// Guarantee: a record written a second ago is seen. The law demands that of opt-outs, so an implementation that caches
/// must watch for changes.
#[async_trait]
pub trait Directory: Send + Sync {
    /// How to reach a user.
    async fn contacts(&self, user: &str) -> Result<Option<Arc<Contacts>>, StoreError>;
    /// What a user wants.
    async fn preferences(&self, user: &str) -> Result<Option<Arc<Preferences>>, StoreError>;
    /// A template by its key.
    async fn template(&self, key: &str) -> Result<Option<Arc<Template>>, StoreError>;
    /// The rules of a category.
    async fn category(&self, name: &str) -> Result<Option<Arc<Category>>, StoreError>;
    /// What an app may, and its keys.
    async fn app(&self, name: &str) -> Result<Option<Arc<AppRecord>>, StoreError>;
    /// Whether an e-mail address or phone number is on the suppression list, and why.
    async fn suppression(&self, address: &str) -> Result<Option<Arc<Suppression>>, StoreError>;
    /// Which users may have the address. It follows the contacts at a distance, so only the contacts can say that they
    /// have it.
    async fn owners(&self, address: &str) -> Result<Option<Arc<Owners>>, StoreError>;
}
