//! Segments are files that bodies are appended to: `seg/0000002a.seg`, octets only. Where a body lies is
//! in its message's row, and the table `seg` counts what each file still holds.
//!
//! What is in a row was synced before the row was committed. A crash leaves octets that no row names at the
//! end of a file, and nothing is appended behind them: each opening begins a file of its own. So no file is
//! ever parsed. A file without a body in use is removed; so is, at an open, one that no row of `seg` names.
//!
//! Several bodies share a file, the *current* one; a body that came in pieces (*large*) has one to itself.
//! The writer alone knows and changes what is here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::super::SpoolError;
use super::calls::Write;
use super::clean::Cleaning;
use super::files::{SegmentFile, SegmentFiles};
use super::make_directory;
use super::queue::Shared;
use super::schema::{RESERVE, column, count, failure};

/// Where a body lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seg: i64,
    pub(super) off: u64,
    pub(super) len: u64,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// Bodies in use.
    pub(super) live: i64,
    /// Their octets.
    pub(super) bytes: i64,
    /// Octets of the file, in use or not.
    pub(super) size: u64,
}

impl Tally {
    const fn held(&self) -> u64 {
        if self.live > 0 { self.size } else { 0 }
    }
}

/// What a transaction changes in them.
pub(super) type Deltas = BTreeMap<i64, Tally>;

/// Why bodies were not placed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nothing is lost.
    Write(io::Error),
    /// What the disk holds is not known.
    Sync(io::Error),
}

#[derive(Debug)]
struct Current {
    n: i64,
    file: Box<dyn SegmentFile>,
    /// Where what was committed ends.
    good: u64,
    end: u64,
    dirty: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Segments {
    shared: Arc<Shared>,
    current: Option<Current>,
    known: BTreeMap<i64, Tally>,
    /// Closed without having been looked at since: they may hold nothing.
    closed: BTreeSet<i64>,
    /// Octets of the closed files with something in use.
    total: u64,
    buffer: Vec<u8>,
    pub(super) cleaning: Cleaning,
}

/// The file with this number.
pub(super) fn path(dir: &Path, n: i64) -> PathBuf {
    dir.join(format!("{n:08x}.seg"))
}

impl Segments {
    /// Takes stock of the directory: makes it, and removes what no row names. Also returns the first number
    /// that is not in use.
    pub(super) fn open(
        dir: &Path,
        files: &dyn SegmentFiles,
        conn: &Connection,
    ) -> Result<(BTreeMap<i64, Tally>, i64), SpoolError> {
        let known = known(conn).map_err(failure)?;
        let last = look_through(dir, files, &known).map_err(SpoolError::Storage)?;
        Ok((known, last + 1))
    }

    pub(super) fn new(shared: Arc<Shared>, known: BTreeMap<i64, Tally>) -> Self {
        let total = known.values().map(Tally::held).sum();
        let buffer = Vec::new();
        let mut segments = Self {
            shared,
            current: None,
            known,
            closed: BTreeSet::new(),
            total,
            buffer,
            cleaning: Cleaning::default(),
        };
        for n in segments.known.keys().copied().collect::<Vec<_>>() {
            segments.weigh(n);
        }
        segments.publish();
        segments
    }

    fn weigh(&mut self, n: i64) {
        match self.known.get(&n) {
            Some(tally) => self.cleaning.weigh(n, *tally, self.shared.options.max_octets.is_some()),
            None => self.cleaning.forget(n),
        }
    }

    /// What of the files is to be moved with the next group.
    pub(super) fn moves(&mut self, conn: &Connection) -> Vec<Write> {
        self.cleaning.part(conn, &self.shared)
    }

