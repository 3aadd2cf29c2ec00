//! The bare relay: services on JetStream that only pass messages on.
//!
//! It has as many queues as the pipeline has stages, with the settings of the stages' queues, and messages of the same
//! size. Each hop pulls what is there, decodes and encodes the JSON, publishes one by one and awaits all
//! acknowledgements together, then acknowledges. It does no work, sets no message ids and uses no atomic batches. This
//! is what one writes first with async-nats, and it is faster than waiting for each acknowledgement.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_nats::{
    Client,
    jetstream::{
        self,
        consumer::{FromConsumer, PullConsumer, pull},
        stream::Config as StreamConfig,
    },
};
use bytes::Bytes;
use chasqui_schemas::{Lane, Stage, consumer, stream};
use futures::{StreamExt, future::try_join_all};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

use super::per_s;
use chasqui::servers::Addresses;

/// Maximum messages that a hop handles at once.
const CHUNK: usize = 256;
/// Messages of the trial, which estimates the rate and warms up.
const TRIAL: u32 = 500;
/// Intended time of the run that counts: long enough that pauses of the server average out.
const RUN: Duration = Duration::from_secs(4);
/// Maximum messages of the run that counts.
const MAX_MESSAGES: u32 = 100_000;
/// Maximum time without progress, after which the relay counts as broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// Maximum bytes of a hop's queue; far more than a run needs.
const QUEUE_BYTES: i64 = 256 * 1024 * 1024;

/// Measures the messages per second through all hops.
pub(super) async fn rate(
    settings: &chasqui_nats::Settings,
    addresses: &Addresses,
    message_bytes: usize,
    bar: &ProgressBar,
) -> anyhow::Result<f64> {
    let client = addresses.nats(settings).await?;
    let context = jetstream::new(client);
    let consumers = create(&context).await?;
    let (relayed, mut arrived) = mpsc::unbounded_channel();
    let mut hops = JoinSet::new();
    for (hop, consumer) in consumers.into_iter().enumerate() {
        // Each hop has a connection, as services have. It is also faster than one for all.
        let context = jetstream::new(addresses.nats(settings).await?);
        let next = (hop + 1 < Stage::ALL.len()).then(|| subject(hop + 1));
        let relayed = relayed.clone();
        hops.spawn(async move { pass_on(context, consumer, next, &relayed).await });
    }
    let payload = payload(message_bytes);
    let trial = run(&context, &payload, TRIAL, &mut hops, &mut arrived, bar).await?;
    // The product is positive, and clamped below, so the cast is harmless.
    let count = (per_s(TRIAL, trial) * RUN.as_secs_f64()) as u32;
    let count = count.clamp(TRIAL, MAX_MESSAGES);
    let took = run(&context, &payload, count, &mut hops, &mut arrived, bar).await?;
    hops.shutdown().await;
    for hop in 0..Stage::ALL.len() {
        context.delete_stream(name(hop)).await?;
    }
    Ok(per_s(count, took))
}

fn name(hop: usize) -> String {
    format!("BARE_{hop}")
}

fn subject(hop: usize) -> String {
    format!("bare.{hop}")
}

/// Creates the stages' streams and consumers again, under other names.
async fn create(context: &jetstream::Context) -> anyhow::Result<Vec<PullConsumer>> {
    let mut consumers = Vec::new();
    for (hop, stage) in Stage::ALL.into_iter().enumerate() {
        let of_stage = context.get_stream(stream::of_stage(stage, Lane::Normal)).await?;
        let config = StreamConfig {
            name: name(hop),
            subjects: vec![subject(hop)],
            max_bytes: QUEUE_BYTES,
            ..of_stage.cached_info().config.clone()
        };
        let channel = consumer::queues(stage).first().copied().flatten();
        let consumer: PullConsumer = of_stage
            .get_consumer(&consumer::of_queue(Lane::Normal, channel))
            .await
            .map_err(anyhow::Error::from_boxed)
            .with_context(|| format!("the consumer of {stage}"))?;
        let consumer = pull::Config {
            name: Some(name(hop)),
            durable_name: Some(name(hop)),
            filter_subject: String::new(),
            ..pull::Config::try_from_consumer_config(consumer.cached_info().config.clone())
                .map_err(anyhow::Error::from_boxed)?
        };
        consumers.push(context.create_stream(config).await?.create_consumer(consumer).await?);
    }
    Ok(consumers)
}

