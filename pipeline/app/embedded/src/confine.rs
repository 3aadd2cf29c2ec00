//! Where the ClickHouse process may go: into its own data, and nowhere else.
//!
//! The library takes itself for a tool that its user runs, and so lets SQL read any file (`SELECT file('/etc/passwd')` asks
//! for no right at all). Grants keep most of that from its users; this keeps the rest from the whole process.
//!
//! Guarantee: on a Linux with Landlock (5.13; for the network 6.7) the process and its threads open no file but those named
//! here, listen on one port, and connect to nobody, whatever a query says. Elsewhere only the grants hold, and the log says so. Nothing of it
//! outlives the process.

use std::io;
use std::path::Path;

/// What a program needs of its system: its libraries, the time zone, what the kernel tells of the machine and of this
/// process. The rest of `/proc` has the environments of this user's other processes.
#[cfg(target_os = "linux")]
const SYSTEM: [&str; 17] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/sys",
    "/proc/self",
    "/proc/sys",
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/uptime",
    "/proc/vmstat",
];
#[cfg(target_os = "linux")]
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// Confines this thread, and all that it will start, to reading `read` and what any program needs, and to writing in
/// `write`, and to listening on `port`. Answers whether the system enforces it.
#[cfg(target_os = "linux")]
pub(crate) fn confine(read: &[&Path], write: &[&Path], port: u16) -> io::Result<bool> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
        path_beneath_rules,
    };

    // The first version that knows the network. An older kernel enforces what it knows.
    let (reading, all) = (AccessFs::from_read(ABI::V4), AccessFs::from_all(ABI::V4));
    let confined = || {
        Ruleset::default()
            .handle_access(all)?
            .handle_access(AccessNet::ConnectTcp | AccessNet::BindTcp)?
            .create()?
            .add_rule(NetPort::new(port, AccessNet::BindTcp))?
            .add_rules(path_beneath_rules(SYSTEM, reading))?
            .add_rules(path_beneath_rules(DEVICES, reading | AccessFs::WriteFile))?
            .add_rules(path_beneath_rules(read, reading))?
            .add_rules(path_beneath_rules(write, all))?
            .restrict_self()
    };
    let status: Result<_, landlock::RulesetError> = confined();
    Ok(status.map_err(io::Error::other)?.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn confine(_read: &[&Path], _write: &[&Path], _port: u16) -> io::Result<bool> {
    Ok(false)
}
