//! `bench --scenarios`: what users do beside the hot path, each as a ratio to it.
//!
//! A round runs all scenarios that were asked for, each with a worker of its own on the same servers, `hot` first and the
//! bare relay last. So ratios are of one round: the machine is shared, and the same code differs from hour to hour.
//!
//! Guarantee: as of [`super`]. A run counts only when every notification is delivered and traced, and begins only when
//! the worker has nothing else to do: contacts that were just imported are in the index of owners by then.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_nats::jetstream::message::PublishMessage;
use chasqui::{
    commands::output::{print, print_json, table},
    servers::OwnServers,
    settings::Settings,
};
use chasqui_nats::Outgoing;
use chasqui_schemas::{Lane, consumer, stream};
use futures::future::try_join_all;
use indicatif::ProgressBar;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    WARM_UP,
    end_to_end::{Bench, Throughput, outgoing_with},
    median, per_s, prepared,
    process::{Cost, Worker},
    relay,
};
use crate::args::BenchArgs;

/// Maximum messages whose acknowledgement a producer of `single` awaits at a time.
const SINGLES_AT_ONCE: usize = 1_000;
/// Notifications a second, at least, which the slowest machine takes in for `morning`, and time for the last of them.
const TAKEN_IN_PER_S: u32 = 500;
const MORNING_PAUSE: Duration = Duration::from_secs(10);
/// Maximum wait for the index of owners.
const INDEX_PATIENCE: Duration = Duration::from_secs(1_800);

/// What users do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// Short pushes from a template to a thousand users, published in atomic batches: the unit.
    Hot,
    /// The same, each to another user, who has contacts, no preferences, and was never asked for.
    Strangers,
    /// Mails with 30 kB of inline HTML.
    Mail,
    /// Mails with 100 kB of inline HTML.
    LargeMail,
    /// Pushes that were held for one moment; measured from that moment on.
    Morning,
    /// Each submission an fsync at the door; the producer awaits many acknowledgements together.
    Single,
    /// 63 % push, 28 % mail of 30 kB and 3 % of 100, 6 % SMS, over all lanes but the critical one.
    Mix,
}

impl Scenario {
    const ALL: [Scenario; 7] = [
        Scenario::Hot,
        Scenario::Strangers,
        Scenario::Mail,
        Scenario::LargeMail,
        Scenario::Morning,
        Scenario::Single,
        Scenario::Mix,
    ];

    fn name(self) -> &'static str {
        match self {
            Scenario::Hot => "hot",
            Scenario::Strangers => "strangers",
            Scenario::Mail => "mail",
            Scenario::LargeMail => "large-mail",
            Scenario::Morning => "morning",
            Scenario::Single => "single",
            Scenario::Mix => "mix",
        }
    }

    /// How many notifications a run has, where `hot` has `notifications`: a run should take about as long.
    fn count(self, notifications: u32) -> u32 {
        let part = match self {
            Scenario::Hot | Scenario::Strangers | Scenario::Single => 1,
            Scenario::Morning => 2,
            Scenario::Mix => 4,
            Scenario::Mail => 10,
            Scenario::LargeMail => 30,
        };
        (notifications / part).max(100)
    }

    /// The ratio to `hot` that we want.
    fn aim(self) -> f64 {
        match self {
            Scenario::Hot => 1.0,
            Scenario::Strangers => 0.85,
            Scenario::Mail => 0.4,
            Scenario::LargeMail => 0.15,
            Scenario::Morning => 0.6,
            Scenario::Single => 0.8,
            Scenario::Mix => 0.35,
        }
    }

    /// The submission of notification `n`.
    fn outgoing(self, n: u32, due: Option<Timestamp>) -> Outgoing {
        let content = |channel: &str, content: Value| json!({ "channels": [channel], "template": null, "data": null, "content": content });
        let mail = |kilobytes| content("email", json!({ "title": "Your order", "html": html(n, kilobytes) }));
        let sms = || content("sms", json!({ "body": "It is on its way." }));
        let (lane, changes) = match self {
            Scenario::Hot | Scenario::Single => (Lane::Normal, json!({})),
            Scenario::Strangers => (Lane::Normal, json!({ "recipients": [stranger(n)] })),
            Scenario::Mail => (Lane::Normal, mail(30)),
            Scenario::LargeMail => (Lane::Normal, mail(100)),
            Scenario::Morning => (Lane::Normal, json!({ "send_at": due })),
            Scenario::Mix => match n % 100 {
                0..63 => ([Lane::High, Lane::Normal, Lane::Bulk][n as usize % 3], json!({})),
                63..91 => (Lane::Bulk, mail(30)),
                91..94 => (Lane::Normal, mail(100)),
                _ => (Lane::High, sms()),
            },
        };
        outgoing_with(lane, n, changes)
    }
}

