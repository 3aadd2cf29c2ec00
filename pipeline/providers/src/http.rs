//! One HTTP exchange with a provider: pooled, bounded, and honest about what is not known afterwards.
//!
//! Guarantee: an exchange ends within the time given, the body included; at most [`MAX_BODY`] bytes of an answer are
//! kept; no redirect is followed. An error tells whether the request can have reached the provider:
//! [`Failure::NotSent`] and [`Failure::Busy`] are safe to try again, [`Failure::NoAnswer`] is the one ambiguous case.
//!
//! # When a request counts as sent
//! A connection is made of a name, a socket, perhaps a proxy, and TLS, and has a time-out of its own. Then head and body
//! are written. The body is asked for only when there is a connection to write it to, so while nobody has asked for it,
//! the provider cannot have taken the message, however the exchange ended. So every one of these steps is told apart
//! from a provider that keeps silent, and an SMS goes to the next provider instead of being held.
//!
//! # Who reads what a provider sends
//! A thread of the account's own (`wire`). The client reads informational answers (1xx) for as long as they come without
//! giving the thread to anybody else, and there is no way to tell it how many are enough. So a provider that sends them
//! without end, or whatever else keeps a thread busy, delays no call of another account.

mod reply;
mod turns;
mod wire;

use std::{
    error::Error as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use chasqui_contract::{Answer, Outcome, with_sources};
use chasqui_settings::{SettingsError, is_this_machine};
use http_body_util::{BodyExt, Full};
use reqwest::{Body, Client, ClientBuilder, Request, RequestBuilder, Response, Url};
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::time::Instant;

pub use self::reply::{MAX_RETRY_AFTER, Reply};
use self::{turns::Turns, wire::Wire};
use crate::{Account, rate::Rate, tls};

/// Maximum bytes of an answer that are read; providers' answers are small.
pub const MAX_BODY: usize = 64 * 1024;
/// Connections are kept this long without use: APNs and FCM ask for hours.
const KEEP_IDLE: Duration = Duration::from_secs(60 * 60);
/// Connections that died unnoticed are found this soon.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Maximum time until there is a connection, its name, proxy and TLS included: what takes longer is out of reach, and
/// the next provider still has its time.
const CONNECT: Duration = Duration::from_secs(3);
/// Maximum times that a request goes out which the server has said it did not look at.
const MAX_TRIES: u32 = 3;
/// Maximum milliseconds of an exchange that may be set: a worker that is busy longer looks dead.
const MAX_TIMEOUT_MS: u64 = 10 * 60 * 1_000;
/// Maximum exchanges at once that may be set: more would take more sockets than a process has.
const MAX_CONCURRENCY: usize = 10_000;

/// What accounts at all vendors that are called over HTTP have in common.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "documented in accounts.toml")]
pub struct HttpSettings {
    pub ca_file: Option<PathBuf>,
    pub timeout_ms: u64,
    pub concurrency: usize,
    pub per_second: u32,
}

/// Which HTTP a vendor speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// `https://` servers choose, and `http://` means HTTP/1.1.
    Any,
    /// HTTP/2 and nothing else, from the first byte also where the address is `http://`: a lab on this machine.
    Http2,
}

/// A pool of connections to one provider.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
    wire: Arc<Wire>,
    turns: Arc<Turns>,
    rate: Arc<Rate>,
    timeout: Duration,
}

