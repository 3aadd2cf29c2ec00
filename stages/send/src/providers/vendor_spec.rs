//! Checks JSON against the schema that a vendor's OpenAPI document has for it.

use jsonschema::Validator;
use serde_json::{Value, json};

/// A vendor's schema.
pub(super) struct Spec(Validator);

impl Spec {
    /// The schema at a JSON pointer of an OpenAPI document, its references resolved within the document. Vendors leave
    /// objects open; here they are closed where their properties are listed, so that a misspelt name is found.
    pub(super) fn new(mut document: Value, pointer: &str) -> Self {
        assert!(document.pointer(pointer).is_some(), "{pointer}");
        close(&mut document);
        document["$ref"] = json!(format!("#{pointer}"));
        Spec(jsonschema::options().should_validate_formats(true).build(&document).unwrap())
    }

    /// What is wrong with a value.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        self.0.validate(value).map_err(|error| format!("{}: {error}", error.instance_path()))
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
