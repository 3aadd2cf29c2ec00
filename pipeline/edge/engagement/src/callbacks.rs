//! `POST /v1/callbacks/{account}`: what vendors report hours after they took a message.
//!
//! Guarantee: only what the vendor has signed is believed ([`AccountCallbacks`]). What is believed is answered 200 when it is
//! stored. Repeats and another order are harmless: they are receipts like any other, and states only move forward.
//!
//! | what comes | answer | why |
//! |---|---|---|
//! | an account that has no callbacks | 404 | as any path that never was |
//! | no or a wrong signature | as the port says, usually 401 | a key may be being changed: a vendor that tries again loses nothing |
//! | signed, and of a delivery of ours | 200 when stored, else 503 | |
//! | signed, and of a delivery that is not ours, or not of interest | 200 | the account may have other uses; counted |
//! | signed, and not readable or too old | as the port says, usually 200 | it would be no better the next time; counted and logged |
//!
//! `notification_id` and `delivery_id` travel with the message and come back with the callback, so that nothing has to
//! be looked up. A callback may also switch an address off ([`OptOut::Address`](chasqui_schemas::OptOut)): a complaint, an
//! unsubscription at the vendor, an address that it says is dead.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chasqui_contract::{AccountCallbacks, Reported, SignedRequest};
use chasqui_http::request::{self, come_again};
use chasqui_schemas::{Receipt, measure};
use jiff::Timestamp;

use crate::{hit::Hit, pages, routes::App};

/// Maximum characters of `detail`: a vendor's words explain, they are no document.
const MAX_DETAIL: usize = 500;
/// Maximum bytes of a body: some vendors gather many events in one request.
const MAX_BODY: usize = 1 << 20;

pub(crate) async fn receive(State(app): State<Arc<App>>, Path(account): Path<String>, request: Request) -> Response {
    let Some(callbacks) = app.callbacks.iter().find(|each| each.account == account) else {
        return pages::missing();
    };
    let _turn = app.turn().await;
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    let url = format!("{}{path}", app.public_url);
    let headers = request.headers().clone();
    let body: Bytes = match request::body(request, MAX_BODY).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let headers = texts(&headers);
    let request = SignedRequest { url: &url, headers: &headers, body: &body, now: app.now() };
    let reports = match callbacks.reader.read(&request) {
        Ok(reports) => reports,
        Err(refusal) => {
            count(&account, refusal.as_str(), 1);
            tracing::warn!(provider = account, what = refusal.as_str(), "a callback has no effect");
            let status = StatusCode::from_u16(callbacks.reader.refused(refusal)).unwrap_or(StatusCode::OK);
            return status.into_response();
        }
    };
    let hits = hits(callbacks, reports, request.now);
    if app.hits.store(&hits).await.is_err() {
        return come_again();
    }
    // Not before: what was refused with 503 comes again with the same signature.
    callbacks.reader.kept(&request);
    StatusCode::OK.into_response()
}

/// The headers that are text.
fn texts(headers: &HeaderMap) -> Vec<(&str, &str)> {
    headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect()
}

fn hits(callbacks: &AccountCallbacks, reports: Vec<Reported>, now: Timestamp) -> Vec<Hit> {
    let all = reports.len();
    let hits: Vec<Hit> = reports
        .into_iter()
        .filter_map(|Reported { kind, ids, at, detail, by, opt_out }| {
            let (notification_id, delivery_id) = ids?;
            let receipt = Receipt {
                delivery_id,
                notification_id,
                at: Some(at.unwrap_or(now)),
                provider: Some(callbacks.account.clone()),
                vendor: Some(callbacks.vendor.to_owned()),
                detail: detail.map(|detail| detail.chars().take(MAX_DETAIL).collect()),
                by,
            };
            Some(Hit { kind, channel: callbacks.channel, receipt, opt_out })
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
    use chasqui_contract::{Callbacks, Refusal};
    use chasqui_schemas::{Channel, ReceiptKind};
    use uuid::Uuid;

    use super::*;

    struct Texts;

    impl Callbacks for Texts {
        fn read(&self, _: &SignedRequest<'_>) -> Result<Vec<Reported>, Refusal> {
            Err(Refusal::Forged)
        }
    }

    #[test]
    fn an_event_of_a_stranger_becomes_no_hit() {
        let ours = Some((Uuid::now_v7(), Uuid::from_u128(9)));
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let events = vec![
            Reported::new(ReceiptKind::Delivered, None, None),
            Reported { detail: Some("é".repeat(600)), ..Reported::new(ReceiptKind::Failed, ours, None) },
        ];
        let (account, reader) = ("texts-shop".to_owned(), Box::new(Texts));
        let callbacks = AccountCallbacks { account, vendor: "texts", channel: Channel::Sms, reader };
        let hits = hits(&callbacks, events, now);
        assert_eq!((hits.len(), hits[0].channel), (1, Channel::Sms));
        assert_eq!(hits[0].receipt.at, Some(now));
        assert_eq!(hits[0].receipt.provider.as_deref(), Some("texts-shop"));
        assert_eq!(hits[0].receipt.vendor.as_deref(), Some("texts"));
        assert_eq!(hits[0].receipt.detail.as_ref().unwrap().chars().count(), MAX_DETAIL);
    }
}
