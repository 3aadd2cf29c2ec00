//! From a delivery to the request that push services want ([RFC 8030, 5](https://www.rfc-editor.org/rfc/rfc8030#section-5)).
//!
//! The message is JSON for our own service worker: `title`, `body`, `url`, `tag` (the collapse key, for
//! `showNotification`), `notification_id` and `delivery_id`. Pure but for encryption, which draws a key.

use chasqui_contract::{Answer, Outcome, Shortened};
use chasqui_schemas::{Delivery, Lane};
use jiff::Timestamp;
use reqwest::{
    Method, Request,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Map, Value};

use super::{NAME, OVERRIDES, encrypt, subscription::Subscription};
use crate::{payload, push};

/// What of a message a person reads, the less important first.
const TEXTS: &[&str] = &["/body", "/title"];
/// Longest topic, in characters of base64url.
const MAX_TOPIC: usize = 32;

/// The request, but for the authorization; and what was cut off its texts.
pub(super) fn request(
    subscription: &Subscription,
    delivery: &Delivery,
    now: Timestamp,
) -> Result<(Request, Option<Shortened>), Box<Answer>> {
    let mut message = message(delivery);
    let shortened = push::fit(&mut message, TEXTS, encrypt::MAX_MESSAGE)?;
    let body = encrypt::encrypt(subscription, message.to_string().as_bytes()).map_err(|_| {
        Answer::new(Outcome::Refused, "encryption", "the subscription's key is not a point on the curve")
    })?;
    let mut request = Request::new(Method::POST, subscription.endpoint.clone());
    *request.headers_mut() = headers(delivery, now);
    *request.body_mut() = Some(body.into());
    Ok((request, shortened))
}

fn message(delivery: &Delivery) -> Value {
    let content = &delivery.content;
    let mut message = Map::new();
    let texts =
        [("title", &content.title), ("body", &content.body), ("url", &content.url), ("tag", &delivery.collapse_key)];
    for (key, text) in texts {
        if let Some(text) = text {
            message.insert(key.to_owned(), text.as_str().into());
        }
    }
    payload::lay_over(&mut message, delivery, NAME, OVERRIDES.never);
    push::put_ids(&mut message, delivery);
    Value::Object(message)
}

