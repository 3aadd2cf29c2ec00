//! The publisher against a real nats-server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{
    HeaderMap,
    header::{NATS_BATCH_ID, NATS_BATCH_SEQUENCE},
    jetstream::stream::Config,
};
use bytes::Bytes;
use chasqui_contract::Class;
use chasqui_nats::{Outgoing, PublishError, Publisher, Stored};
use chasqui_testing::servers::{Nats, count, eventually, message, stream_config};

#[tokio::test]
async fn more_than_one_batch_is_stored_in_order() {
    let server = Nats::start().await;
    let context = server.context().await;
    let stream = context.create_stream(stream_config("S", "s.*")).await.unwrap();

    let messages: Vec<_> = (0..2_500).map(|n| message(&format!("s.{}", n % 3), n)).collect();
    let stored = Publisher::new(context.clone()).publish(&messages).await.unwrap();

    let expected: Vec<_> = (1..=2_500).map(|sequence| Stored { sequence, duplicate: false }).collect();
    assert_eq!(stored, expected);
    assert_eq!(count(&context, "S").await, 2_500);
    for n in [0, 999, 1_000, 2_499] {
        let kept = stream.direct_get(n + 1).await.unwrap();
        assert_eq!(
            (kept.payload, kept.subject.as_str()),
            (Bytes::from(n.to_string()), format!("s.{}", n % 3).as_str())
        );
    }
}

