//! Which keys a bucket may hold, on a real nats-server: nothing is called absent that was acknowledged a second before.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use async_nats::jetstream::{Context, kv::Store};
use chasqui_nats::{Outgoing, Publisher, bucket, presence::Presence};
use chasqui_testing::servers::{Nats, eventually};

async fn make(context: &Context) -> Store {
    context.create_stream(bucket::stream_config("b", 1, 1)).await.unwrap();
    context.get_key_value("b").await.unwrap()
}

fn start(context: &Context, store: &Store) -> Presence {
    Presence::start(context.client(), store.clone())
}

/// The keys `first` to `last`, as messages for atomic batches.
fn keys(first: usize, last: usize) -> Vec<Outgoing> {
    let put =
        |n| Outgoing { subject: format!("$KV.b.key-{n}"), message_id: None, headers: Vec::new(), payload: "{}".into() };
    (first..last).map(put).collect()
}

#[tokio::test]
async fn what_is_there_is_never_absent_and_what_is_not_soon_is() {
    let server = Nats::start().await;
    let context = server.context().await;
    let store = make(&context).await;
    Publisher::new(context.clone()).publish(&keys(0, 5_000)).await.unwrap();
    let presence = start(&context, &store);

    // From the first moment on, while the watch still reads, and when it is done.
    eventually("an absent key is known", async || {
        assert!((0..5_000).all(|n| !presence.is_absent(&format!("key-{n}"))));
        presence.is_absent("nobody")
    })
    .await;
    let asked_in_vain = (0..5_000).filter(|n| !presence.is_absent(&format!("other-{n}"))).count();
    assert!(asked_in_vain < 50, "{asked_in_vain}");
    // Only as long as the server confirms it.
    presence.add("nobody");
    assert!(!presence.is_absent("nobody"));
}

#[tokio::test]
async fn nothing_that_was_acknowledged_a_second_ago_is_absent_even_in_a_flood() {
    let server = Nats::start().await;
    let context = server.context().await;
    let store = make(&context).await;
    let presence = start(&context, &store);
    eventually("the presence is current", async || presence.is_absent("nobody")).await;

    // Of each batch one key is asked for until it counts, while the next ones are written.
    let publisher = Publisher::new(server.context().await);
    let mut waiting: Vec<(String, Instant)> = Vec::new();
    for batch in 0..40 {
        publisher.publish(&keys(batch * 1_000, batch * 1_000 + 1_000)).await.unwrap();
        waiting.push((format!("key-{}", batch * 1_000 + 999), Instant::now()));
        waiting.retain(|(key, acknowledged)| {
            let asked = Instant::now();
            let absent = presence.is_absent(key);
            assert!(
                !absent || asked - *acknowledged < Duration::from_secs(1),
                "{key} was written and is called absent"
            );
            absent
        });
    }
    eventually("all are seen", async || waiting.iter().all(|(key, _)| !presence.is_absent(key))).await;
    eventually("what is absent is known again", async || presence.is_absent("nobody")).await;
}

#[tokio::test]
async fn a_server_that_hangs_or_is_away_ends_the_answers() {
    let server = Nats::start().await;
    let context = server.context().await;
    let store = make(&context).await;
    let presence = start(&context, &store);
    eventually("the presence is current", async || presence.is_absent("nobody")).await;

    let signal = |signal: &str| {
        let pid = server.server().nats().unwrap().pid().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    };
    signal("-STOP");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    // The connection counts as sound for many seconds still.
    let absent = presence.is_absent("nobody");
    signal("-CONT");
    assert!(!absent, "the server has not confirmed it for a second");
    eventually("it answers again", async || presence.is_absent("nobody")).await;

    server.crash().await;
    let others = server.context().await.get_key_value("b").await.unwrap();
    others.put("nobody", "{}".into()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!presence.is_absent("nobody"), "it was written while the watch was away");
    eventually("it answers again", async || presence.is_absent("another")).await;
    assert!(!presence.is_absent("nobody"));
}

#[tokio::test]
async fn what_was_stored_last_may_be_purged() {
    let server = Nats::start().await;
    let context = server.context().await;
    let store = make(&context).await;
    for key in ["first", "last"] {
        store.put(key, "{}".into()).await.unwrap();
    }
    let early = start(&context, &store);
    eventually("the presence is current", async || early.is_absent("nobody")).await;
    store.purge("last").await.unwrap();
    store.stream.purge().filter("$KV.b.last").await.unwrap();
    let late = start(&context, &store);
    // No watch reports a message with the bucket's last number any more. Longer than an answer counts:
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    eventually("both are current all the same", async || early.is_absent("nobody") && late.is_absent("nobody")).await;
    store.put("nobody", "{}".into()).await.unwrap();
    eventually("both see what comes later", async || !early.is_absent("nobody") && !late.is_absent("nobody")).await;
    eventually("and stay current", async || early.is_absent("another") && late.is_absent("another")).await;
    assert!(!early.is_absent("first") && !late.is_absent("first"));
}

#[tokio::test]
async fn a_bucket_that_was_made_anew_is_read_anew() {
    let server = Nats::start().await;
    let context = server.context().await;
    let store = make(&context).await;
    let publisher = Publisher::new(context.clone());
    publisher.publish(&keys(0, 100)).await.unwrap();
    let presence = start(&context, &store);
    eventually("the presence is current", async || presence.is_absent("nobody")).await;

    context.delete_stream("KV_b").await.unwrap();
    // Its numbers begin anew, below where the watch was.
    let store = make(&context).await;
    store.put("nobody", "{}".into()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!presence.is_absent("nobody"));
    eventually("it is current again", async || presence.is_absent("another")).await;
    assert!(!presence.is_absent("nobody"));
}
