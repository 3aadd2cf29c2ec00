//! The submission: what a producer publishes to `notify.submit.<lane>.<app>`.
//!
//! The JSON Schema derived from these types (`schemas/json/submission.json`) is the contract; the validate
//! stage checks against it. Field names are snake_case; validate accepts camelCase spellings too.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::Channel;

/// Maximum bytes of a submission as it is published.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Maximum recipients of one submission.
pub const MAX_RECIPIENTS: usize = 1_000;
/// Maximum bytes of `data`, as compact JSON.
pub const MAX_DATA_BYTES: usize = 64 * 1024;
/// Maximum bytes of an inline `content`, all its texts together. Every recipient gets a copy.
pub const MAX_CONTENT_BYTES: usize = 256 * 1024;
/// Maximum bytes of `metadata`, and of `overrides`, as compact JSON.
pub const MAX_EXTRA_BYTES: usize = 16 * 1024;

/// Maximum bytes of `content`, `data`, `metadata` and `overrides`, as compact JSON, times the recipients: each gets a copy, at
/// every stage.
pub const MAX_FAN_OUT_BYTES: usize = 8 * 1024 * 1024;

/// Last moment that a submission may name and a schedule may hold, 2262-04-11: brokers and tables count nanoseconds in 64
/// bits, and what lies beyond would be due at once, again and again.
pub const LAST_MOMENT: Timestamp = Timestamp::constant(i64::MAX / 1_000_000_000, 0);

/// A request to notify one or more recipients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The request's id. If absent, it is derived from where JetStream stored the submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Within the dedupe window, a recipient gets only one notification of an app with the same key. If absent, the `Nats-Msg-Id` header is the key, or else the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub idempotency_key: Option<String>,
    /// The kind of message. It decides which preferences, caps and defaults apply. The same in any case of its letters.
    #[schemars(length(min = 1, max = 64))]
    pub category: String,
    /// Whom to notify.
    #[schemars(length(min = 1, max = 1_000))]
    pub recipients: Vec<Recipient>,
    /// A template's key. A submission has either this or `content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub template: Option<String>,
    /// Inline content. A submission has either this or `template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// The template's variables; at most 64 KiB.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
    /// The channels to use; if absent, the category's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4))]
    pub channels: Option<Vec<Channel>>,
    /// The notification is not sent before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_at: Option<Timestamp>,
    /// The notification is not sent after this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// BCP 47 language tag; if absent, the recipient's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 35))]
    pub locale: Option<String>,
    /// A newer message with the same key replaces an older one on the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub collapse_key: Option<String>,
    /// The producer's own id, to find the notification by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub transaction_id: Option<String>,
    /// The producer's own labels. They are stored in the trace and never sent. At most 16 KiB.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Fields for the payload of a vendor, by the vendor's name. At most 16 KiB.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub overrides: Map<String, Value>,
    /// True: it goes the whole way, and ends in the sandbox. Nobody is notified, and nothing is claimed that a submission
    /// without it would miss. What comes with a test key is always so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub test: bool,
}

/// One recipient: a user's id, or an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Recipient {
    /// A user with a record in `contacts`.
    User(#[schemars(length(min = 1, max = 128))] String),
    /// A user or inline contacts.
    Object(RecipientObject),
}

/// Either `user`, or an address in `email` or `phone`, and what else is known of its owner.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecipientObject {
    /// A user with a record in `contacts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub user: Option<String>,
    /// A mailbox; its domain is brought to A-labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 254))]
    pub email: Option<String>,
    /// A phone number with its country's code; it is brought to E.164.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub phone: Option<String>,
    /// BCP 47 language tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 35))]
    pub locale: Option<String>,
    /// IANA time zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub timezone: Option<String>,
}

/// Text for a person. A channel leaves out what it cannot show.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Subject of an e-mail, title of a push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// HTML, for e-mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// Where a tap leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}
