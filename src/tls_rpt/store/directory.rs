//! Days as files in a directory: `2026-09-21.tally`, one each.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Day, MAX_DAY, TallyStore};
use crate::BoxFuture;

/// Keeps days in a directory that is its own. One process at a time may use it.
#[derive(Debug, Clone)]
pub struct TallyDirectory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    limit: u64,
    /// Held while a file is written, so that lines of two tasks do not mix.
    writing: Mutex<()>,
}

impl TallyDirectory {
    /// Opens a directory, and makes it where it is not there.
    ///
    /// # Errors
    /// What the file system said.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::with_limit(path.as_ref(), MAX_DAY as u64)
    }

    fn with_limit(path: &Path, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let inner = Inner { path: path.to_owned(), limit, writing: Mutex::new(()) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Files are written on the threads for that.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'_, io::Result<T>> {
        let inner = Arc::clone(&self.inner);
        let task = tokio::task::spawn_blocking(move || work(&inner));
        Box::pin(async { task.await.unwrap_or_else(|error| Err(io::Error::other(error))) })
    }
}

impl TallyStore for TallyDirectory {
    fn append(&self, day: Day, lines: String) -> BoxFuture<'_, io::Result<()>> {
        self.blocking(move |inner| inner.append(day, lines.as_bytes()))
    }

    fn replace(&self, day: Day, lines: String) -> BoxFuture<'_, io::Result<()>> {
        self.blocking(move |inner| inner.replace(day, lines.as_bytes()))
    }

    fn read(&self, day: Day) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        self.blocking(move |inner| inner.read(day))
    }

    fn days(&self) -> BoxFuture<'_, io::Result<Vec<Day>>> {
        self.blocking(Inner::days)
    }

    fn remove(&self, day: Day) -> BoxFuture<'_, io::Result<()>> {
        self.blocking(move |inner| match fs::remove_file(inner.file(day)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
    }
}

impl Inner {
    fn file(&self, day: Day) -> PathBuf {
        self.path.join(format!("{day}{EXTENSION}"))
    }

    fn append(&self, day: Day, lines: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(self.file(day))?;
        let size = file.metadata()?.len();
        self.check(size.saturating_add(lines.len() as u64))?;
        if size > 0 {
            // What a crash cut is a line of its own, and not the beginning of the next.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        file.write_all(lines)?;
        file.sync_data()?;
        if size == 0 { self.sync() } else { Ok(()) }
    }

    fn replace(&self, day: Day, lines: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.check(lines.len() as u64)?;
        let new = self.path.join(NEW);
        let mut file = File::create(&new)?;
        file.write_all(lines)?;
        file.sync_data()?;
        fs::rename(new, self.file(day))?;
        self.sync()
    }

    fn read(&self, day: Day) -> io::Result<Vec<u8>> {
        let mut lines = Vec::new();
        match File::open(self.file(day)) {
            Ok(file) => file.take(self.limit).read_to_end(&mut lines)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(lines)
    }

    fn days(&self) -> io::Result<Vec<Day>> {
        let mut days = Vec::new();
        for entry in fs::read_dir(&self.path)?.take(MAX_FILES) {
            let name = entry?.file_name();
            days.extend(name.to_str().and_then(|name| name.strip_suffix(EXTENSION)).and_then(Day::parse));
        }
        days.sort_unstable();
        Ok(days)
    }

    fn check(&self, size: u64) -> io::Result<()> {
        if size > self.limit { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// A file that was made or renamed is there after a crash only when its directory was written too.
    fn sync(&self) -> io::Result<()> {
        #[cfg(unix)]
        File::open(&self.path)?.sync_all()?;
        Ok(())
    }
}

const EXTENSION: &str = ".tally";
const NEW: &str = "new";
/// Days that are kept are fewer than ten: whatever else is here is not ours.
const MAX_FILES: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Day {
        Day::parse(text).unwrap()
    }

    #[tokio::test]
    async fn lines_are_there_after_another_open() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (day("2026-09-21"), day("2026-09-22"));
        let store = TallyDirectory::open(folder.path()).unwrap();
        store.append(two, "x\n".into()).await.unwrap();
        store.append(one, "a\n".into()).await.unwrap();
        store.append(one, "b\n".into()).await.unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let store = TallyDirectory::open(folder.path()).unwrap();
        assert_eq!(store.days().await.unwrap(), [one, two]);
        assert_eq!(store.read(one).await.unwrap(), b"a\nb\n");
        store.replace(one, "c\n".into()).await.unwrap();
        assert_eq!(store.read(one).await.unwrap(), b"c\n");
        for _ in 0..2 {
            store.remove(one).await.unwrap();
        }
        assert_eq!(store.days().await.unwrap(), [two]);
        assert_eq!(store.read(one).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_line_that_was_cut_does_not_damage_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let store = TallyDirectory::open(folder.path()).unwrap();
        let one = day("2026-09-21");
        fs::write(folder.path().join("2026-09-21.tally"), "a\ncu").unwrap();
        store.append(one, "b\n".into()).await.unwrap();
        assert_eq!(store.read(one).await.unwrap(), b"a\ncu\nb\n");
    }

    #[tokio::test]
    async fn a_day_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let store = TallyDirectory::with_limit(folder.path(), 4).unwrap();
        let one = day("2026-09-21");
        store.append(one, "abc\n".into()).await.unwrap();
        let full = store.append(one, "d\n".into()).await.unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(store.replace(one, "abcd\n".into()).await.is_err());
        assert_eq!(store.read(one).await.unwrap(), b"abc\n");
    }
}
