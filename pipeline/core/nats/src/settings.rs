//! `[nats]`: how to reach the broker. `nats.toml` beside this crate documents each setting.

use std::path::PathBuf;

use chasqui_settings::{SecretSource, ServerUrl, SettingsError};
use serde::Deserialize;

use crate::{
    ConnectOptions,
    accounts::{self, Keys},
    key::public_key,
};

/// The manual, with every default.
pub const DEFAULTS: &str = include_str!("../nats.toml");

/// `[nats]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in nats.toml")]
pub struct Settings {
    pub url: ServerUrl,
    pub user: String,
    pub password: SecretSource,
    pub token: SecretSource,
    pub credentials: SecretSource,
    pub nkey: SecretSource,
    pub inbox_prefix: String,
    pub keys: Keys,
    pub root_certificates: PathBuf,
    pub client_certificate: PathBuf,
    pub client_key: PathBuf,
    pub plaintext: bool,
    pub sync_interval: SyncInterval,
}

/// When JetStream calls fsync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum SyncInterval {
    /// Before every PubAck.
    Word(Always),
    /// Once in this many seconds.
    Seconds(u64),
}

/// The word `always`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Always {
    /// Before every PubAck.
    Always,
}

impl Settings {
    /// What the client needs; reads the secrets.
    ///
    /// # Errors
    /// Where a secret cannot be read, or settings contradict each other.
    pub fn connect_options(&self) -> Result<ConnectOptions, SettingsError> {
        let nkey = self.nkey.read("nats.nkey")?;
        let key = nkey.as_ref().map(|seed| public_key(seed, "nats.nkey")).transpose()?;
        let prefix = self.inbox_prefix()?;
        let path = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
        if self.url.has_login() && (!self.user.is_empty() || [&self.password, &self.token].iter().any(|it| it.is_set()))
        {
            return Err(SettingsError::invalid("nats.url", "it holds a login, and other settings do too: name one"));
        }
        let client_certificate = match (path(&self.client_certificate), path(&self.client_key)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(SettingsError::invalid(
                    "nats.client_certificate",
                    "it needs `nats.client_key`, and that it",
                ));
            }
        };
        let options = ConnectOptions {
            user: Some(self.user.clone()).filter(|user| !user.is_empty()),
            password: self.password.read("nats.password")?,
            token: self.token.read("nats.token")?,
            credentials: self.credentials.read("nats.credentials")?,
            nkey,
            inbox_prefix: key.map_or(prefix.to_owned(), |key| accounts::inbox(prefix, &key)),
            root_certificates: path(&self.root_certificates),
            client_certificate,
        };
        let says_a_secret = self.url.has_login() || options.password.is_some() || options.token.is_some();
        if says_a_secret && !self.plaintext && self.url.is_readable_on_the_way() {
            return Err(SettingsError::invalid(
                "nats.url",
                "a password would cross the network in the clear: begin each address with `tls://`, or set \
                 `nats.plaintext = true` where nobody can listen",
            ));
        }
        Ok(options)
    }

    /// The prefix of the subjects that answers come to.
    ///
    /// # Errors
    /// It is not one token of a subject.
    pub fn inbox_prefix(&self) -> Result<&str, SettingsError> {
        let is_token = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if self.inbox_prefix.is_empty() || !is_token(&self.inbox_prefix) {
            return Err(SettingsError::invalid("nats.inbox_prefix", "use letters, digits, `-` and `_`"));
        }
        Ok(&self.inbox_prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The environment may have settings of other parts too.
    #[derive(Deserialize)]
    struct Whole {
        nats: Settings,
    }

    fn with(text: &str) -> Result<ConnectOptions, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let (file, secret) = (dir.path().join("nats.toml"), dir.path().join("secret"));
        std::fs::write(&secret, "hunter2").unwrap();
        std::fs::write(&file, format!("[nats]\n{}", text.replace("SECRET", &format!("{{ file = {secret:?} }}"))))
            .unwrap();
        let whole: Whole = chasqui_settings::read(&[DEFAULTS], Some(&file), &serde_json::Value::Null)?;
        whole.nats.connect_options()
    }

    #[test]
    fn a_password_does_not_cross_the_network_in_the_clear() {
        for (text, allowed) in [
            ("url = 'nats://broker:4222'", true),
            ("url = 'nats://broker:4222'\ncredentials = SECRET", true),
            ("url = 'nats://127.0.0.1:4222'\nuser = 'a'\npassword = SECRET", true),
            ("url = 'tls://broker:4222'\nuser = 'a'\npassword = SECRET", true),
            ("url = 'nats://broker:4222'\nuser = 'a'\npassword = SECRET", false),
            ("url = 'nats://broker:4222'\ntoken = SECRET", false),
            ("url = 'nats://a:hunter2@broker:4222'", false),
            ("url = 'tls://a,nats://b'\ntoken = SECRET", false),
            ("url = 'nats://broker:4222'\ntoken = SECRET\nplaintext = true", true),
        ] {
            let checked = with(text).map_err(|error| error.to_string());
            assert_eq!(checked.is_ok(), allowed, "{text}: {checked:?}");
            assert!(!format!("{checked:?}").contains("hunter2"));
        }
    }

    #[test]
    fn half_a_login_and_two_logins_are_refused_by_name() {
        for (text, key) in [
            ("url = 'nats://a:b@127.0.0.1'\ntoken = SECRET", "nats.url"),
            ("client_key = 'x'", "nats.client_certificate"),
        ] {
            assert_eq!(with(text).unwrap_err().key, key, "{text}");
        }
    }
}
