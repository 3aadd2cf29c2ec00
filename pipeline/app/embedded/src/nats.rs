//! nats-server as a supervised process.
//!
//! Guarantee: it does not outlive us. It is started by a two-line shell script that first leaves a watcher behind and
//! then becomes nats-server (`exec`: same process id). The watcher reads from the leash (see [`crate::supervise`]): a
//! word means that we have seen the server's end and nothing is to be done; the end of the pipe without a word means
//! that we died, and it kills the server with SIGKILL. A shell is on every Unix, and there is no moment between start
//! and watching, which setting a death signal or a process id kept elsewhere would leave.
//!
//! It asks every client for a login, which is made at every start: any program and any user of the machine can reach the
//! port. The configuration that holds it is for its owner only.
//!
//! SIGKILL costs nothing here: JetStream has written what it acknowledged. After a crash the server recovers its
//! streams from the store directory; clients reconnect to the same port.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, PipeReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chasqui_settings::ServerUrl;
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::data_dir::DataDir;
use crate::environment;
use crate::error::{EmbeddedError, files_error};
use crate::options::{NatsOptions, SyncInterval};
use crate::owner::write_private;
use crate::supervise::{Answer, Program, Running};

/// Standard input is the leash, standard output the lock of the data directory: the server keeps the lock as its
/// standard input (it reads nothing), the watcher must not keep it.
const SCRIPT: &str = "exec 3<&0
{ read -r _ || kill -KILL $$; } <&3 3<&- >/dev/null 2>&1 &
exec 3<&- <&1 >&2 \"$@\"";

/// Who logs in.
const USER: &str = "chasqui";
/// The server speaks first, at once.
const ASK_BOUND: Duration = Duration::from_secs(2);
/// The longest first line that is read, bytes; it is about 400.
const INFO_LIMIT: u64 = 16 << 10;

#[derive(Debug)]
pub(crate) struct Nats {
    binary: PathBuf,
    data_dir: Arc<DataDir>,
    config: PathBuf,
    log: PathBuf,
    stderr: PathBuf,
    port: u16,
    /// Tells our server from any other that may have taken the port.
    name: String,
    /// The password of the user [`USER`], if it asks for one.
    password: Option<String>,
    memory_limit_bytes: Option<u64>,
}

impl Nats {
    /// Writes the configuration for `port`.
    pub(crate) fn new(
        binary: PathBuf,
        options: &NatsOptions,
        data_dir: Arc<DataDir>,
        name: String,
        port: u16,
    ) -> Result<Self, EmbeddedError> {
        let nats = Self {
            binary,
            config: data_dir.path("nats.conf"),
            log: data_dir.path("logs/nats.log"),
            stderr: data_dir.path("logs/nats.stderr"),
            data_dir,
            port,
            name,
            password: options.login.then(crate::made_up_secret),
            memory_limit_bytes: options.memory_limit_bytes,
        };
        write_private(&nats.config, &nats.configuration(options)).map_err(files_error(&nats.config))?;
        Ok(nats)
    }

    fn configuration(&self, options: &NatsOptions) -> String {
        let sync = match options.sync_interval {
            SyncInterval::Always => "always".to_owned(),
            SyncInterval::Every(interval) => format!("\"{}s\"", interval.as_secs().max(1)),
        };
        let mut text = format!(
            "# Written at every start; changes are lost.\n\
             server_name: {name}\n\
             listen: \"127.0.0.1:{port}\"\n\
             max_payload: {max_payload}\n\
             log_file: {log}\n\
             logfile_size_limit: 10MB\n\
             logfile_max_num: 3\n\
             jetstream {{\n\
             \x20 store_dir: {store}\n\
             \x20 sync_interval: {sync}\n\
             \x20 max_memory_store: {max_memory}\n\
             \x20 max_file_store: {max_file}\n\
             }}\n",
            name = quoted(&self.name),
            port = self.port,
            max_payload = options.max_payload_bytes,
            log = quoted(&self.log.to_string_lossy()),
            store = quoted(&self.data_dir.path("nats").to_string_lossy()),
            max_memory = options.max_memory_store_bytes,
            max_file = options.max_file_store_bytes,
        );
        // Writing to a String cannot fail.
        if let Some(password) = &self.password {
            let _ = writeln!(text, "authorization {{ users = [ {{ user: {USER}, password: \"{password}\" }} ] }}");
        }
        if let Some(port) = options.monitor_port {
            let _ = writeln!(text, "http: \"127.0.0.1:{port}\"");
        }
        text + &options.extra_config + "\n"
    }
}

impl Program for Nats {
    const NAME: &'static str = "nats-server";

    fn port(&self) -> u16 {
        self.port
    }

    fn address(&self) -> ServerUrl {
        let address = ServerUrl::local("nats", self.port);
        match &self.password {
            Some(password) => address.with_login(USER, password),
            None => address,
        }
    }

    fn logs(&self) -> [&Path; 2] {
        [&self.log, &self.stderr]
    }

    fn command(&self, leash: PipeReader) -> io::Result<Command> {
        let mut command = Command::new("/bin/sh");
        environment::for_a_server(&mut command);
        command.args(["-c", SCRIPT, "sh"]).arg(&self.binary).arg("--config").arg(&self.config);
        command.stdin(leash).stdout(self.data_dir.share_lock()?).stderr(File::create(&self.stderr)?);
        if let Some(bytes) = self.memory_limit_bytes {
            command.env("GOMEMLIMIT", bytes.to_string());
        }
        Ok(command)
    }

    /// The server opens its port after JetStream is up, so its first line says that both are.
    async fn ask(&self) -> Answer {
        let exchange = async {
            let stream = TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port)).await?;
            let mut line = String::new();
            BufReader::new(stream.take(INFO_LIMIT)).read_line(&mut line).await?;
            io::Result::Ok(line)
        };
        let Ok(Ok(line)) = timeout(ASK_BOUND, exchange).await else {
            return Answer::Nothing;
        };
        let info = line.strip_prefix("INFO ").and_then(|info| serde_json::from_str::<Info>(info).ok());
        match info {
            Some(info) if info.server_name == self.name => Answer::Ours,
            Some(_) => Answer::SomeoneElse,
            None if line.is_empty() => Answer::Nothing,
            None => Answer::SomeoneElse,
        }
    }

    fn stop(&self, running: &mut Running) {
        running.signal(Signal::SIGTERM);
    }
}

#[derive(serde::Deserialize)]
struct Info {
    server_name: String,
}

/// A string in nats-server's configuration language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
