//! Settings of an account at Firebase Cloud Messaging, and the service account's key file.
//!
//! Guarantee: an error names the field that is wrong, and shows nothing of the file.

use chasqui_settings::{SecretSource, SettingsError};
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Account,
    http::{self, HttpSettings},
    jwt::Signer,
};

/// The setting that names the key file.
const KEY: &str = "service_account";

/// See `fcm.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The service account's key, JSON.
    #[serde(default)]
    pub(crate) service_account: SecretSource,
    /// Where access tokens come from; the key file's `token_uri` if absent.
    pub(crate) token_uri: Option<String>,
    /// The API.
    pub(crate) base_url: String,
    #[serde(flatten)]
    pub(crate) http: HttpSettings,
}

/// What a service account's key file says.
pub(super) struct Key {
    pub(super) project: String,
    pub(super) email: String,
    pub(super) key_id: String,
    pub(super) signer: Signer,
    /// Whom our assertions are for: the file's `token_uri`, wherever they are sent.
    pub(super) audience: String,
    /// Where they are sent.
    pub(super) token_url: Url,
}

impl Settings {
    /// Reads the key file.
    pub(super) fn key(&self, account: &Account<'_>) -> Result<Key, SettingsError> {
        let wrong = |problem: String| account.invalid(KEY, problem);
        let text = account.secret(KEY, &self.service_account)?;
        let file: Value = serde_json::from_str(text.expose())
            .map_err(|_| wrong("must be a service account's key: JSON, as the Firebase console gives it".to_owned()))?;
        let field = |name: &str| match file[name].as_str() {
            Some(text) if !text.is_empty() => Ok(text.to_owned()),
            _ => Err(wrong(format!("the key file has no `{name}`"))),
        };
        let audience = field("token_uri")?;
        Ok(Key {
            project: field("project_id")?,
            email: field("client_email")?,
            key_id: field("private_key_id")?,
            signer: Signer::rs256_pem(&field("private_key")?).map_err(|e| wrong(format!("`private_key`: {e}")))?,
            token_url: match &self.token_uri {
                Some(url) => http::address(&account.key("token_uri"), url)?,
                None => http::address(&account.key(KEY), &audience)?,
            },
            audience,
        })
    }
}
