//! The data directory and its lock.
//!
//! Layout: `lock`, `nats.conf`, `clickhouse.xml`, `clickhouse-users.xml`, `nats/` and `clickhouse/` (the servers' data),
//! `logs/`. The configurations hold secrets, the data holds recipients' addresses: all of it is for its owner only.
//!
//! Guarantee: one set of servers at a time. The lock is on the open file, and the servers inherit it: after a kill -9 of
//! this process it is held until the last server is really gone, so that a new process cannot start a second server
//! on the same files in the few milliseconds that dying takes. Start after a crash therefore waits for them; with a
//! living holder (the lock file names it) it fails after a second.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::clickhouse_child::STOP_BOUND;
use crate::error::{EmbeddedError, files_error};
use crate::owner::private_dir;

/// The directories in it.
const PARTS: [&str; 3] = ["logs", "nats", "clickhouse"];

/// How long servers may take to end whose process died, before they are reported.
const WAIT_FOR_THE_DYING: Duration = STOP_BOUND.saturating_add(Duration::from_secs(5));
/// How long a holder that seems alive is waited for: a process that was killed seems so until its parent has noticed.
const WAIT_FOR_THE_LIVING: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);

/// A locked data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    lock: File,
}

impl DataDir {
    /// Creates the directory if need be and locks it.
    pub(crate) async fn lock(path: &Path) -> Result<Self, EmbeddedError> {
        private_dir(path, &PARTS).map_err(files_error(path))?;
        for part in PARTS {
            private_dir(&path.join(part), &[]).map_err(files_error(path))?;
        }
        let path = fs::canonicalize(path).map_err(files_error(path))?;
        if path.to_str().is_none() {
            return Err(EmbeddedError::NotUtf8 { path });
        }
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(files_error(&lock_path))?;
        let started = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(e)) => return Err(files_error(&lock_path)(e)),
                Err(TryLockError::WouldBlock) => match holder(&mut lock).map_err(files_error(&lock_path))? {
                    Some(pid) if is_alive(pid) && started.elapsed() > WAIT_FOR_THE_LIVING => {
                        return Err(EmbeddedError::InUse { path, pid: pid.as_raw() });
                    }
                    _ if started.elapsed() > WAIT_FOR_THE_DYING => return Err(EmbeddedError::StillHeld { path }),
                    _ => tokio::time::sleep(POLL).await,
                },
            }
        }
        write_holder(&mut lock, &Pid::this().to_string()).map_err(files_error(&lock_path))?;
        Ok(Self { path, lock })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The lock for a server to inherit.
    pub(crate) fn share_lock(&self) -> io::Result<Stdio> {
        Ok(Stdio::from(self.lock.try_clone()?))
    }

    /// Says that this process is done, although its servers may not be yet: who comes next is to wait for them.
    pub(crate) fn let_go(&self) {
        // If it fails, the next start in this same process, and only that, may be refused instead of waiting.
        let _ = self.lock.set_len(0);
    }
}

/// Who wrote himself into the lock file; none while it is being written or after [`DataDir::let_go`].
fn holder(lock: &mut File) -> io::Result<Option<Pid>> {
    let mut text = String::new();
    lock.rewind()?;
    lock.take(32).read_to_string(&mut text)?;
    Ok(text.trim().parse().ok().map(Pid::from_raw))
}

fn write_holder(lock: &mut File, holder: &str) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(holder.as_bytes())
}

fn is_alive(pid: Pid) -> bool {
    // Signal 0 only asks. A process of another user is alive too, and answers that we may not.
    !matches!(nix::sys::signal::kill(pid, None), Err(nix::Error::ESRCH))
}
