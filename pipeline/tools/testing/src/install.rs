//! What an operator runs, for one test: nats-server, ClickHouse and `chasqui` processes. All of it is gone when the value
//! is dropped.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use async_nats::jetstream;
use chasqui_embedded::{Embedded, NatsOptions, SyncInterval};
use chasqui_nats::{ConnectOptions, accounts, key};
use chasqui_settings::{SecretSource, ServerUrl};
use tokio::process::{Child, Command};

use crate::servers;

/// The longest that a test waits for what must happen: far more than it takes, so that a busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// The default of `nats.inbox_prefix`.
const INBOX_PREFIX: &str = "_INBOX_chasqui";

/// Waits until no other test loads the machine, and lets none begin until the guard is dropped: for tests that keep all
/// cores busy for a minute, which side by side would only make each other late.
pub async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    MACHINE.lock().await
}

/// What an operator runs, in a directory of its own.
pub struct TestInstall {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) servers: Embedded,
    pub(crate) settings: PathBuf,
    /// The seed by which commands connect to NATS, where it asks for one.
    nkey: Option<PathBuf>,
    /// A connection as a producer has one; where producers are confined, as an operator has one.
    pub nats: async_nats::Client,
    /// A connection as an analyst has one.
    pub clickhouse: clickhouse::Client,
}

impl TestInstall {
    /// Starts servers and creates streams and tables. `settings` is TOML, as an operator would write it.
    ///
    /// # Errors
    /// What keeps them from starting.
    pub async fn start(settings: &str) -> anyhow::Result<Self> {
        Self::start_in(tempfile::tempdir()?, settings).await
    }

    /// The same, but nats-server acknowledges before the disk has what it stored: for tests that measure how long something
    /// else takes.
    ///
    /// # Errors
    /// What keeps them from starting.
    pub async fn start_without_sync(settings: &str) -> anyhow::Result<Self> {
        let nats =
            NatsOptions { sync_interval: SyncInterval::Every(Duration::from_secs(60)), ..servers::without_login() };
        Self::open(tempfile::tempdir()?, settings, nats, "", None).await
    }

    /// The same in a directory that the test has prepared: the servers' data is in `data` there.
    ///
    /// # Errors
    /// What keeps them from starting.
    pub async fn start_in(dir: tempfile::TempDir, settings: &str) -> anyhow::Result<Self> {
        Self::open(dir, settings, servers::without_login(), "", None).await
    }

    /// The same, with more users of ClickHouse, as a document of its own.
    ///
    /// # Errors
    /// What keeps them from starting.
    pub async fn start_with_users(settings: &str, users: &str) -> anyhow::Result<Self> {
        Self::open(tempfile::tempdir()?, settings, servers::without_login(), users, None).await
    }

    pub(crate) async fn open(
        dir: tempfile::TempDir,
        settings: &str,
        nats: NatsOptions,
        users: &str,
        nkey: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let mut options = servers::options(dir.path().join("data"));
        options.nats = Some(nats);
        options.clickhouse = Some(servers::clickhouse_options(users, &[]));
        let servers = Embedded::start(options, |_| {}).await?;
        let path = dir.path().join("settings.toml");
        std::fs::write(&path, settings)?;
        let url = servers.clickhouse_url().context("no ClickHouse")?;
        let clickhouse = servers::testers_client(url);
        let nats = connect(servers.nats_url().context("no NATS")?, nkey.as_deref()).await?;
        let install = TestInstall { dir, servers, settings: path, nkey, nats, clickhouse };
        install.run(&["migrate"]).await?;
        Ok(install)
    }

    /// The servers, to kill.
    pub fn servers(&self) -> &Embedded {
        &self.servers
    }

    /// Where the sandbox provider's log is, for `accounts.sandbox.log`.
    pub fn sandbox_log(&self) -> PathBuf {
        self.dir.path().join("sandbox.log")
    }

    /// A command line against these servers.
    fn command(&self, args: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(servers::built("chasqui"));
        command
            .args(args)
            .env("CHASQUI_CONFIG", &self.settings)
            .env("CHASQUI_NATS__URL", self.servers.nats_url().context("no NATS")?)
            .env("CHASQUI_CLICKHOUSE__URL", self.servers.clickhouse().context("no ClickHouse")?.address().expose())
            .env("CHASQUI_ACCOUNTS__SANDBOX__LOG", self.sandbox_log())
            // Many workers run on one machine: tests that want a gateway name a port.
            .env("CHASQUI_GATEWAY__BIND", "")
            .kill_on_drop(true);
        if let Some(seed) = &self.nkey {
            command.env("CHASQUI_NATS__NKEY__FILE", seed);
        }
        Ok(command)
    }

