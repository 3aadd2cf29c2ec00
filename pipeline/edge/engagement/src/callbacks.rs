//! `POST /v1/callbacks/{account}`, or `GET` where the vendor is set to it: what vendors report hours after they took a message.
//!
//! Guarantee: only what the vendor has signed is believed ([`AccountCallbacks`]). What is believed is answered 200 when it is
//! stored. Repeats and another order are harmless: they are receipts like any other, and states only move forward.
//!
//! | what comes | answer | why |
//! |---|---|---|
//! | an account that has no callbacks | 404 | as any path that never was |
//! | a compressed body | 415 | read as it is, it would be lost |
//! | no or a wrong signature | 401 | a key may be being changed: a vendor that tries again loses nothing |
//! | not readable | 400 | it stands in the vendor's list of failures; counted and logged |
//! | signed, and of a delivery of ours | 200 when stored, else 503 | |
//! | signed, and of a delivery that is not ours, or not of interest | 200 | the account may have other uses; counted |
//! | signed, some of its events not readable | 200 | the others count; counted and logged |
//! | signed, and too old, or the signature was used before | 406 | it would be no better the next time; counted and logged |
//!
//! `notification_id` and `delivery_id` travel with the message and come back with the callback, so that nothing has to
//! be looked up; they prove themselves ([`IdCheck`]).
//!
//! # What a callback says of an address
//! A complaint, an unsubscription at the vendor, an address that it says is dead: such a fact is about the address, whoever
//! wrote to it. Where the signature covers the event, the fact counts without ids of ours too ([`OptOut::Address`]).
//!
//! # Signatures that do not cover the event
//! Mailgun's covers a time and a token. Whoever has seen one may put any event under it. So of such a callback
//! - the token counts once, in all processes and through restarts: it is claimed in the ledger before anything else, with a
//!   hash of the body as its value, so that only the same body may come again (after a 503, say);
//! - an event counts only if its ids prove that the delivery is ours; and what it says of an address only if that is the
//!   address that the delivery went to, which the id proves as well.
//!
//! Nothing is lost by that for good: Mailgun has a suppression list of its own, and what it refuses because of it is
//! reported as a failure of that delivery. Without the ledger and the secret, which are the broker's, such a callback is
//! answered 503; it comes again for hours.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use chasqui_contract::{AccountCallbacks, AddressFact, Book, Callback, Claim, Refusal, Reported, SignedRequest};
use chasqui_http::request::{self, come_again};
use chasqui_schemas::{OptOut, Receipt, bucket::address_key, id, measure, receipt::IdCheck};
use tokio::time::timeout;

use crate::{Known, hit::Hit, pages, routes::App};

/// Maximum characters of `detail`: a vendor's words explain, they are no document.
const MAX_DETAIL: usize = 500;
/// Maximum bytes of a body: some vendors gather many events in one request.
pub(crate) const MAX_BODY: usize = 1 << 20;
/// Maximum wait for the ledger, with which the request still fits into its own time.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) async fn receive(
    State(app): State<Arc<App>>,
    Path(account): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(callbacks) = app.callbacks.iter().find(|each| each.account == account) else {
        return pages::missing();
    };
    if request::is_encoded(&headers) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    let url = format!("{}{path}", app.public_url);
    let headers = texts(&headers);
    let request = SignedRequest { url: &url, headers: &headers, body: &body, now: app.now() };
    let Callback { events, unreadable, once } = match callbacks.reader.read(&request) {
        Ok(callback) => callback,
        Err(refusal) => return refuse(callbacks, refusal),
    };
    if unreadable > 0 {
        count(&account, Refusal::Unreadable.as_str(), unreadable);
        tracing::warn!(provider = account, unreadable, "events of a callback cannot be read; the others count");
    }
    if let Some(token) = &once {
        let Some(known) = app.known.get() else { return come_again() };
        match claim(known, token, &body).await {
            Ok(true) => {}
            Ok(false) => return refuse(callbacks, Refusal::Stale),
            Err(()) => return come_again(),
        }
    }
    let hits = hits(callbacks, events, once.is_some(), &app.check(request.now));
    if app.hits.store(&hits).await.is_err() {
        return come_again();
    }
    StatusCode::OK.into_response()
}

fn refuse(callbacks: &AccountCallbacks, refusal: Refusal) -> Response {
    count(&callbacks.account, refusal.as_str(), 1);
    tracing::warn!(provider = callbacks.account, what = refusal.as_str(), "a callback has no effect");
    StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::OK).into_response()
}

/// Whether this body is the first under its token, or the first one again.
async fn claim(known: &Known, token: &str, body: &[u8]) -> Result<bool, ()> {
    // Whichever account it comes to: two of them may have one key.
    let id = id::claim(&["callback", token]);
    let value = Bytes::from(id::claim(&[&String::from_utf8_lossy(body)]));
    // A claim that is stored after all, when nobody waits for it any more, is this body's when it comes again.
    match timeout(CLAIM_TIMEOUT, known.ledger.claim(Book::Dedupe, &id, value.clone())).await {
        Ok(Ok(Claim::First)) => Ok(true),
        Ok(Ok(Claim::Taken { value: first, .. })) => Ok(first == value),
        Ok(Err(_)) | Err(_) => {
            tracing::warn!("the token of a callback cannot be claimed now: it comes again");
            Err(())
        }
    }
}

/// The headers that are text.
fn texts(headers: &HeaderMap) -> Vec<(&str, &str)> {
    headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect()
}

