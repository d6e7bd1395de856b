//! The disk spool is an SQLite database in a directory that one process owns at a time.
//!
//! ```text
//! LOCK           held while the spool is open
//! spool.db       the database; spool.db-wal and spool.db-shm stand beside it while it is open
//! ballast        given up when the disk is full
//! seg/           bodies, except those of small groups of mail, which are in the database
//! ```
//! SQLite, because its format is stable and documented, its recovery is tried like no other, and any
//! SQLite shell can show what a stopped relay still holds (`SELECT * FROM mail`).
//!
//! *rows* formats what a call brings → *queue* bounds what waits (*calls*) → *writer* commits it in groups
//! (*apply* is the SQL, *prepared* what of it each message needs, *bodies* that of bodies, *damaged* that of what cannot be read, *keys*, *results* and *log* that of what outlives a message,
//! *ledger* the leases and counts, *unlisted* what no index has) → *schema* is the format, *migrate* brings earlier ones up to date. *segments* are the files of bodies, *clean* copies
//! the last ones out of a file, *stage* takes large ones in while they arrive, *content* gives them out, *reader*
//! answers what people ask.

mod alter;
mod apply;
mod ballast;
mod bodies;
mod calls;
mod clean;
mod content;
mod damaged;
mod files;
mod keys;
mod ledger;
mod log;
mod migrate;
mod prepared;
mod queue;
mod reader;
mod results;
mod rows;
mod schema;
mod segments;
mod select;
mod stage;
mod tell;
#[cfg(test)]
mod tests;
mod unlisted;
mod wal;
mod writer;

use std::fs::{self, File, TryLockError};
use std::future::ready;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::altering::concerns;
use super::{
    Alter, Altered, BodyRef, BodyWriter, Claim, ClaimRequest, Class, Durability, Enqueued, EntrySummary,
    KeepLog, Logged, NewBody, NewMessage, QueueName, QueueSummary, REPORT_ENTRY, Results, Selection,
    SetAside, Settlement, Spool, SpoolError, Stats, Token, rules,
};
use crate::BoxFuture;
use crate::clock::Timestamp;
use crate::message::{Content, MessageId};
use ballast::Ballast;
use calls::{Look, Write};
#[doc(hidden)]
pub use files::{Files, SegmentFile, SegmentFiles};
use ledger::Ledger;
use queue::Shared;
use reader::Readers;
use rows::{Octets, Row, SettleRow};
use segments::Segments;
use stage::StageWriter;
use wal::Wal;
use writer::{Writer, lock_staged};

/// How a [`DiskSpool`] uses memory and disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskOptions {
    /// Octets of new mail that may wait for the disk in memory before [`SpoolError::Full`]. Default
    /// 64 MiB, a second or so of a good disk; also the largest message that can be given whole.
    /// Settlements may use as much again.
    pub queue_octets: usize,
    /// Calls that may wait for the disk. Default 8,192.
    pub queue_operations: usize,
    /// Octets that all staged bodies together may hold in memory. Default 32 MiB; past that they go
    /// to the disk in smaller pieces.
    pub staging_octets: usize,
    /// How long a settlement with [`Durability::Soon`] may wait for others to be written with.
    /// Default 50 ms.
    pub lazy: Duration,
    /// Size of the write-ahead log at which it is written back, between two groups. Default 16 MiB:
    /// larger means fewer and longer pauses, and more mail that is never written twice; but SQLite goes
    /// through the copies of a page that the log has already each time it writes that page.
    pub wal_octets: u64,
    /// Size of the database at which new mail is refused. Default none: the disk's. Settlements and
    /// their reports may use 4 MiB more, so that a full spool can empty itself.
    pub max_octets: Option<u64>,
    /// Size of a file with several bodies. Default 64 MiB: larger means fewer files, and longer until the
    /// room of delivered mail can be used again; a quarter of it in use is the least that is cleaned up.
    pub segment_octets: u64,
    /// Size of a file that is kept so that it can be given up when the disk is full: what was delivered can
    /// then still be written down, and new mail is refused until there is room for it again. Default 0, none;
    /// 16 MiB is right for a relay whose disk others may fill.
    pub ballast_octets: u64,
    /// The SQLite VFS to use, for tests. Default: the system's.
    #[doc(hidden)]
    pub vfs: Option<Box<str>>,
    /// The files of segments, for tests. Default: the system's.
    #[doc(hidden)]
    pub files: Files,
}

