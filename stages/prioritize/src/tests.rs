use chasqui_contract::ManualClock;
use chasqui_schemas::{
    Lane,
    delivery::{Address, Endpoint},
    record::Platform,
    sample,
};
use futures::executor::block_on;
use jiff::Timestamp;
use serde_json::json;

use super::*;

const NOW: &str = "2026-07-01T12:00:00Z";

fn delivery() -> Delivery {
    Delivery { lane: Lane::High, submitted_at: NOW.parse().unwrap(), ..sample::delivery() }
}

fn decide(delivery: Delivery) -> Decision {
    let settings = json!({
        "email": ["smtp"], "in_app": ["inbox"], "sms": ["twilio", "vonage"], "push": { "ios": ["apns"] },
    });
    let routes = Routes::new(serde_json::from_value(settings).unwrap(), []);
    let stage = Prioritize { clock: Arc::new(ManualClock::new(NOW.parse().unwrap())), routes };
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
    assert_eq!(decision.attributes, [("provider".into(), "inbox".into())]);
}

fn to(address: Address) -> Delivery {
    Delivery { endpoint: Endpoint { id: "77aa".into(), address }, ..delivery() }
}

#[test]
fn of_several_providers_each_gets_its_share_and_a_delivery_always_the_same() {
    let chosen = |n: u128| {
        let phone = to(Address::Phone("+4915112345678".into()));
        let decision = decide(Delivery { id: uuid::Uuid::from_u128(n), ..phone });
        decision.attributes[0].1.clone()
    };
    let twilio = (0..1_000).filter(|&n| chosen(n) == "twilio").count();
    assert!((450..550).contains(&twilio), "{twilio}");
    assert!((0..100).all(|n| chosen(n) == chosen(n)));
}

#[test]
fn a_road_without_a_provider_is_a_dead_letter() {
    let token = "secret-token".to_owned();
    match decide(to(Address::Device { platform: Platform::Web, token, registered_at: None })).verdict {
        Verdict::Dead { reason: Reason::NoProvider, detail } => {
            assert!(detail.contains("push"), "{detail}");
            assert!(!detail.contains("secret"), "{detail}");
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
