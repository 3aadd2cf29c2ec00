//! Files and directories in memory, and what of them was synced.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
};

use chasqui_schemas::id::fraction;

/// The inode number of the root.
pub(super) const ROOT: u64 = 1;

type Names = BTreeMap<OsString, u64>;

#[derive(Debug, Clone)]
pub(super) enum Content {
    File {
        now: Vec<u8>,
        synced: Vec<u8>,
        /// The first byte in which the two may differ.
        changed_from: usize,
    },
    Dir {
        now: Names,
        synced: Names,
    },
}

#[derive(Debug, Clone)]
struct Node {
    content: Content,
    /// The directory it is in, and its name there.
    place: (u64, OsString),
}

/// What becomes of changes that were not synced when the power goes. Both happen; a disk owes neither.
#[derive(Debug, Clone)]
pub enum Unsynced {
    /// All are gone.
    Lost,
    /// Of each file nothing, everything, or everything up to some byte is left; of each directory's changes nothing or
    /// everything. The text seeds the choice.
    Torn(String),
}

/// Why something cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    NotFound,
    Exists,
    NotEmpty,
    NotADirectory,
    IsADirectory,
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: HashMap<u64, Node>,
    last: u64,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node { content: Content::dir(Names::new()), place: (ROOT, OsString::new()) };
        Tree { nodes: HashMap::from([(ROOT, root)]), last: ROOT }
    }
}

impl Content {
    fn file(bytes: Vec<u8>) -> Self {
        Content::File { synced: bytes.clone(), changed_from: bytes.len(), now: bytes }
    }

    fn dir(names: Names) -> Self {
        Content::Dir { synced: names.clone(), now: names }
    }

    fn sync(&mut self) {
        match self {
            Content::File { now, synced, changed_from } => {
                synced.truncate(*changed_from);
                synced.extend_from_slice(&now[*changed_from..]);
                *changed_from = now.len();
            }
            Content::Dir { now, synced } => synced.clone_from(now),
        }
    }
}

impl Tree {
    pub(super) fn get(&self, inode: u64) -> Result<&Content, Refused> {
        self.nodes.get(&inode).map(|node| &node.content).ok_or(Refused::NotFound)
    }

    pub(super) fn find(&self, dir: u64, name: &OsStr) -> Result<u64, Refused> {
        self.names(dir)?.get(name).copied().ok_or(Refused::NotFound)
    }

    pub(super) fn names(&self, dir: u64) -> Result<&Names, Refused> {
        match self.get(dir)? {
            Content::Dir { now, .. } => Ok(now),
            Content::File { .. } => Err(Refused::NotADirectory),
        }
    }

    fn names_mut(&mut self, dir: u64) -> Result<&mut Names, Refused> {
        match &mut self.nodes.get_mut(&dir).ok_or(Refused::NotFound)?.content {
            Content::Dir { now, .. } => Ok(now),
            Content::File { .. } => Err(Refused::NotADirectory),
        }
    }

    pub(super) fn create_file(&mut self, dir: u64, name: &OsStr) -> Result<u64, Refused> {
        self.create(dir, name, Content::file(Vec::new()))
    }

    pub(super) fn create_dir(&mut self, dir: u64, name: &OsStr) -> Result<u64, Refused> {
        self.create(dir, name, Content::dir(Names::new()))
    }

    fn create(&mut self, dir: u64, name: &OsStr, content: Content) -> Result<u64, Refused> {
        let inode = self.last + 1;
        let names = self.names_mut(dir)?;
        if names.contains_key(name) {
            return Err(Refused::Exists);
        }
        names.insert(name.to_owned(), inode);
        self.last = inode;
        self.nodes.insert(inode, Node { content, place: (dir, name.to_owned()) });
        Ok(inode)
    }

