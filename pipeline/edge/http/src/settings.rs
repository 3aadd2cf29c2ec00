//! `[gateway]`. `http.toml` beside this crate documents each setting.

use std::net::SocketAddr;

use chasqui_settings::SettingsError;
use serde::Deserialize;

/// The manual, with every default.
pub const DEFAULTS: &str = include_str!("../http.toml");

/// `[gateway]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in http.toml")]
pub struct Settings {
    pub bind: String,
    pub public_url: String,
    pub connections: usize,
}

impl Settings {
    /// Whether there is to be a gateway.
    pub fn is_on(&self) -> bool {
        !self.bind.is_empty()
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where `gateway.bind` is no address.
    pub fn address(&self) -> Result<SocketAddr, SettingsError> {
        let wrong = |_| SettingsError::invalid("gateway.bind", "write it as `127.0.0.1:8400`");
        self.bind.parse().map_err(wrong)
    }

    /// Whether only this machine can reach us. Behind a proxy on this machine every request looks local; so a public
    /// address counts as being reached from elsewhere.
    ///
    /// # Errors
    /// Where `gateway.bind` is no address.
    pub fn is_local(&self) -> Result<bool, SettingsError> {
        Ok(self.address()?.ip().is_loopback() && self.public_url.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(bind: &str, public_url: &str) -> Settings {
        Settings { bind: bind.into(), public_url: public_url.into(), connections: 1 }
    }

    #[test]
    fn whoever_listens_on_this_machine_without_a_public_address_is_local() {
        assert!(settings("127.0.0.1:8400", "").is_local().unwrap());
        assert!(!settings("0.0.0.0:80", "").is_local().unwrap());
        assert!(!settings("127.0.0.1:8400", "https://n.example.com").is_local().unwrap());
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        assert_eq!(settings("localhost", "").address().unwrap_err().key, "gateway.bind");
    }
}
