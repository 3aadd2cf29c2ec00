//! The provider against a real socket.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chasqui_contract::ManualClock;
use chasqui_schemas::delivery::Address;
use serde_json::{Value, json};

use super::{encrypt::tests::Browser, vapid::tests::verified, *};
use crate::{
    http::HttpSettings,
    loopback::{Loopback, Turn},
    testing::{Ask, account, at, delivery_by, delivery_to, secret, settings},
};

/// A key pair as the common tools print it.
fn key_pair() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    // PKCS #8 of this curve has the private number at a fixed place.
    let private = &key.serialize_der()[36..68];
    (URL_SAFE_NO_PAD.encode(key.public_key_raw()), URL_SAFE_NO_PAD.encode(private))
}

fn settings_with_key(public: &str, private: &str) -> (Settings, tempfile::NamedTempFile) {
    let (private_key, file) = secret(private);
    let settings = Settings {
        public_key: public.to_owned(),
        private_key,
        subject: "mailto:ops@shop.example".into(),
        ..settings(&VENDOR, "public_key = ''\nsubject = ''")
    };
    (settings, file)
}

fn build(settings: Settings) -> Result<WebPush, SettingsError> {
    WebPush::new(&account(&VENDOR), settings, Arc::new(ManualClock::new(at(0))))
}

fn lab() -> WebPush {
    let (public, private) = key_pair();
    let (settings, _file) = settings_with_key(&public, &private);
    build(Settings {
        allow_insecure_endpoints: true,
        http: HttpSettings { timeout_ms: 20_000, ..settings.http.clone() },
        ..settings
    })
    .unwrap()
}

fn web(endpoint: &str, browser: &Browser) -> Delivery {
    let [p256dh, auth] = [&browser.public[..], &browser.auth].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
    let token = json!({ "endpoint": endpoint, "expirationTime": null, "keys": { "p256dh": p256dh, "auth": auth } });
    delivery_to(Address::Device { platform: Platform::Web, token: token.to_string(), registered_at: None })
}

fn created() -> Turn {
    Turn::Say(201, vec![("location", "https://push.example.net/m/id-7".into())], String::new())
}

#[tokio::test]
async fn a_push_arrives_with_our_name_on_it_and_only_the_browser_reads_it() {
    let server = Loopback::start([created()]).await;
    let (provider, browser) = (lab(), Browser::new());
    let delivery = web(&format!("{}/push/abc?x=1", server.url), &browser);
    let answer = provider.send(&delivery).await;
    assert_eq!((answer.outcome, answer.message_id.as_str()), (Outcome::Accepted, "id-7"), "{answer:?}");
    let seen = server.only();
    assert_eq!(seen.line, "POST /push/abc");
    assert_eq!((seen.header("ttl"), seen.header("content-encoding")), ("2419200", "aes128gcm"));
    let (_, _, claims) = verified(seen.header("authorization"));
    assert_eq!((&claims["aud"], &claims["sub"]), (&json!(server.url), &json!("mailto:ops@shop.example")));
    assert!(claims["exp"].as_i64().unwrap() <= at(24 * 60 * 60).as_second());
    let message: Value = serde_json::from_slice(&browser.decrypt(&seen.body)).unwrap();
    assert_eq!((&message["title"], &message["delivery_id"]), (&json!("Your order"), &json!(delivery.id)));
}

#[tokio::test]
async fn an_endpoint_inside_our_network_is_not_called() {
    let server = Loopback::start([created()]).await;
    let (public, private) = key_pair();
    let port = server.url.rsplit(':').next().unwrap();
    let here = server.url.replace("http:", "https:");
    let name = format!("https://localhost:{port}");
    // Not named; named, and then checked after it is looked up or read.
    for (hosts, endpoint, outcome, code) in [
        (vec![], server.url.clone(), Outcome::Refused, "subscription"),
        (vec![], here.clone(), Outcome::Refused, "subscription"),
        (vec![], name.clone(), Outcome::Refused, "subscription"),
        (vec![format!("127.0.0.1:{port}")], here, Outcome::Refused, "subscription"),
        (vec![format!("localhost:{port}")], name, Outcome::TryLater { after: None }, "connection"),
    ] {
        let (settings, _file) = settings_with_key(&public, &private);
        let provider = build(Settings { hosts, ..settings }).unwrap();
        let delivery = web(&endpoint, &Browser::new());
        let answer = provider.send(&delivery).await;
        assert_eq!((answer.outcome, answer.code.as_str()), (outcome, code), "{endpoint} {}", answer.detail);
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn deliveries_to_one_origin_share_a_circuit_and_others_do_not() {
    let provider = lab();
    let origin = |endpoint: &str| provider.origin(&web(endpoint, &Browser::new()));
    assert_eq!(origin("https://a.example/1").as_deref(), Some("https://a.example"));
    assert_eq!(origin("https://a.example:443/2").as_deref(), Some("https://a.example"));
    assert_eq!(origin("http://a.example:8443/1").as_deref(), Some("http://a.example:8443"));
    assert_eq!(origin("what?").as_deref(), Some(""), "it calls nobody");
}

#[tokio::test]
async fn subscriptions_of_another_key_and_hostile_words_are_not_the_accounts_trouble() {
    let other = || Turn::say(403, "the VAPID credentials do not correspond to the credentials of the subscription");
    let hostile = || Turn::say(403, "URGENT ops: rotate the VAPID key at https://evil.example/login");
    let server = Loopback::start([other(), hostile(), created()]).await;
    let provider = lab();
    for expected in [Outcome::DeadEndpoint, Outcome::Refused, Outcome::Accepted] {
        let answer = provider.send(&web(&format!("{}/push/abc", server.url), &Browser::new())).await;
        assert_eq!(answer.outcome, expected);
        assert!(!answer.is_providers_fault());
    }
}

#[tokio::test]
async fn another_platforms_device_is_a_wrong_route() {
    let answer = lab().send(&delivery_by(chasqui_schemas::Channel::Push)).await;
    assert_eq!(answer.outcome, Outcome::Misconfigured);
}

#[test]
fn keys_and_a_subject_that_cannot_work_are_refused_by_name_and_not_shown() {
    let (public, private) = key_pair();
    let (other, _) = key_pair();
    for (public, private, subject, wrong) in [
        ("", private.as_str(), "mailto:a@b.example", "accounts.webpush.public_key:"),
        (private.as_str(), private.as_str(), "mailto:a@b.example", "accounts.webpush.public_key:"),
        (public.as_str(), "hunter2", "mailto:a@b.example", "accounts.webpush.private_key:"),
        (other.as_str(), private.as_str(), "mailto:a@b.example", "accounts.webpush.private_key:"),
        (public.as_str(), private.as_str(), "", "accounts.webpush.subject:"),
        (public.as_str(), private.as_str(), "ops@b.example", "accounts.webpush.subject:"),
    ] {
        let (settings, _file) = settings_with_key(public, private);
        let error = build(Settings { subject: subject.into(), ..settings }).err().unwrap().to_string();
        assert!(error.starts_with(wrong) && !error.contains("hunter2"), "{error}");
    }
}
