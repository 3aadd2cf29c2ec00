//! `[api]`. `api.toml` beside this crate documents each setting.

use serde::Deserialize;

/// The manual, with every default.
pub const DEFAULTS: &str = include_str!("../api.toml");

/// `[api]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in api.toml")]
pub struct Settings {
    pub queue_submissions: usize,
    pub spool_bytes: u64,
}
