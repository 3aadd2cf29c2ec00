//! Requests against the vendor's specification; the client against a real socket.

use std::time::Duration;

use chasqui_contract::{ManualClock, Outcome};
use chasqui_schemas::{Channel, submission::Content};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{classify::classify, *};
use crate::{
    http::MAX_RETRY_AFTER,
    loopback::{Loopback, Seen, Turn},
    payload::Form,
    testing::{Ask, account, at, delivery_by, overridden, reply, secret, settings},
    vendor_spec::Spec,
};

const LATER: Outcome = Outcome::TryLater { after: None };
const FORM: &str = "/components/schemas/POST-v3-domain_name-messages-multipart-form-data-RequestBody";

fn specification() -> Value {
    serde_json::from_str(include_str!("../../specs/mailgun_messages.json")).unwrap()
}

/// It leaves the form open for headers and variables, of which it has an example each.
fn request_spec() -> Spec {
    let mut document = specification();
    let form = document.pointer_mut(FORM).unwrap();
    form["patternProperties"] =
        json!({ "^h:[!-~]+$": form["properties"]["h:X-My-Header"], "^v:[!-~]+$": form["properties"]["v:my-var"] });
    form["additionalProperties"] = json!(false);
    Spec::new(document, FORM)
}

fn parameters(delivery: &Delivery, test_mode: bool) -> Form {
    let from = "Shop <no-reply@shop.example>".parse().unwrap();
    let mut parameters = request::parameters(delivery, &from, test_mode, at(0)).unwrap();
    parameters.sort();
    parameters
}

