//! `[streams]` and `[runner]`. `runtime.toml` beside this crate documents each setting.

use std::{collections::BTreeMap, time::Duration};

use chasqui_schemas::{Lane, Stage};
use chasqui_settings::SettingsError;
use serde::Deserialize;

use crate::lanes::Weights;

/// The manual, with every default.
pub const DEFAULTS: &str = include_str!("../runtime.toml");

/// Both tables, without those of other crates.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs, reason = "documented in runtime.toml")]
pub struct Settings {
    pub streams: StreamSettings,
    pub runner: RunnerSettings,
}

impl Settings {
    /// The defaults, with `changes` (TOML) over them.
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    pub fn with(changes: &str) -> Result<Settings, SettingsError> {
        chasqui_settings::read(&[DEFAULTS, changes], None, &serde_json::Value::Null)
    }
}

/// `[streams]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in runtime.toml")]
pub struct StreamSettings {
    pub replicas: usize,
    pub app_messages: i64,
    pub front_bytes: i64,
    pub queue_messages: i64,
    pub queue_bytes: i64,
    pub trace_bytes: i64,
    pub deferred_bytes: i64,
    pub hop_window_s: u64,
    pub dedupe_window_s: u64,
    pub attempts_window_s: u64,
    pub dead_days: u32,
    pub rejected_messages: i64,
    pub rejected_bytes: i64,
    pub inbox_messages: i64,
    pub inbox_bytes: i64,
    pub inbox_days: u32,
}

/// `[runner]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in runtime.toml")]
pub struct RunnerSettings {
    pub ack_wait_ms: u64,
    pub window: usize,
    pub slots: usize,
    pub max_deliveries: u32,
    pub max_ack_pending: i64,
    pub drain_ms: u64,
    pub weights: BTreeMap<Lane, u32>,
}

/// What bounds one runner's work: [`RunnerSettings`] in the types that the runner uses.
#[derive(Debug, Clone)]
pub struct RunnerLimits {
    /// The consumers' acknowledgement deadline.
    pub ack_wait: Duration,
    /// Maximum messages that the runner holds, per lane.
    pub window: usize,
    /// Maximum decisions at once of one runner.
    pub slots: usize,
    /// The lanes' shares of the slots.
    pub weights: Weights,
    /// A message that was handed out more often than this becomes a dead letter.
    pub max_deliveries: u32,
    /// Longest time to finish when stopped.
    pub drain: Duration,
}

impl RunnerSettings {
    /// The same in the types that a runner uses. Zero slots or weights would stop a lane for ever, so one is the least.
    pub fn limits(&self) -> RunnerLimits {
        RunnerLimits {
            ack_wait: Duration::from_millis(self.ack_wait_ms),
            window: self.window.max(1),
            slots: self.slots.max(1),
            weights: Lane::ALL.map(|lane| self.weights.get(&lane).copied().unwrap_or(1).max(1)),
            max_deliveries: self.max_deliveries,
            drain: Duration::from_millis(self.drain_ms),
        }
    }

    /// Refuses an acknowledgement deadline that is not longer than a provider call may take: the message would be
    /// handed out again, and sent twice, while the first call still waits.
    ///
    /// # Errors
    /// Names `runner.ack_wait_ms`.
    pub fn check_longest_call(&self, longest_call: Duration) -> Result<(), SettingsError> {
        if Duration::from_millis(self.ack_wait_ms) > longest_call {
            return Ok(());
        }
        let problem = format!(
            "{} must be longer than the longest provider call ({} ms, send.<channel>.timeout_ms)",
            self.ack_wait_ms,
            longest_call.as_millis()
        );
        Err(SettingsError::invalid("runner.ack_wait_ms", problem))
    }
}

impl StreamSettings {
    /// Bytes that the server sets aside for all streams; what is deferred needs disk beside them.
    pub fn set_aside_bytes(&self) -> i64 {
        let lanes = Lane::ALL.len() as i64;
        // A stream for each lane of each stage after the first, the dead letters, the receipts.
        let queues = (Stage::ALL.len() as i64 - 1) * lanes + 2;
        let (front, behind) = (self.front_bytes.saturating_mul(lanes), self.queue_bytes.saturating_mul(queues));
        [front, behind, self.trace_bytes, self.rejected_bytes, self.inbox_bytes]
            .into_iter()
            .fold(0, i64::saturating_add)
    }

    /// Refuses a window in which a redelivered message's outputs would be stored twice.
    ///
    /// # Errors
    /// Names `streams.hop_window_s`.
    pub fn check(&self, runner: &RunnerSettings) -> Result<(), SettingsError> {
        if self.hop_window_s * 1000 > runner.ack_wait_ms {
            return Ok(());
        }
        let problem = format!(
            "{} must be longer than runner.ack_wait_ms ({}): a redelivered message's outputs would be stored twice",
            self.hop_window_s, runner.ack_wait_ms
        );
        Err(SettingsError::invalid("streams.hop_window_s", problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_complete_and_agree() {
        let Settings { streams, runner } = Settings::with("").unwrap();
        assert_eq!(runner.limits().weights, [1, 4, 2, 1]);
        streams.check(&runner).unwrap();
    }

    #[test]
    fn a_short_deadline_is_an_error() {
        let Settings { streams, mut runner } = Settings::with("").unwrap();
        runner.ack_wait_ms = 200_000;
        assert_eq!(streams.check(&runner).unwrap_err().key, "streams.hop_window_s");
        runner.ack_wait_ms = 5_000;
        assert!(runner.check_longest_call(Duration::from_secs(5)).is_err());
        assert!(runner.check_longest_call(Duration::from_secs(4)).is_ok());
    }
}
