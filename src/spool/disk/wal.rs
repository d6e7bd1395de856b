//! The write-ahead log is written back into the database when it has grown, between two groups.
//!
//! To ask SQLite how long the log is takes a tenth of a commit, so it is asked only when the log could have
//! reached the limit since it was asked last.

use std::sync::atomic::Ordering;

use super::calls::Write;
use super::schema::count;
use super::writer::{Writer, is_full};

/// What is known of the log without asking.
#[derive(Debug)]
pub(super) struct Wal {
    /// Pages that it had when SQLite was asked last.
    pages: u64,
    /// Rows that the connection had changed by then.
    changes: u64,
    /// Octets of messages that were to be written since.
    octets: u64,
}

impl Wal {
    /// Before it was asked: what a process that was killed has left may be of any length.
    pub(super) const fn unknown() -> Self {
        Self { pages: u64::MAX, changes: 0, octets: 0 }
    }

    /// These calls are about to be written.
    pub(super) fn note(&mut self, writes: &[Write]) {
        let octets: usize = writes.iter().map(Write::weight).sum();
        self.octets = self.octets.saturating_add(octets as u64);
    }

    /// As many pages as the log may have. Rows longer than a page can make it more: then it is asked later.
    const fn most(&self, changes: u64, page: u64) -> u64 {
        let rows = changes.saturating_sub(self.changes).saturating_mul(PAGES_A_ROW);
        self.pages.saturating_add(rows).saturating_add(self.octets / page)
    }
}

impl Writer {
    /// Moves the log into the database when it has grown. False when the spool is broken.
    pub(super) fn checkpoint_when_due(&mut self) -> bool {
        let (limit, changes) = (self.shared.options.wal_octets, self.conn.total_changes());
        if self.wal.most(changes, self.page).saturating_mul(self.page) < limit {
            return true;
        }
        let Ok(pages) = self.checkpoint("PRAGMA wal_checkpoint(NOOP)") else { return true };
        self.wal = Wal { pages, changes, octets: 0 };
        if pages.saturating_mul(self.page) < limit {
            return true;
        }
        self.shared.checkpoints.fetch_add(1, Ordering::Relaxed);
        match self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)") {
            // Of one that another connection kept from working, too: so it is asked again behind the next group.
            Ok(_) => true,
            Err(error) if is_full(&error) => true,
            Err(error) => {
                tracing::error!(%error, "the spool's log could not be written back");
                false
            }
        }
    }

    /// Runs a checkpoint and returns how many pages the log has that are not yet in the database.
    pub(super) fn checkpoint(&self, sql: &str) -> rusqlite::Result<u64> {
        self.conn.prepare_cached(sql)?.query_row([], |row| {
            let (log, done): (i64, i64) = (row.get(1)?, row.get(2)?);
            Ok(count(log - done))
        })
    }
}

/// A row is in a page of its table; a change takes it out of a page of each of two indices and puts it into
/// another.
const PAGES_A_ROW: u64 = 5;
