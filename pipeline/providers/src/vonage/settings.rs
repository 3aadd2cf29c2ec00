//! Settings of an account at Vonage.

use chasqui_settings::{SecretSource, SettingsError};
use serde::Deserialize;

use super::{request, signature::Method};
use crate::{
    Account,
    http::{self, HttpSettings},
};

/// See `vonage.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) api_key: String,
    /// Authorises calls, sent along.
    #[serde(default)]
    pub(crate) api_secret: SecretSource,
    /// Signs callbacks, and calls where there is no `api_secret`.
    #[serde(default)]
    pub(crate) signature_secret: SecretSource,
    /// How they are signed, as the account is set.
    pub(crate) signature_method: Method,
    /// Stands in the address of callbacks, where the account does not sign them.
    #[serde(default)]
    pub(crate) address_secret: SecretSource,
    /// Who messages come from: a number, or a name.
    pub(crate) from: String,
    /// Where Vonage reports what became of a message; absent: where the account says.
    pub(crate) callback_url: Option<String>,
    /// Vonage itself, or a region of it.
    pub(crate) base_url: String,
    #[serde(flatten)]
    pub(crate) http: HttpSettings,
}

impl Settings {
    /// Refuses an account that cannot work.
    pub(super) fn check(&self, account: &Account<'_>) -> Result<(), SettingsError> {
        if self.api_key.chars().count() != 8 {
            return Err(account.invalid("api_key", "must be 8 characters long"));
        }
        if !self.api_secret.is_set() && !self.signature_secret.is_set() {
            return Err(account.invalid("api_secret", "name one of `api_secret` and `signature_secret`"));
        }
        if self.from.is_empty() {
            return Err(account.invalid("from", "must name a sender"));
        }
        if let Some(text) = &self.callback_url {
            http::address(&account.key("callback_url"), text)?;
            if text.len() > request::MAX_CALLBACK {
                return Err(account.invalid("callback_url", "is too long: Vonage takes 100 characters"));
            }
        }
        Ok(())
    }
}
