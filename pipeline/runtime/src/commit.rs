//! Performs decisions. Outputs and trace events are stored (PubAck received) before the input is acknowledged.
//!
//! What a batch of decisions publishes goes out as one atomic batch per stream, and its trace events as one message,
//! together with those of other stages; with `sync_interval: always` that is one fsync each, whatever the size of the batch.
//!
//! After a crash in the middle, the inputs come again and their outputs are published again under the same
//! message ids, which JetStream takes for repeats.

use std::collections::BTreeMap;

use bytes::Bytes;
use chasqui_contract::{Context, Decision, IncomingMessage, Output, Verdict};
use chasqui_schemas::{Reason, Stage, header, stream, subject, trace::TraceEvent};
use chasqui_stores::publisher::{Outgoing, PublishError, Publisher};
use chasqui_trace::{
    TraceSink,
    span::{self, Timing},
};
use futures::future::join_all;
use jiff::Timestamp;

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
    /// The decision.
    pub decision: Decision,
}

/// Publishes everything that `batch` asks for, however long the broker refuses or is away.
///
/// A decision that the broker can never store (a message too large for it) becomes a dead letter itself.
pub async fn commit(publisher: &Publisher, traces: &TraceSink, stage: Stage, batch: &mut [Decided]) {
    if publish_all(publisher, traces, stage, batch).await.is_ok() {
        return;
    }
    // One of them is impossible. Alone, it can be told from the others.
    for decided in batch {
        if let Err(error) = publish_all(publisher, traces, stage, std::slice::from_ref(decided)).await {
            tracing::error!(%stage, error = &error as &dyn std::error::Error, "decision cannot be stored: dead letter");
            decided.decision = Decision::dead(Reason::TooLarge, error.to_string());
            if let Err(error) = publish_all(publisher, traces, stage, std::slice::from_ref(decided)).await {
                // Nothing of it fits: the trace at least must say so, and it has no content of the message.
                tracing::error!(%stage, error = &error as &dyn std::error::Error, "dead letter cannot be stored");
            }
        }
    }
}

/// Messages by stream, sent off before they grow too large.
struct Batch<'a> {
    publisher: &'a Publisher,
    by_stream: BTreeMap<&'static str, Vec<Outgoing>>,
    messages: usize,
    bytes: usize,
}

impl Batch<'_> {
    async fn push(&mut self, stream: &'static str, message: Outgoing) -> Result<(), PublishError> {
        self.messages += 1;
        self.bytes += message.payload.len();
        self.by_stream.entry(stream).or_default().push(message);
        if self.messages >= FLUSH_MESSAGES || self.bytes >= FLUSH_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Streams do not wait for each other.
    async fn flush(&mut self) -> Result<(), PublishError> {
        (self.messages, self.bytes) = (0, 0);
        let streams = std::mem::take(&mut self.by_stream);
        let publishing = streams.values().map(|messages| self.publisher.insist(messages));
        join_all(publishing).await.into_iter().collect()
    }
}

async fn publish_all(
    publisher: &Publisher,
    traces: &TraceSink,
    stage: Stage,
    batch: &[Decided],
) -> Result<(), PublishError> {
    let mut out = Batch { publisher, by_stream: BTreeMap::new(), messages: 0, bytes: 0 };
    let mut events: Vec<TraceEvent> = Vec::with_capacity(batch.len());
    for decided in batch {
        perform(&mut out, stage, decided).await?;
        events.extend(span::of_decision(stage, &decided.context, &decided.timing, &decided.decision));
    }
    // Neither waits for the other; the input is acknowledged after both.
    tokio::join!(out.flush(), traces.record(events)).0
}

/// What one decision publishes, traces apart.
async fn perform(out: &mut Batch<'_>, stage: Stage, decided: &Decided) -> Result<(), PublishError> {
    match &decided.decision.verdict {
        Verdict::Forward(outputs) => {
            if let Some(next) = stage.next() {
                for output in outputs {
                    out.push(stream::of_stage(next), forwarded(output, next)?).await?;
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
    for (kind, receipt) in &decided.decision.receipts {
        let channel = decided.context.channel.parse().unwrap_or(chasqui_schemas::Channel::Push);
        let payload = serde_json::to_vec(receipt).map_err(unencodable)?.into();
        let message_id = Some(format!("{}.{kind}.{}", receipt.delivery_id.simple(), receipt.by.as_str()));
        let message = Outgoing { subject: subject::receipt(*kind, channel), message_id, headers: vec![], payload };
        out.push(stream::RECEIPTS, message).await?;
    }
    Ok(())
}

fn unencodable(error: impl std::error::Error + Send + Sync + 'static) -> PublishError {
    PublishError::Refused { code: 0, description: error.to_string() }
}

fn forwarded(output: &Output, next: Stage) -> Result<Outgoing, PublishError> {
    Ok(Outgoing {
        subject: output.subject(next),
        message_id: Some(output.message_id()),
        headers: vec![],
        payload: output.encode().map_err(unencodable)?.into(),
    })
}

/// A JetStream message schedule (ADR-51): at `until` the broker publishes it to [`subject::due`], from where
/// [`crate::deferred`] returns it to the queue of `stage`. One schedule per subject, so a repeat replaces it.
fn deferred(message: &Output, stage: Stage, until: Timestamp) -> Result<Outgoing, PublishError> {
    let again = message.clone().again();
    let lane = match &again {
        Output::Notification(notification) => notification.lane,
        Output::Delivery(delivery) => delivery.lane,
    };
    let message_id = again.message_id();
    Ok(Outgoing {
        subject: subject::deferred(&message_id),
        headers: vec![
            (header::SCHEDULE, format!("@at {until}")),
            (header::SCHEDULE_TARGET, subject::due(lane)),
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
        (header::PROVIDER, context.provider.clone()),
    ];
    headers.extend(context.delivery_id.map(|id| (header::DELIVERY, id.to_string())));
    headers.extend(incoming.content_type.clone().map(|kind| (header::CONTENT_TYPE, kind)));
    Outgoing {
        subject: subject::dead(stage),
        message_id: Some(format!("{stage}.{}.{}", incoming.stored_at.as_nanosecond(), incoming.sequence)),
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
