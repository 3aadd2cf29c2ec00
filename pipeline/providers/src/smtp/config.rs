//! Settings of the mail relay: `[send.smtp]`.
//!
//! Guarantee: the password is read once, at start-up, from where the settings point; it is in no setting, and no
//! type here shows it.

use chasqui_settings::{SecretSource, SettingsError};
use lettre::transport::smtp::authentication::Credentials;
use serde::Deserialize;

/// `[send.smtp]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The relay; empty: there is none.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    pub tls: Tls,
    /// The account, where the relay wants one.
    pub username: Option<String>,
    /// Where its password is.
    #[serde(default)]
    pub password: SecretSource,
    /// Who mails come from: an address, with or without a name.
    pub from: String,
    /// Longest time until the relay asks for the message, and again until it has answered it, in milliseconds.
    pub timeout_ms: u64,
    /// Connections at most.
    pub pool_size: usize,
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// Not at all: a relay on the same machine.
    None,
    /// After a plain greeting; never without.
    Starttls,
    /// From the first byte.
    Wrapper,
}

impl Config {
    /// Whether there is a relay.
    pub fn is_set_up(&self) -> bool {
        !self.host.is_empty()
    }

    /// The account and its password.
    pub(super) fn credentials(&self) -> Result<Option<Credentials>, SettingsError> {
        match &self.username {
            None if self.password.is_set() => {
                Err(SettingsError::invalid("send.smtp.username", "a password needs an account"))
            }
            None => Ok(None),
            Some(username) => {
                let password = self.password.require("send.smtp.password")?;
                Ok(Some(Credentials::new(username.clone(), password.expose().to_owned())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, secret};

    fn smtp() -> Config {
        Config { host: "mail.example.com".into(), from: "Shop <no-reply@example.com>".into(), ..config().smtp }
    }

    #[test]
    fn a_password_comes_from_a_file() {
        let (password, _file) = secret("hunter2");
        let config = Config { username: Some("chasqui".into()), password, ..smtp() };
        let expected = Credentials::new("chasqui".into(), "hunter2".into());
        assert!(config.credentials().unwrap() == Some(expected));
        assert!(!format!("{:?}", config.credentials().unwrap()).contains("hunter2"));
    }

    #[test]
    fn half_an_account_is_refused() {
        let missing = SecretSource { env: Some("CHASQUI_TEST_NO_SUCH_VARIABLE".to_owned()), file: None };
        for config in [
            Config { username: Some("chasqui".into()), ..smtp() },
            Config { password: missing.clone(), ..smtp() },
            Config { username: Some("chasqui".into()), password: missing, ..smtp() },
        ] {
            assert!(config.credentials().is_err(), "{config:?}");
        }
        assert!(smtp().credentials().unwrap().is_none());
    }
}
