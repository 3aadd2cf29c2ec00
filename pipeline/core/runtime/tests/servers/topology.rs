//! What `chasqui migrate` says to servers that cannot carry the topology, and what it changes on those that can.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up must fail")]

use std::{process::Stdio, time::Duration};

use async_nats::jetstream::{self, message::PublishMessage};
use chasqui_embedded::{NatsOptions, locate};
use chasqui_nats::{Outgoing, Publisher};
use chasqui_runtime::{
    settings::Settings,
    topology::{self, TopologyError},
};
use chasqui_schemas::{Lane, Stage, stream, subject};
use chasqui_testing::servers::{Nats, cache, without_login};
use futures::StreamExt;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

fn config(settings: &str) -> Settings {
    Settings::with(settings).unwrap()
}

/// Tries until a server that is starting answers.
async fn connect(url: &str) -> async_nats::Client {
    loop {
        match async_nats::connect(url).await {
            Ok(client) => return client,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test]
async fn a_server_without_jetstream_is_refused() {
    let binary = tokio::task::spawn_blocking(|| locate::nats_server(&cache(), None, &|_| {})).await.unwrap().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = tokio::process::Command::new(binary);
    server.args(["-a", "127.0.0.1", "-p", &port.to_string()]).stderr(Stdio::null()).kill_on_drop(true);
    let _server = server.spawn().unwrap();
    let url = format!("nats://127.0.0.1:{port}");
    let client = connect(&url).await;
    let Settings { streams, runner } = config("");
    let error = topology::migrate(&client, &url, &streams, &runner).await.unwrap_err();
    assert!(matches!(error, TopologyError::NoJetStream { .. }));
    assert!(error.to_string().contains("-js"), "{error}");
}

/// Old servers cannot be fetched everywhere; what one says of itself is all that counts.
#[tokio::test]
async fn a_server_that_is_too_old_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut socket = BufReader::new(socket);
        let info = r#"INFO {"server_id":"X","version":"2.12.8","proto":1,"max_payload":1048576,"headers":true,"jetstream":true}"#;
        socket.write_all(format!("{info}\r\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        while socket.read_line(&mut line).await.unwrap() > 0 {
            if line.starts_with("PING") {
                socket.write_all(b"PONG\r\n").await.unwrap();
            }
            line.clear();
        }
    });
    let client = async_nats::connect(&url).await.unwrap();
    let error = topology::check_server(&client, &url).unwrap_err();
    assert!(matches!(&error, TopologyError::TooOld { found } if found == "2.12.8"), "{error}");
    assert!(error.to_string().contains("2.14"), "{error}");
}

#[tokio::test]
async fn a_changed_setting_reaches_the_stream_and_keeps_its_messages() {
    let nats = Nats::start_with(without_login()).await;
    let (url, client) = (nats.url(), nats.client().await);
    let context = jetstream::new(client.clone());
    for (settings, limit) in [("", 500_000), ("[streams]\napp_messages = 5\ndedupe_window_s = 3600", 5)] {
        let Settings { streams, runner } = config(settings);
        topology::migrate(&client, url, &streams, &runner).await.unwrap();
        context.publish("notify.submit.normal.shop", "{}".into()).await.unwrap().await.unwrap();
        let stream = context.get_stream("STAGE_VALIDATE_NORMAL").await.unwrap();
        assert_eq!(stream.cached_info().config.max_messages_per_subject, limit);
    }
    assert_eq!(context.get_stream("STAGE_VALIDATE_NORMAL").await.unwrap().cached_info().state.messages, 2);
    let ledger = context.get_stream("LEDGER").await.unwrap();
    assert_eq!(ledger.cached_info().config.duplicate_window, Duration::from_secs(3600));
}

