//! Whether a submission that came over HTTP may go in: the checks of the stage, made before anything is stored.
//!
//! Guarantee: what is judged good here is what the stage forwards, but for the record of a category that the app's own words
//! do not name, and for what an operator changes in between. Then the trace says so.
//!
//! Pure, so a crash changes nothing.

use bytes::Bytes;
use chasqui_contract::{IncomingMessage, Submitted};
use chasqui_schemas::{Lane, Reason, api::ProblemError, subject};
use chasqui_validate::{Checks, checks};
use jiff::Timestamp;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::document;
use crate::{caller::Caller, problem::Problem};

/// A submission that may go in.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) lane: Lane,
    pub(crate) id: Uuid,
    pub(crate) recipients: u32,
    pub(crate) payload: Bytes,
    /// Under the contract's own names.
    pub(crate) fields: Map<String, Value>,
}

/// Judges a body. It gets `id` where it has none.
pub(crate) fn judge(
    checks: &Checks,
    caller: &Caller,
    body: &[u8],
    id: Uuid,
    now: Timestamp,
) -> Result<Judged, Problem> {
    let document = document::read(body, id, caller.test);
    let lane = document.lane.unwrap_or(Lane::Normal);
    let may = &caller.app.may;
    let submitted = submitted(&caller.app.name, lane, document.payload, now);
    let checked = checks.check(&submitted, may);
    let checked = checked.and_then(|fields| checks::check_category(may, &fields, None).map(|()| fields));
    let fields = match (checked, document.lane) {
        (Ok(fields), Ok(_)) => fields,
        (checked, lane) => {
            let mut problem = match checked {
                Ok(_) => Problem::invalid(),
                Err(refused) => Problem::from(refused),
            };
            if lane.is_err() {
                let words = Lane::ALL.map(Lane::as_str).join(", ");
                let (pointer, reason) = ("/lane".to_owned(), Reason::Invalid.to_string());
                problem.body.errors.push(ProblemError { pointer, detail: format!("must be one of {words}"), reason });
            }
            return Err(problem);
        }
    };
    let recipients = fields.get("recipients").and_then(Value::as_array).map_or(0, Vec::len);
    let recipients = u32::try_from(recipients).unwrap_or(u32::MAX);
    let id = checks::own_id(&fields).unwrap_or(id);
    Ok(Judged { lane, id, recipients, payload: submitted.incoming.payload, fields })
}

/// The message that the stage will see, as far as checks look at it.
pub(crate) fn submitted(app: &str, lane: Lane, payload: Bytes, now: Timestamp) -> Submitted {
    let incoming = IncomingMessage {
        subject: subject::submit(lane, app).into(),
        payload,
        content_type: Some("application/json".into()),
        message_id: None,
        traceparent: None,
        door: None,
        unreadable_headers: None,
        stored_at: now,
        sequence: 0,
        index: 0,
    };
    Submitted { incoming, lane, app: app.to_owned() }
}

#[cfg(test)]
mod tests;
