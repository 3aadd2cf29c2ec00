//! Scripts: what goes wrong goes wrong on the wire, and the ledger knows what was accepted all the same.

use std::time::{Duration, Instant};

use chasqui_lab::{Answered, Behaviour, Call, Cut, Fault, Lab, Rule, Script, StartError, Tally, Vendor, When};
use futures::future::join_all;
use serde_json::Value;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use crate::client::*;

fn rule(vendor: Vendor, when: When, then: Behaviour) -> Rule {
    Rule { vendor, when, then }
}

async fn lab(rules: Vec<Rule>) -> Lab {
    Lab::start(Script { seed: 7, rules, ..Script::default() }).await.unwrap()
}

async fn always(vendor: Vendor, then: Behaviour) -> Lab {
    lab(vec![rule(vendor, When::default(), then)]).await
}

fn only(lab: &Lab, vendor: Vendor) -> Call {
    let mut calls: Vec<Call> = lab.ledger().calls().into_iter().filter(|call| call.vendor == vendor).collect();
    assert_eq!(calls.len(), 1);
    calls.remove(0)
}

#[tokio::test]
async fn a_cut_before_the_answer_cuts_the_connection_whether_accepted_or_not() {
    for (cut, accepted) in [(Cut::BeforeAccepting, false), (Cut::BeforeAnswer, true)] {
        let lab = always(Vendor::Twilio, Behaviour::Cut(cut)).await;
        let error = twilio(&lab, "+4917100000001").send().await.unwrap_err();
        assert!(error.is_request() && !error.is_timeout() && !error.is_connect(), "{error:?}");
        let call = only(&lab, Vendor::Twilio);
        assert_eq!((call.accepted, call.answered), (accepted, Answered::Cut), "{cut:?}");

        let lab = always(Vendor::Apns, Behaviour::Cut(cut)).await;
        let error = apns(&lab).send().await.unwrap_err();
        assert!(!error.is_timeout() && !error.is_connect(), "{error:?}");
        let call = only(&lab, Vendor::Apns);
        assert_eq!((call.accepted, call.answered), (accepted, Answered::Cut), "{cut:?}");
    }
}

#[tokio::test]
async fn the_ledger_is_right_about_all_calls_on_a_connection_that_is_cut() {
    let when = When { share: Some(0.05), ..When::default() };
    let slow = Behaviour::Latency(Duration::ZERO..Duration::from_millis(50));
    let rules =
        vec![rule(Vendor::Apns, When::default(), slow), rule(Vendor::Apns, when, Behaviour::Cut(Cut::BeforeAnswer))];
    let lab = lab(rules).await;
    let one = apns(&lab);
    let send = |n: usize| {
        let id = format!("{n:08}-0000-0000-0000-000000000000");
        let request =
            one.clone().at(&DEVICE[..8], &format!("{n:08}")).set("apns-id", &id).body(r#"{"aps":{"alert":"x"}}"#);
        async move { (id, request.send().await.is_ok()) }
    };
    let answered = join_all((0..300).map(send)).await;
    let mut surely: Vec<String> = answered.into_iter().filter(|(_, ok)| *ok).map(|(id, _)| id).collect();
    let calls = lab.ledger().calls();
    let whole = calls.iter().filter(|call| call.answered == Answered::Whole);
    let mut whole: Vec<String> = whole.map(|call| call.delivery_id.clone()).collect();
    surely.sort();
    whole.sort();
    assert!(!whole.is_empty() && whole.len() < 300, "{}", whole.len());
    assert_eq!(surely, whole);
    assert!(calls.iter().all(|call| call.accepted));
}

#[tokio::test]
async fn a_cut_in_the_answer_shows_its_status_and_then_an_error() {
    for cut in [Cut::AfterHeaders, Cut::MidBody] {
        let lab = always(Vendor::Twilio, Behaviour::Cut(cut)).await;
        let mut response = twilio(&lab, "+4917100000001").start().await.unwrap();
        assert_eq!(response.status(), 201);
        let mut read = 0;
        let error = loop {
            match response.chunk().await {
                Ok(chunk) => read += chunk.expect("the body ends as if it were whole").len(),
                Err(error) => break error,
            }
        };
        assert!(!error.is_timeout(), "{error:?}");
        assert_eq!(read > 0, cut == Cut::MidBody, "{read} bytes");
        let call = only(&lab, Vendor::Twilio);
        assert_eq!((call.accepted, call.answered, call.delivery_id.as_str()), (true, Answered::Cut, DELIVERY));

        let lab = always(Vendor::Apns, Behaviour::Cut(cut)).await;
        let response = apns(&lab).start().await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.bytes().await.is_err(), "an answer without a body is not whole without its end");
        assert!(only(&lab, Vendor::Apns).accepted);
    }
}