/// There is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request did not go out: no connection, or one on which the server took nothing.
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
    /// An account's pool.
    ///
    /// # Errors
    /// Where the limits cannot work, or the certificate authorities cannot be read or used.
    pub(crate) fn open(
        account: &Account<'_>,
        settings: &HttpSettings,
        version: Version,
    ) -> Result<Self, SettingsError> {
        let turns = Turns::new(settings.concurrency);
        Self::build(account, settings, version, turns, |builder| builder)
    }

    /// The pool of an account whose addresses come from outside: no origin can take all turns, and `client` says what
    /// else is not as with one provider.
    ///
    /// # Errors
    /// As [`Http::open`].
    pub(crate) fn open_to_many(
        account: &Account<'_>,
        settings: &HttpSettings,
        client: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Result<Self, SettingsError> {
        let turns = Turns::shared(settings.concurrency);
        Self::build(account, settings, Version::Any, turns, client)
    }

    fn build(
        account: &Account<'_>,
        settings: &HttpSettings,
        version: Version,
        turns: Turns,
        adjust: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Result<Self, SettingsError> {
        let timeout_fits = (1..=MAX_TIMEOUT_MS).contains(&settings.timeout_ms);
        if !timeout_fits || !(1..=MAX_CONCURRENCY).contains(&settings.concurrency) {
            let problem = "`timeout_ms` must be 1 to 600,000, and `concurrency` 1 to 10,000";
            return Err(account.contradiction(problem));
        }
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls(account, settings.ca_file.as_ref(), version)?)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(KEEP_IDLE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .user_agent(concat!("chasqui/", env!("CARGO_PKG_VERSION")));
        if version == Version::Http2 {
            builder = builder.http2_prior_knowledge();
        }
        let client = adjust(builder).build().map_err(|error| account.contradiction(words(&error)))?;
        let wire = Wire::start().map_err(|error| account.contradiction(format!("no thread for it: {error}")))?;
        Ok(Http {
            client,
            wire: Arc::new(wire),
            turns: Arc::new(turns),
            rate: Arc::new(Rate::new(settings.per_second)),
            timeout: Duration::from_millis(settings.timeout_ms),
        })
    }

    /// The client to build requests with; they are sent by [`Http::exchange`].
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends `request`, reads the whole answer.
    ///
    /// # Errors
    /// See [`Failure`]. A status that says no is a [`Reply`].
    pub async fn exchange(&self, request: Request) -> Result<Reply, Failure> {
        self.exchange_by(self.deadline(), request).await
    }

    /// When a call that begins now must have ended.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// As [`Http::exchange`], for a call of several steps that end together.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn exchange_by(&self, deadline: Instant, request: Request) -> Result<Reply, Failure> {
        let late = || format!("within {} ms", self.timeout.as_millis());
        let busy = || Failure::Busy(format!("no turn {}", late()));
        let turn = self.turns.take(request.url());
        let Ok(_turn) = tokio::time::timeout_at(deadline, turn).await else { return Err(busy()) };
        // What begins at the deadline is cut off at once, and then nobody knows.
        if !self.rate.turn(deadline).await || Instant::now() >= deadline {
            return Err(busy());
        }
        let asked = Arc::<AtomicBool>::default();
        let conversing = self.wire.run(converse(self.client.clone(), request, asked.clone()));
        match tokio::time::timeout_at(deadline, conversing).await {
            Ok(Some(reply)) => reply,
            Ok(None) if asked.load(Relaxed) => Err(Failure::NoAnswer("the exchange was given up".to_owned())),
            Ok(None) => Err(Failure::NotSent("the exchange was given up".to_owned())),
            Err(_elapsed) if asked.load(Relaxed) => Err(Failure::NoAnswer(format!("no whole answer {}", late()))),
            Err(_elapsed) => Err(Failure::NotSent(format!("no connection {}", late()))),
        }
    }
}

