//! Performs decisions. Outputs and trace events are stored (PubAck received) before the input is acknowledged.
//!
//! What a batch of decisions forwards to one queue goes there as bundles of up to [`BUNDLE_MESSAGES`]: one JetStream
//! message, one fsync, one delivery and one acknowledgement for all of them, which is most of what the server's work
//! on a notification comes to. The same for its receipts, and for its trace events, which go together with those of
//! other stages.
//!
//! After a crash in the middle, the inputs come again and their outputs are published again: under the same message
//! ids, which JetStream takes for repeats, or bundled otherwise, which the stages' idempotence takes care of: the
//! ledger lets each notification, and each attempt, through once.

use std::collections::BTreeMap;

use bytes::Bytes;
use chasqui_contract::{Context, Decision, IncomingMessage, Output, Verdict};
use chasqui_schemas::{Lane, Reason, Receipt, Stage, envelope, header, id, stream, subject, trace::TraceEvent};
use chasqui_stores::publisher::{Outgoing, PublishError, Publisher};
use chasqui_trace::{
    TraceSink,
    span::{self, Timing},
};
use futures::future::join_all;
use jiff::Timestamp;

/// Most messages in a bundle: more would save little, and hold up the first for the last.
pub const BUNDLE_MESSAGES: usize = 128;
/// Most bytes in a bundle of several: bounds what one message of a queue can take.
const BUNDLE_BYTES: usize = 128 * 1024;
/// Published at once at the latest when this many are ready: the broker's limit for a batch (ADR-50).
const FLUSH_MESSAGES: usize = 1_000;
/// Published at once at the latest when this many bytes are ready.
const FLUSH_BYTES: usize = 4 * 1024 * 1024;
/// Shortest deferral: what is due sooner comes a little late.
const MIN_DEFERRAL: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);
/// Longest `Chasqui-Detail`, in bytes.
const MAX_DETAIL: usize = 4 * 1024;

/// A message and what was decided about it.
#[derive(Debug)]
pub struct Decided {
    /// The message.
    pub incoming: IncomingMessage,
    /// How often the broker had handed it out.
    pub delivered: u32,
    /// What its trace events have in common.
    pub context: Context,
    /// When it was decided.
    pub timing: Timing,
    /// The decision. None: it came in a bundle so often that another message in it may be what kills the workers;
    /// it goes back to its queue alone.
    pub decision: Option<Decision>,
}

/// Publishes everything that `batch`, of the queue of `stage` for `lane`, asks for, however long the broker refuses or is away.
///
/// A decision that the broker can never store (a message too large for it) becomes a dead letter itself.
pub async fn commit(publisher: &Publisher, traces: &TraceSink, stage: Stage, lane: Lane, batch: &mut [Decided]) {
    if publish_all(publisher, traces, stage, lane, batch).await.is_ok() {
        return;
    }
    // One of them is impossible. Alone, it can be told from the others.
    for decided in batch {
        if let Err(error) = publish_all(publisher, traces, stage, lane, std::slice::from_ref(decided)).await {
            tracing::error!(%stage, error = &error as &dyn std::error::Error, "decision cannot be stored: dead letter");
            decided.decision = Some(Decision::dead(Reason::TooLarge, error.to_string()));
            if let Err(error) = publish_all(publisher, traces, stage, lane, std::slice::from_ref(decided)).await {
                // Nothing of it fits: the trace at least must say so, and it has no content of the message.
                tracing::error!(%stage, error = &error as &dyn std::error::Error, "dead letter cannot be stored");
            }
        }
    }
}

/// Messages by stream, sent off before they grow too large.
struct Batch<'a> {
    publisher: &'a Publisher,
    bundles: BTreeMap<(&'static str, String), Bundle>,
    receipts: BTreeMap<String, Vec<(String, Receipt)>>,
    by_stream: BTreeMap<&'static str, Vec<Outgoing>>,
    messages: usize,
    bytes: usize,
}

/// What goes to one queue.
#[derive(Default)]
struct Bundle {
    ids: Vec<String>,
    envelopes: Vec<Vec<u8>>,
    bytes: usize,
}