impl DiskOptions {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue_octets: 64 << 20,
            queue_operations: 8192,
            staging_octets: 32 << 20,
            lazy: Duration::from_millis(50),
            wal_octets: 16 << 20,
            max_octets: None,
            segment_octets: 64 << 20,
            ballast_octets: 0,
            vfs: None,
            files: Files(None),
        }
    }
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// What a [`DiskSpool`] has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DiskCounters {
    /// Transactions, each with one sync.
    pub commits: u64,
    /// Calls and pieces of bodies that were committed. Divided by `commits`: the size of a group.
    pub operations: u64,
    /// How often the log was written back.
    pub checkpoints: u64,
    /// Bodies that were copied out of a file in which little else was in use, so that it could be removed.
    pub moved: u64,
}

/// A [`Spool`] on disk. Clones are handles on the same spool; when the last is dropped, what was
/// handed over is written, which blocks for as long as that takes. [`DiskSpool::close`] does the same
/// without blocking and tells how it went.
#[derive(Debug, Clone)]
pub struct DiskSpool {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    thread: Mutex<Option<JoinHandle<()>>>,
    clean: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.readers.close();
        self.shared.close(None);
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A thread that panicked has answered everybody already.
            let _ = thread.join();
        }
    }
}

impl DiskSpool {
    /// Opens the spool in this directory, which is made when it is not there.
    ///
    /// # Errors
    /// [`SpoolError::Locked`] when it is open already, [`SpoolError::Version`] when it was written by
    /// a version that this one does not understand, [`SpoolError::Corrupt`], [`SpoolError::Storage`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, SpoolError> {
        Self::open_with(directory, DiskOptions::new())
    }

    /// Opens the spool with other options than the defaults.
    ///
    /// # Errors
    /// As [`DiskSpool::open`].
    pub fn open_with(directory: impl AsRef<Path>, options: DiskOptions) -> Result<Self, SpoolError> {
        let directory = directory.as_ref();
        make_directory(directory, &*options.files.get()).map_err(SpoolError::Storage)?;
        let lock = lock(directory)?;
        let path = directory.join(DATABASE);
        let mut conn = schema::open_writer(&path, &options)?;
        let page = schema::page_size(&conn).map_err(schema::failure)?;
        let (found, unlisted) = schema::take_stock(&mut conn).map_err(schema::failure)?;
        let unlisted = Arc::new(unlisted);
        let seg = directory.join(SEGMENTS);
        let (known, next_segment) = Segments::open(&seg, &*options.files.get(), &conn)?;
        let shared = Arc::new(Shared::new(options, seg, found.next, next_segment, found.stats));
        let segments = Segments::new(Arc::clone(&shared), known);
        let ledger = Ledger::new(&found, Arc::clone(&unlisted));
        let ballast = Ballast::new(directory.join("ballast"), shared.options.ballast_octets);
        let wal = Wal::unknown();
        let writer = Writer { conn, page, lock, shared: Arc::clone(&shared), ledger, segments, ballast, wal };
        let thread = std::thread::Builder::new()
            .name("postroad-spool".into())
            .spawn(move || writer.run())
            .map_err(SpoolError::Storage)?;
        let readers = Arc::new(Readers::new(path, Arc::clone(&shared), unlisted));
        let thread = Mutex::new(Some(thread));
        Ok(Self { handle: Arc::new(Handle { shared, readers, thread, clean: found.clean }) })
    }

    /// Whether the spool had been closed properly before it was opened; if not, its owner was killed
    /// or the power failed, and some settlements may have been forgotten.
    #[must_use]
    pub fn was_clean(&self) -> bool {
        self.handle.clean
    }

    /// What it has done since it was opened.
    #[must_use]
    pub fn counters(&self) -> DiskCounters {
        self.handle.shared.counters()
    }

    /// Writes what was handed over, puts the log away and lets go of the directory. Other handles
    /// then get [`SpoolError::Closed`].
    ///
    /// # Errors
    /// [`SpoolError::Closed`] or [`SpoolError::Poisoned`] when it was that already; else what went
    /// wrong with the last writing. Mail that was acknowledged is safe in any case.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the closing.
    pub async fn close(self) -> Result<(), SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.handle.shared.check_open()?;
        self.handle.readers.close();
        if !self.handle.shared.close(Some(reply)) {
            return Err(SpoolError::Closed);
        }
        answered(answer).await
    }

    fn row(&self, message: NewMessage, claimed: bool) -> Result<Row, SpoolError> {
        rules::check_message(&message)?;
        let body = match &message.body {
            NewBody::Inline(octets) => Octets {
                number: self.handle.shared.number(),
                octets: Some(octets.clone()),
                place: None,
                crc: crc32fast::hash(octets),
            },
            NewBody::Staged(staged) => match lock_staged(&self.handle.shared).get(&staged.number) {
                Some(held) if held.size == staged.size => Octets {
                    number: staged.number,
                    octets: held.whole.clone(),
                    place: held.place,
                    crc: held.crc,
                },
                _ => return Err(SpoolError::Invalid("its staged body is not one of this spool")),
            },
        };
        Row::new(message, body, claimed)
    }

    fn rows(&self, batch: Vec<NewMessage>, claimed: bool) -> Result<Vec<Row>, SpoolError> {
        let mut rows = Vec::with_capacity(batch.len());
        for message in batch {
            rows.push(self.row(message, claimed)?);
        }
        Ok(rows)
    }

    async fn write<T>(
        &self,
        urgent: bool,
        write: impl FnOnce(calls::Reply<T>) -> Write,
    ) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.handle.shared.write(write(reply), urgent)?;
        answered(answer).await
    }

    async fn look<T>(&self, look: impl FnOnce(calls::Reply<T>) -> Look) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.handle.shared.look(look(reply))?;
        answered(answer).await
    }
}

