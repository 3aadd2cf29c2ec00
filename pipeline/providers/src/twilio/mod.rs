//! SMS, through Twilio's [Messages resource](https://www.twilio.com/docs/messaging/api/message-resource).
//!
//! Guarantee: one request per call at most. Twilio does not recognise a repeat, so the answer says `NoAnswer` whenever
//! the request went out and nobody can tell whether a message was made. The id of the message (`SM…`) is kept, because
//! no callback tells its first status.
//!
//! # What an answer means
//! | answer | means |
//! |---|---|
//! | 201 with a message; with it, warnings 30018, 30025, 30026 | accepted |
//! | 21610 | opted out: the recipient answered STOP |
//! | 21211, 21217, 21614, 30005, 30006 | dead endpoint: no such number, or none that takes messages |
//! | 20429, 14107, 21611, 30001, 30022 | throttled |
//! | 20500, 20503, 30003, 30008, 30017, 30020, 30021, 30410 | try later; 30003 is the recipient's own trouble |
//! | 30023, 30027, 63038 | another provider: the day's share is used up |
//! | 20003, 21408, 21606, 21608, 30002, 30032 to 30035, … | misconfigured: account, permission or sender |
//! | 21612, 21617, 30004, 30007, … | refused |
//! | any other, a success that names no message among them | as [its status](crate::http::Reply::by_status) |
//!
//! `classify` has every code. Source: Twilio's [error dictionary](https://www.twilio.com/docs/api/errors).
//!
//! # What Twilio is told
//! `ValidityPeriod` is what is left until `expires_at`, 1 s to 10 h. Twilio knows no priority and no collapse key. With
//! `callback_url` set, `notification_id` and `delivery_id` travel in the query of `StatusCallback`.
//! `overrides.twilio` is laid over the parameters, by their names (`MediaUrl`, `ContentSid`, `From`, …); `To` and
//! `StatusCallback` stay.

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
use reqwest::Url;

pub use self::config::Config;
use crate::http::{self, Http};

/// The provider's name.
pub const NAME: &str = "twilio";

/// An account at Twilio.
pub(crate) struct Twilio {
    http: Http,
    url: Url,
    secret: Secret,
    config: Config,
    clock: Arc<dyn Clock>,
}

impl Twilio {
    pub(crate) fn new(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        config.check()?;
        Ok(Twilio {
            http: Http::new("send.twilio", &config.reach())?,
            url: request::url(config)?,
            secret: config.auth_token.require("send.twilio.auth_token")?,
            config: config.clone(),
            clock,
        })
    }

    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let form = request::form(delivery, &self.config, self.clock.now())?;
        let user = self.config.api_key_sid.as_ref().unwrap_or(&self.config.account_sid);
        let request = self.http.client().post(self.url.clone()).basic_auth(user, Some(self.secret.expose()));
        let request = http::built(request.form(&form))?;
        let reply = self.http.exchange(request).await?;
        Ok(classify::classify(&reply, self.clock.now()))
    }
}

#[async_trait]
impl Provider for Twilio {
    fn name(&self) -> &str {
        NAME
    }

    fn serves(&self, channel: Channel, _: Option<Platform>) -> bool {
        channel == Channel::Sms
    }

    async fn send(&self, delivery: &Delivery) -> Answer {
        self.call(delivery).await.unwrap_or_else(|answer| answer)
    }
}
