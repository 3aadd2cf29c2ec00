//! What an installation allows: `[submissions]`, whose manual is `validate.toml` beside this crate, and what apps may.

use chasqui_rules::{Apps, Schemes, Vendors};
use jiff::SignedDuration;
use serde::Deserialize;

/// The manual, with every default.
pub const DEFAULTS: &str = include_str!("../validate.toml");

/// `[submissions]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in validate.toml")]
pub struct Settings {
    pub max_send_at_days: u16,
}

/// What a submission may say.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// What each app may.
    pub apps: Apps,
    /// What of each vendor's payload overrides may set.
    pub vendors: Vendors,
    /// Where a link may lead.
    pub schemes: Schemes,
    /// Longest time from the submission to its `send_at`.
    pub send_at_horizon: SignedDuration,
}

impl Settings {
    /// Longest time from a submission to its `send_at`. It is bounded: days are few enough for a `u16`.
    pub fn send_at_horizon(&self) -> SignedDuration {
        SignedDuration::from_hours(24 * i64::from(self.max_send_at_days))
    }
}