#[tokio::test]
async fn a_vendor_that_hangs_says_nothing_until_the_client_leaves() {
    for accepted in [true, false] {
        let lab = always(Vendor::Mailgun, Behaviour::Hang { accepted }).await;
        let request = mailgun(&lab, "ada@example.com").via(hasty());
        assert!(request.send().await.unwrap_err().is_timeout());
        let call = only(&lab, Vendor::Mailgun);
        assert_eq!((call.accepted, call.answered), (accepted, Answered::Not));
        let tally = Tally { calls: 1, accepted: usize::from(accepted), ambiguous: usize::from(accepted) };
        assert_eq!(lab.ledger().deliveries()[DELIVERY], tally);
    }
}

#[tokio::test]
async fn what_is_slower_than_its_client_was_accepted_before() {
    let wait = Duration::from_millis(1500);
    let lab = always(Vendor::Vonage, Behaviour::Latency(wait..wait)).await;
    let request = vonage(&lab, "4917100000001");
    let began = Instant::now();
    assert_eq!(request.answer().await.status, 200);
    assert!(began.elapsed() >= wait);
    let hasty = request.via(hasty());
    assert!(hasty.send().await.unwrap_err().is_timeout());
    assert_eq!(lab.ledger().deliveries()[DELIVERY], Tally { calls: 2, accepted: 2, ambiguous: 1 });
}

