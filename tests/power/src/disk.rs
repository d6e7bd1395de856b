//! A disk whose every change is recorded, and that fails when it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postroad::spool::{DiskOptions, Files};

use crate::platter::Image;
use crate::segments::Segments;
use crate::vfs;

/// One change. Names are relative to the spool's directory, whose own name is empty; a file keeps its
/// number when its name goes.
#[derive(Debug, Clone)]
pub enum Step {
    MakeDirectory { name: String },
    Create { name: String, file: usize },
    Remove { name: String },
    Write { file: usize, at: u64, octets: Box<[u8]> },
    Truncate { file: usize, size: u64 },
    Sync { file: usize },
    FailedSync { file: usize },
    SyncDirectory { name: String },
    Note(Note),
}

/// What a caller did or was told, by the number of its call.
#[derive(Debug, Clone, Copy)]
pub enum Note {
    Begun(usize),
    Ended(usize, Ended),
}

/// What a caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It is done, for good.
    Done,
    /// It is not, and never will be.
    Refused,
    /// Nobody can tell.
    Unknown,
}

/// What goes wrong. Each counts from when it is set, from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The disk is full from this write on, for so many writes. Of the first, half arrives.
    Full { at: u64, writes: u64 },
    /// This write fails for another reason, in the middle.
    Broken { at: u64 },
    /// This sync fails.
    Sync { at: u64 },
    /// Before this write or sync, counted together, the process dies.
    Dies { at: u64 },
    /// Every sync is answered well and does nothing: no fault of the spool, but one that the tests must
    /// see.
    NoSyncs,
}

/// How a write is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    /// Half arrives, then there is no room.
    Full,
    /// Half arrives.
    Broken,
}

impl Verdict {
    pub(crate) fn result(self) -> io::Result<()> {
        match self {
            Self::Good => Ok(()),
            Self::Full => Err(io::ErrorKind::StorageFull.into()),
            Self::Broken => Err(io::Error::other("this write fails")),
        }
    }
}

/// A disk in a directory.
#[derive(Debug)]
pub struct Disk {
    shared: Arc<Shared>,
    vfs: vfs::Registered,
}

/// What all open files of a disk share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) steps: Vec<Step>,
    names: BTreeMap<String, usize>,
    directories: BTreeSet<String>,
    files: usize,
    fault: Option<Fault>,
    writes: u64,
    syncs: u64,
    /// The process is dead: nothing it still does has an effect.
    pub(crate) dead: bool,
}

impl Disk {
    /// An empty disk, or one with files, in an empty directory.
    pub fn new(root: &Path, image: &Image) -> Self {
        image.write(root).unwrap();
        let root = root.canonicalize().unwrap();
        let mut state = State { directories: image.directories.clone(), ..State::default() };
        state.directories.insert(String::new());
        for (number, name) in image.names().enumerate() {
            state.names.insert(name.to_owned(), number);
            state.files = number + 1;
        }
        let shared = Arc::new(Shared { root, state: Mutex::new(state) });
        let vfs = vfs::register(&shared);
        Self { shared, vfs }
    }

    /// Options of a spool that works on this disk.
    pub fn options(&self) -> DiskOptions {
        let mut options = DiskOptions::new();
        options.vfs = Some(self.vfs.name().into());
        options.files = Files(Some(Arc::new(Segments(Arc::clone(&self.shared)))));
        options
    }

    pub fn path(&self) -> &Path {
        &self.shared.root
    }

    /// What was done until now.
    pub fn steps(&self) -> Vec<Step> {
        self.shared.lock().steps.clone()
    }

    pub fn note(&self, note: Note) {
        self.shared.lock().steps.push(Step::Note(note));
    }

    /// From now on something goes wrong, or nothing more.
    pub fn set(&self, fault: Option<Fault>) {
        let mut state = self.shared.lock();
        (state.fault, state.writes, state.syncs) = (fault, 0, 0);
    }

    /// How many writes and syncs were tried since the last [`Disk::set`].
    pub fn tried(&self) -> (u64, u64) {
        let state = self.shared.lock();
        (state.writes, state.syncs)
    }

