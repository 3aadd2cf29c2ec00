//! From what Google answers to what it means; the table is on the provider's page.
//!
//! Source: [FCM error codes](https://firebase.google.com/docs/cloud-messaging/error-codes),
//! [ErrorCode](https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode).

use std::time::Duration;

use chasqui_contract::{Answer, Outcome};
use jiff::Timestamp;
use serde_json::Value;

use crate::http::Reply;

const FCM_ERROR: &str = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";
/// The wait after a quota is exceeded, where Google names none.
const QUOTA_WAIT: Duration = Duration::from_secs(60);

/// Whether the answer says that our access token does not hold: another one may do.
pub(super) fn is_unauthenticated(reply: &Reply) -> bool {
    reply.status.as_u16() == 401 && Refusal::read(reply).code.is_none()
}

/// The meaning of an answer.
pub(super) fn classify(reply: &Reply, now: Timestamp) -> Answer {
    let status = reply.status.as_u16();
    let body: Value = reply.json();
    if let (200, Some(name)) = (status, body["name"].as_str()) {
        return Answer { message_id: name.to_owned(), ..Answer::new(Outcome::Accepted, reply.code(), "") };
    }
    let after = reply.retry_after(now);
    let refusal = Refusal::read(reply);
    let outcome = match (refusal.code.as_deref(), status) {
        (Some("UNREGISTERED"), _) => Outcome::DeadEndpoint,
        // Google says the same of a bad token and of a bad message, but for the kind of its details.
        (Some("INVALID_ARGUMENT"), _) if !refusal.blames_message => Outcome::DeadEndpoint,
        (Some("INVALID_ARGUMENT" | "SENDER_ID_MISMATCH"), _) => Outcome::Refused,
        (Some("THIRD_PARTY_AUTH_ERROR"), _) => Outcome::Misconfigured,
        (Some("QUOTA_EXCEEDED"), _) | (_, 429) => Outcome::Throttled { after: after.or(Some(QUOTA_WAIT)) },
        (Some("UNAVAILABLE" | "INTERNAL"), _) => Outcome::TryLater { after },
        // A 404 that does not call the token unregistered is a wrong project or address.
        _ => reply.by_status(after),
    };
    let code = refusal.code.or(refusal.status).unwrap_or_else(|| reply.code());
    Answer::new(outcome, code, refusal.message)
}

/// The body of a refusal. Google adds codes, so a code is text.
struct Refusal {
    /// `errorCode`.
    code: Option<String>,
    /// The general status, such as `NOT_FOUND`.
    status: Option<String>,
    message: String,
    blames_message: bool,
}

