//! Connections, and their bounds: how many, how long a request's head may take to come, how large it may be.
//!
//! Guarantee: a client that is slow, silent or greedy costs one of `connections` for a bounded time, and no
//! more memory than that. HTTP/1.1 only, without TLS: a proxy in front speaks both, and HTTP/2.
//!
//! When it is asked to stop, it accepts no connection and finishes the requests under way within `DRAIN`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, middleware};
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

use crate::request::bounded;

/// Maximum bytes of request line and headers: the longest token is 3 KiB.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// Maximum time that a connection takes to send a request's head, or stays open without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time for requests under way after the process was asked to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause after the system refused us a connection, for want of file descriptors say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// The other end of a connection: an extension of each request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Answers on `listener` by `router`, each request within its bounds, until `stop` is cancelled.
pub async fn serve(listener: TcpListener, router: Router, connections: usize, stop: &CancellationToken) {
    let router = router.layer(middleware::from_fn(bounded));
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
