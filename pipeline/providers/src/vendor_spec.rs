//! Checks a request against the schema that its vendor's own document has for it: names, types, patterns, limits.

use jsonschema::Validator;
use reqwest::Url;
use serde_json::{Map, Value, json};

use super::payload::Form;

/// The parameters of an encoded form, in order.
pub(super) fn decode(form: &str) -> Form {
    let url = Url::parse(&format!("http://form/?{form}")).unwrap();
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// A vendor's schema.
pub(super) struct Spec {
    document: Value,
    pointer: String,
    validator: Validator,
}

impl Spec {
    /// The schema at a JSON pointer of an OpenAPI document, its references resolved within the document. Vendors leave
    /// objects open; here they are closed where their properties are listed, so that a misspelt name is found.
    pub(super) fn new(mut document: Value, pointer: &str) -> Self {
        assert!(document.pointer(pointer).is_some(), "{pointer}");
        close(&mut document);
        document["$ref"] = json!(format!("#{}", pointer.replace('{', "%7B").replace('}', "%7D")));
        let options = jsonschema::options().should_validate_formats(true);
        let options = options.with_format("phone-number", |number: &str| {
            let digits = number.strip_prefix('+').unwrap_or_default();
            (1..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
        });
        Spec { validator: options.build(&document).unwrap(), document, pointer: pointer.to_owned() }
    }

    /// What is wrong with a value.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        self.validator.validate(value).map_err(|error| format!("{}: {error}", error.instance_path()))
    }

    /// What is wrong with a form.
    pub(super) fn check_form(&self, form: &Form) -> Result<(), String> {
        let mut object = Map::new();
        for (name, value) in form {
            match (self.typed(name, value)?, object.get_mut(name)) {
                (Value::Array(more), Some(Value::Array(there))) => there.extend(more),
                (value, None) => _ = object.insert(name.clone(), value),
                _ => return Err(format!("`{name}` is there twice")),
            }
        }
        self.check(&object.into())
    }

    /// A parameter's text as the type that the schema gives it.
    fn typed(&self, name: &str, text: &str) -> Result<Value, String> {
        let mut property = &self.document.pointer(&self.pointer).unwrap()["properties"][name];
        if let Some(reference) = property["$ref"].as_str() {
            property = self.document.pointer(reference.trim_start_matches('#')).unwrap();
        }
        let parsed = match property["type"].as_str() {
            Some("array") => Some(json!([text])),
            Some("integer") => text.parse::<i64>().ok().map(Value::from),
            Some("number") => text.parse::<f64>().ok().map(Value::from),
            Some("boolean") => text.parse::<bool>().ok().map(Value::from),
            _ => Some(text.into()),
        };
        parsed.ok_or_else(|| format!("`{name}` is not as specified: {property}"))
    }
}

fn close(node: &mut Value) {
    match node {
        Value::Object(object) => {
            if object.get("properties").is_some_and(Value::is_object) {
                object.entry("additionalProperties").or_insert(json!(false));
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
