//! What becomes of receipts on a real nats-server: traces, opt-outs, dead letters.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use async_nats::jetstream::{self, consumer::PullConsumer};
use chasqui_nats::Publisher;
use chasqui_schemas::{
    Channel, OptOut, Receipt, ReceiptKind,
    bucket::address_key,
    consumer, header, id,
    receipt::Actor,
    record::{Record, Suppression},
    sample::pepper,
    stream, subject, trace,
};
use chasqui_services::run_receipts;
use chasqui_testing::servers::{Nats, count, eventually};
use chasqui_trace::TraceSink;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

fn receipt(app: &str, age: SignedDuration) -> Receipt {
    let notification = id::notification(Timestamp::now() - age, Uuid::nil(), "ada");
    Receipt::new(notification, pepper().delivery(app, notification, Channel::Email, "mailbox"), Actor::Human)
}

fn json(receipt: &Receipt) -> Vec<u8> {
    serde_json::to_vec(receipt).unwrap()
}

async fn publish(context: &jetstream::Context, kind: ReceiptKind, off: Option<&str>, payload: Vec<u8>) {
    let mut headers = async_nats::HeaderMap::new();
    if let Some(address) = off {
        let off = OptOut::Address { key: address_key(address), reason: "complaint".into() };
        headers.insert(header::OPT_OUT, serde_json::to_string(&off).unwrap().as_str());
    }
    let subject = subject::receipt(kind, Channel::Email);
    context.publish_with_headers(subject, headers, payload.into()).await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_receipts_of_our_own_deliveries_are_traced_and_opt_outs_hold_all_the_same() {
    let server = Nats::with_streams().await;
    let context = server.context().await;
    let (minute, kept) = (SignedDuration::from_mins(1), SignedDuration::from_hours(24));
    let ours = receipt("shop", minute);
    let forged = Receipt { delivery_id: Uuid::new_v4(), ..receipt("shop", minute) };
    let unusable = [
        forged.clone(),
        receipt("shop", kept + minute),
        receipt("shop", -kept),
        Receipt { app: Some("bank".into()), ..receipt("shop", minute) },
    ];
    for receipt in &unusable {
        publish(&context, ReceiptKind::Opened, None, json(receipt)).await;
    }
    publish(&context, ReceiptKind::Complained, Some("forged@example.com"), json(&forged)).await;
    publish(&context, ReceiptKind::Complained, Some("alone@example.com"), b"[]".to_vec()).await;
    publish(&context, ReceiptKind::Opened, None, json(&ours)).await;

    let stop = CancellationToken::new();
    let sink = TraceSink::start(&Publisher::new(context.clone()));
    let running = tokio::spawn(run_receipts(context.clone(), sink, pepper(), kept, stop.clone()));
    eventually("all receipts are done", async || {
        let consumer = context.get_consumer_from_stream(consumer::RECEIPTS, stream::RECEIPTS).await;
        let mut consumer: PullConsumer = consumer.unwrap();
        let info = consumer.info().await.unwrap();
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
    stop.cancel();
    running.await.unwrap().unwrap();

    assert_eq!(count(&context, stream::DEAD).await, unusable.len() as u64 + 1);
    let suppressions = context.get_key_value(Suppression::BUCKET).await.unwrap();
    for address in ["forged@example.com", "alone@example.com"] {
        assert!(suppressions.get(address_key(address)).await.unwrap().is_some(), "{address}");
    }
    let traces = context.get_stream(stream::TRACES).await.unwrap();
    let mut traced = Vec::new();
    for sequence in 1..=traces.cached_info().state.last_sequence {
        traced.extend(trace::decode(&traces.get_raw_message(sequence).await.unwrap().payload).unwrap());
    }
    assert_eq!(traced.iter().map(|event| event.trace_id).collect::<Vec<_>>(), [ours.notification_id]);
}
