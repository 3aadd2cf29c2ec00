//! What `chasqui migrate` says to servers that cannot carry the topology, and what it changes on those that can.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up must fail")]

use std::{process::Stdio, time::Duration};

use async_nats::jetstream;
use chasqui_embedded::{NatsOptions, locate};
use chasqui_runtime::{
    settings::Settings,
    topology::{self, TopologyError},
};
use chasqui_testing::servers::{Nats, cache};
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
    let nats = Nats::start_with(NatsOptions::default()).await;
    let (url, client) = (nats.url(), nats.client().await);
    let context = jetstream::new(client.clone());
    for (settings, limit) in [("", 1_000_000), ("[streams]\nqueue_messages = 5\ndedupe_window_s = 3600", 5)] {
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
