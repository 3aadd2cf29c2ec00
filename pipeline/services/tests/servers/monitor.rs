//! The sampler against a real nats-server: what it says of queues in known states, and of a server that is away.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up must fail")]

use std::time::Duration;

use async_nats::{
    connection::State,
    jetstream::{self, AckKind, Context, Message, consumer::PullConsumer},
};
use chasqui_schemas::{Lane, Stage, stream};
use chasqui_services::monitor::{Sample, Sampler};
use chasqui_testing::servers::Nats;
use chasqui_warehouse::write::queue_metrics::QueueMetric;
use futures::StreamExt;
use jiff::Timestamp;
use tokio::time::sleep;

/// 40 consumers of stages, 4 of due messages, traces, receipts, owners; and the unconsumed part of six streams.
const QUEUES: usize = 40 + 4 + 3 + 7;

fn find<'a>(sample: &'a Sample, stage: &str, lane: &str) -> &'a QueueMetric {
    sample.rows.iter().find(|row| row.stage == stage && row.lane == lane).unwrap()
}

async fn publish(context: &Context, subject: &str, count: usize) {
    for _ in 0..count {
        context.publish(subject.to_owned(), "{}".into()).await.unwrap().await.unwrap();
    }
}

async fn take(context: &Context, count: usize) -> Vec<Message> {
    let consumer: PullConsumer = context.get_consumer_from_stream("normal", "STAGE_VALIDATE_NORMAL").await.unwrap();
    let messages = consumer.batch().max_messages(count).expires(Duration::from_secs(30)).messages().await.unwrap();
    let messages: Vec<Message> = messages.map(Result::unwrap).collect().await;
    assert_eq!(messages.len(), count);
    messages
}

/// Acknowledges, and returns when the server knows.
async fn settle(message: &Message) {
    message.double_ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_tells_depth_age_and_rates_of_every_queue() {
    let server = Nats::with_streams().await;
    let client = server.client().await;
    let context = jetstream::new(client.clone());
    let mut sampler = Sampler::new(client);
    publish(&context, "notify.submit.bulk.shop", 2).await;
    publish(&context, "notify.submit.normal.shop", 5).await;
    publish(&context, "notify.send.high.email", 1).await;
    publish(&context, "notify.dead.render", 3).await;
    let taken = take(&context, 2).await;

    let sample = sampler.sample(Timestamp::now()).await;
    assert_eq!((sample.rows.len(), sample.unanswered), (QUEUES, 0));
    let normal = find(&sample, "validate", "normal");
    assert_eq!((normal.pending, normal.in_flight, normal.redelivered), (3, 2, 0));
    assert_eq!((normal.in_per_s, normal.out_per_s), (0.0, 0.0), "there is nothing to compare with yet");
    let stored = async |lane: Lane, sequence: u64| {
        let stream = context.get_stream_no_info(stream::of_stage(Stage::Validate, lane)).await.unwrap();
        let time = stream.direct_get(sequence).await.unwrap().time;
        Timestamp::from_nanosecond(time.unix_timestamp_nanos()).unwrap()
    };
    let age = |at: Timestamp, stored: Timestamp| (at.as_millisecond() - stored.as_millisecond()) as u64;
    assert_eq!(normal.oldest_ms, age(sample.at, stored(Lane::Normal, 1).await));
    assert_eq!(find(&sample, "validate", "bulk").oldest_ms, age(sample.at, stored(Lane::Bulk, 1).await));
    let mail = sample.rows.iter().find(|row| row.channel == "email" && row.lane == "high").unwrap();
    assert_eq!((mail.stage, mail.consumer.as_str(), mail.pending), ("send", "high-email", 1));
    assert_eq!((find(&sample, "dead", "").pending, find(&sample, "traces", "").pending), (3, 0));
    assert!(normal.bytes > find(&sample, "validate", "bulk").bytes);

    let before = sample.rows.len();
    settle(&taken[0]).await;
    publish(&context, "notify.submit.normal.shop", 4).await;
    let sample = sampler.sample(Timestamp::now()).await;
    assert_eq!(sample.rows.len(), before);
    let normal = find(&sample, "validate", "normal");
    assert_eq!((normal.pending, normal.in_flight), (7, 1));
    let ratio = normal.in_per_s / normal.out_per_s;
    assert!((ratio - 4.0).abs() < 1e-6, "four came and one went: {normal:?}");
    assert_eq!(normal.oldest_ms, age(sample.at, stored(Lane::Normal, 2).await));
    assert_eq!(find(&sample, "validate", "bulk").in_per_s, 0.0);

    // Only redeliveries from here on: nothing comes and nothing goes, however often.
    taken[1].ack_with(AckKind::Nak(None)).await.unwrap();
    for message in take(&context, 8).await {
        message.ack_with(AckKind::Nak(None)).await.unwrap();
    }
    sampler.sample(Timestamp::now()).await;
    for _ in 0..3 {
        for message in take(&context, 8).await {
            message.ack_with(AckKind::Nak(None)).await.unwrap();
        }
    }
    let again = take(&context, 8).await;
    let sample = sampler.sample(Timestamp::now()).await;
    let normal = find(&sample, "validate", "normal");
    assert_eq!((normal.in_per_s, normal.out_per_s, normal.redelivered), (0.0, 0.0, 8));

    for message in &again {
        settle(message).await;
    }
    let sample = sampler.sample(Timestamp::now()).await;
    let normal = find(&sample, "validate", "normal");
    assert_eq!((normal.pending, normal.in_flight, normal.redelivered, normal.oldest_ms), (0, 0, 0, 0));
    assert!(normal.out_per_s > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_for_its_time_is_not_late() {
    let server = Nats::with_streams().await;
    let client = server.client().await;
    let context = jetstream::new(client.clone());
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Schedule", "@at 2100-01-01T00:00:00Z");
    headers.insert("Nats-Schedule-Target", "notify.due.high");
    let stored = context.publish_with_headers("notify.deferred.a", headers, "x".into()).await.unwrap();
    stored.await.unwrap();
    publish(&context, "notify.due.high", 1).await;
    let sample = Sampler::new(client).sample(Timestamp::now()).await;
    let (due, waiting) = (find(&sample, "schedules", "high"), find(&sample, "schedules", ""));
    assert_eq!((due.pending, due.consumer.as_str()), (1, "high"));
    assert_eq!((waiting.pending, waiting.oldest_ms, waiting.consumer.as_str()), (1, 0, ""));
    assert_eq!(waiting.stream, stream::DEFERRED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_costs_samples_and_nothing_else() {
    let mut server = Nats::with_streams().await;
    let client = server.client().await;
    let context = jetstream::new(client.clone());
    publish(&context, "notify.submit.normal.shop", 5).await;
    let mut sampler = Sampler::new(client.clone());
    assert_eq!(sampler.sample(Timestamp::now()).await.rows.len(), QUEUES);

    server.stop().await;
    while client.connection_state() == State::Connected {
        sleep(Duration::from_millis(20)).await;
    }
    let sample = sampler.sample(Timestamp::now()).await;
    assert_eq!((sample.rows.len(), sample.unanswered), (0, QUEUES));

    server.start_again().await;
    let sample = loop {
        let sample = sampler.sample(Timestamp::now()).await;
        if sample.unanswered == 0 {
            break sample;
        }
        sleep(Duration::from_millis(50)).await;
    };
    let normal = find(&sample, "validate", "normal");
    assert_eq!((normal.pending, normal.in_per_s, normal.out_per_s), (5, 0.0, 0.0));
}
