//! Plans what a decision publishes and traces, in bytes. Pure.
//!
//! This is done as soon as there is a decision: what the stage built is then freed while it is still in the processor's
//! cache, and what waits for the broker is small and in few pieces.
//!
//! Guarantee: the same message and decision make the same message ids, so that what is published again after a crash is
//! taken for a repeat.

use chasqui_contract::{Context, Decision, Ended, IncomingMessage, Output, Verdict};
use chasqui_nats::{Letter, Outgoing, PublishError, Shares, dead_letter, raw_headers};
use chasqui_schemas::{
    Channel, Delivery, Lane, Notification, Reason, Receipt, Stage, envelope, header, key_claim::GivenBack, stream,
    subject, submission::LAST_MOMENT, trace::Encoded,
};
use chasqui_trace::{
    encoded,
    span::{self, Timing},
};
use jiff::Timestamp;

use crate::count;

/// Minimum time for which a message is deferred; one that is due sooner comes that much late. A second is more than the
/// clocks of worker and broker should differ.
const MIN_DEFERRAL: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);
/// What a moment is rounded up to, in milliseconds, so that what waits for nearly the same moment waits together.
/// JetStream's schedules are no finer.
const MOMENT_MS: i64 = 250;
/// Maximum bytes that are encoded at once of what one decision forwards; the rest is encoded when it is published. One
/// submission may have a thousand recipients: their outputs share its content, and each encoded one has a copy. Nearly
/// all decisions stay below this.
const MAX_ENCODED_BYTES: usize = 64 * 1024;
/// Maximum bytes of a rejected submission that are kept: enough to see what it was. Its producer has all of it.
const MAX_REJECTED_BYTES: usize = 16 * 1024;
/// How many times what is free an app may hold of what waits for its time. Of what it schedules itself, once, which leaves
/// a reserve for what has to wait on its way: a notification for the morning, a delivery for another attempt.
const ROOM_FOR_SCHEDULED: u64 = 1;
const ROOM_FOR_ON_ITS_WAY: u64 = 3;
/// The name in metrics of what becomes of a message that is put back without the others of its bundle.
const SPLIT: &str = "split";

/// A message whose decision is made and not published yet.
#[derive(Debug)]
pub(crate) struct PendingCommit {
    /// The message.
    pub(crate) incoming: IncomingMessage,
    /// How often the broker had handed it out.
    pub(crate) delivered: u32,
    /// What the decision publishes.
    pub(crate) parts: Vec<Part>,
    /// What it records in the trace.
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
    /// The same, encoded only when its turn comes.
    Unencoded(Box<Output>),
    /// To wait for its time, in a bundle with others that wait for the same.
    Deferral(Deferral),
    /// A receipt, together with others of the same subject.
    Receipt { subject: String, id: String, receipt: Receipt },
    /// A message to a stream of its own.
    Message(&'static str, Outgoing),
    /// A dead letter, stored as far as there is room for it.
    Letter(Letter),
    /// A rejection, which nobody waits for.
    Rejection(Outgoing),
}

/// Why a decision cannot be performed: the reason and detail of the dead letter that it becomes.
pub(crate) type Impossible = (Reason, String);

/// A message to the next stage.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) lane: Lane,
    pub(crate) channel: Option<Channel>,
    pub(crate) id: String,
    pub(crate) envelope: Vec<u8>,
}

/// A message that comes back to `queue` when its time has come.
#[derive(Debug)]
pub(crate) struct Deferral {
    pub(crate) lane: Lane,
    pub(crate) queue: String,
    pub(crate) until: Timestamp,
    /// Whose share of what waits it takes.
    pub(crate) app: String,
    pub(crate) id: String,
    pub(crate) envelope: Vec<u8>,
}

impl Forward {
    pub(crate) fn new(output: &Output) -> Result<Self, PublishError> {
        let (lane, channel, id) = (output.lane(), output.channel(), output.message_id());
        Ok(Forward { lane, channel, id, envelope: output.encode().map_err(unencodable)? })
    }
}