impl Spool for DiskSpool {
    fn stage(&self) -> BoxFuture<'_, Result<Box<dyn BodyWriter>, SpoolError>> {
        let shared = &self.handle.shared;
        let writer = shared.check_open().map(|()| {
            let writer: Box<dyn BodyWriter> = Box::new(StageWriter::new(Arc::clone(shared)));
            writer
        });
        Box::pin(ready(writer))
    }

    fn enqueue(
        &self,
        batch: Vec<NewMessage>,
        lease: Option<Timestamp>,
    ) -> BoxFuture<'_, Result<Enqueued, SpoolError>> {
        Box::pin(async move {
            let rows = self.rows(batch, lease.is_some())?;
            self.write(true, |reply| Write::Enqueue { rows, lease, conflict: false, reply }).await
        })
    }

    fn claim(&self, request: ClaimRequest) -> BoxFuture<'_, Result<Vec<Claim>, SpoolError>> {
        Box::pin(self.look(|reply| Look::Claim { request, turns: 0, reply }))
    }

    fn body(&self, body: &BodyRef) -> BoxFuture<'_, Result<Content, SpoolError>> {
        let body = body.clone();
        Box::pin(async move {
            self.handle.shared.check_open()?;
            self.handle.readers.body(&body).await
        })
    }

    fn extend(&self, tokens: Vec<Token>, lease: Timestamp) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        Box::pin(self.look(move |reply| Look::Extend { tokens, lease, reply }))
    }

    fn settle(
        &self,
        batch: Vec<Settlement>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        Box::pin(async move {
            let mut rows = Vec::with_capacity(batch.len());
            for mut settlement in batch {
                rules::check_settlement(&settlement)?;
                let submit = self.rows(std::mem::take(&mut settlement.submit), false)?;
                rows.push(SettleRow::new(settlement, submit)?);
            }
            let urgent = durability == Durability::Synced;
            self.write(urgent, |reply| Write::Settle { rows, fenced: Vec::new(), reply }).await
        })
    }

    fn queues(
        &self,
        after: Option<(QueueName, Class)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<QueueSummary>, SpoolError>> {
        Box::pin(self.look(move |reply| Look::Queues { after, limit, reply }))
    }

    fn scan(
        &self,
        which: Selection,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<EntrySummary>, SpoolError>> {
        Box::pin(async move {
            self.handle.shared.check_open()?;
            self.handle.readers.scan(which, after, limit).await
        })
    }

    fn alter(&self, alter: Alter) -> BoxFuture<'_, Result<Altered, SpoolError>> {
        Box::pin(async move {
            self.handle.shared.check_open()?;
            let Alter { which, change, now, after, limit } = alter;
            let reports = concerns(&change, REPORT_ENTRY);
            let (rows, next) = self.handle.readers.page(which, reports, after, limit).await?;
            if rows.is_empty() {
                return Ok(Altered { next, ..Altered::default() });
            }
            let altered = Altered { next, ..Altered::default() };
            self.write(true, |reply| Write::Alter { rows, change, now, altered, reply }).await
        })
    }

    fn results(&self, message: MessageId) -> BoxFuture<'_, Result<Option<Results>, SpoolError>> {
        Box::pin(async move {
            self.handle.shared.check_open()?;
            self.handle.readers.run(move |conn| results::read(conn, message)).await
        })
    }

    fn log(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Logged>, SpoolError>> {
        Box::pin(async move {
            self.handle.shared.check_open()?;
            self.handle.readers.run(move |conn| log::read(conn, after, limit)).await
        })
    }

    fn prune(&self, now: Timestamp, log: KeepLog) -> BoxFuture<'_, Result<bool, SpoolError>> {
        // Not urgent: it rides on a group.
        Box::pin(self.write(false, move |reply| Write::Prune { now, log, more: false, reply }))
    }

    fn set_aside(&self) -> Vec<SetAside> {
        self.handle.shared.take_asides()
    }

    fn stats(&self) -> Stats {
        self.handle.shared.stats()
    }

    fn wait(&self, limit: Duration) -> BoxFuture<'_, ()> {
        // One process owns the directory: nobody else can put anything in.
        Box::pin(tokio::time::sleep(limit))
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), SpoolError>> {
        Box::pin(self.write(true, |reply| Write::Flush { reply }))
    }
}

