//! The client library, changed (`pipeline/vendor/async-nats`): whatever the bytes of a message's headers are, it is delivered
//! by every way of reading, and the connection stays.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{consumer::pull, kv},
};
use bytes::Bytes;
use chasqui_nats::unreadable_headers;
use chasqui_testing::{
    RawProducer,
    raw::BLOCKS,
    servers::{Nats, stream_config},
};
use futures::StreamExt;

const PATIENCE: Duration = Duration::from_secs(30);
const AFTER: &[u8] = b"NATS/1.0\r\nFine: yes\r\n\r\n";

fn kept(headers: Option<&HeaderMap>) -> Option<&[u8]> {
    unreadable_headers(headers).map(|block| &block[..])
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_headers_are_handed_on_by_every_way_of_reading() {
    let server = Nats::start().await;
    let context = server.context().await;
    let client = context.client();
    let stream = context
        .create_stream(async_nats::jetstream::stream::Config { allow_direct: true, ..stream_config("S", "s.*") });
    let stream = stream.await.unwrap();
    let consumer = stream.create_consumer(pull::Config { durable_name: Some("c".into()), ..Default::default() });
    let mut pulled = consumer.await.unwrap().messages().await.unwrap();
    let mut subscribed = client.subscribe("s.*").await.unwrap();
    let mut producer = RawProducer::connect(server.url()).await;
    for (what, block) in BLOCKS {
        let sequence = producer.publish("s.x", block, b"payload").await;

        let message = tokio::time::timeout(PATIENCE, pulled.next()).await.unwrap().unwrap().unwrap();
        assert_eq!((kept(message.headers.as_ref()), message.status), (Some(*block), None), "{what}");
        assert_eq!((&message.payload[..], message.subject.as_str()), (&b"payload"[..], "s.x"), "{what}");
        message.ack().await.unwrap();

        let raw = stream.get_raw_message(sequence).await.unwrap();
        assert_eq!((kept(Some(&raw.headers)), &raw.payload[..]), (Some(*block), &b"payload"[..]), "{what}");
        // The server writes its own headers into the block.
        let direct = stream.direct_get(sequence).await.unwrap();
        assert_eq!((direct.sequence, &direct.payload[..]), (sequence, &b"payload"[..]), "{what}");
        let next = stream.direct_get_next_for_subject("s.x", Some(sequence)).await.unwrap();
        assert_eq!((next.sequence, next.subject.as_str()), (sequence, "s.x"), "{what}");
        tokio::time::timeout(PATIENCE, subscribed.next()).await.unwrap().unwrap();
    }
    producer.publish("s.x", AFTER, b"").await;
    let message = tokio::time::timeout(PATIENCE, pulled.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(kept(message.headers.as_ref()), None);
    assert_eq!(message.headers.as_ref().unwrap().get("Fine").unwrap().as_str(), "yes");
    assert_eq!(client.statistics().connects.load(Ordering::Relaxed), 1, "the connection was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_may_have_any_bytes() {
    let server = Nats::start().await;
    let context = server.context().await;
    let stream = context.create_stream(stream_config("S", "s.*")).await.unwrap();
    let consumer = stream.create_consumer(pull::Config { durable_name: Some("c".into()), ..Default::default() });
    let mut pulled = consumer.await.unwrap().messages().await.unwrap();
    let mut producer = RawProducer::connect(server.url()).await;
    // Not UTF-8, and white space of Unicode: split at that, the second would be a message of another subscription.
    for (subject, read) in
        [(&b"s.\xff"[..], "s.\u{fffd}"), ("s.a\u{a0}7".as_bytes(), "s.a\u{a0}7"), (b"s.\x0b\x0c", "s.\x0b\x0c")]
    {
        producer.publish(subject, AFTER, b"x").await;
        let message = tokio::time::timeout(PATIENCE, pulled.next()).await.unwrap().unwrap().unwrap();
        assert_eq!((message.subject.as_str(), &message.payload[..]), (read, &b"x"[..]));
        message.ack().await.unwrap();
    }
    assert_eq!(context.client().statistics().connects.load(Ordering::Relaxed), 1, "the connection was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_unreadable_headers_is_a_record() {
    let server = Nats::start().await;
    let context = server.context().await;
    let store = context.create_key_value(kv::Config { bucket: "b".into(), ..Default::default() }).await.unwrap();
    let mut changes = store.watch_all().await.unwrap();
    let mut producer = RawProducer::connect(server.url()).await;
    for (what, block) in BLOCKS {
        let revision = producer.publish("$KV.b.key", block, b"{}").await;
        let change = tokio::time::timeout(PATIENCE, changes.next()).await.unwrap().unwrap().unwrap();
        let entry = store.entry("key").await.unwrap().unwrap_or_else(|| panic!("no record: {what}"));
        for entry in [change, entry] {
            assert_eq!(
                (entry.revision, entry.operation, entry.value),
                (revision, kv::Operation::Put, Bytes::from("{}"))
            );
        }
    }
    assert_eq!(context.client().statistics().connects.load(Ordering::Relaxed), 1, "the connection was cut");
}
