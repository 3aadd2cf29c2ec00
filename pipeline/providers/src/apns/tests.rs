//! The provider against a real socket.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chasqui_contract::{ManualClock, Outcome};
use chasqui_schemas::delivery::Address;
use chasqui_schemas::record::Platform;
use jiff::SignedDuration;
use reqwest::Version;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::{Value, json};

use super::*;
use crate::{
    http::HttpSettings,
    loopback::{Loopback, Turn},
    testing::{Ask, account, at, delivery_to, secret, settings},
};

fn defaults() -> Settings {
    settings(&VENDOR, "key_id = ''\nteam_id = ''\ntopic = ''")
}

struct World {
    provider: Apns,
    clock: Arc<ManualClock>,
    key: rcgen::KeyPair,
}

impl World {
    fn new(server: &Loopback) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let (source, _file) = secret(&key.serialize_pem());
        let settings = Settings {
            key: source,
            key_id: "ABC123DEFG".into(),
            team_id: "DEF123GHIJ".into(),
            topic: "com.example.shop".into(),
            base_url: server.url.clone(),
            http: HttpSettings { timeout_ms: 20_000, ..defaults().http },
        };
        let clock = Arc::new(ManualClock::new(at(0)));
        let provider = Apns::new(&account(&VENDOR), settings, clock.clone()).unwrap();
        World { provider, clock, key }
    }

    async fn send(&self) -> Answer {
        self.provider.send(&ios()).await
    }

    /// The claims of an `Authorization`, once header and signature hold.
    fn claims(&self, authorization: &str) -> Value {
        let (message, signature) = authorization.strip_prefix("bearer ").unwrap().rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key_raw());
        public.verify(message.as_bytes(), &signature).unwrap();
        let [header, claims] = [0, 1].map(|i| URL_SAFE_NO_PAD.decode(message.split('.').nth(i).unwrap()).unwrap());
        let header: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!((&header["alg"], &header["kid"]), (&json!("ES256"), &json!("ABC123DEFG")));
        serde_json::from_slice(&claims).unwrap()
    }
}

fn ios() -> Delivery {
    delivery_to(Address::Device { platform: Platform::Ios, token: "0a1b2c".into(), registered_at: None })
}

fn ok() -> Turn {
    Turn::Say(200, vec![("apns-id", "EEBE9C84".into())], String::new())
}

fn refuse(status: u16, reason: &str) -> Turn {
    Turn::say(status, json!({ "reason": reason }).to_string())
}

#[tokio::test]
async fn a_push_goes_over_http_2_with_a_token_that_verifies() {
    let server = Loopback::start([ok()]).await;
    let world = World::new(&server);
    let answer = world.send().await;
    assert_eq!((answer.outcome, answer.message_id.as_str()), (Outcome::Accepted, "EEBE9C84"), "{answer:?}");
    let seen = server.only();
    assert_eq!((seen.version, seen.line.as_str()), (Version::HTTP_2, "POST /3/device/0a1b2c"));
    let claims = world.claims(seen.header("authorization"));
    assert_eq!(claims, json!({ "iss": "DEF123GHIJ", "iat": at(0).as_second() }));
    assert_eq!(seen.header("apns-id"), ios().id.to_string());
    assert_eq!(seen.json()["aps"]["alert"]["title"], "Your order");
}

#[tokio::test]
async fn one_connection_and_one_token_serve_40_minutes() {
    let server = Loopback::start((0..4).map(|_| ok())).await;
    let world = World::new(&server);
    for minutes in [0, 39, 1, 39] {
        world.clock.advance(SignedDuration::from_mins(minutes));
        assert_eq!(world.send().await.outcome, Outcome::Accepted);
    }
    let tokens: Vec<_> = server.seen().iter().map(|seen| seen.header("authorization").to_owned()).collect();
    assert!(tokens[0] == tokens[1] && tokens[1] != tokens[2] && tokens[2] == tokens[3], "{tokens:?}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_clock_set_back_sends_no_token_from_the_future() {
    let server = Loopback::start([ok(), ok()]).await;
    let world = World::new(&server);
    world.send().await;
    world.clock.advance(SignedDuration::from_mins(-10));
    world.send().await;
    assert_eq!(world.claims(server.seen()[1].header("authorization"))["iat"], at(-600).as_second());
}

#[tokio::test]
async fn a_token_called_expired_is_signed_again_once() {
    let expired = || refuse(403, "ExpiredProviderToken");
    let server = Loopback::start([expired(), ok(), ok(), expired(), expired()]).await;
    let world = World::new(&server);
    assert_eq!(world.send().await.outcome, Outcome::Accepted);
    assert_eq!(world.send().await.outcome, Outcome::Accepted);
    let tokens: Vec<_> = server.seen().iter().map(|seen| seen.header("authorization").to_owned()).collect();
    assert!(tokens[0] != tokens[1] && tokens[1] == tokens[2], "{tokens:?}");
    let answer = world.send().await;
    assert_eq!((answer.outcome, answer.code.as_str()), (Outcome::Misconfigured, "ExpiredProviderToken"));
    assert_eq!(server.seen().len(), 5, "once, not for ever");
}

#[tokio::test]
async fn of_many_calls_told_that_the_token_expired_one_signs() {
    let tokens = World::new(&Loopback::start([]).await).provider.tokens;
    let old = tokens.get(at(0), None).unwrap();
    let new = tokens.get(at(1), Some(&old)).unwrap();
    assert_ne!(old, new);
    assert_eq!(tokens.get(at(1), Some(&old)).unwrap(), new);
}

#[tokio::test]
async fn a_payload_too_large_is_sent_shortened_or_not_at_all() {
    let server = Loopback::start([ok()]).await;
    let world = World::new(&server);
    let mut delivery = ios();
    delivery.content.body = Some("x".repeat(5_000));
    let answer = world.provider.send(&delivery).await;
    assert_eq!((answer.outcome, answer.shortened.unwrap().texts.as_str()), (Outcome::Accepted, "body"));
    assert!(server.only().json()["aps"]["alert"]["body"].as_str().unwrap().ends_with("x…"));
    delivery.content.url = Some("x".repeat(5_000));
    let answer = world.provider.send(&delivery).await;
    assert_eq!((answer.outcome, answer.code.as_str()), (Outcome::Refused, "too_large"));
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn an_account_that_cannot_work_is_refused_by_name() {
    let (key, _file) = secret("hunter2");
    let valid = Settings { key, key_id: "K".into(), team_id: "T".into(), topic: "t".into(), ..defaults() };
    for (settings, wrong) in [
        (valid.clone(), "accounts.apns.key:"),
        (Settings { topic: String::new(), ..valid.clone() }, "accounts.apns.topic:"),
        (Settings { team_id: "é".into(), ..valid.clone() }, "accounts.apns.team_id:"),
    ] {
        let error =
            Apns::new(&account(&VENDOR), settings, Arc::new(ManualClock::new(at(0)))).err().unwrap().to_string();
        assert!(error.starts_with(wrong) && !error.contains("hunter2"), "{error}");
    }
}
