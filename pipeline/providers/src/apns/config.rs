//! Settings of Apple's push service: `[send.apns]`.

use chasqui_settings::{SecretSource, SettingsError};
use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::http::Reach;

/// `[send.apns]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The signing key, PKCS #8 as PEM (`AuthKey_….p8`); while it names no place there is no provider.
    #[serde(default)]
    pub key: SecretSource,
    /// The key's id, ten characters.
    pub key_id: String,
    /// The developer account's team, ten characters.
    pub team_id: String,
    /// The app: its bundle id.
    pub topic: String,
    /// Apple's production or sandbox environment; a key and a device token belong to one of them.
    pub base_url: String,
    /// Certificate authorities to trust beside the system's, as PEM.
    pub ca_file: Option<PathBuf>,
    /// Longest call, in milliseconds.
    pub timeout_ms: u64,
    /// Calls at once.
    pub concurrency: usize,
}

impl Config {
    /// Whether there is an account.
    pub fn is_set_up(&self) -> bool {
        self.key.is_set()
    }

    /// Refuses an account that cannot work.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        for (name, value) in [("key_id", &self.key_id), ("team_id", &self.team_id), ("topic", &self.topic)] {
            // The topic is a header.
            if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(SettingsError::invalid(format!("send.apns.{name}"), "must be given, in plain letters"));
            }
        }
        Ok(())
    }

    /// How it is reached: Apple speaks HTTP/2 and nothing else.
    pub(super) fn reach(&self) -> Reach {
        Reach {
            http2_only: true,
            ca_file: self.ca_file.clone(),
            timeout: Duration::from_millis(self.timeout_ms),
            concurrency: self.concurrency,
            ..Reach::default()
        }
    }
}
