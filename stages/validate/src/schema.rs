//! The published JSON Schema of a submission, and its violations in words that help a producer.
//!
//! The schema is generated from [`Submission`] itself: `schemas/json/submission.json` is the same document.

use chasqui_schemas::submission::{MAX_RECIPIENTS, Submission};
use jsonschema::{
    ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
    paths::{Location, LocationSegment},
};
use serde_json::Value;

use crate::{
    parse::kind,
    violations::{Violations, clip, escaped},
};

/// Maximum characters of an unknown field's name in a violation: as long as names in the contract may be.
const MAX_NAME: usize = 64;

/// The compiled schema.
pub(crate) struct Schema {
    validator: Validator,
    /// The names of fields at the top, in recipients and in content, for suggestions.
    names: Vec<String>,
}

impl Schema {
    #[expect(clippy::expect_used, reason = "the schema is generated from our own type; every test compiles it")]
    pub(crate) fn new() -> Self {
        let schema = schemars::schema_for!(Submission).to_value();
        let validator = jsonschema::draft202012::options()
            .should_validate_formats(true)
            .build(&schema)
            .expect("the generated schema of Submission is a JSON Schema");
        let objects = ["/properties", "/$defs/RecipientObject/properties", "/$defs/Content/properties"];
        let names = objects
            .iter()
            .filter_map(|pointer| schema.pointer(pointer)?.as_object())
            .flat_map(|properties| properties.keys().cloned())
            // Whoever writes `text` means `body`.
            .filter(|name| name != "test")
            .collect();
        Schema { validator, names }
    }

    /// Adds every violation of the schema. Lists that are too long are cut short: the submission is refused anyway.
    pub(crate) fn check(&self, submission: &mut Value, violations: &mut Violations) {
        // Nearly every submission is valid, and `is_valid` is several times as fast as listing errors.
        if self.validator.is_valid(submission) {
            return;
        }
        // One item too many gives the same violation as a million, which would take a second to check.
        for name in ["recipients", "channels"] {
            if let Some(list) = submission.get_mut(name).and_then(Value::as_array_mut) {
                list.truncate(MAX_RECIPIENTS + 1);
            }
        }
        for error in self.validator.iter_errors(submission) {
            self.explain(&error, violations);
            if violations.are_enough() {
                break;
            }
        }
    }

    fn explain(&self, error: &ValidationError<'_>, violations: &mut Violations) {
        let location = error.instance_path();
        let (at, path) = (location.as_str(), path(location));
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                for name in unexpected {
                    if violations.are_enough() {
                        break;
                    }
                    let pointer = format!("{at}/{}", escaped(&clip(name, MAX_NAME)));
                    violations.add_at(pointer, join(&path, name), self.unknown(name));
                }
            }
            ValidationErrorKind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                violations.add_at(format!("{at}/{}", escaped(name)), join(&path, name), "is required");
            }
            ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
                // The branch that is meant is the one of the right type; what is wrong in there helps.
                let is_other_kind = |inner: &ValidationError<'_>| {
                    matches!(inner.kind(), ValidationErrorKind::Constant { .. } | ValidationErrorKind::Type { .. })
                        && inner.instance_path() == error.instance_path()
                };
                let meant = context.iter().find(|branch| !branch.iter().any(is_other_kind));
                match meant {
                    Some(branch) => branch.iter().for_each(|error| self.explain(error, violations)),
                    None => violations.add_at(at.to_owned(), named(path), alternatives(context)),
                }
            }
            other => violations.add_at(at.to_owned(), named(path), words(other, error.instance())),
        }
    }

    fn unknown(&self, name: &str) -> String {
        let near = self.names.iter().map(|known| (strsim::damerau_levenshtein(known, &clip(name, MAX_NAME)), known));
        match near.min() {
            Some((distance @ 1..=2, known)) if distance < known.len() / 2 => {
                format!("unknown field; did you mean `{known}`?")
            }
            _ => "unknown field".to_owned(),
        }
    }
}

fn alternatives(context: &[Vec<ValidationError<'static>>]) -> String {
    let expected = context.iter().flatten().map(|error| match error.kind() {
        ValidationErrorKind::Constant { expected_value } => {
            format!("`{}`", expected_value.as_str().unwrap_or_default())
        }
        ValidationErrorKind::Type { kind } => types(kind),
        other => other.keyword().to_owned(),
    });
    format!("must be {}", expected.collect::<Vec<_>>().join(" or "))
}

fn words(broken: &ValidationErrorKind, value: &Value) -> String {
    match broken {
        ValidationErrorKind::Type { kind: expected } => format!("must be {}, not {}", types(expected), kind(value)),
        ValidationErrorKind::Format { format } if format == "uuid" => {
            "must be a UUID, such as 018f4d5e-7b1a-7c3d-9e2f-0123456789ab".to_owned()
        }
        ValidationErrorKind::Format { format } if format == "date-time" => {
            "must be an RFC 3339 time, such as 2026-01-31T09:00:00Z".to_owned()
        }
        ValidationErrorKind::MinLength { limit: 1 } => "must not be empty".to_owned(),
        ValidationErrorKind::MinLength { limit } => format!("is shorter than {limit} characters"),
        ValidationErrorKind::MaxLength { limit } => format!("is longer than {limit} characters"),
        ValidationErrorKind::MinItems { limit: 1 } => "must not be empty".to_owned(),
        ValidationErrorKind::MinItems { limit } => format!("has fewer than {limit} items"),
        ValidationErrorKind::MaxItems { limit } => format!("has more than {limit} items"),
        other => format!("breaks the rule `{}` of the JSON Schema", other.keyword()),
    }
}

fn types(expected: &TypeKind) -> String {
    let names: Vec<String> = match expected {
        TypeKind::Single(one) => vec![one.to_string()],
        // Null means the same as an absent field, so no violation suggests it.
        TypeKind::Multiple(several) => {
            several.iter().map(|each| each.to_string()).filter(|each| each != "null").collect()
        }
    };
    let article = |name: &str| match name {
        "string" => "a text".to_owned(),
        "array" => "a list".to_owned(),
        "object" => "an object".to_owned(),
        "null" => "absent".to_owned(),
        other => format!("a {other}"),
    };
    names.iter().map(|name| article(name)).collect::<Vec<_>>().join(" or ")
}

/// `/recipients/0/user` as `recipients[0].user`.
fn path(location: &Location) -> String {
    location.segments().fold(String::new(), |path, segment| match segment {
        LocationSegment::Index(index) => format!("{path}[{index}]"),
        LocationSegment::Property(name) => join(&path, &name),
    })
}

fn join(path: &str, name: &str) -> String {
    let name = clip(name, MAX_NAME);
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

fn named(path: String) -> String {
    if path.is_empty() { "submission".to_owned() } else { path }
}