#[tokio::test]
async fn in_an_outage_nobody_listens_and_connections_end_and_then_all_is_well() {
    let lab = lab(Vec::new()).await;
    let address = lab.url(Vendor::Slack).replace("http://", "");
    let mut idle = TcpStream::connect(&address).await.unwrap();
    let window = Some(Duration::ZERO..Duration::from_secs(3));
    let when = When { window, ..When::default() };
    lab.play(&Script { rules: vec![rule(Vendor::Slack, when, Behaviour::Outage)], ..Script::default() }).unwrap();
    let end = tokio::time::timeout(PATIENCE, idle.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    let deadline = Instant::now() + PATIENCE;
    // A connection may still wait to be accepted at the moment the listener goes.
    while slack(&lab).send().await.is_ok_and(|answer| answer.status == 200)
        || TcpStream::connect(&address).await.is_ok()
    {
        assert!(Instant::now() < deadline, "it never refuses");
    }
    let refused = TcpStream::connect(&address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(twilio(&lab, "+4917100000001").answer().await.status, 201, "the others work");
    while slack(&lab).send().await.is_err() {
        assert!(Instant::now() < deadline, "it never comes back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_throttle_refuses_with_the_vendors_words_and_its_delay() {
    let busy = |per_second| Behaviour::Throttle { per_second, retry_after: Some("1e300".into()) };
    let began = Instant::now();
    let lab = lab(vec![
        rule(Vendor::Twilio, When::default(), busy(3)),
        rule(Vendor::Fcm, When::default(), busy(0)),
        rule(Vendor::Vonage, When::default(), busy(0)),
    ])
    .await;
    let calls: Vec<Request> = (0..30).map(|n| twilio(&lab, &format!("+491710000{n:03}"))).collect();
    let answers = join_all(calls.iter().map(Request::answer)).await;
    let accepted = answers.iter().filter(|answer| answer.status == 201).count();
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    assert!((3..=3 * seconds).contains(&accepted) && accepted < 30, "{accepted} in {seconds} s");
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    assert_eq!((&refused.json()["code"], refused.header("retry-after")), (&Value::from(20429), "1e300"));
    let answer = fcm(&lab).await.answer().await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "1e300"));
    assert_eq!(answer.json()["error"]["details"][0]["errorCode"], "QUOTA_EXCEEDED");
    assert_eq!(vonage(&lab, "4917100000001").answer().await.json()["messages"][0]["status"], "1");
}

#[tokio::test]
async fn the_same_seed_fails_the_same_calls_in_any_order() {
    let outcomes = |seed: u64, backwards: bool| async move {
        let when = When { share: Some(0.3), ..When::default() };
        let rules = vec![rule(Vendor::Twilio, when, Behaviour::Fault(Fault::code("20500")))];
        let lab = Lab::start(Script { seed, rules, ..Script::default() }).await.unwrap();
        let mut order: Vec<u32> = (0..40).collect();
        if backwards {
            order.reverse();
        }
        let calls: Vec<Request> = order.iter().map(|n| twilio(&lab, &format!("+491710000{n:03}"))).collect();
        let mut failed: Vec<u32> = Vec::new();
        for (n, answer) in order.iter().zip(join_all(calls.iter().map(Request::answer)).await) {
            if answer.status == 500 {
                failed.push(*n);
            }
        }
        failed.sort_unstable();
        failed
    };
    let first = outcomes(1, false).await;
    assert!(!first.is_empty() && first.len() < 40);
    assert_eq!(outcomes(1, true).await, first);
    assert_ne!(outcomes(2, false).await, first);
}

#[tokio::test]
async fn the_ledger_counts_calls_and_acceptances_of_each_delivery() {
    let when = When { calls: Some(0..2), ..When::default() };
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let rules = vec![rule(Vendor::SendGrid, when, Behaviour::Fault(Fault::code("503")))];
    let script = Script { rules, log: Some(log.clone()), ..Script::default() };
    let lab = Lab::start(script).await.unwrap();
    for status in [503, 503, 202, 202] {
        assert_eq!(sendgrid(&lab, "ada@example.com").answer().await.status, status);
    }
    assert_eq!(lab.ledger().deliveries()[DELIVERY], Tally { calls: 4, accepted: 2, ambiguous: 0 });
    assert_eq!(lab.ledger().forgotten(), 0);
    let lines: Vec<Value> =
        std::fs::read_to_string(log).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let logged: Vec<&Value> = lines.iter().map(|line| &line["accepted"]).collect();
    assert_eq!(logged, [false, false, true, true]);
    assert_eq!(lines[3]["delivery_id"], DELIVERY);
}

#[tokio::test]
async fn magic_recipients_are_refused_with_codes_that_the_vendors_have() {
    let lab = lab(Vec::new()).await;
    let fcm = fcm(&lab).await;
    let statuses = |apns, fcm, webpush, twilio, vonage| [apns, fcm, webpush, twilio, vonage];
    for (word, number, wanted) in [
        ("always-fails", "0001", statuses(503, 503, 503, 503, 200)),
        ("rate-limited", "0002", statuses(429, 429, 429, 429, 200)),
        ("dead-endpoint", "0003", statuses(410, 404, 410, 400, 200)),
        ("refused", "0004", statuses(400, 400, 400, 400, 200)),
    ] {
        let requests = [
            apns(&lab).at(&DEVICE[..7], &format!("1ab{number}")),
            fcm.clone().json(&fcm_message(word)),
            webpush(&lab, &lab.subscribe(word).unwrap()),
            twilio(&lab, &format!("+1555000{number}")),
            vonage(&lab, &format!("1555000{number}")),
        ];
        for (request, wanted) in requests.iter().zip(wanted) {
            let answer = request.answer().await;
            let call = lab.ledger().calls().pop().unwrap();
            assert_eq!((answer.status, call.accepted), (wanted, false), "{word}: {call:?}");
            assert!(call.wrong.is_empty() && !["ok", "500"].contains(&call.code.as_str()), "{word}: {call:?}");
        }
    }
}

#[tokio::test]
async fn a_script_that_asks_for_what_there_is_not_is_refused() {
    let fault = |vendor, code: &str| rule(vendor, When::default(), Behaviour::Fault(Fault::code(code)));
    for (rule, words) in [
        (fault(Vendor::Apns, "Unregisterd"), "apns has no error Unregisterd"),
        (fault(Vendor::Twilio, "30003"), "twilio has no error 30003"),
        (rule(Vendor::Slack, When::default(), Behaviour::Outage), "window"),
        (rule(Vendor::Slack, When { share: Some(1.5), ..When::default() }, Behaviour::Accept), "share"),
    ] {
        let error = Lab::start(Script { rules: vec![rule], ..Script::default() }).await.err().unwrap();
        assert!(matches!(error, StartError::Rule { rule: 0, .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    for (vendor, code) in [
        (Vendor::Apns, "TooManyRequests"),
        (Vendor::Fcm, "SENDER_ID_MISMATCH"),
        (Vendor::Twilio, "21610"),
        (Vendor::Vonage, "9"),
        (Vendor::Mailgun, "429"),
        (Vendor::Slack, "channel_is_archived"),
        (Vendor::WebPush, "413"),
        (Vendor::Oauth, "invalid_grant"),
    ] {
        lab(vec![fault(vendor, code)]).await;
    }
}

#[tokio::test]
async fn settings_name_every_provider_and_credentials_are_in_files_of_their_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = lab(Vec::new()).await;
    let settings = lab.settings();
    let toml = settings.toml();
    let table: toml::Table = toml.parse().unwrap();
    for section in ["apns", "fcm", "twilio", "vonage", "sendgrid", "mailgun"] {
        let base = table["accounts"][section]["base_url"].as_str().unwrap();
        assert!(base.starts_with("http://127.0.0.1:"), "{base}");
    }
    let file = table["accounts"]["twilio"]["auth_token"]["file"].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), lab.accounts().twilio_auth_token);
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!toml.contains(&lab.accounts().twilio_auth_token));
    assert_eq!(table["send"]["alerts"]["to"][0]["account"].as_str(), Some("slack"));
    let directory = settings.directory.clone();
    drop(lab);
    assert!(!directory.exists());
}
