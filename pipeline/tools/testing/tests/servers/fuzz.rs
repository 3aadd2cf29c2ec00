//! Whatever bytes follow `HPUB`: through a real nats-server, the real reader and validate, each message is forwarded or
//! rejected, and the connection stays. `PROPTEST_CASES` says how long it looks.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    cell::Cell,
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use async_nats::jetstream::{Context, consumer::PullConsumer};
use chasqui_contract::SystemClock;
use chasqui_nats::Publisher;
use chasqui_rules::{Apps, Schemes, Vendors};
use chasqui_runtime::{Broker, lanes::OTHERS, run_stage, settings::Settings};
use chasqui_schemas::{Pepper, envelope};
use chasqui_stores::memory::MemoryDirectory;
use chasqui_testing::{
    RawProducer,
    raw::BLOCKS,
    servers::{Nats, eventually},
};
use chasqui_validate::{Allowed, Validate};
use jiff::SignedDuration;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio_util::sync::CancellationToken;

const GOOD: &[u8] = br#"{"category":"order","recipients":["ada"],"content":{"title":"hi"}}"#;

/// Noise, blocks that are known to be bad, and good ones with some bytes changed.
fn block() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(BLOCKS).prop_map(|(_, block)| block.to_vec());
    let good = prop::sample::select(vec![
        &b"NATS/1.0\r\nContent-Type: application/json\r\nA: b\r\n  c\r\n\r\n"[..],
        b"NATS/1.0\r\nContent-Type: application/msgpack\r\nNats-Msg-Id: x\r\ntraceparent: 00\r\n\r\n",
        b"NATS/1.0\r\nChasqui-Subject: $KV.contacts.ada\r\nNats-Sequence: 7\r\nStatus: 503\r\n\r\n",
    ]);
    let changed = (good, vec((any::<prop::sample::Index>(), byte()), 0..4)).prop_map(|(block, changes)| {
        let mut block = block.to_vec();
        for (at, byte) in changes {
            let at = at.index(block.len());
            block[at] = byte;
        }
        block
    });
    prop_oneof![vec(any::<u8>(), 1..80), known, changed]
}

/// Those that mean something to a parser more often than others.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), prop::sample::select(b"\r\n: \t\0\xff\x85\xa0".to_vec())]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(GOOD.to_vec()), vec(any::<u8>(), 0..80)]
}

/// How many messages of a stage's queue were not decided yet.
async fn undecided(context: &Context) -> u64 {
    let mut consumer: PullConsumer = context.get_consumer_from_stream("normal", "STAGE_VALIDATE_NORMAL").await.unwrap();
    let info = consumer.info().await.unwrap();
    info.num_pending + info.num_ack_pending as u64
}

/// How many submissions were rejected, and how many notifications forwarded; forgets them.
async fn outcome(context: &Context) -> (u64, u64) {
    let (mut rejected, mut forwarded) = (0, 0);
    for name in ["REJECTED", "STAGE_ENRICH_NORMAL"] {
        let stream = context.get_stream(name).await.unwrap();
        let state = &stream.cached_info().state;
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            if name == "REJECTED" {
                assert_eq!(message.subject.as_str(), "notify.rejected.fuzz");
                rejected += 1;
            } else {
                forwarded += envelope::unbundle(&message.payload).len() as u64;
            }
        }
        stream.purge().await.unwrap();
    }
    (rejected, forwarded)
}

#[test]
fn whatever_is_published_is_forwarded_or_rejected() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stop = CancellationToken::new();
    let (_nats, context, producer) = runtime.block_on(async {
        let nats = Nats::with_streams().await;
        let context = nats.context().await;
        let producer = RawProducer::connect(nats.url()).await;
        let publisher = Publisher::new(context.clone());
        let broker = Broker::start(context.client(), publisher, Arc::new(SystemClock));
        let allowed = Allowed {
            apps: Apps::default(),
            vendors: Vendors::default(),
            schemes: Schemes::default(),
            send_at_horizon: SignedDuration::from_hours(24),
        };
        let validate = Validate::new(allowed, Arc::new(MemoryDirectory::new()), Pepper::new(b"a test's"));
        let limits = Settings::with("").unwrap().runner.limits();
        tokio::spawn(run_stage(Arc::new(validate), None, OTHERS, broker, limits, stop.clone()));
        (nats, context, tokio::sync::Mutex::new(producer))
    });
    let last = Cell::new(0);
    let config = Config { cases: Config::default().cases / 8, failure_persistence: None, ..Config::default() };
    let looked = TestRunner::new(config).run(&vec((block(), payload()), 1..30), |messages| {
        runtime.block_on(async {
            let mut producer = producer.lock().await;
            let mut stored = BTreeSet::new();
            for (block, payload) in &messages {
                // JetStream refuses some, and takes others for repeats: these have the sequence of the first.
                stored.extend(producer.offer("notify.submit.normal.fuzz", block, payload).await);
            }
            stored.retain(|sequence| *sequence > last.get());
            last.set(stored.last().copied().unwrap_or(last.get()));
            eventually("all are decided", async || undecided(&context).await == 0).await;
            let (rejected, forwarded) = outcome(&context).await;
            prop_assert_eq!(rejected + forwarded, stored.len() as u64, "{} + {}", rejected, forwarded);
            Ok(())
        })
    });
    stop.cancel();
    looked.unwrap();
    assert_eq!(context.client().statistics().connects.load(Ordering::Relaxed), 1, "the connection was cut");
}
