//! Checks a form against the schema that a vendor's OpenAPI document has for it: names, types, patterns, limits.

use jsonschema::Validator;
use reqwest::Url;
use serde_json::{Map, Value, json};

/// The parameters of an encoded form, in order.
pub(super) fn decode(form: &str) -> Vec<(String, String)> {
    let url = Url::parse(&format!("http://form/?{form}")).unwrap();
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// A vendor's schema of a form.
pub(super) struct FormSpec {
    document: Value,
    schema: Value,
    validator: Validator,
}

impl FormSpec {
    /// The schema at a JSON pointer of an OpenAPI document.
    pub(super) fn new(document: &str, pointer: &str) -> Self {
        let document: Value = serde_json::from_str(document).unwrap();
        let mut schema = document.pointer(pointer).unwrap().clone();
        schema["additionalProperties"] = json!(false);
        schema["components"] = document["components"].clone();
        let options = jsonschema::options().should_validate_formats(true);
        let options = options.with_format("phone-number", |number: &str| {
            number
                .strip_prefix('+')
                .is_some_and(|digits| digits.len() <= 15 && digits.bytes().all(|b| b.is_ascii_digit()))
        });
        FormSpec { validator: options.build(&schema).unwrap(), schema, document }
    }

    /// What is wrong with a form.
    pub(super) fn check(&self, form: &[(String, String)]) -> Result<(), String> {
        let mut instance = Map::new();
        for (name, value) in form {
            let value = self.typed(name, value)?;
            match (value, instance.get_mut(name)) {
                (Value::Array(more), Some(Value::Array(there))) => there.extend(more),
                (value, None) => _ = instance.insert(name.clone(), value),
                _ => return Err(format!("`{name}` is there twice")),
            }
        }
        self.validator.validate(&instance.into()).map_err(|error| error.to_string())
    }

    /// A parameter's text as the type that the schema gives it.
    fn typed(&self, name: &str, value: &str) -> Result<Value, String> {
        let mut property = &self.schema["properties"][name];
        if let Some(reference) = property["$ref"].as_str() {
            property = self.document.pointer(reference.trim_start_matches('#')).unwrap();
        }
        let not = |kind| format!("`{name}` is not {kind}");
        match property["type"].as_str() {
            Some("string") => Ok(value.into()),
            Some("integer") => value.parse::<i64>().map(Value::from).map_err(|_| not("an integer")),
            Some("number") => value.parse::<f64>().map(Value::from).map_err(|_| not("a number")),
            Some("boolean") => value.parse::<bool>().map(Value::from).map_err(|_| not("a boolean")),
            Some("array") => Ok(json!([value])),
            _ => Err(not("a parameter")),
        }
    }
}
