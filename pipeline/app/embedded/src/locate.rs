//! Which nats-server and which ClickHouse library to run.
//!
//! Order: the file named in the options; for nats-server, one on `PATH` of at least [`MIN_NATS_VERSION`]; then the
//! cache; and last the network ([`crate::fetch`]).
//!
//! Guarantee: a nats-server that is returned has said its version and it is new enough. Nothing here outlives a
//! crash but what the cache holds.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::environment;
use crate::fetch::{Clients, Fetch, FetchError, Which, run_bounded};
use crate::pins::{Pins, this_platform};

/// The oldest nats-server that has what Chasqui uses (message schedules, atomic batch publishing).
pub const MIN_NATS_VERSION: (u32, u32) = (2, 14);

/// `nats-server --version` answers in milliseconds, even from a cold disk.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// A nats-server to run: the named one, one on `PATH`, or the pinned one. Blocks; `progress` gets a line for each step that takes time.
///
/// # Errors
/// [`FetchError`]; its text says what to do.
pub fn nats_server(cache_dir: &Path, named: Option<&Path>, progress: &dyn Fn(&str)) -> Result<PathBuf, FetchError> {
    if let Some(path) = named {
        return match nats_version(path) {
            Ok(version) if version >= MIN_NATS_VERSION => Ok(path.to_owned()),
            Ok((major, minor)) => {
                let (least_major, least_minor) = MIN_NATS_VERSION;
                Err(format!("it is {major}.{minor}, and {least_major}.{least_minor} or later is needed"))
            }
            Err(reason) => Err(reason),
        }
        .map_err(|reason| Which::NatsServer.unusable(path, reason));
    }
    if let Some(found) = nats_on_path(std::env::var_os("PATH").as_deref(), progress) {
        return Ok(found);
    }
    let artefact = Pins::load()?.nats_server;
    Fetch { which: Which::NatsServer, artefact, cache_dir, clients: &Clients::default(), progress }
        .run(&this_platform())
}

/// The ClickHouse library to load: the named one or the pinned one. Blocks; `progress` gets a line for each step that takes time.
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
        .map_err(|reason| Which::Libchdb.unusable(path, reason));
    }
    let artefact = Pins::load()?.libchdb;
    Fetch { which: Which::Libchdb, artefact, cache_dir, clients: &Clients::default(), progress }.run(&this_platform())
}

/// The first nats-server on `path`, unless it is too old. A part of `path` that depends on where we stand is left out: what
/// lies there may be anybody's.
fn nats_on_path(path: Option<&OsStr>, progress: &dyn Fn(&str)) -> Option<PathBuf> {
    let dirs = std::env::split_paths(path?).filter(|dir| dir.is_absolute());
    let found = dirs.map(|dir| dir.join("nats-server")).find(|file| file.is_file())?;
    match nats_version(&found) {
        Ok(version) if version >= MIN_NATS_VERSION => return Some(found),
        Ok((major, minor)) => {
            progress(&format!("{} is {major}.{minor}, which is too old: using the pinned one", found.display()));
        }
        Err(reason) => progress(&format!("{} does not run ({reason}): using the pinned one", found.display())),
    }
    None
}

/// Asks a binary for its version; it answers `nats-server: v2.15.1`.
fn nats_version(binary: &Path) -> Result<(u32, u32), String> {
    let (answer, stdout) = io::pipe().map_err(|e| e.to_string())?;
    let mut command = Command::new(binary);
    environment::for_a_server(&mut command);
    command.arg("--version").stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null());
    run_bounded(&mut command, VERSION_TIMEOUT)?;
    // Our own copy of the writing end, without which the reading end would never end.
    drop(command);
    let mut text = String::new();
    answer.take(4096).read_to_string(&mut text).map_err(|e| e.to_string())?;
    let mut numbers = text.trim().rsplit('v').next().unwrap_or_default().split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(format!("to `--version` it answers {:?}", text.trim())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn fake_nats(dir: &Path, answer: &str) -> PathBuf {
        let path = dir.join("nats-server");
        fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn one_on_path_is_used_if_it_is_new_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = fake_nats(dir.path(), "nats-server: v2.14.0");
        assert_eq!(nats_on_path(Some(dir.path().as_os_str()), &|_| ()), Some(path));
        for unfit in ["nats-server: v2.13.9", "what?"] {
            fake_nats(dir.path(), unfit);
            assert_eq!(nats_on_path(Some(dir.path().as_os_str()), &|_| ()), None, "{unfit}");
        }
        assert_eq!(nats_on_path(None, &|_| ()), None);
    }

    #[test]
    fn a_named_one_is_checked_and_the_error_names_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let named = fake_nats(dir.path(), "nats-server: v3.0.1-beta");
        assert_eq!(nats_server(dir.path(), Some(&named), &|_| ()).unwrap(), named);
        fake_nats(dir.path(), "nats-server: v2.9.1");
        let error = nats_server(dir.path(), Some(&named), &|_| ()).unwrap_err().to_string();
        assert!(error.contains("embedded.nats_server") && error.contains("2.14"), "{error}");

        let missing = dir.path().join("missing.so");
        let error = libchdb(dir.path(), Some(&missing), &|_| ()).unwrap_err().to_string();
        assert!(error.contains("embedded.libchdb") && error.contains("missing.so"), "{error}");
    }
}
