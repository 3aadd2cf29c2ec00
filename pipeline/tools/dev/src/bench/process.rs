//! Runs the worker as a process of its own, and measures what processes cost.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail};
use clap::Parser;
use serde::Serialize;
use tokio::process::{Child, Command};

use chasqui::{
    role::{Role, Service},
    servers::Addresses,
};

use crate::args::Args;

/// `chasqui serve`: one process with all roles, or one for each; killed when dropped.
///
/// It is killed instead of stopped, because everything that it could still store is in a directory that is deleted too.
pub(super) struct Worker {
    children: Vec<Child>,
    log: PathBuf,
}

impl Worker {
    /// Starts it with the settings of this process. The sandbox delivers nothing, and writes each call to `calls`.
    pub(super) fn start(addresses: &Addresses, dir: &Path, calls: &Path, split: bool) -> anyhow::Result<Self> {
        let log = dir.join("worker.log");
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let start = |role: Option<Role>| {
            let mut command = Command::new(std::env::current_exe().context("cannot find the program itself")?);
            if let Some(file) = Args::parse().config {
                command.arg("--config").arg(file);
            }
            command.arg("serve");
            if let Some(role) = role {
                command.arg("--stages").arg(role.to_string());
            }
            command
                .env("CHASQUI_NATS__URL", addresses.nats.expose())
                .env("CHASQUI_CLICKHOUSE__URL", addresses.clickhouse.expose())
                .env("CHASQUI_LOG__FILTER", "warn")
                .env("CHASQUI_GATEWAY__BIND", "")
                .env("CHASQUI_ROUTES__PUSH__IOS", "[sandbox]")
                .env("CHASQUI_ROUTES__PUSH__ANDROID", "[sandbox]")
                .env("CHASQUI_ROUTES__PUSH__WEB", "[sandbox]")
                .env("CHASQUI_ACCOUNTS__SANDBOX__LATENCY_MS", "0")
                .env("CHASQUI_ACCOUNTS__SANDBOX__LOG", calls)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(output.try_clone()?)
                .kill_on_drop(true);
            command.spawn().context("cannot start a worker")
        };
        // The gateway and the exporter are off here; processes of theirs would have nothing to do, and end.
        let each =
            Role::all().into_iter().filter(|role| ![Role::Gateway, Role::Service(Service::Exporter)].contains(role));
        let roles = if split { each.map(Some).collect() } else { vec![None] };
        Ok(Worker { children: roles.into_iter().map(start).collect::<anyhow::Result<_>>()?, log })
    }

    /// The ids of its running processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.children.iter().filter_map(Child::id).collect()
    }

    /// Fails if a process has ended, with the end of its log.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for child in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("the worker ended ({status}): {}", self.last_words());
            }
        }
        Ok(())
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        if lines.is_empty() { "it logged nothing".to_owned() } else { lines.join("\n") }
    }

    /// Kills its processes.
    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        for child in &mut self.children {
            child.kill().await.context("the worker ended before its time")?;
        }
        Ok(())
    }
}

/// Processor time: in seconds, or in microseconds per notification.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Cost {
    pub(super) worker: f64,
    pub(super) nats: f64,
    pub(super) clickhouse: f64,
    /// This process: publishing, and asking whether all has arrived.
    pub(super) bench: f64,
}

impl Cost {
    /// Reads the seconds used so far by worker, NATS, ClickHouse and this process. `None` where there is no /proc.
    pub(super) fn so_far(worker: &Worker, [nats, clickhouse]: [Option<u32>; 2]) -> Option<Self> {
        Some(Cost {
            worker: worker.pids().into_iter().map(cpu_s).sum::<Option<f64>>()?,
            nats: cpu_s(nats?)?,
            clickhouse: cpu_s(clickhouse?)?,
            bench: cpu_s(std::process::id())?,
        })
    }

    /// Computes what has been used since `before`, per notification, in microseconds.
    pub(super) fn us_since(self, before: Cost, notifications: u32) -> Self {
        let each = |now: f64, before: f64| (now - before) * 1e6 / f64::from(notifications);
        Cost {
            worker: each(self.worker, before.worker),
            nats: each(self.nats, before.nats),
            clickhouse: each(self.clickhouse, before.clickhouse),
            bench: each(self.bench, before.bench),
        }
    }
}

/// Seconds of processor time, user and system, from /proc (proc_pid_stat(5)).
pub(super) fn cpu_s(pid: u32) -> Option<f64> {
    /// USER_HZ, the same on every architecture that we run on.
    const TICKS_PER_S: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold anything; the last parenthesis ends it. utime and stime are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_S)
}

/// The most memory that a process had at once, resident, in MB (10^6 bytes), from /proc (proc_pid_status(5)).
pub(super) fn peak_rss_mb(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_and_processor_time_are_known() {
        let us = std::process::id();
        assert!(peak_rss_mb(us).unwrap() > 1.0);
        let before = cpu_s(us).unwrap();
        while cpu_s(us).unwrap() < before + 0.02 {}
    }
}
