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
//! | 400 whose `field` is the sender's address | misconfigured |
//! | 400 otherwise, 413 | refused; a recipient's address that is no valid one too: that a mailbox is gone, an event says |
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

mod callback;
mod classify;
mod request;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use chasqui_contract::{Answer, Clock};
use chasqui_rules::Overridable;
use chasqui_schemas::{Channel, Delivery};
use chasqui_settings::{Secret, SettingsError};
use lettre::message::Mailbox;
use reqwest::{Url, header::CONTENT_TYPE};

use self::settings::Settings;
use super::mail;
use crate::{
    Account, Vendor,
    account::Call,
    http::{self, Http, Version},
};

/// The vendor's name, for `overrides`.
const NAME: &str = "sendgrid";

/// What `overrides` may set.
static OVERRIDES: Overridable = Overridable {
    // `bcc` and `spam_check` send copies elsewhere; a schedule of SendGrid's own would pass by opt-outs and cancellations.
    never: &[
        "personalizations",
        "mail_settings.bypass_*",
        "mail_settings.bcc",
        "mail_settings.spam_check",
        "send_at",
        "batch_id",
        "headers.To",
        "headers.Cc",
        "headers.Bcc",
        "headers.Resent-*",
        "headers.Message-ID",
        "headers.List-Unsubscribe*",
        "headers.X-Chasqui-*",
        "headers.X-SMTPAPI",
    ],
    senders: &[
        "from",
        "reply_to",
        "reply_to_list",
        "headers.From",
        "headers.Sender",
        "headers.Reply-To",
        "headers.Return-Path",
        "headers.Errors-To",
    ],
    links: &[],
    harmless: &["headers.X-*"],
};

/// The vendor.
pub(crate) static VENDOR: Vendor = Vendor {
    name: NAME,
    serves: &[(Channel::Email, None)],
    overrides: &OVERRIDES,
    manual: include_str!("sendgrid.toml"),
    sender: |account, ports| {
        let call = Sendgrid::new(account, account.settings()?, ports.clock.clone())?;
        Ok(account.provider(call))
    },
    callbacks: Some(callback::open),
};

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
    pub(crate) fn new(account: &Account<'_>, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        let base = http::address(&account.key("base_url"), &settings.base_url)?;
        Ok(Sendgrid {
            http: Http::open(account, &settings.http, Version::Any)?,
            url: http::below(base, &["v3", "mail", "send"]),
            key: account.secret("api_key", &settings.api_key)?,
            from: mail::sender(&account.key("from"), &settings.from)?,
            sandbox_mode: settings.sandbox_mode,
            clock,
        })
    }
}

impl Call for Sendgrid {
    async fn call(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let body = request::body(delivery, &self.from, self.sandbox_mode)?;
        let request = self.http.client().post(self.url.clone()).bearer_auth(self.key.expose());
        let request = http::built(request.header(CONTENT_TYPE, "application/json").body(body))?;
        let reply = self.http.exchange(request).await?;
        Ok(classify::classify(&reply, self.clock.now()))
    }
}
