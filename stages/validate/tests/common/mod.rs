//! What the tests of this stage share.
#![allow(dead_code, reason = "not every test file needs all of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use bytes::Bytes;
use chasqui_contract::{Decide, Decision, IncomingMessage, Output, Submitted, Verdict};
use chasqui_rules::{Apps, Overridable, Permissions, Schemes, Vendors};
use chasqui_schemas::{Lane, Notification, Pepper, Reason};
use chasqui_stores::memory::MemoryDirectory;
use chasqui_validate::{Allowed, Validate};
use futures::FutureExt;
use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::Value;
use uuid::Uuid;

pub(crate) fn submitted(content_type: Option<&str>, payload: impl Into<Bytes>) -> Submitted {
    Submitted {
        lane: Lane::Normal,
        app: "shop".to_owned(),
        incoming: IncomingMessage {
            subject: "notify.submit.normal.shop".into(),
            payload: payload.into(),
            content_type: content_type.map(Into::into),
            message_id: None,
            traceparent: None,
            door: None,
            unreadable_headers: None,
            stored_at: "2026-03-01T12:00:00Z".parse().unwrap(),
            sequence: 7,
            index: 0,
        },
    }
}

pub(crate) fn json(value: &Value) -> Submitted {
    submitted(None, serde_json::to_vec(value).unwrap())
}

pub(crate) fn decide(submitted: Submitted) -> Decision {
    decide_by(&stage(Permissions::default(), MemoryDirectory::new()), submitted)
}

/// Vendors: `inbox` and `apns`, of which all is harmless, and `mail`.
static INBOX: Overridable = Overridable { never: &[], senders: &[], links: &["url"], harmless: &["*"] };
static MAIL: Overridable = Overridable {
    never: &["mail_settings.bypass_*", "personalizations"],
    senders: &["from", "reply_to"],
    links: &[],
    harmless: &["headers.X-*"],
};

/// Validate, with an app `shop` that may do what `shop` says, and others that may do what is not dangerous.
pub(crate) fn stage(shop: Permissions, directory: MemoryDirectory) -> Validate {
    Validate::new(allowed(shop), Arc::new(directory), pepper())
}

pub(crate) fn allowed(shop: Permissions) -> Allowed {
    Allowed {
        apps: Apps { listed: [("shop".to_owned(), shop)].into(), ..Apps::default() },
        vendors: Vendors::from([("apns", &INBOX), ("inbox", &INBOX), ("mail", &MAIL)]),
        schemes: Schemes::new(&["myshop".to_owned()]).unwrap(),
        send_at_horizon: SignedDuration::from_hours(90 * 24),
    }
}

pub(crate) fn pepper() -> Pepper {
    Pepper::new(b"a test's")
}

pub(crate) fn decide_by(stage: &Validate, submitted: Submitted) -> Decision {
    stage.decide(submitted).now_or_never().expect("the twin answers at once").expect("the twin answers")
}

pub(crate) fn notifications(decision: Decision) -> Vec<Notification> {
    match decision.verdict {
        Verdict::Forward(outputs) => outputs
            .into_iter()
            .map(|output| match output {
                Output::Notification(notification) => notification,
                Output::Delivery(_) => panic!("validate makes no deliveries"),
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn rejection(decision: Decision) -> (Reason, Vec<String>, Option<Uuid>) {
    match decision.verdict {
        Verdict::Reject { reason, violations, request_id } => (reason, violations, request_id),
        other => panic!("{other:?}"),
    }
}

/// JSON that has the fields of a submission, with values of any kind.
pub(crate) fn almost_a_submission() -> impl Strategy<Value = Value> {
    let names = "id|idempotency_?[kK]ey|category|recipients|template|content|data|channels|send_at|expiresAt|locale|user|email|phone|timezone|body|x";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "push|ada|ada@example\\.com|\\+15551234567|Asia/Seoul|2026-03-0[1-9]T00:00:00Z|[0-9-]{36}"
            .prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    prop::collection::btree_map(names, tree, 0..10).prop_map(|map| Value::Object(map.into_iter().collect()))
}
