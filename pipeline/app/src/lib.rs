//! Chasqui's commands and processes: this crate knows all stages and services, and wires them to the runtime.
//!
//! | module | does |
//! |---|---|
//! | [`args`] | what can be typed |
//! | [`settings`] | all settings as one typed whole |
//! | [`servers`] | which NATS and ClickHouse: configured, running beside us, or our own |
//! | [`worker`] | builds the stages and services, and runs them: the one line of registration of each |
//! | [`gateway`] | the HTTP listener, and the rooms behind it |
//! | [`telemetry`] | logs, and spans and metrics by OTLP |
//! | [`metrics`], [`health`] | metrics for Prometheus, and what probes ask |
//! | [`commands`] | a module per command |
//!
//! A library, so that the development binary (`pipeline/tools/dev`) can offer the same commands beside its own.

pub mod args;
pub mod commands;
pub mod gateway;
pub mod health;
pub mod metrics;
pub mod servers;
pub mod settings;
pub mod telemetry;
pub mod worker;

use std::{path::Path, process::ExitCode};

use anyhow::Context;

use crate::{
    args::{Args, Command},
    metrics::Metrics,
    settings::Settings,
};

/// How far the threads of the other lanes step back behind the critical lane's, in steps of nice(2): a third of the share.
const STEP_BACK: i32 = 5;

/// Does what was asked, and says with which code the process ends.
pub fn main(args: Args) -> ExitCode {
    exit_code(run(args))
}

/// The code that a process ends with; an error is printed.
pub fn exit_code(ended: anyhow::Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    if matches!(args.command, Command::Config) {
        print!("{}", settings::manual());
        return Ok(ExitCode::SUCCESS);
    }
    let steps_back = matches!(&args.command, Command::Serve(serve) if !serve.stages.is_empty());
    let filter = args.command.default_log_filter();
    start(args.config.as_deref(), filter, steps_back, async |settings, metrics| {
        commands::run(args.command, settings, metrics).await
    })
}

/// Reads the settings, an operator's own from `file`; begins to log, and runs `work` to its end. `filter` stands in for `log.filter`, see
/// [`telemetry::start`]; `steps_back` lets all threads but the critical lane's step back.
///
/// # Errors
/// Where settings or telemetry cannot be used, and those of `work`.
pub fn start<W: AsyncFnOnce(Settings, Metrics) -> anyhow::Result<ExitCode>>(
    file: Option<&Path>,
    filter: Option<&str>,
    steps_back: bool,
    work: W,
) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(file, &serde_json::Value::Null)?;
    // Two libraries that we depend on could do the cryptography; TLS clients that name none take this one.
    rustls::crypto::ring::default_provider().install_default().map_err(|_| anyhow::anyhow!("TLS is set up already"))?;
    let metrics = Metrics::default();
    let telemetry = telemetry::start(&settings.log, &settings.telemetry, filter, &metrics)?;
    let runtime = runtime(steps_back).context("cannot start the async runtime")?;
    let code = runtime.block_on(work(settings, metrics));
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
fn runtime(steps_back: bool) -> std::io::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    runtime.worker_threads(cores.saturating_sub(1).max(1));
    if cfg!(target_os = "linux") && steps_back {
        // Of this thread only, on Linux (nice(2)). Where it is refused all are equal, as they were.
        runtime.on_thread_start(|| _ = rustix::process::nice(STEP_BACK));
    }
    runtime.enable_all().build()
}
