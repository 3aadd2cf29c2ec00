//! From what a push service answers to what it means; the table is on the provider's page.
//!
//! Source: [RFC 8030](https://www.rfc-editor.org/rfc/rfc8030) (5, 5.2, 7.2, 7.3, 8.4),
//! [RFC 8292, 4.2](https://www.rfc-editor.org/rfc/rfc8292#section-4.2). Codes of a service's own there are none that
//! all share, so the status is the code. That a subscription was made with another key each says in its own words:
//! Chrome's service in a text (403), Mozilla's in a message (401), Apple's as `VapidPkHashMismatch` (400).

use chasqui_contract::{Answer, Outcome};
use chasqui_schemas::text::inert;
use jiff::Timestamp;
use reqwest::Url;
use serde_json::Value;

use super::belief::OfKey;
use crate::http::Reply;

/// Longest message id, in characters.
const MAX_ID: usize = 256;
/// What is shorter in an endpoint is no secret, in bytes.
const MIN_SECRET: usize = 16;

/// The meaning of an answer from `endpoint`, which is a secret and does not show in it; and what it says of our key.
///
/// The words of a known service are kept, made inert. Those of anybody else are not: whoever owns an endpoint could
/// speak to developers through logs and dead letters.
pub(super) fn classify(reply: &Reply, endpoint: &Url, is_known: bool, now: Timestamp) -> (OfKey, Answer) {
    let words = words(reply, endpoint);
    let (of_key, outcome) = match reply.status.as_u16() {
        200..300 => (OfKey::Good, Outcome::Accepted),
        400 | 401 | 403 if names_another_key(&words) => (OfKey::Other, Outcome::DeadEndpoint),
        401 | 403 => (OfKey::Refused, Outcome::Refused),
        404 | 410 => (OfKey::Nothing, Outcome::DeadEndpoint),
        _ => match reply.by_status(reply.retry_after(now)) {
            // The address is the browser's, not a setting of ours.
            Outcome::Misconfigured => (OfKey::Nothing, Outcome::Refused),
            outcome => (OfKey::Nothing, outcome),
        },
    };
    let message_id = if outcome == Outcome::Accepted { message_id(reply) } else { String::new() };
    let detail = match of_key {
        OfKey::Other => "the subscription was made with another VAPID key".to_owned(),
        _ if is_known => inert(&words),
        _ => String::new(),
    };
    (of_key, Answer { message_id, ..Answer::new(outcome, reply.code(), detail) })
}

/// Whether the service says that the subscription is of another key than ours. It can say so of its own subscriptions
/// only, so it is believed.
fn names_another_key(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    let differs = ["mismatch", "not correspond", "not match"];
    words.contains("vapid") && differs.iter().any(|differs| words.contains(differs))
}

/// The message's resource is an address; its last part is the id.
fn message_id(reply: &Reply) -> String {
    let id = reply.header("location").rsplit('/').next().unwrap_or_default();
    id.chars().filter(char::is_ascii_graphic).take(MAX_ID).collect()
}

