//! Settings of Firebase Cloud Messaging: `[send.fcm]`, and the service account's key file.
//!
//! Guarantee: an error names the field that is wrong, and shows nothing of the file.

use chasqui_settings::{Secret, SecretSource, SettingsError};
use std::{path::PathBuf, time::Duration};

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    http::{self, Reach},
    jwt::Signer,
};

/// The setting that names the key file.
const KEY: &str = "send.fcm.service_account";

/// `[send.fcm]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The service account's key, JSON; while it names no place there is no provider.
    #[serde(default)]
    pub service_account: SecretSource,
    /// Where access tokens come from; the key file's `token_uri` if absent.
    pub token_uri: Option<String>,
    /// The API.
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

/// What a service account's key file says.
pub(super) struct Account {
    pub(super) project: String,
    pub(super) email: String,
    pub(super) key_id: String,
    pub(super) signer: Signer,
    /// Whom our assertions are for: the file's `token_uri`, wherever they are sent.
    pub(super) audience: String,
    /// Where they are sent.
    pub(super) token_url: Url,
}

impl Config {
    /// Whether there is an account.
    pub fn is_set_up(&self) -> bool {
        self.service_account.is_set()
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

    /// Reads the key file.
    pub(super) fn account(&self) -> Result<Account, SettingsError> {
        let wrong = |problem: String| SettingsError::invalid(KEY, problem);
        let text: Secret = self.service_account.require(KEY)?;
        let file: Value = serde_json::from_str(text.expose())
            .map_err(|_| wrong("must be a service account's key: JSON, as the Firebase console gives it".to_owned()))?;
        let field = |name: &str| match file[name].as_str() {
            Some(text) if !text.is_empty() => Ok(text.to_owned()),
            _ => Err(wrong(format!("the key file has no `{name}`"))),
        };
        let audience = field("token_uri")?;
        Ok(Account {
            project: field("project_id")?,
            email: field("client_email")?,
            key_id: field("private_key_id")?,
            signer: Signer::rs256_pem(&field("private_key")?).map_err(|e| wrong(format!("`private_key`: {e}")))?,
            token_url: match &self.token_uri {
                Some(url) => http::address("send.fcm.token_uri", url)?,
                None => http::address(KEY, &audience)?,
            },
            audience,
        })
    }
}
