//! The connection to NATS.
//!
//! Guarantee: a lost connection is re-established, however long that takes, with jittered delays of at most two
//! seconds, so that not all processes meet a restarted server at once. The first connection is tried only once, because
//! an operator should see a wrong address at once; [`connect_some_time`] is for a process that has work without a
//! server. What waits for the server, and what the server pushes, is bounded.
//!
//! After a crash nothing is to be cleaned up: the server keeps consumers and acknowledgements.

use std::{path::PathBuf, time::Duration};

use async_nats::{Client, ConnectErrorKind, Event, ServerAddr};
use chasqui_settings::{Secret, ServerUrl};
use futures::StreamExt;

/// Maximum commands that wait in the client; further callers wait for room. Enough for two atomic batches.
const QUEUED_COMMANDS: usize = 2_048;
/// Maximum messages that wait in one subscription. The client drops what comes when it is full, and the server hands it
/// out again; `runner.window` asks for far fewer.
const QUEUED_MESSAGES: usize = 16_384;
/// Maximum time of one try to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time of one request, unless its caller sets another.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the client pings the server; after two pings without an answer the connection counts as lost.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// First and longest delay before a lost connection is tried again.
const FIRST_RECONNECT_DELAY: Duration = Duration::from_millis(50);
const LONGEST_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// How we log in: with user and password, with a token, with credentials, with an nkey, or not at all. A login that stands in
/// the address wins.
#[derive(Debug, Clone, Default)]
pub struct ConnectOptions {
    /// The user, if there is a password.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// A token.
    pub token: Option<Secret>,
    /// Credentials: user JWT and nkey seed, as `nsc` writes them.
    pub credentials: Option<Secret>,
    /// The seed of an nkey.
    pub nkey: Option<Secret>,
    /// What the subjects begin with that answers come to; empty for the client's own. With a prefix that is ours alone
    /// nobody else needs, or is given, the right to listen there.
    pub inbox_prefix: String,
    /// PEM file of certificate authorities to trust, instead of the system's, for `tls://` addresses.
    pub root_certificates: Option<PathBuf>,
    /// PEM files of our own certificate and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// Why there is no connection, and what to do. Errors show addresses without users and passwords.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// An address cannot be parsed.
    #[error("a NATS address is wrong: write it as `nats://host:4222`, several separated by commas")]
    Address(#[source] std::io::Error),
    /// The credentials cannot be used.
    #[error("nats.credentials cannot be used: check that they were written by `nsc`")]
    Credentials(#[source] std::io::Error),
    /// The server refused our login.
    #[error("NATS at {servers} refused our credentials: check user and password, token, credentials or nkey")]
    Refused {
        /// Hosts and ports.
        servers: String,
        /// What the client said.
        #[source]
        source: async_nats::ConnectError,
    },
    /// TLS could not be set up.
    #[error("no TLS connection with NATS at {servers}: check its certificate and `nats.root_certificates`")]
    Tls {
        /// Hosts and ports.
        servers: String,
        /// What the client said.
        #[source]
        source: async_nats::ConnectError,
    },
    /// No server answers.
    #[error("no NATS server answers at {servers}: start one (`chasqui up` brings its own) or correct the address")]
    NoAnswer {
        /// Hosts and ports.
        servers: String,
        /// What the client said.
        #[source]
        source: async_nats::ConnectError,
    },
}

/// Connects to `url`: one address or several of one cluster, separated by commas.
///
/// # Errors
/// See [`ConnectError`]; the text says what to do.
pub async fn connect(url: &ServerUrl, options: &ConnectOptions) -> Result<Client, ConnectError> {
    establish(url, options, false).await
}

/// The same for a process that has work without a server: one that does not answer now is tried again for ever, and
/// until it answers the connection's state is not `Connected`.
///
/// # Errors
/// See [`ConnectError`], but never [`ConnectError::NoAnswer`].
pub async fn connect_some_time(url: &ServerUrl, options: &ConnectOptions) -> Result<Client, ConnectError> {
    match connect(url, options).await {
        Err(error @ ConnectError::NoAnswer { .. }) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "starting without NATS: trying again until it answers"
            );
            establish(url, options, true).await
        }
        done => done,
    }
}

