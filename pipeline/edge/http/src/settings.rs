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
    pub hosts: Vec<String>,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        let settings =
            Settings { bind: "localhost".into(), public_url: String::new(), hosts: Vec::new(), connections: 1 };
        assert_eq!(settings.address().unwrap_err().key, "gateway.bind");
    }
}
