//! The provider against a real socket, which is both Google's API and its token endpoint.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chasqui_contract::{ManualClock, Outcome};
use chasqui_schemas::Channel;
use jiff::SignedDuration;
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};

use super::*;
use crate::{
    http::HttpSettings,
    loopback::{Loopback, Turn},
    testing::{self, Ask, at, delivery_by, secret},
};

const LATER: Outcome = Outcome::TryLater { after: None };
const SEND: &str = "POST /v1/projects/shop-1/messages:send";
const TOKEN: &str = "POST /token";

fn account(server: &Loopback) -> Value {
    json!({
        "type": "service_account",
        "project_id": "shop-1",
        "private_key_id": "key-1",
        "private_key": test_key::pem(),
        "client_email": "push@shop-1.example",
        "token_uri": format!("{}/token", server.url),
    })
}

fn settings_with_file(text: &str, change: impl FnOnce(Settings) -> Settings) -> (Settings, tempfile::NamedTempFile) {
    let (service_account, file) = secret(text);
    (change(Settings { service_account, ..testing::settings(&VENDOR, "") }), file)
}

/// With calls of at most so many milliseconds.
fn within(timeout_ms: u64, settings: Settings) -> Settings {
    Settings { http: HttpSettings { timeout_ms, ..settings.http.clone() }, ..settings }
}

fn provider_with(server: &Loopback, change: impl FnOnce(Settings) -> Settings) -> (Fcm, Arc<ManualClock>) {
    let base = |settings| change(Settings { base_url: server.url.clone(), ..within(20_000, settings) });
    let (settings, _file) = settings_with_file(&account(server).to_string(), base);
    let clock = Arc::new(ManualClock::new(at(0)));
    (Fcm::new(&testing::account(&VENDOR), settings, clock.clone()).unwrap(), clock)
}

async fn send(provider: &Fcm) -> Answer {
    provider.send(&delivery_by(Channel::Push)).await
}

fn say(status: u16, body: Value) -> Turn {
    Turn::say(status, body.to_string())
}

fn token(name: &str) -> Turn {
    say(200, json!({ "access_token": name, "expires_in": 3_600, "token_type": "Bearer" }))
}

fn ok() -> Turn {
    say(200, json!({ "name": "projects/shop-1/messages/0:1" }))
}

/// What arrived: the requests' lines, with the authorization where there is one.
fn seen(server: &Loopback) -> Vec<String> {
    let words = |seen: &crate::loopback::Seen| format!("{} {}", seen.line, seen.header("authorization"));
    server.seen().iter().map(words).map(|line| line.trim_end().to_owned()).collect()
}

#[tokio::test]
async fn a_push_goes_with_an_access_token_for_a_signed_assertion() {
    let server = Loopback::start([token("t1"), ok()]).await;
    let (provider, _) = provider_with(&server, |settings| settings);
    let answer = send(&provider).await;
    assert_eq!((answer.outcome, answer.message_id.as_str()), (Outcome::Accepted, "projects/shop-1/messages/0:1"));

    let [fetch, push] = &server.seen()[..] else { panic!("not two requests") };
    assert_eq!((fetch.line.as_str(), push.line.as_str()), (TOKEN, SEND));
    assert_eq!(fetch.header("content-type"), "application/x-www-form-urlencoded");
    let form = fetch.text();
    let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
    let (message, signature) = form.strip_prefix(grant).unwrap().rsplit_once('.').unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(test_key::pem().as_bytes()).unwrap();
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key());
    public.verify(message.as_bytes(), &signature).unwrap();
    let part = |i| URL_SAFE_NO_PAD.decode(message.split('.').nth(i).unwrap()).unwrap();
    let [header, claims] = [0, 1].map(|i| serde_json::from_slice::<Value>(&part(i)).unwrap());
    assert_eq!(header, json!({ "typ": "JWT", "alg": "RS256", "kid": "key-1" }));
    let iat = at(0).as_second();
    let expected = json!({
        "iss": "push@shop-1.example",
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": format!("{}/token", server.url),
        "iat": iat,
        "exp": iat + 3_600,
    });
    assert_eq!(claims, expected);

    assert_eq!((push.header("authorization"), push.header("content-type")), ("Bearer t1", "application/json"));
    assert_eq!(push.json()["message"]["token"], "token-1");
}

#[tokio::test]
async fn an_access_token_serves_until_shortly_before_it_ends() {
    let server = Loopback::start([token("t1"), ok(), ok(), token("t2"), ok()]).await;
    let (provider, clock) = provider_with(&server, |settings| settings);
    for minutes in [0, 54, 2] {
        clock.advance(SignedDuration::from_mins(minutes));
        assert_eq!(send(&provider).await.outcome, Outcome::Accepted);
    }
    let (t1, t2) = (format!("{SEND} Bearer t1"), format!("{SEND} Bearer t2"));
    assert_eq!(seen(&server), [TOKEN, &t1, &t1, TOKEN, &t2]);
}

#[tokio::test]
async fn an_access_token_that_cannot_be_replaced_serves_to_its_end() {
    let down = || say(503, json!({}));
    let server = Loopback::start([token("t1"), ok(), down(), ok(), Turn::Stall, ok(), down()]).await;
    let (provider, clock) = provider_with(&server, |settings| within(6_000, settings));
    for (minutes, expected) in [(0, Outcome::Accepted), (57, Outcome::Accepted), (1, Outcome::Accepted), (2, LATER)] {
        clock.advance(SignedDuration::from_mins(minutes));
        assert_eq!(send(&provider).await.outcome, expected, "{minutes}");
    }
}

