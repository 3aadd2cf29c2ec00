//! Tells people from machines, as far as that can be done.
//!
//! | sign | verdict |
//! |---|---|
//! | `HEAD`, or a header that says "prefetch" or "preview" | machine |
//! | no user agent; Apple's mail proxy (exactly `Mozilla/5.0`), which fetches when mail arrives; Gmail's prefetch (`Edge/12.246 Mozilla/5.0`); scanners, bots, previewers and programs by name | machine |
//! | within [`ARRIVAL`] of the submission | machine: no person reads that fast |
//! | another link of the same message followed within [`BURST`] | machine: a scanner that follows everything |
//! | Gmail's and Yahoo's image proxies, which fetch when a mail is opened | human |
//! | within [`SETTLING`] of the submission, or an agent that is neither browser nor mail program | unknown |
//! | anything else | human |
//!
//! Known limits. The first of a burst of clicks is judged before there is a burst. Scanners that wait, behind the address
//! and with the agent of a browser, look human. The time of a message is that of its submission, which is in its id:
//! after a `send_at`, quiet hours or a queue, a fetch on arrival comes "late" and only its agent can give it away. A
//! person who uses Apple's mail program with its privacy protection counts as a machine, always: such opens
//! look the same whether a person read or not. So both rates are shown everywhere, and nothing is decided on one open.
//!
//! Pure functions. The memory of recent clicks is bounded and forgotten with the process: a crash makes a burst that it
//! cut in two look human at the seam.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, PoisonError},
};

use chasqui_rules::actor;
use chasqui_schemas::receipt::Actor;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// Least time from the submission to an open by a person.
pub(crate) const ARRIVAL: SignedDuration = SignedDuration::from_secs(2);
/// Sooner than this after the submission it may still be a scanner of arriving mail.
pub(crate) const SETTLING: SignedDuration = SignedDuration::from_secs(10);
/// Least time between two links of a message that a person follows.
pub(crate) const BURST: SignedDuration = SignedDuration::from_millis(1_500);
/// Messages whose last click is remembered: about 6 MB in each of two generations.
const REMEMBERED: usize = 65_536;

/// What is seen of a hit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// Asked by `HEAD`, or with a header that says that no person looks.
    pub(crate) prefetch: bool,
    /// The `User-Agent` header.
    pub(crate) user_agent: Option<&'a str>,
    /// Since the submission.
    pub(crate) age: SignedDuration,
    /// Another link of the message was followed a moment ago.
    pub(crate) burst: bool,
}

/// Who it was.
pub(crate) fn judge(seen: &Seen<'_>) -> Actor {
    let agent = actor::of_user_agent(seen.user_agent);
    if seen.prefetch || seen.burst || seen.age < ARRIVAL || agent == Actor::Machine {
        Actor::Machine
    } else if seen.age < SETTLING && !is_image_proxy(seen.user_agent) {
        Actor::Unknown
    } else {
        agent
    }
}

/// Proxies that fetch when a person opens the mail, so that even a quick fetch is a person's.
fn is_image_proxy(agent: Option<&str>) -> bool {
    agent.is_some_and(|agent| agent.contains("GoogleImageProxy") || agent.contains("YahooMailProxy"))
}

/// The last click of recent messages.
#[derive(Debug, Default)]
pub(crate) struct Clicks(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Uuid, (Timestamp, u16)>,
    old: HashMap<Uuid, (Timestamp, u16)>,
}

impl Clicks {
    /// Remembers a click, and answers whether another link of the same message was followed a moment ago.
    pub(crate) fn is_burst(&self, delivery: Uuid, link: u16, now: Timestamp) -> bool {
        // Nothing is left half done under this lock.
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = &mut *memory;
        let before = memory.old.get(&delivery).copied();
        let before = match memory.young.entry(delivery) {
            Entry::Occupied(mut entry) => Some(entry.insert((now, link))),
            Entry::Vacant(entry) => {
                entry.insert((now, link));
                before
            }
        };
        if memory.young.len() >= REMEMBERED {
            memory.old = std::mem::take(&mut memory.young);
        }
        before.is_some_and(|(at, other)| other != link && now.duration_since(at) < BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    const GMAIL: &str = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";

    #[test]
    fn everything_seen_counts() {
        let calm = Seen { prefetch: false, user_agent: Some(FIREFOX), age: SignedDuration::from_mins(5), burst: false };
        for (seen, actor) in [
            (calm, Actor::Human),
            (Seen { prefetch: true, ..calm }, Actor::Machine),
            (Seen { burst: true, ..calm }, Actor::Machine),
            (Seen { age: SignedDuration::from_millis(1_999), ..calm }, Actor::Machine),
            (Seen { age: SignedDuration::from_secs(-5), ..calm }, Actor::Machine),
            (Seen { age: SignedDuration::from_secs(2), ..calm }, Actor::Unknown),
            (Seen { age: SignedDuration::from_secs(10), ..calm }, Actor::Human),
            (Seen { age: SignedDuration::from_secs(3), user_agent: Some(GMAIL), ..calm }, Actor::Human),
            (Seen { age: SignedDuration::from_secs(1), user_agent: Some(GMAIL), ..calm }, Actor::Machine),
            (Seen { user_agent: Some("SomethingElse/1.0"), ..calm }, Actor::Unknown),
            (Seen { user_agent: None, ..calm }, Actor::Machine),
        ] {
            assert_eq!(judge(&seen), actor, "{seen:?}");
        }
    }

    #[test]
    fn two_links_at_once_are_a_burst_and_the_same_link_twice_is_not() {
        let clicks = Clicks::default();
        let at = |millis: i64| Timestamp::from_millisecond(1_790_000_000_000 + millis).unwrap();
        let (ada, bob) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(!clicks.is_burst(ada, 0, at(0)));
        assert!(!clicks.is_burst(bob, 1, at(10)), "another message");
        assert!(!clicks.is_burst(ada, 0, at(20)), "a double click");
        assert!(clicks.is_burst(ada, 1, at(30)));
        assert!(clicks.is_burst(ada, 2, at(1_000)), "and so on");
        assert!(!clicks.is_burst(ada, 0, at(2_500)), "back after a while");
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_the_latest() {
        let clicks = Clicks::default();
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        for n in 0..3 * REMEMBERED as u128 + 7 {
            clicks.is_burst(Uuid::from_u128(n), 0, now);
        }
        let memory = clicks.0.lock().unwrap();
        assert!(memory.young.len() + memory.old.len() <= 2 * REMEMBERED);
        drop(memory);
        assert!(clicks.is_burst(Uuid::from_u128(3 * REMEMBERED as u128), 1, now));
        assert!(clicks.is_burst(Uuid::from_u128(3 * REMEMBERED as u128 - 9), 1, now), "of the generation before");
        assert!(!clicks.is_burst(Uuid::from_u128(1), 1, now), "forgotten");
    }
}
