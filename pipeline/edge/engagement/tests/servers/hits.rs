//! What recipients, apps and strangers get, through real HTTP, and what comes of it in a real JetStream.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::support::{Gateway, config, links, message, receipts, wait_for};
use chasqui_links::Origin;
use chasqui_schemas::{OptOut, receipt::Actor};
use chasqui_testing::servers::Nats;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use uuid::Uuid;

fn newsletter() -> OptOut {
    OptOut::Category { app: "shop".into(), user: "ada".into(), category: "newsletter".into() }
}

#[tokio::test]
async fn opens_and_clicks_become_receipts() {
    let nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&nats, &config(dir.path(), "")).await;

    let pixel = gateway.get(&links().open(&message(1))).await;
    assert_eq!(pixel.status(), 200);
    assert_eq!(pixel.headers()["content-type"], "image/gif");
    assert_eq!(pixel.headers()["cache-control"], "no-store");
    let image = pixel.bytes().await.unwrap();
    assert_eq!((image.len(), &image[..6]), (43, &b"GIF89a"[..]));

    let target = "https://shop.example.com/orders/7?a=b#c";
    let click = gateway.get(&links().click(&message(2), 3, target).unwrap()).await;
    assert_eq!((click.status().as_u16(), click.headers()["location"].to_str().unwrap()), (302, target));
    assert_eq!(click.headers()["referrer-policy"], "no-referrer");
    // A repeat within the window is the same message.
    gateway.get(&links().click(&message(2), 3, target).unwrap()).await;

    let head = gateway.client.head(gateway.here(&links().open(&message(3)))).send().await.unwrap();
    assert_eq!(head.status(), 200);

    let receipts = wait_for(&nats, 3).await;
    let reported: Vec<_> = receipts
        .iter()
        .map(|(subject, receipt, _)| (subject.as_str(), receipt.by, receipt.detail.as_deref()))
        .collect();
    assert_eq!(
        reported,
        [
            ("notify.receipt.opened.email", Actor::Human, None),
            ("notify.receipt.clicked.email", Actor::Human, Some("link-3")),
            ("notify.receipt.opened.email", Actor::Machine, None),
        ]
    );
    assert_eq!(receipts[0].1.delivery_id, message(1).delivery_id);
    assert!(receipts.iter().all(|(_, receipt, _)| receipt.at.is_some()), "a replay later must not change the time");
    gateway.stop().await;
}

#[tokio::test]
async fn following_every_link_at_once_is_a_machine() {
    let nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&nats, &config(dir.path(), "")).await;
    for link in 0..4 {
        gateway.get(&links().click(&message(1), link, "https://shop.example.com/").unwrap()).await;
    }
    let machines = wait_for(&nats, 4).await.iter().filter(|(_, receipt, _)| receipt.by == Actor::Machine).count();
    assert_eq!(machines, 3, "all but the first, as documented");
    gateway.stop().await;
}

#[tokio::test]
async fn strangers_learn_nothing_and_leave_no_trace() {
    let nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&nats, &config(dir.path(), "")).await;
    let forge = |url: String| {
        let at = url.rfind('.').unwrap() + 20;
        let other = if &url[at..=at] == "A" { "B" } else { "A" };
        format!("{}{other}{}", &url[..at], &url[at + 1..])
    };
    let genuine = gateway.get(&links().open(&message(1))).await;
    let headers = |response: &reqwest::Response| {
        let mut headers = response.headers().clone();
        headers.remove("date");
        headers
    };
    let genuine_headers = headers(&genuine);
    let genuine_image = genuine.bytes().await.unwrap();
    let open = links().open(&message(1));
    let forged = forge(open.trim_end_matches(".gif").to_owned()) + ".gif";
    for url in [&forged, "/t/o/x.gif", "/t/o/%ff", "/t/o/k1.", "/t/o/k9.AAAA.gif"] {
        let response = gateway.get(url).await;
        assert_eq!((response.status().as_u16(), headers(&response)), (200, genuine_headers.clone()), "{url}");
        assert_eq!(response.bytes().await.unwrap(), genuine_image, "{url}");
    }

    let missing = gateway.get("/nothing/here").await;
    assert_eq!(missing.status(), 404);
    let page = missing.text().await.unwrap();
    let click = forge(links().click(&message(1), 0, "https://shop.example.com/").unwrap());
    let unsubscribe = forge(links().unsubscribe(&message(1), &newsletter()).unwrap());
    // A token of another kind is no better than a forged one.
    let other_kind = open.replace("/t/o/", "/t/c/").replace(".gif", "");
    for url in [&click, &unsubscribe, &other_kind, "/t/c/", "/t/c/x", "/t/u/x", "/t", "/v1/callbacks/twilio"] {
        let response = gateway.get(url).await;
        assert_eq!(response.status(), 404, "{url}");
        assert_eq!(response.text().await.unwrap(), page, "{url}");
    }
    for url in [&unsubscribe, "/v1/callbacks/twilio", "/v1/callbacks/nobody"] {
        let response = gateway.post(url, "List-Unsubscribe=One-Click").await;
        assert_eq!((response.status().as_u16(), response.text().await.unwrap()), (404, page.clone()), "{url}");
    }
    wait_for(&nats, 1).await;
    gateway.stop().await;
    assert_eq!(receipts(&nats).await.len(), 1, "the genuine one");
}

