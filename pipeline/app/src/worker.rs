//! Builds the stages and services from the settings, and runs them until the process is asked to stop.
//!
//! Guarantee: a role that panics, or whose connection was given up, does not end the process: all roles finish what they
//! can, and begin anew on new connections. A role that fails in another way ends the process, because the settings or the
//! servers are not as they must be. Nothing is stored here; after a crash JetStream hands out again what was not
//! acknowledged.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use async_nats::{Client, jetstream};
use chasqui_contract::SystemClock;
use chasqui_dedupe::Dedupe;
use chasqui_enrich::Enrich;
use chasqui_filter::Filter;
use chasqui_nats::{
    Pauses, Publisher,
    connection::{GivenUp, given_up},
    settings::{Always, SyncInterval},
};
use chasqui_prioritize::Prioritize;
use chasqui_render::Render;
use chasqui_runtime::{
    Broker, RunError, RunnerLimits,
    lanes::{OTHERS, URGENT},
    run_deferred, run_stage, topology,
};
use chasqui_schemas::{Lane, Pepper, Stage, consumer, measure};
use chasqui_send::{Ports, SendStage};
use chasqui_services::{run_monitor, run_owners, run_receipts};
use chasqui_stores::{NatsDirectory, NatsInbox, NatsLedger, NatsNewest, PrivacySettings, pepper};
use chasqui_validate::Validate;
use chasqui_warehouse::{WriterSettings, run_exporter, run_writer};
use tokio::{
    runtime::{self, Handle, Runtime},
    sync::watch,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    gateway::Gateway,
    health::Health,
    metrics::Metrics,
    role::{Role, Service},
    servers::{Addresses, require_topology},
    settings::Settings,
};

/// Pauses before roles begin anew: the first is for a hiccup, the longest for a fault that comes again at once.
const PAUSES: Pauses = Pauses::new(Duration::from_secs(1), Duration::from_secs(30));
/// Time after which roles at work count as sound, so that their next end is a first one.
const SOUND: Duration = Duration::from_secs(60);
/// Maximum time, beside `runner.drain_ms`, for roles to end before they begin anew. On a connection that was given up,
/// some would wait for ever.
const END_WITHIN: Duration = Duration::from_secs(10);

/// The roles at work in this process.
///
/// Every stage runs twice. For the critical lane it has a thread, a connection, stores and providers of its own, so
/// that the lane shares nothing with a backlog. The second one serves the other lanes. The writer has a thread and a
/// connection too, because it works on many rows at a time; the gateway has a thread.
pub struct Worker {
    /// The servers that its roles need; health asks them.
    nats: watch::Sender<Option<Client>>,
    clickhouse: Option<clickhouse::Client>,
    roles: Vec<Role>,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
    /// A task for each connection that roles share, which ends when the connection is given up.
    connections: JoinSet<GivenUp>,
    threads: Vec<Thread>,
    /// The address of the gateway, if one listens here.
    pub gateway: Option<SocketAddr>,
}

/// A runtime with one thread, for work that shares no thread with other work.
struct Thread(Option<Runtime>);

impl Drop for Thread {
    /// Dropping a runtime would block until its thread ends, which panics in async code.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Worker {
    /// Starts `roles`.
    pub async fn start(settings: &Settings, addresses: &Addresses, roles: &[Role]) -> anyhow::Result<Self> {
        let mut worker = Worker {
            nats: watch::Sender::new(None),
            clickhouse: None,
            roles: roles.to_vec(),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            connections: JoinSet::new(),
            threads: Vec::new(),
            gateway: None,
        };
        for warning in settings.warnings() {
            tracing::warn!("{warning}");
        }
        worker.begin(settings, addresses).await?;
        Ok(worker)
    }

    async fn begin(&mut self, settings: &Settings, addresses: &Addresses) -> anyhow::Result<()> {
        let roles = self.roles.clone();
        if roles == [Role::Gateway] {
            // The gateway alone also starts without a broker: it spools what it accepts.
            let client = addresses.nats_some_time(&settings.nats).await?;
            self.watch(client.clone(), &Handle::current());
            self.open_gateway(settings, addresses, client).await?;
        } else {
            self.open(settings, addresses, &roles).await?;
        }
        tracing::info!(roles = %roles.iter().map(Role::to_string).collect::<Vec<_>>().join(","), "running");
        Ok(())
    }

    /// Notices when `client` gives its connection up: not every role does.
    fn watch(&mut self, client: Client, on: &Handle) {
        self.connections.spawn_on(async move { given_up(&client).await }, on);
    }

