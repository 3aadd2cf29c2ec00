//! `POST /v1/receipts`: apps report what only they can see, a push that was opened, say.
//!
//! A JSON array of up to [`MAX_REPORTS`] receipts. All or nothing: one that cannot be used refuses the request and is
//! named. The answer is 202 when all of them are stored.
//!
//! An app proves who it is with its token; without tokens nobody may report. It reports of its own deliveries only: the ids
//! of deliveries prove whose they are ([`IdCheck`]). Of what it says its token counts, and no name: it is the receipt's
//! `app`.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::{Request, State},
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use chasqui_http::{
    request::{self, come_again},
    token,
};
use chasqui_schemas::{
    Receipt,
    receipt::{IdCheck, MAX_DETAIL, MAX_REPORTS, Report},
};

use crate::{Reporters, hit::Hit, routes::App};

/// Maximum bytes of a body: that many receipts fit.
pub(crate) const MAX_BODY: usize = 512 << 10;

/// The app whose token a request has: an extension that [`guard`] adds.
#[derive(Clone)]
pub(crate) struct Reporter(String);

pub(crate) async fn report(
    State(app): State<Arc<App>>,
    Extension(Reporter(reporter)): Extension<Reporter>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if request::is_encoded(&headers) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let hits = match read(&body, &reporter, &app.check(app.now())) {
        Ok(hits) => hits,
        Err(what) => return json(StatusCode::BAD_REQUEST, &serde_json::json!({ "error": what })),
    };
    match app.hits.store(&hits).await {
        Ok(()) => json(StatusCode::ACCEPTED, &serde_json::json!({ "accepted": hits.len() })),
        Err(_) => come_again(),
    }
}

/// Lets only those who may report come any further, so that nobody else's body is read.
pub(crate) async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let Some(reporter) = reporter(&app.reporters, request.headers()).map(str::to_owned) else {
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")]).into_response();
    };
    request.extensions_mut().insert(Reporter(reporter));
    next.run(request).await
}

fn reporter<'a>(reporters: &'a Reporters, headers: &HeaderMap) -> Option<&'a str> {
    reporters.app(token::bearer(headers)?)
}

/// The receipts of a body; else which of them is wrong, and how.
fn read(body: &[u8], app: &str, check: &IdCheck<'_>) -> Result<Vec<Hit>, String> {
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
        .map(|(n, report)| hit(report, app, check).map_err(|(field, wrong)| format!("[{n}].{field}: {wrong}")))
        .collect()
}

