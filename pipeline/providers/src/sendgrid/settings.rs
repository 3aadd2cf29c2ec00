//! Settings of an account at SendGrid.

use chasqui_settings::SecretSource;
use serde::Deserialize;

use crate::http::HttpSettings;

/// See `sendgrid.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    #[serde(default)]
    pub(crate) api_key: SecretSource,
    /// Who mails come from: an address, with or without a name.
    pub(crate) from: String,
    /// What callbacks are verified with; absent: they are not taken.
    pub(crate) webhook_public_key: Option<String>,
    /// Requests are checked, and nothing is sent.
    pub(crate) sandbox_mode: bool,
    /// SendGrid itself, or a region of it.
    pub(crate) base_url: String,
    #[serde(flatten)]
    pub(crate) http: HttpSettings,
}
