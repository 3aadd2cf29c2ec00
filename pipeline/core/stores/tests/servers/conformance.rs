//! What every store must do, run on the real one and on its twin in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::support::{begin, make_stores, publisher};
use async_nats::jetstream::{
    self,
    stream::{Config, Source},
};
use bytes::Bytes;
use chasqui_contract::{AddressBook, Book, Claim, Class, Directory, Inbox, Ledger, Newest, StoreError};
use chasqui_nats::Outgoing;
use chasqui_schemas::{
    Channel, Lane,
    app::{AppRecord, Permissions},
    collapse::Version,
    header, id,
    key_claim::GivenBack,
    record::{
        Bucket, Category, CategoryPreference, Contacts, Device, Platform, Preferences, Record, Suppression, Template,
    },
    stream, subject,
    submission::Content,
};
use chasqui_stores::{
    NatsDirectory, NatsInbox, NatsLedger, NatsNewest, Records,
    memory::{MemoryDirectory, MemoryInbox, MemoryLedger, MemoryNewest},
};
use chasqui_testing::servers::{Nats, stream_config};
use futures::future::join_all;
use jiff::Timestamp;
use uuid::Uuid;

// --- Ledger ---------------------------------------------------------------------------------------------------------

async fn ledger_conforms(ledger: &dyn Ledger, give_back: impl AsyncFn(&str, GivenBack)) {
    the_first_claim_wins(ledger).await;
    books_are_apart(ledger).await;
    of_many_claims_at_once_exactly_one_is_first(ledger).await;
    any_value_comes_back_as_it_was(ledger).await;
    the_first_end_holds(ledger).await;
    an_end_and_takeovers_at_once_all_answer_the_same_end(ledger).await;
    what_is_given_back_is_known_and_nothing_else(ledger, give_back).await;
}

async fn what_is_given_back_is_known_and_nothing_else(ledger: &dyn Ledger, give_back: impl AsyncFn(&str, GivenBack)) {
    let [ours, theirs] = ["ours", "theirs"].map(|whose| id::claim(&["given back", whose]));
    assert_eq!(ledger.given_back(&ours).await.unwrap(), []);
    let part = |delivery: u128| GivenBack {
        notification: Uuid::from_u128(7),
        delivery: Some(Uuid::from_u128(delivery)),
        of: 2,
    };
    for delivery in [1, 2] {
        give_back(&ours, part(delivery)).await;
    }
    assert_eq!(ledger.given_back(&ours).await.unwrap(), [part(1), part(2)]);
    assert_eq!(ledger.given_back(&theirs).await.unwrap(), []);
    let claim = ledger.claim(Book::Dedupe, &ours, "a".into()).await.unwrap();
    assert_eq!(claim, Claim::First, "the records are no claims");
}

/// As the runtime does.
async fn give_back(context: &jetstream::Context, claim: &str, record: GivenBack) {
    let record = serde_json::to_vec(&record).unwrap();
    context.publish(subject::given_back(claim), record.into()).await.unwrap().await.unwrap();
}

/// The value that an id was claimed with.
fn taken(claim: Claim) -> Bytes {
    match claim {
        Claim::Taken { value, .. } => value,
        Claim::First => panic!("the claim was the first"),
    }
}

async fn the_first_claim_wins(ledger: &dyn Ledger) {
    let claim = id::claim(&["first", "wins"]);
    let claim_as = |value: &'static str| ledger.claim(Book::Dedupe, &claim, Bytes::from(value));
    assert_eq!(claim_as("ours").await.unwrap(), Claim::First);
    assert_eq!(taken(claim_as("theirs").await.unwrap()), "ours");
    assert_eq!(taken(claim_as("ours").await.unwrap()), "ours");
}

async fn books_are_apart(ledger: &dyn Ledger) {
    let claim = id::claim(&["books", "apart"]);
    assert_eq!(ledger.claim(Book::Dedupe, &claim, "a".into()).await.unwrap(), Claim::First);
    assert_eq!(ledger.claim(Book::Attempts, &claim, "b".into()).await.unwrap(), Claim::First);
    assert_eq!(taken(ledger.claim(Book::Dedupe, &claim, "c".into()).await.unwrap()), "a");
    assert_eq!(taken(ledger.claim(Book::Attempts, &claim, "c".into()).await.unwrap()), "b");
}

