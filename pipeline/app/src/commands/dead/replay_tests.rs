use chasqui_contract::{Book, decision::parse_message_id};
use chasqui_schemas::{
    Channel, Delivery, Lane, Notification, envelope,
    key_claim::{GivenBack, next},
    sample,
};
use chasqui_stores::memory::MemoryLedger;
use jiff::Timestamp;

use super::{super::letter::tests::letter, *};

fn delivery() -> Delivery {
    Delivery { lane: Lane::High, provider: "smtp".into(), attempt: 3, pass: 2, ..sample::delivery() }
}

fn notification() -> Notification {
    Notification { lane: Lane::High, ..sample::notification() }
}

/// A letter of `stage` that ended where such messages are queued.
fn ended(stage: Stage, payload: &[u8]) -> Letter {
    letter(stage, &[(header::SUBJECT, &subject::queue(stage, Lane::High, Some(Channel::Email)))], payload)
}

#[test]
fn a_delivery_that_ended_at_send_gets_the_next_attempt_and_a_new_horizon() {
    let died = Delivery { sending_since: Some(Timestamp::UNIX_EPOCH), ..delivery() };
    let prepared = prepare(&ended(Stage::Send, &envelope::encode(&died).unwrap())).unwrap();
    let expected = Output::Delivery(Delivery { attempt: 4, pass: 3, sending_since: None, ..died });
    assert_eq!(prepared.message.subject, "notify.send.high.email");
    assert_eq!(prepared.message.message_id, Some(expected.message_id()));
    assert_eq!(prepared.message.payload, expected.encode().unwrap());
    assert!(prepared.to_string().contains("attempt 4"), "{prepared}");
}

#[test]
fn a_delivery_that_ended_before_send_keeps_its_attempt() {
    let died = delivery();
    let prepared = prepare(&ended(Stage::Prioritize, &envelope::encode(&died).unwrap())).unwrap();
    assert_eq!(prepared.output, Some(Output::Delivery(Delivery { pass: 3, ..died })));
}

#[test]
fn a_notification_goes_on_with_another_pass() {
    let died = notification();
    let prepared = prepare(&ended(Stage::Render, &envelope::encode(&died).unwrap())).unwrap();
    assert_eq!(prepared.message.subject, "notify.render.high");
    assert_eq!(prepared.output, Some(Output::Notification(Notification { pass: 1, ..died })));
}

#[test]
fn deliveries_of_a_notification_that_ended_alone_are_replayed_each_for_itself() {
    let replayed = |delivery| {
        let died = notification().part(delivery, sample::delivery().endpoint);
        let prepared = prepare(&ended(Stage::Render, &envelope::encode(&died).unwrap())).unwrap();
        assert_eq!(prepared.output, Some(Output::Notification(Notification { pass: 1, ..died })));
        assert!(prepared.to_string().contains(&format!("as delivery {delivery} of")), "{prepared}");
        prepared.message.message_id.unwrap()
    };
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    assert_ne!(replayed(first), replayed(second), "none is taken for a repeat of the other");
    assert_eq!(parse_message_id(&replayed(first)), Some((notification().id, Some(first))));
}

#[test]
fn preparing_twice_gives_the_same_id() {
    for payload in [envelope::encode(&delivery()).unwrap(), b"noise".to_vec()] {
        let letter = ended(Stage::Send, &payload);
        let id = || prepare(&letter).unwrap().message.message_id;
        assert_eq!(id(), id());
        assert!(id().is_some());
    }
}

#[test]
fn a_rejected_submission_goes_out_as_it_was() {
    let headers = [
        (header::SUBJECT, "notify.submit.bulk.shop"),
        (header::CONTENT_TYPE, "application/msgpack"),
        (header::NOTIFICATION, "0190a1b2-0000-7000-8000-000000000001"),
    ];
    let rejection = Letter { subject: subject::rejected("shop"), ..letter(Stage::Validate, &headers, b"\x80") };
    let Prepared { message, output } = prepare(&rejection).unwrap();
    assert_eq!(output, None);
    assert_eq!((message.subject.as_str(), &message.payload[..]), ("notify.submit.bulk.shop", &b"\x80"[..]));
    assert_eq!(message.headers, [(header::CONTENT_TYPE, "application/msgpack".to_owned())]);
    assert_eq!(message.message_id.as_deref(), Some("replay.1900000000000000000.7"));
}

#[test]
fn what_does_not_decode_can_still_be_traced() {
    let (notification, delivery) = (Uuid::now_v7(), Uuid::now_v7());
    let mut noise = ended(Stage::Send, b"noise");
    noise.headers.insert(header::NOTIFICATION, notification.to_string().as_str());
    let traced = |letter: &Letter| parse_message_id(&prepare(letter).unwrap().message.message_id.unwrap());
    assert_eq!(traced(&noise), Some((notification, None)));
    noise.headers.insert(header::DELIVERY, delivery.to_string().as_str());
    assert_eq!(traced(&noise), Some((notification, Some(delivery))));
}

#[test]
fn what_was_not_kept_cannot_be_replayed() {
    let mut cut = ended(Stage::Send, b"");
    cut.headers.insert(header::CUT, "70000");
    assert!(prepare(&cut).unwrap_err().to_string().contains("70000"));
}

#[test]
fn a_letter_that_does_not_say_where_it_ended_cannot_be_replayed() {
    assert!(prepare(&letter(Stage::Send, &[], b"")).is_err());
}

#[tokio::test]
async fn a_replay_claims_its_key_again_or_stays_where_another_has_it() {
    let held = || Output::Notification(Notification { claim: "c".into(), ..notification() });
    let claim_of = |output: &Output| match output {
        Output::Notification(notification) => notification.claim.clone(),
        Output::Delivery(delivery) => delivery.claim.clone(),
    };
    let ours = Holder { notification: notification().id, content: "ours".into() };
    let ledger = MemoryLedger::new();
    ledger.claim(Book::Dedupe, "c", ours.to_string().into()).await.unwrap();

    // It gave nothing back: the key is its own, and it must not give it back later.
    let mut output = held();
    assert_eq!(claim_again(&ledger, &mut output).await.unwrap(), None);
    assert_eq!(claim_of(&output), "");

    ledger.give_back("c", GivenBack { notification: ours.notification, delivery: None, of: 0 });
    let delivery = Delivery { claim: "c".into(), ..delivery() };
    for mut output in [held(), held(), Output::Delivery(delivery)] {
        assert_eq!(claim_again(&ledger, &mut output).await.unwrap(), None);
        assert_eq!(claim_of(&output), next("c"), "a part of the same notification, or the same again");
    }
    assert_eq!(ledger.value(Book::Dedupe, &next("c")).unwrap(), ours.to_string(), "it still says what it says");

    ledger.give_back(&next("c"), GivenBack { notification: ours.notification, delivery: None, of: 0 });
    let theirs = Holder { notification: Uuid::from_u128(9), content: "theirs".into() };
    ledger.claim(Book::Dedupe, &next(&next("c")), theirs.to_string().into()).await.unwrap();
    assert_eq!(claim_again(&ledger, &mut held()).await.unwrap(), Some(theirs.notification));
    assert_eq!(claim_again(&ledger, &mut Output::Notification(notification())).await.unwrap(), None, "it holds none");
}
