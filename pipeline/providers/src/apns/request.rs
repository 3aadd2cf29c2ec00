//! From a delivery to the request that Apple wants.
//!
//! Source: [Sending notification requests to APNs](https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns)
//! (headers), [Generating a remote notification](https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification)
//! (payload). Pure.

use chasqui_contract::{Answer, Outcome, Shortened};
use chasqui_schemas::{Delivery, Lane, record::Platform};
use jiff::Timestamp;
use reqwest::{
    Method, Request, Url,
    header::{HeaderName, HeaderValue},
};
use serde_json::{Map, Value};

use super::{NAME, OVERRIDES};
use crate::{http, payload, push};

/// Largest payload, in bytes.
const MAX_PAYLOAD: usize = 4_096;
/// What of a payload a person reads, the less important first.
const TEXTS: &[&str] = &["/aps/alert/body", "/aps/alert", "/aps/alert/title"];
/// Largest collapse id, in bytes.
const MAX_COLLAPSE_ID: usize = 64;
/// What of an `aps` a person sees or hears: without any of it, it is a background message.
const VISIBLE: [&str; 3] = ["alert", "badge", "sound"];

/// The request, but for the authorization; and what was cut off its texts.
pub(super) fn request(
    base: &Url,
    topic: &str,
    delivery: &Delivery,
    now: Timestamp,
) -> Result<(Request, Option<Shortened>), Box<Answer>> {
    let token = push::token(delivery, Platform::Ios)?;
    let mut request = Request::new(Method::POST, http::below(base.clone(), &["3", "device", token]));

    let (body, background) = body(delivery);
    let mut body = Value::Object(body);
    let shortened = push::fit(&mut body, TEXTS, MAX_PAYLOAD)?;
    *request.body_mut() = Some(body.to_string().into());

    let mut headers = vec![
        ("apns-id", delivery.id.to_string()),
        ("apns-topic", topic.to_owned()),
        ("apns-push-type", if background { "background" } else { "alert" }.to_owned()),
        ("apns-priority", if background || delivery.lane == Lane::Bulk { "5" } else { "10" }.to_owned()),
    ];
    if let Some(expires_at) = delivery.expires_at {
        let stored_until = expires_at.as_second();
        // In this very second: one try, and nothing stored.
        headers.push(("apns-expiration", if stored_until > now.as_second() { stored_until } else { 0 }.to_string()));
    }
    if let Some(key) = &delivery.collapse_key {
        let id = push::collapse_key(key, MAX_COLLAPSE_ID, |byte| byte.is_ascii_graphic());
        headers.push(("apns-collapse-id", id.into_owned()));
    }
    for (name, value) in headers {
        let value = HeaderValue::try_from(value)
            .map_err(|_| Answer::new(Outcome::Refused, "header", format!("`{name}` is not fit for a header")))?;
        request.headers_mut().insert(HeaderName::from_static(name), value);
    }
    Ok((request, shortened))
}

