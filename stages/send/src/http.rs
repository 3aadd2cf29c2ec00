//! One HTTP exchange with a provider: pooled, bounded, and honest about what is not known afterwards.
//!
//! Guarantee: an exchange ends within the time given, the body included; at most [`MAX_BODY`] bytes of an answer are
//! kept; no redirect is followed. An error tells whether the request can have reached the provider:
//! [`Failure::NotSent`] and [`Failure::Busy`] are safe to try again, [`Failure::NoAnswer`] is the one ambiguous case.
//!
//! The critical lane has connections of its own, and turns of its own for when the others are all taken: neither a
//! backlog of ours nor what the provider does to a connection full of bulk makes it wait.

use std::{error::Error as _, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use chasqui_contract::{Answer, Outcome};
use chasqui_schemas::Lane;
use jiff::Timestamp;
use reqwest::{
    Client, Request, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use tokio::sync::Semaphore;

use crate::ConfigError;

/// Most bytes of an answer that are read; providers' answers are small.
pub const MAX_BODY: usize = 64 * 1024;
/// Connections are kept this long without use: APNs and FCM ask for hours.
const KEEP_IDLE: Duration = Duration::from_secs(60 * 60);
/// Connections that died unnoticed are found this soon.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Longest wait that a provider may ask for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

tokio::task_local! {
    static LANE: Lane;
}

/// Runs a call for a delivery of `lane`: whatever it exchanges goes that lane's way, without a provider's doing.
/// What the call leaves to tasks of its own, such as fetching a token for all, goes the way of those who can wait.
pub(crate) async fn on_lane<F: Future>(lane: Lane, call: F) -> F::Output {
    LANE.scope(lane, call).await
}

/// How to reach a provider.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Speak HTTP/2 from the first byte also where the address is `http://`: a lab on this machine.
    pub http2_only: bool,
    /// Certificate authorities to trust beside the system's, as PEM.
    pub ca_file: Option<PathBuf>,
    /// Longest exchange, connecting and the whole answer included.
    pub timeout: Duration,
    /// Exchanges at once; an eighth as many more, one at least, are for the critical lane alone.
    pub concurrency: usize,
}

/// Two pools of connections to one provider: the critical lane's, and that of the others.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
    urgent_client: Client,
    /// Everybody's.
    turns: Arc<Semaphore>,
    /// The critical lane's alone.
    urgent_turns: Arc<Semaphore>,
    timeout: Duration,
}

/// What a provider answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, of at most [`MAX_BODY`] bytes; what is longer is cut.
    pub body: Bytes,
}

/// There is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request did not go out: no connection.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The request did not go out: all turns are taken, which is our bound and not the provider's trouble.
    #[error("not sent: {0}")]
    Busy(String),
    /// It went out, and no whole answer came back.
    #[error("no answer: {0}")]
    NoAnswer(String),
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSent(words) => Answer::new(Outcome::TryLater { after: None }, "connection", words),
            Failure::Busy(words) => Answer::new(Outcome::Throttled { after: None }, "busy", words),
            Failure::NoAnswer(words) => Answer::new(Outcome::NoAnswer, "no_answer", words),
        }
    }
}

impl Http {
    /// The pools. `key` is the provider's section, for errors.
    ///
    /// # Errors
    /// Where the certificate authorities cannot be read or used.
    pub fn new(key: &str, reach: &Reach) -> Result<Self, ConfigError> {
        let tls = tls(key, reach)?;
        let pool = || {
            let mut builder = Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .redirect(reqwest::redirect::Policy::none())
                .pool_idle_timeout(KEEP_IDLE)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .http2_keep_alive_while_idle(true)
                .tcp_nodelay(true)
                .user_agent(concat!("chasqui/", env!("CARGO_PKG_VERSION")));
            if reach.http2_only {
                builder = builder.http2_prior_knowledge();
            }
            builder.build().map_err(|error| ConfigError::invalid(key, words(&error)))
        };
        Ok(Http {
            client: pool()?,
            urgent_client: pool()?,
            turns: Arc::new(Semaphore::new(reach.concurrency.max(1))),
            urgent_turns: Arc::new(Semaphore::new((reach.concurrency / 8).max(1))),
            timeout: reach.timeout,
        })
    }

