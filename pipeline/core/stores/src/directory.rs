//! The directory on KV buckets.
//!
//! Templates and categories are few and asked for with every message: they are mirrored whole, kept current by a
//! watch, and parsed once. Contacts, preferences and suppressions are many: those asked for lately are kept, for as long
//! as a watch tells of every change, since an opt-out must count at once.
//!
//! Guarantee: a record written a second ago is seen. A record that does not parse is an error, never "no record": a
//! misspelt opt-out must not become a notification.
//!
//! It holds nothing that a crash could lose.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{self, kv::Store};
use async_trait::async_trait;
use chasqui_contract::{Directory, StoreError};
use chasqui_nats::{
    bucket::open,
    cache::Cache,
    mirror::{Mirror, Parsed, parse},
    unavailable,
};
use chasqui_schemas::{
    bucket::{Bucket, address_key, shown, token},
    record::{Category, Contacts, Preferences, Suppression, Template},
};
use serde::de::DeserializeOwned;

/// Longest read of one record. Short, because a read whose answer a reconnect has swallowed waits all of it.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The directory on NATS.
#[derive(Debug)]
pub struct NatsDirectory {
    pub(crate) contacts: Store,
    preferences: Store,
    pub(crate) suppressions: Store,
    pub(crate) cached_contacts: Cache<Contacts>,
    cached_preferences: Cache<Preferences>,
    pub(crate) cached_suppressions: Cache<Suppression>,
    templates: Store,
    categories: Store,
    mirrored_templates: Mirror<Template>,
    mirrored_categories: Mirror<Category>,
}

impl NatsDirectory {
    /// Opens the buckets and begins to mirror the small ones. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// `Unavailable` where a bucket is missing or does not answer.
    pub async fn open(context: &jetstream::Context) -> Result<Self, StoreError> {
        let mut context = context.clone();
        context.set_timeout(READ_TIMEOUT);
        let context = &context;
        let templates = open(context, Bucket::Templates).await?;
        let categories = open(context, Bucket::Categories).await?;
        let contacts = open(context, Bucket::Contacts).await?;
        let preferences = open(context, Bucket::Preferences).await?;
        let suppressions = open(context, Bucket::Suppressions).await?;
        Ok(NatsDirectory {
            cached_contacts: Cache::start(context.client(), contacts.clone()),
            cached_preferences: Cache::start(context.client(), preferences.clone()),
            cached_suppressions: Cache::start(context.client(), suppressions.clone()),
            contacts,
            preferences,
            suppressions,
            mirrored_templates: Mirror::start(context.client(), templates.clone()),
            mirrored_categories: Mirror::start(context.client(), categories.clone()),
            templates,
            categories,
        })
    }
}

#[async_trait]
impl Directory for NatsDirectory {
    async fn contacts(&self, user: &str) -> Result<Option<Arc<Contacts>>, StoreError> {
        let token = token(user);
        let read = self.cached_contacts.get(&token, || read(&self.contacts, Bucket::Contacts, &token)).await?;
        usable(read, Bucket::Contacts, user)
    }

    async fn preferences(&self, user: &str) -> Result<Option<Arc<Preferences>>, StoreError> {
        let token = token(user);
        let read = self.cached_preferences.get(&token, || read(&self.preferences, Bucket::Preferences, &token)).await?;
        usable(read, Bucket::Preferences, user)
    }

    async fn template(&self, key: &str) -> Result<Option<Arc<Template>>, StoreError> {
        let token = token(key);
        let read = match self.mirrored_templates.get(&token) {
            Some(mirrored) => mirrored,
            None => read(&self.templates, Bucket::Templates, &token).await?,
        };
        usable(read, Bucket::Templates, key)
    }

    async fn category(&self, name: &str) -> Result<Option<Arc<Category>>, StoreError> {
        let token = token(name);
        let read = match self.mirrored_categories.get(&token) {
            Some(mirrored) => mirrored,
            None => read(&self.categories, Bucket::Categories, &token).await?,
        };
        usable(read, Bucket::Categories, name)
    }

    async fn suppression(&self, address: &str) -> Result<Option<Arc<Suppression>>, StoreError> {
        let key = address_key(address);
        let read = self.cached_suppressions.get(&key, || read(&self.suppressions, Bucket::Suppressions, &key)).await?;
        // Errors are logged and traced.
        usable(read, Bucket::Suppressions, &shown(&key))
    }
}

async fn read<T: DeserializeOwned>(store: &Store, bucket: Bucket, key: &str) -> Result<Option<Parsed<T>>, StoreError> {
    // No key is empty on the server, and asking for one is an error.
    if key.is_empty() {
        return Ok(None);
    }
    let json = store.get(key).await.map_err(|error| unavailable(bucket.as_str(), error))?;
    Ok(json.map(|json| parse(&json)))
}

fn usable<T>(read: Option<Parsed<T>>, bucket: Bucket, key: &str) -> Result<Option<Arc<T>>, StoreError> {
    read.transpose().map_err(|source| StoreError::BadRecord {
        store: bucket.as_str(),
        key: key.to_owned(),
        source: Box::new(source),
    })
}
