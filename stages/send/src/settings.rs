//! Settings of the send stage: the `[send]` table.
//!
//! Guarantee: what could not work is refused at start-up, with the setting's name. The defaults are not in the
//! types but in [`DEFAULTS`], which is read first: one text is both the manual and the values.

use std::{sync::Arc, time::Duration};

use chasqui_contract::Provider;
use chasqui_rules::{Candidate, Routes};
use chasqui_schemas::Channel;
use chasqui_settings::SettingsError;
use serde::Deserialize;

use crate::{alerts, breaker};

/// Every setting with its default, as commented TOML.
pub const DEFAULTS: &str = include_str!("../send.toml");

/// Maximum time-out of a call, in milliseconds: a worker that is busy longer looks dead.
const MAX_TIMEOUT_MS: u64 = 10 * 60 * 1_000;
/// Maximum wait between attempts, and maximum horizon, in seconds: a week-old message helps nobody.
const MAX_WAIT_S: u64 = 7 * 24 * 60 * 60;
/// Maximum weight of an account: beyond a millionth a share is no share.
const MAX_WEIGHT: u32 = 1_000_000;

/// The `[send]` table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
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
    /// Alerts to developers.
    pub alerts: alerts::Settings,
}

/// What holds for the attempts on one channel.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelPolicy {
    /// Longest wait for a provider's answer, in milliseconds.
    pub timeout_ms: u64,
    /// Waits before the second, third, … round, in milliseconds; the last one repeats. A round is one attempt at each
    /// account of the route.
    pub schedule_ms: Vec<u64>,
    /// Maximum rounds, the first included.
    pub max_rounds: u32,
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

impl Settings {
    /// What holds for a channel.
    pub fn policy(&self, channel: Channel) -> &ChannelPolicy {
        match channel {
            Channel::Push => &self.push,
            Channel::Sms => &self.sms,
            Channel::Email => &self.email,
            Channel::InApp => &self.in_app,
        }
    }

    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        self.breaker.check()?;
        Channel::ALL.into_iter().try_for_each(|channel| self.policy(channel).check(channel))
    }
}

/// Refuses a route that names an account which is not there or cannot serve it, or names one twice.
pub(crate) fn check_routes(routes: &Routes, providers: &[Arc<dyn Provider>]) -> Result<(), SettingsError> {
    for route in routes.all() {
        let wrong = |problem| Err(SettingsError::invalid(route.key.clone(), problem));
        for (place, Candidate { account, weight }) in route.candidates.iter().enumerate() {
            let Some(provider) = providers.iter().find(|provider| provider.account() == account) else {
                let known = providers.iter().map(|provider| provider.account()).collect::<Vec<_>>().join(", ");
                return wrong(format!("names `{account}`, but the accounts are: {known}"));
            };
            if !provider.serves(route.channel, route.platform) {
                return wrong(format!("`{account}` cannot serve it: take it off the list"));
            }
            if route.candidates[..place].iter().any(|before| before.account == *account) {
                return wrong(format!("`{account}` is on the list twice"));
            }
            if *weight > MAX_WEIGHT {
                return wrong(format!("a weight must be {MAX_WEIGHT} at most"));
            }
        }
    }
    Ok(())
}

impl ChannelPolicy {
    /// Longest wait for a provider's answer.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Refuses values that cannot work.
    fn check(&self, channel: Channel) -> Result<(), SettingsError> {
        let within = |name: &str, value: u64, max: u64| match value {
            0 => Err(SettingsError::invalid(format!("send.{channel}.{name}"), "must be more than 0")),
            v if v > max => {
                Err(SettingsError::invalid(format!("send.{channel}.{name}"), format!("must be {max} at most")))
            }
            _ => Ok(()),
        };
        within("timeout_ms", self.timeout_ms, MAX_TIMEOUT_MS)?;
        within("max_rounds", self.max_rounds.into(), 1_000)?;
        within("horizon_s", self.horizon_s, MAX_WAIT_S)?;
        within("schedule_ms", self.schedule_ms.len() as u64, 100)?;
        self.schedule_ms.iter().try_for_each(|&wait| within("schedule_ms", wait, MAX_WAIT_S * 1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ScriptedProvider, routes, settings, settings_with};

    fn check(text: &str) -> Result<(), SettingsError> {
        settings_with(text).unwrap().check()
    }

    fn check_routes_of(text: &str) -> Result<(), SettingsError> {
        let named = |name| ScriptedProvider::new([]).named(name);
        let only_sms = named("twilio").only(Channel::Sms);
        let providers: [Arc<dyn Provider>; 3] =
            [Arc::new(named("sandbox")), Arc::new(named("inbox")), Arc::new(only_sms)];
        check_routes(&routes(text), &providers)
    }

    fn refused(text: &str) -> String {
        check(text).unwrap_err().to_string()
    }

    fn refused_route(text: &str) -> String {
        check_routes_of(text).unwrap_err().to_string()
    }

    #[test]
    fn the_default_texts_are_whole() {
        check("").unwrap();
        check_routes_of("").unwrap();
        let routes = routes("");
        let lists = routes.all();
        let names: Vec<&str> = lists.iter().flat_map(|route| route.candidates).map(|each| &*each.account).collect();
        assert_eq!(names, ["sandbox", "sandbox", "sandbox", "sandbox", "sandbox", "inbox"]);
        assert_eq!(settings().sms.on_ambiguity, Ambiguity::Hold);
    }

    #[test]
    fn an_unknown_setting_is_refused_by_name() {
        for (text, name) in [("[send.push]\ntimeout = 5", "timeout"), ("[send.sms]\nproviders = []", "providers")] {
            let error = settings_with(text).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        for (text, key) in [
            ("timeout_ms = 0", "send.sms.timeout_ms"),
            ("timeout_ms = 99999999999", "send.sms.timeout_ms"),
            ("schedule_ms = []", "send.sms.schedule_ms"),
            ("schedule_ms = [1000, 0]", "send.sms.schedule_ms"),
            ("max_rounds = 0", "send.sms.max_rounds"),
            ("horizon_s = 0", "send.sms.horizon_s"),
        ] {
            let error = refused(&format!("[send.sms]\n{text}"));
            assert!(error.starts_with(key), "{text}: {error}");
        }
        assert!(refused("[send.breaker]\nprobes = 0").starts_with("send.breaker.probes"));
    }

    #[test]
    fn a_route_may_weigh_its_accounts_or_be_empty() {
        check_routes_of("sms = [\"sandbox\", { account = \"twilio\", weight = 3 }]\npush.web = []").unwrap();
    }

    #[test]
    fn an_account_that_is_not_there_or_cannot_serve_is_refused_by_name() {
        let expected = "routes.email: names `smtp`, but the accounts are: sandbox, inbox, twilio";
        assert_eq!(refused_route("email = [\"smtp\"]"), expected);
        check_routes_of("sms = [\"twilio\"]").unwrap();
        let expected = "routes.push.android: `twilio` cannot serve it: take it off the list";
        assert_eq!(refused_route("push.android = [\"sandbox\", \"twilio\"]"), expected);
        for list in ["[\"sandbox\", \"sandbox\"]", "[{ account = \"sandbox\", weight = 99999999 }]"] {
            assert!(refused_route(&format!("sms = {list}")).starts_with("routes.sms: "), "{list}");
        }
    }
}
