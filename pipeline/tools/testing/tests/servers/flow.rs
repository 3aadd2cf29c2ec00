//! What producers and operators see when nothing fails.

use std::{path::Path, time::Duration};

use anyhow::ensure;
use chasqui_testing::{Deliveries, TestInstall, oracle, pages, settings::IMPATIENT, submissions};
use serde_json::json;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_can_run_alone() -> anyhow::Result<()> {
    const COUNT: u64 = 200;
    let install = TestInstall::start(IMPATIENT).await?;
    let roles = ["validate", "enrich,filter", "dedupe", "render", "prioritize", "send", "deferred,receipts", "writer"];
    let workers = roles.iter().map(|stages| install.worker(stages)).collect::<anyhow::Result<Vec<_>>>()?;
    for i in 0..COUNT {
        let id = Uuid::now_v7();
        let mail = submissions::mail(id, &format!("person-{i}"));
        install.publish("notify.submit.normal.test", &id.to_string(), &mail).await?;
    }
    let delivered = "SELECT count() AS n FROM deliveries WHERE state = 'delivered'";
    oracle::until(&install, "delivered", delivered, COUNT).await?;
    oracle::traces_are_trees(&install).await?;
    for worker in workers {
        let took = worker.terminate().await?;
        ensure!(took < Duration::from_secs(12), "a drain took {took:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_is_sent_once_and_names_the_original() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let _worker = install.worker("")?;
    let ids = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
    for id in ids {
        let mut mail = submissions::mail(id, "ada");
        mail["idempotency_key"] = json!("order-1042-shipped");
        install.publish("notify.submit.normal.test", &id.to_string(), &mail).await?;
    }
    oracle::until(&install, "ended", "SELECT count() AS n FROM notifications WHERE state != 'pending'", 3).await?;
    let deliveries = Deliveries::read(&install).await?;
    ensure!(deliveries.0.len() == 1, "{deliveries:?}");
    let named = format!(
        "SELECT count() AS n FROM trace_events FINAL WHERE reason = 'duplicate' AND attributes['original'] = '{}'",
        deliveries.0[0].notification_id
    );
    ensure!(oracle::number(&install, &named).await? == 2, "the duplicates do not name the original");
    Ok(())
}

/// The header is the key where a submission names none, and the second of two publishes has the same id as the first: of
/// the same app as a producer that had no answer publishes again, or `chasqui dead replay` that was cut off.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_id_is_a_key_of_its_own_app_alone() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let _worker = install.worker("")?;
    for app in ["evil", "shop", "shop", "evil"] {
        let mail = submissions::mail(Uuid::now_v7(), "ada");
        install.publish(&format!("notify.submit.normal.{app}"), "order-1042-shipped", &mail).await?;
    }
    oracle::until(&install, "ended", "SELECT count() AS n FROM notifications WHERE state != 'pending'", 4).await?;
    for app in ["evil", "shop"] {
        let sent = format!("SELECT count() AS n FROM deliveries WHERE app = '{app}'");
        ensure!(oracle::number(&install, &sent).await? == 1, "{app}");
    }
    let repeats = "SELECT count() AS n FROM notifications WHERE reason = 'duplicate'";
    ensure!(oracle::number(&install, repeats).await? == 2, "each app's second one is a repeat of its first");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_message_does_not_wait_for_bulk() -> anyhow::Result<()> {
    // Bulk mails to slow mailboxes occupy every slot they can get: 1,000 of a second each over 12 slots.
    let install = TestInstall::start(IMPATIENT).await?;
    let worker = install.worker("")?;
    for i in 0..1_000 {
        let id = Uuid::now_v7();
        let mail = submissions::mail(id, &format!("slow-1000-{i}"));
        install.publish("notify.submit.bulk.test", &id.to_string(), &mail).await?;
    }
    for i in 0..20 {
        let id = Uuid::now_v7();
        let mail = submissions::mail(id, &format!("urgent-{i}"));
        install.publish("notify.submit.critical.test", &id.to_string(), &mail).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let urgent = "SELECT count() AS n FROM deliveries WHERE lane = 'critical' AND sent_at IS NOT NULL";
    oracle::until(&install, "urgent mails sent", urgent, 20).await?;
    let slowest =
        "SELECT max(dateDiff('millisecond', submitted_at, sent_at)) AS n FROM deliveries WHERE lane = 'critical'";
    let slowest = oracle::number(&install, slowest).await?;
    let bulk = "SELECT count() AS n FROM deliveries WHERE lane = 'bulk' AND sent_at IS NOT NULL";
    let bulk = oracle::number(&install, bulk).await?;
    ensure!(bulk < 900, "the bulk mails were done before the urgent ones: nothing is shown");
    // A bulk mail alone takes a second: an urgent one that waits behind one is later than this. A busy machine has no seconds to
    // go by: there it is a fifth of the time that the first bulk mail in the queue has waited when the last urgent one was sent.
    let queued = "SELECT dateDiff('millisecond',
            (SELECT min(submitted_at) FROM notifications WHERE lane = 'bulk' AND state = 'pending'),
            (SELECT max(sent_at) FROM deliveries WHERE lane = 'critical')) AS n";
    let bound = (oracle::number(&install, queued).await? / 5).max(1_000);
    ensure!(slowest < bound, "an urgent mail waited {slowest} ms, and not {bound} ms at most");
    // Many slow calls are in hand: leaving takes one of them, not all.
    let took = worker.terminate().await?;
    ensure!(took < Duration::from_secs(12), "the drain took {took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_in_python_needs_only_nats() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let _worker = install.worker("")?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = here.join("../../../.cache/chasqui/python");
    let python = |args: &[&str]| {
        let mut command = tokio::process::Command::new("python3");
        command.args(args).env("PYTHONPATH", &packages);
        command
    };
    if !packages.join("nats").is_dir() {
        let target = packages.to_string_lossy();
        let arguments =
            ["-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--target", &target, "nats-py==2.16.0"];
        ensure!(python(&arguments).status().await?.success(), "pip cannot install nats-py");
    }
    let script = here.join("tests/servers/producer.py");
    let nats = install.servers().nats_url().expect("embedded");
    let output = python(&[&script.to_string_lossy(), nats]).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let request_id: Uuid = String::from_utf8(output.stdout)?.trim().parse()?;
    let found = format!(
        "SELECT count() AS n FROM notifications WHERE request_id = '{request_id}' AND app = 'shop' AND state = 'delivered'"
    );
    oracle::until(&install, "the notification", &found, 1).await?;
    // The programs that the pages show, as they stand; those over HTTP have a test of their own.
    for page in pages::all()? {
        for program in page
            .blocks("python")
            .iter()
            .filter(|program| program.starts_with("import") && !program.contains("CHASQUI_KEY"))
        {
            let output = python(&["-c", program]).env("NATS_URL", nats).output().await?;
            ensure!(output.status.success(), "{}: {}", page.path.display(), String::from_utf8_lossy(&output.stderr));
        }
    }
    let shown = "SELECT count() AS n FROM notifications WHERE idempotency_key = 'order-1042-shipped'";
    oracle::until(&install, "the notifications of the pages", shown, 4).await
}
