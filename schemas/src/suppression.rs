//! What stands against an address: its owner's wish, or that it seems to be dead.
//!
//! | the entry says | stops |
//! |---|---|
//! | `complaint`, `manual`, any other word | everything |
//! | `unsubscribe` | everything but mandatory categories |
//! | it bounced once | what goes on the lane `bulk`, for 30 days: one such answer may be false |
//! | it bounced again, a day later or more | everything, for 180 days |
//! | `bounce` without a date: somebody wrote it by hand | everything |
//!
//! Guarantee: a wish never ages. Adding the same fact again changes nothing, so that it may be done again after a crash.

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Lane,
    bucket::KeyedBy,
    record::{Record, Violation},
};

/// How long after a bounce another one confirms it. A fault of the other side seldom lasts so long, and a loop of retries is
/// over.
const CONFIRMED_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// How long one bounce counts.
const FIRST_COUNTS: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long several bounces count, from the last one on: providers give mailboxes and numbers to others after such a time.
const SEVERAL_COUNT: SignedDuration = SignedDuration::from_hours(180 * 24);

/// Why an address gets less or nothing any more (`suppressions`, by [`crate::bucket::address_key`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suppression {
    /// A word for it: `bounce`, `complaint`, `unsubscribe`, `manual`. An unsubscription does not stop mandatory categories.
    pub reason: String,
    /// Since when. A bounce without it stops everything, for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When the address bounced: the first time, and the last time if that was a day later or more. One bounce stops what
    /// goes on the lane `bulk`, for 30 days; two stop everything, for 180 days. Where the reason is `bounce` and there are
    /// none, `since` is the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounces: Vec<Timestamp>,
}

impl Record for Suppression {
    const BUCKET: &'static str = "suppressions";
    const MEANING: &'static str = "Addresses that get less or nothing any more, by their hash.";
    const KEYED_BY: KeyedBy = KeyedBy::Address;

    fn doubts(&self) -> Vec<Violation> {
        if Self::REASONS.contains(&self.reason.as_str()) {
            return Vec::new();
        }
        let problem = format!("`{}` is no word that others know: {}", self.reason, Self::REASONS.join(", "));
        vec![Violation { field: "reason".to_owned(), problem }]
    }
}

impl Suppression {
    /// The address does not exist, a provider says.
    pub const BOUNCE: &str = "bounce";
    /// Its owner wants no more.
    pub const UNSUBSCRIBE: &str = "unsubscribe";
    /// The words for a reason. Another is taken, and doubted.
    pub const REASONS: [&str; 4] = [Self::BOUNCE, "complaint", Self::UNSUBSCRIBE, "manual"];

    /// What stands against an address of which this is the first that is known.
    pub fn new(reason: &str, at: Timestamp) -> Self {
        let bounces = if reason == Self::BOUNCE { vec![at] } else { Vec::new() };
        Suppression { reason: reason.to_owned(), since: Some(at), bounces }
    }

    /// What stands against an address of which `known` stood, since it was learned that it has `reason` at `at`; `None` where
    /// nothing changes. The weightiest reason stays.
    pub fn learned(known: Option<&Suppression>, reason: &str, at: Timestamp) -> Option<Suppression> {
        let Some(known) = known else { return Some(Self::new(reason, at)) };
        let mut changed = known.clone();
        if reason == Self::BOUNCE {
            if known.is_undated_bounce() {
                return None;
            }
            changed.bounces = known.bounces_with(at);
            if known.reason == Self::BOUNCE {
                changed.since = changed.bounces.first().copied();
            }
        } else if weight(reason) > weight(&known.reason) {
            changed.bounces = known.bounces().to_vec();
            (changed.reason, changed.since) = (reason.to_owned(), Some(at));
        }
        (changed != *known).then_some(changed)
    }

    /// Whether it stops a message at `now`: of a mandatory category or another one, on this lane.
    pub fn stops(&self, mandatory: bool, lane: Lane, now: Timestamp) -> bool {
        let by_reason = match self.reason.as_str() {
            Self::BOUNCE => self.is_undated_bounce(),
            Self::UNSUBSCRIBE => !mandatory,
            _ => true,
        };
        let by_bounces = match self.bounces() {
            [] => false,
            [only] => lane == Lane::Bulk && !mandatory && is_within(*only, FIRST_COUNTS, now),
            [.., last] => is_within(*last, SEVERAL_COUNT, now),
        };
        by_reason || by_bounces
    }

    fn is_undated_bounce(&self) -> bool {
        self.reason == Self::BOUNCE && self.bounces().is_empty()
    }

    fn bounces(&self) -> &[Timestamp] {
        if self.bounces.is_empty() && self.reason == Self::BOUNCE { self.since.as_slice() } else { &self.bounces }
    }

    /// The first and the last of the bounces that count at `at`, which is one of them.
    fn bounces_with(&self, at: Timestamp) -> Vec<Timestamp> {
        let known = self.bounces();
        let counts = if known.len() > 1 { SEVERAL_COUNT } else { FIRST_COUNTS };
        let known = if known.last().is_some_and(|last| is_within(*last, counts, at)) { known } else { &[] };
        // Receipts may come late.
        let (first, last) = known.iter().fold((at, at), |(first, last), each| (first.min(*each), last.max(*each)));
        if is_within(first, CONFIRMED_AFTER, last) { vec![first] } else { vec![first, last] }
    }
}

