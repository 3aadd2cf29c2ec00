//! `Idempotency-Key`: the same request again has the same answer, and the same id.
//!
//! | the key is | then |
//! |---|---|
//! | new | it is claimed in the ledger with a hash of the body, and the submission published |
//! | known, with the same body | the submission is published again under the same id: a repeat, unless a crash came between |
//! | known, with another body | refused |
//!
//! Guarantee: within the dedupe window a key stands for one body. Failures are not remembered. The id is derived from app and
//! key, so a repeat has it even where nobody can be asked; dedupe then drops what it knows. While the broker is away only
//! what is in the spool can be compared: another body under a known key is then taken, and dropped by dedupe for its id.
//!
//! The claim comes first. After a crash between claim and publishing, the repeat publishes.

use axum::http::HeaderMap;
use chasqui_contract::{Book, Claim, Ledger};
use chasqui_schemas::{Lane, api::Refusal, id};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::problem::Problem;

/// The header, by the name of the IETF draft (draft-ietf-httpapi-idempotency-key-header).
const HEADER: &str = "idempotency-key";
/// Maximum characters of a key.
const MAX_KEY: usize = 255;

/// What is claimed: an id of the ledger, and the hash of what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) claim: String,
    pub(crate) hash: String,
}

/// The key of a request, if it has one.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut given = headers.get_all(HEADER).iter();
    let (Some(value), rest) = (given.next(), given.next()) else { return Ok(None) };
    let text = value.to_str().ok().map(str::trim).filter(|text| (1..=MAX_KEY).contains(&text.len()));
    match (text, rest) {
        (Some(text), None) => Ok(Some(text.to_owned())),
        _ => {
            let detail = "`Idempotency-Key` is 1 to 255 visible ASCII characters, once";
            Err(Problem::new(Refusal::BadRequest, detail))
        }
    }
}

impl Request {
    /// What `key` of `app` stands for. Objects are sorted by name, so spelling and order of a body do not matter.
    pub(crate) fn of(app: &str, key: &str, lane: Lane, fields: &Map<String, Value>) -> Self {
        let body = Value::Object(fields.clone()).to_string();
        Request { claim: id::claim(&["http", "request", app, key]), hash: id::claim(&[lane.as_str(), &body]) }
    }

    /// Claims the key; whether it was claimed before, for the same.
    pub(crate) async fn claim(&self, ledger: &dyn Ledger) -> Result<bool, Problem> {
        let claimed = ledger.claim(Book::Dedupe, &self.claim, self.hash.clone().into_bytes().into()).await;
        match claimed {
            Ok(Claim::First) => Ok(false),
            Ok(Claim::Taken { value, .. }) if value == self.hash.as_bytes() => Ok(true),
            Ok(Claim::Taken { .. }) => Err(conflict()),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a request's key was not compared");
                Ok(false)
            }
        }
    }
}

pub(crate) fn conflict() -> Problem {
    let detail = "use a new key for a new request; nothing of this one was taken";
    Problem::new(Refusal::IdempotencyConflict, detail)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn a_key_is_visible_and_alone() {
        let read = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HeaderName::from_static(HEADER), HeaderValue::from_bytes(value).unwrap());
            }
            key(&headers).map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[b"order-1"]), Ok(Some("order-1".to_owned())));
        let (longest, longer) = ("k".repeat(255), "k".repeat(256));
        assert_eq!(read(&[longest.as_bytes()]), Ok(Some(longest.clone())));
        for bad in [&[&b""[..]][..], &[longer.as_bytes()], &[b"a", b"a"], &["é".as_bytes()]] {
            assert_eq!(read(bad), Err(400), "{bad:?}");
        }
    }

    #[test]
    fn the_order_of_a_body_does_not_matter_and_all_else_does() {
        let of =
            |app: &str, key: &str, lane, text: &str| Request::of(app, key, lane, &serde_json::from_str(text).unwrap());
        let one = of("shop", "k", Lane::Normal, r#"{"a": {"x": 1, "y": 2}, "b": 2}"#);
        assert_eq!(one, of("shop", "k", Lane::Normal, r#"{"b":2,"a":{"y":2,"x":1}}"#));
        assert_ne!(one.hash, of("shop", "k", Lane::High, r#"{"b":2,"a":{"y":2,"x":1}}"#).hash);
        assert_ne!(one.hash, of("shop", "k", Lane::Normal, r#"{"b":2,"a":{"y":1,"x":1}}"#).hash);
        assert_ne!(one.claim, of("bank", "k", Lane::Normal, "{}").claim);
        assert_ne!(one.claim, of("shop", "k2", Lane::Normal, "{}").claim);
    }
}
