//! A nats-server or a ClickHouse for a test: started here and nowhere else, gone when dropped. A server that cannot be set
//! up panics.
//!
//! Tests that start one live in a module called `servers`; `make test-fast` leaves those out, and [`options`] fails a
//! test that it finds elsewhere.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot set up must fail")]

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use async_nats::jetstream::{
    self,
    stream::{Config, DiscardPolicy, RetentionPolicy},
};
use bytes::Bytes;
use chasqui_embedded::{ChildProgram, ClickHouseOptions, Embedded, NatsOptions, Options};
use chasqui_nats::{ConnectOptions, Outgoing, connect};
use chasqui_runtime::{settings::Settings, topology};
use tokio::time::Instant;

/// Where the servers' programs are kept once fetched: one place for all tests and `make`.
pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../.cache/chasqui")
}

/// What embedded servers are started with, in `data_dir`: neither NATS nor ClickHouse until the caller adds them.
pub fn options(data_dir: impl Into<PathBuf>) -> Options {
    assert!(
        std::env::var_os("CHASQUI_TEST_FAST").is_none(),
        "this test starts a server: move it to a module called `servers`, which `make test-fast` leaves out"
    );
    Options { nats: None, clickhouse: None, ..Options::new(data_dir, cache()) }
}

/// The user of ClickHouse that tests ask as: unlike Chasqui's own, it may do everything there.
pub const TESTER: &str = "tester";
/// The tester's password.
pub static TESTERS_PASSWORD: LazyLock<String> = LazyLock::new(|| uuid::Uuid::new_v4().simple().to_string());

/// A ClickHouse as tests start it. `extra_users` is a document of ClickHouse's beside our own; `variables`, as `NAME=value`,
/// are set in its environment.
pub fn clickhouse_options(extra_users: &str, variables: &[&str]) -> ClickHouseOptions {
    let tester = format!(
        "<{TESTER}><password>{}</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile>
         <quota>default</quota></{TESTER}>",
        *TESTERS_PASSWORD
    );
    let extra_users = match extra_users.rsplit_once("</users>") {
        Some((before, after)) => format!("{before}{tester}</users>{after}"),
        None => format!("<clickhouse><users>{tester}</users></clickhouse>"),
    };
    let mut args: Vec<OsString> = variables.iter().map(Into::into).collect();
    args.extend([built("chasqui").into(), chasqui_embedded::CLICKHOUSE_SUBCOMMAND.into()]);
    let child = ChildProgram { program: "/usr/bin/env".into(), args };
    ClickHouseOptions { child: Some(child), extra_users, ..ClickHouseOptions::default() }
}

/// A client of the database `chasqui`, as the tester.
pub fn testers_client(url: &str) -> clickhouse::Client {
    clickhouse::Client::default()
        .with_url(url)
        .with_database("chasqui")
        .with_user(TESTER)
        .with_password(TESTERS_PASSWORD.as_str())
}

/// A program of this workspace, where cargo put it beside the test that runs.
pub fn built(program: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap().join(program);
    assert!(
        built.is_file(),
        "{} is missing: run `make test`, or `cargo build --workspace --bins` first",
        built.display()
    );
    built
}

/// What a nats-server for tests begins with.
pub fn without_login() -> NatsOptions {
    NatsOptions { login: false, ..NatsOptions::default() }
}

/// A nats-server with JetStream that syncs before it acknowledges, in a directory of its own. It asks for no login, so that
/// tests can speak to it byte by byte.
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
        Self::start_with(NatsOptions { max_file_store_bytes: 2 << 30, ..without_login() }).await
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
        settings.streams.queue_bytes = 32 << 20;
        settings.streams.front_bytes = 64 << 20;
        settings.streams.trace_bytes = 64 << 20;
        settings.streams.inbox_bytes = 64 << 20;
        settings.streams.rejected_bytes = 64 << 20;
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
        connect(self.server().nats().unwrap().address(), &ConnectOptions::default()).await.unwrap()
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

    /// Stops it; its supervisor does not start it again.
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

/// A ClickHouse in a directory of its own.
pub struct ClickHouse {
    server: Embedded,
    url: String,
    _dir: tempfile::TempDir,
}

impl ClickHouse {
    /// Starts it, with the users that it has anyway.
    pub async fn start() -> Self {
        Self::start_with(clickhouse_options("", &[])).await
    }

    /// Starts it with `options`.
    pub async fn start_with(clickhouse: ClickHouseOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clickhouse = Some(clickhouse);
        let options = Options { clickhouse, ..options(dir.path().join("data")) };
        let server = Embedded::start(options, |step| eprintln!("{step}")).await.unwrap();
        let url = server.clickhouse_url().unwrap().to_owned();
        ClickHouse { server, url, _dir: dir }
    }

    /// `http://127.0.0.1:…`, the same after [`ClickHouse::crash`].
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client of the database `chasqui`, as the tester.
    pub fn client(&self) -> clickhouse::Client {
        testers_client(&self.url)
    }

    /// The server, to look at.
    pub fn server(&self) -> &Embedded {
        &self.server
    }

    /// Kills it as a crash would, and waits until its supervisor has it back.
    pub async fn crash(&self) {
        let server = self.server.clickhouse().unwrap();
        let before = server.restarts();
        server.kill();
        assert!(server.restarted(before + 1).await, "it did not come back");
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

/// So many messages for one atomic batch.
pub fn batch(subject: &str, count: usize, payload: impl Fn(usize) -> String) -> Vec<Outgoing> {
    let one = |number| Outgoing { payload: payload(number).into(), ..message(subject, uuid::Uuid::now_v7()) };
    (0..count).map(one).collect()
}