fn is_within(from: Timestamp, time: SignedDuration, at: Timestamp) -> bool {
    at.duration_since(from) < time
}

fn weight(reason: &str) -> u8 {
    match reason {
        Suppression::BOUNCE => 0,
        Suppression::UNSUBSCRIBE => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURS_OF_A_DAY: i64 = 24;

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours)
    }

    /// What stands after all of these were learned, in this order.
    fn after(facts: &[(&str, i64)]) -> Suppression {
        let learn = |known: Option<Suppression>, (reason, hours): &(&str, i64)| {
            let learned = Suppression::learned(known.as_ref(), reason, at(*hours)).or(known);
            assert_eq!(Suppression::learned(learned.as_ref(), reason, at(*hours)), None, "again: nothing changes");
            learned
        };
        facts.iter().fold(None, learn).unwrap()
    }

    /// Whether it stops what is mandatory, what is normal, and what is bulk.
    fn stops(suppression: &Suppression, hours: i64) -> (bool, bool, bool) {
        let stops = |mandatory, lane| suppression.stops(mandatory, lane, at(hours));
        (stops(true, Lane::Critical), stops(false, Lane::Normal), stops(false, Lane::Bulk))
    }

    const NOTHING: (bool, bool, bool) = (false, false, false);
    const BULK: (bool, bool, bool) = (false, false, true);
    const ALL: (bool, bool, bool) = (true, true, true);

    #[test]
    fn a_first_bounce_stops_bulk_and_a_second_a_day_later_everything_and_both_age() {
        for within_a_day in [&[("bounce", 0)][..], &[("bounce", 0), ("bounce", 1), ("bounce", 23)]] {
            let first = after(within_a_day);
            assert_eq!((stops(&first, 0), stops(&first, 29 * HOURS_OF_A_DAY)), (BULK, BULK));
            assert_eq!(stops(&first, 30 * HOURS_OF_A_DAY), NOTHING);
        }
        let second = after(&[("bounce", 0), ("bounce", 24)]);
        assert_eq!((stops(&second, 24), stops(&second, 180 * HOURS_OF_A_DAY)), (ALL, ALL));
        assert_eq!(stops(&second, 181 * HOURS_OF_A_DAY), NOTHING);
        let third = after(&[("bounce", 0), ("bounce", 24), ("bounce", 100 * HOURS_OF_A_DAY)]);
        assert_eq!(stops(&third, 279 * HOURS_OF_A_DAY), ALL, "from the last one on");
        let aged = after(&[("bounce", 0), ("bounce", 31 * HOURS_OF_A_DAY)]);
        assert_eq!(stops(&aged, 31 * HOURS_OF_A_DAY), BULK, "the first one does not count any more");
        assert_eq!(after(&[("bounce", 24), ("bounce", 0)]), second, "late receipts");
    }

    #[test]
    fn an_unsubscription_does_not_stop_what_is_mandatory_and_never_ages() {
        let left = after(&[("unsubscribe", 0)]);
        assert_eq!(stops(&left, 0), (false, true, true));
        assert_eq!(stops(&left, 10_000 * HOURS_OF_A_DAY), (false, true, true));
        let bounced = after(&[("unsubscribe", 0), ("bounce", 1), ("bounce", 30)]);
        assert_eq!((bounced.reason.as_str(), stops(&bounced, 30)), ("unsubscribe", ALL));
        assert_eq!(stops(&bounced, 1_000 * HOURS_OF_A_DAY), (false, true, true), "only the bounces have aged");
        assert_eq!(stops(&after(&[("bounce", 0), ("bounce", 30), ("unsubscribe", 40)]), 40), ALL);
    }

    #[test]
    fn a_complaint_stops_everything_and_no_later_fact_weakens_it() {
        for facts in [
            &[("complaint", 0)][..],
            &[("unsubscribe", 0), ("complaint", 1)],
            &[("bounce", 0), ("complaint", 1)],
            &[("complaint", 0), ("unsubscribe", 1), ("bounce", 2)],
            &[("manual", 0), ("complaint", 1)],
            &[("some other word", 0), ("unsubscribe", 1)],
        ] {
            assert_eq!(stops(&after(facts), 1_000 * HOURS_OF_A_DAY), ALL, "{facts:?}");
        }
    }

    #[test]
    fn an_entry_by_hand_stops_everything_unless_it_says_since_when() {
        let entry = |since| Suppression { reason: "bounce".into(), since, bounces: Vec::new() };
        let undated = entry(None);
        assert_eq!(stops(&undated, 1_000 * HOURS_OF_A_DAY), ALL);
        assert_eq!(Suppression::learned(Some(&undated), "bounce", at(0)), None);
        let dated = entry(Some(at(0)));
        assert_eq!((stops(&dated, 1), stops(&dated, 31 * HOURS_OF_A_DAY)), (BULK, NOTHING));
        let confirmed = Suppression::learned(Some(&dated), "bounce", at(25)).unwrap();
        assert_eq!(stops(&confirmed, 25), ALL);
    }
}
