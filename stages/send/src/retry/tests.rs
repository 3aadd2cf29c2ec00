use chasqui_schemas::{Channel, Receipt, ReceiptKind, receipt::Actor};
use proptest::prelude::*;

use super::*;
use crate::testing::{at, delivery_by, settings};

fn finished(outcome: Outcome) -> Finished {
    Finished { at: at(10), interrupted: false, answer: Answer::new(outcome, "code", "words") }
}

fn policy(on_ambiguity: Ambiguity) -> ChannelPolicy {
    ChannelPolicy { on_ambiguity, ..settings().push }
}

fn verdict(outcome: Outcome, on_ambiguity: Ambiguity) -> Verdict {
    decide_from(&delivery_by(Channel::Push), &finished(outcome), &policy(on_ambiguity), &["script"], at(0)).verdict
}

fn reason(verdict: &Verdict) -> (&'static str, Option<Reason>) {
    match verdict {
        Verdict::Sent => ("sent", None),
        Verdict::Retry { reason, .. } => ("retry", Some(*reason)),
        Verdict::Dead { reason, .. } => ("dead", Some(*reason)),
        Verdict::Bounce(reason) => ("bounce", Some(*reason)),
        Verdict::Suppress(reason) => ("suppress", Some(*reason)),
        other => panic!("send does not decide {other:?}"),
    }
}

#[test]
fn every_outcome_has_its_decision() {
    use Ambiguity::{Hold, Retry};
    for (outcome, on_ambiguity, expected) in [
        (Outcome::Accepted, Retry, ("sent", None)),
        (Outcome::TryLater { after: None }, Hold, ("retry", Some(Reason::ProviderTransient))),
        (Outcome::Throttled { after: None }, Hold, ("retry", Some(Reason::ProviderThrottled))),
        (Outcome::OtherProvider, Hold, ("retry", Some(Reason::ProviderTransient))),
        (Outcome::DeadEndpoint, Retry, ("bounce", Some(Reason::DeadEndpoint))),
        (Outcome::OptedOut, Retry, ("suppress", Some(Reason::OptedOutChannel))),
        (Outcome::Refused, Retry, ("dead", Some(Reason::ProviderRefused))),
        (Outcome::Misconfigured, Retry, ("dead", Some(Reason::ProviderMisconfigured))),
        (Outcome::NoAnswer, Retry, ("retry", Some(Reason::ProviderTimeout))),
        (Outcome::NoAnswer, Hold, ("dead", Some(Reason::Held))),
    ] {
        assert_eq!(reason(&verdict(outcome, on_ambiguity)), expected, "{outcome:?} {on_ambiguity:?}");
    }
}

#[test]
fn a_moment_beyond_all_time_is_too_late() {
    let finished = Finished { at: Timestamp::MAX, ..finished(Outcome::NoAnswer) };
    let policy = policy(Ambiguity::Retry);
    let soon = Delivery { expires_at: Some(Timestamp::MAX), ..delivery_by(Channel::Push) };
    let verdict = decide_from(&soon, &finished, &policy, &["script"], Timestamp::MAX).verdict;
    assert_eq!(reason(&verdict), ("dead", Some(Reason::RetriesExhausted)));
}

#[test]
fn an_interrupted_attempt_says_so() {
    let decide = |on_ambiguity| {
        let finished = Finished::interrupted(at(10));
        decide_from(&delivery_by(Channel::Push), &finished, &policy(on_ambiguity), &["script"], at(0)).verdict
    };
    assert_eq!(reason(&decide(Ambiguity::Retry)), ("retry", Some(Reason::Interrupted)));
    assert_eq!(reason(&decide(Ambiguity::Hold)), ("dead", Some(Reason::Held)));
}

#[test]
fn a_retry_takes_the_next_attempt_and_keeps_the_beginning() {
    let before = delivery_by(Channel::Push);
    let Verdict::Retry { message, .. } = verdict(Outcome::TryLater { after: None }, Ambiguity::Retry) else {
        panic!("no retry");
    };
    assert_eq!(*message, Output::Delivery(Delivery { attempt: 2, sending_since: Some(at(0)), ..before }));
}

#[test]
fn the_last_attempt_is_the_last() {
    let policy = policy(Ambiguity::Retry);
    let last = Delivery { attempt: policy.max_rounds, ..delivery_by(Channel::Push) };
    for outcome in [Outcome::TryLater { after: None }, Outcome::NoAnswer] {
        let verdict = decide_from(&last, &finished(outcome), &policy, &["script"], at(0)).verdict;
        assert_eq!(reason(&verdict), ("dead", Some(Reason::RetriesExhausted)));
    }
    let sent = decide_from(&last, &finished(Outcome::Accepted), &policy, &["script"], at(0)).verdict;
    assert_eq!(sent, Verdict::Sent);
}

