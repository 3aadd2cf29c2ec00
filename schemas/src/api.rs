//! What the HTTP door says and hears, beside the submission itself.
//!
//! Stored records are not wire types: these are written for those who read answers. [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)
//! for refusals.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a problem's `type` begins with; a [`crate::Reason`] or a [`Refusal`] follows.
pub const PROBLEM_TYPE: &str = "urn:chasqui:reason:";
/// Maximum submissions of a batch.
pub const MAX_BATCH_ITEMS: usize = 1_000;
/// Maximum bytes of a batch.
pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Maximum entries of a page, and how many it has where nobody asks.
pub const MAX_PAGE: usize = 100;
/// Entries of a page where nobody asks for a number.
pub const DEFAULT_PAGE: usize = 50;

crate::vocabulary! {
    /// Why the HTTP door refuses a request, where no [`crate::Reason`] says it: nothing of it went into the pipeline.
    pub enum Refusal "refusal" {
        BadRequest = "bad_request": "The request breaks HTTP, or a parameter or header of it cannot be read.",
        Unauthenticated = "unauthenticated": "No valid key of an app came with the request.",
        Forbidden = "forbidden": "The key is valid, and not for this.",
        NotFound = "not_found": "There is nothing of the app's under this address.",
        MethodNotAllowed = "method_not_allowed": "The address does not take this method.",
        RequestTimeout = "request_timeout": "The request did not come, or could not be answered, in time.",
        BodyTooLarge = "body_too_large": "The body is larger than this address takes.",
        Misdirected = "misdirected": "The request names a host that is not the gateway's.",
        UnsupportedMediaType = "unsupported_media_type": "The body is not `application/json`, or it is compressed.",
        IdempotencyConflict = "idempotency_conflict": "The `Idempotency-Key` was used before, for a request that says something else.",
        TooManyAtOnce = "too_many_at_once": "More recipients than the app may address at once.",
        RateLimited = "rate_limited": "The app has addressed as many recipients as it may for now.",
        QueueFull = "queue_full": "The queue of the lane, or the gateway's spool, has no room.",
        Unavailable = "unavailable": "What the answer needs cannot be reached now.",
        Internal = "internal": "The gateway failed by a fault of its own.",
    }
}

/// A submission that was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    /// The request's id: under it the notifications are found.
    pub id: Uuid,
    /// `accepted`.
    pub status: RequestStatus,
    /// How many recipients it names.
    pub recipients: u32,
    /// Where it is stored.
    pub durability: Durability,
}

/// Where a submission is stored. In either place it outlives the process and the machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// In the broker.
    Stored,
    /// In the gateway's files, until the broker is back.
    Spooled,
}

/// How far a submission has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestStatus {
    /// It was taken; its notifications cannot be seen yet.
    Accepted,
    /// It waits in the gateway's files for the broker.
    Spooled,
    /// It waited there longer than repeats are known, and a person decides.
    Held,
    /// Its notifications can be seen.
    Processed,
}

/// A refusal, as `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// `urn:chasqui:reason:` and a reason code.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means.
    pub title: String,
    /// The status of the answer.
    pub status: u16,
    /// What happened this time, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Everything that is wrong, up to fifty things.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemError>,
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProblemError {
    /// Where in the body, as a JSON pointer (RFC 6901); empty where the whole is meant.
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
    /// A reason code.
    pub reason: String,
}

/// The answer to a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BatchAnswer {
    /// One for each submission, in order.
    pub items: Vec<BatchItem>,
}

/// What became of one submission of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BatchItem {
    /// Its place, from 0.
    pub index: usize,
    /// The status that it would have been answered with alone.
    pub status: u16,
    /// The request's id, if it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Where it is stored, if it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// A submission and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RequestView {
    /// The request's id.
    pub id: Uuid,
    /// How far it has got.
    pub status: RequestStatus,
    /// Its notifications, a hundred at most.
    pub notifications: Vec<NotificationView>,
    /// Whether there are more notifications than these.
    pub more: bool,
}

/// One notification to one recipient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NotificationView {
    /// Its id, which is its trace id.
    pub id: Uuid,
    /// The request that it belongs to.
    pub request_id: Uuid,
    /// The user, if it goes to one; empty for an inline address.
    pub user: String,
    /// The kind of message.
    pub category: String,
    /// How urgent it is.
    pub lane: String,
    /// Where it ended, or `pending`.
    pub state: String,
    /// Why, where there is a reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The producer's own id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub transaction_id: String,
    /// When it was stored.
    pub submitted_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Its deliveries; absent in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<DeliveryView>,
}

/// One notification on its way to one endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeliveryView {
    /// Its id.
    pub id: Uuid,
    /// push, sms, email or in_app.
    pub channel: String,
    /// The account that was called last.
    pub provider: String,
    /// Where it ended, or `pending`.
    pub state: String,
    /// Why, where there is a reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How often a provider was called.
    pub attempts: u32,
    /// When the provider accepted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// When it arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Timestamp>,
    /// When it was first opened by anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<Timestamp>,
    /// When a link was first followed by anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clicked_at: Option<Timestamp>,
}

/// A page of notifications, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NotificationPage {
    /// The notifications.
    pub items: Vec<NotificationView>,
    /// The value of `after` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Submissions that a person decides about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeldPage {
    /// The submissions, of all apps.
    pub items: Vec<HeldView>,
}

/// A submission that waited in the gateway's files longer than repeats are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeldView {
    /// The request's id.
    pub id: Uuid,
    /// Whose it is.
    pub app: String,
    /// When it was taken.
    pub received_at: Timestamp,
    /// Why it is held.
    pub reason: String,
}

/// The JSON Schemas of all of these and of a submission, under one name each, with references that begin with `path`.
pub fn schemas(path: &str) -> BTreeMap<String, serde_json::Value> {
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = path.to_owned().into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    generator.subschema_for::<crate::submission::Submission>();
    generator.subschema_for::<crate::Lane>();
    generator.subschema_for::<Accepted>();
    generator.subschema_for::<Problem>();
    generator.subschema_for::<BatchAnswer>();
    generator.subschema_for::<RequestView>();
    generator.subschema_for::<NotificationPage>();
    generator.subschema_for::<HeldPage>();
    generator.take_definitions(true).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;

    #[test]
    fn a_code_has_one_meaning() {
        for refusal in Refusal::ALL {
            assert!(refusal.as_str().parse::<Reason>().is_err(), "{refusal}");
        }
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        let all = schemas("/components/schemas");
        let text = serde_json::to_string(&all).unwrap();
        for reference in text.split("\"$ref\":\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let name = reference.strip_prefix("#/components/schemas/");
            assert!(name.is_some_and(|name| all.contains_key(name)), "{reference}");
        }
        assert!(all.contains_key("Submission") && all.contains_key("Problem"), "{:?}", all.keys());
    }
}
