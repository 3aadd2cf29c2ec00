//! The options of one-machine mode.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::clickhouse_child::CLICKHOUSE_SUBCOMMAND;

/// Everything [`crate::Embedded::start`] needs. A part that is `None` is not started: the user has a server for it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Data, configuration and logs of the servers. Locked while they run; created (mode 0700) if absent.
    pub data_dir: PathBuf,
    /// Where fetched programs are kept; may be shared by any number of processes and data directories. Without the
    /// ClickHouse library it stays below 20 MB, with it 600 MB.
    pub cache_dir: PathBuf,
    pub nats: Option<NatsOptions>,
    pub clickhouse: Option<ClickHouseOptions>,
}

impl Options {
    /// Both servers with their defaults.
    pub fn new(data_dir: impl Into<PathBuf>, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            cache_dir: cache_dir.into(),
            nats: Some(NatsOptions::default()),
            clickhouse: Some(ClickHouseOptions::default()),
        }
    }
}

/// When JetStream's files are forced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncInterval {
    /// Before every acknowledgement: what was acknowledged outlives power loss.
    Always,
    /// From time to time: what was acknowledged outlives the death of processes, but power loss may take the last
    /// interval's messages. Whole seconds, at least one.
    Every(Duration),
}

/// The embedded nats-server. It listens on 127.0.0.1 only.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// The server to run (`embedded.nats_server`); else one on `PATH`, else the pinned one.
    pub binary: Option<PathBuf>,
    /// The port; a free one if none.
    pub port: Option<u16>,
    /// Port of the HTTP monitoring pages; none are served without it.
    pub monitor_port: Option<u16>,
    pub sync_interval: SyncInterval,
    /// The largest message, bytes.
    pub max_payload_bytes: u64,
    /// Bound of JetStream's files, bytes. Always set: the server's own choice, three quarters of the free disk, would
    /// decide by the machine whether the streams fit.
    pub max_file_store_bytes: u64,
    /// Bound of JetStream's memory streams, bytes.
    pub max_memory_store_bytes: u64,
    /// Soft bound of the process's memory, bytes (`GOMEMLIMIT`): near it, it collects garbage harder.
    pub memory_limit_bytes: Option<u64>,
    /// Whether it asks for a login, which is made at every start ([`crate::Server::address`] has it). Off only where
    /// `extra_config` names users.
    pub login: bool,
    /// More configuration in nats-server's own language, appended as it is: accounts, users, permissions.
    pub extra_config: String,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            binary: None,
            port: None,
            monitor_port: None,
            sync_interval: SyncInterval::Always,
            max_payload_bytes: 2 << 20,
            max_file_store_bytes: 32 << 30,
            max_memory_store_bytes: 256 << 20,
            memory_limit_bytes: None,
            login: true,
            extra_config: String::new(),
        }
    }
}

/// The embedded ClickHouse. It listens on 127.0.0.1 only, and knows one user, whose password is made at every start.
#[derive(Debug, Clone)]
pub struct ClickHouseOptions {
    /// The library to load (`embedded.libchdb`); else the pinned one.
    pub libchdb: Option<PathBuf>,
    /// The program that becomes the server process; the current executable if none.
    pub child: Option<ChildProgram>,
    /// The HTTP port; a free one if none.
    pub port: Option<u16>,
    /// Bound of the server's memory, bytes; queries that would pass it fail.
    pub max_memory_bytes: u64,
    /// The database that the user may do with as it likes.
    pub database: String,
    /// Whether the system keeps it from all files but its own, and from the network (`confine`). Off only for tests
    /// of several servers that ask each other.
    pub confined: bool,
    /// More configuration, XML elements for inside `<clickhouse>`, as they are.
    pub extra_config: String,
    /// More users, profiles and quotas: a whole document of ClickHouse's, laid over our own. Empty where there is none.
    pub extra_users: String,
}

impl Default for ClickHouseOptions {
    fn default() -> Self {
        Self {
            libchdb: None,
            child: None,
            port: None,
            max_memory_bytes: 2 << 30,
            database: "chasqui".into(),
            confined: true,
            extra_config: String::new(),
            extra_users: String::new(),
        }
    }
}

/// A program that calls [`crate::run_clickhouse_child`] with the arguments that follow `args`.
#[derive(Debug, Clone)]
pub struct ChildProgram {
    pub program: PathBuf,
    /// What precedes the child's own arguments.
    pub args: Vec<OsString>,
}

impl ChildProgram {
    /// The current executable with the hidden subcommand [`CLICKHOUSE_SUBCOMMAND`].
    ///
    /// # Errors
    /// If the system does not know the path of the current executable.
    pub fn this_executable() -> std::io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, args: vec![CLICKHOUSE_SUBCOMMAND.into()] })
    }
}
