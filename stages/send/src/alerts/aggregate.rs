//! From failures to alerts: which one is worth a person's attention, and with what numbers.
//!
//! Guarantee: pure, given the time. Of the failures of one provider for one reason, at most one alert per window; each
//! failure that is followed by an alert is counted in exactly one. At most 256 providers and reasons are watched;
//! what comes beyond is counted together, as [`Alert::untold`].
//!
//! A first failure opens a window; the threshold reached in it is told at once, fewer are forgotten. A window of silence
//! follows, and what came in it decides at its end:
//!
//! | since the last alert | then |
//! |---|---|
//! | the threshold or more | told, with their number; silence again |
//! | fewer | told once, because it ebbs away; silence again; forgotten if they stay fewer |
//! | none | forgotten |

use std::collections::BTreeMap;

use chasqui_schemas::Reason;
use jiff::{SignedDuration, Timestamp};

/// Most providers and reasons watched at once.
const MAX_KEYS: usize = 256;

/// Something that developers should know.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Alert {
    /// Who failed.
    pub(super) provider: String,
    /// How.
    pub(super) reason: Reason,
    /// How often.
    pub(super) count: u64,
    /// During how long.
    pub(super) during: SignedDuration,
    /// Whether it was told before: these came since.
    pub(super) again: bool,
    /// The provider's code, the last time.
    pub(super) code: String,
    /// The provider's words, the last time.
    pub(super) detail: String,
    /// Failures, and alerts, of which nothing could be told until now.
    pub(super) untold: u64,
}

/// Counts failures.
#[derive(Debug)]
pub(super) struct Aggregate {
    window: SignedDuration,
    threshold: u64,
    watched: BTreeMap<(String, Reason), Watched>,
    untold: u64,
}

/// The failures of one provider for one reason.
#[derive(Debug)]
struct Watched {
    since: Timestamp,
    count: u64,
    told: bool,
    /// The last alert told of fewer than the threshold.
    ebbing: bool,
    code: String,
    detail: String,
}

impl Aggregate {
    /// Tells of `threshold` failures within `window`; of a misconfiguration at once.
    pub(super) fn new(window: SignedDuration, threshold: u64) -> Self {
        Aggregate { window, threshold, watched: BTreeMap::new(), untold: 0 }
    }

    /// One failure. Answers what is to be told now.
    pub(super) fn note(
        &mut self,
        now: Timestamp,
        provider: &str,
        reason: Reason,
        code: &str,
        detail: &str,
    ) -> Option<Alert> {
        let key = (provider.to_owned(), reason);
        let late = self.roll(now, &key);
        if !self.watched.contains_key(&key) && self.watched.len() >= MAX_KEYS {
            self.untold += 1;
            return late;
        }
        let threshold = self.threshold_of(reason);
        let watched = self.watched.entry(key.clone()).or_insert_with(|| Watched::since(now));
        watched.count += 1;
        (watched.code, watched.detail) = (code.to_owned(), detail.to_owned());
        if watched.told || watched.count < threshold { late } else { self.tell(now, &key) }
    }

    /// What is to be told because its window is over.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<Alert> {
        let keys: Vec<_> = self.watched.keys().cloned().collect();
        keys.iter().filter_map(|key| self.roll(now, key)).collect()
    }

    fn threshold_of(&self, reason: Reason) -> u64 {
        if reason == Reason::ProviderMisconfigured { 1 } else { self.threshold }
    }

    /// Ends the window of `key`, where it is over.
    fn roll(&mut self, now: Timestamp, key: &(String, Reason)) -> Option<Alert> {
        let watched = self.watched.get(key)?;
        if now.duration_since(watched.since) < self.window {
            return None;
        }
        let many = watched.count >= self.threshold_of(key.1);
        if watched.told && (many || watched.count > 0 && !watched.ebbing) {
            return self.tell(now, key);
        }
        self.watched.remove(key);
        None
    }

    /// The alert about `key`, whose count begins again.
    fn tell(&mut self, now: Timestamp, key: &(String, Reason)) -> Option<Alert> {
        let threshold = self.threshold_of(key.1);
        let watched = self.watched.get_mut(key)?;
        let alert = Alert {
            provider: key.0.clone(),
            reason: key.1,
            count: watched.count,
            during: now.duration_since(watched.since),
            again: watched.told,
            code: watched.code.clone(),
            detail: watched.detail.clone(),
            untold: std::mem::take(&mut self.untold),
        };
        watched.ebbing = watched.count < threshold;
        (watched.since, watched.count, watched.told) = (now, 0, true);
        Some(alert)
    }
}

