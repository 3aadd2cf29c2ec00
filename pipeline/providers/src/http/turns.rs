//! Turns: how many exchanges a pool has at once.
//!
//! Guarantee: never more than the number given. Where the addresses come from outside, an origin has a third of them at
//! most, and waits for its own before it waits for one of all: so an origin that keeps silent, or two, leave the others
//! their turns. What is remembered of origins is bounded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::Url;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One origin has this part of all turns.
const PART: usize = 3;
/// Origins remembered before those that hold no turn are forgotten.
const MAX_ORIGINS: usize = 1_024;

/// The turns of a pool.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    origins: Option<Origins>,
}

#[derive(Debug)]
struct Origins {
    share: usize,
    known: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A turn; dropped, it is the next one's.
#[derive(Debug)]
pub(super) struct Turn {
    _of_all: Option<OwnedSemaphorePermit>,
    _of_origin: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// For one provider.
    pub(super) fn new(count: usize) -> Self {
        Turns { all: Arc::new(Semaphore::new(count)), origins: None }
    }

    /// For origins that must not harm each other.
    pub(super) fn shared(count: usize) -> Self {
        let origins = Origins { share: count.div_ceil(PART), known: Mutex::default() };
        Turns { origins: Some(origins), ..Self::new(count) }
    }

    /// Waits for a turn to call `url`.
    pub(super) async fn take(&self, url: &Url) -> Turn {
        let of_origin = match &self.origins {
            Some(origins) => origins.of(url).acquire_owned().await.ok(),
            None => None,
        };
        // Nobody closes them, so there is always a turn to come.
        Turn { _of_all: self.all.clone().acquire_owned().await.ok(), _of_origin: of_origin }
    }
}

impl Origins {
    fn of(&self, url: &Url) -> Arc<Semaphore> {
        let origin = url.origin().ascii_serialization();
        // Nothing is left half done under this lock.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_ORIGINS && !known.contains_key(&origin) {
            known.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        known.entry(origin).or_insert_with(|| Arc::new(Semaphore::new(self.share))).clone()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn url(host: &str) -> Url {
        format!("https://{host}/x").parse().unwrap()
    }

    #[test]
    fn an_origin_that_keeps_its_turns_leaves_the_others_theirs() {
        let turns = Turns::shared(9);
        let take = |host: &str| turns.take(&url(host)).now_or_never();
        let held: Vec<_> = (0..9).filter_map(|_| take("a.example")).collect();
        assert_eq!(held.len(), 3);
        assert!(take("b.example").is_some());
        drop(held);
        assert!(take("a.example").is_some());
        let all: Vec<_> = (0..99).filter_map(|n| take(&format!("{n}.example"))).collect();
        assert_eq!(all.len(), 9, "never more than there are");
    }

    #[test]
    fn one_provider_has_them_all() {
        let turns = Turns::new(9);
        let held: Vec<_> = (0..99).filter_map(|_| turns.take(&url("a.example")).now_or_never()).collect();
        assert_eq!(held.len(), 9);
    }

    #[test]
    fn origins_without_number_do_not_fill_the_memory() {
        let turns = Turns::shared(9);
        for n in 0..2 * MAX_ORIGINS {
            assert!(turns.take(&url(&format!("{n}.example"))).now_or_never().is_some());
        }
        assert!(turns.origins.unwrap().known.lock().unwrap().len() <= MAX_ORIGINS);
    }
}
