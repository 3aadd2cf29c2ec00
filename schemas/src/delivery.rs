//! The delivery: what travels from render to send, one per endpoint, with everything a provider needs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{Channel, Lane, record::Platform, submission::Content};

/// The account that takes what is a test. It delivers nowhere.
pub const SANDBOX: &str = "sandbox";

/// One rendered message to one endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// Its id; see [`crate::Pepper::delivery`].
    pub id: Uuid,
    /// The notification it belongs to, which is also the trace id.
    pub notification_id: Uuid,
    /// The request the notification came from.
    pub request_id: Uuid,
    /// The app that published it.
    pub app: String,
    /// What kind of message.
    pub category: String,
    /// The template's key; empty for inline content.
    pub template: String,
    /// The template's variant; empty where it has none.
    pub variant: String,
    /// The locale that was rendered; empty for inline content without one.
    pub locale: String,
    /// The lane it travels on.
    pub lane: Lane,
    /// The lane its category prescribes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category_lane: Option<Lane>,
    /// The user, where the recipient is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// As [`crate::Notification::owners`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
    /// Where it goes.
    pub endpoint: Endpoint,
    /// What it says.
    pub content: Content,
    /// SMS segments it takes; zero on other channels.
    #[serde(default)]
    pub sms_segments: u16,
    /// When JetStream stored the submission. Latency is measured from here.
    pub submitted_at: Timestamp,
    /// When it is too late to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// A newer message with the same key replaces an older one on the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<String>,
    /// Fields for the payload of a vendor, by the vendor's name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub overrides: Map<String, Value>,
    /// Where one POST unsubscribes the recipient (RFC 8058); only for mail of categories that are not mandatory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsubscribe_url: Option<String>,
    /// As [`crate::notification::Request::traceparent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// True: only the [`SANDBOX`] takes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub test: bool,
    /// Set by prioritize: the account to send through. Empty before.
    #[serde(default)]
    pub provider: String,
    /// The attempt to make next; the first is 1.
    pub attempt: u32,
    /// As [`crate::Notification::pass`].
    #[serde(default)]
    pub pass: u32,
    /// Set by send when it puts the delivery back: when it first took it up. The channel's horizon counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sending_since: Option<Timestamp>,
}

/// What render wrote for one endpoint of a notification.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "documented at the delivery")]
pub struct Written {
    pub variant: String,
    pub locale: String,
    pub content: Content,
    pub sms_segments: u16,
    pub unsubscribe_url: Option<String>,
}

impl Delivery {
    /// Chasqui's own message to those who run it: an alert. It belongs to no submission.
    pub fn notice(id: Uuid, address: Address, content: Content, at: Timestamp) -> Self {
        Delivery {
            id,
            notification_id: id,
            request_id: id,
            app: "chasqui".to_owned(),
            category: "alert".to_owned(),
            template: String::new(),
            variant: String::new(),
            locale: String::new(),
            lane: Lane::High,
            category_lane: None,
            user: None,
            owners: Vec::new(),
            endpoint: Endpoint { id: "developers".to_owned(), address },
            content,
            sms_segments: 0,
            submitted_at: at,
            expires_at: None,
            collapse_key: None,
            overrides: Map::new(),
            unsubscribe_url: None,
            traceparent: None,
            test: false,
            provider: String::new(),
            attempt: 1,
            pass: 0,
            sending_since: None,
        }
    }

    /// The channel it goes out on.
    pub fn channel(&self) -> Channel {
        self.endpoint.channel()
    }
}

/// An address on a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// It identifies the endpoint among the recipient's others on the channel: a device's id, an inbox's user, or else
    /// [`crate::Pepper::endpoint`], because ids in traces are made of it.
    pub id: String,
    /// The address itself.
    pub address: Address,
}

impl Endpoint {
    /// The channel that the address is of.
    pub fn channel(&self) -> Channel {
        match self.address {
            Address::Device { .. } => Channel::Push,
            Address::Phone(_) => Channel::Sms,
            Address::Mailbox(_) => Channel::Email,
            Address::Inbox(_) => Channel::InApp,
        }
    }
}

/// An address that a provider understands. Never written to traces or logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// A device.
    Device {
        /// Which push service.
        platform: Platform,
        /// Its token.
        token: String,
        /// When the token was registered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        registered_at: Option<Timestamp>,
    },
    /// A phone number, E.164.
    Phone(String),
    /// A mailbox.
    Mailbox(String),
    /// The in-app inbox of a user.
    Inbox(String),
}

impl Address {
    /// The text that a provider is given: token, number, mailbox or user.
    pub fn text(&self) -> &str {
        match self {
            Address::Device { token, .. } => token,
            Address::Phone(text) | Address::Mailbox(text) | Address::Inbox(text) => text,
        }
    }

    /// The push service of a device.
    pub fn platform(&self) -> Option<Platform> {
        match self {
            Address::Device { platform, .. } => Some(*platform),
            Address::Phone(_) | Address::Mailbox(_) | Address::Inbox(_) => None,
        }
    }
}
