//! Connections, and their bounds: how many, how long a request's head may take to come, how large it may be.
//!
//! Guarantee: a client that is slow, silent or greedy costs one of `gateway.connections` for a bounded time, and no
//! more memory than that. HTTP/1.1 only, without TLS: a proxy in front speaks both, and HTTP/2.
//!
//! Told to stop, it accepts nobody, finishes what has begun within `DRAIN`, and puts what was taken where it is safe.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use async_nats::jetstream;
use axum::Router;
use chasqui_contract::Clock;
use chasqui_stores::Publisher;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, ConfigError,
    intake::{Carrier, Intake},
    routes::{self, App},
    spool::{Spool, SpoolError},
    ui::{
        self, Ui,
        access::{Access, Peer},
    },
};

/// Largest request line and headers, in bytes: the longest token is 3 KiB.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// How long a connection may take to say what it wants, and stay without wanting anything.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests under way are finished within this time when stopped.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause after the system refused us a connection, for want of file descriptors say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// The gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A template of the trace page cannot be read.
    #[error("the trace page is faulty")]
    Ui(#[from] minijinja::Error),
    /// Nobody can reach us.
    #[error("cannot listen on {address} (`gateway.bind`; empty for no gateway in this process)")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A gateway that listens.
pub struct Gateway {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    carrier: Carrier,
    connections: usize,
    access: Option<Access>,
    ui: Option<Router>,
}

impl Gateway {
    /// Listens, and opens the spool. Nothing is answered before [`Gateway::run`].
    ///
    /// # Errors
    /// See [`GatewayError`]. With NATS away it is no error: then hits are kept.
    pub async fn bind(
        config: &Config,
        client: async_nats::Client,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, GatewayError> {
        let address = config.address()?;
        let (links, reporters, verifiers) = (config.links()?, config.reporters()?, config.verifiers()?);
        let access = Access::of(config)?;
        let spool = Spool::open(&config.spool_dir, config.spool_bytes)?;
        let publisher = Publisher::new(jetstream::new(client.clone()));
        let (intake, carrier) = Intake::new(client, &publisher, spool, config.queue_hits);
        let public_url = config.public_url.trim_end_matches('/').to_owned();
        let listen = |source| GatewayError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let app = Arc::new(App::new(intake, links, reporters, verifiers, public_url, clock));
        Ok(Gateway { listener, address, app, carrier, connections: config.connections.max(1), access, ui: None })
    }

    /// Serves the trace page too, from the tables behind `clickhouse`, where the settings let anybody read it.
    ///
    /// # Errors
    /// Where the page itself is faulty.
    pub fn with_ui(mut self, clickhouse: clickhouse::Client) -> Result<Self, GatewayError> {
        self.ui = match self.access.take() {
            Some(access) => Some(ui::router(Ui::new(access, clickhouse)?)),
            None => None,
        };
        Ok(self)
    }

    /// Where it listens: the port, where the settings left it to the system.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Counts the hits that were neither stored nor refused.
    pub fn lost(&self) -> Arc<AtomicU64> {
        self.app.intake.lost()
    }

    /// Answers until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let Gateway { listener, app, carrier, connections, ui, .. } = self;
        // The carrier ends when the last request is gone, and with it the last of the intake.
        let router = routes::router(app, ui);
        tokio::join!(serve(listener, router, connections, &stop), carrier.run());
    }
}

/// Answers on `listener` by `router` until `stop` is cancelled.
pub async fn serve(listener: TcpListener, router: Router, connections: usize, stop: &CancellationToken) {
    let turns = Arc::new(Semaphore::new(connections));
    let graceful = GracefulShutdown::new();
    let mut tasks = JoinSet::new();
    loop {
        let accept = async {
            // Who comes when all turns are taken waits in the system's queue, which is bounded too.
            let turn = turns.clone().acquire_owned().await;
            listener.accept().await.map(|(stream, peer)| (stream, Peer(peer), turn))
        };
        let (stream, peer, turn) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            },
        };
        // Answers are small and whole: nothing is gained by waiting for more.
        _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            service.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_header_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tasks.spawn(async move {
            let _turn = turn;
            // Clients leave as they like.
            _ = connection.await;
        });
        while tasks.try_join_next().is_some() {}
    }
    drop((listener, router));
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were cut off when stopping");
    }
    tasks.shutdown().await;
}