    /// Finds a place for the bodies that a group brings, and makes them durable where that is a file.
    pub(super) fn place(&mut self, writes: &mut [Write]) -> Result<(), Trouble> {
        let (mut total, mut moves) = (0, false);
        for write in &mut *writes {
            moves |= matches!(write, Write::Move { .. });
            write.bodies(&mut |body, place| {
                *place = None;
                total += body.len();
            });
        }
        if total == 0 || (total <= INLINE && !moves) {
            return Ok(());
        }
        if self.shared.options.max_octets.is_some_and(|limit| {
            self.shared.used().saturating_add(total as u64) > limit.saturating_add(RESERVE)
        }) {
            return Err(Trouble::Write(io::ErrorKind::StorageFull.into()));
        }
        let mut result = Ok(());
        for write in writes {
            write.bodies(&mut |body, place| {
                if result.is_ok() && !body.is_empty() {
                    match self.append(body) {
                        Ok(at) => *place = Some(at),
                        Err(trouble) => result = Err(trouble),
                    }
                }
            });
        }
        result?;
        self.write_out()?;
        self.sync()?;
        self.publish();
        Ok(())
    }

    fn append(&mut self, body: &Bytes) -> Result<Place, Trouble> {
        let len = body.len() as u64;
        let limit = self.shared.segment_octets();
        if self.current.as_ref().is_some_and(|c| c.end > 0 && c.end.saturating_add(len) > limit) {
            self.close_current()?;
        }
        if self.current.is_none() {
            let n = self.shared.segment_number();
            let file =
                self.shared.files.create(&path(&self.shared.segment_dir, n)).map_err(Trouble::Write)?;
            self.shared.files.sync_dir(&self.shared.segment_dir).map_err(Trouble::Sync)?;
            self.current = Some(Current { n, file, good: 0, end: 0, dirty: false });
        }
        if body.len() >= DIRECT || self.buffer.len() + body.len() > BUFFER {
            self.write_out()?;
        }
        let Some(current) = &mut self.current else {
            return Err(Trouble::Write(io::ErrorKind::NotFound.into()));
        };
        let place = Place { seg: current.n, off: current.end, len };
        current.end += len;
        current.dirty = true;
        if body.len() >= DIRECT {
            current.file.append(body).map_err(Trouble::Write)?;
        } else {
            self.buffer.extend_from_slice(body);
        }
        Ok(place)
    }

    fn write_out(&mut self) -> Result<(), Trouble> {
        let written = match &mut self.current {
            Some(current) if !self.buffer.is_empty() => current.file.append(&self.buffer),
            _ => Ok(()),
        };
        self.buffer.clear();
        written.map_err(Trouble::Write)
    }

    fn sync(&mut self) -> Result<(), Trouble> {
        match &mut self.current {
            Some(current) if current.dirty => {
                current.dirty = false;
                current.file.sync().map_err(Trouble::Sync)
            }
            _ => Ok(()),
        }
    }

    fn close_current(&mut self) -> Result<(), Trouble> {
        self.write_out()?;
        self.sync()?;
        self.leave_current();
        Ok(())
    }

    fn leave_current(&mut self) {
        if let Some(current) = self.current.take() {
            let tally = self.known.entry(current.n).or_default();
            tally.size = current.end;
            self.total += tally.held();
            self.closed.insert(current.n);
            self.weigh(current.n);
        }
    }

    /// The group was committed.
    pub(super) fn keep(&mut self, deltas: &Deltas) {
        if let Some(current) = &mut self.current {
            current.good = current.end;
        }
        for (n, delta) in deltas {
            let closed = self.current.as_ref().is_none_or(|current| current.n != *n);
            let tally = self.known.entry(*n).or_default();
            let before = tally.held();
            tally.live += delta.live;
            tally.bytes += delta.bytes;
            tally.size = tally.size.max(delta.size);
            if closed {
                self.total = self.total.saturating_sub(before).saturating_add(tally.held());
                if tally.live <= 0 {
                    self.known.remove(n);
                    self.remove(*n);
                }
                self.weigh(*n);
            }
        }
        self.closed.clear();
        self.publish();
    }

