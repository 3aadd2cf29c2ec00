//! The spool: messages on disk while NATS does not take them, first in, first out.
//!
//! Guarantee: what [`Spool::append`] has taken is on the disk (fsync) when it returns, all of it or nothing, and comes out
//! of [`Spool::peek`] in order until [`Spool::advance`] says that it is done with. The files together stay below the
//! bound; what does not fit is refused.
//!
//! After a crash: a record that was being written is cut off, its caller never heard that it was taken. Records of the
//! oldest file that had been taken out already come again, because where reading stands is not written down: doing so
//! would cost an fsync each, and a message again is harmless (it has the same id). A damaged file loses the records from
//! the damage on, which is logged.
//!
//! ```text
//! <dir>/lock                      held while in use: two processes would read each other's files
//! <dir>/000000000000001f.spool    records; a new file when one is full, and at every start
//! record = length (u32, little-endian) ‖ CRC-32 of the rest ‖ bytes
//! ```

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A file is full when it has this many bytes.
const FILE_BYTES: u64 = 4 << 20;
/// Bytes that one [`Spool::peek`] reads, unless a record may be longer.
const READ_BYTES: u64 = 512 << 10;
const HEAD_BYTES: usize = 8;
const EXTENSION: &str = "spool";

/// Rights on the directory: what waits here names users and what they opted out of.
const OURS_ALONE: u32 = 0o700;

/// The spool did not take a record, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// There is no room.
    #[error("the spool is full")]
    Full,
    /// Another process uses the directory.
    #[error("{} is in use by another process: give each its own `engagement.spool_dir`", .0.display())]
    InUse(PathBuf),
    /// The disk does not do what it should.
    #[error("the spool in {} cannot be used", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Messages on disk. Its calls block on the disk.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    max_bytes: u64,
    max_record_bytes: usize,
    /// Oldest first; empty ones are gone.
    files: VecDeque<Segment>,
    /// The last of `files`, while it is written to.
    writing: Option<File>,
    /// How far the first of `files` is done with.
    read_to: u64,
    next_number: u64,
    _lock: File,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    /// Bytes of whole records.
    bytes: u64,
}

/// How far a [`Spool::peek`] has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    number: u64,
    offset: u64,
}