    /// What is done from now on comes too late, as if the process were dead: drop the spool, then
    /// [`Disk::revive`]. What was written and not synced is still there for the next process.
    pub fn kill(&self) {
        self.shared.lock().dead = true;
    }

    pub fn revive(&self) {
        let mut state = self.shared.lock();
        state.dead = false;
        if matches!(state.fault, Some(Fault::Dies { .. })) {
            state.fault = None;
        }
    }

    pub fn is_dead(&self) -> bool {
        self.shared.lock().dead
    }

    /// Notes how a call ended. A dead process answers nobody.
    pub fn answer(&self, call: usize, ended: Ended) -> Ended {
        let mut state = self.shared.lock();
        let ended = if state.dead { Ended::Unknown } else { ended };
        state.steps.push(Step::Note(Note::Ended(call, ended)));
        ended
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of a file of this disk, relative to it.
    pub(crate) fn name(&self, path: &Path) -> Option<String> {
        Some(path.strip_prefix(&self.root).ok()?.to_str()?.to_owned())
    }
}

impl State {
    /// The number of a file that was just opened; it was made if nobody had seen it.
    pub(crate) fn opened(&mut self, name: &str) -> usize {
        if let Some(file) = self.names.get(name) {
            return *file;
        }
        let file = self.files;
        self.files += 1;
        self.names.insert(name.to_owned(), file);
        self.steps.push(Step::Create { name: name.to_owned(), file });
        file
    }

    pub(crate) fn removed(&mut self, name: &str) {
        if self.names.remove(name).is_some() {
            self.steps.push(Step::Remove { name: name.to_owned() });
        }
    }

    pub(crate) fn wrote(&mut self, file: usize, at: u64, octets: &[u8]) {
        self.steps.push(Step::Write { file, at, octets: octets.into() });
    }

    /// Syncs a file, if that does not fail.
    pub(crate) fn sync(&mut self, file: usize) -> io::Result<()> {
        let good = self.next_sync();
        if self.dead {
            Err(dead())
        } else if good {
            self.synced(file);
            Ok(())
        } else {
            self.steps.push(Step::FailedSync { file });
            Err(io::Error::other("this sync fails"))
        }
    }

    pub(crate) fn synced(&mut self, file: usize) {
        if self.fault != Some(Fault::NoSyncs) {
            self.steps.push(Step::Sync { file });
        }
    }

    /// A directory was synced; what directories are in it now was made before.
    pub(crate) fn synced_directory(&mut self, root: &Path, name: &str) {
        if self.fault == Some(Fault::NoSyncs) {
            return;
        }
        for inside in std::fs::read_dir(root.join(name)).into_iter().flatten().flatten() {
            let path = inside.path();
            if path.is_dir()
                && let Some(inside) = path.strip_prefix(root).ok().and_then(Path::to_str)
                && self.directories.insert(inside.to_owned())
            {
                self.steps.push(Step::MakeDirectory { name: inside.to_owned() });
            }
        }
        self.steps.push(Step::SyncDirectory { name: name.to_owned() });
    }

    /// How the next write ends.
    pub(crate) fn next_write(&mut self) -> Verdict {
        let number = self.writes;
        self.writes += 1;
        self.dies();
        match self.fault {
            Some(Fault::Full { at, writes }) if (at..at.saturating_add(writes)).contains(&number) => {
                Verdict::Full
            }
            Some(Fault::Broken { at }) if at == number => Verdict::Broken,
            _ => Verdict::Good,
        }
    }

    fn dies(&mut self) {
        if matches!(self.fault, Some(Fault::Dies { at }) if at < self.writes + self.syncs) {
            self.dead = true;
        }
    }

    /// Whether the next sync is a good one.
    pub(crate) fn next_sync(&mut self) -> bool {
        let number = self.syncs;
        self.syncs += 1;
        self.dies();
        !matches!(self.fault, Some(Fault::Sync { at }) if at == number)
    }
}

/// What a dead process gets.
pub(crate) fn dead() -> io::Error {
    io::Error::other("the process is dead")
}