    /// The group was not committed: the file ends again where it did before.
    pub(super) fn cut(&mut self) {
        self.buffer.clear();
        let Some(current) = &mut self.current else { return };
        current.dirty = false;
        if current.end > current.good {
            if let Err(error) = current.file.truncate(current.good) {
                tracing::warn!(%error, "a file of the spool could not be cut, another one is begun");
                self.leave_current();
            } else {
                current.end = current.good;
            }
        }
        self.publish();
    }

    /// Writes down, inside the transaction, what it changes in the files' counts. Files that are left
    /// without a body lose their rows; [`Segments::keep`] removes them.
    pub(super) fn count(&self, conn: &Connection, deltas: &mut Deltas) -> rusqlite::Result<()> {
        for n in &self.closed {
            deltas.entry(*n).or_default();
        }
        let current = self.current.as_ref().map(|current| (current.n, current.end));
        for (n, delta) in deltas {
            match current {
                Some((current, end)) if current == *n => delta.size = end,
                _ => {
                    let known = self.known.get(n).copied().unwrap_or_default();
                    delta.size = delta.size.max(known.size);
                    if known.live + delta.live <= 0 {
                        conn.prepare_cached(FORGET)?.execute([*n])?;
                        continue;
                    }
                }
            }
            let params = params![*n, delta.live, delta.bytes, column(delta.size)];
            conn.prepare_cached(COUNT)?.execute(params)?;
        }
        Ok(())
    }

    /// Removes a file that nothing names. If that fails, the next open does it.
    pub(super) fn remove(&self, n: i64) {
        match self.shared.files.remove(&path(&self.shared.segment_dir, n)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "a file of the spool could not be removed");
            }
            _ => {}
        }
    }

    /// Says how much there is, for those who ask whether more has room.
    fn publish(&self) {
        let current = self.current.as_ref().map_or(0, |current| current.end);
        self.shared.segments.store(self.total + current, Ordering::Relaxed);
    }
}

/// Makes the directory and removes files that nothing names. Returns the last number in use.
fn look_through(dir: &Path, files: &dyn SegmentFiles, known: &BTreeMap<i64, Tally>) -> io::Result<i64> {
    if !dir.is_dir() {
        make_directory(dir, files)?;
    }
    let mut last = known.last_key_value().map_or(0, |(n, _)| *n);
    let mut found = BTreeSet::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let Some(n) = number(&path) else { continue };
        last = last.max(n);
        if known.contains_key(&n) {
            found.insert(n);
        } else {
            files.remove(&path)?;
        }
    }
    for n in known.keys().filter(|n| !found.contains(n)) {
        tracing::error!(file = %path(dir, *n).display(), "a file with bodies of the spool is missing");
    }
    Ok(last)
}

fn known(conn: &Connection) -> rusqlite::Result<BTreeMap<i64, Tally>> {
    // A person may have removed messages by hand, and left the counts.
    conn.execute(FORGET_EMPTY, [])?;
    conn.prepare("SELECT n, live, bytes, size FROM seg")?
        .query_map([], |row| {
            Ok((row.get(0)?, Tally { live: row.get(1)?, bytes: row.get(2)?, size: count(row.get(3)?) }))
        })?
        .collect()
}

fn number(path: &Path) -> Option<i64> {
    if path.extension()? != "seg" {
        return None;
    }
    i64::from_str_radix(path.file_stem()?.to_str()?, 16).ok()
}

/// A group with this much in bodies costs less in the database, where it needs no sync of its own: at 2 ms a
/// sync a lone producer gets 141 messages a second that way against 76 (measured).
const INLINE: usize = 16 << 10;

/// Small bodies are written together: one copy costs less than one system call each.
const BUFFER: usize = 256 << 10;
const DIRECT: usize = 64 << 10;

const FORGET_EMPTY: &str = "DELETE FROM seg WHERE NOT EXISTS (SELECT 1 FROM message m WHERE m.seg = seg.n)";
const FORGET: &str = "DELETE FROM seg WHERE n = ?1";
const COUNT: &str = "INSERT INTO seg (n, live, bytes, size) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (n) \
     DO UPDATE SET live = live + ?2, bytes = bytes + ?3, size = max(size, ?4)";
