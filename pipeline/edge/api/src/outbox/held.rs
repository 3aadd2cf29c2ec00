//! Submissions that waited in the spool longer than repeats are known: a file each, for a person to decide.
//!
//! Guarantee: a file is on the disk before its record leaves the spool. After a crash in between it is in both; the spool's
//! copy is then held again, in the same file.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use chasqui_spool::SpoolError;
use uuid::Uuid;

use super::Entry;

const EXTENSION: &str = "held";

/// The directory.
#[derive(Debug)]
pub(super) struct Held {
    dir: PathBuf,
}

impl Held {
    pub(super) fn open(dir: &Path) -> Result<Self, SpoolError> {
        let held = Held { dir: dir.to_owned() };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| held.disk(error))?;
        Ok(held)
    }

    pub(super) fn all(&self) -> Result<Vec<Entry>, SpoolError> {
        let mut all = Vec::new();
        for file in fs::read_dir(&self.dir).map_err(|error| self.disk(error))? {
            let path = file.map_err(|error| self.disk(error))?.path();
            if path.extension().is_none_or(|end| end != EXTENSION) {
                continue;
            }
            let bytes = fs::read(&path).map_err(|error| self.disk(error))?;
            match rmp_serde::from_slice(&bytes) {
                Ok(entry) => all.push(entry),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(path = %path.display(), error, "a held submission cannot be read");
                }
            }
        }
        Ok(all)
    }

    pub(super) fn put(&self, entry: &Entry) -> Result<(), SpoolError> {
        let bytes = entry.encode()?;
        let path = self.path(entry.id);
        let whole = path.with_extension("part");
        let written = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&whole)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            fs::rename(&whole, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        written().map_err(|error| self.disk(error))
    }

    pub(super) fn get(&self, id: Uuid) -> Result<Option<Entry>, SpoolError> {
        match fs::read(self.path(id)) {
            Ok(bytes) => Ok(rmp_serde::from_slice(&bytes).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.disk(error)),
        }
    }

    pub(super) fn remove(&self, id: Uuid) -> Result<(), SpoolError> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(self.disk(error)),
            _ => Ok(()),
        }
    }

    fn path(&self, id: Uuid) -> PathBuf {
        self.dir.join(format!("{}.{EXTENSION}", id.simple()))
    }

    fn disk(&self, source: std::io::Error) -> SpoolError {
        SpoolError::Disk { path: self.dir.clone(), source }
    }
}
