//! A limit on requests per second, kept on our side because the provider keeps one on its own.
//!
//! Guarantee: a call waits for its turn no longer than it has time, and a turn that comes too late is told at once,
//! not after the wait. The limit is this process's: several processes share the vendor's by configuration.

use std::num::NonZeroU32;

use chasqui_contract::{Answer, Outcome};
use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock as _, DefaultClock},
};
use tokio::time::Instant;

/// A limit, or none.
pub(crate) struct Rate(Option<DefaultDirectRateLimiter>);

impl Rate {
    /// At most so many a second, a second's worth at once; 0: no limit.
    pub(crate) fn new(per_second: u32) -> Self {
        Rate(NonZeroU32::new(per_second).map(|limit| DefaultDirectRateLimiter::direct(Quota::per_second(limit))))
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`Outcome::TryLater`] where none comes before `deadline`: nothing was sent.
    pub(crate) async fn turn(&self, deadline: Instant) -> Result<(), Answer> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        while let Err(early) = limiter.check() {
            let wait = early.wait_time_from(DefaultClock::default().now());
            if Instant::now() + wait >= deadline {
                let words = "our own limit of requests per second leaves no turn in time";
                return Err(Answer::new(Outcome::TryLater { after: Some(wait) }, "rate", words));
            }
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_turn_that_comes_too_late_is_told_at_once() {
        let rate = Rate::new(1);
        let began = Instant::now();
        rate.turn(began).await.unwrap();
        // A machine that pauses for a second gives a turn meanwhile, but not a hundred times.
        let mut answers = Vec::new();
        for _ in 0..100 {
            answers.extend(rate.turn(began).await.err());
        }
        let answer = answers.first().unwrap();
        assert!(matches!(answer.outcome, Outcome::TryLater { after: Some(_) }), "{answer:?}");
        rate.turn(began + Duration::from_secs(60)).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(900), "the second turn came after {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn no_limit_is_no_wait() {
        let rate = Rate::new(0);
        for _ in 0..1_000 {
            rate.turn(Instant::now()).await.unwrap();
        }
    }
}
