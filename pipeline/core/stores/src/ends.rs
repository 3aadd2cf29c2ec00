//! How attempts ended. An end is recorded by the worker that began the attempt, or by one that took it over after the
//! first seemed dead.
//!
//! A claim for each end would be exact, but ends would make up a third of what all claims cost. Nearly always only
//! one worker has an end to record. So the ends of many attempts go out as one message, and where two workers record an end of the same
//! attempt, the order of their messages in the stream decides:
//!
//! - A worker that **began** attempts publishes their ends to [`subject::ENDED`].
//! - A worker that **takes over** attempts publishes their ends to [`subject::TAKEN_OVER`], and then reads in `ENDED`
//!   whether they had ended before its own message.
//! - Both publish on the condition that the last message of `TAKEN_OVER` is one that they have read. If it is not, the
//!   server refuses the message; they read on, leave out what another has taken over, and publish the rest.
//!
//! Guarantee: of all ends of an attempt, the one that is stored first holds, and every caller gets that one. A takeover
//! sees every end that was stored before it, and no end can be stored after a takeover that its author has not read.
//!
//! A message is published again unchanged, under the same message id, until the server answers that it is stored or
//! refused.
//!
//! After a crash, a takeover finds what was stored. The stream drops ends, takeovers and the claims of attempts after
//! the same window.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    error::Error,
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use async_nats::jetstream::{
    message::StreamMessage,
    stream::{LastRawMessageError, LastRawMessageErrorKind, Stream},
};
use bytes::Bytes;
use chasqui_contract::StoreError;
use chasqui_nats::{
    Outgoing, Publisher,
    coalesce::{Coalescer, Pace, ask, fitting},
    unavailable,
};
use chasqui_schemas::{header, stream, subject};
use serde_bytes::ByteBuf;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// Maximum ends that wait for a message: two full messages. Callers beyond that wait.
const QUEUED: usize = 2_048;
/// Maximum ends in a message, and maximum bytes where it holds several: half of what NATS takes by default.
const MAX_ENDS: usize = 1_000;
const MAX_BYTES: usize = 512 * 1024;
/// Under load messages begin 40 ms apart, because each costs an fsync; up to `few` ends do not wait.
const PACE: Pace = Pace { every: Duration::from_millis(40), few: 16, many: MAX_ENDS };
/// Pause before the next try where the server refuses a message for another reason than a takeover, or takeovers cannot
/// be read.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Maximum attempts that we remember as taken over by others. We need one only while our own call for it may still end,
/// and within that time a dying worker leaves no more attempts behind than it had slots.
const MAX_REMEMBERED: usize = 100_000;

/// Records ends. After a drop, the ends that wait are still recorded.
#[derive(Debug)]
pub(crate) struct Ends {
    ends: mpsc::Sender<End>,
    takeovers: mpsc::Sender<Takeover>,
}

type Answer = oneshot::Sender<Result<Option<Bytes>, StoreError>>;

#[derive(Debug)]
struct End {
    id: String,
    value: Bytes,
    answer: Answer,
}

#[derive(Debug)]
struct Takeover {
    /// Sequence of the message by which the attempt began.
    begun: u64,
    end: End,
}

impl Ends {
    /// Records in the stream `attempts`. Must be called in a tokio runtime, and before the first attempt begins whose end
    /// it is to record.
    pub(crate) async fn open(attempts: Stream, publisher: &Publisher) -> Result<Self, StoreError> {
        let (ends, ended) = mpsc::channel(QUEUED);
        let (takeovers, taken_over) = mpsc::channel(QUEUED);
        let record = AttemptStream { stream: attempts, publisher: publisher.apart() };
        let last = record.last_takeover().await?;
        let owner = EndWriter { record: record.clone(), read: last, last, taken_over: Remembered::default() };
        tokio::spawn(owner.run(Coalescer::new(ended, PACE)));
        tokio::spawn(record.take_over(Coalescer::new(taken_over, Pace { every: Duration::ZERO, ..PACE })));
        Ok(Ends { ends, takeovers })
    }

    /// See [`chasqui_contract::Ledger::end`].
    pub(crate) async fn end(&self, id: &str, value: Bytes) -> Result<Option<Bytes>, StoreError> {
        ask(stream::ATTEMPTS, &self.ends, |answer| End { id: id.to_owned(), value, answer }).await
    }

    /// See [`chasqui_contract::Ledger::take_over`].
    pub(crate) async fn take_over(&self, id: &str, begun: u64, value: Bytes) -> Result<Option<Bytes>, StoreError> {
        let takeover = |answer| Takeover { begun, end: End { id: id.to_owned(), value, answer } };
        ask(stream::ATTEMPTS, &self.takeovers, takeover).await
    }
}

