use chasqui_contract::ManualClock;
use chasqui_schemas::{
    Lane,
    delivery::{Address, Endpoint},
};
use futures::executor::block_on;
use jiff::Timestamp;
use serde_json::json;

use super::*;

const NOW: &str = "2026-07-01T12:00:00Z";

fn delivery() -> Delivery {
    serde_json::from_value(json!({
        "id": "0197c5a0-0000-8000-8000-000000000002",
        "notification_id": "0197c5a0-0000-7000-8000-000000000001",
        "request_id": "0197c5a0-0000-7000-8000-000000000000",
        "app": "shop",
        "category": "order",
        "template": "",
        "variant": "",
        "locale": "",
        "lane": "high",
        "endpoint": {"id": "1f3a", "address": {"mailbox": "ada@example.com"}},
        "content": {"body": "It is on its way"},
        "submitted_at": NOW,
        "attempt": 1,
    }))
    .unwrap()
}

fn decide(delivery: Delivery) -> Decision {
    let stage = Prioritize {
        clock: Arc::new(ManualClock::new(NOW.parse().unwrap())),
        routes: BTreeMap::from([(Channel::Email, "smtp".into()), (Channel::InApp, "inbox".into())]),
    };
    block_on(stage.decide(delivery)).unwrap()
}

#[test]
fn the_lane_of_the_category_holds_over_the_producers() {
    let cases = [
        (None, Lane::High, None),
        (Some(Lane::High), Lane::High, None),
        (Some(Lane::Critical), Lane::Critical, Some("high")),
        (Some(Lane::Bulk), Lane::Bulk, Some("high")),
    ];
    for (category_lane, lane, from) in cases {
        let input = Delivery { category_lane, ..delivery() };
        let mut expected = Decision::new(Verdict::Forward(vec![Output::Delivery(Delivery {
            lane,
            provider: "smtp".into(),
            ..input.clone()
        })]))
        .with("provider", "smtp");
        if let Some(from) = from {
            expected = expected.with("lane.from", from);
        }
        assert_eq!(decide(input), expected, "{category_lane:?}");
    }
}

#[test]
fn the_channel_decides_the_provider() {
    let inbox = Endpoint { id: "ada".into(), address: Address::Inbox("ada".into()) };
    let decision = decide(Delivery { endpoint: inbox, ..delivery() });
    assert_eq!(decision.attributes, [("provider".to_owned(), "inbox".to_owned())]);
}

#[test]
fn a_channel_without_a_provider_is_a_dead_letter() {
    let phone = Endpoint { id: "77aa".into(), address: Address::Phone("+4915112345678".into()) };
    match decide(Delivery { endpoint: phone, ..delivery() }).verdict {
        Verdict::Dead { reason: Reason::NoProvider, detail } => {
            assert!(detail.contains("sms"), "{detail}");
            assert!(!detail.contains("+49"), "{detail}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_too_late_is_suppressed() {
    let now: Timestamp = NOW.parse().unwrap();
    let nanosecond = jiff::SignedDuration::from_nanos(1);
    for (expires_at, expired) in
        [(None, false), (Some(now - nanosecond), true), (Some(now), true), (Some(now + nanosecond), false)]
    {
        let decision = decide(Delivery { expires_at, ..delivery() });
        assert_eq!(decision.verdict == Verdict::Suppress(Reason::Expired), expired, "{expires_at:?}");
    }
}

#[test]
fn deciding_again_on_what_was_decided_changes_nothing() {
    let decided = |delivery| match decide(delivery).verdict {
        Verdict::Forward(outputs) => outputs,
        other => panic!("{other:?}"),
    };
    let once = decided(Delivery { category_lane: Some(Lane::Bulk), ..delivery() });
    let [Output::Delivery(delivery)] = &once[..] else { panic!("{once:?}") };
    assert_eq!(decided(delivery.clone()), once);
}
