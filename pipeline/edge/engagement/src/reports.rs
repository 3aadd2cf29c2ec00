//! `POST /v1/receipts`: apps report what only they can see, a push that was opened, say.
//!
//! A JSON array of up to [`MAX_REPORTS`] receipts. All or nothing: one that cannot be used refuses the request and is
//! named. The answer is 202 when all of them are stored.
//!
//! An app proves who it is with its token. That a delivery is one of its own is not looked up: the id of a delivery is
//! a hash of 122 bits that only its provider and its device know.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use chasqui_http::{request, token};
use chasqui_schemas::{
    Receipt,
    receipt::{MAX_DETAIL, MAX_PROVIDER, MAX_REPORTS, Report, check_ids},
};
use jiff::Timestamp;

use crate::{Reporters, hit::Hit, routes::App};

/// Maximum bytes of a body: that many receipts fit.
const MAX_BODY: usize = 512 << 10;
pub(crate) async fn report(State(app): State<Arc<App>>, request: Request) -> Response {
    if !may_report(&app.reporters, request.headers()) {
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")]).into_response();
    }
    let _turn = app.turn().await;
    let body = match request::body(request, MAX_BODY).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let hits = match read(&body, app.now()) {
        Ok(hits) => hits,
        Err(what) => return json(StatusCode::BAD_REQUEST, &serde_json::json!({ "error": what })),
    };
    match app.hits.store(&hits).await {
        Ok(()) => json(StatusCode::ACCEPTED, &serde_json::json!({ "accepted": hits.len() })),
        Err(_) => request::come_again(),
    }
}

fn may_report(reporters: &Reporters, headers: &HeaderMap) -> bool {
    let Reporters::Apps(apps) = reporters else { return true };
    token::bearer(headers).is_some_and(|token| apps.contains_key(&token::hash(token)))
}

/// The receipts of a body; else which of them is wrong, and how.
fn read(body: &[u8], now: Timestamp) -> Result<Vec<Hit>, String> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let reports: Vec<Report> = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| format!("{}: {}", error.path(), error.inner()))?;
    reader.end().map_err(|error| error.to_string())?;
    if reports.len() > MAX_REPORTS {
        return Err(format!("{} receipts, of which {MAX_REPORTS} may come at once", reports.len()));
    }
    reports
        .into_iter()
        .enumerate()
        .map(|(n, report)| hit(report, now).map_err(|(field, wrong)| format!("[{n}].{field}: {wrong}")))
        .collect()
}

fn hit(report: Report, now: Timestamp) -> Result<Hit, (&'static str, &'static str)> {
    let longer = |text: &Option<String>, most: usize| text.as_ref().is_some_and(|text| text.chars().count() > most);
    check_ids(report.notification_id, report.delivery_id)?;
    if longer(&report.provider, MAX_PROVIDER) {
        return Err(("provider", "is longer than 64 characters"));
    }
    if longer(&report.detail, MAX_DETAIL) {
        return Err(("detail", "is longer than 500 characters"));
    }
    let receipt = Receipt {
        delivery_id: report.delivery_id,
        notification_id: report.notification_id,
        at: Some(report.at.unwrap_or(now)),
        provider: report.provider,
        // An app knows the account's name from us, but not the vendor.
        vendor: None,
        detail: report.detail,
        by: report.by,
    };
    Ok(Hit { kind: report.kind, channel: report.channel, receipt, opt_out: None })
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string() + "\n").into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use axum::http::header::AUTHORIZATION;
    use chasqui_schemas::{Channel, ReceiptKind};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_790_000_000).unwrap()
    }

    fn one(change: impl FnOnce(&mut serde_json::Value)) -> Result<Vec<Hit>, String> {
        let mut report = json!({
            "kind": "opened", "channel": "push", "by": "human",
            "delivery_id": Uuid::from_u128(9), "notification_id": Uuid::now_v7(),
        });
        change(&mut report);
        read(json!([report]).to_string().as_bytes(), now())
    }

    #[test]
    fn receipts_are_read_whole_or_refused_by_name() {
        let hits = one(|_| {}).unwrap();
        assert_eq!(
            (hits[0].kind, hits[0].channel, hits[0].receipt.at),
            (ReceiptKind::Opened, Channel::Push, Some(now()))
        );
        assert_eq!(read(b"[]", now()).unwrap(), []);
        for (field, value, complaint) in [
            ("kind", json!("read"), "[0].kind: unknown variant"),
            ("channel", json!(1), "[0].channel"),
            ("delivery_id", json!("x"), "[0].delivery_id"),
            ("delivery_id", json!(Uuid::nil()), "[0].delivery_id: is nil"),
            ("notification_id", json!(Uuid::from_u128(1)), "[0].notification_id"),
            ("detail", json!("x".repeat(501)), "[0].detail"),
            ("provider", json!("x".repeat(65)), "[0].provider"),
            ("opt_out", json!({}), "[0].opt_out: unknown field"),
        ] {
            let error = one(|report| report[field] = value.clone()).unwrap_err();
            assert!(error.starts_with(complaint), "{field} {value}: {error}");
        }
        assert!(read(b"[] x", now()).is_err());
        assert!(read(b"{}", now()).is_err());
    }

    #[test]
    fn no_more_than_a_thousand_come_at_once() {
        let report = json!({"kind": "opened", "channel": "push", "delivery_id": Uuid::from_u128(9), "notification_id": Uuid::now_v7()});
        let many = |count| read(json!(vec![report.clone(); count]).to_string().as_bytes(), now());
        assert_eq!(many(MAX_REPORTS).unwrap().len(), MAX_REPORTS);
        assert!(many(MAX_REPORTS + 1).is_err());
    }

    #[test]
    fn only_a_known_token_may_report() {
        let apps = Reporters::Apps(HashMap::from([(token::hash("t0ken"), "shop".to_owned())]));
        for (credentials, expected) in [
            ("Bearer t0ken", true),
            ("bearer t0ken", true),
            ("Bearer t0ke", false),
            ("Basic t0ken", false),
            ("t0ken", false),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, credentials.parse().unwrap())]);
            assert_eq!(may_report(&apps, &headers), expected, "{credentials}");
        }
        assert!(!may_report(&apps, &HeaderMap::new()));
        assert!(!may_report(&Reporters::Apps(HashMap::new()), &HeaderMap::new()));
        assert!(may_report(&Reporters::Anybody, &HeaderMap::new()));
    }
}
