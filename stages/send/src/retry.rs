//! From an answer to a decision, and when to try again.
//!
//! Guarantee: pure. The same delivery, record, policy and first attempt give the same decision, on every machine
//! and after every crash; no delay a provider names can make it wait longer than the schedule's longest.

use std::time::Duration;

use chasqui_contract::{Answer, Decision, Outcome, Output, Verdict};
use chasqui_schemas::{Delivery, Reason, id};
use jiff::Timestamp;

use crate::{Ambiguity, ChannelPolicy, Finished};

/// Each wait of the schedule is varied by this share of itself, so that what failed together does not return together.
const JITTER: f64 = 0.2;

/// What the end of an attempt means for its delivery. `first_started` is when the first attempt began.
///
/// | answer | decision |
/// |---|---|
/// | accepted | sent |
/// | try later, throttled, another provider | retry; [`Reason::RetriesExhausted`] when there is no time or attempt left |
/// | no answer, interrupted | by [`ChannelPolicy::on_ambiguity`]: retry as above, or dead: [`Reason::Held`] |
/// | dead endpoint | bounce |
/// | opted out with the provider | bounce: [`Reason::OptedOutChannel`] |
/// | refused, misconfigured | dead |
pub fn decide_from(
    delivery: &Delivery,
    finished: &Finished,
    policy: &ChannelPolicy,
    first_started: Timestamp,
) -> Decision {
    let answer = &finished.answer;
    let retry = |reason, after| match next_attempt(delivery, finished.at, policy, first_started, after) {
        Ok(delay) => Verdict::Retry { after: delay, reason, message: Box::new(Output::Delivery(next(delivery))) },
        Err(why) => dead(Reason::RetriesExhausted, format!("{why}; {}", words(delivery, answer))),
    };
    let verdict = match answer.outcome {
        Outcome::Accepted => Verdict::Sent,
        Outcome::TryLater { after } => retry(Reason::ProviderTransient, after),
        Outcome::Throttled { after } => retry(Reason::ProviderThrottled, after),
        Outcome::OtherProvider => retry(Reason::ProviderTransient, None),
        Outcome::NoAnswer => match policy.on_ambiguity {
            Ambiguity::Retry if finished.interrupted => retry(Reason::Interrupted, None),
            Ambiguity::Retry => retry(Reason::ProviderTimeout, None),
            Ambiguity::Hold => dead(
                Reason::Held,
                format!(
                    "it may or may not have been sent: ask the provider before replaying; {}",
                    words(delivery, answer)
                ),
            ),
        },
        Outcome::DeadEndpoint => Verdict::Bounce(Reason::DeadEndpoint),
        Outcome::OptedOut => Verdict::Bounce(Reason::OptedOutChannel),
        Outcome::Refused => dead(Reason::ProviderRefused, words(delivery, answer)),
        Outcome::Misconfigured => dead(Reason::ProviderMisconfigured, words(delivery, answer)),
    };
    explain(Decision { receipts: answer.receipts.clone(), ..Decision::new(verdict) }, answer)
}

/// How long to wait for the next attempt, or why there is none.
fn next_attempt(
    delivery: &Delivery,
    now: Timestamp,
    policy: &ChannelPolicy,
    first_started: Timestamp,
    after: Option<Duration>,
) -> Result<Duration, &'static str> {
    if delivery.attempt >= policy.max_attempts {
        return Err("no attempt is left");
    }
    let delay = delay(delivery, policy, after);
    // A moment that cannot be represented is past every limit.
    let next = now.checked_add(delay).unwrap_or(Timestamp::MAX);
    let horizon = first_started.checked_add(Duration::from_secs(policy.horizon_s)).unwrap_or(Timestamp::MAX);
    match delivery.expires_at {
        Some(expires_at) if next >= expires_at => Err("the next attempt would come after `expires_at`"),
        _ if next > horizon => Err("the next attempt would come after the channel's horizon"),
        _ => Ok(delay),
    }
}

