//! Freeing a stream that two consumers read, on a real nats-server.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use async_nats::jetstream::{
    Context,
    consumer::{AckPolicy, PullConsumer, pull},
    stream::Config,
};
use bytes::Bytes;
use chasqui_nats::{Outgoing, Publisher, keep_releasing, release::release};
use chasqui_testing::servers::{Nats, count, eventually, message, stream_config};
use futures::StreamExt;
use tokio::task::JoinSet;

/// What the stream may hold, in messages of a kilobyte.
const ROOM: usize = 800;

async fn consumer(context: &Context, name: &str) -> PullConsumer {
    let config = pull::Config {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(60),
        ..pull::Config::default()
    };
    context.create_consumer_on_stream(config, "S").await.unwrap()
}

async fn publish(context: &Context, first: usize, count: usize) {
    let large = |n: usize| Outgoing { payload: Bytes::from(vec![b'x'; 900]), ..message("s", n) };
    Publisher::new(context.clone()).publish(&(first..first + count).map(large).collect::<Vec<_>>()).await.unwrap();
}

async fn acknowledge(consumer: &PullConsumer, count: usize) {
    let mut messages = consumer.fetch().max_messages(count).messages().await.unwrap();
    while let Some(message) = messages.next().await {
        message.unwrap().double_ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_lags_holds_half_of_the_stream_and_no_more() {
    let server = Nats::start().await;
    let context = server.context().await;
    let config = Config { max_bytes: ROOM as i64 * 1_024, ..stream_config("S", "s") };
    context.create_stream(config).await.unwrap();
    let writer = consumer(&context, "writer").await;
    let mut released = 0;
    let mut left_after_a_round = async || {
        released = release(&context, "S", "writer", Some("follower"), released).await.unwrap();
        count(&context, "S").await
    };

    // There is no follower: what the writer has acknowledged goes.
    publish(&context, 0, 100).await;
    acknowledge(&writer, 60).await;
    assert_eq!(left_after_a_round().await, 40);

    // There is one: nothing goes that it has not acknowledged too, nor what only it has.
    let follower = consumer(&context, "follower").await;
    acknowledge(&writer, 40).await;
    acknowledge(&follower, 10).await;
    assert_eq!(left_after_a_round().await, 30);
    publish(&context, 100, 100).await;
    acknowledge(&follower, 130).await;
    assert_eq!(left_after_a_round().await, 100, "the writer has not acknowledged these");
    assert_eq!(left_after_a_round().await, 100, "nor are they removed by another round");

    // It is away while the stream fills: the oldest go, and it goes on with what is left.
    acknowledge(&writer, 100).await;
    publish(&context, 200, ROOM / 8 * 5).await;
    acknowledge(&writer, ROOM / 8 * 5).await;
    let left = left_after_a_round().await;
    assert!(left <= (ROOM / 2) as u64, "{left} are left: the oldest are not removed");
    assert!(left > (ROOM / 4) as u64, "{left} are left");
    acknowledge(&follower, left as usize).await;
    assert_eq!(left_after_a_round().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_later_is_removed_by_a_later_round() {
    let server = Nats::start().await;
    let context = server.context().await;
    context.create_stream(stream_config("S", "s")).await.unwrap();
    let writer = consumer(&context, "writer").await;
    let mut releasing = JoinSet::new();
    releasing.spawn(keep_releasing(context.clone(), "S", "writer".to_owned(), None));
    publish(&context, 0, 10).await;
    for left in [6, 2] {
        acknowledge(&writer, 4).await;
        eventually("what is acknowledged is removed", async || count(&context, "S").await == left).await;
    }
}
