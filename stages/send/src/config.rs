//! Settings of the send stage: the `[send]` table.
//!
//! Guarantee: what could not work is refused at start-up, with the setting's name. The defaults are not in the
//! types but in [`DEFAULTS`], which the runtime reads first: one text is both the manual and the values.

use std::{sync::Arc, time::Duration};

use chasqui_contract::Provider;
use chasqui_providers::{apns, fcm, mailgun, sandbox, sendgrid, smtp, twilio, vonage, webpush};
use chasqui_rules::{Candidate, Routes};
use chasqui_schemas::{Channel, record::Platform};
use chasqui_settings::SettingsError;
use serde::Deserialize;

use crate::{alerts, breaker};

/// Every setting with its default, as commented TOML.
pub const DEFAULTS: &str = include_str!("../send.toml");

/// Longest time-out of a call: a worker that is busy longer looks dead.
const MAX_TIMEOUT_MS: u64 = 10 * 60 * 1_000;
/// Longest wait between attempts, and longest horizon.
const MAX_WAIT_S: u64 = 7 * 24 * 60 * 60;
/// Greatest weight of a provider.
const MAX_WEIGHT: u32 = 1_000_000;

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
    /// When a provider is left alone for a while.
    pub breaker: breaker::Settings,
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
    /// The providers of the channel; empty for push, which has the three lists below.
    #[serde(default)]
    pub providers: Vec<Candidate>,
    /// The providers of iOS devices.
    #[serde(default)]
    pub ios: Vec<Candidate>,
    /// The providers of Android devices.
    #[serde(default)]
    pub android: Vec<Candidate>,
    /// The providers of browsers.
    #[serde(default)]
    pub web: Vec<Candidate>,
    /// Longest wait for a provider's answer, in milliseconds.
    pub timeout_ms: u64,
    /// Waits before the second, third, … round, in milliseconds; the last one repeats. A round is one attempt at each
    /// provider of the list.
    pub schedule_ms: Vec<u64>,
    /// Rounds at most, the first included.
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

    /// The settings of every provider.
    pub(crate) fn accounts(&self) -> chasqui_providers::Configs<'_> {
        let Config { apns, fcm, webpush, twilio, vonage, smtp, sendgrid, mailgun, sandbox, .. } = self;
        chasqui_providers::Configs { apns, fcm, webpush, twilio, vonage, smtp, sendgrid, mailgun, sandbox }
    }

    /// Which providers serve what: for prioritize, which writes one into the delivery, and for send's failover.
    pub fn routes(&self) -> Routes {
        let lists = self.lists().into_iter();
        Routes(lists.map(|(_, channel, platform, list)| ((channel, platform), list.to_vec())).collect())
    }

    /// Every list of providers: its key, and the channel and platform it is for.
    fn lists(&self) -> [(String, Channel, Option<Platform>, &[Candidate]); 6] {
        let push = |name: &str, platform, list| (format!("send.push.{name}"), Channel::Push, Some(platform), list);
        let whole = |channel| (format!("send.{channel}.providers"), channel, None, &self.policy(channel).providers[..]);
        [
            push("ios", Platform::Ios, &self.push.ios[..]),
            push("android", Platform::Android, &self.push.android[..]),
            push("web", Platform::Web, &self.push.web[..]),
            whole(Channel::Sms),
            whole(Channel::Email),
            whole(Channel::InApp),
        ]
    }

    /// Refuses what cannot work, given the providers that are set up.
    pub(crate) fn check(&self, providers: &[Arc<dyn Provider>]) -> Result<(), SettingsError> {
        self.breaker.check()?;
        for channel in Channel::ALL {
            self.policy(channel).check(channel)?;
        }
        for (key, channel, platform, list) in self.lists() {
            for (place, Candidate { name, weight }) in list.iter().enumerate() {
                let Some(provider) = providers.iter().find(|provider| provider.name() == name) else {
                    let known = providers.iter().map(|provider| provider.name()).collect::<Vec<_>>().join(", ");
                    let problem = format!("names `{name}`, but the providers set up are: {known}");
                    return Err(SettingsError::invalid(key, problem));
                };
                if !provider.serves(channel, platform) {
                    return Err(SettingsError::invalid(key, format!("`{name}` cannot serve it: take it off the list")));
                }
                if list[..place].iter().any(|before| before.name == *name) {
                    return Err(SettingsError::invalid(key, format!("`{name}` is on the list twice")));
                }
                if *weight > MAX_WEIGHT {
                    return Err(SettingsError::invalid(key, format!("a weight must be {MAX_WEIGHT} at most")));
                }
            }
        }
        Ok(())
    }
}

