//! `POST /v1/callbacks/{provider}`: what providers tell hours after they took a message.
//!
//! Guarantee: only what the provider has signed is believed, and the signature is checked on the bytes as they came,
//! before anything is read. What is believed is answered 2xx when it is stored. Repeats and another order are harmless:
//! they are receipts like any other, and states only move forward.
//!
//! | what comes | answer | why |
//! |---|---|---|
//! | a provider that is not configured | 404 | as any path that never was |
//! | no or a wrong signature | 401 | a key may be being changed: a provider that tries again loses nothing |
//! | signed, and of a delivery of ours | 200 when stored, else 503 | |
//! | signed, and of a delivery that is not ours, or not of interest | 200 | the account may have other uses; counted |
//! | signed, and not readable | 200; Mailgun 406 | it would be no better the next time; counted and logged |
//!
//! `notification_id` and `delivery_id` travel with the message and come back with the callback, so that nothing has to
//! be looked up. A callback may also switch an address off ([`OptOut::Address`]): a complaint, an unsubscription at the
//! provider, an address that it says is dead.
//!
//! One module per provider: `verify` and `parse`, both pure.

pub mod mailgun;
pub mod sendgrid;
pub mod twilio;
pub mod vonage;

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chasqui_http::request::{self, come_again};
use chasqui_schemas::{Channel, OptOut, Receipt, ReceiptKind, bucket::address_key, measure, receipt::Actor};
use chasqui_settings::SettingsError;
use jiff::Timestamp;
use uuid::Uuid;

use crate::{Settings, hit::Hit, pages, routes::App};

/// Longest `detail`, in characters.
const MAX_DETAIL: usize = 500;
/// Largest body, in bytes: SendGrid gathers many events, the others send one.
const MAX_BODY: usize = 1 << 20;

/// What proves that a provider is the provider; `None` for those that are not configured.
#[derive(Debug)]
pub(crate) struct Verifiers {
    twilio: Option<twilio::Verifier>,
    vonage: Option<vonage::Verifier>,
    sendgrid: Option<sendgrid::Verifier>,
    mailgun: Option<mailgun::Verifier>,
}

impl Verifiers {
    pub(crate) fn new(config: &Settings, public_url: &str) -> Result<Self, SettingsError> {
        let twilio = config.twilio.verifier()?;
        if twilio.is_some() && public_url.is_empty() {
            let problem = "Twilio signs the address it calls: it must be known";
            return Err(SettingsError::invalid("gateway.public_url", problem));
        }
        Ok(Verifiers {
            twilio,
            vonage: config.vonage.verifier()?,
            sendgrid: config.sendgrid.verifier()?,
            mailgun: config.mailgun.verifier()?,
        })
    }
}

/// A callback as it came.
#[derive(Debug)]
pub(crate) struct Callback<'a> {
    /// The address that was called, as the provider knows it.
    pub(crate) url: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
    pub(crate) now: Timestamp,
}

impl Callback<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn query(&self) -> &str {
        self.url.split_once('?').map_or("", |(_, query)| query)
    }
}

/// Why a callback has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No signature, or not the provider's.
    Forged,
    /// The provider's, and nothing that can be read.
    Unreadable,
    /// The provider's, and told long ago.
    Stale,
}

/// What a provider says happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) kind: ReceiptKind,
    /// Notification and delivery; `None` where it is none of ours.
    pub(crate) ids: Option<(Uuid, Uuid)>,
    pub(crate) at: Option<Timestamp>,
    pub(crate) detail: Option<String>,
    pub(crate) by: Actor,
    pub(crate) opt_out: Option<OptOut>,
}

impl Event {
    fn new(kind: ReceiptKind, ids: Option<(Uuid, Uuid)>, at: Option<Timestamp>) -> Self {
        Event { kind, ids, at, detail: None, by: Actor::Unknown, opt_out: None }
    }
}

/// The ids of one of our messages, from what came back with it.
fn ids(notification: Option<&str>, delivery: Option<&str>) -> Option<(Uuid, Uuid)> {
    let notification: Uuid = notification?.parse().ok()?;
    let delivery: Uuid = delivery?.parse().ok()?;
    (notification.get_version_num() == 7 && !delivery.is_nil()).then_some((notification, delivery))
}

/// Nothing more to this address.
fn switch_off(address: &str, reason: &str) -> Option<OptOut> {
    let is_address = !address.trim().is_empty();
    is_address.then(|| OptOut::Address { key: address_key(address), reason: reason.to_owned() })
}

/// Whether an enhanced status code (RFC 3463) says that there is no such mailbox. `5.2.2` (full) and `5.7.x` (policy)
/// are not about the address.
fn is_dead_mailbox(status: &str) -> bool {
    ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.2.1"].contains(&status.trim())
}

