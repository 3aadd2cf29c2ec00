//! The loop around a stage: pull, decide, commit, acknowledge.
//!
//! One task per queue owns all of its state, so that there are no locks and the order of things can be read from top to
//! bottom. Each stage has two such tasks in a process, one for the critical lane and one for the others:
//! [`crate::lanes`] says why.
//!
//! ```text
//!            window per lane          slots, by weight            a few per lane
//! consumer ───────────────► ready ───────────────► deciding ──► decided ──► committing ──► acknowledged
//! ```
//!
//! Guarantees:
//! - **Nothing is lost**: a message is acknowledged only after what was decided about it is stored.
//! - **No waiting for a full batch**: a commit takes all that is decided when it begins. Under load batches grow by
//!   themselves, because beside a commit that is on its way another begins only with a bundle's worth.
//! - **Bounded**: at most `window` JetStream messages per lane are here, in whatever state. So a full queue behind the
//!   stage fills the one before it. A lane whose commit waits does not hold up the others.
//! - **Poison ends**: a message that does not decode, has unreadable headers or makes the stage panic becomes a dead
//!   letter; so does one that was handed out more than `max_deliveries` times, since it may be what kills the workers. The
//!   messages of a bundle that was handed out so often first go back to the queue one by one, so that one is dead and not
//!   all.
//! - **A bundle is its messages**: each is decided on its own; the bundle is acknowledged after the last is committed.
//! - **Space comes back**: what is acknowledged is removed from its queue within seconds, many at a time
//!   ([`chasqui_nats::release`]).
//! - **Deadlines move**: the acknowledgement deadline of every message that is here is extended while work goes on, so
//!   that a slow call is not made twice.
//! - **Drain**: when stopped, the runner puts back at once what it has not begun, and finishes what it has, within
//!   `drain`. What is not finished by then comes again elsewhere, as everything unacknowledged does after a crash.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use async_nats::{Client, jetstream};
use chasqui_contract::{Clock, Decide, IncomingMessage, StageInput};
use chasqui_nats::{Letters, Shares, keep_releasing, publisher::Publisher};
use chasqui_schemas::{Channel, Lane, consumer, stream};
use chasqui_trace::TraceSink;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    bundle::MAX_MESSAGES,
    commit::commit,
    count,
    decide::{DecisionResult, Item, decide},
    lanes::Lanes,
    plan::PendingCommit,
    pull::{PullEvent, Pulled, Puller},
    settings::RunnerLimits,
};

/// Maximum messages in one commit: as many as fit into one atomic batch. What they publish is split further by size.
const MAX_COMMIT: usize = 1_000;
/// Maximum commits of one lane on their way. Several, since a commit mostly waits for the disk; few, so that each is
/// large.
const MAX_COMMITS: usize = 4;
/// Maximum decisions begun before the loop looks at events and lets other tasks run: some milliseconds' work.
const MAX_ROUND: usize = 128;
/// How often deadlines are looked at and the loop wakes although nothing happens, which also renews forgotten requests.
const TICK: Duration = Duration::from_millis(500);

/// What a runner needs of the world.
#[derive(Clone)]
pub struct Broker {
    /// The connection that messages are pulled from.
    pub client: Client,
    /// Durable publishing on it.
    pub publisher: Publisher,
    /// Stores dead letters.
    pub letters: Letters,
    /// What each app has waiting for its time.
    pub deferred: Shares,
    /// Records trace events.
    pub traces: TraceSink,
    /// Says when a decision began.
    pub clock: Arc<dyn Clock>,
}

impl Broker {
    /// Everything on the connection of `client`, with `publisher` for what is published.
    pub fn start(client: Client, publisher: Publisher, clock: Arc<dyn Clock>) -> Self {
        Broker {
            letters: Letters::start(&publisher),
            deferred: Shares::watch(jetstream::new(client.clone()), stream::DEFERRED),
            traces: TraceSink::start(&publisher),
            client,
            publisher,
            clock,
        }
    }
}

/// A queue could not be worked on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its consumer does not exist, or the broker cannot be reached.
    #[error("cannot open consumer `{consumer}` of stream {stream}: run `chasqui migrate` and check `nats.url`")]
    Open {
        /// The stream.
        stream: &'static str,
        /// The consumer.
        consumer: String,
        /// What the client said.
        #[source]
        source: async_nats::Error,
    },
    /// The connection was closed for good.
    #[error("the connection to NATS is closed")]
    Closed,
}

