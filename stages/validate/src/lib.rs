//! Validate, the first stage: reads a submission, checks it against the contract, makes one notification per recipient.
//!
//! Guarantee: whatever the bytes are, the answer is either notifications that every later stage may trust, or a
//! rejection that names every violation the producer has to correct. Hostile input takes bounded time and memory, and
//! makes a bounded rejection.
//!
//! What an app may do is refused here too, with a reason, so that its producer hears of it at once and for the whole
//! submission. What it may stands in the settings, or in its record; whether a category is mandatory stands in that one's
//! record. So validate asks the directory, where the settings do not say it all; these records are few and mirrored in memory. Enrich asks once more, because
//! it reads the record by which everything else is decided, which may be ninety days later.
//!
//! After a crash the same message gives the same notifications under the same ids, because all of them are derived from
//! the message itself: validate has neither clock nor state. So a submission that has already expired goes on, and gets
//! a trace and a terminal state like any other. Only a category that changed in between is judged as it is now.
//!
//! | module | does |
//! |---|---|
//! | `parse` | reads JSON or MessagePack |
//! | `spelling` | renames fields that are spelled in camelCase |
//! | `schema` | checks against the published JSON Schema, and words its violations |
//! | `rules` | checks what a JSON Schema cannot say |
//! | [`settings`] | what an installation allows |
//! | `violations` | collects what is wrong, up to a limit |

mod parse;
mod rules;
mod schema;
pub mod settings;
mod spelling;
mod violations;

use std::{collections::HashSet, sync::Arc};

use chasqui_contract::{Decide, Decision, Directory, Output, StoreError, Submitted, Verdict};
use chasqui_rules::Permissions;
use chasqui_schemas::{
    Channel, Notification, Pepper, Reason, header, id,
    notification::{Message, Recipient, Request},
    record::Contacts,
    subject,
    submission::{self, MAX_DATA_BYTES, Submission},
};
use serde_json::{Map, Value};
use uuid::Uuid;

pub use crate::settings::{Allowed, Settings};
use crate::{schema::Schema, violations::Violations};

/// Maximum characters of an idempotency key, from the field or the header: as `submission.json` says of the field.
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// The validate stage.
pub struct Validate {
    allowed: Allowed,
    directory: Arc<dyn Directory>,
    pepper: Pepper,
    schema: Schema,
}

impl Validate {
    /// `directory`: for the records of categories. `pepper`: for ids.
    pub fn new(allowed: Allowed, directory: Arc<dyn Directory>, pepper: Pepper) -> Self {
        Validate { allowed, directory, pepper, schema: Schema::new() }
    }

    /// Checks what the submission says, and what its app may say.
    fn check_fields(
        &self,
        submitted: &Submitted,
        may: &Permissions,
        fields: &mut Map<String, Value>,
    ) -> Result<(), Rejection> {
        let (app, lane) = (submitted.app.as_str(), submitted.lane);
        if !may.lane(lane) {
            let what = format!("the app `{app}` may not publish on the lane `{lane}`");
            return Err(Rejection::new(Reason::LaneNotAllowed, "subject", what));
        }
        let mut violations = Violations::default();
        if !subject::is_app(app) {
            violations.add("subject", "an app's name is one token of 1 to 64 letters, digits, `-` and `_`");
        }
        spelling::normalise(fields, &mut violations);
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
        if violations.is_empty() { Ok(()) } else { Err(Rejection::of(violations)) }
    }

    /// Checks whether the app may use the category of a submission that is good in all else.
    async fn check_category(
        &self,
        may: &Permissions,
        fields: &Map<String, Value>,
    ) -> Result<Result<(), Rejection>, StoreError> {
        let name = fields.get("category").and_then(Value::as_str).unwrap_or_default();
        let record = match may.categories {
            Some(_) => None,
            None => self.directory.category(name).await?,
        };
        Ok(match may.category(name, record.as_deref()) {
            Some(what) => Err(Rejection::new(Reason::CategoryNotAllowed, "category", what)),
            None => Ok(()),
        })
    }
}

impl Decide for Validate {
    const STAGE: chasqui_schemas::Stage = chasqui_schemas::Stage::Validate;
    type Input = Submitted;

    async fn decide(&self, submitted: Submitted) -> Result<Decision, StoreError> {
        let mut fields = match read(&submitted) {
            Ok(fields) => fields,
            Err(rejection) => return Ok(rejection.into_decision()),
        };
        let own_id = fields.get("id").and_then(Value::as_str).and_then(|id| Uuid::parse_str(id).ok());
        let record = self.allowed.apps.record(&submitted.app, &*self.directory).await?;
        let may = self.allowed.apps.of(&submitted.app, record.as_deref());
        let checked = match self.check_fields(&submitted, may, &mut fields) {
            Ok(()) => self.check_category(may, &fields).await?,
            rejected => rejected,
        };
        let decided = checked.and_then(|()| fan_out(&submitted, fields, &self.pepper));
        Ok(decided.unwrap_or_else(|rejection| Rejection { request_id: own_id, ..rejection }.into_decision()))
    }
}