/// `asked` is true as soon as the provider may have taken the request.
async fn converse(client: Client, request: Request, asked: Arc<AtomicBool>) -> Result<Reply, Failure> {
    let mut response = ask(&client, request, &asked).await?;
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

/// Sends the request, again where the server says that it did not look at it: so servers end a connection.
async fn ask(client: &Client, request: Request, asked: &Arc<AtomicBool>) -> Result<Response, Failure> {
    let mut tried = 0;
    loop {
        tried += 1;
        let error = match client.execute(watched(&request, asked)).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let untaken = is_untaken(&error);
        if untaken && tried < MAX_TRIES {
            continue;
        }
        // What is not a connection at all asks for no body.
        return Err(if untaken || error.is_connect() || error.is_builder() || !asked.load(Relaxed) {
            Failure::NotSent(words(&error))
        } else {
            Failure::NoAnswer(words(&error))
        });
    }
}

/// The request, with a body that notes in `asked` when it is asked for. A request without a body cannot tell.
fn watched(request: &Request, asked: &Arc<AtomicBool>) -> Request {
    let mut watched = Request::new(request.method().clone(), request.url().clone());
    watched.headers_mut().clone_from(request.headers());
    let body = request.body().and_then(Body::as_bytes).unwrap_or_default();
    asked.store(body.is_empty(), Relaxed);
    if !body.is_empty() {
        let asked = asked.clone();
        let body = Full::new(Bytes::copy_from_slice(body));
        *watched.body_mut() = Some(Body::wrap(body.map_frame(move |frame| {
            asked.store(true, Relaxed);
            frame
        })));
    }
    watched
}

/// Whether the server said that it did not look at the request: it ends the connection, or has no room on it
/// ([RFC 9113, 8.7](https://www.rfc-editor.org/rfc/rfc9113#section-8.7)).
fn is_untaken(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let ends = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            return error.is_remote()
                && (ends || error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        source = error.source();
    }
    false
}

/// A request as it was built. What cannot be written has a line break in a credential or an address.
///
/// # Errors
/// [`Outcome::Misconfigured`]: nothing was sent.
pub fn built(request: RequestBuilder) -> Result<Request, Box<Answer>> {
    let unfit = |_| Answer::new(Outcome::Misconfigured, "request", "a setting is not fit for a request").into();
    request.build().map_err(unfit)
}

/// The address that a setting holds. It may hold an account too, so errors do not quote it. `key` is the setting's name.
///
/// # Errors
/// Where it is not `http://` or `https://`, or is `http://` to another machine: credentials and recipients go there.
pub fn address(key: &str, text: &str) -> Result<Url, SettingsError> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let url = url.ok_or_else(|| SettingsError::invalid(key, "is not an http:// or https:// address"))?;
    if url.scheme() == "http" && !is_this_machine(&url) {
        return Err(SettingsError::invalid(
            key,
            "credentials and recipients would cross the network in the clear: begin it with https://; http:// is for \
             this machine",
        ));
    }
    Ok(url)
}

