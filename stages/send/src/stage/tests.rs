use chasqui_contract::{ManualClock, Outcome};
use chasqui_rules::{Candidate, RouteSettings, routes::PushRoutes};
use chasqui_schemas::{
    Lane,
    delivery::Address,
    record::{Contacts, Device, Platform, Preferences},
};
use chasqui_stores::memory::{MemoryDirectory, MemoryLedger};
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::{
    Ambiguity,
    testing::{ScriptedProvider, at, delivery_by, routes, settings, settings_with},
};

struct World {
    ledger: Arc<MemoryLedger>,
    directory: Arc<MemoryDirectory>,
    clock: Arc<ManualClock>,
    providers: Vec<Arc<ScriptedProvider>>,
}

impl World {
    fn new(provider: ScriptedProvider) -> Self {
        Self::of([provider])
    }

    fn of(providers: impl IntoIterator<Item = ScriptedProvider>) -> Self {
        World {
            ledger: Arc::default(),
            directory: Arc::default(),
            clock: Arc::new(ManualClock::new(at(0))),
            providers: providers.into_iter().map(Arc::new).collect(),
        }
    }

    fn answering(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        Self::of([script("script", outcomes)])
    }

    fn ports(&self) -> Ports {
        Ports {
            ledger: self.ledger.clone(),
            directory: self.directory.clone(),
            address_book: self.directory.clone(),
            clock: self.clock.clone(),
        }
    }

    /// A worker: a stage of its own, on the shared ledger and providers.
    fn worker(&self) -> SendStage {
        self.worker_where(Ambiguity::Retry)
    }

    /// Every provider serves everything, and two calls are enough for its breaker.
    fn worker_where(&self, on_ambiguity: Ambiguity) -> SendStage {
        let mut settings = settings_with("[send.breaker]\nmin_calls = 2").unwrap();
        for policy in [&mut settings.push, &mut settings.sms, &mut settings.email, &mut settings.in_app] {
            policy.on_ambiguity = on_ambiguity;
        }
        let all: Vec<_> =
            self.providers.iter().map(|each| Candidate { account: each.account().into(), weight: 1 }).collect();
        let every = || Some(all.clone());
        let push = PushRoutes { ios: every(), android: every(), web: every() };
        let routes = RouteSettings { push, sms: every(), email: every(), in_app: every() };
        let providers = self.providers.iter().map(|each| each.clone() as Arc<dyn Provider>).collect();
        SendStage::new(&settings, Routes::new(routes, []), providers, self.ports()).unwrap()
    }

    fn calls(&self) -> usize {
        self.providers.iter().map(|provider| provider.calls()).sum()
    }

    fn wait(&self, seconds: i64) {
        self.clock.advance(SignedDuration::from_secs(seconds));
    }

    /// A worker that dies this long into the call.
    async fn crash_after(&self, elapsed: Duration, delivery: &Delivery) {
        let worker = self.worker();
        let died = tokio::time::timeout(elapsed, worker.decide(delivery.clone())).await;
        assert!(died.is_err(), "it was done before it could die");
    }
}

fn script(name: &'static str, outcomes: impl IntoIterator<Item = Outcome>) -> ScriptedProvider {
    let answers = outcomes.into_iter().map(|outcome| Answer::new(outcome, "", ""));
    ScriptedProvider::new(answers).named(name)
}

