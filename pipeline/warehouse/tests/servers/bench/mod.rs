//! A real nats-server and a real ClickHouse for one test, the streams this crate reads, and a road between writer
//! and ClickHouse that can be closed.

pub(crate) mod story;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use async_nats::jetstream::{
    Context,
    consumer::{AckPolicy, PullConsumer, pull},
    stream::Config,
};
use chasqui_embedded::ClickHouseOptions;
use chasqui_nats::Publisher;
use chasqui_schemas::{
    consumer, sample, stream, subject,
    trace::{self, TraceEvent},
};
use chasqui_services::run_receipts;
use chasqui_testing::servers::{ClickHouse, Nats, clickhouse_options};
use chasqui_trace::TraceSink;
use chasqui_warehouse::{MigrateSettings, WriterSettings, migrate, run_writer};
use clickhouse::Client;
use futures::StreamExt;
use jiff::SignedDuration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes; so that a hang fails instead of hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Bench {
    pub(crate) nats: Context,
    pub(crate) clickhouse: Client,
    pub(crate) clickhouse_url: String,
    pub(crate) clickhouse_server: ClickHouse,
    _nats_server: Nats,
}

impl Bench {
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with_users("", &[]).await
    }

    /// With users from a document of ClickHouse's own kind, and the variables that it refers to. The client is still the
    /// tester's.
    pub(crate) async fn start_with_users(users: &str, variables: &[&str]) -> Result<Self> {
        Self::start_with(clickhouse_options(users, variables)).await
    }

    /// A server that may ask others.
    pub(crate) async fn start_unconfined() -> Result<Self> {
        Self::start_with(ClickHouseOptions { confined: false, ..clickhouse_options("", &[]) }).await
    }

    async fn start_with(options: ClickHouseOptions) -> Result<Self> {
        let (nats_server, clickhouse_server) = tokio::join!(Nats::start(), ClickHouse::start_with(options));
        Ok(Bench {
            nats: nats_server.context().await,
            clickhouse: clickhouse_server.client(),
            clickhouse_url: clickhouse_server.url().to_owned(),
            clickhouse_server,
            _nats_server: nats_server,
        })
    }

    /// With streams and tables.
    pub(crate) async fn ready() -> Result<Self> {
        let bench = Self::start().await?;
        bench.prepare().await?;
        Ok(bench)
    }

    /// Makes streams and tables.
    pub(crate) async fn prepare(&self) -> Result<()> {
        // Short, so that deadlines pass while ClickHouse is away.
        self.prepare_with(Duration::from_secs(1)).await
    }

    pub(crate) async fn prepare_with(&self, ack_wait: Duration) -> Result<()> {
        migrate(&self.clickhouse, &MigrateSettings::default()).await?;
        self.prepare_streams(ack_wait).await
    }

    pub(crate) async fn prepare_streams(&self, ack_wait: Duration) -> Result<()> {
        for (name, subject, consumer) in [
            (stream::TRACES, subject::TRACES, Some(consumer::TRACES)),
            (stream::RECEIPTS, subject::RECEIPTS, Some(consumer::RECEIPTS)),
            (stream::DEAD, subject::DEAD, None),
        ] {
            let config = Config { name: name.into(), subjects: vec![subject.into()], ..Config::default() };
            let made = self.nats.create_stream(config).await?;
            if let Some(consumer) = consumer {
                made.create_consumer(pull::Config {
                    durable_name: Some(consumer.into()),
                    ack_policy: AckPolicy::Explicit,
                    ack_wait,
                    max_ack_pending: 20_000,
                    ..pull::Config::default()
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Merges all parts of a table. ClickHouse declines while it is merging some of them by itself.
    pub(crate) async fn merge(&self, table: &str) -> Result<()> {
        let sql = format!("OPTIMIZE TABLE {table} FINAL SETTINGS optimize_throw_if_noop = 1");
        let merged = async {
            while self.clickhouse.query(&sql).execute().await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, merged).await.with_context(|| format!("merging {table}"))
    }

    /// Runs the writer with small batches; `url` is where ClickHouse is for it.
    pub(crate) fn writer(&self, url: &str) -> Running {
        let settings =
            WriterSettings { max_rows: 50, max_wait: Duration::from_millis(50), ..WriterSettings::default() };
        self.run_writer(self.clickhouse.clone().with_url(url), settings)
    }

    pub(crate) fn writer_with(&self, settings: WriterSettings) -> Running {
        self.run_writer(self.clickhouse.clone(), settings)
    }

    fn run_writer(&self, client: Client, settings: WriterSettings) -> Running {
        let stop = CancellationToken::new();
        Running { task: tokio::spawn(run_writer(self.nats.clone(), client, settings, stop.clone())), stop }
    }

    pub(crate) fn receipts(&self) -> Running {
        let stop = CancellationToken::new();
        let sink = TraceSink::start(&Publisher::new(self.nats.clone()));
        let receipts =
            run_receipts(self.nats.clone(), sink, sample::pepper(), SignedDuration::from_hours(24 * 90), stop.clone());
        Running { task: tokio::spawn(async move { Ok(receipts.await?) }), stop }
    }

    /// Publishes events in messages of `size`.
    pub(crate) async fn trace(&self, events: &[TraceEvent], size: usize) -> Result<()> {
        for part in events.chunks(size) {
            self.nats.publish(subject::TRACES, trace::encode(part).into()).await?.await?;
        }
        Ok(())
    }

    /// Waits until everything published is acknowledged.
    pub(crate) async fn drained(&self) -> Result<()> {
        // By sequence: what the server counts as pending lags a moment behind what it has acknowledged to publishers.
        let done = async |stream: &'static str, consumer: &'static str| {
            let last = self.nats.get_stream(stream).await?.cached_info().state.last_sequence;
            let consumer: PullConsumer = self.nats.get_consumer_from_stream(consumer, stream).await?;
            anyhow::Ok(consumer.cached_info().ack_floor.stream_sequence >= last)
        };
        let drained = async {
            while !(done(stream::RECEIPTS, consumer::RECEIPTS).await? && done(stream::TRACES, consumer::TRACES).await?)
            {
                sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, drained).await.context("traces were not written")?
    }

    /// Waits until a consumer has handed something out that is not acknowledged.
    pub(crate) async fn in_work(&self, stream: &str, consumer: &str) -> Result<()> {
        let handed_out = async {
            loop {
                let consumer: PullConsumer = self.nats.get_consumer_from_stream(consumer, stream).await?;
                if consumer.cached_info().num_ack_pending > 0 {
                    return anyhow::Ok(());
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, handed_out).await.context("nothing was handed out")?
    }

    /// Watches the deadlines of messages being extended, from now on.
    pub(crate) async fn extensions(&self) -> Result<Extensions> {
        let client = self.nats.client();
        let answers = client.subscribe("$JS.ACK.>").await?;
        client.flush().await?;
        Ok(Extensions { answers })
    }

    pub(crate) async fn dead_letters(&self) -> Result<u64> {
        Ok(self.nats.get_stream(stream::DEAD).await?.cached_info().state.messages)
    }

    pub(crate) async fn number(&self, sql: &str) -> Result<u64> {
        self.clickhouse.query(sql).fetch_one().await.with_context(|| sql.to_owned())
    }

    /// A query's result as text.
    pub(crate) async fn text(&self, sql: &str) -> Result<String> {
        let bytes = self.clickhouse.query(sql).fetch_bytes("TSVWithNames")?.collect().await?;
        Ok(String::from_utf8(bytes.to_vec())?)
    }

    /// Every state there is.
    pub(crate) async fn states(&self) -> Result<String> {
        let notifications = self.text("SELECT * FROM notifications ORDER BY notification_id").await?;
        let deliveries = self.text("SELECT * FROM deliveries ORDER BY delivery_id").await?;
        let stats = self.text("SELECT * FROM delivery_stats ORDER BY ALL").await?;
        Ok(notifications + &deliveries + &stats)
    }
}

/// What consumers answer to the messages that they were handed.
pub(crate) struct Extensions {
    answers: async_nats::Subscriber,
}

impl Extensions {
    /// Waits until the deadline of some message was extended so often.
    pub(crate) async fn of_one_message(mut self, times: usize) -> Result<()> {
        let mut seen = HashMap::new();
        let extended = async {
            while let Some(answer) = self.answers.next().await {
                if answer.payload.as_ref() == b"+WPI" {
                    let times_seen = seen.entry(answer.subject.to_string()).or_insert(0);
                    *times_seen += 1;
                    if *times_seen == times {
                        return Ok(());
                    }
                }
            }
            anyhow::bail!("the connection ended")
        };
        timeout(PATIENCE, extended).await.context("no deadline was extended")?
    }
}

/// Something of this crate at work.
pub(crate) struct Running {
    task: JoinHandle<Result<(), chasqui_warehouse::WarehouseError>>,
    stop: CancellationToken,
}

impl Running {
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(timeout(PATIENCE, self.task).await???)
    }
}

/// What a [`Road`] does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Traffic {
    Open,
    /// Nothing gets through.
    Closed,
    /// What is asked arrives and is done; the answer is lost.
    OneWay,
}

/// A road to a server that can be closed.
pub(crate) struct Road {
    pub(crate) url: String,
    traffic: Arc<AtomicU8>,
}

impl Road {
    pub(crate) async fn to(url: &str, traffic: Traffic) -> Result<Self> {
        let target = url.strip_prefix("http://").context("url")?.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(AtomicU8::new(traffic as u8));
        let traffic = shared.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (target, traffic) = (target.clone(), traffic.clone());
                tokio::spawn(async move { drive(near, &target, &traffic).await });
            }
        });
        Ok(Road { url, traffic: shared })
    }

    pub(crate) fn set(&self, traffic: Traffic) {
        self.traffic.store(traffic as u8, Ordering::SeqCst);
    }
}

/// Carries bytes both ways; looks at the traffic rule before each piece.
async fn drive(near: TcpStream, target: &str, traffic: &AtomicU8) -> Option<()> {
    let is = |rule: Traffic| traffic.load(Ordering::SeqCst) == rule as u8;
    if is(Traffic::Closed) {
        return None;
    }
    let far = TcpStream::connect(target).await.ok()?;
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let (mut ask, mut answer) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = near_read.read(&mut ask) => match read.ok()? {
                n if n > 0 && !is(Traffic::Closed) => far_write.write_all(&ask[..n]).await.ok()?,
                _ => return None,
            },
            read = far_read.read(&mut answer) => match read.ok()? {
                n if n > 0 && is(Traffic::Open) => near_write.write_all(&answer[..n]).await.ok()?,
                _ => return None,
            },
        }
    }
}
