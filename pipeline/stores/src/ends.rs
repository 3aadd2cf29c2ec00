//! How attempts ended: the word of who began them, or of who took them over.
//!
//! A claim for each end would be exact, and a third of all that claims cost. Nearly always nobody else wants to say how an
//! attempt ended, so here the ends of many go out as one message, and where two do say it, the order of their messages in
//! the stream decides:
//!
//! - Who **began** attempts publishes their ends to [`subject::ENDED`].
//! - Who finds attempts begun and **takes them over** publishes their ends to [`subject::TAKEN_OVER`], and then looks
//!   whether they had ended: in what stands in `ENDED` before its own message.
//! - Both publish on the condition that the last message of `TAKEN_OVER` is one they have read. Where it is not, they read on,
//!   leave out what another has taken over, and publish the rest.
//!
//! Guarantee: of all ends of an attempt the one that is stored first holds, and all are told of it. Whoever took over sees
//! every end before its own; and no end can be stored after a takeover that its author has not read.
//!
//! A message is repeated as it is, under one message id, until there is an answer: it is stored, or it is not.
//!
//! After a crash: what was stored is found by who takes over. The stream forgets both kinds, and the claims that attempts
//! had begun, after the same window.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    error::Error,
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use async_nats::jetstream::{
    ErrorCode,
    message::StreamMessage,
    stream::{LastRawMessageError, LastRawMessageErrorKind, Stream},
};
use bytes::Bytes;
use chasqui_contract::StoreError;
use chasqui_schemas::{header, stream, subject};
use serde_bytes::ByteBuf;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    Outgoing, PublishError, Publisher,
    gather::{Gather, Pace},
    unavailable,
};

/// Ends that wait for their message; more make their callers wait.
const QUEUED: usize = 2_048;
/// Most ends in a message, and most bytes of several.
const MAX_ENDS: usize = 1_000;
const MAX_BYTES: usize = 512 * 1024;
/// Under load, messages are this far apart: each is an fsync. A few ends go at once.
const PACE: Pace = Pace { every: Duration::from_millis(40), few: 16, many: MAX_ENDS };
/// First and longest pause before a message is repeated.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// So many attempts that others have taken over are remembered, for as long as we may still have an end for one: while a
/// call lasts. In that time a dying worker leaves behind no more than it had slots.
const MAX_REMEMBERED: usize = 100_000;

/// Records ends. Dropping it lets those on their way finish.
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
    /// Where the attempt began.
    begun: u64,
    end: End,
}

impl Ends {
    /// In `attempts`, the stream. Must be called in a tokio runtime, and before any attempt is begun whose end this is to
    /// record.
    pub(crate) async fn open(attempts: Stream, publisher: &Publisher) -> Result<Self, StoreError> {
        let (ends, ended) = mpsc::channel(QUEUED);
        let (takeovers, taken_over) = mpsc::channel(QUEUED);
        let record = Record { stream: attempts, publisher: publisher.apart() };
        let last = record.last_takeover().await?;
        let owner = Owner { record: record.clone(), read: last, last, taken_over: Remembered::default() };
        tokio::spawn(owner.run(Gather::new(ended, PACE)));
        tokio::spawn(record.take_over(Gather::new(taken_over, Pace { every: Duration::ZERO, ..PACE })));
        Ok(Ends { ends, takeovers })
    }

    /// See [`chasqui_contract::Ledger::end`].
    pub(crate) async fn end(&self, id: &str, value: Bytes) -> Result<Option<Bytes>, StoreError> {
        let (answer, answered) = oneshot::channel();
        let end = End { id: id.to_owned(), value, answer };
        // Both fail only if the task is gone, with the runtime it ran on.
        self.ends.send(end).await.map_err(|error| unavailable(stream::ATTEMPTS, error.to_string()))?;
        answered.await.map_err(|error| unavailable(stream::ATTEMPTS, error))?
    }

    /// See [`chasqui_contract::Ledger::take_over`].
    pub(crate) async fn take_over(&self, id: &str, begun: u64, value: Bytes) -> Result<Option<Bytes>, StoreError> {
        let (answer, answered) = oneshot::channel();
        let takeover = Takeover { begun, end: End { id: id.to_owned(), value, answer } };
        self.takeovers.send(takeover).await.map_err(|error| unavailable(stream::ATTEMPTS, error.to_string()))?;
        answered.await.map_err(|error| unavailable(stream::ATTEMPTS, error))?
    }
}

/// The stream, and what is written in it.
#[derive(Clone)]
struct Record {
    stream: Stream,
    publisher: Publisher,
}

