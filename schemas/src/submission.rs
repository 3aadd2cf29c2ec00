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

/// Largest submission, in bytes as published.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Most recipients of one submission.
pub const MAX_RECIPIENTS: usize = 1_000;
/// Largest `data`, in bytes of compact JSON.
pub const MAX_DATA_BYTES: usize = 64 * 1024;
/// Largest inline `content`, in bytes of its texts together. It is copied to every recipient.
pub const MAX_CONTENT_BYTES: usize = 256 * 1024;
/// Largest `metadata`, and largest `overrides`, in bytes of compact JSON.
pub const MAX_EXTRA_BYTES: usize = 16 * 1024;

/// A request to notify one or more recipients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The request's id; derived from where JetStream stored the submission if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Same key, same recipient, within the window: sent once. Else the `Nats-Msg-Id` header, else the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub idempotency_key: Option<String>,
    /// What kind of message: preferences, caps and defaults hang on it.
    #[schemars(length(min = 1, max = 64))]
    pub category: String,
    /// Who is to be notified.
    #[schemars(length(min = 1, max = 1_000))]
    pub recipients: Vec<Recipient>,
    /// A template's key. Either this or `content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub template: Option<String>,
    /// Inline content. Either this or `template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// The template's variables; at most 64 KiB.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
    /// The channels to use; the category's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4))]
    pub channels: Option<Vec<Channel>>,
    /// Not before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_at: Option<Timestamp>,
    /// Not after this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// BCP 47 language tag; the recipient's own if absent.
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
    /// The producer's own labels; kept in the trace, never sent. At most 16 KiB.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// By provider name: passed to that provider's payload. At most 16 KiB.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub overrides: Map<String, Value>,
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

/// Either `user`, or an address in `email` or `phone` with what else is known of its owner.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecipientObject {
    /// A user with a record in `contacts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub user: Option<String>,
    /// A mailbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 254))]
    pub email: Option<String>,
    /// A phone number, E.164.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^\+[1-9][0-9]{6,14}$"))]
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

/// Text for a person; what a channel cannot show is left out.
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