    /// Starts `roles`, which need a broker.
    async fn open(&mut self, settings: &Settings, addresses: &Addresses, roles: &[Role]) -> anyhow::Result<()> {
        let client = addresses.nats(&settings.nats).await?;
        topology::check_server(&client, addresses.nats.as_str())?;
        require_topology(&client).await?;
        self.nats.send_replace(Some(client.clone()));
        self.watch(client.clone(), &Handle::current());
        if roles.contains(&Role::Service(Service::Writer)) {
            self.clickhouse = Some(addresses.clickhouse(&settings.clickhouse)?);
        }
        let broker = open_broker(&settings.nats, client);
        let stages: Vec<Stage> = roles.iter().filter_map(|role| role.stage()).collect();
        // Only stages open all buckets: the other roles have no right to read them.
        if !stages.is_empty() {
            let parts = Parts::open(&settings.privacy, broker.clone(), OTHERS).await?;
            let on = self.thread("critical")?;
            let urgent = {
                let (nats, privacy, addresses) = (settings.nats.clone(), settings.privacy.clone(), addresses.clone());
                let open = async move {
                    Parts::open(&privacy, open_broker(&nats, addresses.nats(&nats).await?), URGENT).await
                };
                on.spawn(open).await??
            };
            self.watch(urgent.broker.client.clone(), &on);
            for stage in stages {
                self.stage(stage, settings, &parts, &Handle::current())?;
                self.stage(stage, settings, &urgent, &on)?;
            }
        }
        for service in roles.iter().filter_map(|role| role.service()) {
            self.service(service, settings, addresses, &broker)?;
        }
        if roles.contains(&Role::Gateway) {
            self.open_gateway(settings, addresses, broker.client.clone()).await?;
        }
        Ok(())
    }

    /// Starts a thread with a runtime of its own.
    fn thread(&mut self, name: &'static str) -> anyhow::Result<Handle> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build();
        let runtime = runtime.with_context(|| format!("cannot start the thread `{name}`"))?;
        let handle = runtime.handle().clone();
        self.threads.push(Thread(Some(runtime)));
        Ok(handle)
    }

    /// Builds a stage from its own settings and ports, and starts its runners.
    fn stage(&mut self, stage: Stage, settings: &Settings, parts: &Parts, on: &Handle) -> anyhow::Result<()> {
        let directory = Arc::clone(&parts.directory);
        let clock = Arc::clone(&parts.broker.clock);
        let limits = &settings.runner.limits();
        match stage {
            Stage::Validate => {
                let validate = Validate::new(settings.allowed()?, directory, parts.pepper.clone());
                self.run(validate, limits, parts, on);
            }
            Stage::Enrich => self.run(Enrich { directory, clock, apps: settings.permissions() }, limits, parts, on),
            Stage::Filter => {
                let filter = Filter { directory, clock, pepper: parts.pepper.clone(), newest: parts.newest.clone() };
                self.run(filter, limits, parts, on);
            }
            Stage::Dedupe => {
                let dedupe = Dedupe { ledger: parts.ledger.clone(), newest: parts.newest.clone() };
                self.run(dedupe, limits, parts, on);
            }
            Stage::Render => {
                let links = settings.links.open(&settings.gateway.public_url)?;
                let render = Render::new(directory, links, parts.pepper.clone(), settings.schemes()?)
                    .configured(&settings.render);
                self.run(render, limits, parts, on);
            }
            Stage::Prioritize => self.run(Prioritize { clock, routes: settings.routes() }, limits, parts, on),
            Stage::Send => {
                let ports = Ports {
                    ledger: parts.ledger.clone(),
                    newest: parts.newest.clone(),
                    address_book: directory.clone(),
                    directory,
                    clock: clock.clone(),
                };
                let inbox =
                    Arc::new(NatsInbox::new(jetstream::new(parts.broker.client.clone()), &parts.broker.publisher));
                let ports_of_providers =
                    chasqui_providers::Ports { inbox, clock, public_url: settings.gateway.public_url.clone() };
                let providers = chasqui_providers::senders(&settings.accounts, &ports_of_providers)?;
                let send = SendStage::with_alerts(&settings.send, settings.routes(), providers, ports)?;
                settings.runner.check_longest_call(send.longest_call())?;
                self.run(send, limits, parts, on);
            }
        }
        Ok(())
    }

