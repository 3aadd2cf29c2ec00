//! The in-app inbox: what an app reads on [`crate::subject::inbox`], the newest messages of each user.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

/// A message of an inbox, as JSON. The app names both ids in the receipts that it reports.
#[derive(Debug, Serialize, JsonSchema)]
pub struct InboxMessage<'a> {
    /// The notification.
    pub notification_id: Uuid,
    /// The delivery; the inbox holds each delivery once.
    pub delivery_id: Uuid,
    /// What kind of message.
    pub category: &'a str,
    /// A heading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<&'a str>,
    /// Plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<&'a str>,
    /// Where a tap leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<&'a str>,
    /// A newer message with the same key replaces this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<&'a str>,
    /// When the submission was stored.
    pub at: Timestamp,
    /// When the message is of no use any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The submission's `overrides.inbox`, untouched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a Value>,
}
