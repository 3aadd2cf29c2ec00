//! One-machine mode: a nats-server and a ClickHouse of our own, fetched once, started, kept running, and gone when
//! this process is.
//!
//! ```no_run
//! # async fn example() -> Result<(), chasqui_embedded::EmbeddedError> {
//! use chasqui_embedded::{Embedded, Options};
//!
//! let embedded = Embedded::start(Options::new("data", ".cache/chasqui"), |step| eprintln!("{step}")).await?;
//! println!("{:?} {:?}", embedded.nats_url(), embedded.clickhouse_url());
//! embedded.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Guarantees: programs come only from where the user said, from `PATH`, or verified by a pinned sum
//! ([`locate`], [`fetch`]); a server asks everybody for a secret that is made at every start, is kept from other users, and
//! gets none of our environment; a server that dies comes back with the same address and the same data ([`Server`]); no
//! server outlives this process, even after kill -9; one process at a time uses a data directory.
//!
//! After a crash of this process: start again on the same data directory. It waits until the old servers are gone, and
//! each recovers what it had acknowledged.
//!
//! A program that starts ClickHouse this way is also the program that becomes ClickHouse: its `main` has to call
//! [`run_clickhouse_child`] when its first argument is [`CLICKHOUSE_SUBCOMMAND`], before it starts any thread.

mod archive;
mod clickhouse;
mod clickhouse_child;
mod confine;
mod data_dir;
mod environment;
mod error;
pub mod fetch;
pub mod locate;
mod nats;
mod options;
mod owner;
mod pins;
mod supervise;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

pub use clickhouse_child::{CLICKHOUSE_SUBCOMMAND, become_clickhouse_if_asked, run_clickhouse_child};
pub use error::EmbeddedError;
pub use fetch::FetchError;
pub use options::{ChildProgram, ClickHouseOptions, NatsOptions, Options, SyncInterval};
pub use owner::{read_private, write_private};
pub use supervise::{Server, free_port};

use crate::clickhouse::ClickHouse;
use crate::data_dir::DataDir;
use crate::error::files_error;
use crate::nats::Nats;

/// The servers of one-machine mode. Dropping it kills them; [`Embedded::shutdown`] is the orderly end.
#[derive(Debug)]
pub struct Embedded {
    // Before the lock: fields are dropped in this order.
    nats: Option<Server>,
    clickhouse: Option<Server>,
    data_dir: Arc<DataDir>,
}

impl Embedded {
    /// Fetches what is missing and starts the servers, both at a time; returns when they answer. `progress` gets
    /// a line for the user before each step that takes long. Must be called in a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`EmbeddedError`]; nothing is left running then.
    pub async fn start(
        options: Options,
        progress: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self, EmbeddedError> {
        let progress: Arc<Progress> = Arc::new(progress);
        let data_dir = Arc::new(DataDir::lock(&options.data_dir).await?);
        // Made before the servers, so that its drop says that we are done with the directory if one of them fails.
        let mut embedded = Self { nats: None, clickhouse: None, data_dir: data_dir.clone() };
        let cache_dir = &options.cache_dir;
        let nats = async {
            match options.nats {
                Some(nats) => start_nats(nats, cache_dir.clone(), &data_dir, progress.clone()).await.map(Some),
                None => Ok(None),
            }
        };
        let clickhouse = async {
            match options.clickhouse {
                Some(clickhouse) => {
                    start_clickhouse(clickhouse, cache_dir.clone(), &data_dir, progress.clone()).await.map(Some)
                }
                None => Ok(None),
            }
        };
        (embedded.nats, embedded.clickhouse) = tokio::try_join!(nats, clickhouse)?;
        Ok(embedded)
    }

    /// The nats-server, if the options asked for one.
    pub fn nats(&self) -> Option<&Server> {
        self.nats.as_ref()
    }

    /// The ClickHouse, if the options asked for one.
    pub fn clickhouse(&self) -> Option<&Server> {
        self.clickhouse.as_ref()
    }

    /// `nats://127.0.0.1:port`
    pub fn nats_url(&self) -> Option<&str> {
        self.nats.as_ref().map(Server::url)
    }

    /// `http://127.0.0.1:port`
    pub fn clickhouse_url(&self) -> Option<&str> {
        self.clickhouse.as_ref().map(Server::url)
    }

    /// Stops the servers in order, both at a time; returns when they are gone, at the latest a little after 10 s.
    pub async fn shutdown(mut self) {
        let (nats, clickhouse) = (self.nats.take(), self.clickhouse.take());
        let stop = |server: Option<Server>| async {
            if let Some(server) = server {
                server.stop().await;
            }
        };
        tokio::join!(stop(nats), stop(clickhouse));
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.data_dir.let_go();
    }
}

type Progress = dyn Fn(&str) + Send + Sync;

async fn start_nats(
    options: NatsOptions,
    cache_dir: PathBuf,
    data_dir: &Arc<DataDir>,
    progress: Arc<Progress>,
) -> Result<Server, EmbeddedError> {
    let named = options.binary.clone();
    let binary =
        tokio::task::spawn_blocking(move || locate::nats_server(&cache_dir, named.as_deref(), &*progress)).await??;
    // The server does not run where we do.
    let binary = std::path::absolute(&binary).map_err(files_error(&binary))?;
    let name = instance_name();
    Server::start(options.port, |port| Nats::new(binary.clone(), &options, data_dir.clone(), name.clone(), port)).await
}

async fn start_clickhouse(
    options: ClickHouseOptions,
    cache_dir: PathBuf,
    data_dir: &Arc<DataDir>,
    progress: Arc<Progress>,
) -> Result<Server, EmbeddedError> {
    let named = options.libchdb.clone();
    let library =
        tokio::task::spawn_blocking(move || locate::libchdb(&cache_dir, named.as_deref(), &*progress)).await??;
    let library = std::path::absolute(&library).map_err(files_error(&library))?;
    let child = match &options.child {
        Some(child) => child.clone(),
        None => ChildProgram::this_executable().map_err(files_error("the current executable".as_ref()))?,
    };
    let name = instance_name();
    Server::start(options.port, |port| {
        ClickHouse::new(library.clone(), child.clone(), &options, data_dir.clone(), name.clone(), port)
    })
    .await
}

/// 122 random bits, as text that needs no quotes anywhere.
pub fn made_up_secret() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// A name that no other server on this machine has.
fn instance_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("chasqui-{}-{nanos:x}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
