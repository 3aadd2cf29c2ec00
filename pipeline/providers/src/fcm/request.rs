//! From a delivery to the message that Google wants.
//!
//! Source: the discovery document of the [FCM HTTP v1 API](https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages),
//! against which the tests check every message. Pure.

use chasqui_contract::{Answer, Shortened};
use chasqui_schemas::{Delivery, Lane, record::Platform};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{NAME, OVERRIDES};
use crate::{payload, push};

/// Largest body without the token, in bytes. Google counts the payload alone, without saying how; here all of it counts,
/// because what Google finds too large it may call an invalid argument, as it does a bad token.
const MAX_BODY: usize = 4_096;
/// What of a body a person reads, the less important first.
const TEXTS: &[&str] = &[
    "/message/notification/body",
    "/message/android/notification/body",
    "/message/notification/title",
    "/message/android/notification/title",
];
/// Where an Android device's data may stand instead, and then hides the message's.
const OTHER_DATA: [&str; 2] = ["android", "androidV2"];

/// The body of `messages:send`, and what was cut off its texts.
pub(super) fn body(delivery: &Delivery, now: Timestamp) -> Result<(String, Option<Shortened>), Box<Answer>> {
    let token = push::token(delivery, Platform::Android)?;
    let mut message = message(delivery, now);
    message.insert("token".to_owned(), "".into());
    let mut body = json!({ "message": message });
    let shortened = push::fit(&mut body, TEXTS, MAX_BODY)?;
    // It takes registration tokens and Firebase installation ids alike.
    body["message"]["token"] = token.into();
    Ok((body.to_string(), shortened))
}

