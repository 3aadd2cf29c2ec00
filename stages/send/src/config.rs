//! Settings of the send stage: the `[send]` table.
//!
//! Guarantee: what could not work is refused at start-up, with the setting's name. The defaults are not in the
//! types but in [`DEFAULTS`], which the runtime reads first: one text is both the manual and the values.

use std::{collections::BTreeMap, time::Duration};

use chasqui_schemas::Channel;
use serde::Deserialize;

use crate::{
    alerts,
    providers::{apns, fcm, mailgun, sandbox, sendgrid, smtp, twilio, vonage, webpush},
};

/// Every setting with its default, as commented TOML.
pub const DEFAULTS: &str = include_str!("../send.toml");

/// Longest time-out of a call: a worker that is busy longer looks dead.
const MAX_TIMEOUT_MS: u64 = 10 * 60 * 1_000;
/// Longest wait between attempts, and longest horizon.
const MAX_WAIT_S: u64 = 7 * 24 * 60 * 60;

/// The `[send]` table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Devices.
    pub push: ChannelPolicy,
    /// Phones.
    pub sms: ChannelPolicy,
    /// Mailboxes.
    pub email: ChannelPolicy,
    /// In-app inboxes.
    pub in_app: ChannelPolicy,
    /// Push to Apple devices.
    pub apns: apns::Config,
    /// Push to Android devices.
    pub fcm: fcm::Config,
    /// Push to browsers.
    pub webpush: webpush::Config,
    /// SMS through Twilio.
    pub twilio: twilio::Config,
    /// SMS through Vonage.
    pub vonage: vonage::Config,
    /// Mail through a relay.
    pub smtp: smtp::Config,
    /// Mail through SendGrid.
    pub sendgrid: sendgrid::Config,
    /// Mail through Mailgun.
    pub mailgun: mailgun::Config,
    /// The provider that delivers nowhere.
    pub sandbox: sandbox::Config,
    /// What developers are told.
    pub alerts: alerts::Config,
}

/// What holds for the attempts on one channel.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelPolicy {
    /// Name of the provider that serves the channel.
    pub provider: String,
    /// Longest wait for a provider's answer, in milliseconds.
    pub timeout_ms: u64,
    /// Waits before the second, third, … attempt, in milliseconds; the last one repeats.
    pub schedule_ms: Vec<u64>,
    /// Attempts at most, the first included.
    pub max_attempts: u32,
    /// Seconds after the first attempt during which another may begin.
    pub horizon_s: u64,
    /// What to do when it is unknown whether an attempt was sent.
    pub on_ambiguity: Ambiguity,
}

/// What to do when it is unknown whether an attempt was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ambiguity {
    /// Send again: at least once.
    Retry,
    /// Leave a dead letter: at most once.
    Hold,
}

/// The settings cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A channel names a provider that is not there.
    #[error("send.{channel}.provider is `{provider}`, but the providers set up are: {known}")]
    UnknownProvider {
        /// The channel.
        channel: Channel,
        /// What it names.
        provider: String,
        /// The providers that there are, comma-separated.
        known: String,
    },
    /// A value cannot work.
    #[error("{key}: {problem}")]
    Invalid {
        /// The setting.
        key: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A file cannot be used.
    #[error("{key}: the file cannot be used")]
    File {
        /// The setting that names it.
        key: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl ConfigError {
    pub(crate) fn invalid(key: impl Into<String>, problem: impl Into<String>) -> Self {
        ConfigError::Invalid { key: key.into(), problem: problem.into() }
    }
}

impl Config {
    /// What holds for a channel.
    pub fn policy(&self, channel: Channel) -> &ChannelPolicy {
        match channel {
            Channel::Push => &self.push,
            Channel::Sms => &self.sms,
            Channel::Email => &self.email,
            Channel::InApp => &self.in_app,
        }
    }

    /// Which provider serves which channel: for prioritize, which writes it into the delivery.
    pub fn routes(&self) -> BTreeMap<Channel, String> {
        Channel::ALL.into_iter().map(|channel| (channel, self.policy(channel).provider.clone())).collect()
    }

    /// What holds for each channel.
    pub fn policies(&self) -> BTreeMap<Channel, ChannelPolicy> {
        Channel::ALL.into_iter().map(|channel| (channel, self.policy(channel).clone())).collect()
    }
}

impl ChannelPolicy {
    /// Longest wait for a provider's answer.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Refuses values that cannot work.
    pub(crate) fn check(&self, channel: Channel) -> Result<(), ConfigError> {
        let within = |name: &str, value: u64, max: u64| match value {
            0 => Err(ConfigError::invalid(format!("send.{channel}.{name}"), "must be more than 0")),
            v if v > max => {
                Err(ConfigError::invalid(format!("send.{channel}.{name}"), format!("must be {max} at most")))
            }
            _ => Ok(()),
        };
        within("timeout_ms", self.timeout_ms, MAX_TIMEOUT_MS)?;
        within("max_attempts", self.max_attempts.into(), 1_000)?;
        within("horizon_s", self.horizon_s, MAX_WAIT_S)?;
        within("schedule_ms", self.schedule_ms.len() as u64, 100)?;
        self.schedule_ms.iter().try_for_each(|&wait| within("schedule_ms", wait, MAX_WAIT_S * 1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, config_with};

    #[test]
    fn the_default_text_is_a_whole_configuration() {
        let config = config();
        for channel in Channel::ALL {
            config.policy(channel).check(channel).unwrap();
        }
        let routes: Vec<_> = config.routes().into_values().collect();
        assert_eq!(routes, ["sandbox", "sandbox", "sandbox", "inbox"]);
        assert_eq!(config.sms.on_ambiguity, Ambiguity::Hold);
    }

    #[test]
    fn an_unknown_setting_is_refused_by_name() {
        let error = config_with("[send.push]\ntimeout = 5").unwrap_err();
        assert!(error.to_string().contains("timeout"), "{error}");
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        for (text, key) in [
            ("timeout_ms = 0", "send.sms.timeout_ms"),
            ("timeout_ms = 99999999999", "send.sms.timeout_ms"),
            ("schedule_ms = []", "send.sms.schedule_ms"),
            ("schedule_ms = [1000, 0]", "send.sms.schedule_ms"),
            ("max_attempts = 0", "send.sms.max_attempts"),
            ("horizon_s = 0", "send.sms.horizon_s"),
        ] {
            let config = config_with(&format!("[send.sms]\n{text}")).unwrap();
            let error = config.sms.check(Channel::Sms).unwrap_err();
            assert!(error.to_string().starts_with(key), "{text}: {error}");
        }
    }
}
