//! Filter: decides where a notification may go, and when. **Quiet hours are decided here**, and nowhere else.
//!
//! | rule | where | what passes it all the same |
//! |---|---|---|
//! | it is too late to send | here | nothing |
//! | the user opted out: of everything, the category, the channel, the device | [`Preferences::opt_out`], [`consent`] | mandatory categories |
//! | the e-mail address or phone number is on the suppression list | [`consent`] | by what stands against it: mandatory categories, what is not bulk ([`chasqui_schemas::suppression`]) |
//! | it is the user's quiet hours | `quiet_hours` | mandatory categories, the critical lane, notifications to the in-app inbox alone |
//!
//! An inline recipient has the preferences of the users who have the address in their contacts, as enrich found them: what one
//! of them does not want is not sent. Where there is none, neither opt-outs nor quiet hours apply.
//!
//! Quiet hours come last, so that a notification that may go nowhere is suppressed now and not in the morning. They
//! hold the whole notification, its in-app part too, because a notification is in one place at a time. When it comes
//! back, everything is decided anew on the preferences and suppressions of that moment; the contacts are still those
//! that enrich found, without devices that have left them. A notification that would be too late in the morning expires at once.
//!
//! Of those that wait and replace one another (`collapse_key`), the newest goes on when the quiet hours are over. The others end
//! then, or when they would have to wait, as `superseded`; so does what had to wait while a newer one passed.
//!
//! The lane that counts is the category's, where an operator has set one, as in prioritize: a producer cannot wake
//! people by choosing another subject.
//!
//! Guarantee: nothing goes where the user has opted out, except in a mandatory category; nothing goes to an address where
//! its entry on the suppression list stops the message. A device gets a notification once, also where the contacts name
//! it twice.
//!
//! After a crash the message comes again and is decided again; reading changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chasqui_contract::{Clock, Decide, Decision, Directory, Newest, Output, StoreError, Verdict};
use chasqui_rules::consent::{self, Weight};
use chasqui_schemas::{
    Channel, Lane, Notification, Pepper, Reason,
    collapse::Passage,
    delivery::Endpoint,
    normal::zone,
    record::{Contacts, Preferences, QuietHours},
    trace::Attributes,
};
use jiff::tz::TimeZone;
use uuid::Uuid;

mod choice;
mod quiet_hours;
#[cfg(test)]
mod tests;

/// The filter stage.
pub struct Filter {
    /// Where it looks up preferences and suppressions.
    pub directory: Arc<dyn Directory>,
    /// Says what time it is: too late to send, or quiet hours.
    pub clock: Arc<dyn Clock>,
    /// Says which notification is the newest of those that replace one another.
    pub newest: Arc<dyn Newest>,
    /// Keeps addresses out of the ids of endpoints.
    pub pepper: Pepper,
}

/// Which channels were refused and why, and which devices.
#[derive(Default)]
struct Skipped {
    channels: Vec<(Channel, Reason)>,
    devices: BTreeMap<String, Reason>,
}

impl Skipped {
    fn reasons(&self) -> impl Iterator<Item = Reason> {
        self.channels.iter().map(|(_, reason)| *reason).chain(self.devices.values().copied())
    }

    /// For the trace. Devices share an attribute, because ids of devices are as many as the users have.
    fn explain(&self) -> Attributes {
        let mut attributes = Attributes::new();
        if !self.devices.is_empty() {
            let devices: BTreeMap<_, _> = self.devices.iter().map(|(id, reason)| (id, reason.as_str())).collect();
            // A map of texts always serialises.
            let devices = serde_json::to_string(&devices).unwrap_or_default();
            attributes.push(("skipped.push.devices".into(), devices.into()));
        }
        let channels = self.channels.iter();
        attributes.extend(channels.map(|(channel, why)| (format!("skipped.{channel}").into(), why.as_str().into())));
        attributes
    }
}

impl Decide for Filter {
    const STAGE: chasqui_schemas::Stage = chasqui_schemas::Stage::Filter;
    type Input = Notification;

    async fn decide(&self, mut notification: Notification) -> Result<Decision, StoreError> {
        if notification.pass > 0 {
            self.renew_devices(&mut notification).await?;
        }
        let (Some(contacts), Some(policy)) = (&notification.contacts, &notification.policy) else {
            // Only the policy says whether the message is mandatory, and either guess could harm.
            return Ok(Decision::dead(Reason::Undecodable, "it lacks the contacts or the policy that enrich sets"));
        };
        let now = self.clock.now();
        let expires_at = notification.expires_at();
        if expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Ok(Decision::suppress(Reason::Expired));
        }

        // A mandatory message does not read preferences, so that a broken record cannot hold up a security alert.
        let mut preferences = Vec::new();
        if !policy.mandatory {
            for user in notification.people() {
                preferences.extend(self.directory.preferences(user).await?);
            }
        }
        let lane = policy.lane.unwrap_or(notification.lane);
        let weight = Weight { mandatory: policy.mandatory, lane, now };
        let (endpoints, skipped) = self.choose(&notification, contacts, &preferences, weight).await?;
        let mut attributes = skipped.explain();
        if endpoints.is_empty() {
            let reason = choice::most_telling(skipped.reasons());
            return Ok(Decision { attributes, ..Decision::suppress(reason) });
        }

