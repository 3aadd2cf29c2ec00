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
        // Google says the same of a bad token and of a bad message, but for the field that it names, or its words.
        (Some("INVALID_ARGUMENT"), _) if refusal.blames_token() => Outcome::DeadEndpoint,
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
    /// The fields of our request that a `BadRequest` names.
    fields: Vec<String>,
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
            fields: detail(BAD_REQUEST)
                .and_then(|detail| detail["fieldViolations"].as_array())
                .map(|violations| violations.iter().map(|each| text(&each["field"]).unwrap_or_default()).collect())
                .unwrap_or_default(),
        }
    }

    /// Whether the token is what is invalid: it alone is named, or nothing is and the words are about it. The same code
    /// stands for a message too large or with a bad key, and removing a good device cannot be undone.
    fn blames_token(&self) -> bool {
        if self.fields.is_empty() {
            return self.message.to_ascii_lowercase().contains("registration token");
        }
        self.fields.iter().all(|field| field == "message.token" || field == "token")
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
            (400, "INVALID_ARGUMENT", Refused),
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
    fn an_invalid_argument_is_the_token_only_where_it_is_named() {
        const TOKEN: &str = "The registration token is not a valid FCM registration token";
        let violations = |fields: &[&str]| {
            let violations: Vec<Value> = fields.iter().map(|field| json!({ "field": field })).collect();
            json!([fcm_error("INVALID_ARGUMENT"), { "@type": BAD_REQUEST, "fieldViolations": violations }])
        };
        let alone = || json!([fcm_error("INVALID_ARGUMENT")]);
        for (message, details, expected) in [
            (TOKEN, alone(), Outcome::DeadEndpoint),
            ("Request contains an invalid argument.", alone(), Outcome::Refused),
            ("Android message is too big", alone(), Outcome::Refused),
            ("Message is too large. The maximum is 4K (4096 bytes).", alone(), Outcome::Refused),
            ("Invalid data payload key: from", alone(), Outcome::Refused),
            ("", alone(), Outcome::Refused),
            ("words", violations(&["message.token"]), Outcome::DeadEndpoint),
            (TOKEN, violations(&["message.data[0].value"]), Outcome::Refused),
            (TOKEN, violations(&["message.token", "message.android.ttl"]), Outcome::Refused),
            (TOKEN, violations(&[]), Outcome::DeadEndpoint),
        ] {
            let mut body = json!({ "error": { "code": 400, "status": "INVALID_ARGUMENT", "details": details } });
            body["error"]["message"] = message.into();
            let answer = classify(&reply(400, &[], body.to_string()), at(0));
            assert_eq!((answer.outcome, answer.code.as_str()), (expected, "INVALID_ARGUMENT"), "{body}");
        }
        let without_code = json!([{ "@type": BAD_REQUEST, "fieldViolations": [{ "field": "message.data[0].value" }] }]);
        assert_eq!(classify(&refusal(400, "INVALID_ARGUMENT", without_code), at(0)).outcome, Outcome::Refused);
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
