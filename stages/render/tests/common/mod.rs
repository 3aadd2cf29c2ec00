//! What the tests of this stage share.
#![allow(dead_code, reason = "not every test file needs all of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use chasqui_contract::{Decide, Decision, Output, Verdict};
use chasqui_render::Render;
use chasqui_rules::Schemes;
use chasqui_schemas::{
    Delivery, Lane, Notification, Reason,
    delivery::{Address, Endpoint},
    notification::{Message, Request},
    record::{Category, Contacts, Platform, Template},
    sample,
    submission::Content,
};
use chasqui_stores::memory::MemoryDirectory;
use futures::FutureExt;
use serde_json::Value;
use uuid::Uuid;

pub(crate) fn device(id: &str) -> Endpoint {
    let address = Address::Device { platform: Platform::Ios, token: format!("token-{id}"), registered_at: None };
    Endpoint { id: id.to_owned(), address }
}

pub(crate) fn phone() -> Endpoint {
    Endpoint { id: "+15551234567".to_owned(), address: Address::Phone("+15551234567".to_owned()) }
}

pub(crate) fn mailbox() -> Endpoint {
    Endpoint { id: "ada@example.com".to_owned(), address: Address::Mailbox("ada@example.com".to_owned()) }
}

pub(crate) fn inbox() -> Endpoint {
    Endpoint { id: "ada".to_owned(), address: Address::Inbox("ada".to_owned()) }
}

pub(crate) fn notification(message: Message, endpoints: Vec<Endpoint>) -> Notification {
    Notification {
        id: Uuid::from_u128(1),
        lane: Lane::High,
        submitted_at: "2026-03-01T12:00:00Z".parse().unwrap(),
        request: Arc::new(Request {
            id: Uuid::from_u128(2),
            message,
            collapse_key: Some("c".to_owned()),
            metadata: BTreeMap::from([("team".to_owned(), "x".to_owned())]),
            ..sample::request()
        }),
        pass: 4,
        contacts: Some(Contacts::default()),
        policy: Some(Category { lane: Some(Lane::Bulk), ttl_s: Some(60), ..Category::default() }),
        endpoints,
        ..sample::notification()
    }
}

pub(crate) fn of_template(data: Value, endpoints: Vec<Endpoint>) -> Notification {
    let data = data.as_object().unwrap().clone();
    notification(Message::Template { key: "t".to_owned(), data: (&data).into() }, endpoints)
}

/// Render without a gateway.
pub(crate) fn reading(directory: MemoryDirectory) -> Render {
    Render::new(Arc::new(directory), None, sample::pepper(), Schemes::default())
}

pub(crate) fn stage(template: Template) -> Render {
    reading(MemoryDirectory::new().with("t", template))
}

/// A template with one text, for every locale.
pub(crate) fn template(channels: Value) -> Template {
    serde_json::from_value(serde_json::json!({ "channels": channels })).unwrap()
}

pub(crate) fn decide(stage: &Render, notification: Notification) -> Decision {
    stage.decide(notification).now_or_never().expect("the twin answers at once").expect("the twin answers")
}

pub(crate) fn deliveries(decision: Decision) -> Vec<Delivery> {
    match decision.verdict {
        Verdict::Forward(outputs) => outputs
            .into_iter()
            .map(|output| match output {
                Output::Delivery(delivery) => delivery,
                Output::Notification(_) => panic!("render makes deliveries"),
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn dead(decision: Decision) -> (Reason, String) {
    match decision.verdict {
        Verdict::Dead { reason, detail } => (reason, detail),
        other => panic!("{other:?}"),
    }
}

/// Renders one e-mail of the given parts.
pub(crate) fn email(parts: Value, data: Value) -> Decision {
    decide(&stage(template(serde_json::json!({"email": {"default": parts}}))), of_template(data, vec![mailbox()]))
}

pub(crate) fn text(decision: Decision) -> Content {
    deliveries(decision).remove(0).content
}
