//! Mail, through an SMTP relay.
//!
//! Guarantee: the message goes out at most once per call, and the answer says `NoAnswer` exactly when it may have
//! been taken without our knowing: after the relay asked for it, and before it answered the final dot. Everything
//! earlier is safe to try again. Every attempt carries the same Message-ID.
//!
//! # What a reply means
//! | reply | means |
//! |---|---|
//! | 4yz; a mailbox that is full (5.2.2, 552) | try later; with 4.2.x, 5.2.2 or 552 the recipient's own trouble |
//! | no connection, no such host, cut off before the message | try later |
//! | 5yz with 5.1.1, 5.1.2, 5.1.3, 5.1.6, 5.2.1 | dead endpoint |
//! | 5yz on greeting, log-in or our own address; 530, 534, 535, 538; a certificate that does not hold; no STARTTLS | misconfigured |
//! | any other 5yz: policy (5.7.x), or no enhanced status that calls the address dead | refused |
//! | cut off, late or not SMTP, once the message is out | no answer |
//!
//! `overrides.smtp` may hold `reply_to`, a mailbox, and `headers`, texts by `X-…` names. Anything else is refused.

mod classify;
mod config;
mod connections;
mod message;
#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chasqui_contract::{Answer, Clock, Outcome, Provider};
use chasqui_schemas::{Channel, Delivery, record::Platform};
use chasqui_settings::SettingsError;
use lettre::message::Mailbox;
use tokio::time::timeout;

pub use self::config::{Config, Tls};
use self::{
    classify::{Phase, classify},
    connections::{Connections, Lease},
    message::Mail,
};
use super::mail;

/// The provider's name.
pub const NAME: &str = "smtp";

/// Sends mails.
pub(crate) struct Smtp {
    connections: Connections,
    from: Mailbox,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl Smtp {
    pub(crate) fn new(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        if config.timeout_ms == 0 || config.pool_size == 0 || config.pool_size > 1_000 {
            let problem = "`timeout_ms` must be more than 0, and `pool_size` 1 to 1,000";
            return Err(SettingsError::invalid("send.smtp", problem));
        }
        Ok(Smtp {
            connections: Connections::new(config)?,
            from: mail::sender("send.smtp.from", &config.from)?,
            timeout: Duration::from_millis(config.timeout_ms),
            clock,
        })
    }

    /// Everything before the message: an error here means that it was not sent.
    async fn prepare(&self, mail: &Mail) -> Result<Lease<'_>, Box<Answer>> {
        let exchange = async {
            let mut lease = self.connections.lease().await.map_err(|error| classify(Phase::Connect, &error))?;
            if !lease.supports(&mail.envelope) {
                lease.give_back(None);
                return Err(Answer::new(Outcome::Refused, "smtputf8", "the relay takes ASCII addresses only").into());
            }
            match lease.prepare(&mail.envelope).await {
                Ok(()) => Ok(lease),
                Err((phase, error)) => {
                    lease.give_back(Some(&error));
                    Err(classify(phase, &error).into())
                }
            }
        };
        timeout(self.timeout, exchange).await.unwrap_or_else(|_elapsed| {
            let words = format!("not ready to send within {} ms", self.timeout.as_millis());
            Err(Answer::new(Outcome::TryLater { after: None }, "timeout", words).into())
        })
    }

    /// The message itself: without an answer nobody knows.
    async fn transmit(&self, mut lease: Lease<'_>, mail: &Mail) -> Answer {
        match timeout(self.timeout, lease.connection.message(&mail.bytes)).await {
            Ok(Ok(response)) => {
                lease.give_back(None);
                let words = response.message().collect::<Vec<_>>().join(" ");
                Answer {
                    message_id: mail.message_id.clone(),
                    ..Answer::new(Outcome::Accepted, response.code().to_string(), words)
                }
            }
            Ok(Err(error)) => {
                lease.give_back(Some(&error));
                classify(Phase::Message, &error)
            }
            Err(_elapsed) => {
                let words = format!("no answer to the message within {} ms", self.timeout.as_millis());
                Answer::new(Outcome::NoAnswer, "timeout", words)
            }
        }
    }
}

#[async_trait]
impl Provider for Smtp {
    fn name(&self) -> &str {
        NAME
    }

    fn serves(&self, channel: Channel, _: Option<Platform>) -> bool {
        channel == Channel::Email
    }

    async fn send(&self, delivery: &Delivery) -> Answer {
        let mail = match message::build(delivery, &self.from, self.clock.now()) {
            Ok(mail) => mail,
            Err(error) => return error.into(),
        };
        match self.prepare(&mail).await {
            Ok(lease) => self.transmit(lease, &mail).await,
            Err(answer) => *answer,
        }
    }
}