/// Waits for the writer's answer. It ends without one only when its thread dies.
async fn answered<T>(answer: oneshot::Receiver<Result<T, SpoolError>>) -> Result<T, SpoolError> {
    let died = |_| Err(SpoolError::Unknown(io::Error::other("the spool's writer has died")));
    answer.await.unwrap_or_else(died)
}

/// Makes the directory for its owner alone, and its name durable.
fn make_directory(directory: &Path, files: &dyn SegmentFiles) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)?;
    match directory.canonicalize()?.parent() {
        Some(parent) => files.sync_dir(parent),
        None => Ok(()),
    }
}

fn lock(directory: &Path) -> Result<File, SpoolError> {
    let path = directory.join("LOCK");
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(SpoolError::Storage)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::Locked),
        Err(TryLockError::Error(error)) => Err(SpoolError::Storage(error)),
    }
}

/// What an error of a file means before anything was committed.
fn storage(error: io::Error) -> SpoolError {
    if is_no_room(&error) { SpoolError::Full } else { SpoolError::Storage(error) }
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

const DATABASE: &str = "spool.db";
const SEGMENTS: &str = "seg";

/// The size of a piece of a body: large enough that a 25 MiB message has a hundred, small enough that
/// two per sender being received are no burden.
const PIECE: usize = 256 << 10;
