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

/// Who may report receipts.
#[derive(Debug)]
pub enum Reporters {
    /// Every program that reaches us: this machine only, where there is no public address.
    Anybody,
    /// Apps, by the hash of their token.
    Apps(HashMap<TokenHash, String>),
}

impl Reporters {
    /// The apps that have a token. Tokens count wherever there are any; without, only what cannot be reached from
    /// elsewhere is open.
    ///
    /// # Errors
    /// Names the app whose name or token cannot be used.
    pub fn of(apps: &BTreeMap<String, SecretSource>, is_local: bool) -> Result<Self, SettingsError> {
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
        Ok(if known.is_empty() && is_local { Reporters::Anybody } else { Reporters::Apps(known) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_can_be_reached_from_elsewhere_asks_for_tokens() {
        let none = BTreeMap::new();
        assert!(matches!(Reporters::of(&none, true).unwrap(), Reporters::Anybody));
        assert!(matches!(Reporters::of(&none, false).unwrap(), Reporters::Apps(apps) if apps.is_empty()));
    }

    #[test]
    fn an_app_is_known_by_its_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "t0ken\n").unwrap();
        let source = SecretSource { file: Some(file.path().to_owned()), env: None };
        let one = BTreeMap::from([("shop".to_owned(), source.clone()), ("crm".to_owned(), SecretSource::default())]);
        let reporters = Reporters::of(&one, true).unwrap();
        assert!(matches!(reporters, Reporters::Apps(apps) if apps[&token::hash("t0ken")] == "shop" && apps.len() == 1));
        for apps in [
            BTreeMap::from([("a".to_owned(), source.clone()), ("b".to_owned(), source.clone())]),
            BTreeMap::from([("no app".to_owned(), source)]),
        ] {
            assert!(Reporters::of(&apps, true).unwrap_err().key.starts_with("apps."));
        }
    }
}
