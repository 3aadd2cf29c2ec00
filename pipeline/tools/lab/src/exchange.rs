//! What a vendor is asked and what it answers, apart from how it travels.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{HeaderMap, Method};
use serde_json::Value;
use url::form_urlencoded;

use crate::script::{Fault, Trouble};

/// The name under which senders carry their delivery's id in what a vendor hands back: a key of the payload or of the
/// custom arguments, or a parameter of the address for callbacks.
pub(crate) const DELIVERY_ID: &str = "delivery_id";

/// One vendor's API, as its documentation says.
pub(crate) trait Api: Send + Sync {
    /// Judges a request: what was accepted, and what is answered then; or the vendor's error.
    fn check(&self, request: &Request) -> Result<Accepted, Reply>;

    /// The answer with one of the vendor's own error codes; nothing where the documentation has no such code.
    fn fault(&self, fault: &Fault, request: &Request) -> Option<Reply>;

    /// The vendor's code for a trouble; nothing where it accepts the message and reports the failure later.
    fn code(&self, trouble: Trouble) -> Option<&'static str>;
}

/// A request, read whole.
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Path and query as sent.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Bytes for ids: they differ from call to call, and not from run to run.
    pub(crate) entropy: [u8; 32],
}

/// A right request.
pub(crate) struct Accepted {
    pub(crate) recipient: String,
    pub(crate) delivery_id: String,
    pub(crate) message_id: String,
    /// What callbacks need of it.
    pub(crate) echo: Value,
    pub(crate) reply: Reply,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// The vendor's code, for the ledger.
    pub(crate) code: String,
}

impl Request {
    /// Nothing, to ask what codes a vendor has.
    pub(crate) fn empty() -> Self {
        Request {
            method: Method::POST,
            path: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            entropy: [0; 32],
        }
    }

    /// A header, the first of its name, where it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The media type without its parameters, in lower case.
    pub(crate) fn media_type(&self) -> String {
        let value = self.header("content-type").unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// `Authorization: Basic`, as user and password.
    pub(crate) fn basic(&self) -> Option<(String, String)> {
        let encoded = self.header("authorization")?.strip_prefix("Basic ")?;
        let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    }

    /// `Authorization: Bearer`. The scheme's case does not matter (RFC 9110, 11.1).
    pub(crate) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    }

    /// The fields of a form, in order.
    pub(crate) fn form(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// Hexadecimal digits for an id, at most 64.
    pub(crate) fn hex(&self, digits: usize) -> String {
        hex(&self.entropy).chars().take(digits).collect()
    }
}

impl Reply {
    pub(crate) fn json(status: u16, code: impl Into<String>, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Reply { status, headers, body: Bytes::from(body.to_string()), code: code.into() }
    }

    pub(crate) fn text(status: u16, code: impl Into<String>, body: &str) -> Self {
        let headers = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
        Reply { status, headers, body: Bytes::from(body.to_owned()), code: code.into() }
    }

    /// No body at all.
    pub(crate) fn empty(status: u16, code: impl Into<String>) -> Self {
        Reply { status, headers: Vec::new(), body: Bytes::new(), code: code.into() }
    }

    pub(crate) fn with(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }

    /// `Retry-After`, where the fault has one.
    pub(crate) fn retry_after(self, fault: &Fault) -> Self {
        match &fault.retry_after {
            Some(delay) => self.with("retry-after", delay.clone()),
            None => self,
        }
    }
}

/// Lower case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// The string at `key`, wherever it stands in a JSON document: senders may nest their data.
pub(crate) fn find<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    match value {
        Value::Object(members) => {
            members.get(key).and_then(Value::as_str).or_else(|| members.values().find_map(|value| find(value, key)))
        }
        Value::Array(items) => items.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

/// The delivery id in an address for callbacks.
pub(crate) fn delivery_of(callback: &str) -> Option<String> {
    let url = url::Url::parse(callback).ok()?;
    url.query_pairs().find(|(key, _)| key == DELIVERY_ID).map(|(_, value)| value.into_owned())
}
