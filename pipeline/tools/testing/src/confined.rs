//! An installation whose producers its operator does not own: nats-server has the accounts that `chasqui apps nats-config`
//! writes, and every process connects by a key of its own.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use chasqui_embedded::NatsOptions;
use chasqui_schemas::permission::Role;
use tokio::process::Command;

use crate::{
    install::{TestInstall, Worker, connect},
    servers::{built, without_login},
};

/// nats-server's configuration stands in `data`, and what it includes is sought from there.
const ACCOUNTS: &str = "accounts.conf";

impl TestInstall {
    /// Starts servers and creates streams and tables. Each of `apps` has a key of the app's name, and settings of its own,
    /// as TOML in one line or several. Commands run with the operator's key.
    ///
    /// # Errors
    /// What keeps them from starting.
    pub async fn start_confined(settings: &str, apps: &[(&str, &str)]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut text = format!("{settings}\n[nats.keys]\n");
        for role in Role::ALL {
            let key = make_key(dir.path(), role.as_str()).await?;
            text += &format!("{role} = ['{key}']\n");
        }
        for (app, more) in apps {
            let key = make_key(dir.path(), app).await?;
            text += &format!("[apps.{app}]\nnats_keys = ['{key}']\n{more}\n");
        }
        write_accounts(dir.path(), &text).await?;
        let nats = NatsOptions { extra_config: format!("accounts {{ include \"../{ACCOUNTS}\" }}"), ..without_login() };
        let operator = seed(dir.path(), Role::Operator.as_str());
        Self::open(dir, &text, nats, "", Some(operator)).await
    }

    /// A connection with the key that is called `name`, as a process of ours has one.
    ///
    /// # Errors
    /// The server lets it not in.
    pub async fn connect_as(&self, name: &str) -> anyhow::Result<async_nats::Client> {
        connect(self.servers.nats_url().context("no NATS")?, Some(&seed(self.dir.path(), name))).await
    }

    /// The seed of the key that is called `name`, as a producer has it.
    ///
    /// # Errors
    /// There is none.
    pub fn seed_of(&self, name: &str) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(seed(self.dir.path(), name))?.trim().to_owned())
    }

    /// Starts a worker process with the key of `role`.
    ///
    /// # Errors
    /// Fails where the process cannot be started.
    pub fn worker_as(&self, role: Role, stages: &str, variables: &[(&str, &str)]) -> anyhow::Result<Worker> {
        let seed = seed(self.dir.path(), role.as_str());
        let seed = ("CHASQUI_NATS__NKEY__FILE", seed.to_str().context("a path that is no text")?);
        self.worker_with(stages, &[&[seed], variables].concat())
    }

    /// Makes a key, called `name`; returns its public part.
    ///
    /// # Errors
    /// The command fails.
    pub async fn make_key(&self, name: &str) -> anyhow::Result<String> {
        make_key(self.dir.path(), name).await
    }

    /// Writes the accounts anew for these settings, and lets nats-server read them, as an operator does.
    ///
    /// # Errors
    /// The command fails, or the server does not take them.
    pub async fn change_accounts(&self, settings: &str) -> anyhow::Result<()> {
        write_accounts(self.dir.path(), settings).await?;
        let server = self.servers.nats().context("no NATS")?;
        let before = self.log()?.matches("Reloaded server configuration").count();
        let pid = server.pid().context("nats-server does not run")?.to_string();
        let signalled = Command::new("kill").args(["-HUP", &pid]).status().await?;
        anyhow::ensure!(signalled.success(), "kill failed");
        let reloaded = async {
            while self.log().unwrap_or_default().matches("Reloaded server configuration").count() == before {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(crate::install::PATIENCE, reloaded).await.context("nats-server does not reload")
    }

    /// The settings that the processes run with.
    ///
    /// # Errors
    /// The file is gone.
    pub fn settings(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(&self.settings)?)
    }

    /// What nats-server refused, line by line.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn refused(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.log()?.lines().filter(|line| line.contains("Violation")).map(str::to_owned).collect())
    }

    fn log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.servers.nats().context("no NATS")?.log())?)
    }
}

fn seed(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.nk"))
}

async fn make_key(dir: &Path, name: &str) -> anyhow::Result<String> {
    Ok(chasqui(&["apps", "nats-key", &seed(dir, name).to_string_lossy()]).await?.trim().to_owned())
}

async fn write_accounts(dir: &Path, settings: &str) -> anyhow::Result<()> {
    let path = dir.join("accounts.toml");
    std::fs::write(&path, settings)?;
    let out = dir.join(ACCOUNTS);
    chasqui(&["--config", &path.to_string_lossy(), "apps", "nats-config", "--out", &out.to_string_lossy()]).await?;
    Ok(())
}

/// Runs a command that needs no server.
async fn chasqui(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(built("chasqui")).args(args).output().await?;
    if !output.status.success() {
        bail!("chasqui {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
