//! Settings of an account for Web Push: the VAPID key pair.

use chasqui_settings::{SecretSource, SettingsError};
use reqwest::Url;
use serde::Deserialize;

use super::subscription::decode;
use crate::{Account, http::HttpSettings, jwt::Signer};

/// See `webpush.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The VAPID key's public half, 65 bytes, base64url: what browsers subscribe with.
    pub(crate) public_key: String,
    /// Its private half, 32 bytes, base64url.
    #[serde(default)]
    pub(crate) private_key: SecretSource,
    /// Whom a push service may ask: a `mailto:` or `https:` address.
    pub(crate) subject: String,
    /// Push services beside the known ones.
    pub(crate) hosts: Vec<String>,
    /// A push service may have an address of a private network.
    pub(crate) allow_private_addresses: bool,
    /// Any endpoint is taken, over `http://` too: a lab.
    pub(crate) allow_insecure_endpoints: bool,
    #[serde(flatten)]
    pub(crate) http: HttpSettings,
}

impl Settings {
    /// The key pair: its public half, and what signs with it.
    pub(super) fn keys(&self, account: &Account<'_>) -> Result<(Vec<u8>, Signer), SettingsError> {
        let wrong = |key: &str, problem: &str| Err(account.invalid(key, problem));
        let Some(public) = decode(&self.public_key).filter(|key| key.len() == 65) else {
            return wrong("public_key", "must be 65 bytes in base64url: the VAPID key that browsers subscribe with");
        };
        let private = account.secret("private_key", &self.private_key)?;
        let Some(private) = decode(private.expose()).filter(|key| key.len() == 32) else {
            return wrong("private_key", "must be 32 bytes in base64url: the VAPID key's private half");
        };
        match Signer::es256_pair(&private, &public) {
            Ok(signer) => Ok((public, signer)),
            Err(error) => wrong("private_key", &format!("does not go with `public_key`: {error}")),
        }
    }

    /// The subject, where it is one ([RFC 8292, 2.1](https://www.rfc-editor.org/rfc/rfc8292#section-2.1)).
    pub(super) fn checked_subject(&self, account: &Account<'_>) -> Result<String, SettingsError> {
        match Url::parse(&self.subject) {
            Ok(url) if matches!(url.scheme(), "mailto" | "https") => Ok(self.subject.clone()),
            _ => Err(account.invalid("subject", "must be a `mailto:` or `https:` address")),
        }
    }
}