async fn of_many_claims_at_once_exactly_one_is_first(ledger: &dyn Ledger) {
    const IDS: usize = 100;
    const CLAIMS_PER_ID: usize = 20;
    let claims = (0..IDS * CLAIMS_PER_ID).map(|n| async move {
        let id = n % IDS;
        let value = Bytes::from(n.to_string());
        (id, value.clone(), ledger.claim(Book::Dedupe, &id::claim(&["many", &id.to_string()]), value).await.unwrap())
    });
    let answers = futures::future::join_all(claims).await;

    let mut firsts = BTreeMap::new();
    for (id, value, answer) in &answers {
        if *answer == Claim::First {
            assert_eq!(firsts.insert(*id, value.clone()), None, "two were first with claim {id}");
        }
    }
    assert_eq!(firsts.len(), IDS);
    for (id, _, answer) in answers {
        if let Claim::Taken { value, .. } = answer {
            assert_eq!(value, firsts[&id]);
        }
    }
}

async fn any_value_comes_back_as_it_was(ledger: &dyn Ledger) {
    for (n, value) in [Vec::new(), vec![0, 255, 10, 13], vec![7; 60_000]].into_iter().enumerate() {
        let claim = id::claim(&["value", &n.to_string()]);
        let value = Bytes::from(value);
        assert_eq!(ledger.claim(Book::Attempts, &claim, value.clone()).await.unwrap(), Claim::First);
        assert_eq!(taken(ledger.claim(Book::Attempts, &claim, "other".into()).await.unwrap()), value);

        let end = id::claim(&["end", &n.to_string()]);
        assert_eq!(ledger.end(&end, value.clone()).await.unwrap(), None);
        assert_eq!(ledger.take_over(&end, 1, "other".into()).await.unwrap(), Some(value));
    }
}

async fn the_first_end_holds(ledger: &dyn Ledger) {
    let places = [begin(ledger, "ended").await, begin(ledger, "taken over").await];
    assert!(places[0] < places[1]);
    let end = |id: &'static str, value: &'static str| ledger.end(id, value.into());
    let take_over =
        |id: &'static str, place: usize, value: &'static str| ledger.take_over(id, places[place], value.into());
    assert_eq!(end("ended", "sent").await.unwrap(), None);
    assert_eq!(end("ended", "sent").await.unwrap(), None, "a repeat");
    for _repeat in 0..2 {
        assert_eq!(take_over("ended", 0, "interrupted").await.unwrap().unwrap(), "sent");
    }

    assert_eq!(take_over("taken over", 1, "interrupted").await.unwrap(), None);
    assert_eq!(take_over("taken over", 1, "interrupted later").await.unwrap().unwrap(), "interrupted");
    for _repeat in 0..2 {
        assert_eq!(end("taken over", "sent").await.unwrap().unwrap(), "interrupted");
    }
    assert_eq!(end("another", "sent").await.unwrap(), None, "the others' ends are none of its business");
}

/// Records, for each attempt at once, its end and two takeovers, in changing order.
async fn an_end_and_takeovers_at_once_all_answer_the_same_end(ledger: &dyn Ledger) {
    const ATTEMPTS: usize = 300;
    let begun = begin(ledger, "raced").await;
    let race = |n: usize| async move {
        let id = id::claim(&["raced", &n.to_string()]);
        let end_of = |answer: Result<Option<Bytes>, StoreError>, own: &'static str| {
            answer.unwrap().unwrap_or_else(|| Bytes::from_static(own.as_bytes()))
        };
        let end = async { end_of(ledger.end(&id, "sent".into()).await, "sent") };
        let one = async { end_of(ledger.take_over(&id, begun, "one".into()).await, "one") };
        let other = async { end_of(ledger.take_over(&id, begun, "other".into()).await, "other") };
        // Who asks first is not always the same.
        let (end, one, other) = match n % 3 {
            0 => futures::join!(end, one, other),
            1 => {
                let (one, other, end) = futures::join!(one, other, end);
                (end, one, other)
            }
            _ => {
                let (other, end, one) = futures::join!(other, end, one);
                (end, one, other)
            }
        };
        assert!(end == one && one == other, "attempt {n}: {end:?}, {one:?}, {other:?}");
    };
    futures::future::join_all((0..ATTEMPTS).map(race)).await;
}

