//! Reading is what needs no writer: bodies (see *content*), and entries for people, over a few connections
//! of its own.
//!
//! They see what is committed and never hold up the writer. Each read is one short transaction on a
//! thread for blocking work, so that no open body keeps the log from starting anew.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::super::{EntrySummary, Selection, SpoolError};
use super::queue::Shared;
use super::schema::{failure, open_reader};
use super::select::{self, Place};
use super::unlisted::Unlisted;
use crate::message::MessageId;

/// The connections that only read.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    shared: Arc<Shared>,
    unlisted: Arc<Unlisted>,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    pub(super) fn new(path: PathBuf, shared: Arc<Shared>, unlisted: Arc<Unlisted>) -> Self {
        Self { path, shared, unlisted, idle: Mutex::default(), permits: Semaphore::new(READERS) }
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
        let unlisted = Arc::clone(&self.unlisted);
        self.run(move |conn| select::summaries(conn, &unlisted, &which, after, limit)).await
    }

    /// A page of entries to alter, and where to go on.
    pub(super) async fn page(
        self: &Arc<Self>,
        which: Selection,
        reports: bool,
        after: Option<Place>,
        limit: usize,
    ) -> Result<(Vec<i64>, Option<Place>), SpoolError> {
        let unlisted = Arc::clone(&self.unlisted);
        self.run(move |conn| select::page(conn, &unlisted, &which, reports, after, limit)).await
    }
}

/// More do not read faster from one disk, and each keeps a cache of 2 MiB.
const READERS: usize = 4;
