//! Receipts and engagement: what providers and apps report after the send, on `notify.receipt.<kind>.<channel>`.
//!
//! JSON: one receipt, or an array of receipts of the same kind and channel. Receipts may come late, repeatedly and in any
//! order.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Channel;

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
    /// The reporter: the account that carried the delivery, or an app's own word.
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

/// Whether these can be the ids of one of Chasqui's deliveries; else which field cannot, and why.
pub fn check_ids(notification_id: Uuid, delivery_id: Uuid) -> Result<(), (&'static str, &'static str)> {
    if notification_id.get_version_num() != 7 {
        return Err(("notification_id", "is not one of Chasqui's"));
    }
    if delivery_id.is_nil() {
        return Err(("delivery_id", "is nil"));
    }
    Ok(())
}

/// Maximum number of reports in the body of `POST /v1/receipts`.
pub const MAX_REPORTS: usize = 1_000;
/// Maximum characters of a report's `provider`.
pub const MAX_PROVIDER: usize = 64;
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
    /// Who saw it, if not the app itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub provider: Option<String>,
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
