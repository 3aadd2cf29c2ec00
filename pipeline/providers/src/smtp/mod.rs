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
//! | before the message is out: not SMTP, a code that answers no such command, words unasked or in the clear | try later |
//! | 5yz with 5.1.1, 5.1.2, 5.1.6, 5.1.10, 5.2.1 | dead endpoint |
//! | 5yz on greeting, log-in or our own address; 530, 534, 535, 538; a certificate that does not hold; no STARTTLS | misconfigured |
//! | any other 5yz: policy (5.7.x), or no enhanced status that calls the address dead | refused |
//! | once the message is out: cut off, late, not SMTP, or any code that is neither 250 nor a refusal | no answer |
//!
//! `overrides.smtp` may hold `reply_to`, a mailbox, and `headers`, texts by `X-…` names. Anything else is refused.

mod classify;
mod connections;
mod exchange;
mod message;
#[cfg(test)]
mod server;
mod settings;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use chasqui_contract::{Answer, Clock, Outcome};
use chasqui_rules::Overridable;
use chasqui_schemas::{Channel, Delivery};
use chasqui_settings::SettingsError;
use lettre::message::Mailbox;
use tokio::time::timeout;

use self::{
    classify::{Phase, classify},
    connections::{Connections, Lease},
    exchange::Reply,
    message::Mail,
    settings::Settings,
};
use crate::{Account, Vendor, account::Call, mail};

/// The vendor's name, for `overrides`.
const NAME: &str = "smtp";

/// What `overrides` may set.
static OVERRIDES: Overridable = Overridable {
    // What mail services read as commands: other recipients, schedules, the way past their suppressions.
    never: &[
        "headers.X-Chasqui-*",
        "headers.X-SMTPAPI",
        "headers.X-Mailgun-*",
        "headers.X-MSYS-*",
        "headers.X-MC-*",
        "headers.X-SES-*",
        "headers.X-PM-*",
    ],
    senders: &["reply_to"],
    links: &[],
    harmless: &["headers.X-*"],
};

/// The vendor.
pub(crate) static VENDOR: Vendor = Vendor {
    name: NAME,
    serves: &[(Channel::Email, None)],
    overrides: &OVERRIDES,
    manual: include_str!("smtp.toml"),
    sender: |account, ports| {
        let call = Smtp::new(account, account.settings()?, ports.clock.clone())?;
        Ok(account.provider(call))
    },
    callbacks: None,
};

/// Sends mails.
pub(crate) struct Smtp {
    connections: Connections,
    from: Mailbox,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl Smtp {
    pub(crate) fn new(account: &Account<'_>, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        if settings.timeout_ms == 0 || settings.pool_size == 0 || settings.pool_size > 1_000 {
            let problem = "`timeout_ms` must be more than 0, and `pool_size` 1 to 1,000";
            return Err(account.contradiction(problem));
        }
        Ok(Smtp {
            connections: Connections::new(account, &settings)?,
            from: mail::sender(&account.key("from"), &settings.from)?,
            timeout: Duration::from_millis(settings.timeout_ms),
            clock,
        })
    }

    /// Everything before the message: an error here means that it was not sent.
    async fn prepare(&self, mail: &Mail) -> Result<Lease<'_>, Box<Answer>> {
        let exchange = async {
            let mut lease = self.connections.lease().await.map_err(|failure| classify(Phase::Connect, &failure))?;
            if !lease.exchange.supports(mail) {
                lease.give_back(None);
                return Err(Answer::new(Outcome::Refused, "smtputf8", "the relay takes ASCII addresses only").into());
            }
            match lease.exchange.begin(mail).await {
                Ok(()) => Ok(lease),
                Err((phase, failure)) => {
                    lease.give_back(Some(&failure));
                    Err(classify(phase, &failure).into())
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
        match timeout(self.timeout, lease.exchange.message(&mail.bytes)).await {
            Ok(Ok(Reply { code, text })) => {
                lease.give_back(None);
                Answer { message_id: mail.message_id.clone(), ..Answer::new(Outcome::Accepted, code.to_string(), text) }
            }
            Ok(Err((phase, failure))) => {
                lease.give_back(Some(&failure));
                classify(phase, &failure)
            }
            Err(_elapsed) => {
                let words = format!("no answer to the message within {} ms", self.timeout.as_millis());
                Answer::new(Outcome::NoAnswer, "timeout", words)
            }
        }
    }
}

impl Call for Smtp {
    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let mail = message::build(delivery, &self.from, self.clock.now())?;
        let lease = self.prepare(&mail).await?;
        Ok(self.transmit(lease, &mail).await)
    }
}