#[test]
fn the_horizon_counts_from_the_first_attempt_not_from_the_submission() {
    let policy = ChannelPolicy { horizon_s: 60, ..policy(Ambiguity::Retry) };
    let scheduled_for_next_day = Finished { at: at(86_400), ..finished(Outcome::TryLater { after: None }) };
    let decide = |first| {
        reason(&decide_from(&delivery_by(Channel::Push), &scheduled_for_next_day, &policy, &["script"], first).verdict)
    };
    assert_eq!(decide(at(86_400)).0, "retry");
    assert_eq!(decide(at(86_300)), ("dead", Some(Reason::RetriesExhausted)));
}

#[test]
fn a_decision_tells_what_the_provider_said() {
    let mut finished = finished(Outcome::Accepted);
    finished.answer.message_id = "id-7".into();
    let Delivery { id, notification_id, .. } = delivery_by(Channel::Push);
    let receipt = Receipt::new(notification_id, id, Actor::Unknown);
    finished.answer.receipts = vec![(ReceiptKind::Delivered, receipt)];
    finished.answer.shortened = Some(Shortened { texts: "body".into(), bytes: 904 });
    let decision = decide_from(&delivery_by(Channel::Push), &finished, &policy(Ambiguity::Hold), &["script"], at(0));
    let expected = [
        ("code", "code"),
        ("detail", "words"),
        ("provider_message_id", "id-7"),
        ("shortened", "body"),
        ("shortened_bytes", "904"),
    ];
    assert_eq!(decision.attributes, expected.map(|(k, v)| (k.into(), v.into())));
    assert_eq!(decision.receipts, finished.answer.receipts);
}

#[test]
fn a_provider_that_names_a_longer_wait_is_obeyed() {
    let asked = Duration::from_secs(120);
    let Verdict::Retry { after, .. } = verdict(Outcome::Throttled { after: Some(asked) }, Ambiguity::Retry) else {
        panic!("no retry");
    };
    assert!(after >= asked && after <= asked.mul_f64(1.0 + JITTER), "{after:?}");
}