impl PendingCommit {
    /// What `stage` decided about a message.
    pub(crate) fn new(
        stage: Stage,
        incoming: IncomingMessage,
        delivered: u32,
        context: Context,
        timing: Timing,
        decision: Decision,
        deferred: &Shares,
    ) -> Self {
        let (word, mut unsent) = (decision.verdict.as_str(), ends_unsent(stage, &decision, delivered));
        let mut pending =
            PendingCommit { incoming, delivered, parts: Vec::new(), events: Vec::new(), word, context, timing };
        pending.events = pending.trace_events(stage, &decision);
        match pending.plan(stage, decision, deferred) {
            Ok(parts) => pending.parts = parts,
            Err(impossible) => {
                // Nothing of it is stored. At send another copy of the message may be further.
                unsent |= stage != Stage::Send && delivered == 1;
                pending.become_dead_letter(stage, impossible);
            }
        }
        if unsent {
            let incoming = &pending.incoming;
            pending
                .parts
                .extend(give_back(stage, &incoming.payload).map(|record| Part::Message(stream::LEDGER, record)));
        }
        pending
    }

    /// A message that came in a bundle so often that another message of the bundle may be what kills the workers: it
    /// goes back to its queue, that of `stage` for `lane`, without the others. Nothing was decided, so nothing is
    /// traced.
    pub(crate) fn split(
        (stage, lane): (Stage, Lane),
        incoming: IncomingMessage,
        delivered: u32,
        context: Context,
        timing: Timing,
    ) -> Self {
        let parts = vec![Part::Message(stream::of_stage(stage, lane), put_back_alone(&incoming))];
        PendingCommit { incoming, delivered, parts, events: Vec::new(), word: SPLIT, context, timing }
    }

    /// Makes it a dead letter, because what was decided cannot be stored.
    pub(crate) fn become_dead_letter(&mut self, stage: Stage, (reason, detail): Impossible) {
        tracing::warn!(%stage, %reason, detail, "what was decided cannot be stored: dead letter");
        self.parts = vec![Part::Letter(self.dead_letter(stage, reason, &detail))];
        let decision = Decision::dead(reason, detail);
        self.word = decision.verdict.as_str();
        self.events = self.trace_events(stage, &decision);
    }

    fn trace_events(&self, stage: Stage, decision: &Decision) -> Vec<Encoded> {
        encoded(&span::of_decision(stage, &self.context, &self.timing, decision))
    }

    /// Why it can never be stored, where the broker has refused one of its parts with `error`.
    pub(crate) fn impossible(&self, error: &PublishError) -> Impossible {
        let waits = self.parts.iter().any(|part| matches!(part, Part::Deferral(_)));
        let refused = matches!(error, PublishError::Refused { .. });
        (if waits && refused { Reason::Unschedulable } else { Reason::TooLarge }, error.to_string())
    }

    /// What the decision publishes, without its trace events.
    fn plan(&self, stage: Stage, decision: Decision, deferred: &Shares) -> Result<Vec<Part>, Impossible> {
        let mut parts = Vec::new();
        match decision.verdict {
            Verdict::Forward(outputs) => {
                let mut bytes = 0;
                for output in outputs {
                    parts.push(if bytes < MAX_ENCODED_BYTES {
                        let forward = Forward::new(&output).map_err(too_large)?;
                        bytes += forward.envelope.len();
                        Part::Forward(forward)
                    } else {
                        Part::Unencoded(Box::new(output))
                    });
                }
            }
            Verdict::Defer { until, message, reason } => {
                // Where the broker's clock is ahead of ours, the message would come back before its time, again and
                // again.
                let soonest = self.timing.started_at.saturating_add(MIN_DEFERRAL).unwrap_or(Timestamp::MAX);
                let times = if reason == Reason::Scheduled { ROOM_FOR_SCHEDULED } else { ROOM_FOR_ON_ITS_WAY };
                parts.push(self.deferral(stage, *message, soonest.max(until), deferred, times)?);
            }
            Verdict::Retry { after, message, .. } => {
                // From when it was decided, so that a repeat of this commit asks for the same moment.
                let after = jiff::SignedDuration::try_from(after).unwrap_or(jiff::SignedDuration::MAX);
                let until = self.timing.started_at.saturating_add(after).unwrap_or(Timestamp::MAX);
                parts.push(self.deferral(stage, *message, until, deferred, ROOM_FOR_ON_ITS_WAY)?);
            }
            Verdict::Dead { reason, detail } => {
                parts.push(Part::Letter(self.dead_letter(stage, reason, &detail)));
            }
            Verdict::Reject { reason, violations, request_id } => {
                let request = request_id.unwrap_or(self.context.request_id);
                parts.push(Part::Rejection(self.rejection(reason, &violations, request)));
            }
            Verdict::Sent | Verdict::Suppress(_) | Verdict::Bounce(_) => {}
        }
        for ended in decision.ended {
            parts.push(Part::Letter(self.letter_of_part(stage, ended)?));
        }
        for (kind, receipt) in decision.receipts {
            let Some(channel) = self.context.channel else {
                // Receipts are of deliveries, which have a channel. Filed under another's, it would be counted there.
                tracing::error!(%stage, %kind, "a receipt of a message without a channel is dropped");
                continue;
            };
            let id = format!("{}.{kind}.{}", receipt.delivery_id.simple(), receipt.by.as_str());
            parts.push(Part::Receipt { subject: subject::receipt(kind, channel), id, receipt });
        }
        Ok(parts)
    }

