//! A rate that a vendor sets, kept on our side: what waits here spends no request.
//!
//! Guarantee: turns are spread evenly, a tenth of a second's worth at once: no second has more than eleven tenths of
//! the rate. Each process keeps the rate for itself: with several workers, set each one's share. Nothing survives a
//! restart.

use std::{num::NonZeroU32, time::Duration};

use chasqui_contract::{Answer, Outcome};
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use tokio::time::{Instant, sleep_until};

/// Longest wait for a turn. A call takes this longer than its exchange, at most.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Hands out turns.
pub(crate) struct Pace(Option<DefaultDirectRateLimiter>);

impl Pace {
    /// So many turns per second; 0: as many as wanted.
    pub(crate) fn new(per_second: u32) -> Self {
        let burst = NonZeroU32::new(per_second / 10).unwrap_or(NonZeroU32::MIN);
        let quota = |rate| Quota::per_second(rate).allow_burst(burst);
        Pace(NonZeroU32::new(per_second).map(|rate| RateLimiter::direct(quota(rate))))
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// An answer that says to come back later, where there is none within [`PATIENCE`].
    pub(crate) async fn turn(&self) -> Result<(), Answer> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        while let Err(not_yet) = limiter.check() {
            let next = Instant::now() + not_yet.wait_time_from(DefaultClock::default().now());
            if next > deadline {
                let words = "our own rate limit for this provider leaves no turn in time";
                return Err(Answer::new(Outcome::TryLater { after: None }, "rate", words));
            }
            sleep_until(next).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_come_at_the_rate_and_after_too_long_a_queue_not_at_all() {
        let began = std::time::Instant::now();
        let pace = Pace::new(20);
        for _ in 0..12 {
            pace.turn().await.unwrap();
        }
        // Two at once, then one every 50 ms.
        assert!(began.elapsed() >= Duration::from_millis(490), "{:?}", began.elapsed());

        let slow = Pace(Some(RateLimiter::direct(Quota::with_period(Duration::from_secs(3_600)).unwrap())));
        slow.turn().await.unwrap();
        let began = std::time::Instant::now();
        let answer = slow.turn().await.unwrap_err();
        assert_eq!((answer.outcome, answer.code.as_str()), (Outcome::TryLater { after: None }, "rate"));
        assert!(began.elapsed() < PATIENCE, "a wait that cannot end in time is not begun");
    }

    #[tokio::test]
    async fn without_a_rate_nobody_waits() {
        let pace = Pace::new(0);
        for _ in 0..10_000 {
            pace.turn().await.unwrap();
        }
    }
}
