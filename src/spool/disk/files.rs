//! Files of segments are reached through a seam, so that a test can note what is done to them in which
//! order, and stop it anywhere. SQLite has one of its own, the VFS, whose name the options take.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

/// What the spool does to files outside the database. Every call blocks.
#[doc(hidden)]
pub trait SegmentFiles: fmt::Debug + Send + Sync {
    /// Makes a file that was not there, to append to it.
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>>;
    /// Opens a file to read it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Writes what a file holds to it once more and syncs it; nothing, where there is no such file.
    fn rewrite(&self, path: &Path) -> io::Result<()>;
    /// Makes names durable that came into this directory or left it.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// An open file.
#[doc(hidden)]
pub trait SegmentFile: fmt::Debug + Send {
    /// Adds all of it at the end. After an error a part may be there.
    fn append(&mut self, octets: &[u8]) -> io::Result<()>;
    /// Makes what was appended durable (`fdatasync`).
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts it back to this length.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Reads from this place on, at most as much as `into` holds; 0: it ends there.
    fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<usize>;
}

/// Which files a spool uses: the system's, unless a test brings its own.
#[doc(hidden)]
#[derive(Debug, Clone, Default)]
pub struct Files(pub Option<Arc<dyn SegmentFiles>>);

impl PartialEq for Files {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Files {}

impl Files {
    pub(super) fn get(&self) -> Arc<dyn SegmentFiles> {
        self.0.clone().unwrap_or_else(|| Arc::new(SystemFiles))
    }
}

/// The system's own.
#[derive(Debug)]
struct SystemFiles;

impl SegmentFiles for SystemFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let mut options = File::options();
        options.create_new(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Box::new(SystemFile(options.open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(SystemFile(File::open(path)?)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rewrite(&self, path: &Path) -> io::Result<()> {
        let mut file = match File::options().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        // As much at once as a disk takes gladly, and not a whole log in memory.
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            file.seek(SeekFrom::Start(at))?;
            let octets = file.read(&mut buffer)?;
            let Some(octets) = buffer.get(..octets).filter(|octets| !octets.is_empty()) else { break };
            file.seek(SeekFrom::Start(at))?;
            file.write_all(octets)?;
            at += octets.len() as u64;
        }
        if at > 0 { file.sync_all() } else { Ok(()) }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Elsewhere a directory cannot be opened, and its names are durable with the files.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }
}

#[derive(Debug)]
struct SystemFile(File);

impl SegmentFile for SystemFile {
    fn append(&mut self, octets: &[u8]) -> io::Result<()> {
        self.0.write_all(octets)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.seek(SeekFrom::Start(at))?;
        self.0.read(into)
    }
}
