//! `[nats]`: how to reach the broker. `nats.toml` beside this crate documents each setting.

use std::path::PathBuf;

use chasqui_settings::{SecretSource, SettingsError};
use serde::Deserialize;

use crate::ConnectOptions;

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
        Ok(ConnectOptions {
            user: Some(self.user.clone()).filter(|user| !user.is_empty()),
            password: self.password.read("nats.password")?,
            token: self.token.read("nats.token")?,
            credentials: self.credentials.read("nats.credentials")?,
            root_certificates: Some(self.root_certificates.clone()).filter(|path| !path.as_os_str().is_empty()),
        })
    }
}
