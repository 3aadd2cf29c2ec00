//! The stage itself: claim, call, claim, decide.
//!
//! Guarantee: see the crate's page. A provider's future is dropped when its time is up, so a provider must leave
//! nothing half done in what it shares between calls.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chasqui_contract::{Answer, Clock, Decision, Inbox, Ledger, Outcome, Provider, Stage, StoreError};
use chasqui_schemas::{Channel, Delivery, Reason};

use crate::{
    ChannelPolicy, Config, ConfigError, Finished,
    alerts::Alerts,
    attempt::{Attempts, PATIENCE, Start},
    providers, redact,
    retry::decide_from,
};

/// Longest provider's code kept, in characters.
const MAX_CODE: usize = 64;

/// The last stage: hands deliveries to providers.
pub struct SendStage {
    providers: BTreeMap<String, Arc<dyn Provider>>,
    policies: BTreeMap<Channel, ChannelPolicy>,
    attempts: Attempts,
    alerts: Option<Alerts>,
    clock: Arc<dyn Clock>,
}

impl SendStage {
    /// The stage as configured, with every provider that is set up, and alerts where developers want them: these need
    /// a tokio runtime.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_config(
        config: &Config,
        inbox: Arc<dyn Inbox>,
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let providers = providers::build(config, inbox, clock.clone())?;
        let alerts = Alerts::start(&config.alerts, &providers, clock.clone())?;
        Ok(SendStage { alerts: Some(alerts), ..Self::new(providers, config.policies(), ledger, clock)? })
    }

    /// The stage with the providers given, and without alerts.
    ///
    /// # Errors
    /// A channel without a policy, with one that cannot work, or with one that names a provider not given.
    pub fn new(
        providers: Vec<Arc<dyn Provider>>,
        policies: BTreeMap<Channel, ChannelPolicy>,
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let providers: BTreeMap<_, _> = providers.into_iter().map(|each| (each.name().to_owned(), each)).collect();
        for channel in Channel::ALL {
            let policy = policies
                .get(&channel)
                .ok_or_else(|| ConfigError::invalid(format!("send.{channel}"), "the section is missing"))?;
            policy.check(channel)?;
            if !providers.contains_key(&policy.provider) {
                return Err(ConfigError::UnknownProvider {
                    channel,
                    provider: policy.provider.clone(),
                    known: providers.keys().cloned().collect::<Vec<_>>().join(", "),
                });
            }
        }
        Ok(SendStage { providers, policies, attempts: Attempts::new(ledger), alerts: None, clock })
    }

    /// The longest that a worker may hold a message without a sign of life: the longest provider call, and what
    /// it takes to record its answer. An `ack_wait` shorter than this would hand out a message that is in work.
    pub fn longest_call(&self) -> Duration {
        let longest = self.policies.values().map(ChannelPolicy::timeout).max().unwrap_or_default();
        longest + PATIENCE
    }

    /// One call, timed as a whole, and cleaned of addresses.
    async fn call(&self, provider: &dyn Provider, delivery: &Delivery, policy: &ChannelPolicy) -> Answer {
        let mut answer = Box::pin(tokio::time::timeout(policy.timeout(), provider.send(delivery)))
            .await
            .unwrap_or_else(|_elapsed| {
                Answer::new(Outcome::NoAnswer, "timeout", format!("no answer within {} ms", policy.timeout_ms))
            });
        answer.detail = redact::without_address(&answer.detail, delivery.endpoint.address.text());
        answer.code = answer.code.chars().take(MAX_CODE).collect();
        self.alerts.iter().for_each(|alerts| alerts.note(provider.name(), &answer));
        answer
    }
}

impl Stage for SendStage {
    const STAGE: chasqui_schemas::Stage = chasqui_schemas::Stage::Send;
    type Input = Delivery;

