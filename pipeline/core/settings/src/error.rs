//! The one error of settings.

use std::{error::Error, fmt};

/// A setting cannot be used.
#[derive(Debug)]
pub struct SettingsError {
    /// The setting, as an operator writes it: `send.sms.timeout_ms`.
    pub key: String,
    /// What is wrong with it, and what to do.
    pub problem: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl SettingsError {
    /// The value of `key` cannot work.
    pub fn invalid(key: impl Into<String>, problem: impl Into<String>) -> Self {
        SettingsError { key: key.into(), problem: problem.into(), source: None }
    }

    /// The value of `key` cannot work, because of `source`.
    pub fn caused(
        key: impl Into<String>,
        problem: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        SettingsError { key: key.into(), problem: problem.into(), source: Some(source.into()) }
    }

    /// The file that `key` names cannot be read.
    pub fn file(key: impl Into<String>, source: std::io::Error) -> Self {
        Self::caused(key, "the file cannot be used", source)
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

impl Error for SettingsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
