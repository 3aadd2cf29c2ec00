use bytes::Bytes;
use chasqui_contract::{Book, Output, Verdict};
use chasqui_schemas::{
    key_claim::{self, GivenBack},
    notification::Recipient,
    sample,
};
use chasqui_stores::memory::{MemoryLedger, MemoryNewest};
use futures::executor::block_on;
use jiff::Timestamp;
use uuid::Uuid;

use super::*;

struct World {
    ledger: Arc<MemoryLedger>,
    stage: Dedupe,
}

impl World {
    fn new() -> Self {
        let ledger = Arc::new(MemoryLedger::new());
        let stage = Dedupe { ledger: Arc::clone(&ledger) as _, newest: Arc::new(MemoryNewest::default()) };
        World { ledger, stage }
    }

    fn decide(&self, notification: Notification) -> Decision {
        block_on(self.stage.decide(notification)).unwrap()
    }

    /// The claim of a notification that goes on; and it is what came, but for that.
    fn goes_on(&self, notification: Notification) -> String {
        let Verdict::Forward(outputs) = self.decide(notification.clone()).verdict else { panic!("it does not go on") };
        let [Output::Notification(forwarded)] = &outputs[..] else { panic!("{outputs:?}") };
        assert!(!forwarded.claim.is_empty());
        assert_eq!(*forwarded, Notification { claim: forwarded.claim.clone(), ..notification });
        forwarded.claim.clone()
    }

    /// It ends before a provider is called.
    fn ends_unsent(&self, claim: &str, number: u128) {
        let record = GivenBack { notification: Uuid::from_u128(number), delivery: None, of: 0 };
        self.ledger.give_back(claim, record);
    }
}

fn notification(number: u128) -> Notification {
    Notification { id: Uuid::from_u128(number), ..sample::notification() }
}

/// The same key with another content.
fn other_content(number: u128) -> Notification {
    notification(number).with_request(|request| request.category = "news".into())
}

fn suppressed(reason: Reason, original: u128) -> Decision {
    Decision::suppress(reason).with("original", Uuid::from_u128(original).to_string())
}

#[test]
fn the_first_goes_on_and_a_duplicate_names_it() {
    let world = World::new();
    world.goes_on(notification(1));
    assert_eq!(world.decide(notification(2)), suppressed(Reason::Duplicate, 1));
    assert_eq!(world.decide(other_content(3)), suppressed(Reason::DuplicateDiffers, 1));
}

#[test]
fn a_redelivery_decides_exactly_as_the_first_time() {
    let world = World::new();
    let first = world.decide(notification(1));
    let duplicate = world.decide(notification(2));
    assert_eq!(world.decide(notification(1)), first);
    assert_eq!(world.decide(notification(2)), duplicate);
}

#[test]
fn another_app_recipient_or_key_and_a_test_are_no_duplicates() {
    let world = World::new();
    world.goes_on(notification(1));
    for other in [
        Notification { app: "bank".into(), ..notification(2) },
        Notification { recipient: Recipient::User("bob".into()), ..notification(3) },
        notification(4).with_request(|request| request.idempotency_key = "order-2".into()),
        notification(5).with_request(|request| request.test = true),
    ] {
        world.goes_on(other);
    }
}

#[test]
fn a_key_whose_message_was_never_sent_is_free_again_for_one() {
    let world = World::new();
    let first = world.goes_on(notification(1));
    world.ends_unsent(&first, 1);
    let decision = world.decide(other_content(2));
    assert_eq!(decision.attributes, [("given_back_by".into(), Uuid::from_u128(1).to_string().into())]);
    let second = world.goes_on(other_content(2));
    assert_ne!(first, second);
    assert_eq!(world.decide(notification(3)), suppressed(Reason::DuplicateDiffers, 2));
    assert_eq!(world.decide(other_content(4)), suppressed(Reason::Duplicate, 2));
    // One that comes again although it has ended does not go out beside the one that has the key now.
    assert_eq!(world.decide(notification(1)), suppressed(Reason::DuplicateDiffers, 2));
    world.ends_unsent(&second, 2);
    world.goes_on(notification(5));
    assert_eq!(world.decide(notification(6)), suppressed(Reason::Duplicate, 5));
}

#[test]
fn what_another_one_gave_back_frees_no_key() {
    let world = World::new();
    let claim = world.goes_on(notification(1));
    // Of an earlier holder, before the window of the key began anew.
    world.ends_unsent(&claim, 9);
    assert_eq!(world.decide(notification(2)), suppressed(Reason::Duplicate, 1));
}

#[test]
fn a_key_that_fails_again_and_again_is_taken_in_the_end() {
    let world = World::new();
    let mut number = 1;
    loop {
        let Verdict::Forward(outputs) = world.decide(notification(number)).verdict else { break };
        let [Output::Notification(forwarded)] = &outputs[..] else { panic!("{outputs:?}") };
        world.ends_unsent(&forwarded.claim, number);
        number += 1;
        assert!(number < 1_000, "it is bounded");
    }
    assert_eq!(number, 101);
}

#[test]
fn a_claim_that_names_no_notification_is_a_bad_record() {
    let world = World::new();
    let claim = id::claim(&["dedupe", "shop", "user:ada", "order-1"]);
    block_on(world.ledger.claim(Book::Dedupe, &claim, Bytes::from_static(b"not an id"))).unwrap();
    match block_on(world.stage.decide(notification(1))) {
        Err(StoreError::BadRecord { key, .. }) => assert_eq!(key, Uuid::from_u128(1).to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_claim_whose_answer_was_lost_is_still_ours() {
    let world = World::new();
    world.ledger.faults.lose_next(1);
    assert!(matches!(block_on(world.stage.decide(notification(1))), Err(StoreError::Unavailable { .. })));
    assert_eq!(world.decide(notification(2)), suppressed(Reason::Duplicate, 1));
    let claim = world.goes_on(notification(1));
    // And so is that of the next generation.
    world.ends_unsent(&claim, 1);
    let next = key_claim::next(&claim);
    let theirs = Holder { notification: Uuid::from_u128(3), content: notification(3).request.fingerprint.clone() };
    block_on(world.ledger.claim(Book::Dedupe, &next, theirs.to_string().into())).unwrap();
    assert_eq!(world.goes_on(notification(3)), next);
}

#[test]
fn an_older_one_does_not_go_on_after_a_newer_one_with_its_collapse_key() {
    let at = |second: i64, number: u128| {
        let submitted_at = Timestamp::from_second(second).unwrap();
        let keyed = notification(number).with_request(|request| {
            request.collapse_key = Some("match-7".into());
            request.idempotency_key = number.to_string();
        });
        Notification { submitted_at, ..keyed }
    };
    let world = World::new();
    world.goes_on(at(5, 1));
    let superseded = Decision::suppress(Reason::Superseded).with("newer", Uuid::from_u128(1).to_string());
    assert_eq!(world.decide(at(4, 2)), superseded);
    assert_eq!(world.decide(at(4, 2)), superseded, "again");
    world.goes_on(at(5, 1));
    world.goes_on(at(6, 3));
    let later = Timestamp::from_second(7).unwrap();
    world.goes_on(at(1, 4).with_request(|request| request.send_at = Some(later)));
    world.goes_on(at(1, 5).with_request(|request| request.collapse_key = None));

    // A duplicate goes nowhere, so it replaces nobody.
    let repeat = at(100, 6).with_request(|request| request.idempotency_key = "1".into());
    assert_eq!(world.decide(repeat), suppressed(Reason::Duplicate, 1));
    world.goes_on(at(8, 7));
}
