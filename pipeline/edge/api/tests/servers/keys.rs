//! Keys that are made, renewed and ended in the bucket, as a gateway sees them, on a real nats-server.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{path::Path, sync::Arc, time::Duration};

use async_nats::jetstream;
use axum::http::{HeaderMap, header::AUTHORIZATION};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chasqui_api::{
    Caller, Keys, NamedKeys, Refused,
    apps::{AppError, Ends, Made, Registry, Wanted, Way},
    identify,
};
use chasqui_rules::{Apps, Permissions};
use chasqui_schemas::{Lane, app::Scope};
use chasqui_testing::servers::Nats;
use jiff::{SignedDuration, Timestamp};
use ring::hmac;
use tokio::task::JoinHandle;

/// Maximum wait for what takes milliseconds on an idle machine.
const WITHIN: Duration = Duration::from_secs(60);

/// A gateway's keys, which follow the bucket until this is dropped.
struct Gateway {
    keys: Arc<Keys>,
    following: JoinHandle<()>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Gateway {
    fn start(client: async_nats::Client, dir: &Path) -> Self {
        let keys = Arc::new(Keys::open(Apps::default(), NamedKeys::new(), dir.join("apps.json")));
        let followed = Arc::clone(&keys);
        Gateway { keys, following: tokio::spawn(async move { followed.follow(client).await }) }
    }

    fn ask(&self, bearer: &str) -> Result<Caller, Refused> {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {bearer}").parse().unwrap())]);
        identify(&self.keys, &headers, Timestamp::now())
    }

    async fn until(&self, bearer: &str, good: bool) {
        let asked = async {
            while self.ask(bearer).is_ok() != good {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WITHIN, asked).await.unwrap();
    }
}

fn wanted(way: Way) -> Wanted {
    Wanted { way, scopes: [Scope::Send].into(), test: false, expires_at: None }
}

fn token(made: &Made) -> String {
    let part = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let now = Timestamp::now().as_second();
    let head = part(serde_json::json!({ "alg": "HS256", "kid": made.id }));
    let signed = format!("{head}.{}", part(serde_json::json!({ "iat": now, "exp": now + 300 })));
    let key = hmac::Key::new(hmac::HMAC_SHA256, made.secret.as_ref().unwrap().as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_valid_while_it_is_in_the_bucket_and_two_are_while_one_follows_the_other() {
    let server = Nats::with_streams().await;
    let registry = Registry::open(&server.context().await).await.unwrap();
    let gateway = Gateway::start(server.client().await, server.dir());
    let may = Permissions { lanes: Some(vec![Lane::Bulk]), ..Permissions::default() };
    registry.create("shop", Some(may.clone())).await.unwrap();
    let now = Timestamp::now();
    let first = registry.add_key("shop", &wanted(Way::ApiKey), now).await.unwrap();
    let first_key = first.secret.clone().unwrap();
    gateway.until(&first_key, true).await;
    let caller = gateway.ask(&first_key).unwrap();
    assert_eq!((caller.app.name.as_str(), &caller.app.may, caller.key), ("shop", &may, first.id.clone()));

    let ends = Ends { old: now + SignedDuration::from_hours(1), new: None };
    let second = registry.rotate("shop", first.id.as_str(), ends, now).await.unwrap();
    let second_key = second.secret.clone().unwrap();
    gateway.until(&second_key, true).await;
    assert!(gateway.ask(&first_key).is_ok(), "there is no gap");
    registry.revoke("shop", first.id.as_str()).await.unwrap();
    gateway.until(&first_key, false).await;
    assert!(gateway.ask(&second_key).is_ok());

    let signs = registry.add_key("shop", &wanted(Way::Hs256), now).await.unwrap();
    gateway.until(&token(&signs), true).await;
    assert!(registry.delete("shop").await.unwrap());
    gateway.until(&second_key, false).await;
    assert_eq!(gateway.ask(&token(&signs)), Err(Refused::Unknown));
    assert!(matches!(registry.revoke("shop", second.id.as_str()).await, Err(AppError::Missing(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_valid_without_a_broker_as_they_were_seen_last() {
    let mut server = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&server.context().await).await.unwrap();
    registry.create("shop", None).await.unwrap();
    let kept = registry.add_key("shop", &wanted(Way::ApiKey), Timestamp::now()).await.unwrap();
    let ended = registry.add_key("shop", &wanted(Way::ApiKey), Timestamp::now()).await.unwrap();
    let (kept_key, ended_key) = (kept.secret.unwrap(), ended.secret.unwrap());
    let client = server.client().await;
    let gateway = Gateway::start(client.clone(), dir.path());
    gateway.until(&ended_key, true).await;
    registry.revoke("shop", ended.id.as_str()).await.unwrap();
    gateway.until(&ended_key, false).await;
    server.stop().await;
    assert!(gateway.ask(&kept_key).is_ok(), "the broker's absence ends no key");
    drop(gateway);

    let again = Gateway::start(client, dir.path());
    assert_eq!((again.ask(&kept_key).is_ok(), again.ask(&ended_key).is_ok()), (true, false));
    server.start_again().await;
    let registry = Registry::open(&server.context().await).await.unwrap();
    let late = registry.add_key("shop", &wanted(Way::ApiKey), Timestamp::now()).await.unwrap();
    again.until(&late.secret.unwrap(), true).await;
    assert!(again.ask(&kept_key).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_once_lose_no_key_and_a_record_that_cannot_be_used_proves_nobody() {
    let server = Nats::with_streams().await;
    let context = server.context().await;
    let registry = Registry::open(&context).await.unwrap();
    registry.create("shop", None).await.unwrap();
    assert!(matches!(registry.create("shop", None).await, Err(AppError::Exists(_))));
    assert!(matches!(registry.create("a.b", None).await, Err(AppError::Name(_))));
    let add = || {
        let registry = registry.clone();
        async move { registry.add_key("shop", &wanted(Way::ApiKey), Timestamp::now()).await.unwrap().secret.unwrap() }
    };
    let made = tokio::join!(add(), add(), add(), add());
    let gateway = Gateway::start(server.client().await, server.dir());
    for key in [&made.0, &made.1, &made.2, &made.3] {
        gateway.until(key, true).await;
    }
    let bucket = jetstream::Context::get_key_value(&context, "apps").await.unwrap();
    bucket.put("shop", "{\"keys\": 7}".into()).await.unwrap();
    gateway.until(&made.0, false).await;
    assert!(registry.get("shop").await.is_err());
    assert!(registry.delete("shop").await.unwrap(), "what cannot be read can be deleted");
    assert_eq!(registry.names().await.unwrap(), Vec::<String>::new());
}