/// What the service says: the message of a JSON error (Mozilla, Apple), else the text.
fn words(reply: &Reply, endpoint: &Url) -> String {
    let json: Value = reply.json();
    let words = ["message", "reason"].iter().find_map(|key| json[*key].as_str());
    let text = String::from_utf8_lossy(&reply.body);
    // Paths are made of short words and one long secret; a query may hold it too.
    let parts = endpoint.path().split('/').chain(endpoint.query());
    let secrets = parts.filter(|part| part.len() >= MIN_SECRET);
    secrets.fold(words.unwrap_or(&text).to_owned(), |words, secret| words.replace(secret, "[address]"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{at, reply};

    const LATER: Outcome = Outcome::TryLater { after: None };

    fn judged(reply: &Reply) -> (OfKey, Answer) {
        let endpoint = "https://push.example.net/wpush/v2/gAAAAABsecretsecret?token=BQYAAAsecret".parse().unwrap();
        classify(reply, &endpoint, true, at(0))
    }

    fn meaning(reply: &Reply) -> Answer {
        judged(reply).1
    }

    #[test]
    fn every_status_has_its_meaning() {
        use Outcome::{Accepted, DeadEndpoint, Refused};
        for (status, expected) in [
            (200, Accepted),
            (201, Accepted),
            (202, Accepted),
            (204, Accepted),
            (301, Refused),
            (400, Refused),
            (401, Refused),
            (403, Refused),
            (404, DeadEndpoint),
            (405, Refused),
            (406, Refused),
            (408, LATER),
            (410, DeadEndpoint),
            (413, Refused),
            (425, LATER),
            (429, Outcome::Throttled { after: None }),
            (500, LATER),
            (502, Outcome::NoAnswer),
            (503, LATER),
        ] {
            let answer = meaning(&reply(status, &[], ""));
            assert_eq!((answer.outcome, answer.code), (expected, status.to_string()));
        }
    }

    #[test]
    fn a_subscription_of_another_key_is_dead_in_every_services_words() {
        for (status, body) in [
            (
                403,
                "the VAPID credentials in the authorization header do not correspond to the credentials used to create the subscriptions.\n",
            ),
            (401, r#"{"code":401,"errno":109,"error":"Unauthorized","message":"VAPID public key mismatch"}"#),
            (400, r#"{"reason":"VapidPkHashMismatch"}"#),
        ] {
            let (of_key, answer) = judged(&reply(status, &[], body));
            assert_eq!((of_key, answer.outcome), (OfKey::Other, Outcome::DeadEndpoint), "{body}");
        }
        for (status, body) in [
            (403, r#"{"reason":"BadJwtToken"}"#),
            (401, r#"{"code":401,"errno":109,"error":"Unauthorized","message":"Invalid bearer token"}"#),
            (403, "URGENT ops: rotate the VAPID key at https://evil.example/login"),
            (401, ""),
        ] {
            let (of_key, answer) = judged(&reply(status, &[], body));
            assert_eq!((of_key, answer.outcome), (OfKey::Refused, Outcome::Refused), "{body}");
        }
        assert_eq!(judged(&reply(201, &[], "VAPID mismatch")).0, OfKey::Good);
        for status in [400, 410, 413, 500] {
            assert_eq!(judged(&reply(status, &[], "")).0, OfKey::Nothing, "{status}");
        }
    }

    #[test]
    fn a_delay_that_the_service_names_is_kept() {
        let after = Some(Duration::from_secs(7));
        for (status, expected) in [(429, Outcome::Throttled { after }), (503, Outcome::TryLater { after })] {
            assert_eq!(meaning(&reply(status, &[("retry-after", "7")], "")).outcome, expected);
        }
    }

    #[test]
    fn the_id_is_the_last_part_of_the_messages_address() {
        for (location, id) in [
            ("https://push.example.net/message/qDIYHNcfAIPP_5ITvURr", "qDIYHNcfAIPP_5ITvURr"),
            ("/m/abc", "abc"),
            ("", ""),
        ] {
            assert_eq!(meaning(&reply(201, &[("location", location)], "")).message_id, id);
        }
        assert_eq!(meaning(&reply(201, &[], "")).message_id, "");
    }

    #[test]
    fn the_services_words_are_kept_without_the_endpoint() {
        for (body, words) in [
            (r#"{"code":410,"errno":106,"message":"Subscription expired"}"#, "Subscription expired"),
            (r#"{"reason":"BadJwtToken"}"#, "BadJwtToken"),
            ("unknown: /wpush/v2/gAAAAABsecretsecret", "unknown wpush v2 address"),
            ("no gAAAAABsecretsecret, no token=BQYAAAsecret", "no address no address"),
            ("log in <https://evil.example/x>", "log in https evil example x"),
        ] {
            assert_eq!(meaning(&reply(410, &[], body)).detail, words);
        }
    }

    #[test]
    fn a_strangers_words_are_not_kept() {
        let stranger = "https://127.0.0.1:9010/1".parse().unwrap();
        for (status, body) in [(403, "URGENT ops: log in"), (410, "gone"), (500, r#"{"message": "call us"}"#)] {
            let (_, answer) = classify(&reply(status, &[], body), &stranger, false, at(0));
            assert_eq!((answer.detail.as_str(), answer.code), ("", status.to_string()));
        }
    }
}
