//! Settings of an account at Apple's push service.

use chasqui_settings::{SecretSource, SettingsError};
use serde::Deserialize;

use crate::{Account, http::HttpSettings};

/// See `apns.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The signing key, PKCS #8 as PEM (`AuthKey_….p8`).
    #[serde(default)]
    pub(crate) key: SecretSource,
    pub(crate) key_id: String,
    pub(crate) team_id: String,
    /// The app: its bundle id.
    pub(crate) topic: String,
    /// Apple's production or sandbox environment; a key and a device token belong to one of them.
    pub(crate) base_url: String,
    #[serde(flatten)]
    pub(crate) http: HttpSettings,
}

impl Settings {
    /// Refuses an account that cannot work.
    pub(super) fn check(&self, account: &Account<'_>) -> Result<(), SettingsError> {
        for (name, value) in [("key_id", &self.key_id), ("team_id", &self.team_id), ("topic", &self.topic)] {
            // The topic is a header.
            if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(account.invalid(name, "must be given, in plain letters"));
            }
        }
        Ok(())
    }
}