/// Works on one queue of `stage` until `stop`: on the lanes `on` ([`crate::lanes::URGENT`] or [`crate::lanes::OTHERS`])
/// and, where the stage has a queue per channel, on one channel.
///
/// # Errors
/// See [`RunError`]. A broker that goes away and comes back is no error.
pub async fn run_stage<S: Decide>(
    stage: Arc<S>,
    channel: Option<Channel>,
    on: &[Lane],
    broker: Broker,
    limits: RunnerLimits,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let mut lanes = Vec::with_capacity(on.len());
    let mut releasing = JoinSet::new();
    for &lane in on {
        let (stream, consumer) = (stream::of_stage(S::STAGE, lane), consumer::of_queue(lane, channel));
        let opened = Puller::open(&broker.client, stream, &consumer).await;
        let puller = opened.map_err(|source| RunError::Open { stream, consumer: consumer.clone(), source })?;
        releasing.spawn(keep_releasing(jetstream::new(broker.client.clone()), stream, consumer, None));
        lanes.push(LaneState {
            lane,
            puller,
            open: HashMap::new(),
            ready: VecDeque::new(),
            deciding: 0,
            to_commit: Vec::new(),
            committing: 0,
        });
    }
    let picker = Lanes::new(limits.weights, limits.slots);
    let deciding = FuturesUnordered::new();
    let committing = FuturesUnordered::new();
    // With a bound of its own on batches in flight, so that a stream which does not answer holds up no other queue.
    let broker = Broker { publisher: broker.publisher.apart(), ..broker };
    let mut runner = Runner { stage, channel, broker, limits, lanes, picker, deciding, committing };
    runner.run(&stop).await?;
    runner.drain().await;
    Ok(())
}

type Deciding = BoxFuture<'static, (usize, DecisionResult)>;

struct LaneState {
    lane: Lane,
    puller: Puller,
    /// What was pulled and is neither acknowledged nor put back, by sequence.
    open: HashMap<u64, Open>,
    ready: VecDeque<Item>,
    deciding: usize,
    to_commit: Vec<PendingCommit>,
    /// How many commits are on their way.
    committing: usize,
}

/// A pulled message: alone, or a bundle of several.
struct Open {
    /// Messages of it that are neither committed nor put back.
    left: usize,
    /// Whether work on one of them has begun.
    begun: bool,
    /// Whether the whole is put back when none is left, and after which time it comes again; else it is acknowledged.
    put_back_after: Option<Duration>,
}

impl LaneState {
    fn enqueue<M: StageInput>(&mut self, Pulled { incoming, delivered }: Pulled) {
        // A bundle of ours has headers of ours: what has not is kept as it is, in one dead letter.
        let whole = || vec![incoming.payload.clone()];
        let payloads = if incoming.unreadable_headers.is_some() { whole() } else { M::split(&incoming.payload) };
        let (left, bundled) = (payloads.len(), payloads.len() > 1);
        self.open.insert(incoming.sequence, Open { left, begun: false, put_back_after: None });
        self.ready.extend(payloads.into_iter().enumerate().map(|(index, payload)| {
            let incoming = IncomingMessage { payload, index, ..incoming.clone() };
            Item { incoming, delivered, bundled }
        }));
    }

    /// One message fewer of what was pulled as `sequence`. After the last one the whole is acknowledged, or put back if
    /// that was asked for one of its messages.
    async fn finish_one(&mut self, sequence: u64, put_back_after: Option<Duration>) {
        let Some(open) = self.open.get_mut(&sequence) else { return };
        open.left -= 1;
        open.put_back_after = put_back_after.or(open.put_back_after);
        if open.left == 0
            && let Some(open) = self.open.remove(&sequence)
        {
            match open.put_back_after {
                None => self.puller.ack(sequence).await,
                after => self.puller.put_back(sequence, after).await,
            }
        }
    }
}

/// What the runner reacts to; `usize` is the place of the lane in [`Runner::lanes`].
enum Event {
    Pulled(usize, Pulled),
    RequestEnded,
    Decided(usize, DecisionResult),
    /// The messages of these sequences are committed.
    Committed(usize, Vec<u64>),
    Tick,
}