impl Spool {
    /// Opens the spool in `dir`, made if it is not there, with what a process before has left. Its files together have at
    /// most `max_bytes`, and a record `max_record_bytes`.
    ///
    /// # Errors
    /// See [`SpoolError`].
    pub fn open(dir: &Path, max_bytes: u64, max_record_bytes: usize) -> Result<Self, SpoolError> {
        let disk = |source| SpoolError::Disk { path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(OURS_ALONE).create(dir).map_err(disk)?;
        // It may have been there before. Where it belongs to another user, its files are still ours alone.
        if let Err(error) = fs::set_permissions(dir, Permissions::from_mode(OURS_ALONE)) {
            tracing::warn!(path = %dir.display(), error = &error as &dyn std::error::Error, "others may list the spool");
        }
        let lock = file().truncate(false).create(true).open(dir.join("lock")).map_err(disk)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SpoolError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(disk(error)),
        }
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir).map_err(disk)? {
            let path = entry.map_err(disk)?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let number = stem.and_then(|stem| u64::from_str_radix(stem, 16).ok());
            if let (Some(number), Some(EXTENSION)) = (number, path.extension().and_then(|end| end.to_str())) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        let mut spool = Spool {
            dir: dir.to_owned(),
            max_bytes,
            max_record_bytes,
            files: VecDeque::new(),
            writing: None,
            read_to: 0,
            next_number: numbers.last().map_or(1, |last| last + 1),
            _lock: lock,
        };
        for number in numbers {
            let bytes = fs::read(spool.path(number)).map_err(disk)?;
            let whole = bytes.len() - records(&bytes, max_record_bytes).rest.len();
            if whole < bytes.len() {
                let path = spool.path(number);
                tracing::warn!(path = %path.display(), whole, found = bytes.len(), "the end of a spool file is unusable");
            }
            spool.files.push_back(Segment { number, bytes: whole as u64 });
        }
        spool.drop_done().map_err(disk)?;
        Ok(spool)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether it is so full that it may refuse what comes.
    pub fn is_full(&self) -> bool {
        self.bytes() + (HEAD_BYTES + self.max_record_bytes) as u64 > self.max_bytes
    }

    /// Writes `records`, all or none, and returns when they are on the disk.
    ///
    /// # Errors
    /// `Full`, and then nothing is written; `Disk`, and then nothing of it comes out, unless a process after this one
    /// finds some of it whole.
    pub fn append(&mut self, records: &[Vec<u8>]) -> Result<(), SpoolError> {
        let mut bytes = Vec::new();
        for record in records {
            let length = u32::try_from(record.len()).ok().filter(|_| record.len() <= self.max_record_bytes);
            let Some(length) = length else { return Err(SpoolError::Full) };
            bytes.extend(length.to_le_bytes());
            bytes.extend(crc32fast::hash(record).to_le_bytes());
            bytes.extend(record);
        }
        if self.bytes() + bytes.len() as u64 > self.max_bytes {
            return Err(SpoolError::Full);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.write(&bytes).map_err(|source| {
            // What is half written is not counted, so it is not read; what follows goes to a new file.
            self.writing = None;
            SpoolError::Disk { path: self.dir.clone(), source }
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let is_full = self.files.back().is_none_or(|file| file.bytes >= FILE_BYTES);
        let mut file = match self.writing.take() {
            Some(file) if !is_full => file,
            _ => {
                let number = self.next_number;
                self.next_number += 1;
                let file = file().create_new(true).append(true).open(self.path(number))?;
                // Without this a power cut may take the file with all that is in it.
                File::open(&self.dir)?.sync_all()?;
                self.files.push_back(Segment { number, bytes: 0 });
                file
            }
        };
        file.write_all(bytes)?;
        file.sync_data()?;
        if let Some(last) = self.files.back_mut() {
            last.bytes += bytes.len() as u64;
        }
        self.writing = Some(file);
        Ok(())
    }

    /// The oldest records, some of them, and how far that is; nothing where there are none.
    ///
    /// # Errors
    /// `Disk`.
    pub fn peek(&mut self) -> Result<(Vec<Vec<u8>>, Option<Position>), SpoolError> {
        let peeked = self.try_peek();
        peeked.map_err(|source| SpoolError::Disk { path: self.dir.clone(), source })
    }

    fn try_peek(&mut self) -> io::Result<(Vec<Vec<u8>>, Option<Position>)> {
        let Some(first) = self.files.front() else { return Ok((Vec::new(), None)) };
        let mut bytes = Vec::new();
        let mut file = File::open(self.path(first.number))?;
        file.seek(SeekFrom::Start(self.read_to))?;
        file.take((first.bytes - self.read_to).min(READ_BYTES.max((HEAD_BYTES + self.max_record_bytes) as u64)))
            .read_to_end(&mut bytes)?;
        let found = records(&bytes, self.max_record_bytes);
        let mut offset = self.read_to + (bytes.len() - found.rest.len()) as u64;
        if found.all.is_empty() {
            // It was whole when it was written or opened.
            let (path, lost) = (self.path(first.number), first.bytes - self.read_to);
            tracing::error!(path = %path.display(), lost, "a spool file is damaged; its last bytes are lost");
            offset = first.bytes;
        }
        Ok((found.all, Some(Position { number: first.number, offset })))
    }

    /// Every record that is in it, oldest first, read from the disk.
    ///
    /// # Errors
    /// `Disk`.
    pub fn each(&self, mut see: impl FnMut(&[u8])) -> Result<(), SpoolError> {
        for (index, file) in self.files.iter().enumerate() {
            let bytes = fs::read(self.path(file.number));
            let bytes = bytes.map_err(|source| SpoolError::Disk { path: self.dir.clone(), source })?;
            let from = if index == 0 { usize::try_from(self.read_to).unwrap_or(usize::MAX) } else { 0 };
            for record in records(bytes.get(from..).unwrap_or_default(), self.max_record_bytes).all {
                see(&record);
            }
        }
        Ok(())
    }

    /// Forgets what was read up to `position`.
    ///
    /// # Errors
    /// `Disk`; then the records come again after a start.
    pub fn advance(&mut self, position: Position) -> Result<(), SpoolError> {
        if self.files.front().is_some_and(|first| first.number == position.number) {
            self.read_to = position.offset;
        }
        self.drop_done().map_err(|source| SpoolError::Disk { path: self.dir.clone(), source })
    }

    /// Removes files that have nothing more to give.
    fn drop_done(&mut self) -> io::Result<()> {
        while let Some(first) = self.files.front().filter(|first| self.read_to >= first.bytes) {
            let path = self.path(first.number);
            if self.files.len() == 1 {
                self.writing = None;
            }
            self.files.pop_front();
            self.read_to = 0;
            fs::remove_file(path)?;
        }
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:016x}.{EXTENSION}"))
    }
}

/// A file that nobody else may read.
fn file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

struct Found<'a> {
    all: Vec<Vec<u8>>,
    /// What is no whole record, or follows one that is not.
    rest: &'a [u8],
}

fn records(mut bytes: &[u8], max_record_bytes: usize) -> Found<'_> {
    let mut all = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
        let [a, b, c, d, checksum @ ..] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some(record) = rest.get(..length).filter(|_| length <= max_record_bytes) else { break };
        if crc32fast::hash(record) != u32::from_le_bytes(checksum) {
            break;
        }
        all.push(record.to_vec());
        bytes = &rest[length..];
    }
    Found { all, rest: bytes }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_RECORD_BYTES: usize = 64 << 10;

