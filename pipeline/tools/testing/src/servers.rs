//! A nats-server for a test: started here and nowhere else, gone when dropped. What cannot be set up panics.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot set up must fail")]

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::jetstream::{
    self,
    stream::{Config, DiscardPolicy, RetentionPolicy},
};
use bytes::Bytes;
use chasqui_embedded::{Embedded, NatsOptions, Options};
use chasqui_nats::{ConnectOptions, Outgoing, connect};
use chasqui_runtime::{settings::Settings, topology};
use tokio::time::Instant;

/// Where the servers' programs are kept once fetched: one place for all tests and `make`.
pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../.cache/chasqui")
}

/// What embedded servers are started with, in `data_dir`: neither NATS nor ClickHouse until somebody says so.
pub fn options(data_dir: impl Into<PathBuf>) -> Options {
    Options { nats: None, clickhouse: None, ..Options::new(data_dir, cache()) }
}

/// A nats-server with JetStream that syncs before it acknowledges, in a directory of its own.
pub struct Nats {
    dir: tempfile::TempDir,
    options: NatsOptions,
    url: String,
    /// `None` while it is stopped.
    server: Option<Embedded>,
}

impl Nats {
    /// Starts it, with a bound that some gigabytes of free disk satisfy.
    pub async fn start() -> Self {
        Self::start_with(NatsOptions { max_file_store_bytes: 2 << 30, ..NatsOptions::default() }).await
    }

    /// Starts it with `options`.
    pub async fn start_with(options: NatsOptions) -> Self {
        let mut nats = Nats { dir: tempfile::tempdir().unwrap(), options, url: String::new(), server: None };
        nats.start_again().await;
        nats
    }

    /// Starts it, with the streams, consumers and buckets of Chasqui, small enough for a machine with little free disk.
    pub async fn with_streams() -> Self {
        let nats = Self::start().await;
        let mut settings = Settings::with("").unwrap();
        settings.streams.queue_bytes = 64 << 20;
        settings.streams.trace_bytes = 64 << 20;
        topology::migrate(&nats.client().await, &nats.url, &settings.streams, &settings.runner).await.unwrap();
        nats
    }

    /// `nats://127.0.0.1:…`, the same after [`Nats::start_again`].
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The directory that goes away with it; the server's data is in `data` there.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server, to look at or to kill.
    pub fn server(&self) -> &Embedded {
        self.server.as_ref().unwrap()
    }

    /// A connection as Chasqui's processes have one.
    pub async fn client(&self) -> async_nats::Client {
        connect(&self.url, &ConnectOptions::default()).await.unwrap()
    }

    /// JetStream, on a connection of its own.
    pub async fn context(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// Kills it as a crash would, and waits until its supervisor has it back.
    pub async fn crash(&self) {
        let server = self.server().nats().unwrap();
        let before = server.restarts();
        server.kill();
        assert!(server.restarted(before + 1).await, "it did not come back");
    }

    /// Stops it, and nobody starts it.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown().await;
        }
    }

    /// Starts it after [`Nats::stop`], with what it had, where it was.
    pub async fn start_again(&mut self) {
        let port = self.url.rsplit(':').next().and_then(|port| port.parse().ok()).or(self.options.port);
        let nats = Some(NatsOptions { port, ..self.options.clone() });
        let server = Embedded::start(Options { nats, ..options(self.dir.path().join("data")) }, |_| {}).await.unwrap();
        self.url = server.nats_url().unwrap().to_owned();
        self.server = Some(server);
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

/// How many messages a stream holds.
pub async fn count(context: &jetstream::Context, stream: &str) -> u64 {
    context.get_stream(stream).await.unwrap().cached_info().state.messages
}

/// Waits until `done`, for ten seconds at most.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(10);
    while !done().await {
        assert!(Instant::now() < patience, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A message whose id and payload are `id`.
pub fn message(subject: &str, id: impl fmt::Display) -> Outgoing {
    Outgoing {
        subject: subject.to_owned(),
        message_id: Some(id.to_string()),
        headers: Vec::new(),
        payload: Bytes::from(id.to_string()),
    }
}