/// What events become. `must_prove`: the signature does not cover them.
fn hits(callbacks: &AccountCallbacks, events: Vec<Reported>, must_prove: bool, check: &IdCheck<'_>) -> Vec<Hit> {
    let all = events.len();
    let hits: Vec<Hit> = events
        .into_iter()
        .filter_map(|Reported { kind, ids, at, detail, by, address }| {
            let ours = ids.filter(|(notification, delivery)| check.check(None, *notification, *delivery).is_ok());
            let receipt = ours.map(|(notification_id, delivery_id)| Receipt {
                at: Some(at.unwrap_or(check.now)),
                provider: Some(callbacks.account.clone()),
                vendor: Some(callbacks.vendor.to_owned()),
                detail: detail.map(|detail| detail.chars().take(MAX_DETAIL).collect()),
                ..Receipt::new(notification_id, delivery_id, by)
            });
            let is_its = |address: &str| {
                check
                    .pepper
                    .zip(ours)
                    .is_some_and(|(pepper, (notification, delivery))| pepper.is_to(address, notification, delivery))
            };
            let fact = address.filter(|fact| !must_prove || is_its(&fact.address));
            let opt_out = fact.map(|AddressFact { address, reason }| OptOut::Address {
                key: address_key(&address),
                reason: reason.to_owned(),
            });
            let says = receipt.is_some() || opt_out.is_some();
            says.then_some(Hit { kind, channel: callbacks.channel, receipt, opt_out })
        })
        .collect();
    if all > hits.len() {
        count(&callbacks.account, "unknown", all - hits.len());
    }
    hits
}

fn count(provider: &str, what: &'static str, count: usize) {
    let count = count as u64;
    measure!(GatewayCallbacksIgnored, count, provider, what);
}

#[cfg(test)]
mod tests {
    use chasqui_contract::Callbacks;
    use chasqui_schemas::{Channel, ReceiptKind, sample::pepper};
    use jiff::{SignedDuration, Timestamp};
    use uuid::Uuid;

    use super::*;

    struct Texts;

    impl Callbacks for Texts {
        fn read(&self, _: &SignedRequest<'_>) -> Result<Callback, Refusal> {
            Err(Refusal::Forged)
        }
    }

    fn read(events: Vec<Reported>, must_prove: bool) -> Vec<Hit> {
        let (account, reader) = ("texts-shop".to_owned(), Box::new(Texts));
        let callbacks = AccountCallbacks { account, vendor: "texts", channel: Channel::Sms, reader };
        let (now, kept) = (Timestamp::now(), SignedDuration::from_hours(1));
        hits(&callbacks, events, must_prove, &IdCheck { now, kept, pepper: Some(&pepper()) })
    }

    fn ours(app: &str, number: &str) -> Option<(Uuid, Uuid)> {
        let (notification, endpoint) = (Uuid::now_v7(), pepper().endpoint(number));
        Some((notification, pepper().delivery(app, notification, Channel::Sms, &endpoint)))
    }

    fn bounced(ids: Option<(Uuid, Uuid)>, number: &str) -> Reported {
        let address = Some(AddressFact { address: number.to_owned(), reason: "bounce" });
        Reported { address, ..Reported::new(ReceiptKind::Bounced, ids, None) }
    }

    #[test]
    fn an_event_of_a_stranger_becomes_no_receipt() {
        let made_up = Some((Uuid::now_v7(), Uuid::new_v4()));
        let events = vec![
            Reported::new(ReceiptKind::Delivered, None, None),
            Reported::new(ReceiptKind::Delivered, made_up, None),
            Reported { detail: Some("é".repeat(600)), ..Reported::new(ReceiptKind::Failed, ours("shop", "+1"), None) },
        ];
        let hits = read(events, false);
        assert_eq!((hits.len(), hits[0].channel), (1, Channel::Sms));
        let receipt = hits[0].receipt.as_ref().unwrap();
        assert!(receipt.at.is_some());
        assert_eq!((receipt.provider.as_deref(), receipt.vendor.as_deref()), (Some("texts-shop"), Some("texts")));
        assert_eq!(receipt.detail.as_ref().unwrap().chars().count(), MAX_DETAIL);
    }

    #[test]
    fn what_is_signed_of_an_address_counts_without_ids_of_ours() {
        let made_up = Some((Uuid::now_v7(), Uuid::new_v4()));
        for ids in [None, made_up, ours("shop", "+15551234567")] {
            let hits = read(vec![bounced(ids, "+15551234567")], false);
            let key = address_key("+15551234567");
            assert_eq!(hits[0].opt_out, Some(OptOut::Address { key, reason: "bounce".into() }), "{ids:?}");
            assert_eq!(hits[0].receipt.is_some(), ids.is_some() && ids != made_up, "{ids:?}");
        }
    }

    #[test]
    fn under_a_signature_that_covers_no_event_only_a_proof_counts() {
        let number = "+15551234567";
        let made_up = Some((Uuid::now_v7(), Uuid::new_v4()));
        assert_eq!(read(vec![bounced(None, number), bounced(made_up, number)], true), []);
        let hits = read(vec![bounced(ours("shop", number), number), bounced(ours("shop", "+4917"), number)], true);
        let facts: Vec<_> = hits.iter().map(|hit| (hit.receipt.is_some(), hit.opt_out.is_some())).collect();
        assert_eq!(facts, [(true, true), (true, false)], "of another's address it says nothing");
    }
}