/// The fields of a submission that can be read.
fn read(submitted: &Submitted) -> Result<Map<String, Value>, Rejection> {
    let incoming = &submitted.incoming;
    if incoming.unreadable_headers.is_some() {
        let what = "they break the protocol: names are visible ASCII without `:`, values are UTF-8 without line breaks, \
                    and a message has no status";
        return Err(Rejection::new(Reason::UnreadableHeaders, "headers", what));
    }
    if incoming.payload.len() > submission::MAX_BYTES {
        let what = format!("{} bytes; at most {} are taken", incoming.payload.len(), submission::MAX_BYTES);
        return Err(Rejection::new(Reason::TooLarge, "submission", what));
    }
    parse::fields(incoming.content_type.as_deref(), &incoming.payload)
        .map_err(|what| Rejection::new(Reason::Malformed, "submission", what))
}

/// Why a submission becomes no notifications.
struct Rejection {
    reason: Reason,
    violations: Vec<String>,
    request_id: Option<Uuid>,
}

impl Rejection {
    fn new(reason: Reason, path: &str, what: impl AsRef<str>) -> Self {
        let mut violations = Violations::default();
        violations.add(path, what.as_ref());
        Rejection { reason, violations: violations.into_list(), request_id: None }
    }

    fn of(violations: Violations) -> Self {
        Rejection { reason: violations.reason(), violations: violations.into_list(), request_id: None }
    }

    fn into_decision(self) -> Decision {
        let Rejection { reason, violations, request_id } = self;
        Decision::new(Verdict::Reject { reason, violations, request_id })
    }
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

/// One notification per recipient of a submission that passed every check.
fn fan_out(submitted: &Submitted, fields: Map<String, Value>, pepper: &Pepper) -> Result<Decision, Rejection> {
    let incoming = &submitted.incoming;
    // Everything that could fail here was refused before, field by field.
    let mut submission: Submission = serde_json::from_value(Value::Object(fields))
        .map_err(|error| Rejection::new(Reason::Invalid, "submission", error.to_string()))?;
    let request_id = submission.id.unwrap_or_else(|| incoming.request_id());
    let message_id = incoming.message_id.as_deref().filter(|message_id| !message_id.is_empty());
    let idempotency_key =
        submission.idempotency_key.take().or(message_id.map(str::to_owned)).unwrap_or_else(|| request_id.to_string());
    let traceparent = incoming.traceparent.as_deref().and_then(header::traceparent).map(str::to_owned);
    submission.channels = submission.channels.map(without_repeats);
    let recipients = std::mem::take(&mut submission.recipients);
    let written = parse::digits(&submission.data, &incoming.payload);
    // The rules have measured the values; digits may be more.
    if let Some(bytes) = written.as_ref().map(|data| data.as_str().len()).filter(|bytes| *bytes > MAX_DATA_BYTES) {
        let what = format!("{bytes} bytes as compact JSON; at most {MAX_DATA_BYTES} are taken");
        return Err(Rejection::new(Reason::Invalid, "data", what));
    }
    let mut request = Request::of(submission, request_id, idempotency_key, traceparent);
    if let (Message::Template { data, .. }, Some(written)) = (&mut request.message, written) {
        *data = written;
    }
    let request = Arc::new(request);

    let asked = recipients.len();
    let mut seen = HashSet::with_capacity(asked);
    let mut outputs = Vec::with_capacity(asked);
    for recipient in recipients.into_iter().map(recipient) {
        let key = pepper.recipient(&recipient);
        let id = id::notification(incoming.stored_at, request_id, &key);
        if seen.insert(key) {
            let (app, request) = (submitted.app.clone(), Arc::clone(&request));
            let notification = Notification::new(id, app, submitted.lane, incoming.stored_at, recipient, request);
            outputs.push(Output::Notification(notification));
        }
    }
    let repeated = asked - outputs.len();
    let decision = Decision::new(Verdict::Forward(outputs));
    Ok(if repeated > 0 { decision.with("repeated_recipients", repeated.to_string()) } else { decision })
}

fn recipient(recipient: submission::Recipient) -> Recipient {
    match recipient {
        submission::Recipient::User(user) => Recipient::User(user),
        submission::Recipient::Object(object) => match object.user {
            Some(user) => Recipient::User(user),
            None => Recipient::Inline(Contacts {
                locale: object.locale,
                timezone: object.timezone,
                emails: object.email.into_iter().collect(),
                phones: object.phone.into_iter().collect(),
                devices: Vec::new(),
            }),
        },
    }
}

fn without_repeats(channels: Vec<Channel>) -> Vec<Channel> {
    let mut kept = Vec::with_capacity(channels.len());
    for channel in channels {
        if !kept.contains(&channel) {
            kept.push(channel);
        }
    }
    kept
}
