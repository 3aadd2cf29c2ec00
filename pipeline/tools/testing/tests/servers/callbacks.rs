//! What vendors report back, from their signed callbacks to the row that an analyst reads.

use std::{collections::BTreeSet, time::Duration};

use anyhow::ensure;
use chasqui_testing::{
    TestInstall,
    lab::{Fate, Lab, PUBLIC_URL, Posted, Reporting, Script},
    oracle, vendors,
};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn what_vendors_report_of_a_delivery_is_what_the_analyst_reads() -> anyhow::Result<()> {
    // Every vendor gets some of each kind, as the weights have it: that one of two gets none of 20 does not happen in a
    // lifetime.
    const EACH: u32 = 60;
    // In any order, and some twice.
    let callbacks = Reporting { delay: Duration::ZERO..Duration::from_secs(1), repeated: 0.3 };
    let mut lab = Lab::start(Script { callbacks, ..Script::default() }).await?;
    let dir = tempfile::tempdir()?;
    let bind = format!("127.0.0.1:{}", chasqui_embedded::free_port()?);
    let gateway = format!(
        "[gateway]\npublic_url = '{PUBLIC_URL}'\n[links]\nkeys = [{{ id = 'k1', secret = {{ env = 'LINKS_KEY' }} }}]\n[engagement]\nspool_dir = '{}'",
        dir.path().join("spool").display()
    );
    let install = TestInstall::start(&format!("{}\n{gateway}", vendors::settings(&lab))).await?;
    let variables = [("CHASQUI_GATEWAY__BIND", bind.as_str()), ("LINKS_KEY", "0123456789abcdef0123456789abcdef")];
    let worker = install.worker_with("", &variables)?;
    lab.callbacks_to(format!("http://{bind}/v1/callbacks/{{vendor}}"));

    for number in 0..EACH {
        // Magic words and numbers, each with what a person without any magic gets.
        let mailbox = format!("{}-{number}@example.com", ["ada", "bounces", "opens"][number as usize % 3]);
        let phone = if number % 3 == 1 { "+15550000006".to_owned() } else { format!("+49151{number:07}") };
        for (channel, recipient) in [("email", json!({ "email": mailbox })), ("sms", json!({ "phone": phone }))] {
            let id = Uuid::now_v7();
            let submission = json!({
                "id": id, "category": "order", "recipients": [recipient], "channels": [channel],
                "content": { "title": "Sent", "body": "It is on its way.", "html": "<p>It is on its way.</p>" },
            });
            install.publish("notify.submit.normal.shop", &id.to_string(), &submission).await?;
        }
    }
    let reported = "SELECT count() AS n FROM deliveries WHERE state IN ('delivered', 'bounced')";
    oracle::until(&install, "deliveries that were reported", reported, u64::from(2 * EACH)).await?;
    let opened = "SELECT count() AS n FROM deliveries WHERE opened_at IS NOT NULL AND clicked_at IS NOT NULL";
    oracle::until(&install, "mails that were opened", opened, u64::from(EACH / 3)).await?;

    let mut told = BTreeSet::new();
    for vendors::Account { row, calls } in vendors::accounts(&install, &lab).await? {
        let fate = calls.last().map(|call| &call.fate);
        let expected = if matches!(fate, Some(Fate::Undelivered(_))) { "bounced" } else { "delivered" };
        ensure!(row.state == expected, "{row:?} {fate:?}");
        told.insert((row.provider, row.state));
    }
    ensure!(told.len() == 8, "four vendors, two states each: {told:?}");
    let deadline = Instant::now() + chasqui_testing::install::PATIENCE;
    while lab.posted().pending > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Mailgun is told not to repeat itself again.
    let posted = lab.posted();
    ensure!(matches!(posted, Posted { unanswered: 0, pending: 0, .. }) && posted.taken > posted.refused, "{posted:?}");
    oracle::traces_are_trees(&install).await?;
    worker.terminate().await?;
    Ok(())
}
