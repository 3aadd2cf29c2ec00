//! The callbacks port: what a vendor reports hours after it took a message, read from the HTTP request that it signed.

use chasqui_schemas::{Channel, ReceiptKind, receipt::Actor};
use jiff::Timestamp;
use uuid::Uuid;

/// The callbacks of one account.
pub struct AccountCallbacks {
    /// The account: its callbacks come to `/v1/callbacks/<account>`.
    pub account: String,
    /// The vendor whose account it is.
    pub vendor: &'static str,
    /// The channel of the account's messages.
    pub channel: Channel,
    /// Reads them.
    pub reader: Box<dyn Callbacks>,
}

/// Reads callbacks as a vendor sends them.
///
/// It believes only what the vendor has signed, and does no I/O. A callback that is read twice is the same twice.
pub trait Callbacks: Send + Sync {
    /// What the request reports. The signature is checked on the bytes as they came, before anything else is read.
    ///
    /// # Errors
    /// Why the request has no effect.
    fn read(&self, request: &SignedRequest<'_>) -> Result<Callback, Refusal>;
}

/// A callback that the vendor has signed.
#[derive(Debug, Clone, PartialEq)]
pub struct Callback {
    /// What it reports.
    pub events: Vec<Reported>,
    /// How many events could not be read.
    pub unreadable: usize,
    /// What makes a signature unique that does not cover the events. It may have been seen by somebody who puts other
    /// events under it: it counts once, and only for what proves itself.
    pub once: Option<String>,
}

impl From<Vec<Reported>> for Callback {
    /// The signature covers the events, and all of them could be read.
    fn from(events: Vec<Reported>) -> Self {
        Callback { events, unreadable: 0, once: None }
    }
}

/// A callback as it came.
#[derive(Debug, Clone, Copy)]
pub struct SignedRequest<'a> {
    /// The address that was called, as the vendor knows it.
    pub url: &'a str,
    /// The headers that are text, their names in lower case.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
    /// When it came.
    pub now: Timestamp,
}

impl<'a> SignedRequest<'a> {
    /// The first header of this name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().find(|(each, _)| *each == name).map(|(_, value)| *value)
    }

    /// The query of the address; empty without one.
    pub fn query(&self) -> &'a str {
        self.url.split_once('?').map_or("", |(_, query)| query)
    }
}

/// Why a callback has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has no signature, or one that is not the vendor's.
    Forged,
    /// It cannot be read: the vendor's, or nobody can say whose, because the signature is in what cannot be read.
    Unreadable,
    /// It is the vendor's, and too old, or was taken before.
    Stale,
}

impl Refusal {
    /// As metrics spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::Forged => "forged",
            Refusal::Unreadable => "unreadable",
            Refusal::Stale => "stale",
        }
    }

    /// The HTTP status that answers it.
    pub const fn status(self) -> u16 {
        match self {
            // A key may be being changed: a vendor that tries again loses nothing.
            Refusal::Forged => 401,
            // It stands in the vendor's own list of failures, where somebody may see it.
            Refusal::Unreadable => 400,
            // It would be no better the next time. Mailgun, the one vendor whose callbacks grow stale, takes this for "do
            // not try again" (<https://help.mailgun.com/hc/en-us/articles/202236504-Webhooks>).
            Refusal::Stale => 406,
        }
    }
}

/// What a vendor says happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    /// What happened.
    pub kind: ReceiptKind,
    /// Notification and delivery, as they came back; `None` where there are none.
    pub ids: Option<(Uuid, Uuid)>,
    /// When, by the vendor's clock.
    pub at: Option<Timestamp>,
    /// The vendor's own code or words.
    pub detail: Option<String>,
    /// Who opened or clicked.
    pub by: Actor,
    /// What it says of an address.
    pub address: Option<AddressFact>,
}

/// Nothing more may go to an address.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressFact {
    /// The e-mail address or phone number.
    pub address: String,
    /// As [`chasqui_schemas::record::Suppression::reason`].
    pub reason: &'static str,
}

impl Reported {
    /// A report without further detail.
    pub fn new(kind: ReceiptKind, ids: Option<(Uuid, Uuid)>, at: Option<Timestamp>) -> Self {
        Reported { kind, ids, at, detail: None, by: Actor::Unknown, address: None }
    }
}
