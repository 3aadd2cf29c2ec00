//! What becomes of a submission that keeps the contract.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{collections::HashSet, sync::Arc};

use chasqui_schemas::{
    Channel, id,
    notification::{Message, Recipient},
};
use common::{decide, json, notifications, pepper, rejection, submitted};
use proptest::prelude::*;
use serde_json::{Value, json as j};

fn full() -> Value {
    j!({
        "id": "018f4d5e-7b1a-7c3d-9e2f-0123456789ab", "idempotency_key": "k", "category": "order",
        "recipients": ["ada", {"user": "bob"}, {"email": "eve@example.com", "phone": "+15551234567", "locale": "ko-KR", "timezone": "Asia/Seoul"}],
        "template": "order", "data": {"total": 12.5, "items": [{"n": 1}], "sendAt": "mine"},
        "channels": ["push", "email", "push"], "send_at": "2026-03-02T09:00:00+09:00", "expires_at": "2026-03-03T00:00:00Z",
        "locale": "pt-BR", "collapse_key": "c", "transaction_id": "t-1", "metadata": {"team": "x"}, "test": true,
        "overrides": {"apns": {"sound": "ping"}}
    })
}

#[test]
fn every_field_arrives() {
    let made = notifications(decide(json(&full())));
    assert_eq!(made.len(), 3);
    assert_eq!(made[0].recipient, Recipient::User("ada".into()));
    assert_eq!(made[1].recipient, Recipient::User("bob".into()));
    let Recipient::Inline(contacts) = &made[2].recipient else { panic!("{:?}", made[2].recipient) };
    assert_eq!(contacts.emails, ["eve@example.com"]);
    assert_eq!(contacts.phones, ["+15551234567"]);
    assert_eq!((contacts.locale.as_deref(), contacts.timezone.as_deref()), (Some("ko-KR"), Some("Asia/Seoul")));
    let request = &made[0].request;
    assert!(made.iter().all(|each| Arc::ptr_eq(&each.request, request)));
    assert_eq!(request.id.to_string(), "018f4d5e-7b1a-7c3d-9e2f-0123456789ab");
    assert_eq!((request.idempotency_key.as_str(), request.category.as_str()), ("k", "order"));
    let Message::Template { key, data } = &request.message else { panic!("{:?}", request.message) };
    assert_eq!((key.as_str(), &serde_json::from_str::<Value>(data.as_str()).unwrap()), ("order", &full()["data"]));
    assert_eq!(request.channels.as_deref(), Some(&[Channel::Push, Channel::Email][..]), "repeats are dropped");
    assert_eq!(request.send_at, Some("2026-03-02T00:00:00Z".parse().unwrap()));
    assert_eq!(request.expires_at, Some("2026-03-03T00:00:00Z".parse().unwrap()));
    assert_eq!(request.locale.as_deref(), Some("pt-BR"));
    assert_eq!((request.collapse_key.as_deref(), request.transaction_id.as_deref()), (Some("c"), Some("t-1")));
    assert_eq!((request.metadata["team"].as_str(), request.test), ("x", true));
    assert_eq!(request.overrides["apns"]["sound"], "ping");
    for each in &made {
        assert_eq!(each.id, id::notification(each.submitted_at, request.id, &pepper().recipient(&each.recipient)));
        assert_eq!((each.app.as_str(), each.submitted_at), ("shop", "2026-03-01T12:00:00Z".parse().unwrap()));
    }
}

