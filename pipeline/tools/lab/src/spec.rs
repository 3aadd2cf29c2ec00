//! The vendors' own specifications (`specs/`) as validators of requests.
//!
//! Guarantee: a document that cannot be used keeps the lab from starting; nothing is checked less because of it.

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

use crate::StartError;

/// What a request's body must be.
pub(crate) struct Spec {
    schema: Value,
    validator: Validator,
}

impl Spec {
    /// The schema at `pointer` of an OpenAPI document. Fields it does not name are refused, unless it
    /// allows them; `more` are those that only its examples name.
    pub(crate) fn openapi(name: &'static str, text: &str, pointer: &str, more: &[&str]) -> Result<Self, StartError> {
        let document = closed(&parse(name, text)?);
        let missing = || StartError::Spec { name, reason: format!("nothing at {pointer}") };
        let mut schema = document.pointer(pointer).ok_or_else(missing)?.clone();
        if let Some(reference) = schema["$ref"].as_str() {
            schema = document.pointer(reference.trim_start_matches('#')).ok_or_else(missing)?.clone();
        }
        let root = schema.as_object_mut().ok_or_else(missing)?;
        if let Some(properties) = root.get_mut("properties").and_then(Value::as_object_mut) {
            properties.extend(more.iter().map(|field| ((*field).to_owned(), json!({ "type": "string" }))));
        }
        // Where references of the schema lead.
        root.insert("components".into(), document["components"].clone());
        // OpenAPI 3.0's `nullable` stands in answers only; for the rest 3.0 and 3.1 mean the same by these schemas.
        Self::build(name, schema)
    }

    /// The schema `id` of one of Google's discovery documents. Unknown fields are refused, as Google does.
    pub(crate) fn discovery(name: &'static str, text: &str, id: &str) -> Result<Self, StartError> {
        let document = parse(name, text)?;
        Self::build(
            name,
            json!({ "$ref": format!("#/$defs/{id}"), "$defs": discovered(&closed(&document["schemas"])) }),
        )
    }

    fn build(name: &'static str, schema: Value) -> Result<Self, StartError> {
        let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true);
        let validator = options.build(&schema).map_err(|e| StartError::Spec { name, reason: e.to_string() })?;
        Ok(Spec { schema, validator })
    }

    /// What is wrong with a document first: where, and why, without its values.
    pub(crate) fn violation(&self, document: &Value) -> Option<(String, String)> {
        // Nearly every document is right, and answering just that is several times as fast.
        if self.validator.is_valid(document) {
            return None;
        }
        let error = self.validator.iter_errors(document).next()?;
        let place = error.instance_path().to_string().trim_start_matches('/').replace('/', ".");
        Some((place, error.masked().to_string()))
    }

    /// Whether the specification has a field of this name.
    pub(crate) fn names(&self, field: &str) -> bool {
        !self.schema["properties"][field].is_null()
    }

    /// Form fields as the JSON document that the schema speaks of: repeated ones become arrays, and text that is a
    /// number or a truth value becomes one where the schema wants it.
    pub(crate) fn typed(&self, fields: &[(String, String)]) -> Value {
        let mut document = Map::new();
        for (name, text) in fields {
            let declared = &self.schema["properties"][name.as_str()];
            match declared["type"].as_str() {
                Some("array") => {
                    let items = document.entry(name.as_str()).or_insert_with(|| json!([]));
                    if let Some(items) = items.as_array_mut() {
                        items.push(Value::String(text.clone()));
                    }
                }
                Some("integer" | "number" | "boolean") => {
                    let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
                    document.insert(name.clone(), value);
                }
                _ => {
                    document.insert(name.clone(), Value::String(text.clone()));
                }
            }
        }
        Value::Object(document)
    }
}

fn parse(name: &'static str, text: &str) -> Result<Value, StartError> {
    serde_json::from_str(text).map_err(|e| StartError::Spec { name, reason: e.to_string() })
}

/// The same document, in which objects have the members they name and no others, unless they say otherwise: a field
/// with a wrong name must not pass as one that the vendor ignores.
fn closed(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut schema: Map<String, Value> =
                members.iter().map(|(key, member)| (key.clone(), closed(member))).collect();
            if members.contains_key("properties") && !schema.contains_key("additionalProperties") {
                schema.insert("additionalProperties".into(), Value::Bool(false));
            }
            Value::Object(schema)
        }
        Value::Array(items) => Value::Array(items.iter().map(closed).collect()),
        other => other.clone(),
    }
}

/// Discovery's dialect as JSON Schema: references are bare names, and `any` is a type. Formats become patterns where
/// Google's parser insists on them.
fn discovered(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut schema = Map::new();
            for (key, member) in members {
                match (key.as_str(), member.as_str()) {
                    ("$ref", Some(id)) => schema.insert("$ref".into(), json!(format!("#/$defs/{id}"))),
                    ("type", Some("any")) => None,
                    ("format", Some("google-duration")) => {
                        schema.insert("pattern".into(), json!(r"^-?[0-9]+(\.[0-9]{1,9})?s$"))
                    }
                    ("id" | "format" | "description" | "enumDescriptions" | "deprecated", Some(_)) => None,
                    _ => schema.insert(key.clone(), discovered(member)),
                };
            }
            Value::Object(schema)
        }
        Value::Array(items) => Value::Array(items.iter().map(discovered).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vendors' own examples of requests in a document.
    fn examples(text: &str, pointer: &str) -> Vec<Value> {
        let document: Value = serde_json::from_str(text).unwrap();
        let examples = document.pointer(pointer).unwrap().as_object().unwrap();
        examples.values().map(|example| example["value"].clone()).collect()
    }

    #[test]
    fn the_vendors_own_examples_are_right() {
        let (twilio, sendgrid) = (
            include_str!("../specs/twilio_messages.openapi.json"),
            include_str!("../specs/sendgrid_mail_v3.openapi.json"),
        );
        let form = "/paths/~12010-04-01~1Accounts~1{AccountSid}~1Messages.json/post/requestBody/content/\
                    application~1x-www-form-urlencoded";
        let mail = "/components/requestBodies/PostMailSend/content/application~1json";
        let more: &[&str] = &["Tags"];
        for (name, text, pointer, more) in [("twilio", twilio, form, more), ("sendgrid", sendgrid, mail, &[])] {
            let spec = Spec::openapi(name, text, &format!("{pointer}/schema"), more).unwrap();
            let examples = examples(text, &format!("{pointer}/examples"));
            assert!(!examples.is_empty());
            for example in examples {
                assert_eq!(spec.violation(&example), None, "{example}");
            }
        }
    }
}