    /// Starts a runner for each queue of the stage.
    fn run<S: chasqui_contract::Decide>(&mut self, stage: S, limits: &RunnerLimits, parts: &Parts, on: &Handle) {
        let stage = Arc::new(stage);
        for channel in consumer::queues(S::STAGE) {
            let (broker, limits) = (parts.broker.clone(), limits.clone());
            let runner = run_stage(Arc::clone(&stage), channel, parts.lanes, broker, limits, self.stop.clone());
            self.tasks.spawn_on(async move { runner.await.with_context(|| S::STAGE.to_string()) }, on);
        }
    }

    /// Starts a service with its own settings.
    fn service(
        &mut self,
        service: Service,
        settings: &Settings,
        addresses: &Addresses,
        broker: &Broker,
    ) -> anyhow::Result<()> {
        match service {
            Service::Deferred => {
                let Broker { client, publisher, letters, .. } = broker.clone();
                let deferred = run_deferred(client, publisher, letters, self.stop.clone());
                self.tasks.spawn(async move { deferred.await.context("deferred") });
            }
            Service::Receipts => {
                let context = jetstream::new(broker.client.clone());
                let kept = settings.kept();
                let (traces, secret, stop) = (broker.traces.clone(), settings.privacy.secret()?, self.stop.clone());
                let receipts = async move {
                    let pepper = pepper(&context, secret.as_ref()).await?;
                    run_receipts(context, traces, pepper, kept, stop).await.context("receipts")
                };
                self.tasks.spawn(receipts);
            }
            Service::Owners => {
                let owners = run_owners(jetstream::new(broker.client.clone()), self.stop.clone());
                self.tasks.spawn(async move { owners.await.context("owners") });
            }
            Service::Writer => {
                let batches = WriterSettings {
                    max_rows: settings.clickhouse.batch_rows,
                    max_wait: Duration::from_millis(settings.clickhouse.batch_ms),
                    ..WriterSettings::default()
                };
                let on = self.thread("writer")?;
                let (nats, addresses, stop) = (settings.nats.clone(), addresses.clone(), self.stop.clone());
                let clickhouse = addresses.clickhouse(&settings.clickhouse)?;
                let writer = async move {
                    let client = addresses.nats(&nats).await?;
                    tokio::select! {
                        given_up = given_up(&client) => Err(given_up).context("writer"),
                        done = run_writer(jetstream::new(client.clone()), clickhouse, batches, stop) => done.context("writer"),
                    }
                };
                self.tasks.spawn_on(writer, &on);
            }
            Service::Exporter => {
                // Without an endpoint `chasqui migrate` has removed the consumer, and the exporter would fail for want
                // of it.
                if !settings.export.is_on() {
                    return Ok(());
                }
                let context = jetstream::new(broker.client.clone());
                let clickhouse = addresses.clickhouse(&settings.clickhouse)?;
                let exporter = run_exporter(context, clickhouse, settings.export.clone(), self.stop.clone());
                self.tasks.spawn(async move { exporter.await.context("exporter") });
            }
            Service::Monitor => {
                let every = Duration::from_millis(settings.monitor.sample_ms);
                let clickhouse = addresses.clickhouse(&settings.clickhouse)?;
                let monitor = run_monitor(broker.client.clone(), clickhouse, every, self.stop.clone());
                self.tasks.spawn(async move {
                    monitor.await;
                    Ok(())
                });
            }
        }
        Ok(())
    }

    /// Starts the gateway, unless `gateway.bind` is empty. It has a thread of its own: whoever floods it takes no time of
    /// the stages.
    async fn open_gateway(&mut self, settings: &Settings, addresses: &Addresses, client: Client) -> anyhow::Result<()> {
        if settings.gateway.is_on() {
            let on = self.thread("gateway")?;
            let (settings, clickhouse) = (settings.clone(), addresses.clickhouse(&settings.clickhouse)?);
            let bind = async move { Gateway::bind(&settings, client, clickhouse, Arc::new(SystemClock)).await };
            let gateway = on.spawn(bind).await??;
            let address = gateway.address()?;
            self.gateway = Some(address);
            tracing::info!(%address, "the gateway listens");
            let stop = self.stop.clone();
            let run = async move {
                gateway.run(stop).await;
                Ok(())
            };
            self.tasks.spawn_on(run, &on);
        }
        Ok(())
    }

    /// Makes what answers probes.
    pub fn health(&self, metrics: Metrics) -> Health {
        Health::new(metrics, self.nats.subscribe(), self.clickhouse.clone())
    }

