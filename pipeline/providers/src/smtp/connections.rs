//! Connections to the relay, kept and used again.
//!
//! Why not lettre's own pool: it takes a connection back even if the exchange on it was dropped half way (a
//! time-out), so that the next mail reads the replies to the last one; and its errors do not tell whether the
//! message was out already, which is the one thing we must know.
//!
//! Guarantee: a connection comes back only from an exchange that ended in a reply. Dropping a [`Lease`] closes it.

use chasqui_settings::SettingsError;
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lettre::{
    address::Envelope,
    transport::smtp::{
        Error,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, TlsParameters},
        commands::{Data, Mail, Rcpt, Rset},
        extension::{ClientId, Extension, MailBodyParameter, MailParameter},
    },
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{Settings, classify::Phase, settings::Tls};
use crate::Account;

/// Idle connections are closed after this time: before most relays do it themselves.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// The relay's connections.
pub(super) struct Connections {
    host: String,
    port: u16,
    tls: Tls,
    tls_parameters: Option<TlsParameters>,
    credentials: Option<Credentials>,
    hello: ClientId,
    permits: Semaphore,
    idle: Mutex<Vec<(AsyncSmtpConnection, Instant)>>,
}

/// A connection in use.
pub(super) struct Lease<'a> {
    pub(super) connection: AsyncSmtpConnection,
    connections: &'a Connections,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Connections {
    pub(super) fn new(account: &Account<'_>, settings: &Settings) -> Result<Self, SettingsError> {
        let tls_parameters = match settings.tls {
            Tls::None => None,
            Tls::Starttls | Tls::Wrapper => Some(
                TlsParameters::new(settings.host.clone()).map_err(|error| account.invalid("tls", error.to_string()))?,
            ),
        };
        Ok(Connections {
            host: settings.host.clone(),
            port: settings.port,
            tls: settings.tls,
            tls_parameters,
            credentials: settings.credentials(account)?,
            hello: ClientId::default(),
            permits: Semaphore::new(settings.pool_size),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Trusts one more certificate.
    #[cfg(test)]
    pub(super) fn trust(&mut self, der: &[u8]) {
        let certificate = lettre::transport::smtp::client::Certificate::from_der(der.to_vec()).unwrap();
        let parameters = TlsParameters::builder(self.host.clone()).add_root_certificate(certificate);
        self.tls_parameters = Some(parameters.build().unwrap());
    }

    /// A connection that is greeted, encrypted and logged in. Waits while all are in use.
    pub(super) async fn lease(&self) -> Result<Lease<'_>, Error> {
        // The semaphore is never closed, so there is always a permit.
        let permit = self.permits.acquire().await.ok();
        while let Some(mut connection) = self.pop() {
            // It may have been closed meanwhile, and an earlier exchange may have stopped after the sender.
            if connection.command(Rset).await.is_ok() {
                return Ok(Lease { connection, connections: self, _permit: permit });
            }
        }
        Ok(Lease { connection: self.connect().await?, connections: self, _permit: permit })
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Error> {
        let wrapper = self.tls_parameters.clone().filter(|_| self.tls == Tls::Wrapper);
        let server = (self.host.as_str(), self.port);
        let mut connection = AsyncSmtpConnection::connect_tokio1(server, None, &self.hello, wrapper, None).await?;
        if let (Tls::Starttls, Some(parameters)) = (self.tls, &self.tls_parameters) {
            connection.starttls(parameters.clone(), &self.hello).await?;
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    /// The connection used last, unless it idled too long.
    fn pop(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < MAX_IDLE);
        idle.pop().map(|(connection, _)| connection)
    }
}

impl Lease<'_> {
    /// Names sender and recipient, and asks to send the message. After `Ok` nothing but the message may follow.
    pub(super) async fn prepare(&mut self, envelope: &Envelope) -> Result<(), (Phase, Error)> {
        let mut parameters = Vec::new();
        if !is_ascii(envelope) {
            parameters.push(MailParameter::SmtpUtfEight);
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let at = |phase| move |error| (phase, error);
        self.connection.command(Mail::new(envelope.from().cloned(), parameters)).await.map_err(at(Phase::Sender))?;
        for to in envelope.to() {
            self.connection.command(Rcpt::new(to.clone(), Vec::new())).await.map_err(at(Phase::Recipient))?;
        }
        self.connection.command(Data).await.map_err(at(Phase::Recipient))?;
        Ok(())
    }

    /// Whether the relay can take such a mail: addresses beyond ASCII need SMTPUTF8 (RFC 6531), and 8BITMIME with it.
    pub(super) fn supports(&self, envelope: &Envelope) -> bool {
        is_ascii(envelope)
            || [Extension::SmtpUtfEight, Extension::EightBitMime]
                .into_iter()
                .all(|extension| self.connection.server_info().supports_feature(extension))
    }

    /// Gives the connection back, after a whole exchange: `error` is what ended it, if it was not a success.
    pub(super) fn give_back(self, error: Option<&Error>) {
        const CLOSING: u16 = 421;
        let usable = error.is_none_or(|error| error.status().is_some_and(|code| u16::from(code) != CLOSING));
        if usable {
            let mut idle = self.connections.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((self.connection, Instant::now()));
        }
    }
}

/// Whether the addresses are ASCII; the message then is ASCII too, because its parts are encoded.
fn is_ascii(envelope: &Envelope) -> bool {
    envelope.to().iter().chain(envelope.from()).all(|address| AsRef::<str>::as_ref(address).is_ascii())
}