    /// The client to build requests with; they are sent by [`Http::exchange`].
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends `request`, reads the whole answer; on the lane of [`on_lane`].
    ///
    /// # Errors
    /// See [`Failure`]. A status that says no is a [`Reply`].
    pub async fn exchange(&self, request: Request) -> Result<Reply, Failure> {
        let urgent = LANE.try_with(|lane| *lane == Lane::Critical).unwrap_or(false);
        let client = if urgent { &self.urgent_client } else { &self.client };
        let deadline = tokio::time::Instant::now() + self.timeout;
        let late = || format!("within {} ms", self.timeout.as_millis());
        let turn = async {
            tokio::select! {
                biased;
                turn = self.turns.acquire() => turn,
                turn = self.urgent_turns.acquire(), if urgent => turn,
            }
        };
        let turn = tokio::time::timeout_at(deadline, turn).await;
        let Ok(_turn) = turn else { return Err(Failure::Busy(format!("no turn {}", late()))) };
        match tokio::time::timeout_at(deadline, converse(client, request)).await {
            Ok(reply) => reply,
            Err(_elapsed) => Err(Failure::NoAnswer(format!("no whole answer {}", late()))),
        }
    }
}

async fn converse(client: &Client, request: Request) -> Result<Reply, Failure> {
    let mut response = client.execute(request).await.map_err(|error| {
        if error.is_connect() || error.is_builder() {
            Failure::NotSent(words(&error))
        } else {
            Failure::NoAnswer(words(&error))
        }
    })?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::NoAnswer(words(&error)))? {
        let room = MAX_BODY - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == MAX_BODY {
            break;
        }
    }
    Ok(Reply { status, headers, body: body.into() })
}

/// The `Retry-After` of an answer (RFC 9110, 10.2.3: seconds, or a date), clamped to [`MAX_RETRY_AFTER`]. Some vendors
/// send fractions, and worse (`inf`, `1e300`): what is not understood is none.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse::<f64>() {
        Ok(seconds) if seconds.is_nan() => return None,
        Ok(seconds) => seconds,
        Err(_) => jiff::fmt::rfc2822::parse(text).ok()?.timestamp().duration_since(now).as_secs_f64(),
    };
    Some(Duration::from_secs_f64(seconds.clamp(0.0, MAX_RETRY_AFTER.as_secs_f64())))
}