struct Runner<S> {
    stage: Arc<S>,
    channel: Option<Channel>,
    broker: Broker,
    limits: RunnerLimits,
    lanes: Vec<LaneState>,
    picker: Lanes,
    deciding: FuturesUnordered<Deciding>,
    committing: FuturesUnordered<BoxFuture<'static, (usize, Vec<u64>)>>,
}

impl<S: Decide> Runner<S> {
    async fn run(&mut self, stop: &CancellationToken) -> Result<(), RunError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            for lane in &mut self.lanes {
                lane.puller.request_more(self.limits.window).await;
            }
            let more = self.start_decisions().await;
            self.start_commits();
            if more && !stop.is_cancelled() {
                // Other tasks get their turn, and events that have come meanwhile are handled before the next
                // decisions.
                tokio::task::yield_now().await;
            } else {
                // The order is safe: a stop comes once, a tick every 500 ms, so neither starves the events.
                let event = tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    _ = tick.tick() => Event::Tick,
                    event = std::future::poll_fn(|cx| self.poll_event(cx)) => event?,
                };
                self.handle(event).await;
            }
            // What else is here already goes into the same turn of the loop.
            while let Some(event) = self.event_now()? {
                self.handle(event).await;
            }
        }
    }

    /// Work in hand first, then new messages, the most urgent lane first.
    fn poll_event(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<Event, RunError>> {
        if let Poll::Ready(event) = self.poll_work(cx) {
            return Poll::Ready(Ok(event));
        }
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            match lane.puller.poll_next(cx) {
                Poll::Ready(PullEvent::Message(pulled)) => return Poll::Ready(Ok(Event::Pulled(index, pulled))),
                Poll::Ready(PullEvent::Ended) => return Poll::Ready(Ok(Event::RequestEnded)),
                Poll::Ready(PullEvent::Closed) => return Poll::Ready(Err(RunError::Closed)),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    /// What of the work in hand is done: a commit or a decision. Pending also where there is none.
    fn poll_work(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Event> {
        if let Poll::Ready(Some((lane, sequences))) = self.committing.poll_next_unpin(cx) {
            return Poll::Ready(Event::Committed(lane, sequences));
        }
        match self.deciding.poll_next_unpin(cx) {
            Poll::Ready(Some((lane, result))) => Poll::Ready(Event::Decided(lane, result)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// An event that is here already, without waiting for one.
    ///
    /// No wake-up is lost although the waker does nothing. Polling so leaves it where this task's waker stood, and what
    /// gets ready meanwhile wakes nobody; but nothing ready is forgotten (commits and decisions are queued in their
    /// sets, messages in the subscription), and this task never sleeps on events without polling all of them with its
    /// own waker first, in the `select!` of `run` or in `drain`.
    fn event_now(&mut self) -> Result<Option<Event>, RunError> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match self.poll_event(&mut cx) {
            Poll::Ready(event) => event.map(Some),
            Poll::Pending => Ok(None),
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Pulled(lane, pulled) => self.lanes[lane].enqueue::<S::Input>(pulled),
            Event::Decided(lane, result) => {
                let lane = &mut self.lanes[lane];
                lane.deciding -= 1;
                match result {
                    DecisionResult::Commit(pending) => lane.to_commit.push(*pending),
                    DecisionResult::PutBack { sequence, after } => lane.finish_one(sequence, Some(after)).await,
                }
            }
            Event::Committed(lane, sequences) => {
                let lane = &mut self.lanes[lane];
                lane.committing -= 1;
                for sequence in sequences {
                    lane.finish_one(sequence, None).await;
                }
            }
            Event::Tick => {
                if let Some(first) = self.lanes.first() {
                    count::beat(S::STAGE, first.lane, self.channel);
                }
                for lane in &mut self.lanes {
                    lane.puller.extend(self.limits.ack_wait / 3).await;
                }
            }
            // Nothing is left to do here: each turn of the loop in `run` begins by asking for more.
            Event::RequestEnded => {}
        }
    }

    /// Begins decisions while there are messages and slots for them; true where it stopped at [`MAX_ROUND`] instead.
    async fn start_decisions(&mut self) -> bool {
        // The allocation of a future that was ready at once serves the next one. The future is large and oddly aligned,
        // so that allocating it anew for each decision costs: measured, 154 instead of 147 µs of the worker a
        // notification.
        let mut reusable = None;
        for _ in 0..MAX_ROUND {
            let mut ready = [false; Lane::ALL.len()];
            for state in &self.lanes {
                ready[state.lane.index()] = !state.ready.is_empty();
            }
            let busy = self.lanes.iter().map(|state| state.deciding).sum();
            let Some(lane) = self.picker.next(ready, busy) else { return false };
            let Some(index) = self.lanes.iter().position(|state| state.lane == lane) else { return false };
            let state = &mut self.lanes[index];
            let Some(item) = state.ready.pop_front() else { return false };
            if let Some(open) = state.open.get_mut(&item.incoming.sequence) {
                open.begun = true;
            }
            state.deciding += 1;
            let (stage, clock) = (Arc::clone(&self.stage), Arc::clone(&self.broker.clock));
            let max_deliveries = self.limits.max_deliveries;
            let deferred = self.broker.deferred.clone();
            let decision =
                async move { (index, decide(&*stage, &*clock, item, lane, max_deliveries, &deferred).await) };
            let mut deciding = if let Some(mut free) = reusable.take() {
                Pin::set(&mut free, decision);
                free
            } else {
                Box::pin(decision)
            };
            // Most decisions wait for nothing: they are made here, and only the others join the set. No wake-up is lost
            // although the waker does nothing: a future that joins the set counts as ready, so that the set's next poll
            // polls it again, with a waker of its own, before this task sleeps.
            let made = deciding.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
            match made {
                Poll::Ready((lane, result)) => {
                    reusable = Some(deciding);
                    self.handle(Event::Decided(lane, result)).await;
                }
                Poll::Pending => self.deciding.push(deciding),
            }
        }
        true
    }

    fn start_commits(&mut self) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let enough = if lane.committing == 0 { 1 } else { MAX_MESSAGES };
            if lane.to_commit.len() < enough || lane.committing == MAX_COMMITS {
                continue;
            }
            lane.committing += 1;
            let rest = lane.to_commit.split_off(lane.to_commit.len().min(MAX_COMMIT));
            let mut batch = std::mem::replace(&mut lane.to_commit, rest);
            let Broker { publisher, letters, traces, .. } = self.broker.clone();
            let span = tracing::info_span!(
                target: "chasqui::batch",
                "process",
                otel.kind = "consumer",
                messaging.system = "nats",
                messaging.operation.r#type = "process",
                messaging.destination.name = stream::of_stage(S::STAGE, lane.lane),
                messaging.consumer.group.name = lane.lane.as_str(),
                messaging.batch.message_count = batch.len(),
            );
            let name = lane.lane;
            let committing = async move {
                commit(&publisher, &letters, &traces, S::STAGE, &mut batch).await;
                count::batch(S::STAGE, name, &batch);
                (index, batch.iter().map(|pending| pending.incoming.sequence).collect())
            };
            self.committing.push(Box::pin(committing.instrument(span)));
        }
    }

    /// Puts back what has not begun and finishes what has, within `drain`.
    async fn drain(&mut self) {
        let deadline = Instant::now() + self.limits.drain;
        for lane in &mut self.lanes {
            lane.puller.close().await;
            lane.ready.retain(|item| lane.open.get(&item.incoming.sequence).is_some_and(|open| open.begun));
            for sequence in lane.open.extract_if(|_, open| !open.begun).map(|(sequence, _)| sequence) {
                lane.puller.put_back(sequence, None).await;
            }
        }
        loop {
            while self.start_decisions().await {}
            self.start_commits();
            if self.deciding.is_empty() && self.committing.is_empty() {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let next = std::future::poll_fn(|cx| self.poll_work(cx));
            match tokio::time::timeout(left, next).await {
                Ok(event) => self.handle(event).await,
                Err(_) => {
                    let unfinished = self.deciding.len();
                    tracing::warn!(stage = %S::STAGE, unfinished, "runner.drain_ms is over: what is unfinished comes again elsewhere");
                    break;
                }
            }
        }
        // The last acknowledgements may still wait in the client; the process may end when this returns.
        if let Err(error) = self.broker.client.flush().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "flush failed");
        }
    }
}
