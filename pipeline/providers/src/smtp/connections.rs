//! Connections to the relay, kept and used again.
//!
//! Guarantee: a connection comes back only from an exchange that ended in a reply. Dropping a [`Lease`] closes it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chasqui_settings::SettingsError;
use rustls::pki_types::ServerName;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{
    Settings,
    exchange::{Credentials, Encryption, Exchange, Failure},
    settings::Tls,
};
use crate::{Account, tls};

/// Idle connections are closed after this time: before most relays do it themselves.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// The relay's connections.
pub(super) struct Connections {
    host: String,
    port: u16,
    encryption: Encryption,
    credentials: Option<Credentials>,
    permits: Semaphore,
    idle: Mutex<Vec<(Exchange, Instant)>>,
}

/// A connection in use.
pub(super) struct Lease<'a> {
    pub(super) exchange: Exchange,
    connections: &'a Connections,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Connections {
    pub(super) fn new(account: &Account<'_>, settings: &Settings) -> Result<Self, SettingsError> {
        let tls = || {
            let name = ServerName::try_from(settings.host.clone());
            let name = name.map_err(|_| account.invalid("host", "is neither a host's name nor an address"))?;
            Ok((Arc::new(tls::client(account, settings.ca_file.as_ref())?), name))
        };
        let encryption = match settings.tls {
            Tls::None => Encryption::None,
            Tls::Starttls => tls().map(|(config, name)| Encryption::Starttls(config, name))?,
            Tls::Wrapper => tls().map(|(config, name)| Encryption::Wrapper(config, name))?,
        };
        Ok(Connections {
            host: settings.host.clone(),
            port: settings.port,
            encryption,
            credentials: settings.credentials(account)?,
            permits: Semaphore::new(settings.pool_size),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// A connection that is greeted, encrypted and logged in. Waits while all are in use.
    pub(super) async fn lease(&self) -> Result<Lease<'_>, Failure> {
        // The semaphore is never closed, so there is always a permit.
        let permit = self.permits.acquire().await.ok();
        while let Some(mut exchange) = self.pop() {
            // It may have been closed meanwhile, and an earlier exchange may have stopped after the sender.
            if exchange.reset().await.is_ok() {
                return Ok(Lease { exchange, connections: self, _permit: permit });
            }
        }
        let address = (self.host.as_str(), self.port);
        let exchange = Exchange::open(address, &self.encryption, self.credentials.as_ref()).await?;
        Ok(Lease { exchange, connections: self, _permit: permit })
    }

    /// The connection used last, unless it idled too long.
    fn pop(&self) -> Option<Exchange> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < MAX_IDLE);
        idle.pop().map(|(exchange, _)| exchange)
    }
}

impl Lease<'_> {
    /// Gives the connection back, after a whole exchange: `failure` is what ended it, if it was not a success.
    pub(super) fn give_back(self, failure: Option<&Failure>) {
        const CLOSING: u16 = 421;
        let usable = match failure {
            None => true,
            Some(Failure::Refused(reply)) => reply.code != CLOSING,
            Some(_) => false,
        };
        if usable {
            let mut idle = self.connections.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((self.exchange, Instant::now()));
        }
    }
}
