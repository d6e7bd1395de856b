//! The files of one message in a Maildir, a copy per recipient, unseen until they are complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::clock::{Gate, Rng};

/// Copies under way. Dropped before they are published, they are removed.
#[derive(Debug)]
pub(super) struct Files {
    folder: Arc<Path>,
    copies: Vec<io::Result<Copy>>,
}

#[derive(Debug)]
struct Copy {
    file: File,
    name: String,
    temporary: PathBuf,
    published: bool,
}

impl Files {
    pub(super) fn create(folder: &Arc<Path>, heads: &[Bytes], seconds: u64, rng: &Rng) -> Self {
        let copies = heads.iter().map(|head| Copy::create(folder, head, seconds, rng)).collect();
        Self { folder: Arc::clone(folder), copies }
    }

    /// Appends to every copy that has not failed.
    pub(super) fn write(&mut self, octets: &[u8]) {
        for slot in &mut self.copies {
            if let Ok(copy) = slot
                && let Err(error) = copy.file.write_all(octets)
            {
                *slot = Err(error);
            }
        }
    }

    /// Syncs the copies, moves them to where readers look, and syncs that. What comes to a shut gate stays
    /// unseen.
    pub(super) fn publish(mut self, gate: Option<&Gate>) -> Vec<io::Result<()>> {
        let new = self.folder.join("new");
        let results: Vec<_> = self
            .copies
            .iter_mut()
            .map(|slot| match slot {
                Ok(copy) => copy.publish(&new, gate),
                Err(error) => Err(error.kind().into()),
            })
            .collect();
        // A name that is not on disk is a message that is not there after a crash.
        match sync_folder(&new) {
            Ok(()) => results,
            Err(error) => {
                results.into_iter().map(|result| result.and_then(|()| Err(error.kind().into()))).collect()
            }
        }
    }
}

impl Copy {
    fn create(folder: &Path, head: &[u8], seconds: u64, rng: &Rng) -> io::Result<Self> {
        // Unique by 128 random bits; the time comes first because readers sort by it.
        let name =
            format!("{seconds}.R{:016x}{:016x}P{}.postroad", rng.bits(), rng.bits(), std::process::id());
        let temporary = folder.join("tmp").join(&name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&temporary)?;
        let mut copy = Self { file, name, temporary, published: false };
        copy.file.write_all(head)?;
        Ok(copy)
    }

    fn publish(&mut self, new: &Path, gate: Option<&Gate>) -> io::Result<()> {
        self.file.sync_all()?;
        if gate.is_some_and(|gate| !gate.is_open()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        fs::rename(&self.temporary, new.join(&self.name))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Elsewhere folders cannot be opened; the file system orders names itself.
#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Turns CRLF into LF, across any cut of the content.
#[derive(Debug, Default)]
pub(super) struct LineEnds {
    held_cr: bool,
}

impl LineEnds {
    pub(super) fn convert(&mut self, piece: &[u8], to: &mut BytesMut) {
        if self.held_cr && !piece.is_empty() {
            self.held_cr = false;
            if piece.first() != Some(&b'\n') {
                to.extend_from_slice(b"\r");
            }
        }
        let mut rest = piece;
        while let Some(at) = memchr::memchr(b'\r', rest) {
            let (line, tail) = rest.split_at(at);
            to.extend_from_slice(line);
            match tail.get(1) {
                Some(b'\n') => {}
                Some(_) => to.extend_from_slice(b"\r"),
                None => self.held_cr = true,
            }
            rest = tail.get(1..).unwrap_or_default();
        }
        to.extend_from_slice(rest);
    }

    /// What was held back.
    pub(super) const fn end(&self) -> &'static [u8] {
        if self.held_cr { b"\r" } else { b"" }
    }
}