/// The message without its target. With neither title nor body it is a data message: the app wakes, nothing shows.
fn message(delivery: &Delivery, now: Timestamp) -> Map<String, Value> {
    let content = &delivery.content;
    let mut message = Map::new();
    for (key, text) in [("title", &content.title), ("body", &content.body)] {
        if let Some(text) = text {
            payload::edit(&mut message, "notification", |shown| _ = shown.insert(key.to_owned(), text.as_str().into()));
        }
    }
    if let Some(url) = &content.url {
        payload::edit(&mut message, "data", |data| _ = data.insert("url".to_owned(), url.as_str().into()));
    }
    payload::edit(&mut message, "android", |android| {
        let priority = if delivery.lane <= Lane::High { "HIGH" } else { "NORMAL" };
        android.insert("priority".to_owned(), priority.into());
        if let Some(seconds) = push::seconds_left(delivery, now) {
            android.insert("ttl".to_owned(), format!("{}s", seconds.min(push::MAX_TTL_S)).into());
        }
        if let Some(key) = &delivery.collapse_key {
            android.insert("collapseKey".to_owned(), key.as_str().into());
            // The collapse key replaces what waits at Google, the tag what the device shows.
            payload::edit(android, "notification", |shown| _ = shown.insert("tag".to_owned(), key.as_str().into()));
        }
    });
    payload::lay_over(&mut message, delivery, NAME, OVERRIDES.never);

    payload::edit(&mut message, "data", |data| push::put_ids(data, delivery));
    for platform in OTHER_DATA {
        if message.get(platform).is_some_and(|platform| platform.get("data").is_some()) {
            payload::edit(&mut message, platform, |platform| {
                payload::edit(platform, "data", |data| push::put_ids(data, delivery));
            });
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::{
        testing::{at, delivery_by, delivery_to, overridden},
        vendor_spec::Spec,
    };
    use chasqui_contract::Outcome;
    use chasqui_schemas::{Channel, delivery::Address, submission::Content};
    use proptest::prelude::*;

    /// Google's own words for a request: the discovery document's schemas, made JSON Schema.
    static SPEC: LazyLock<Spec> = LazyLock::new(|| {
        let mut document: Value = serde_json::from_str(include_str!("../../specs/fcm.v1.discovery.json")).unwrap();
        let mut schemas = document["schemas"].take();
        translate(&mut schemas);
        Spec::new(json!({ "schemas": schemas }), "/schemas/SendMessageRequest")
    });

    /// References are by name, `any` is no type, and `id` is a schema's name, which in JSON Schema is its base address.
    fn translate(schema: &mut Value) {
        match schema {
            Value::Object(fields) => {
                if let Some(Value::String(name)) = fields.get_mut("$ref") {
                    *name = format!("#/schemas/{name}");
                }
                if fields.get("type").is_some_and(|kind| kind == "any") {
                    fields.remove("type");
                }
                if fields.get("format").is_some_and(|format| format == "google-duration") {
                    fields.insert("pattern".into(), r"^\d+(\.\d{1,9})?s$".into());
                }
                if fields.contains_key("properties") && fields.contains_key("id") {
                    fields.remove("id");
                }
                fields.values_mut().for_each(translate);
            }
            Value::Array(items) => items.iter_mut().for_each(translate),
            _ => {}
        }
    }

    fn built(delivery: &Delivery) -> Value {
        let body: Value = serde_json::from_str(&body(delivery, at(0)).unwrap().0).unwrap();
        SPEC.check(&body).unwrap_or_else(|problem| panic!("{problem}: {body}"));
        body
    }

    fn android() -> Delivery {
        delivery_by(Channel::Push)
    }

    #[test]
    fn a_delivery_becomes_the_message_of_googles_document() {
        let mut delivery = Delivery {
            lane: Lane::High,
            expires_at: Some(at(90)),
            collapse_key: Some("order-1042".into()),
            ..android()
        };
        delivery.content.url = Some("https://shop.example/1042".into());
        let expected = json!({ "message": {
            "token": "token-1",
            "notification": { "title": "Your order", "body": "It is on its way." },
            "data": {
                "url": "https://shop.example/1042",
                "notification_id": delivery.notification_id,
                "delivery_id": delivery.id,
            },
            "android": {
                "priority": "HIGH",
                "ttl": "90s",
                "collapseKey": "order-1042",
                "notification": { "tag": "order-1042" },
            },
        } });
        assert_eq!(built(&delivery), expected);
    }

    #[test]
    fn the_checker_refuses_a_broken_message() {
        let good = built(&android());
        for (at, value) in [
            ("/message/android/priority", json!("high")),
            ("/message/android/ttl", json!("90")),
            ("/message/android/ttl", json!(90)),
            ("/message/data/delivery_id", json!(7)),
            ("/message/notification", json!({ "titel": "x" })),
            ("/message/notification/title", json!(null)),
            ("/message", json!([])),
        ] {
            let mut broken = good.clone();
            match broken.pointer_mut(at) {
                Some(place) => *place = value,
                None => {
                    let (parent, key) = at.rsplit_once('/').unwrap();
                    broken.pointer_mut(parent).unwrap()[key] = value;
                }
            }
            assert!(SPEC.check(&broken).is_err(), "{at}: {broken}");
        }
    }

    #[test]
    fn lanes_and_expiry_are_googles_priority_and_ttl() {
        for (lane, priority) in
            [(Lane::Critical, "HIGH"), (Lane::High, "HIGH"), (Lane::Normal, "NORMAL"), (Lane::Bulk, "NORMAL")]
        {
            assert_eq!(built(&Delivery { lane, ..android() })["message"]["android"]["priority"], priority);
        }
        for (expires_at, ttl) in [
            (None, Value::Null),
            (Some(at(-5)), json!("0s")),
            (Some(at(0) + jiff::SignedDuration::from_millis(1_900)), json!("1s")),
            (Some(at(100 * 24 * 60 * 60)), json!("2419200s")),
        ] {
            assert_eq!(built(&Delivery { expires_at, ..android() })["message"]["android"]["ttl"], ttl);
        }
    }

    #[test]
    fn nothing_to_show_is_a_data_message() {
        let message = built(&Delivery { content: Content::default(), ..android() });
        assert!(message["message"].get("notification").is_none());
        assert!(message["message"]["data"]["delivery_id"].is_string());
    }

    #[test]
    fn overrides_reach_the_message_but_neither_its_target_nor_our_ids() {
        let over = json!({
            "token": "another", "topic": "everyone", "condition": "'a' in topics", "fid": "x",
            "data": { "color": "red", "delivery_id": "mine" },
            "android": { "data": { "only": "this" }, "notification": { "channelId": "orders" } },
        });
        let delivery = overridden(android(), NAME, over);
        let built = built(&delivery);
        let message = &built["message"];
        assert_eq!((&message["token"], &message["data"]["color"]), (&json!("token-1"), &json!("red")));
        for target in ["condition", "fid", "topic"] {
            assert!(message.get(target).is_none(), "{target}");
        }
        assert_eq!(message["android"]["notification"]["channelId"], "orders");
        assert_eq!(message["android"]["data"]["only"], "this");
        for data in [&message["data"], &message["android"]["data"]] {
            assert_eq!(data["delivery_id"], json!(delivery.id));
            assert_eq!(data["notification_id"], json!(delivery.notification_id));
        }
    }

    #[test]
    fn a_message_too_large_is_shortened_by_its_texts_alone_and_a_long_token_costs_nothing() {
        let mut large = android();
        large.content.body = Some("가".repeat(2_000));
        let (sent, shortened) = body(&large, at(0)).unwrap();
        assert!((MAX_BODY - 2..=MAX_BODY + "token-1".len()).contains(&sent.len()), "{}", sent.len());
        assert_eq!(shortened.unwrap().texts, "body");
        let message = built(&large);
        let text = message["message"]["notification"]["body"].as_str().unwrap();
        assert!(text.len() > 3_000 && text.ends_with("가…"), "{text}");
        assert_eq!(message["message"]["notification"]["title"], "Your order");
        let theirs = overridden(android(), NAME, json!({ "data": { "more": "x".repeat(MAX_BODY) } }));
        let answer = body(&theirs, at(0)).unwrap_err();
        assert_eq!((answer.outcome, answer.code.as_str()), (Outcome::Refused, "too_large"));
        let token = "t".repeat(MAX_BODY);
        let address = Address::Device { platform: Platform::Android, token, registered_at: None };
        assert!(body(&delivery_to(address), at(0)).is_ok());
    }

    #[test]
    fn another_platforms_device_is_a_wrong_route() {
        let address = Address::Device { platform: Platform::Ios, token: "0a".into(), registered_at: None };
        for wrong in [delivery_to(address), delivery_by(Channel::Sms)] {
            assert_eq!(body(&wrong, at(0)).unwrap_err().outcome, Outcome::Misconfigured);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_the_message_is_googles(
            title in prop::option::of(".{0,40}"), text in prop::option::of(".{0,40}"), url in prop::option::of(".{0,40}"),
            key in prop::option::of(".{1,64}"), token in ".{1,80}", expires_s in prop::option::of(any::<i32>()),
        ) {
            let content = Content { title, body: text, url, ..Content::default() };
            let address = Address::Device { platform: Platform::Android, token, registered_at: None };
            let expires_at = expires_s.map(|seconds| at(seconds.into()));
            built(&Delivery { content, collapse_key: key, expires_at, ..delivery_to(address) });
        }
    }
}