/// A user whom nobody has asked for.
pub(super) fn stranger(n: u32) -> String {
    format!("stranger-{n:08}")
}

/// So many kilobytes of a mail's rows, different from one mail to the next.
fn html(n: u32, kilobytes: usize) -> String {
    const WORDS: [&str; 12] = [
        "kettle",
        "porcelain",
        "shipped",
        "discount",
        "Lima",
        "tomorrow",
        "invoice",
        "copper",
        "total",
        "parcel",
        "thanks",
        "open",
    ];
    let mut html = String::from("<html><body><table style=\"width:100%\">");
    // Only so that no two rows are alike: a linear congruential generator.
    let mut state = u64::from(n);
    while html.len() < kilobytes * 1_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = |shift: u32| WORDS[(state >> shift) as usize % WORDS.len()];
        html += &format!(
            "<tr><td style=\"padding:8px;color:#{:06x}\">{} {} {}</td><td><a href=\"https://shop.example.com/p/{:x}\">{}</a></td></tr>",
            state >> 40,
            word(8),
            word(20),
            word(32),
            state,
            word(44)
        );
    }
    html + "</table></body></html>"
}

/// A scenario's result: the medians of its rounds, and each.
#[derive(Debug, Serialize)]
struct Row {
    scenario: &'static str,
    notifications: u32,
    notifications_per_s: f64,
    /// To `hot` of the same round.
    ratio: f64,
    aim: f64,
    cpu_us: Option<Cost>,
    rounds_per_s: Vec<f64>,
    rounds_ratio: Vec<f64>,
}

/// The result.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    scenarios: Vec<Row>,
    bare_relay_per_s: f64,
    /// Of `hot` to the relay of the same round.
    hot_to_relay: f64,
    /// Contacts a second, of the import for `strangers`.
    imported_per_s: Option<f64>,
    cores: usize,
}

/// Measures the scenarios that were asked for, and `hot`.
pub(super) async fn measure(
    args: &BenchArgs,
    settings: &Settings,
    servers: &OwnServers,
    dir: &std::path::Path,
    bar: &ProgressBar,
) -> anyhow::Result<Report> {
    let named = args.scenarios.as_deref().unwrap_or_default();
    let is_asked = |each: &Scenario| *each == Scenario::Hot || named.is_empty() || named.contains(each);
    let asked: Vec<Scenario> = Scenario::ALL.into_iter().filter(is_asked).collect();
    let (bench, server_pids) = prepared(settings, servers, dir, bar).await?;
    let mut imported_per_s = None;
    if asked.contains(&Scenario::Strangers) {
        bar.set_message("importing strangers");
        let (count, began) = (Scenario::Strangers.count(args.notifications), Instant::now());
        bench.import_strangers(count).await?;
        imported_per_s = Some(per_s(count, began.elapsed()));
    }

    let mut rounds: Vec<Vec<Throughput>> = Vec::new();
    let (mut relays, mut message_bytes) = (Vec::new(), 0);
    for round in 1..=args.pairs {
        let mut runs = Vec::new();
        for &scenario in &asked {
            let name = scenario.name();
            bar.set_message(format!("{name} ({round} of {}): warming up", args.pairs));
            let mut worker = Worker::start(&servers.addresses, dir, &bench.log, args.split)?;
            let bytes = bench.warm_up(WARM_UP, &mut worker, bar).await?;
            if scenario == Scenario::Hot {
                message_bytes = bytes;
            }
            indexed(&bench).await?;
            bar.set_message(format!("{name} ({round} of {})", args.pairs));
            runs.push(of(scenario, &bench, scenario.count(args.notifications), &mut worker, server_pids, bar).await?);
            worker.kill().await?;
        }
        bar.set_message(format!("bare relay ({round} of {})", args.pairs));
        relays.push(relay::rate(&settings.nats, &servers.addresses, message_bytes, bar).await?);
        rounds.push(runs);
    }

    let rate = |round: usize, place: usize| rounds[round][place].notifications_per_s;
    let all = 0..rounds.len();
    let row = |(place, scenario): (usize, &Scenario)| {
        let rounds_per_s: Vec<f64> = all.clone().map(|round| rate(round, place)).collect();
        let rounds_ratio: Vec<f64> = all.clone().map(|round| rate(round, place) / rate(round, 0)).collect();
        Row {
            scenario: scenario.name(),
            notifications: scenario.count(args.notifications),
            notifications_per_s: median(rounds_per_s.clone()),
            ratio: median(rounds_ratio.clone()),
            aim: scenario.aim(),
            cpu_us: rounds[0][place].cpu_us,
            rounds_per_s,
            rounds_ratio,
        }
    };
    Ok(Report {
        scenarios: asked.iter().enumerate().map(row).collect(),
        bare_relay_per_s: median(relays.clone()),
        hot_to_relay: median(all.clone().map(|round| rate(round, 0) / relays[round]).collect()),
        imported_per_s,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    })
}