pub(crate) async fn receive(State(app): State<Arc<App>>, Path(provider): Path<String>, request: Request) -> Response {
    let verifiers = &app.verifiers;
    let known = match provider.as_str() {
        twilio::NAME => verifiers.twilio.is_some(),
        vonage::NAME => verifiers.vonage.is_some(),
        sendgrid::NAME => verifiers.sendgrid.is_some(),
        mailgun::NAME => verifiers.mailgun.is_some(),
        _ => false,
    };
    if !known {
        return pages::missing();
    }
    let _turn = app.turn().await;
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    let url = format!("{}{path}", app.public_url);
    let headers = request.headers().clone();
    let body: Bytes = match request::body(request, MAX_BODY).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let callback = Callback { url: &url, headers: &headers, body: &body, now: app.now() };
    let (name, channel, read) = match (provider.as_str(), verifiers) {
        (twilio::NAME, Verifiers { twilio: Some(verifier), .. }) => {
            (twilio::NAME, Channel::Sms, verifier.verify(&callback).and_then(|()| twilio::parse(&callback)))
        }
        (vonage::NAME, Verifiers { vonage: Some(verifier), .. }) => {
            (vonage::NAME, Channel::Sms, verifier.verify(&callback).and_then(|()| vonage::parse(&callback)))
        }
        (sendgrid::NAME, Verifiers { sendgrid: Some(verifier), .. }) => {
            (sendgrid::NAME, Channel::Email, verifier.verify(&callback).and_then(|()| sendgrid::parse(&body)))
        }
        (mailgun::NAME, Verifiers { mailgun: Some(verifier), .. }) => {
            (mailgun::NAME, Channel::Email, verifier.verify(&callback).and_then(|()| mailgun::parse(&body)))
        }
        _ => return pages::missing(),
    };
    let events = match read {
        Ok(events) => events,
        Err(refusal) => return refuse(name, refusal),
    };
    let hits = hits(name, channel, events, callback.now);
    if app.hits.store(&hits).await.is_err() {
        return come_again();
    }
    if let (mailgun::NAME, Some(verifier)) = (name, &verifiers.mailgun) {
        // Not before: what was refused with 503 comes again with the same token.
        verifier.remember(&body);
    }
    StatusCode::OK.into_response()
}

fn hits(provider: &'static str, channel: Channel, events: Vec<Event>, now: Timestamp) -> Vec<Hit> {
    let told = events.len();
    let hits: Vec<Hit> = events
        .into_iter()
        .filter_map(|Event { kind, ids, at, detail, by, opt_out }| {
            let (notification_id, delivery_id) = ids?;
            let receipt = Receipt {
                delivery_id,
                notification_id,
                at: Some(at.unwrap_or(now)),
                provider: Some(provider.to_owned()),
                detail: detail.map(|detail| detail.chars().take(MAX_DETAIL).collect()),
                by,
            };
            Some(Hit { kind, channel, receipt, opt_out })
        })
        .collect();
    if told > hits.len() {
        count(provider, "unknown", told - hits.len());
    }
    hits
}

fn refuse(provider: &'static str, refusal: Refusal) -> Response {
    let (what, status) = match (refusal, provider) {
        (Refusal::Forged, _) => ("forged", StatusCode::UNAUTHORIZED),
        // Mailgun's word for "do not try again".
        (Refusal::Unreadable, mailgun::NAME) => ("unreadable", StatusCode::NOT_ACCEPTABLE),
        (Refusal::Stale, mailgun::NAME) => ("stale", StatusCode::NOT_ACCEPTABLE),
        (Refusal::Unreadable, _) => ("unreadable", StatusCode::OK),
        (Refusal::Stale, _) => ("stale", StatusCode::OK),
    };
    count(provider, what, 1);
    tracing::warn!(provider, what, "a callback has no effect");
    status.into_response()
}

fn count(provider: &'static str, what: &'static str, count: usize) {
    let count = count as u64;
    measure!(GatewayCallbacksIgnored, count, provider, what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_like_ours_are_ours() {
        let (notification, delivery) = (Uuid::now_v7().to_string(), Uuid::from_u128(9).simple().to_string());
        assert!(ids(Some(&notification), Some(&delivery)).is_some());
        assert_eq!(ids(Some(&delivery), Some(&delivery)), None);
        assert_eq!(ids(Some(&notification), Some("")), None);
        assert_eq!(ids(Some(&notification), Some(&Uuid::nil().to_string())), None);
        assert_eq!(ids(None, Some(&delivery)), None);
    }

    #[test]
    fn an_event_of_a_stranger_becomes_no_hit() {
        let ours = Some((Uuid::now_v7(), Uuid::from_u128(9)));
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let events = vec![
            Event::new(ReceiptKind::Delivered, None, None),
            Event { detail: Some("é".repeat(600)), ..Event::new(ReceiptKind::Failed, ours, None) },
        ];
        let hits = hits(twilio::NAME, Channel::Sms, events, now);
        assert_eq!(hits.len(), 1);
        assert_eq!(hits[0].receipt.at, Some(now));
        assert_eq!(hits[0].receipt.provider.as_deref(), Some("twilio"));
        assert_eq!(hits[0].receipt.detail.as_ref().unwrap().chars().count(), MAX_DETAIL);
    }
}
