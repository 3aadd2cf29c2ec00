//! Credentials: read once, at start-up, from an environment variable or a file; never from a setting.
//!
//! Guarantee: no `Debug`, log line or error shows what a [`Secret`] holds.
//!
//! The same as `send`'s of that name, but for the error: pipeline and stages share no crate that reads files.

use std::{fmt, path::PathBuf};

use serde::Deserialize;

use crate::ConfigError;

/// Where a credential is: one of the two, or none.
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
pub(crate) struct Secret(String);

impl Secret {
    /// For the one place that verifies or signs with it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl SecretSource {
    /// Reads it, `None` where no place is named; `key` is the setting's name, for errors.
    pub(crate) fn read(&self, key: &str) -> Result<Option<Secret>, ConfigError> {
        let text = match (&self.env, &self.file) {
            (None, None) => return Ok(None),
            (Some(name), None) => std::env::var(name).map_err(|_| {
                ConfigError::invalid(format!("{key}.env"), format!("the environment variable `{name}` is not set"))
            })?,
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|source| ConfigError::File { key: format!("{key}.file"), source })?,
            (Some(_), Some(_)) => return Err(ConfigError::invalid(key, "name one of `env` and `file`, not both")),
        };
        // Line breaks at the end are not part of a credential: editors and `echo` add them.
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(ConfigError::invalid(key, "what is there is empty"));
        }
        Ok(Some(Secret(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_a_file_without_its_last_line_break_and_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "hunter2\r\n").unwrap();
        let secret = SecretSource { file: Some(path), env: None }.read("gateway.x").unwrap().unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn two_places_and_empty_places_are_refused_by_name_and_no_place_is_none() {
        assert_eq!(SecretSource::default().read("gateway.x").unwrap(), None);
        let variable = || Some("CHASQUI_TEST_NO_SUCH_VARIABLE".to_owned());
        for (source, key) in [
            (SecretSource { env: variable(), file: Some("x".into()) }, "gateway.x:"),
            (SecretSource { env: variable(), file: None }, "gateway.x.env:"),
            (SecretSource { env: None, file: Some("/nowhere/at/all".into()) }, "gateway.x.file:"),
            (SecretSource { env: None, file: Some("/dev/null".into()) }, "gateway.x:"),
        ] {
            let error = source.read("gateway.x").unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
