//! Settings of an account at a mail relay.
//!
//! Guarantee: the password is read once, at start-up, from where the settings point; it is in no setting, and no
//! type here shows it.

use std::path::PathBuf;

use chasqui_settings::{SecretSource, SettingsError, is_this_host};
use serde::Deserialize;

use super::exchange::Credentials;
use crate::Account;

/// See `smtp.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The relay.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// How the connection is encrypted.
    pub(crate) tls: Tls,
    /// More certificate authorities.
    pub(crate) ca_file: Option<PathBuf>,
    /// The account, where the relay wants one.
    pub(crate) username: Option<String>,
    /// Where its password is.
    #[serde(default)]
    pub(crate) password: SecretSource,
    /// Who mails come from: an address, with or without a name.
    pub(crate) from: String,
    /// Maximum milliseconds until the relay asks for the message, and again until it has answered it.
    pub(crate) timeout_ms: u64,
    /// Maximum connections.
    pub(crate) pool_size: usize,
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tls {
    /// Not at all: a relay on the same machine; with a password, only there.
    None,
    /// After a plain greeting; never without.
    Starttls,
    /// From the first byte.
    Wrapper,
}

impl Settings {
    /// The account and its password.
    pub(super) fn credentials(&self, account: &Account<'_>) -> Result<Option<Credentials>, SettingsError> {
        match &self.username {
            None if self.password.is_set() => Err(account.invalid("username", "a password needs an account")),
            None => Ok(None),
            Some(_) if self.tls == Tls::None && !is_this_host(&self.host) => Err(account.invalid(
                "tls",
                "a password would cross the network in the clear: set `starttls` or `wrapper`; `none` is for a relay on \
                 this machine",
            )),
            Some(username) => {
                let password = account.secret("password", &self.password)?;
                Ok(Some(Credentials { username: username.clone(), password }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{account, secret, settings};

    fn smtp() -> Settings {
        settings(&super::super::VENDOR, "host = 'mail.example.com'\nfrom = 'Shop <no-reply@example.com>'")
    }

    fn credentials(settings: &Settings) -> Result<Option<Credentials>, SettingsError> {
        settings.credentials(&account(&super::super::VENDOR))
    }

    #[test]
    fn a_password_comes_from_a_file() {
        let (password, _file) = secret("hunter2");
        let settings = Settings { username: Some("chasqui".into()), password, ..smtp() };
        let expected = Credentials { username: "chasqui".into(), password: "hunter2".into() };
        assert!(credentials(&settings).unwrap() == Some(expected));
        assert!(!format!("{:?}", credentials(&settings).unwrap()).contains("hunter2"));
    }

    #[test]
    fn a_password_in_the_clear_goes_to_this_machine_only() {
        let (password, _file) = secret("hunter2");
        for (host, tls, allowed) in [
            ("127.0.0.1", Tls::None, true),
            ("localhost", Tls::None, true),
            ("::1", Tls::None, true),
            ("mail.example.com", Tls::None, false),
            ("localhost.example.com", Tls::None, false),
            ("10.0.0.25", Tls::None, false),
            ("mail.example.com", Tls::Starttls, true),
            ("mail.example.com", Tls::Wrapper, true),
        ] {
            let with_password =
                Settings { host: host.into(), tls, username: Some("a".into()), password: password.clone(), ..smtp() };
            assert_eq!(credentials(&with_password).is_ok(), allowed, "{host} {tls:?}");
            let without = Settings { username: None, password: SecretSource::default(), ..with_password };
            assert!(credentials(&without).is_ok(), "{host} {tls:?}: nothing secret is sent");
        }
    }

    #[test]
    fn half_an_account_is_refused() {
        let missing = SecretSource { env: Some("CHASQUI_TEST_NO_SUCH_VARIABLE".to_owned()), file: None };
        for settings in [
            Settings { username: Some("chasqui".into()), ..smtp() },
            Settings { password: missing.clone(), ..smtp() },
            Settings { username: Some("chasqui".into()), password: missing, ..smtp() },
        ] {
            assert!(credentials(&settings).is_err(), "{settings:?}");
        }
        assert!(credentials(&smtp()).unwrap().is_none());
    }
}