/// `url` with more segments.
pub fn below(mut url: Url, segments: &[&str]) -> Url {
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

fn tls(account: &Account<'_>, ca_file: Option<&PathBuf>, version: Version) -> Result<ClientConfig, SettingsError> {
    let mut config = tls::client(account, ca_file)?;
    // The client leaves a configuration it is given as it is; without these there is no HTTP/2 over TLS.
    config.alpn_protocols = match version {
        Version::Http2 => vec![b"h2".into()],
        Version::Any => vec![b"h2".into(), b"http/1.1".into()],
    };
    Ok(config)
}

/// An error with its sources, without the address, which may hold a credential or a recipient.
fn words(error: &reqwest::Error) -> String {
    error.source().map_or_else(|| "the exchange failed".to_owned(), with_sources)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        loopback::{Loopback, Turn, nobody},
        testing::account,
    };

    fn settings() -> HttpSettings {
        HttpSettings { ca_file: None, timeout_ms: 20_000, concurrency: 1, per_second: 0 }
    }

    fn open(settings: &HttpSettings) -> Result<Http, SettingsError> {
        Http::open(&account(&crate::twilio::VENDOR), settings, Version::Any)
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
        let http = open(&HttpSettings { timeout_ms: 300, ..settings() }).unwrap();
        http.exchange(http.client().get(url).build().unwrap()).await
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_and_no_redirect_is_followed() {
        let url = server(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 2\r\n\r\nhi", true).await;
        let reply = get(&url).await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (302, &b"hi"[..]));
    }

    /// A provider that never answers a POST in `timeout_ms`.
    async fn post(url: &str, timeout_ms: u64) -> Failure {
        let http = open(&HttpSettings { timeout_ms, ..settings() }).unwrap();
        http.exchange(http.client().post(url).body("message").build().unwrap()).await.unwrap_err()
    }

    #[tokio::test]
    async fn what_went_out_without_an_answer_is_ambiguous_and_what_did_not_is_not() {
        for (answer, stay) in
            [(&b""[..], true), (b"", false), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", false)]
        {
            let url = server(answer, stay).await;
            assert!(matches!(get(&url).await, Err(Failure::NoAnswer(_))), "{answer:?} {stay}");
            let url = server(answer, stay).await;
            assert!(matches!(post(&url, 300).await, Failure::NoAnswer(_)), "{answer:?} {stay}");
        }
        assert!(matches!(post(&nobody(), 300).await, Failure::NotSent(_)));
        assert!(matches!(post("http://no-such-host.invalid/", 20_000).await, Failure::NotSent(_)));
    }

    /// Takes connections and never says or reads a byte.
    async fn mute() -> (String, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move {
            let mut kept = Vec::new();
            loop {
                kept.push(listener.accept().await.unwrap());
            }
        });
        (authority, serving)
    }

    #[tokio::test]
    async fn a_connection_that_never_opens_is_not_ambiguous_at_any_step() {
        let (authority, _serving) = mute().await;
        // TLS that is never begun, whether the connection's own time-out ends it or the call's.
        for timeout_ms in [300, 20_000] {
            let failure = post(&format!("https://{authority}/"), timeout_ms).await;
            assert!(matches!(failure, Failure::NotSent(_)), "{timeout_ms}: {failure}");
        }
        // HTTP/2 whose connection many calls wait for.
        let limits = HttpSettings { timeout_ms: 1_000, concurrency: 8, ..settings() };
        let http = Http::open(&account(&crate::apns::VENDOR), &limits, Version::Http2).unwrap();
        let url = format!("https://{authority}/");
        let posts = (0..8).map(|_| http.exchange(http.client().post(&url).body("message").build().unwrap()));
        for end in futures::future::join_all(posts).await {
            assert!(matches!(end, Err(Failure::NotSent(_))), "{end:?}");
        }
        // In the clear, the same server takes the request and keeps silent.
        assert!(matches!(post(&format!("http://{authority}/"), 300).await, Failure::NoAnswer(_)));
    }

    #[tokio::test]
    async fn a_proxy_that_is_silent_or_refuses_lets_nothing_through() {
        let (silent, _serving) = mute().await;
        let refusing = server(b"HTTP/1.1 502 Bad Gateway\r\n\r\n", true).await;
        for proxy in [format!("http://{silent}"), refusing] {
            let limits = HttpSettings { timeout_ms: 1_000, ..settings() };
            let through = |builder: ClientBuilder| builder.proxy(reqwest::Proxy::all(&proxy).unwrap());
            let http = Http::open_to_many(&account(&crate::twilio::VENDOR), &limits, through).unwrap();
            let end = http.exchange(http.client().post("https://api.example.com/").body("message").build().unwrap());
            let end = end.await;
            assert!(matches!(end, Err(Failure::NotSent(_))), "{end:?}");
        }
    }

    #[tokio::test]
    async fn a_request_that_was_cut_in_the_middle_is_ambiguous() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
        });
        let http = open(&settings()).unwrap();
        let long = vec![b'x'; 8 * 1024 * 1024];
        let end = http.exchange(http.client().post(&url).body(long).build().unwrap()).await;
        assert!(matches!(end, Err(Failure::NoAnswer(_))), "{end:?}");
    }

    #[tokio::test]
    async fn a_server_that_ends_its_connection_gets_the_request_again_and_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let mut taken = 0;
            for refuses in [true, false] {
                let (socket, _) = listener.accept().await.unwrap();
                let mut connection = h2::server::handshake(socket).await.unwrap();
                let (request, mut respond) = connection.accept().await.unwrap().unwrap();
                if refuses {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                    connection.graceful_shutdown();
                } else {
                    taken += 1;
                    drop(request);
                    respond.send_response(hyper::Response::new(()), true).unwrap();
                }
                while connection.accept().await.is_some() {}
            }
            taken
        });
        let http = Http::open(&account(&crate::apns::VENDOR), &settings(), Version::Http2).unwrap();
        let reply = http.exchange(http.client().post(&url).body("message").build().unwrap()).await.unwrap();
        assert_eq!(reply.status.as_u16(), 200);
        drop(http);
        assert_eq!(serving.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_call_whose_time_is_up_sends_nothing() {
        let http = open(&settings()).unwrap();
        let request = http.client().get(server(b"", true).await).build().unwrap();
        assert!(matches!(http.exchange_by(Instant::now(), request).await, Err(Failure::Busy(_))));
    }

    #[tokio::test]
    async fn our_own_limit_spends_no_request_and_is_not_the_providers_trouble() {
        let server = Loopback::start((0..50).map(|_| Turn::say(200, ""))).await;
        let limited = HttpSettings { timeout_ms: 1_000, concurrency: 50, per_second: 1, ..settings() };
        let http = open(&limited).unwrap();
        let exchange = || http.exchange(http.client().get(&server.url).build().unwrap());
        let ends = futures::future::join_all((0..50).map(|_| exchange())).await;
        let failed: Vec<_> = ends.into_iter().filter_map(Result::err).collect();
        // Who gets a turn at the last moment has no time left for a connection.
        let busy: Vec<_> = failed.iter().filter(|failure| matches!(failure, Failure::Busy(_))).collect();
        assert!(busy.len() + 2 >= failed.len(), "{failed:?}");
        assert!(!busy.is_empty() && server.seen().len() <= 50 - busy.len(), "{} of 50 had no turn", busy.len());
        let answer = Answer::from(busy[0].clone());
        assert_eq!(answer.outcome, Outcome::Throttled { after: None });
        assert!(!answer.is_providers_fault());
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut() {
        let body: &'static [u8] = Vec::leak([b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &[b'x'; 2 * MAX_BODY]].concat());
        let url = server(body, true).await;
        assert_eq!(get(&url).await.unwrap().body.len(), MAX_BODY);
    }

    #[test]
    fn an_unusable_authority_is_refused_by_name() {
        let error = open(&HttpSettings { ca_file: Some("/nowhere/at/all".into()), ..settings() }).unwrap_err();
        assert!(error.to_string().starts_with("accounts.twilio.ca_file"), "{error}");
    }

    #[test]
    fn limits_that_cannot_work_are_refused_by_name() {
        for settings in [
            HttpSettings { timeout_ms: 0, ..settings() },
            HttpSettings { timeout_ms: MAX_TIMEOUT_MS + 1, ..settings() },
            HttpSettings { concurrency: 0, ..settings() },
            HttpSettings { concurrency: MAX_CONCURRENCY + 1, ..settings() },
        ] {
            let error = open(&settings).unwrap_err().to_string();
            assert!(error.starts_with("accounts.twilio: `timeout_ms`"), "{error}");
        }
    }

    #[test]
    fn an_address_is_of_the_web_and_grows_by_segments() {
        for text in [
            "",
            "push.example.com",
            "ftp://a.example",
            "mailto:secret@b.example",
            "http://a.example",
            "http://10.0.0.1/v",
        ] {
            let error = address("accounts.x.base_url", text).unwrap_err().to_string();
            assert!(error.starts_with("accounts.x.base_url") && !error.contains("secret"), "{text}: {error}");
        }
        for text in ["https://a.example/v", "https://a.example/v/"] {
            assert_eq!(below(address("k", text).unwrap(), &["3", "a/b?c"]).as_str(), "https://a.example/v/3/a%2Fb%3Fc");
        }
    }
}
