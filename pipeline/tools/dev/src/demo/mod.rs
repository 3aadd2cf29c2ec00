//! `demo`: runs the whole pipeline on servers of its own for a minute, and accounts for every notification.
//!
//! Guarantee: it succeeds only if ClickHouse accounts for all that it published. Each notification has ended, or waits
//! for a time with a reason, and each invalid submission is rejected. A crash leaves nothing but a temporary directory.

mod story;
mod vendors;

use std::{io::IsTerminal, net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, bail, ensure};
use async_nats::jetstream::{self, message::PublishMessage};
use bytes::Bytes;
use chasqui::settings::Settings;
use chasqui_lab::Lab;
use chasqui_schemas::{
    record::{Bucket, Category, Contacts, Preferences, Record, Suppression, Template},
    subject,
};
use chasqui_stores::Records;
use chasqui_warehouse::{
    TraceTree,
    read::waterfall,
    stats::{self, Accounted, StateCount},
};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use self::story::Submission;
use chasqui::commands::stats::{outcomes_table, rates_table};
use uuid::Uuid;

use chasqui::{
    commands::{output::progress, stop::stop_signal},
    role::Role,
    servers::{Addresses, OwnServers},
    worker::Worker,
};

use self::vendors::merge;
use crate::args::DemoArgs;

/// What the demo imports; the same files document the records.
const FIXTURES: &[(Bucket, &str)] = &[
    (Bucket::of::<Category>(), include_str!("../../../../../schemas/fixtures/categories.json")),
    (Bucket::of::<Contacts>(), include_str!("../../../../../schemas/fixtures/contacts.json")),
    (Bucket::of::<Preferences>(), include_str!("../../../../../schemas/fixtures/preferences.json")),
    (Bucket::of::<Template>(), include_str!("../../../../../schemas/fixtures/templates.json")),
    (Bucket::of::<Suppression>(), include_str!("../../../../../schemas/fixtures/suppressions.json")),
];
/// Maximum publishes under way at once. With an fsync for each, a producer that waits for each would be slow.
const PUBLISHES: usize = 64;
/// Counts the texts and mails whose vendor has not reported yet what became of them.
const UNREPORTED: &str = "SELECT count() FROM deliveries WHERE state = 'sent' AND channel IN ('sms', 'email')";
/// Time for which a demo on a terminal runs on, so that the trace page can be opened.
const WATCHED: Duration = Duration::from_secs(120);
/// Maximum wait until everything is accounted for; after it the demo fails.
const PATIENCE: Duration = Duration::from_secs(90);

/// What was published, and so has to be found.
#[derive(Debug, Default)]
struct Published {
    submissions: u64,
    notifications: u64,
    rejections: u64,
    /// Notifications whose time comes long after the demo. Quiet hours may add more, depending on the hour.
    scheduled: u64,
}

/// Runs the demo. Fails if a notification is unaccounted for.
pub(crate) async fn run(args: &DemoArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let dir = tempfile::Builder::new().prefix("chasqui-demo-").tempdir().context("cannot make a directory")?;
    let token = Uuid::new_v4().simple().to_string();
    let (lab, mut over) = vendors::start(dir.path()).await?;
    let console = dir.path().join("console.token");
    std::fs::write(&console, &token)?;
    merge(&mut over, &json!({ "console": { "token": { "file": console } }, "send": impatient() }));
    let settings = Settings::load(file, &over)?;
    println!(
        "Chasqui demo: real NATS, real ClickHouse, all seven stages, and vendors on this machine who deliver nowhere.\n"
    );

    let bar = progress(0);
    bar.set_message("starting servers");
    let steps = bar.clone();
    let servers =
        OwnServers::start(&settings, dir.path(), true, move |step| steps.set_message(step.to_owned())).await?;
    let result = story(args, &settings, &servers.addresses, &lab, &token, &bar, dir.path()).await;
    servers.shutdown().await;
    result
}

