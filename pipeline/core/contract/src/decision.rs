//! What a stage wants to happen. The runtime performs it, durably, before it acknowledges the input.

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
    /// Receipts that the stage learned of, to publish beside.
    pub receipts: Vec<(ReceiptKind, Receipt)>,
    /// The provider that was called, which may be another than the message names.
    pub provider: Option<String>,
}

/// What happens to a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// On to the next stage: one or many.
    Forward(Vec<Output>),
    /// The provider accepted it: the end of the way, as far as we see.
    Sent,
    /// Deliberately not sent. Terminal.
    Suppress(Reason),
    /// Taken again at a time.
    Defer {
        /// When.
        until: Timestamp,
        /// Why.
        reason: Reason,
        /// What to take again, by this stage.
        message: Box<Output>,
    },
    /// Taken again after a delay, because of a failure.
    Retry {
        /// How long to wait.
        after: Duration,
        /// Why.
        reason: Reason,
        /// What to take again, by this stage.
        message: Box<Output>,
    },
    /// The address is dead. Terminal; nothing to replay.
    Bounce(Reason),
    /// Given up: a dead letter keeps the message. Terminal until replayed.
    Dead {
        /// Why.
        reason: Reason,
        /// What happened, in words.
        detail: String,
    },
    /// The submission breaks the contract: a rejection keeps the bytes and tells the producer. Terminal.
    Reject {
        /// Why.
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
        Decision { verdict, attributes: Vec::new(), receipts: Vec::new(), provider: None }
    }

    /// Forwards one notification.
    pub fn forward(notification: Notification) -> Self {
        Self::new(Verdict::Forward(vec![Output::Notification(notification)]))
    }

    /// Suppresses.
    pub fn suppress(reason: Reason) -> Self {
        Self::new(Verdict::Suppress(reason))
    }

    /// Gives up.
    pub fn dead(reason: Reason, detail: impl Into<String>) -> Self {
        Self::new(Verdict::Dead { reason, detail: detail.into() })
    }

    /// Adds what explains it.
    #[must_use]
    pub fn with(mut self, key: impl Into<CompactString>, value: impl Into<CompactString>) -> Self {
        self.attributes.push((key.into(), value.into()));
        self
    }
}

/// A message between stages.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Up to render's input.
    Notification(Notification),
    /// From render's output on.
    Delivery(Delivery),
}

impl Output {
    /// The lane it is on.
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

    /// Where it is published for `stage` to take it.
    pub fn subject(&self, stage: Stage) -> String {
        subject::queue(stage, self.lane(), self.channel())
    }

    /// Its JetStream message id: the same whenever the same step makes it again. It names notification and
    /// delivery, so that even a message that does not decode can be traced; see [`parse_message_id`].
    pub fn message_id(&self) -> String {
        match self {
            Output::Notification(n) => format!("{}.{}", n.id.simple(), n.pass),
            Output::Delivery(d) => format!("{}.{}.{}", d.notification_id.simple(), d.id.simple(), d.pass),
        }
    }

    /// The same message, marked as put back once more.
    #[must_use]
    pub fn again(mut self) -> Self {
        match &mut self {
            Output::Notification(n) => n.pass = n.pass.saturating_add(1),
            Output::Delivery(d) => d.pass = d.pass.saturating_add(1),
        }
        self
    }

    /// Its bytes, in the [`envelope`].
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