    /// The message for its time, if the app's share of what waits has room for it.
    fn deferral(
        &self,
        stage: Stage,
        message: Output,
        until: Timestamp,
        deferred: &Shares,
        times: u64,
    ) -> Result<Part, Impossible> {
        if until >= LAST_MOMENT {
            return Err((Reason::Unschedulable, format!("{until} is later than JetStream can schedule")));
        }
        let app = &self.context.app;
        let message = message.again();
        let envelope = message.encode().map_err(|error| too_large(unencodable(error)))?;
        let bytes = envelope.len() as u64;
        if let Some(room) = deferred.room(app)
            && !room.admits(bytes, times)
        {
            count::deferral_refused(stage);
            let detail = format!(
                "{app} has {} bytes waiting for their time; {} of {} (streams.deferred_bytes) are taken",
                room.of_app, room.taken, room.max
            );
            return Err((Reason::TooManyDeferred, detail));
        }
        deferred.add(app, bytes);
        Ok(Part::Deferral(Deferral {
            lane: message.lane(),
            queue: message.subject(stage),
            until: moment(until),
            app: app.to_string(),
            id: message.message_id(),
            envelope,
        }))
    }

    /// The input as it was; headers say how it ended.
    fn dead_letter(&self, stage: Stage, reason: Reason, detail: &str) -> Letter {
        let PendingCommit { incoming, context, .. } = self;
        let mut headers = dead_letter(reason, detail, stage.as_str(), &incoming.subject);
        headers.extend([
            (header::APP, context.app.to_string()),
            (header::DELIVERED, self.delivered.to_string()),
            (header::ATTEMPTS, context.attempt.to_string()),
            (header::NOTIFICATION, context.trace_id.to_string()),
            (header::PROVIDER, context.provider.to_string()),
        ]);
        headers.extend(context.delivery_id.map(|id| (header::DELIVERY, id.to_string())));
        headers.extend(headers_of(incoming, usize::MAX));
        let message = Outgoing {
            subject: subject::dead(stage),
            message_id: Some(format!("{stage}.{}.{}", incoming.request_id().simple(), incoming.index)),
            headers,
            payload: incoming.payload.clone(),
        };
        Letter { app: context.app.to_string(), stage: stage.as_str(), message }
    }

    /// The part of the input that one delivery was to be made of, so that a replay repeats nothing of the others.
    fn letter_of_part(&self, stage: Stage, ended: Ended) -> Result<Letter, Impossible> {
        let Ended { reason, detail, part } = ended;
        let mut letter = self.dead_letter(stage, reason, &detail);
        let message = &mut letter.message;
        if let Some(delivery) = part.delivery_id {
            message.message_id = message.message_id.take().map(|id| format!("{id}.{}", delivery.simple()));
            message.headers.push((header::DELIVERY, delivery.to_string()));
        }
        message.payload = Output::Notification(part).encode().map_err(|error| too_large(unencodable(error)))?.into();
        Ok(letter)
    }

