//! Listeners, connections, and how they end.
//!
//! Built on hyper itself and not on a framework, because the lab must own its connections: to refuse them, to let
//! them end before an answer, in the middle of one, or never to answer. A connection that is cut gets no new answers,
//! and ends when what was already said has gone out.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, future, stream};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Response,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use ring::signature::EcdsaKeyPair;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, watch},
    task::JoinSet,
};

use crate::{
    Accounts, Cut, Ledger, Vendor,
    callback::Posted,
    director::Director,
    exchange::{Accepted, Api, Reply, Request},
    ledger::{Answered, Call},
    script::{End, Fate, Fault},
};

/// Largest request that is read: beyond every vendor's own limit.
const MAX_BODY: usize = 32 * 1024 * 1024;
/// Longest wait for a request's body.
const MAX_READ: Duration = Duration::from_secs(30);
/// Longest silence of a call that hangs.
const MAX_HANG: Duration = Duration::from_secs(600);
/// How long a connection that is cut still lives, so that earlier answers go out.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How often the script is asked whether there is an outage.
const TICK: Duration = Duration::from_millis(20);
/// Connections waiting to be accepted.
const BACKLOG: u32 = 1024;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) accounts: Accounts,
    pub(crate) sendgrid_key: EcdsaKeyPair,
    pub(crate) ledger: Ledger,
    pub(crate) apis: Vec<(Vendor, Box<dyn Api>)>,
    started: Instant,
    arrivals: AtomicU64,
    script: RwLock<(Arc<Director>, Instant)>,
    posted: Mutex<Posted>,
    /// Reports not yet due, and the ledger's place up to which there are any.
    queued: Mutex<(usize, usize)>,
}

impl Shared {
    pub(crate) fn new(
        accounts: Accounts,
        sendgrid_key: EcdsaKeyPair,
        ledger: Ledger,
        apis: Vec<(Vendor, Box<dyn Api>)>,
        director: Director,
    ) -> Self {
        let now = Instant::now();
        Shared {
            accounts,
            sendgrid_key,
            ledger,
            apis,
            started: now,
            arrivals: AtomicU64::new(0),
            script: RwLock::new((Arc::new(director), now)),
            posted: Mutex::default(),
            queued: Mutex::default(),
        }
    }

