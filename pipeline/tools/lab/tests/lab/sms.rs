//! Twilio and Vonage.

use std::collections::BTreeSet;

use chasqui_lab::{Lab, Script, Vendor};
use serde_json::{Value, json};

use crate::client::*;

/// The fields with one replaced or, without a value, left out.
fn with<'a>(fields: Vec<(&'a str, &'a str)>, name: &'a str, value: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let kept = fields.into_iter().filter(|(field, _)| *field != name);
    kept.chain(value.map(|value| (name, value))).collect()
}

#[tokio::test]
async fn twilio_takes_a_right_message() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let answer = twilio(&lab, "+4917100000001").answer().await;
    assert_eq!(answer.status, 201);
    let message = answer.json();
    assert_eq!(
        (&message["status"], &message["num_segments"], &message["to"]),
        (&json!("queued"), &json!("1"), &json!("+4917100000001"))
    );
    let sid = message["sid"].as_str().unwrap();
    assert!(sid.starts_with("SM") && sid.len() == 34, "{sid}");
    let call = lab.ledger().accepted(Vendor::Twilio).remove(0);
    assert_eq!((call.recipient.as_str(), call.message_id.as_str()), ("+4917100000001", sid));
    assert_eq!(call.delivery_id, DELIVERY, "from the address for callbacks");
}

/// The names of an answer's members, and those of the schema at a place of a specification.
fn names(answer: &Value, document: &str, pointer: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let document: Value = serde_json::from_str(document).unwrap();
    let of = |value: &Value| value.as_object().unwrap().keys().cloned().collect();
    (of(answer), of(document.pointer(pointer).unwrap()))
}

#[tokio::test]
async fn answers_have_the_members_that_the_specifications_name() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let message = twilio(&lab, "+4917100000001").answer().await.json();
    let document = include_str!("../../specs/twilio_messages.openapi.json");
    let (ours, theirs) = names(&message, document, "/components/schemas/api.v2010.account.message/properties");
    assert_eq!(ours, theirs);
    let part = vonage(&lab, "4917100000001").answer().await.json()["messages"][0].clone();
    let document = include_str!("../../specs/vonage_sms.openapi.json");
    let (ours, mut theirs) = names(&part, document, "/components/schemas/Message/properties");
    assert!(theirs.remove("account-ref"), "the request had none");
    assert_eq!(ours, theirs);
    let receipt = lab.callbacks(Vendor::Vonage).remove(0);
    let receipt = serde_json::from_slice(&receipt.body).unwrap();
    let (ours, theirs) = names(&receipt, document, "/components/schemas/DeliveryReceipt/properties");
    assert_eq!(ours, theirs);
}

#[tokio::test]
async fn twilio_refuses_each_wrong_message_with_its_code() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let right = twilio(&lab, "+4917100000001");
    let field = |name, value| right.clone().form(&with(twilio_fields(&lab, "+4917100000001"), name, value));
    let sid = lab.accounts().twilio_account_sid.clone();
    let long = "x".repeat(1601);
    let cases = vec![
        ("account", right.clone().at(&sid, "AC00000000000000000000000000000000"), 404, "20404"),
        ("no password", right.clone().without("authorization"), 401, "20003"),
        ("password", right.clone().basic(&sid, "x"), 401, "20003"),
        ("method", right.clone().method(reqwest::Method::PUT), 405, "20004"),
        ("JSON", right.clone().json(&json!({ "To": "+4917100000001" })), 400, "20001"),
        ("unknown field", field("Colour", Some("red")), 400, "20001"),
        ("no To", field("To", None), 400, "21604"),
        ("To", field("To", Some("0171")), 400, "21211"),
        ("no From", field("From", None), 400, "21603"),
        ("From", field("From", Some("+15005550001")), 400, "21606"),
        ("no Body", field("Body", None), 400, "21602"),
        ("long Body", field("Body", Some(&long)), 400, "21617"),
        ("StatusCallback", field("StatusCallback", Some("not an address")), 400, "21609"),
        ("short validity", field("ValidityPeriod", Some("0")), 400, "30012"),
        ("long validity", field("ValidityPeriod", Some("36001")), 400, "30013"),
        ("validity", field("ValidityPeriod", Some("soon")), 400, "20001"),
        ("service", field("MessagingServiceSid", Some("MG1")), 400, "20001"),
    ];
    all_refused(&lab, Vendor::Twilio, cases).await;
    let error = twilio(&lab, "0171").answer().await.json();
    assert_eq!((&error["code"], &error["status"]), (&json!(21211), &json!(400)));
    assert_eq!(error["more_info"], "https://www.twilio.com/docs/errors/21211");
}

#[tokio::test]
async fn twilios_test_numbers_and_ours_fail_without_a_script() {
    let lab = Lab::start(Script::default()).await.unwrap();
    for (to, status, code) in [
        ("+15005550004", 400, 21610),
        ("+15550000001", 503, 20503),
        ("+15550000003", 400, 21614),
        ("+15550000002", 429, 20429),
    ] {
        let answer = twilio(&lab, to).answer().await;
        assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(code)), "{to}");
    }
    let second = twilio(&lab, "+15550000002").answer().await;
    assert_eq!(second.status, 201, "rate-limited at the first call only");
    assert!(lab.ledger().wrong().is_empty());
}

#[tokio::test]
async fn vonage_takes_a_right_message_part_by_part() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let answer = vonage(&lab, "4917100000001").answer().await;
    assert_eq!((answer.status, &answer.json()["messages"][0]["status"]), (200, &json!("0")));
    assert_eq!(answer.json()["messages"][0]["client-ref"], DELIVERY);
    let text = "я".repeat(71);
    let fields = with(vonage_fields(&lab, "4917100000001"), "text", Some(&text));
    let long = vonage(&lab, "4917100000001").form(&with(fields, "type", Some("unicode"))).answer().await.json();
    assert_eq!((&long["message-count"], long["messages"].as_array().unwrap().len()), (&json!("2"), 2));
    assert_ne!(long["messages"][0]["message-id"], long["messages"][1]["message-id"]);
    assert_eq!(lab.ledger().accepted(Vendor::Vonage)[0].delivery_id, DELIVERY);
}

#[tokio::test]
async fn vonage_refuses_each_wrong_message_with_200_and_its_status() {
    let lab = Lab::start(Script::default()).await.unwrap();
    let right = vonage(&lab, "4917100000001");
    let field = |name, value| right.clone().form(&with(vonage_fields(&lab, "4917100000001"), name, value));
    let long = "x".repeat(101);
    let cases = vec![
        ("no key", field("api_key", None), 200, "2"),
        ("no text", field("text", None), 200, "2"),
        ("no to", field("to", None), 200, "2"),
        ("secret", field("api_secret", Some("wrong-secret")), 200, "4"),
        ("to", field("to", Some("+4917100000001x")), 200, "3"),
        ("plus sign", field("to", Some("+491710000001")), 200, "3"),
        ("ttl", field("ttl", Some("5")), 200, "3"),
        ("reference", field("client-ref", Some(&long)), 200, "3"),
        ("unknown field", field("colour", Some("red")), 200, "3"),
        ("alphabet", field("text", Some("я")), 200, "3"),
        ("JSON", right.clone().json(&json!({})), 200, "3"),
        ("path", right.clone().at("/sms/json", "/sms"), 404, "404"),
    ];
    all_refused(&lab, Vendor::Vonage, cases).await;
    let barred = vonage(&lab, "15550000003").answer().await.json();
    assert_eq!(barred["messages"][0], json!({ "status": "7", "error-text": "Number barred" }));
}
