//! Coalesces requests: those that come at the same time are served together.
//!
//! At rest no request waits: what is there is served at once, and what comes meanwhile is the next batch. Under load
//! batches begin some time apart, because a few large ones are much less work for the server than many small ones. A
//! hiccup, after which much comes at once, is no load yet: the first few batches are served at once.
//!
//! After a crash there is nothing to do: the callers were not answered.

use std::time::Duration;

use chasqui_contract::StoreError;
use tokio::{
    sync::{
        mpsc::{Receiver, Sender},
        oneshot,
    },
    time::{Instant, timeout_at},
};

use crate::unavailable;

/// Maximum batches that begin at once before batches are kept apart: what piles up behind a hiccup is served in these.
const AT_ONCE: u32 = 3;

/// What counts as load, and how far batches are apart then.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How far apart batches begin under load, on average.
    pub every: Duration,
    /// Up to this weight a batch does not count as load.
    pub few: usize,
    /// From this weight on a batch does not wait for more requests.
    pub many: usize,
}

/// Makes batches of the requests that come through a channel.
#[derive(Debug)]
pub struct Coalescer<T> {
    requests: Receiver<T>,
    pace: Pace,
    /// When the next batch would begin if all batches so far had been apart.
    due: Instant,
}

impl<T> Coalescer<T> {
    /// Makes batches of `requests`.
    pub fn new(requests: Receiver<T>, pace: Pace) -> Self {
        Coalescer { requests, pace, due: Instant::now() }
    }

    /// The next batch, where each request weighs what `weight` says; never more than `many` requests. Empty when all
    /// senders are gone.
    pub async fn next(&mut self, weight: impl Fn(&T) -> usize) -> Vec<T> {
        let Pace { every, few, many } = self.pace;
        let mut batch = Vec::new();
        let weigh = |batch: &[T]| batch.iter().map(&weight).sum::<usize>();
        self.requests.recv_many(&mut batch, many).await;
        if weigh(&batch) > few {
            let patience = self.due.checked_sub(every * (AT_ONCE - 1)).unwrap_or(self.due);
            while weigh(&batch) < many && batch.len() < many {
                let room = many - batch.len();
                match timeout_at(patience, self.requests.recv_many(&mut batch, room)).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            // Full batches may come faster than `every`; the bound keeps the batches after them from waiting for that.
            let now = Instant::now();
            self.due = (self.due.max(now) + every).min(now + every * AT_ONCE);
        }
        batch
    }
}

/// Sends a request to the task that serves `requests`, and waits for the answer. Errors name `store`.
pub async fn ask<R, T>(
    store: &'static str,
    requests: &Sender<R>,
    request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> R,
) -> Result<T, StoreError> {
    let (answer, answered) = oneshot::channel();
    // Both fail only if the task is gone, because its runtime was shut down.
    requests.send(request(answer)).await.map_err(|error| unavailable(store, error.to_string()))?;
    answered.await.map_err(|error| unavailable(store, error))?
}

/// How many of `items`, from the first on, fit within `most` and `most_bytes` together; at least one, whatever its
/// size.
pub fn fitting<T>(items: &[T], most: usize, most_bytes: usize, size: impl Fn(&T) -> usize) -> usize {
    let mut bytes = 0;
    let fit = items.iter().take(most).take_while(|item| {
        bytes += size(item);
        bytes <= most_bytes
    });
    fit.count().max(1)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    const PACE: Pace = Pace { every: Duration::from_millis(80), few: 2, many: 10 };

    #[tokio::test(start_paused = true)]
    async fn at_rest_nobody_waits() {
        let (requests, waiting) = mpsc::channel(100);
        let mut coalescer = Coalescer::new(waiting, PACE);
        let began = Instant::now();
        for request in 0..5 {
            requests.send(request).await.unwrap();
            assert_eq!(coalescer.next(|_| 1).await, [request]);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    /// Sends `count` requests; answers how many come at once, and after how long.
    async fn served(requests: &mpsc::Sender<u32>, coalescer: &mut Coalescer<u32>, count: u32) -> (usize, Duration) {
        for request in 0..count {
            requests.send(request).await.unwrap();
        }
        let began = Instant::now();
        (coalescer.next(|_| 1).await.len(), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn under_load_batches_are_apart_unless_they_are_full() {
        let (requests, waiting) = mpsc::channel(100);
        let mut coalescer = Coalescer::new(waiting, PACE);
        for _batch in 0..AT_ONCE {
            assert_eq!(served(&requests, &mut coalescer, 7).await, (7, Duration::ZERO));
        }
        for _batch in 0..3 {
            assert_eq!(served(&requests, &mut coalescer, 7).await, (7, PACE.every));
        }
        for _full in 0..5 {
            assert_eq!(served(&requests, &mut coalescer, 10).await, (10, Duration::ZERO));
        }
        assert_eq!(served(&requests, &mut coalescer, 7).await, (7, PACE.every), "not for each of the full ones");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_rest_some_go_at_once_again() {
        let (requests, waiting) = mpsc::channel(100);
        let mut coalescer = Coalescer::new(waiting, PACE);
        for _round in 0..2 {
            for _batch in 0..AT_ONCE {
                assert_eq!(served(&requests, &mut coalescer, 7).await, (7, Duration::ZERO));
            }
            tokio::time::sleep(AT_ONCE * PACE.every).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heavy_requests_fill_a_batch_sooner_and_the_end_is_an_empty_one() {
        let (requests, waiting) = mpsc::channel(100);
        let mut coalescer = Coalescer::new(waiting, PACE);
        requests.send(10).await.unwrap();
        drop(requests);
        assert_eq!(coalescer.next(|weight| *weight).await, [10]);
        assert!(coalescer.next(|weight| *weight).await.is_empty());
    }
}
