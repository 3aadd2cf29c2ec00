use chasqui_contract::Output;
use chasqui_schemas::sample;

use super::*;

fn record(stage: Stage, message: &Output) -> Option<(String, GivenBack)> {
    let outgoing = give_back(stage, &message.encode().unwrap())?;
    assert!(outgoing.message_id.is_some(), "a redelivery records it once");
    Some((outgoing.subject, serde_json::from_slice(&outgoing.payload).unwrap()))
}

#[test]
fn a_message_gives_back_the_claim_that_it_holds() {
    let notification = Notification { claim: "c".into(), ..sample::notification() };
    let whole = GivenBack { notification: notification.id, delivery: None, of: 0 };
    let held = record(Stage::Render, &Output::Notification(notification));
    assert_eq!(held, Some(("notify.ledger.given_back.c".into(), whole)));
    assert_eq!(record(Stage::Render, &Output::Notification(sample::notification())), None, "it holds none");

    let delivery = chasqui_schemas::Delivery { claim: "c".into(), siblings: 3, ..sample::delivery() };
    let part = GivenBack { notification: delivery.notification_id, delivery: Some(delivery.id), of: 3 };
    for stage in [Stage::Prioritize, Stage::Send] {
        let held = record(stage, &Output::Delivery(delivery.clone()));
        assert_eq!(held, Some(("notify.ledger.given_back.c".into(), part.clone())));
    }
    let called = chasqui_schemas::Delivery { attempt: 2, ..delivery };
    assert_eq!(record(Stage::Send, &Output::Delivery(called)), None, "a provider was called");
}

#[test]
fn only_what_certainly_reached_no_provider_gives_its_claim_back() {
    let dead = |reason| Decision::dead(reason, "");
    let called = Decision { provider: Some("smtp".into()), ..dead(Reason::RetriesExhausted) };
    for (stage, decision, first_time, again) in [
        (Stage::Render, dead(Reason::RenderFailed), true, false),
        (Stage::Render, dead(Reason::Panicked), true, false),
        (Stage::Render, dead(Reason::DeliveriesExhausted), false, false),
        (Stage::Prioritize, Decision::suppress(Reason::Expired), true, false),
        (Stage::Prioritize, dead(Reason::NoProvider), true, false),
        (Stage::Send, Decision::suppress(Reason::Expired), true, true),
        (Stage::Send, Decision::suppress(Reason::OptedOut), true, true),
        (Stage::Send, dead(Reason::NoProvider), true, true),
        (Stage::Send, dead(Reason::RetriesExhausted), true, true),
        (Stage::Send, Decision::suppress(Reason::Superseded), false, false),
        (Stage::Send, dead(Reason::Panicked), false, false),
        (Stage::Send, dead(Reason::BadRecord), false, false),
        (Stage::Send, dead(Reason::DeliveriesExhausted), false, false),
        (Stage::Send, called.clone(), false, false),
        (Stage::Send, Decision { verdict: Verdict::Suppress(Reason::OptedOutChannel), ..called }, false, false),
        (Stage::Send, Decision::new(Verdict::Sent), false, false),
    ] {
        let unsent = [1, 2].map(|delivered| ends_unsent(stage, &decision, delivered));
        assert_eq!(unsent, [first_time, again], "{stage} {decision:?}");
    }
}
