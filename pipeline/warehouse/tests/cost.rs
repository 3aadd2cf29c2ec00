//! What tracing costs: processor time of ClickHouse and of the writer per notification, over the writer's own way from
//! the trace stream into the tables, merges included; and the time until a trace can be read.
//!
//! Processor time and not rates, because the machine is shared. Ignored, because it takes minutes and means something
//! only in a release build:
//!
//! ```sh
//! cargo test --release -p chasqui-trace --test cost -- --ignored --nocapture
//! NOTIFICATIONS=400000 PER_SECOND=5000 …          # the default is 150,000 at 5,000/s; 0: all at once
//! ```

#![allow(clippy::expect_used, reason = "a test may fail")]

mod bench;

use std::{env, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bench::{Bench, PATIENCE};
use chasqui_schemas::{clickhouse::STORED, stream, subject, trace, trace::TraceEvent};
use chasqui_trace::{WriterSettings, load, measure, run_writer, stats};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Notifications whose steps the stages decide together; each stage's events are one message.
const TOGETHER: usize = 64;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of minutes, for a release build"]
async fn tracing_costs_little() -> Result<()> {
    let notifications: usize = setting("NOTIFICATIONS", 150_000)?;
    let per_second: usize = setting("PER_SECOND", 5_000)?;
    let bench = Bench::start().await?;
    bench.prepare_with(Duration::from_secs(30)).await?;
    let pid = bench.clickhouse_pid()?;
    let stop = CancellationToken::new();
    let client = bench.clickhouse.clone();
    let since = Timestamp::now();

    let before = (cpu_s(pid)?, cpu_s(std::process::id())?);
    let writer = tokio::spawn(run_writer(bench.nats.clone(), client, WriterSettings::default(), stop.clone()));
    let began = Instant::now();
    let mut building = 0.0;
    for number in (0..notifications).step_by(TOGETHER) {
        let own = cpu_s(std::process::id())?;
        let messages = messages(number..(number + TOGETHER).min(notifications))?;
        building += cpu_s(std::process::id())? - own;
        for message in messages {
            bench.nats.publish(subject::TRACES, message.into()).await?;
        }
        let seconds = number.checked_div(per_second).unwrap_or(0);
        tokio::time::sleep_until(began + Duration::from_secs(seconds as u64)).await;
    }
    let published = began.elapsed();
    drained(&bench).await?;
    println!("published in {published:.1?}, written after {:.1?}", began.elapsed());
    let after = (cpu_s(pid)?, cpu_s(std::process::id())?);
    println!("at rest, readable after {:.1?}", readable(&bench).await?);
    stop.cancel();
    writer.await??;
    let each = |seconds: f64| seconds * 1e6 / notifications as f64;
    println!("writer, its NATS client and this producer: {:.1} us", each(after.1 - before.1 - building));
    println!("ClickHouse until written: {:.1} us", each(after.0 - before.0));
    settled(&bench).await?;
    println!("ClickHouse, merges done: {:.1} us", each(cpu_s(pid)? - before.0));

    let rows = bench.number("SELECT count() FROM trace_events").await?;
    println!("{:.2} rows each", rows as f64 / notifications as f64);
    let parts = "SELECT table, count() AS parts, max(level) AS level, sum(rows) AS n, sum(bytes_on_disk) AS bytes,
                 round(bytes / n, 1) AS each FROM system.parts WHERE active AND database = currentDatabase()
                 AND rows > 100 GROUP BY table ORDER BY table";
    println!("{}", bench.text(parts).await?);
    for _ in 0..3 {
        let (asked, own) = (Instant::now(), cpu_s(pid)?);
        stats::rates(&bench.clickhouse, since, stats::Dimension::Channel).await?;
        println!("rates: {:.1?}, {:.0} ms of processor time", asked.elapsed(), (cpu_s(pid)? - own) * 1e3);
    }
    let accounted = stats::accounted(&bench.clickhouse, Timestamp::UNIX_EPOCH).await?;
    ensure!((accounted.notifications, accounted.pending()) == (notifications as u64 + 1, 0), "{accounted:?}");
    for table in STORED {
        bench.merge(table).await?;
    }
    println!("{}", bench.text(parts).await?);
    if env::var_os("KEEP").is_some() {
        println!("{}", bench.clickhouse_url);
        sleep(Duration::from_secs(100_000)).await;
    }
    Ok(())
}

fn setting(name: &str, default: usize) -> Result<usize> {
    env::var(name).map_or(Ok(default), |value| value.parse().with_context(|| name.to_owned()))
}

/// Seconds of processor time, user and system: proc_pid_stat(5).
fn cpu_s(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}

/// The messages of the trace stream for some notifications: as the stages decide them, stage after stage.
fn messages(numbers: std::ops::Range<usize>) -> Result<Vec<Vec<u8>>> {
    let at = Timestamp::now();
    let stories: Vec<Vec<TraceEvent>> = numbers.map(|number| measure::steps(number as u32, at)).collect();
    let steps = stories.iter().map(Vec::len).max().unwrap_or(0);
    let step = |n: usize| stories.iter().filter_map(|story| story.get(n).cloned()).collect::<Vec<_>>();
    Ok((0..steps).map(|n| trace::encode(&step(n))).collect())
}

/// How long it takes until the trace of a single notification can be read.
async fn readable(bench: &Bench) -> Result<Duration> {
    let steps = measure::steps(0, Timestamp::now());
    let asked = Instant::now();
    bench.nats.publish(subject::TRACES, trace::encode(&steps).into()).await?.await?;
    while load(&bench.clickhouse, &steps[0].trace_id.to_string()).await?.is_empty() {
        ensure!(asked.elapsed() < PATIENCE, "never");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(asked.elapsed())
}

async fn drained(bench: &Bench) -> Result<()> {
    let last = bench.nats.get_stream(stream::TRACES).await?.cached_info().state.last_sequence;
    let deadline = Instant::now() + 10 * PATIENCE;
    loop {
        let mut stream = bench.nats.get_stream(stream::TRACES).await?;
        let last = stream.info().await?.state.last_sequence.max(last);
        let consumer: async_nats::jetstream::consumer::PullConsumer =
            bench.nats.get_consumer_from_stream(stream::TRACES_CONSUMER, stream::TRACES).await?;
        if consumer.cached_info().ack_floor.stream_sequence >= last {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the traces were not written");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until ClickHouse merges nothing for five seconds.
async fn settled(bench: &Bench) -> Result<()> {
    let mut quiet = 0;
    while quiet < 10 {
        let merges = bench.number("SELECT count() FROM system.merges").await?;
        quiet = if merges == 0 { quiet + 1 } else { 0 };
        sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