#[tokio::test]
async fn the_ledger_on_nats_conforms() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let ledger = NatsLedger::open(&context, publisher(&context)).await.unwrap();
    ledger_conforms(&ledger, async |claim, record| give_back(&context, claim, record).await).await;
}

#[tokio::test]
async fn the_ledger_on_nats_conforms_without_atomic_batches() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let ledger = NatsLedger::open(&context, publisher(&context).one_by_one()).await.unwrap();
    ledger_conforms(&ledger, async |claim, record| give_back(&context, claim, record).await).await;
}

#[tokio::test]
async fn the_ledger_in_memory_conforms() {
    let ledger = MemoryLedger::new();
    ledger_conforms(&ledger, async |claim, record| ledger.give_back(claim, record)).await;
}

// --- Newest ---------------------------------------------------------------------------------------------------------

async fn newest_conforms(newest: &dyn Newest) {
    let version = |at_ms: i64, number: u128| Version { at_ms, notification: Uuid::from_u128(number) };
    assert_eq!(newest.newest("a").await.unwrap(), None);
    for (raised, expected) in [
        (version(5, 1), version(5, 1)),
        (version(4, 9), version(5, 1)),
        (version(5, 1), version(5, 1)),
        (version(5, 2), version(5, 2)),
        (version(-1, 3), version(5, 2)),
        (version(i64::MAX, 0), version(i64::MAX, 0)),
    ] {
        assert_eq!(newest.raise("a", raised).await.unwrap(), expected);
        assert_eq!(newest.newest("a").await.unwrap(), Some(expected));
    }
    assert_eq!(newest.newest("b").await.unwrap(), None, "keys are apart");

    // At once: whoever is answered sees one as new as its own at least, and the newest stays.
    let raises = (0..100_u128).map(|n| async move {
        let own = version(i64::try_from(n * 37 % 100).unwrap(), n);
        loop {
            match newest.raise("raced", own).await {
                Ok(answer) => return assert!(answer >= own),
                Err(error) => assert!(error.class().is_transient(), "{error:?}"),
            }
        }
    });
    futures::future::join_all(raises).await;
    assert_eq!(newest.newest("raced").await.unwrap().unwrap().at_ms, 99);
}

#[tokio::test]
async fn the_newest_on_nats_conforms() {
    let server = Nats::with_streams().await;
    let context = server.context().await;
    newest_conforms(&NatsNewest::open(&context, &publisher(&context)).await.unwrap()).await;
    let stored = context.get_stream(stream::NEWEST).await.unwrap().cached_info().state.messages;
    assert_eq!(stored, 2, "one for each key");
    server.crash().await;
    let context = server.context().await;
    let newest = NatsNewest::open(&context, &publisher(&context)).await.unwrap();
    assert_eq!(newest.newest("raced").await.unwrap().unwrap().at_ms, 99);
}

#[tokio::test]
async fn the_newest_in_memory_conforms() {
    newest_conforms(&MemoryNewest::default()).await;
}

// --- Inbox ----------------------------------------------------------------------------------------------------------

async fn inbox_conforms(inbox: &dyn Inbox) {
    let since = Timestamp::now();
    for user in ["ada", "b.o.b@x *>"] {
        for n in 0..3_u128 {
            for _repeat in 0..2 {
                let delivery = Uuid::from_u128(user.len() as u128 * 100 + n);
                inbox.append("shop", user, delivery, since, Bytes::from(format!("{user}{n}"))).await.unwrap();
            }
        }
        // Others have come meanwhile.
        let first = Uuid::from_u128(user.len() as u128 * 100);
        inbox.append("shop", user, first, since, "again".into()).await.unwrap();
    }
}