fn reason(decision: &Decision) -> Option<Reason> {
    match &decision.verdict {
        Verdict::Retry { reason, .. } | Verdict::Dead { reason, .. } => Some(*reason),
        Verdict::Suppress(reason) | Verdict::Bounce(reason) => Some(*reason),
        Verdict::Defer { reason, .. } => Some(*reason),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_accepted_delivery_is_sent() {
    let world = World::answering([Outcome::Accepted]);
    let decision = world.worker().decide(delivery_by(Channel::Push)).await.unwrap();
    assert_eq!((decision.verdict, world.calls()), (Verdict::Sent, 1));
}

#[tokio::test(start_paused = true)]
async fn an_expired_delivery_is_not_sent() {
    let world = World::answering([]);
    let expired = Delivery { expires_at: Some(at(0)), ..delivery_by(Channel::Push) };
    for _ in 0..2 {
        let decision = world.worker().decide(expired.clone()).await.unwrap();
        assert_eq!(decision, Decision::suppress(Reason::Expired));
    }
    assert_eq!(world.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_was_sent_in_time_does_not_expire_afterwards() {
    let world = World::answering([Outcome::Accepted]);
    let short_lived = Delivery { expires_at: Some(at(30)), ..delivery_by(Channel::Sms) };
    let before = world.worker().decide(short_lived.clone()).await.unwrap();
    // The worker dies before it publishes, and the message comes again a minute later.
    world.clock.advance(SignedDuration::from_secs(60));
    assert_eq!(world.worker().decide(short_lived).await.unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_no_provider_can_take_is_a_dead_letter() {
    let mut worker = World::answering([]).worker();
    worker.routes = Routes::default();
    for _ in 0..2 {
        let decision = worker.decide(sms(1, "pigeon")).await.unwrap();
        let Verdict::Dead { reason: Reason::NoProvider, detail } = decision.verdict else { panic!("{decision:?}") };
        assert!(detail.contains("`pigeon`"), "{detail}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_whose_provider_is_gone_goes_to_one_that_is_there() {
    let world = World::answering([Outcome::Accepted]);
    let lost = Delivery { provider: "pigeon".into(), ..delivery_by(Channel::Sms) };
    let decision = world.worker().decide(lost).await.unwrap();
    assert_eq!((decision.verdict, decision.provider.as_deref()), (Verdict::Sent, Some("script")));
}

#[tokio::test(start_paused = true)]
async fn a_test_reaches_no_account_but_the_sandbox_whatever_it_names() {
    let world = World::answering([Outcome::Accepted]);
    let test = Delivery { provider: "script".into(), test: true, ..delivery_by(Channel::Sms) };
    let decision = world.worker().decide(test).await.unwrap();
    assert_eq!((reason(&decision), world.calls()), (Some(Reason::NoProvider), 0), "this world has no sandbox");
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_start_is_recorded_costs_nothing() {
    let world = World::answering([Outcome::Accepted]);
    world.ledger.faults.fail_next(usize::MAX);
    assert!(world.worker().decide(delivery_by(Channel::Sms)).await.unwrap_err().class().is_transient());
    world.ledger.faults.fail_next(0);
    let decision = world.worker().decide(delivery_by(Channel::Sms)).await.unwrap();
    assert_eq!((decision.verdict, world.calls()), (Verdict::Sent, 1));
}

#[tokio::test(start_paused = true)]
async fn a_crash_during_the_call_is_held_or_retried_as_the_channel_says() {
    for (on_ambiguity, expected) in [(Ambiguity::Hold, Reason::Held), (Ambiguity::Retry, Reason::Interrupted)] {
        let accepted = Answer::new(Outcome::Accepted, "", "");
        let world = World::new(ScriptedProvider::slow(Duration::from_secs(2), [accepted]));
        world.crash_after(Duration::from_secs(1), &delivery_by(Channel::Sms)).await;
        for _ in 0..3 {
            let decision = world.worker_where(on_ambiguity).decide(delivery_by(Channel::Sms)).await.unwrap();
            assert_eq!(reason(&decision), Some(expected));
        }
        assert_eq!(world.calls(), 1, "an attempt never calls twice");
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_call_and_record_is_held_or_retried_as_the_channel_says() {
    for (on_ambiguity, expected) in [(Ambiguity::Hold, Reason::Held), (Ambiguity::Retry, Reason::Interrupted)] {
        let accepted = Answer::new(Outcome::Accepted, "", "");
        let world = World::new(ScriptedProvider::slow(Duration::from_secs(2), [accepted]));
        let worker = world.worker_where(on_ambiguity);
        let first = worker.decide(delivery_by(Channel::Sms));
        // The call starts; then the ledger goes away for longer than the worker's patience.
        let (first, ()) = tokio::join!(first, async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.ledger.faults.fail_next(usize::MAX);
        });
        assert!(first.unwrap_err().class().is_transient());
        world.ledger.faults.fail_next(0);
        let again = world.worker_where(on_ambiguity).decide(delivery_by(Channel::Sms)).await.unwrap();
        assert_eq!((reason(&again), world.calls()), (Some(expected), 1));
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
        let before = world.worker().decide(delivery_by(Channel::Email)).await.unwrap();
        // Even so late that a fresh failure would exhaust the retries.
        world.clock.advance(SignedDuration::from_hours(1_000));
        let after = world.worker().decide(delivery_by(Channel::Email)).await.unwrap();
        assert_eq!((before, world.calls()), (after, 1), "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_worker_goes_by_the_record_of_the_one_that_took_over() {
    let accepted = Answer::new(Outcome::Accepted, "", "");
    let world = World::new(ScriptedProvider::slow(Duration::from_secs(5), [accepted]));
    let (slow, hasty) = (world.worker(), world.worker());
    let (slow, hasty) = tokio::join!(slow.decide(delivery_by(Channel::Push)), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        hasty.decide(delivery_by(Channel::Push)).await
    });
    assert_eq!(slow.unwrap(), hasty.unwrap(), "both publish the same outcome");
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_is_cut_off_in_time() {
    let late = Answer::new(Outcome::Accepted, "", "");
    let world = World::new(ScriptedProvider::slow(Duration::from_secs(3_600), [late]));
    let worker = world.worker();
    let began = tokio::time::Instant::now();
    let decision = worker.decide(delivery_by(Channel::Push)).await.unwrap();
    assert_eq!(reason(&decision), Some(Reason::ProviderTimeout));
    assert!(began.elapsed() <= worker.longest_call());
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_is_away_after_the_call_for_a_moment_loses_no_answer() {
    let accepted = Answer::new(Outcome::Accepted, "", "");
    let world = World::new(ScriptedProvider::slow(Duration::from_secs(2), [accepted]));
    let worker = world.worker_where(Ambiguity::Hold);
    let (decision, ()) = tokio::join!(worker.decide(delivery_by(Channel::Sms)), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.ledger.faults.lose_next(3);
    });
    assert_eq!(decision.unwrap().verdict, Verdict::Sent);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_goes_from_attempt_to_attempt_until_it_is_sent() {
    let later = Outcome::TryLater { after: None };
    let world = World::answering([later, later, Outcome::Accepted]);
    let mut delivery = delivery_by(Channel::Push);
    for expected in 2..=3 {
        let decision = world.worker().decide(delivery.clone()).await.unwrap();
        let Verdict::Retry { after, message, .. } = decision.verdict else { panic!("{decision:?}") };
        world.clock.advance(SignedDuration::try_from(after).unwrap());
        let Output::Delivery(next) = *message else { panic!("not a delivery") };
        assert_eq!(next.attempt, expected);
        delivery = next;
    }
    assert_eq!(world.worker().decide(delivery).await.unwrap().verdict, Verdict::Sent);
    assert_eq!(world.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_later_attempt_counts_its_horizon_from_the_first() {
    let later = Outcome::TryLater { after: None };
    let world = World::answering([later, later]);
    let first = Delivery { submitted_at: at(-86_400), ..delivery_by(Channel::Push) };
    let second = next(world.worker().decide(first).await.unwrap());
    assert_eq!(second.sending_since, Some(at(0)), "submitted long ago, first tried now");
    world.wait(i64::try_from(settings().push.horizon_s).unwrap());
    let decision = world.worker().decide(second).await.unwrap();
    assert_eq!(reason(&decision), Some(Reason::RetriesExhausted));
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_says_is_kept_without_the_address() {
    let said = Answer::new(Outcome::Refused, "550 5.7.1", "<ada@example.com>: spam");
    let world = World::new(ScriptedProvider::new([said]));
    let decision = world.worker().decide(delivery_by(Channel::Email)).await.unwrap();
    let Verdict::Dead { detail, .. } = &decision.verdict else { panic!("{decision:?}") };
    assert_eq!(detail, "script on attempt 1: 550 5.7.1 [address] spam");
    assert!(!format!("{:?}", decision.attributes).contains("ada"));
}

/// What is to be taken again.
fn next(decision: Decision) -> Delivery {
    let (Verdict::Retry { message, .. } | Verdict::Defer { message, .. }) = decision.verdict else {
        panic!("{decision:?}")
    };
    let Output::Delivery(delivery) = message.again() else { panic!("not a delivery") };
    delivery
}

fn attribute<'a>(decision: &'a Decision, key: &str) -> Option<&'a str> {
    decision.attributes.iter().find(|(each, _)| each == key).map(|(_, value)| value.as_str())
}

/// SMS number `n`, to a phone of its own, which prioritize gave to `provider`.
fn sms(n: u128, provider: &str) -> Delivery {
    let mut delivery =
        Delivery { id: uuid::Uuid::from_u128(n), provider: provider.into(), ..delivery_by(Channel::Sms) };
    delivery.endpoint.id = format!("phone-{n}");
    delivery
}

/// Push number `n`, to a browser of its own, whose push service is at `origin`.
fn push(n: u128, origin: &str) -> Delivery {
    let mut delivery = Delivery { id: uuid::Uuid::from_u128(n), ..delivery_by(Channel::Push) };
    let token = origin.to_owned();
    delivery.endpoint.id = format!("browser-{n}");
    delivery.endpoint.address = Address::Device { platform: Platform::Web, token, registered_at: None };
    delivery
}

const LATER: Outcome = Outcome::TryLater { after: None };

#[tokio::test(start_paused = true)]
async fn an_open_circuit_costs_neither_a_call_nor_an_attempt() {
    let world = World::of([script("a", [LATER; 2]), script("b", [Outcome::Accepted; 3])]);
    let worker = world.worker();
    for n in 0..2 {
        let decision = worker.decide(sms(n, "a")).await.unwrap();
        assert_eq!((decision.provider.as_deref(), next(decision.clone()).provider.as_str()), (Some("a"), "b"));
    }
    for n in 2..5 {
        let decision = worker.decide(sms(n, "a")).await.unwrap();
        assert_eq!((&decision.verdict, decision.provider.as_deref()), (&Verdict::Sent, Some("b")));
        assert_eq!(attribute(&decision, "skipped.a"), Some("circuit_open"));
    }
    assert_eq!((world.providers[0].calls(), world.providers[1].calls()), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_a_change_of_provider_remembers_who_was_called() {
    let slow = ScriptedProvider::slow(Duration::from_secs(2), []).named("b");
    let world = World::of([script("a", [LATER; 2]), slow]);
    let worker = world.worker();
    for n in 0..2 {
        worker.decide(sms(n, "a")).await.unwrap();
    }
    let died = tokio::time::timeout(Duration::from_secs(1), worker.decide(sms(7, "a"))).await;
    assert!(died.is_err(), "it was done before it could die");
    // Another process, for which all is well with the first provider.
    let decision = world.worker().decide(sms(7, "a")).await.unwrap();
    assert_eq!((reason(&decision), decision.provider.as_deref()), (Some(Reason::Interrupted), Some("b")));
    let held = world.worker_where(Ambiguity::Hold).decide(sms(7, "a")).await.unwrap();
    let Verdict::Dead { reason: Reason::Held, detail } = held.verdict else { panic!("{held:?}") };
    assert!(detail.contains("b on attempt 1"), "{detail}");
}

#[tokio::test(start_paused = true)]
async fn while_all_are_out_of_service_a_delivery_waits_without_an_attempt() {
    let world = World::of([script("a", [LATER; 2]), script("b", [LATER, LATER, Outcome::Accepted])]);
    let worker = world.worker();
    for (n, provider) in ["a", "a", "b", "b"].into_iter().enumerate() {
        worker.decide(sms(n as u128, provider)).await.unwrap();
    }
    let mut delivery = sms(9, "b");
    for waits in 1..=2 {
        let decision = worker.decide(delivery).await.unwrap();
        let Verdict::Defer { until, reason: Reason::CircuitOpen, .. } = decision.verdict else {
            panic!("{decision:?}")
        };
        assert!(until >= at(5) && decision.provider.is_none());
        assert_eq!(
            (attribute(&decision, "skipped.a"), attribute(&decision, "skipped.b")),
            (Some("circuit_open"), Some("circuit_open"))
        );
        delivery = next(decision);
        assert_eq!((delivery.attempt, delivery.pass, delivery.sending_since), (1, waits, Some(at(0))));
    }
    assert_eq!(world.calls(), 4);
    world.wait(5);
    let decision = worker.decide(delivery).await.unwrap();
    assert_eq!(decision.verdict, Verdict::Sent);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_expiry_or_with_a_dead_letter_but_not_for_what_was_sent() {
    let world = World::of([script("a", [Outcome::Accepted, LATER])]);
    let worker = world.worker();
    let sent = worker.decide(sms(1, "a")).await.unwrap();
    worker.decide(sms(2, "a")).await.unwrap();
    let limited = |n, expires_at: Option<Timestamp>, since: i64| Delivery {
        expires_at,
        sending_since: Some(at(since)),
        ..sms(n, "a")
    };
    let horizon = i64::try_from(settings().sms.horizon_s).unwrap();
    let expired = worker.decide(limited(4, Some(at(5)), 0)).await.unwrap();
    assert_eq!(expired.verdict, Verdict::Suppress(Reason::Expired));
    let exhausted = worker.decide(limited(5, None, -horizon)).await.unwrap();
    let Verdict::Dead { reason: Reason::RetriesExhausted, detail } = &exhausted.verdict else {
        panic!("{exhausted:?}")
    };
    assert!(detail.contains("out of service"), "{detail}");
    // The first one comes again, because its worker died before it could publish.
    for again in [limited(1, Some(at(5)), 0), limited(1, None, -horizon)] {
        assert_eq!(worker.decide(again).await.unwrap().verdict, sent.verdict);
    }
    // And what was given up stays so, whatever the circuits do.
    world.wait(600);
    let exhausted_again = worker.decide(limited(5, None, -horizon)).await.unwrap();
    assert_eq!(exhausted_again.verdict, exhausted.verdict);
    assert_eq!(world.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_recipient_opens_no_circuit() {
    let refused = [Outcome::Refused, Outcome::DeadEndpoint, Outcome::OptedOut, Outcome::Throttled { after: None }];
    let world = World::answering(refused.into_iter().cycle().take(40));
    let worker = world.worker();
    for n in 0..40 {
        worker.decide(sms(n, "script")).await.unwrap();
    }
    assert_eq!(world.calls(), 40);
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_fails_harms_no_other() {
    let outcomes = [[Outcome::NoAnswer; 2].as_slice(), &[Outcome::Accepted; 3]].concat();
    let answers = outcomes.into_iter().map(|outcome| Answer::new(outcome, "", ""));
    let world = World::new(ScriptedProvider::new(answers).of_strangers());
    let worker = world.worker();
    for n in 0..2 {
        worker.decide(push(n, "https://dead.example")).await.unwrap();
    }
    let refused = worker.decide(push(2, "https://dead.example")).await.unwrap();
    assert_eq!(reason(&refused), Some(Reason::CircuitOpen));
    for n in 3..6 {
        let decision = worker.decide(push(n, "https://push.example")).await.unwrap();
        assert_eq!(decision.verdict, Verdict::Sent);
    }
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_keeps_silent_holds_few_places() {
    let answers = (0..100).map(|_| Answer::new(Outcome::Accepted, "", ""));
    let world = World::new(ScriptedProvider::slow(Duration::from_secs(3_600), answers).of_strangers());
    let worker = world.worker();
    let silent = (0..100).map(|n| worker.decide(push(n, "https://silent.example")));
    let other = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = world.calls();
        let decided =
            tokio::time::timeout(Duration::from_secs(1), worker.decide(push(999, "https://push.example"))).await;
        assert!(decided.is_err() && world.calls() == asked + 1, "the other origin is called");
        asked
    };
    let (decisions, asked) = tokio::join!(futures::future::join_all(silent), other);
    assert!(asked < 50, "{asked}");
    let waiting = decisions.iter().filter(|each| reason(each.as_ref().unwrap()) == Some(Reason::CircuitOpen)).count();
    assert_eq!(waiting, 100 - asked);
}

#[tokio::test(start_paused = true)]
async fn origins_without_number_do_not_fill_the_memory() {
    let world =
        World::new(ScriptedProvider::new((0..3_000).map(|_| Answer::new(Outcome::Refused, "", ""))).of_strangers());
    let worker = world.worker();
    for n in 0..3_000 {
        worker.decide(push(n, &format!("https://{n}.example"))).await.unwrap();
    }
    assert!(worker.circuits["script"].origins() <= 1_024);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_worker_is_stopped_gives_its_place_back() {
    let answers = [LATER, LATER, Outcome::Accepted].map(|outcome| Answer::new(outcome, "", ""));
    let world = World::new(ScriptedProvider::slow(Duration::from_secs(1), answers));
    let worker = world.worker();
    for n in 0..2 {
        worker.decide(sms(n, "script")).await.unwrap();
    }
    world.wait(5);
    for n in 2..12 {
        let stopped = tokio::time::timeout(Duration::from_millis(100), worker.decide(sms(n, "script"))).await;
        assert!(stopped.is_err(), "probe {n} was not let through");
    }
    assert_eq!(worker.decide(sms(12, "script")).await.unwrap().verdict, Verdict::Sent);
}

#[tokio::test(start_paused = true)]
async fn a_provider_off_the_list_still_serves_what_names_it() {
    let world = World::of([script("a", [Outcome::Accepted]), script("old", [LATER])]);
    let mut worker = world.worker();
    worker.routes = routes("sms = [\"a\"]");
    let decision = worker.decide(sms(1, "old")).await.unwrap();
    assert_eq!(decision.provider.as_deref(), Some("old"));
    let decision = worker.decide(next(decision)).await.unwrap();
    assert_eq!((decision.verdict, decision.provider.as_deref()), (Verdict::Sent, Some("a")));
}

#[tokio::test(start_paused = true)]
async fn an_opt_out_between_two_attempts_stops_the_second() {
    let world = World::of([script("script", [LATER, LATER])]);
    let no: Preferences = serde_json::from_str(r#"{"categories": {"order": false}}"#).unwrap();
    let retried = next(world.worker().decide(delivery_by(Channel::Email)).await.unwrap());
    let directory = Arc::new(MemoryDirectory::new().with("ada", no));
    let world = World { directory: directory.clone(), ..world };
    for _ in 0..2 {
        let decision = world.worker().decide(retried.clone()).await.unwrap();
        assert_eq!(decision.verdict, Verdict::Suppress(Reason::OptedOutCategory));
    }
    // What was only put back is asked about too; what comes straight from filter is not asked about twice.
    let put_back = Delivery { pass: 1, id: uuid::Uuid::from_u128(1), ..delivery_by(Channel::Email) };
    assert_eq!(reason(&world.worker().decide(put_back).await.unwrap()), Some(Reason::OptedOutCategory));
    directory.faults.fail_next(1);
    let fresh = Delivery { id: uuid::Uuid::from_u128(2), ..delivery_by(Channel::Email) };
    assert_eq!(reason(&world.worker().decide(fresh).await.unwrap()), Some(Reason::ProviderTransient));
    assert_eq!(world.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_opt_out_after_the_call_does_not_undo_it() {
    let world = World::of([script("script", [LATER, Outcome::Accepted])]);
    let retried = next(world.worker().decide(delivery_by(Channel::Email)).await.unwrap());
    let sent = world.worker().decide(retried.clone()).await.unwrap();
    // The worker dies before it publishes, and Ada opts out before the message comes again.
    let no = Preferences { enabled: false, ..Preferences::default() };
    let world = World { directory: Arc::new(MemoryDirectory::new().with("ada", no)), ..world };
    assert_eq!(world.worker().decide(retried).await.unwrap().verdict, sent.verdict);
}

#[tokio::test(start_paused = true)]
async fn a_dead_device_is_gone_before_the_decision_whatever_the_store_does() {
    let world = World::answering([Outcome::DeadEndpoint]);
    let device =
        Device { id: "endpoint".into(), platform: Platform::Android, token: "token-1".into(), registered_at: None };
    let contacts = Contacts { devices: vec![device], ..Contacts::default() };
    let directory = Arc::new(MemoryDirectory::new().with("ada", contacts));
    let world = World { directory: directory.clone(), ..world };
    directory.faults.fail_next(1);
    let error = world.worker().decide(delivery_by(Channel::Push)).await.unwrap_err();
    assert!(error.class().is_transient());
    for _ in 0..2 {
        let decision = world.worker().decide(delivery_by(Channel::Push)).await.unwrap();
        assert_eq!(decision.verdict, Verdict::Bounce(Reason::DeadEndpoint));
        assert_eq!(attribute(&decision, "endpoint_removed"), Some("device"));
        assert!(directory.contacts("ada").await.unwrap().unwrap().devices.is_empty());
    }
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_device_of_another_accounts_key_goes_there_and_is_dead_only_to_all() {
    let other_key = || Answer { about_recipient: true, ..Answer::new(Outcome::DeadEndpoint, "403", "") };
    for (second, verdict) in [
        (Answer::new(Outcome::Accepted, "201", ""), Verdict::Sent),
        (other_key(), Verdict::Bounce(Reason::DeadEndpoint)),
    ] {
        let world = World::of([
            ScriptedProvider::new([other_key()]).named("new"),
            ScriptedProvider::new([second]).named("old"),
        ]);
        let worker = world.worker();
        let first = Delivery { provider: "new".into(), ..delivery_by(Channel::Push) };
        let decision = worker.decide(first).await.unwrap();
        assert_eq!(attribute(&decision, "endpoint_removed"), None);
        let again = next(decision);
        assert_eq!((again.provider.as_str(), worker.decide(again.clone()).await.unwrap().verdict), ("old", verdict));
    }
}

#[tokio::test(start_paused = true)]
async fn lanes_wait_in_order() {
    let world = World::of([script("script", [LATER, LATER])]);
    let worker = world.worker();
    for n in 0..2 {
        worker.decide(sms(n, "script")).await.unwrap();
    }
    let mut before = at(0);
    for lane in Lane::ALL {
        let decision = worker.decide(Delivery { lane, ..sms(7, "script") }).await.unwrap();
        let Verdict::Defer { until, .. } = decision.verdict else { panic!("{decision:?}") };
        assert!(until > before, "{lane}");
        before = until;
    }
}

fn stage_with(over: &str) -> Result<SendStage, SettingsError> {
    let named = |name| ScriptedProvider::new([]).named(name);
    let (smtp, inbox) = (named("smtp").only(Channel::Email), named("inbox").only(Channel::InApp));
    let providers: [Arc<dyn Provider>; 3] = [Arc::new(named("sandbox")), Arc::new(smtp), Arc::new(inbox)];
    SendStage::with_alerts(&settings(), routes(over), providers.into(), World::answering([]).ports())
}

#[test]
fn the_defaults_make_a_stage_whose_longest_call_is_the_mails() {
    let stage = stage_with("").unwrap();
    assert_eq!(stage.longest_call(), settings().email.timeout() + PATIENCE);
    assert_eq!(stage.circuits.keys().collect::<Vec<_>>(), ["inbox", "sandbox", "smtp"]);
}

#[test]
fn a_list_with_a_provider_that_cannot_serve_it_is_refused_at_start_up() {
    assert!(stage_with("email = [\"sendgrid\"]").is_err());
    assert!(stage_with("email = [\"smtp\", \"sandbox\"]").is_ok());
    for (list, provider) in [("sms", "smtp"), ("push.ios", "smtp"), ("email", "inbox")] {
        let error = stage_with(&format!("{list} = [\"{provider}\"]")).err().unwrap().to_string();
        assert!(error.contains(&format!("`{provider}` cannot serve it")), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_decision_of_an_attempt_names_account_and_vendor() {
    let world = World::of([script("a", [Outcome::TryLater { after: None }]), script("b", [Outcome::Accepted])]);
    let worker = world.worker();
    let first = worker.decide(Delivery { provider: "a".into(), ..delivery_by(Channel::Sms) }).await.unwrap();
    assert_eq!((first.provider.as_deref(), first.vendor.as_deref()), (Some("a"), Some("scripted")));
    let Verdict::Retry { message, .. } = first.verdict else { panic!("{first:?}") };
    let Output::Delivery(next) = *message else { panic!("a delivery stays one") };
    let second = worker.decide(next).await.unwrap();
    assert_eq!((second.provider.as_deref(), second.vendor.as_deref()), (Some("b"), Some("scripted")));
    let expired = worker.decide(Delivery { expires_at: Some(at(0)), ..delivery_by(Channel::Push) });
    assert_eq!(expired.await.unwrap().vendor, None, "nobody was called");
}
