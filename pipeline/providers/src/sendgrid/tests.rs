//! Requests against the vendor's specification; the client against a real socket.

use std::time::Duration;

use chasqui_contract::{ManualClock, Outcome};
use chasqui_schemas::{Channel, submission::Content};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{classify::classify, *};
use crate::{
    http::MAX_RETRY_AFTER,
    loopback::{Loopback, Turn},
    testing::{Ask, account, at, delivery_by, overridden, reply, secret, settings},
    vendor_spec::Spec,
};

const KEY: &str = "SG.very.secret";
const LATER: Outcome = Outcome::TryLater { after: None };

fn specification() -> Value {
    serde_json::from_str(include_str!("../../specs/sendgrid_mail.json")).unwrap()
}

fn request_spec() -> Spec {
    Spec::new(specification(), "/components/requestBodies/PostMailSend/content/application~1json/schema")
}

fn payload(delivery: &Delivery, sandbox_mode: bool) -> Value {
    let from = "Shop <no-reply@shop.example>".parse().unwrap();
    serde_json::from_slice(&request::body(delivery, &from, sandbox_mode).unwrap()).unwrap()
}

fn full() -> Delivery {
    let delivery = delivery_by(Channel::Email);
    let content = Content { html: Some("<p>It is on its way.</p>".into()), ..delivery.content };
    Delivery { content, unsubscribe_url: Some("https://n.example/u/t".into()), ..delivery }
}

