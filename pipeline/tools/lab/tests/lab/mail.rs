//! SendGrid, Mailgun, and Slack.

use chasqui_lab::{Behaviour, Fate, Fault, Lab, Rule, Script, Vendor, When};
use serde_json::{Value, json};

use crate::client::*;

#[tokio::test]
async fn sendgrid_takes_a_right_mail() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let answer = sendgrid(&lab, "ada@example.com").answer().await;
    assert_eq!((answer.status, answer.text.as_str()), (202, ""));
    let call = lab.ledger().accepted(Vendor::SendGrid).remove(0);
    assert_eq!((call.recipient.as_str(), call.delivery_id.as_str()), ("ada@example.com", DELIVERY));
    assert_eq!(call.message_id, answer.header("x-message-id"));
    sendgrid(&lab, "dead-endpoint@example.com").answer().await;
    assert_eq!(lab.ledger().accepted(Vendor::SendGrid)[1].fate, Fate::Undelivered(None), "mail bounces later");
}

#[tokio::test]
async fn sendgrid_refuses_each_wrong_mail() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let right = sendgrid(&lab, "ada@example.com");
    let with = |pointer: &str, value: Value| {
        let mut mail = sendgrid_mail(&lab, "ada@example.com");
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = mail.pointer_mut(parent).unwrap();
        match (value, parent) {
            (Value::Null, Value::Object(members)) => drop(members.remove(key)),
            (value, parent) => parent[key] = value,
        }
        right.clone().json(&mail)
    };
    let html_first = json!([{ "type": "text/html", "value": "x" }, { "type": "text/plain", "value": "x" }]);
    let cases = vec![
        ("path", right.clone().at("/send", "/sent"), 404, "404"),
        ("method", right.clone().method(reqwest::Method::PUT), 405, "405"),
        ("no key", right.clone().without("authorization"), 401, "401"),
        ("key", right.clone().set("authorization", "Bearer SG.x.y"), 401, "401"),
        ("form", right.clone().form(&[("to", "ada@example.com")]), 415, "415"),
        ("sender", with("/from/email", json!("eve@example.com")), 403, "403"),
        ("no sender", with("/from", Value::Null), 400, "400"),
        ("no JSON", right.clone().body("{"), 400, "400"),
        ("unknown field", with("/colour", json!("red")), 400, "400"),
        ("unknown inner field", with("/personalizations/0/customArgs", json!({})), 400, "400"),
        ("no recipient", with("/personalizations/0/to", json!([])), 400, "400"),
        ("recipient", with("/personalizations/0/to", json!([{ "email": "ada" }])), 400, "400"),
        ("no envelope", with("/personalizations", json!([])), 400, "400"),
        ("no subject", with("/subject", Value::Null), 400, "400"),
        ("empty subject", with("/subject", json!("")), 400, "400"),
        ("no content", with("/content", Value::Null), 400, "400"),
        ("HTML first", with("/content", html_first), 400, "400"),
        ("reserved header", with("/headers/Subject", json!("x")), 400, "400"),
        ("split header", with("/headers/X-A", json!("x\r\nBcc: eve@example.com")), 400, "400"),
        ("argument", with("/personalizations/0/custom_args/n", json!(7)), 400, "400"),
        ("arguments", with("/personalizations/0/custom_args/x", json!("x".repeat(10_000))), 400, "400"),
    ];
    all_refused(&lab, Vendor::SendGrid, cases).await;
    let error = with("/personalizations/0/to", json!([{ "email": 7 }])).answer().await.json();
    assert_eq!(error["errors"][0]["field"], "personalizations.0.to.0.email");
}

#[tokio::test]
async fn sendgrid_says_when_its_limit_ends() {
    let busy = Fault { retry_after: Some("30".into()), ..Fault::code("429") };
    let rule = Rule { vendor: Vendor::SendGrid, when: When::default(), then: Behaviour::Fault(busy) };
    let lab = Lab::start(Script { rules: vec![rule], ..Script::default() }).await.unwrap();
    let answer = sendgrid(&lab, "ada@example.com").answer().await;
    let reset: i64 = answer.header("x-ratelimit-reset").parse().unwrap();
    assert_eq!((answer.status, answer.header("x-ratelimit-remaining")), (429, "0"));
    assert!((now()..=now() + 30).contains(&reset), "{reset}");
}

