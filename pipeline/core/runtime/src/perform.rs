//! What a decision comes to, in bytes.
//!
//! Made as soon as there is a decision: what a stage built is then freed while it is still in the processor's cache, and
//! what waits for the broker is small and in few pieces. Pure.

use bytes::Bytes;
use chasqui_contract::{Context, Decision, IncomingMessage, Output, Verdict};
use chasqui_nats::publisher::{Outgoing, PublishError};
use chasqui_schemas::{Channel, Lane, Reason, Receipt, Stage, header, stream, subject, text::one_line, trace::Encoded};
use chasqui_trace::{
    encoded,
    span::{self, Timing},
};
use jiff::Timestamp;

use crate::count;

/// Shortest deferral: what is due sooner comes a little late.
const MIN_DEFERRAL: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);
/// Of what one decision forwards so many bytes are encoded at once. One submission may have a thousand recipients: as
/// outputs they share it, encoded each has a copy.
const ENCODED_AT_ONCE: usize = 64 * 1024;
/// Longest `Chasqui-Detail`, in characters: a header is not read a page at a time.
const MAX_DETAIL: usize = 4 * 1024;

/// A message, and what was decided about it.
#[derive(Debug)]
pub(crate) struct Decided {
    /// The message.
    pub(crate) incoming: IncomingMessage,
    /// How often the broker had handed it out.
    pub(crate) delivered: u32,
    /// What is published.
    pub(crate) parts: Vec<Part>,
    /// What the trace says.
    pub(crate) events: Vec<Encoded>,
    /// The decision's name in metrics.
    pub(crate) word: &'static str,
    context: Context,
    timing: Timing,
}

/// Something that a decision publishes.
#[derive(Debug)]
pub(crate) enum Part {
    /// To the next stage, in a bundle with others of the same queue.
    Forward(Forward),
    /// The same, to be encoded when its turn comes.
    Unencoded(Box<Output>),
    /// Together with others of the same subject.
    Receipt { subject: String, id: String, receipt: Receipt },
    /// As it is, to a stream.
    Message(&'static str, Outgoing),
}

/// A message to the next stage.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) lane: Lane,
    pub(crate) channel: Channel,
    pub(crate) id: String,
    pub(crate) envelope: Vec<u8>,
}

impl Forward {
    pub(crate) fn new(output: &Output) -> Result<Self, PublishError> {
        let (lane, channel, id) = (output.lane(), output.channel(), output.message_id());
        Ok(Forward { lane, channel, id, envelope: output.encode().map_err(unencodable)? })
    }
}

impl Decided {
    /// What `stage` decided about a message of its queue for `lane`. None: it came in a bundle so often that another
    /// message in it may be what kills the workers; it goes back to its queue alone.
    pub(crate) fn new(
        (stage, lane): (Stage, Lane),
        incoming: IncomingMessage,
        delivered: u32,
        context: Context,
        timing: Timing,
        decision: Option<Decision>,
    ) -> Self {
        let word = count::word(decision.as_ref().map(|decision| &decision.verdict));
        let mut decided = Decided { incoming, delivered, parts: Vec::new(), events: Vec::new(), word, context, timing };
        match decision {
            None => decided.parts.push(Part::Message(stream::of_stage(stage, lane), alone(&decided.incoming))),
            Some(mut decision) => match decided.perform(stage, &decision) {
                Ok(parts) => {
                    decided.parts = parts;
                    decided.tell(stage, &decision);
                    decided.keep(&mut decision);
                }
                Err(error) => decided.bury(stage, &error),
            },
        }
        decided
    }

    /// What was decided cannot be stored: it is a dead letter instead.
    pub(crate) fn bury(&mut self, stage: Stage, error: &PublishError) {
        tracing::error!(%stage, error = error as &dyn std::error::Error, "decision cannot be stored: dead letter");
        let (reason, detail) = (Reason::TooLarge, error.to_string());
        self.parts = vec![Part::Message(stream::DEAD, self.dead_letter(stage, reason, &detail))];
        let decision = Decision::dead(reason, detail);
        self.word = count::word(Some(&decision.verdict));
        self.tell(stage, &decision);
    }

    /// Keeps what the decision forwards and is not encoded yet.
    fn keep(&mut self, decision: &mut Decision) {
        if let Verdict::Forward(outputs) = &mut decision.verdict {
            let encoded = self.parts.iter().filter(|part| matches!(part, Part::Forward(_))).count();
            self.parts.extend(outputs.drain(encoded..).map(|output| Part::Unencoded(Box::new(output))));
        }
    }

    fn tell(&mut self, stage: Stage, decision: &Decision) {
        self.events = encoded(&span::of_decision(stage, &self.context, &self.timing, decision));
    }

