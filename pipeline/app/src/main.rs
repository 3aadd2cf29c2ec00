//! `chasqui`: the one binary. It knows all stages and wires them to the runtime.
//!
//! | module | does |
//! |---|---|
//! | [`args`] | what can be typed |
//! | [`servers`] | which NATS and ClickHouse: configured, running beside us, or our own |
//! | [`worker`] | builds the stages and runs them: the one line of registration of each |
//! | [`telemetry`] | logs, and spans and metrics by OTLP |
//! | [`metrics`], [`health`] | metrics for Prometheus, and what probes ask |
//! | [`commands`] | a module per command |

mod args;
mod commands;
mod health;
mod metrics;
mod servers;
mod telemetry;
mod worker;

use std::process::ExitCode;

use anyhow::Context;
use chasqui_runtime::Config;
use clap::Parser;

use crate::{
    args::{Args, Command},
    metrics::Metrics,
};

/// A worker makes and drops some hundred small values per notification: the system's allocator took a third of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How far the threads of the other lanes step back behind the critical lane's, in steps of nice(2): a third of the share.
const STEP_BACK: i32 = 5;

fn main() -> ExitCode {
    // Before anything else: this process may be the embedded ClickHouse, which wants no threads of ours.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == chasqui_embedded::CLICKHOUSE_SUBCOMMAND) {
        chasqui_embedded::run_clickhouse_child(arguments);
    }
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    if matches!(args.command, Command::Config) {
        print!("{}\n{}", chasqui_runtime::config::DEFAULTS, chasqui_send::DEFAULTS);
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(chasqui_send::DEFAULTS, args.config.as_deref())?;
    // Two libraries that we depend on could do the cryptography; TLS clients that name none take this one.
    rustls::crypto::ring::default_provider().install_default().map_err(|_| anyhow::anyhow!("TLS is set up already"))?;
    let metrics = Metrics::default();
    let telemetry = telemetry::start(&config, args.command.default_log_filter(), &metrics)?;
    let runtime = runtime(&args.command).context("cannot start the async runtime")?;
    let code = runtime.block_on(commands::run(args.command, config, metrics));
    // Detached work must not hold up the end: everything that matters has been awaited.
    runtime.shutdown_background();
    telemetry.shutdown();
    code
}

/// A process of some of the stages may share its machine with those of the others. All of their threads together would
/// keep the critical lane's waiting for a core at each stage, so theirs step back; the critical lane's do not, nor do the
/// servers. Measured with ten processes on two cores, beside a bulk backlog: critical's p99 521 ms, and 254 ms so. One
/// process of all stages has few threads, and does without.
///
/// One thread fewer than there are cores: servers and the writer's thread want some too, and what one thread makes and
/// another drops costs both: on two cores, one thread instead of two does the same with a tenth less processor time.
fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    runtime.worker_threads(cores.saturating_sub(1).max(1));
    if cfg!(target_os = "linux") && matches!(command, Command::Serve(serve) if !serve.stages.is_empty()) {
        // Of this thread only, on Linux (nice(2)). Where it is refused all are equal, as they were.
        runtime.on_thread_start(|| _ = rustix::process::nice(STEP_BACK));
    }
    runtime.enable_all().build()
}
