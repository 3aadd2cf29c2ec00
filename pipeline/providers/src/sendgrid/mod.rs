//! Mail, through SendGrid's [Mail Send API](https://www.twilio.com/docs/sendgrid/api-reference/mail-send).
//!
//! Guarantee: one request per call at most. SendGrid does not recognise a repeat, so the answer says `NoAnswer` whenever
//! the request went out and nobody can tell whether the mail was taken. Every attempt carries the same Message-ID.
//!
//! # What an answer means
//! SendGrid has no codes but the status; what went wrong is `errors[].field` and `errors[].message`, for people.
//!
//! | status | means |
//! |---|---|
//! | 202; 200 in sandbox mode | accepted; `X-Message-Id` names the mail |
//! | 429 | throttled until `X-RateLimit-Reset` (Unix seconds), else for `Retry-After` |
//! | 400 whose `field` is the recipient's address | dead endpoint: no such address can be |
//! | 400 whose `field` is the sender's address | misconfigured |
//! | 400 otherwise, 413 | refused |
//! | 401, 403, 404, 405, 406, 451 | misconfigured: the key, its permissions, the sender's identity, the credit, the region |
//! | 500, 503 | try later |
//! | any other, another 2xx among them | as [its status](crate::http::Reply::by_status) |
//!
//! Sources: [errors](https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/errors),
//! [responses](https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/responses),
//! [rate limits](https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits),
//! [sandbox mode](https://www.twilio.com/docs/sendgrid/for-developers/sending-email/sandbox-mode).
//!
//! # What SendGrid is told
//! The personalization's `custom_args` are `notification_id`, `delivery_id` and `app`: its events carry them. The only
//! category is ours. SendGrid knows no priority, no expiry and no collapse key. `overrides.sendgrid` is merged into the
//! request (`template_id`, `asm`, `reply_to`, `tracking_settings`, …); `personalizations` and our headers stay ours.

mod classify;
mod config;
mod request;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use chasqui_contract::{Answer, Clock, Provider};
use chasqui_schemas::{Channel, Delivery, record::Platform};
use chasqui_settings::{Secret, SettingsError};
use lettre::message::Mailbox;
use reqwest::{Url, header::CONTENT_TYPE};

pub use self::config::Config;
use super::mail;
use crate::http::{self, Http};

/// The provider's name.
pub const NAME: &str = "sendgrid";

/// An account at SendGrid.
pub(crate) struct Sendgrid {
    http: Http,
    url: Url,
    key: Secret,
    from: Mailbox,
    sandbox_mode: bool,
    clock: Arc<dyn Clock>,
}

impl Sendgrid {
    pub(crate) fn new(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        let base = http::address("send.sendgrid.base_url", &config.base_url)?;
        Ok(Sendgrid {
            http: Http::new("send.sendgrid", &config.reach())?,
            url: http::below(base, &["v3", "mail", "send"]),
            key: config.api_key.require("send.sendgrid.api_key")?,
            from: mail::sender("send.sendgrid.from", &config.from)?,
            sandbox_mode: config.sandbox_mode,
            clock,
        })
    }

    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let body = request::body(delivery, &self.from, self.sandbox_mode)?;
        let request = self.http.client().post(self.url.clone()).bearer_auth(self.key.expose());
        let request = http::built(request.header(CONTENT_TYPE, "application/json").body(body))?;
        let reply = self.http.exchange(request).await?;
        Ok(classify::classify(&reply, self.clock.now()))
    }
}

#[async_trait]
impl Provider for Sendgrid {
    fn name(&self) -> &str {
        NAME
    }

    fn serves(&self, channel: Channel, _: Option<Platform>) -> bool {
        channel == Channel::Email
    }

    async fn send(&self, delivery: &Delivery) -> Answer {
        self.call(delivery).await.unwrap_or_else(|answer| answer)
    }
}
