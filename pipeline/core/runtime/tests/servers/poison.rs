//! Messages that would end or stall a reader: each ends as a dead letter with all its bytes, and the lane goes on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot set up must fail")]

use std::sync::{Arc, atomic::Ordering};

use async_nats::jetstream::{self, message::StreamMessage};
use base64::{Engine, engine::general_purpose::STANDARD};
use chasqui_contract::{Decide, Decision, Output, StoreError, SystemClock};
use chasqui_nats::{Letters, Outgoing, Publisher};
use chasqui_runtime::{Broker, lanes::OTHERS, run_deferred, run_stage, settings::Settings};
use chasqui_schemas::{Lane, Notification, Stage, header, sample, stream, subject};
use chasqui_testing::{
    RawProducer,
    raw::BLOCKS,
    servers::{Nats, count, eventually},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const QUEUE: &str = "STAGE_ENRICH_NORMAL";

/// Forwards everything.
struct Toy;

impl Decide for Toy {
    const STAGE: Stage = Stage::Enrich;
    type Input = Notification;

    async fn decide(&self, input: Notification) -> Result<Decision, StoreError> {
        Ok(Decision::forward(input))
    }
}

struct Bench {
    nats: Nats,
    context: jetstream::Context,
    publisher: Publisher,
    producer: RawProducer,
}

impl Bench {
    async fn new() -> Self {
        let nats = Nats::with_streams().await;
        let context = nats.context().await;
        let producer = RawProducer::connect(nats.url()).await;
        Bench { publisher: Publisher::new(context.clone()), context, producer, nats }
    }

    fn run_stage(&self, stop: &CancellationToken) -> JoinHandle<()> {
        let (client, publisher) = (self.context.client(), self.publisher.clone());
        let broker = Broker::start(client, publisher, Arc::new(SystemClock));
        let limits = Settings::with("").unwrap().runner.limits();
        let runner = run_stage(Arc::new(Toy), None, OTHERS, broker, limits, stop.clone());
        tokio::spawn(async move { runner.await.unwrap() })
    }

    async fn honest(&self, target: &str, headers: Vec<(&'static str, String)>) {
        let payload = Output::Notification(sample::notification()).encode().unwrap().into();
        let message = Outgoing { subject: target.to_owned(), message_id: None, headers, payload };
        self.publisher.publish(&[message]).await.unwrap();
    }

    /// Waits until there are so many dead letters; all of them, oldest first.
    async fn letters(&self, many: usize) -> Vec<StreamMessage> {
        eventually("dead letters", async || count(&self.context, stream::DEAD).await >= many as u64).await;
        let dead = self.context.get_stream(stream::DEAD).await.unwrap();
        let mut letters = Vec::new();
        for sequence in 1..=dead.cached_info().state.last_sequence {
            letters.push(dead.get_raw_message(sequence).await.unwrap());
        }
        letters
    }

    fn connects(&self) -> u64 {
        self.context.client().statistics().connects.load(Ordering::Relaxed)
    }
}

fn text<'a>(letter: &'a StreamMessage, name: &str) -> &'a str {
    letter.headers.get(name).map(|value| value.as_str()).unwrap_or_default()
}