/// Prints what was measured.
pub(super) fn print_measured(report: &Report, json: bool) -> anyhow::Result<()> {
    if json { print_json(report) } else { print(&text(report)) }
}

/// Runs one scenario.
async fn of(
    scenario: Scenario,
    bench: &Bench,
    count: u32,
    worker: &mut Worker,
    servers: [Option<u32>; 2],
    bar: &ProgressBar,
) -> anyhow::Result<Throughput> {
    let (before, began) = (bench.before(worker, servers)?, Instant::now());
    match scenario {
        Scenario::Single => {
            let publishing = singly(bench, count, |n| scenario.outgoing(n, None));
            bench.measured(count, before, began, publishing, worker, bar).await
        }
        Scenario::Morning => {
            let wait = Duration::from_secs(u64::from(count / TAKEN_IN_PER_S)) + MORNING_PAUSE;
            let due = Timestamp::now() + wait;
            bench.publish_all(count, |n| scenario.outgoing(n, Some(due))).await?;
            tokio::time::sleep(wait.saturating_sub(began.elapsed())).await;
            bench.measured(count, before, began + wait, async { Ok(()) }, worker, bar).await
        }
        _ => {
            let publishing = bench.publish_all(count, |n| scenario.outgoing(n, None));
            bench.measured(count, before, began, publishing, worker, bar).await
        }
    }
}

/// Publishes `count` submissions one by one, and awaits the acknowledgements of many together.
async fn singly(bench: &Bench, count: u32, outgoing: impl Fn(u32) -> Outgoing) -> anyhow::Result<()> {
    for first in (0..count).step_by(SINGLES_AT_ONCE) {
        let mut acks = Vec::new();
        for Outgoing { subject, message_id, payload, .. } in (first..count).take(SINGLES_AT_ONCE).map(&outgoing) {
            let message = PublishMessage::build().payload(payload).message_id(message_id.unwrap_or_default());
            acks.push(bench.context.send_publish(subject, message).await?.into_future());
        }
        try_join_all(acks).await.context("a submission was not stored")?;
    }
    Ok(())
}

/// Waits until the worker has put the owners of all addresses into their index.
async fn indexed(bench: &Bench) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let contacts = bench.context.get_stream(stream::CONTACTS).await?;
        let info = contacts.consumer_info(consumer::OWNERS).await?;
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            return Ok(());
        }
        ensure!(began.elapsed() < INDEX_PATIENCE, "{} contacts are not in the index of owners yet", info.num_pending);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn text(report: &Report) -> String {
    let mut rows = table(&[
        "",
        "notifications/s",
        "of all rounds",
        "ratio to hot",
        "of all rounds",
        "aim",
        "µs of worker + NATS + ClickHouse",
    ]);
    for row in &report.scenarios {
        let cost = |Cost { worker, nats, clickhouse, .. }| format!("{worker:.0} + {nats:.0} + {clickhouse:.0}");
        rows.add_row([
            row.scenario.to_owned(),
            format!("{:.0}", row.notifications_per_s),
            super::range(&row.rounds_per_s),
            format!("{:.2}", row.ratio),
            super::range(&row.rounds_ratio),
            row.aim.to_string(),
            row.cpu_us.map(cost).unwrap_or_default(),
        ]);
    }
    let relay =
        format!("bare relay: {:.0} messages/s; hot is {:.2} of it", report.bare_relay_per_s, report.hot_to_relay);
    let imported = report.imported_per_s.map(|rate| format!("; contacts imported: {rate:.0}/s")).unwrap_or_default();
    format!("{rows}\n{relay}{imported}; {} cores\n", report.cores)
}