    pub(crate) fn since_start(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn director(&self) -> Arc<Director> {
        Arc::clone(&self.script.read().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Another script, whose time begins now.
    pub(crate) fn play(&self, director: Director) {
        *self.script.write().unwrap_or_else(PoisonError::into_inner) = (Arc::new(director), Instant::now());
    }

    pub(crate) fn posted(&self, change: impl FnOnce(&mut Posted)) -> Posted {
        let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut posted);
        *posted
    }

    pub(crate) fn queued(&self, reports: usize, place: usize) {
        *self.queued.lock().unwrap_or_else(PoisonError::into_inner) = (reports, place);
    }

    /// Reports not yet due, those of calls not yet looked at counted as one each.
    pub(crate) fn waiting(&self) -> usize {
        let (reports, place) = *self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        reports + self.ledger.since(place).0.iter().filter(|call| call.accepted).count()
    }

    fn outage(&self, vendor: Vendor) -> bool {
        let script = self.script.read().unwrap_or_else(PoisonError::into_inner);
        script.0.outage(vendor, script.1.elapsed())
    }
}

/// A listener on a free port.
pub(crate) async fn listen() -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves one vendor until dropped.
pub(crate) async fn serve(shared: Arc<Shared>, vendor: Vendor, mut listener: TcpListener, address: SocketAddr) {
    let mut connections = JoinSet::new();
    // Replaced, it ends the connections that look at it.
    let mut open = watch::channel(()).0;
    loop {
        if shared.outage(vendor) {
            // Nothing listens, so the system itself refuses.
            drop(listener);
            open = watch::channel(()).0;
            while shared.outage(vendor) {
                tokio::time::sleep(TICK).await;
            }
            listener = loop {
                match rebind(address) {
                    Ok(listener) => break listener,
                    Err(_busy) => tokio::time::sleep(TICK).await,
                }
            };
        }
        while connections.try_join_next().is_some() {}
        // An error of accept() is that of a connection which is gone already.
        if let Ok(Ok((stream, _))) = tokio::time::timeout(TICK, listener.accept()).await {
            connections.spawn(connection(Arc::clone(&shared), vendor, stream, open.subscribe()));
        }
    }
}

fn rebind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Ends a connection.
#[derive(Default)]
struct Shears {
    cut: AtomicBool,
    notify: Notify,
}

impl Shears {
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.notify.notify_one();
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }
}

async fn connection(shared: Arc<Shared>, vendor: Vendor, stream: TcpStream, mut open: watch::Receiver<()>) {
    // Answers are small and must not wait for each other.
    let _best_effort = stream.set_nodelay(true);
    let shears = Arc::new(Shears::default());
    let service = service_fn(|request| answer(Arc::clone(&shared), vendor, Arc::clone(&shears), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    if vendor == Vendor::Apns {
        builder = builder.http2_only();
    }
    builder.http2().max_concurrent_streams(1000);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    let ending = async {
        tokio::select! {
            () = shears.notify.notified() => {}
            // Nothing is ever sent: it ends with the sender.
            _ = open.changed() => shears.cut(),
        }
        tokio::time::sleep(LAST_WORDS).await;
    };
    // What goes wrong on a connection is the client's to see.
    future::select(pin!(serving), pin!(ending)).await;
}

async fn answer(
    shared: Arc<Shared>,
    vendor: Vendor,
    shears: Arc<Shears>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let director = shared.director();
    let number = shared.arrivals.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let body = tokio::time::timeout(MAX_READ, Limited::new(body, MAX_BODY).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        // Beyond all limits, or broken off; then the caller does not read this.
        Ok(Err(_)) => return Ok(whole(&Reply::empty(413, "413"))),
        Err(_late) => return Ok(whole(&Reply::empty(408, "408"))),
    };
    if shears.is_cut() {
        return future::pending().await;
    }
    let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let entropy = director.entropy(vendor, number);
    let request = Request { method: head.method, path, headers: head.headers, body, entropy };
    shared.ledger.keep(vendor, &request);
    let decided = decide(&shared, vendor, &request);
    let place = match shared.ledger.enter(decided.call) {
        Ok(place) => place,
        // A ledger that misses a call must not be believed.
        Err(error) => {
            let words = format!("the lab cannot write its log: {error}");
            return Ok(whole(&Reply::text(500, "log", &words)));
        }
    };
    tokio::time::sleep(decided.delay).await;
    if shears.is_cut() {
        shared.ledger.answered(place, Answered::Cut);
        return future::pending().await;
    }
    match decided.ending {
        Ending::Whole => {
            shared.ledger.answered(place, Answered::Whole);
            Ok(whole(&decided.reply))
        }
        Ending::Cut(cut) => {
            shared.ledger.answered(place, Answered::Cut);
            let said = match cut {
                Cut::BeforeAccepting | Cut::BeforeAnswer => {
                    shears.cut();
                    return future::pending().await;
                }
                Cut::AfterHeaders => Bytes::new(),
                Cut::MidBody => decided.reply.body.slice(..decided.reply.body.len() / 2),
            };
            Ok(half(&decided.reply, said, shears))
        }
        Ending::Hang => {
            tokio::time::sleep(MAX_HANG).await;
            shears.cut();
            future::pending().await
        }
    }
}

/// What is to be done about a call.
struct Decided {
    call: Call,
    reply: Reply,
    ending: Ending,
    delay: Duration,
}

enum Ending {
    Whole,
    Cut(Cut),
    Hang,
}

fn decide(shared: &Shared, vendor: Vendor, request: &Request) -> Decided {
    let call = |reply: &Reply| Call {
        vendor,
        at: shared.since_start(),
        recipient: String::new(),
        delivery_id: String::new(),
        message_id: String::new(),
        status: reply.status,
        code: reply.code.clone(),
        wrong: String::new(),
        accepted: false,
        answered: Answered::Not,
        fate: Fate::Delivered,
        echo: serde_json::Value::Null,
    };
    // Every vendor has its API: `Lab::start` makes them all.
    let Some((_, api)) = shared.apis.iter().find(|(known, _)| *known == vendor) else {
        let reply = Reply::empty(500, "500");
        return Decided { call: call(&reply), reply, ending: Ending::Whole, delay: Duration::ZERO };
    };
    let accepted = match api.check(request) {
        Ok(accepted) => accepted,
        Err(reply) => {
            let words = String::from_utf8_lossy(&reply.body).into_owned();
            let wrong = if words.is_empty() { reply.code.clone() } else { words };
            let call = Call { wrong, ..call(&reply) };
            return Decided { call, reply, ending: Ending::Whole, delay: Duration::ZERO };
        }
    };
    let (director, at) = {
        let script = shared.script.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&script.0), script.1.elapsed())
    };
    let plan = director.decide(vendor, &accepted.recipient, at);
    // Scripts with codes that the vendor does not have are refused before they are played.
    let refuse = |fault: &Fault| api.fault(fault, request).unwrap_or_else(|| Reply::empty(500, "500"));
    let (taken, fate, ending, refusal) = match plan.end {
        End::Accept(fate) => (true, fate, Ending::Whole, None),
        End::Cut(cut) => (cut != Cut::BeforeAccepting, Fate::Delivered, Ending::Cut(cut), None),
        End::Hang { accepted } => (accepted, Fate::Delivered, Ending::Hang, None),
        End::Fault(fault) => (false, Fate::Delivered, Ending::Whole, Some(refuse(&fault))),
        End::Trouble(trouble, retry_after) => match api.code(trouble) {
            Some(code) => {
                let fault = Fault { retry_after, ..Fault::code(code) };
                (false, Fate::Delivered, Ending::Whole, Some(refuse(&fault)))
            }
            None => (true, Fate::Undelivered(None), Ending::Whole, None),
        },
    };
    let Accepted { recipient, delivery_id, message_id, echo, reply } = accepted;
    let reply = refusal.unwrap_or(reply);
    let call = Call { recipient, delivery_id, message_id, accepted: taken, fate, echo, ..call(&reply) };
    Decided { call, reply, ending, delay: plan.delay }
}

fn head(reply: &Reply) -> hyper::http::response::Builder {
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    response
}

fn whole(reply: &Reply) -> Response<Body> {
    let body = Full::new(reply.body.clone()).boxed_unsync();
    // Only a header that is none can fail, and those come from a script: a vendor that sends one is broken.
    head(reply).body(body).unwrap_or_else(|_| broken())
}

/// The head of an answer, what was `said` of its body, and then the end of the connection.
fn half(reply: &Reply, said: Bytes, shears: Arc<Shears>) -> Response<Body> {
    let said = stream::iter((!said.is_empty()).then(|| Ok::<_, Infallible>(Frame::data(said))));
    let end = stream::once(async move {
        shears.cut();
        future::pending().await
    });
    let body = StreamBody::new(said.chain(end)).boxed_unsync();
    let response = head(reply).header("content-length", reply.body.len().max(1));
    response.body(body).unwrap_or_else(|_| broken())
}

fn broken() -> Response<Body> {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
    response
}
