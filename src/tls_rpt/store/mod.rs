//! A store keeps the lines of days: appended to, replaced as a whole, read at the start, and removed
//! when the day was reported on.
//!
//! It knows nothing of what a line says. Lines of one day are written by one reporter at a time.

mod directory;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::BoxFuture;

use super::Day;

pub use directory::TallyDirectory;

/// Keeps the lines of days.
pub trait TallyStore: Send + Sync + fmt::Debug + 'static {
    /// Adds whole lines to a day. On stable storage when it returns.
    ///
    /// # Errors
    /// What the storage said, and [`io::ErrorKind::StorageFull`] when the day would get too large.
    ///
    /// # Cancel safety
    /// The lines may be there afterwards, or some of them, the last one cut.
    fn append(&self, day: Day, lines: String) -> BoxFuture<'_, io::Result<()>>;

    /// Puts lines in place of all that a day has, at once or not at all.
    ///
    /// # Errors
    /// As [`TallyStore::append`].
    ///
    /// # Cancel safety
    /// The new lines may be there afterwards, or the old ones.
    fn replace(&self, day: Day, lines: String) -> BoxFuture<'_, io::Result<()>>;

    /// The lines of a day; empty when it has none.
    ///
    /// # Errors
    /// What the storage said.
    fn read(&self, day: Day) -> BoxFuture<'_, io::Result<Vec<u8>>>;

    /// The days that have lines, in order.
    ///
    /// # Errors
    /// What the storage said.
    fn days(&self) -> BoxFuture<'_, io::Result<Vec<Day>>>;

    /// Forgets a day.
    ///
    /// # Errors
    /// What the storage said.
    fn remove(&self, day: Day) -> BoxFuture<'_, io::Result<()>>;
}

/// Keeps days in memory: for tests, and for programs that can do without reports of days in which they
/// were started anew. Clones share the days.
#[derive(Debug, Clone, Default)]
pub struct TallyMemory(Arc<Mutex<BTreeMap<Day, String>>>);

impl TallyMemory {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut BTreeMap<Day, String>) -> T,
    ) -> BoxFuture<'_, T> {
        let result = change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Box::pin(std::future::ready(result))
    }
}

impl TallyStore for TallyMemory {
    fn append(&self, day: Day, lines: String) -> BoxFuture<'_, io::Result<()>> {
        self.with(|days| {
            let day = days.entry(day).or_default();
            if day.len().saturating_add(lines.len()) > MAX_DAY {
                return Err(io::ErrorKind::StorageFull.into());
            }
            day.push_str(&lines);
            Ok(())
        })
    }

    fn replace(&self, day: Day, lines: String) -> BoxFuture<'_, io::Result<()>> {
        self.with(|days| {
            if lines.len() > MAX_DAY {
                return Err(io::ErrorKind::StorageFull.into());
            }
            days.insert(day, lines);
            Ok(())
        })
    }

    fn read(&self, day: Day) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        self.with(|days| Ok(days.get(&day).cloned().unwrap_or_default().into_bytes()))
    }

    fn days(&self) -> BoxFuture<'_, io::Result<Vec<Day>>> {
        self.with(|days| Ok(days.keys().copied().collect()))
    }

    fn remove(&self, day: Day) -> BoxFuture<'_, io::Result<()>> {
        self.with(|days| {
            days.remove(&day);
            Ok(())
        })
    }
}

/// A tally with everything at its default limits is smaller, and so is what it grows by before it is
/// written anew.
const MAX_DAY: usize = 256 * 1024 * 1024;
