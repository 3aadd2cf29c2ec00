//! A real nats-server for each test, with `sync_interval: always`, and the streams and buckets that the runtime's
//! topology makes in earnest.

// Each test binary compiles this module, and uses its own part of it.
#![allow(dead_code, unreachable_pub, clippy::panic, clippy::unwrap_used, reason = "a test's support")]

use std::time::Duration;

use async_nats::jetstream::{
    self, kv,
    stream::{Config, DiscardPolicy, RetentionPolicy},
};
use bytes::Bytes;
use chasqui_contract::{Book, Claim, Ledger};
use chasqui_embedded::{Embedded, NatsOptions, Options};
use chasqui_schemas::{bucket::Bucket, id, stream, subject};
use chasqui_stores::{ConnectOptions, Outgoing, Publisher, connect};

/// A nats-server of one test, gone when dropped.
pub struct Server {
    pub embedded: Embedded,
    _data_dir: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let options = Options {
            nats: Some(NatsOptions { max_file_store_bytes: 1 << 30, ..NatsOptions::default() }),
            clickhouse: None,
            ..Options::new(data_dir.path(), concat!(env!("CARGO_TARGET_TMPDIR"), "/embedded"))
        };
        let embedded = Embedded::start(options, |_| {}).await.unwrap();
        Server { embedded, _data_dir: data_dir }
    }

    pub async fn context(&self) -> jetstream::Context {
        let client = connect(self.embedded.nats_url().unwrap(), &ConnectOptions::default()).await.unwrap();
        jetstream::new(client)
    }

    /// Kills the server as a crash would, and waits until it is back.
    pub async fn crash(&self) {
        let server = self.embedded.nats().unwrap();
        let before = server.restarts();
        server.kill();
        assert!(server.restarted(before + 1).await);
    }
}

/// A stream as the publisher needs it.
pub fn stream_config(name: &str, subjects: &str) -> Config {
    Config {
        name: name.to_owned(),
        subjects: vec![subjects.to_owned()],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        duplicate_window: Duration::from_secs(600),
        max_age: Duration::from_secs(600),
        allow_atomic_publish: true,
        allow_direct: true,
        ..Config::default()
    }
}

/// The stream of attempts.
pub fn attempts_config() -> Config {
    let subjects = [subject::ATTEMPTS, subject::ENDED, subject::TAKEN_OVER].map(str::to_owned).to_vec();
    Config { subjects, ..stream_config(stream::ATTEMPTS, "") }
}

/// What the topology makes for directory, ledger and inbox.
pub async fn make_stores(context: &jetstream::Context) {
    for (name, subjects) in [(stream::LEDGER, subject::LEDGER), (stream::INBOX, subject::INBOX)] {
        context.create_stream(stream_config(name, subjects)).await.unwrap();
    }
    context.create_stream(attempts_config()).await.unwrap();
    for bucket in Bucket::ALL {
        let config = kv::Config { bucket: bucket.as_str().to_owned(), ..kv::Config::default() };
        context.create_key_value(config).await.unwrap();
    }
}

/// Begins an attempt; answers where.
pub async fn begin(ledger: &dyn Ledger, id: &str) -> u64 {
    let claim = id::claim(&["begun", id]);
    assert_eq!(ledger.claim(Book::Attempts, &claim, "ours".into()).await.unwrap(), Claim::First);
    match ledger.claim(Book::Attempts, &claim, "theirs".into()).await.unwrap() {
        Claim::Taken { place, .. } => place,
        Claim::First => panic!("an attempt began twice"),
    }
}

pub fn publisher(context: &jetstream::Context) -> Publisher {
    Publisher::new(context.clone())
}

/// A message whose id and payload are `id`.
pub fn message(subject: &str, id: impl std::fmt::Display) -> Outgoing {
    Outgoing {
        subject: subject.to_owned(),
        message_id: Some(id.to_string()),
        headers: Vec::new(),
        payload: Bytes::from(id.to_string()),
    }
}

/// How many messages the stream holds.
pub async fn count(context: &jetstream::Context, stream: &str) -> u64 {
    context.get_stream(stream).await.unwrap().cached_info().state.messages
}

/// Waits until `done`, for ten seconds at most.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let patience = tokio::time::Instant::now() + Duration::from_secs(10);
    while !done().await {
        assert!(tokio::time::Instant::now() < patience, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
