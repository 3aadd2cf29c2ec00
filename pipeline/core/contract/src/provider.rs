//! The provider port: one call, one typed answer.

use std::time::Duration;

use async_trait::async_trait;
use chasqui_schemas::{Channel, Delivery, Receipt, ReceiptKind, record::Platform};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Hands a delivery to the outside world.
///
/// It never retries, never waits longer than its own time-out, and classifies whatever comes back: an error
/// is an [`Answer`] too. No provider is idempotent; the caller records the attempt first.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The account through which it sends: its name in settings, routes, traces and metrics.
    fn account(&self) -> &str;

    /// The vendor whose account it is: its name in statistics and in `overrides`.
    fn vendor(&self) -> &str;

    /// Whether it can carry deliveries of a channel, for push to devices of a platform. Every route that names the
    /// account is checked at start-up.
    fn serves(&self, channel: Channel, platform: Option<Platform>) -> bool;

    /// Who is at the other end, where the endpoint says so and not the account: a push service that the recipient's
    /// browser chose. Each has a circuit of its own, and none of its words reach an alert.
    fn origin(&self, _delivery: &Delivery) -> Option<String> {
        None
    }

    /// Makes one attempt. `delivery.attempt` says which.
    async fn send(&self, delivery: &Delivery) -> Answer;
}

/// What came of one attempt. It is stored in the attempts ledger, so that a crash does not ask twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What it means.
    pub outcome: Outcome,
    /// The provider's own code, kept for the trace: an HTTP or SMTP status, `UNREGISTERED`, `21610`.
    #[serde(default)]
    pub code: String,
    /// The provider's own words, capped at [`Answer::MAX_DETAIL`] characters. No credentials, no addresses.
    #[serde(default)]
    pub detail: String,
    /// The provider's id of what it accepted.
    #[serde(default)]
    pub message_id: String,
    /// Receipts that are known at once.
    #[serde(default)]
    pub receipts: Vec<(ReceiptKind, Receipt)>,
    /// With [`Outcome::DeadEndpoint`]: since when the provider has known it. A token registered later is alive.
    #[serde(default)]
    pub gone_since: Option<Timestamp>,
    /// The trouble is this recipient's alone (a full mailbox, greylisting, a phone that is off, a subscription of another
    /// key): it says nothing about the provider, and another one would meet it too. With [`Outcome::DeadEndpoint`]: dead to
    /// this account alone.
    #[serde(default)]
    pub about_recipient: bool,
    /// What was cut off the message, where the vendor takes no more of it.
    #[serde(default)]
    pub shortened: Option<Shortened>,
}

/// What a message lost so that its vendor takes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shortened {
    /// Which texts were cut: `body`, or `body, title`.
    pub texts: String,
    /// Bytes of payload that they lost together.
    pub bytes: usize,
}

impl Answer {
    /// Longest `detail`, in characters.
    pub const MAX_DETAIL: usize = 500;

    /// An answer with a code and words.
    pub fn new(outcome: Outcome, code: impl Into<String>, detail: impl AsRef<str>) -> Self {
        Answer {
            outcome,
            code: code.into(),
            detail: detail.as_ref().chars().take(Self::MAX_DETAIL).collect(),
            message_id: String::new(),
            receipts: Vec::new(),
            gone_since: None,
            about_recipient: false,
            shortened: None,
        }
    }

    /// Whether the provider, or our account with it, is what failed.
    pub fn is_providers_fault(&self) -> bool {
        !self.about_recipient
            && match self.outcome {
                Outcome::TryLater { .. } | Outcome::OtherProvider | Outcome::Misconfigured | Outcome::NoAnswer => true,
                // A provider that throttles is at work.
                Outcome::Accepted
                | Outcome::Throttled { .. }
                | Outcome::DeadEndpoint
                | Outcome::OptedOut
                | Outcome::Refused => false,
            }
    }
}

impl From<Box<Answer>> for Answer {
    /// A call that ends early has its answer as an error, boxed, because an answer is large.
    fn from(answer: Box<Answer>) -> Self {
        *answer
    }
}

/// The meaning of an answer: it decides what happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Accepted: not yet delivered.
    Accepted,
    /// A trouble that passes; the provider may have said when to come back.
    TryLater {
        /// The provider's own delay, already clamped by whoever read it.
        after: Option<Duration>,
    },
    /// This endpoint or this account is being throttled.
    Throttled {
        /// The provider's own delay, already clamped by whoever read it.
        after: Option<Duration>,
    },
    /// This provider cannot, another may.
    OtherProvider,
    /// The address does not exist any more.
    DeadEndpoint,
    /// The recipient told the provider to send them no more.
    OptedOut,
    /// Refused for good: another try with the same message is useless.
    Refused,
    /// Our account, credentials or settings are wrong; an operator must act.
    Misconfigured,
    /// No answer after the request went out: it may or may not have been sent.
    NoAnswer,
}

impl Outcome {
    /// As metrics spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::TryLater { .. } => "try_later",
            Outcome::Throttled { .. } => "throttled",
            Outcome::OtherProvider => "other_provider",
            Outcome::DeadEndpoint => "dead_endpoint",
            Outcome::OptedOut => "opted_out",
            Outcome::Refused => "refused",
            Outcome::Misconfigured => "misconfigured",
            Outcome::NoAnswer => "no_answer",
        }
    }
}
