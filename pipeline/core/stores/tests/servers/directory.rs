//! The directory and its write side against a real nats-server: freshness, crashes, imports.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{collections::BTreeSet, sync::atomic::Ordering};

use super::support::make_stores;
use async_nats::jetstream::stream;
use bytes::Bytes;
use chasqui_contract::{AddressBook, Directory, StoreError};
use chasqui_nats::{ConnectError, ConnectOptions, bucket, connect};
use chasqui_schemas::record::{Bucket, Category, Contacts, Preferences, Suppression, Template};
use chasqui_settings::ServerUrl;
use chasqui_stores::{NatsDirectory, RecordError, Records, records::Stored};
use chasqui_testing::servers::{Nats, eventually};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;

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

/// Whether nobody's preferences, and no suppression of an address, cost a request.
async fn knows_strangers(directory: &NatsDirectory, requests: impl Fn() -> u64) -> bool {
    let before = requests();
    for n in 0..100 {
        assert_eq!(directory.preferences(&format!("stranger-{n}")).await.unwrap(), None);
        assert_eq!(directory.suppression(&format!("stranger-{n}@example.com")).await.unwrap(), None);
    }
    // Beside it the directory asks how far the buckets have come.
    requests() - before < 10
}

#[tokio::test]
async fn a_stranger_costs_no_request_and_is_heard_within_a_second_of_opting_out() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let directory = NatsDirectory::open(&context).await.unwrap();
    let requests = || context.client().statistics().out_messages.load(Ordering::Relaxed);
    eventually("strangers are known", async || knows_strangers(&directory, requests).await).await;

    let others = server.context().await;
    let preferences = Records::open(&others, Bucket::of::<Preferences>()).await.unwrap();
    let suppressions = Records::open(&others, Bucket::of::<Suppression>()).await.unwrap();
    for n in 0..20 {
        let (user, address) = (format!("stranger-{n}"), format!("stranger-{n}@example.com"));
        preferences.put(&user, r#"{"enabled":false}"#.into()).await.unwrap();
        suppressions.put(&address, r#"{"reason":"bounce"}"#.into()).await.unwrap();
        let heard = async || {
            let said = directory.preferences(&user).await.unwrap();
            said.is_some() && directory.suppression(&address).await.unwrap().is_some()
        };
        eventually("both count", heard).await;
        preferences.delete(&user).await.unwrap();
        eventually("it is gone", async || directory.preferences(&user).await.unwrap().is_none()).await;
    }
    // What this process has written it sees at once, before any watch reports it.
    directory.suppress("new@example.com", Suppression::BOUNCE, Timestamp::now()).await.unwrap();
    assert!(directory.suppression("new@example.com").await.unwrap().is_some());
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

/// Imports `lines`; answers what was answered about them.
async fn import(
    records: &Records,
    lines: Vec<(String, Bytes)>,
) -> Result<Vec<Result<Stored, RecordError>>, StoreError> {
    let mut answers = Vec::new();
    records.import(futures::stream::iter(lines).map(Ok), |answer| answers.push(answer)).await?;
    Ok(answers)
}

#[tokio::test]
async fn an_import_stores_every_record_and_of_one_name_the_last_in_few_batches() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let records = Records::open(&context, Bucket::of::<Contacts>()).await.unwrap();
    let names: BTreeSet<String> = (0..2_500).map(|n| format!("user.{n}@x")).collect();
    let locale = |n: usize| Bytes::from(format!(r#"{{"emails":["{n}@example.com"]}}"#));
    let twice = names.iter().chain(&names).enumerate().map(|(n, name)| (name.clone(), locale(n)));
    let lines: Vec<_> = twice.chain([("a".to_owned(), locale(1)), ("a".to_owned(), locale(2))]).collect();

    for _again in 0..2 {
        let answers = import(&records, lines.clone()).await.unwrap();
        assert_eq!((answers.len(), answers.iter().filter(|answer| answer.is_ok()).count()), (5_002, 5_002));
        let listed: BTreeSet<String> = records.names().await.unwrap().try_collect().await.unwrap();
        assert_eq!(listed, names.iter().cloned().chain(["a".to_owned()]).collect());
        for (n, name) in names.iter().enumerate().step_by(100) {
            assert_eq!(records.get(name).await.unwrap().unwrap(), locale(2_500 + n));
        }
        assert_eq!(records.get("a").await.unwrap().unwrap(), locale(2));
    }
    assert_eq!(records.get("nobody").await.unwrap(), None);
    // Written one by one, every record would have its own answer from the server.
    let received = context.client().statistics().in_messages.load(Ordering::Relaxed);
    import(&records, lines).await.unwrap();
    let received = context.client().statistics().in_messages.load(Ordering::Relaxed) - received;
    assert!(received < 20, "{received} answers for 5,002 records");
}

#[tokio::test]
async fn an_import_outlives_a_crash_of_the_server() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let records = Records::open(&context, Bucket::of::<Contacts>()).await.unwrap();
    let lines = (0..20_000).map(|n| (format!("user-{n}"), Bytes::from_static(b"{}"))).collect();
    let (answers, ()) = futures::future::join(import(&records, lines), server.crash()).await;
    assert!(answers.unwrap().iter().all(Result::is_ok));
    assert_eq!(records.names().await.unwrap().count().await, 20_000);
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
async fn a_bad_record_is_named_and_stops_no_other() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let records = Records::open(&context, Bucket::of::<Preferences>()).await.unwrap();
    let lines = [("ada", "{}"), ("bob", r#"{"channels":{"sms":"no"}}"#), ("", "{}"), ("cyd", "{}")];
    let lines = lines.map(|(name, json)| (name.to_owned(), Bytes::from(json))).to_vec();

    let answers = import(&records, lines).await.unwrap();

    let [Ok(_), Err(RecordError::Wrong { name, wrong }), Err(RecordError::Wrong { .. }), Ok(_)] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert!(name == "bob" && wrong.starts_with("channels: "), "{answers:?}");
    assert_eq!(records.get("bob").await.unwrap(), None);
    assert!(records.get("ada").await.unwrap().is_some() && records.get("cyd").await.unwrap().is_some());
}

#[tokio::test]
async fn what_others_wrote_is_read_in_its_normal_form() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let bucket = context.get_key_value("contacts").await.unwrap();
    let json =
        r#"{"phones":["+1 (555) 201-0199"],"emails":["ada@bücher.example"],"locale":"iw","timezone":"Asia/Calcutta"}"#;
    bucket.put("ada", json.into()).await.unwrap();
    let suppressions = Records::open(&context, Bucket::of::<Suppression>()).await.unwrap();
    suppressions.put("0015552010199", Bytes::from_static(br#"{"reason":"manual"}"#)).await.unwrap();

    let directory = NatsDirectory::open(&context).await.unwrap();
    let contacts = directory.contacts("ada").await.unwrap().unwrap();
    assert_eq!(
        (contacts.phones[0].as_str(), contacts.emails[0].as_str()),
        ("+15552010199", "ada@xn--bcher-kva.example")
    );
    assert_eq!((contacts.locale.as_deref(), contacts.timezone.as_deref()), (Some("he"), Some("Asia/Calcutta")));
    assert!(directory.suppression(&contacts.phones[0]).await.unwrap().is_some());
    let all: Vec<_> = suppressions.all().await.unwrap().try_collect().await.unwrap();
    assert_eq!(all[0].0, chasqui_schemas::bucket::address_key("+15552010199"));
}

#[tokio::test]
async fn a_full_bucket_says_so() {
    let server = Nats::start().await;
    let context = server.context().await;
    let config = bucket::stream_config("contacts", 1, 1);
    context.create_stream(stream::Config { max_bytes: 1_000, ..config }).await.unwrap();
    let records = Records::open(&context, Bucket::of::<Contacts>()).await.unwrap();

    let lines = (0..100).map(|n| (n.to_string(), Bytes::from_static(b"{}"))).collect();
    let error = import(&records, lines).await.unwrap_err();

    assert!(matches!(error, StoreError::Full { store: "contacts" }), "{error:?}");
}

#[tokio::test]
async fn a_record_that_is_too_large_for_the_server_stops_no_other() {
    let server = Nats::start().await;
    let context = server.context().await;
    let config = bucket::stream_config("contacts", 1, 1);
    context.create_stream(stream::Config { max_message_size: 1_000, ..config }).await.unwrap();
    let records = Records::open(&context, Bucket::of::<Contacts>()).await.unwrap();

    let token = "a".repeat(2_000);
    let large = Bytes::from(format!(r#"{{"devices":[{{"id":"a","platform":"android","token":"{token}"}}]}}"#));
    let lines = (0..100).map(|n| (n.to_string(), if n == 50 { large.clone() } else { Bytes::from_static(b"{}") }));
    let answers = import(&records, lines.collect()).await.unwrap();

    let refused: Vec<_> = (0..100).filter(|&n| answers[n].is_err()).collect();
    assert_eq!((refused, answers.len()), (vec![50], 100));
    assert_eq!(records.names().await.unwrap().count().await, 99);
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
