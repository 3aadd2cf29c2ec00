//! The directory and its write side against a real nats-server: freshness, crashes, imports.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{collections::BTreeSet, sync::atomic::Ordering};

use super::support::make_stores;
use async_nats::jetstream::kv;
use bytes::Bytes;
use chasqui_contract::{Directory, StoreError};
use chasqui_nats::{ConnectError, ConnectOptions, connect};
use chasqui_schemas::record::{Bucket, Category, Contacts, Preferences, Template};
use chasqui_settings::ServerUrl;
use chasqui_stores::{NatsDirectory, RecordError, Records};
use chasqui_testing::servers::{Nats, eventually};
use futures::{StreamExt, TryStreamExt, stream};

fn category(ttl_s: u32) -> Bytes {
    serde_json::to_vec(&Category { ttl_s: Some(ttl_s), ..Category::default() }).unwrap().into()
}

async fn ttl(directory: &NatsDirectory, name: &str) -> Option<u32> {
    directory.category(name).await.unwrap().and_then(|category| category.ttl_s)
}

#[tokio::test]
async fn a_change_is_seen_within_a_second() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let directory = NatsDirectory::open(&context).await.unwrap();
    let records = Records::open(&context, Bucket::of::<Category>()).await.unwrap();

    for n in 1..=5 {
        records.put("c", category(n)).await.unwrap();
        let written = tokio::time::Instant::now();
        eventually("the new record is seen", async || ttl(&directory, "c").await == Some(n)).await;
        assert!(written.elapsed().as_secs() < 1);
    }
    records.delete("c").await.unwrap();
    eventually("the record is gone", async || directory.category("c").await.unwrap().is_none()).await;
    records.delete("c").await.unwrap();
}

#[tokio::test]
async fn templates_and_categories_are_answered_from_memory() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let directory = NatsDirectory::open(&context).await.unwrap();
    Records::open(&context, Bucket::of::<Category>()).await.unwrap().put("c", category(1)).await.unwrap();
    let requests = || context.client().statistics().out_messages.load(Ordering::Relaxed);

    eventually("the mirrors are current", async || {
        let before = requests();
        let answered = (ttl(&directory, "c").await, directory.template("none").await.unwrap());
        answered == (Some(1), None) && requests() == before
    })
    .await;
}

#[tokio::test]
async fn what_changes_around_a_crash_of_the_server_is_seen() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let directory = NatsDirectory::open(&context).await.unwrap();
    let records = Records::open(&context, Bucket::of::<Category>()).await.unwrap();
    records.put("kept", category(1)).await.unwrap();
    records.put("gone", category(1)).await.unwrap();
    eventually("both are seen", async || ttl(&directory, "gone").await == Some(1)).await;

    for round in 2..=4 {
        server.crash().await;
        // Through a connection of its own: the directory's may still be down.
        let others = Records::open(&server.context().await, Bucket::of::<Category>()).await.unwrap();
        others.put("kept", category(round)).await.unwrap();
        others.delete("gone").await.unwrap();
        let answer = async |name: &'static str| {
            loop {
                match directory.category(name).await {
                    Ok(category) => return category,
                    Err(error) => assert!(error.class().is_transient(), "{error:?}"),
                }
            }
        };
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(answer("kept").await.and_then(|category| category.ttl_s), Some(round));
        assert_eq!(answer("gone").await, None);
        others.put("gone", category(round)).await.unwrap();
        eventually("it is back", async || answer("gone").await.is_some()).await;
    }
}

#[tokio::test]
async fn an_import_stores_every_record_and_reports_its_progress() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let records = Records::open(&context, Bucket::of::<Contacts>()).await.unwrap();
    let names: BTreeSet<String> = (0..1_000).map(|n| format!("user.{n}@x")).collect();

    let mut progress = Vec::new();
    let import = stream::iter(names.clone()).map(|name| (name, Bytes::from_static(b"{}")));
    let stored = records.import(import, |done| progress.push(done)).await.unwrap();

    assert_eq!(stored, 1_000);
    assert_eq!(progress, (1..=1_000).collect::<Vec<_>>());
    let listed: BTreeSet<String> = records.names().await.unwrap().try_collect().await.unwrap();
    assert_eq!(listed, names);
    assert_eq!(records.get("user.7@x").await.unwrap().unwrap(), "{}");
    assert_eq!(records.get("nobody").await.unwrap(), None);
}

#[tokio::test]
async fn an_empty_bucket_lists_nothing() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let records = Records::open(&context, Bucket::of::<Template>()).await.unwrap();
    assert_eq!(records.names().await.unwrap().try_collect::<Vec<_>>().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_bad_record_ends_an_import_and_is_named() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let records = Records::open(&context, Bucket::of::<Preferences>()).await.unwrap();
    let import = [("ada", "{}"), ("bob", r#"{"channels":{"sms":"no"}}"#)];

    let import = stream::iter(import).map(|(name, json)| (name.to_owned(), Bytes::from(json)));
    let error = records.import(import, |_| {}).await.unwrap_err();

    assert!(
        matches!(&error, RecordError::Wrong { name, wrong } if name == "bob" && wrong.starts_with("channels: ")),
        "{error}"
    );
    assert_eq!(records.get("bob").await.unwrap(), None);
}

#[tokio::test]
async fn a_full_bucket_says_so() {
    let server = Nats::start().await;
    let context = server.context().await;
    let config = kv::Config { bucket: "contacts".to_owned(), max_bytes: 1_000, ..kv::Config::default() };
    context.create_key_value(config).await.unwrap();
    let records = Records::open(&context, Bucket::of::<Contacts>()).await.unwrap();

    let import = stream::iter(0..100).map(|n| (n.to_string(), Bytes::from_static(b"{}")));
    let error = records.import(import, |_| {}).await.unwrap_err();

    assert!(matches!(error, RecordError::Store(StoreError::Full { store: "contacts" })), "{error:?}");
}

#[tokio::test]
async fn a_missing_bucket_is_an_error_at_once() {
    let server = Nats::start().await;
    let context = server.context().await;
    let error = NatsDirectory::open(&context).await.unwrap_err();
    assert!(error.class().is_transient());
}

#[tokio::test]
async fn the_error_of_a_missing_server_names_the_address_and_hides_the_password() {
    let nowhere = ServerUrl::parse("nats://ada:secret@127.0.0.1:1").unwrap();
    let error = connect(&nowhere, &ConnectOptions::default()).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoAnswer { .. }), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1:1") && !format!("{error:?} {error}").contains("secret"), "{error:?}");
    let web = ServerUrl::parse("http://127.0.0.1:1").unwrap();
    let error = connect(&web, &ConnectOptions::default()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Address(_)), "{error:?}");
}
