//! The way into the durable trace stream; the stages of a process share one.
//!
//! Guarantee: when [`TraceSink::record`] returns, the events are stored. Events that come at the same time are stored
//! together ([`chasqui_nats::coalesce`]), with one fsync: otherwise the seven stages would cost seven fsyncs for every
//! notification.
//!
//! After a crash the inputs whose events were not recorded come again. Events that are stored twice replace themselves.

use std::time::Duration;

use bytes::Bytes;
use chasqui_nats::{
    Outgoing, Publisher,
    coalesce::{Coalescer, Pace, fitting},
};
use chasqui_schemas::{
    subject,
    trace::{self, Encoded, TraceEvent},
};
use tokio::sync::{mpsc, oneshot};

/// Maximum calls of [`TraceSink::record`] that wait for their batch; further callers wait for room. That is
/// twice what the runners of a process can have on their way: ten queues, three lanes, four commits each.
const QUEUED_CALLS: usize = 256;
/// Maximum events in one message: about 80 kB.
const EVENTS_PER_MESSAGE: usize = 500;
/// Maximum bytes of one message, without its head. Events are larger than usual where a submission was wrong in many
/// ways; this keeps their message far below the stream's limit of 2 MiB.
const MAX_MESSAGE_BYTES: usize = 512 * 1024;
/// How batches are apart under load. A commit waits for its events, so this paces the stages too: they make fewer and
/// larger bundles and cost fewer fsyncs, and wait some milliseconds for it; at rest nothing waits.
const PACE: Pace = Pace { every: Duration::from_millis(40), few: 64, many: 4 * EVENTS_PER_MESSAGE };
/// Pause after the stream refused events, which only an operator can mend.
const REFUSED: Duration = Duration::from_secs(1);

/// Records trace events durably. Clones share one stream of batches.
#[derive(Debug, Clone)]
pub struct TraceSink {
    calls: mpsc::Sender<Call>,
}

#[derive(Debug)]
struct Call {
    events: Vec<Encoded>,
    recorded: oneshot::Sender<()>,
}

impl TraceSink {
    /// Starts the task that stores events. Must be called in a tokio runtime; the task ends when the last clone is
    /// dropped.
    pub fn start(publisher: &Publisher) -> Self {
        let (calls, waiting) = mpsc::channel(QUEUED_CALLS);
        tokio::spawn(record(publisher.apart(), Coalescer::new(waiting, PACE)));
        TraceSink { calls }
    }

    /// Stores `events`. Returns when they are stored, however long the broker is away.
    pub async fn record(&self, events: Vec<Encoded>) {
        if events.is_empty() {
            return;
        }
        let (recorded, done) = oneshot::channel();
        // Both fail only while the runtime shuts down. Then this never returns: were it to return, the caller would
        // acknowledge an input whose events are not stored.
        if self.calls.send(Call { events, recorded }).await.is_err() || done.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Encodes events for [`TraceSink::record`]. They wait for their batch then, so it is best done at once, while they are
/// in the processor's cache.
pub fn encoded(events: &[TraceEvent]) -> Vec<Encoded> {
    events.iter().map(Encoded::new).collect()
}

/// Stores batch after batch, one at a time.
async fn record(publisher: Publisher, mut waiting: Coalescer<Call>) {
    loop {
        let calls = waiting.next(|call| call.events.len()).await;
        if calls.is_empty() {
            return;
        }
        let mut events = Vec::with_capacity(calls.iter().map(|call| call.events.len()).sum());
        let mut callers = Vec::with_capacity(calls.len());
        for Call { events: more, recorded } in calls {
            events.extend(more);
            callers.push(recorded);
        }
        store(&publisher, messages(&events)).await;
        for caller in callers {
            // An error means that the caller was dropped meanwhile, which is no concern of the others.
            _ = caller.send(());
        }
    }
}

/// The events as messages of the trace stream.
fn messages(events: &[Encoded]) -> Vec<Outgoing> {
    let mut messages = Vec::new();
    let mut rest = events;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest, EVENTS_PER_MESSAGE, MAX_MESSAGE_BYTES, Encoded::len));
        messages.push(Outgoing {
            subject: subject::TRACES.to_owned(),
            // Without a message id, since an event that is stored twice replaces itself.
            message_id: None,
            headers: Vec::new(),
            payload: Bytes::from(trace::batch(now)),
        });
        rest = later;
    }
    messages
}

/// Stores `messages`, with as many tries as it takes.
async fn store(publisher: &Publisher, messages: Vec<Outgoing>) {
    while let Err(error) = publisher.insist(&messages).await {
        tracing::error!(error = &error as &dyn std::error::Error, "the trace stream refuses events; stages wait");
        tokio::time::sleep(REFUSED).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bytes: usize) -> TraceEvent {
        TraceEvent { attributes: vec![("k".into(), "v".repeat(bytes).into())], ..TraceEvent::default() }
    }

    #[test]
    fn messages_are_bounded_by_events_and_by_bytes() {
        let small: Vec<_> = (0..1_200).map(|i| TraceEvent { span_id: i, ..event(1) }).collect();
        assert_eq!(messages(&encoded(&small)).len(), 3);
        let large: Vec<_> = (0..100).map(|i| TraceEvent { span_id: i, ..event(20_000) }).collect();
        let messages = messages(&encoded(&large));
        assert!(messages.iter().all(|message| message.payload.len() <= MAX_MESSAGE_BYTES));
        let again: Vec<_> = messages.iter().flat_map(|message| trace::decode(&message.payload).unwrap()).collect();
        assert_eq!(again, large, "in order, and none is missing");
    }
}