    /// Runs a command to its end and returns what it printed.
    ///
    /// # Errors
    /// Fails where it exits with an error, with its words.
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.command(args)?.output().await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("chasqui {}: {}\n{text}\n{}", args.join(" "), output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }

    /// Starts a worker process with these stages; all where empty.
    ///
    /// # Errors
    /// Fails where the process cannot be started.
    pub fn worker(&self, stages: &str) -> anyhow::Result<Worker> {
        self.worker_with(stages, &[])
    }

    /// The same, with more settings, as environment variables.
    ///
    /// # Errors
    /// Fails where the process cannot be started.
    pub fn worker_with(&self, stages: &str, variables: &[(&str, &str)]) -> anyhow::Result<Worker> {
        let mut args = vec!["serve"];
        if !stages.is_empty() {
            args.extend(["--stages", stages]);
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("worker.log"))?;
        let mut command = self.command(&args)?;
        command.envs(variables.iter().copied());
        let child = command.stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Worker { child })
    }

    /// Waits until so many workers have started: before that, a broker that goes away is an error for an operator.
    ///
    /// # Errors
    /// Fails where they take too long.
    pub async fn until_running(&self, workers: usize) -> anyhow::Result<()> {
        let log = self.dir.path().join("worker.log");
        let running = async {
            while std::fs::read_to_string(&log).unwrap_or_default().matches(" running roles=").count() < workers {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, running).await.context("the workers do not start")
    }

    /// What the workers logged, for the message of a failed test.
    pub fn worker_log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("worker.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Publishes JSON as a producer would, waiting for each acknowledgement; repeated while NATS is away, with the
    /// same message id, as a careful producer does.
    ///
    /// # Errors
    /// Fails where the broker refuses it for good, or is away too long.
    pub async fn publish(&self, subject: &str, message_id: &str, submission: &serde_json::Value) -> anyhow::Result<()> {
        let context = jetstream::new(self.nats.clone());
        let payload = bytes::Bytes::from(serde_json::to_vec(submission)?);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = jetstream::message::PublishMessage::build().payload(payload.clone()).message_id(message_id);
            let acknowledged = async { context.send_publish(subject.to_owned(), message).await?.await };
            match acknowledged.await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error).context("the broker stays away"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Messages in a stream.
    ///
    /// # Errors
    /// Fails where the broker does not answer.
    pub async fn stored(&self, stream: &str) -> anyhow::Result<u64> {
        let stream = jetstream::new(self.nats.clone()).get_stream(stream).await?;
        Ok(stream.cached_info().state.messages)
    }
}

/// Connects with the seed in a file, if there is one.
pub(crate) async fn connect(url: &str, nkey: Option<&Path>) -> anyhow::Result<async_nats::Client> {
    let source = SecretSource { file: nkey.map(Path::to_owned), env: None };
    let nkey = source.read("nats.nkey")?;
    let inbox_prefix = match &nkey {
        Some(seed) => accounts::inbox(INBOX_PREFIX, &key::public_key(seed, "nats.nkey")?),
        None => String::new(),
    };
    let url = ServerUrl::parse(url).map_err(anyhow::Error::msg)?;
    Ok(chasqui_nats::connect(&url, &ConnectOptions { nkey, inbox_prefix, ..ConnectOptions::default() }).await?)
}

/// A `chasqui serve` process.
pub struct Worker {
    child: Child,
}

impl Worker {
    /// The most memory it ever had resident, in bytes; Linux counts it.
    ///
    /// # Errors
    /// Fails where the process is gone, or on a system without `/proc`.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        let pid = self.child.id().context("the worker is gone")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes * 1024)
    }

    /// kill -9.
    ///
    /// # Errors
    /// Fails where it is gone already.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("the worker was gone before it was killed")
    }

    /// SIGTERM; returns how long it took to end, which it must do well.
    ///
    /// # Errors
    /// Fails where it ends with an error, or not at all.
    pub async fn terminate(mut self) -> anyhow::Result<Duration> {
        let pid = self.child.id().context("the worker is gone")?;
        let began = Instant::now();
        let status = Command::new("kill").arg(pid.to_string()).status().await?;
        anyhow::ensure!(status.success(), "kill failed");
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("it does not end")??;
        anyhow::ensure!(status.success(), "it ended with {status}");
        Ok(began.elapsed())
    }
}