    /// Its content stays: the name may come back, and who has it open goes on.
    pub(super) fn remove(&mut self, dir: u64, name: &OsStr) -> Result<(), Refused> {
        if let Content::Dir { now, .. } = self.get(self.find(dir, name)?)?
            && !now.is_empty()
        {
            return Err(Refused::NotEmpty);
        }
        self.names_mut(dir)?.remove(name);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<(), Refused> {
        let inode = self.find(from.0, from.1)?;
        if let Ok(replaced) = self.find(to.0, to.1)
            && matches!(self.get(replaced)?, Content::Dir { now, .. } if !now.is_empty())
        {
            return Err(Refused::NotEmpty);
        }
        self.names_mut(to.0)?.insert(to.1.to_owned(), inode);
        self.names_mut(from.0)?.remove(from.1);
        self.nodes.get_mut(&inode).ok_or(Refused::NotFound)?.place = (to.0, to.1.to_owned());
        Ok(())
    }

    fn file_mut(&mut self, inode: u64) -> Result<(&mut Vec<u8>, &mut usize), Refused> {
        match &mut self.nodes.get_mut(&inode).ok_or(Refused::NotFound)?.content {
            Content::File { now, changed_from, .. } => Ok((now, changed_from)),
            Content::Dir { .. } => Err(Refused::IsADirectory),
        }
    }

    pub(super) fn write(&mut self, inode: u64, at: usize, bytes: &[u8]) -> Result<(), Refused> {
        let (now, changed_from) = self.file_mut(inode)?;
        *changed_from = (*changed_from).min(at).min(now.len());
        let end = at + bytes.len();
        if now.len() < end {
            now.resize(end, 0);
        }
        now[at..end].copy_from_slice(bytes);
        Ok(())
    }

    pub(super) fn resize(&mut self, inode: u64, length: usize) -> Result<(), Refused> {
        let (now, changed_from) = self.file_mut(inode)?;
        *changed_from = (*changed_from).min(length).min(now.len());
        now.resize(length, 0);
        Ok(())
    }

    pub(super) fn sync(&mut self, inode: u64) -> Result<(), Refused> {
        self.nodes.get_mut(&inode).ok_or(Refused::NotFound)?.content.sync();
        self.sync_name(inode);
        Ok(())
    }

    pub(super) fn sync_all(&mut self) {
        self.nodes.values_mut().for_each(|node| node.content.sync());
    }

    /// The name of what was synced, and of every directory above it.
    fn sync_name(&mut self, mut inode: u64) {
        while inode != ROOT
            && let Some((dir, name)) = self.nodes.get(&inode).map(|node| node.place.clone())
        {
            if let Some(Node { content: Content::Dir { now, synced }, .. }) = self.nodes.get_mut(&dir)
                && now.get(&name) == Some(&inode)
            {
                synced.retain(|_, other| *other != inode);
                synced.insert(name, inode);
            }
            inode = dir;
        }
    }

    /// What is there when the power is back.
    pub(super) fn after_power_loss(&self, unsynced: &Unsynced) -> Tree {
        let mut left = Tree { nodes: HashMap::new(), last: self.last };
        let mut found = vec![(ROOT, (ROOT, OsString::new()))];
        while let Some((inode, place)) = found.pop() {
            let Some(node) = self.nodes.get(&inode) else { continue };
            let content = match &node.content {
                Content::File { now, synced, changed_from } => {
                    Content::file(unsynced.of_file(inode, now, synced, *changed_from))
                }
                Content::Dir { now, synced } => {
                    let names = if unsynced.keeps_names(inode) { now } else { synced };
                    found.extend(names.iter().map(|(name, child)| (*child, (inode, name.clone()))));
                    Content::dir(names.clone())
                }
            };
            left.nodes.insert(inode, Node { content, place });
        }
        left
    }
}

impl Unsynced {
    fn chance(&self, inode: u64) -> f64 {
        match self {
            Unsynced::Lost => 0.0,
            Unsynced::Torn(seed) => fraction(&[seed, &inode.to_string()]),
        }
    }

    fn keeps_names(&self, dir: u64) -> bool {
        self.chance(dir) >= 0.5
    }

