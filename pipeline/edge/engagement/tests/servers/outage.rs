//! NATS away, disks full, gateways killed: real servers stopped and started.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::support::{Gateway, config, links, message, receipts, wait_for};
use chasqui_links::Origin;
use chasqui_schemas::OptOut;
use chasqui_testing::servers::Nats;
use serde_json::json;
use uuid::Uuid;

fn newsletter() -> OptOut {
    OptOut::Category { app: "shop".into(), user: "ada".into(), category: "newsletter".into() }
}

fn spool_files(dir: &std::path::Path) -> usize {
    let files = std::fs::read_dir(dir.join("spool")).unwrap();
    files.filter(|file| file.as_ref().unwrap().path().extension().is_some()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_answered_while_nats_is_away_and_all_of_it_arrives_in_order() {
    const COUNT: u128 = 200;
    let mut nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&nats, &config(dir.path(), "")).await;
    gateway.get(&links().open(&message(0))).await;
    wait_for(&nats, 1).await;

    nats.stop().await;
    let mut answers = Vec::new();
    for n in 1..=COUNT {
        let began = Instant::now();
        let status = match n % 4 {
            0 => {
                gateway
                    .post(&links().unsubscribe(&message(n), &newsletter()).unwrap(), "List-Unsubscribe=One-Click")
                    .await
            }
            1 => gateway.get(&links().open(&message(n))).await,
            2 => gateway.get(&links().click(&message(n), 1, "https://shop.example.com/").unwrap()).await,
            _ => gateway.get("/readyz").await,
        };
        answers.push(began.elapsed());
        assert!(matches!(status.status().as_u16(), 200 | 302), "{n}: {}", status.status());
    }
    answers.sort();
    // A millisecond or two, fsync included; the bound is for machines that do much else.
    let median = answers[answers.len() / 2];
    assert!(median < Duration::from_millis(100), "half of the answers took more than {median:?}");
    assert!(spool_files(dir.path()) > 0);

    nats.start_again().await;
    let stored = wait_for(&nats, 1 + COUNT as usize * 3 / 4).await;
    let order: Vec<_> = stored.iter().map(|(_, receipt, _)| receipt.delivery_id).collect();
    let expected: Vec<_> = (0..=COUNT).filter(|n| n % 4 != 3).map(|n| message(n).delivery_id).collect();
    assert_eq!(order, expected);
    assert_eq!(gateway.lost(), 0);

    // From here on directly again.
    let late =
        gateway.post(&links().unsubscribe(&message(900), &newsletter()).unwrap(), "List-Unsubscribe=One-Click").await;
    assert_eq!(late.status(), 200);
    assert_eq!(receipts(&nats).await.len(), expected.len() + 1);
    gateway.stop().await;
    assert_eq!(spool_files(dir.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_outlives_the_gateway() {
    let mut nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "");
    let gateway = Gateway::start(&nats, &config).await;
    nats.stop().await;
    for n in 0..20 {
        let url = links().unsubscribe(&message(n), &newsletter()).unwrap();
        assert_eq!(gateway.post(&url, "List-Unsubscribe=One-Click").await.status(), 200);
    }
    gateway.crash().await;
    nats.start_again().await;
    assert_eq!(receipts(&nats).await.len(), 0);

    let gateway = Gateway::start(&nats, &config).await;
    let receipts = wait_for(&nats, 20).await;
    assert!(receipts.iter().all(|(_, _, opt_out)| opt_out.is_some()), "with what they switch off");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_loses_nothing_that_was_taken() {
    let mut nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "");
    let gateway = Gateway::start(&nats, &config).await;
    nats.stop().await;
    for n in 0..50 {
        gateway.get(&links().open(&message(n))).await;
    }
    gateway.stop().await;
    nats.start_again().await;
    let gateway = Gateway::start(&nats, &config).await;
    let stored = wait_for(&nats, 50).await;
    let ids: HashSet<Uuid> = stored.iter().map(|(_, receipt, _)| receipt.delivery_id).collect();
    assert_eq!(ids.len(), 50);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_posts_and_counts_what_it_loses() {
    let mut nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "t0ken").unwrap();
    let changes = format!("engagement.spool_bytes = 80000\napps.shop.token.file = '{}'", token.display());
    let gateway = Gateway::start(&nats, &config(dir.path(), &changes)).await;
    nats.stop().await;
    let post = async |n: u128| {
        let report = |of: Origin| json!({"kind": "opened", "channel": "push", "delivery_id": of.delivery_id, "notification_id": of.notification_id});
        let reports: Vec<_> = (0..20).map(|i| report(message(1_000 + n * 20 + i))).collect();
        let body = json!(reports).to_string();
        gateway.client.post(gateway.here("/v1/receipts")).bearer_auth("t0ken").body(body).send().await.unwrap()
    };
    let mut accepted = 0;
    let refused = loop {
        let answer = post(accepted).await;
        if answer.status() != 202 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 100, "80 kB hold no more than this");
    };
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "5"));
    assert!(accepted > 0);
    assert_eq!(gateway.get("/readyz").await.status(), 503);
    assert_eq!(gateway.get("/healthz").await.status(), 200);
    assert_eq!(gateway.lost(), 0, "what was refused is not lost");

    // A pixel is a pixel; what cannot be kept of it is counted. A few may still fit.
    let before = Instant::now();
    while gateway.lost() == 0 {
        let pixel = gateway.get(&links().open(&message(7))).await;
        assert_eq!((pixel.status().as_u16(), pixel.bytes().await.unwrap().len()), (200, 43));
        assert!(before.elapsed() < Duration::from_secs(60), "nothing is lost");
    }

    nats.start_again().await;
    let patience = Instant::now();
    while post(accepted).await.status() != 202 {
        assert!(patience.elapsed() < Duration::from_secs(60), "it takes no more receipts");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let reported: HashSet<Uuid> = receipts(&nats)
        .await
        .iter()
        .filter(|(subject, ..)| subject == "notify.receipt.opened.push")
        .map(|(_, receipt, _)| receipt.delivery_id)
        .collect();
    assert_eq!(reported.len() as u128, (accepted + 1) * 20, "what was accepted, and what was refused and came again");
    gateway.stop().await;
}
