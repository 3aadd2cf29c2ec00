//! The record of attempts: a claim that each has begun, and how it ended. See the crate's page for the argument.
//!
//! Guarantee: of all workers that ever hold the same message, one is told to call the provider, and all are told
//! which provider that was and the same end of the attempt.
//!
//! After a crash: what was claimed stays claimed for as long as the book's window.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chasqui_contract::{Answer, Book, Claim, Class, Ledger, Outcome, StoreError};
use chasqui_schemas::{Delivery, Reason, id};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// How long a claim is tried again while the ledger is unavailable, before the runtime hears of it. Giving up
/// with an answer in hand loses it, and makes the attempt ambiguous; staying on delays the shutdown.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// The store's name in errors.
const STORE: &str = "attempts";

/// What the book keeps under `started`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Started {
    /// Unique to one call of [`Attempts::start`]: a claim whose acknowledgement got lost is recognised as our own.
    by: Uuid,
    /// When.
    at: Timestamp,
    /// The provider that is called; or why none was called, and none will be.
    provider: Result<String, Reason>,
}

/// How an attempt ended, as it is on record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// When. Decisions count from here, so that they come out the same after a crash.
    pub at: Timestamp,
    /// A crash cut it off: `answer` is not the provider's.
    pub interrupted: bool,
    /// What came of it.
    pub answer: Answer,
}

impl Finished {
    /// An attempt that was started, and of which nothing more is known.
    pub(crate) fn interrupted(at: Timestamp) -> Self {
        let answer = Answer::new(Outcome::NoAnswer, "interrupted", "the attempt was cut off before its answer");
        Finished { at, interrupted: true, answer }
    }
}

/// Who may call the provider.
#[derive(Debug, PartialEq)]
pub(crate) enum Start {
    /// We may: nobody had begun.
    Ours,
    /// Somebody began it before.
    Begun {
        /// When.
        at: Timestamp,
        /// The provider that they called.
        provider: String,
        /// Where the ledger has it.
        place: u64,
    },
    /// Somebody found that no provider is to be called, for this reason.
    Stopped(Reason),
}

/// The record of attempts.
pub(crate) struct Attempts {
    ledger: Arc<dyn Ledger>,
}

impl Attempts {
    pub(crate) fn new(ledger: Arc<dyn Ledger>) -> Self {
        Attempts { ledger }
    }

    /// Claims the start of the delivery's attempt: a call of `provider`, or its end for `Err(reason)` without one. That
    /// is claimed too: otherwise a delivery that was sent in time, and whose worker crashed then, would look as if it
    /// had not been.
    pub(crate) async fn start(
        &self,
        delivery: &Delivery,
        at: Timestamp,
        provider: Result<&str, Reason>,
    ) -> Result<Start, StoreError> {
        let ours = Started { by: Uuid::new_v4(), at, provider: provider.map(str::to_owned) };
        let (key, value) = (key("started", delivery), written(&ours)?);
        let (taken, place) = match patiently(|| self.ledger.claim(Book::Attempts, &key, value.clone())).await? {
            Claim::First => return Ok(Start::Ours),
            Claim::Taken { value, place } => (read::<Started>(&key, &value)?, place),
        };
        if taken.by == ours.by {
            return Ok(Start::Ours);
        }
        Ok(match taken.provider {
            Ok(provider) => Start::Begun { at: taken.at, provider, place },
            Err(reason) => Start::Stopped(reason),
        })
    }

    /// Records the end of the delivery's attempt, which we began, and answers the end that is on record: `ours`, or
    /// that of who has taken it over.
    pub(crate) async fn finish(&self, delivery: &Delivery, ours: Finished) -> Result<Finished, StoreError> {
        let (key, value) = (key("finished", delivery), written(&ours)?);
        let theirs = patiently(|| self.ledger.end(&key, value.clone())).await?;
        theirs.map_or(Ok(ours), |theirs| read(&key, &theirs))
    }

    /// Records that the delivery's attempt, which began at `place`, was interrupted at `at`, unless it has ended; answers
    /// the end that is on record.
    pub(crate) async fn take_over(
        &self,
        delivery: &Delivery,
        place: u64,
        at: Timestamp,
    ) -> Result<Finished, StoreError> {
        let ours = Finished::interrupted(at);
        let (key, value) = (key("finished", delivery), written(&ours)?);
        let theirs = patiently(|| self.ledger.take_over(&key, place, value.clone())).await?;
        theirs.map_or(Ok(ours), |theirs| read(&key, &theirs))
    }
}

