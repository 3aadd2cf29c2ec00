//! Keeps one server process running.
//!
//! Guarantees: a server that ends is started again with the same port and the same data, after a pause that grows from
//! 50 ms to 5 s while it keeps failing; a server that is to stop gets [`STOP_BOUND`] for it, then SIGKILL; and no server
//! outlives this process, however it ends. For the last one each server holds the reading end of a pipe (its leash)
//! whose writing end only this process has; the kernel closes it with the process, and the server's side acts on that
//! (see [`crate::nats`] and [`crate::clickhouse_child`]).
//!
//! Whether a server answers is asked only while it starts. One that runs but hangs is for the operator and the health
//! checks to see: killing it would take queries and messages in flight with it.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, PipeReader, PipeWriter, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chasqui_settings::ServerUrl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::clickhouse_child::STOP_BOUND;
use crate::error::EmbeddedError;
use crate::fetch::last_lines;

/// How long a server may take until it answers; recovering a large store after a crash takes its time.
const START_BOUND: Duration = Duration::from_secs(120);
/// How often a starting server is asked.
const POLL: Duration = Duration::from_millis(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A server that ran this long is not failing over and over: the pause starts small again.
const STEADY: Duration = Duration::from_secs(60);
/// How many free ports are tried before giving up: another program may take one between our look and the server's.
const PORT_TRIES: u32 = 5;
/// Ports for servers. Linux gives outgoing connections those from 32,768 on, macOS those from 49,152 on.
const PORTS: Range<u16> = 20_000..32_000;

/// What is particular to a server.
pub(crate) trait Program: Send + Sync + 'static {
    const NAME: &'static str;
    fn port(&self) -> u16;
    /// Where clients find it, with their login.
    fn address(&self) -> ServerUrl;
    /// The server's log, and the file its standard error goes to.
    fn logs(&self) -> [&Path; 2];
    /// The command to run, with an environment of its own. Standard input is to be `leash`.
    fn command(&self, leash: PipeReader) -> io::Result<std::process::Command>;
    /// Whether our server answers on the port.
    fn ask(&self) -> impl Future<Output = Answer> + Send;
    /// Asks the process to stop in order.
    fn stop(&self, running: &mut Running);
}

/// What answers on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Nothing,
    Ours,
    SomeoneElse,
}

/// A server process. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    leash: Option<PipeWriter>,
}

impl Running {
    fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // Fails only if the process has ended, which is what the signal was for.
            let _ = kill(pid, signal);
        }
    }

    /// Lets go of the leash: what holds the other end acts as if this process had died.
    pub(crate) fn let_go(&mut self) {
        self.leash = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.start_kill();
        // A word on the leash before it goes: there is nothing left to be killed, and the process id may soon be
        // another's. Fails only if the receiver is gone.
        if let Some(leash) = &mut self.leash {
            let _ = leash.write_all(b"\n");
        }
    }
}

/// A server that is kept running. Dropping it kills the server; [`crate::Embedded::shutdown`] is the orderly
/// end.
#[derive(Debug)]
pub struct Server {
    address: ServerUrl,
    log: PathBuf,
    state: watch::Receiver<State>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    pid: Option<Pid>,
    restarts: u64,
}

impl Server {
    /// `nats://127.0.0.1:port` or `http://127.0.0.1:port`, without a login. It stays the same over restarts.
    pub fn url(&self) -> &str {
        self.address.as_str()
    }

    /// The address with the login that clients need. It stays the same over restarts.
    pub fn address(&self) -> &ServerUrl {
        &self.address
    }

    /// The server's log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The server's process id; none between its death and its next start.
    pub fn pid(&self) -> Option<u32> {
        self.state.borrow().pid.and_then(|pid| u32::try_from(pid.as_raw()).ok())
    }

    /// How often the server has died and come back; it counts when the server answers again.
    pub fn restarts(&self) -> u64 {
        self.state.borrow().restarts
    }

    /// Waits until the server has come back at least `count` times since [`crate::Embedded::start`]; never returns
    /// `false` but when the server is being stopped.
    pub async fn restarted(&self, count: u64) -> bool {
        self.state.clone().wait_for(|state| state.restarts >= count).await.is_ok()
    }

