//! How texts are written: `[render]`, whose manual is `render.toml` beside this crate.

use serde::Deserialize;

/// The manual, with every default.
pub const DEFAULTS: &str = include_str!("../render.toml");

/// `[render]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in render.toml")]
pub struct Settings {
    pub sms_transliterate: bool,
}
