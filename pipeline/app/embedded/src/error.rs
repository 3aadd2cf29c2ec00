//! Why one-machine mode did not come up. The texts say what to do next.

use std::io;
use std::path::{Path, PathBuf};

use crate::fetch::FetchError;

/// Errors of [`crate::Embedded::start`].
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// A server's program could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Another process runs on the same data directory.
    #[error(
        "the data directory {path} is in use by process {pid}; stop that one, or give this one a directory of its own"
    )]
    InUse { path: PathBuf, pid: i32 },
    /// The servers of a process that died hold on to the data directory and do not end.
    #[error(
        "the data directory {path} is still held by servers that an earlier process left; \
         find them with `fuser {path}/lock`, end them, and start again"
    )]
    StillHeld { path: PathBuf },
    /// Files of the data directory cannot be read or written.
    #[error("cannot use {path} for the embedded servers (is it yours, and writable?)")]
    Files { path: PathBuf, source: io::Error },
    /// The servers' configuration files can only name paths that are UTF-8.
    #[error("the path {path} is not UTF-8; choose another data directory")]
    NotUtf8 { path: PathBuf },
    /// A port that was asked for is taken.
    #[error("port {port} for {server} is in use by another program; free it, or choose another port")]
    PortInUse { server: &'static str, port: u16 },
    /// A server ended instead of coming up, or did not answer in time.
    #[error("{server} did not start: {reason}; its log is {log}{said}")]
    DidNotStart {
        server: &'static str,
        reason: String,
        log: PathBuf,
        /// The last lines of what it said, after a line break; or empty.
        said: String,
    },
    /// Our own task ended early, which only a panic or the end of the runtime can do.
    #[error("starting was cut off")]
    CutOff(#[from] tokio::task::JoinError),
}

/// Adds the path to an error of the file system.
pub(crate) fn files_error(path: &Path) -> impl Fn(io::Error) -> EmbeddedError {
    move |source| EmbeddedError::Files { path: path.to_owned(), source }
}
