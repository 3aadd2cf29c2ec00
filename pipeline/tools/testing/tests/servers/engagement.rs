//! What recipients do with a message, from the link that render made to the row that an analyst reads.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream;
use chasqui_links::{Links, Origin};
use chasqui_schemas::{Channel, OptOut, ReceiptKind, header, stream, subject};
use chasqui_testing::{TestInstall, oracle, settings::IMPATIENT};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use uuid::Uuid;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const PUBLIC_URL: &str = "https://n.example.com";

/// One request, one answer. The process may still be starting.
async fn http(port: u16, method: &str, url: &str, body: &str) -> anyhow::Result<String> {
    let path = url.trim_start_matches(PUBLIC_URL);
    let deadline = std::time::Instant::now() + chasqui_testing::install::PATIENCE;
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => break stream,
            Err(error) if std::time::Instant::now() > deadline => return Err(error).context("no gateway"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let length = body.len();
    let head = "Host: n.example.com\r\nConnection: close\r\nUser-Agent: Mozilla/5.0 (X11) Firefox/140.0";
    stream
        .write_all(format!("{method} {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes())
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_click_and_an_unsubscription_reach_the_analyst_and_the_preferences() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let port = chasqui_embedded::free_port()?;
    let settings = format!(
        "{IMPATIENT}\n[gateway]\npublic_url = '{PUBLIC_URL}'\n[links]\nkeys = [{{ id = 'k1', secret = {{ env = 'LINKS_KEY' }} }}]\n[engagement]\nspool_dir = '{}'",
        dir.path().join("spool").display()
    );
    let install = TestInstall::start(&settings).await?;
    let bind = format!("127.0.0.1:{port}");
    let variables = [("CHASQUI_GATEWAY__BIND", bind.as_str()), ("LINKS_KEY", KEY)];
    let contacts = dir.path().join("contacts.json");
    std::fs::write(&contacts, json!({"ada": {"emails": ["ada@example.com"]}}).to_string())?;
    install.run(&["contacts", "import", &contacts.to_string_lossy()]).await?;
    let worker = install.worker_with("", &variables)?;

    let submission = |id: Uuid| {
        json!({
            "id": id, "category": "news", "recipients": ["ada"], "channels": ["email", "in_app"],
            "content": {"title": "News", "html": "<p>News</p>", "url": "https://shop.example.com/news"},
        })
    };
    let first = Uuid::now_v7();
    install.publish("notify.submit.normal.shop", &first.to_string(), &submission(first)).await?;
    oracle::until(&install, "delivered", "SELECT count() AS n FROM deliveries WHERE state = 'delivered'", 2).await?;

    // The app has its own link.
    let inbox = jetstream::new(install.nats.clone()).get_stream(stream::INBOX).await?;
    let message = inbox.get_last_raw_message_by_subject(&subject::inbox("shop", "ada")).await?;
    let message: Value = serde_json::from_slice(&message.payload)?;
    ensure!(message["url"] == "https://shop.example.com/news", "{message}");

    // The mail itself went to a provider that keeps nothing, so its links are made anew.
    let ids = "SELECT delivery_id, notification_id, request_id, state, reason FROM deliveries WHERE channel = 'email'";
    let mail: Vec<chasqui_testing::oracle::DeliveryRow> = oracle::query(&install, ids).await?;
    let mail = mail.first().context("no mail")?;
    let origin =
        Origin { delivery_id: mail.delivery_id, notification_id: mail.notification_id, channel: Channel::Email };
    let links = Links::new(PUBLIC_URL, [("k1", KEY.as_bytes())])?;
    let url = links.click(&origin, 1, "https://shop.example.com/news").context("no link")?;
    let answer = http(port, "GET", &url, "").await?;
    ensure!(
        answer.starts_with("HTTP/1.1 302") && answer.contains("location: https://shop.example.com/news\r\n"),
        "{answer}"
    );
    let clicked = "SELECT count() AS n FROM deliveries WHERE channel = 'email' AND clicked_at IS NOT NULL";
    oracle::until(&install, "clicked", clicked, 1).await?;

    // The mailbox provider's button.
    let off = OptOut::Category { app: "shop".into(), user: "ada".into(), category: "news".into() };
    let unsubscribe = links.unsubscribe(&origin, &off).context("no link")?;
    let answer = http(port, "POST", &unsubscribe, "List-Unsubscribe=One-Click").await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // What was answered survives whoever answered.
    worker.kill().await?;
    let _worker = install.worker_with("", &variables)?;
    let unsubscribed = "SELECT count() AS n FROM deliveries WHERE channel = 'email' AND unsubscribed_at IS NOT NULL";
    oracle::until(&install, "unsubscribed", unsubscribed, 1).await?;
    let preferences: Value = serde_json::from_str(&install.run(&["preferences", "get", "ada"]).await?)?;
    ensure!(preferences["categories"]["news"] == json!(false), "{preferences}");

    let second = Uuid::now_v7();
    install.publish("notify.submit.normal.shop", &second.to_string(), &submission(second)).await?;
    let suppressed =
        "SELECT count() AS n FROM notifications WHERE state = 'suppressed' AND reason = 'opted_out_category'";
    oracle::until(&install, "suppressed", suppressed, 1).await?;
    oracle::traces_are_trees(&install).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opt_out_beside_several_receipts_is_performed_and_all_of_them_recorded() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let pepper = chasqui_stores::pepper(&jetstream::new(install.nats.clone()), None).await?;
    let receipt = |endpoint| {
        let notification = Uuid::now_v7();
        let delivery = pepper.delivery("shop", notification, Channel::Email, endpoint);
        json!({"delivery_id": delivery, "notification_id": notification})
    };
    let off = OptOut::Category { app: "shop".into(), user: "ada".into(), category: "news".into() };
    let message = jetstream::message::PublishMessage::build()
        .payload(json!([receipt("a"), receipt("b")]).to_string().into())
        .header(header::OPT_OUT, serde_json::to_string(&off)?.as_str());
    let subject = subject::receipt(ReceiptKind::Unsubscribed, Channel::Email);
    jetstream::new(install.nats.clone()).send_publish(subject, message).await?.await?;

    let _worker = install.worker("receipts,writer")?;
    let recorded = "SELECT uniqExact(delivery_id) AS n FROM trace_events WHERE event = 'unsubscribed'";
    oracle::until(&install, "recorded", recorded, 2).await?;
    // Events are published after the opt-out is stored.
    let preferences: Value = serde_json::from_str(&install.run(&["preferences", "get", "ada"]).await?)?;
    ensure!(preferences["categories"]["news"] == json!(false), "{preferences}");
    Ok(())
}
