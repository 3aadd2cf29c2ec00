//! What the runtime hands to a stage, and what of it goes into the trace.

use std::sync::Arc;

use bytes::Bytes;
use chasqui_schemas::{
    Channel, Delivery, Lane, Notification,
    delivery::Endpoint,
    envelope::{self, DecodeError},
    header, id, subject,
};
use compact_str::CompactString;
use jiff::Timestamp;
use uuid::Uuid;

/// A message as the broker handed it out, not yet decoded. The messages of one bundle share subject and headers.
#[derive(Debug, Clone)]
pub struct IncomingMessage {
    /// The subject that it was published on.
    pub subject: Arc<str>,
    /// What it holds.
    pub payload: Bytes,
    /// The `Content-Type` header.
    pub content_type: Option<Arc<str>>,
    /// The `Nats-Msg-Id` header.
    pub message_id: Option<Arc<str>>,
    /// The `traceparent` header.
    pub traceparent: Option<Arc<str>>,
    /// The `Chasqui-Door` header.
    pub door: Option<Arc<str>>,
    /// The header block where it breaks the protocol. The four headers above are then what could be read of it.
    pub unreadable_headers: Option<Bytes>,
    /// When JetStream stored it: the same at every redelivery.
    pub stored_at: Timestamp,
    /// Its sequence in the stream: the same at every redelivery.
    pub sequence: u64,
    /// Its place in the bundle it came in, zero where it came alone: the same at every redelivery.
    pub index: usize,
}

impl IncomingMessage {
    /// An id made of where the message is stored: the request id of a submission that names none itself.
    pub fn request_id(&self) -> Uuid {
        id::request(&self.subject, self.stored_at, self.sequence)
    }
}

/// What a stage takes in.
pub trait StageInput: Sized + Send + 'static {
    /// The messages that one payload carries: several where it is a bundle.
    fn split(payload: &Bytes) -> Vec<Bytes> {
        envelope::unbundle(payload)
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// See [`DecodeError`]; the runtime makes a dead letter of what cannot be decoded.
    fn read(incoming: &IncomingMessage) -> Result<Self, DecodeError>;

    /// The fields that its trace events have in common.
    fn context(&self) -> Context;
}

/// The fields that trace events of one message have in common; the names are those of
/// [`chasqui_schemas::trace::TraceEvent`].
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "documented at the trace event")]
pub struct Context {
    pub trace_id: Uuid,
    pub notification_id: Uuid,
    pub request_id: Uuid,
    pub delivery_id: Option<Uuid>,
    pub app: CompactString,
    pub category: CompactString,
    pub template: CompactString,
    pub variant: CompactString,
    pub locale: CompactString,
    pub lane: Option<Lane>,
    pub channel: Option<Channel>,
    pub provider: CompactString,
    pub vendor: CompactString,
    pub attempt: u32,
    pub pass: u32,
    pub traceparent: CompactString,
}

/// A submission as the producer published it. The validate stage decodes it itself, because it reports every violation.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The whole message.
    pub incoming: IncomingMessage,
    /// The lane that the subject names.
    pub lane: Lane,
    /// The app that the subject names.
    pub app: String,
}

impl StageInput for Submitted {
    /// A producer's message is one submission, whatever its bytes look like.
    fn split(payload: &Bytes) -> Vec<Bytes> {
        vec![payload.clone()]
    }

    fn read(incoming: &IncomingMessage) -> Result<Self, DecodeError> {
        let (lane, app) = subject::parse_submit(&incoming.subject).ok_or(DecodeError::NotAnEnvelope(None))?;
        Ok(Submitted { lane, app: app.to_owned(), incoming: incoming.clone() })
    }

    /// The trace of the request itself, under the id that the submission has when it names none.
    fn context(&self) -> Context {
        let request_id = self.incoming.request_id();
        Context {
            trace_id: id::request_trace(self.incoming.stored_at, request_id),
            request_id,
            // A subject has any bytes; what is no app's name would make subjects of its own, and values in ClickHouse.
            app: Some(self.app.as_str()).filter(|app| subject::is_app(app)).unwrap_or(subject::NO_APP).into(),
            lane: Some(self.lane),
            traceparent: text(self.incoming.traceparent.as_deref().and_then(header::traceparent)),
            ..Context::default()
        }
    }
}

impl StageInput for Notification {
    fn read(incoming: &IncomingMessage) -> Result<Self, DecodeError> {
        envelope::decode(&incoming.payload)
    }

    fn context(&self) -> Context {
        Context {
            trace_id: self.id,
            notification_id: self.id,
            request_id: self.request.id,
            delivery_id: self.delivery_id,
            app: self.app.as_str().into(),
            category: self.request.category.as_str().into(),
            template: self.request.message.template().into(),
            lane: Some(self.lane),
            channel: self.delivery_id.and(self.endpoints.first()).map(Endpoint::channel),
            pass: self.pass,
            traceparent: text(self.request.traceparent.as_deref()),
            ..Context::default()
        }
    }
}

impl StageInput for Delivery {
    fn read(incoming: &IncomingMessage) -> Result<Self, DecodeError> {
        envelope::decode(&incoming.payload)
    }

    fn context(&self) -> Context {
        Context {
            trace_id: self.notification_id,
            notification_id: self.notification_id,
            request_id: self.request_id,
            delivery_id: Some(self.id),
            app: self.app.as_str().into(),
            category: self.category.as_str().into(),
            template: self.template.as_str().into(),
            variant: self.variant.as_str().into(),
            locale: self.locale.as_str().into(),
            lane: Some(self.lane),
            channel: Some(self.channel()),
            provider: self.provider.as_str().into(),
            // Only send knows whose account it is.
            vendor: CompactString::default(),
            attempt: self.attempt,
            pass: self.pass,
            traceparent: text(self.traceparent.as_deref()),
        }
    }
}

fn text(optional: Option<&str>) -> CompactString {
    optional.unwrap_or_default().into()
}
