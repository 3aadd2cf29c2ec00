//! The commands that tell what happens, on a notification that is on its way.

use anyhow::{Context, ensure};
use chasqui_testing::{TestInstall, oracle, settings::IMPATIENT, submissions};
use serde_json::Value;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_followed_to_its_end_and_the_rates_know_it() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let _worker = install.worker("")?;
    let (request, id) = (Uuid::now_v7(), Uuid::now_v7().to_string());
    let mut submission = submissions::mail(request, "fails-2-times");
    submission["transaction_id"] = id.as_str().into();
    // Followed by the producer's own id, from before anything is known of it.
    let publishing = install.publish("notify.submit.high.test", &id, &submission);
    let (followed, json) = (["trace", &id, "--follow"], ["trace", &id, "--follow", "--json"]);
    let (told, changes, ()) = tokio::try_join!(install.run(&followed), install.run(&json), publishing)?;
    let steps: Vec<&str> = told.lines().collect();
    let last = |step: &str| steps.iter().filter(|line| line.contains(step)).count();
    ensure!(last("send email via sandbox") == 3 && last("delivered email") == 1, "{told}");
    ensure!(last("retry") == 2 && !told.contains('\x1b'), "{told}");
    let changes: Vec<Value> = changes.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let end = changes.last().and_then(|traces| traces.get(0)).context("no change")?;
    ensure!(end["state"] == "delivered" && end["orphans"] == Value::Array(Vec::new()), "{end}");

    oracle::until(&install, "delivered", "SELECT count() AS n FROM deliveries WHERE state = 'delivered'", 1).await?;
    for (by, key) in [("provider", "sandbox"), ("lane", "high"), ("app", "test")] {
        let stats: Value =
            serde_json::from_str(&install.run(&["stats", "--by", by, "--since", "1h", "--json"]).await?)?;
        ensure!(stats["by"] == by && stats["rates"][0]["key"] == key && stats["rates"][0]["delivered"] == 1, "{stats}");
    }
    let table = install.run(&["stats", "--by", "hour"]).await?;
    ensure!(table.contains("hour") && table.contains("████████") && table.contains("1 100.0%"), "{table}");
    Ok(())
}
