//! One HTTP exchange with a provider: pooled, bounded, and honest about what is not known afterwards.
//!
//! Guarantee: an exchange ends within the time given, the body included; at most [`MAX_BODY`] bytes of an answer are
//! kept; no redirect is followed. An error tells whether the request can have reached the provider:
//! [`Failure::NotSent`] and [`Failure::Busy`] are safe to try again, [`Failure::NoAnswer`] is the one ambiguous case.

mod reply;

use std::{error::Error as _, path::PathBuf, sync::Arc, time::Duration};

use chasqui_contract::{Answer, Outcome, with_sources};
use chasqui_settings::SettingsError;
use reqwest::{Client, Request, RequestBuilder, Url};
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::{sync::Semaphore, time::Instant};

pub use self::reply::{MAX_RETRY_AFTER, Reply};
use crate::{Account, rate::Rate, tls};

/// Maximum bytes of an answer that are read; providers' answers are small.
pub const MAX_BODY: usize = 64 * 1024;
/// Connections are kept this long without use: APNs and FCM ask for hours.
const KEEP_IDLE: Duration = Duration::from_secs(60 * 60);
/// Connections that died unnoticed are found this soon.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
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
    turns: Arc<Semaphore>,
    rate: Arc<Rate>,
    timeout: Duration,
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
    /// An account's pool.
    ///
    /// # Errors
    /// Where the limits cannot work, or the certificate authorities cannot be read or used.
    pub(crate) fn open(
        account: &Account<'_>,
        settings: &HttpSettings,
        version: Version,
    ) -> Result<Self, SettingsError> {
        let timeout_fits = (1..=MAX_TIMEOUT_MS).contains(&settings.timeout_ms);
        if !timeout_fits || !(1..=MAX_CONCURRENCY).contains(&settings.concurrency) {
            let problem = "`timeout_ms` must be 1 to 600,000, and `concurrency` 1 to 10,000";
            return Err(account.contradiction(problem));
        }
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls(account, settings.ca_file.as_ref(), version)?)
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(KEEP_IDLE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .user_agent(concat!("chasqui/", env!("CARGO_PKG_VERSION")));
        if version == Version::Http2 {
            builder = builder.http2_prior_knowledge();
        }
        let client = builder.build().map_err(|error| account.contradiction(words(&error)))?;
        Ok(Http {
            client,
            turns: Arc::new(Semaphore::new(settings.concurrency)),
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
        let Ok(_turn) = tokio::time::timeout_at(deadline, self.turns.acquire()).await else { return Err(busy()) };
        // What begins at the deadline is cut off at once, and then nobody knows.
        if !self.rate.turn(deadline).await || Instant::now() >= deadline {
            return Err(busy());
        }
        match tokio::time::timeout_at(deadline, self.converse(request)).await {
            Ok(reply) => reply,
            Err(_elapsed) => Err(Failure::NoAnswer(format!("no whole answer {}", late()))),
        }
    }

    async fn converse(&self, request: Request) -> Result<Reply, Failure> {
        let mut response = self.client.execute(request).await.map_err(|error| {
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
/// Where it is not `http://` or `https://`.
pub fn address(key: &str, text: &str) -> Result<Url, SettingsError> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| SettingsError::invalid(key, "is not an http:// or https:// address"))
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
        loopback::{Loopback, Turn},
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
        let busy: Vec<_> = ends.into_iter().filter_map(Result::err).collect();
        assert!(busy.iter().all(|failure| matches!(failure, Failure::Busy(_))), "{busy:?}");
        assert!(!busy.is_empty() && server.seen().len() == 50 - busy.len(), "{} of 50 had no turn", busy.len());
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
        for text in ["", "push.example.com", "ftp://a.example", "mailto:secret@b.example"] {
            let error = address("accounts.x.base_url", text).unwrap_err().to_string();
            assert!(error.starts_with("accounts.x.base_url") && !error.contains("secret"), "{text}: {error}");
        }
        for text in ["https://a.example/v", "https://a.example/v/"] {
            assert_eq!(below(address("k", text).unwrap(), &["3", "a/b?c"]).as_str(), "https://a.example/v/3/a%2Fb%3Fc");
        }
    }
}