    /// The beginning of the submission, on the subject where its producer can listen.
    fn rejection(&self, reason: Reason, violations: &[String], request: uuid::Uuid) -> Outgoing {
        let PendingCommit { incoming, context, .. } = self;
        // A list of strings always serialises.
        let detail = serde_json::to_string(violations).unwrap_or_default();
        let mut headers = dead_letter(reason, &detail, Stage::Validate.as_str(), &incoming.subject);
        headers.extend([(header::REQUEST, request.to_string()), (header::NOTIFICATION, context.trace_id.to_string())]);
        headers.extend(headers_of(incoming, MAX_REJECTED_BYTES));
        let cut = incoming.payload.len() > MAX_REJECTED_BYTES;
        headers.extend(cut.then(|| (header::CUT, incoming.payload.len().to_string())));
        Outgoing {
            subject: subject::rejected(&context.app),
            message_id: Some(format!("rejected.{}", context.trace_id.simple())),
            headers,
            payload: incoming.payload.slice(..incoming.payload.len().min(MAX_REJECTED_BYTES)),
        }
    }
}

/// The record that the message gives the claim of its idempotency key back, as far as it holds it.
fn give_back(stage: Stage, payload: &[u8]) -> Option<Outgoing> {
    let (claim, record) = match stage {
        Stage::Prioritize | Stage::Send => {
            let delivery = envelope::decode::<Delivery>(payload).ok()?;
            if delivery.attempt > 1 {
                // A provider was called before.
                return None;
            }
            let Delivery { claim, notification_id: notification, id, siblings: of, .. } = delivery;
            (claim, GivenBack { notification, delivery: Some(id), of })
        }
        _ => {
            let Notification { claim, id, .. } = envelope::decode(payload).ok()?;
            (claim, GivenBack { notification: id, delivery: None, of: 0 })
        }
    };
    if claim.is_empty() {
        return None;
    }
    let who = record.delivery.unwrap_or(record.notification).simple();
    Some(Outgoing {
        subject: subject::given_back(&claim),
        message_id: Some(format!("given_back.{claim}.{who}")),
        headers: vec![],
        // Ids and a number always serialise.
        payload: serde_json::to_vec(&record).unwrap_or_default().into(),
    })
}

/// Whether this ends a message that holds the claim of an idempotency key and was handed to no provider.
///
/// Where in doubt it was: a key that stays burnt costs less than a message that goes out twice. Before send, a message
/// that was handed out before may have been forwarded then. At send, the record of attempts says who was called; what
/// the runtime itself gives up is not on record. What is superseded was replaced, and must not come again.
fn ends_unsent(stage: Stage, decision: &Decision, delivered: u32) -> bool {
    let on_record = stage == Stage::Send;
    let ended = match &decision.verdict {
        Verdict::Suppress(reason) => *reason != Reason::Superseded,
        Verdict::Dead { reason, .. } => {
            *reason != Reason::DeliveriesExhausted
                && !(on_record && matches!(reason, Reason::Panicked | Reason::BadRecord | Reason::UnreadableHeaders))
        }
        _ => false,
    };
    ended && decision.provider.is_none() && (on_record || delivered == 1)
}

fn too_large(error: PublishError) -> Impossible {
    (Reason::TooLarge, error.to_string())
}

/// What a letter keeps of the message's own headers; of unreadable ones at most `most` bytes.
fn headers_of(incoming: &IncomingMessage, most: usize) -> impl Iterator<Item = (&'static str, String)> {
    let content_type = incoming.content_type.as_deref().map(|kind| (header::CONTENT_TYPE, kind.to_owned()));
    let unreadable = incoming.unreadable_headers.as_deref().map(|block| raw_headers(&block[..block.len().min(most)]));
    content_type.into_iter().chain(unreadable)
}

/// Publishes a message of a bundle to its queue again, without the others.
fn put_back_alone(incoming: &IncomingMessage) -> Outgoing {
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

/// The moment that what is due `until` then waits for.
fn moment(until: Timestamp) -> Timestamp {
    let late = until.as_nanosecond().rem_euclid(i128::from(MOMENT_MS) * 1_000_000);
    let rest = if late == 0 { 0 } else { i128::from(MOMENT_MS) * 1_000_000 - late };
    Timestamp::from_nanosecond(until.as_nanosecond() + rest).unwrap_or(until)
}

#[cfg(test)]
mod tests;
