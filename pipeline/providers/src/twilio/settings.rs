//! Settings of an account at Twilio.

use chasqui_settings::{SecretSource, SettingsError};
use serde::Deserialize;

use crate::{
    Account,
    http::{self, HttpSettings},
};

/// See `twilio.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) account_sid: String,
    /// Verifies callbacks; authorises calls where there is no API key.
    #[serde(default)]
    pub(crate) auth_token: SecretSource,
    /// Verifies callbacks that Twilio signs with a key instead of the token.
    #[serde(default)]
    pub(crate) webhook_shared_key: SecretSource,
    /// The API key that authorises calls instead.
    pub(crate) api_key_sid: Option<String>,
    #[serde(default)]
    pub(crate) api_key_secret: SecretSource,
    /// Who messages come from: a number, a short code or a name that the account holds.
    pub(crate) from: Option<String>,
    /// The messaging service that picks a sender; with `from`, that sender of it.
    pub(crate) messaging_service_sid: Option<String>,
    /// Where Twilio reports what became of a message; `None`: nowhere. See [`Settings::reporting_to`].
    pub(crate) callback_url: Option<String>,
    /// Twilio itself, or a region of it.
    pub(crate) base_url: String,
    #[serde(flatten)]
    pub(crate) http: HttpSettings,
}

impl Settings {
    /// Refuses an account that cannot work.
    pub(super) fn check(&self, account: &Account<'_>) -> Result<(), SettingsError> {
        let sid = |name: &str, prefix: &str, sid: Option<&String>| match sid {
            Some(sid) if !is_sid(prefix, sid) => {
                let problem = format!("`{sid}` is not an id: `{prefix}` and 32 hexadecimal digits");
                Err(account.invalid(name, problem))
            }
            _ => Ok(()),
        };
        sid("account_sid", "AC", Some(&self.account_sid))?;
        sid("api_key_sid", "SK", self.api_key_sid.as_ref())?;
        sid("messaging_service_sid", "MG", self.messaging_service_sid.as_ref())?;
        if self.from.is_none() && self.messaging_service_sid.is_none() {
            return Err(account.contradiction("needs a sender: `from` or `messaging_service_sid`"));
        }
        if let Some(text) = &self.callback_url {
            let url = http::address(&account.key("callback_url"), text)?;
            if url.host_str().is_some_and(|host| host.contains('_')) {
                return Err(account.invalid("callback_url", "Twilio takes no host name with an underscore"));
            }
        }
        Ok(())
    }

    /// The settings with the address for reports: the account's own, where it names one, else its place at the gateway, where
    /// reports can be verified. An empty one of its own is none.
    pub(super) fn reporting_to(mut self, account: &Account<'_>, public_url: &str) -> Self {
        let is_verified = self.auth_token.is_set() || self.webhook_shared_key.is_set();
        if self.callback_url.is_none() && is_verified && !public_url.is_empty() {
            let address = format!("{}/v1/callbacks/{}", public_url.trim_end_matches('/'), account.name);
            // What would cross the network in the clear is not asked for; the log at start says so.
            self.callback_url = http::address("gateway.public_url", &address).ok().map(String::from);
        }
        self.callback_url = self.callback_url.filter(|address| !address.is_empty());
        self
    }
}

/// Twilio's ids: a prefix of two letters and 32 hexadecimal digits.
fn is_sid(prefix: &str, sid: &str) -> bool {
    sid.strip_prefix(prefix).is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}
