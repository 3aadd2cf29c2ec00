//! Alerts end to end: from answers to what a server on this machine is posted, and what a mail provider is given.

use chasqui_contract::{Decide, ManualClock};
use chasqui_stores::memory::{MemoryDirectory, MemoryLedger};

use super::*;
use crate::{
    Ports, SendStage,
    loopback::{Loopback, Turn},
    testing::{ScriptedProvider, TestInbox, at, config, config_with, delivery_to, secret},
};

fn set_up() -> Config {
    Config { threshold: 3, ..config().alerts }
}

/// Settings with a webhook at `url`, whose file is gone once `start` has read it.
fn start(url: &str, clock: &Arc<ManualClock>) -> Result<Alerts, SettingsError> {
    let (slack_webhook, _file) = secret(url);
    Alerts::start(&Config { slack_webhook, ..set_up() }, &[], clock.clone())
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(at(0)))
}

fn later() -> Answer {
    Answer::new(Outcome::TryLater { after: None }, "503", "<busy>")
}

/// The texts posted, once there are `count` of them.
async fn posted(server: &Loopback, count: usize) -> Vec<String> {
    let waiting = async {
        while server.seen().len() < count {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), waiting).await.expect("the alert was not posted");
    server.seen().iter().map(|seen| seen.json()["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_storm_is_posted_once_per_window_with_its_count() {
    let server = Loopback::start([Turn::say(200, "ok"), Turn::say(200, "ok")]).await;
    let clock = clock();
    let alerts = start(&format!("{}/services/T/B/secret", server.url), &clock).unwrap();
    (0..500).for_each(|_| alerts.note("twilio", &later()));
    let process = std::process::id();
    let first = format!("twilio: provider_transient: 3 failures in 0 s; the last: 503 &lt;busy&gt;; process {process}");
    assert_eq!(posted(&server, 1).await[0], first);

    clock.advance(SignedDuration::from_secs(300));
    let second = format!(
        "twilio: provider_transient: 497 more failures in 300 s; the last: 503 &lt;busy&gt;; process {process}"
    );
    assert_eq!(posted(&server, 2).await, [first, second], "the end of the window is noticed without a failure");
    let request = &server.seen()[0];
    assert_eq!(request.line, "POST /services/T/B/secret");
    assert_eq!(request.header("content-type"), "application/json");
}

#[tokio::test]
async fn what_a_provider_answers_the_stage_is_noted() {
    let server = Loopback::start([Turn::say(200, "ok")]).await;
    let (_, webhook) = secret(&server.url);
    let settings = format!("threshold = 1\nslack_webhook = {{ file = {:?} }}", webhook.path());
    let config = config_with(&format!("[send.alerts]\n{settings}")).unwrap();
    let directory = Arc::new(MemoryDirectory::new());
    let ports = Ports {
        ledger: Arc::new(MemoryLedger::new()),
        directory: directory.clone(),
        address_book: directory,
        inbox: Arc::new(TestInbox::default()),
        clock: clock(),
    };
    let stage = SendStage::from_config(&config, ports).unwrap();
    let refused = delivery_to(Address::Phone("+15550000004".into()));
    stage.decide(Delivery { provider: "sandbox".into(), ..refused }).await.unwrap();
    assert!(posted(&server, 1).await[0].starts_with("sandbox: provider_refused: 1 failure in 0 s; the last: refused"));
}

#[tokio::test]
async fn a_misconfiguration_is_posted_at_once_and_what_concerns_recipients_never() {
    let server = Loopback::start([Turn::say(200, "ok")]).await;
    let alerts = start(&server.url, &clock()).unwrap();
    for outcome in [Outcome::Accepted, Outcome::DeadEndpoint, Outcome::OptedOut] {
        (0..10).for_each(|_| alerts.note("twilio", &Answer::new(outcome, "1", "")));
    }
    (0..10).for_each(|_| alerts.note("smtp", &Answer { about_recipient: true, ..later() }));
    alerts.note("vonage", &Answer::new(Outcome::Misconfigured, "4", "Bad Credentials"));
    let texts = posted(&server, 1).await;
    assert!(texts[0].starts_with("vonage: provider_misconfigured: 1 failure in 0 s; the last: 4 Bad Credentials"));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn what_slack_fails_at_is_tried_again_and_what_it_refuses_is_told_with_the_next() {
    let ok = || Turn::say(200, "ok");
    let fails = [Turn::say(500, "rollup_error"), Turn::Cut, ok(), Turn::say(410, "channel_is_archived")];
    let server = Loopback::start(fails.into_iter().chain((0..20).map(|_| ok()))).await;
    let alerts = start(&server.url, &clock()).unwrap();
    let broken = Answer::new(Outcome::Misconfigured, "1", "");
    alerts.note("a", &broken);
    let texts = posted(&server, 3).await;
    assert!(texts.iter().all(|text| text.starts_with("a: ")), "{texts:?}");
    alerts.note("b", &broken);
    posted(&server, 4).await;
    // The refusal is read a moment after the request was seen: the first alert then may be too early to tell of it.
    for count in 5..24 {
        alerts.note(&format!("c{count}"), &broken);
        if posted(&server, count).await[count - 1].contains("; not told before this: 1;") {
            return;
        }
    }
    panic!("nothing told of the one that was refused");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_hangs_holds_up_nobody_and_what_it_missed_is_told() {
    let accepted = || Answer::new(Outcome::Accepted, "", "");
    let slow = Arc::new(ScriptedProvider::slow(Duration::from_secs(50), (0..QUEUE + 2).map(|_| accepted())));
    let config = Config { email_to: Some("dev@example.com".into()), email_provider: "script".into(), ..set_up() };
    let alerts = Alerts::start(&config, &[slow.clone() as Arc<dyn Provider>], clock()).unwrap();
    let note = |name: &str| alerts.note(name, &Answer::new(Outcome::Misconfigured, "1", ""));
    let began = tokio::time::Instant::now();
    (0..QUEUE + 10).for_each(|n| note(&n.to_string()));
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(alerts.0.queues[0].missed.load(Relaxed), 10, "noting never waits, so none was taken from the queue");

    sleep(Duration::from_secs(51)).await;
    note("last");
    assert_eq!(alerts.0.queues[0].missed.load(Relaxed), 0, "the second one in the queue tells of them");
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(slow.calls(), QUEUE + 1);
}

#[tokio::test(start_paused = true)]
async fn a_mail_goes_through_a_provider_until_it_is_taken() {
    let busy = Answer::new(Outcome::Throttled { after: Some(Duration::from_secs(3_600)) }, "421", "");
    let taken = Answer::new(Outcome::Accepted, "250", "");
    let mail = Arc::new(ScriptedProvider::new([busy, later(), taken]));
    let config = Config { email_to: Some("dev@example.com".into()), email_provider: "script".into(), ..set_up() };
    let alerts = Alerts::start(&config, &[mail.clone() as Arc<dyn Provider>], clock()).unwrap();
    alerts.note("twilio", &Answer::new(Outcome::Misconfigured, "20003", ""));
    sleep(MAX_WAIT - Duration::from_secs(1)).await;
    assert_eq!(mail.calls(), 1, "it is obeyed");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(mail.calls(), 3, "but not for an hour");
}

#[test]
fn an_alert_is_a_mail_to_developers() {
    let mut aggregate = Aggregate::new(SignedDuration::from_secs(60), 1);
    let alert = aggregate.note(at(0), "smtp", Reason::ProviderTimeout, "timeout", "").unwrap();
    let alert = Alert { untold: 2, ..alert };
    let mailbox = Address::Mailbox("dev@example.com".into());
    let delivery = delivery(&alert, &mailbox, at(0));
    assert_eq!(delivery.endpoint.address, mailbox);
    assert_eq!(delivery.content.title.unwrap(), "Chasqui: smtp provider_timeout");
    let body = delivery.content.body.unwrap();
    assert!(body.contains("; the last: timeout; not told before this: 2; "), "{body}");
}

#[test]
fn without_a_target_there_is_no_task_and_settings_that_cannot_work_are_refused_by_name() {
    let start = |config: Config| Alerts::start(&config, &[], clock());
    start(set_up()).unwrap().note("twilio", &Answer::new(Outcome::Misconfigured, "1", ""));
    let mailbox = || Some("dev@example.com".to_owned());
    for (config, key) in [
        (Config { window_s: 0, ..set_up() }, "send.alerts: `window_s`"),
        (Config { window_s: u32::MAX, ..set_up() }, "send.alerts: `window_s`"),
        (Config { threshold: 0, ..set_up() }, "send.alerts: `window_s`"),
        (Config { email_to: Some("dev".into()), ..set_up() }, "send.alerts.email_to"),
        (Config { email_to: mailbox(), ..set_up() }, "send.alerts.email_provider: there is no provider `smtp`"),
    ] {
        let error = start(config).err().unwrap().to_string();
        assert!(error.starts_with(key), "{error}");
    }
    let error = self::start("not-a-url/T/B/secret", &clock()).err().unwrap().to_string();
    assert!(error.starts_with("send.alerts.slack_webhook: ") && !error.contains("secret"), "{error}");
}
