//! The installation's [`Pepper`]: one secret for all processes.
//!
//! It comes from the settings (`privacy.key`) or, where they name none, is made up once and kept in the bucket
//! [`SECRETS`]. The bucket also knows the secret's fingerprint, so that a process that was given another is refused: its
//! ids would be others, and what is done once would be done twice.
//!
//! Guarantee: every process that gets a pepper gets the same, however many ask first at once. After a crash the bucket
//! still has it.

use async_nats::jetstream::{
    Context,
    kv::{CreateErrorKind, Operation},
};
use chasqui_contract::StoreError;
use chasqui_nats::unavailable;
use chasqui_schemas::{
    bucket::SECRETS,
    pepper::{MIN_SECRET_BYTES, Pepper},
};
use chasqui_settings::{Secret, SecretSource, SettingsError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The manual of `[privacy]`, with every default.
pub const DEFAULTS: &str = include_str!("../privacy.toml");

/// `[privacy]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in privacy.toml")]
pub struct PrivacySettings {
    pub key: SecretSource,
}

impl PrivacySettings {
    /// The secret, where one is configured.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn secret(&self) -> Result<Option<Secret>, SettingsError> {
        self.key.read("privacy.key")
    }
}

/// Where in the bucket.
const KEY: &str = "recipients";
/// Two who make up a secret at once: the second finds the first one's. On a cluster a reader may be a moment behind.
const TRIES: usize = 20;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Why there is no pepper.
#[derive(Debug, thiserror::Error)]
pub enum PepperError {
    /// The configured secret is too short.
    #[error("the secret in privacy.key must have {MIN_SECRET_BYTES} bytes at least")]
    Short,
    /// The installation's secret is not kept in NATS, and none is configured.
    #[error("this installation's secret is in a file: name it in privacy.key")]
    Missing,
    /// The configured secret is not the installation's.
    #[error("the secret in privacy.key is not the one this installation began with: ids would change")]
    Other,
    /// The bucket cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Serialize, Deserialize)]
struct Record {
    fingerprint: String,
    /// Where no file has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// The pepper; the first who asks decides on the secret. One that is kept in NATS leaves it once it is `configured`.
///
/// # Errors
/// See [`PepperError`].
pub async fn pepper(context: &Context, configured: Option<&Secret>) -> Result<Pepper, PepperError> {
    let configured = configured.map(Secret::expose);
    if configured.is_some_and(|secret| secret.len() < MIN_SECRET_BYTES) {
        return Err(PepperError::Short);
    }
    let failed = |error: async_nats::Error| PepperError::Store(unavailable(SECRETS, error));
    let store = context.get_key_value(SECRETS).await.map_err(|error| failed(error.into()))?;
    for _ in 0..TRIES {
        let entry = store.entry(KEY).await.map_err(|error| failed(error.into()))?;
        let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else {
            let made_up = || format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
            let secret = configured.map_or_else(made_up, str::to_owned);
            let pepper = Pepper::new(secret.as_bytes());
            let record = Record { fingerprint: pepper.fingerprint(), secret: configured.is_none().then_some(secret) };
            match store.create(KEY, json(&record)?).await {
                Ok(_) => return Ok(pepper),
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(failed(error.into())),
            }
            continue;
        };
        let record: Record = serde_json::from_slice(&entry.value).map_err(bad)?;
        let secret = configured.or(record.secret.as_deref()).ok_or(PepperError::Missing)?;
        let pepper = Pepper::new(secret.as_bytes());
        if pepper.fingerprint() != record.fingerprint {
            return Err(PepperError::Other);
        }
        if configured.is_some() && record.secret.is_some() {
            let without = json(&Record { secret: None, ..record })?;
            store.update(KEY, without, entry.revision).await.map_err(|error| failed(error.into()))?;
        }
        return Ok(pepper);
    }
    Err(StoreError::Unavailable { store: SECRETS, source: None }.into())
}

fn json(record: &Record) -> Result<bytes::Bytes, PepperError> {
    Ok(serde_json::to_vec(record).map_err(bad)?.into())
}

fn bad(source: serde_json::Error) -> PepperError {
    StoreError::BadRecord { store: SECRETS, key: KEY.to_owned(), source: Box::new(source) }.into()
}
