//! Apps in the bucket, and tests: what an operator says by command holds at the next submission, and what is a test goes the
//! whole way and reaches nobody.

use anyhow::ensure;
use chasqui_testing::{
    TestInstall,
    lab::{Lab, Script},
    oracle,
};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn a_test_goes_the_whole_way_and_reaches_the_sandbox_alone() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let lab = Lab::start(Script::default()).await?;
    let mut tables = lab.settings().clone();
    let account = tables.tables["accounts"]["twilio"].take();
    tables.tables = json!({ "accounts": { "twilio": account }, "routes": { "sms": ["twilio"] } });
    let settings = format!("[engagement]\nspool_dir = '{}'\n{}", dir.path().join("spool").display(), tables.toml());
    let install = TestInstall::start(&settings).await?;
    let worker = install.worker_with("", &[])?;
    let submit = async |lane: &str, test: bool| {
        let id = Uuid::now_v7();
        let submission = json!({
            "id": id, "category": "order", "recipients": [{ "phone": "+491510000001" }], "channels": ["sms"],
            "content": { "body": "It is on its way." }, "idempotency_key": "order-1", "test": test,
        });
        install.publish(&format!("notify.submit.{lane}.shop"), &id.to_string(), &submission).await?;
        anyhow::Ok(id)
    };
    let test = submit("normal", true).await?;
    let sandboxed = "SELECT count() AS n FROM deliveries WHERE provider = 'sandbox' AND state = 'delivered'";
    oracle::until(&install, "the test", sandboxed, 1).await?;
    let live = submit("normal", false).await?;
    let sent = "SELECT count() AS n FROM deliveries WHERE provider = 'twilio' AND state IN ('sent', 'delivered')";
    oracle::until(&install, "what is meant, under the test's key", sent, 1).await?;
    ensure!(lab.ledger().calls().len() == 1, "{:?}", lab.ledger().calls());
    let mut marked = Vec::new();
    for id in [test, live] {
        #[derive(Debug, Deserialize)]
        struct Row {
            test: String,
        }
        let query = format!(
            "SELECT attributes['test'] AS test FROM trace_events FINAL WHERE event = 'notification' AND request_id = '{id}'"
        );
        let rows: Vec<Row> = oracle::query(&install, &query).await?;
        marked.extend(rows.into_iter().map(|row| row.test));
    }
    ensure!(marked == ["true", ""], "{marked:?}");

    // What an app may is said by command, and holds from the next submission on that comes after the watch has told it.
    let refused = async |lane: &str| {
        for _ in 0..100 {
            let id = submit(lane, true).await?;
            let of =
                format!("SELECT count() AS n FROM trace_events FINAL WHERE stage = 'validate' AND request_id = '{id}'");
            oracle::until(&install, "the decision of validate", &of, 1).await?;
            let query = format!("{of} AND reason = 'lane_not_allowed'");
            if oracle::number(&install, &query).await? == 1 {
                return Ok(());
            }
        }
        anyhow::bail!("nothing was refused on the lane {lane}")
    };
    install.run(&["apps", "create", "shop", r#"{"lanes": ["bulk"]}"#]).await?;
    refused("normal").await?;
    install.run(&["apps", "allow", "shop", r#"{"lanes": ["normal"]}"#]).await?;
    refused("bulk").await?;
    worker.terminate().await?;
    Ok(())
}
