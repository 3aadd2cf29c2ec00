//! The installation's [`Pepper`]: one secret for all processes.
//!
//! It comes from the setting `privacy.key`. Without that setting, the first process generates it and keeps it in the
//! bucket [`SECRETS`]. The bucket also keeps the secret's fingerprint, so that a process with another secret is refused:
//! it would derive other ids, and notifications would go out twice.
//!
//! Guarantee: every process that gets a pepper gets the same one, even if several are the first at the same moment.
//!
//! After a crash the bucket still has it.

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
    /// The secret, if the settings name one.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn secret(&self) -> Result<Option<Secret>, SettingsError> {
        self.key.read("privacy.key")
    }
}

/// Its key in the bucket.
const KEY: &str = "recipients";
/// Maximum looks at the bucket. Of two processes that generate a secret at once, the second has to find the first one's,
/// and on a cluster its reads may lag a moment behind: two seconds in all are plenty.
const TRIES: usize = 20;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Why a process gets no pepper.
#[derive(Debug, thiserror::Error)]
pub enum PepperError {
    /// The configured secret is too short.
    #[error("the secret in privacy.key must have {MIN_SECRET_BYTES} bytes at least")]
    Short,
    /// The installation's secret is not in NATS, and the settings name none.
    #[error("this installation's secret is in a file: name it in privacy.key")]
    Missing,
    /// The secret of the settings is not the installation's.
    #[error("the secret in privacy.key is not the one this installation began with: ids would change")]
    Other,
    /// The bucket cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Serialize, Deserialize)]
struct StoredSecret {
    fingerprint: String,
    /// The secret itself, while the settings do not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// The pepper. The first caller decides which secret it is made of. A secret that is kept in NATS is removed from there
/// as soon as it is `configured`.
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
            let generate = || format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
            let secret = configured.map_or_else(generate, str::to_owned);
            let pepper = Pepper::new(secret.as_bytes());
            let record =
                StoredSecret { fingerprint: pepper.fingerprint(), secret: configured.is_none().then_some(secret) };
            match store.create(KEY, json(&record)?).await {
                Ok(_) => return Ok(pepper),
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(failed(error.into())),
            }
            continue;
        };
        let record: StoredSecret = serde_json::from_slice(&entry.value).map_err(bad)?;
        let secret = configured.or(record.secret.as_deref()).ok_or(PepperError::Missing)?;
        let pepper = Pepper::new(secret.as_bytes());
        if pepper.fingerprint() != record.fingerprint {
            return Err(PepperError::Other);
        }
        if configured.is_some() && record.secret.is_some() {
            let without = json(&StoredSecret { secret: None, ..record })?;
            store.update(KEY, without, entry.revision).await.map_err(|error| failed(error.into()))?;
        }
        return Ok(pepper);
    }
    Err(StoreError::Unavailable { store: SECRETS, source: None }.into())
}

fn json(record: &StoredSecret) -> Result<bytes::Bytes, PepperError> {
    Ok(serde_json::to_vec(record).map_err(bad)?.into())
}

fn bad(source: serde_json::Error) -> PepperError {
    StoreError::BadRecord { store: SECRETS, key: KEY.to_owned(), source: Box::new(source) }.into()
}
