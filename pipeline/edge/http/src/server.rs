//! Connections, and their bounds: how many, how long a request's head may take to come, how large it may be, how many
//! requests follow one another.
//!
//! Guarantee: a client that is slow, silent or greedy costs one of `connections` for a bounded time, and no more memory than
//! its buffers. It keeps nobody out: when all places are taken, the connection that has made us wait the longest is closed
//! for the one that comes. Waiting is everything but a complete request at work: no request yet, half of one, or an answer
//! that is not read. Requests at work are bounded by the [`Budget`](crate::Budget) of their kind, which is less than all places.
//!
//! HTTP/1.1 only, without TLS: a proxy in front speaks both, and HTTP/2. Where we shall speak HTTP/2 ourselves, its streams
//! need bounds of their own beside these.
//!
//! When it is asked to stop, it accepts no connection and finishes the requests under way within `DRAIN`. Nothing is kept
//! here: there is nothing to lose in a crash.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderValue, header::CONNECTION},
    middleware,
    response::Response,
};
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
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{request::bounded, socket::Paced};

/// Maximum bytes of request line and headers: the longest token is 3 KiB.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// Maximum bytes that a connection holds of what is read and not yet used, and again of what is not yet written.
const MAX_BUFFER_BYTES: usize = 32 << 10;
/// Maximum time for requests under way after the process was asked to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// Time between two warnings that all places are taken: a flood must not flood the log.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Pause after every place was found to be at work.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Pause after the system refused us a connection, for want of file descriptors say.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// The bounds of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum open connections.
    pub connections: usize,
    /// Maximum time that a connection takes to send a request's head, or stays open without one.
    pub head: Duration,
    /// Maximum requests on one connection. It also bounds the answers that a client makes us keep by asking without
    /// reading.
    pub requests: usize,
}

impl Limits {
    /// What a listener that everybody reaches allows. A proxy connects anew after a hundred requests, which costs it
    /// nothing.
    pub fn public(connections: usize) -> Self {
        Limits { connections, head: Duration::from_secs(10), requests: 100 }
    }
}

/// The connection that a request came on: an extension of each request.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The address by which the client reached us.
    pub local: IpAddr,
    waits: Arc<Waits>,
}

impl Connection {
    /// Keeps the connection's place until its request is answered: it is complete and at work.
    pub(crate) fn work(&self) {
        self.waits.since.store(AT_WORK, Ordering::Relaxed);
    }
}

/// Since when a connection waits for its client.
#[derive(Debug)]
struct Waits {
    opened: Instant,
    /// Microseconds since the server began; or [`AT_WORK`].
    since: AtomicU64,
}

/// Not waiting: later than every time.
const AT_WORK: u64 = u64::MAX;

impl Waits {
    /// From now on it is the client's turn.
    fn begin(&self) {
        let now = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(AT_WORK - 1);
        self.since.store(now, Ordering::Relaxed);
    }
}

/// Answers on `listener` by `router`, each request within its bounds, until `stop` is cancelled.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: &CancellationToken) {
    let router = router.layer(middleware::from_fn(bounded));
    let (opened, graceful) = (Instant::now(), GracefulShutdown::new());
    let mut open = Open::default();
    loop {
        let (stream, local) = tokio::select! {
            () = stop.cancelled() => break,
            Some(()) = open.ended() => continue,
            accepted = listener.accept() => match accepted.and_then(|(stream, _)| Ok((stream.local_addr()?, stream))) {
                Ok((local, stream)) => (stream, local.ip()),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    open.close_longest_waiting();
                    sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            },
        };
        open.forget_ended();
        // Where all are at work, one of them ends soon. Who comes meanwhile waits in the system's queue.
        while open.connections.len() >= limits.connections.max(1) && !open.close_longest_waiting() {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = open.ended() => {}
                // Or becomes one that waits.
                () = sleep(LOOK_AGAIN) => {}
            }
        }
        // Answers are small and whole: nothing is gained by waiting for more.
        _ = stream.set_nodelay(true);
        // Until we have looked at it, it does not wait for its client but for us: after a burst of others, say.
        let waits = Arc::new(Waits { opened, since: AtomicU64::new(AT_WORK) });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_header_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_BUFFER_BYTES)
            .serve_connection(
                TokioIo::new(Paced::new(stream)),
                answering(router.clone(), Connection { local, waits: Arc::clone(&waits) }, limits.requests),
            );
        let connection = graceful.watch(connection);
        open.add(Arc::clone(&waits), async move {
            waits.begin();
            // Clients leave as they like.
            _ = connection.await;
        });
    }
    drop((listener, router));
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were cut off when stopping");
    }
    open.tasks.shutdown().await;
}

/// Answers the requests of one connection, of which the `requests`th is the last.
fn answering(
    router: Router,
    connection: Connection,
    requests: usize,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> {
    let (service, count) = (TowerToHyperService::new(router), AtomicUsize::new(1));
    service_fn(move |mut request: Request<Incoming>| {
        let is_last = count.fetch_add(1, Ordering::Relaxed) >= requests;
        let waits = Arc::clone(&connection.waits);
        waits.begin();
        request.extensions_mut().insert(connection.clone());
        let answer = service.call(request);
        async move {
            let mut response = answer.await?;
            if is_last {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            waits.begin();
            Ok(response)
        }
    })
}

/// The open connections.
#[derive(Default)]
struct Open {
    tasks: JoinSet<()>,
    connections: HashMap<Id, (AbortHandle, Arc<Waits>)>,
    warned_at: Option<Instant>,
}

impl Open {
    fn add(&mut self, waits: Arc<Waits>, connection: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(connection);
        self.connections.insert(task.id(), (task, waits));
    }

    /// Waits for one to end; `None` where there is none.
    async fn ended(&mut self) -> Option<()> {
        let ended = self.tasks.join_next_with_id().await?;
        self.forget(ended);
        Some(())
    }

    /// So that none is closed for one that has ended.
    fn forget_ended(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.forget(ended);
        }
    }

    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
        self.connections.remove(&id);
    }

    /// Closes the connection that has waited for its client the longest; `false` where none waits.
    fn close_longest_waiting(&mut self) -> bool {
        let since = |waits: &Waits| waits.since.load(Ordering::Relaxed);
        let waiting = self.connections.iter().map(|(id, (_, waits))| (since(waits), *id));
        let Some((_, id)) = waiting.filter(|(since, _)| *since != AT_WORK).min_by_key(|(since, _)| *since) else {
            return false;
        };
        if let Some((task, _)) = self.connections.remove(&id) {
            task.abort();
        }
        if self.warned_at.is_none_or(|at| at.elapsed() > WARN_EVERY) {
            let open = self.connections.len();
            tracing::warn!(
                open,
                "all places are taken: connections that wait for their clients are closed for new ones"
            );
            self.warned_at = Some(Instant::now());
        }
        true
    }
}
