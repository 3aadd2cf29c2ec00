//! Mail, through Mailgun's
//! [Messages API](https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages).
//!
//! Guarantee: one request per call at most. Mailgun does not recognise a repeat, so the answer says `NoAnswer` whenever
//! the request went out and nobody can tell whether the mail was taken. Every attempt carries the same Message-ID.
//!
//! # What an answer means
//! Mailgun has no codes but the status; what went wrong is `message`, for people.
//!
//! | status | means |
//! |---|---|
//! | 200 with an `id` | accepted |
//! | 429 | throttled, for `Retry-After`, else for the seconds that the message names |
//! | 400, 413 | refused |
//! | 401, 402, 403, 404 | misconfigured: the key, the bill, permissions, the domain |
//! | 500, 503 | try later |
//! | any other, a success that names no mail among them | as [its status](crate::http::Reply::by_status) |
//!
//! Source: [responses](https://documentation.mailgun.com/docs/mailgun/quickstart-guide/responses).
//!
//! # What Mailgun is told
//! The variables `notification_id`, `delivery_id` and `app`: its events carry them. The only tag is our category.
//! `o:deliver-within` is what is left until `expires_at`, where that is a day or less; Mailgun takes no less than five
//! minutes. It knows no priority and no collapse key. `overrides.mailgun` is laid over the parameters, by their names
//! (`o:tracking`, `template`, `t:variables`, …); the recipient, our variables and our headers stay ours.

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
use uuid::Uuid;

pub use self::config::Config;
use super::mail;
use crate::http::{self, Http};

/// The provider's name.
pub const NAME: &str = "mailgun";

/// A domain at Mailgun.
pub(crate) struct Mailgun {
    http: Http,
    url: Url,
    key: Secret,
    from: Mailbox,
    test_mode: bool,
    clock: Arc<dyn Clock>,
}

impl Mailgun {
    pub(crate) fn new(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        let base = http::address("send.mailgun.base_url", &config.base_url)?;
        Ok(Mailgun {
            http: Http::new("send.mailgun", &config.reach())?,
            url: http::below(base, &["v3", &config.domain, "messages"]),
            key: config.api_key.require("send.mailgun.api_key")?,
            from: mail::sender("send.mailgun.from", &config.from)?,
            test_mode: config.test_mode,
            clock,
        })
    }

    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let parameters = request::parameters(delivery, &self.from, self.test_mode, self.clock.now())?;
        let boundary = Uuid::new_v4().simple().to_string();
        let request = self.http.client().post(self.url.clone()).basic_auth("api", Some(self.key.expose()));
        let request = request.header(CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"));
        let request = http::built(request.body(request::multipart(&parameters, &boundary)))?;
        let reply = self.http.exchange(request).await?;
        Ok(classify::classify(&reply, self.clock.now()))
    }
}

#[async_trait]
impl Provider for Mailgun {
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