/// The stream of attempts.
#[derive(Clone)]
struct AttemptStream {
    stream: Stream,
    publisher: Publisher,
}

impl AttemptStream {
    /// The place of the last takeover; zero where there is none.
    async fn last_takeover(&self) -> Result<u64, StoreError> {
        let last = self.stream.get_last_raw_message_by_subject(subject::TAKEN_OVER).await;
        Ok(found(last)?.map_or(0, |message| message.sequence))
    }

    /// Hands every end in the messages of `subject` within `places` to `each`, in order, with the message's sequence. It
    /// asks the stream's leader, because a replica may lag behind.
    async fn read(
        &self,
        subject: &'static str,
        places: RangeInclusive<u64>,
        mut each: impl FnMut(u64, String, Bytes),
    ) -> Result<(), StoreError> {
        let mut next = *places.start();
        while next <= *places.end() {
            let first = found(self.stream.get_first_raw_message_by_subject(subject, next).await)?;
            let Some(message) = first.filter(|message| places.contains(&message.sequence)) else { break };
            match rmp_serde::from_slice::<Vec<(String, ByteBuf)>>(&message.payload) {
                Ok(ended) => {
                    ended.into_iter().for_each(|(id, value)| each(message.sequence, id, value.into_vec().into()));
                }
                // Another program wrote it. Failing here would keep every end from being recorded.
                Err(error) => {
                    let place = message.sequence;
                    tracing::error!(subject, place, error = &error as &dyn Error, "not a record of ends");
                }
            }
            next = message.sequence + 1;
        }
        Ok(())
    }

    /// Takes over what others began, batch after batch. Callers get errors, and try again.
    async fn take_over(self, mut requests: Coalescer<Takeover>) {
        loop {
            let mut batch = requests.next(|_| 1).await;
            if batch.is_empty() {
                return;
            }
            while !batch.is_empty() {
                // Of two takeovers of one attempt, the second has to read the first, so it goes with the next message.
                let mut ids = HashSet::new();
                let (now, later) = batch.into_iter().partition(|takeover| ids.insert(takeover.end.id.clone()));
                self.take_over_all(now).await;
                batch = later;
            }
        }
    }

    async fn take_over_all(&self, takeovers: Vec<Takeover>) {
        let begun = takeovers.iter().map(|takeover| takeover.begun).min().unwrap_or(0);
        let ends: Vec<End> = takeovers.into_iter().map(|takeover| takeover.end).collect();
        match self.on_record(&ends, begun).await {
            Ok(mut on_record) => {
                for end in ends {
                    let theirs = on_record.remove(&end.id);
                    answer(end, Ok(theirs));
                }
            }
            Err(error) => fail(ends, error),
        }
    }

    /// Records `ends` of attempts that began at `begun` or later. Answers, by id, the ends that were recorded before.
    async fn on_record(&self, ends: &[End], begun: u64) -> Result<HashMap<String, Bytes>, StoreError> {
        // By id: the sequence of the takeover, and its end if the takeover is not ours.
        let mut taken_over: HashMap<String, (u64, Option<Bytes>)> = HashMap::new();
        let mut next = begun;
        loop {
            let last = self.last_takeover().await?;
            let others = |place, id, value| _ = taken_over.entry(id).or_insert((place, Some(value)));
            self.read(subject::TAKEN_OVER, next..=last, others).await?;
            next = next.max(last + 1);
            let ours: Vec<&End> = ends.iter().filter(|end| !taken_over.contains_key(&end.id)).collect();
            if ours.is_empty() {
                break;
            }
            match self.publisher.publish(&[message(subject::TAKEN_OVER, &ours, last)]).await {
                Ok(stored) => {
                    let place = stored.first().ok_or_else(|| unavailable(stream::ATTEMPTS, "no answer"))?.sequence;
                    taken_over.extend(ours.into_iter().map(|end| (end.id.clone(), (place, None))));
                    break;
                }
                Err(error) if error.is_stale() => {}
                Err(error) => return Err(error.of_store(stream::ATTEMPTS)),
            }
        }
        // An end that was stored before the takeover holds.
        let mut ended_before: HashMap<String, Bytes> = HashMap::new();
        let until = ends.iter().filter_map(|end| taken_over.get(&end.id)).map(|(place, _)| *place).max().unwrap_or(0);
        let earlier = |place, id: String, value| {
            if taken_over.get(&id).is_some_and(|(taken_at, _)| place < *taken_at) {
                ended_before.entry(id).or_insert(value);
            }
        };
        self.read(subject::ENDED, begun..=until, earlier).await?;
        let theirs = taken_over.into_iter().filter_map(|(id, (_, theirs))| Some((id, theirs?)));
        Ok(theirs.collect::<HashMap<_, _>>().into_iter().chain(ended_before).collect())
    }
}