fn tls(key: &str, reach: &Reach) -> Result<ClientConfig, ConfigError> {
    let mut roots = RootCertStore::empty();
    // A machine without a certificate store can still talk to a lab; a real provider then fails with a clear error.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &reach.ca_file {
        let wrong = |problem: String| ConfigError::invalid(format!("{key}.ca_file"), problem);
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::invalid(key, error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// An error with its sources, without the address, which may hold a credential or a recipient.
fn words(error: &reqwest::Error) -> String {
    let mut words = Vec::new();
    let mut source = error.source();
    while let Some(error) = source {
        words.push(error.to_string());
        source = error.source();
    }
    if words.is_empty() { "the exchange failed".to_owned() } else { words.join(": ") }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())])
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_too_long() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        for (value, expected) in [
            ("7", Some(Duration::from_secs(7))),
            ("0.5", Some(Duration::from_millis(500))),
            ("-3", Some(Duration::ZERO)),
            ("inf", Some(MAX_RETRY_AFTER)),
            ("1e300", Some(MAX_RETRY_AFTER)),
            ("NaN", None),
            ("soon", None),
            ("Tue, 01 Jan 2030 00:00:09 GMT", Some(Duration::from_secs(9))),
            ("Mon, 31 Dec 2029 23:00:00 GMT", Some(Duration::ZERO)),
        ] {
            assert_eq!(retry_after(&headers(value), now), expected, "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    /// Serves one connection: reads a little, writes `answer`, and stays open or not.
    async fn server(answer: &'static [u8], stay: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(socket.read(&mut request).await.unwrap() > 0);
            socket.write_all(answer).await.unwrap();
            if stay {
                std::future::pending::<()>().await;
            }
        });
        address
    }

    async fn get(url: &str) -> Result<Reply, Failure> {
        let reach = Reach { timeout: Duration::from_millis(300), concurrency: 1, ..Reach::default() };
        let http = Http::new("send.x", &reach).unwrap();
        http.exchange(http.client().get(url).build().unwrap()).await
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_and_no_redirect_is_followed() {
        let url = server(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 2\r\n\r\nhi", true).await;
        let reply = get(&url).await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (302, &b"hi"[..]));
    }

    #[tokio::test]
    async fn what_went_out_without_an_answer_is_ambiguous_and_what_did_not_is_not() {
        for (answer, stay) in
            [(&b""[..], true), (b"", false), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", false)]
        {
            let url = server(answer, stay).await;
            assert!(matches!(get(&url).await, Err(Failure::NoAnswer(_))), "{answer:?} {stay}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        assert!(matches!(get(&closed).await, Err(Failure::NotSent(_))));
    }

    #[tokio::test]
    async fn critical_has_a_turn_and_a_connection_of_its_own_behind_a_backlog() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let reach = Reach { timeout: Duration::from_secs(20), concurrency: 1, ..Reach::default() };
        let http = Http::new("send.x", &reach).unwrap();
        let request = || http.client().get(&url).build().unwrap();
        let exchange = |lane| {
            let (http, request) = (http.clone(), request());
            tokio::spawn(on_lane(lane, async move { http.exchange(request).await }))
        };
        let answer = async |socket: &mut tokio::net::TcpStream| {
            let mut request = [0; 1024];
            assert!(socket.read(&mut request).await.unwrap() > 0);
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        };

        // Bulk has the only turn, and its request hangs; more of it waits.
        let hanging = exchange(Lane::Bulk);
        let (mut bulk, _) = listener.accept().await.unwrap();
        let waiting = exchange(Lane::Bulk);
        let urgent = exchange(Lane::Critical);
        let (mut critical, _) = listener.accept().await.unwrap();
        answer(&mut critical).await;
        assert_eq!(urgent.await.unwrap().unwrap().status, 200);
        assert!(!waiting.is_finished() && !hanging.is_finished());

        // When the turn is free again, bulk goes on where it was, and not on critical's connection.
        answer(&mut bulk).await;
        assert_eq!(hanging.await.unwrap().unwrap().status, 200);
        answer(&mut bulk).await;
        assert_eq!(waiting.await.unwrap().unwrap().status, 200);
    }

    #[tokio::test]
    async fn no_turn_in_time_is_our_own_bound_and_not_the_providers_trouble() {
        let url = server(b"", true).await;
        let reach = Reach { timeout: Duration::from_millis(300), concurrency: 1, ..Reach::default() };
        let http = Http::new("send.x", &reach).unwrap();
        let _taken = http.turns.acquire().await.unwrap();
        let failure = http.exchange(http.client().get(&url).build().unwrap()).await.unwrap_err();
        assert!(matches!(failure, Failure::Busy(_)), "{failure:?}");
        assert!(!Answer::from(failure).is_providers_fault());
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut() {
        let body: &'static [u8] = Vec::leak([b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &[b'x'; 2 * MAX_BODY]].concat());
        let url = server(body, true).await;
        assert_eq!(get(&url).await.unwrap().body.len(), MAX_BODY);
    }

    #[test]
    fn an_unusable_authority_is_refused_by_name() {
        let reach = Reach { ca_file: Some("/nowhere/at/all".into()), ..Reach::default() };
        let error = Http::new("send.apns", &reach).unwrap_err();
        assert!(error.to_string().starts_with("send.apns.ca_file"), "{error}");
    }
}