        let disturbs = lane != Lane::Critical && endpoints.iter().any(|e| e.channel() != Channel::InApp);
        if let Some(quiet) = preferences.iter().find_map(|p| p.quiet_hours.as_ref()).filter(|_| disturbs) {
            let zone = zone_of(quiet, contacts, &mut attributes);
            if let Some(until) = quiet_hours::end(now, &zone, quiet.start, quiet.end) {
                let zone = zone.iana_name().unwrap_or_default();
                attributes.push(("quiet_hours".into(), format!("{}-{} {zone}", quiet.start, quiet.end).into()));
                let verdict = if expires_at.is_some_and(|expires_at| expires_at <= until) {
                    Verdict::Suppress(Reason::Expired)
                } else if let Some(newer) = self.newer(&notification).await? {
                    return Ok(superseded(newer, attributes));
                } else {
                    let message = Box::new(Output::Notification(notification));
                    Verdict::Defer { until, reason: Reason::QuietHours, message }
                };
                return Ok(Decision { attributes, ..Decision::new(verdict) });
            }
        }
        if notification.pass > 0
            && let Some(newer) = self.newer(&notification).await?
        {
            return Ok(superseded(newer, attributes));
        }

        // From here on the endpoints say where it goes. Of the contacts, render needs the locale and nothing else does:
        // addresses that nobody needs do not travel.
        notification.contacts = notification.contacts.map(|contacts| Contacts {
            locale: contacts.locale,
            timezone: contacts.timezone,
            ..Contacts::default()
        });
        notification.endpoints = endpoints;
        Ok(Decision { attributes, ..Decision::forward(notification) })
    }
}

fn superseded(newer: Uuid, attributes: Attributes) -> Decision {
    Decision { attributes, ..Decision::suppress(Reason::Superseded) }.with("newer", newer.to_string())
}

impl Filter {
    /// What had to wait may have lost devices meanwhile: one may have been handed on, and signed in by another user. Others may
    /// have new tokens.
    async fn renew_devices(&self, notification: &mut Notification) -> Result<(), StoreError> {
        let (Some(user), Some(contacts)) = (notification.recipient.user(), &mut notification.contacts) else {
            return Ok(());
        };
        if !contacts.devices.is_empty() {
            let now = self.directory.contacts(user).await?.unwrap_or_default();
            contacts.devices.retain_mut(|device| {
                if now.has_endpoint(device.platform, &device.token) {
                    return true;
                }
                let renewed = now.devices.iter().find(|each| each.id == device.id);
                renewed.is_some_and(|renewed| {
                    *device = renewed.clone();
                    true
                })
            });
        }
        Ok(())
    }

    /// A notification that replaces this one, which waits or had to: a newer one that waits too, or has passed.
    async fn newer(&self, notification: &Notification) -> Result<Option<Uuid>, StoreError> {
        let Some(waiting) = notification.collapse(Passage::Waiting) else { return Ok(None) };
        let own = notification.version();
        let newest = self.newest.raise(&waiting.key, own).await?;
        let passed = match notification.collapse(Passage::Passed) {
            Some(passed) => self.newest.newest(&passed.key).await?,
            None => None,
        };
        let newest = passed.map_or(newest, |passed| newest.max(passed));
        Ok((newest > own).then_some(newest.notification))
    }

    /// Every endpoint that is wanted and allowed, and why the others are not.
    async fn choose(
        &self,
        notification: &Notification,
        contacts: &Contacts,
        preferences: &[Arc<Preferences>],
        weight: Weight,
    ) -> Result<(Vec<Endpoint>, Skipped), StoreError> {
        // Only a user has devices, and a user is one.
        let own = preferences.first().map(|preferences| &**preferences);
        let mut endpoints = Vec::new();
        let mut skipped = Skipped::default();
        // A set: a channel named twice is wanted once.
        let wanted: BTreeSet<Channel> = notification.channels().iter().copied().collect();
        for channel in wanted {
            let category = &notification.request.category;
            if let Some(reason) = preferences.iter().find_map(|p| p.opt_out(category, channel)) {
                skipped.channels.push((channel, reason));
                continue;
            }
            let allowed_before = endpoints.len();
            let mut why = Reason::NoEndpoint;
            for endpoint in choice::endpoints(channel, &notification.recipient, contacts, &self.pepper) {
                let Some(reason) = consent::refusal(&*self.directory, &endpoint, own, weight).await? else {
                    endpoints.push(endpoint);
                    continue;
                };
                if channel == Channel::Push {
                    skipped.devices.insert(endpoint.id, reason);
                }
                why = reason;
            }
            if endpoints.len() == allowed_before {
                skipped.channels.push((channel, why));
            }
        }
        Ok((endpoints, skipped))
    }
}

/// The zone of the quiet hours: their own, else the contact's, else UTC. An unknown zone counts as UTC too, and the
/// attributes say so.
fn zone_of(quiet: &QuietHours, contacts: &Contacts, attributes: &mut Attributes) -> TimeZone {
    /// Maximum characters of the zone's name in a trace: as many as a submission may use. Others may write longer ones.
    const MAX_NAME_CHARS: usize = 64;
    let Some(name) = quiet.timezone.as_deref().or(contacts.timezone.as_deref()) else { return TimeZone::UTC };
    zone::find(name).unwrap_or_else(|| {
        attributes.push(("unknown_timezone".into(), name.chars().take(MAX_NAME_CHARS).collect()));
        TimeZone::UTC
    })
}
