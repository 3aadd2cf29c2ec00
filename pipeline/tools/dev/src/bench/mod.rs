//! `bench`: measures rate, latency and cost of the pipeline on servers of its own, beside a bare relay.
//!
//! One run is a pair: the pipeline, then the relay, on the same nats-server with the same settings. So their ratio
//! shows the cost of the pipeline's own work, however fast or busy the machine is.
//!
//! With `--scenarios` it measures what users do beside that: see [`scenarios`]. With `--channel` it measures the providers of a channel, without any server: see [`providers`].
//!
//! Guarantee: a run counts only once every notification is `delivered` in ClickHouse and the trace stream is empty. A
//! notification that does not arrive in time is an error, and no number is printed. Servers and files are removed at
//! the end. After SIGKILL the worker still runs, and must be killed too.

mod end_to_end;
mod lanes;
mod measure;
mod process;
mod providers;
mod relay;
mod scenarios;
mod traces;
mod vendors;

use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use serde::Serialize;

use self::{
    end_to_end::{Bench, Latency, Throughput},
    process::{Cost, Worker, peak_rss_mb},
};
pub(crate) use self::{scenarios::Scenario, vendors::serve as serve_lab};
use chasqui::{
    commands::{
        output::{print, print_json, progress, table},
        stop::stop_signal,
    },
    servers::OwnServers,
    settings::Settings,
};
use chasqui_nats::settings::{Always, SyncInterval};

use crate::args::BenchArgs;

/// Notifications before anything is measured. They open connections, mirror records and compile templates.
const WARM_UP: u32 = 500;

/// The result. Of several pairs, the medians and each pair.
#[derive(Debug, Serialize)]
struct Report {
    /// From the first publish until every notification is `delivered` in ClickHouse, all traces included.
    notifications_per_s: f64,
    /// From the first publish until the last provider call.
    calls_per_s: f64,
    bare_relay_per_s: f64,
    /// Median of the pairs' `notifications_per_s / bare_relay_per_s`.
    ratio: f64,
    /// `nats.sync_interval`: `always`, or seconds.
    sync: String,
    /// From just before the publish until the provider call, at `rate_at_rest`.
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    rate_at_rest: u32,
    /// From the publish of a critical notification to its provider call, with `bulk` others in the queue.
    critical_p99_ms: Option<f64>,
    /// Bulk's rate beside critical ones, relative to its rate alone.
    bulk_kept: Option<f64>,
    bulk: u32,
    /// Whether each role had a process of its own.
    split: bool,
    notifications: u32,
    /// As published, without headers.
    submission_bytes: usize,
    /// Mean of a notification between stages; the relay's messages have as many.
    message_bytes: usize,
    trace_events_per_notification: f64,
    /// On disk: in JetStream claims for as long as their windows, in ClickHouse all tables after merging.
    bytes_per_notification: f64,
    jetstream_bytes_per_notification: f64,
    clickhouse_bytes_per_notification: f64,
    /// Processor time per notification in the throughput run. `None` where there is no /proc.
    cpu_us: Option<Cost>,
    worker_rss_mb: Option<f64>,
    nats_rss_mb: Option<f64>,
    clickhouse_rss_mb: Option<f64>,
    cores: usize,
    pairs: Vec<Pair>,
}

/// The result of the run that was asked for.
enum Measured {
    Pipeline(Box<Report>),
    Traces(measure::Measured),
    Scenarios(scenarios::Report),
}

/// The result of a run of the pipeline and one of the relay after it.
#[derive(Debug, Clone, Copy, Serialize)]
struct Pair {
    notifications_per_s: f64,
    calls_per_s: f64,
    bare_relay_per_s: f64,
    ratio: f64,
    #[serde(skip)]
    cpu_us: Option<Cost>,
}

/// Measures, and prints what was measured.
pub(crate) async fn run(args: &BenchArgs, settings: Settings) -> anyhow::Result<()> {
    if let Some(channel) = args.channel {
        return tokio::select! {
            measured = providers::run(args, channel) => measured,
            stopped = stop_signal() => stopped.and_then(|()| bail!("stopped before there was a result")),
        };
    }
    if !settings.nats.url.is_empty() || !settings.clickhouse.url.is_empty() {
        bail!("bench measures servers of its own: unset nats.url and clickhouse.url");
    }
    let dir = tempfile::Builder::new().prefix("chasqui-bench-").tempdir().context("cannot make a directory")?;
    let bar = progress(0);
    bar.set_message("starting servers");
    let steps = bar.clone();
    let servers =
        OwnServers::start(&settings, dir.path(), false, move |step| steps.set_message(step.to_owned())).await?;
    let measured = async {
        Ok(if args.scenarios.is_some() {
            Measured::Scenarios(scenarios::measure(args, &settings, &servers, dir.path(), &bar).await?)
        } else if args.traces {
            Measured::Traces(traces::measure(args, &settings, &servers.addresses, &bar).await?)
        } else {
            Measured::Pipeline(Box::new(measure(args, &settings, &servers, dir.path(), &bar).await?))
        })
    };
    let measured = tokio::select! {
        measured = measured => measured,
        stopped = stop_signal() => stopped.and_then(|()| bail!("stopped before there was a result")),
    };
    bar.finish_and_clear();
    servers.shutdown().await;
    match measured? {
        Measured::Traces(traces) => traces::print_measured(&traces, args.json),
        Measured::Scenarios(report) => scenarios::print_measured(&report, args.json),
        Measured::Pipeline(report) if args.json => print_json(&report),
        Measured::Pipeline(report) => print(&text(&report)),
    }
}

