//! Reading is what needs no writer: bodies (see *content*), and entries for people, over a few connections
//! of its own.
//!
//! They see what is committed and never hold up the writer. Each read is one short transaction on a
//! thread for blocking work, so that no open body keeps the log from starting anew.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, params};
use tokio::sync::Semaphore;

use super::super::{EntrySummary, Selection, SpoolError};
use super::queue::Shared;
use super::rows::{COMMON_COLUMNS, Common, columns, entry_number};
use super::schema::{failure, open_reader};
use crate::message::MessageId;

/// The connections that only read.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    shared: Arc<Shared>,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    pub(super) fn new(path: PathBuf, shared: Arc<Shared>) -> Self {
        Self { path, shared, idle: Mutex::default(), permits: Semaphore::new(READERS) }
    }

    /// Runs `read` on one of the connections.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let _permit = self.permits.acquire().await.map_err(|_| SpoolError::Closed)?;
        let readers = Arc::clone(self);
        let work = tokio::task::spawn_blocking(move || {
            let idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let conn =
                idle.map_or_else(|| open_reader(&readers.path, readers.shared.options.vfs.as_deref()), Ok)?;
            let result = read(&conn);
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
            result
        });
        match work.await {
            Ok(result) => result.map_err(failure),
            Err(error) => Err(SpoolError::Storage(io::Error::other(error))),
        }
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Runs what blocks on a file.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let _permit = self.permits.acquire().await.map_err(io::Error::other)?;
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten()
    }

    /// Lets go of the connections that are not in use.
    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) async fn scan(
        self: &Arc<Self>,
        which: Selection,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> Result<Vec<EntrySummary>, SpoolError> {
        let limit = limit.min(MAX_PAGE);
        if let Some(id) = which.message {
            let mut entries = self.entries(id).await?;
            entries.retain(|e| which.has(e) && after.is_none_or(|after| (e.message, e.entry) > after));
            entries.truncate(limit);
            return Ok(entries);
        }
        let (id, entry) = after.map_or((String::new(), -1), |(id, entry)| (id.to_string(), i64::from(entry)));
        self.run(move |conn| summaries(conn, SCAN, params![id, entry], &which, limit)).await
    }

    async fn entries(self: &Arc<Self>, message: MessageId) -> Result<Vec<EntrySummary>, SpoolError> {
        self.run(move |conn| {
            summaries(conn, ENTRIES, params![message.to_string()], &Selection::all(), usize::MAX)
        })
        .await
    }
}

/// Rows that cannot be read are left out: they are for a person with an SQLite shell.
fn summaries(
    conn: &Connection,
    sql: &str,
    params: &[&dyn rusqlite::ToSql],
    which: &Selection,
    limit: usize,
) -> rusqlite::Result<Vec<EntrySummary>> {
    let mut rows = conn.prepare_cached(sql)?;
    let mut rows = rows.query(params)?;
    let mut page = Vec::new();
    while page.len() < limit
        && let Some(row) = rows.next()?
    {
        page.extend(summary(row).filter(|entry| which.has(entry)));
    }
    Ok(page)
}

fn summary(row: &rusqlite::Row<'_>) -> Option<EntrySummary> {
    let common = Common::read(row)?;
    Some(EntrySummary {
        message: common.message,
        entry: entry_number(row.get(COMMON_COLUMNS).ok()?),
        mail: common.mail,
        handling: common.handling,
        accepted: common.accepted,
        expires: common.expires,
        destination: common.destination,
        queue: common.queue,
        due: common.due,
        attempts: common.attempts,
        cancelled: false,
        parked: row.get::<_, Option<Box<str>>>(COMMON_COLUMNS + 1).ok()?,
        recipients: common.recipients,
    })
}

// CROSS JOIN keeps the order of the tables, so that the order by id costs no sorting.
const SCAN: &str = columns!(
    ", e.e, e.parked FROM message m CROSS JOIN entry e ON e.e >= m.n << 20 AND e.e < (m.n + 1) << 20 \
     WHERE m.id >= ?1 AND (m.id > ?1 OR e.e & 1048575 > ?2) ORDER BY m.id, e.e"
);

const ENTRIES: &str = columns!(
    ", e.e, e.parked FROM message m CROSS JOIN entry e ON e.e >= m.n << 20 AND e.e < (m.n + 1) << 20 \
     WHERE m.id = ?1 ORDER BY e.e"
);

/// More do not read faster from one disk, and each keeps a cache of 2 MiB.
const READERS: usize = 4;

/// Rows of a page, an envelope each.
const MAX_PAGE: usize = 10_000;