/// The payload, and whether it is a background message: one with nothing to show wakes the app.
fn body(delivery: &Delivery) -> (Map<String, Value>, bool) {
    let content = &delivery.content;
    let mut body = Map::new();
    payload::edit(&mut body, "aps", |aps| {
        for (key, text) in [("title", &content.title), ("body", &content.body)] {
            if let Some(text) = text {
                payload::edit(aps, "alert", |alert| _ = alert.insert(key.to_owned(), text.as_str().into()));
            }
        }
    });
    if let Some(url) = &content.url {
        body.insert("url".to_owned(), url.as_str().into());
    }
    payload::lay_over(&mut body, delivery, NAME, OVERRIDES.never);
    push::put_ids(&mut body, delivery);
    let mut background = false;
    payload::edit(&mut body, "aps", |aps| {
        background = !VISIBLE.iter().any(|key| aps.contains_key(*key));
        if background {
            aps.insert("content-available".to_owned(), 1.into());
        }
    });
    (body, background)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{at, delivery_by, delivery_to, overridden};
    use chasqui_schemas::{Channel, delivery::Address, submission::Content};

    fn ios() -> Delivery {
        delivery_to(Address::Device { platform: Platform::Ios, token: "0a1b".into(), registered_at: None })
    }

    fn built(delivery: &Delivery) -> Request {
        let base = Url::parse("https://api.push.apple.com").unwrap();
        request(&base, "com.example.shop", delivery, at(0)).unwrap().0
    }

    fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
        request.headers().get(name).map(|value| value.to_str().unwrap())
    }

    fn body(request: &Request) -> Value {
        serde_json::from_slice(request.body().unwrap().as_bytes().unwrap()).unwrap()
    }

    #[test]
    fn a_delivery_becomes_the_request_of_apples_page() {
        let mut delivery = Delivery { expires_at: Some(at(90)), collapse_key: Some("order-1042".into()), ..ios() };
        delivery.content.url = Some("https://shop.example/1042".into());
        let request = built(&delivery);
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.url().as_str(), "https://api.push.apple.com/3/device/0a1b");
        for (name, value) in [
            ("apns-id", delivery.id.to_string().as_str()),
            ("apns-topic", "com.example.shop"),
            ("apns-push-type", "alert"),
            ("apns-priority", "10"),
            ("apns-expiration", at(90).as_second().to_string().as_str()),
            ("apns-collapse-id", "order-1042"),
        ] {
            assert_eq!(header(&request, name), Some(value), "{name}");
        }
        let expected = json!({
            "aps": { "alert": { "title": "Your order", "body": "It is on its way." } },
            "url": "https://shop.example/1042",
            "notification_id": delivery.notification_id,
            "delivery_id": delivery.id,
        });
        assert_eq!(body(&request), expected);
    }

    #[test]
    fn bulk_is_of_low_priority_and_nothing_else_is() {
        for (lane, priority) in [(Lane::Critical, "10"), (Lane::High, "10"), (Lane::Normal, "10"), (Lane::Bulk, "5")] {
            assert_eq!(header(&built(&Delivery { lane, ..ios() }), "apns-priority"), Some(priority), "{lane}");
        }
    }

    #[test]
    fn what_shows_nothing_is_a_background_message_of_priority_5() {
        let silent = Delivery { lane: Lane::Critical, content: Content::default(), ..ios() };
        let emptied = overridden(ios(), NAME, json!({ "aps": { "alert": null } }));
        for delivery in [silent, emptied] {
            let request = built(&delivery);
            assert_eq!(header(&request, "apns-push-type"), Some("background"));
            assert_eq!(header(&request, "apns-priority"), Some("5"));
            assert_eq!(body(&request)["aps"], json!({ "content-available": 1 }));
        }
    }

    #[test]
    fn an_expiry_is_its_second_and_one_within_this_second_stores_nothing() {
        let expiration = |expires_at| {
            let request = built(&Delivery { expires_at, ..ios() });
            header(&request, "apns-expiration").map(str::to_owned)
        };
        assert_eq!(expiration(None), None);
        assert_eq!(expiration(Some(at(0) + jiff::SignedDuration::from_millis(900))).as_deref(), Some("0"));
        assert_eq!(expiration(Some(at(1))), Some(at(1).as_second().to_string()));
    }

    #[test]
    fn overrides_reach_the_payload_but_not_our_ids() {
        let over = json!({ "aps": { "sound": "default", "badge": 3 }, "delivery_id": "mine", "notification_id": null });
        let delivery = overridden(ios(), NAME, over);
        let body = body(&built(&delivery));
        assert_eq!(body["aps"]["sound"], "default");
        assert_eq!(body["aps"]["alert"]["title"], "Your order");
        assert_eq!(body["delivery_id"], json!(delivery.id));
        assert_eq!(body["notification_id"], json!(delivery.notification_id));
    }

    #[test]
    fn a_payload_of_4096_bytes_passes_and_a_larger_one_is_shortened() {
        let base = Url::parse("https://api.push.apple.com").unwrap();
        let of = |length: usize, over: Value| {
            let mut delivery = overridden(ios(), NAME, over);
            delivery.content.body = Some("x".repeat(length));
            request(&base, "t", &delivery, at(0))
        };
        let bytes = |request: &Request| request.body().unwrap().as_bytes().unwrap().len();
        let overhead = bytes(&of(0, json!({})).unwrap().0);
        let (whole, shortened) = of(4_096 - overhead, json!({})).unwrap();
        assert_eq!((bytes(&whole), shortened), (4_096, None));
        let (cut, shortened) = of(4_097 - overhead, json!({})).unwrap();
        assert_eq!((bytes(&cut), shortened.unwrap().texts.as_str()), (4_096, "body"));
        assert_eq!(body(&cut)["aps"]["alert"]["title"], "Your order");

        let (theirs, shortened) = of(0, json!({ "aps": { "alert": "가".repeat(2_000) } })).unwrap();
        assert!(bytes(&theirs) <= 4_096 && shortened.unwrap().texts == "alert", "an override's text too");
        let (beside, _) = of(500, json!({ "more": "x".repeat(3_600) })).unwrap();
        assert_eq!(bytes(&beside), 4_096, "what is beside the text counts");
        let refused = of(4_000, json!({ "more": "x".repeat(4_096) })).unwrap_err();
        assert_eq!((refused.outcome, refused.code.as_str()), (Outcome::Refused, "too_large"));
    }

    #[test]
    fn another_platforms_device_is_a_wrong_route() {
        let base = Url::parse("https://api.push.apple.com").unwrap();
        for channel in [Channel::Push, Channel::Email] {
            let answer = request(&base, "t", &delivery_by(channel), at(0)).unwrap_err();
            assert_eq!(answer.outcome, Outcome::Misconfigured);
        }
    }

    proptest! {
        #[test]
        fn no_key_and_no_token_breaks_the_request(key in ".{1,64}", token in ".{1,80}") {
            let address = Address::Device { platform: Platform::Ios, token, registered_at: None };
            let request = built(&Delivery { collapse_key: Some(key), ..delivery_to(address) });
            prop_assert!(header(&request, "apns-collapse-id").unwrap().len() <= MAX_COLLAPSE_ID);
            prop_assert!(request.url().path().starts_with("/3/device"));
            prop_assert!(request.url().query().is_none() && request.url().fragment().is_none());
        }
    }
}