/// Streams, tables and users, and the processes of nats-server and ClickHouse.
async fn prepared(
    settings: &Settings,
    servers: &OwnServers,
    dir: &std::path::Path,
    bar: &ProgressBar,
) -> anyhow::Result<(Bench, [Option<u32>; 2])> {
    bar.set_message("creating streams, tables and users");
    servers.addresses.migrate(settings).await?;
    let bench = Bench::open(settings, &servers.addresses, dir.join("calls.log")).await?;
    bench.import().await?;
    let server_pids = [servers.embedded.nats(), servers.embedded.clickhouse()].map(|server| server?.pid());
    Ok((bench, server_pids))
}

async fn measure(
    args: &BenchArgs,
    settings: &Settings,
    servers: &OwnServers,
    dir: &std::path::Path,
    bar: &ProgressBar,
) -> anyhow::Result<Report> {
    let (bench, server_pids) = prepared(settings, servers, dir, bar).await?;

    let (mut pairs, mut latency, mut passing, mut worker_rss_mb, mut message_bytes) = (Vec::new(), None, None, None, 0);
    let mut jetstream_bytes_per_notification = 0.0;
    for pair in 1..=args.pairs {
        let of = if args.pairs > 1 { format!(" ({pair} of {})", args.pairs) } else { String::new() };
        bar.set_message(format!("warming up{of}"));
        let mut worker = Worker::start(&servers.addresses, dir, &bench.log, args.split)?;
        message_bytes = bench.warm_up(WARM_UP, &mut worker, bar).await?;
        bar.set_message(format!("end to end{of}"));
        let stored = bytes_under(&dir.join("nats"));
        let Throughput { notifications_per_s, calls_per_s, cpu_us } =
            bench.throughput(args.notifications, &mut worker, server_pids, bar).await?;
        if latency.is_none() {
            let kept = bytes_under(&dir.join("nats")).saturating_sub(stored) as f64;
            jetstream_bytes_per_notification = kept / f64::from(args.notifications);
            bar.set_message(format!("at {} a second", args.rate));
            latency = Some(bench.at_rest(args.rate, &mut worker, bar).await?);
        }
        if passing.is_none() && args.bulk > 0 {
            bar.set_message("critical beside bulk");
            passing = Some(lanes::run(&bench, args.bulk, &mut worker, bar).await?);
        }
        let peak: Option<f64> = worker.pids().into_iter().map(peak_rss_mb).sum();
        worker_rss_mb = peak.into_iter().chain(worker_rss_mb).reduce(f64::max);
        // The worker must not take processor time from the relay.
        worker.kill().await?;
        bar.set_message(format!("bare relay{of}"));
        let bare_relay_per_s = relay::rate(&settings.nats, &servers.addresses, message_bytes, bar).await?;
        let ratio = notifications_per_s / bare_relay_per_s;
        pairs.push(Pair { notifications_per_s, calls_per_s, bare_relay_per_s, ratio, cpu_us });
    }
    let Latency { p50_ms, p99_ms, max_ms } = latency.context("nothing was measured")?;
    bar.set_message("merging tables");
    let (trace_events_per_notification, clickhouse_bytes_per_notification) = bench.stored().await?;
    let [nats_rss_mb, clickhouse_rss_mb] = server_pids.map(|pid| peak_rss_mb(pid?));
    let median_of = |value: fn(&Pair) -> f64| median(pairs.iter().map(value).collect());
    Ok(Report {
        notifications_per_s: median_of(|pair| pair.notifications_per_s),
        calls_per_s: median_of(|pair| pair.calls_per_s),
        bare_relay_per_s: median_of(|pair| pair.bare_relay_per_s),
        ratio: median_of(|pair| pair.ratio),
        sync: match settings.nats.sync_interval {
            SyncInterval::Word(Always::Always) => "always".to_owned(),
            SyncInterval::Seconds(seconds) => seconds.to_string(),
        },
        p50_ms,
        p99_ms,
        max_ms,
        rate_at_rest: args.rate,
        critical_p99_ms: passing.as_ref().map(|lanes| lanes.critical.p99_ms),
        bulk_kept: passing.as_ref().map(|lanes| lanes.bulk_kept),
        bulk: args.bulk,
        split: args.split,
        notifications: args.notifications,
        submission_bytes: bench.submission_bytes(),
        message_bytes,
        trace_events_per_notification,
        bytes_per_notification: jetstream_bytes_per_notification + clickhouse_bytes_per_notification,
        jetstream_bytes_per_notification,
        clickhouse_bytes_per_notification,
        cpu_us: pairs.iter().find_map(|pair| pair.cpu_us),
        worker_rss_mb,
        nats_rss_mb,
        clickhouse_rss_mb,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        pairs,
    })
}

