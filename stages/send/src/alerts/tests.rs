//! Alerts end to end: from answers to what the accounts that carry them are given.

use chasqui_contract::{Decide, ManualClock};
use chasqui_schemas::Channel;
use chasqui_stores::memory::{MemoryDirectory, MemoryLedger, MemoryNewest};

use super::*;
use crate::{
    Ports, SendStage,
    testing::{ScriptedProvider, at, delivery_to, routes, settings, settings_with},
};

fn to(account: &str, address: Option<&str>) -> Settings {
    let recipient = Recipient { account: account.to_owned(), address: address.map(str::to_owned) };
    Settings { threshold: 3, to: vec![recipient], ..settings().alerts }
}

/// Slack's place: an account that serves no channel.
fn slack(answers: impl IntoIterator<Item = Answer>) -> Arc<ScriptedProvider> {
    Arc::new(ScriptedProvider::new(answers).named("slack").for_alerts())
}

fn start(slack: &Arc<ScriptedProvider>, clock: &Arc<ManualClock>) -> Alerts {
    Alerts::start(&to("slack", None), &[slack.clone() as Arc<dyn Provider>], clock.clone()).unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(at(0)))
}

fn ok() -> Answer {
    Answer::new(Outcome::Accepted, "200", "")
}

fn later() -> Answer {
    Answer::new(Outcome::TryLater { after: None }, "503", "<busy>")
}

/// The texts posted, once there are `count` of them.
async fn posted(slack: &ScriptedProvider, count: usize) -> Vec<String> {
    let waiting = async {
        while slack.calls() < count {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), waiting).await.expect("the alert was not posted");
    slack.texts()
}

