//! Settings of the mail relay: `[send.smtp]`.
//!
//! Guarantee: the password is read once, at start-up, from where the settings point; it is in no setting, and no
//! type here shows it.

use std::path::PathBuf;

use lettre::{message::Mailbox, transport::smtp::authentication::Credentials};
use serde::Deserialize;

use crate::ConfigError;

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
    /// The environment variable that holds its password.
    pub password_env: Option<String>,
    /// The file that holds its password.
    pub password_file: Option<PathBuf>,
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

    /// The sender.
    pub(super) fn sender(&self) -> Result<Mailbox, ConfigError> {
        self.from.parse().map_err(|error| {
            ConfigError::invalid("send.smtp.from", format!("`{}` is not a mailbox: {error}", self.from))
        })
    }

    /// The account and its password.
    pub(super) fn credentials(&self) -> Result<Option<Credentials>, ConfigError> {
        let password = match (&self.username, &self.password_env, &self.password_file) {
            (None, None, None) => return Ok(None),
            (Some(_), Some(name), None) => std::env::var(name).map_err(|_| {
                ConfigError::invalid("send.smtp.password_env", format!("the environment variable `{name}` is not set"))
            })?,
            (Some(_), None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|source| ConfigError::File { key: "send.smtp.password_file".to_owned(), source })?,
            _ => {
                let problem = "needs one of `password_env` and `password_file`, and they need it";
                return Err(ConfigError::invalid("send.smtp.username", problem));
            }
        };
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        Ok(self.username.clone().map(|username| Credentials::new(username, password)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;

    fn smtp() -> Config {
        Config { host: "mail.example.com".into(), from: "Shop <no-reply@example.com>".into(), ..config().smtp }
    }

    #[test]
    fn a_password_comes_from_a_file_without_its_last_line_break() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "hunter2\n").unwrap();
        let config = Config { username: Some("chasqui".into()), password_file: Some(path), ..smtp() };
        let expected = Credentials::new("chasqui".into(), "hunter2".into());
        assert!(config.credentials().unwrap() == Some(expected));
        assert!(!format!("{:?}", config.credentials().unwrap()).contains("hunter2"));
    }

    #[test]
    fn half_an_account_is_refused() {
        let missing = || Some("CHASQUI_TEST_NO_SUCH_VARIABLE".to_owned());
        for config in [
            Config { username: Some("chasqui".into()), ..smtp() },
            Config { password_env: missing(), ..smtp() },
            Config {
                username: Some("chasqui".into()),
                password_env: missing(),
                password_file: Some("x".into()),
                ..smtp()
            },
            Config { username: Some("chasqui".into()), password_env: missing(), ..smtp() },
            Config { username: Some("chasqui".into()), password_file: Some("/nowhere/at/all".into()), ..smtp() },
        ] {
            assert!(config.credentials().is_err(), "{config:?}");
        }
        assert!(smtp().credentials().unwrap().is_none());
    }

    #[test]
    fn a_sender_must_be_a_mailbox() {
        assert_eq!(smtp().sender().unwrap().email.domain(), "example.com");
        let error = Config { from: String::new(), ..smtp() }.sender().unwrap_err();
        assert!(error.to_string().starts_with("send.smtp.from"), "{error}");
    }
}
