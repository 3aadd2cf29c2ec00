//! What a request says, as JSON or as a form: a producer's `overrides.<provider>` laid over it, and its size.
//!
//! Guarantee: pure. What nobody may set is left out here too, although validate refuses it. What else a provider keeps for
//! itself (our ids, credentials), it writes after the overrides or names to [`lay_over_form`].

use chasqui_contract::{Answer, Outcome};
use chasqui_rules::permissions::{covers_any, plain};
use chasqui_schemas::Delivery;
use serde_json::{Map, Value};

/// The parameters of a form; some names may stand more than once. It may hold a credential: it is never shown.
pub(super) type Form = Vec<(String, String)>;

/// Lays `overrides.<provider>` over a JSON payload, without what `never` covers.
pub(super) fn lay_over(payload: &mut Map<String, Value>, delivery: &Delivery, provider: &str, never: &[&str]) {
    if let Some(Value::Object(over)) = delivery.overrides.get(provider) {
        let mut over = over.clone();
        leave_out(&mut over, "", never);
        merge(payload, &over);
    }
}

fn leave_out(over: &mut Map<String, Value>, path: &str, never: &[&str]) {
    over.retain(|name, value| {
        let inside = if path.is_empty() { plain(name) } else { format!("{path}.{}", plain(name)) };
        if let Value::Object(fields) = value {
            leave_out(fields, &inside, never);
        }
        !covers_any(never, &inside)
    });
}

/// JSON Merge Patch ([RFC 7396](https://www.rfc-editor.org/rfc/rfc7396)): objects are merged, null removes, anything
/// else replaces.
pub(super) fn merge(into: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, over) in over {
        match over {
            Value::Null => _ = into.remove(key),
            Value::Object(over) => edit(into, key, |object| merge(object, over)),
            _ => _ = into.insert(key.clone(), over.clone()),
        }
    }
}

/// Changes the object at `key`; what stands there and is none gives way to one.
pub(super) fn edit(payload: &mut Map<String, Value>, key: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut object = match payload.remove(key) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    };
    change(&mut object);
    payload.insert(key.to_owned(), Value::Object(object));
}

/// Lays `overrides.<provider>` over a form: each member becomes a parameter, a list one for each of its items, an object
/// its JSON; null takes the parameter away. What `kept` covers stays as it is, however an override spells it.
pub(super) fn lay_over_form(form: &mut Form, delivery: &Delivery, provider: &str, kept: &[&str]) {
    let Some(Value::Object(over)) = delivery.overrides.get(provider) else { return };
    for (name, value) in over.iter().filter(|(name, _)| !covers_any(kept, &plain(name))) {
        form.retain(|(each, _)| !each.eq_ignore_ascii_case(name));
        form.extend(values(value).into_iter().map(|value| (name.clone(), value)));
    }
}

fn values(value: &Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.iter().flat_map(values).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

/// The value of a form's parameter, the first one.
pub(super) fn parameter<'a>(form: &'a Form, name: &str) -> Option<&'a str> {
    form.iter().find(|(each, _)| each == name).map(|(_, value)| value.as_str())
}

/// Refuses what is larger than `max`. `what` is what is counted: `"bytes of payload"`.
pub(super) fn check_size(what: &str, size: usize, max: usize) -> Result<(), Box<Answer>> {
    if size <= max {
        return Ok(());
    }
    Err(Answer::new(Outcome::Refused, "too_large", format!("{size} {what}, of {max} at most")).into())
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::Channel;
    use serde_json::json;

    use super::*;
    use crate::testing::delivery_by;

    fn overridden(over: Value) -> Delivery {
        let overrides = [("x".to_owned(), over), ("y".to_owned(), json!({ "to": "not ours" }))].into_iter().collect();
        Delivery { overrides, ..delivery_by(Channel::Email) }
    }

    #[test]
    fn objects_are_merged_deeply_and_null_removes() {
        let mut payload = json!({ "a": { "b": { "c": 1, "d": [1] } }, "e": 1, "f": "text" });
        let over = json!({ "a": { "b": { "d": [2] }, "g": true }, "e": null, "f": { "h": { "i": null } } });
        lay_over(payload.as_object_mut().unwrap(), &overridden(over), "x", &[]);
        assert_eq!(payload, json!({ "a": { "b": { "c": 1, "d": [2] }, "g": true }, "f": { "h": {} } }));
    }

    #[test]
    fn what_nobody_may_set_is_left_out() {
        let mut payload = json!({ "a": 1 });
        let over =
            json!({ "to": 1, "To": 1, "s": { "BYPASS_x": 1, "bypa\u{17f}\u{17f}_y": {}, "z": 1 }, "s.bypass_z": 1 });
        lay_over(payload.as_object_mut().unwrap(), &overridden(over), "x", &["to", "s.bypass_*"]);
        assert_eq!(payload, json!({ "a": 1, "s": { "z": 1 } }));
    }

    #[test]
    fn parameters_are_replaced_added_and_removed_but_not_what_is_kept() {
        let over = json!({
            "to": "+1", "Body": "other", "list": ["a", 2, null, ["b"]], "map": { "k": true }, "Gone": null,
        });
        let mut form: Form = [("To", "+49"), ("body", "text"), ("gone", "1")].map(|(k, v)| (k.into(), v.into())).into();
        lay_over_form(&mut form, &overridden(over), "x", &["To"]);
        form.sort();
        let expected =
            [("Body", "other"), ("To", "+49"), ("list", "2"), ("list", "a"), ("list", "b"), ("map", "{\"k\":true}")];
        assert_eq!(form, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(parameter(&form, "To"), Some("+49"));
    }

    #[test]
    fn what_is_too_large_is_refused() {
        assert!(check_size("bytes", 10, 10).is_ok());
        let answer = check_size("bytes", 11, 10).unwrap_err();
        let expected = (Outcome::Refused, "too_large", "11 bytes, of 10 at most");
        assert_eq!((answer.outcome, answer.code.as_str(), answer.detail.as_str()), expected);
    }
}
