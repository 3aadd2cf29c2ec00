//! A vendor's API that answers every POST as a case needs it, over HTTP/1 and HTTP/2, and keeps what it was asked.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};

/// One call.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) body: Bytes,
}

impl Asked {
    /// The body as JSON; null where it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// How a vendor answers a call, by what it was asked before: a status and a body.
pub(super) type Answers = fn(&[Asked], &Asked) -> (u16, &'static str);

/// The vendor, gone when dropped.
pub(super) struct Vendor {
    pub(super) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    _serving: JoinSet<()>,
}

impl Vendor {
    pub(super) async fn start(answers: Answers) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&asked);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let asked = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&asked), answers, request));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // A connection that breaks is the client's to repeat.
                    builder.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        Ok(Vendor { url, asked, _serving: serving })
    }

    /// The calls in whose path or body a word stands, in order.
    pub(super) fn asked_about(&self, word: &str) -> Vec<Asked> {
        let has = |asked: &&Asked| asked.path.contains(word) || String::from_utf8_lossy(&asked.body).contains(word);
        lock(&self.asked).iter().filter(has).cloned().collect()
    }
}

fn lock(asked: &Mutex<Vec<Asked>>) -> MutexGuard<'_, Vec<Asked>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    asked: Arc<Mutex<Vec<Asked>>>,
    answers: Answers,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let call = Asked { path, body };
    let (status, body) = {
        let mut asked = lock(&asked);
        let answer = answers(&asked, &call);
        asked.push(call);
        answer
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}