/// That letters hold payload and header block of each of [`BLOCKS`], in whatever order.
fn assert_kept(letters: &[StreamMessage], payload: impl Fn(usize) -> Vec<u8>) {
    for (n, (what, block)) in BLOCKS.iter().enumerate() {
        let letter =
            letters.iter().find(|letter| letter.payload == payload(n)).unwrap_or_else(|| panic!("lost: {what}"));
        assert_eq!(text(letter, header::REASON), "unreadable_headers", "{what}");
        assert_eq!(STANDARD.decode(text(letter, header::RAW_HEADERS)).unwrap(), *block, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_headers_between_stages_are_dead_letters_and_the_lane_goes_on() {
    let mut bench = Bench::new().await;
    let stop = CancellationToken::new();
    let runner = bench.run_stage(&stop);
    let payload = |n: usize| format!("payload {n}").into_bytes();
    for (n, (_, block)) in BLOCKS.iter().enumerate() {
        bench.producer.publish("notify.enrich.normal", block, &payload(n)).await;
        bench.honest("notify.enrich.normal", vec![]).await;
    }
    let letters = bench.letters(BLOCKS.len()).await;
    assert_eq!(letters.len(), BLOCKS.len());
    assert_kept(&letters, payload);
    assert!(letters.iter().all(|letter| text(letter, header::SUBJECT) == "notify.enrich.normal"));
    eventually("all are acknowledged and removed", async || count(&bench.context, QUEUE).await == 0).await;
    assert!(count(&bench.context, "STAGE_FILTER_NORMAL").await > 0);
    assert_eq!(bench.connects(), 1, "the connection was cut");
    stop.cancel();
    runner.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_with_unreadable_headers_is_one_dead_letter() {
    let mut bench = Bench::new().await;
    let stop = CancellationToken::new();
    let runner = bench.run_stage(&stop);
    let envelope = Output::Notification(sample::notification()).encode().unwrap();
    let bundle = chasqui_schemas::envelope::bundle(&[&envelope, &envelope]).unwrap();
    bench.producer.publish("notify.enrich.normal", b"NATS/1.0\r\nA\r\n\r\n", &bundle).await;
    let letters = bench.letters(1).await;
    assert_eq!((letters.len(), &letters[0].payload[..]), (1, &bundle[..]));
    stop.cancel();
    runner.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_message_that_a_queue_takes_becomes_a_dead_letter_with_all_its_bytes() {
    let mut bench = Bench::new().await;
    let stop = CancellationToken::new();
    let runner = bench.run_stage(&stop);
    let limit = bench.context.get_stream(QUEUE).await.unwrap().cached_info().config.max_message_size as usize;
    let block = [b"NATS/1.0\r\n", &vec![0xff; 30_000][..], b"\r\n\r\n"].concat();
    let payload = vec![b'x'; limit - block.len()];
    bench.producer.publish("notify.enrich.normal", &block, &payload).await;
    let letters = bench.letters(1).await;
    assert_eq!(letters[0].payload.len(), payload.len());
    assert_eq!(STANDARD.decode(text(&letters[0], header::RAW_HEADERS)).unwrap(), block);
    stop.cancel();
    runner.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn due_messages_that_cannot_return_are_dead_letters_and_the_others_return() {
    let mut bench = Bench::new().await;
    let due = subject::due(Lane::Normal);
    let payload = |n: usize| format!("payload {n}").into_bytes();
    for (n, (_, block)) in BLOCKS.iter().enumerate() {
        bench.producer.publish(&due, block, &payload(n)).await;
    }
    // Without headers, with half of them, and with a queue that is none: what this process may write, nobody else should.
    let foreign = b"NATS/1.0\r\nChasqui-Subject: $KV.contacts.ada\r\nChasqui-Due-Id: x\r\n\r\n";
    let half = b"NATS/1.0\r\nChasqui-Subject: notify.enrich.normal\r\n\r\n";
    for block in [&b"NATS/1.0\r\n\r\n"[..], half, foreign] {
        bench.producer.publish(&due, block, b"nowhere").await;
    }
    let good = vec![(header::SUBJECT, "notify.enrich.normal".to_owned()), (header::DUE_ID, "n.1".to_owned())];
    bench.honest(&due, good).await;

    let stop = CancellationToken::new();
    let deferred = tokio::spawn(run_deferred(
        bench.nats.client().await,
        bench.publisher.clone(),
        Letters::start(&bench.publisher),
        stop.clone(),
    ));
    let letters = bench.letters(BLOCKS.len() + 3).await;
    assert_kept(&letters, payload);
    assert!(letters.iter().all(|letter| letter.subject.as_str() == subject::DEAD_DEFERRED));
    let nowhere: Vec<_> = letters.iter().filter(|letter| &letter.payload[..] == b"nowhere").collect();
    assert!(nowhere.len() == 3 && nowhere.iter().all(|letter| text(letter, header::REASON) == "undecodable"));
    eventually("the good one returns", async || count(&bench.context, QUEUE).await == 1).await;
    eventually("all are acknowledged", async || count(&bench.context, stream::DEFERRED).await == 0).await;
    assert_eq!(count(&bench.context, "KV_contacts").await, 0);
    stop.cancel();
    deferred.await.unwrap().unwrap();
}
