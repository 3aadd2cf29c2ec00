//! From what Apple answers to what it means; the table is on the provider's page.
//!
//! Source: [Handling notification responses from APNs](https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns).

use chasqui_contract::{Answer, Outcome};
use jiff::Timestamp;
use serde_json::Value;

use crate::http::Reply;

/// Whether the answer says that our authentication token is too old: another one may do.
pub(super) fn is_expired_token(reply: &Reply) -> bool {
    reply.status.as_u16() == 403 && reply.json::<Value>()["reason"] == "ExpiredProviderToken"
}

/// The meaning of an answer.
pub(super) fn classify(reply: &Reply, now: Timestamp) -> Answer {
    let after = reply.retry_after(now);
    let refusal: Value = reply.json();
    // Apple adds reasons, so a reason is text.
    let reason = refusal["reason"].as_str().unwrap_or_default();
    // With 410: when the token was found to be gone, in milliseconds since 1970.
    let gone_since = refusal["timestamp"].as_i64().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    let outcome = match (reply.status.as_u16(), reason) {
        (200, _) => Outcome::Accepted,
        (410, _) => Outcome::DeadEndpoint,
        (_, "IdleTimeout") => Outcome::TryLater { after },
        (_, "BadTopic" | "MissingTopic" | "TopicDisallowed") => Outcome::Misconfigured,
        _ => reply.by_status(after),
    };
    let code = if reason.is_empty() { reply.code() } else { reason.to_owned() };
    let detail = gone_since.map(|gone_since| format!("gone since {gone_since}")).unwrap_or_default();
    Answer { message_id: reply.header("apns-id").to_owned(), gone_since, ..Answer::new(outcome, code, detail) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{at, reply};

    const LATER: Outcome = Outcome::TryLater { after: None };
    const THROTTLED: Outcome = Outcome::Throttled { after: None };

    #[test]
    fn every_reason_of_apples_table_has_its_meaning() {
        use Outcome::{DeadEndpoint, Misconfigured, Refused};
        for (status, reason, expected) in [
            (400, "BadCollapseId", Refused),
            (400, "BadDeviceToken", Refused),
            (400, "BadExpirationDate", Refused),
            (400, "BadMessageId", Refused),
            (400, "BadPriority", Refused),
            (400, "BadTopic", Misconfigured),
            (400, "DeviceTokenNotForTopic", Refused),
            (400, "DuplicateHeaders", Refused),
            (400, "IdleTimeout", LATER),
            (400, "InvalidPushType", Refused),
            (400, "MissingDeviceToken", Refused),
            (400, "MissingTopic", Misconfigured),
            (400, "PayloadEmpty", Refused),
            (400, "TopicDisallowed", Misconfigured),
            (403, "BadCertificate", Misconfigured),
            (403, "BadCertificateEnvironment", Misconfigured),
            (403, "BadEnvironmentKeyIdInToken", Misconfigured),
            (403, "ExpiredProviderToken", Misconfigured),
            (403, "Forbidden", Misconfigured),
            (403, "InvalidProviderToken", Misconfigured),
            (403, "MissingProviderToken", Misconfigured),
            (403, "UnrelatedKeyIdInToken", Misconfigured),
            (404, "BadPath", Misconfigured),
            (405, "MethodNotAllowed", Misconfigured),
            (410, "ExpiredToken", DeadEndpoint),
            (410, "Unregistered", DeadEndpoint),
            (413, "PayloadTooLarge", Refused),
            (429, "TooManyProviderTokenUpdates", THROTTLED),
            (429, "TooManyRequests", THROTTLED),
            (500, "InternalServerError", LATER),
            (503, "ServiceUnavailable", LATER),
            (503, "Shutdown", LATER),
            // What Apple may add goes by its status.
            (400, "SomethingNew", Refused),
            (403, "SomethingNew", Misconfigured),
            (418, "SomethingNew", Refused),
            (429, "SomethingNew", THROTTLED),
            (502, "SomethingNew", Outcome::NoAnswer),
            (505, "SomethingNew", LATER),
        ] {
            let answer = classify(&reply(status, &[], format!(r#"{{"reason":"{reason}"}}"#)), at(0));
            assert_eq!((answer.outcome, answer.code.as_str()), (expected, reason), "{status}");
        }
    }

    #[test]
    fn a_refusal_without_a_reason_goes_by_its_status() {
        for body in ["", "<html>", "[1]", r#"{"reason":7}"#] {
            let answer = classify(&reply(503, &[], body), at(0));
            assert_eq!((answer.outcome, answer.code.as_str()), (LATER, "503"), "{body}");
        }
    }

    #[test]
    fn an_accepted_message_has_apples_id() {
        let answer = classify(&reply(200, &[("apns-id", "EEBE9C84")], ""), at(0));
        assert_eq!((answer.outcome, answer.message_id.as_str()), (Outcome::Accepted, "EEBE9C84"));
    }

    #[test]
    fn a_dead_token_is_so_since_when_apple_says() {
        let millis = at(10).as_millisecond();
        for (body, gone_since) in [
            (format!(r#"{{"reason":"Unregistered","timestamp":{millis}}}"#), Some(at(10))),
            (r#"{"reason":"Unregistered"}"#.to_owned(), None),
        ] {
            let answer = classify(&reply(410, &[], body), at(20));
            assert_eq!((answer.outcome, answer.gone_since), (Outcome::DeadEndpoint, gone_since));
        }
    }

    #[test]
    fn a_delay_that_apple_names_is_kept() {
        let busy = reply(429, &[("retry-after", "7")], r#"{"reason":"TooManyRequests"}"#);
        assert_eq!(classify(&busy, at(0)).outcome, Outcome::Throttled { after: Some(Duration::from_secs(7)) });
    }

    proptest! {
        #[test]
        fn only_a_200_is_accepted_and_only_a_410_kills(status in 200u16..600, body in ".*", timestamp: i64) {
            for body in [body, format!(r#"{{"reason":"Unregistered","timestamp":{timestamp}}}"#)] {
                let outcome = classify(&reply(status, &[], body), at(0)).outcome;
                prop_assert_eq!(outcome == Outcome::Accepted, status == 200);
                prop_assert!(outcome != Outcome::DeadEndpoint || status == 410);
            }
        }
    }
}
