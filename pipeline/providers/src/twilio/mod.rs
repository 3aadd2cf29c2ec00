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
//! | 21614, 30005, 30006 | dead endpoint: no such number, or none that takes messages |
//! | 20429, 14107, 21611, 30001, 30022 | throttled |
//! | 20500, 20503, 30003, 30008, 30017, 30020, 30021, 30410 | try later; 30003 is the recipient's own trouble |
//! | 30023, 30027, 63038 | another provider: the day's share is used up |
//! | 20003, 21408, 21606, 21608, 30002, 30032 to 30035, … | misconfigured: account, permission or sender |
//! | 21211, 21217, 21612, 21617, 30004, 30007, … | refused: the number's form, the message, a filter |
//! | any other, a success that names no message among them | as [its status](crate::http::Reply::by_status) |
//!
//! `classify` has every code. Source: Twilio's [error dictionary](https://www.twilio.com/docs/api/errors).
//!
//! # What Twilio is told
//! `ValidityPeriod` is what is left until `expires_at`, 1 s to 10 h. Twilio knows no priority and no collapse key. Where
//! Twilio is to report, `notification_id` and `delivery_id` travel in the query of `StatusCallback`.
//! `overrides.twilio` is laid over the parameters, by their names (`MediaUrl`, `ContentSid`, `From`, …); `To` and
//! `StatusCallback` stay.

mod callback;
mod classify;
mod codes;
mod request;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use chasqui_contract::{Answer, Clock};
use chasqui_rules::Overridable;
use chasqui_schemas::{Channel, Delivery};
use chasqui_settings::{Secret, SettingsError};
use reqwest::Url;

use self::settings::Settings;
use crate::{
    Account, Vendor,
    account::Call,
    http::{self, Http, Version},
};

/// The vendor's name, for `overrides`.
const NAME: &str = "twilio";

/// What `overrides` may set.
static OVERRIDES: Overridable = Overridable {
    // A schedule of Twilio's own would pass by opt-outs and cancellations; an application names a callback of its own.
    never: &["To", "StatusCallback", "ApplicationSid", "SendAt", "ScheduleType"],
    senders: &["From", "FallbackFrom", "MessagingServiceSid"],
    links: &[],
    harmless: &[],
};

/// The vendor.
pub(crate) static VENDOR: Vendor = Vendor {
    name: NAME,
    serves: &[(Channel::Sms, None)],
    overrides: &OVERRIDES,
    manual: include_str!("twilio.toml"),
    sender: |account, ports| {
        let settings = account.settings::<Settings>()?.reporting_to(account, &ports.public_url);
        let call = Twilio::new(account, settings, ports.clock.clone())?;
        Ok(account.provider(call))
    },
    callbacks: Some(callback::open),
};

/// An account at Twilio.
pub(crate) struct Twilio {
    http: Http,
    url: Url,
    secret: Secret,
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl Twilio {
    pub(crate) fn new(account: &Account<'_>, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        settings.check(account)?;
        Ok(Twilio {
            http: Http::open(account, &settings.http, Version::Any)?,
            url: request::url(account, &settings)?,
            secret: match settings.api_key_sid {
                Some(_) => account.secret("api_key_secret", &settings.api_key_secret)?,
                None => account.secret("auth_token", &settings.auth_token)?,
            },
            settings,
            clock,
        })
    }
}

impl Call for Twilio {
    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let form = request::form(delivery, &self.settings, self.clock.now())?;
        let user = self.settings.api_key_sid.as_ref().unwrap_or(&self.settings.account_sid);
        let request = self.http.client().post(self.url.clone()).basic_auth(user, Some(self.secret.expose()));
        let request = http::built(request.form(&form))?;
        let reply = self.http.exchange(request).await?;
        Ok(classify::classify(&reply, self.clock.now()))
    }
}
