//! Enrich: adds how to reach the recipient, and the rules of the category, as they are now.
//!
//! A notification whose `send_at` lies ahead waits here, before anything is looked up, so that contacts and rules are
//! fresh when it goes on. Enrich applies no preferences: filter does. For an inline recipient it finds whose the address is, so
//! that a producer does not pass by a user's preferences by naming the address.
//!
//! Guarantee: a notification that goes on has `contacts` and `policy`, and was not too late when it went on. Its app may use
//! its category, by the record that filter, render and send go by. It has as many devices as a record may have, the newest. Validate has refused most of what may not; what
//! waited since then meets the record as it is now.
//!
//! After a crash the message comes again and enrich looks up again; reading changes nothing.

use std::sync::Arc;

use chasqui_contract::{Clock, Decide, Decision, Directory, Output, StoreError, Verdict};
use chasqui_rules::Apps;
use chasqui_schemas::{
    Notification, Reason,
    notification::Recipient,
    record::{Category, Contacts},
    trace::Attributes,
};
use compact_str::ToCompactString;

#[cfg(test)]
mod tests;

/// The enrich stage.
pub struct Enrich {
    /// Where it looks up contacts and categories.
    pub directory: Arc<dyn Directory>,
    /// Says whether `send_at` has come, and whether it is too late to send.
    pub clock: Arc<dyn Clock>,
    /// What each app may.
    pub apps: Apps,
}

impl Decide for Enrich {
    const STAGE: chasqui_schemas::Stage = chasqui_schemas::Stage::Enrich;
    type Input = Notification;

    async fn decide(&self, mut notification: Notification) -> Result<Decision, StoreError> {
        let now = self.clock.now();
        if let Some(send_at) = notification.request.send_at.filter(|&send_at| send_at > now) {
            // It would only wait for a moment at which it is too late.
            if notification.expires_at().is_some_and(|expires_at| expires_at <= send_at) {
                return Ok(Decision::suppress(Reason::Expired));
            }
            let message = Box::new(Output::Notification(notification));
            return Ok(Decision::new(Verdict::Defer { until: send_at, reason: Reason::Scheduled, message }));
        }

        let category = self.directory.category(&notification.request.category).await?;
        let record = self.apps.record(&notification.app, &*self.directory).await?;
        let may = self.apps.of(&notification.app, record.as_deref());
        if let Some(what) = may.category(&notification.request.category, category.as_deref()) {
            return Ok(Decision::suppress(Reason::CategoryNotAllowed).with("detail", what));
        }
        let policy_from = if category.is_some() { "record" } else { "default" };
        notification.policy = Some(category.as_deref().map_or_else(Category::default, Category::clone));
        if notification.expires_at().is_some_and(|expires_at| expires_at <= now) {
            return Ok(Decision::suppress(Reason::Expired).with("policy", policy_from));
        }

        let mut contacts = match &notification.recipient {
            Recipient::Inline(contacts) => {
                let mut contacts = contacts.clone();
                // What is mandatory asks nobody, so that no record can hold it up.
                if !category.is_some_and(|category| category.mandatory) {
                    notification.owners = self.owners(&mut contacts).await?;
                }
                contacts
            }
            Recipient::User(user) => match self.directory.contacts(user).await? {
                Some(contacts) => Contacts::clone(&contacts),
                None => return Ok(Decision::suppress(Reason::UnknownUser).with("policy", policy_from)),
            },
        };
        let left_out = contacts.keep_newest_devices();
        let mut attributes = explain(&contacts, policy_from);
        if !notification.owners.is_empty() {
            attributes.push(("owners".into(), notification.owners.len().to_compact_string()));
        }
        if left_out > 0 {
            attributes.push(("devices.left_out".into(), left_out.to_compact_string()));
        }
        notification.contacts = Some(contacts);
        Ok(Decision { attributes, ..Decision::forward(notification) })
    }
}

impl Enrich {
    /// The users whose address an inline recipient is. Quiet hours may need their time zone.
    async fn owners(&self, inline: &mut Contacts) -> Result<Vec<String>, StoreError> {
        let mut users: Vec<String> = Vec::new();
        for address in inline.emails.iter().chain(&inline.phones) {
            let Some(owners) = self.directory.owners(address).await? else { continue };
            for user in &owners.users {
                let Some(contacts) = self.directory.contacts(user).await? else { continue };
                // The index follows the contacts at a distance.
                if contacts.has_address(address) && !users.contains(user) {
                    inline.timezone = inline.timezone.take().or_else(|| contacts.timezone.clone());
                    users.push(user.clone());
                }
            }
        }
        Ok(users)
    }
}

/// For the trace: how many addresses there are, and never which.
fn explain(contacts: &Contacts, policy_from: &str) -> Attributes {
    let mut attributes = vec![
        ("policy".into(), policy_from.into()),
        ("devices".into(), contacts.devices.len().to_compact_string()),
        ("emails".into(), contacts.emails.len().to_compact_string()),
        ("phones".into(), contacts.phones.len().to_compact_string()),
    ];
    for (key, value) in [("locale", &contacts.locale), ("timezone", &contacts.timezone)] {
        attributes.extend(value.as_deref().map(|value| (key.into(), value.into())));
    }
    attributes
}