    /// Runs until `stopped` is ready, then drains all. Roles that ended for a passing reason begin anew, after a pause.
    ///
    /// # Errors
    /// The failure of a role that would fail again.
    pub async fn run_until(
        mut self,
        settings: &Settings,
        addresses: &Addresses,
        stopped: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let mut stopped = std::pin::pin!(stopped);
        let mut pauses = PAUSES;
        let mut began = Instant::now();
        loop {
            let ended = tokio::select! {
                () = &mut stopped => return self.stop().await,
                ended = self.tasks.join_next() => ended,
                Some(ended) = self.connections.join_next() => Some(ended.map(|given_up| Err(given_up.into()))),
            };
            let ended = ended.context("nothing to run: `exporter` needs export.endpoint, `gateway` gateway.bind")?;
            let mut reason = match passing(ended) {
                Ok(reason) => reason,
                Err(error) => {
                    // The other roles finish what they can. The first failure is returned: others may follow from it.
                    self.stop.cancel();
                    while self.tasks.join_next().await.is_some() {}
                    return Err(error);
                }
            };
            if began.elapsed() > SOUND {
                pauses = PAUSES;
            }
            // Settings and servers were as they must be when the process began: what is missing now may come back.
            loop {
                let pause = pauses.pause();
                tracing::error!(error = &*reason, ?pause, "the roles of this process begin anew");
                measure!(Restarts, 1u64);
                let beginning = async {
                    self.end(settings.runner.limits().drain + END_WITHIN).await;
                    tokio::time::sleep(pause).await;
                    self.begin(settings, addresses).await
                };
                let begun = tokio::select! {
                    () = &mut stopped => return Ok(()),
                    begun = beginning => begun,
                };
                match begun {
                    Ok(()) => break,
                    Err(error) => reason = error,
                }
            }
            began = Instant::now();
        }
    }

    /// Ends all roles within a time, as [`Worker::stop`] does where they can, and leaves nothing of them behind.
    async fn end(&mut self, within: Duration) {
        self.stop.cancel();
        let ending = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(within, ending).await.is_err() {
            tracing::warn!(roles = self.tasks.len(), "cut off: what they held comes again");
            self.tasks.shutdown().await;
        }
        self.connections = JoinSet::new();
        self.threads.clear();
        self.stop = CancellationToken::new();
    }

    /// Drains all roles: what has begun is finished and acknowledged, within `runner.drain_ms`.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a role panicked")??;
        }
        Ok(())
    }
}

/// Why roles that ended like this can begin anew.
///
/// # Errors
/// They would end in the same way again: a stream is missing, say.
fn passing(ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Result<anyhow::Error> {
    match ended {
        Err(panic) => Ok(anyhow::Error::new(panic).context("a role panicked")),
        Ok(Err(error)) => {
            let closed = matches!(error.downcast_ref(), Some(RunError::Closed)) || error.is::<GivenUp>();
            if closed { Ok(error) } else { Err(error) }
        }
        Ok(Ok(())) => anyhow::bail!("a role ended by itself"),
    }
}

/// Makes a publisher that suits the servers: atomic batches where every publish is an fsync, else one message at a
/// time.
pub fn publisher(context: &jetstream::Context, settings: &chasqui_nats::Settings) -> Publisher {
    let publisher = Publisher::new(context.clone());
    match settings.sync_interval {
        SyncInterval::Word(Always::Always) => publisher,
        SyncInterval::Seconds(_) => publisher.one_by_one(),
    }
}

/// What a role needs of the broker, on the connection `client`.
fn open_broker(nats: &chasqui_nats::Settings, client: Client) -> Broker {
    let publisher = publisher(&jetstream::new(client.clone()), nats);
    Broker::start(client, publisher, Arc::new(SystemClock))
}

/// What stages on the same lanes share: one connection, and one ledger that batches all claims.
struct Parts {
    lanes: &'static [Lane],
    broker: Broker,
    directory: Arc<NatsDirectory>,
    ledger: Arc<NatsLedger>,
    newest: Arc<NatsNewest>,
    pepper: Pepper,
}

impl Parts {
    async fn open(privacy: &PrivacySettings, broker: Broker, lanes: &'static [Lane]) -> anyhow::Result<Self> {
        let context = jetstream::new(broker.client.clone());
        let publisher = broker.publisher.clone();
        let ledger = match lanes {
            URGENT => NatsLedger::open_urgent(&context, publisher.clone()).await?,
            _ => NatsLedger::open(&context, publisher.clone()).await?,
        };
        Ok(Parts {
            lanes,
            directory: Arc::new(NatsDirectory::open(&context).await?),
            ledger: Arc::new(ledger),
            newest: Arc::new(NatsNewest::open(&context, &publisher).await?),
            pepper: pepper(&context, privacy.secret()?.as_ref()).await?,
            broker,
        })
    }
}

#[cfg(test)]
mod servers;