#[tokio::test]
async fn large_messages_are_spread_over_batches() {
    let server = Nats::start().await;
    let context = server.context().await;
    context.create_stream(stream_config("S", "s")).await.unwrap();

    let large = |n: u32| Outgoing { payload: Bytes::from(vec![b'x'; 1_500_000]), ..message("s", n) };
    let stored = Publisher::new(context.clone()).publish(&(0..7).map(large).collect::<Vec<_>>()).await.unwrap();

    assert_eq!(stored.iter().map(|s| s.sequence).collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_batches_many_messages_are_stored_in_order_all_the_same() {
    let server = Nats::start().await;
    let context = server.context().await;
    // The server would refuse a batch.
    context.create_stream(Config { allow_atomic_publish: false, ..stream_config("S", "s") }).await.unwrap();
    let messages: Vec<_> = (0..2_500).map(|n| message("s", n % 2_000)).collect();
    let stored = Publisher::new(context.clone()).one_by_one().apart().publish(&messages).await.unwrap();
    let expected: Vec<_> = (0..2_500).map(|n| Stored { sequence: n % 2_000 + 1, duplicate: n >= 2_000 }).collect();
    assert_eq!(stored, expected);
}

#[tokio::test]
async fn nothing_to_publish_is_no_exchange() {
    let server = Nats::start().await;
    assert_eq!(Publisher::new(server.context().await).publish(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_batch_with_repeats_stores_the_rest_and_tells_which() {
    let server = Nats::start().await;
    let context = server.context().await;
    context.create_stream(stream_config("S", "s")).await.unwrap();
    let publisher = Publisher::new(context.clone());
    publisher.publish(&[message("s", "a"), message("s", "b")]).await.unwrap();

    let stored = publisher.publish(&["c", "b", "d", "d"].map(|id| message("s", id))).await.unwrap();

    let expected = [(3, false), (2, true), (4, false), (4, true)];
    assert_eq!(stored, expected.map(|(sequence, duplicate)| Stored { sequence, duplicate }));
    assert_eq!(count(&context, "S").await, 4);
    let again = publisher.publish(&[message("s", "a")]).await.unwrap();
    assert_eq!(again, [Stored { sequence: 1, duplicate: true }]);
}

#[tokio::test]
async fn batches_that_somebody_leaves_open_keep_nobody_from_publishing() {
    let server = Nats::start().await;
    let context = server.context().await;
    context.create_stream(stream_config("S", "s.*")).await.unwrap();
    let client = server.client().await;
    // More than the server takes; it forgets them after ten seconds.
    for n in 0..60 {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_BATCH_ID, format!("left-open-{n}"));
        headers.insert(NATS_BATCH_SEQUENCE, "1");
        client.publish_with_headers("s.evil", headers, "x".into()).await.unwrap();
    }
    client.flush().await.unwrap();

    let messages: Vec<_> = (0..100).map(|n| message("s.shop", n)).collect();
    let stored = Publisher::new(context.clone()).publish(&messages).await.unwrap();

    let expected: Vec<_> = (1..=100).map(|sequence| Stored { sequence, duplicate: false }).collect();
    assert_eq!(stored, expected);
}

#[tokio::test]
async fn each_message_has_an_answer_of_its_own() {
    let server = Nats::start().await;
    let context = server.context().await;
    let full = Config { max_messages: 40, ..stream_config("S", "s") };
    context.create_stream(full).await.unwrap();
    let publisher = Publisher::new(context.clone());
    assert!(publisher.publish_each(&[]).await.is_empty());
    let large = Outgoing { payload: Bytes::from(vec![b'x'; 9_000_000]), ..message("s", "large") };
    let mut messages: Vec<_> = (0..60).map(|n| message("s", n)).collect();
    messages.insert(30, large);
    let answers = publisher.publish_each(&messages).await;
    let of = |from: usize, to: usize| answers[from..to].iter();
    assert!(of(0, 30).chain(of(31, 41)).all(Result::is_ok), "{answers:?}");
    assert!(matches!(answers[30], Err(PublishError::TooLarge { .. })), "{answers:?}");
    assert!(of(41, 61).all(|answer| matches!(answer, Err(PublishError::Full { .. }))), "{answers:?}");
    assert_eq!(count(&context, "S").await, 40);
}

#[tokio::test]
async fn messages_without_an_id_are_stored_each_time() {
    let server = Nats::start().await;
    let context = server.context().await;
    context.create_stream(stream_config("S", "s")).await.unwrap();
    let anonymous = Outgoing { message_id: None, ..message("s", "a") };

    for _ in 0..2 {
        Publisher::new(context.clone()).publish(&[anonymous.clone(), anonymous.clone()]).await.unwrap();
        Publisher::new(context.clone()).publish(std::slice::from_ref(&anonymous)).await.unwrap();
    }

    assert_eq!(count(&context, "S").await, 6);
}

#[tokio::test]
async fn headers_arrive_on_one_line() {
    let server = Nats::start().await;
    let context = server.context().await;
    let stream = context.create_stream(stream_config("S", "s")).await.unwrap();
    let with_headers = Outgoing { headers: vec![("Chasqui-Detail", "one\r\ntwo".to_owned())], ..message("s", "a") };

    Publisher::new(context.clone()).publish(&[with_headers, message("s", "b")]).await.unwrap();

    let kept = stream.direct_get(1).await.unwrap();
    assert_eq!(kept.headers.get("Chasqui-Detail").unwrap().as_str(), "one  two");
    assert_eq!(kept.headers.get("Nats-Msg-Id").unwrap().as_str(), "a");
}

#[tokio::test]
async fn a_full_subject_does_not_keep_the_others_out() {
    let server = Nats::start().await;
    let context = server.context().await;
    let config = Config { max_messages_per_subject: 3, discard_new_per_subject: true, ..stream_config("S", "s.*") };
    context.create_stream(config).await.unwrap();
    let publisher = Publisher::new(context.clone());
    let batch: Vec<_> = (0..5).map(|n| message("s.narrow", n)).chain([message("s.wide", "w")]).collect();

    let error = publisher.publish(&batch).await.unwrap_err();

    assert!(matches!(error, PublishError::Full { code: 10_077, .. }), "{error:?}");
    assert_eq!(error.class(), Class::Overloaded);
    assert_eq!(count(&context, "S").await, 4);
    let error = publisher.publish(&batch).await.unwrap_err();
    assert!(matches!(error, PublishError::Full { code: 10_077, .. }), "{error:?}");
    assert_eq!(count(&context, "S").await, 4);
}

#[tokio::test]
async fn a_full_stream_is_told_apart_from_a_wrong_one() {
    let server = Nats::start().await;
    let context = server.context().await;
    for config in [
        Config { max_messages: 3, ..stream_config("FEW", "few") },
        Config { max_bytes: 1_000, ..stream_config("SMALL", "small") },
        Config { max_message_size: 100, ..stream_config("SHORT", "short") },
        Config { allow_atomic_publish: false, ..stream_config("PLAIN", "plain") },
        stream_config("FINE", "fine"),
    ] {
        context.create_stream(config).await.unwrap();
    }
    let publisher = Publisher::new(context.clone());
    let batch = |subject: &str, bytes: usize| -> Vec<_> {
        // Enough of them to be an atomic batch.
        (0..20).map(|n| Outgoing { payload: Bytes::from(vec![b'x'; bytes]), ..message(subject, n) }).collect()
    };

    let few = publisher.publish(&batch("few", 1)).await.unwrap_err();
    assert!(matches!(few, PublishError::Full { .. }), "{few:?}");
    assert_eq!(count(&context, "FEW").await, 3);
    let small = publisher.publish(&batch("small", 300)).await.unwrap_err();
    assert!(matches!(small, PublishError::Full { .. }), "{small:?}");
    let short = publisher.publish(&batch("short", 300)).await.unwrap_err();
    assert!(matches!(short, PublishError::TooLarge { .. }), "{short:?}");
    assert_eq!(short.class(), Class::Permanent);
    let mut one_of_many = batch("short", 1);
    one_of_many[1].payload = Bytes::from(vec![b'x'; 300]);
    let short = publisher.publish(&one_of_many).await.unwrap_err();
    assert!(matches!(short, PublishError::TooLarge { .. }), "{short:?}");
    let plain = publisher.publish(&batch("plain", 1)).await.unwrap_err();
    assert!(matches!(plain, PublishError::Refused { code: 10_174, .. }), "{plain:?}");
    let nowhere = publisher.publish(&batch("nowhere", 1)).await.unwrap_err();
    assert!(matches!(nowhere, PublishError::Unavailable(_)), "{nowhere:?}");
    let huge = publisher.publish(&batch("fine", 3_000_000)).await.unwrap_err();
    assert!(matches!(huge, PublishError::TooLarge { .. }), "{huge:?}");
    let wrong = publisher.publish(&batch("fine thing", 1)).await.unwrap_err();
    assert!(matches!(wrong, PublishError::Refused { .. } | PublishError::Unavailable(_)), "{wrong:?}");
    publisher.publish(&batch("fine", 1)).await.unwrap();
}

#[tokio::test]
async fn more_batches_than_the_server_takes_at_a_time_all_get_through() {
    let server = Nats::start().await;
    let context = server.context().await;
    context.create_stream(stream_config("S", "s")).await.unwrap();
    let publisher = Publisher::new(context.clone());

    let batches = (0..100).map(|batch| {
        let publisher = publisher.clone();
        async move { publisher.publish(&(0..300).map(|n| message("s", batch * 300 + n)).collect::<Vec<_>>()).await }
    });
    let stored = futures::future::try_join_all(batches).await.unwrap();

    let sequences: HashSet<u64> = stored.iter().flatten().map(|s| s.sequence).collect();
    assert_eq!(sequences, (1..=30_000).collect());
}

#[tokio::test]
async fn a_server_that_crashes_midway_loses_nothing_and_doubles_nothing() {
    let server = Nats::start().await;
    let context = server.context().await;
    context.create_stream(stream_config("S", "s")).await.unwrap();
    let publisher = Publisher::new(context.clone());

    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let publish = tokio::spawn(async move {
        let mut batches = 0;
        while !stopped.load(Ordering::Relaxed) {
            let batch: Vec<_> = (0..50).map(|n| message("s", batches * 50 + n)).collect();
            while let Err(error) = publisher.publish(&batch).await {
                assert!(error.class().is_transient(), "{error:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            batches += 1;
        }
        batches * 50
    });
    for crashes in 1..=2 {
        eventually("more is stored", async || count(&context, "S").await > crashes * 1_000).await;
        server.crash().await;
    }
    eventually("more is stored", async || count(&context, "S").await > 3_000).await;
    stop.store(true, Ordering::Relaxed);
    let published: u64 = publish.await.unwrap();

    let context = server.context().await;
    let stream = context.get_stream("S").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, published);
    let mut seen = HashSet::new();
    for sequence in 1..=published {
        assert!(seen.insert(stream.direct_get(sequence).await.unwrap().payload));
    }
}

#[tokio::test]
async fn what_is_offered_is_stored_as_far_as_it_fits_and_nobody_waits() {
    let server = Nats::start().await;
    let context = server.context().await;
    let config = Config { max_message_size: 1_000, max_messages: 60, ..stream_config("S", "s") };
    context.create_stream(config).await.unwrap();
    let publisher = Publisher::new(context.clone());
    let mut messages: Vec<_> = (0..50).map(|n| message("s", n)).collect();
    messages[7].payload = vec![b'x'; 2_000].into();
    let refused = publisher.offer(&messages).await;
    let [(7, PublishError::TooLarge { .. })] = refused[..] else { panic!("{refused:?}") };
    assert_eq!(count(&context, "S").await, 49);

    let more: Vec<_> = (100..150).map(|n| message("s", n)).collect();
    let refused = publisher.offer(&more).await;
    assert_eq!((refused.len(), count(&context, "S").await), (39, 60));
    assert!(refused.iter().all(|(_, error)| error.class() == Class::Overloaded), "{refused:?}");
    assert_eq!(publisher.offer(&messages).await.len(), 1, "what is stored is no refusal");
    assert_eq!(publisher.offer(&[]).await.len(), 0);
}