/// The schedule's wait for this attempt, varied; longer where the provider asks for it, but never longer than the
/// schedule's longest wait, varied.
fn delay(delivery: &Delivery, policy: &ChannelPolicy, after: Option<Duration>) -> Duration {
    let fraction = id::fraction(&["retry", &delivery.id.to_string(), &delivery.attempt.to_string()]);
    // Casts from float to integer saturate, whatever the product.
    let vary = |ms: u64, factor: f64| (ms as f64 * factor).round() as u64;

    let index = delivery.attempt.saturating_sub(1) as usize;
    let base_ms = policy.schedule_ms.get(index).or(policy.schedule_ms.last()).copied().unwrap_or(1_000);
    let scheduled_ms = vary(base_ms, 1.0 - JITTER + 2.0 * JITTER * fraction);

    let longest_ms = policy.schedule_ms.iter().copied().max().unwrap_or(base_ms);
    // Clamped before any arithmetic: it comes from outside.
    let asked_ms = after.map_or(0, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)).min(longest_ms);
    // Never sooner than asked, and not everyone at the same moment.
    let asked_ms = vary(asked_ms, 1.0 + JITTER * fraction);
    Duration::from_millis(scheduled_ms.max(asked_ms))
}

/// The delivery of the next attempt.
fn next(delivery: &Delivery) -> Delivery {
    Delivery { attempt: delivery.attempt.saturating_add(1), ..delivery.clone() }
}

fn dead(reason: Reason, detail: String) -> Verdict {
    Verdict::Dead { reason, detail }
}

/// Who said what, for a dead letter's reader.
fn words(delivery: &Delivery, answer: &Answer) -> String {
    format!("{} on attempt {}: {} {}", delivery.provider, delivery.attempt, answer.code, answer.detail)
        .trim_end()
        .into()
}