fn expected(user: &str) -> Vec<Bytes> {
    (0..3).map(|n| Bytes::from(format!("{user}{n}"))).collect()
}

#[tokio::test]
async fn the_inbox_on_nats_takes_each_delivery_once_and_in_order() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    inbox_conforms(&NatsInbox::new(context.clone(), &publisher(&context))).await;
    for user in ["ada", "b.o.b@x *>"] {
        assert_eq!(stored(&context, user).await, expected(user));
    }
}

/// The inbox of a user of the app `shop`.
async fn stored(context: &jetstream::Context, user: &str) -> Vec<Bytes> {
    let stored = context.get_stream(stream::INBOX).await.unwrap();
    let (mut messages, mut next) = (Vec::new(), 1);
    while let Ok(message) = stored.direct_get_next_for_subject(subject::inbox("shop", user), Some(next)).await {
        next = message.sequence + 1;
        messages.push(message.payload);
    }
    messages
}

/// The stream remembers no ids, as it does not after its duplicate window.
#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_takes_a_delivery_once_however_late_it_comes_again() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let without_ids = Source { name: stream::LEDGER.into(), filter_subject: Some("none".into()), ..Source::default() };
    let config = stream_config(stream::INBOX, subject::INBOX);
    let config = Config { duplicate_window: Duration::ZERO, sources: Some(vec![without_ids]), ..config };
    context.delete_stream(stream::INBOX).await.unwrap();
    assert!(context.create_stream(config).await.unwrap().cached_info().config.duplicate_window.is_zero());

    let since = Timestamp::now();
    let open = || NatsInbox::new(context.clone(), &publisher(&context));
    let (ours, theirs) = (open(), open());
    let delivery = |n: u128| (Uuid::from_u128(n), Bytes::from(n.to_string()));
    // Two processes append all of them at once, in other orders, and again and again.
    let append = async |inbox: &NatsInbox, n| {
        let (id, message) = delivery(n);
        while let Err(error) = inbox.append("shop", "ada", id, since, message.clone()).await {
            assert!(error.class().is_transient(), "{error}");
        }
    };
    let all = |inbox, place: u128| join_all((0..20).map(move |n| append(inbox, (n * 7 + place) % 20)));
    for round in 0..3 {
        tokio::join!(all(&ours, round), all(&theirs, 10));
    }
    let mut kept = stored(&context, "ada").await;
    kept.sort();
    let mut expected: Vec<Bytes> = (0..20).map(|n| delivery(n).1).collect();
    expected.sort();
    assert_eq!(kept, expected);

    // What a process had sent before it was cut off, and what arrives only now, is refused.
    let late = Outgoing {
        subject: subject::inbox("shop", "ada"),
        message_id: Some(delivery(3).0.simple().to_string()),
        headers: vec![(header::EXPECTED_LAST, "1".into())],
        payload: "late".into(),
    };
    publisher(&context).publish(&[late]).await.unwrap_err();
    // A submission that is newer than all that the inbox holds needs no look at it.
    let tomorrow = Timestamp::now() + jiff::SignedDuration::from_hours(24);
    ours.append("shop", "ada", Uuid::from_u128(99), tomorrow, "99".into()).await.unwrap();
    assert_eq!(stored(&context, "ada").await.len(), 21);
}

#[tokio::test]
async fn the_inbox_in_memory_takes_each_delivery_once_and_in_order() {
    let inbox = MemoryInbox::new();
    inbox_conforms(&inbox).await;
    for user in ["ada", "b.o.b@x *>"] {
        let messages: Vec<_> =
            inbox.messages().into_iter().filter(|m| m.user == user && m.app == "shop").map(|m| m.message).collect();
        assert_eq!(messages, expected(user));
    }
}

// --- Directory ------------------------------------------------------------------------------------------------------

/// Names that are no subject token as they are.
const NAMES: [&str; 3] = ["ada", "ada@example.com", "누리 .*>=2e"];
/// Addresses in their normal form, and in another.
const ADDRESSES: [(&str, &str); 3] = [
    ("ada@example.com", " ADA@Example.com "),
    ("ada@xn--bcher-kva.example", "ada@bücher.example"),
    ("+15552010199", "+1 (555) 201-0199"),
];

