//! What an answer says by itself, before a vendor's own codes are read: its status, and when to come back.

use std::time::Duration;

use bytes::Bytes;
use chasqui_contract::Outcome;
use jiff::{Timestamp, tz::TimeZone};
use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use serde::de::DeserializeOwned;

/// Longest wait that a provider may ask for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What a provider answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, of at most [`MAX_BODY`](super::MAX_BODY) bytes; what is longer is cut.
    pub body: Bytes,
}

impl Reply {
    /// The status as text: the code of an answer whose vendor has none.
    pub fn code(&self) -> String {
        self.status.as_u16().to_string()
    }

    /// A header's text; empty without one.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body, where it is such JSON; else the default, which says nothing.
    pub fn json<T: DeserializeOwned + Default>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// `Retry-After` (RFC 9110, 10.2.3: seconds, or a date in any of the three forms of 5.6.7), clamped to
    /// [`MAX_RETRY_AFTER`]. Some vendors send fractions, and worse (`inf`, `1e300`): what is not understood is none.
    pub fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        let seconds = match text.parse::<f64>() {
            Ok(seconds) if seconds.is_nan() => return None,
            Ok(seconds) => seconds,
            Err(_) => date(text)?.duration_since(now).as_secs_f64(),
        };
        Some(Duration::from_secs_f64(seconds.clamp(0.0, MAX_RETRY_AFTER.as_secs_f64())))
    }

    /// What the status means where nothing the vendor says means more.
    ///
    /// | status | means |
    /// |---|---|
    /// | 429 | throttled, for `after` |
    /// | 401 to 406, 451, 3xx | misconfigured: credentials, bill, permissions, the address, the region |
    /// | 408, 425 | try later: it did not arrive whole, or must not be taken yet |
    /// | other 4xx | refused |
    /// | 502, 504 | no answer: something in between lost it, and the vendor may have taken the request |
    /// | other 5xx | try later |
    /// | 1xx, 2xx | no answer: not as the vendor says yes, or cut; it may have been taken |
    pub fn by_status(&self, after: Option<Duration>) -> Outcome {
        match self.status.as_u16() {
            ..=299 | 502 | 504 => Outcome::NoAnswer,
            429 => Outcome::Throttled { after },
            401..=406 | 451 | 300..=399 => Outcome::Misconfigured,
            408 | 425 | 500.. => Outcome::TryLater { after },
            400..=499 => Outcome::Refused,
        }
    }
}

/// A date as HTTP writes it, and as it used to: RFC 850's form, and that of C's `asctime`.
fn date(text: &str) -> Option<Timestamp> {
    const OLD: [&str; 2] = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let old = |format| jiff::civil::DateTime::strptime(format, text).ok()?.to_zoned(TimeZone::UTC).ok();
    let date = jiff::fmt::rfc2822::parse(text).ok().or_else(|| OLD.into_iter().find_map(old))?;
    Some(date.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, reply};

    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_too_long() {
        for (value, expected) in [
            ("7", Some(Duration::from_secs(7))),
            ("0.5", Some(Duration::from_millis(500))),
            ("-3", Some(Duration::ZERO)),
            ("inf", Some(MAX_RETRY_AFTER)),
            ("1e300", Some(MAX_RETRY_AFTER)),
            ("NaN", None),
            ("soon", None),
            ("Sun, 01 Mar 2026 12:00:09 GMT", Some(Duration::from_secs(9))),
            ("Sun, 01 Mar 2026 11:00:00 GMT", Some(Duration::ZERO)),
            ("Sunday, 01-Mar-26 12:00:09 GMT", Some(Duration::from_secs(9))),
            ("Sun Mar  1 12:00:09 2026", Some(Duration::from_secs(9))),
            ("Tue Mar 31 12:00:09 2026", Some(MAX_RETRY_AFTER)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(Duration::ZERO)),
            ("Sun Mar  1 12:00:09", None),
        ] {
            assert_eq!(reply(503, &[("retry-after", value)], "").retry_after(at(0)), expected, "{value}");
        }
        assert_eq!(reply(503, &[], "").retry_after(at(0)), None);
    }

    #[test]
    fn a_status_has_a_meaning_of_its_own() {
        let after = Some(Duration::from_secs(3));
        let (later, slower) = (Outcome::TryLater { after }, Outcome::Throttled { after });
        let table: [(Outcome, &[u16]); 5] = [
            (slower, &[429]),
            (Outcome::Misconfigured, &[300, 302, 399, 401, 402, 403, 404, 405, 406, 451]),
            (Outcome::Refused, &[400, 407, 409, 410, 413, 418, 422, 499]),
            (later, &[408, 425, 500, 501, 503, 505, 599, 999]),
            (Outcome::NoAnswer, &[100, 200, 202, 204, 299, 502, 504]),
        ];
        for (expected, statuses) in table {
            for &status in statuses {
                assert_eq!(reply(status, &[], "").by_status(after), expected, "{status}");
            }
        }
    }

    #[test]
    fn what_is_no_such_json_says_nothing() {
        for body in ["", "<html>", "[1", "{\"id\": "] {
            assert_eq!(reply(200, &[], body).json::<serde_json::Value>(), serde_json::Value::Null, "{body}");
        }
        assert_eq!(reply(200, &[], "[1]").json::<Vec<u8>>(), [1]);
    }
}
