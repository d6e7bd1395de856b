//! What may be on the disk after a prefix of the record: everything that was synced, and of the rest any
//! part.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use crate::disk::Step;

/// What of a step that was not synced reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    All,
    Nothing,
    /// Some of its sectors, drawn from this seed.
    Torn(u64),
}

/// The content of a disk.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub directories: BTreeSet<String>,
    names: BTreeMap<String, usize>,
    files: Vec<Vec<u8>>,
    /// What a hole holds that no write has filled: zeros, or what was there before.
    pub hole: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// It is on the disk; it waits behind another that may not be.
    Synced,
    Loose,
    /// Its sync failed: later ones do not bring it back.
    Doubtful,
}

/// A disk during the steps of a record.
#[derive(Debug, Clone, Default)]
pub struct Platter {
    base: Image,
    items: Vec<(Step, Status)>,
}

impl Platter {
    pub fn new(image: Image) -> Self {
        let mut base = image;
        base.directories.insert(String::new());
        // As a disk numbers them.
        let names: Vec<_> = base.names.iter().map(|(name, file)| (name.clone(), *file)).collect();
        let files =
            names.iter().map(|(_, file)| base.files.get(*file).cloned().unwrap_or_default()).collect();
        base.names = names.into_iter().enumerate().map(|(number, (name, _))| (name, number)).collect();
        base.files = files;
        Self { base, items: Vec::new() }
    }

    /// Goes on by one step.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Note(_) => {}
            Step::Sync { file } => self.settle(|step| file_of(step) == Some(*file), Status::Synced),
            Step::FailedSync { file } => self.settle(|step| file_of(step) == Some(*file), Status::Doubtful),
            Step::SyncDirectory { name } => {
                self.settle(|step| directory_of(step) == Some(name), Status::Synced);
            }
            step => self.items.push((step.clone(), Status::Loose)),
        }
    }

    fn settle(&mut self, which: impl Fn(&Step) -> bool, status: Status) {
        for (step, at) in &mut self.items {
            if *at == Status::Loose && which(step) {
                *at = status;
            }
        }
        // What is on the disk for good joins the base, unless something in doubt comes before it there.
        let mut waiting: BTreeSet<Option<usize>> = BTreeSet::new();
        let base = &mut self.base;
        self.items.retain(|(step, status)| {
            let target = file_of(step);
            if *status == Status::Synced && !waiting.contains(&target) {
                base.apply(step, Keep::All);
                return false;
            }
            waiting.insert(target);
            true
        });
    }

    /// How many steps may or may not have reached the disk.
    pub fn loose(&self) -> usize {
        self.items.iter().filter(|(_, status)| *status != Status::Synced).count()
    }

    /// Whether the `n`-th of these is a write, which can be torn.
    pub fn is_write(&self, n: usize) -> bool {
        let mut loose = self.items.iter().filter(|(_, status)| *status != Status::Synced);
        matches!(loose.nth(n), Some((Step::Write { .. }, _)))
    }

    /// The disk when of the loose steps so much has reached it.
    pub fn image(&self, hole: u8, mut keep: impl FnMut(usize) -> Keep) -> Image {
        let mut image = self.base.clone();
        image.hole = hole;
        let mut loose = 0;
        for (step, status) in &self.items {
            let kept = match status {
                Status::Synced => Keep::All,
                _ => {
                    loose += 1;
                    keep(loose - 1)
                }
            };
            image.apply(step, kept);
        }
        let directories = &image.directories;
        image.names.retain(|name, _| directories.contains(parent(name)));
        image
    }
}

/// The file whose content a step changes.
fn file_of(step: &Step) -> Option<usize> {
    match step {
        Step::Write { file, .. } | Step::Truncate { file, .. } => Some(*file),
        _ => None,
    }
}

/// The directory that a step changes.
fn directory_of(step: &Step) -> Option<&str> {
    match step {
        Step::MakeDirectory { name } | Step::Create { name, .. } | Step::Remove { name } => {
            Some(parent(name))
        }
        _ => None,
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Image {
    /// The names of its files, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    fn apply(&mut self, step: &Step, keep: Keep) {
        if keep == Keep::Nothing {
            return;
        }
        match step {
            Step::MakeDirectory { name } => drop(self.directories.insert(name.clone())),
            Step::Create { name, file } => drop(self.names.insert(name.clone(), *file)),
            Step::Remove { name } => drop(self.names.remove(name)),
            Step::Truncate { file, size } => {
                let (hole, size) = (self.hole, usize::try_from(*size).unwrap());
                self.file(*file).resize(size, hole);
            }
            Step::Write { file, at, octets } => {
                let mut at = usize::try_from(*at).unwrap();
                let mut octets = &octets[..];
                let mut sector = 0;
                while !octets.is_empty() {
                    let part = (SECTOR - at % SECTOR).min(octets.len());
                    let (now, rest) = match keep {
                        Keep::Torn(_) => octets.split_at(part),
                        _ => octets.split_at(octets.len()),
                    };
                    sector += 1;
                    if !matches!(keep, Keep::Torn(seed) if mix(seed ^ sector) & 1 == 0) {
                        self.put(*file, at, now);
                    }
                    at += now.len();
                    octets = rest;
                }
            }
            Step::Sync { .. } | Step::FailedSync { .. } | Step::SyncDirectory { .. } | Step::Note(_) => {}
        }
    }

    /// The content of a file, also of one whose name is not on the disk.
    fn file(&mut self, file: usize) -> &mut Vec<u8> {
        if self.files.len() <= file {
            self.files.resize(file + 1, Vec::new());
        }
        &mut self.files[file]
    }

    fn put(&mut self, file: usize, at: usize, octets: &[u8]) {
        let hole = self.hole;
        let file = self.file(file);
        if file.len() < at + octets.len() {
            file.resize(at + octets.len(), hole);
        }
        file[at..at + octets.len()].copy_from_slice(octets);
    }

    /// Writes it out.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        for directory in self.directories.iter().filter(|name| !name.is_empty()) {
            fs::create_dir_all(root.join(directory))?;
        }
        for (name, file) in &self.names {
            fs::write(root.join(name), self.files.get(*file).map_or(&[][..], Vec::as_slice))?;
        }
        Ok(())
    }
}

/// A well-spread number.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
