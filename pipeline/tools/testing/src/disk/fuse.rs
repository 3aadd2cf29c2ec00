//! The kernel's requests, answered from the [`Tree`](super::tree::Tree). One thread, one request at a time: when one
//! hangs, all do.

use std::{
    ffi::OsStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::libc::O_DSYNC;

use super::{
    Power,
    tree::{Content, Refused, Tree},
};

/// The kernel is to ask every time.
const NOT_AT_ALL: Duration = Duration::ZERO;
const FIRST: Generation = Generation(0);
const BLOCK: u32 = 4096;
/// What the disk says it has, blocks: 64 GiB.
const BLOCKS: u64 = 1 << 24;

pub(super) struct Requests(pub(super) Arc<Power>);

impl From<Refused> for Errno {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotFound => Errno::ENOENT,
            Refused::Exists => Errno::EEXIST,
            Refused::NotEmpty => Errno::ENOTEMPTY,
            Refused::NotADirectory => Errno::ENOTDIR,
            Refused::IsADirectory => Errno::EISDIR,
        }
    }
}

impl Requests {
    fn look<T>(&self, look: impl FnOnce(&Tree) -> Result<T, Refused>) -> Result<T, Errno> {
        Ok(look(&self.0.state().tree)?)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Tree) -> Result<T, Refused>) -> Result<T, Errno> {
        Ok(change(&mut self.0.change().ok_or(Errno::EIO)?.tree)?)
    }

    fn attributes(&self, inode: u64) -> Result<FileAttr, Errno> {
        self.look(|tree| Ok(attributes(inode, tree.get(inode)?)))
    }
}

fn attributes(inode: u64, content: &Content) -> FileAttr {
    let (kind, perm, nlink, size) = match content {
        Content::File { now, .. } => (FileType::RegularFile, 0o600, 1, now.len() as u64),
        Content::Dir { .. } => (FileType::Directory, 0o700, 2, 0),
    };
    let then = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(inode),
        size,
        blocks: size.div_ceil(512),
        atime: then,
        mtime: then,
        ctime: then,
        crtime: then,
        kind,
        perm,
        nlink,
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

fn answer_entry(reply: ReplyEntry, answer: Result<FileAttr, Errno>) {
    match answer {
        Ok(attributes) => reply.entry(&NOT_AT_ALL, &attributes, FIRST),
        Err(error) => reply.error(error),
    }
}

fn answer_attributes(reply: ReplyAttr, answer: Result<FileAttr, Errno>) {
    match answer {
        Ok(attributes) => reply.attr(&NOT_AT_ALL, &attributes),
        Err(error) => reply.error(error),
    }
}

fn answer_empty(reply: ReplyEmpty, answer: Result<(), Errno>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Requests {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(reply, self.look(|tree| tree.find(parent.0, name)).and_then(|inode| self.attributes(inode)));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(reply, self.attributes(inode.0));
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = match size {
            Some(size) => self.change(|tree| tree.resize(inode.0, size as usize)),
            None => Ok(()),
        };
        answer_attributes(reply, done.and_then(|()| self.attributes(inode.0)));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let created = self.change(|tree| tree.create_dir(parent.0, name));
        answer_entry(reply, created.and_then(|inode| self.attributes(inode)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(reply, self.change(|tree| tree.remove(parent.0, name)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(reply, self.change(|tree| tree.remove(parent.0, name)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        answer_empty(reply, self.change(|tree| tree.rename((parent.0, name), (new_parent.0, new_name))));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let created = self.change(|tree| tree.create_file(parent.0, name));
        match created.and_then(|inode| self.attributes(inode)) {
            Ok(attributes) => {
                reply.created(&NOT_AT_ALL, &attributes, FIRST, FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.state().tree.get(inode.0) {
            Ok(Content::File { now, .. }) => {
                let rest = now.get(offset as usize..).unwrap_or_default();
                reply.data(&rest[..rest.len().min(size as usize)]);
            }
            Ok(Content::Dir { .. }) => reply.error(Errno::EISDIR),
            Err(refused) => reply.error(refused.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut done = self.change(|tree| tree.write(inode.0, offset as usize, data));
        // O_SYNC is this bit and another one.
        if done.is_ok() && flags.0 & O_DSYNC != 0 {
            done = self.change(|tree| tree.sync(inode.0));
        }
        match done {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    /// Closing makes nothing durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        answer_empty(reply, self.change(|tree| tree.sync(inode.0)));
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        answer_empty(reply, self.change(|tree| tree.sync(inode.0)));
    }

    /// In the order of inode numbers, which are the offsets too: what comes and goes meanwhile disturbs nothing else.
    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.0.state();
        let names = match state.tree.names(inode.0) {
            Ok(names) => names,
            Err(refused) => return reply.error(refused.into()),
        };
        let mut rest: Vec<_> = names.iter().filter(|(_, inode)| **inode > offset).collect();
        rest.sort_unstable_by_key(|(_, inode)| **inode);
        for (name, inode) in rest {
            let kind = match state.tree.get(*inode) {
                Ok(Content::Dir { .. }) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(*inode), *inode, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCK, 255, BLOCK);
    }
}