fn headers(delivery: &Delivery, now: Timestamp) -> HeaderMap {
    let urgency = match delivery.lane {
        Lane::Critical | Lane::High => "high",
        Lane::Normal => "normal",
        Lane::Bulk => "low",
    };
    // Push services insist on it, and shorten what is longer than they like.
    let ttl_s = push::seconds_left(delivery, now).unwrap_or(push::MAX_TTL_S).min(push::MAX_TTL_S);
    let mut headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CONTENT_ENCODING, HeaderValue::from_static("aes128gcm")),
        (HeaderName::from_static("ttl"), HeaderValue::from(ttl_s)),
        (HeaderName::from_static("urgency"), HeaderValue::from_static(urgency)),
    ]);
    if let Some(key) = &delivery.collapse_key {
        let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        // Fit for a header by its alphabet.
        if let Ok(topic) = HeaderValue::from_str(&push::collapse_key(key, MAX_TOPIC, is_base64url)) {
            headers.insert(HeaderName::from_static("topic"), topic);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::{Channel, submission::Content};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        testing::{at, delivery_by, overridden},
        webpush::encrypt::tests::Browser,
    };

    fn header(headers: &HeaderMap, name: &str) -> Option<String> {
        headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_delivery_becomes_a_message_that_only_its_browser_reads() {
        let browser = Browser::new();
        let subscription = Subscription {
            endpoint: "https://push.example.net/push/abc".parse().unwrap(),
            public_key: browser.public,
            auth: browser.auth,
        };
        let mut delivery = Delivery { collapse_key: Some("order-1042".into()), ..delivery_by(Channel::Push) };
        delivery.content.url = Some("https://shop.example/1042".into());
        let over = json!({ "icon": "/i.png", "url": null, "delivery_id": "mine" });
        let delivery = overridden(delivery, NAME, over);
        let (request, _) = request(&subscription, &delivery, at(0)).unwrap();
        assert_eq!((request.method(), request.url()), (&Method::POST, &subscription.endpoint));
        let plain = browser.decrypt(request.body().unwrap().as_bytes().unwrap());
        let expected = json!({
            "title": "Your order",
            "body": "It is on its way.",
            "tag": "order-1042",
            "icon": "/i.png",
            "notification_id": delivery.notification_id,
            "delivery_id": delivery.id,
        });
        assert_eq!(serde_json::from_slice::<Value>(&plain).unwrap(), expected);
    }

    #[test]
    fn headers_are_those_of_the_rfcs() {
        let of = |lane, expires_at, key: Option<&str>| {
            let key = key.map(str::to_owned);
            headers(&Delivery { lane, expires_at, collapse_key: key, ..delivery_by(Channel::Push) }, at(0))
        };
        let found = of(Lane::Normal, None, None);
        for (name, value) in [
            ("content-encoding", Some("aes128gcm")),
            ("content-type", Some("application/octet-stream")),
            ("ttl", Some("2419200")),
            ("urgency", Some("normal")),
            ("topic", None),
        ] {
            assert_eq!(header(&found, name).as_deref(), value, "{name}");
        }
        for (lane, urgency) in [(Lane::Critical, "high"), (Lane::High, "high"), (Lane::Bulk, "low")] {
            assert_eq!(header(&of(lane, None, None), "urgency").as_deref(), Some(urgency));
        }
        for (seconds, ttl) in [(-5, "0"), (90, "90"), (100 * 24 * 60 * 60, "2419200")] {
            assert_eq!(header(&of(Lane::Bulk, Some(at(seconds)), None), "ttl").as_deref(), Some(ttl));
        }
        assert_eq!(header(&of(Lane::Bulk, None, Some("order-1042")), "topic").as_deref(), Some("order-1042"));
    }

    #[test]
    fn a_message_too_large_is_shortened_by_its_texts_alone() {
        let browser = Browser::new();
        let endpoint = "https://push.example.net/".parse().unwrap();
        let subscription = Subscription { endpoint, public_key: browser.public, auth: browser.auth };
        let of = |text: String, url: Option<String>| Delivery {
            content: Content { title: Some("t".into()), body: Some(text), url, ..Content::default() },
            ..delivery_by(Channel::Push)
        };
        let sent = |delivery: &Delivery| request(&subscription, delivery, at(0));
        let room = encrypt::MAX_MESSAGE - message(&of(String::new(), None)).to_string().len();
        assert_eq!(sent(&of("x".repeat(room), None)).unwrap().1, None);
        let (shortest, shortened) = sent(&of("x".repeat(room + 1), None)).unwrap();
        let expected = Shortened { texts: "body".into(), bytes: 1 };
        assert_eq!(shortened, Some(expected));
        let plain = browser.decrypt(shortest.body().unwrap().as_bytes().unwrap());
        let plain: Value = serde_json::from_slice(&plain).unwrap();
        assert_eq!(plain["body"], format!("{}…", "x".repeat(room - 3)));
        assert_eq!(plain["title"], "t");
        let refused = sent(&of("b".into(), Some("u".repeat(encrypt::MAX_MESSAGE)))).unwrap_err();
        assert_eq!((refused.outcome, refused.code.as_str()), (Outcome::Refused, "too_large"));
    }

    proptest! {
        #[test]
        fn a_topic_is_32_characters_of_base64url_at_most(key in ".{1,64}") {
            let headers = headers(&Delivery { collapse_key: Some(key), ..delivery_by(Channel::Push) }, at(0));
            let topic = header(&headers, "topic").unwrap();
            prop_assert!(topic.len() <= MAX_TOPIC);
            prop_assert!(topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        }
    }
}
