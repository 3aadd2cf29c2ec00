//! Trace events: one per step, the log of what happened; ClickHouse's `trace_events` has a row for each.
//!
//! Guarantee: an event's identity is `(trace_id, span_id)`, both derived, so that a step done again after a
//! crash replaces its row. No message bodies and no raw addresses.

use std::fmt;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Went on, or arrived.
    Ok,
    /// Deliberately not sent; terminal.
    Suppressed,
    /// Waits for a time.
    Deferred,
    /// Will be tried again.
    Retry,
    /// The submission breaks the contract; terminal.
    Rejected,
    /// A dead letter holds it; terminal until replayed.
    Dead,
    /// The recipient's side refused it; terminal.
    Error,
}

impl Status {
    /// As `trace_events.status` spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Suppressed => "suppressed",
            Status::Deferred => "deferred",
            Status::Retry => "retry",
            Status::Rejected => "rejected",
            Status::Dead => "dead",
            Status::Error => "error",
        }
    }
}

/// Where a notification or delivery has got to, where a step decides that. Not every step does.
///
/// `trace_events` carries it, although the design lists no such column, so that what counts as terminal has
/// one definition, in Rust, and every view only takes the highest [`State::rank`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The submission broke the contract.
    Rejected,
    /// Deliberately not sent.
    Suppressed,
    /// Too late to send.
    Expired,
    /// A dead letter holds it.
    Dead,
    /// The provider accepted it; nothing more is known.
    Sent,
    /// It arrived.
    Delivered,
    /// The address does not take it.
    Bounced,
}

impl State {
    /// Every state, in order of [`State::rank`].
    pub const ALL: [State; 7] = [
        State::Rejected,
        State::Suppressed,
        State::Expired,
        State::Dead,
        State::Sent,
        State::Delivered,
        State::Bounced,
    ];

    /// As `trace_events.state` spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Rejected => "rejected",
            State::Suppressed => "suppressed",
            State::Expired => "expired",
            State::Dead => "dead",
            State::Sent => "sent",
            State::Delivered => "delivered",
            State::Bounced => "bounced",
        }
    }

    /// State only moves forward: of several events the highest rank holds, in whatever order they come.
    /// A replayed dead letter can still be sent; a receipt outranks the acceptance.
    pub const fn rank(self) -> u8 {
        self as u8 + 1
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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

/// One step. Strings are empty and ids nil where they do not apply.
///
/// Most of the strings are short words, and there are millions: up to 24 bytes they need no allocation.
///
/// On the way to ClickHouse events travel in [`encode`]d batches, positionally: append fields at the end only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    /// Who published it.
    pub app: CompactString,
    /// What kind of message.
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
    /// The provider called.
    pub provider: CompactString,
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
    pub attributes: Vec<(String, String)>,
    /// The producer's own span, W3C `traceparent`; empty where it named none, and on receipts. Not a column: the root has
    /// it among its attributes.
    #[serde(default)]
    pub traceparent: CompactString,
}

/// Version of the batch layout.
const BATCH_VERSION: u16 = 1;

/// An event as it stands in a message of the trace stream.
#[derive(Debug, Clone)]
pub struct Encoded(Vec<u8>);

impl Encoded {
    /// Writes an event.
    ///
    /// # Errors
    /// Never for this type; the signature is the encoder's.
    pub fn new(event: &TraceEvent) -> Result<Self, rmp_serde::encode::Error> {
        // Most fit, so that nothing is copied while it grows.
        let mut bytes = Vec::with_capacity(384);
        rmp_serde::encode::write(&mut bytes, event)?;
        Ok(Encoded(bytes))
    }

    /// How much of a message it takes, in bytes.
    #[allow(clippy::len_without_is_empty, reason = "an event is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Writes a message of the trace stream.
pub fn batch(events: &[Encoded]) -> Vec<u8> {
    // The head: an array of the version and the array of events.
    const HEAD: usize = 9;
    let mut bytes = Vec::with_capacity(HEAD + events.iter().map(Encoded::len).sum::<usize>());
    // Writing to memory does not fail, and there are never four billion events.
    let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
    _ = rmp::encode::write_array_len(&mut bytes, 2);
    _ = rmp::encode::write_uint(&mut bytes, BATCH_VERSION.into());
    _ = rmp::encode::write_array_len(&mut bytes, count);
    events.iter().for_each(|event| bytes.extend_from_slice(&event.0));
    bytes
}

/// Writes events as one message of the trace stream.
///
/// # Errors
/// As [`Encoded::new`].
pub fn encode(events: &[TraceEvent]) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    Ok(batch(&events.iter().map(Encoded::new).collect::<Result<Vec<_>, _>>()?))
}

/// Reads a message of the trace stream.
///
/// # Errors
/// Fails where the bytes are not a batch.
pub fn decode(bytes: &[u8]) -> Result<Vec<TraceEvent>, rmp_serde::decode::Error> {
    let mut events = Vec::new();
    read(bytes, |event| events.push(event))?;
    Ok(events)
}

/// Reads a message of the trace stream, event after event: all of them at once are a thousand times larger than the
/// processor's nearest cache.
///
/// # Errors
/// Fails where the bytes are not a batch; `each` may have got events of it.
pub fn read(bytes: &[u8], mut each: impl FnMut(TraceEvent)) -> Result<(), rmp_serde::decode::Error> {
    use rmp_serde::decode::Error;

    let not_a_batch = |error: &dyn std::error::Error| Error::Uncategorized(format!("not a trace batch: {error}"));
    let mut rest = bytes;
    let length = rmp::decode::read_array_len(&mut rest).map_err(|error| not_a_batch(&error))?;
    let version: u16 = rmp::decode::read_int(&mut rest).map_err(|error| not_a_batch(&error))?;
    if length != 2 {
        return Err(Error::LengthMismatch(length));
    }
    if version > BATCH_VERSION {
        return Err(Error::Uncategorized(format!("trace batch version {version} is newer")));
    }
    let count = rmp::decode::read_array_len(&mut rest).map_err(|error| not_a_batch(&error))?;
    let mut reader = rmp_serde::Deserializer::from_read_ref(rest);
    for _event in 0..count {
        each(TraceEvent::deserialize(&mut reader)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_round_trips() {
        let events = vec![
            TraceEvent {
                trace_id: Uuid::now_v7(),
                app: "shop".into(),
                started_at: -1,
                attributes: vec![("k".into(), "v".into())],
                ..TraceEvent::default()
            };
            3
        ];
        assert_eq!(decode(&encode(&events).unwrap()).unwrap(), events);
    }

    #[test]
    fn what_is_no_batch_is_told() {
        let good = encode(&vec![TraceEvent { app: "shop".into(), ..TraceEvent::default() }; 2]).unwrap();
        for bad in [&b""[..], b"{}", b"not a batch", &good[..good.len() - 1]] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
        let newer = rmp_serde::to_vec(&(BATCH_VERSION + 1, Vec::<TraceEvent>::new())).unwrap();
        assert!(decode(&newer).unwrap_err().to_string().contains("newer"));
    }

    #[test]
    fn states_are_ranked_as_listed() {
        assert!(State::ALL.windows(2).all(|pair| pair[0].rank() < pair[1].rank()));
    }
}
