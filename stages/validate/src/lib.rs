//! Validate, the first stage: reads a submission, checks it against the contract, makes one notification per recipient.
//!
//! Guarantee: whatever the bytes are, the answer is either notifications that every later stage may trust, or a
//! rejection that names every violation the producer has to correct. What has several spellings (addresses, categories,
//! languages, time zones) goes on in its one normal form ([`chasqui_schemas::normal`]). Hostile input takes bounded time and memory, and
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
//! | [`checks`] | everything that is checked without asking anybody: every door into the pipeline calls it |
//! | `parse` | reads JSON or MessagePack |
//! | `spelling` | renames fields that are spelled in camelCase, or as in the document of older producers |
//! | `schema` | checks against the published JSON Schema, and words its violations |
//! | `rules` | checks what a JSON Schema cannot say |
//! | [`settings`] | what an installation allows |
//! | [`violations`] | collects what is wrong, up to a limit |

pub mod checks;
mod parse;
mod rules;
mod schema;
pub mod settings;
mod spelling;
pub mod violations;

use std::{collections::HashSet, sync::Arc};

use chasqui_contract::{Decide, Decision, Directory, Output, StoreError, Submitted, Verdict};
use chasqui_rules::Permissions;
use chasqui_schemas::{
    Channel, Notification, Pepper, Reason,
    door::Door,
    header, id,
    notification::{Message, Recipient, Request},
    record::Contacts,
    submission::{self, Submission},
};
use serde_json::{Map, Value};

pub use crate::{
    checks::{Checks, Refused},
    settings::{Allowed, Settings},
    violations::Violation,
};

/// The validate stage.
pub struct Validate {
    checks: Checks,
    directory: Arc<dyn Directory>,
    pepper: Pepper,
}

impl Validate {
    /// `directory`: for the records of categories. `pepper`: for ids.
    pub fn new(allowed: Allowed, directory: Arc<dyn Directory>, pepper: Pepper) -> Self {
        Validate { checks: Checks::new(allowed), directory, pepper }
    }

    /// Checks whether the app may use the category of a submission that is good in all else.
    async fn check_category(
        &self,
        may: &Permissions,
        fields: &Map<String, Value>,
    ) -> Result<Result<(), Refused>, StoreError> {
        let record = match may.categories {
            Some(_) => None,
            None => self.directory.category(checks::category(fields)).await?,
        };
        Ok(checks::check_category(may, fields, record.as_deref()))
    }

    async fn judge(&self, submitted: &Submitted) -> Result<Result<Decision, Refused>, StoreError> {
        let apps = &self.checks.allowed().apps;
        let record = apps.record(&submitted.app, &*self.directory).await?;
        let may = apps.of(&submitted.app, record.as_deref());
        let fields = match self.checks.check(submitted, may) {
            Ok(fields) => fields,
            Err(refused) => return Ok(Err(refused)),
        };
        let request_id = checks::own_id(&fields);
        let checked = self.check_category(may, &fields).await?;
        let decided = checked.and_then(|()| fan_out(submitted, fields, &self.pepper));
        Ok(decided.map_err(|refused| Refused { request_id, ..refused }))
    }
}

impl Decide for Validate {
    const STAGE: chasqui_schemas::Stage = chasqui_schemas::Stage::Validate;
    type Input = Submitted;

    async fn decide(&self, submitted: Submitted) -> Result<Decision, StoreError> {
        let mut decision = self.judge(&submitted).await?.unwrap_or_else(rejection);
        if let Some(door) = submitted.incoming.door.as_deref().and_then(Door::parse) {
            decision.attributes.extend(door.attributes());
        }
        Ok(decision)
    }
}

fn rejection(Refused { reason, violations, request_id }: Refused) -> Decision {
    let violations = violations.iter().map(Violation::to_string).collect();
    Decision::new(Verdict::Reject { reason, violations, request_id })
}

/// One notification per recipient of a submission that passed every check.
fn fan_out(submitted: &Submitted, fields: Map<String, Value>, pepper: &Pepper) -> Result<Decision, Refused> {
    let incoming = &submitted.incoming;
    // Everything that could fail here was refused before, field by field.
    let mut submission: Submission = serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        // The path of the submission itself is ".".
        Refused::new(Reason::Invalid, if path == "." { "submission" } else { &path }, error.inner().to_string())
    })?;
    let request_id = submission.id.unwrap_or_else(|| incoming.request_id());
    let message_id = incoming.message_id.as_deref().filter(|message_id| !message_id.is_empty());
    let idempotency_key =
        submission.idempotency_key.take().or(message_id.map(str::to_owned)).unwrap_or_else(|| request_id.to_string());
    let traceparent = incoming.traceparent.as_deref().and_then(header::traceparent).map(str::to_owned);
    submission.channels = submission.channels.map(without_repeats);
    let recipients = std::mem::take(&mut submission.recipients);
    let written = parse::digits(&submission.data, &incoming.payload);
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
