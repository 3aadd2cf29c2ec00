//! Settings of Twilio: `[send.twilio]`.

use chasqui_settings::{SecretSource, SettingsError};
use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::http::{self, Reach};

/// `[send.twilio]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The account; empty: there is none.
    pub account_sid: String,
    /// Where the account's auth token is; with `api_key_sid`, that key's secret.
    #[serde(default)]
    pub auth_token: SecretSource,
    /// The API key to log in with, instead of the account itself.
    pub api_key_sid: Option<String>,
    /// Who messages come from: a number, a short code or a name that the account holds.
    pub from: Option<String>,
    /// The messaging service that picks a sender; with `from`, that sender of it.
    pub messaging_service_sid: Option<String>,
    /// Where Twilio reports what became of a message; absent: nowhere.
    pub callback_url: Option<String>,
    /// Twilio itself, or a region of it.
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
        !self.account_sid.is_empty()
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let sid = |name: &str, prefix: &str, sid: Option<&String>| match sid {
            Some(sid) if !is_sid(prefix, sid) => {
                let problem = format!("`{sid}` is not an id: `{prefix}` and 32 hexadecimal digits");
                Err(SettingsError::invalid(format!("send.twilio.{name}"), problem))
            }
            _ => Ok(()),
        };
        sid("account_sid", "AC", Some(&self.account_sid))?;
        sid("api_key_sid", "SK", self.api_key_sid.as_ref())?;
        sid("messaging_service_sid", "MG", self.messaging_service_sid.as_ref())?;
        if self.from.is_none() && self.messaging_service_sid.is_none() {
            return Err(SettingsError::invalid("send.twilio", "needs a sender: `from` or `messaging_service_sid`"));
        }
        if let Some(text) = &self.callback_url {
            let url = http::address("send.twilio.callback_url", text)?;
            if url.host_str().is_some_and(|host| host.contains('_')) {
                let problem = "Twilio takes no host name with an underscore";
                return Err(SettingsError::invalid("send.twilio.callback_url", problem));
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

/// Twilio's ids: a prefix of two letters and 32 hexadecimal digits.
fn is_sid(prefix: &str, sid: &str) -> bool {
    sid.strip_prefix(prefix).is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}
