//! The ledger against a real nats-server: crashes, limits, throughput's precondition.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{sync::Arc, time::Duration};

use super::support::{attempts_config, begin, make_stores, publisher};
use async_nats::jetstream::{Context, stream::Config};
use bytes::Bytes;
use chasqui_contract::{Book, Claim, Class, Ledger, StoreError};
use chasqui_schemas::{id, stream, subject};
use chasqui_stores::NatsLedger;
use chasqui_testing::servers::{Nats, count, eventually, stream_config};

async fn open(context: &Context) -> NatsLedger {
    NatsLedger::open(context, publisher(context)).await.unwrap()
}

#[tokio::test]
async fn claims_survive_a_crash_and_repeats_are_answered_with_our_own_value() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let ledger = Arc::new(open(&context).await);

    let claims: Vec<_> = (0..2_000)
        .map(|n: u32| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                // Spread, so that the crash comes in the midst of them.
                tokio::time::sleep(Duration::from_millis(u64::from(n))).await;
                let value = Bytes::from(n.to_string());
                let mut failed = false;
                loop {
                    match ledger.claim(Book::Attempts, &id::claim(&[&n.to_string()]), value.clone()).await {
                        Ok(Claim::First) => return,
                        Ok(Claim::Taken { value: ours, .. }) => {
                            assert!(failed && ours == value, "claim {n} was taken with {ours:?}");
                            return;
                        }
                        Err(error) => {
                            assert!(error.class().is_transient(), "{error:?}");
                            failed = true;
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                }
            })
        })
        .collect();
    eventually("some claims are stored", async || count(&context, stream::ATTEMPTS).await > 500).await;
    server.crash().await;
    for claim in claims {
        claim.await.unwrap();
    }

    let context = server.context().await;
    assert_eq!(count(&context, stream::ATTEMPTS).await, 2_000);
    let ledger = open(&context).await;
    for n in 0..2_000 {
        let n = n.to_string();
        let answer = ledger.claim(Book::Attempts, &id::claim(&[&n]), "another".into()).await;
        assert!(matches!(answer, Ok(Claim::Taken { value, .. }) if value == n));
    }
}

#[tokio::test]
async fn two_processes_agree_on_who_was_first() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let ours = open(&context).await;
    let theirs = open(&server.context().await).await;

    let claim = async |ledger: &NatsLedger, who: &'static str, n: u32| {
        ledger.claim(Book::Dedupe, &id::claim(&[&n.to_string()]), Bytes::from(who)).await.unwrap()
    };
    let (claim, ours, theirs) = (&claim, &ours, &theirs);
    let races = (0..1_000).map(|n| async move { tokio::join!(claim(ours, "ours", n), claim(theirs, "theirs", n)) });
    for (n, race) in futures::future::join_all(races).await.into_iter().enumerate() {
        let agreed = match &race {
            (Claim::First, Claim::Taken { value, .. }) => value == "ours",
            (Claim::Taken { value, .. }, Claim::First) => value == "theirs",
            _ => false,
        };
        assert!(agreed, "claim {n}: {race:?}");
    }
    assert_eq!(count(&context, stream::LEDGER).await, 1_000);
}

#[tokio::test]
async fn a_full_ledger_says_so() {
    let server = Nats::start().await;
    let context = server.context().await;
    let small = Config { max_messages: 2, ..stream_config(stream::LEDGER, subject::LEDGER) };
    context.create_stream(small).await.unwrap();
    context.create_stream(attempts_config()).await.unwrap();
    let ledger = open(&context).await;

    for id in ["a", "b"] {
        assert_eq!(ledger.claim(Book::Dedupe, id, "v".into()).await.unwrap(), Claim::First);
    }
    let error = ledger.claim(Book::Dedupe, "c", "v".into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { store: stream::LEDGER }), "{error:?}");
    let answer = ledger.claim(Book::Dedupe, "a", "w".into()).await;
    assert!(matches!(answer, Ok(Claim::Taken { value, .. }) if value == "v"));
}

#[tokio::test]
async fn a_claim_that_is_too_large_does_not_spoil_the_others() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let ledger = open(&context).await;

    let (large, small) = tokio::join!(
        ledger.claim(Book::Dedupe, "large", Bytes::from(vec![0; 3_000_000])),
        ledger.claim(Book::Dedupe, "small", "v".into()),
    );
    assert_eq!(large.unwrap_err().class(), Class::Permanent);
    assert_eq!(small.unwrap(), Claim::First);
}

#[tokio::test]
async fn a_claim_whose_first_is_gone_is_an_error_and_not_a_first() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let ledger = open(&context).await;
    assert_eq!(ledger.claim(Book::Dedupe, "a", "v".into()).await.unwrap(), Claim::First);

    context.get_stream(stream::LEDGER).await.unwrap().delete_message(1).await.unwrap();

    let error = ledger.claim(Book::Dedupe, "a", "w".into()).await.unwrap_err();
    assert!(error.class().is_transient(), "{error:?}");
}