    /// Kills the server with SIGKILL, as a crash would; it is started again. For tests of crashes.
    pub fn kill(&self) {
        if let Some(pid) = self.state.borrow().pid {
            // Fails only if it has just died by itself, which is as good.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Stops the server in order; returns when it is gone, at the latest a little after 10 s.
    pub(crate) async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // Fails only if the task has ended, by a panic; then it has killed the server while unwinding.
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }

    /// Starts a server and keeps it running. `make` writes its configuration for a port.
    pub(crate) async fn start<P: Program>(
        port: Option<u16>,
        make: impl Fn(u16) -> Result<P, EmbeddedError>,
    ) -> Result<Self, EmbeddedError> {
        let mut tries = 0;
        let (program, running) = loop {
            tries += 1;
            let program = make(match port {
                Some(port) => port,
                None => free_port().map_err(|e| did_not_start::<P>(format!("no free port: {e}"), None))?,
            })?;
            match start_once(&program).await {
                Ok(running) => break (program, running),
                // The port that was free a moment ago is not any more.
                Err(_) if port.is_none() && tries < PORT_TRIES && !is_free(program.port()) => {}
                Err(Failure::PortInUse) => {
                    return Err(EmbeddedError::PortInUse { server: P::NAME, port: program.port() });
                }
                Err(failure) => return Err(did_not_start::<P>(failure.to_string(), Some(&program))),
            }
        };
        let (address, log) = (program.address(), program.logs()[0].to_owned());
        let (state_tx, state) = watch::channel(State { pid: running.pid(), restarts: 0 });
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(keep_running(program, running, state_tx, stopped));
        Ok(Self { address, log, state, stop: Some(stop), task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("its port is in use by another program")]
    PortInUse,
    #[error("it cannot be run: {0}")]
    Spawn(#[from] io::Error),
    #[error("it ended ({0})")]
    Ended(std::process::ExitStatus),
    #[error("it did not answer within {} s", START_BOUND.as_secs())]
    Silent,
}

/// Starts the process and waits until it answers. If this is cancelled or fails, the process is killed.
async fn start_once<P: Program>(program: &P) -> Result<Running, Failure> {
    if !is_free(program.port()) {
        return Err(Failure::PortInUse);
    }
    let (theirs, ours) = io::pipe()?;
    let mut command = Command::from(program.command(theirs)?);
    // A process group of its own: Ctrl-C in the terminal is for us, and the servers are to stop after the pipeline.
    command.kill_on_drop(true).process_group(0);
    let mut running = Running { child: command.spawn()?, leash: Some(ours) };
    let asking = async {
        loop {
            match program.ask().await {
                Answer::Nothing => sleep(POLL).await,
                answer => break answer,
            }
        }
    };
    tokio::select! {
        biased;
        status = running.child.wait() => Err(Failure::Ended(status?)),
        answer = timeout(START_BOUND, asking) => match answer {
            Ok(Answer::Ours) => Ok(running),
            Ok(_) => Err(Failure::PortInUse),
            Err(_) => Err(Failure::Silent),
        },
    }
}

/// Starts the server again whenever it ends, until it is stopped.
async fn keep_running<P: Program>(
    program: P,
    mut running: Running,
    state: watch::Sender<State>,
    mut stop: oneshot::Receiver<()>,
) {
    let mut pause = FIRST_PAUSE;
    let mut since = Instant::now();
    loop {
        tokio::select! {
            status = running.child.wait() => match status {
                Ok(status) => tracing::warn!(server = P::NAME, %status, "the server ended; starting it again"),
                Err(error) => tracing::warn!(server = P::NAME, %error, "cannot wait for the server; starting another"),
            },
            _ = &mut stop => {
                program.stop(&mut running);
                if timeout(STOP_BOUND, running.child.wait()).await.is_err() {
                    tracing::warn!(server = P::NAME, "the server does not stop; killing it");
                    // Fails only if it has ended in this moment.
                    let _ = running.child.kill().await;
                }
                return;
            }
        }
        state.send_modify(|state| state.pid = None);
        // Now, not when another takes its place: the watcher learns from it that this process id is free again.
        drop(running);
        if since.elapsed() > STEADY {
            pause = FIRST_PAUSE;
        }
        running = loop {
            let again = async {
                sleep(pause).await;
                start_once(&program).await
            };
            let started = tokio::select! {
                started = again => started,
                _ = &mut stop => return,
            };
            pause = LONGEST_PAUSE.min(pause * 2);
            match started {
                Ok(running) => break running,
                Err(error) => {
                    let log = program.logs()[0].display().to_string();
                    tracing::error!(server = P::NAME, %error, log, "the server does not start; trying again");
                }
            }
        };
        since = Instant::now();
        state.send_modify(|state| *state = State { pid: running.pid(), restarts: state.restarts + 1 });
        tracing::info!(server = P::NAME, "the server is back");
    }
}

fn did_not_start<P: Program>(reason: String, program: Option<&P>) -> EmbeddedError {
    let logs = program.map(|program| program.logs());
    let said = logs.iter().flatten().rev().map(|log| last_lines(log, 3)).find(|lines| !lines.is_empty());
    EmbeddedError::DidNotStart {
        server: P::NAME,
        reason,
        log: logs.map(|[log, _]| log.to_owned()).unwrap_or_default(),
        said: said.map(|said| format!("\nit said: {said}")).unwrap_or_default(),
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port that no program listens on, drawn from below those that outgoing connections are given: one of those could take it
/// before the server does, even that by which we ask whether the server answers.
///
/// # Errors
/// Where every one is taken.
pub fn free_port() -> io::Result<u16> {
    let count = u64::from(PORTS.end - PORTS.start);
    let first = RandomState::new().build_hasher().finish() % count;
    // Below `count`, which is a port's: the cast loses nothing.
    let mut ports = (0..count).map(|n| PORTS.start + ((first + n) % count) as u16);
    ports.find(|port| is_free(*port)).ok_or_else(|| io::Error::from(io::ErrorKind::AddrInUse))
}
