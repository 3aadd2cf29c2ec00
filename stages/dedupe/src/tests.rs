use chasqui_contract::{Output, Verdict};
use chasqui_schemas::{notification::Recipient, sample};
use chasqui_stores::memory::MemoryLedger;
use futures::executor::block_on;

use super::*;

fn stage() -> Dedupe {
    Dedupe { ledger: Arc::new(MemoryLedger::new()) }
}

fn notification(number: u128) -> Notification {
    Notification { id: Uuid::from_u128(number), ..sample::notification() }
}

fn decide(stage: &Dedupe, notification: Notification) -> Decision {
    block_on(stage.decide(notification)).unwrap()
}

#[test]
fn the_first_goes_on_and_a_duplicate_names_it() {
    let stage = stage();
    assert_eq!(decide(&stage, notification(1)), Decision::forward(notification(1)));
    let expected = Decision::suppress(Reason::Duplicate).with("original", Uuid::from_u128(1).to_string());
    assert_eq!(decide(&stage, notification(2)), expected);
}

#[test]
fn a_redelivery_decides_exactly_as_the_first_time() {
    let stage = stage();
    let first = decide(&stage, notification(1));
    let duplicate = decide(&stage, notification(2));
    assert_eq!(decide(&stage, notification(1)), first);
    assert_eq!(decide(&stage, notification(2)), duplicate);
}

#[test]
fn another_app_recipient_or_key_and_a_test_are_no_duplicates() {
    let stage = stage();
    decide(&stage, notification(1));
    let other_key = notification(4).with_request(|request| request.idempotency_key = "order-2".into());
    for other in [
        Notification { app: "bank".into(), ..notification(2) },
        Notification { recipient: Recipient::User("bob".into()), ..notification(3) },
        other_key,
        notification(5).with_request(|request| request.test = true),
    ] {
        let decision = decide(&stage, other.clone());
        assert_eq!(decision.verdict, Verdict::Forward(vec![Output::Notification(other)]));
    }
}

#[test]
fn a_claim_that_names_no_notification_is_a_bad_record() {
    let ledger = MemoryLedger::new();
    let claim = id::claim(&["dedupe", "shop", "user:ada", "order-1"]);
    block_on(ledger.claim(Book::Dedupe, &claim, Bytes::from_static(b"not an id"))).unwrap();
    let stage = Dedupe { ledger: Arc::new(ledger) };
    match block_on(stage.decide(notification(1))) {
        Err(StoreError::BadRecord { key, .. }) => assert_eq!(key, Uuid::from_u128(1).to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_claim_whose_answer_was_lost_is_still_ours() {
    let ledger = Arc::new(MemoryLedger::new());
    let stage = Dedupe { ledger: Arc::clone(&ledger) as _ };
    ledger.faults.lose_next(1);
    assert!(matches!(block_on(stage.decide(notification(1))), Err(StoreError::Unavailable { .. })));
    assert_eq!(decide(&stage, notification(2)).verdict, Verdict::Suppress(Reason::Duplicate));
    assert_eq!(decide(&stage, notification(1)), Decision::forward(notification(1)));
}
