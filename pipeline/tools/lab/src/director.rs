//! Decides about each call as the [script](crate::script) says.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ring::digest::{SHA256, digest};

use crate::{
    Script, Vendor, magic,
    script::{Behaviour, End, Fate, Plan, Reporting, Rule, Trouble, When},
};

/// Recipients whose calls are counted. Those beyond it count as called for the first time.
const MAX_RECIPIENTS: usize = 1_000_000;

/// A script at work.
pub(crate) struct Director {
    seed: u64,
    rules: Vec<Rule>,
    pub(crate) callbacks: Reporting,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Calls of each vendor.
    calls: BTreeMap<Vendor, u64>,
    /// Calls of each recipient.
    repeats: HashMap<(Vendor, String), u32>,
    /// Of each throttle, by rule: the second it counts in, and the calls in it.
    throttles: HashMap<usize, (u64, u32)>,
}

impl Director {
    pub(crate) fn new(script: &Script) -> Self {
        Director {
            seed: script.seed,
            rules: script.rules.clone(),
            callbacks: script.callbacks.clone(),
            state: Mutex::default(),
        }
    }

    /// Whether nothing listens, `at` this time since the script began.
    pub(crate) fn outage(&self, vendor: Vendor, at: Duration) -> bool {
        self.rules.iter().any(|rule| {
            rule.vendor == vendor
                && matches!(rule.then, Behaviour::Outage)
                && rule.when.window.as_ref().is_some_and(|window| window.contains(&at))
        })
    }

    /// What a right call comes to. Counts it.
    pub(crate) fn decide(&self, vendor: Vendor, recipient: &str, at: Duration) -> Plan {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let number = count(state.calls.entry(vendor).or_default());
        let key = (vendor, recipient.to_owned());
        let nth = if state.repeats.len() < MAX_RECIPIENTS || state.repeats.contains_key(&key) {
            let calls = state.repeats.entry(key).or_default();
            *calls += 1;
            *calls - 1
        } else {
            0
        };
        let mut delay = Duration::ZERO;
        for (at_rule, rule) in self.rules.iter().enumerate() {
            let draw = |what: &str| {
                let place = format!("{}/{at_rule}/{vendor}/{recipient}/{nth}/{what}", self.seed);
                fraction(&place)
            };
            if rule.vendor != vendor || !holds(&rule.when, number, at, recipient, || draw("share")) {
                continue;
            }
            let end = match &rule.then {
                Behaviour::Accept => End::Accept(Fate::Delivered),
                Behaviour::Fault(fault) => End::Fault(fault.clone()),
                Behaviour::Latency(range) => {
                    delay += within(range, draw("latency"));
                    continue;
                }
                Behaviour::Throttle { per_second, retry_after } => {
                    let (second, calls) = state.throttles.entry(at_rule).or_default();
                    if *second != at.as_secs() {
                        (*second, *calls) = (at.as_secs(), 0);
                    }
                    *calls += 1;
                    if *calls <= *per_second {
                        continue;
                    }
                    End::Trouble(Trouble::Busy, retry_after.clone())
                }
                // A call that was under way when it began.
                Behaviour::Outage => End::Cut(crate::Cut::BeforeAccepting),
                Behaviour::Cut(cut) => End::Cut(*cut),
                Behaviour::Hang { accepted } => End::Hang { accepted: *accepted },
                Behaviour::Undelivered(code) => End::Accept(Fate::Undelivered(code.clone())),
            };
            return Plan { delay, end };
        }
        let plan = magic::plan(vendor, recipient, nth);
        Plan { delay: delay + plan.delay, end: plan.end }
    }

    /// When the report `step` of a message is due, after its acceptance, and whether it is sent twice.
    pub(crate) fn report(&self, message_id: &str, step: usize) -> (Duration, bool) {
        let draw = |what: &str| fraction(&format!("{}/{message_id}/{step}/{what}", self.seed));
        (within(&self.callbacks.delay, draw("delay")), draw("repeated") < self.callbacks.repeated)
    }

    /// Bytes that differ from call to call, and not from run to run.
    pub(crate) fn entropy(&self, vendor: Vendor, number: u64) -> [u8; 32] {
        hash(&format!("{}/{vendor}/{number}", self.seed))
    }
}

fn count(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter - 1
}

fn holds(when: &When, number: u64, at: Duration, recipient: &str, draw: impl FnOnce() -> f64) -> bool {
    when.calls.as_ref().is_none_or(|calls| calls.contains(&number))
        && when.window.as_ref().is_none_or(|window| window.contains(&at))
        && when.recipient.as_ref().is_none_or(|one| one == recipient)
        && when.share.is_none_or(|share| draw() < share)
}