#[tokio::test(start_paused = true)]
async fn a_storm_is_posted_once_per_window_with_its_count() {
    let slack = slack([ok(), ok()]);
    let clock = clock();
    let alerts = start(&slack, &clock);
    (0..500).for_each(|_| alerts.note("twilio", &later()));
    let process = std::process::id();
    let first = format!("twilio: provider_transient: 3 failures in 0 s; the last: 503 busy; process {process}");
    assert_eq!(posted(&slack, 1).await[0], first);

    clock.advance(SignedDuration::from_secs(300));
    let second =
        format!("twilio: provider_transient: 497 more failures in 300 s; the last: 503 busy; process {process}");
    assert_eq!(posted(&slack, 2).await, [first, second], "the end of the window is noticed without a failure");
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_answers_the_stage_is_noted() {
    let slack = slack([ok()]);
    let refuses = [Answer::new(Outcome::Refused, "refused", "")];
    let sandbox = Arc::new(ScriptedProvider::new(refuses).named("sandbox"));
    let settings = settings_with("[send.alerts]\nthreshold = 1\nto = [{ account = \"slack\" }]").unwrap();
    let directory = Arc::new(MemoryDirectory::new());
    let ports = Ports {
        ledger: Arc::new(MemoryLedger::new()),
        newest: Arc::new(MemoryNewest::default()),
        directory: directory.clone(),
        address_book: directory,
        clock: clock(),
    };
    let providers: [Arc<dyn Provider>; 2] = [sandbox, slack.clone()];
    let stage = SendStage::with_alerts(&settings, routes("in_app = [\"sandbox\"]"), providers.into(), ports).unwrap();
    let refused = delivery_to(Address::Phone("+15550000004".into()));
    stage.decide(Delivery { provider: "sandbox".into(), ..refused }).await.unwrap();
    assert!(posted(&slack, 1).await[0].starts_with("sandbox: provider_refused: 1 failure in 0 s; the last: refused"));
}

#[tokio::test(start_paused = true)]
async fn a_misconfiguration_is_posted_at_once_and_what_concerns_recipients_never() {
    let slack = slack([ok()]);
    let alerts = start(&slack, &clock());
    for outcome in [Outcome::Accepted, Outcome::DeadEndpoint, Outcome::OptedOut] {
        (0..10).for_each(|_| alerts.note("twilio", &Answer::new(outcome, "1", "")));
    }
    (0..10).for_each(|_| alerts.note("smtp", &Answer { about_recipient: true, ..later() }));
    let refused = Answer::new(Outcome::Refused, "403", "");
    (0..10).for_each(|_| alerts.note("webpush", &Answer { about_recipient: true, ..refused.clone() }));
    alerts.note("vonage", &Answer::new(Outcome::Misconfigured, "4", "Bad Credentials"));
    let texts = posted(&slack, 1).await;
    assert!(texts[0].starts_with("vonage: provider_misconfigured: 1 failure in 0 s; the last: 4 Bad Credentials"));
    assert_eq!(slack.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_target_fails_at_is_tried_again_and_what_it_refuses_is_told_with_the_next() {
    let fails = [later(), Answer::new(Outcome::NoAnswer, "", ""), ok(), Answer::new(Outcome::Misconfigured, "410", "")];
    let slack = slack(fails.into_iter().chain((0..20).map(|_| ok())));
    let alerts = start(&slack, &clock());
    let broken = Answer::new(Outcome::Misconfigured, "1", "");
    alerts.note("a", &broken);
    let texts = posted(&slack, 3).await;
    assert!(texts.iter().all(|text| text.starts_with("a: ")), "{texts:?}");
    alerts.note("b", &broken);
    posted(&slack, 4).await;
    alerts.note("c", &broken);
    assert!(posted(&slack, 5).await[4].contains("; not told before this: 1;"));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_hangs_holds_up_nobody_and_what_it_missed_is_told() {
    let slow = Arc::new(ScriptedProvider::slow(Duration::from_secs(50), (0..QUEUE + 2).map(|_| ok())));
    let settings = to("script", Some("dev@example.com"));
    let alerts = Alerts::start(&settings, &[slow.clone() as Arc<dyn Provider>], clock()).unwrap();
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
    let settings = to("script", Some("dev@example.com"));
    let alerts = Alerts::start(&settings, &[mail.clone() as Arc<dyn Provider>], clock()).unwrap();
    alerts.note("twilio", &Answer::new(Outcome::Misconfigured, "20003", ""));
    sleep(MAX_WAIT - Duration::from_secs(1)).await;
    assert_eq!(mail.calls(), 1, "it is obeyed");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(mail.calls(), 3, "but not for an hour");
}

#[tokio::test(start_paused = true)]
async fn a_vendors_words_are_inert_in_an_alert() {
    let slack = slack([ok()]);
    let alerts = start(&slack, &clock());
    let words = "URGENT <!here> *ops*: log in at https://evil.example/x\n@channel `now`";
    alerts.note("twilio", &Answer::new(Outcome::Misconfigured, "<20003>", words));
    let text = posted(&slack, 1).await.remove(0);
    let expected = "twilio: provider_misconfigured: 1 failure in 0 s; the last: 20003 URGENT here ops log in at https \
                    evil example x channel now; process";
    assert!(text.starts_with(expected), "{text}");
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
    let start = |settings: Settings| {
        let named = |name| ScriptedProvider::new([]).named(name);
        let slack = named("slack").for_alerts();
        let smtp = named("smtp").only(Channel::Email);
        let twilio = named("twilio").only(Channel::Sms);
        let providers: [Arc<dyn Provider>; 3] = [Arc::new(slack), Arc::new(smtp), Arc::new(twilio)];
        Alerts::start(&settings, &providers, clock())
    };
    let nobody = || Settings { threshold: 3, ..settings().alerts };
    start(nobody()).unwrap().note("twilio", &Answer::new(Outcome::Misconfigured, "1", ""));
    for (settings, key) in [
        (Settings { window_s: 0, ..nobody() }, "send.alerts: `window_s`"),
        (Settings { window_s: u32::MAX, ..nobody() }, "send.alerts: `window_s`"),
        (Settings { threshold: 0, ..nobody() }, "send.alerts: `window_s`"),
        (to("sendgrid", None), "send.alerts.to: there is no account `sendgrid`"),
        (to("smtp", Some("dev")), "send.alerts.to: `dev` is not an address of `smtp`"),
        (to("smtp", None), "send.alerts.to: `smtp` needs an `address`"),
        (to("twilio", Some("0171")), "send.alerts.to: `0171` is not an address of `twilio`"),
        (to("slack", Some("#ops")), "send.alerts.to: `slack` takes no `address`"),
    ] {
        let error = start(settings).err().unwrap().to_string();
        assert!(error.starts_with(key), "{error}");
    }
}
