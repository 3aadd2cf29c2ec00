//! The installation's secret, on a real nats-server.

#![allow(clippy::unwrap_used, reason = "a test's support")]

use async_nats::jetstream::kv;
use chasqui_schemas::{bucket::SECRETS, pepper::Pepper};
use chasqui_stores::{PepperError, pepper};
use chasqui_testing::servers::Nats;

const OURS: &str = "a secret of this installation, long enough";

async fn server() -> (Nats, async_nats::jetstream::Context) {
    let server = Nats::start().await;
    let context = server.context().await;
    let config = kv::Config { bucket: SECRETS.to_owned(), ..kv::Config::default() };
    context.create_key_value(config).await.unwrap();
    (server, context)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_processes_get_one_secret_and_a_restart_does_not_change_it() {
    let (server, context) = server().await;
    let asking = (0..20).map(|_| pepper(&context, None));
    let all: Vec<Pepper> = futures::future::try_join_all(asking).await.unwrap();
    assert!(all.iter().all(|each| each.fingerprint() == all[0].fingerprint()));
    server.crash().await;
    let after = pepper(&server.context().await, None).await.unwrap();
    assert_eq!(after.fingerprint(), all[0].fingerprint());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_secret_is_not_kept_and_no_other_is_taken() {
    let (_server, context) = server().await;
    let ours = pepper(&context, Some(&OURS.into())).await.unwrap();
    assert_eq!(ours.fingerprint(), Pepper::new(OURS.as_bytes()).fingerprint());
    assert!(matches!(pepper(&context, None).await, Err(PepperError::Missing)));
    let other = "a secret of another installation, long enough";
    assert!(matches!(pepper(&context, Some(&other.into())).await, Err(PepperError::Other)));
    assert!(matches!(pepper(&context, Some(&"short".into())).await, Err(PepperError::Short)));
    let kept = context.get_key_value(SECRETS).await.unwrap().get("recipients").await.unwrap().unwrap();
    assert!(!String::from_utf8(kept.to_vec()).unwrap().contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_leaves_nats_once_a_file_has_it() {
    let (_server, context) = server().await;
    let made_up = pepper(&context, None).await.unwrap();
    let store = context.get_key_value(SECRETS).await.unwrap();
    let record: serde_json::Value = serde_json::from_slice(&store.get("recipients").await.unwrap().unwrap()).unwrap();
    let secret = record["secret"].as_str().unwrap();
    let configured = pepper(&context, Some(&secret.into())).await.unwrap();
    assert_eq!(configured.fingerprint(), made_up.fingerprint());
    let kept = store.get("recipients").await.unwrap().unwrap();
    assert!(!String::from_utf8(kept.to_vec()).unwrap().contains(secret));
}
