//! The ledger against a real nats-server: crashes, limits, throughput's precondition.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::stream::Config;
use bytes::Bytes;
use chasqui_contract::{Book, Claim, Class, Ledger, StoreError};
use chasqui_schemas::{id, stream, subject};
use chasqui_stores::NatsLedger;
use support::{Server, count, eventually, make_stores, publisher, stream_config};

async fn open(context: &async_nats::jetstream::Context) -> NatsLedger {
    NatsLedger::open(context, publisher(context)).await.unwrap()
}

#[tokio::test]
async fn claims_survive_a_crash_and_repeats_are_answered_with_our_own_value() {
    let server = Server::start().await;
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
                        Ok(Claim::Taken(ours)) => {
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
        assert_eq!(answer.unwrap(), Claim::Taken(n.into()));
    }
}

#[tokio::test]
async fn two_processes_agree_on_who_was_first() {
    let server = Server::start().await;
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
            (Claim::First, Claim::Taken(value)) => value == "ours",
            (Claim::Taken(value), Claim::First) => value == "theirs",
            _ => false,
        };
        assert!(agreed, "claim {n}: {race:?}");
    }
    assert_eq!(count(&context, stream::LEDGER).await, 1_000);
}

#[tokio::test]
async fn a_full_ledger_says_so() {
    let server = Server::start().await;
    let context = server.context().await;
    let small = Config { max_messages: 2, ..stream_config(stream::LEDGER, subject::LEDGER) };
    context.create_stream(small).await.unwrap();
    context.create_stream(stream_config(stream::ATTEMPTS, subject::ATTEMPTS)).await.unwrap();
    let ledger = open(&context).await;

    for id in ["a", "b"] {
        assert_eq!(ledger.claim(Book::Dedupe, id, "v".into()).await.unwrap(), Claim::First);
    }
    let error = ledger.claim(Book::Dedupe, "c", "v".into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { store: stream::LEDGER }), "{error:?}");
    assert_eq!(ledger.claim(Book::Dedupe, "a", "w".into()).await.unwrap(), Claim::Taken("v".into()));
}

#[tokio::test]
async fn a_claim_that_is_too_large_does_not_spoil_the_others() {
    let server = Server::start().await;
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
    let server = Server::start().await;
    let context = server.context().await;
    make_stores(&context).await;
    let ledger = open(&context).await;
    assert_eq!(ledger.claim(Book::Dedupe, "a", "v".into()).await.unwrap(), Claim::First);

    context.get_stream(stream::LEDGER).await.unwrap().delete_message(1).await.unwrap();

    let error = ledger.claim(Book::Dedupe, "a", "w".into()).await.unwrap_err();
    assert!(error.class().is_transient(), "{error:?}");
}
