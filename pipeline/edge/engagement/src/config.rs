//! Settings of the gateway: the `[gateway]` table; `chasqui.toml` beside the runtime documents each.
//!
//! Guarantee: what could not work is refused at start-up, with the setting's name.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::PathBuf,
};

use chasqui_links::{Links, LinksError};
use chasqui_schemas::subject;
use ring::digest;
use serde::Deserialize;

use crate::{
    callbacks::{self, Verifiers},
    secret::SecretSource,
};

/// Settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value cannot work.
    #[error("{key}: {problem}")]
    Invalid {
        /// The setting.
        key: String,
        /// Why.
        problem: String,
    },
    /// A file that a setting names cannot be read.
    #[error("{key}: the file cannot be used")]
    File {
        /// The setting that names it.
        key: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Links cannot be made.
    #[error("gateway.public_url, gateway.keys: {0}")]
    Links(#[from] LinksError),
}

impl ConfigError {
    pub(crate) fn invalid(key: impl Into<String>, problem: impl Into<String>) -> Self {
        ConfigError::Invalid { key: key.into(), problem: problem.into() }
    }
}

/// The `[gateway]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct Config {
    pub bind: String,
    pub public_url: String,
    pub keys: Vec<KeyConfig>,
    pub connections: usize,
    pub queue_hits: usize,
    pub spool_dir: PathBuf,
    pub spool_bytes: u64,
    pub apps: BTreeMap<String, AppConfig>,
    pub ui: UiConfig,
    pub twilio: callbacks::twilio::Config,
    pub vonage: callbacks::vonage::Config,
    pub sendgrid: callbacks::sendgrid::Config,
    pub mailgun: callbacks::mailgun::Config,
}

/// A key that signs links.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct KeyConfig {
    pub id: String,
    #[serde(default)]
    pub env: Option<String>,
    #[serde(default)]
    pub file: Option<PathBuf>,
}

/// `[gateway.apps.<name>]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct AppConfig {
    pub token: SecretSource,
}

/// `[gateway.ui]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct UiConfig {
    pub token: SecretSource,
}

/// A token's SHA-256: what is compared, so that how long a comparison takes says nothing about a token.
pub(crate) type TokenHash = [u8; 32];

/// Who may report receipts.
#[derive(Debug)]
pub(crate) enum Reporters {
    /// Whoever reaches us: this machine, without a public address.
    Anybody,
    /// Apps, by the hash of their token.
    Apps(HashMap<TokenHash, String>),
}

impl Config {
    /// Reads the table.
    ///
    /// # Errors
    /// Where a setting is missing, unknown or of another type.
    pub fn read(table: &serde_json::Value) -> Result<Self, ConfigError> {
        let read = serde_path_to_error::deserialize(table);
        read.map_err(|error| ConfigError::invalid(format!("gateway.{}", error.path()), error.inner().to_string()))
    }

    /// Whether there is to be a gateway.
    pub fn is_on(&self) -> bool {
        !self.bind.is_empty()
    }

