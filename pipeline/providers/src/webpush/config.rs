//! Settings of Web Push: `[send.webpush]`.

use chasqui_settings::{SecretSource, SettingsError};
use std::{path::PathBuf, time::Duration};

use reqwest::Url;
use serde::Deserialize;

use super::subscription::decode;
use crate::{http::Reach, jwt::Signer};

/// `[send.webpush]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The VAPID key's public half, 65 bytes, base64url: what browsers subscribe with.
    pub public_key: String,
    /// Its private half, 32 bytes, base64url; while it names no place there is no provider.
    #[serde(default)]
    pub private_key: SecretSource,
    /// Whom a push service may ask: a `mailto:` or `https:` address.
    pub subject: String,
    /// Endpoints over `http://` and on numeric addresses too: a lab.
    pub allow_insecure_endpoints: bool,
    /// Certificate authorities to trust beside the system's, as PEM.
    pub ca_file: Option<PathBuf>,
    /// Longest call, in milliseconds.
    pub timeout_ms: u64,
    /// Calls at once.
    pub concurrency: usize,
}

impl Config {
    /// Whether there is a key.
    pub fn is_set_up(&self) -> bool {
        self.private_key.is_set()
    }

    /// How it is reached.
    pub(super) fn reach(&self) -> Reach {
        Reach {
            ca_file: self.ca_file.clone(),
            timeout: Duration::from_millis(self.timeout_ms),
            concurrency: self.concurrency,
            ..Reach::default()
        }
    }

    /// The key pair: its public half, and what signs with it.
    pub(super) fn keys(&self) -> Result<(Vec<u8>, Signer), SettingsError> {
        let wrong = |key: &str, problem: &str| Err(SettingsError::invalid(format!("send.webpush.{key}"), problem));
        let Some(public) = decode(&self.public_key).filter(|key| key.len() == 65) else {
            return wrong("public_key", "must be 65 bytes in base64url: the VAPID key that browsers subscribe with");
        };
        let private = self.private_key.require("send.webpush.private_key")?;
        let Some(private) = decode(private.expose()).filter(|key| key.len() == 32) else {
            return wrong("private_key", "must be 32 bytes in base64url: the VAPID key's private half");
        };
        match Signer::es256_pair(&private, &public) {
            Ok(signer) => Ok((public, signer)),
            Err(error) => wrong("private_key", &format!("does not go with `public_key`: {error}")),
        }
    }

    /// The subject, where it is one ([RFC 8292, 2.1](https://www.rfc-editor.org/rfc/rfc8292#section-2.1)).
    pub(super) fn checked_subject(&self) -> Result<String, SettingsError> {
        match Url::parse(&self.subject) {
            Ok(url) if matches!(url.scheme(), "mailto" | "https") => Ok(self.subject.clone()),
            _ => Err(SettingsError::invalid("send.webpush.subject", "must be a `mailto:` or `https:` address")),
        }
    }
}
