//! ClickHouse as a supervised process: the parent's side of [`crate::clickhouse_child`].
//!
//! Guarantee: it is ours that answers. ClickHouse goes on without a word when its port is taken, so the server is
//! configured to answer with its name at a path of its own, and only that name counts as an answer.
//!
//! It asks for a password that is made at every start: any program, any user of the machine, and any web page that a browser
//! here shows can reach the port. The one user has the rights that Chasqui needs in its database, and none to read files or
//! addresses; [`crate::confine`] keeps the process from both besides. The library's own session is the user `default`, who
//! can have no password; it is the one session that `default` may have, and it begins before the port is open.
//!
//! After a crash: MergeTree tables recover by themselves; an insert that was cut off is either whole or absent.

use std::fs::{self, File};
use std::io::{self, PipeReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chasqui_settings::ServerUrl;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::clickhouse_child;
use crate::data_dir::DataDir;
use crate::environment;
use crate::error::{EmbeddedError, files_error};
use crate::options::{ChildProgram, ClickHouseOptions};
use crate::owner::{private_dir, write_private};
use crate::supervise::{Answer, Program, Running};

/// Who logs in.
const USER: &str = "chasqui";
/// The path at which the server answers with its name.
const NAME_PATH: &str = "/chasqui-instance";
const ASK_BOUND: Duration = Duration::from_secs(2);
/// The longest answer that is read, bytes; it is about 500.
const ANSWER_LIMIT: u64 = 16 << 10;

#[derive(Debug)]
pub(crate) struct ClickHouse {
    library: PathBuf,
    child: ChildProgram,
    data_dir: Arc<DataDir>,
    config: PathBuf,
    log: PathBuf,
    stderr: PathBuf,
    port: u16,
    name: String,
    password: String,
    confined: bool,
}

impl ClickHouse {
    /// Writes the configuration for `port`.
    pub(crate) fn new(
        library: PathBuf,
        child: ChildProgram,
        options: &ClickHouseOptions,
        data_dir: Arc<DataDir>,
        name: String,
        port: u16,
    ) -> Result<Self, EmbeddedError> {
        let clickhouse = Self {
            library,
            child,
            config: data_dir.path("clickhouse.xml"),
            log: data_dir.path("logs/clickhouse.log"),
            stderr: data_dir.path("logs/clickhouse.stderr"),
            data_dir,
            port,
            name,
            password: crate::made_up_secret(),
            confined: options.confined,
        };
        let (users, more) = (clickhouse.users_file(), clickhouse.data_dir.path("clickhouse-users.d"));
        let write = |path: &Path, text: &str| write_private(path, text).map_err(files_error(path));
        write(&clickhouse.config, &clickhouse.configuration(options))?;
        write(&users, &clickhouse.users(options))?;
        // ClickHouse lays what it finds there over the file of that name.
        private_dir(&more, &[]).map_err(files_error(&more))?;
        let more = more.join("more.xml");
        match options.extra_users.is_empty() {
            true => _ = fs::remove_file(more),
            false => write(&more, &options.extra_users)?,
        }
        Ok(clickhouse)
    }

    fn users_file(&self) -> PathBuf {
        self.data_dir.path("clickhouse-users.xml")
    }

    /// The rights are those of the writer in `compose.yaml`.
    fn users(&self, options: &ClickHouseOptions) -> String {
        let database = escaped(&options.database.replace('\\', "\\\\").replace('`', "\\`"));
        format!(
            "<!-- Written at every start; changes are lost. -->
<clickhouse>
  <profiles>
    <default/>
    <holder>
      <max_sessions_for_user>1</max_sessions_for_user>
      <max_concurrent_queries_for_user>1</max_concurrent_queries_for_user>
    </holder>
  </profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <no_password/>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>holder</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
        <query>GRANT CREATE TEMPORARY TABLE ON *.*</query>
        <query>GRANT READ ON FILE</query>
      </grants>
    </default>
    <{USER}>
      <password_sha256_hex>{sum:x}</password_sha256_hex>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW ON `{database}`.*</query>
        <query>GRANT TABLE ENGINE ON ReplacingMergeTree</query>
        <query>GRANT TABLE ENGINE ON AggregatingMergeTree</query>
      </grants>
    </{USER}>
  </users>
</clickhouse>
",
            sum = Sha256::digest(&self.password),
        )
    }

    /// Caches are a small part of the memory bound: what is read here was mostly written a moment ago and is in the
    /// system's page cache. The native port opens only where other servers ask this one, and is any free one then.
    fn configuration(&self, options: &ClickHouseOptions) -> String {
        format!(
            "<!-- Written at every start; changes are lost. -->
<clickhouse>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{port}</http_port>
  <tcp_port>0</tcp_port>
  <max_server_memory_usage>{memory}</max_server_memory_usage>
  <mark_cache_size>{cache}</mark_cache_size>
  <index_mark_cache_size>{cache}</index_mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <index_uncompressed_cache_size>0</index_uncompressed_cache_size>
  <compiled_expression_cache_size>16777216</compiled_expression_cache_size>
  <max_concurrent_queries>100</max_concurrent_queries>
  <users_config>{users}</users_config>
  <access_control_improvements>
    <table_engines_require_grant>true</table_engines_require_grant>
  </access_control_improvements>
  <logger>
    <level>information</level>
    <log>{log}</log>
    <errorlog>{errors}</errorlog>
    <size>10M</size>
    <count>2</count>
  </logger>
  <http_handlers>
    <rule>
      <url>{NAME_PATH}</url>
      <handler><type>static</type><response_content>{name}</response_content></handler>
    </rule>
    <defaults/>
  </http_handlers>
{allowed_hosts}
{extra}
</clickhouse>
",
            port = self.port,
            memory = options.max_memory_bytes,
            cache = options.max_memory_bytes / 32,
            users = escaped(&self.users_file().to_string_lossy()),
            log = escaped(&self.log.to_string_lossy()),
            errors = escaped(&self.data_dir.path("logs/clickhouse.errors.log").to_string_lossy()),
            name = self.name,
            // An element without content allows none.
            allowed_hosts = if self.confined { "  <remote_url_allow_hosts/>" } else { "" },
            extra = options.extra_config,
        )
    }
}

impl Program for ClickHouse {
    const NAME: &'static str = "ClickHouse";

    fn port(&self) -> u16 {
        self.port
    }

    fn address(&self) -> ServerUrl {
        ServerUrl::local("http", self.port).with_login(USER, &self.password)
    }

    fn logs(&self) -> [&Path; 2] {
        [&self.log, &self.stderr]
    }

    fn command(&self, leash: PipeReader) -> io::Result<Command> {
        let data = self.data_dir.path("clickhouse");
        let mut command = Command::new(&self.child.program);
        environment::for_a_server(&mut command);
        command.args(&self.child.args).arg(&self.library).arg(&self.config).arg(&data);
        match self.confined {
            true => command.arg(self.port.to_string()),
            false => command.arg(clickhouse_child::UNCONFINED),
        };
        command.current_dir(&data);
        command.stdin(leash).stdout(self.data_dir.share_lock()?).stderr(File::create(&self.stderr)?);
        Ok(command)
    }

    async fn ask(&self) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port)).await?;
            let request = format!("GET {NAME_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(ANSWER_LIMIT).read_to_end(&mut answer).await?;
            io::Result::Ok(answer)
        };
        match timeout(ASK_BOUND, exchange).await {
            Ok(Ok(answer)) if answer.is_empty() => Answer::Nothing,
            Ok(Ok(answer)) if answer.windows(self.name.len()).any(|part| part == self.name.as_bytes()) => Answer::Ours,
            Ok(Ok(_)) => Answer::SomeoneElse,
            Ok(Err(_)) | Err(_) => Answer::Nothing,
        }
    }

    fn stop(&self, running: &mut Running) {
        running.let_go();
    }
}

/// As XML text.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