#[test]
fn a_delivery_becomes_this_request() {
    let delivery = full();
    let expected = json!({
        "personalizations": [{
            "to": [{"email": "ada@example.com"}],
            "custom_args": {
                "notification_id": delivery.notification_id, "delivery_id": delivery.id, "app": "shop",
            },
        }],
        "from": {"email": "no-reply@shop.example", "name": "Shop"},
        "subject": "Your order",
        "content": [
            {"type": "text/plain", "value": "It is on its way."},
            {"type": "text/html", "value": "<p>It is on its way.</p>"},
        ],
        "headers": {
            "Message-ID": format!("<{}@shop.example>", delivery.id),
            "X-Chasqui-Notification": delivery.notification_id,
            "X-Chasqui-Delivery": delivery.id,
            "Auto-Submitted": "auto-generated",
            "List-Unsubscribe": "<https://n.example/u/t>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        },
        "categories": ["order"],
    });
    assert_eq!(payload(&delivery, false), expected);
}

#[test]
fn every_request_is_as_the_vendor_specifies() {
    let spec = request_spec();
    let bare = Delivery { content: Content::default(), ..delivery_by(Channel::Email) };
    let template = overridden(
        full(),
        NAME,
        json!({
            "template_id": "d-1", "asm": {"group_id": 7}, "reply_to": {"email": "help@shop.example"},
            "headers": {"X-Campaign": "spring"}, "tracking_settings": {"click_tracking": {"enable": false}},
        }),
    );
    for delivery in [full(), delivery_by(Channel::Email), bare, template] {
        for sandbox_mode in [false, true] {
            let payload = payload(&delivery, sandbox_mode);
            spec.check(&payload).unwrap_or_else(|error| panic!("{error}: {payload}"));
        }
    }
}

#[test]
fn a_broken_request_is_found_by_the_check() {
    let spec = request_spec();
    for (pointer, broken) in [
        ("/from", json!("no-reply@shop.example")),
        ("/from/email", json!("nobody")),
        ("/personalizations/0/to", json!(null)),
        ("/personalizations/0/to/0", json!({"address": "ada@example.com"})),
        ("/content/0/value", json!("")),
        ("/subject", json!("")),
        ("/categories", json!(["order", "order"])),
        ("/mail_settings/sandbox_mode", json!({"enabled": true})),
        ("/mail_settings/sandbox_mode/enable", json!("true")),
    ] {
        let mut payload = payload(&full(), true);
        *payload.pointer_mut(pointer).unwrap() = broken;
        assert!(spec.check(&payload).is_err(), "{pointer}");
    }
    for name in ["from", "personalizations"] {
        let mut payload = payload(&full(), true);
        payload.as_object_mut().unwrap().remove(name);
        assert!(spec.check(&payload).is_err(), "{name}");
    }
}

#[test]
fn overrides_are_merged_but_recipient_ids_and_headers_stay() {
    let delivery = overridden(
        full(),
        NAME,
        json!({
            "personalizations": [{"to": [{"email": "eve@example.com"}], "custom_args": {}}],
            "headers": {"X-Campaign": "spring", "message-id": "<other>", "X-CHASQUI-DELIVERY": "other"},
            "mail_settings": {"footer": {"enable": true}, "sandbox_mode": {"enable": false}},
            "custom_args": null,
            "subject": "Another",
        }),
    );
    let (before, after) = (payload(&full(), true), payload(&delivery, true));
    assert_eq!(after["personalizations"], before["personalizations"]);
    assert_eq!(after["subject"], "Another");
    assert_eq!(after["mail_settings"], json!({"footer": {"enable": true}, "sandbox_mode": {"enable": true}}));
    let mut headers = before["headers"].clone();
    headers["X-Campaign"] = json!("spring");
    assert_eq!(after["headers"], headers);
    assert_eq!(payload(&overridden(full(), NAME, json!({"headers": null})), true)["headers"], before["headers"]);
}

#[test]
fn a_mail_that_is_too_large_is_not_sent() {
    let content = Content { body: Some("x".repeat(30 * 1024 * 1024)), ..Content::default() };
    let from = "no-reply@shop.example".parse().unwrap();
    let answer = request::body(&Delivery { content, ..full() }, &from, false).unwrap_err();
    assert_eq!((answer.outcome, answer.code.as_str()), (Outcome::Refused, "too_large"));
}

fn outcome(status: u16, headers: &[(&'static str, &str)], body: &str) -> Outcome {
    classify(&reply(status, headers, body.to_owned()), at(0)).outcome
}

#[test]
fn every_status_of_the_specification_and_of_the_documentation_has_its_meaning() {
    let expected = [
        ("200", Outcome::Accepted),
        ("202", Outcome::Accepted),
        ("201", Outcome::NoAnswer),
        ("400", Outcome::Refused),
        ("401", Outcome::Misconfigured),
        ("403", Outcome::Misconfigured),
        ("404", Outcome::Misconfigured),
        ("405", Outcome::Misconfigured),
        ("406", Outcome::Misconfigured),
        ("413", Outcome::Refused),
        ("429", Outcome::Throttled { after: None }),
        ("451", Outcome::Misconfigured),
        ("500", LATER),
        ("503", LATER),
    ];
    for (status, meaning) in expected {
        assert_eq!(outcome(status.parse().unwrap(), &[], "{}"), meaning, "{status}");
    }
    let specified = specification();
    for status in specified["paths"]["/v3/mail/send"]["post"]["responses"].as_object().unwrap().keys() {
        assert!(expected.iter().any(|(known, _)| known == status), "{status} is specified, but not classified");
    }
}

#[test]
fn a_refusal_names_the_field_and_some_fields_say_whose_fault_it_is() {
    let spec = Spec::new(specification(), "/components/schemas/ErrorResponse");
    for (field, expected) in [
        (json!("personalizations.0.to.0.email"), Outcome::Refused),
        (json!("from.email"), Outcome::Misconfigured),
        (json!("personalizations.0.to"), Outcome::Refused),
        (json!("content.0.value"), Outcome::Refused),
    ] {
        let body = json!({"errors": [{"message": "Does not fit.", "field": field}, {"message": "More."}]});
        spec.check(&body).unwrap();
        let answer = classify(&reply(400, &[], body.to_string()), at(0));
        assert_eq!((answer.outcome, answer.code.as_str()), (expected, "400"), "{field}");
        assert_eq!(answer.about_recipient, field == "personalizations.0.to.0.email");
        assert_eq!(answer.detail, format!("Does not fit. ({}); More.", field.as_str().unwrap()));
    }
    let answer = classify(&reply(401, &[], r#"{"errors":[{"message":"Bad key","field":null,"help":null}]}"#), at(0));
    assert_eq!(answer.detail, "Bad key");
}

#[test]
fn a_throttled_call_waits_for_the_moment_that_is_named() {
    let throttled = |headers: &[(&'static str, &str)]| outcome(429, headers, "");
    let after = |after| Outcome::Throttled { after: Some(after) };
    let in_90s = at(90).as_second().to_string();
    assert_eq!(throttled(&[("X-RateLimit-Reset", &in_90s)]), after(Duration::from_secs(90)));
    assert_eq!(throttled(&[("X-RateLimit-Reset", &in_90s), ("Retry-After", "5")]), after(Duration::from_secs(90)));
    assert_eq!(throttled(&[("X-RateLimit-Reset", "soon"), ("Retry-After", "5")]), after(Duration::from_secs(5)));
    assert_eq!(throttled(&[("X-RateLimit-Reset", "1")]), after(Duration::ZERO));
    assert_eq!(throttled(&[("X-RateLimit-Reset", "99999999999")]), after(MAX_RETRY_AFTER));
    for nonsense in ["", "9223372036854775807", "1e300", "inf", "-1.5"] {
        assert_eq!(throttled(&[("X-RateLimit-Reset", nonsense)]), Outcome::Throttled { after: None }, "{nonsense}");
    }
}

proptest! {
    #[test]
    fn any_answer_can_be_read(status in 100u16..1_000, reset in "[ -~]{0,25}", body in ".{0,60}") {
        let answer = classify(&reply(status, &[("X-RateLimit-Reset", &reset)], body), at(0));
        prop_assert_eq!(answer.outcome == Outcome::Accepted, matches!(status, 200 | 202));
    }
}

fn provider(url: &str) -> Sendgrid {
    let (api_key, _file) = secret(KEY);
    let settings = Settings {
        api_key,
        from: "no-reply@shop.example".into(),
        base_url: url.to_owned(),
        ..settings(&VENDOR, "from = ''")
    };
    Sendgrid::new(&account(&VENDOR), settings, Arc::new(ManualClock::new(at(0)))).unwrap()
}

#[tokio::test]
async fn a_mail_is_posted_with_our_key_and_accepted_under_the_vendors_id() {
    let server = Loopback::start([Turn::Say(202, vec![("X-Message-Id", "sg-1".into())], String::new())]).await;
    let sendgrid = provider(&server.url);
    let answer = sendgrid.send(&full()).await;
    assert_eq!((answer.outcome, answer.code.as_str(), answer.message_id.as_str()), (Outcome::Accepted, "202", "sg-1"));

    let seen = server.only();
    assert_eq!(seen.line, "POST /v3/mail/send");
    assert_eq!(seen.header("authorization"), format!("Bearer {KEY}"));
    assert_eq!(seen.header("content-type"), "application/json");
    request_spec().check(&seen.json()).unwrap();
}
