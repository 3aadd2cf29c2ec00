//! Submitting over HTTP, from a key that was made by command to the row that an analyst reads.

use std::{collections::BTreeSet, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use chasqui_testing::{TestInstall, install::PATIENCE, oracle, pages, settings::IMPATIENT};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::Instant,
};
use uuid::Uuid;

/// An installation whose gateway has a spool of its own, and a key of the app `shop`.
async fn start(spool: &Path) -> anyhow::Result<(TestInstall, String)> {
    let settings = format!("{IMPATIENT}\n[engagement]\nspool_dir = '{}'", spool.display());
    let install = TestInstall::start(&settings).await?;
    install.run(&["apps", "create", "shop"]).await?;
    let printed = install.run(&["apps", "key", "shop", "--scopes", "send,read,admin"]).await?;
    let key = printed.split_whitespace().find(|word| word.starts_with("chq_live_")).context("no key")?.to_owned();
    Ok((install, key))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_202_is_one_notification_though_broker_and_gateway_are_killed() -> anyhow::Result<()> {
    let _alone = chasqui_testing::alone().await;
    const COUNT: usize = 400;
    let dir = tempfile::tempdir()?;
    let (install, key) = start(&dir.path().join("spool")).await?;
    let bind = format!("127.0.0.1:{}", chasqui_embedded::free_port()?);
    let gateway = || install.worker_with("gateway", &[("CHASQUI_GATEWAY__BIND", bind.as_str())]);
    let _worker = install.worker("")?;
    let mut door = gateway()?;
    install.until_running(2).await?;

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/http_producer.py");
    let mut producer = Command::new("python3")
        .arg(script)
        .arg(COUNT.to_string())
        .envs([("CHASQUI_URL", format!("http://{bind}")), ("CHASQUI_KEY", key)])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(producer.stdout.take().context("no output")?).lines();
    let nats = install.servers().nats().context("embedded")?;
    let stop = async |signal: &str| -> anyhow::Result<()> {
        let pid = nats.pid().context("running")?.to_string();
        ensure!(Command::new("kill").args([signal, &pid]).status().await?.success(), "kill {signal}");
        Ok(())
    };
    let (mut taken, mut spooled) = (BTreeSet::new(), 0);
    while let Some(line) = lines.next_line().await? {
        let (id, durability) = line.split_once(' ').context("no answer")?;
        taken.insert(id.parse::<Uuid>()?);
        spooled += usize::from(durability == "spooled");
        match taken.len() {
            // The broker hangs; a while later, with submissions in its spool, the gateway is killed.
            100 => stop("-STOP").await?,
            200 => {
                door.kill().await?;
                door = gateway()?;
            }
            // Whatever had been sent to it, the broker then takes, and dies.
            300 => {
                stop("-CONT").await?;
                nats.kill();
            }
            _ => {}
        }
    }
    ensure!(producer.wait().await?.success(), "the producer fails");
    ensure!(taken.len() == COUNT, "{} and not {COUNT} ids", taken.len());
    ensure!(spooled > 0, "nothing was spooled: nothing is shown");

    let ids = taken.iter().map(|id| format!("toUUID('{id}')")).collect::<Vec<_>>().join(",");
    let of = format!("FROM notifications WHERE app = 'shop' AND request_id IN ({ids})");
    let done = format!("SELECT uniqExact(request_id) AS n {of} AND state = 'delivered'");
    oracle::until(&install, "every submission that was taken", &done, COUNT as u64).await?;
    // What came twice is known as the same.
    let settled = format!("SELECT count() AS n {of} AND state NOT IN ('delivered', 'suppressed')");
    oracle::until(&install, "the end of all", &settled, 0).await?;
    let twice = format!("SELECT count() AS n {of} AND state = 'delivered'");
    ensure!(oracle::number(&install, &twice).await? == COUNT as u64, "some were sent twice");
    let told = format!(
        "SELECT uniqExact(request_id) AS n FROM trace_events FINAL WHERE event = 'notification' AND request_id IN ({ids})
         AND attributes['door'] = 'http' AND startsWith(attributes['door.idempotency_key'], 'order-') AND attributes['door.key'] != ''"
    );
    ensure!(oracle::number(&install, &told).await? == COUNT as u64, "a root does not tell of the door");
    let waited = told.replace("attributes['door.key'] != ''", "attributes['door.spooled_ms'] != ''");
    ensure!(oracle::number(&install, &waited).await? > 0, "no root tells of the spool");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_of_the_page_submit_and_read_over_http() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (install, key) = start(&dir.path().join("spool")).await?;
    let bind = format!("127.0.0.1:{}", chasqui_embedded::free_port()?);
    let _worker = install.worker_with("", &[("CHASQUI_GATEWAY__BIND", bind.as_str())])?;
    install.until_running(1).await?;
    let variables = [("CHASQUI_URL", format!("http://{bind}")), ("CHASQUI_KEY", key)];
    let run = async |program: &str, text: &str| {
        // A key that was made a moment ago is not known yet.
        let until = Instant::now() + PATIENCE;
        loop {
            let output = Command::new(program).args(["-c", text]).envs(variables.clone()).output().await?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            if output.status.success() || !said.contains("401") || Instant::now() > until {
                ensure!(output.status.success(), "{program}: {said}");
                return anyhow::Ok(said);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let page = pages::all()?.into_iter().find(|page| page.path == Path::new("docs/producers.md")).context("no page")?;
    let [curl] = &page.blocks("bash")[..] else { anyhow::bail!("one program for curl") };
    let said = run("bash", curl).await?;
    ensure!(said.contains("\"durability\":\"stored\""), "{said}");
    let python =
        page.blocks("python").into_iter().find(|program| program.contains("CHASQUI_KEY")).context("no program")?;
    let said = run("python3", &python).await?;
    ensure!(said.starts_with("stored "), "{said}");
    let sent = "SELECT count() AS n FROM notifications WHERE app = 'shop' AND state = 'delivered'";
    oracle::until(&install, "both", sent, 2).await?;

    // What became of it is read where it was submitted.
    let read = "import json, os, urllib.request\n\
                def ask(path):\n    request = urllib.request.Request(os.environ['CHASQUI_URL'] + path, headers={'Authorization': 'Bearer ' + os.environ['CHASQUI_KEY']})\n    return json.load(urllib.request.urlopen(request, timeout=20))\n\
                first = ask('/v1/notifications?limit=1&state=delivered')\n\
                second = ask('/v1/notifications?limit=1&after=' + first['next'])\n\
                assert 'next' not in second and first['items'][0]['id'] != second['items'][0]['id'], (first, second)\n\
                one = ask('/v1/notifications/' + first['items'][0]['request_id'])\n\
                assert one['status'] == 'processed' and one['notifications'][0]['deliveries'][0]['state'] == 'delivered', one\n\
                assert ask('/v1/notifications?transaction_id=none')['items'] == []\n";
    run("python3", read).await?;
    Ok(())
}
