//! Opt-outs against real buckets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use async_nats::jetstream::{self, kv::Store};
use chasqui_contract::{Class, StoreError};
use chasqui_schemas::{
    OptOut,
    bucket::address_key,
    record::{CategoryPreference, Preferences, Record, Suppression},
};
use chasqui_services::receipts::opt_out::apply;
use chasqui_testing::servers::Nats;
use jiff::Timestamp;

const AT: Timestamp = Timestamp::UNIX_EPOCH;

fn off(user: &str, category: &str) -> OptOut {
    OptOut::Category { app: "shop".into(), user: user.into(), category: category.into() }
}

async fn bucket<T: Record>(context: &jetstream::Context) -> Store {
    context.get_key_value(T::BUCKET).await.unwrap()
}

async fn preferences(store: &Store, key: &str) -> Preferences {
    serde_json::from_slice(&store.get(key).await.unwrap().unwrap()).unwrap()
}

#[tokio::test]
async fn many_opt_outs_of_one_user_at_once_all_count() {
    let server = Nats::with_streams().await;
    let context = server.context().await;
    let store = bucket::<Preferences>(&context).await;
    // As an operator wrote it: one category is off already, on one channel.
    store.put("ada=2El", r#"{"categories":{"kept":{"sms":false}},"tracking":false}"#.into()).await.unwrap();

    let categories: Vec<String> = (0..8).map(|n| format!("category-{n}")).collect();
    let opting = categories.iter().map(|category| {
        let context = context.clone();
        async move {
            // Whoever loses a race too often comes back, as the consumer does.
            while let Err(error) = apply(&context, &off("ada.l", category), AT).await {
                assert!(error.class().is_transient(), "{error:?}");
            }
        }
    });
    futures::future::join_all(opting).await;

    let found = preferences(&store, "ada=2El").await;
    assert!(
        categories.iter().all(|category| found.categories[category] == CategoryPreference::All(false)),
        "{found:?}"
    );
    assert!(matches!(found.categories["kept"], CategoryPreference::Channels(_)) && !found.tracking, "{found:?}");
    let revision = store.entry("ada=2El").await.unwrap().unwrap().revision;
    apply(&context, &off("ada.l", "category-3"), AT).await.unwrap();
    assert_eq!(store.entry("ada=2El").await.unwrap().unwrap().revision, revision, "again: nothing is written");
}

#[tokio::test]
async fn a_user_without_preferences_gets_some_also_after_they_were_deleted() {
    let server = Nats::with_streams().await;
    let context = server.context().await;
    let store = bucket::<Preferences>(&context).await;
    for _ in 0..2 {
        apply(&context, &off("bob", "news"), AT).await.unwrap();
        let found = preferences(&store, "bob").await;
        assert_eq!(found.categories.len(), 1);
        assert!(found.enabled && found.tracking);
        store.delete("bob").await.unwrap();
    }
}

#[tokio::test]
async fn an_address_is_suppressed_once_and_keeps_its_weightiest_reason() {
    let server = Nats::with_streams().await;
    let context = server.context().await;
    let store = bucket::<Suppression>(&context).await;
    let key = address_key("ada@example.com");
    for reason in ["unsubscribe", "complaint", "unsubscribe"] {
        apply(&context, &OptOut::Address { key: key.clone(), reason: reason.into() }, AT).await.unwrap();
    }
    let found: Suppression = serde_json::from_slice(&store.get(key).await.unwrap().unwrap()).unwrap();
    assert_eq!(found, Suppression::new("complaint", AT));
}

#[tokio::test]
async fn preferences_that_cannot_be_read_are_not_overwritten() {
    let server = Nats::with_streams().await;
    let context = server.context().await;
    let store = bucket::<Preferences>(&context).await;
    store.put("bad", r#"{"chanels":{}}"#.into()).await.unwrap();
    let error = apply(&context, &off("bad", "news"), AT).await.unwrap_err();
    assert!(matches!(error, StoreError::BadRecord { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Permanent);
    assert_eq!(store.get("bad").await.unwrap().unwrap(), r#"{"chanels":{}}"#);
}