fn contacts(name: &str) -> Contacts {
    Contacts { emails: vec![format!("{}@example.com", name.len())], ..Contacts::default() }
}

fn preferences(name: &str) -> Preferences {
    Preferences {
        categories: BTreeMap::from([(name.to_owned(), CategoryPreference::All(false))]),
        ..Preferences::default()
    }
}

fn template(name: &str) -> Template {
    let content = Content { title: Some(name.to_owned()), ..Content::default() };
    Template {
        channels: BTreeMap::from([(Channel::Push, BTreeMap::from([("default".to_owned(), content)]))]),
        ..Template::default()
    }
}

fn category(name: &str) -> Category {
    Category { description: Some(name.to_owned()), lane: Some(Lane::Bulk), ..Category::default() }
}

fn suppression(name: &str) -> Suppression {
    Suppression { reason: name.to_owned(), since: None, bounces: Vec::new() }
}

fn app(name: &str) -> AppRecord {
    let may = Permissions { senders: vec![name.to_owned()], ..Permissions::default() };
    AppRecord { may: Some(may), ..AppRecord::default() }
}

/// `directory` holds the six records of each of [`NAMES`], and a bad record `bad` in each bucket.
async fn directory_conforms(directory: &dyn Directory) {
    for name in NAMES {
        assert_eq!(*directory.contacts(name).await.unwrap().unwrap(), contacts(name));
        assert_eq!(*directory.preferences(name).await.unwrap().unwrap(), preferences(name));
        assert_eq!(*directory.template(name).await.unwrap().unwrap(), template(name));
        assert_eq!(*directory.category(name).await.unwrap().unwrap(), category(name));
        assert_eq!(*directory.app(name).await.unwrap().unwrap(), app(name));
    }
    for (address, other) in ADDRESSES {
        assert_eq!(*directory.suppression(address).await.unwrap().unwrap(), suppression(address));
        assert_eq!(*directory.suppression(other).await.unwrap().unwrap(), suppression(address));
    }
    assert_eq!(*directory.category("ADA").await.unwrap().unwrap(), category("ada"), "in any case");
    for name in ["nobody", "", "no.body"] {
        assert_eq!(directory.contacts(name).await.unwrap(), None);
        assert_eq!(directory.preferences(name).await.unwrap(), None);
        assert_eq!(directory.template(name).await.unwrap(), None);
        assert_eq!(directory.category(name).await.unwrap(), None);
        assert_eq!(directory.app(name).await.unwrap(), None);
        assert_eq!(directory.suppression(name).await.unwrap(), None);
    }
    is_bad(directory.contacts("bad").await);
    is_bad(directory.preferences("bad").await);
    is_bad(directory.template("bad").await);
    is_bad(directory.category("bad").await);
    is_bad(directory.app("bad").await);
    is_bad(directory.suppression("bad").await);
}

fn is_bad<T: Record + std::fmt::Debug>(answer: Result<Option<Arc<T>>, StoreError>) {
    is_bad_record(&answer.unwrap_err(), T::BUCKET);
}

fn is_bad_record(error: &StoreError, bucket: &str) {
    assert_eq!(error.class(), Class::Permanent);
    match error {
        StoreError::BadRecord { store, .. } => assert_eq!(*store, bucket),
        other => panic!("{other:?}"),
    }
}

/// Writes a record for each of [`NAMES`] through the check, and `bad` past it, as another program could.
async fn write<T: Record>(context: &jetstream::Context, names: [&str; 3], record: fn(&str) -> T) {
    let records = Records::open(context, Bucket::of::<T>()).await.unwrap();
    for name in names {
        records.put(name, serde_json::to_vec(&record(name)).unwrap().into()).await.unwrap();
    }
    let store = context.get_key_value(T::BUCKET).await.unwrap();
    store.put(T::KEYED_BY.key("bad"), r#"{"misspelt":true}"#.into()).await.unwrap();
}

#[tokio::test]
async fn the_directory_on_nats_conforms() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    write(&context, NAMES, contacts).await;
    write(&context, NAMES, preferences).await;
    write(&context, NAMES, template).await;
    write(&context, NAMES, category).await;
    write(&context, NAMES, app).await;
    write(&context, ADDRESSES.map(|(address, _)| address), suppression).await;
    let directory = NatsDirectory::open(&context).await.unwrap();
    // At once, before the mirrors have caught up, and again when they have.
    directory_conforms(&directory).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    directory_conforms(&directory).await;
}

