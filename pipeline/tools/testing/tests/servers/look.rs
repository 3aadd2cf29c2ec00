//! The commands that tell what happens, on a notification that is on its way.

use anyhow::{Context, ensure};
use chasqui_testing::{TestInstall, oracle, settings::IMPATIENT, submissions};
use serde_json::{Value, json};
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_providers_word_removed_is_seen_with_who_said_it_and_put_back() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let _worker = install.worker("")?;
    let device = |id: &str, token: &str| json!({ "id": id, "platform": "android", "token": token, "registered_at": "2026-01-10T08:00:00Z" });
    let ada = json!({ "devices": [device("phone", "dead-endpoint"), device("tablet", "lives")] }).to_string();
    install.run(&["contacts", "put", "ada", &ada]).await?;
    let id = Uuid::now_v7();
    let push = json!({
        "id": id, "category": "news", "recipients": ["ada"], "channels": ["push"], "content": { "body": "News" },
    });
    install.publish("notify.submit.normal.shop", &id.to_string(), &push).await?;
    oracle::until(&install, "bounced", "SELECT count() AS n FROM deliveries WHERE state = 'bounced'", 1).await?;
    ensure!(!install.run(&["contacts", "get", "ada"]).await?.contains("phone"), "it was not removed");

    let told = install.run(&["contacts", "history", "ada"]).await?;
    ensure!(told.contains("- devices: {\"id\":\"phone\"") && told.contains("sandbox said "), "{told}");
    let history: Value = serde_json::from_str(&install.run(&["contacts", "history", "ada", "--json"]).await?)?;
    let before = history["revisions"][0]["revision"].as_u64().context("no revision")?.to_string();
    ensure!(
        told.contains(&format!("chasqui contacts get ada --revision {before} | chasqui contacts put ada")),
        "{told}"
    );
    let record = install.run(&["contacts", "get", "ada", "--revision", &before]).await?;
    let (found, written): (Value, Value) = (serde_json::from_str(&record)?, serde_json::from_str(&ada)?);
    ensure!(found == written, "not as it was written: {record}");
    install.run(&["contacts", "put", "ada", &record]).await?;
    ensure!(install.run(&["contacts", "get", "ada"]).await?.contains("phone"), "it was not put back");

    install.run(&["forget", "ada", "--yes"]).await?;
    let error = install.run(&["contacts", "get", "ada", "--revision", &before]).await.map(|_| ());
    ensure!(error.is_err(), "what was erased is still there");
    Ok(())
}

/// What a shell sees of `send --wait`: how each ended, and whether somebody has to mend something.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_tells_how_all_of_it_ended_and_fails_where_something_must_be_mended() -> anyhow::Result<()> {
    let install = TestInstall::start(IMPATIENT).await?;
    let _worker = install.worker("")?;
    let dir = tempfile::tempdir()?;
    let file = |name: &str, submission: Value| -> anyhow::Result<String> {
        let path = dir.path().join(name);
        std::fs::write(&path, submission.to_string())?;
        Ok(path.to_string_lossy().into_owned())
    };
    let mail = |mailboxes: &[&str]| {
        let recipients: Vec<Value> =
            mailboxes.iter().map(|name| json!({ "email": format!("{name}@example.com") })).collect();
        json!({ "category": "news", "recipients": recipients, "channels": ["email"], "content": { "title": "A", "body": "B" } })
    };
    let several = file("several.json", mail(&["ada", "bounces", "grace"]))?;
    let told = install.run(&["send", &several, "--wait"]).await?;
    ensure!(told.contains("fanned out to 3 notifications") && !told.contains("pending"), "{told}");
    ensure!(told.contains("3 notifications: ") && told.contains("1 bounced") && told.contains("2 delivered"), "{told}");
    let told: Value = serde_json::from_str(&install.run(&["send", &several, "--wait", "--json"]).await?)?;
    let states: Vec<&str> =
        told["traces"].as_array().context("no traces")?.iter().filter_map(|t| t["state"].as_str()).collect();
    ensure!(states.iter().filter(|state| **state == "fanned_out").count() == 1 && states.len() == 4, "{states:?}");
    let fanned_out = "SELECT count() AS n FROM traces WHERE state = 'fanned_out' AND NOT is_notification";
    oracle::until(&install, "requests that became notifications", fanned_out, 2).await?;

    let mut wrong = mail(&["ada"]);
    wrong["colour"] = json!("red");
    let failed = install.run(&["send", &file("wrong.json", wrong)?, "--wait"]).await.map_err(|error| error.to_string());
    let words = failed.err().context("a rejected submission is a success")?;
    ensure!(words.contains("error: the submission was rejected: invalid") && words.contains("\n  colour: "), "{words}");
    let refused = file("refused.json", mail(&["ada", "refused"]))?;
    let failed = install.run(&["send", &refused, "--wait"]).await.map_err(|error| error.to_string());
    let words = failed.err().context("a dead letter is a success")?;
    ensure!(words.contains("1 of 2 ended as dead letters") && words.contains(": provider_refused"), "{words}");
    let id = words.split("--notification ").nth(1).and_then(|rest| rest.split('`').next()).context("no hint")?;
    ensure!(
        install.run(&["dead", "list", "--notification", id]).await?.contains("provider_refused"),
        "the hint leads nowhere"
    );
    Ok(())
}
