//! The door's verdict is the stage's.

use std::sync::Arc;

use chasqui_contract::{Decide, Verdict};
use chasqui_rules::{Apps, Permissions, Schemes, Vendors};
use chasqui_schemas::{Pepper, app};
use chasqui_stores::memory::MemoryDirectory;
use chasqui_validate::{Allowed, Validate};
use futures::FutureExt;
use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::json;

use super::{super::document::Document, *};

fn allowed() -> Allowed {
    Allowed {
        apps: Apps { listed: [("shop".to_owned(), may())].into(), ..Apps::default() },
        vendors: Vendors::new(),
        schemes: Schemes::new(&[]).unwrap(),
        send_at_horizon: SignedDuration::from_hours(90 * 24),
    }
}

fn may() -> Permissions {
    Permissions {
        lanes: Some(vec![Lane::Normal, Lane::Bulk]),
        categories: Some(vec!["c".to_owned()]),
        ..Permissions::default()
    }
}

fn caller() -> Caller {
    let app = Arc::new(app::App { name: "shop".to_owned(), may: may() });
    Caller { app, key: "abcdefgh".to_owned().try_into().unwrap(), scopes: app::Scopes::new(), test: false }
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn judged(body: &str) -> Result<Judged, Problem> {
    judge(&Checks::new(allowed()), &caller(), body.as_bytes(), Uuid::from_u128(7), now())
}

#[test]
fn every_violation_is_told_with_its_place() {
    let body = json!({ "lane": "fast", "category": "", "recipients": ["ada", { "email": "x" }], "template": "t" });
    let problem = judged(&body.to_string()).unwrap_err();
    assert_eq!((problem.body.status, problem.body.kind.as_str()), (422, "urn:chasqui:reason:invalid"));
    let mut pointers: Vec<_> = problem.body.errors.iter().map(|error| error.pointer.as_str()).collect();
    pointers.sort_unstable();
    pointers.dedup();
    assert_eq!(pointers, ["/category", "/lane", "/recipients/1/email"]);

    let of = |lane: &str, category: &str| {
        let body = json!({ "lane": lane, "category": category, "recipients": ["ada"], "template": "t" });
        let problem = judged(&body.to_string()).map(|_| ()).unwrap_err();
        (problem.body.kind.clone(), problem.body.errors[0].pointer.clone())
    };
    assert_eq!(of("critical", "c"), ("urn:chasqui:reason:lane_not_allowed".to_owned(), "/lane".to_owned()));
    assert_eq!(of("bulk", "d"), ("urn:chasqui:reason:category_not_allowed".to_owned(), "/category".to_owned()));
    assert_eq!(judged("{").unwrap_err().body.status, 400);
}

#[test]
fn what_is_good_goes_in_with_an_id_and_on_its_lane() {
    let good = judged(r#"{"lane": "bulk", "category": "c", "recipients": ["ada", "bob"], "template": "t"}"#).unwrap();
    assert_eq!((good.lane, good.id, good.recipients), (Lane::Bulk, Uuid::from_u128(7), 2));
    let own = "018f4d5e-7b1a-7c3d-9e2f-0123456789ab";
    let good = judged(&format!(r#"{{"id": "{own}", "category": "c", "recipients": ["a"], "template": "t"}}"#)).unwrap();
    assert_eq!((good.lane, good.id.to_string().as_str()), (Lane::Normal, own));
}

/// A submission, or nearly one.
fn almost() -> impl Strategy<Value = String> {
    let words = prop_oneof![
        Just(r#""category":"c""#),
        Just(r#""category":"d""#),
        Just(r#""category":7"#),
        Just(r#""recipients":["ada"]"#),
        Just(r#""recipients":["ada",{"email":"x"}]"#),
        Just(r#""userId":"ada""#),
        Just(r#""template":"t""#),
        Just(r#""templateType":"t""#),
        Just(r#""notificationInfo":{"title":"t","content":"c"}"#),
        Just(r#""content":{"body":"b"}"#),
        Just(r#""lane":"bulk""#),
        Just(r#""lane":"critical""#),
        Just(r#""lane":"fast""#),
        Just(r#""lane":null"#),
        Just(r#""id":null"#),
        Just(r#""id":"x""#),
        Just(r#""id":"018f4d5e-7b1a-7c3d-9e2f-0123456789ab""#),
        Just(r#""send_at":"2027-03-01T12:00:00Z""#),
        Just(r#""data":{"x":1.50}"#),
        Just(r#""x":1"#),
    ];
    (prop::collection::vec(words, 0..7), prop::option::of((any::<prop::sample::Index>(), any::<char>()))).prop_map(
        |(members, noise)| {
            let mut text = format!("{{{}}}", members.join(","));
            if let Some((at, noise)) = noise {
                let at = at.index(text.len());
                text.insert(at, noise);
            }
            text
        },
    )
}

proptest! {
    #[test]
    fn the_same_document_gets_the_same_verdict_over_http_and_nats(body in almost()) {
        let checks = Checks::new(allowed());
        let id = Uuid::from_u128(7);
        let stage = Validate::new(allowed(), Arc::new(MemoryDirectory::new()), Pepper::new(b"a test's"));
        let Document { lane, payload } = document::read(body.as_bytes(), id, false);
        // No subject names a lane that is none.
        let Ok(lane) = lane else {
            prop_assert!(judge(&checks, &caller(), body.as_bytes(), id, now()).is_err());
            return Ok(());
        };
        let message = submitted("shop", lane, payload.clone(), now());
        let verdict = stage.decide(message).now_or_never().unwrap().unwrap().verdict;
        match (judge(&checks, &caller(), body.as_bytes(), id, now()), verdict) {
            (Ok(judged), Verdict::Forward(outputs)) => {
                prop_assert_eq!(judged.payload, payload);
                prop_assert!(judged.recipients as usize >= outputs.len());
            }
            (Err(problem), Verdict::Reject { reason, violations, .. }) => {
                prop_assert!(problem.body.kind.ends_with(reason.as_str()), "{} {reason}", problem.body.kind);
                prop_assert_eq!(problem.body.errors.len(), violations.len());
                for (error, violation) in problem.body.errors.iter().zip(&violations) {
                    prop_assert!(violation.ends_with(&error.detail), "{violation} {}", error.detail);
                }
            }
            (door, stage) => prop_assert!(false, "the door says {door:?}, the stage {stage:?}"),
        }
    }
}
