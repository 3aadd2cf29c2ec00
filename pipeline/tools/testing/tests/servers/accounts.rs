//! Two accounts of one vendor, each with credentials of its own: from the routes of two apps to the rows that an analyst
//! reads.

use std::{collections::BTreeSet, time::Duration};

use anyhow::ensure;
use chasqui_testing::{
    TestInstall,
    lab::{Lab, PUBLIC_URL, Posted, Script, Vendor},
    oracle,
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn two_accounts_of_one_vendor_are_told_apart() -> anyhow::Result<()> {
    const EACH: usize = 10;
    let bind = format!("127.0.0.1:{}", chasqui_embedded::free_port()?);
    let dir = tempfile::tempdir()?;
    // Each lab makes up accounts of its own.
    let mut labs = Vec::new();
    let mut settings = format!(
        "[gateway]\npublic_url = '{PUBLIC_URL}'\n[links]\nkeys = [{{ id = 'k1', secret = {{ env = 'LINKS_KEY' }} }}]\n\
         [engagement]\nspool_dir = '{}'\n",
        dir.path().join("spool").display()
    );
    for app in ["shop", "crm"] {
        let mut lab = Lab::start(Script::default()).await?;
        let mut tables = lab.settings().clone();
        let mut account = tables.tables["accounts"]["twilio"].take();
        account["callback_url"] = json!(format!("{PUBLIC_URL}/v1/callbacks/twilio-{app}"));
        tables.tables = json!({
            "accounts": { format!("twilio-{app}"): account },
            "apps": { format!("{app}.routes"): { "sms": [format!("twilio-{app}")] } },
        });
        settings += &tables.toml();
        lab.callbacks_to(format!("http://{bind}"));
        labs.push(lab);
    }
    let install = TestInstall::start(&settings).await?;
    let variables = [("CHASQUI_GATEWAY__BIND", bind.as_str()), ("LINKS_KEY", "0123456789abcdef0123456789abcdef")];
    let worker = install.worker_with("", &variables)?;
    for app in ["shop", "crm"] {
        for number in 0..EACH {
            let id = Uuid::now_v7();
            let submission = json!({
                "id": id, "category": "order", "recipients": [{ "phone": format!("+49151{number:07}") }],
                "channels": ["sms"], "content": { "body": "It is on its way." },
            });
            install.publish(&format!("notify.submit.normal.{app}"), &id.to_string(), &submission).await?;
        }
    }
    let delivered = "SELECT count() AS n FROM deliveries WHERE state = 'delivered'";
    oracle::until(&install, "deliveries that were reported", delivered, 2 * EACH as u64).await?;

    #[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
    struct Row {
        app: String,
        provider: String,
        vendor: String,
    }
    let rows: Vec<Row> = oracle::query(&install, "SELECT app, provider, vendor FROM deliveries").await?;
    let expected = ["crm", "shop"].map(|app| Row {
        app: app.to_owned(),
        provider: format!("twilio-{app}"),
        vendor: "twilio".to_owned(),
    });
    ensure!(rows.iter().collect::<BTreeSet<_>>() == expected.iter().collect(), "{rows:?}");
    let receipts = "SELECT count() AS n FROM trace_events FINAL
        WHERE stage = 'receipt' AND event = 'delivered' AND vendor = 'twilio' AND startsWith(provider, 'twilio-')";
    oracle::until(&install, "receipts that name account and vendor", receipts, 2 * EACH as u64).await?;
    let deadline = Instant::now() + chasqui_testing::install::PATIENCE;
    for lab in &labs {
        let calls = lab.ledger().calls();
        ensure!(calls.len() == EACH && calls.iter().all(|call| call.vendor == Vendor::Twilio && call.accepted));
        while lab.posted().pending > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let posted = lab.posted();
        ensure!(
            matches!(posted, Posted { refused: 0, unanswered: 0, pending: 0, .. }) && posted.taken > 0,
            "{posted:?}"
        );
    }
    let stats = install.run(&["stats", "--by", "vendor"]).await?;
    ensure!(stats.contains("twilio") && !stats.contains("twilio-shop"), "{stats}");
    worker.terminate().await?;
    Ok(())
}
