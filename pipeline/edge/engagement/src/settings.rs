//! `[engagement]`. `engagement.toml` beside this crate documents each setting.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use chasqui_http::token::{self, TokenHash};
use chasqui_schemas::subject;
use chasqui_settings::{SecretSource, SettingsError};
use serde::Deserialize;

/// The manual, with every default.
pub const DEFAULTS: &str = include_str!("../engagement.toml");

/// `[engagement]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in engagement.toml")]
pub struct Settings {
    pub queue_hits: usize,
    pub spool_dir: PathBuf,
    pub spool_bytes: u64,
}

/// Who may report receipts: apps, by the hash of their token. Without any, nobody may. Where a request comes from is no
/// proof: with a proxy on this machine, everybody comes from this machine.
#[derive(Debug, Default)]
pub struct Reporters(HashMap<TokenHash, String>);

impl Reporters {
    /// The apps that have a token.
    ///
    /// # Errors
    /// Names the app whose name or token cannot be used.
    pub fn of(apps: &BTreeMap<String, SecretSource>) -> Result<Self, SettingsError> {
        let mut known = HashMap::new();
        for (app, source) in apps {
            let key = format!("apps.{app}");
            if !subject::is_app(app) {
                return Err(SettingsError::invalid(key, "is not the name of an app"));
            }
            let Some(token) = source.read(&format!("{key}.token"))? else { continue };
            if known.insert(token::hash(token.expose()), app.clone()).is_some() {
                return Err(SettingsError::invalid(key, "has the token of another app"));
            }
        }
        Ok(Reporters(known))
    }

    /// The app that has this token.
    pub(crate) fn app(&self, token: &str) -> Option<&str> {
        self.0.get(&token::hash(token)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_known_by_its_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "t0ken\n").unwrap();
        let source = SecretSource { file: Some(file.path().to_owned()), env: None };
        let one = BTreeMap::from([("shop".to_owned(), source.clone()), ("crm".to_owned(), SecretSource::default())]);
        let reporters = Reporters::of(&one).unwrap();
        assert_eq!(reporters.app("t0ken"), Some("shop"));
        for other in ["", "t0ke", "t0ken\n", "shop"] {
            assert_eq!(reporters.app(other), None, "{other}");
        }
        for apps in [
            BTreeMap::from([("a".to_owned(), source.clone()), ("b".to_owned(), source.clone())]),
            BTreeMap::from([("no app".to_owned(), source)]),
        ] {
            assert!(Reporters::of(&apps).unwrap_err().key.starts_with("apps."));
        }
    }
}
