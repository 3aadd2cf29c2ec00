//! Headers that Chasqui reads or writes on NATS messages.

/// `application/json` (also where absent) or `application/msgpack`, on submissions.
pub const CONTENT_TYPE: &str = "Content-Type";
/// W3C trace context of the producer's own trace, on submissions.
pub const TRACEPARENT: &str = "traceparent";
/// JetStream's message id: suppresses repeats within the stream's duplicate window.
pub const MSG_ID: &str = "Nats-Msg-Id";

/// On dead letters and rejections: a [`crate::Reason`].
pub const REASON: &str = "Chasqui-Reason";
/// On dead letters and rejections: what happened, in words; on rejections a JSON array of violations.
pub const DETAIL: &str = "Chasqui-Detail";
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
