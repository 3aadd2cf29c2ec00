//! What operators watch: `queue_metrics`, `/metrics`, `/healthz`, `/readyz`, of real processes, and while servers are away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chasqui_testing::{TestInstall, install::PATIENCE, oracle, settings::IMPATIENT, submissions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use uuid::Uuid;

/// An address that nobody listens on.
fn free() -> Result<String> {
    Ok(format!("127.0.0.1:{}", chasqui_embedded::free_port()?))
}

/// The answer to a request, as `GET` unless it says otherwise; empty where nobody answers.
async fn ask(address: &str, path: &str) -> String {
    let asking = async {
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    timeout(Duration::from_secs(10), asking).await.ok().and_then(Result::ok).unwrap_or_default()
}

/// Asks until the answer is what it should be.
async fn until(address: &str, path: &str, right: impl Fn(&str) -> bool) -> Result<String> {
    let mut answer = String::new();
    let asking = async {
        loop {
            answer = ask(address, path).await;
            if right(&answer) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let found = timeout(PATIENCE, asking).await;
    found.with_context(|| format!("{path}: {answer}"))?;
    Ok(answer)
}

fn is_ok(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ")
}

fn is_503(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 503 ")
}

/// The value of a series.
fn value(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

async fn count(install: &TestInstall, sql: &str) -> Result<u64> {
    Ok(install.clickhouse.query(sql).fetch_one().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_in_clickhouse_and_metrics_once_however_many_watch() -> Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let (one, two) = (free()?, free()?);
    let often = ("CHASQUI_MONITOR__SAMPLE_MS", "1000");
    let all = install.worker_with("", &[often, ("CHASQUI_HEALTH", &one)])?;
    let other = install.worker_with("monitor", &[often, ("CHASQUI_HEALTH", &two)])?;
    let moments = async |more: u64| {
        let sampled = "SELECT uniqExact(sampled_at) FROM queue_metrics";
        let enough = count(&install, sampled).await? + more;
        while count(&install, sampled).await? < enough {
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    // So that there is something to compare with.
    moments(2).await?;
    let id = Uuid::now_v7();
    install.publish("notify.submit.normal.test", &id.to_string(), &submissions::mail(id, "ada")).await?;
    let delivered = format!("SELECT count() AS n FROM deliveries WHERE state = 'delivered' AND request_id = '{id}'");
    oracle::until(&install, "delivered", &delivered, 1).await?;

    ensure!(is_ok(&until(&one, "/readyz", is_ok).await?) && is_ok(&ask(&one, "/healthz").await));
    let expected = [
        "chasqui_messages_total{stage=\"validate\",lane=\"normal\",decision=\"forward\"}",
        "chasqui_messages_total{stage=\"send\",lane=\"normal\",decision=\"sent\"}",
        "chasqui_beats_total{stage=\"render\",lane=\"critical\"}",
        "chasqui_beats_total{stage=\"send\",lane=\"high\",channel=\"sms\"}",
        "chasqui_trace_rows_total",
        "chasqui_queue_waiting{stage=\"send\",lane=\"bulk\",channel=\"email\"}",
        "chasqui_queue_waiting{stage=\"traces\"}",
        "chasqui_queue_sampled_timestamp_seconds",
    ];
    let positive = |answer: &str, series: &str| value(answer, series).is_some_and(|value| value > 0.0);
    let all_told = |answer: &str| expected.iter().all(|series| positive(answer, series));
    let metrics = until(&one, "/metrics", all_told).await?;
    let unhelpful: Vec<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| !metrics.contains(&format!("# HELP {name} ")))
        .collect();
    ensure!(unhelpful.is_empty(), "nobody says what {unhelpful:?} are");
    // The other one watches too, and knows no stages.
    let metrics = until(&two, "/metrics", |answer| {
        value(answer, "chasqui_queue_pending{stage=\"render\",lane=\"bulk\"}").is_some()
    })
    .await?;
    ensure!(!metrics.contains("chasqui_messages_total"), "{metrics}");

    moments(2).await?;
    all.terminate().await?;
    other.terminate().await?;
    // Not even before merging: the second insert of a moment has no effect.
    let doubled = "SELECT count() FROM (SELECT count() AS c FROM queue_metrics
                   GROUP BY sampled_at, stage, lane, channel, consumer HAVING c > 1)";
    ensure!(count(&install, doubled).await? == 0);
    let whole = "SELECT max(c) FROM (SELECT count() AS c FROM queue_metrics GROUP BY sampled_at)";
    ensure!(count(&install, whole).await? == 54);
    let consumed =
        "SELECT max(waiting) FROM queue_metrics WHERE stage = 'send' AND lane = 'normal' AND channel = 'email'";
    ensure!(count(&install, consumed).await? > 0);
    let came = "SELECT countIf(in_per_s > 0) FROM queue_metrics WHERE stage = 'ledger'";
    ensure!(count(&install, came).await? > 0, "its claim went into the ledger");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_its_servers_is_well_but_not_ready() -> Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let (writer, stage) = (free()?, free()?);
    let often = ("CHASQUI_MONITOR__SAMPLE_MS", "500");
    let worker = install.worker_with("writer,monitor", &[often, ("CHASQUI_HEALTH", &writer)])?;
    let other = install.worker_with("render", &[("CHASQUI_HEALTH", &stage)])?;
    until(&writer, "/readyz", is_ok).await?;
    until(&stage, "/readyz", is_ok).await?;

    // A process that is stopped answers as little as one that hangs.
    let clickhouse = install.servers().clickhouse().context("no ClickHouse")?.pid().context("no process")?;
    let signal = async |pid: u32, name: &str| {
        let status = tokio::process::Command::new("kill").args([name, &pid.to_string()]).status().await?;
        ensure!(status.success());
        Ok(())
    };
    signal(clickhouse, "-STOP").await?;
    until(&writer, "/readyz", |answer| is_503(answer) && answer.contains("ClickHouse")).await?;
    ensure!(is_ok(&ask(&writer, "/healthz").await) && is_ok(&ask(&stage, "/readyz").await));
    let lost = "chasqui_queue_rows_lost_total{by=\"clickhouse\"}";
    until(&writer, "/metrics", |answer| value(answer, lost).is_some()).await?;
    signal(clickhouse, "-CONT").await?;
    until(&writer, "/readyz", is_ok).await?;

    let nats = install.servers().nats().context("no NATS")?.pid().context("no process")?;
    signal(nats, "-STOP").await?;
    until(&stage, "/readyz", is_503).await?;
    ensure!(is_ok(&ask(&stage, "/healthz").await));
    signal(nats, "-CONT").await?;
    until(&stage, "/readyz", is_ok).await?;
    until(&writer, "/readyz", is_ok).await?;
    let samples = count(&install, "SELECT count() FROM queue_metrics").await?;
    while count(&install, "SELECT count() FROM queue_metrics").await? <= samples {
        sleep(Duration::from_millis(100)).await;
    }
    worker.terminate().await?;
    other.terminate().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_while_nats_is_away_and_what_it_took_arrives() -> Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let server = install.servers().nats().context("no NATS")?;
    let (bind, health) = (free()?, free()?);
    let pid = server.pid().context("no process")?.to_string();
    let signal = |name: &'static str| tokio::process::Command::new("kill").args([name, &pid]).status();
    // It accepts connections and says nothing, which is as good as away.
    ensure!(signal("-STOP").await?.success());
    let spool = tempfile::tempdir()?;
    let settings = [
        ("CHASQUI_GATEWAY__BIND", bind.as_str()),
        ("CHASQUI_ENGAGEMENT__SPOOL_DIR", spool.path().to_str().context("no text")?),
        ("CHASQUI_HEALTH", &health),
        ("CHASQUI_APPS__SHOP__TOKEN__ENV", "SHOP_TOKEN"),
        ("SHOP_TOKEN", "t0ken"),
    ];
    let gateway = install.worker_with("gateway", &settings)?;
    until(&bind, "/readyz", is_ok).await?;
    ensure!(is_ok(&until(&health, "/readyz", is_ok).await?), "it can do without");
    let body = format!(
        r#"[{{"kind":"opened","channel":"push","delivery_id":"{}","notification_id":"{}"}}]"#,
        Uuid::now_v7(),
        Uuid::now_v7()
    );
    let mut connection = TcpStream::connect(&bind).await?;
    let head = format!(
        "POST /v1/receipts HTTP/1.1\r\nHost: {bind}\r\nAuthorization: Bearer t0ken\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all((head + &body).as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 202 "), "{answer}");

    ensure!(signal("-CONT").await?.success());
    while install.stored("RECEIPTS").await? == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    gateway.terminate().await?;
    Ok(())
}
