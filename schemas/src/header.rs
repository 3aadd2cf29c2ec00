//! Headers that Chasqui reads or writes on NATS messages.

/// On submissions: `application/json`, which is also assumed where the header is absent, or `application/msgpack`.
pub const CONTENT_TYPE: &str = "Content-Type";
/// On submissions: the producer's own trace, as W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// JetStream's message id: JetStream drops a message whose id it has stored within the stream's duplicate window.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// On submissions that came over HTTP: what the gateway knows of the request, a [`Door`](crate::door::Door) as JSON.
pub const DOOR: &str = "Chasqui-Door";
/// How many bytes the payload has, set by JetStream in its place where only headers were asked for.
pub const PAYLOAD_BYTES: &str = "Nats-Msg-Size";
/// JetStream stores the message only if this is the sequence of the last one with the subject [`EXPECTED_LAST_OF`].
pub const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
/// The subject whose last message [`EXPECTED_LAST`] names.
pub const EXPECTED_LAST_OF: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// On dead letters and rejections: a [`crate::Reason`].
pub const REASON: &str = "Chasqui-Reason";
/// On dead letters and rejections: what happened, in words; on rejections a JSON array of violations.
pub const DETAIL: &str = "Chasqui-Detail";
/// On dead letters and deferred messages: the app that they are counted for.
pub const APP: &str = "Chasqui-App";
/// On dead letters and rejections whose payload is not kept, or not all of it: how many bytes it had.
pub const CUT: &str = "Chasqui-Cut";
/// On dead letters: the stage that gave up.
pub const STAGE: &str = "Chasqui-Stage";
/// On dead letters: how often the broker had handed the message out.
pub const DELIVERED: &str = "Chasqui-Delivered";
/// On dead letters: provider attempts made.
pub const ATTEMPTS: &str = "Chasqui-Attempts";
/// On dead letters and deferred messages: the subject to publish to, to go on.
pub const SUBJECT: &str = "Chasqui-Subject";
/// On dead letters: the notification, or the request where it never became one.
pub const NOTIFICATION: &str = "Chasqui-Notification";
/// On dead letters of one delivery.
pub const DELIVERY: &str = "Chasqui-Delivery";
/// On dead letters of one delivery: the provider last tried.
pub const PROVIDER: &str = "Chasqui-Provider";
/// On dead letters and rejections of what came with unreadable headers: the header block in Base64, or its beginning.
pub const RAW_HEADERS: &str = "Chasqui-Raw-Headers";
/// On receipts that switch something off: an [`crate::OptOut`] as JSON.
pub const OPT_OUT: &str = "Chasqui-Opt-Out";
/// On rejections: the request's id.
pub const REQUEST: &str = "Chasqui-Request";
/// On deferred messages: the message id to publish with when due.
pub const DUE_ID: &str = "Chasqui-Due-Id";
/// On deferred messages: when JetStream is to publish them (ADR-51).
pub const SCHEDULE: &str = "Nats-Schedule";
/// On deferred messages: where JetStream is to publish them (ADR-51).
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";

/// The part of a `traceparent` that every version shares; `None` where it is not well-formed. A producer that sends a
/// broken one loses the link to its own trace, never the notification. [W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header).
pub fn traceparent(text: &str) -> Option<&str> {
    const LENGTH: usize = 55;
    let known = text.get(..LENGTH)?;
    let hex = |field: &str, length: usize| {
        field.len() == length && field.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let set = |field: &str| field.bytes().any(|b| b != b'0');
    let fields: Vec<&str> = known.split('-').collect();
    let [version, trace, parent, flags] = fields[..] else { return None };
    let well_formed = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && set(trace)
        && hex(parent, 16)
        && set(parent)
        && hex(flags, 2);
    // Later versions may append fields; the first may not.
    let ends_well = text.len() == LENGTH || (version != "00" && text[LENGTH..].starts_with('-'));
    (well_formed && ends_well).then_some(known)
}
