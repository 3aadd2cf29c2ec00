//! `[nats]`: how to reach the broker. `nats.toml` beside this crate documents each setting.

use std::path::PathBuf;

use chasqui_settings::{SecretSource, SettingsError};
use serde::Deserialize;

use crate::{
    ConnectOptions,
    accounts::{self, Keys},
    key::public_key,
};

/// The manual, with every default.
pub const DEFAULTS: &str = include_str!("../nats.toml");

/// `[nats]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in nats.toml")]
pub struct Settings {
    pub url: String,
    pub user: String,
    pub password: SecretSource,
    pub token: SecretSource,
    pub credentials: SecretSource,
    pub nkey: SecretSource,
    pub inbox_prefix: String,
    pub keys: Keys,
    pub root_certificates: PathBuf,
    pub sync_interval: SyncInterval,
}

/// When JetStream calls fsync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum SyncInterval {
    /// Before every PubAck.
    Word(Always),
    /// Once in this many seconds.
    Seconds(u64),
}

/// The word `always`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Always {
    /// Before every PubAck.
    Always,
}

impl Settings {
    /// What the client needs; reads the secrets.
    ///
    /// # Errors
    /// Where a secret cannot be read.
    pub fn connect_options(&self) -> Result<ConnectOptions, SettingsError> {
        let nkey = self.nkey.read("nats.nkey")?;
        let key = nkey.as_ref().map(|seed| public_key(seed, "nats.nkey")).transpose()?;
        let prefix = self.inbox_prefix()?;
        Ok(ConnectOptions {
            user: Some(self.user.clone()).filter(|user| !user.is_empty()),
            password: self.password.read("nats.password")?,
            token: self.token.read("nats.token")?,
            credentials: self.credentials.read("nats.credentials")?,
            nkey,
            inbox_prefix: key.map_or(prefix.to_owned(), |key| accounts::inbox(prefix, &key)),
            root_certificates: Some(self.root_certificates.clone()).filter(|path| !path.as_os_str().is_empty()),
        })
    }

    /// The prefix of the subjects that answers come to.
    ///
    /// # Errors
    /// It is not one token of a subject.
    pub fn inbox_prefix(&self) -> Result<&str, SettingsError> {
        let is_token = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if self.inbox_prefix.is_empty() || !is_token(&self.inbox_prefix) {
            return Err(SettingsError::invalid("nats.inbox_prefix", "use letters, digits, `-` and `_`"));
        }
        Ok(&self.inbox_prefix)
    }
}