    fn open(dir: &Path) -> Spool {
        Spool::open(dir, 1 << 20, MAX_RECORD_BYTES).unwrap()
    }

    /// Everything in it, taken out.
    fn drain(spool: &mut Spool) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let (records, position) = spool.peek().unwrap();
            let Some(position) = position else { return all };
            all.extend(records);
            spool.advance(position).unwrap();
        }
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == EXTENSION)).collect();
        files.sort();
        files
    }

    #[test]
    fn what_goes_in_comes_out_in_order_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), 64 << 20, MAX_RECORD_BYTES).unwrap();
        let record = |n: u32| [&n.to_le_bytes()[..], &[7; 50_000]].concat();
        for n in 0..150 {
            spool.append(&[record(n)]).unwrap();
        }
        assert!(files(dir.path()).len() > 1, "{} bytes are more than one file", spool.bytes());
        assert_eq!(drain(&mut spool), (0..150).map(record).collect::<Vec<_>>());
        assert!(spool.is_empty() && files(dir.path()).is_empty());
        spool.append(&[b"again".to_vec()]).unwrap();
        assert_eq!(drain(&mut spool), [b"again".to_vec()]);
    }

    #[test]
    fn what_was_taken_outlives_the_process_and_what_was_read_may_come_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path());
        spool.append(&[b"a".to_vec(), b"b".to_vec()]).unwrap();
        spool.peek().unwrap();
        drop(spool);
        let mut spool = open(dir.path());
        spool.append(&[b"c".to_vec()]).unwrap();
        assert_eq!(drain(&mut spool), [b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
    }

    #[test]
    fn a_torn_record_is_cut_off_and_all_before_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path());
        spool.append(&[b"whole".to_vec(), b"torn".to_vec()]).unwrap();
        drop(spool);
        let path = files(dir.path()).remove(0);
        let bytes = fs::read(&path).unwrap();
        for end in 13..bytes.len() {
            fs::write(&path, &bytes[..end]).unwrap();
            let mut spool = open(dir.path());
            spool.append(&[b"next".to_vec()]).unwrap();
            assert_eq!(drain(&mut spool), [b"whole".to_vec(), b"next".to_vec()], "cut at {end}");
        }
    }

    #[test]
    fn damage_costs_what_follows_it_in_its_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for record in ["first", "second"] {
            // A new file at every start.
            open(dir.path()).append(&[record.as_bytes().to_vec(), b"more".to_vec()]).unwrap();
        }
        let path = files(dir.path()).remove(0);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut spool = open(dir.path());
        assert_eq!(drain(&mut spool), [b"first".to_vec(), b"second".to_vec(), b"more".to_vec()]);
        // Damage under our hands.
        spool.append(&[b"lost".to_vec()]).unwrap();
        fs::write(files(dir.path()).remove(0), [0xff; 12]).unwrap();
        assert_eq!(drain(&mut spool), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_full_spool_refuses_all_of_what_does_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), 100, MAX_RECORD_BYTES).unwrap();
        spool.append(&[vec![1; 40]]).unwrap();
        assert!(matches!(spool.append(&[vec![2; 10], vec![3; 50]]), Err(SpoolError::Full)));
        spool.append(&[vec![4; 40]]).unwrap();
        assert_eq!(drain(&mut spool), [vec![1; 40], vec![4; 40]]);
        spool.append(&[vec![5; 90]]).unwrap();
        let mut large = Spool::open(&dir.path().join("large"), 1 << 30, MAX_RECORD_BYTES).unwrap();
        assert!(matches!(large.append(&[vec![0; MAX_RECORD_BYTES + 1]]), Err(SpoolError::Full)));
    }

    #[test]
    fn two_processes_do_not_share_a_spool() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path());
        assert!(matches!(Spool::open(dir.path(), 1, MAX_RECORD_BYTES), Err(SpoolError::InUse(_))));
        drop(first);
        open(dir.path());
    }

    #[test]
    fn nobody_else_reads_what_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (parent, spool) = (dir.path().join("made"), dir.path().join("made/spool"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for _ in 0..2 {
            open(&spool).append(&[b"a".to_vec()]).unwrap();
            assert_eq!((mode(&parent), mode(&spool)), (0o700, 0o700));
            for entry in fs::read_dir(&spool).unwrap() {
                let path = entry.unwrap().path();
                assert_eq!(mode(&path), 0o600, "{}", path.display());
            }
            // As a version before, or somebody who meant well, may have left it.
            fs::set_permissions(&spool, Permissions::from_mode(0o755)).unwrap();
        }
    }

    proptest! {
        #[test]
        fn any_sequence_of_writes_reads_and_restarts_keeps_order_and_loses_nothing(
            steps in proptest::collection::vec((0u8..10, 0usize..3_000), 1..60)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut spool = open(dir.path());
            let (mut written, mut read) = (Vec::new(), Vec::new());
            for (n, (what, size)) in steps.into_iter().enumerate() {
                match what {
                    0..6 => {
                        let record = [&n.to_le_bytes()[..], &vec![what; size]].concat();
                        spool.append(std::slice::from_ref(&record)).unwrap();
                        written.push(record);
                    }
                    6..9 => {
                        let (records, position) = spool.peek().unwrap();
                        read.extend(records);
                        if let Some(position) = position {
                            spool.advance(position).unwrap();
                        }
                    }
                    _ => {
                        drop(spool);
                        spool = open(dir.path());
                    }
                }
            }
            read.extend(drain(&mut spool));
            // Only what was done with in a file that still had more may come twice.
            let mut firsts = Vec::new();
            read.iter().for_each(|record| if !firsts.contains(&record) { firsts.push(record) });
            prop_assert_eq!(firsts, written.iter().collect::<Vec<_>>());
        }
    }
}
