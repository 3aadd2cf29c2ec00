//! What the tests of this stage share.
#![allow(dead_code, reason = "not every test file needs all of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use bytes::Bytes;
use chasqui_contract::{Decide, Decision, IncomingMessage, Output, Submitted, Verdict};
use chasqui_schemas::{Lane, Notification, Pepper, Reason};
use chasqui_validate::Validate;
use futures::FutureExt;
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
    decide_by(&Validate::new(BTreeMap::new(), pepper()), submitted)
}

pub(crate) fn pepper() -> Pepper {
    Pepper::new(b"a test's")
}

pub(crate) fn decide_by(stage: &Validate, submitted: Submitted) -> Decision {
    stage.decide(submitted).now_or_never().expect("validate waits for nothing").expect("validate has no ports")
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
