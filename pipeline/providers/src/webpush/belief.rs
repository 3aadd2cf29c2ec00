//! Whether a refusal of our key is about the subscription, or about our key.
//!
//! One subscription that was made with another VAPID key answers as all do when ours is wrong, and the answer's words
//! are the push service's own. What tells them apart: with a good key, other messages to the same origin are taken.
//!
//! Guarantee: while an origin takes messages, no refusal blames the account. Where it takes none, at most [`MAX_KEYS`]
//! devices are called dead for their key, so that a wrong key in the settings does not empty the contacts; then, and for
//! refusals without a word on the subscription after [`MAX_REFUSED`] devices, the account is misconfigured, which is told
//! to developers. It is counted in memory, for a bounded number of origins: a crash begins anew.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
};

use chasqui_contract::{Answer, Outcome};
use reqwest::Url;

use super::MAX_ORIGINS;

/// Maximum devices in a row that are called dead for their key.
const MAX_KEYS: usize = 100;
/// Maximum devices in a row whose refusal of our authorization is taken for the subscription's trouble.
const MAX_REFUSED: usize = 20;

/// What an answer says of our key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OfKey {
    /// It was good: the message was taken.
    Good,
    /// The subscription was made with another.
    Other,
    /// Our authorization is refused, for whatever reason.
    Refused,
    /// Nothing.
    Nothing,
}

/// The devices that were refused in a row, as hashes, of each origin that refused some.
#[derive(Debug, Default)]
pub(super) struct Belief(Mutex<HashMap<String, HashSet<u64>>>);

impl Belief {
    /// The answer of `endpoint`'s origin, in the light of those before it.
    pub(super) fn judge(&self, endpoint: &Url, (of_key, answer): (OfKey, Answer)) -> Answer {
        let origin = endpoint.origin().ascii_serialization();
        // Nothing is left half done under this lock.
        let mut in_a_row = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let most = match of_key {
            OfKey::Nothing => return answer,
            OfKey::Good => {
                in_a_row.remove(&origin);
                return answer;
            }
            OfKey::Other => MAX_KEYS,
            OfKey::Refused => MAX_REFUSED,
        };
        if in_a_row.len() >= MAX_ORIGINS && !in_a_row.contains_key(&origin) {
            in_a_row.clear();
        }
        let mut hasher = DefaultHasher::new();
        endpoint.hash(&mut hasher);
        let devices = in_a_row.entry(origin).or_default();
        // More than this are enough to know.
        if devices.len() <= MAX_KEYS {
            devices.insert(hasher.finish());
        }
        let outcome = if devices.len() > most { Outcome::Misconfigured } else { answer.outcome };
        Answer { outcome, about_recipient: true, ..answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome for device `n` of a host.
    fn judged(belief: &Belief, host: &str, n: usize, of_key: OfKey) -> Outcome {
        let outcome = match of_key {
            OfKey::Good => Outcome::Accepted,
            OfKey::Other => Outcome::DeadEndpoint,
            _ => Outcome::Refused,
        };
        let endpoint = format!("https://{host}/{n}").parse().unwrap();
        let answer = belief.judge(&endpoint, (of_key, Answer::new(outcome, "403", "")));
        assert_eq!(answer.about_recipient, matches!(of_key, OfKey::Other | OfKey::Refused));
        assert!(!answer.is_providers_fault());
        answer.outcome
    }

    #[test]
    fn where_an_origin_takes_messages_a_refused_key_is_the_subscriptions() {
        let belief = Belief::default();
        for _ in 0..10 {
            for n in 0..MAX_REFUSED {
                assert_eq!(judged(&belief, "a.example", n, OfKey::Refused), Outcome::Refused);
            }
            judged(&belief, "a.example", 0, OfKey::Good);
            for n in 0..MAX_KEYS {
                assert_eq!(judged(&belief, "a.example", n, OfKey::Other), Outcome::DeadEndpoint);
            }
            judged(&belief, "a.example", 0, OfKey::Good);
        }
    }

    #[test]
    fn one_device_that_is_asked_again_and_again_is_one_device() {
        let belief = Belief::default();
        assert!((0..1_000).all(|_| judged(&belief, "a.example", 7, OfKey::Refused) == Outcome::Refused));
    }

    #[test]
    fn where_it_takes_none_our_key_is_wrong_and_the_devices_stay() {
        let belief = Belief::default();
        let dead = |n: &usize| judged(&belief, "a.example", *n, OfKey::Other) == Outcome::DeadEndpoint;
        assert_eq!((0..1_000).filter(dead).count(), MAX_KEYS);
        assert_eq!(judged(&belief, "a.example", 0, OfKey::Other), Outcome::Misconfigured);
        judged(&belief, "a.example", 0, OfKey::Nothing);
        judged(&belief, "b.example", 0, OfKey::Good);
        assert_eq!(judged(&belief, "a.example", 0, OfKey::Refused), Outcome::Misconfigured, "another origin's belief");
        assert_eq!(judged(&belief, "b.example", 0, OfKey::Refused), Outcome::Refused, "another origin's doubt");
        judged(&belief, "a.example", 0, OfKey::Good);
        assert_eq!(judged(&belief, "a.example", 0, OfKey::Other), Outcome::DeadEndpoint);
    }

    #[test]
    fn origins_without_number_do_not_fill_the_memory() {
        let belief = Belief::default();
        for n in 0..2 * MAX_ORIGINS {
            judged(&belief, &format!("{n}.example"), 0, OfKey::Refused);
        }
        assert!(belief.0.lock().unwrap().len() <= MAX_ORIGINS);
    }
}
