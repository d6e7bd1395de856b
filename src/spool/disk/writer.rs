//! The writer is the one thread that changes the spool: it commits in groups, without a timer.
//!
//! While one group is being synced, the next one gathers; so the busier the spool, the more calls
//! share a sync, and an idle spool commits a single call at once. It is an OS thread because it
//! blocks in syncs, which no runtime thread may.
//!
//! A call that fails inside a group must not fail the others: the group is rolled back and done over
//! call by call. A commit that fails in a way that leaves its effect unknown ends the spool: it is
//! answered as unknown, nothing more is taken, and only opening it again shows what is there. A sync
//! is never retried, since the second one may succeed without having written anything.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};

use super::super::{Enqueued, Known, SetAside, SpoolError};
use super::apply::apply;
use super::ballast::Ballast;
use super::bodies;
use super::calls::{Look, Write};
use super::damaged::{DAMAGED, Fate};
use super::is_no_room;
use super::ledger::{Change, Claimed, Damaged, Ledger};
use super::prepared::Prepared;
use super::queue::{Held, Phase, Shared};
use super::rows::{Row, entry_number};
use super::schema::{CLEAN, CLEAN_UNLISTED, count, failure};
use super::segments::{Segments, Trouble};
use super::unlisted::LIST;
use super::wal::Wal;

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) conn: Connection,
    /// The size of a page of the database.
    pub(super) page: u64,
    /// Held as long as anything is written.
    pub(super) lock: File,
    pub(super) shared: Arc<Shared>,
    pub(super) ledger: Ledger,
    pub(super) segments: Segments,
    pub(super) ballast: Ballast,
    pub(super) wal: Wal,
}

/// Why a group was not committed.
enum Failed {
    /// Nothing was changed.
    Before(Cause),
    /// It may have been.
    Commit(Cause),
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error(transparent)]
    File(#[from] io::Error),
}

impl Cause {
    fn is_full(&self) -> bool {
        match self {
            Self::Sql(error) => is_full(error),
            Self::File(error) => is_no_room(error),
        }
    }