fn within(range: &Range<Duration>, fraction: f64) -> Duration {
    range.start + range.end.saturating_sub(range.start).mul_f64(fraction)
}

fn hash(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    bytes
}

/// A number from 0.0 to below 1.0 that looks random and follows from the text.
fn fraction(text: &str) -> f64 {
    let [a, b, c, d, ..] = hash(text);
    f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Cut, Fault};

    fn director(seed: u64, rules: Vec<Rule>) -> Director {
        Director::new(&Script { seed, rules, ..Script::default() })
    }

    fn rule(when: When, then: Behaviour) -> Rule {
        Rule { vendor: Vendor::Twilio, when, then }
    }

    fn end(director: &Director, recipient: &str, at_ms: u64) -> End {
        director.decide(Vendor::Twilio, recipient, Duration::from_millis(at_ms)).end
    }

    const OK: End = End::Accept(Fate::Delivered);

    #[test]
    fn calls_are_chosen_by_number_by_time_and_by_recipient() {
        let seconds = |range: Range<u64>| Duration::from_secs(range.start)..Duration::from_secs(range.end);
        let cut = || Behaviour::Cut(Cut::BeforeAnswer);
        let director = director(
            1,
            vec![
                rule(When { calls: Some(1..2), ..When::default() }, cut()),
                rule(When { window: Some(seconds(5..6)), ..When::default() }, cut()),
                rule(When { recipient: Some("+4".into()), ..When::default() }, cut()),
            ],
        );
        assert_eq!(end(&director, "+1", 0), OK);
        assert_eq!(end(&director, "+1", 0), End::Cut(Cut::BeforeAnswer));
        assert_eq!(end(&director, "+1", 5500), End::Cut(Cut::BeforeAnswer));
        assert_eq!(end(&director, "+1", 6000), OK);
        assert_eq!(end(&director, "+4", 6000), End::Cut(Cut::BeforeAnswer));
        let other = director.decide(Vendor::Vonage, "+4", Duration::ZERO);
        assert_eq!(other.end, OK, "another vendor's rules");
    }

    #[test]
    fn a_throttle_lets_so_many_through_in_each_second() {
        let director =
            director(1, vec![rule(When::default(), Behaviour::Throttle { per_second: 2, retry_after: None })]);
        let busy = End::Trouble(Trouble::Busy, None);
        for second in 0..3 {
            let ends: Vec<End> = (0..4).map(|call| end(&director, "+1", second * 1000 + call)).collect();
            assert_eq!(ends, [OK, OK, busy.clone(), busy.clone()]);
        }
    }

    #[test]
    fn latencies_add_up_and_the_first_other_rule_decides() {
        let ms = Duration::from_millis;
        let director = director(
            1,
            vec![
                rule(When::default(), Behaviour::Latency(ms(100)..ms(100))),
                rule(When::default(), Behaviour::Latency(ms(10)..ms(20))),
                rule(When::default(), Behaviour::Fault(Fault::code("20500"))),
                rule(When::default(), Behaviour::Accept),
            ],
        );
        let plan = director.decide(Vendor::Twilio, "+1", Duration::ZERO);
        assert!((ms(110)..ms(120)).contains(&plan.delay), "{plan:?}");
        assert_eq!(plan.end, End::Fault(Fault::code("20500")));
    }

    #[test]
    fn accept_overrides_a_magic_recipient() {
        assert_eq!(end(&director(1, vec![rule(When::default(), Behaviour::Accept)]), "+15550000001", 0), OK);
    }

    proptest! {
        #[test]
        fn the_seed_decides_and_the_order_of_recipients_does_not(seed: u64, order in Just((0..60).collect::<Vec<u32>>()).prop_shuffle()) {
            let rules = || vec![rule(When { share: Some(0.3), ..When::default() }, Behaviour::Cut(Cut::MidBody))];
            let chosen = |director: &Director, order: &[u32]| {
                let mut chosen: Vec<u32> = order.iter().copied().filter(|n| end(director, &format!("+{n}"), 0) != OK).collect();
                chosen.sort_unstable();
                chosen
            };
            let sorted: Vec<u32> = (0..60).collect();
            prop_assert_eq!(chosen(&director(seed, rules()), &sorted), chosen(&director(seed, rules()), &order));
        }
    }

    #[test]
    fn a_share_is_about_that_share() {
        let director =
            director(7, vec![rule(When { share: Some(0.25), ..When::default() }, Behaviour::Cut(Cut::MidBody))]);
        let cut = (0..2000).filter(|n| end(&director, &format!("+{n}"), 0) != OK).count();
        assert!((400..600).contains(&cut), "{cut}");
    }
}
