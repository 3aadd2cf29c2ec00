//! Settings of Vonage: `[send.vonage]`.

use serde::Deserialize;

use super::{request, signature::Method};
use crate::{ConfigError, providers::phone, secret::SecretSource};

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
    /// Longest exchange, in milliseconds.
    pub timeout_ms: u64,
    /// Exchanges at once.
    pub concurrency: usize,
    /// Requests per second; 0: as many as there are.
    pub per_second: u32,
}

impl Config {
    /// Whether there is an account.
    pub fn is_set_up(&self) -> bool {
        !self.api_key.is_empty()
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let invalid = |name: &str, problem: &str| Err(ConfigError::invalid(format!("send.vonage.{name}"), problem));
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
            phone::url("send.vonage.callback_url", text)?;
            if request::longest_callback(text) > request::MAX_CALLBACK {
                return invalid("callback_url", "is too long: Vonage takes 100 characters, 53 of them for our query");
            }
        }
        phone::url("send.vonage.base_url", &self.base_url)?;
        phone::check_limits("send.vonage", self.timeout_ms, self.concurrency)
    }
}
