//! The directory on KV buckets.
//!
//! Templates, categories and apps are few and asked for with every message, so they are mirrored whole. Contacts, preferences
//! and suppressions are many, so only those that were asked for lately are cached. Most users have no preferences and most
//! addresses are not suppressed: which may be is known here, so that the others cost no round trip. All ways:
//! `crate::record_reader`.
//!
//! Guarantee: a record written a second ago is seen, because an opt-out must count at once. A record that does not parse
//! is an error. Every record is answered in its normal form, whoever wrote it; it is made once, and cached with the record.
//!
//! It holds nothing that a crash could lose.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use async_trait::async_trait;
use chasqui_contract::{Directory, StoreError};
use chasqui_schemas::{
    app::AppRecord,
    record::{Category, Contacts, Owners, Preferences, Suppression, Template},
};

use crate::record_reader::RecordReader;

/// Maximum wait for one record. It is short, because a request whose answer was lost in a reconnect waits all of it.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The directory on NATS.
#[derive(Debug)]
pub struct NatsDirectory {
    pub(crate) contacts: RecordReader<Contacts>,
    preferences: RecordReader<Preferences>,
    templates: RecordReader<Template>,
    categories: RecordReader<Category>,
    apps: RecordReader<AppRecord>,
    pub(crate) suppressions: RecordReader<Suppression>,
    owners: RecordReader<Owners>,
}

impl NatsDirectory {
    /// Opens the buckets and begins to watch them. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// `Unavailable` where a bucket does not exist or does not answer.
    pub async fn open(context: &jetstream::Context) -> Result<Self, StoreError> {
        let mut context = context.clone();
        context.set_timeout(READ_TIMEOUT);
        Ok(NatsDirectory {
            contacts: RecordReader::cached(&context).await?,
            preferences: RecordReader::cached_few(&context).await?,
            templates: RecordReader::mirrored(&context).await?,
            categories: RecordReader::mirrored(&context).await?,
            apps: RecordReader::mirrored(&context).await?,
            suppressions: RecordReader::cached_few(&context).await?,
            owners: RecordReader::cached(&context).await?,
        })
    }
}

#[async_trait]
impl Directory for NatsDirectory {
    async fn contacts(&self, user: &str) -> Result<Option<Arc<Contacts>>, StoreError> {
        self.contacts.get(user).await
    }

    async fn preferences(&self, user: &str) -> Result<Option<Arc<Preferences>>, StoreError> {
        self.preferences.get(user).await
    }

    async fn template(&self, key: &str) -> Result<Option<Arc<Template>>, StoreError> {
        self.templates.get(key).await
    }

    async fn category(&self, name: &str) -> Result<Option<Arc<Category>>, StoreError> {
        self.categories.get(name).await
    }

    async fn app(&self, name: &str) -> Result<Option<Arc<AppRecord>>, StoreError> {
        self.apps.get(name).await
    }

    async fn suppression(&self, address: &str) -> Result<Option<Arc<Suppression>>, StoreError> {
        self.suppressions.get(address).await
    }

    async fn owners(&self, address: &str) -> Result<Option<Arc<Owners>>, StoreError> {
        self.owners.get(address).await
    }
}