#[tokio::test]
async fn a_message_id_is_its_apps_own() {
    let nats = Nats::start_with(without_login()).await;
    let client = nats.client().await;
    let Settings { streams, runner } = config("");
    // Also after a change, and after a restart of the server.
    for _ in 0..2 {
        topology::migrate(&client, nats.url(), &streams, &runner).await.unwrap();
    }
    nats.crash().await;
    let context = jetstream::new(nats.client().await);
    let mut stored = 0;
    for lane in Lane::ALL {
        for app in ["evil", "shop", "evil"] {
            let message = PublishMessage::build().payload("{}".into()).message_id("order-1042-shipped");
            let ack = context.send_publish(subject::submit(lane, app), message).await.unwrap().await.unwrap();
            assert!(!ack.duplicate, "{app} on {lane}");
            stored += 1;
        }
        // Nor is anything copied from the stream that is said to be copied.
        context.publish(subject::rejected("shop"), "{}".into()).await.unwrap().await.unwrap();
        let front = context.get_stream(stream::of_stage(Stage::Validate, lane)).await.unwrap();
        let info = front.cached_info();
        assert_eq!((info.config.duplicate_window, info.state.messages), (Duration::ZERO, 3), "{lane}");
    }
    assert_eq!(stored, 12);
    // The queues between stages do remember: a repeat there is a redelivery.
    let enrich = context.get_stream(stream::of_stage(Stage::Enrich, Lane::Bulk)).await.unwrap();
    assert_eq!(enrich.cached_info().config.duplicate_window, Duration::from_secs(streams.hop_window_s));
}

#[tokio::test]
async fn batches_that_producers_leave_open_at_the_front_keep_nobody_out() {
    let nats = Nats::start_with(without_login()).await;
    let client = nats.client().await;
    let Settings { streams, runner } = config("");
    topology::migrate(&client, nats.url(), &streams, &runner).await.unwrap();
    for batch in 0..60 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Batch-Id", format!("open-{batch}").as_str());
        headers.insert("Nats-Batch-Sequence", "1");
        client.publish_with_headers("notify.submit.normal.evil", headers, "{}".into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let context = jetstream::new(client);
    context.publish("notify.submit.normal.shop", "{}".into()).await.unwrap().await.unwrap();
    // As `chasqui dead replay` publishes.
    let replayed = Outgoing {
        subject: "notify.submit.normal.shop".to_owned(),
        message_id: Some("replay.1.1".to_owned()),
        headers: vec![],
        payload: "{}".into(),
    };
    // More than the publisher sends one by one without trying a batch.
    let many: Vec<_> = (0..40).map(|n| Outgoing { message_id: Some(format!("m-{n}")), ..replayed.clone() }).collect();
    Publisher::new(context.clone()).publish(&[replayed]).await.unwrap();
    Publisher::new(context.clone()).publish(&many).await.unwrap();
    assert_eq!(context.get_stream("STAGE_VALIDATE_NORMAL").await.unwrap().cached_info().state.messages, 42);
}

#[tokio::test]
async fn streams_that_do_not_fit_on_the_disk_are_an_error_that_names_the_settings() {
    let nats = Nats::start_with(NatsOptions { max_file_store_bytes: 1 << 30, ..without_login() }).await;
    let Settings { streams, runner } = config("");
    let error = topology::migrate(&nats.client().await, nats.url(), &streams, &runner).await.unwrap_err();
    assert!(matches!(error, TopologyError::Disk { .. }), "{error:?}");
    for word in
        ["max_file_store", "embedded.nats_disk_bytes", "streams.queue_bytes", &streams.set_aside_bytes().to_string()]
    {
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn what_is_set_aside_is_what_the_streams_say() {
    let nats = Nats::start_with(without_login()).await;
    let client = nats.client().await;
    let Settings { streams, runner } = config("");
    topology::migrate(&client, nats.url(), &streams, &runner).await.unwrap();
    let mut streams_of = jetstream::new(client).streams();
    let mut set_aside = 0;
    while let Some(stream) = streams_of.next().await {
        set_aside += stream.unwrap().config.max_bytes.max(0);
    }
    assert_eq!(set_aside, streams.set_aside_bytes());
}
