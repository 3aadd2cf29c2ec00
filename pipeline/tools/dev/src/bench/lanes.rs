//! Measures critical notifications beside a bulk backlog: how long critical waits, and how much slower bulk becomes.

use std::time::Duration;

use anyhow::ensure;
use chasqui_schemas::Lane;
use indicatif::ProgressBar;
use jiff::Timestamp;

use super::{
    end_to_end::{Bench, Latency},
    process::Worker,
};

/// Time during which bulk runs alone, before critical joins it for twice as long.
const WINDOW: Duration = Duration::from_secs(10);
/// Critical notifications a second.
const RATE: u32 = 10;

/// The result of one run with a bulk backlog.
pub(super) struct Lanes {
    /// From the publish of a critical notification to its provider call.
    pub(super) critical: Latency,
    /// Bulk's calls a second beside critical, relative to those alone.
    pub(super) bulk_kept: f64,
}

/// Publishes `bulk` notifications, and then critical ones while the backlog lasts.
pub(super) async fn run(bench: &Bench, bulk: u32, worker: &mut Worker, bar: &ProgressBar) -> anyhow::Result<Lanes> {
    let began = (Timestamp::now(), std::time::Instant::now());
    bench.publish(Lane::Bulk, bulk).await?;

    let alone = Timestamp::now().as_nanosecond();
    tokio::time::sleep(WINDOW).await;
    let since = Timestamp::now();
    // At ten a second it takes two windows until the 99th percentile differs from the maximum.
    let count = RATE * 2 * WINDOW.as_secs() as u32;
    let published = bench.steadily(Lane::Critical, RATE, count, bar).await?;
    let end = Timestamp::now().as_nanosecond();

    bench.arrived(bulk + count, began.0, began.1, worker, bar).await?;
    let calls = bench.calls()?;
    let rate = |from: i128, to: i128, others: u32| {
        let calls = calls.values().filter(|at| (from..to).contains(at)).count() as f64 - f64::from(others);
        calls / ((to - from) as f64 / 1e9)
    };
    let (before, beside) = (rate(alone, since.as_nanosecond(), 0), rate(since.as_nanosecond(), end, count));
    let left = calls.values().filter(|at| **at > end).count();
    ensure!(
        left as f64 > before,
        "the backlog was gone before the critical ones: publish more than {bulk} with --bulk"
    );
    Ok(Lanes { critical: bench.latency(&published, since).await?, bulk_kept: beside / before })
}