impl Batch<'_> {
    async fn push(&mut self, stream: &'static str, message: Outgoing) -> Result<(), PublishError> {
        let bytes = message.payload.len();
        self.by_stream.entry(stream).or_default().push(message);
        self.count(bytes).await
    }

    async fn forward(&mut self, stream: &'static str, output: &Output, next: Stage) -> Result<(), PublishError> {
        let envelope = output.encode().map_err(unencodable)?;
        let bytes = envelope.len();
        let key = (stream, output.subject(next));
        let full = |bundle: &Bundle| bundle.ids.len() == BUNDLE_MESSAGES || bundle.bytes + bytes > BUNDLE_BYTES;
        if let Some(bundle) = self.bundles.get_mut(&key)
            && full(bundle)
        {
            let bundle = std::mem::take(bundle);
            self.close(key.clone(), bundle)?;
        }
        let bundle = self.bundles.entry(key).or_default();
        bundle.ids.push(output.message_id());
        bundle.envelopes.push(envelope);
        bundle.bytes += bytes;
        self.count(bytes).await
    }

    async fn receipt(&mut self, subject: String, receipt: &Receipt, id: String) -> Result<(), PublishError> {
        let receipts = self.receipts.entry(subject).or_default();
        receipts.push((id, receipt.clone()));
        self.count(size_of::<Receipt>()).await
    }

    async fn count(&mut self, bytes: usize) -> Result<(), PublishError> {
        self.messages += 1;
        self.bytes += bytes;
        if self.messages >= FLUSH_MESSAGES || self.bytes >= FLUSH_BYTES { self.flush().await } else { Ok(()) }
    }

    fn close(&mut self, (stream, subject): (&'static str, String), bundle: Bundle) -> Result<(), PublishError> {
        if !bundle.ids.is_empty() {
            let message_id = Some(id::bundle(&bundle.ids));
            let payload = envelope::bundle(bundle.envelopes).map_err(unencodable)?.into();
            let message = Outgoing { subject, message_id, headers: vec![], payload };
            self.by_stream.entry(stream).or_default().push(message);
        }
        Ok(())
    }

    /// Streams do not wait for each other.
    async fn flush(&mut self) -> Result<(), PublishError> {
        (self.messages, self.bytes) = (0, 0);
        for (queue, bundle) in std::mem::take(&mut self.bundles) {
            self.close(queue, bundle)?;
        }
        for (subject, mut receipts) in std::mem::take(&mut self.receipts) {
            while !receipts.is_empty() {
                let some = receipts.drain(..receipts.len().min(BUNDLE_MESSAGES));
                let (ids, receipts): (Vec<_>, Vec<_>) = some.unzip();
                let payload = match &receipts[..] {
                    [only] => serde_json::to_vec(only),
                    several => serde_json::to_vec(several),
                };
                let payload = payload.map_err(unencodable)?.into();
                let message =
                    Outgoing { subject: subject.clone(), message_id: Some(id::bundle(&ids)), headers: vec![], payload };
                self.by_stream.entry(stream::RECEIPTS).or_default().push(message);
            }
        }
        let streams = std::mem::take(&mut self.by_stream);
        let publishing = streams.values().map(|messages| self.publisher.insist(messages));
        join_all(publishing).await.into_iter().collect()
    }
}

async fn publish_all(
    publisher: &Publisher,
    traces: &TraceSink,
    stage: Stage,
    lane: Lane,
    batch: &[Decided],
) -> Result<(), PublishError> {
    let mut out = Batch {
        publisher,
        bundles: BTreeMap::new(),
        receipts: BTreeMap::new(),
        by_stream: BTreeMap::new(),
        messages: 0,
        bytes: 0,
    };
    let mut events: Vec<TraceEvent> = Vec::with_capacity(batch.len());
    for decided in batch {
        let Some(decision) = &decided.decision else {
            out.push(stream::of_stage(stage, lane), alone(&decided.incoming)).await?;
            continue;
        };
        perform(&mut out, stage, decided, decision).await?;
        events.extend(span::of_decision(stage, &decided.context, &decided.timing, decision));
    }
    // Neither waits for the other; the input is acknowledged after both.
    tokio::join!(out.flush(), traces.record(events)).0
}

/// A message of a bundle, back to its queue without the others.
fn alone(incoming: &IncomingMessage) -> Outgoing {
    Outgoing {
        subject: incoming.subject.clone(),
        message_id: Some(format!("alone.{}.{}", incoming.sequence, incoming.index)),
        headers: vec![],
        payload: incoming.payload.clone(),
    }
}

