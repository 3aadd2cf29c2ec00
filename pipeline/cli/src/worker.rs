//! Builds the stages and services, and runs them until told to stop.

use std::{fmt, str::FromStr, sync::Arc};

use anyhow::Context;
use async_nats::{Client, jetstream};
use chasqui_contract::{Clock, SystemClock};
use chasqui_dedupe::Dedupe;
use chasqui_enrich::Enrich;
use chasqui_filter::Filter;
use chasqui_prioritize::Prioritize;
use chasqui_render::Render;
use chasqui_runtime::{Broker, Config, run_deferred, run_stage, topology};
use chasqui_schemas::Stage;
use chasqui_send::{Ports, SendStage};
use chasqui_stores::{directory::NatsDirectory, inbox::NatsInbox, ledger::NatsLedger, publisher::Publisher};
use chasqui_trace::{TraceSink, WriterSettings, run_receipts, run_writer};
use chasqui_validate::Validate;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::servers::{Addresses, require_topology};

/// What a process can do: a stage, or one of the services beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Stage(Stage),
    /// Returns deferred messages when due.
    Deferred,
    /// Turns receipts into trace events.
    Receipts,
    /// Writes trace events to ClickHouse.
    Writer,
}

impl Role {
    pub(crate) fn all() -> Vec<Role> {
        let stages = Stage::ALL.into_iter().map(Role::Stage);
        stages.chain([Role::Deferred, Role::Receipts, Role::Writer]).collect()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Stage(stage) => stage.fmt(f),
            Role::Deferred => f.write_str("deferred"),
            Role::Receipts => f.write_str("receipts"),
            Role::Writer => f.write_str("writer"),
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Role::all();
        known.iter().copied().find(|role| role.to_string() == word).ok_or_else(|| {
            let words: Vec<_> = known.iter().map(Role::to_string).collect();
            format!("unknown stage `{word}`: expected one of {}", words.join(", "))
        })
    }
}

/// Roles at work in this process.
pub(crate) struct Worker {
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Worker {
    /// Starts `roles`.
    pub(crate) async fn start(config: &Config, addresses: &Addresses, roles: &[Role]) -> anyhow::Result<Self> {
        let client = addresses.nats(config).await?;
        topology::check_server(&client, &addresses.nats)?;
        require_topology(&client).await?;
        let mut worker = Worker { stop: CancellationToken::new(), tasks: JoinSet::new() };
        let parts = Parts::open(config, client).await?;
        for role in roles {
            worker.start_role(*role, config, addresses, &parts).await?;
        }
        tracing::info!(roles = %roles.iter().map(Role::to_string).collect::<Vec<_>>().join(","), "running");
        Ok(worker)
    }

    async fn start_role(
        &mut self,
        role: Role,
        config: &Config,
        addresses: &Addresses,
        parts: &Parts,
    ) -> anyhow::Result<()> {
        let directory = Arc::clone(&parts.directory);
        let clock = Arc::clone(&parts.broker.clock);
        match role {
            Role::Stage(Stage::Validate) => self.stage(Validate::new(config.app_lanes()), config, parts),
            Role::Stage(Stage::Enrich) => self.stage(Enrich { directory, clock }, config, parts),
            Role::Stage(Stage::Filter) => self.stage(Filter { directory, clock }, config, parts),
            Role::Stage(Stage::Dedupe) => self.stage(Dedupe { ledger: parts.ledger.clone() }, config, parts),
            Role::Stage(Stage::Render) => self.stage(Render::new(directory), config, parts),
            Role::Stage(Stage::Prioritize) => {
                self.stage(Prioritize { clock, routes: parts.send.routes() }, config, parts);
            }
            Role::Stage(Stage::Send) => {
                let ports = Ports {
                    ledger: parts.ledger.clone(),
                    address_book: directory.clone(),
                    directory,
                    inbox: Arc::new(NatsInbox::new(parts.broker.publisher.clone())),
                    clock,
                };
                let send = SendStage::from_config(&parts.send, ports)?;
                config.check_longest_call(send.longest_call())?;
                self.stage(send, config, parts);
            }
            Role::Deferred => {
                let Broker { client, publisher, .. } = parts.broker.clone();
                let deferred = run_deferred(client, publisher, self.stop.clone());
                self.tasks.spawn(async move { deferred.await.context("deferred") });
            }
            Role::Receipts => {
                let context = jetstream::new(parts.broker.client.clone());
                let receipts = run_receipts(context, parts.broker.traces.clone(), self.stop.clone());
                self.tasks.spawn(async move { receipts.await.context("receipts") });
            }
            Role::Writer => {
                let settings = WriterSettings {
                    max_rows: config.clickhouse.batch_rows,
                    max_wait: std::time::Duration::from_millis(config.clickhouse.batch_ms),
                    ..WriterSettings::default()
                };
                let context = jetstream::new(parts.broker.client.clone());
                let clickhouse = addresses.clickhouse(config)?;
                let writer = run_writer(context, clickhouse, settings, self.stop.clone());
                self.tasks.spawn(async move { writer.await.context("writer") });
            }
        }
        Ok(())
    }

    /// One runner per queue of the stage.
    fn stage<S: chasqui_contract::Stage>(&mut self, stage: S, config: &Config, parts: &Parts) {
        let stage = Arc::new(stage);
        for channel in topology::queues(S::STAGE) {
            let (broker, settings) = (parts.broker.clone(), config.runner.settings());
            let runner = run_stage(Arc::clone(&stage), channel, broker, settings, self.stop.clone());
            self.tasks.spawn(async move { runner.await.with_context(|| S::STAGE.to_string()) });
        }
    }

    /// Runs until a role fails or `stopped` is ready; then drains all.
    pub(crate) async fn run_until(mut self, stopped: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::select! {
            () = stopped => self.stop().await,
            ended = self.tasks.join_next() => {
                self.stop.cancel();
                let ended = ended.context("no role to run")?;
                // The others finish what they can; the first failure is the one to tell.
                while self.tasks.join_next().await.is_some() {}
                ended.context("a role panicked")??;
                anyhow::bail!("a role ended by itself")
            }
        }
    }

    /// Drains all roles: what has begun is finished and acknowledged, within `runner.drain_ms`.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a role panicked")??;
        }
        Ok(())
    }
}

/// What roles share: one connection, one ledger batching all claims.
struct Parts {
    broker: Broker,
    directory: Arc<NatsDirectory>,
    ledger: Arc<NatsLedger>,
    send: chasqui_send::Config,
}

impl Parts {
    async fn open(config: &Config, client: Client) -> anyhow::Result<Self> {
        let context = jetstream::new(client.clone());
        let publisher = Publisher::new(context.clone());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        Ok(Parts {
            directory: Arc::new(NatsDirectory::open(&context).await?),
            ledger: Arc::new(NatsLedger::open(&context, publisher.clone()).await?),
            broker: Broker { client, traces: TraceSink::start(&publisher), publisher, clock },
            send: serde_json::from_value(config.send.clone()).context("the [send] settings are wrong")?,
        })
    }
}
