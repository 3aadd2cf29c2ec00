//! Everything about a submission that can be checked without asking anybody: what it says, and what its app may say.
//!
//! Guarantee: the verdict depends on the message, on what the installation allows, and on nothing else. So every door into
//! the pipeline calls this, and the same bytes get the same verdict at each: one that answers its producer refuses what
//! the stage would reject, with the same violations. Only the record of a category is known to the stage alone;
//! [`check_category`] judges it where it is known.
//!
//! Pure, so a crash changes nothing.

use chasqui_contract::Submitted;
use chasqui_rules::Permissions;
use chasqui_schemas::{
    Reason, header,
    record::Category,
    subject,
    submission::{self, MAX_DATA_BYTES},
};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    parse, rules,
    schema::Schema,
    settings::Allowed,
    spelling,
    violations::{Violation, Violations},
};

/// Maximum characters of an idempotency key, from the field or the header: as `submission.json` says of the field.
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// The checks, ready to be made.
pub struct Checks {
    allowed: Allowed,
    schema: Schema,
}

/// Why a submission becomes no notifications.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// The worst of its violations.
    pub reason: Reason,
    /// Every one of them, up to a limit.
    pub violations: Vec<Violation>,
    /// The submission's own id, where it could be read.
    pub request_id: Option<Uuid>,
}

impl Refused {
    pub(crate) fn new(reason: Reason, path: &str, what: impl AsRef<str>) -> Self {
        let mut violations = Violations::default();
        match reason {
            Reason::Invalid => violations.add(path, what.as_ref()),
            other => violations.add_not_allowed(other, path, what.as_ref()),
        }
        Refused { reason, violations: violations.into_list(&[]), request_id: None }
    }
}

impl Checks {
    /// Checks against the contract, and what `allowed` says.
    pub fn new(allowed: Allowed) -> Self {
        Checks { allowed, schema: Schema::new() }
    }

    /// What the installation allows.
    pub fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// The fields of the submission under the contract's own names, if nothing is wrong with it. `may`: what its app may.
    ///
    /// # Errors
    /// Names every violation, up to a limit.
    pub fn check(&self, submitted: &Submitted, may: &Permissions) -> Result<Map<String, Value>, Refused> {
        let mut fields = read(submitted)?;
        let request_id = own_id(&fields);
        let checked = self.check_fields(submitted, may, &mut fields).and_then(|()| check_digits(submitted, &fields));
        checked.map_err(|refused| Refused { request_id, ..refused })?;
        Ok(fields)
    }

    fn check_fields(
        &self,
        submitted: &Submitted,
        may: &Permissions,
        fields: &mut Map<String, Value>,
    ) -> Result<(), Refused> {
        let (app, lane) = (submitted.app.as_str(), submitted.lane);
        if !may.lane(lane) {
            let what = format!("the app `{app}` may not publish on the lane `{lane}`");
            return Err(Refused::new(Reason::LaneNotAllowed, "subject", what));
        }
        let mut violations = Violations::default();
        if !subject::is_app(app) {
            violations.add("subject", "an app's name is one token of 1 to 64 letters, digits, `-` and `_`");
        }
        let renamed = spelling::normalise(fields, &mut violations);
        // Schema and rules both read the raw value, so that one kind of violation does not hide the other.
        let mut value = Value::Object(std::mem::take(fields));
        self.schema.check(&mut value, &mut violations);
        if let Value::Object(checked) = &mut value {
            let room = rules::Room { allowed: &self.allowed, stored_at: submitted.incoming.stored_at };
            rules::check(checked, &room, &mut violations);
            rules::check_permissions(checked, may, &self.allowed, &mut violations);
            *fields = std::mem::take(checked);
        }
        if !fields.contains_key("idempotency_key") {
            check_message_id(submitted.incoming.message_id.as_deref(), &mut violations);
        }
        if violations.is_empty() {
            return Ok(());
        }
        let reason = violations.reason();
        Err(Refused { reason, violations: violations.into_list(&renamed), request_id: None })
    }
}

/// Whether the app may use the category of `fields`, given its record where it is known.
///
/// # Errors
/// Says why not.
pub fn check_category(
    may: &Permissions,
    fields: &Map<String, Value>,
    record: Option<&Category>,
) -> Result<(), Refused> {
    match may.category(category(fields), record) {
        Some(what) => Err(Refused::new(Reason::CategoryNotAllowed, "category", what)),
        None => Ok(()),
    }
}

/// The category of a submission that passed every check.
pub(crate) fn category(fields: &Map<String, Value>) -> &str {
    fields.get("category").and_then(Value::as_str).unwrap_or_default()
}

/// The rules have measured the values of `data`; the digits of its numbers, which are kept, may be more.
fn check_digits(submitted: &Submitted, fields: &Map<String, Value>) -> Result<(), Refused> {
    let data = fields.get("data").and_then(Value::as_object);
    let written = data.and_then(|data| parse::digits(data, &submitted.incoming.payload));
    match written.map(|data| data.as_str().len()) {
        Some(bytes) if bytes > MAX_DATA_BYTES => {
            let what = format!("{bytes} bytes as compact JSON; at most {MAX_DATA_BYTES} are taken");
            Err(Refused::new(Reason::Invalid, "data", what))
        }
        _ => Ok(()),
    }
}

/// The id that a submission names itself.
pub fn own_id(fields: &Map<String, Value>) -> Option<Uuid> {
    fields.get("id").and_then(Value::as_str).and_then(|id| Uuid::parse_str(id).ok())
}

/// The fields of a submission that can be read.
fn read(submitted: &Submitted) -> Result<Map<String, Value>, Refused> {
    let incoming = &submitted.incoming;
    if incoming.unreadable_headers.is_some() {
        let what = "they break the protocol: names are visible ASCII without `:`, values are UTF-8 without line breaks, \
                    and a message has no status";
        return Err(Refused::new(Reason::UnreadableHeaders, "headers", what));
    }
    if incoming.payload.len() > submission::MAX_BYTES {
        let what = format!("{} bytes; at most {} are taken", incoming.payload.len(), submission::MAX_BYTES);
        return Err(Refused::new(Reason::TooLarge, "submission", what));
    }
    parse::fields(incoming.content_type.as_deref(), &incoming.payload)
        .map_err(|what| Refused::new(Reason::Malformed, "submission", what))
}

/// The header is the idempotency key where the field is absent, so the field's rules hold for it.
fn check_message_id(message_id: Option<&str>, violations: &mut Violations) {
    let Some(message_id) = message_id else { return };
    if message_id.chars().count() > MAX_IDEMPOTENCY_KEY {
        violations.add(header::MSG_ID, "longer than 255 characters; give a shorter `idempotency_key`");
    }
    if message_id.chars().any(char::is_control) {
        violations.add(header::MSG_ID, "control characters are not allowed");
    }
}
