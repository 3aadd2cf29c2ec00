//! `[links]`. `links.toml` beside this crate documents each setting.

use chasqui_settings::{SecretSource, SettingsError};
use serde::Deserialize;

use crate::Links;

/// The manual, with every default.
pub const DEFAULTS: &str = include_str!("../links.toml");

/// `[links]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in links.toml")]
pub struct Settings {
    pub keys: Vec<KeySettings>,
    pub hosts: Vec<String>,
    pub schemes: Vec<String>,
    pub click_days: u16,
}

/// `[[links.keys]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in links.toml")]
pub struct KeySettings {
    pub id: String,
    pub secret: SecretSource,
}

impl Settings {
    /// What links are made and read with; `None` without a public address: then no message is changed.
    ///
    /// # Errors
    /// Where address or keys cannot be used.
    pub fn open(&self, public_url: &str) -> Result<Option<Links>, SettingsError> {
        if public_url.is_empty() {
            return Ok(None);
        }
        let mut keys = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            keys.push((key.id.as_str(), key.secret.require(&format!("links.keys.{}", key.id))?));
        }
        let keys = keys.iter().map(|(id, secret)| (*id, secret.expose().as_bytes()));
        let links = Links::new(public_url, keys);
        let links = links.map(|links| links.only_to(&self.hosts).for_days(self.click_days));
        links.map(Some).map_err(|error| SettingsError::invalid("gateway.public_url, links.keys", error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_need_an_address_and_a_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef0123456789abcdef").unwrap();
        let open = |keys: Vec<KeySettings>, url: &str| {
            Settings { keys, hosts: vec![], schemes: vec![], click_days: 1 }.open(url)
        };
        let key = |file| KeySettings { id: "a".into(), secret: SecretSource { file, env: None } };
        let good = || vec![key(Some(file.path().to_owned()))];
        assert!(open(good(), "").unwrap().is_none());
        assert!(open(good(), "https://n.example.com").unwrap().is_some());
        assert!(open(good(), "http://n.example.com").is_err(), "tokens would cross the network in the clear");
        let error = open(vec![], "https://n.example.com").unwrap_err().to_string();
        assert!(error.starts_with("gateway.public_url, links.keys"), "{error}");
        let error = open(vec![key(None)], "https://n.example.com").unwrap_err().to_string();
        assert!(error.starts_with("links.keys.a"), "{error}");
    }
}
