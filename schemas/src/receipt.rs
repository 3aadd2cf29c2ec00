//! Receipts and engagement: what providers and apps report after the send, on `notify.receipt.<kind>.<channel>`.
//!
//! JSON: one receipt, or an array of receipts of the same kind and channel. Receipts may come late, repeatedly and in any
//! order.

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Channel, Pepper, id};

crate::vocabulary! {
    /// What happened to a delivery after the provider accepted it.
    #[derive(JsonSchema)]
    pub enum ReceiptKind "receipt kind" {
        Delivered = "delivered": "It reached the device, the mailbox or the phone.",
        Bounced = "bounced": "The address does not take it.",
        Opened = "opened": "It was opened, by a person or by a machine.",
        Clicked = "clicked": "A link in it was followed, by a person or by a machine.",
        Unsubscribed = "unsubscribed": "The recipient wants no more of the kind.",
        Complained = "complained": "The recipient called it spam.",
        Failed = "failed": "The provider gave up after accepting it.",
    }
}

crate::vocabulary! {
    /// Who opened or clicked: mail proxies and scanners fetch pixels and links by themselves.
    #[derive(Default, JsonSchema)]
    pub enum Actor "actor" {
        Human = "human": "A person.",
        Machine = "machine": "A proxy or a scanner.",
        #[default]
        Unknown = "unknown": "It cannot be known who it was.",
    }
}

/// One report about one delivery. The subject names its kind and channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The delivery's id, as the provider got it.
    pub delivery_id: Uuid,
    /// The notification's id, as the provider got it. It is the trace's id, so no look-up is needed.
    pub notification_id: Uuid,
    /// When it happened, by the reporter's clock; when the receipt was stored, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The app that reports, as its token says; absent where it is no app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The account that carried the delivery, where the vendor reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The vendor of that account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// The reporter's own code or words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Who opened or clicked.
    #[serde(default)]
    pub by: Actor,
}

impl Receipt {
    /// A receipt that says nothing more.
    pub fn new(notification_id: Uuid, delivery_id: Uuid, by: Actor) -> Self {
        Receipt { delivery_id, notification_id, at: None, app: None, provider: None, vendor: None, detail: None, by }
    }
}

/// Maximum time by which a notification's id may be ahead of our clock: clocks differ, and not by more.
const MAX_AHEAD: SignedDuration = SignedDuration::from_mins(10);

/// Holds the ids that come with a receipt against what we know. They decide which partition of ClickHouse is written,
/// and whose rates change; and anybody can make a UUID up.
#[derive(Debug, Clone, Copy)]
pub struct IdCheck<'a> {
    /// When the receipt came.
    pub now: Timestamp,
    /// How long notifications are kept. Nothing is known of what is older, and its partition is gone.
    pub kept: SignedDuration,
    /// What proves ids; `None` where it is not known yet. Then whoever reads the receipt next has to check again.
    pub pepper: Option<&'a Pepper>,
}

impl IdCheck<'_> {
    /// Whether these are the ids of one of our deliveries, and of the `app` that reports it, where one does; else which
    /// field is wrong, and how.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn check(
        &self,
        app: Option<&str>,
        notification_id: Uuid,
        delivery_id: Uuid,
    ) -> Result<(), (&'static str, &'static str)> {
        if notification_id.get_version_num() != 7 {
            return Err(("notification_id", "is not one of Chasqui's"));
        }
        let submitted_at = Timestamp::from_millisecond(id::embedded_ms(notification_id)).unwrap_or(Timestamp::MAX);
        let age = self.now.duration_since(submitted_at);
        if age < -MAX_AHEAD {
            return Err(("notification_id", "is of the future"));
        }
        if age > self.kept {
            return Err(("notification_id", "is of a notification that is not kept any more"));
        }
        let Some(pepper) = self.pepper else { return Ok(()) };
        if !pepper.is_ours(notification_id, delivery_id) {
            return Err(("delivery_id", "is not one of Chasqui's, or not of this notification"));
        }
        if app.is_some_and(|app| !pepper.is_of(app, notification_id, delivery_id)) {
            return Err(("delivery_id", "is of another app's delivery"));
        }
        Ok(())
    }
}

/// Maximum number of reports in the body of `POST /v1/receipts`.
pub const MAX_REPORTS: usize = 1_000;
/// Maximum characters of a report's `detail`.
pub const MAX_DETAIL: usize = 500;

/// One element of the JSON array that an app sends to `POST /v1/receipts`: a receipt, with its kind and channel. A
/// request has at most 1,000 of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What happened.
    pub kind: ReceiptKind,
    /// The channel of the delivery.
    pub channel: Channel,
    /// The delivery, as the message named it.
    pub delivery_id: Uuid,
    /// The notification, as the message named it.
    pub notification_id: Uuid,
    /// When it happened, by the app's clock; when the request came, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The app's own code or words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 500))]
    pub detail: Option<String>,
    /// Who opened or clicked.
    #[serde(default)]
    pub by: Actor,
}

/// The receipts of a message: one, or an array.
///
/// # Errors
/// Where it is neither.
pub fn read(payload: &[u8]) -> Result<Vec<Receipt>, serde_json::Error> {
    if payload.trim_ascii_start().starts_with(b"[") {
        serde_json::from_slice(payload)
    } else {
        Ok(vec![serde_json::from_slice(payload)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ours_of_the_time_that_is_kept_and_of_the_app_that_reports() {
        let (pepper, now) = (Pepper::new(b"ours"), Timestamp::constant(1_800_000_000, 0));
        let ids = |age: SignedDuration| {
            let notification = id::notification(now - age, Uuid::nil(), "ada");
            (notification, pepper.delivery("shop", notification, Channel::Push, "phone"))
        };
        let check = IdCheck { now, kept: SignedDuration::from_hours(24), pepper: Some(&pepper) };
        let hours = SignedDuration::from_hours;
        for (age, complaint) in [
            (hours(0), ""),
            (-SignedDuration::from_mins(9), ""),
            (-SignedDuration::from_mins(11), "is of the future"),
            (-hours(24 * 20_000), "is of the future"),
            (hours(23), ""),
            (hours(25), "is of a notification that is not kept any more"),
        ] {
            let (notification, delivery) = ids(age);
            for check in [check, IdCheck { pepper: None, ..check }] {
                let wrong = check.check(Some("shop"), notification, delivery).err().unwrap_or_default();
                assert_eq!(wrong.1, complaint, "{age}");
            }
        }
        let (notification, delivery) = ids(hours(1));
        assert_eq!(check.check(None, notification, delivery), Ok(()));
        for (app, notification, delivery, field) in [
            (Some("bank"), notification, delivery, "delivery_id"),
            (None, notification, Uuid::new_v4(), "delivery_id"),
            (None, notification, Uuid::nil(), "delivery_id"),
            (None, Uuid::new_v4(), delivery, "notification_id"),
        ] {
            assert_eq!(check.check(app, notification, delivery).unwrap_err().0, field);
        }
    }
}