/// Asks again while the ledger is unavailable, within [`PATIENCE`].
async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let pause = match error.class() {
            Class::RetryAfter(pause) => pause.max(Duration::from_millis(10)),
            Class::Overloaded => Duration::from_millis(500),
            Class::Permanent => return Err(error),
        };
        if Instant::now() + pause > deadline {
            return Err(error);
        }
        Box::pin(sleep(pause)).await;
    }
}

fn written(value: &impl Serialize) -> Result<Bytes, StoreError> {
    let bytes = rmp_serde::to_vec_named(value);
    Ok(bytes.map_err(|source| StoreError::Refused { store: STORE, source: source.into() })?.into())
}

fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, StoreError> {
    rmp_serde::from_slice(value).map_err(|source| StoreError::BadRecord {
        store: STORE,
        key: key.to_owned(),
        source: source.into(),
    })
}

fn key(what: &str, delivery: &Delivery) -> String {
    id::claim(&[what, &delivery.id.to_string(), &delivery.attempt.to_string()])
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::Channel;
    use chasqui_stores::memory::MemoryLedger;

    use super::*;
    use crate::testing::{at, delivery_by};

    fn accepted() -> Finished {
        Finished { at: at(1), interrupted: false, answer: Answer::new(Outcome::Accepted, "250", "") }
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_is_claimed_once() {
        let attempts = Attempts::new(Arc::new(MemoryLedger::new()));
        let first = delivery_by(Channel::Sms);
        let second = Delivery { attempt: 2, ..first.clone() };
        assert_eq!(attempts.start(&first, at(0), Ok("twilio")).await.unwrap(), Start::Ours);
        let begun = Start::Begun { at: at(0), provider: "twilio".into(), place: 1 };
        assert_eq!(attempts.start(&first, at(9), Ok("vonage")).await.unwrap(), begun);
        assert_eq!(attempts.start(&first, at(9), Err(Reason::Expired)).await.unwrap(), begun);
        assert_eq!(attempts.start(&second, at(9), Err(Reason::OptedOut)).await.unwrap(), Start::Ours);
        assert_eq!(attempts.start(&second, at(10), Ok("twilio")).await.unwrap(), Start::Stopped(Reason::OptedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_whose_acknowledgement_was_lost_is_still_ours() {
        let ledger = Arc::new(MemoryLedger::new());
        ledger.faults.lose_next(3);
        let attempts = Attempts::new(ledger);
        assert_eq!(attempts.start(&delivery_by(Channel::Sms), at(0), Ok("twilio")).await.unwrap(), Start::Ours);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_on_record_wins() {
        let attempts = Attempts::new(Arc::new(MemoryLedger::new()));
        let delivery = delivery_by(Channel::Sms);
        let interrupted = Finished::interrupted(at(0));
        assert_eq!(attempts.take_over(&delivery, 1, at(0)).await.unwrap(), interrupted);
        assert_eq!(attempts.finish(&delivery, accepted()).await.unwrap(), interrupted);
        let another = Delivery { attempt: 2, ..delivery };
        assert_eq!(attempts.finish(&another, accepted()).await.unwrap(), accepted());
        assert_eq!(attempts.take_over(&another, 1, at(0)).await.unwrap(), accepted());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_outlives_a_ledger_that_is_away_for_a_moment() {
        let ledger = Arc::new(MemoryLedger::new());
        ledger.faults.fail_next(5);
        let attempts = Attempts::new(ledger);
        assert_eq!(attempts.finish(&delivery_by(Channel::Sms), accepted()).await.unwrap(), accepted());
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let ledger = Arc::new(MemoryLedger::new());
        ledger.faults.fail_next(usize::MAX);
        let attempts = Attempts::new(ledger);
        let began = Instant::now();
        let error = attempts.finish(&delivery_by(Channel::Sms), accepted()).await.unwrap_err();
        assert!(error.class().is_transient());
        assert!(began.elapsed() <= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_does_not_decode_is_permanent() {
        let ledger = Arc::new(MemoryLedger::new());
        let delivery = delivery_by(Channel::Sms);
        ledger.claim(Book::Attempts, &key("started", &delivery), Bytes::from(&b"\xc1"[..])).await.unwrap();
        let error = Attempts::new(ledger).start(&delivery, at(0), Ok("twilio")).await.unwrap_err();
        assert_eq!(error.class(), Class::Permanent);
    }
}