fn hit(report: Report, app: &str, check: &IdCheck<'_>) -> Result<Hit, (&'static str, &'static str)> {
    let longer = |text: &Option<String>, most: usize| text.as_ref().is_some_and(|text| text.chars().count() > most);
    check.check(Some(app), report.notification_id, report.delivery_id)?;
    if longer(&report.detail, MAX_DETAIL) {
        return Err(("detail", "is longer than 500 characters"));
    }
    let receipt = Receipt {
        at: Some(report.at.unwrap_or(check.now)),
        app: Some(app.to_owned()),
        detail: report.detail,
        ..Receipt::new(report.notification_id, report.delivery_id, report.by)
    };
    Ok(Hit { kind: report.kind, channel: report.channel, receipt: Some(receipt), opt_out: None })
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string() + "\n").into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::http::header::AUTHORIZATION;
    use chasqui_schemas::{Channel, ReceiptKind, id, sample::pepper};
    use chasqui_settings::SecretSource;
    use jiff::{SignedDuration, Timestamp};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_790_000_000).unwrap()
    }

    fn of(app: &str, age: SignedDuration) -> serde_json::Value {
        let notification = id::notification(now() - age, Uuid::nil(), "ada");
        let delivery = pepper().delivery(app, notification, Channel::Push, "phone");
        json!({ "kind": "opened", "channel": "push", "by": "human", "delivery_id": delivery, "notification_id": notification })
    }

    fn read(body: &[u8]) -> Result<Vec<Hit>, String> {
        let kept = SignedDuration::from_hours(24);
        super::read(body, "shop", &IdCheck { now: now(), kept, pepper: Some(&pepper()) })
    }

    fn one(change: impl FnOnce(&mut serde_json::Value)) -> Result<Vec<Hit>, String> {
        let mut report = of("shop", SignedDuration::ZERO);
        change(&mut report);
        read(json!([report]).to_string().as_bytes())
    }

    #[test]
    fn an_app_reports_of_its_own_deliveries_that_are_kept() {
        let hours = SignedDuration::from_hours;
        for (app, age, complaint) in [
            ("shop", hours(23), None),
            ("bank", hours(1), Some("[0].delivery_id: is of another app's delivery")),
            ("shop", hours(25), Some("[0].notification_id: is of a notification that is not kept any more")),
            ("shop", hours(-24), Some("[0].notification_id: is of the future")),
        ] {
            let error = one(|report| *report = of(app, age)).err();
            assert_eq!(error.as_deref(), complaint, "{app} {age}");
        }
        let made_up = one(|report| report["delivery_id"] = json!(Uuid::new_v4())).unwrap_err();
        assert!(made_up.starts_with("[0].delivery_id: is not one of Chasqui's"), "{made_up}");
    }

    #[test]
    fn receipts_are_read_whole_or_refused_by_name() {
        let hits = one(|_| {}).unwrap();
        let receipt = hits[0].receipt.as_ref().unwrap();
        assert_eq!((hits[0].kind, hits[0].channel, receipt.at), (ReceiptKind::Opened, Channel::Push, Some(now())));
        assert_eq!((receipt.app.as_deref(), receipt.provider.as_deref()), (Some("shop"), None));
        assert_eq!(read(b"[]").unwrap(), []);
        for (field, value, complaint) in [
            ("kind", json!("read"), "[0].kind: unknown variant"),
            ("channel", json!(1), "[0].channel"),
            ("delivery_id", json!("x"), "[0].delivery_id"),
            ("delivery_id", json!(Uuid::nil()), "[0].delivery_id: is not one"),
            ("notification_id", json!(Uuid::from_u128(1)), "[0].notification_id"),
            ("detail", json!("x".repeat(501)), "[0].detail"),
            ("provider", json!("twilio"), "[0].provider: unknown field"),
            ("opt_out", json!({}), "[0].opt_out: unknown field"),
        ] {
            let error = one(|report| report[field] = value.clone()).unwrap_err();
            assert!(error.starts_with(complaint), "{field} {value}: {error}");
        }
        assert!(read(b"[] x").is_err());
        assert!(read(b"{}").is_err());
    }

    #[test]
    fn no_more_than_a_thousand_come_at_once() {
        let report = of("shop", SignedDuration::ZERO);
        let many = |count| read(json!(vec![report.clone(); count]).to_string().as_bytes());
        assert_eq!(many(MAX_REPORTS).unwrap().len(), MAX_REPORTS);
        assert!(many(MAX_REPORTS + 1).is_err());
    }

    #[test]
    fn only_a_known_token_may_report() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "t0ken").unwrap();
        let source = SecretSource { file: Some(file.path().to_owned()), env: None };
        let apps = Reporters::of(&BTreeMap::from([("shop".to_owned(), source)])).unwrap();
        for (credentials, expected) in [
            ("Bearer t0ken", Some("shop")),
            ("bearer t0ken", Some("shop")),
            ("Bearer t0ke", None),
            ("Bearer ", None),
            ("Basic t0ken", None),
            ("t0ken", None),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, credentials.parse().unwrap())]);
            assert_eq!(reporter(&apps, &headers), expected, "{credentials}");
            assert_eq!(reporter(&Reporters::default(), &headers), None, "{credentials}");
        }
        assert_eq!(reporter(&apps, &HeaderMap::new()), None);
    }
}
