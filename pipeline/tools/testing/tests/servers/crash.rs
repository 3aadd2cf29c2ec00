//! Processes and servers die in mid-flow, and nobody can tell afterwards, but for calls that were in flight.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, ensure};
use chasqui_testing::{
    Calls, TestInstall,
    oracle::nothing_lost_nothing_doubled,
    settings::{IMPATIENT, SLOTS},
    submissions,
};
use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

/// Publishes `count` mails, every tenth to a mailbox that fails at first, and counts those acknowledged.
async fn publish(install: &TestInstall, count: u64, published: &AtomicU64) -> anyhow::Result<()> {
    let publishing = stream::iter(0..count).map(|i| async move {
        let id = Uuid::now_v7();
        let mailbox = if i % 10 == 0 { format!("fails-1-times-{i}") } else { format!("person-{i}") };
        install.publish("notify.submit.normal.test", &id.to_string(), &submissions::mail(id, &mailbox)).await?;
        published.fetch_add(1, Ordering::Relaxed);
        anyhow::Ok(())
    });
    publishing.buffer_unordered(32).try_collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_killed_ten_times() -> anyhow::Result<()> {
    let _alone = chasqui_testing::alone().await;
    const COUNT: u64 = 5_000;
    const KILLS: u64 = 10;
    let install = TestInstall::start(IMPATIENT).await?;
    let mut workers = [install.worker("")?, install.worker("")?];
    let published = AtomicU64::new(0);
    let killing = async {
        for kill in 0..KILLS {
            // At moments that depend on the flow, not on the clock, and never quite the same.
            while published.load(Ordering::Relaxed) < (kill + 1) * COUNT / (KILLS + 2) {
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
            let worker = &mut workers[kill as usize % 2];
            std::mem::replace(worker, install.worker("")?).kill().await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(publish(&install, COUNT, &published), killing)?;
    let repeated = nothing_lost_nothing_doubled(&install, COUNT).await?;
    ensure!(repeated <= KILLS as usize * SLOTS, "{repeated} calls repeated: more than were in flight");
    for worker in workers {
        worker.terminate().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_killed_in_mid_flow() -> anyhow::Result<()> {
    let _alone = chasqui_testing::alone().await;
    const COUNT: u64 = 1_500;
    const KILLS: u64 = 3;
    let install = TestInstall::start(IMPATIENT).await?;
    let workers = [install.worker("")?, install.worker("")?];
    install.until_running(workers.len()).await?;
    let published = AtomicU64::new(0);
    let killing = async {
        let nats = install.servers().nats().expect("embedded");
        for kill in 0..KILLS {
            while published.load(Ordering::Relaxed) < (kill + 1) * COUNT / 5 {
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
            nats.kill();
            ensure!(nats.restarted(kill + 1).await, "nats-server does not come back");
        }
        anyhow::Ok(())
    };
    tokio::try_join!(publish(&install, COUNT, &published), killing)?;
    let repeated = nothing_lost_nothing_doubled(&install, COUNT).await?;
    // A server that comes back may hand out again what a worker still has in hand.
    ensure!(repeated <= KILLS as usize * 2 * SLOTS, "{repeated} calls repeated: more than were in flight");
    for worker in workers {
        worker.terminate().await.with_context(|| install.worker_log())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_is_away_for_a_while() -> anyhow::Result<()> {
    let _alone = chasqui_testing::alone().await;
    const COUNT: u64 = 800;
    let install = TestInstall::start(IMPATIENT).await?;
    let worker = install.worker("")?;
    let clickhouse = install.servers().clickhouse().expect("embedded");
    let pid = clickhouse.pid().expect("running").to_string();
    let signal = async |signal: &str| -> anyhow::Result<()> {
        let status = tokio::process::Command::new("kill").args([signal, &pid]).status().await?;
        ensure!(status.success(), "kill {signal}");
        Ok(())
    };
    // First it hangs, as an overloaded server does; while it hangs, everything is sent.
    signal("-STOP").await?;
    publish(&install, COUNT, &AtomicU64::new(0)).await?;
    let deadline = tokio::time::Instant::now() + chasqui_testing::install::PATIENCE;
    while Calls::read(&install)?.by_delivery().len() < COUNT as usize {
        ensure!(tokio::time::Instant::now() < deadline, "sending waits for ClickHouse\n{}", install.worker_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Then it dies altogether, and comes back.
    signal("-KILL").await?;
    ensure!(clickhouse.restarted(1).await, "ClickHouse does not come back");
    nothing_lost_nothing_doubled(&install, COUNT).await?;
    worker.terminate().await?;
    Ok(())
}
