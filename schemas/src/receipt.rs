//! Receipts and engagement: what providers and apps report after the send, on `notify.receipt.<kind>.<channel>`.
//!
//! JSON: one receipt, or an array of receipts of the same kind and channel. Late, repeated and out-of-order receipts are normal and harmless.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{UnknownWord, parse_word};

/// What happened to a delivery after the provider accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptKind {
    /// It reached the device, the mailbox or the phone.
    Delivered,
    /// The address does not take it.
    Bounced,
    /// It was opened; see [`Receipt::by`].
    Opened,
    /// A link in it was followed.
    Clicked,
    /// The recipient wants no more of the kind.
    Unsubscribed,
    /// The recipient called it spam.
    Complained,
    /// The provider gave up after accepting it.
    Failed,
}

impl ReceiptKind {
    /// Every kind.
    pub const ALL: [ReceiptKind; 7] = [
        ReceiptKind::Delivered,
        ReceiptKind::Bounced,
        ReceiptKind::Opened,
        ReceiptKind::Clicked,
        ReceiptKind::Unsubscribed,
        ReceiptKind::Complained,
        ReceiptKind::Failed,
    ];

    /// The kind's subject token.
    pub const fn as_str(self) -> &'static str {
        match self {
            ReceiptKind::Delivered => "delivered",
            ReceiptKind::Bounced => "bounced",
            ReceiptKind::Opened => "opened",
            ReceiptKind::Clicked => "clicked",
            ReceiptKind::Unsubscribed => "unsubscribed",
            ReceiptKind::Complained => "complained",
            ReceiptKind::Failed => "failed",
        }
    }
}

impl fmt::Display for ReceiptKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ReceiptKind {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        parse_word("receipt kind", word, &Self::ALL, Self::as_str)
    }
}

/// Who opened: mail proxies and scanners fetch pixels and links by themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// A person.
    Human,
    /// A proxy or a scanner.
    Machine,
    /// Cannot be told.
    #[default]
    Unknown,
}

impl Actor {
    /// As attributes spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Actor::Human => "human",
            Actor::Machine => "machine",
            Actor::Unknown => "unknown",
        }
    }
}

/// One report about one delivery. Kind and channel are in the subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The delivery, as the provider was given it.
    pub delivery_id: Uuid,
    /// The notification, as the provider was given it; it names the trace without a look-up.
    pub notification_id: Uuid,
    /// When it happened, by the reporter's clock; when the receipt was stored, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The reporter, a provider's name for example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The reporter's own code or words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
