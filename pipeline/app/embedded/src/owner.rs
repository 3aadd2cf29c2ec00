//! Files and directories that are ours alone.
//!
//! Guarantee: what is used here belongs to the user who runs us, and nobody else may change it; secrets and data cannot be
//! read by others either. So another user of the machine, or a directory that came with somebody's files, can neither
//! give us a program to run nor data to serve.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::unistd::Uid;

/// Write permission of the group or of everybody.
const OTHERS_WRITE: u32 = 0o022;
/// Any permission of the group or of everybody.
const OTHERS: u32 = 0o077;

/// Makes the directory, or takes it over where it is ours, so that only its owner reads it. One that others may read and
/// that has one of `parts` in it was not made by us.
pub(crate) fn private_dir(path: &Path, parts: &[&str]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let metadata = fs::metadata(path)?;
    is_ours(&metadata, false)?;
    if metadata.mode() & OTHERS != 0 {
        if parts.iter().any(|part| path.join(part).exists()) {
            return Err(refused("others may read what is in it; if it is yours, run `chmod 700` on it"));
        }
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Refuses what another user owns or may write to. `or_root`: the system's administrator may own it.
pub(crate) fn is_ours(metadata: &fs::Metadata, or_root: bool) -> io::Result<()> {
    let owner = metadata.uid();
    if owner != Uid::effective().as_raw() && !(or_root && owner == 0) {
        return Err(refused("another user owns it"));
    }
    if metadata.mode() & OTHERS_WRITE != 0 {
        return Err(refused("other users may write to it; if it is yours, run `chmod go-w` on it"));
    }
    Ok(())
}

/// Writes a file that only its owner can read.
///
/// # Errors
/// What the file system says.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    // Rights are given to new files only, and whoever has the old one open reads on in the old one.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// Reads a file that [`write_private`] wrote.
///
/// # Errors
/// What the file system says; and a refusal where another user owns it or may read it, because it was not written by us.
pub fn read_private(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    is_ours(&metadata, false)?;
    if metadata.mode() & OTHERS != 0 {
        return Err(refused("others may read it, so it was not written by Chasqui"));
    }
    io::read_to_string(file)
}

fn refused(why: &str) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_written_is_for_the_owner_only_and_what_others_may_touch_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        fs::write(&file, "old and readable").unwrap();
        write_private(&file, "new").unwrap();
        assert_eq!((mode(&file), read_private(&file).unwrap().as_str()), (0o600, "new"));
        // As a checkout of somebody's files would have it.
        for bits in [0o644, 0o602] {
            fs::set_permissions(&file, Permissions::from_mode(bits)).unwrap();
            assert_eq!(read_private(&file).unwrap_err().kind(), ErrorKind::PermissionDenied, "{bits:o}");
        }
    }

    #[test]
    fn a_directory_is_made_private_unless_it_holds_what_others_may_have_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let fresh = dir.path().join("a/b");
        private_dir(&fresh, &["nats"]).unwrap();
        assert_eq!((mode(&fresh), mode(fresh.parent().unwrap())), (0o700, 0o700));

        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        fs::set_permissions(&empty, Permissions::from_mode(0o755)).unwrap();
        private_dir(&empty, &["nats"]).unwrap();
        assert_eq!(mode(&empty), 0o700);

        fs::create_dir(empty.join("nats")).unwrap();
        private_dir(&empty, &["nats"]).unwrap();
        for bits in [0o755, 0o770, 0o702] {
            fs::set_permissions(&empty, Permissions::from_mode(bits)).unwrap();
            assert!(private_dir(&empty, &["nats"]).is_err(), "{bits:o}");
        }
    }
}
