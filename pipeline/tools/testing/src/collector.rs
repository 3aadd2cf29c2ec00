//! An OpenTelemetry collector's side of OTLP, over HTTP and gRPC on one port: keeps what it is sent, and answers as the test sets.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::any_value::Value,
    trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinSet};

/// Where HTTP and gRPC send spans.
const PATHS: [&str; 2] = ["/v1/traces", "/opentelemetry.proto.collector.trace.v1.TraceService/Export"];
/// What precedes a gRPC message.
const FRAME: usize = 5;

/// How a collector answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It takes everything.
    Takes,
    /// It takes a request but for so many spans.
    TakesWithout(i64),
    /// Connections break.
    Away,
    /// Not now.
    Busy,
    /// Never.
    Refuses,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    requests: Vec<(String, Bytes)>,
}

/// A collector on loopback, gone when dropped.
pub struct Collector {
    /// Its address.
    pub endpoint: String,
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

impl Collector {
    /// Starts one that takes everything.
    ///
    /// # Errors
    /// Fails where there is no port.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(Mutex::new(State { mood: Mood::Takes, requests: Vec::new() }));
        let shared = Arc::clone(&state);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                connections.spawn(async move {
                    let answers = service_fn(move |request| answer(Arc::clone(&state), request));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // A connection that breaks is the exporter's to repeat.
                    builder.serve_connection(TokioIo::new(stream), answers).await.ok();
                });
            }
        });
        Ok(Collector { endpoint, state, _serving: serving })
    }

    /// How it answers from now on.
    pub fn set(&self, mood: Mood) {
        lock(&self.state).mood = mood;
    }

    /// What it was sent, whatever it answered: paths and bodies.
    pub fn requests(&self) -> Vec<(String, Bytes)> {
        lock(&self.state).requests.clone()
    }

    /// The spans it was sent, by id, each with its service. Sent again, a span must be the same.
    ///
    /// # Errors
    /// Fails where a request cannot be read, or a span differs from itself.
    pub fn spans(&self) -> anyhow::Result<BTreeMap<Vec<u8>, (String, Span)>> {
        let mut spans = BTreeMap::new();
        for (path, body) in self.requests().into_iter().filter(|(path, _)| PATHS.contains(&path.as_str())) {
            let message = if path == PATHS[0] { &body[..] } else { body.get(FRAME..).context("no frame")? };
            for resource in ExportTraceServiceRequest::decode(message)?.resource_spans {
                let attributes = resource.resource.context("no resource")?.attributes;
                let service = attributes.into_iter().find(|attribute| attribute.key == "service.name");
                let service = service.and_then(|service| service.value?.value).context("no service.name")?;
                let Value::StringValue(service) = service else { anyhow::bail!("{service:?} is no name") };
                for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    let now = (service.clone(), span);
                    let id = now.1.span_id.clone();
                    let before = spans.insert(id, now.clone());
                    ensure!(before.as_ref().is_none_or(|before| *before == now), "{before:?} became {now:?}");
                }
            }
        }
        Ok(spans)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

type Body = BoxBody<Bytes, Infallible>;

/// Keeps a request, and answers it by the mood and in the protocol of the request. An error breaks the connection.
async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
    let path = request.uri().path().to_owned();
    let grpc = path == PATHS[1];
    let body = request.into_body().collect().await?.to_bytes();
    let mood = {
        let mut state = lock(&state);
        ensure!(state.mood != Mood::Away, "away");
        state.requests.push((path, body));
        state.mood
    };
    let rejected = if let Mood::TakesWithout(spans) = mood { spans } else { 0 };
    let error_message = if rejected == 0 { String::new() } else { "too old".to_owned() };
    let partial_success = Some(ExportTracePartialSuccess { rejected_spans: rejected, error_message });
    let message = ExportTraceServiceResponse { partial_success }.encode_to_vec();
    if !grpc {
        let answer = match mood {
            Mood::Busy => Response::builder().status(503).header("retry-after", "1").body(Empty::new().boxed()),
            Mood::Refuses => Response::builder().status(400).body(Empty::new().boxed()),
            _ => Response::builder().body(Full::from(message).boxed()),
        };
        return Ok(answer?);
    }
    let (code, message) = match mood {
        Mood::Busy => ("14", Vec::new()),
        Mood::Refuses => ("3", Vec::new()),
        _ => ("0", message),
    };
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len().try_into()?);
    frame.put_slice(&message);
    let trailers = HeaderMap::from_iter([("grpc-status".parse()?, HeaderValue::from_static(code))]);
    let body = Full::from(frame.freeze()).with_trailers(async { Some(Ok(trailers)) }).boxed();
    Ok(Response::builder().header(CONTENT_TYPE, "application/grpc").body(body)?)
}