/// What became of a message.
enum Written {
    /// It is stored at this place.
    At(u64),
    /// It is not: others have taken attempts over since.
    Stale,
}

/// Ends as a message holds them, by the ids of the attempts.
type Ended = Vec<(String, ByteBuf)>;

impl Record {
    /// Stores `ends` as one message, if `last` is still the place of the last takeover. A repeat has the same `message_id`.
    async fn write(
        &self,
        subject: &'static str,
        message_id: &str,
        ends: &[&End],
        last: u64,
    ) -> Result<Written, PublishError> {
        let content: Vec<_> = ends.iter().map(|end| (&end.id, serde_bytes::Bytes::new(&end.value))).collect();
        let payload = rmp_serde::to_vec(&content)
            .map_err(|error| PublishError::Refused { code: 0, description: error.to_string() })?;
        let message = Outgoing {
            subject: subject.to_owned(),
            message_id: Some(message_id.to_owned()),
            headers: vec![
                (header::EXPECTED_LAST, last.to_string()),
                (header::EXPECTED_LAST_OF, subject::TAKEN_OVER.to_owned()),
            ],
            payload: payload.into(),
        };
        match self.publisher.publish(&[message]).await {
            Ok(stored) => stored.first().map(|at| Written::At(at.sequence)).ok_or(PublishError::Unavailable(None)),
            // The second is a replicated stream's, where another such message is on its way.
            Err(PublishError::Refused { code, .. })
                if code == ErrorCode::STREAM_WRONG_LAST_SEQUENCE.0
                    || code == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT.0 =>
            {
                Ok(Written::Stale)
            }
            Err(error) => Err(error),
        }
    }

    /// The place of the last takeover; zero where there is none.
    async fn last_takeover(&self) -> Result<u64, StoreError> {
        let last = self.stream.get_last_raw_message_by_subject(subject::TAKEN_OVER).await;
        Ok(found(last)?.map_or(0, |message| message.sequence))
    }

    /// The first message of `subject` within `places`. The leader is asked: a replica might not have it yet.
    async fn read(
        &self,
        subject: &'static str,
        places: RangeInclusive<u64>,
    ) -> Result<Option<(u64, Ended)>, StoreError> {
        if places.is_empty() {
            return Ok(None);
        }
        let first = found(self.stream.get_first_raw_message_by_subject(subject, *places.start()).await)?;
        let Some(message) = first.filter(|message| places.contains(&message.sequence)) else { return Ok(None) };
        // One that nobody can read is not ours, and must not keep every end from being recorded.
        let ended = rmp_serde::from_slice(&message.payload).unwrap_or_else(|error| {
            tracing::error!(subject, place = message.sequence, error = &error as &dyn Error, "not a record of ends");
            Vec::new()
        });
        Ok(Some((message.sequence, ended)))
    }

