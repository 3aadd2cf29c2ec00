//! ClickHouse as a supervised process: the parent's side of [`crate::clickhouse_child`].
//!
//! Guarantee: it is ours that answers. ClickHouse goes on without a word when its port is taken, so the server is
//! configured to answer with its name at a path of its own, and only that name counts as an answer.
//!
//! After a crash: MergeTree tables recover by themselves; an insert that was cut off is either whole or absent.

use std::fs::{self, File};
use std::io::{self, PipeReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::data_dir::DataDir;
use crate::error::{EmbeddedError, files_error};
use crate::options::{ChildProgram, ClickHouseOptions};
use crate::supervise::{Answer, Program, Running};

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
        };
        fs::write(&clickhouse.config, clickhouse.configuration(options)).map_err(files_error(&clickhouse.config))?;
        Ok(clickhouse)
    }

    /// Caches are a small part of the memory bound: what is read here was mostly written a moment ago and is in the
    /// system's page cache. `tcp_port` 0 is any free port: it cannot be turned off, and 9000 is often taken.
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
{extra}
</clickhouse>
",
            port = self.port,
            memory = options.max_memory_bytes,
            cache = options.max_memory_bytes / 32,
            log = escaped(&self.log),
            errors = escaped(&self.data_dir.path("logs/clickhouse.errors.log")),
            name = self.name,
            extra = options.extra_config,
        )
    }
}

impl Program for ClickHouse {
    const NAME: &'static str = "ClickHouse";

    fn port(&self) -> u16 {
        self.port
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn logs(&self) -> [&Path; 2] {
        [&self.log, &self.stderr]
    }

    fn command(&self, leash: PipeReader) -> io::Result<Command> {
        let data = self.data_dir.path("clickhouse");
        let mut command = Command::new(&self.child.program);
        command.args(&self.child.args).arg(&self.library).arg(&self.config).arg(&data);
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

/// A path as XML text.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
