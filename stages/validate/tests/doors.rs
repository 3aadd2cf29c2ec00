//! Every door into the pipeline gives the verdict of the stage, and says where in the document something is wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use chasqui_contract::{Submitted, Verdict};
use chasqui_rules::Permissions;
use chasqui_schemas::notification::{Message, Recipient};
use chasqui_validate::{Checks, Refused, Violation};
use common::{allowed, almost_a_submission, decide, json, notifications, submitted};
use proptest::prelude::*;
use serde_json::{Value, json as j};

fn check(message: &Submitted) -> Result<(), Refused> {
    let may = Permissions::default();
    Checks::new(allowed(may.clone())).check(message, &may).map(|_| ())
}

fn pointers(document: &Value) -> Vec<String> {
    check(&json(document)).unwrap_err().violations.into_iter().map(|each| each.pointer).collect()
}

#[test]
fn each_violation_points_into_the_document_as_it_was_sent() {
    let recipients = j!(["ada", {"userId": ""}, {"email": "x", "a.b/c": 1}]);
    for (document, expected) in [
        (j!({"category": "c", "template": "t"}), vec!["/recipients"]),
        (
            j!({"category": "c", "template": "t", "recipients": recipients}),
            vec!["/recipients/1/userId", "/recipients/2/a.b~1c", "/recipients/2/email"],
        ),
        (j!({"category": "c", "recipients": ["a"]}), vec![""]),
        (
            j!({"category": "c", "recipients": ["a"], "templateType": "", "sendAt": "x"}),
            vec!["/sendAt", "/templateType"],
        ),
        (
            j!({"category": "c", "recipients": ["a"], "content": {"body": "b", "url": "javascript:x"}}),
            vec!["/content/url"],
        ),
        (
            j!({"userId": 7, "categoryType": "", "notificationInfo": {"title": 1, "content": 2}, "metadata": {"sendTime": "x"}}),
            vec![
                "/categoryType",
                "/metadata/sendTime",
                "/notificationInfo/content",
                "/notificationInfo/title",
                "/userId",
            ],
        ),
    ] {
        let mut found = pointers(&document);
        found.sort();
        found.dedup();
        assert_eq!(found, expected, "{document}");
    }
}

#[test]
fn the_document_of_older_producers_is_taken_as_it_stands() {
    let made = |document: &Value| notifications(decide(json(document))).remove(0);
    let mut document = j!({
        "userId": "ada", "notificationId": "n-1", "serviceType": "billing", "categoryType": "order", "notificationType": "PUSH",
        "templateType": "order-shipped", "notificationInfo": {"title": "Shipped", "content": "It is on its way"},
        "metadata": {"deviceInfo": "ios", "sendTime": "2026-03-02T09:00:00Z", "team": "x"}
    });
    let ours = j!({
        "recipients": ["ada"], "idempotency_key": "n-1", "category": "order", "channels": ["push"], "template": "order-shipped",
        "data": {"title": "Shipped", "content": "It is on its way"}, "send_at": "2026-03-02T09:00:00Z",
        "metadata": {"device_platform": "ios", "service_type": "billing", "team": "x"}
    });
    assert_eq!(made(&document), made(&ours));

    document.as_object_mut().unwrap().remove("templateType");
    document["notificationType"] = "Reminder".into();
    document["metadata"] = Value::Null;
    let one = made(&document);
    assert_eq!(one.recipient, Recipient::User("ada".into()));
    let Message::Content(content) = &one.request.message else { panic!("{one:?}") };
    let content = content.unpack().unwrap();
    assert_eq!((content.title.as_deref(), content.body.as_deref()), (Some("Shipped"), Some("It is on its way")));
    assert_eq!(one.request.metadata["notification_type"], "Reminder");
    assert_eq!((one.request.channels.as_deref(), one.request.send_at), (None, None));

    for (twice, pointer) in [
        (j!({"recipients": ["bob"]}), "/recipients"),
        (j!({"idempotency_key": "k"}), "/idempotency_key"),
        (j!({"content": {"body": "b"}}), "/content"),
        (j!({"metadata": {"sendTime": "2026-03-02T09:00:00Z"}, "send_at": "2026-03-02T09:00:00Z"}), "/send_at"),
    ] {
        let mut both = document.clone();
        both.as_object_mut().unwrap().extend(twice.as_object().unwrap().clone());
        assert!(pointers(&both).iter().any(|found| found == pointer), "{both}: {:?}", pointers(&both));
    }
}

/// Fields of the older document, with values of any kind.
fn almost_older() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(j!("ada")),
        Just(j!("push")),
        Just(Value::Null),
        Just(j!(7)),
        Just(j!({"title": "t", "content": "c"})),
        Just(j!({"sendTime": "2026-03-02T09:00:00Z", "deviceInfo": 1})),
        Just(j!(["ada"])),
    ];
    let names = "userId|notificationId|serviceType|categoryType|notificationType|templateType|notificationInfo|metadata|data|send_at|x";
    prop::collection::hash_map(names, leaf, 0..9).prop_map(|fields| fields.into_iter().collect())
}

proptest! {
    #[test]
    fn the_same_bytes_get_the_same_verdict_at_every_door(
        document in prop_oneof![almost_a_submission(), almost_older()],
        noise in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        message_id in prop::option::of(".{0,4}"),
    ) {
        let mut bytes = serde_json::to_vec(&document).unwrap();
        if let Some((at, byte)) = noise {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut message = submitted(None, bytes);
        message.incoming.message_id = message_id.map(|id| id.as_str().into());
        match (check(&message), decide(message).verdict) {
            (Ok(()), Verdict::Forward(_)) => {}
            (Err(refused), Verdict::Reject { reason, violations, request_id }) => {
                let texts: Vec<_> = refused.violations.iter().map(Violation::to_string).collect();
                prop_assert_eq!((refused.reason, texts, refused.request_id), (reason, violations, request_id));
            }
            (door, stage) => prop_assert!(false, "the door says {door:?}, the stage {stage:?}"),
        }
    }
}