    /// Takes over what others began, batch after batch. An error is answered: who asked tries again.
    async fn take_over(self, mut requests: Gather<Takeover>) {
        loop {
            let mut batch = requests.next(|_| 1).await;
            if batch.is_empty() {
                return;
            }
            while !batch.is_empty() {
                // Of two for one attempt the second waits until the first is on record.
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

    /// Puts `ends` on record where there are none, of attempts that began at `begun` or later; what is on record of the
    /// others, by id.
    async fn on_record(&self, ends: &[End], begun: u64) -> Result<HashMap<String, Bytes>, StoreError> {
        // Where each was taken over, and with what end, if not with ours.
        let mut taken_over: HashMap<String, (u64, Option<Bytes>)> = HashMap::new();
        let mut next = begun;
        loop {
            let last = self.last_takeover().await?;
            while let Some((place, ended)) = self.read(subject::TAKEN_OVER, next..=last).await? {
                for (id, value) in ended {
                    taken_over.entry(id).or_insert((place, Some(value.into_vec().into())));
                }
                next = place + 1;
            }
            let ours: Vec<&End> = ends.iter().filter(|end| !taken_over.contains_key(&end.id)).collect();
            if ours.is_empty() {
                break;
            }
            let message_id = Uuid::now_v7().simple().to_string();
            if let Written::At(place) =
                self.write(subject::TAKEN_OVER, &message_id, &ours, last).await.map_err(refused)?
            {
                taken_over.extend(ours.into_iter().map(|end| (end.id.clone(), (place, None))));
                break;
            }
        }
        // Had they ended before?
        let mut ended_before: HashMap<String, Bytes> = HashMap::new();
        let until = ends.iter().filter_map(|end| taken_over.get(&end.id)).map(|(place, _)| *place).max().unwrap_or(0);
        next = begun;
        while let Some((place, ended)) = self.read(subject::ENDED, next..=until).await? {
            for (id, value) in ended {
                if taken_over.get(&id).is_some_and(|(taken_at, _)| place < *taken_at) {
                    ended_before.entry(id).or_insert(value.into_vec().into());
                }
            }
            next = place + 1;
        }
        let theirs = taken_over.into_iter().filter_map(|(id, (_, theirs))| Some((id, theirs?)));
        Ok(theirs.collect::<HashMap<_, _>>().into_iter().chain(ended_before).collect())
    }
}

fn found(answer: Result<StreamMessage, LastRawMessageError>) -> Result<Option<StreamMessage>, StoreError> {
    match answer {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(unavailable(stream::ATTEMPTS, error)),
    }
}

/// Writes the ends of attempts that we began.
struct Owner {
    record: Record,
    /// What was taken over is read up to here.
    read: u64,
    /// Place of the last takeover when we last looked; zero where all have been forgotten.
    last: u64,
    taken_over: Remembered,
}

/// The latest attempts taken over, and how they ended.
#[derive(Default)]
struct Remembered {
    ends: HashMap<String, Bytes>,
    order: VecDeque<String>,
}

impl Remembered {
    fn add(&mut self, id: String, value: Bytes) {
        if self.order.len() == MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ends.remove(&oldest);
        }
        self.order.push_back(id.clone());
        self.ends.insert(id, value);
    }
}

impl Owner {
    async fn run(mut self, mut requests: Gather<End>) {
        loop {
            let mut batch = requests.next(|_| 1).await;
            if batch.is_empty() {
                return;
            }
            while !batch.is_empty() {
                let mut bytes = 0;
                let fitting = batch.iter().take_while(|end| {
                    bytes += end.value.len();
                    bytes <= MAX_BYTES
                });
                let rest = batch.split_off(fitting.count().max(1));
                self.end(batch).await;
                batch = rest;
            }
        }
    }

    /// Stores `ends`, however long it takes: a message that may be stored must not be given up for another one, which
    /// could be refused although this one holds. Who cannot wait goes away, and takes its own attempt over later.
    async fn end(&mut self, mut ends: Vec<End>) {
        let [mut pause, longest] = PAUSES;
        loop {
            ends = self.without_taken_over(ends);
            if ends.is_empty() {
                return;
            }
            let message_id = Uuid::now_v7().simple().to_string();
            loop {
                match self.write(&message_id, &ends).await {
                    Ok(Written::At(_)) => return ends.into_iter().for_each(|end| answer(end, Ok(None))),
                    Ok(Written::Stale) => break,
                    Err(error) if error.class().is_transient() => {
                        tracing::warn!(error = &error as &dyn Error, "ends of attempts are not stored yet");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(longest);
                    }
                    Err(error) => return fail(ends, error),
                }
            }
        }
    }

    /// One try. Where the message is refused, what was taken over has been read.
    async fn write(&mut self, message_id: &str, ends: &[End]) -> Result<Written, StoreError> {
        let all: Vec<&End> = ends.iter().collect();
        let written = self.record.write(subject::ENDED, message_id, &all, self.last).await.map_err(refused)?;
        if let Written::Stale = written {
            self.read_on().await?;
        }
        Ok(written)
    }

    /// Reads what was taken over since we last looked.
    async fn read_on(&mut self) -> Result<(), StoreError> {
        let last = self.record.last_takeover().await?;
        while let Some((place, ended)) = self.record.read(subject::TAKEN_OVER, self.read + 1..=last).await? {
            ended.into_iter().for_each(|(id, value)| self.taken_over.add(id, value.into_vec().into()));
            self.read = place;
        }
        self.last = last;
        Ok(())
    }

    /// Answers what another has taken over.
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

fn refused(error: PublishError) -> StoreError {
    error.of_store(stream::ATTEMPTS)
}

/// Whoever asked may have gone away; what is on record stands all the same.
fn answer(end: End, answer: Result<Option<Bytes>, StoreError>) {
    _ = end.answer.send(answer);
}

fn fail(ends: Vec<End>, error: StoreError) {
    tracing::warn!(error = &error as &dyn Error, "ends of attempts were not stored");
    let error = Arc::new(error);
    ends.into_iter().for_each(|end| answer(end, Err(unavailable(stream::ATTEMPTS, error.clone()))));
}
