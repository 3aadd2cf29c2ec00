//! Settings of Vonage: `[send.vonage]`.

use chasqui_settings::{SecretSource, SettingsError};
use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{request, signature::Method};
use crate::http::{self, Reach};

/// `[send.vonage]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The account's key; empty: there is none.
    pub api_key: String,
    /// Where the account's secret is; or:
    #[serde(default)]
    pub api_secret: SecretSource,
    /// Where the secret is that requests are signed with.
    #[serde(default)]
    pub signature_secret: SecretSource,
    /// How they are signed, as the account is set.
    pub signature_method: Method,
    /// Who messages come from: a number, or a name.
    pub from: String,
    /// Where Vonage reports what became of a message; absent: where the account says.
    pub callback_url: Option<String>,
    /// Vonage itself, or a region of it.
    pub base_url: String,
    /// Certificate authorities to trust beside the system's, as PEM.
    pub ca_file: Option<PathBuf>,
    /// Longest call, in milliseconds.
    pub timeout_ms: u64,
    /// Calls at once.
    pub concurrency: usize,
    /// Calls per second; 0: no limit.
    pub per_second: u32,
}

impl Config {
    /// Whether there is an account.
    pub fn is_set_up(&self) -> bool {
        !self.api_key.is_empty()
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let invalid = |name: &str, problem: &str| Err(SettingsError::invalid(format!("send.vonage.{name}"), problem));
        if self.api_key.chars().count() != 8 {
            return invalid("api_key", "must be 8 characters long");
        }
        if self.api_secret.is_set() == self.signature_secret.is_set() {
            return invalid(
                "api_secret",
                "name one of `api_secret` and `signature_secret`: Vonage takes no request with both",
            );
        }
        if self.from.is_empty() {
            return invalid("from", "must name a sender");
        }
        if let Some(text) = &self.callback_url {
            http::address("send.vonage.callback_url", text)?;
            if text.len() > request::MAX_CALLBACK {
                return invalid("callback_url", "is too long: Vonage takes 100 characters");
            }
        }
        Ok(())
    }

    /// How it is reached.
    pub(super) fn reach(&self) -> Reach {
        Reach {
            ca_file: self.ca_file.clone(),
            timeout: Duration::from_millis(self.timeout_ms),
            concurrency: self.concurrency,
            per_second: self.per_second,
            ..Reach::default()
        }
    }
}