    fn of_file(&self, inode: u64, now: &[u8], synced: &[u8], changed_from: usize) -> Vec<u8> {
        // A third of the files each: nothing, some, everything.
        let share = (self.chance(inode) * 3.0 - 1.0).clamp(0.0, 1.0);
        if share >= 1.0 {
            return now.to_vec();
        }
        let upto = changed_from + ((now.len() - changed_from) as f64 * share) as usize;
        let rest = synced.get(upto..).unwrap_or_default();
        [&now[..upto], rest].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> &OsStr {
        OsStr::new(name)
    }

    fn bytes(tree: &Tree, inode: u64) -> &[u8] {
        match tree.get(inode).unwrap() {
            Content::File { now, .. } => now,
            Content::Dir { .. } => panic!("a directory"),
        }
    }

    #[test]
    fn what_was_not_synced_is_gone() {
        let mut tree = Tree::default();
        let file = tree.create_file(ROOT, name("a")).unwrap();
        tree.write(file, 0, b"never synced").unwrap();
        assert!(tree.after_power_loss(&Unsynced::Lost).find(ROOT, name("a")).is_err());
    }

    #[test]
    fn a_synced_file_keeps_its_content_of_then_and_its_path() {
        let mut tree = Tree::default();
        let dir = tree.create_dir(ROOT, name("d")).unwrap();
        let file = tree.create_file(dir, name("a")).unwrap();
        tree.create_file(dir, name("beside")).unwrap();
        tree.write(file, 0, b"synced").unwrap();
        tree.sync(file).unwrap();
        tree.write(file, 3, b"tactic").unwrap();
        let after = tree.after_power_loss(&Unsynced::Lost);
        let dir = after.find(ROOT, name("d")).unwrap();
        assert_eq!(bytes(&after, after.find(dir, name("a")).unwrap()), b"synced");
        assert!(after.find(dir, name("beside")).is_err());
    }

    #[test]
    fn a_removal_and_a_rename_hold_once_the_directory_is_synced() {
        let mut tree = Tree::default();
        for each in ["old", "new"] {
            let file = tree.create_file(ROOT, name(each)).unwrap();
            tree.write(file, 0, each.as_bytes()).unwrap();
            tree.sync(file).unwrap();
        }
        tree.rename((ROOT, name("new")), (ROOT, name("old"))).unwrap();
        let after = tree.after_power_loss(&Unsynced::Lost);
        assert_eq!(bytes(&after, after.find(ROOT, name("old")).unwrap()), b"old");
        assert_eq!(bytes(&after, after.find(ROOT, name("new")).unwrap()), b"new");
        tree.sync(ROOT).unwrap();
        let after = tree.after_power_loss(&Unsynced::Lost);
        assert_eq!(bytes(&after, after.find(ROOT, name("old")).unwrap()), b"new");
        assert!(after.find(ROOT, name("new")).is_err());
    }

    #[test]
    fn a_torn_file_begins_with_the_new_and_loses_nothing_synced() {
        let mut tree = Tree::default();
        let file = tree.create_file(ROOT, name("a")).unwrap();
        tree.write(file, 0, b"synced").unwrap();
        tree.sync(file).unwrap();
        tree.write(file, 6, b" and then some").unwrap();
        let mut lengths: Vec<usize> = Vec::new();
        for seed in 0..100 {
            let after = tree.after_power_loss(&Unsynced::Torn(seed.to_string()));
            let left = bytes(&after, file);
            assert!(b"synced and then some".starts_with(left) && left.len() >= 6, "{left:?}");
            lengths.push(left.len());
        }
        lengths.sort_unstable();
        assert!(lengths[0] == 6 && lengths[50] > 6 && lengths[99] == 20, "{lengths:?}");
    }

    #[test]
    fn a_truncated_file_is_whole_again_unless_synced() {
        let mut tree = Tree::default();
        let file = tree.create_file(ROOT, name("a")).unwrap();
        tree.write(file, 0, b"synced").unwrap();
        tree.sync(file).unwrap();
        tree.resize(file, 0).unwrap();
        assert_eq!(bytes(&tree.after_power_loss(&Unsynced::Lost), file), b"synced");
        tree.sync(file).unwrap();
        assert_eq!(bytes(&tree.after_power_loss(&Unsynced::Lost), file), b"");
    }
}
