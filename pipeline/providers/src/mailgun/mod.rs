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
use uuid::Uuid;

use self::settings::Settings;
use super::mail;
use crate::{
    Account, Vendor,
    account::Call,
    http::{self, Http, Version},
};

/// The vendor's name, for `overrides`.
const NAME: &str = "mailgun";

/// What `overrides` may set.
static OVERRIDES: Overridable = Overridable {
    // `o:archive-to` sends copies elsewhere; a schedule of Mailgun's own would pass by opt-outs and cancellations.
    never: &[
        "to",
        "cc",
        "bcc",
        "recipient-variables",
        "o:archive-to",
        "o:deliverytime*",
        "o:time-zone-localize",
        "v:notification_id",
        "v:delivery_id",
        "h:To",
        "h:Cc",
        "h:Bcc",
        "h:Resent-*",
        "h:Message-ID",
        "h:List-Unsubscribe*",
        "h:X-Chasqui-*",
        "h:X-Mailgun-*",
    ],
    senders: &["from", "h:From", "h:Sender", "h:Reply-To", "h:Return-Path", "h:Errors-To"],
    links: &[],
    harmless: &["h:X-*", "v:*"],
};

/// The vendor.
pub(crate) static VENDOR: Vendor = Vendor {
    name: NAME,
    serves: &[(Channel::Email, None)],
    overrides: &OVERRIDES,
    manual: include_str!("mailgun.toml"),
    sender: |account, ports| {
        let call = Mailgun::new(account, account.settings()?, ports.clock.clone())?;
        Ok(account.provider(call))
    },
    callbacks: Some(callback::open),
};

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
    pub(crate) fn new(account: &Account<'_>, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, SettingsError> {
        let base = http::address(&account.key("base_url"), &settings.base_url)?;
        Ok(Mailgun {
            http: Http::open(account, &settings.http, Version::Any)?,
            url: http::below(base, &["v3", &settings.domain, "messages"]),
            key: account.secret("api_key", &settings.api_key)?,
            from: mail::sender(&account.key("from"), &settings.from)?,
            test_mode: settings.test_mode,
            clock,
        })
    }
}

impl Call for Mailgun {
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