    async fn decide(&self, delivery: Delivery) -> Result<Decision, StoreError> {
        let now = self.clock.now();
        let expired = delivery.expires_at.is_some_and(|expires_at| expires_at <= now);
        let provider = self.providers.get(&delivery.provider);
        let Some(policy) = self.policies.get(&delivery.channel()).filter(|_| expired || provider.is_some()) else {
            let detail = format!("no provider `{}` is set up for {}", delivery.provider, delivery.channel());
            return Ok(Decision::dead(Reason::NoProvider, detail));
        };

        let (started_at, finished) = match (self.attempts.start(&delivery, now, expired).await?, provider) {
            (Start::Ours, Some(provider)) if !expired => {
                let answer = self.call(provider.as_ref(), &delivery, policy).await;
                (now, Finished { at: self.clock.now(), interrupted: false, answer })
            }
            (Start::Begun(started_at), _) => (started_at, Finished::interrupted(now)),
            (Start::Ours | Start::Expired, _) => return Ok(Decision::suppress(Reason::Expired)),
        };
        let ours = !finished.interrupted;
        let finished = self.attempts.finish(&delivery, finished).await?;
        if ours && finished.interrupted {
            tracing::warn!(
                delivery = %delivery.id,
                attempt = delivery.attempt,
                "another worker took over while this one was calling: is `ack_wait` long enough?"
            );
        }

        let first_started = match delivery.attempt {
            0 | 1 => started_at,
            _ => self.attempts.first_started(&delivery).await?,
        };
        Ok(decide_from(&delivery, &finished, policy, first_started))
    }
}

#[cfg(test)]
mod tests {
    use chasqui_contract::{ManualClock, Output, Verdict};
    use jiff::SignedDuration;

    use super::*;
    use crate::{
        Ambiguity,
        testing::{Fault, ScriptedProvider, TestInbox, TestLedger, at, config, config_with, delivery},
    };

    struct World {
        ledger: Arc<TestLedger>,
        clock: Arc<ManualClock>,
        provider: Arc<ScriptedProvider>,
    }

    impl World {
        fn new(provider: ScriptedProvider) -> Self {
            World { ledger: Arc::default(), clock: Arc::new(ManualClock::new(at(0))), provider: Arc::new(provider) }
        }

        fn answering(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
            Self::new(ScriptedProvider::new(outcomes.into_iter().map(|outcome| Answer::new(outcome, "", ""))))
        }

        /// A worker: a stage of its own, on the shared ledger and provider.
        fn worker(&self) -> SendStage {
            self.worker_where(Ambiguity::Retry)
        }

        fn worker_where(&self, on_ambiguity: Ambiguity) -> SendStage {
            let mut policies = config().policies();
            for policy in policies.values_mut() {
                policy.provider = "script".into();
                policy.on_ambiguity = on_ambiguity;
            }
            SendStage::new(vec![self.provider.clone()], policies, self.ledger.clone(), self.clock.clone()).unwrap()
        }

        /// A worker that dies this long into the call.
        async fn crash_after(&self, elapsed: Duration, delivery: &Delivery) {
            let worker = self.worker();
            let died = tokio::time::timeout(elapsed, worker.decide(delivery.clone())).await;
            assert!(died.is_err(), "it was done before it could die");
        }
    }