#[tokio::test]
async fn the_directory_in_memory_conforms() {
    let mut directory = MemoryDirectory::new();
    for name in NAMES {
        directory = directory
            .with(name, contacts(name))
            .with(name, preferences(name))
            .with(name, template(name))
            .with(name, category(name))
            .with(name, app(name));
    }
    for (address, _) in ADDRESSES {
        directory = directory.with(address, suppression(address));
    }
    directory = directory
        .with_bad_record::<Contacts>("bad")
        .with_bad_record::<Preferences>("bad")
        .with_bad_record::<Template>("bad")
        .with_bad_record::<Category>("bad")
        .with_bad_record::<AppRecord>("bad")
        .with_bad_record::<Suppression>("bad");
    directory_conforms(&directory).await;
}

// --- Address book ---------------------------------------------------------------------------------------------------

fn device(id: &str, token: &str, registered_s: i64) -> Device {
    let registered_at = Some(Timestamp::from_second(registered_s).unwrap());
    Device { id: id.into(), platform: Platform::Ios, token: token.into(), registered_at }
}

/// Ada's contacts, whose name is no key as it is, when the suite begins.
fn adas() -> (&'static str, Contacts) {
    let undated = Device { registered_at: None, ..device("old", "o", 0) };
    let devices = vec![device("phone", "p", 10), device("tablet", "t", 10), device("watch", "w", 20), undated];
    ("ada@example.com", Contacts { devices, emails: vec!["ada@example.com".into()], ..Contacts::default() })
}

/// `book` holds [`adas`] contacts and a bad record `bad`, and no address is suppressed.
async fn address_book_conforms(book: &(impl AddressBook + Directory)) {
    let (ada, before) = adas();
    let gone_since = Some(Timestamp::from_second(15).unwrap());
    let left = async || {
        let contacts = book.contacts(ada).await.unwrap().unwrap();
        assert_eq!(contacts.emails, before.emails);
        contacts.devices.iter().map(|device| device.id.clone()).collect::<Vec<_>>()
    };
    assert!(book.remove_device(ada, "phone", "another token", None).await.unwrap());
    assert_eq!(left().await, ["phone", "tablet", "watch", "old"]);
    assert!(!book.remove_device(ada, "watch", "w", gone_since).await.unwrap(), "registered again since");
    assert_eq!(left().await, ["phone", "tablet", "watch", "old"]);
    for _repeat in 0..2 {
        assert!(book.remove_device(ada, "phone", "p", gone_since).await.unwrap());
        assert_eq!(left().await, ["tablet", "watch", "old"]);
    }
    assert!(!book.remove_device(ada, "old", "o", gone_since).await.unwrap(), "the record itself is newer");
    let later = Some(Timestamp::now() + jiff::SignedDuration::from_hours(1));
    assert!(book.remove_device(ada, "old", "o", later).await.unwrap());
    assert_eq!(left().await, ["tablet", "watch"]);
    assert!(book.remove_device("nobody", "phone", "p", None).await.unwrap());
    is_bad_record(&book.remove_device("bad", "phone", "p", None).await.unwrap_err(), Contacts::BUCKET);

    let first = Timestamp::from_second(15).unwrap();
    let (soon, later) = (first + jiff::SignedDuration::from_hours(1), first + jiff::SignedDuration::from_hours(25));
    for (reason, at, expected, bounces) in [
        (Suppression::BOUNCE, first, Suppression::BOUNCE, 1),
        (Suppression::BOUNCE, soon, Suppression::BOUNCE, 1),
        (Suppression::BOUNCE, later, Suppression::BOUNCE, 2),
        (Suppression::UNSUBSCRIBE, later, Suppression::UNSUBSCRIBE, 2),
        ("complaint", later, "complaint", 2),
        (Suppression::UNSUBSCRIBE, later, "complaint", 2),
    ] {
        book.suppress(" Bob@Example.com", reason, at).await.unwrap();
        let entry = book.suppression("bob@example.com").await.unwrap().unwrap();
        assert_eq!((entry.reason.as_str(), entry.bounces.len()), (expected, bounces));
    }
}

