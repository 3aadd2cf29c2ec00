//! The providers: one folder each, and one line in [`build`].
//!
//! | channel | providers |
//! |---|---|
//! | push | [`apns`] (iOS), [`fcm`] (Android), [`webpush`] (browsers) |
//! | SMS | [`twilio`], [`vonage`] |
//! | mail | [`smtp`], [`sendgrid`], [`mailgun`] |
//! | in-app | [`inbox`] |
//! | any | [`sandbox`], which delivers nowhere |
//!
//! A provider makes one attempt and classifies what comes back; it never retries, and knows nothing of ledgers,
//! schedules or queues. Its future may be dropped at any moment, when its time is up.

pub mod apns;
pub mod fcm;
pub mod http;
pub mod inbox;
mod jwt;
#[cfg(test)]
mod loopback;
mod mail;
pub mod mailgun;
mod payload;
mod phone;
mod push;
mod rate;
pub mod sandbox;
pub mod sendgrid;
pub mod slack;
pub mod smtp;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod twilio;
#[cfg(test)]
mod vendor_spec;
pub mod vonage;
pub mod webpush;

use std::sync::Arc;

use chasqui_contract::{Clock, Inbox, Provider};
use chasqui_schemas::{Delivery, Receipt, receipt::Actor};
use chasqui_settings::SettingsError;

use self::{
    apns::Apns, fcm::Fcm, inbox::InboxProvider, mailgun::Mailgun, sandbox::Sandbox, sendgrid::Sendgrid, smtp::Smtp,
    twilio::Twilio, vonage::Vonage, webpush::WebPush,
};
/// The settings of every provider.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "one for each provider")]
pub struct Configs<'a> {
    pub apns: &'a apns::Config,
    pub fcm: &'a fcm::Config,
    pub webpush: &'a webpush::Config,
    pub twilio: &'a twilio::Config,
    pub vonage: &'a vonage::Config,
    pub smtp: &'a smtp::Config,
    pub sendgrid: &'a sendgrid::Config,
    pub mailgun: &'a mailgun::Config,
    pub sandbox: &'a sandbox::Config,
}

/// Every provider that is set up.
///
/// # Errors
/// Where a setting cannot be used.
pub fn build(
    config: Configs<'_>,
    inbox: Arc<dyn Inbox>,
    clock: Arc<dyn Clock>,
) -> Result<Vec<Arc<dyn Provider>>, SettingsError> {
    fn made<P: Provider + 'static>(provider: P) -> Arc<dyn Provider> {
        Arc::new(provider)
    }
    let clock = || clock.clone();
    let providers = [
        Some(Ok(made(InboxProvider::new(inbox)))),
        Some(Sandbox::new(config.sandbox, clock()).map(made)),
        config.apns.is_set_up().then(|| Apns::new(config.apns, clock()).map(made)),
        config.fcm.is_set_up().then(|| Fcm::new(config.fcm, clock()).map(made)),
        config.webpush.is_set_up().then(|| WebPush::new(config.webpush, clock()).map(made)),
        config.twilio.is_set_up().then(|| Twilio::new(config.twilio, clock()).map(made)),
        config.vonage.is_set_up().then(|| Vonage::new(config.vonage, clock()).map(made)),
        config.smtp.is_set_up().then(|| Smtp::new(config.smtp, clock()).map(made)),
        config.sendgrid.is_set_up().then(|| Sendgrid::new(config.sendgrid, clock()).map(made)),
        config.mailgun.is_set_up().then(|| Mailgun::new(config.mailgun, clock()).map(made)),
    ];
    providers.into_iter().flatten().collect()
}

/// A receipt that a provider knows with its answer. Its time is when it is stored.
fn receipt(provider: &str, delivery: &Delivery, by: Actor) -> Receipt {
    Receipt {
        delivery_id: delivery.id,
        notification_id: delivery.notification_id,
        at: None,
        provider: Some(provider.to_owned()),
        detail: None,
        by,
    }
}