#[test]
fn numbers_keep_their_digits() {
    let text = r#"{"category": "c", "recipients": ["ada"], "template": "t",
        "data": {"b": 100.00, "a": [ 9400000000000000000001, -0, {"c d": 1E+3} ], "e": "1.50 \" x" }}"#;
    let made = notifications(decide(submitted(None, text)));
    let Message::Template { data, .. } = &made[0].request.message else { panic!("{made:?}") };
    assert_eq!(data.as_str(), r#"{"b":100.00,"a":[9400000000000000000001,-0,{"c d":1E+3}],"e":"1.50 \" x"}"#);

    let data = format!("{{\"a\": 1.{}}}", "0".repeat(70_000));
    let endless = format!(r#"{{"category": "c", "recipients": ["ada"], "template": "t", "data": {data}}}"#);
    let (reason, violations, _) = rejection(decide(submitted(None, endless)));
    assert!(violations[0].starts_with("data: 700"), "{reason:?} {violations:?}");
}

#[test]
fn camel_case_spellings_mean_the_same() {
    let own = j!({
        "category": "c", "recipients": [{"user": "ada"}, {"email": "a@example.com", "timezone": "UTC"}], "template": "t",
        "idempotency_key": "k", "send_at": "2026-03-02T00:00:00Z", "expires_at": "2026-03-03T00:00:00Z", "collapse_key": "c",
        "transaction_id": "x", "data": {"userId": 1}
    });
    let other = j!({
        "category": "c", "recipients": [{"userId": "ada"}, {"email": "a@example.com", "timeZone": "UTC"}], "templateType": "t",
        "idempotencyKey": "k", "sendAt": "2026-03-02T00:00:00Z", "expiresAt": "2026-03-03T00:00:00Z", "collapseKey": "c",
        "transactionId": "x", "data": {"userId": 1}
    });
    assert_eq!(notifications(decide(json(&own))), notifications(decide(json(&other))));
}

#[test]
fn optional_fields_may_be_null() {
    let value = j!({"id": null, "category": "c", "recipients": ["ada"], "template": "t", "content": null, "channels": null, "send_at": null});
    assert_eq!(notifications(decide(json(&value))).len(), 1);
}

#[test]
fn the_idempotency_key_is_the_field_else_the_header_else_the_id() {
    let plain = j!({"category": "c", "recipients": ["ada"], "template": "t"});
    let mut with_header = json(&plain);
    with_header.incoming.message_id = Some("from-header".into());
    assert_eq!(notifications(decide(with_header.clone()))[0].request.idempotency_key, "from-header");
    with_header.incoming.payload = serde_json::to_vec(&full()).unwrap().into();
    assert_eq!(notifications(decide(with_header))[0].request.idempotency_key, "k");

    let made = notifications(decide(json(&plain)));
    assert_eq!(made[0].request.id, id::request("notify.submit.normal.shop", made[0].submitted_at, 7));
    assert_eq!(made[0].request.idempotency_key, made[0].request.id.to_string());
    let mut empty_header = json(&plain);
    empty_header.incoming.message_id = Some("".into());
    assert_eq!(notifications(decide(empty_header)), made);
}

#[test]
fn only_a_well_formed_traceparent_is_kept() {
    let kept = |text: &str| {
        let mut message = json(&full());
        message.incoming.traceparent = Some(text.into());
        notifications(decide(message))[0].request.traceparent.clone()
    };
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(kept(good).as_deref(), Some(good));
    let later = good.replacen("00", "cc", 1);
    assert_eq!(
        kept(&format!("{later}-more")).as_deref(),
        Some(later.as_str()),
        "a later version, read as far as known"
    );
    for bad in [
        "",
        "00",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0é",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
    ] {
        assert_eq!(kept(bad), None, "{bad}");
    }
}

#[test]
fn a_thousand_recipients_are_taken_and_one_more_is_not() {
    let to = |n: usize| {
        let recipients: Vec<String> = (0..n).map(|i| format!("user-{i}")).collect();
        decide(json(&j!({"category": "c", "recipients": recipients, "template": "t"})))
    };
    assert_eq!(notifications(to(1_000)).len(), 1_000);
    assert_eq!(rejection(to(1_001)).1, ["recipients: has more than 1000 items"]);
}

#[test]
fn a_repeated_recipient_gets_one_notification_and_the_trace_says_so() {
    let decision = decide(json(&j!({
        "category": "c", "template": "t",
        "recipients": ["ada", {"user": "ada"}, {"email": "Bob@example.com"}, {"email": "bob@EXAMPLE.com"}, "bob@example.com"]
    })));
    assert_eq!(decision.attributes, [("repeated_recipients".into(), "2".into())]);
    assert_eq!(notifications(decision).len(), 3);
}

#[test]
fn what_has_expired_on_arrival_goes_on_to_be_accounted_for() {
    let value = j!({"category": "c", "recipients": ["ada"], "template": "t", "expires_at": "2020-01-01T00:00:00Z"});
    assert_eq!(notifications(decide(json(&value))).len(), 1);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e15..1e15f64).prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".*", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn there_is_one_notification_per_distinct_recipient_in_either_format(
        users in prop::collection::vec("[a-e]{1,2}", 1..40),
        data in prop::collection::btree_map("[a-zA-Z]{1,8}", any_json(), 0..4),
    ) {
        let value = j!({"category": "c", "recipients": users, "template": "t", "data": data});
        let made = notifications(decide(json(&value)));
        let distinct: HashSet<_> = users.iter().collect();
        prop_assert_eq!(made.len(), distinct.len());
        prop_assert_eq!(made.iter().map(|each| each.id).collect::<HashSet<_>>().len(), distinct.len());
        // Again, and as MessagePack.
        prop_assert_eq!(&notifications(decide(json(&value))), &made);
        let packed = submitted(Some("application/msgpack"), rmp_serde::to_vec(&value).unwrap());
        prop_assert_eq!(&notifications(decide(packed)), &made);
    }
}

#[test]
fn what_has_several_spellings_goes_on_in_one() {
    let submission = |category: &str, locale: &str, recipients: Value| {
        let value = j!({"category": category, "recipients": recipients, "locale": locale, "content": {"body": "b"}});
        notifications(decide(json(&value)))
    };
    let made = submission(
        "Marketing",
        "iw_il",
        j!([
            {"phone": "+1 (555) 201-0199", "timezone": "asia/calcutta", "locale": "zh_tw"},
            {"phone": "0015552010199"},
            {"phone": "+15552010199"},
            {"email": "ada@BÜCHER.example"},
            {"email": "ada@xn--bcher-kva.example"},
        ]),
    );
    assert_eq!(made.len(), 2, "one phone, one mailbox");
    assert_eq!((made[0].request.category.as_str(), made[0].request.locale.as_deref()), ("marketing", Some("he-IL")));
    let inline = |at: usize| match &made[at].recipient {
        Recipient::Inline(contacts) => contacts.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (inline(0).phones[0].as_str(), inline(1).emails[0].as_str()),
        ("+15552010199", "ada@xn--bcher-kva.example")
    );
    assert_eq!((inline(0).timezone.as_deref(), inline(0).locale.as_deref()), (Some("Asia/Calcutta"), Some("zh-TW")));
    let same = submission("marketing", "he-IL", j!([{"phone": "+1-555-201-0199"}]));
    assert_eq!(pepper().recipient(&same[0].recipient), pepper().recipient(&made[0].recipient), "one idempotency key");
}