#[tokio::test]
async fn unsubscribing_takes_a_post_that_says_so() {
    let nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&nats, &config(dir.path(), "")).await;
    let url = links().unsubscribe(&message(1), &newsletter()).unwrap();

    let page = gateway.get(&url).await;
    assert_eq!(page.status(), 200);
    assert!(page.headers().get("set-cookie").is_none());
    let text = page.text().await.unwrap();
    assert!(text.contains("newsletter") && text.contains("method=\"post\"") && !text.contains("ada"), "{text}");
    assert_eq!(gateway.post(&url, "").await.status(), 400);
    assert_eq!(gateway.post(&url, "x".repeat(5_000)).await.status(), 413);
    assert_eq!(receipts(&nats).await, [], "nothing has happened");

    let done = gateway.post(&url, "List-Unsubscribe=One-Click").await;
    assert_eq!(done.status(), 200);
    let receipts = receipts(&nats).await;
    let (subject, receipt, opt_out) = &receipts[0];
    assert_eq!((receipts.len(), subject.as_str()), (1, "notify.receipt.unsubscribed.email"), "stored when answered");
    assert_eq!(receipt.delivery_id, message(1).delivery_id);
    assert_eq!(serde_json::from_str::<OptOut>(opt_out.as_ref().unwrap()).unwrap(), newsletter());
    gateway.stop().await;
}

#[tokio::test]
async fn apps_report_with_their_token() {
    let nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "t0ken\n").unwrap();
    let bank = dir.path().join("bank");
    std::fs::write(&bank, "b4nk\n").unwrap();
    let apps = format!("apps.shop.token.file = '{}'\napps.bank.token.file = '{}'", token.display(), bank.display());
    let gateway = Gateway::start(&nats, &config(dir.path(), &apps)).await;
    let report = |n: u128| {
        let Origin { notification_id, delivery_id, .. } = message(n);
        json!({"kind": "opened", "channel": "push", "by": "human", "delivery_id": delivery_id, "notification_id": notification_id})
    };
    let reports: Vec<_> = (1..=1_000).map(report).collect();
    let post = |token: &str, body: &serde_json::Value| {
        gateway.client.post(gateway.here("/v1/receipts")).bearer_auth(token).body(body.to_string()).send()
    };
    assert_eq!(post("other", &json!(reports)).await.unwrap().status(), 401);
    assert_eq!(gateway.post("/v1/receipts", "[]").await.status(), 401);
    let wrong = post("t0ken", &json!([reports[0], {"kind": "opened"}])).await.unwrap();
    assert_eq!(wrong.status(), 400);
    assert!(wrong.text().await.unwrap().contains("[1]"), "which one");
    let mut made_up = report(2);
    made_up["delivery_id"] = json!(Uuid::new_v4());
    assert_eq!(post("t0ken", &json!([reports[0], made_up])).await.unwrap().status(), 400);
    // The id of another app's delivery, which its own app may report.
    let others =
        gateway.client.post(gateway.here("/v1/receipts")).bearer_auth("b4nk").body(json!([reports[0]]).to_string());
    let others = others.send().await.unwrap();
    assert_eq!(others.status(), 400);
    assert!(others.text().await.unwrap().contains("[0].delivery_id: is of another app's delivery"));
    assert_eq!(receipts(&nats).await.len(), 0, "all or nothing");

    let taken = post("t0ken", &json!(reports)).await.unwrap();
    assert_eq!((taken.status().as_u16(), taken.text().await.unwrap().as_str()), (202, "{\"accepted\":1000}\n"));
    let receipts = receipts(&nats).await;
    assert_eq!(receipts.len(), 1_000);
    assert!(
        receipts.iter().zip(1..).all(|((_, receipt, _), n)| receipt.delivery_id == message(n).delivery_id),
        "in order"
    );
    assert!(receipts.iter().all(|(_, receipt, _)| receipt.app.as_deref() == Some("shop")), "under its own name");
    assert_eq!(post("t0ken", &json!(vec![&reports[0]; 1_001])).await.unwrap().status(), 400);
    assert_eq!(post("t0ken", &json!("x".repeat(600_000))).await.unwrap().status(), 413);
    gateway.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_or_never_comes_is_refused() {
    let nats = Nats::with_streams().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&nats, &config(dir.path(), "gateway.connections = 1")).await;
    let answer = async |request: &[u8]| {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        // The server may hang up before all is said.
        _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    let large = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    assert!(answer(large.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let many = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(100));
    assert!(answer(many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    // It holds the only turn, and gives it up when it has said nothing for too long.
    assert_eq!(answer(b"GET /health").await.lines().next().unwrap_or_default(), "");
    assert!(answer(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ends_with("ok\n"));
    gateway.stop().await;
}