/// Adds what the provider said to the trace.
fn explain(mut decision: Decision, answer: &Answer) -> Decision {
    for (key, value) in
        [("code", &answer.code), ("detail", &answer.detail), ("provider_message_id", &answer.message_id)]
    {
        if !value.is_empty() {
            decision = decision.with(key, value);
        }
    }
    decision
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::{Channel, Receipt, ReceiptKind, receipt::Actor};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{at, config, delivery};

    fn finished(outcome: Outcome) -> Finished {
        Finished { at: at(10), interrupted: false, answer: Answer::new(outcome, "code", "words") }
    }

    fn policy(on_ambiguity: Ambiguity) -> ChannelPolicy {
        ChannelPolicy { on_ambiguity, ..config().push }
    }

    fn verdict(outcome: Outcome, on_ambiguity: Ambiguity) -> Verdict {
        decide_from(&delivery(Channel::Push), &finished(outcome), &policy(on_ambiguity), at(0)).verdict
    }

    fn reason(verdict: &Verdict) -> (&'static str, Option<Reason>) {
        match verdict {
            Verdict::Sent => ("sent", None),
            Verdict::Retry { reason, .. } => ("retry", Some(*reason)),
            Verdict::Dead { reason, .. } => ("dead", Some(*reason)),
            Verdict::Bounce(reason) => ("bounce", Some(*reason)),
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
            (Outcome::OptedOut, Retry, ("bounce", Some(Reason::OptedOutChannel))),
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
        let soon = Delivery { expires_at: Some(Timestamp::MAX), ..delivery(Channel::Push) };
        let verdict = decide_from(&soon, &finished, &policy, Timestamp::MAX).verdict;
        assert_eq!(reason(&verdict), ("dead", Some(Reason::RetriesExhausted)));
    }

    #[test]
    fn an_interrupted_attempt_says_so() {
        let decide = |on_ambiguity| {
            let finished = Finished::interrupted(at(10));
            decide_from(&delivery(Channel::Push), &finished, &policy(on_ambiguity), at(0)).verdict
        };
        assert_eq!(reason(&decide(Ambiguity::Retry)), ("retry", Some(Reason::Interrupted)));
        assert_eq!(reason(&decide(Ambiguity::Hold)), ("dead", Some(Reason::Held)));
    }

    #[test]
    fn a_retry_takes_the_next_attempt_and_changes_nothing_else() {
        let before = delivery(Channel::Push);
        let Verdict::Retry { message, .. } = verdict(Outcome::TryLater { after: None }, Ambiguity::Retry) else {
            panic!("no retry");
        };
        assert_eq!(*message, Output::Delivery(Delivery { attempt: 2, ..before }));
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        let policy = policy(Ambiguity::Retry);
        let last = Delivery { attempt: policy.max_attempts, ..delivery(Channel::Push) };
        for outcome in [Outcome::TryLater { after: None }, Outcome::NoAnswer] {
            let verdict = decide_from(&last, &finished(outcome), &policy, at(0)).verdict;
            assert_eq!(reason(&verdict), ("dead", Some(Reason::RetriesExhausted)));
        }
        let sent = decide_from(&last, &finished(Outcome::Accepted), &policy, at(0)).verdict;
        assert_eq!(sent, Verdict::Sent);
    }

    #[test]
    fn the_horizon_counts_from_the_first_attempt_not_from_the_submission() {
        let policy = ChannelPolicy { horizon_s: 60, ..policy(Ambiguity::Retry) };
        let scheduled_for_next_day = Finished { at: at(86_400), ..finished(Outcome::TryLater { after: None }) };
        let decide =
            |first| reason(&decide_from(&delivery(Channel::Push), &scheduled_for_next_day, &policy, first).verdict);
        assert_eq!(decide(at(86_400)).0, "retry");
        assert_eq!(decide(at(86_300)), ("dead", Some(Reason::RetriesExhausted)));
    }

    #[test]
    fn a_decision_tells_what_the_provider_said() {
        let mut finished = finished(Outcome::Accepted);
        finished.answer.message_id = "id-7".into();
        let receipt = Receipt {
            delivery_id: delivery(Channel::Push).id,
            notification_id: delivery(Channel::Push).notification_id,
            at: None,
            provider: None,
            detail: None,
            by: Actor::Unknown,
        };
        finished.answer.receipts = vec![(ReceiptKind::Delivered, receipt)];
        let decision = decide_from(&delivery(Channel::Push), &finished, &policy(Ambiguity::Hold), at(0));
        let expected = [("code", "code"), ("detail", "words"), ("provider_message_id", "id-7")];
        assert_eq!(decision.attributes, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
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

    proptest! {
        #[test]
        fn a_wait_is_the_schedules_within_a_fifth(attempt in 1u32..50, id: u128, waits in prop::collection::vec(1u64..=604_800_000, 1..8)) {
            let policy = ChannelPolicy { schedule_ms: waits.clone(), ..config().push };
            let delivery = Delivery { attempt, id: uuid::Uuid::from_u128(id), ..delivery(Channel::Push) };
            let base = *waits.get(attempt as usize - 1).unwrap_or(waits.last().unwrap()) as f64;
            let wait = delay(&delivery, &policy, None).as_millis() as f64;
            prop_assert!((base * 0.8 - 1.0..=base * 1.2 + 1.0).contains(&wait), "{wait} of {base}");
        }

        #[test]
        fn whatever_a_provider_asks_for_the_wait_is_bounded(attempt: u32, secs: u64, nanos in 0u32..1_000_000_000, waits in prop::collection::vec(any::<u64>(), 0..4)) {
            let policy = ChannelPolicy { schedule_ms: waits.clone(), max_attempts: u32::MAX, horizon_s: u64::MAX, ..config().push };
            let delivery = Delivery { attempt, ..delivery(Channel::Push) };
            let longest = waits.iter().copied().max().unwrap_or(1_000) as f64;
            let after = Some(Duration::new(secs, nanos));
            prop_assert!(delay(&delivery, &policy, after).as_millis() as f64 <= longest * 1.2 + 1.0);
            // Neither panics nor overflows, whatever comes out.
            decide_from(&delivery, &finished(Outcome::Throttled { after }), &policy, at(0));
            decide_from(&delivery, &finished(Outcome::TryLater { after: Some(Duration::MAX) }), &policy, Timestamp::MAX);
        }

        #[test]
        fn no_attempt_begins_after_expiry_or_horizon(
            attempt in 1u32..8, at_s in 0i64..7_200, expires_s in prop::option::of(0i64..7_200), asked_s in prop::option::of(0u64..7_200),
        ) {
            let policy = policy(Ambiguity::Retry);
            let delivery = Delivery { attempt, expires_at: expires_s.map(at), ..delivery(Channel::Push) };
            let outcome = Outcome::TryLater { after: asked_s.map(Duration::from_secs) };
            let finished = Finished { at: at(at_s), ..finished(outcome) };
            match decide_from(&delivery, &finished, &policy, at(0)).verdict {
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
            let delivery = Delivery { attempt, ..delivery(Channel::Push) };
            let retried = |at_s: i64| {
                let finished = Finished { at: at(at_s), ..finished(Outcome::NoAnswer) };
                matches!(decide_from(&delivery, &finished, &policy, at(0)).verdict, Verdict::Retry { .. })
            };
            prop_assert!(retried(early.min(later)) || !retried(early.max(later)));
        }
    }
}
