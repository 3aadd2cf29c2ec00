//! What a child process gets of our environment.
//!
//! Guarantee: only what is named here. Settings take secrets from environment variables, and a server that somebody talks
//! into showing its environment has none of them to show.

use std::process::Command;

/// What any program may need: where programs, temporary files and its own settings are, the language, the time zone.
const FOR_ALL: [&str; 8] = ["PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "USER"];

/// What the package clients need besides: mirrors, proxies, authorities, their own settings, and where they are installed.
const FOR_PACKAGE_CLIENTS: [&str; 8] = [
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "NETRC",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
];
const PREFIXES_FOR_PACKAGE_CLIENTS: [&str; 6] = ["PIP_", "NPM_CONFIG_", "PYENV_", "PYTHON", "NVM_", "XDG_"];

/// Leaves the command what a server needs.
pub(crate) fn for_a_server(command: &mut Command) {
    keep(command, |name| FOR_ALL.contains(&name));
}

/// Leaves the command what pip and npm need.
pub(crate) fn for_a_package_client(command: &mut Command) {
    keep(command, |name| {
        let upper = name.to_uppercase();
        FOR_ALL.contains(&name)
            || FOR_PACKAGE_CLIENTS.contains(&name)
            || upper.ends_with("_PROXY")
            || PREFIXES_FOR_PACKAGE_CLIENTS.iter().any(|prefix| upper.starts_with(prefix))
    });
}

fn keep(command: &mut Command, wanted: impl Fn(&str) -> bool) {
    command.env_clear();
    command.envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(&wanted)));
}
