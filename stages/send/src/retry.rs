//! From an answer to a decision; when to try again, and with whom.
//!
//! Guarantee: pure. The same delivery, record, policy, order of providers and first attempt give the same decision, on
//! every machine and after every crash; no delay a provider names can make it wait longer than the schedule's longest.
//!
//! Attempts go in rounds: one at each provider of the delivery's route, shortly after one another, and between rounds
//! the schedule's waits. With one provider each attempt is a round.

use std::time::Duration;

use chasqui_contract::{Answer, Decision, Outcome, Output, Shortened, Verdict};
use chasqui_schemas::{Delivery, Lane, Reason, id};
use jiff::Timestamp;

use crate::{Ambiguity, ChannelPolicy, Finished, breaker::Refusal};

/// Each wait of the schedule is varied by this share of itself, so that what failed together does not return together.
const JITTER: f64 = 0.2;
/// Wait before another provider is asked.
const SOON: Duration = Duration::from_millis(100);

/// What the end of an attempt means for its delivery. `delivery` names the provider that was called; `order` is the
/// order in which it meets the providers of its route, that one first; `since` is when it was first taken up.
///
/// | answer | decision |
/// |---|---|
/// | accepted | sent |
/// | try later, another provider | retry, with the next provider if there is one; [`Reason::RetriesExhausted`] when there is no time or attempt left |
/// | try later because of the recipient, throttled | retry, with the same provider; critical does not wait for one that throttles |
/// | no answer, interrupted | by [`ChannelPolicy::on_ambiguity`]: retry as above, or dead: [`Reason::Held`] |
/// | dead endpoint | bounce |
/// | opted out | suppressed |
/// | refused | dead |
/// | misconfigured | as another provider; dead where there is none |
pub fn decide_from(
    delivery: &Delivery,
    finished: &Finished,
    policy: &ChannelPolicy,
    order: &[&str],
    since: Timestamp,
) -> Decision {
    let answer = &finished.answer;
    let other = order.get(1).filter(|_| goes_elsewhere(delivery, finished)).copied();
    let providers = per_round(order.len());
    let retry = |reason, asked| {
        let within_round = other.is_some() && !delivery.attempt.is_multiple_of(providers);
        let round = delivery.attempt.saturating_sub(1) / providers;
        let after = if within_round { SOON } else { delay(delivery, policy, round, asked) };
        // A moment that cannot be represented is past every limit.
        let at = finished.at.checked_add(after).unwrap_or(Timestamp::MAX);
        if let Some(why) = why_not_again(delivery, at, policy, providers, since) {
            return dead(Reason::RetriesExhausted, format!("{why}; {}", words(delivery, answer)));
        }
        let provider = other.unwrap_or(&delivery.provider).to_owned();
        let attempt = delivery.attempt.saturating_add(1);
        let next = Delivery { attempt, provider, sending_since: Some(since), ..delivery.clone() };
        Verdict::Retry { after, reason, message: Box::new(Output::Delivery(next)) }
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
        Outcome::OptedOut => Verdict::Suppress(Reason::OptedOutChannel),
        Outcome::Misconfigured if other.is_some() => retry(Reason::ProviderMisconfigured, None),
        Outcome::Refused => dead(Reason::ProviderRefused, words(delivery, answer)),
        Outcome::Misconfigured => dead(Reason::ProviderMisconfigured, words(delivery, answer)),
    };
    let provider = Some(delivery.provider.clone());
    explain(Decision { receipts: answer.receipts.clone(), provider, ..Decision::new(verdict) }, answer)
}

/// The end of an attempt in the light of its round. A device that is dead to this account's key alone (a browser that
/// subscribed with another) may be alive to the next account's, so that one is asked first; the last of the round has the
/// last word.
pub(crate) fn within_round(delivery: &Delivery, finished: Finished, providers: usize) -> Finished {
    let Finished { answer, .. } = &finished;
    let to_this_account = answer.outcome == Outcome::DeadEndpoint && answer.about_recipient;
    let providers = per_round(providers);
    if !to_this_account || delivery.attempt.is_multiple_of(providers) {
        return finished;
    }
    Finished { answer: Answer { outcome: Outcome::OtherProvider, ..finished.answer }, ..finished }
}

/// Attempts in a round: one at each provider of the route.
fn per_round(providers: usize) -> u32 {
    u32::try_from(providers).unwrap_or(u32::MAX).max(1)
}