#[tokio::test]
async fn the_address_book_on_nats_conforms() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let (ada, contacts) = adas();
    let records = Records::open(&context, Bucket::of::<Contacts>()).await.unwrap();
    records.put(ada, serde_json::to_vec(&contacts).unwrap().into()).await.unwrap();
    let store = context.get_key_value(Contacts::BUCKET).await.unwrap();
    store.put("bad", r#"{"misspelt":true}"#.into()).await.unwrap();
    address_book_conforms(&NatsDirectory::open(&context).await.unwrap()).await;
}

#[tokio::test]
async fn the_address_book_in_memory_conforms() {
    let (ada, contacts) = adas();
    let book = MemoryDirectory::new().with(ada, contacts).with_bad_record::<Contacts>("bad");
    address_book_conforms(&book).await;
}

#[tokio::test]
async fn devices_that_die_at_the_same_time_are_all_removed_and_nothing_else_is_lost() {
    const DEVICES: usize = 6;
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let devices = (0..=DEVICES).map(|n| device(&format!("d{n}"), "t", 10)).collect();
    let contacts = serde_json::to_vec(&Contacts { devices, ..Contacts::default() }).unwrap();
    Records::open(&context, Bucket::of::<Contacts>()).await.unwrap().put("ada", contacts.into()).await.unwrap();
    let book = NatsDirectory::open(&context).await.unwrap();

    let removals = (0..DEVICES).map(|n| {
        let book = &book;
        async move { book.remove_device("ada", &format!("d{n}"), "t", None).await.unwrap() }
    });
    assert!(futures::future::join_all(removals).await.into_iter().all(|gone| gone));

    let left = book.contacts("ada").await.unwrap().unwrap();
    assert_eq!(left.devices, [device(&format!("d{DEVICES}"), "t", 10)]);
}

#[tokio::test]
async fn a_suppression_that_was_lifted_can_come_again() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let book = NatsDirectory::open(&context).await.unwrap();
    let suppressions = Records::open(&context, Bucket::of::<Suppression>()).await.unwrap();
    for reason in [Suppression::BOUNCE, Suppression::UNSUBSCRIBE] {
        book.suppress("bob@example.com", reason, Timestamp::now()).await.unwrap();
        assert_eq!(book.suppression("bob@example.com").await.unwrap().unwrap().reason, reason);
        suppressions.delete("bob@example.com").await.unwrap();
    }
}

// --- Faults of the twins --------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_twin_fails_as_often_as_ordered_before_or_after_its_effect() {
    let ledger = MemoryLedger::new();
    ledger.faults.fail_next(1);
    let error = ledger.claim(Book::Dedupe, "a", "1".into()).await.unwrap_err();
    assert!(error.class().is_transient());
    assert_eq!(ledger.value(Book::Dedupe, "a"), None);
    ledger.faults.lose_next(1);
    assert!(ledger.claim(Book::Dedupe, "a", "1".into()).await.is_err());
    assert_eq!(taken(ledger.claim(Book::Dedupe, "a", "2".into()).await.unwrap()), "1");

    let inbox = MemoryInbox::new();
    inbox.faults.lose_next(1);
    assert!(inbox.append("shop", "ada", Uuid::nil(), Timestamp::now(), "m".into()).await.is_err());
    assert_eq!(inbox.messages().len(), 1);

    let directory = MemoryDirectory::new().with("ada", Contacts::default());
    directory.faults.fail_next(2);
    assert!(directory.contacts("ada").await.is_err());
    assert!(directory.category("x").await.is_err());
    assert!(directory.contacts("ada").await.unwrap().is_some());
    directory.delete::<Contacts>("ada");
    assert!(directory.contacts("ada").await.unwrap().is_none());
}
