//! Secrets: read once, at start-up, from an environment variable or a file; never from a setting.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, de::IgnoredAny};

use crate::SettingsError;

/// Where a secret is: `{ env = "…" }`, `{ file = "…" }`, or `{}` for none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct SecretSource {
    /// The environment variable that holds it.
    pub env: Option<String>,
    /// The file that holds it.
    pub file: Option<PathBuf>,
}

/// What stands in the place of a secret's source. Where it is something else, it may be the secret, and no error may quote it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Place(Place),
    Other(IgnoredAny),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    env: Option<String>,
    file: Option<PathBuf>,
}

impl TryFrom<Written> for SecretSource {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written::Place(Place { env, file }) => Ok(SecretSource { env, file }),
            Written::Other(_) => Err("a secret is not written here: say where it is, with `env` or `file`"),
        }
    }
}

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret that is this text to the last character.
    pub(crate) fn exact(text: &str) -> Self {
        Secret(text.to_owned())
    }

    /// For the one place that sends, signs or verifies with it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    /// Line breaks at the end are not part of a secret: editors and `echo` add them.
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

    /// Reads it, `None` where no place is named; `key` is the setting's name, for errors.
    ///
    /// # Errors
    /// Where it names two places, or where there is nothing.
    pub fn read(&self, key: &str) -> Result<Option<Secret>, SettingsError> {
        let text = match (&self.env, &self.file) {
            (None, None) => return Ok(None),
            (Some(name), None) => std::env::var(name).map_err(|_| {
                SettingsError::invalid(format!("{key}.env"), format!("the environment variable `{name}` is not set"))
            })?,
            (None, Some(path)) => {
                std::fs::read_to_string(path).map_err(|source| SettingsError::file(format!("{key}.file"), source))?
            }
            (Some(_), Some(_)) => return Err(SettingsError::invalid(key, "name one of `env` and `file`, not both")),
        };
        let secret = Secret::from(text.as_str());
        if secret.expose().is_empty() {
            return Err(SettingsError::invalid(key, "the secret is empty"));
        }
        Ok(Some(secret))
    }

    /// Reads a secret that has to be there.
    ///
    /// # Errors
    /// As [`SecretSource::read`], and where it names no place.
    pub fn require(&self, key: &str) -> Result<Secret, SettingsError> {
        let missing = || SettingsError::invalid(key, "name one of `env` and `file`: where the secret is");
        self.read(key)?.ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (SecretSource, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        (SecretSource { file: Some(file.path().to_owned()), env: None }, file)
    }

    #[test]
    fn a_secret_comes_from_a_file_without_its_last_line_break_and_is_not_shown() {
        let (source, _file) = file("hunter2\r\n");
        let secret = source.require("x.key").unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn a_secret_in_the_place_of_its_source_is_refused_and_not_quoted() {
        for value in
            [serde_json::json!("hunter2"), serde_json::json!(47110815), serde_json::json!({"value": "hunter2"})]
        {
            let error = serde_json::from_value::<SecretSource>(value).unwrap_err().to_string();
            assert!(
                error.contains("`env` or `file`") && !error.contains("hunter2") && !error.contains("4711"),
                "{error}"
            );
        }
    }

    #[test]
    fn no_place_two_places_or_an_empty_place_are_refused_by_name() {
        let variable = || Some("CHASQUI_TEST_NO_SUCH_VARIABLE".to_owned());
        let (empty, _file) = file("\n");
        for (source, key) in [
            (SecretSource::default(), "x.key:"),
            (empty, "x.key:"),
            (SecretSource { env: variable(), file: Some("x".into()) }, "x.key:"),
            (SecretSource { env: variable(), file: None }, "x.key.env:"),
            (SecretSource { env: None, file: Some("/nowhere/at/all".into()) }, "x.key.file:"),
        ] {
            let error = source.require("x.key").unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
        assert_eq!(SecretSource::default().read("x.key").unwrap(), None);
    }
}