#[tokio::test]
async fn many_calls_fetch_one_access_token_even_a_short_lived_one() {
    let short_lived = say(200, json!({ "access_token": "t1", "expires_in": 60 }));
    for token in [token("t1"), short_lived] {
        let server = Loopback::start([token].into_iter().chain((0..20).map(|_| ok()))).await;
        let (provider, _) = provider_with(&server, |settings| settings);
        let answers = futures::future::join_all((0..20).map(|_| send(&provider))).await;
        assert!(answers.iter().all(|answer| answer.outcome == Outcome::Accepted), "{answers:?}");
        assert_eq!(seen(&server).iter().filter(|line| *line == TOKEN).count(), 1);
    }
}

#[tokio::test]
async fn many_calls_share_a_failed_fetch_and_the_next_one_tries_again() {
    let server = Loopback::start([say(503, json!({})), token("t1"), ok()]).await;
    let (provider, _) = provider_with(&server, |settings| settings);
    let answers = futures::future::join_all((0..20).map(|_| send(&provider))).await;
    assert!(answers.iter().all(|answer| answer.outcome == LATER), "{answers:?}");
    assert_eq!(seen(&server), [TOKEN]);
    assert_eq!(send(&provider).await.outcome, Outcome::Accepted);
}

#[tokio::test]
async fn a_failed_fetch_is_never_ambiguous() {
    for (turn, timeout_ms, expected, code) in [
        (Turn::Cut, 20_000, LATER, "access_token"),
        (Turn::CutBody, 20_000, LATER, "access_token"),
        (Turn::Stall, 3_000, LATER, "access_token"),
        (say(400, json!({ "error": "invalid_grant" })), 20_000, Outcome::Misconfigured, "invalid_grant"),
        (say(401, json!({ "error": "invalid_client" })), 20_000, Outcome::Misconfigured, "invalid_client"),
    ] {
        let server = Loopback::start([turn.clone()]).await;
        let (provider, _) = provider_with(&server, |settings| within(timeout_ms, settings));
        let answer = send(&provider).await;
        assert_eq!((answer.outcome, answer.code.as_str()), (expected, code), "{turn:?}");
        assert_eq!(seen(&server), [TOKEN], "{turn:?}");
    }
}

#[tokio::test]
async fn an_access_token_that_is_not_taken_is_fetched_again_once() {
    let unauthenticated = || say(401, json!({ "error": { "status": "UNAUTHENTICATED" } }));
    let script = [token("t1"), unauthenticated(), token("t2"), ok(), unauthenticated(), token("t3"), unauthenticated()];
    let server = Loopback::start(script).await;
    let (provider, _) = provider_with(&server, |settings| settings);
    assert_eq!(send(&provider).await.outcome, Outcome::Accepted);
    let answer = send(&provider).await;
    assert_eq!((answer.outcome, answer.code.as_str()), (Outcome::Misconfigured, "UNAUTHENTICATED"));
    assert_eq!(seen(&server).len(), 7, "once, not for ever");
}

#[test]
fn an_account_that_cannot_work_is_refused_by_name_and_not_shown() {
    let whole = json!({
        "project_id": "p", "private_key_id": "k", "client_email": "hunter2@x.example", "private_key": test_key::pem(),
        "token_uri": "https://oauth2.googleapis.com/token",
    });
    let without = |field: &str, value: Value| {
        let mut file = whole.clone();
        file[field] = value;
        file.to_string()
    };
    for (file, told) in [
        ("hunter2".to_owned(), "JSON"),
        ("\"hunter2\"".to_owned(), "`token_uri`"),
        (without("project_id", json!(null)), "`project_id`"),
        (without("client_email", json!("")), "`client_email`"),
        (without("private_key", json!("hunter2")), "`private_key`"),
        (without("private_key", json!(rcgen::KeyPair::generate().unwrap().serialize_pem())), "`private_key`"),
        (without("token_uri", json!("oauth2")), "address"),
    ] {
        let (settings, _file) = settings_with_file(&file, |settings| settings);
        let error = Fcm::new(&testing::account(&VENDOR), settings, Arc::new(ManualClock::new(at(0))))
            .err()
            .unwrap()
            .to_string();
        assert!(error.starts_with("accounts.fcm.service_account:") && error.contains(told), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let (settings, _file) = settings_with_file(&whole.to_string(), |settings| settings);
    assert!(Fcm::new(&testing::account(&VENDOR), settings, Arc::new(ManualClock::new(at(0)))).is_ok());
}

#[tokio::test]
async fn access_tokens_come_from_another_address_where_told_so() {
    let tokens = Loopback::start([token("t1")]).await;
    let api = Loopback::start([ok()]).await;
    let elsewhere = Some(format!("{}/elsewhere", tokens.url));
    let (provider, _) = provider_with(&api, |settings| Settings { token_uri: elsewhere, ..settings });
    assert_eq!(send(&provider).await.outcome, Outcome::Accepted);
    assert_eq!((seen(&tokens), seen(&api).len()), (vec!["POST /elsewhere".to_owned()], 1));
}
