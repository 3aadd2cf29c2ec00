//! A limit on requests per second, kept on our side because the vendor keeps one on its own: what waits here spends no
//! request.
//!
//! Guarantee: turns are spread evenly, a tenth of a second's worth at once, so that no second has more than eleven
//! tenths of the limit. Nobody waits for a turn that would come too late. The limit is this process's, once for
//! the critical lane and once for the others: they, and several processes, share the vendor's by configuration. Nothing
//! survives a restart.

use std::num::NonZeroU32;

use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock as _, DefaultClock},
};
use tokio::time::Instant;

/// A limit, or none.
#[derive(Debug)]
pub(crate) struct Rate(Option<DefaultDirectRateLimiter>);

impl Rate {
    /// At most so many a second; 0: no limit.
    pub(crate) fn new(per_second: u32) -> Self {
        let burst = NonZeroU32::new(per_second / 10).unwrap_or(NonZeroU32::MIN);
        let limit = NonZeroU32::new(per_second).map(|limit| Quota::per_second(limit).allow_burst(burst));
        Rate(limit.map(DefaultDirectRateLimiter::direct))
    }

    /// Waits for a turn. False where none comes before `deadline`, and then at once.
    pub(crate) async fn turn(&self, deadline: Instant) -> bool {
        let Some(limiter) = &self.0 else { return true };
        while let Err(early) = limiter.check() {
            let next = Instant::now() + early.wait_time_from(DefaultClock::default().now());
            if next >= deadline {
                return false;
            }
            tokio::time::sleep_until(next).await;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn turns_come_at_the_rate() {
        let began = Instant::now();
        let rate = Rate::new(20);
        for _ in 0..12 {
            assert!(rate.turn(began + Duration::from_secs(60)).await);
        }
        // Two at once, then one every 50 ms.
        assert!(began.elapsed() >= Duration::from_millis(490), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_turn_that_comes_too_late_is_told_at_once() {
        let hourly = Quota::with_period(Duration::from_secs(3_600)).unwrap();
        let rate = Rate(Some(DefaultDirectRateLimiter::direct(hourly)));
        let (began, deadline) = (Instant::now(), Instant::now() + Duration::from_secs(600));
        assert!(rate.turn(deadline).await);
        assert!(!rate.turn(deadline).await);
        assert!(began.elapsed() < Duration::from_secs(600));
    }

    #[tokio::test]
    async fn no_limit_is_no_wait() {
        let (rate, now) = (Rate::new(0), Instant::now());
        for _ in 0..10_000 {
            assert!(rate.turn(now).await);
        }
    }
}
