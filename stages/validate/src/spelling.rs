//! Renames fields that a producer spelled in camelCase.
//!
//! It renames only where the contract names fields: at the top and in recipients. Inside of `data`, `metadata` and
//! `overrides` the names are the producer's own.
//!
//! Pure, so a crash changes nothing.

use serde_json::{Map, Value};

use crate::violations::Violations;

/// Other spellings of the fields of a submission.
const SUBMISSION: &[(&str, &str)] = &[
    ("idempotencyKey", "idempotency_key"),
    ("templateType", "template"),
    ("sendAt", "send_at"),
    ("expiresAt", "expires_at"),
    ("collapseKey", "collapse_key"),
    ("transactionId", "transaction_id"),
];
/// Other spellings of the fields of a recipient.
const RECIPIENT: &[(&str, &str)] = &[("userId", "user"), ("timeZone", "timezone")];

/// Renames every such field. A field that is given in both spellings is a violation.
pub(crate) fn normalise(fields: &mut Map<String, Value>, violations: &mut Violations) {
    rename(fields, SUBMISSION, "", violations);
    if let Some(Value::Array(recipients)) = fields.get_mut("recipients") {
        for (index, recipient) in recipients.iter_mut().enumerate() {
            if let Value::Object(recipient) = recipient {
                rename(recipient, RECIPIENT, &format!("recipients[{index}]."), violations);
            }
        }
    }
}

fn rename(fields: &mut Map<String, Value>, spellings: &[(&str, &str)], path: &str, violations: &mut Violations) {
    for (other, own) in spellings {
        let Some(value) = fields.remove(*other) else { continue };
        if fields.contains_key(*own) {
            violations.add(format_args!("{path}{own}"), format_args!("is there twice, also as `{other}`"));
        } else {
            fields.insert((*own).to_owned(), value);
        }
    }
}