    fn reason(decision: &Decision) -> Option<Reason> {
        match &decision.verdict {
            Verdict::Retry { reason, .. } | Verdict::Dead { reason, .. } => Some(*reason),
            Verdict::Suppress(reason) | Verdict::Bounce(reason) => Some(*reason),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_accepted_delivery_is_sent() {
        let world = World::answering([Outcome::Accepted]);
        let decision = world.worker().decide(delivery(Channel::Push)).await.unwrap();
        assert_eq!((decision.verdict, world.provider.calls()), (Verdict::Sent, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_delivery_is_not_sent() {
        let world = World::answering([]);
        let expired = Delivery { expires_at: Some(at(0)), ..delivery(Channel::Push) };
        for _ in 0..2 {
            let decision = world.worker().decide(expired.clone()).await.unwrap();
            assert_eq!(decision, Decision::suppress(Reason::Expired));
        }
        assert_eq!(world.provider.calls(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_that_was_sent_in_time_does_not_expire_afterwards() {
        let world = World::answering([Outcome::Accepted]);
        let short_lived = Delivery { expires_at: Some(at(30)), ..delivery(Channel::Sms) };
        let before = world.worker().decide(short_lived.clone()).await.unwrap();
        // The worker dies before it publishes, and the message comes again a minute later.
        world.clock.advance(SignedDuration::from_secs(60));
        assert_eq!(world.worker().decide(short_lived).await.unwrap(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_provider_is_a_dead_letter() {
        let world = World::answering([]);
        let lost = Delivery { provider: "pigeon".into(), ..delivery(Channel::Sms) };
        assert_eq!(reason(&world.worker().decide(lost).await.unwrap()), Some(Reason::NoProvider));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_before_the_start_is_recorded_costs_nothing() {
        let world = World::answering([Outcome::Accepted]);
        world.ledger.fail(Fault::BeforeEffect, usize::MAX);
        assert!(world.worker().decide(delivery(Channel::Sms)).await.unwrap_err().class().is_transient());
        world.ledger.heal();
        let decision = world.worker().decide(delivery(Channel::Sms)).await.unwrap();
        assert_eq!((decision.verdict, world.provider.calls()), (Verdict::Sent, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_during_the_call_is_held_or_retried_as_the_channel_says() {
        for (on_ambiguity, expected) in [(Ambiguity::Hold, Reason::Held), (Ambiguity::Retry, Reason::Interrupted)] {
            let accepted = Answer::new(Outcome::Accepted, "", "");
            let world = World::new(ScriptedProvider::slow(Duration::from_secs(2), [accepted]));
            world.crash_after(Duration::from_secs(1), &delivery(Channel::Sms)).await;
            for _ in 0..3 {
                let decision = world.worker_where(on_ambiguity).decide(delivery(Channel::Sms)).await.unwrap();
                assert_eq!(reason(&decision), Some(expected));
            }
            assert_eq!(world.provider.calls(), 1, "an attempt never calls twice");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_between_call_and_record_is_held_or_retried_as_the_channel_says() {
        for (on_ambiguity, expected) in [(Ambiguity::Hold, Reason::Held), (Ambiguity::Retry, Reason::Interrupted)] {
            let accepted = Answer::new(Outcome::Accepted, "", "");
            let world = World::new(ScriptedProvider::slow(Duration::from_secs(2), [accepted]));
            let worker = world.worker_where(on_ambiguity);
            let first = worker.decide(delivery(Channel::Sms));
            // The call starts; then the ledger goes away for longer than the worker's patience.
            let (first, ()) = tokio::join!(first, async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                world.ledger.fail(Fault::BeforeEffect, usize::MAX);
            });
            assert!(first.unwrap_err().class().is_transient());
            world.ledger.heal();
            let again = world.worker_where(on_ambiguity).decide(delivery(Channel::Sms)).await.unwrap();
            assert_eq!((reason(&again), world.provider.calls()), (Some(expected), 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_after_the_record_decides_the_same_without_a_call() {
        for outcome in [
            Outcome::Accepted,
            Outcome::TryLater { after: None },
            Outcome::NoAnswer,
            Outcome::DeadEndpoint,
            Outcome::Refused,
        ] {
            let world = World::answering([outcome]);
            let before = world.worker().decide(delivery(Channel::Email)).await.unwrap();
            // Even so late that a fresh failure would exhaust the retries.
            world.clock.advance(SignedDuration::from_hours(1_000));
            let after = world.worker().decide(delivery(Channel::Email)).await.unwrap();
            assert_eq!((before, world.provider.calls()), (after, 1), "{outcome:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_worker_goes_by_the_record_of_the_one_that_took_over() {
        let accepted = Answer::new(Outcome::Accepted, "", "");
        let world = World::new(ScriptedProvider::slow(Duration::from_secs(5), [accepted]));
        let (slow, hasty) = (world.worker(), world.worker());
        let (slow, hasty) = tokio::join!(slow.decide(delivery(Channel::Push)), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            hasty.decide(delivery(Channel::Push)).await
        });
        assert_eq!(slow.unwrap(), hasty.unwrap(), "both publish the same outcome");
        assert_eq!(world.provider.calls(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_is_cut_off_in_time() {
        let late = Answer::new(Outcome::Accepted, "", "");
        let world = World::new(ScriptedProvider::slow(Duration::from_secs(3_600), [late]));
        let worker = world.worker();
        let began = tokio::time::Instant::now();
        let decision = worker.decide(delivery(Channel::Push)).await.unwrap();
        assert_eq!(reason(&decision), Some(Reason::ProviderTimeout));
        assert!(began.elapsed() <= worker.longest_call());
    }

    #[tokio::test(start_paused = true)]
    async fn a_ledger_that_is_away_after_the_call_for_a_moment_loses_no_answer() {
        let accepted = Answer::new(Outcome::Accepted, "", "");
        let world = World::new(ScriptedProvider::slow(Duration::from_secs(2), [accepted]));
        let worker = world.worker_where(Ambiguity::Hold);
        let (decision, ()) = tokio::join!(worker.decide(delivery(Channel::Sms)), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.ledger.fail(Fault::AfterEffect, 3);
        });
        assert_eq!(decision.unwrap().verdict, Verdict::Sent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_goes_from_attempt_to_attempt_until_it_is_sent() {
        let later = Outcome::TryLater { after: None };
        let world = World::answering([later, later, Outcome::Accepted]);
        let mut delivery = delivery(Channel::Push);
        for expected in 2..=3 {
            let decision = world.worker().decide(delivery.clone()).await.unwrap();
            let Verdict::Retry { after, message, .. } = decision.verdict else { panic!("{decision:?}") };
            world.clock.advance(SignedDuration::try_from(after).unwrap());
            let Output::Delivery(next) = *message else { panic!("not a delivery") };
            assert_eq!(next.attempt, expected);
            delivery = next;
        }
        assert_eq!(world.worker().decide(delivery).await.unwrap().verdict, Verdict::Sent);
        assert_eq!(world.provider.calls(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_attempt_counts_its_horizon_from_the_first() {
        let later = Outcome::TryLater { after: None };
        let world = World::answering([later, later]);
        let first = Delivery { submitted_at: at(-86_400), ..delivery(Channel::Push) };
        let decision = world.worker().decide(first.clone()).await.unwrap();
        assert_eq!(reason(&decision), Some(Reason::ProviderTransient), "submitted long ago, first tried now");
        world.clock.advance(SignedDuration::from_secs(i64::try_from(config().push.horizon_s).unwrap()));
        let decision = world.worker().decide(Delivery { attempt: 2, ..first }).await.unwrap();
        assert_eq!(reason(&decision), Some(Reason::RetriesExhausted));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_provider_says_is_kept_without_the_address() {
        let said = Answer::new(Outcome::Refused, "550 5.7.1", "<ada@example.com>: spam");
        let world = World::new(ScriptedProvider::new([said]));
        let decision = world.worker().decide(delivery(Channel::Email)).await.unwrap();
        let Verdict::Dead { detail, .. } = &decision.verdict else { panic!("{decision:?}") };
        assert_eq!(detail, "script on attempt 1: 550 5.7.1 [address] spam");
        assert!(!format!("{:?}", decision.attributes).contains("ada"));
    }

    fn from_config(over: &str) -> Result<SendStage, ConfigError> {
        let (inbox, ledger) = (Arc::new(TestInbox::default()), Arc::new(TestLedger::default()));
        SendStage::from_config(&config_with(over).unwrap(), inbox, ledger, Arc::new(ManualClock::new(at(0))))
    }

    #[test]
    fn the_defaults_make_a_stage_whose_longest_call_is_the_mails() {
        let stage = from_config("").unwrap();
        assert_eq!(stage.longest_call(), config().email.timeout() + PATIENCE);
        assert_eq!(stage.providers.keys().collect::<Vec<_>>(), ["inbox", "sandbox"]);
    }

    #[test]
    fn a_channel_with_an_unknown_provider_is_refused_at_start_up() {
        let error = from_config("[send.email]\nprovider = \"smtp\"").err().unwrap();
        let told = "send.email.provider is `smtp`, but the providers set up are: inbox, sandbox";
        assert_eq!(error.to_string(), told);
        let smtp = "[send.email]\nprovider = \"smtp\"\n[send.smtp]\nhost = \"127.0.0.1\"\nfrom = \"a@b.example\"";
        assert!(from_config(smtp).is_ok());
    }
}