    /// What it means to a caller, of whom there may be several.
    fn tell(&self) -> SpoolError {
        match self {
            Self::Sql(error) => failure_again(error),
            Self::File(error) if is_no_room(error) => SpoolError::Full,
            Self::File(error) => SpoolError::Storage(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

/// Ends the spool however the thread ends.
struct Ending {
    shared: Arc<Shared>,
    phase: Phase,
    result: Result<(), SpoolError>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(reply) = self.shared.end(self.phase) {
            let _ = reply.send(std::mem::replace(&mut self.result, Ok(())));
        }
    }
}

impl Writer {
    /// Works until the spool is closed or broken, then lets go of the files and of the lock.
    pub(super) fn run(mut self) {
        let mut ending = Ending {
            shared: Arc::clone(&self.shared),
            phase: Phase::Poisoned,
            result: Err(SpoolError::Poisoned),
        };
        if self.work() {
            ending.phase = Phase::Closed;
            ending.result = self.leave_clean();
        } else {
            // What the log holds is not known to be on the disk: leave it to the next opening.
            let _ = self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
        let Self { conn, lock, .. } = self;
        let closed = conn.close().map_err(|(_, error)| failure(error));
        drop(lock);
        if ending.result.is_ok() {
            ending.result = closed;
        }
    }

    /// False when the spool is broken.
    fn work(&mut self) -> bool {
        let mut since = None;
        loop {
            // What was given up for settlements is not for cleaning.
            let cleans = !self.ballast.is_spent();
            let mut turn = self.shared.take(&mut since, cleans && self.segments.cleaning.is_due());
            if turn.broken {
                turn.looks.into_iter().for_each(|look| look.fail(SpoolError::Poisoned));
                turn.writes.into_iter().for_each(|write| write.fail(SpoolError::Poisoned));
                return false;
            }
            turn.writes.retain(|write| {
                if let Write::Discard { seg } = write {
                    self.segments.remove(*seg);
                }
                !matches!(write, Write::Discard { .. })
            });
            let damaged = self.look_all(turn.looks);
            turn.writes.extend(damaged.into_iter().map(|damaged| Write::SetAside { damaged, fate: None }));
            if !turn.last && cleans {
                turn.writes.extend(self.segments.moves(&self.conn));
            }
            if !turn.writes.is_empty() {
                self.wal.note(&turn.writes);
                if !self.groups(turn.writes) || !self.checkpoint_when_due() {
                    return false;
                }
            }
            if turn.last {
                return true;
            }
        }
    }

    /// All looks of a turn, in one transaction: beginning one takes as long as a look.
    fn look_all(&mut self, looks: Vec<Look>) -> Vec<Damaged> {
        let mut damaged = Vec::new();
        let together = looks.len() > 1 || looks.iter().any(|look| matches!(look, Look::Queues { .. }));
        // Without it, each is one of its own.
        if together && let Err(error) = self.conn.prepare_cached("BEGIN").and_then(|mut s| s.execute([])) {
            tracing::debug!(%error, "the spool is looked at one by one");
        }
        for look in looks {
            self.look(look, &mut damaged);
        }
        if together && !self.conn.is_autocommit() {
            let _ = self.conn.prepare_cached("ROLLBACK").and_then(|mut end| end.execute([]));
        }
        damaged
    }

    fn look(&mut self, look: Look, damaged: &mut Vec<Damaged>) {
        match look {
            Look::Claim { request, turns, reply } => {
                let result = match self.ledger.claim(&self.conn, &request, damaged) {
                    // What was found is set aside with this turn, and the search goes on in the next.
                    Ok(Claimed { claims, ends_early: true }) if claims.is_empty() && turns < TURNS => {
                        self.shared.look_again(Look::Claim { request, turns: turns + 1, reply });
                        return;
                    }
                    result => result.map(|claimed| claimed.claims),
                };
                if let Err(Ok(claims)) = reply.send(result) {
                    claims.iter().for_each(|claim| self.ledger.release(&claim.token));
                }
            }
            Look::Extend { tokens, lease, reply } => {
                let _ = reply.send(Ok(self.ledger.extend(tokens, lease)));
            }
            Look::Queues { after, limit, reply } => {
                let _ = reply.send(self.ledger.queues(&self.conn, after, limit));
            }
        }
    }

    /// Commits what changes entries from outside behind the rest and apart: it goes by what the ledger says
    /// is claimed. False when the spool is broken.
    fn groups(&mut self, writes: Vec<Write>) -> bool {
        let is_alter = |write: &Write| matches!(write, Write::Alter { .. });
        let (alters, writes): (Vec<_>, Vec<_>) = writes.into_iter().partition(is_alter);
        let mut sound = writes.is_empty() || self.group(writes);
        for alter in alters {
            if sound {
                sound = self.group(vec![alter]);
            } else {
                alter.fail(SpoolError::Poisoned);
            }
        }
        sound
    }

    /// Commits a group and answers its calls. False when the spool is broken.
    fn group(&mut self, writes: Vec<Write>) -> bool {
        #[cfg(test)]
        {
            self.ballast.disk_is_full = self.shared.fill_disk.load(Ordering::Relaxed);
        }
        self.ballast.restore();
        let mut writes = self.refuse_past_limit(writes);
        if self.ballast.is_spent() {
            let new = |write: &mut Write| matches!(write, Write::Enqueue { .. } | Write::Move { .. });
            writes.extract_if(.., new).for_each(|write| write.fail(SpoolError::Full));
        }
        match self.transact(&mut writes) {
            Ok(change) => {
                self.ledger.apply(change);
                self.shared.set_stats(self.ledger.stats);
                let moves = writes.iter().filter(|write| matches!(write, Write::Move { .. })).count();
                self.shared.operations.fetch_add((writes.len() - moves) as u64, Ordering::Relaxed);
                self.shared.moved.fetch_add(moves as u64, Ordering::Relaxed);
                writes.into_iter().for_each(|write| self.answer(write));
                true
            }
            Err(Failed::Before(error)) => {
                if error.is_full() {
                    // Moves the log into the database, if that has room, so that it can start anew.
                    let _ = self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)");
                }
                if writes.iter().any(|write| matches!(write, Write::Move { .. })) {
                    self.segments.cleaning.rest();
                    writes.retain(|write| !matches!(write, Write::Move { .. }));
                    return writes.is_empty() || self.group(writes);
                }
                if error.is_full() && self.is_disk_too_full_for(&writes) && self.ballast.give_up() {
                    return self.group(writes);
                }
                // One that waits for a person's shell need not wait once more for each call.
                if writes.len() == 1 || matches!(&error, Cause::Sql(error) if is_busy(error)) {
                    writes.into_iter().for_each(|write| write.fail(error.tell()));
                    return true;
                }
                let mut sound = true;
                for write in writes {
                    if sound {
                        sound = self.group(vec![write]);
                    } else {
                        write.fail(SpoolError::Poisoned);
                    }
                }
                sound
            }
            Err(Failed::Commit(error)) => {
                tracing::error!(%error, "the spool could not be synced and must be opened again");
                for write in writes {
                    write.fail(SpoolError::Unknown(io::Error::other(error.to_string())));
                }
                false
            }
        }
    }

    /// Whether there are settlements among these, and the disk has no room for them: not only a limit of the
    /// database, which no ballast moves.
    fn is_disk_too_full_for(&self, writes: &[Write]) -> bool {
        let settles = |write: &Write| matches!(write, Write::Settle { .. });
        if self.ballast.is_spent() || !writes.iter().any(settles) {
            return false;
        }
        let weight: usize = writes.iter().map(Write::weight).sum();
        self.shared.options.max_octets.is_none() || self.ballast.is_disk_full(SPARE + weight as u64)
    }

    fn transact(&mut self, writes: &mut [Write]) -> Result<Change, Failed> {
        let mut change = Change::default();
        if writes.iter().all(|write| matches!(write, Write::Flush { .. })) {
            return Ok(change);
        }
        match self.segments.place(writes) {
            Ok(()) => {}
            Err(Trouble::Write(error)) => {
                self.segments.cut();
                return Err(Failed::Before(error.into()));
            }
            Err(Trouble::Sync(error)) => return Err(Failed::Commit(error.into())),
        }
        let before = self.conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([]));
        let applied = before.and_then(|_| {
            let mut sql = Prepared::new(&self.conn);
            writes.iter_mut().try_for_each(|write| apply(&mut sql, &mut self.ledger, &mut change, write))?;
            bodies::forget_small(&mut sql, &mut change.gone)?;
            drop(sql);
            self.segments.count(&self.conn, &mut change.files)
        });
        if let Err(error) = applied {
            self.roll_back();
            return Err(Failed::Before(error.into()));
        }
        match self.commit() {
            Ok(()) => {
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
                self.segments.keep(&change.files);
                if writes.iter().any(|write| !matches!(write, Write::Move { .. })) {
                    self.segments.cleaning.go_on();
                }
                Ok(change)
            }
            // No room for the log: the commit's last record was never written.
            Err(error) if is_full(&error) => {
                self.roll_back();
                Err(Failed::Before(error.into()))
            }
            Err(error) => Err(Failed::Commit(error.into())),
        }
    }

    fn commit(&self) -> rusqlite::Result<()> {
        #[cfg(test)]
        if self.shared.break_commit.load(Ordering::Relaxed) {
            return Err(rusqlite::Error::InvalidQuery);
        }
        #[cfg(test)]
        if self.shared.fill_disk.load(Ordering::Relaxed) && !self.ballast.is_spent() {
            let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
            return Err(rusqlite::Error::SqliteFailure(full, None));
        }
        self.conn.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    fn roll_back(&mut self) {
        // Some errors have rolled back already.
        if !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("ROLLBACK");
        }
        self.segments.cut();
    }

    fn answer(&mut self, write: Write) {
        match write {
            Write::Enqueue { reply, conflict: true, .. } => {
                drop(reply.send(Err(SpoolError::KeyConflict)));
            }
            Write::Enqueue { mut rows, reply, .. } => {
                self.keep_staged(&mut rows);
                let known = rows.iter().filter_map(|row| Some(Known { given: row.id, stored: row.known? }));
                let known = known.collect();
                let mut born = rows.into_iter().filter(|row| row.inserted).map(|row| row.claims);
                // Most calls bring one message, whose list will do.
                let mut claims = born.next().unwrap_or_default();
                born.for_each(|more| claims.extend(more));
                let enqueued = Enqueued { claims, known };
                if let Err(Ok(enqueued)) = reply.send(Ok(enqueued)) {
                    enqueued.claims.iter().for_each(|claim| self.ledger.release(&claim.token));
                }
            }
            Write::Settle { mut rows, fenced, reply } => {
                rows.iter_mut().for_each(|row| self.keep_staged(&mut row.submit));
                let _ = reply.send(Ok(fenced));
            }
            Write::Prune { more, reply, .. } => drop(reply.send(Ok(more))),
            Write::Flush { reply } => drop(reply.send(Ok(()))),
            Write::Alter { altered, reply, .. } => drop(reply.send(Ok(altered))),
            Write::SetAside { damaged: Damaged { e, queue, .. }, fate } => {
                let entry = entry_number(e);
                match fate {
                    Some(Fate::Aside(message)) => {
                        tracing::error!(?message, entry, %queue, "a stored entry cannot be read and is set aside");
                        self.shared.note_aside(SetAside::new(message, entry, queue, DAMAGED.into()));
                    }
                    Some(Fate::Removed(message)) => {
                        tracing::warn!(?message, entry, "a stored entry that cannot be read is cancelled");
                    }
                    None => {}
                }
            }
            Write::Discard { .. } | Write::Move { .. } => {}
        }
    }

    /// Staged bodies that now belong to a message are nobody's to give up any more.
    fn keep_staged(&self, rows: &mut [Row]) {
        for row in rows {
            if row.inserted
                && let Some(staged) = &row.staged
            {
                lock_staged(&self.shared).remove(&staged.number);
            }
        }
    }

    /// Refuses new mail for which `max_octets` leaves no room; what empties the spool goes on.
    fn refuse_past_limit(&self, writes: Vec<Write>) -> Vec<Write> {
        let Some(limit) = self.shared.options.max_octets else { return writes };
        let pages = |sql: &str| -> u64 {
            let pages = self.conn.prepare_cached(sql).and_then(|mut s| s.query_row([], |row| row.get(0)));
            count(pages.unwrap_or_default())
        };
        let free = pages("PRAGMA freelist_count");
        let used = pages("PRAGMA page_count").saturating_sub(free).saturating_mul(self.page);
        self.shared.database.store(used, Ordering::Relaxed);
        let mut room = limit.saturating_sub(self.shared.used());
        let mut kept = Vec::with_capacity(writes.len());
        for write in writes {
            let needs = match &write {
                Write::Enqueue { .. } => write.weight() as u64,
                _ => 0,
            };
            match room.checked_sub(needs) {
                Some(left) if needs == 0 || left > 0 => {
                    room = left;
                    kept.push(write);
                }
                _ => write.fail(SpoolError::Full),
            }
        }
        kept
    }

    /// Puts everything into the index.
    fn list(&mut self) -> rusqlite::Result<()> {
        let left = self.ledger.unlisted.all();
        let tx = self.conn.transaction()?;
        left.into_iter().try_for_each(|e| tx.prepare_cached(LIST)?.execute([e]).map(drop))?;
        tx.commit()
    }

    fn leave_clean(&mut self) -> Result<(), SpoolError> {
        let clean = match self.list() {
            Ok(()) => CLEAN,
            // The next opening finds what is not in the index.
            Err(error) if is_full(&error) => CLEAN_UNLISTED,
            Err(error) => return Err(failure(error)),
        };
        self.conn.execute("UPDATE meta SET value = ?1 WHERE key = 'clean'", [clean]).map_err(failure)?;
        self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)").map_err(failure)?;
        Ok(())
    }
}

/// The staged bodies.
pub(super) fn lock_staged(shared: &Shared) -> MutexGuard<'_, HashMap<u64, Held>> {
    shared.staged.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

/// [`failure`] of an error that is needed once more.
fn failure_again(error: &rusqlite::Error) -> SpoolError {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => {
            failure(rusqlite::Error::SqliteFailure(*code, text.clone()))
        }
        other => SpoolError::Storage(io::Error::other(other.to_string())),
    }
}

/// How often a claim that found nothing but damage goes on: a million rows. More are left to the next one.
const TURNS: u32 = 1_000;

/// What a group writes besides what it brings, generously: pages of the tables and indices it touches.
const SPARE: u64 = 2 << 20;
