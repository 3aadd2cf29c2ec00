//! Chasqui's commands and processes: this crate knows all stages and services, and wires them to the runtime.
//!
//! | module | does |
//! |---|---|
//! | [`args`] | the command line: every command and its options |
//! | [`settings`] | all settings as one typed whole |
//! | [`servers`] | finds NATS and ClickHouse: those in the settings, those that `chasqui up` runs, or starts our own |
//! | [`rehearsal`] | reads every setting of a process's roles, before any server is started or asked |
//! | [`role`] | what a process can run: stages, services, the gateway |
//! | [`worker`] | builds the stages and services, and runs them; each is registered there in one place |
//! | [`gateway`] | the HTTP listener, and the rooms behind it |
//! | [`telemetry`] | logs, and exports spans and metrics by OTLP |
//! | [`metrics`], [`health`] | counts for Prometheus, and answers its questions and those of probes |
//! | [`commands`] | runs the commands, a module each |
//!
//! This is a library, so that the development binary (`pipeline/tools/dev`) offers the same commands beside its own.

pub mod args;
pub mod commands;
pub mod gateway;
pub mod health;
pub mod metrics;
pub mod rehearsal;
pub mod role;
pub mod servers;
pub mod settings;
pub mod telemetry;
pub mod worker;

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    args::{Args, Command},
    metrics::Metrics,
    settings::Settings,
};

/// Steps of nice(2) by which the threads of the other lanes step back behind the critical lane's. Five leave each a
/// third of the processor time that a critical thread gets.
const STEP_BACK: i32 = 5;

/// Runs the command, and returns the code that the process ends with.
pub fn main(args: Args) -> ExitCode {
    exit_code(run(args))
}

/// Turns a result into the code that a process ends with, and prints an error.
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

/// Reads the settings, with the operator's own in `file`, begins to log, and runs `work` to its end. `filter` replaces
/// `log.filter`, see [`telemetry::start`]. `steps_back` makes all threads but the critical lane's step back.
///
/// # Errors
/// Settings or telemetry cannot be used, or `work` fails.
pub fn start<W: AsyncFnOnce(Settings, Metrics) -> anyhow::Result<ExitCode>>(
    file: Option<&Path>,
    filter: Option<&str>,
    steps_back: bool,
    work: W,
) -> anyhow::Result<ExitCode> {
    // Whatever this process and its servers write is for their owner only: spools, logs, the streams themselves.
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o077));
    let settings = Settings::load(file, &serde_json::Value::Null)?;
    // Our dependencies bring two libraries for cryptography. A TLS client that names neither would panic without a
    // default.
    rustls::crypto::ring::default_provider().install_default().map_err(|_| anyhow::anyhow!("TLS is set up already"))?;
    let metrics = Metrics::default();
    let telemetry = telemetry::start(&settings.log, &settings.telemetry, filter, &metrics)?;
    raise_file_limit();
    let runtime = runtime(steps_back).context("cannot start the async runtime")?;
    let code = runtime.block_on(work(settings, metrics));
    // Detached work must not delay the end. Everything that matters has been awaited.
    runtime.shutdown_background();
    telemetry.shutdown();
    code
}

/// Raises the number of files and connections that this process may open to what the system allows it. What it is given at
/// first, 1,024 mostly, is for programs that use select(2).
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot raise the number of open files");
    }
}

/// Builds the async runtime.
///
/// A process that runs only some stages may share its machine with the processes of the others. All their threads
/// together would make the critical lane wait for a core at each stage. So the threads of the other lanes step back;
/// those of the critical lane and the servers do not. Ten processes on two cores, beside a bulk backlog: critical's p99
/// fell from 521 ms to 254 ms. One process with all stages has few threads, and none of them steps back.
///
/// It has one thread fewer than there are cores. The servers and the writer's thread need cores too, and a value that
/// one thread makes and another drops costs both. On two cores, one thread does the same work as two with a tenth less
/// processor time.
fn runtime(steps_back: bool) -> std::io::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    runtime.worker_threads(cores.saturating_sub(1).max(1));
    if cfg!(target_os = "linux") && steps_back {
        // On Linux nice(2) changes this thread only. Where the system refuses, all threads stay equal.
        runtime.on_thread_start(|| _ = rustix::process::nice(STEP_BACK));
    }
    runtime.enable_all().build()
}
