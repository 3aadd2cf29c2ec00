//! Whose an address is, on a real server, whoever writes the contacts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use async_nats::jetstream::kv::Store;
use chasqui_contract::Directory;
use chasqui_schemas::record::{Contacts, Owners, Record};
use chasqui_services::run_owners;
use chasqui_stores::{NatsDirectory, OwnersIndex};
use chasqui_testing::servers::Nats;
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

async fn put(contacts: &Store, user: &str, emails: &[&str]) {
    let json = serde_json::json!({ "emails": emails, "phones": ["+15551234567"] });
    contacts.put(user, json.to_string().into()).await.unwrap();
}

/// Waits until the index says so.
async fn expect(directory: &NatsDirectory, address: &str, users: &[&str]) {
    for _ in 0..600 {
        let mut found = directory.owners(address).await.unwrap().map_or_else(Vec::new, |owners| owners.users.clone());
        found.sort();
        if found == users {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{address} is not {users:?}'s");
}

#[tokio::test]
async fn an_address_leads_to_its_users_whoever_writes_the_contacts() {
    let server = Nats::with_streams().await;
    let context = server.context().await;
    let contacts = context.get_key_value(Contacts::BUCKET).await.unwrap();
    let directory = NatsDirectory::open(&context).await.unwrap();
    // Before anybody follows: what is there already counts too.
    put(&contacts, "ada=2El", &["Ada@example.com", "countess@example.com"]).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(run_owners(context.clone(), stop.clone()));
    expect(&directory, "ada@example.com", &["ada.l"]).await;
    put(&contacts, "bob", &["ada@example.com"]).await;
    expect(&directory, "ada@example.com", &["ada.l", "bob"]).await;
    expect(&directory, "+15551234567", &["ada.l", "bob"]).await;

    put(&contacts, "ada=2El", &["countess@example.com"]).await;
    expect(&directory, "ada@example.com", &["bob"]).await;
    stop.cancel();
    running.await.unwrap().unwrap();

    // What changes while nobody follows is seen afterwards.
    contacts.purge("bob").await.unwrap();
    contacts.put("eve", "no JSON".into()).await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(run_owners(context.clone(), stop.clone()));
    expect(&directory, "ada@example.com", &[]).await;
    expect(&directory, "+15551234567", &["ada.l"]).await;
    contacts.purge("ada=2El").await.unwrap();
    expect(&directory, "countess@example.com", &[]).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    let index = context.get_key_value(Owners::BUCKET).await.unwrap();
    let left: Vec<String> = index.keys().await.unwrap().try_collect().await.unwrap();
    assert!(left.is_empty(), "of nobody anything is left: {left:?}");
}

#[tokio::test]
async fn many_who_follow_one_user_at_once_agree() {
    let server = Nats::with_streams().await;
    let context = server.context().await;
    let contacts = context.get_key_value(Contacts::BUCKET).await.unwrap();
    let index = OwnersIndex::open(&context).await.unwrap();
    for round in 0..5 {
        put(&contacts, "ada", &[&format!("ada{round}@example.com")]).await;
        let following = (0..6).map(|_| async { while index.follow("ada").await.is_err() {} });
        futures::future::join_all(following).await;
    }
    let directory = NatsDirectory::open(&context).await.unwrap();
    expect(&directory, "ada4@example.com", &["ada"]).await;
    expect(&directory, "ada0@example.com", &[]).await;
}

/// Writes the contacts of a user who has a phone with this token.
async fn put_device(contacts: &Store, user: &str, token: &str, registered_at: Option<&str>) {
    let device = serde_json::json!({ "id": format!("{user}s phone"), "platform": "android", "token": token });
    let mut device = device.as_object().unwrap().clone();
    device.extend(registered_at.map(|at| ("registered_at".to_owned(), at.into())));
    let tablet = serde_json::json!({ "id": "tablet", "platform": "ios", "token": format!("{user}s tablet") });
    contacts.put(user, serde_json::json!({ "devices": [device, tablet] }).to_string().into()).await.unwrap();
}

async fn tokens(contacts: &Store, user: &str) -> Vec<String> {
    let contacts: Contacts = serde_json::from_slice(&contacts.get(user).await.unwrap().unwrap()).unwrap();
    contacts.devices.into_iter().map(|device| device.token).collect()
}

#[tokio::test]
async fn a_token_belongs_to_the_user_who_registered_it_last() {
    let server = Nats::with_streams().await;
    let context = server.context().await;
    let contacts = context.get_key_value(Contacts::BUCKET).await.unwrap();
    let index = OwnersIndex::open(&context).await.unwrap();
    let (march, april) = (Some("2026-03-01T00:00:00Z"), Some("2026-04-01T00:00:00Z"));
    for (number, (adas, bobs, is_bobs)) in [
        (march, april, true),
        // Whoever is written last.
        (april, march, false),
        // A date that stands in is when the record was written: later than any of these.
        (march, None, true),
        (None, march, false),
        (None, None, true),
        // Of two that say the same moment, who is written last.
        (march, march, true),
        // Nobody registers in the future.
        (Some("2999-01-01T00:00:00Z"), None, true),
    ]
    .into_iter()
    .enumerate()
    {
        let token = format!("token {number}");
        for (user, at) in [("ada", adas), ("bob", bobs)] {
            put_device(&contacts, user, &token, at).await;
        }
        // In any order, and again.
        for user in if number % 2 == 0 { ["ada", "bob", "ada"] } else { ["bob", "ada", "bob"] } {
            index.follow(user).await.unwrap();
        }
        let (ada, bob) = (tokens(&contacts, "ada").await, tokens(&contacts, "bob").await);
        assert_eq!((ada.contains(&token), bob.contains(&token)), (!is_bobs, is_bobs), "{number}");
        assert!(ada.contains(&"adas tablet".into()) && bob.contains(&"bobs tablet".into()), "the others stay");
    }
}

#[tokio::test]
async fn a_device_that_is_handed_on_leaves_the_contacts_of_who_had_it() {
    let server = Nats::with_streams().await;
    let context = server.context().await;
    let contacts = context.get_key_value(Contacts::BUCKET).await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(run_owners(context.clone(), stop.clone()));
    put_device(&contacts, "ada", "t", Some("2026-03-01T00:00:00Z")).await;
    put_device(&contacts, "bob", "t", Some("2026-04-01T00:00:00Z")).await;
    for _ in 0..600 {
        if tokens(&contacts, "ada").await == ["adas tablet"] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(tokens(&contacts, "ada").await, ["adas tablet"]);
    assert_eq!(tokens(&contacts, "bob").await, ["t", "bobs tablet"]);
    stop.cancel();
    running.await.unwrap().unwrap();
}
