//! What the SMS providers share: who a message goes to, a form with a producer's overrides laid over it, and what a
//! status means where the vendor's own code says nothing.

use std::time::Duration;

use chasqui_contract::{Answer, Outcome};
use chasqui_schemas::{Delivery, delivery::Address};
use reqwest::{StatusCode, Url};
use serde_json::Value;

use crate::ConfigError;

/// The parameters of a request. It may hold a credential: it is never shown.
pub(super) type Form = Vec<(String, String)>;

/// The recipient's number.
pub(super) fn number(delivery: &Delivery) -> Result<&str, Answer> {
    match &delivery.endpoint.address {
        Address::Phone(number) => Ok(number),
        _ => Err(Answer::new(Outcome::Misconfigured, "channel", "an SMS needs a phone number: correct the routes")),
    }
}

/// Lays `overrides.<provider>` over a form: each member becomes a parameter, a list one for each of its items, an
/// object its JSON text; null takes the parameter away. The parameters of `kept` stay as they are.
pub(super) fn lay_over(form: &mut Form, delivery: &Delivery, provider: &str, kept: &[&str]) {
    let Some(Value::Object(over)) = delivery.overrides.get(provider) else { return };
    for (name, value) in over.iter().filter(|(name, _)| !kept.contains(&name.as_str())) {
        form.retain(|(each, _)| each != name);
        let items = match value {
            Value::Null => &[][..],
            Value::Array(items) => items,
            value => std::slice::from_ref(value),
        };
        form.extend(
            items.iter().map(|item| (name.clone(), item.as_str().map_or_else(|| item.to_string(), Into::into))),
        );
    }
}

/// The value of a form's parameter.
pub(super) fn parameter<'a>(form: &'a Form, name: &str) -> Option<&'a str> {
    form.iter().find(|(each, _)| each == name).map(|(_, value)| value.as_str())
}

/// What an HTTP status means by itself, because the vendor's code is missing or unknown.
///
/// | status | means |
/// |---|---|
/// | 429 | throttled |
/// | 401, 403, 404, 405, 3xx | misconfigured: the account, or the address |
/// | 408 | try later: the request did not arrive whole |
/// | other 4xx | refused |
/// | 502, 504 | no answer: something in between lost it |
/// | other 5xx | try later |
/// | 1xx, 2xx | no answer: not the vendor's, or cut; it may have been sent |
pub(super) fn by_status(status: StatusCode, after: Option<Duration>) -> Outcome {
    match status.as_u16() {
        ..=299 | 502 | 504 => Outcome::NoAnswer,
        429 => Outcome::Throttled { after },
        401 | 403 | 404 | 405 | 300..=399 => Outcome::Misconfigured,
        408 | 500.. => Outcome::TryLater { after },
        400..=499 => Outcome::Refused,
    }
}

/// A setting that is an `http://` or `https://` address. It may hold an account, so errors do not quote it.
pub(super) fn url(key: &str, text: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| ConfigError::invalid(key, "is not an http:// or https:// address"))
}

/// Refuses limits that cannot work. `key` is the provider's section.
pub(super) fn check_limits(key: &str, timeout_ms: u64, concurrency: usize) -> Result<(), ConfigError> {
    match (timeout_ms, concurrency) {
        (1.., 1..=1_000) => Ok(()),
        _ => Err(ConfigError::invalid(key, "`timeout_ms` must be more than 0, and `concurrency` 1 to 1,000")),
    }
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::Channel;
    use serde_json::json;

    use super::*;
    use crate::testing::delivery;

    #[test]
    fn overrides_replace_add_and_remove_but_not_what_is_kept() {
        let over = json!({"To": "+1", "Body": "other", "List": ["a", 2], "Map": {"k": true}, "Gone": null});
        let overrides = [("x".to_owned(), over), ("y".to_owned(), json!({"Body": "not ours"}))];
        let delivery = Delivery { overrides: overrides.into_iter().collect(), ..delivery(Channel::Sms) };
        let mut form: Form = [("To", "+49"), ("Body", "text"), ("Gone", "1")].map(|(k, v)| (k.into(), v.into())).into();
        lay_over(&mut form, &delivery, "x", &["To"]);
        form.sort();
        let expected = [("Body", "other"), ("List", "2"), ("List", "a"), ("Map", "{\"k\":true}"), ("To", "+49")];
        assert_eq!(form, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn a_status_has_a_meaning_of_its_own() {
        let after = Some(Duration::from_secs(3));
        let later = Outcome::TryLater { after };
        for (status, expected) in [
            (200, Outcome::NoAnswer),
            (302, Outcome::Misconfigured),
            (400, Outcome::Refused),
            (401, Outcome::Misconfigured),
            (403, Outcome::Misconfigured),
            (404, Outcome::Misconfigured),
            (408, later),
            (422, Outcome::Refused),
            (429, Outcome::Throttled { after }),
            (500, later),
            (502, Outcome::NoAnswer),
            (503, later),
            (504, Outcome::NoAnswer),
            (599, later),
            (999, later),
        ] {
            assert_eq!(by_status(StatusCode::from_u16(status).unwrap(), after), expected, "{status}");
        }
    }

    #[test]
    fn what_is_no_phone_gets_no_sms() {
        assert_eq!(number(&delivery(Channel::Sms)).unwrap(), "+491711234567");
        assert_eq!(number(&delivery(Channel::Email)).unwrap_err().outcome, Outcome::Misconfigured);
    }
}
