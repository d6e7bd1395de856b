//! The seam of the segments, recorded like the database.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use postroad::spool::{SegmentFile, SegmentFiles};

use crate::disk::{Shared, Step, Verdict, dead};

#[derive(Debug)]
pub(crate) struct Segments(pub(crate) Arc<Shared>);

#[derive(Debug)]
struct Segment {
    shared: Arc<Shared>,
    real: File,
    number: usize,
    len: u64,
}

impl Segments {
    fn name(&self, path: &Path) -> io::Result<String> {
        // Not all of a path need be there.
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?.canonicalize()?;
        let file = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        self.0.name(&parent.join(file)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl SegmentFiles for Segments {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let name = self.name(path)?;
        let mut state = self.0.lock();
        if state.dead {
            return Err(dead());
        }
        let real = File::options().create_new(true).read(true).write(true).open(path)?;
        let number = state.opened(&name);
        Ok(Box::new(Segment { shared: Arc::clone(&self.0), real, number, len: 0 }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let name = self.name(path)?;
        let real = File::options().read(true).write(true).open(path)?;
        let len = real.metadata()?.len();
        let number = self.0.lock().opened(&name);
        Ok(Box::new(Segment { shared: Arc::clone(&self.0), real, number, len }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let name = self.name(path)?;
        let mut state = self.0.lock();
        if state.dead {
            return Err(dead());
        }
        fs::remove_file(path)?;
        state.removed(&name);
        Ok(())
    }

    fn rewrite(&self, path: &Path) -> io::Result<()> {
        let name = self.name(path)?;
        let mut state = self.0.lock();
        if state.dead {
            return Err(dead());
        }
        let octets = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            octets => octets?,
        };
        if octets.is_empty() {
            return Ok(());
        }
        let number = state.opened(&name);
        let verdict = state.next_write();
        if state.dead {
            return Err(dead());
        }
        let part = if verdict == Verdict::Good { octets.len() } else { octets.len() / 2 };
        state.wrote(number, 0, &octets[..part]);
        verdict.result()?;
        state.sync(number)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let Some(name) = self.0.name(&path.canonicalize()?) else { return Ok(()) };
        let mut state = self.0.lock();
        if state.dead {
            return Err(dead());
        }
        let good = state.next_sync();
        if state.dead {
            return Err(dead());
        }
        if !good {
            return Err(io::Error::other("this sync fails"));
        }
        state.synced_directory(&self.0.root, &name);
        Ok(())
    }
}

impl SegmentFile for Segment {
    fn append(&mut self, octets: &[u8]) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.dead {
            return Err(dead());
        }
        let verdict = state.next_write();
        if state.dead {
            return Err(dead());
        }
        let part = if verdict == Verdict::Good { octets } else { &octets[..octets.len() / 2] };
        self.real.write_all_at(part, self.len)?;
        state.wrote(self.number, self.len, part);
        self.len += part.len() as u64;
        verdict.result()
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.dead {
            return Err(dead());
        }
        state.sync(self.number)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.dead {
            return Err(dead());
        }
        self.real.set_len(len)?;
        self.len = len;
        state.steps.push(Step::Truncate { file: self.number, size: len });
        Ok(())
    }

    fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        self.real.read_at(into, at)
    }
}
