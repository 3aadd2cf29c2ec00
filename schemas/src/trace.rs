//! Trace events: the log of what happened, one event per step. ClickHouse's `trace_events` has a row for each.
//!
//! Guarantee: an event's identity is `(trace_id, span_id)`. Both are derived, so that a step that is done again after a
//! crash replaces its row. Events hold no message bodies and no raw addresses.

mod batch;

use compact_str::CompactString;
use uuid::Uuid;

pub use self::batch::{BatchError, Encoded, Reader, Step, batch, decode, encode};

/// The `stage` of an event that a receipt made.
pub const RECEIPT_STAGE: &str = "receipt";

crate::vocabulary! {
    /// How a step ended, as `trace_events.status` spells it.
    pub enum Status "status" {
        Ok = "ok": "The message went on to the next step, or arrived.",
        Suppressed = "suppressed": "It is deliberately not sent; terminal.",
        Deferred = "deferred": "It waits for a time.",
        Retry = "retry": "It will be tried again.",
        Rejected = "rejected": "The submission breaks the contract; terminal.",
        Dead = "dead": "A dead letter holds it; terminal until it is replayed.",
        Error = "error": "The recipient's side refused it; terminal.",
    }
}

crate::vocabulary! {
    /// Where a notification or delivery has got to, as `trace_events.state` spells it, where a step decides that. Not
    /// every step does.
    ///
    /// `trace_events` carries it so that what counts as terminal has one definition, in Rust, and every view only takes
    /// the highest [`State::rank`].
    pub enum State "state" {
        Rejected = "rejected": "The submission broke the contract.",
        Suppressed = "suppressed": "It was deliberately not sent.",
        Expired = "expired": "It was too late to send.",
        Dead = "dead": "A dead letter holds it.",
        Sent = "sent": "The provider accepted it; nothing more is known.",
        Delivered = "delivered": "It arrived.",
        Bounced = "bounced": "The address does not take it.",
    }
}

impl State {
    /// State only moves forward: of several events the highest rank holds, in whatever order they come.
    /// A replayed dead letter can still be sent; a receipt outranks the acceptance.
    pub const fn rank(self) -> u8 {
        self as u8 + 1
    }
}

/// The `event` column: what kind of step.
pub mod event {
    /// A request was rejected, or fanned out to several recipients; it has a trace of its own.
    pub const REQUEST: &str = "request";
    /// A notification came to be: the root of its trace.
    pub const NOTIFICATION: &str = "notification";
    /// A stage did its work.
    pub const STAGE: &str = "stage";
    /// A provider was called.
    pub const ATTEMPT: &str = "attempt";
    // A receipt's event is its kind: `delivered`, `opened`, …
}

/// The columns of words, which are often the same from one event to the next; their places in lists of all of them.
#[allow(missing_docs, reason = "documented at the trace event")]
pub mod word {
    pub const COLUMNS: [&str; 14] = [
        "app", "category", "template", "variant", "locale", "lane", "channel", "provider", "vendor", "stage", "event",
        "status", "state", "reason",
    ];
    pub const APP: usize = 0;
    pub const CATEGORY: usize = 1;
    pub const TEMPLATE: usize = 2;
    pub const VARIANT: usize = 3;
    pub const LOCALE: usize = 4;
    pub const LANE: usize = 5;
    pub const CHANNEL: usize = 6;
    pub const PROVIDER: usize = 7;
    pub const VENDOR: usize = 8;
    pub const STAGE: usize = 9;
    pub const EVENT: usize = 10;
    pub const STATUS: usize = 11;
    pub const STATE: usize = 12;
    pub const REASON: usize = 13;
}

/// What else explains a step: names and values.
pub type Attributes = Vec<(CompactString, CompactString)>;

/// One step. Strings are empty and ids nil where they do not apply.
///
/// Most of the strings are short words, and there are millions: up to 24 bytes they need no allocation.
///
/// On the way to ClickHouse many travel in one message: their words stand once, see [`Encoded`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraceEvent {
    /// The notification's id, or [`crate::id::request_trace`].
    pub trace_id: Uuid,
    /// See [`crate::id::span`].
    pub span_id: u64,
    /// Zero for the root.
    pub parent_span_id: u64,
    /// Nil on a request's own trace.
    pub notification_id: Uuid,
    /// The request.
    pub request_id: Uuid,
    /// Nil on steps of the notification as a whole.
    pub delivery_id: Uuid,
    /// The app that published it.
    pub app: CompactString,
    /// The kind of message.
    pub category: CompactString,
    /// The template's key.
    pub template: CompactString,
    /// The template's variant.
    pub variant: CompactString,
    /// The locale rendered.
    pub locale: CompactString,
    /// The lane it was on.
    pub lane: CompactString,
    /// The channel of the delivery.
    pub channel: CompactString,
    /// The account called, or the reporter of a receipt.
    pub provider: CompactString,
    /// The vendor of that account; empty before it is called, and on receipts of apps.
    pub vendor: CompactString,
    /// The stage, or `receipt`.
    pub stage: CompactString,
    /// See [`event`].
    pub event: CompactString,
    /// See [`Status`].
    pub status: CompactString,
    /// See [`State`]; empty where the step decides none.
    pub state: CompactString,
    /// See [`crate::Reason`], or a provider's words on a receipt.
    pub reason: CompactString,
    /// The provider attempt; zero elsewhere.
    pub attempt: u32,
    /// Nanoseconds the message had waited in its queue.
    pub queued_ns: u64,
    /// Unix time in nanoseconds at which the work began.
    pub started_at: i64,
    /// Nanoseconds the work took.
    pub duration_ns: u64,
    /// What else explains the step.
    pub attributes: Attributes,
    /// The producer's own span, W3C `traceparent`; empty where it named none, and on receipts. Not a column: the root has
    /// it among its attributes.
    pub traceparent: CompactString,
}

impl TraceEvent {
    /// Its [`word`]s.
    fn words(&self) -> [&str; word::COLUMNS.len()] {
        [
            &self.app,
            &self.category,
            &self.template,
            &self.variant,
            &self.locale,
            &self.lane,
            &self.channel,
            &self.provider,
            &self.vendor,
            &self.stage,
            &self.event,
            &self.status,
            &self.state,
            &self.reason,
        ]
    }

    fn of_step(step: &Step, words: &[&str]) -> Self {
        let word = |place: usize| CompactString::from(words[place]);
        let names = words[word::COLUMNS.len()..].iter();
        TraceEvent {
            trace_id: step.trace_id,
            span_id: step.span_id,
            parent_span_id: step.parent_span_id,
            notification_id: if step.is_notification { step.trace_id } else { Uuid::nil() },
            request_id: step.request_id,
            delivery_id: step.delivery_id,
            app: word(word::APP),
            category: word(word::CATEGORY),
            template: word(word::TEMPLATE),
            variant: word(word::VARIANT),
            locale: word(word::LOCALE),
            lane: word(word::LANE),
            channel: word(word::CHANNEL),
            provider: word(word::PROVIDER),
            vendor: word(word::VENDOR),
            stage: word(word::STAGE),
            event: word(word::EVENT),
            status: word(word::STATUS),
            state: word(word::STATE),
            reason: word(word::REASON),
            attempt: step.attempt,
            queued_ns: step.queued_ns,
            started_at: step.started_at,
            duration_ns: step.duration_ns,
            attributes: names.zip(&step.values).map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            traceparent: step.traceparent.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_ranked_as_listed() {
        assert!(State::ALL.windows(2).all(|pair| pair[0].rank() < pair[1].rank()));
    }
}