    /// What the decision publishes, traces apart.
    fn perform(&self, stage: Stage, decision: &Decision) -> Result<Vec<Part>, PublishError> {
        let mut parts = Vec::new();
        match &decision.verdict {
            Verdict::Forward(outputs) => {
                let mut bytes = 0;
                for output in outputs {
                    if bytes >= ENCODED_AT_ONCE {
                        break;
                    }
                    let forward = Forward::new(output)?;
                    bytes += forward.envelope.len();
                    parts.push(Part::Forward(forward));
                }
            }
            Verdict::Defer { until, message, .. } => {
                // Where the broker's clock is ahead of ours, the message would come back before its time, again and again.
                let soonest = self.timing.started_at.saturating_add(MIN_DEFERRAL).unwrap_or(Timestamp::MAX);
                parts.push(Part::Message(stream::DEFERRED, deferred(message, stage, soonest.max(*until))?));
            }
            Verdict::Retry { after, message, .. } => {
                // From when it was decided, so that a repeat of this commit asks for the same moment.
                let after = jiff::SignedDuration::try_from(*after).unwrap_or(jiff::SignedDuration::MAX);
                let until = self.timing.started_at.saturating_add(after).unwrap_or(Timestamp::MAX);
                parts.push(Part::Message(stream::DEFERRED, deferred(message, stage, until)?));
            }
            Verdict::Dead { reason, detail } => {
                parts.push(Part::Message(stream::DEAD, self.dead_letter(stage, *reason, detail)));
            }
            Verdict::Reject { reason, violations, request_id } => {
                let request = request_id.unwrap_or(self.context.request_id);
                parts.push(Part::Message(stream::DEAD, self.rejection(*reason, violations, request)));
            }
            Verdict::Sent | Verdict::Suppress(_) | Verdict::Bounce(_) => {}
        }
        for (kind, receipt) in &decision.receipts {
            let channel = self.context.channel.parse().unwrap_or(Channel::Push);
            let id = format!("{}.{kind}.{}", receipt.delivery_id.simple(), receipt.by.as_str());
            let subject = subject::receipt(*kind, channel);
            parts.push(Part::Receipt { subject, id, receipt: receipt.clone() });
        }
        Ok(parts)
    }

    /// The input as it was, with what is known of its end in the headers.
    fn dead_letter(&self, stage: Stage, reason: Reason, detail: &str) -> Outgoing {
        let Decided { incoming, context, .. } = self;
        let mut headers = vec![
            (header::REASON, reason.as_str().to_owned()),
            (header::DETAIL, one_line(detail, MAX_DETAIL).into_owned()),
            (header::STAGE, stage.as_str().to_owned()),
            (header::SUBJECT, incoming.subject.to_string()),
            (header::DELIVERED, self.delivered.to_string()),
            (header::ATTEMPTS, context.attempt.to_string()),
            (header::NOTIFICATION, context.trace_id.to_string()),
            (header::PROVIDER, context.provider.to_string()),
        ];
        headers.extend(context.delivery_id.map(|id| (header::DELIVERY, id.to_string())));
        headers.extend(incoming.content_type.as_deref().map(|kind| (header::CONTENT_TYPE, kind.to_owned())));
        Outgoing {
            subject: subject::dead(stage),
            message_id: Some(format!("{stage}.{}.{}", incoming.request_id().simple(), incoming.index)),
            headers,
            payload: incoming.payload.clone(),
        }
    }

    /// The submission as it was, where its producer can listen.
    fn rejection(&self, reason: Reason, violations: &[String], request: uuid::Uuid) -> Outgoing {
        let Decided { incoming, context, .. } = self;
        // A list of strings always serialises.
        let detail = serde_json::to_string(violations).unwrap_or_default();
        let mut headers = vec![
            (header::REASON, reason.as_str().to_owned()),
            (header::DETAIL, one_line(&detail, MAX_DETAIL).into_owned()),
            (header::STAGE, Stage::Validate.as_str().to_owned()),
            (header::SUBJECT, incoming.subject.to_string()),
            (header::REQUEST, request.to_string()),
            (header::NOTIFICATION, context.trace_id.to_string()),
        ];
        headers.extend(incoming.content_type.as_deref().map(|kind| (header::CONTENT_TYPE, kind.to_owned())));
        Outgoing {
            subject: subject::rejected(&context.app),
            message_id: Some(format!("rejected.{}", context.trace_id.simple())),
            headers,
            payload: Bytes::clone(&incoming.payload),
        }
    }
}

/// A message of a bundle, back to its queue without the others.
fn alone(incoming: &IncomingMessage) -> Outgoing {
    Outgoing {
        subject: incoming.subject.to_string(),
        message_id: Some(format!("alone.{}.{}", incoming.sequence, incoming.index)),
        headers: vec![],
        payload: incoming.payload.clone(),
    }
}

pub(crate) fn unencodable(error: impl std::error::Error + Send + Sync + 'static) -> PublishError {
    PublishError::Refused { code: 0, description: error.to_string() }
}

/// A JetStream message schedule (ADR-51): at `until` the broker publishes it to [`subject::due`], from where
/// [`crate::deferred`] returns it to the queue of `stage`. One schedule per subject, so a repeat replaces it.
fn deferred(message: &Output, stage: Stage, until: Timestamp) -> Result<Outgoing, PublishError> {
    let again = message.clone().again();
    let message_id = again.message_id();
    Ok(Outgoing {
        subject: subject::deferred(&message_id),
        headers: vec![
            (header::SCHEDULE, format!("@at {until}")),
            (header::SCHEDULE_TARGET, subject::due(again.lane())),
            (header::SUBJECT, again.subject(stage)),
            (header::DUE_ID, message_id),
        ],
        message_id: None,
        payload: again.encode().map_err(unencodable)?.into(),
    })
}