/// What one decision publishes, traces apart.
async fn perform(
    out: &mut Batch<'_>,
    stage: Stage,
    decided: &Decided,
    decision: &Decision,
) -> Result<(), PublishError> {
    match &decision.verdict {
        Verdict::Forward(outputs) => {
            if let Some(next) = stage.next() {
                for output in outputs {
                    out.forward(stream::of_stage(next, output.lane()), output, next).await?;
                }
            }
        }
        Verdict::Defer { until, message, .. } => {
            // Where the broker's clock is ahead of ours, the message would come back before its time, again and again.
            let soonest = decided.timing.started_at.saturating_add(MIN_DEFERRAL).unwrap_or(Timestamp::MAX);
            out.push(stream::DEFERRED, deferred(message, stage, soonest.max(*until))?).await?;
        }
        Verdict::Retry { after, message, .. } => {
            // From when it was decided, so that a repeat of this commit asks for the same moment.
            let after = jiff::SignedDuration::try_from(*after).unwrap_or(jiff::SignedDuration::MAX);
            let until = decided.timing.started_at.saturating_add(after).unwrap_or(Timestamp::MAX);
            out.push(stream::DEFERRED, deferred(message, stage, until)?).await?;
        }
        Verdict::Dead { reason, detail } => {
            out.push(stream::DEAD, dead_letter(stage, decided, *reason, detail)).await?
        }
        Verdict::Reject { reason, violations, request_id } => {
            let request = request_id.unwrap_or(decided.context.request_id);
            out.push(stream::DEAD, rejection(decided, *reason, violations, request)).await?;
        }
        Verdict::Sent | Verdict::Suppress(_) | Verdict::Bounce(_) => {}
    }
    for (kind, receipt) in &decision.receipts {
        let channel = decided.context.channel.parse().unwrap_or(chasqui_schemas::Channel::Push);
        let id = format!("{}.{kind}.{}", receipt.delivery_id.simple(), receipt.by.as_str());
        out.receipt(subject::receipt(*kind, channel), receipt, id).await?;
    }
    Ok(())
}

fn unencodable(error: impl std::error::Error + Send + Sync + 'static) -> PublishError {
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

/// The input as it was, with what is known of its end in the headers.
fn dead_letter(stage: Stage, decided: &Decided, reason: Reason, detail: &str) -> Outgoing {
    let Decided { incoming, context, .. } = decided;
    let mut headers = vec![
        (header::REASON, reason.as_str().to_owned()),
        (header::DETAIL, one_line(detail)),
        (header::STAGE, stage.as_str().to_owned()),
        (header::SUBJECT, incoming.subject.clone()),
        (header::DELIVERED, decided.delivered.to_string()),
        (header::ATTEMPTS, context.attempt.to_string()),
        (header::NOTIFICATION, context.trace_id.to_string()),
        (header::PROVIDER, context.provider.to_string()),
    ];
    headers.extend(context.delivery_id.map(|id| (header::DELIVERY, id.to_string())));
    headers.extend(incoming.content_type.clone().map(|kind| (header::CONTENT_TYPE, kind)));
    Outgoing {
        subject: subject::dead(stage),
        message_id: Some(format!(
            "{stage}.{}.{}.{}",
            incoming.stored_at.as_nanosecond(),
            incoming.sequence,
            incoming.index
        )),
        headers,
        payload: incoming.payload.clone(),
    }
}

/// The submission as it was, where its producer can listen.
fn rejection(decided: &Decided, reason: Reason, violations: &[String], request: uuid::Uuid) -> Outgoing {
    let Decided { incoming, context, .. } = decided;
    // A list of strings always serialises.
    let detail = serde_json::to_string(violations).unwrap_or_default();
    let mut headers = vec![
        (header::REASON, reason.as_str().to_owned()),
        (header::DETAIL, one_line(&detail)),
        (header::STAGE, Stage::Validate.as_str().to_owned()),
        (header::SUBJECT, incoming.subject.clone()),
        (header::REQUEST, request.to_string()),
        (header::NOTIFICATION, context.trace_id.to_string()),
    ];
    headers.extend(incoming.content_type.clone().map(|kind| (header::CONTENT_TYPE, kind)));
    Outgoing {
        subject: subject::rejected(&context.app),
        message_id: Some(format!("rejected.{}", context.trace_id.simple())),
        headers,
        payload: Bytes::clone(&incoming.payload),
    }
}

/// A header is one line, and not a long one.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > MAX_DETAIL {
        line.truncate(line.floor_char_boundary(MAX_DETAIL - '…'.len_utf8()));
        line.push('…');
    }
    line
}