    /// What links are made and read with; `None` without a public address: then no message is changed.
    ///
    /// # Errors
    /// Where address or keys cannot be used.
    pub fn links(&self) -> Result<Option<Links>, ConfigError> {
        if self.public_url.is_empty() {
            return Ok(None);
        }
        let mut keys = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            let name = format!("gateway.keys.{}", key.id);
            let source = SecretSource { env: key.env.clone(), file: key.file.clone() };
            let secret =
                source.read(&name)?.ok_or_else(|| ConfigError::invalid(name, "name one of `env` and `file`"))?;
            keys.push((key.id.as_str(), secret));
        }
        let keys = keys.iter().map(|(id, secret)| (*id, secret.expose().as_bytes()));
        Ok(Some(Links::new(&self.public_url, keys)?))
    }

    pub(crate) fn address(&self) -> Result<SocketAddr, ConfigError> {
        let wrong = |_| ConfigError::invalid("gateway.bind", "write it as `127.0.0.1:8400`");
        self.bind.parse().map_err(wrong)
    }

    /// Who may report receipts. Tokens count wherever there are any; without, only what cannot be reached from elsewhere
    /// is open.
    pub(crate) fn reporters(&self) -> Result<Reporters, ConfigError> {
        let mut apps = HashMap::new();
        for (app, config) in &self.apps {
            let key = format!("gateway.apps.{app}");
            if !subject::is_app(app) {
                return Err(ConfigError::invalid(key, "is not the name of an app"));
            }
            let token = config.token.read(&format!("{key}.token"))?;
            let token = token.ok_or_else(|| ConfigError::invalid(format!("{key}.token"), "name `env` or `file`"))?;
            if apps.insert(token_hash(token.expose()), app.clone()).is_some() {
                return Err(ConfigError::invalid(key, "has the token of another app"));
            }
        }
        Ok(if apps.is_empty() && self.is_local()? { Reporters::Anybody } else { Reporters::Apps(apps) })
    }

    /// Whether nobody can reach us from elsewhere: a proxy on this machine would make everybody look local, so a public
    /// address says that somebody can.
    pub(crate) fn is_local(&self) -> Result<bool, ConfigError> {
        Ok(self.address()?.ip().is_loopback() && self.public_url.is_empty())
    }

    pub(crate) fn verifiers(&self) -> Result<Verifiers, ConfigError> {
        Verifiers::new(self)
    }
}

pub(crate) fn token_hash(token: &str) -> TokenHash {
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    std::array::from_fn(|i| hash.as_ref()[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings that the manual documents, changed as an operator would.
    fn config(changes: &str) -> Result<Config, ConfigError> {
        let mut table: toml::Table = toml::from_str(chasqui_runtime::config::DEFAULTS).unwrap();
        let mut gateway = table.remove("gateway").unwrap();
        let changes: toml::Table = toml::from_str(changes).unwrap();
        gateway.as_table_mut().unwrap().extend(changes);
        Config::read(&serde_json::to_value(gateway).unwrap())
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        (dir, path)
    }

    #[test]
    fn the_defaults_listen_on_this_machine_alone_and_change_no_message() {
        let config = config("").unwrap();
        assert!(config.is_on() && config.address().unwrap().ip().is_loopback());
        assert!(config.links().unwrap().is_none());
        assert!(matches!(config.reporters().unwrap(), Reporters::Anybody));
    }

    #[test]
    fn whoever_can_be_reached_from_elsewhere_asks_for_tokens() {
        for changes in ["bind = '0.0.0.0:80'", "public_url = 'https://n.example.com'"] {
            let reporters = config(changes).unwrap().reporters().unwrap();
            assert!(matches!(reporters, Reporters::Apps(apps) if apps.is_empty()), "{changes}");
        }
        let (_dir, path) = file("t0ken\n");
        let reporters = config(&format!("apps.shop.token.file = '{path}'")).unwrap().reporters().unwrap();
        assert!(matches!(reporters, Reporters::Apps(apps) if apps[&token_hash("t0ken")] == "shop"));
    }

    #[test]
    fn links_need_an_address_and_a_key() {
        let (_dir, path) = file("0123456789abcdef0123456789abcdef");
        let keys = format!("keys = [{{ id = 'a', file = '{path}' }}]");
        let with = |changes: &str| config(&format!("public_url = 'https://n.example.com'\n{changes}"));
        assert!(with(&keys).unwrap().links().unwrap().is_some());
        let error = with("").unwrap().links().unwrap_err();
        assert!(matches!(error, ConfigError::Links(LinksError::NoKey)), "{error}");
        let error = with("keys = [{ id = 'a' }]").unwrap().links().unwrap_err().to_string();
        assert!(error.starts_with("gateway.keys.a"), "{error}");
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let error = config("bindd = 'x'").unwrap_err().to_string();
        assert!(error.contains("bindd"), "{error}");
        let error = config("bind = 'localhost'").unwrap().address().unwrap_err().to_string();
        assert!(error.starts_with("gateway.bind"), "{error}");
        let error = config("apps.shop.token = {}").unwrap().reporters().unwrap_err().to_string();
        assert!(error.starts_with("gateway.apps.shop.token"), "{error}");
    }
}
