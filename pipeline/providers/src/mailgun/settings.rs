//! Settings of an account at Mailgun.

use chasqui_settings::SecretSource;
use serde::Deserialize;

use crate::http::HttpSettings;

/// See `mailgun.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The domain that mails are sent by.
    pub(crate) domain: String,
    #[serde(default)]
    pub(crate) api_key: SecretSource,
    /// Who mails come from: an address, with or without a name.
    pub(crate) from: String,
    /// What callbacks are signed with.
    #[serde(default)]
    pub(crate) signing_key: SecretSource,
    /// Mails are taken, reported, and not delivered.
    pub(crate) test_mode: bool,
    /// Mailgun itself, or a region of it.
    pub(crate) base_url: String,
    #[serde(flatten)]
    pub(crate) http: HttpSettings,
}