/// A server with two processes, and where an attempt of the first began.
async fn owner_and_other() -> (Nats, Context, NatsLedger, NatsLedger, u64) {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let (owner, other) = (open(&context).await, open(&server.context().await).await);
    let begun = begin(&owner, "0").await;
    (server, context, owner, other, begun)
}

#[tokio::test]
async fn many_ends_at_a_time_are_few_messages() {
    let server = Nats::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let ledger = open(&context).await;
    let ids: Vec<_> = (0..1_500).map(|n| id::claim(&[&n.to_string()])).collect();
    // Large ones too, which do not fit into one message.
    let ends = ids.iter().map(|id| ledger.end(id, Bytes::from(vec![b'x'; 2_000])));
    for answer in futures::future::join_all(ends).await {
        assert_eq!(answer.unwrap(), None);
    }
    let messages = count(&context, stream::ATTEMPTS).await;
    assert!((6..20).contains(&messages), "{messages} messages of at most 512 kB for 3 MB");

    let others = open(&server.context().await).await;
    let takeovers = ids.iter().map(|id| others.take_over(id, 1, "interrupted".into()));
    for answer in futures::future::join_all(takeovers).await {
        assert_eq!(answer.unwrap().unwrap().len(), 2_000);
    }
}

/// Ends and takeovers race in two processes, and the server is killed meanwhile, again and again. All that get an
/// answer get the same one.
#[tokio::test]
async fn two_processes_agree_on_how_attempts_ended_through_crashes() {
    const ATTEMPTS: usize = 200;
    let (server, _, owner, other, begun) = owner_and_other().await;
    let (owner, other) = (Arc::new(owner), Arc::new(other));

    async fn insist<F: Future<Output = Result<Option<Bytes>, StoreError>>>(own: &Bytes, ask: impl Fn() -> F) -> Bytes {
        loop {
            match ask().await {
                Ok(theirs) => return theirs.unwrap_or_else(|| own.clone()),
                Err(error) => assert!(error.class().is_transient(), "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let races: Vec<_> = (0..ATTEMPTS)
        .map(|n| {
            let (owner, other) = (owner.clone(), other.clone());
            tokio::spawn(async move {
                let id = id::claim(&["raced", &n.to_string()]);
                let after = |offset: u64| tokio::time::sleep(Duration::from_millis(9 * n as u64 + offset));
                let (sent, interrupted) = (Bytes::from(format!("sent {n}")), Bytes::from(format!("interrupted {n}")));
                // Half of them are close races; in the others each comes far ahead, so that both win some on a busy machine.
                let (early, late) = [(0, 2), (2, 0), (0, 1_000), (1_000, 0)][n % 4];
                let ended = async {
                    after(early).await;
                    insist(&sent, || owner.end(&id, sent.clone())).await
                };
                let taken_over = async {
                    after(late).await;
                    insist(&interrupted, || other.take_over(&id, begun, interrupted.clone())).await
                };
                let (ended, taken_over) = tokio::join!(ended, taken_over);
                assert_eq!(ended, taken_over, "attempt {n}");
                ended
            })
        })
        .collect();
    for _crash in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.crash().await;
    }
    let mut sent = 0;
    let mut said = Vec::new();
    for race in races {
        let end = race.await.unwrap();
        sent += usize::from(end.starts_with(b"sent"));
        said.push(end);
    }
    assert!((1..ATTEMPTS).contains(&sent), "both must win sometimes: {sent} of {ATTEMPTS}");

    let third = open(&server.context().await).await;
    for (n, end) in said.iter().enumerate() {
        let id = id::claim(&["raced", &n.to_string()]);
        assert_eq!(third.take_over(&id, begun, "third".into()).await.unwrap().as_ref(), Some(end), "attempt {n}");
    }
}

#[tokio::test]
async fn an_end_whose_author_was_away_gives_way_even_when_all_takeovers_are_forgotten() {
    let (_server, context, owner, other, begun) = owner_and_other().await;
    assert_eq!(other.take_over("a", begun, "interrupted".into()).await.unwrap(), None);
    assert_eq!(owner.end("b", "sent".into()).await.unwrap(), None, "it has read on");
    assert_eq!(owner.end("a", "sent".into()).await.unwrap().unwrap(), "interrupted");

    // As when they reach the end of their window.
    let attempts = context.get_stream(stream::ATTEMPTS).await.unwrap();
    attempts.purge().filter(subject::TAKEN_OVER).await.unwrap();
    assert_eq!(owner.end("c", "sent".into()).await.unwrap(), None);
    assert_eq!(other.take_over("d", begun, "interrupted".into()).await.unwrap(), None);
    assert_eq!(owner.end("d", "sent".into()).await.unwrap().unwrap(), "interrupted");
}

#[tokio::test]
async fn what_is_no_record_of_ends_stops_nobody() {
    let (_server, context, owner, other, begun) = owner_and_other().await;
    for subject in [subject::ENDED, subject::TAKEN_OVER] {
        context.publish(subject, "not a record".into()).await.unwrap().await.unwrap();
    }
    assert_eq!(owner.end("a", "sent".into()).await.unwrap(), None);
    assert_eq!(other.take_over("a", begun, "interrupted".into()).await.unwrap().unwrap(), "sent");
}