/// When a delivery comes back that every provider of its route refuses until `refusal.until` at least; or why it
/// cannot wait so long: [`Reason::Expired`], or [`Reason::RetriesExhausted`] after the horizon.
///
/// In order of lane: critical at once, the others spread over the time for which the circuit is open, each lane over a
/// third. So the probes are the most urgent, and what waits does not come back all at the same moment.
pub(crate) fn wait_until(
    delivery: &Delivery,
    refusal: Refusal,
    policy: &ChannelPolicy,
    since: Timestamp,
) -> Result<Timestamp, Reason> {
    let Refusal { until, open_for } = refusal;
    let horizon = horizon(policy, since);
    if delivery.expires_at.is_some_and(|expires_at| expires_at <= until) {
        return Err(Reason::Expired);
    }
    if until > horizon {
        return Err(Reason::RetriesExhausted);
    }
    let end = delivery.expires_at.map_or(horizon, |expires_at| expires_at.min(horizon));
    let room = Duration::try_from(end.duration_since(until)).unwrap_or_default();
    let fraction = id::fraction(&["wait", &delivery.id.to_string(), &delivery.pass.to_string()]);
    let place = match delivery.lane {
        Lane::Critical => 0.0,
        lane => ((lane.index() - 1) as f64 + fraction) / (Lane::ALL.len() - 1) as f64,
    };
    Ok(until.checked_add(open_for.mul_f64(place).min(room / 2)).unwrap_or(until))
}

/// Whether another provider might do better than the one that gave this answer.
fn goes_elsewhere(delivery: &Delivery, finished: &Finished) -> bool {
    let Finished { answer, interrupted, .. } = finished;
    match answer.outcome {
        Outcome::OtherProvider | Outcome::Misconfigured => true,
        Outcome::TryLater { .. } | Outcome::NoAnswer => !answer.about_recipient && !interrupted,
        Outcome::Throttled { .. } => !answer.about_recipient && delivery.lane == Lane::Critical,
        Outcome::Accepted | Outcome::DeadEndpoint | Outcome::OptedOut | Outcome::Refused => false,
    }
}

/// Why the next attempt must not begin at `at`, if so.
fn why_not_again(
    delivery: &Delivery,
    at: Timestamp,
    policy: &ChannelPolicy,
    providers: u32,
    since: Timestamp,
) -> Option<&'static str> {
    if delivery.attempt >= policy.max_rounds.saturating_mul(providers) {
        Some("no attempt is left")
    } else if delivery.expires_at.is_some_and(|expires_at| at >= expires_at) {
        Some("the next attempt would come after `expires_at`")
    } else if at > horizon(policy, since) {
        Some("the next attempt would come after the channel's horizon")
    } else {
        None
    }
}

/// After this no attempt begins.
fn horizon(policy: &ChannelPolicy, since: Timestamp) -> Timestamp {
    since.checked_add(Duration::from_secs(policy.horizon_s)).unwrap_or(Timestamp::MAX)
}

/// The schedule's wait after this round, the first being 0, varied; longer where the provider asks for it, but never
/// longer than the schedule's longest wait, varied.
fn delay(delivery: &Delivery, policy: &ChannelPolicy, round: u32, after: Option<Duration>) -> Duration {
    let fraction = id::fraction(&["retry", &delivery.id.to_string(), &delivery.attempt.to_string()]);
    // Casts from float to integer saturate, whatever the product.
    let vary = |ms: u64, factor: f64| (ms as f64 * factor).round() as u64;

    let base_ms = policy.schedule_ms.get(round as usize).or(policy.schedule_ms.last()).copied().unwrap_or(1_000);
    let scheduled_ms = vary(base_ms, 1.0 - JITTER + 2.0 * JITTER * fraction);

    let longest_ms = policy.schedule_ms.iter().copied().max().unwrap_or(base_ms);
    // Clamped before any arithmetic: it comes from outside.
    let asked_ms = after.map_or(0, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)).min(longest_ms);
    // Never sooner than asked, and not everyone at the same moment.
    let asked_ms = vary(asked_ms, 1.0 + JITTER * fraction);
    Duration::from_millis(scheduled_ms.max(asked_ms))
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

/// Adds what the provider said, and what it was not told, to the trace.
fn explain(mut decision: Decision, answer: &Answer) -> Decision {
    for (key, value) in
        [("code", &answer.code), ("detail", &answer.detail), ("provider_message_id", &answer.message_id)]
    {
        if !value.is_empty() {
            decision = decision.with(key, value);
        }
    }
    if let Some(Shortened { texts, bytes }) = &answer.shortened {
        decision = decision.with("shortened", texts).with("shortened_bytes", bytes.to_string());
    }
    decision
}

#[cfg(test)]
mod tests;