fn values<'a>(parameters: &'a Form, name: &str) -> Vec<&'a str> {
    parameters.iter().filter(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

fn full() -> Delivery {
    let delivery = delivery_by(Channel::Email);
    let content = Content { html: Some("<p>It is on its way.</p>".into()), ..delivery.content };
    Delivery { content, unsubscribe_url: Some("https://n.example/u/t".into()), ..delivery }
}

#[test]
fn a_delivery_becomes_these_parameters() {
    let delivery = full();
    let (notification, id) = (delivery.notification_id.to_string(), delivery.id.to_string());
    let message_id = format!("<{id}@shop.example>");
    let expected = [
        ("from", "Shop <no-reply@shop.example>"),
        ("h:Auto-Submitted", "auto-generated"),
        ("h:List-Unsubscribe", "<https://n.example/u/t>"),
        ("h:List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ("h:Message-ID", &message_id),
        ("h:X-Chasqui-Delivery", &id),
        ("h:X-Chasqui-Notification", &notification),
        ("html", "<p>It is on its way.</p>"),
        ("o:tag", "order"),
        ("subject", "Your order"),
        ("text", "It is on its way."),
        ("to", "ada@example.com"),
        ("v:app", "shop"),
        ("v:delivery_id", &id),
        ("v:notification_id", &notification),
    ];
    assert_eq!(parameters(&delivery, false), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn every_request_is_as_the_vendor_specifies() {
    let spec = request_spec();
    let bare = Delivery { content: Content::default(), ..delivery_by(Channel::Email) };
    let expires = Delivery { expires_at: Some(at(3_600)), ..full() };
    let template = overridden(
        full(),
        NAME,
        json!({
            "template": "welcome", "t:variables": {"name": "Ada"}, "o:tag": ["a", "b"], "o:tracking": "htmlonly",
            "h:X-Campaign": "spring", "v:n": 7, "o:require-tls": true,
        }),
    );
    assert_eq!(values(&parameters(&template, false), "html"), [""; 0], "a template takes its place");
    for delivery in [full(), delivery_by(Channel::Email), bare, expires, template] {
        for test_mode in [false, true] {
            let parameters = parameters(&delivery, test_mode);
            spec.check_form(&parameters).unwrap_or_else(|error| panic!("{error}: {parameters:?}"));
        }
    }
}

#[test]
fn a_broken_request_is_found_by_the_check() {
    let spec = request_spec();
    for (name, value) in [("o:testmode", "true"), ("o:tracking", "maybe"), ("o:tags", "a"), ("h:", "x"), ("bogus", "")]
    {
        let mut broken = parameters(&full(), false);
        broken.push((name.to_owned(), value.to_owned()));
        assert!(spec.check_form(&broken).is_err(), "{name}");
    }
    for name in ["from", "to", "subject"] {
        let mut broken = parameters(&full(), false);
        broken.retain(|(each, _)| each != name);
        assert!(spec.check_form(&broken).is_err(), "{name} is missing");
        let twice = [parameters(&full(), false), parameters(&full(), false)].concat();
        assert!(spec.check_form(&twice).is_err());
    }
}

#[test]
fn overrides_are_laid_over_but_recipient_ids_and_headers_stay() {
    let before = parameters(&full(), true);
    let after = parameters(
        &overridden(
            full(),
            NAME,
            json!({
                "to": "eve@example.com", "CC": "eve@example.com", "bcc": ["eve@example.com"], "recipient-variables": {},
                "V:Delivery_id": "other", "v:notification_id": null, "h:message-id": "<other>", "o:testmode": null,
                "h:list-unsubscribe": "<https://other.example>", "subject": "Another", "o:tag": ["a", "b"], "html": null,
                "t:variables": {"a": [1]},
            }),
        ),
        true,
    );
    for name in ["to", "v:delivery_id", "v:notification_id", "h:message-id", "o:testmode", "h:list-unsubscribe"] {
        assert_eq!(values(&after, name), values(&before, name), "{name}");
    }
    for name in ["cc", "bcc", "recipient-variables", "html"] {
        assert_eq!(values(&after, name), [""; 0], "{name}");
    }
    assert_eq!(values(&after, "subject"), ["Another"]);
    assert_eq!(values(&after, "o:tag"), ["a", "b"]);
    assert_eq!(values(&after, "t:variables"), [r#"{"a":[1]}"#]);
}

#[test]
fn an_expiry_within_a_day_ends_mailguns_own_attempts() {
    for (seconds, expected) in [
        (-60, Some("0h5m")),
        (60, Some("0h5m")),
        (3_600, Some("1h0m")),
        (5_459, Some("1h30m")),
        (86_400, Some("24h0m")),
        (86_460, None),
    ] {
        let parameters = parameters(&Delivery { expires_at: Some(at(seconds)), ..full() }, false);
        assert_eq!(values(&parameters, "o:deliver-within").first().copied(), expected, "{seconds} s");
    }
}

#[test]
fn what_is_too_large_is_not_sent() {
    let body = Content { body: Some("x".repeat(25 * 1024 * 1024)), ..Content::default() };
    let options = overridden(full(), NAME, json!({ "v:much": "x".repeat(16 * 1024) }));
    for delivery in [Delivery { content: body, ..full() }, options] {
        let from = "no-reply@shop.example".parse().unwrap();
        let answer = request::parameters(&delivery, &from, false, at(0)).unwrap_err();
        assert_eq!((answer.outcome, answer.code.as_str()), (Outcome::Refused, "too_large"));
    }
}

#[test]
fn every_status_of_the_specification_and_of_the_documentation_has_its_meaning() {
    let no = r#"{"message":"no"}"#;
    let expected = [
        ("200", r#"{"id":"<1@shop.example>","message":"Queued. Thank you."}"#, Outcome::Accepted),
        ("200", no, Outcome::NoAnswer),
        ("200", "<html>", Outcome::NoAnswer),
        ("400", no, Outcome::Refused),
        ("401", "Forbidden", Outcome::Misconfigured),
        ("402", no, Outcome::Misconfigured),
        ("403", no, Outcome::Misconfigured),
        ("404", no, Outcome::Misconfigured),
        ("413", no, Outcome::Refused),
        ("429", no, Outcome::Throttled { after: None }),
        ("500", no, LATER),
        ("503", no, LATER),
    ];
    for (status, body, meaning) in expected {
        let answer = classify(&reply(status.parse().unwrap(), &[], body), at(0));
        assert_eq!((answer.outcome, answer.code.as_str()), (meaning, status), "{body}");
    }
    let specified = specification();
    let operation = &specified["paths"]["/v3/{domain_name}/messages"]["post"];
    for (status, response) in operation["responses"].as_object().unwrap() {
        assert!(expected.iter().any(|(known, ..)| known == status), "{status} is specified, but not classified");
        // The vendor's own example is understood.
        let example = &response["content"]["application/json"]["examples"]["Example"]["value"];
        let answer = classify(&reply(status.parse().unwrap(), &[], example.to_string()), at(0));
        let words = example["message"].as_str().or(example.as_str()).unwrap();
        assert_eq!(answer.detail, words.chars().take(Answer::MAX_DETAIL).collect::<String>());
    }
}

#[test]
fn what_is_accepted_has_the_vendors_id_and_a_refusal_the_vendors_words() {
    let accepted = reply(200, &[], r#"{"id":"<1.2@shop.example>","message":"Queued. Thank you."}"#);
    assert_eq!(classify(&accepted, at(0)).message_id, "1.2@shop.example");
    for body in ["Forbidden", "\"Forbidden\"", r#"{"message":"Forbidden"}"#] {
        assert_eq!(classify(&reply(401, &[], body), at(0)).detail, "Forbidden", "{body}");
    }
}

#[test]
fn a_throttled_call_waits_as_long_as_the_header_or_the_message_says() {
    let wait = |headers: &[(&'static str, &str)], message: &str| {
        let answer = classify(&reply(429, headers, json!({ "message": message }).to_string()), at(0));
        let Outcome::Throttled { after } = answer.outcome else { panic!("{answer:?}") };
        after
    };
    let message = "Domain example.com is not allowed to send: limit exceeded, try again after 120 seconds";
    assert_eq!(wait(&[], message), Some(Duration::from_secs(120)));
    assert_eq!(wait(&[("Retry-After", "7")], message), Some(Duration::from_secs(7)));
    assert_eq!(wait(&[], "try again after 99999999999 seconds"), Some(MAX_RETRY_AFTER));
    for message in ["", "try again after a while", "after -1 seconds", "after 1e300 seconds", "after 5", "after 2 days"]
    {
        assert_eq!(wait(&[], message), None, "{message}");
    }
}

proptest! {
    #[test]
    fn any_answer_can_be_read(status in 100u16..1_000, body in "(\\PC{0,40}|\"?\\PC{0,20} after [0-9a-z]{1,30} seconds)") {
        let answer = classify(&reply(status, &[], body), at(0));
        prop_assert!(answer.outcome != Outcome::Accepted && answer.message_id.is_empty());
    }
}

fn provider(url: &str) -> Mailgun {
    let (api_key, _file) = secret("hunter2");
    let settings = Settings {
        api_key,
        domain: "mg.shop.example".into(),
        from: "Shop <no-reply@shop.example>".into(),
        base_url: url.to_owned(),
        test_mode: true,
        ..settings(&VENDOR, "domain = ''\nfrom = ''")
    };
    Mailgun::new(&account(&VENDOR), settings, Arc::new(ManualClock::new(at(0)))).unwrap()
}

/// The parameters of a multipart body (RFC 7578).
fn multipart(seen: &Seen) -> Form {
    let boundary = seen.header("content-type").strip_prefix("multipart/form-data; boundary=").unwrap();
    let (begin, end) = (format!("--{boundary}\r\n"), format!("--{boundary}--\r\n"));
    let body = std::str::from_utf8(&seen.body).unwrap().strip_suffix(&end).unwrap();
    let parts = body.split(&begin).skip(1).map(|part| {
        let (head, value) = part.split_once("\r\n\r\n").unwrap();
        let name = head.strip_prefix("Content-Disposition: form-data; name=\"").unwrap().strip_suffix('"').unwrap();
        (name.to_owned(), value.strip_suffix("\r\n").unwrap().to_owned())
    });
    let mut parameters: Form = parts.collect();
    parameters.sort();
    parameters
}

#[tokio::test]
async fn a_mail_is_posted_to_its_domain_with_our_key_and_accepted_under_the_vendors_id() {
    let queued = r#"{"id":"<7@mg.shop.example>","message":"Queued. Thank you."}"#;
    let server = Loopback::start([Turn::say(200, queued)]).await;
    let mailgun = provider(&server.url);
    let mut delivery = full();
    delivery.content.body = Some("Grüße\r\n--\r\n注文".into());
    let answer = mailgun.send(&delivery).await;
    assert_eq!((answer.outcome, answer.message_id.as_str()), (Outcome::Accepted, "7@mg.shop.example"));

    let seen = server.only();
    assert_eq!(seen.line, "POST /v3/mg.shop.example/messages");
    // Base64 of "api:hunter2".
    assert_eq!(seen.header("authorization"), "Basic YXBpOmh1bnRlcjI=");
    assert_eq!(multipart(&seen), parameters(&delivery, true));
    request_spec().check_form(&multipart(&seen)).unwrap();
}

#[test]
fn no_name_of_a_parameter_begins_another_part() {
    let name = "v:a\"\r\n\r\nx\r\n--b\r\n".to_owned();
    let body = request::multipart(&vec![(name, "1".to_owned())], "b");
    assert_eq!(
        body,
        "--b\r\nContent-Disposition: form-data; name=\"v:a%22%0D%0A%0D%0Ax%0D%0A--b%0D%0A\"\r\n\r\n1\r\n--b--\r\n"
    );
}
