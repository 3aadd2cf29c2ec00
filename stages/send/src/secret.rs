//! Credentials: read once, at start-up, from an environment variable or a file; never from a setting.
//!
//! Guarantee: no `Debug`, log line or error shows what a [`Secret`] holds.

use std::{fmt, path::PathBuf};

use serde::Deserialize;

use crate::ConfigError;

/// Where a credential is: one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretSource {
    /// The environment variable that holds it.
    pub env: Option<String>,
    /// The file that holds it.
    pub file: Option<PathBuf>,
}

/// A credential.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// For the one place that sends or signs with it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    /// Line breaks at the end are not part of a credential: editors and `echo` add them.
    fn from(text: &str) -> Self {
        Secret(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl SecretSource {
    /// Whether it names a place.
    pub fn is_set(&self) -> bool {
        self.env.is_some() || self.file.is_some()
    }

    /// Reads it; `key` is the setting's name, for errors.
    ///
    /// # Errors
    /// Where it names no place or two, or where nothing can be read there.
    pub fn read(&self, key: &str) -> Result<Secret, ConfigError> {
        match (&self.env, &self.file) {
            (Some(name), None) => std::env::var(name).map(|text| Secret::from(text.as_str())).map_err(|_| {
                ConfigError::invalid(format!("{key}.env"), format!("the environment variable `{name}` is not set"))
            }),
            (None, Some(path)) => std::fs::read_to_string(path)
                .map(|text| Secret::from(text.as_str()))
                .map_err(|source| ConfigError::File { key: format!("{key}.file"), source }),
            _ => Err(ConfigError::invalid(key, "name one of `env` and `file`: where the credential is")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_secret_comes_from_a_file_without_its_last_line_break_and_is_not_shown() {
        let (source, _file) = testing::secret("hunter2\r");
        let secret = source.read("send.x.key").unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn no_place_two_places_or_an_empty_place_are_refused_by_name() {
        let variable = || Some("CHASQUI_TEST_NO_SUCH_VARIABLE".to_owned());
        for (source, key) in [
            (SecretSource::default(), "send.x.key:"),
            (SecretSource { env: variable(), file: Some("x".into()) }, "send.x.key:"),
            (SecretSource { env: variable(), file: None }, "send.x.key.env:"),
            (SecretSource { env: None, file: Some("/nowhere/at/all".into()) }, "send.x.key.file:"),
        ] {
            let error = source.read("send.x.key").unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