async fn establish(url: &ServerUrl, options: &ConnectOptions, later: bool) -> Result<Client, ConnectError> {
    let servers = url
        .as_str()
        .split(',')
        .map(|address| address.trim().parse::<ServerAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(ConnectError::Address)?;
    let mut client = async_nats::ConnectOptions::new()
        .name("chasqui")
        .client_capacity(QUEUED_COMMANDS)
        .subscription_capacity(QUEUED_MESSAGES)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| reconnect_delay(attempts, random_fraction()))
        .event_callback(async |event| log(&event));
    if later {
        client = client.retry_on_initial_connect();
    }
    match (url.user().map(Secret::expose), url.password(), &options.user, &options.password) {
        (Some(user), Some(password), ..) => {
            client = client.user_and_password(user.to_owned(), password.expose().to_owned());
        }
        (Some(token), None, ..) => client = client.token(token.to_owned()),
        (None, _, Some(user), Some(password)) => {
            client = client.user_and_password(user.clone(), password.expose().to_owned());
        }
        (None, ..) => {}
    }
    if let Some(token) = &options.token {
        client = client.token(token.expose().to_owned());
    }
    if let Some(credentials) = &options.credentials {
        client = client.credentials(credentials.expose()).map_err(ConnectError::Credentials)?;
    }
    if let Some(seed) = &options.nkey {
        client = client.nkey(seed.expose().to_owned());
    }
    if !options.inbox_prefix.is_empty() {
        client = client.custom_inbox_prefix(&options.inbox_prefix);
    }
    if let Some(path) = &options.root_certificates {
        client = client.add_root_certificates(path.clone());
    }
    if let Some((certificate, key)) = &options.client_certificate {
        client = client.add_client_certificate(certificate.clone(), key.clone());
    }
    client.connect(&servers).await.map_err(|source| {
        let servers =
            servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect::<Vec<_>>().join(", ");
        match source.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                ConnectError::Refused { servers, source }
            }
            ConnectErrorKind::Tls => ConnectError::Tls { servers, source },
            ConnectErrorKind::ServerParse
            | ConnectErrorKind::Dns
            | ConnectErrorKind::TimedOut
            | ConnectErrorKind::Io
            | ConnectErrorKind::MaxReconnects => ConnectError::NoAnswer { servers, source },
        }
    })
}

/// The client has given its connection up: its task has ended, and only another client connects again.
#[derive(Debug, thiserror::Error)]
#[error("the connection to NATS was given up")]
pub struct GivenUp;

/// Ready when `client` has given its connection up. A server that is away is no reason for that.
pub async fn given_up(client: &Client) -> GivenUp {
    // Nobody publishes to it, and it lives through reconnects: it ends with the task that owns the connection.
    if let Ok(mut subscription) = client.subscribe(client.new_inbox()).await {
        while subscription.next().await.is_some() {}
    }
    GivenUp
}

/// Logs what nobody else hears of: a publish that the server refused has no answer, it only times out.
fn log(event: &Event) {
    match event {
        Event::ServerError(error) => {
            tracing::error!(%error, "NATS refuses: the user's permissions must be those of the process's roles");
        }
        Event::SlowConsumer(_) => tracing::warn!("NATS sends faster than a subscription is read: it sends again"),
        // The client logs these itself.
        Event::Connected
        | Event::Disconnected
        | Event::ClientError(_)
        | Event::LameDuckMode
        | Event::Draining
        | Event::Closed => {}
    }
}

/// The delay doubles up to the longest; of that, up to a half is taken off, as `fraction` in `[0, 1)` says.
fn reconnect_delay(attempts: usize, fraction: f64) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let delay = FIRST_RECONNECT_DELAY.saturating_mul(1 << doublings).min(LONGEST_RECONNECT_DELAY);
    delay.mul_f64(1.0 - fraction / 2.0)
}

/// A random number in `[0, 1)`.
fn random_fraction() -> f64 {
    let [byte, ..] = uuid::Uuid::new_v4().into_bytes();
    f64::from(byte) / 256.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_and_stays_within_bounds() {
        assert_eq!(reconnect_delay(1, 0.0), FIRST_RECONNECT_DELAY);
        assert!(reconnect_delay(2, 0.0) > reconnect_delay(1, 0.0));
        assert_eq!(reconnect_delay(usize::MAX, 0.0), LONGEST_RECONNECT_DELAY);
        assert!(reconnect_delay(usize::MAX, 0.99) >= LONGEST_RECONNECT_DELAY / 2);
    }
}