/// Counts the bytes of all files in `dir` and below. A file that is deleted meanwhile counts nothing.
fn bytes_under(dir: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// The value in the middle; of an even number of values, the lower of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(&values, 0.5)
}

/// The smallest of the sorted values that at least the fraction `q` of them do not exceed. Zero where there is none.
fn percentile(sorted: &[f64], q: f64) -> f64 {
    // Positive and below the length: the casts lose nothing.
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

fn text(report: &Report) -> String {
    let Report { pairs, rate_at_rest, .. } = report;
    let spread = |value: fn(&Pair) -> f64| range(&pairs.iter().map(value).collect::<Vec<_>>());
    let mut rows = table(&["", "measured", "of all pairs", "bar"]);
    let mut row = |name: &str, measured: String, spread: String, bar: &str| {
        rows.add_row([name, &measured, &spread, bar]);
    };
    let none = String::new;
    let always = report.sync == "always";
    let bar = |bar| if always { bar } else { "" };
    row(
        "notifications/s, traces included",
        format!("{:.0}", report.notifications_per_s),
        spread(|pair| pair.notifications_per_s),
        bar("5,000 on 2 cores"),
    );
    row(
        "notifications/s, to the provider call",
        format!("{:.0}", report.calls_per_s),
        spread(|pair| pair.calls_per_s),
        "",
    );
    row("bare relay, messages/s", format!("{:.0}", report.bare_relay_per_s), spread(|pair| pair.bare_relay_per_s), "");
    let of_relay = if always { "4.0" } else { "0.7" };
    row("ratio", format!("{:.2}", report.ratio), spread(|pair| pair.ratio), of_relay);
    row(&format!("p50 at {rate_at_rest}/s, ms"), format!("{:.1}", report.p50_ms), none(), bar("10 at 200/s"));
    row(&format!("p99 at {rate_at_rest}/s, ms"), format!("{:.1}", report.p99_ms), none(), bar("30 at 200/s"));
    row(&format!("maximum at {rate_at_rest}/s, ms"), format!("{:.1}", report.max_ms), none(), "");
    if let (Some(critical), Some(kept)) = (report.critical_p99_ms, report.bulk_kept) {
        row(&format!("p99 of critical beside {} bulk, ms", report.bulk), format!("{critical:.1}"), none(), bar("250"));
        row("bulk's rate beside critical", format!("{:.0} %", kept * 100.0), none(), bar("80 %"));
    }
    let (jetstream, clickhouse) = (report.jetstream_bytes_per_notification, report.clickhouse_bytes_per_notification);
    row("disk, bytes per notification", format!("{jetstream:.0} + {clickhouse:.0}"), none(), "");
    if let Some(Cost { worker, nats, clickhouse, bench }) = report.cpu_us {
        let cost = format!("{worker:.0} + {nats:.0} + {clickhouse:.0} + {bench:.0}");
        row("processor time per notification, µs", cost, none(), "");
    }
    if let (Some(worker), Some(nats), Some(clickhouse)) =
        (report.worker_rss_mb, report.nats_rss_mb, report.clickhouse_rss_mb)
    {
        row("peak memory, MB", format!("{worker:.0} + {nats:.0} + {clickhouse:.0}"), none(), "");
    }
    format!(
        "{} notifications of {} bytes, {} bytes between stages; sync {}; {} cores.\n\n{rows}\n\
         Sums are of worker, NATS, ClickHouse{}; of disk, of NATS and ClickHouse.\n",
        report.notifications,
        report.submission_bytes,
        report.message_bytes,
        report.sync,
        report.cores,
        if report.cpu_us.is_some() { ", and (processor time) this producer" } else { "" },
    )
}

/// Prints the least and the greatest, if there are several values.
fn range(values: &[f64]) -> String {
    match values {
        [] | [_] => String::new(),
        _ => {
            let bounds = values.iter().fold((f64::MAX, 0.0_f64), |(least, most), v| (least.min(*v), most.max(*v)));
            format!("{:.2} to {:.2}", bounds.0, bounds.1)
        }
    }
}

/// Messages per second.
fn per_s(count: u32, took: Duration) -> f64 {
    f64::from(count) / took.as_secs_f64().max(f64::EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|q| percentile(&values, q)), [1.0, 100.0, 198.0, 200.0]);
        assert_eq!((percentile(&[7.0], 0.99), percentile(&[], 0.5)), (7.0, 0.0));
    }

    #[test]
    fn a_median_does_not_mind_the_order() {
        assert_eq!((median(vec![9.0, 1.0, 5.0]), median(vec![4.0, 2.0])), (5.0, 2.0));
    }
}
