//! Whatever the bytes are: an answer, of bounded size, and never a panic.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use chasqui_contract::Verdict;
use chasqui_schemas::Reason;
use common::{almost_a_submission, decide, json, rejection, submitted};
use proptest::prelude::*;
use serde_json::{Value, json as j};

const MESSAGE_PACK: Option<&str> = Some("application/msgpack");

/// Decides, and checks what holds of every answer.
fn answer(content_type: Option<&str>, bytes: Vec<u8>) -> Verdict {
    let verdict = decide(submitted(content_type, bytes)).verdict;
    match &verdict {
        Verdict::Forward(outputs) => assert!(!outputs.is_empty()),
        Verdict::Reject { violations, .. } => {
            assert!(!violations.is_empty() && violations.len() <= 51, "{violations:?}");
            assert!(violations.iter().all(|each| each.chars().count() <= 301 && !each.chars().any(char::is_control)));
        }
        other => panic!("{other:?}"),
    }
    verdict
}

#[test]
fn declared_lengths_are_not_trusted() {
    for marker in [0xdb, 0xdd, 0xdf, 0xc6, 0xc9] {
        let bomb = [0x81, 0xa4, b'd', b'a', b't', b'a', marker, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(answer(MESSAGE_PACK, bomb.to_vec()), Verdict::Reject { reason: Reason::Malformed, .. }));
        assert!(matches!(answer(MESSAGE_PACK, bomb[6..].to_vec()), Verdict::Reject { reason: Reason::Malformed, .. }));
    }
}

#[test]
fn deep_nesting_is_refused_before_the_stack_ends() {
    let deep = 1_000_000;
    for bytes in [vec![b'['; deep], b"{\"a\":".repeat(deep / 5), [vec![b'['; deep / 2], vec![b']'; deep / 2]].concat()]
    {
        assert!(matches!(answer(None, bytes), Verdict::Reject { reason: Reason::Malformed, .. }));
    }
    for bytes in [vec![0x91; deep], b"\x81\xa1a".repeat(deep / 3)] {
        assert!(matches!(answer(MESSAGE_PACK, bytes), Verdict::Reject { reason: Reason::Malformed, .. }));
    }
}

#[test]
fn what_is_accepted_can_travel_between_stages() {
    let nested = |levels: usize| (0..levels).fold(j!(1), |inner, _| j!([inner]));
    let submit = |levels| {
        decide(json(&j!({"category": "c", "recipients": ["a"], "template": "t", "data": {"x": nested(levels)}})))
    };
    // The submission and `data` are two of the 64 levels.
    let Verdict::Forward(outputs) = submit(62).verdict else { panic!() };
    let bytes = outputs[0].encode().unwrap();
    assert!(chasqui_schemas::envelope::decode::<chasqui_schemas::Notification>(&bytes).is_ok());
    let (reason, violations, _) = rejection(submit(63));
    assert_eq!(reason, Reason::Malformed);
    assert!(violations[0].contains("nested deeper than 64 levels"), "{violations:?}");
}

#[test]
fn a_rejection_stays_small_whatever_was_wrong() {
    let name = "\u{1b}".repeat(1_000);
    let unknown: serde_json::Map<String, Value> = (0..900).map(|i| (format!("{name}{i}"), Value::Null)).collect();
    answer(None, serde_json::to_vec(&unknown).unwrap());
    let recipients = vec![j!({"email": "x".repeat(900), "phone": "y", "locale": "!", "timezone": "z"}); 1_000];
    let Verdict::Reject { violations, .. } = answer(None, serde_json::to_vec(&j!({"recipients": recipients})).unwrap())
    else {
        panic!()
    };
    assert_eq!(violations.len(), 51);
    assert_eq!(violations[50], "and more");
    for item in ["1", "{}", "\"a\"", "null"] {
        let list = vec![item; 200_000].join(",");
        answer(None, format!("{{\"recipients\":[{list}],\"channels\":[{list}]}}").into_bytes());
    }
    answer(Some(&"x".repeat(100_000)), Vec::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_get_an_answer(bytes: Vec<u8>, packed: bool) {
        answer(packed.then_some("application/msgpack"), bytes);
    }

    #[test]
    fn anything_like_a_submission_gets_an_answer_the_same_in_either_format(value in almost_a_submission()) {
        let as_json = answer(None, serde_json::to_vec(&value).unwrap());
        let packed = answer(MESSAGE_PACK, rmp_serde::to_vec(&value).unwrap());
        prop_assert_eq!(as_json, packed);
    }

    #[test]
    fn a_submission_cut_off_or_damaged_gets_an_answer(at: prop::sample::Index, byte: u8, cut: bool, packed: bool) {
        let value = j!({"category": "c", "recipients": [{"email": "a@example.com"}], "template": "t", "data": {"k": [1, 2.5, null]}});
        let mut bytes = if packed { rmp_serde::to_vec(&value).unwrap() } else { serde_json::to_vec(&value).unwrap() };
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let verdict = answer(packed.then_some("application/msgpack"), bytes);
        if cut {
            prop_assert!(matches!(verdict, Verdict::Reject { reason: Reason::Malformed, .. }), "expected malformed");
        }
    }
}

/// Overrides of the vendors that the tests know, and of none, with values of any kind and depth.
fn almost_overrides() -> impl Strategy<Value = Value> {
    let names = "inbox|mail|url|from|reply_to|headers|X-[a-z]{1,3}|mail_settings|(?i)bypass_[a-z]{1,3}|personalizations|email|name|\\PC{0,4}";
    let leaf = prop_oneof![Just(Value::Null), any::<i32>().prop_map(Value::from), "\\PC{0,12}".prop_map(Value::from)];
    let tree = leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    prop::collection::btree_map(names, tree, 0..5).prop_map(|map| Value::Object(map.into_iter().collect()))
}

proptest! {
    #[test]
    fn whatever_overrides_say_what_passes_bypasses_nothing(overrides in almost_overrides()) {
        let value = j!({"category": "c", "recipients": ["a"], "template": "t", "overrides": overrides.clone()});
        if let Verdict::Forward(_) = answer(None, serde_json::to_vec(&value).unwrap()) {
            let mail = overrides["mail"].as_object().cloned().unwrap_or_default();
            prop_assert!(mail.keys().all(|name| name == "headers" || name == "mail_settings"), "{mail:?}");
            let settings = mail.get("mail_settings").and_then(Value::as_object).cloned().unwrap_or_default();
            prop_assert!(settings.is_empty(), "{settings:?}");
        }
    }
}
