//! What a stage wants to happen. The runtime does it, durably, before it acknowledges the input.

use std::time::Duration;

use chasqui_schemas::{
    Channel, Delivery, Lane, Notification, Reason, Receipt, ReceiptKind, Stage, envelope, subject, trace::Attributes,
};
use compact_str::CompactString;
use jiff::Timestamp;
use uuid::Uuid;

/// A stage's decision about one message.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What happens to the message.
    pub verdict: Verdict,
    /// What explains it in the trace: keys as in `trace_events.attributes`. No bodies, no addresses.
    pub attributes: Attributes,
    /// Deliveries that end here while the verdict forwards the others.
    pub ended: Vec<Ended>,
    /// Receipts that the stage learned of; they are published beside.
    pub receipts: Vec<(ReceiptKind, Receipt)>,
    /// The account that was called, where that is another than the message names.
    pub provider: Option<String>,
    /// The vendor of that account.
    pub vendor: Option<String>,
}

/// A delivery that is given up before it was one, as [`Verdict::Dead`] is for a whole message: a dead letter of its own
/// keeps what it was to be made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// Why it is given up.
    pub reason: Reason,
    /// What happened, in words.
    pub detail: String,
    /// What a replay decides about: a [`Notification::part`].
    pub part: Notification,
}

/// What happens to a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// One message or many go on to the next stage.
    Forward(Vec<Output>),
    /// The provider accepted it: the end of the way, as far as Chasqui sees.
    Sent,
    /// It is deliberately not sent. Terminal.
    Suppress(Reason),
    /// The stage decides again at a time.
    Defer {
        /// When that is.
        until: Timestamp,
        /// Why it waits.
        reason: Reason,
        /// What the stage decides about then.
        message: Box<Output>,
    },
    /// The stage decides again after a delay, because something failed.
    Retry {
        /// How long to wait.
        after: Duration,
        /// Why it waits.
        reason: Reason,
        /// What the stage decides about then.
        message: Box<Output>,
    },
    /// The address is dead. Terminal; nothing to replay.
    Bounce(Reason),
    /// It is given up: a dead letter keeps the message. Terminal until an operator replays it.
    Dead {
        /// Why it is given up.
        reason: Reason,
        /// What happened, in words.
        detail: String,
    },
    /// The submission breaks the contract: a rejection keeps its bytes where the producer can listen. Terminal.
    Reject {
        /// Why it is rejected.
        reason: Reason,
        /// Every violation: `field: what is wrong`.
        violations: Vec<String>,
        /// The submission's own id, where it could be read.
        request_id: Option<Uuid>,
    },
}

impl Verdict {
    /// Its name in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Verdict::Forward(_) => "forward",
            Verdict::Sent => "sent",
            Verdict::Suppress(_) => "suppress",
            Verdict::Defer { .. } => "defer",
            Verdict::Retry { .. } => "retry",
            Verdict::Bounce(_) => "bounce",
            Verdict::Dead { .. } => "dead",
            Verdict::Reject { .. } => "reject",
        }
    }
}

impl Decision {
    /// A decision without further explanation.
    pub fn new(verdict: Verdict) -> Self {
        Decision {
            verdict,
            attributes: Vec::new(),
            ended: Vec::new(),
            receipts: Vec::new(),
            provider: None,
            vendor: None,
        }
    }

    /// Forwards one notification to the next stage.
    pub fn forward(notification: Notification) -> Self {
        Self::new(Verdict::Forward(vec![Output::Notification(notification)]))
    }

    /// Ends the message unsent, deliberately.
    pub fn suppress(reason: Reason) -> Self {
        Self::new(Verdict::Suppress(reason))
    }

    /// Gives the message up; `detail` says in words what happened.
    pub fn dead(reason: Reason, detail: impl Into<String>) -> Self {
        Self::new(Verdict::Dead { reason, detail: detail.into() })
    }

    /// Adds an attribute that explains the decision in the trace.
    #[must_use]
    pub fn with(mut self, key: impl Into<CompactString>, value: impl Into<CompactString>) -> Self {
        self.attributes.push((key.into(), value.into()));
        self
    }
}

/// A message between stages.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// What stages up to render take in.
    Notification(Notification),
    /// What render makes, and the stages after it take in.
    Delivery(Delivery),
}

impl Output {
    /// The lane that carries it.
    pub fn lane(&self) -> Lane {
        match self {
            Output::Notification(n) => n.lane,
            Output::Delivery(d) => d.lane,
        }
    }

    /// The channel that carries it; none before render has made deliveries.
    pub fn channel(&self) -> Option<Channel> {
        match self {
            Output::Notification(_) => None,
            Output::Delivery(d) => Some(d.channel()),
        }
    }

    /// The subject of the queue where `stage` reads it.
    pub fn subject(&self, stage: Stage) -> String {
        subject::queue(stage, self.lane(), self.channel())
    }

    /// Its JetStream message id: the same whenever the same step makes the message again. It names notification and
    /// delivery, so that even a message that does not decode can be traced; see [`parse_message_id`].
    pub fn message_id(&self) -> String {
        match self {
            Output::Notification(Notification { id, pass, delivery_id: None, .. }) => {
                format!("{}.{pass}", id.simple())
            }
            Output::Notification(Notification { id, pass, delivery_id: Some(part), .. }) => {
                format!("{}.{}.{pass}", id.simple(), part.simple())
            }
            Output::Delivery(d) => format!("{}.{}.{}", d.notification_id.simple(), d.id.simple(), d.pass),
        }
    }

    /// The same message, counted as put back once more.
    #[must_use]
    pub fn again(mut self) -> Self {
        match &mut self {
            // Four thousand million passes would be one a second for a century: saturating only keeps this from
            // panicking.
            Output::Notification(n) => n.pass = n.pass.saturating_add(1),
            Output::Delivery(d) => d.pass = d.pass.saturating_add(1),
        }
        self
    }

    /// The message in its [`envelope`].
    ///
    /// # Errors
    /// See [`envelope::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, rmp_serde::encode::Error> {
        match self {
            Output::Notification(n) => envelope::encode(n),
            Output::Delivery(d) => envelope::encode(d),
        }
    }
}

/// The notification and delivery that an [`Output::message_id`] names.
pub fn parse_message_id(message_id: &str) -> Option<(Uuid, Option<Uuid>)> {
    let parts: Vec<&str> = message_id.split('.').collect();
    match parts[..] {
        [notification, _pass] => Some((notification.parse().ok()?, None)),
        [notification, delivery, _pass] => Some((notification.parse().ok()?, Some(delivery.parse().ok()?))),
        _ => None,
    }
}