impl Watched {
    fn since(since: Timestamp) -> Self {
        Watched { since, count: 0, told: false, ebbing: false, code: String::new(), detail: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::at;

    const WINDOW: SignedDuration = SignedDuration::from_secs(60);

    fn aggregate() -> Aggregate {
        Aggregate::new(WINDOW, 3)
    }

    fn fail(aggregate: &mut Aggregate, second: i64) -> Option<u64> {
        let alert = aggregate.note(at(second), "x", Reason::ProviderTransient, "503", "words")?;
        Some(alert.count)
    }

    fn due(aggregate: &mut Aggregate, second: i64) -> Vec<u64> {
        aggregate.due(at(second)).iter().map(|alert| alert.count).collect()
    }

    #[test]
    fn a_misconfiguration_is_told_at_once_and_others_from_the_threshold_on() {
        let mut aggregate = aggregate();
        let alert = aggregate.note(at(0), "x", Reason::ProviderMisconfigured, "20003", "no").unwrap();
        let expected = Alert {
            provider: "x".into(),
            reason: Reason::ProviderMisconfigured,
            count: 1,
            during: SignedDuration::ZERO,
            again: false,
            code: "20003".into(),
            detail: "no".into(),
            untold: 0,
        };
        assert_eq!(alert, expected);
        assert_eq!([0, 10, 20].map(|second| fail(&mut aggregate, second)), [None, None, Some(3)]);
    }

    #[test]
    fn a_storm_is_one_alert_per_window_with_its_count() {
        let mut aggregate = aggregate();
        let told: Vec<u64> = (0..1_000).filter_map(|_| fail(&mut aggregate, 0)).collect();
        assert_eq!(told, [3]);
        assert_eq!(due(&mut aggregate, 59), [0; 0]);
        assert_eq!(due(&mut aggregate, 60), [997]);
        assert_eq!(due(&mut aggregate, 60), [0; 0]);
        assert_eq!(due(&mut aggregate, 120), [0; 0], "it is over");
        assert_eq!(fail(&mut aggregate, 121), None, "and begins anew");
    }

    #[test]
    fn what_ebbs_away_is_told_once_more() {
        let mut aggregate = aggregate();
        (0..3).for_each(|_| _ = fail(&mut aggregate, 0));
        assert_eq!(fail(&mut aggregate, 10), None);
        assert_eq!(due(&mut aggregate, 60), [1]);
        assert_eq!([61, 62, 63].map(|second| fail(&mut aggregate, second)), [None; 3], "its window is not over");
        assert_eq!(due(&mut aggregate, 120), [3], "it came back");
        assert_eq!(fail(&mut aggregate, 121), None);
        assert_eq!(due(&mut aggregate, 180), [1]);
        assert_eq!(fail(&mut aggregate, 181), None);
        assert_eq!(due(&mut aggregate, 240), [0; 0], "a trickle is not told for ever");
        assert!(aggregate.watched.is_empty());
    }

    #[test]
    fn few_failures_are_forgotten() {
        let mut aggregate = aggregate();
        for second in [0, 59, 60, 119, 130, 179] {
            assert_eq!(fail(&mut aggregate, second), None, "{second}");
        }
    }

    #[test]
    fn a_window_that_nobody_ended_ends_with_the_next_failure() {
        let mut aggregate = aggregate();
        (0..13).for_each(|_| _ = fail(&mut aggregate, 0));
        assert_eq!(fail(&mut aggregate, 600), Some(10));
        assert_eq!(due(&mut aggregate, 660), [1]);
    }

    #[test]
    fn providers_and_reasons_are_counted_apart() {
        let mut aggregate = aggregate();
        for provider in ["a", "b"] {
            for reason in [Reason::ProviderTransient, Reason::ProviderTimeout] {
                for _ in 0..2 {
                    assert_eq!(aggregate.note(at(0), provider, reason, "", ""), None);
                }
            }
        }
    }

    #[test]
    fn what_is_too_much_to_watch_is_counted_and_told_with_the_next_alert() {
        let mut aggregate = aggregate();
        for n in 0..MAX_KEYS + 5 {
            aggregate.note(at(0), &n.to_string(), Reason::ProviderTransient, "", "");
        }
        assert_eq!(aggregate.watched.len(), MAX_KEYS);
        let untold: Vec<u64> = (0..9)
            .filter_map(|_| aggregate.note(at(1), "0", Reason::ProviderTransient, "", ""))
            .map(|alert| alert.untold)
            .collect();
        assert_eq!(untold, [5]);
        assert_eq!(due(&mut aggregate, 61), [7], "what came after the alert");
        assert_eq!(aggregate.watched.len(), 1, "the others are forgotten");
    }

    proptest! {
        #[test]
        fn no_two_alerts_are_closer_than_a_window_and_no_failure_is_counted_twice(
            steps in prop::collection::vec((0i64..40, any::<bool>(), any::<bool>()), 1..200), threshold in 1u64..6,
        ) {
            let mut aggregate = Aggregate::new(WINDOW, threshold);
            let (mut now, mut failures, mut told) = (at(0), 0, Vec::new());
            for (seconds, fails, ticks) in steps {
                now += SignedDuration::from_secs(seconds);
                if ticks {
                    told.extend(aggregate.due(now).into_iter().map(|alert| (now, alert)));
                }
                if fails {
                    failures += 1;
                    let alert = aggregate.note(now, "x", Reason::ProviderRefused, "", "");
                    told.extend(alert.map(|alert| (now, alert)));
                }
            }
            for pair in told.windows(2) {
                prop_assert!(pair[1].0.duration_since(pair[0].0) >= WINDOW);
            }
            let counted: u64 = told.iter().map(|(_, alert)| alert.count).sum();
            prop_assert!(counted <= failures);
            prop_assert!(told.iter().all(|(_, alert)| alert.count > 0 && (alert.again || alert.count >= threshold)));
        }
    }
}