impl ChannelPolicy {
    /// Longest wait for a provider's answer.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Refuses values that cannot work.
    fn check(&self, channel: Channel) -> Result<(), SettingsError> {
        let by_platform = [("ios", &self.ios), ("android", &self.android), ("web", &self.web)];
        if channel == Channel::Push && !self.providers.is_empty() {
            return Err(SettingsError::invalid("send.push.providers", "push has the lists `ios`, `android` and `web`"));
        }
        if let Some((name, _)) = by_platform.iter().find(|(_, list)| channel != Channel::Push && !list.is_empty()) {
            return Err(SettingsError::invalid(format!("send.{channel}.{name}"), "only push has it: use `providers`"));
        }
        let within = |name: &str, value: u64, max: u64| match value {
            0 => Err(SettingsError::invalid(format!("send.{channel}.{name}"), "must be more than 0")),
            v if v > max => {
                Err(SettingsError::invalid(format!("send.{channel}.{name}"), format!("must be {max} at most")))
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
    use crate::testing::{ScriptedProvider, config, config_with};

    fn check(text: &str) -> Result<(), SettingsError> {
        let named = |name| ScriptedProvider::new([]).named(name);
        let only_sms = named("twilio").only(Channel::Sms);
        let providers: [Arc<dyn Provider>; 3] =
            [Arc::new(named("sandbox")), Arc::new(named("inbox")), Arc::new(only_sms)];
        config_with(text).unwrap().check(&providers)
    }

    fn refused(text: &str) -> String {
        check(text).unwrap_err().to_string()
    }

    #[test]
    fn the_default_text_is_a_whole_configuration() {
        check("").unwrap();
        let routes = config().routes().0;
        let names: Vec<&str> = routes.values().flatten().map(|candidate| candidate.name.as_str()).collect();
        assert_eq!(names, ["sandbox", "sandbox", "sandbox", "sandbox", "sandbox", "inbox"]);
        assert_eq!(config().sms.on_ambiguity, Ambiguity::Hold);
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
            ("web = [\"sandbox\"]", "send.sms.web"),
            ("providers = [\"sandbox\", \"sandbox\"]", "send.sms.providers"),
            ("providers = [{ name = \"sandbox\", weight = 99999999 }]", "send.sms.providers"),
        ] {
            let error = refused(&format!("[send.sms]\n{text}"));
            assert!(error.starts_with(key), "{text}: {error}");
        }
        assert!(refused("[send.push]\nproviders = [\"sandbox\"]").starts_with("send.push.providers"));
        assert!(refused("[send.breaker]\nprobes = 0").starts_with("send.breaker.probes"));
    }

    #[test]
    fn a_list_may_weigh_its_providers_or_be_empty() {
        let text = "[send.sms]\nproviders = [\"sandbox\", { name = \"twilio\", weight = 3 }]\n[send.push]\nweb = []";
        check(text).unwrap();
        let routes = config_with(text).unwrap().routes().0;
        assert_eq!(routes[&(Channel::Sms, None)][1], Candidate { name: "twilio".into(), weight: 3 });
        assert!(routes[&(Channel::Push, Some(Platform::Web))].is_empty());
    }

    #[test]
    fn a_provider_that_is_not_there_or_cannot_serve_is_refused_by_name() {
        let told = "send.email.providers: names `smtp`, but the providers set up are: sandbox, inbox, twilio";
        assert_eq!(refused("[send.email]\nproviders = [\"smtp\"]"), told);
        check("[send.sms]\nproviders = [\"twilio\"]").unwrap();
        let told = refused("[send.push]\nandroid = [\"sandbox\", \"twilio\"]");
        assert_eq!(told, "send.push.android: `twilio` cannot serve it: take it off the list");
    }
}