/// Runs one hop. The last hop reports to `relayed` how many messages it has acknowledged.
async fn pass_on(
    context: jetstream::Context,
    consumer: PullConsumer,
    next: Option<String>,
    relayed: &mpsc::UnboundedSender<usize>,
) -> anyhow::Result<()> {
    let messages = consumer.stream().max_messages_per_batch(2 * CHUNK).heartbeat(Duration::from_secs(5)).messages();
    let mut chunks = messages.await?.ready_chunks(CHUNK);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut acks = Vec::with_capacity(chunk.len());
        for message in &chunk {
            let decoded: Value = serde_json::from_slice(&message.payload)?;
            let encoded = Bytes::from(serde_json::to_vec(&decoded)?);
            if let Some(next) = &next {
                acks.push(context.publish(next.clone(), encoded).await?);
            }
        }
        try_join_all(acks.into_iter().map(IntoFuture::into_future)).await?;
        for message in &chunk {
            message.ack().await.map_err(anyhow::Error::from_boxed)?;
        }
        if next.is_none() {
            flush(context.client()).await?;
            relayed.send(chunk.len())?;
        }
    }
    bail!("the messages ended")
}

async fn flush(client: Client) -> anyhow::Result<()> {
    client.flush().await.context("the connection is closed")
}

/// Publishes `count` messages, and waits until the last hop has acknowledged as many.
async fn run(
    context: &jetstream::Context,
    payload: &Bytes,
    count: u32,
    hops: &mut JoinSet<anyhow::Result<()>>,
    arrived: &mut mpsc::UnboundedReceiver<usize>,
    bar: &ProgressBar,
) -> anyhow::Result<Duration> {
    bar.set_length(u64::from(count));
    bar.set_position(0);
    let began = Instant::now();
    let publishing = async {
        let mut left = count as usize;
        while left > 0 {
            let now = left.min(CHUNK);
            let mut acks = Vec::with_capacity(now);
            for _ in 0..now {
                acks.push(context.publish(subject(0), payload.clone()).await?);
            }
            try_join_all(acks.into_iter().map(IntoFuture::into_future)).await?;
            left -= now;
        }
        anyhow::Ok(())
    };
    let waiting = async {
        let mut waits_for = count as usize;
        while waits_for > 0 {
            tokio::select! {
                more = tokio::time::timeout(PATIENCE, arrived.recv()) => {
                    let more = more.with_context(|| format!("the relay stands still, {waits_for} of {count} messages short"))?;
                    let more = more.context("the relay ended")?;
                    waits_for = waits_for.saturating_sub(more);
                    bar.inc(more as u64);
                }
                ended = hops.join_next() => ended.context("no hops")??.context("the relay failed")?,
            }
        }
        anyhow::Ok(began.elapsed())
    };
    let ((), took) = tokio::try_join!(publishing, waiting)?;
    Ok(took)
}

/// Makes JSON of exactly this size, or a little more if the size is too small for the content.
fn payload(bytes: usize) -> Bytes {
    let of_text = |text: &str| {
        json!({
            "id": "0190a6e2-7c11-7f3a-9d3b-4b1f0a6c2e11", "app": "bench", "lane": "normal",
            "request": { "category": "order", "template": "order.shipped", "idempotency_key": "order-1042-shipped",
                "data": { "order": 1042, "total": 74.9, "items": [{ "name": "Kettle", "count": 1 }, { "name": "Cup", "count": 6 }] } },
            "recipient": { "user": "user-42", "contacts": { "locale": "en-US", "devices": [{ "id": "phone", "platform": "android" }] } },
            "text": text,
        })
        .to_string()
    };
    let padding = bytes.saturating_sub(of_text("").len());
    of_text(&"x".repeat(padding)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_the_size_asked_for() {
        assert_eq!([500, 900].map(|bytes| payload(bytes).len()), [500, 900]);
    }
}
