//! A small HTTP server for the tests: records what it is sent, and answers by a script. HTTP/1.1 and HTTP/2, with
//! TLS or without, as the client begins.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, Version,
    body::{Frame, Incoming},
    header::HeaderMap,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// What the server does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Turn {
    /// Answers.
    Say(u16, Vec<(&'static str, String)>, String),
    /// Closes the connection, or resets the stream, without an answer.
    Cut,
    /// The same, half-way through the body of a 200.
    CutBody,
    /// Never answers.
    Stall,
}

impl Turn {
    /// A status and a body.
    pub(crate) fn say(status: u16, body: impl Into<String>) -> Self {
        Turn::Say(status, Vec::new(), body.into())
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Method and path: `POST /sms/json`.
    pub(crate) line: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    /// A header's text; empty without one.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body, which is text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body, which is JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Default)]
struct Shared {
    script: Mutex<VecDeque<Turn>>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
}

/// The server; it lives as long as the test's runtime.
pub(crate) struct Loopback {
    /// Its address, without a slash at the end.
    pub(crate) url: String,
    /// The certificate it shows, as PEM; empty without TLS.
    pub(crate) certificate: String,
    shared: Arc<Shared>,
}

impl Loopback {
    /// A server that answers with these turns, one each; what comes after the last is answered 599.
    pub(crate) async fn start(script: impl IntoIterator<Item = Turn>) -> Self {
        Self::serve(script, None).await
    }

    /// The same with TLS, for `localhost`.
    pub(crate) async fn encrypted(script: impl IntoIterator<Item = Turn>) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Loopback { certificate: made.cert.pem(), ..Self::serve(script, Some(acceptor)).await }
    }

    async fn serve(script: impl IntoIterator<Item = Turn>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = if tls.is_some() { format!("https://localhost:{port}") } else { format!("http://127.0.0.1:{port}") };
        let shared = Arc::new(Shared { script: Mutex::new(script.into_iter().collect()), ..Shared::default() });
        let server = shared.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                server.connections.fetch_add(1, Ordering::SeqCst);
                let (server, tls) = (server.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(socket).await {
                                converse(server, stream).await;
                            }
                        }
                        None => converse(server, socket).await,
                    }
                });
            }
        });
        Loopback { url, certificate: String::new(), shared }
    }

    /// What arrived so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The one request that arrived.
    pub(crate) fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "one call, one request");
        seen.remove(0)
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

/// An address where nobody listens: that of a port that was just free.
pub(crate) fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

async fn converse(server: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let service = service_fn(move |request| answer(server.clone(), request));
    // A connection that is cut is part of the script.
    drop(auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
}

type Answer = Response<BoxBody<Bytes, io::Error>>;

async fn answer(server: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, io::Error> {
    let (parts, body) = request.into_parts();
    let line = format!("{} {}", parts.method, parts.uri.path());
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let seen = Seen { line, version: parts.version, headers: parts.headers, body };
    server.seen.lock().unwrap().push(seen);
    let turn = server.script.lock().unwrap().pop_front();
    let cut = || io::Error::from(io::ErrorKind::ConnectionReset);
    let (status, headers, body) = match turn.unwrap_or(Turn::say(599, "the script is over")) {
        Turn::Say(status, headers, body) => (status, headers, vec![Ok(body)]),
        Turn::Cut => return Err(cut()),
        Turn::CutBody => (200, vec![("content-length", "1000".to_owned())], vec![Ok("{".to_owned()), Err(cut())]),
        Turn::Stall => std::future::pending().await,
    };
    let frames = body.into_iter().map(|part| part.map(|part| Frame::data(Bytes::from(part))));
    let body = BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)));
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(body).unwrap())
}