/// What becomes of an attempt at `order[0]`: the reason, whom the next attempt calls, and after how long.
fn next(delivery: &Delivery, finished: &Finished, order: &[&str]) -> (Reason, String, Duration) {
    let called = Delivery { provider: order[0].into(), ..delivery.clone() };
    match decide_from(&called, finished, &policy(Ambiguity::Retry), order, at(0)).verdict {
        Verdict::Retry { after, reason, message } => match *message {
            Output::Delivery(next) => (reason, next.provider, after),
            Output::Notification(_) => panic!("not a delivery"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_providers_trouble_goes_to_the_next_one_at_once() {
    for (outcome, reason) in [
        (Outcome::TryLater { after: Some(Duration::from_secs(600)) }, Reason::ProviderTransient),
        (Outcome::OtherProvider, Reason::ProviderTransient),
        (Outcome::Misconfigured, Reason::ProviderMisconfigured),
        (Outcome::NoAnswer, Reason::ProviderTimeout),
    ] {
        let next = next(&delivery_by(Channel::Push), &finished(outcome), &["a", "b", "c"]);
        assert_eq!(next, (reason, "b".to_owned(), SOON), "{outcome:?}");
    }
}

#[test]
fn a_recipients_trouble_a_throttle_and_a_crash_stay_with_the_provider() {
    let of_recipient = |outcome| {
        let mut finished = finished(outcome);
        finished.answer.about_recipient = true;
        finished
    };
    for finished in [
        of_recipient(Outcome::TryLater { after: None }),
        of_recipient(Outcome::Throttled { after: None }),
        finished(Outcome::Throttled { after: None }),
        Finished::interrupted(at(10)),
    ] {
        let (_, provider, after) = next(&delivery_by(Channel::Push), &finished, &["a", "b"]);
        assert_eq!(provider, "a");
        assert!(after >= Duration::from_secs(12), "{after:?}");
    }
}

#[test]
fn critical_does_not_wait_for_a_provider_that_throttles() {
    let urgent = Delivery { lane: Lane::Critical, ..delivery_by(Channel::Push) };
    let throttled = finished(Outcome::Throttled { after: Some(Duration::from_secs(60)) });
    assert_eq!(next(&urgent, &throttled, &["a", "b"]), (Reason::ProviderThrottled, "b".to_owned(), SOON));
}

#[test]
fn after_a_round_the_schedule_waits_and_each_round_counts_once() {
    let later = finished(Outcome::TryLater { after: None });
    let schedule = policy(Ambiguity::Retry).schedule_ms;
    for attempt in 1..=8 {
        let delivery = Delivery { attempt, ..delivery_by(Channel::Push) };
        let (_, _, after) = next(&delivery, &later, &["a", "b"]);
        if attempt % 2 == 1 {
            assert_eq!(after, SOON, "attempt {attempt}");
        } else {
            let base = schedule[attempt as usize / 2 - 1] as f64;
            let wait = after.as_millis() as f64;
            assert!((base * 0.8 - 1.0..=base * 1.2 + 1.0).contains(&wait), "attempt {attempt}: {wait} of {base}");
        }
    }
    let policy = policy(Ambiguity::Retry);
    let last = |attempt| {
        let delivery = Delivery { attempt, ..delivery_by(Channel::Push) };
        reason(&decide_from(&delivery, &later, &policy, &["a", "b"], at(0)).verdict).0
    };
    assert_eq!((last(policy.max_rounds * 2 - 1), last(policy.max_rounds * 2)), ("retry", "dead"));
}

/// A refusal at `at(10)` for as long as `open_s`.
fn refusal(open_s: u64) -> Refusal {
    let open_for = Duration::from_secs(open_s);
    Refusal { until: at(10) + open_for, open_for }
}

#[test]
fn those_who_wait_come_back_in_order_of_lane_and_not_all_at_once() {
    let policy = policy(Ambiguity::Retry);
    let back = |lane, id| {
        let delivery = Delivery { lane, id: uuid::Uuid::from_u128(id), ..delivery_by(Channel::Push) };
        wait_until(&delivery, refusal(60), &policy, at(0)).unwrap()
    };
    let mut last = at(70);
    for lane in Lane::ALL {
        let times: Vec<Timestamp> = (0..50).map(|id| back(lane, id)).collect();
        let (first, end) = (*times.iter().min().unwrap(), *times.iter().max().unwrap());
        assert!(first >= last, "{lane} comes after what is more urgent");
        if lane == Lane::Critical {
            assert_eq!((first, end), (at(70), at(70)));
            continue;
        }
        assert!(end.duration_since(first).as_secs() > 10, "{lane} spreads");
        last = end;
    }
    assert!(last <= at(130));
}

#[test]
fn a_wait_ends_with_the_delivery_or_the_horizon() {
    let policy = ChannelPolicy { horizon_s: 100, ..policy(Ambiguity::Retry) };
    let wait = |expires_s: Option<i64>, since_s| {
        let delivery = Delivery { expires_at: expires_s.map(at), ..delivery_by(Channel::Push) };
        wait_until(&delivery, refusal(60), &policy, at(since_s))
    };
    assert_eq!(wait(Some(70), 0), Err(Reason::Expired));
    assert!(wait(Some(71), 0).is_ok());
    assert_eq!(wait(None, -31), Err(Reason::RetriesExhausted));
    assert!(wait(None, -30).is_ok());
}

proptest! {
    #[test]
    fn a_wait_is_the_schedules_within_a_fifth(attempt in 1u32..50, id: u128, waits in prop::collection::vec(1u64..=604_800_000, 1..8)) {
        let policy = ChannelPolicy { schedule_ms: waits.clone(), ..settings().push };
        let delivery = Delivery { attempt, id: uuid::Uuid::from_u128(id), ..delivery_by(Channel::Push) };
        let base = *waits.get(attempt as usize - 1).unwrap_or(waits.last().unwrap()) as f64;
        let wait = delay(&delivery, &policy, attempt - 1, None).as_millis() as f64;
        prop_assert!((base * 0.8 - 1.0..=base * 1.2 + 1.0).contains(&wait), "{wait} of {base}");
    }

    #[test]
    fn whatever_a_provider_asks_for_the_wait_is_bounded(attempt: u32, secs: u64, nanos in 0u32..1_000_000_000, waits in prop::collection::vec(any::<u64>(), 0..4)) {
        let policy = ChannelPolicy { schedule_ms: waits.clone(), max_rounds: u32::MAX, horizon_s: u64::MAX, ..settings().push };
        let delivery = Delivery { attempt, ..delivery_by(Channel::Push) };
        let longest = waits.iter().copied().max().unwrap_or(1_000) as f64;
        let after = Some(Duration::new(secs, nanos));
        prop_assert!(delay(&delivery, &policy, attempt, after).as_millis() as f64 <= longest * 1.2 + 1.0);
        // Neither panics nor overflows, whatever comes out.
        decide_from(&delivery, &finished(Outcome::Throttled { after }), &policy, &["script"], at(0));
        decide_from(&delivery, &finished(Outcome::TryLater { after: Some(Duration::MAX) }), &policy, &["script"], Timestamp::MAX);
    }

    #[test]
    fn no_attempt_begins_after_expiry_or_horizon(
        attempt in 1u32..8, at_s in 0i64..7_200, expires_s in prop::option::of(0i64..7_200), asked_s in prop::option::of(0u64..7_200),
    ) {
        let policy = policy(Ambiguity::Retry);
        let delivery = Delivery { attempt, expires_at: expires_s.map(at), ..delivery_by(Channel::Push) };
        let outcome = Outcome::TryLater { after: asked_s.map(Duration::from_secs) };
        let finished = Finished { at: at(at_s), ..finished(outcome) };
        match decide_from(&delivery, &finished, &policy, &["script"], at(0)).verdict {
            Verdict::Retry { after, .. } => {
                let next = finished.at + after;
                prop_assert!(next <= at(0) + Duration::from_secs(policy.horizon_s));
                prop_assert!(delivery.expires_at.is_none_or(|expires_at| next < expires_at));
            }
            verdict => prop_assert_eq!(reason(&verdict), ("dead", Some(Reason::RetriesExhausted))),
        }
    }

    #[test]
    fn a_later_failure_never_gets_more_time(attempt in 1u32..8, early in 0i64..7_200, later in 0i64..7_200) {
        let policy = policy(Ambiguity::Retry);
        let delivery = Delivery { attempt, ..delivery_by(Channel::Push) };
        let retried = |at_s: i64| {
            let finished = Finished { at: at(at_s), ..finished(Outcome::NoAnswer) };
            matches!(decide_from(&delivery, &finished, &policy, &["script"], at(0)).verdict, Verdict::Retry { .. })
        };
        prop_assert!(retried(early.min(later)) || !retried(early.max(later)));
    }

    #[test]
    fn nobody_waits_past_expiry_or_horizon(
        open_s in 1u64..3_600, lane in 0usize..4, expires_s in prop::option::of(0i64..7_200), since_s in -7_200i64..10, pass: u32,
    ) {
        let policy = policy(Ambiguity::Retry);
        let delivery =
            Delivery { lane: Lane::ALL[lane], expires_at: expires_s.map(at), pass, ..delivery_by(Channel::Push) };
        if let Ok(until) = wait_until(&delivery, refusal(open_s), &policy, at(since_s)) {
            prop_assert!(until >= refusal(open_s).until);
            prop_assert!(delivery.expires_at.is_none_or(|expires_at| until < expires_at));
            prop_assert!(until <= at(since_s) + Duration::from_secs(policy.horizon_s));
        }
    }

    #[test]
    fn attempts_end_however_many_providers_there_are(providers in 1usize..5, outcome in 0usize..4) {
        let outcome = [
            Outcome::TryLater { after: None },
            Outcome::OtherProvider,
            Outcome::NoAnswer,
            Outcome::Throttled { after: Some(Duration::MAX) },
        ][outcome];
        let policy = ChannelPolicy { horizon_s: u64::MAX, ..policy(Ambiguity::Retry) };
        let mut order: Vec<&str> = ["a", "b", "c", "d"][..providers].to_vec();
        let mut calls = std::collections::BTreeMap::<&str, u32>::new();
        let mut delivery = delivery_by(Channel::Push);
        loop {
            *calls.entry(order[0]).or_default() += 1;
            delivery.provider = order[0].to_owned();
            match decide_from(&delivery, &finished(outcome), &policy, &order, at(0)).verdict {
                Verdict::Retry { message, .. } => {
                    let Output::Delivery(next) = *message else { panic!("not a delivery") };
                    prop_assert_eq!(next.attempt, delivery.attempt + 1);
                    delivery = next;
                }
                verdict => {
                    prop_assert_eq!(reason(&verdict), ("dead", Some(Reason::RetriesExhausted)));
                    break;
                }
            }
            let place = order.iter().position(|name| *name == delivery.provider).unwrap();
            order.rotate_left(place);
        }
        prop_assert_eq!(calls.values().sum::<u32>(), policy.max_rounds * providers as u32);
        if !matches!(outcome, Outcome::Throttled { .. }) {
            prop_assert!(calls.len() == providers && calls.values().all(|calls| *calls == policy.max_rounds));
        }
    }
}
