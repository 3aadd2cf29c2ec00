//! Asks the broker about every stream and consumer of the topology.
//!
//! Guarantee: a sample takes 4 s at most, and what did not answer by then is counted and left out. One call for each
//! stream and consumer, and one for the time of its oldest message, unless that has not changed: some hundred small
//! requests, a few of them at a time. Nothing is written anywhere.

use std::{collections::HashMap, time::Duration};

use async_nats::{
    Client,
    connection::State,
    jetstream::{self, Context, consumer::PullConsumer},
};
use chasqui_nats::shares::max_bytes;
use chasqui_warehouse::write::queue_metrics::QueueMetric;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::rows::{self, Counts, Queue, Stored, UNREAD};

/// Maximum time for a sample: the next one follows in 5 s.
const PATIENCE: Duration = Duration::from_secs(4);
/// Maximum requests under way at once: the broker has other work.
const AT_ONCE: usize = 8;

/// All queues at one moment.
#[derive(Debug)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// The queues, in the order of a notification's way.
    pub rows: Vec<QueueMetric>,
    /// Queues that are missing, because the broker did not answer, or because `chasqui migrate` has not made them.
    pub unanswered: usize,
}

/// Takes samples, and remembers the one before for rates.
pub struct Sampler {
    client: Client,
    context: Context,
    queues: Vec<Queue>,
    consumers: HashMap<usize, Consumer>,
    streams: HashMap<&'static str, (Stored, Instant)>,
}

/// A consumer as it was when it answered last.
#[derive(Clone, Copy)]
struct Consumer {
    counts: Counts,
    seen_at: Instant,
    oldest: Option<Oldest>,
}

/// The first message that is not acknowledged.
#[derive(Clone, Copy)]
struct Oldest {
    /// Everything up to this sequence is acknowledged.
    floor: u64,
    stored_at: Timestamp,
}

impl Sampler {
    /// Samples through `client`.
    pub fn new(client: Client) -> Self {
        let context = jetstream::new(client.clone());
        Sampler { client, context, queues: rows::consumers(), consumers: HashMap::new(), streams: HashMap::new() }
    }

    /// All queues as they are now, called `at`. Rates are zero the first time.
    pub async fn sample(&mut self, at: Timestamp) -> Sample {
        let expected = self.queues.len() + UNREAD.len();
        // Requests without a connection would only wait, and come all at once afterwards.
        if self.client.connection_state() != State::Connected {
            return Sample { at, rows: Vec::new(), unanswered: expected };
        }
        let deadline = Instant::now() + PATIENCE;
        let (context, known) = (&self.context, &self.consumers);
        let asked = rows::streams().into_iter().map(|stream| async move { (stream, stored(context, stream).await) });
        let streams: HashMap<_, _> = answers(asked.collect(), deadline).await.into_iter().collect();
        let asked = self.queues.iter().enumerate().map(|(index, queue)| async move {
            (index, look(context, queue, known.get(&index).and_then(|known| known.oldest)).await)
        });
        let mut consumers = answers(asked.collect(), deadline).await;
        consumers.sort_by_key(|(index, _)| *index);

        let mut rows = Vec::with_capacity(expected);
        for (index, now) in consumers {
            let queue = &self.queues[index];
            let Some((stream, _)) = streams.get(queue.stream) else { continue };
            let before = self.consumers.insert(index, now);
            let before = before.map(|before| (before.counts, now.seen_at - before.seen_at));
            let oldest_at = now.oldest.map(|oldest| oldest.stored_at);
            rows.push(rows::of_consumer(at, queue, before, now.counts, oldest_at, *stream));
        }
        for stream in UNREAD {
            let Some(&(now, seen_at)) = streams.get(stream) else { continue };
            let before = self.streams.insert(stream, (now, seen_at));
            let before = before.map(|(before, then)| (before, seen_at - then));
            let read: Vec<&QueueMetric> = rows.iter().filter(|row| row.stream == stream).collect();
            let row = rows::of_unread(at, stream, before, now, &read);
            rows.push(row);
        }
        Sample { at, unanswered: expected - rows.len(), rows }
    }
}

/// What was answered until the deadline, in whatever order.
async fn answers<K, T>(calls: Vec<impl Future<Output = (K, Option<T>)>>, deadline: Instant) -> Vec<(K, T)> {
    let mut calls = stream::iter(calls).buffer_unordered(AT_ONCE);
    let mut answers = Vec::new();
    while let Ok(Some((key, answer))) = timeout_at(deadline, calls.next()).await {
        answers.extend(answer.map(|answer| (key, answer)));
    }
    answers
}

async fn stored(context: &Context, stream: &str) -> Option<(Stored, Instant)> {
    let found = context.get_stream(stream).await;
    let found =
        found.inspect_err(|error| tracing::debug!(stream, error = error as &dyn std::error::Error, "no answer"));
    let found = found.ok()?;
    let state = &found.cached_info().state;
    let max_bytes = max_bytes(&found.cached_info().config);
    let stored = Stored { messages: state.messages, bytes: state.bytes, last_sequence: state.last_sequence, max_bytes };
    Some((stored, Instant::now()))
}

async fn look(context: &Context, queue: &Queue, known: Option<Oldest>) -> Option<Consumer> {
    let consumer: Result<PullConsumer, _> = context.get_consumer_from_stream(&queue.consumer, queue.stream).await;
    let consumer = consumer.inspect_err(|error| {
        tracing::debug!(queue.stream, queue.consumer, error = error as &dyn std::error::Error, "no answer");
    });
    let consumer = consumer.ok()?;
    let seen_at = Instant::now();
    let info = consumer.cached_info();
    let counts = Counts {
        delivered: info.delivered.consumer_sequence,
        passed: info.delivered.stream_sequence,
        pending: info.num_pending,
        in_flight: info.num_ack_pending as u64,
        redelivered: info.num_redelivered as u64,
        waiting: info.num_waiting as u64,
    };
    let floor = info.ack_floor.stream_sequence;
    let oldest = if counts.pending + counts.in_flight == 0 {
        None
    } else if let Some(known) = known.filter(|known| known.floor == floor) {
        Some(known)
    } else {
        let stored_at = oldest_after(context, queue, floor).await;
        stored_at.map(|stored_at| Oldest { floor, stored_at })
    };
    Some(Consumer { counts, seen_at, oldest })
}

/// When the first of the queue's messages after `floor` was stored; none if it has been acknowledged meanwhile.
async fn oldest_after(context: &Context, queue: &Queue, floor: u64) -> Option<Timestamp> {
    let stream = context.get_stream_no_info(queue.stream).await.ok()?;
    let message = stream.direct_get_next_for_subject(&queue.filter, Some(floor + 1)).await;
    let message = message.inspect_err(|error| {
        tracing::debug!(queue.stream, queue.consumer, error = error as &dyn std::error::Error, "no oldest message");
    });
    Timestamp::from_nanosecond(message.ok()?.time.unix_timestamp_nanos()).ok()
}