impl Refusal {
    fn read(reply: &Reply) -> Self {
        let body: Value = reply.json();
        let error = &body["error"];
        let detail = |kind| error["details"].as_array()?.iter().find(|detail| detail["@type"] == kind);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Refusal {
            code: detail(FCM_ERROR).and_then(|detail| text(&detail["errorCode"])),
            status: text(&error["status"]),
            message: text(&error["message"]).unwrap_or_default(),
            blames_message: detail(BAD_REQUEST).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{at, reply};

    const LATER: Outcome = Outcome::TryLater { after: None };
    const THROTTLED: Outcome = Outcome::Throttled { after: Some(QUOTA_WAIT) };

    fn refusal(status: u16, general: &str, details: Value) -> Reply {
        let error = json!({ "code": status, "message": "words", "status": general, "details": details });
        reply(status, &[], json!({ "error": error }).to_string())
    }

    fn fcm_error(code: &str) -> Value {
        json!({ "@type": FCM_ERROR, "errorCode": code })
    }

    #[test]
    fn every_code_of_googles_table_has_its_meaning() {
        use Outcome::{DeadEndpoint, Misconfigured, Refused};
        for (status, code, expected) in [
            (400, "UNSPECIFIED_ERROR", Refused),
            (500, "UNSPECIFIED_ERROR", LATER),
            (400, "INVALID_ARGUMENT", DeadEndpoint),
            (404, "UNREGISTERED", DeadEndpoint),
            (403, "SENDER_ID_MISMATCH", Refused),
            (429, "QUOTA_EXCEEDED", THROTTLED),
            (503, "UNAVAILABLE", LATER),
            (500, "INTERNAL", LATER),
            (401, "THIRD_PARTY_AUTH_ERROR", Misconfigured),
            // What Google may add goes by its status.
            (400, "SOMETHING_NEW", Refused),
            (403, "SOMETHING_NEW", Misconfigured),
            (404, "SOMETHING_NEW", Misconfigured),
            (418, "SOMETHING_NEW", Refused),
            (429, "SOMETHING_NEW", THROTTLED),
            (502, "SOMETHING_NEW", Outcome::NoAnswer),
            (505, "SOMETHING_NEW", LATER),
        ] {
            let answer = classify(&refusal(status, "X", json!([fcm_error(code)])), at(0));
            assert_eq!((answer.outcome, answer.code.as_str()), (expected, code), "{status}");
            assert_eq!(answer.detail, "words");
        }
    }

    #[test]
    fn a_refusal_without_a_code_of_fcm_goes_by_its_status_and_kills_no_token() {
        for (status, general, expected) in [
            (400, "INVALID_ARGUMENT", Outcome::Refused),
            (401, "UNAUTHENTICATED", Outcome::Misconfigured),
            (403, "PERMISSION_DENIED", Outcome::Misconfigured),
            (404, "NOT_FOUND", Outcome::Misconfigured),
            (429, "RESOURCE_EXHAUSTED", THROTTLED),
            (500, "INTERNAL", LATER),
            (503, "UNAVAILABLE", LATER),
        ] {
            let answer = classify(&refusal(status, general, json!([])), at(0));
            assert_eq!((answer.outcome, answer.code.as_str()), (expected, general));
        }
        for body in ["", "<html>", "[]", r#"{"error":"x"}"#, r#"{"error":{"details":{}}}"#] {
            let answer = classify(&reply(503, &[], body), at(0));
            assert_eq!((answer.outcome, answer.code.as_str()), (LATER, "503"), "{body}");
        }
    }

    #[test]
    fn an_invalid_argument_is_the_message_where_a_field_of_it_is_named_else_the_token() {
        let violation = json!({ "@type": BAD_REQUEST, "fieldViolations": [{ "field": "message.data[0].value" }] });
        for (details, expected) in [
            (json!([fcm_error("INVALID_ARGUMENT")]), Outcome::DeadEndpoint),
            (json!([violation]), Outcome::Refused),
            (json!([fcm_error("INVALID_ARGUMENT"), violation]), Outcome::Refused),
        ] {
            let answer = classify(&refusal(400, "INVALID_ARGUMENT", details.clone()), at(0));
            assert_eq!((answer.outcome, answer.code.as_str()), (expected, "INVALID_ARGUMENT"), "{details}");
        }
    }

    #[test]
    fn a_delay_that_google_names_is_kept() {
        let mut busy = refusal(429, "RESOURCE_EXHAUSTED", json!([fcm_error("QUOTA_EXCEEDED")]));
        busy.headers.insert("retry-after", "7".parse().unwrap());
        assert_eq!(classify(&busy, at(0)).outcome, Outcome::Throttled { after: Some(Duration::from_secs(7)) });
    }

    #[test]
    fn an_accepted_message_has_googles_name() {
        let answer = classify(&reply(200, &[], r#"{"name": "projects/shop/messages/0:1"}"#), at(0));
        assert_eq!((answer.outcome, answer.message_id.as_str()), (Outcome::Accepted, "projects/shop/messages/0:1"));
        assert_eq!(classify(&reply(200, &[], "what?"), at(0)).outcome, Outcome::NoAnswer, "that is not Google");
    }

    #[test]
    fn an_access_token_is_renewed_only_where_it_is_at_fault() {
        assert!(is_unauthenticated(&refusal(401, "UNAUTHENTICATED", json!([]))));
        assert!(!is_unauthenticated(&refusal(401, "UNAUTHENTICATED", json!([fcm_error("THIRD_PARTY_AUTH_ERROR")]))));
        assert!(!is_unauthenticated(&refusal(403, "PERMISSION_DENIED", json!([]))));
    }

    proptest! {
        #[test]
        fn only_fcm_itself_accepts_or_kills_a_token(status in 200u16..600, body in ".*", general in "[A-Z_]{0,20}") {
            for reply in [reply(status, &[], body), refusal(status, &general, json!([]))] {
                let outcome = classify(&reply, at(0)).outcome;
                prop_assert!(!matches!(outcome, Outcome::Accepted | Outcome::DeadEndpoint));
            }
        }
    }
}