#[tokio::test]
async fn mailgun_takes_a_right_mail() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let answer = mailgun(&lab, "Ada <ada@example.com>").answer().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({ "id": "<1@example.com>", "message": "Queued. Thank you." }));
    let call = lab.ledger().accepted(Vendor::Mailgun).remove(0);
    assert_eq!((call.recipient.as_str(), call.delivery_id.as_str()), ("ada@example.com", DELIVERY));
}

#[tokio::test]
async fn mailgun_refuses_each_wrong_mail() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let right = mailgun(&lab, "ada@example.com");
    let field = |name: &str, value: Option<&str>| {
        let fields = mailgun_fields(&lab, "ada@example.com");
        let kept = fields.into_iter().filter(|(field, _)| *field != name);
        right.clone().multipart(&kept.chain(value.map(|value| (name, value))).collect::<Vec<_>>())
    };
    let long = "x".repeat(17_000);
    let without_content = [("from", "a@mail.example.com"), ("to", "ada@example.com"), ("subject", "x")];
    let cases = vec![
        ("no key", right.clone().without("authorization"), 401, "401"),
        ("key", right.clone().basic("api", "x"), 401, "401"),
        ("user", right.clone().basic("x", &lab.accounts().mailgun_api_key), 401, "401"),
        ("domain", right.clone().at("mail.example.com", "other.example.com"), 404, "404"),
        ("JSON", right.clone().json(&json!({ "to": "ada@example.com" })), 400, "400"),
        ("broken form", right.clone().body("--XX\r\nContent-Disp"), 400, "400"),
        ("no sender", field("from", None), 400, "400"),
        ("no recipient", field("to", None), 400, "400"),
        ("recipient", field("to", Some("ada")), 400, "400"),
        ("no subject", field("subject", None), 400, "400"),
        ("no content", right.clone().multipart(&without_content), 400, "400"),
        ("option", field("o:tracking", Some("maybe")), 400, "400"),
        ("unknown option", field("o:colour", Some("red")), 400, "400"),
        ("unknown field", field("colour", Some("red")), 400, "400"),
        ("options", field("v:x", Some(&long)), 400, "400"),
    ];
    all_refused(&lab, Vendor::Mailgun, cases).await;
    assert_eq!(field("from", None).answer().await.json()["message"], "from parameter is missing");
    let busy = mailgun(&lab, "rate-limited@example.com").answer().await;
    assert_eq!(busy.status, 429);
    assert!(busy.json()["message"].as_str().unwrap().ends_with("try again after 1 seconds"), "{busy:?}");
}

#[tokio::test]
async fn slack_takes_alerts_and_refuses_what_is_none() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let right = slack(&lab);
    let secret = lab.accounts().slack_path.rsplit_once('/').unwrap().1.to_owned();
    let cases = vec![
        ("secret", right.clone().at(&secret, "wrong"), 403, "invalid_token"),
        ("hook", right.clone().at("B00000000", "B1"), 404, "no_service"),
        ("form", right.clone().form(&[("text", "x")]), 400, "invalid_payload"),
        ("no JSON", right.clone().body("{"), 400, "invalid_payload"),
        ("array", right.clone().json(&json!([])), 400, "invalid_payload"),
        ("type", right.clone().json(&json!({ "text": 7 })), 400, "invalid_payload"),
        ("nothing", right.clone().json(&json!({ "text": "" })), 400, "no_text"),
    ];
    all_refused(&lab, Vendor::Slack, cases).await;
    let answer = right.answer().await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "ok"));
    assert_eq!(lab.ledger().accepted(Vendor::Slack)[0].echo["text"], "Twilio is down");
}