/// The `ends` as a message that the server stores only if `last` is still the sequence of the last takeover. Its message
/// id is new.
fn message(subject: &'static str, ends: &[&End], last: u64) -> Outgoing {
    let content: Vec<_> = ends.iter().map(|end| (&end.id, serde_bytes::Bytes::new(&end.value))).collect();
    Outgoing {
        subject: subject.to_owned(),
        message_id: Some(Uuid::now_v7().simple().to_string()),
        headers: vec![
            (header::EXPECTED_LAST, last.to_string()),
            (header::EXPECTED_LAST_OF, subject::TAKEN_OVER.to_owned()),
        ],
        // Texts and bytes always serialise.
        payload: rmp_serde::to_vec(&content).unwrap_or_default().into(),
    }
}

fn found(answer: Result<StreamMessage, LastRawMessageError>) -> Result<Option<StreamMessage>, StoreError> {
    match answer {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(unavailable(stream::ATTEMPTS, error)),
    }
}

/// Records the ends of attempts that this process began.
struct EndWriter {
    record: AttemptStream,
    /// Sequence up to which takeovers are read.
    read: u64,
    /// Sequence of the last takeover when we last looked; zero where the stream has dropped all of them.
    last: u64,
    taken_over: Remembered,
}

/// The latest attempts that were taken over, and their ends.
#[derive(Default)]
struct Remembered {
    ends: HashMap<String, Bytes>,
    order: VecDeque<String>,
}

impl Remembered {
    /// Adds an end, unless the attempt has one.
    fn add(&mut self, id: String, value: Bytes) {
        if self.ends.contains_key(&id) {
            return;
        }
        if self.order.len() == MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ends.remove(&oldest);
        }
        self.order.push_back(id.clone());
        self.ends.insert(id, value);
    }
}

impl EndWriter {
    async fn run(mut self, mut requests: Coalescer<End>) {
        loop {
            let mut batch = requests.next(|_| 1).await;
            if batch.is_empty() {
                return;
            }
            while !batch.is_empty() {
                let rest = batch.split_off(fitting(&batch, MAX_ENDS, MAX_BYTES, |end| end.value.len()));
                self.end(batch).await;
                batch = rest;
            }
        }
    }

    /// Stores `ends`, however long it takes. Giving up a message that may be stored, and publishing another, could end with
    /// the second refused although the first holds. A caller that cannot wait drops its call, and takes its own attempt
    /// over later.
    async fn end(&mut self, mut ends: Vec<End>) {
        loop {
            ends = self.without_taken_over(ends);
            if ends.is_empty() {
                return;
            }
            let message = message(subject::ENDED, &ends.iter().collect::<Vec<_>>(), self.last);
            let trouble = match self.record.publisher.insist(&[message]).await {
                Ok(()) => return ends.into_iter().for_each(|end| answer(end, Ok(None))),
                Err(error) if error.is_stale() => match self.read_on().await {
                    Ok(()) => continue,
                    Err(trouble) => trouble,
                },
                Err(error) => error.of_store(stream::ATTEMPTS),
            };
            if !trouble.class().is_transient() {
                return fail(ends, trouble);
            }
            tracing::warn!(error = &trouble as &dyn Error, "ends of attempts are not stored yet");
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    }

    /// Reads the takeovers since we last looked.
    async fn read_on(&mut self) -> Result<(), StoreError> {
        let last = self.record.last_takeover().await?;
        let EndWriter { record, taken_over, read, .. } = self;
        record.read(subject::TAKEN_OVER, *read + 1..=last, |_, id, value| taken_over.add(id, value)).await?;
        self.read = self.read.max(last);
        self.last = last;
        Ok(())
    }

    /// Answers the callers whose attempts others have taken over; returns the remaining ends.
    fn without_taken_over(&self, ends: Vec<End>) -> Vec<End> {
        let still_ours = |end: End| match self.taken_over.ends.get(&end.id) {
            None => Some(end),
            Some(theirs) => {
                answer(end, Ok(Some(theirs.clone())));
                None
            }
        };
        ends.into_iter().filter_map(still_ours).collect()
    }
}

/// Answers the caller. It may have dropped its call; the recorded end holds all the same.
fn answer(end: End, answer: Result<Option<Bytes>, StoreError>) {
    _ = end.answer.send(answer);
}

fn fail(ends: Vec<End>, error: StoreError) {
    tracing::warn!(error = &error as &dyn Error, "ends of attempts were not stored");
    let error = Arc::new(error);
    ends.into_iter().for_each(|end| answer(end, Err(unavailable(stream::ATTEMPTS, error.clone()))));
}
