//! A disk that loses power: a filesystem of our own (FUSE), in memory, that knows what was synced.
//!
//! [`Disk::cut_after`] takes the power away in the middle of a given operation: from then on no call returns, nothing is
//! acknowledged any more. Once its user is killed, [`Disk::restore`] gives the power back: a new mount, with what was
//! durable and nothing else.
//!
//! | call | makes durable |
//! |---|---|
//! | `fsync` or `fdatasync` of a file, `write` to one opened with `O_SYNC` or `O_DSYNC` | its content; its name, and those of the directories above |
//! | `fsync` of a directory | its entries, with what was removed and renamed; its name, and those above |
//!
//! Nothing else is, however long ago it was written; what becomes of the rest is [`Unsynced`]. That a file is synced
//! together with its name is more than POSIX promises, and what ext4, XFS and Btrfs do. nats-server counts on it: it
//! syncs a new block of messages, never the directory, and without that rule loses messages whenever a block is new.
//!
//! There is no page cache (`FOPEN_DIRECT_IO`), so that every write is seen here; a shared mapping, which could not be, is
//! refused by the kernel.
//!
//! Linux only; needs `/dev/fuse`, and root or Debian's package `fuse3`.

mod fuse;
mod tree;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use fuser::{BackgroundSession, Config, MountOption};
use nix::mount::{MntFlags, umount2};
use tokio::sync::watch;

use self::tree::Tree;
pub use self::tree::Unsynced;

/// See the module.
pub struct Disk {
    /// A symbolic link that is there while the power is.
    path: PathBuf,
    mountpoint: tempfile::TempDir,
    power: Arc<Power>,
    session: Option<BackgroundSession>,
}

/// What the filesystem's thread and the test share.
#[derive(Debug)]
struct Power {
    state: Mutex<State>,
    cut: watch::Sender<bool>,
    /// Notified when calls that hang are to fail: the process that made them has been killed, and reads no answer.
    released: Condvar,
}

#[derive(Debug)]
struct State {
    tree: Tree,
    /// How many more changes there are before the power goes.
    left: Option<u64>,
    released: bool,
}

impl Disk {
    /// An empty disk, at `path`, which must not exist.
    ///
    /// # Errors
    /// Fails where it cannot be mounted.
    pub fn mount(path: &Path) -> anyhow::Result<Self> {
        let power = Power::new(Tree::default());
        let mountpoint = tempfile::tempdir()?;
        let mut disk = Disk { path: path.to_owned(), mountpoint, power, session: None };
        disk.switch_on()?;
        Ok(disk)
    }

    fn switch_on(&mut self) -> anyhow::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("chasqui-testing".into()), MountOption::NoAtime];
        let session = fuser::spawn_mount(fuse::Requests(self.power.clone()), self.mountpoint.path(), &config);
        self.session = Some(session.context("cannot mount: /dev/fuse is needed, and root or Debian's package fuse3")?);
        std::os::unix::fs::symlink(self.mountpoint.path(), &self.path)?;
        Ok(())
    }

    fn switch_off(&mut self) {
        // An empty directory there would be taken for the disk.
        let _ = std::fs::remove_file(&self.path);
        self.power.state().released = true;
        self.power.released.notify_all();
        // Detached, because a process that was killed may not be gone yet. Fails only if there is no mount.
        let _ = umount2(self.mountpoint.path(), MntFlags::MNT_DETACH);
        self.session = None;
    }

    /// The power goes in the middle of the change after this many: instead of writing, naming or syncing.
    pub fn cut_after(&self, changes: u64) {
        self.power.state().left = Some(changes);
    }

    /// Waits until the power is gone.
    pub async fn is_cut(&self) {
        // The sender is ours, so it is there.
        let _ = self.power.cut.subscribe().wait_for(|cut| *cut).await;
    }

    /// Syncs everything.
    pub fn sync_all(&self) {
        self.power.state().tree.sync_all();
    }

    /// Brings back what is durable. The process that used the disk must have been killed: its calls return now, with errors.
    ///
    /// # Errors
    /// Fails where it cannot be mounted.
    pub fn restore(&mut self, unsynced: &Unsynced) -> anyhow::Result<()> {
        self.switch_off();
        let tree = self.power.state().tree.after_power_loss(unsynced);
        self.power = Power::new(tree);
        self.switch_on()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.switch_off();
    }
}

impl Power {
    fn new(tree: Tree) -> Arc<Self> {
        let state = State { tree, left: None, released: false };
        Arc::new(Power { state: Mutex::new(state), cut: watch::Sender::new(false), released: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For every operation that changes something; hangs once the power is gone, and everything behind it. `None` is
    /// for those who are dead already.
    fn change(&self) -> Option<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.left == Some(0) {
            self.cut.send_replace(true);
            let hanging = self.released.wait_while(state, |state| !state.released);
            state = hanging.unwrap_or_else(PoisonError::into_inner);
        }
        if state.released {
            return None;
        }
        state.left = state.left.map(|left| left - 1);
        Some(state)
    }
}