async fn story(
    args: &DemoArgs,
    settings: &Settings,
    addresses: &Addresses,
    lab: &Lab,
    token: &str,
    bar: &ProgressBar,
    dir: &Path,
) -> anyhow::Result<ExitCode> {
    bar.set_message("creating streams and tables");
    addresses.migrate(settings).await?;
    bar.set_message("importing contacts, preferences, templates");
    let context = jetstream::new(addresses.nats(&settings.nats).await?);
    import(&context, lab).await?;
    let worker = Worker::start(settings, addresses, &Role::all()).await?;

    let since = Timestamp::now();
    let published = publish(args, &context, since, bar).await?;
    let clickhouse = addresses.clickhouse(&settings.clickhouse)?;
    let accounted = account(&clickhouse, since, &published, bar).await;
    bar.finish_and_clear();
    // The result is printed before an error is returned, because a failed demo needs it most.
    let page = report(&clickhouse, since, &published, worker.gateway.map(|address| (address, token))).await?;
    println!("What the vendors were asked\n{}\n", vendors::table(lab));
    if let Err(error) = accounted.and_then(|()| vendors::all_as_documented(lab)) {
        worker.stop().await?;
        return Err(error);
    }
    println!("Every notification is accounted for.\n");
    println!("Where to look next:");
    println!("  make up                     the same servers and stages, to stay");
    println!(
        "  chasqui send FILE --wait    publish a submission of your own; samples are in schemas/fixtures/submissions"
    );
    println!("  chasqui trace ID            what happened to it");
    println!("  chasqui dead list           what was given up, and `dead replay`");
    println!("  docs/architecture.md        one notification's way through the code");
    stay(args, dir, page.as_deref()).await?;
    worker.stop().await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs on so that the trace page can be opened: until Ctrl-C with `--stay`, else two minutes on a terminal.
async fn stay(args: &DemoArgs, dir: &Path, page: Option<&str>) -> anyhow::Result<()> {
    let is_watched = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if let Some(page) = page {
        println!("  {page}   the first of the traces above, in a browser; while the demo runs (--stay)");
    }
    if args.stay {
        println!("\nStaying until Ctrl-C. In another terminal:\n  export CHASQUI_EMBEDDED__DATA_DIR={}", dir.display());
        stop_signal().await?;
    } else if is_watched {
        println!("\nIt runs for two more minutes, or until Ctrl-C.");
        _ = tokio::time::timeout(WATCHED, stop_signal()).await;
    }
    Ok(())
}

/// Settings with short delays, so that retries fit into the demo's minute.
fn impatient() -> Value {
    let policy = json!({ "schedule_ms": [300, 600, 1_200], "max_rounds": 4 });
    json!({ "push": policy, "sms": policy, "email": policy })
}

async fn import(context: &jetstream::Context, lab: &Lab) -> anyhow::Result<()> {
    for &(bucket, text) in FIXTURES {
        let mut records: Map<String, Value> = serde_json::from_str(text)?;
        if bucket.as_str() == Contacts::BUCKET {
            records.values_mut().try_for_each(|contacts| vendors::subscribe(lab, contacts))?;
        }
        let records = records.into_iter().map(|(name, record)| Ok((name, Bytes::from(record.to_string()))));
        let mut refused = None;
        let bucket = Records::open(context, bucket).await?;
        bucket.import(stream::iter(records), |answer| refused = refused.take().or(answer.err())).await?;
        refused.map_or(Ok(()), Err)?;
    }
    let contacts = Records::open(context, Bucket::of::<Contacts>()).await?;
    for (user, record) in story::people() {
        contacts.put(user, serde_json::to_vec(&record)?.into()).await?;
    }
    let preferences = story::rafas_preferences(Timestamp::now());
    Records::open(context, Bucket::of::<Preferences>())
        .await?
        .put("rafa", serde_json::to_vec(&preferences)?.into())
        .await?;
    Ok(())
}

async fn publish(
    args: &DemoArgs,
    context: &jetstream::Context,
    now: Timestamp,
    bar: &ProgressBar,
) -> anyhow::Result<Published> {
    let cases = story::cases(now);
    bar.set_length(cases.len() as u64 + u64::from(args.count));
    bar.set_message("publishing");
    let submissions = stream::iter(cases).chain(stream::iter(story::crowd(args.count)));
    let publishing = submissions.map(|submission| async move {
        let Submission { lane, app, message_id, payload, notifications, scheduled } = submission;
        let mut message = PublishMessage::build().payload(payload.into());
        if let Some(id) = message_id {
            message = message.message_id(id);
        }
        context.send_publish(subject::submit(lane, app), message).await?.await.context("a submission was refused")?;
        bar.inc(1);
        anyhow::Ok((notifications, scheduled))
    });
    let mut publishing = publishing.buffered(PUBLISHES);
    let mut published = Published::default();
    while let Some((notifications, scheduled)) = publishing.try_next().await? {
        published.submissions += 1;
        published.notifications += notifications;
        published.rejections += u64::from(notifications == 0);
        published.scheduled += u64::from(scheduled);
    }
    Ok(published)
}

/// Waits until ClickHouse accounts for all that was published.
async fn account(
    clickhouse: &clickhouse::Client,
    since: Timestamp,
    published: &Published,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    bar.set_length(published.notifications);
    bar.set_message("on their way");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Accounted { notifications, terminal, rejected_requests, .. } = stats::accounted(clickhouse, since).await?;
        let outcomes = stats::outcomes(clickhouse, since).await?;
        let pending = |reason: &str| {
            let of = |o: &&StateCount| o.state == "pending" && o.reason == reason;
            outcomes.iter().filter(of).map(|o| o.notifications).sum::<u64>()
        };
        let waiting = pending("scheduled") + pending("quiet_hours");
        bar.set_position(terminal + waiting);
        let complete = notifications == published.notifications && rejected_requests == published.rejections;
        let all_reported = clickhouse.query(UNREPORTED).fetch_one::<u64>().await? == 0;
        if complete
            && all_reported
            && terminal + waiting == notifications
            && pending("scheduled") == published.scheduled
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "not all is accounted for: published {published:?}; in ClickHouse {notifications} notifications, \
                 {terminal} ended, {waiting} waiting, {rejected_requests} rejected"
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Prints how the notifications ended. Returns the address of the page of one of them, after having opened it.
async fn report(
    clickhouse: &clickhouse::Client,
    since: Timestamp,
    published: &Published,
    gateway: Option<(SocketAddr, &str)>,
) -> anyhow::Result<Option<String>> {
    let Published { submissions, notifications, rejections, .. } = published;
    println!(
        "Published {submissions} submissions: {notifications} notifications, and {rejections} that are invalid.\n"
    );
    println!("How they ended\n{}\n", outcomes_table(&stats::outcomes(clickhouse, since).await?));
    let by = stats::Dimension::Channel;
    println!("Delivery rates\n{}\n", rates_table(by, &stats::rates(clickhouse, since, by, stats::MAX_ROWS).await?));
    let mut page = None;
    for (title, user) in [("One that was delivered, at the third attempt", "mira"), ("One that failed", "noor")] {
        if let Some(tree) = trace_of(clickhouse, user).await? {
            println!("{title}\n{}\n", waterfall::render(&tree, 120, false));
            if let (Some((gateway, token)), None) = (gateway, &page) {
                let path = format!("/ui/n/{}", tree.trace_id);
                opens(gateway, token, &path).await.context("the trace page does not open")?;
                page = Some(format!("http://demo:{token}@{gateway}{path}"));
            }
        }
    }
    Ok(page)
}

async fn opens(gateway: SocketAddr, token: &str, path: &str) -> anyhow::Result<()> {
    let mut connection = TcpStream::connect(gateway).await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {gateway}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    let first = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    ensure!(first == b"HTTP/1.1 200 OK", "{path}: {}", String::from_utf8_lossy(first));
    Ok(())
}

async fn trace_of(clickhouse: &clickhouse::Client, user: &str) -> anyhow::Result<Option<TraceTree>> {
    let sql = "SELECT toString(notification_id) FROM trace_events FINAL WHERE attributes['user'] = ? LIMIT 1";
    let Some(id) = clickhouse.query(sql).bind(user).fetch_optional::<String>().await? else { return Ok(None) };
    Ok(chasqui_warehouse::load(clickhouse, &id).await?.into_iter().next())
}
