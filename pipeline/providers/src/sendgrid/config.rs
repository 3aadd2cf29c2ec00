//! Settings of SendGrid: `[send.sendgrid]`.

use chasqui_settings::SecretSource;
use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::http::Reach;

/// `[send.sendgrid]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the API key is; while it names no place there is no provider.
    #[serde(default)]
    pub api_key: SecretSource,
    /// Who mails come from: an address, with or without a name.
    pub from: String,
    /// Requests are checked, and nothing is sent.
    pub sandbox_mode: bool,
    /// SendGrid itself, or a region of it.
    pub base_url: String,
    /// Certificate authorities to trust beside the system's, as PEM.
    pub ca_file: Option<PathBuf>,
    /// Longest call, in milliseconds.
    pub timeout_ms: u64,
    /// Calls at once.
    pub concurrency: usize,
    /// Calls per second; 0: no limit.
    pub per_second: u32,
}

impl Config {
    /// Whether there is an account.
    pub fn is_set_up(&self) -> bool {
        self.api_key.is_set()
    }

    /// How it is reached.
    pub(super) fn reach(&self) -> Reach {
        Reach {
            ca_file: self.ca_file.clone(),
            timeout: Duration::from_millis(self.timeout_ms),
            concurrency: self.concurrency,
            per_second: self.per_second,
            ..Reach::default()
        }
    }
}
