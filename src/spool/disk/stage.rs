//! Staging takes a body in while its sender is still sending, in bounded memory.
//!
//! A small body stays in memory until its message is enqueued, so that both are written at once. A
//! larger one gets a file of its own that grows piece by piece, one piece under way per body; so does a small
//! one when the memory for all of them together is used up. No row names the file before the message's: it is
//! removed when the body is given up, or at the next open.
//!
//! The writer has nothing to do with the file, so that short messages do not wait for long ones: what is
//! synced here is the file of one body, before its message is handed over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};
use tokio::task::JoinHandle;

use super::super::{BodyWriter, SpoolError, Staged, StagedGuard};
use super::calls::Write;
use super::files::{SegmentFile, SegmentFiles};
use super::queue::{Held, Shared, UNIT};
use super::segments::{Place, path};
use super::writer::lock_staged;
use super::{PIECE, storage};
use crate::BoxFuture;

/// A body being taken in.
#[derive(Debug)]
pub(super) struct StageWriter {
    hold: Hold,
    buffer: BytesMut,
    /// The memory that the buffer may use.
    permit: Option<OwnedSemaphorePermit>,
    size: u64,
    crc: crc32fast::Hasher,
    /// Its file, unless a piece is being written.
    file: Option<Box<dyn SegmentFile>>,
    under_way: Option<JoinHandle<io::Result<Box<dyn SegmentFile>>>>,
}

/// Gives the body up when dropped, unless a message has taken it.
#[derive(Debug)]
struct Hold {
    shared: Arc<Shared>,
    number: u64,
    /// The file's number and size, once there is one.
    file: Option<(i64, u64)>,
    given_up: Arc<AtomicBool>,
    finished: bool,
}

impl StagedGuard for Hold {}

impl Drop for Hold {
    fn drop(&mut self) {
        let taken = self.finished && lock_staged(&self.shared).remove(&self.number).is_none();
        let Some((seg, size)) = self.file else { return };
        self.shared.staged_octets.fetch_sub(size, Ordering::Relaxed);
        if !taken {
            // For a thread that is only now making the file.
            self.given_up.store(true, Ordering::SeqCst);
            // A closed spool collects it at the next open.
            let _ = self.shared.write(Write::Discard { seg }, true);
        }
    }
}

impl StageWriter {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let given_up = Arc::default();
        let hold = Hold { number: shared.number(), shared, file: None, given_up, finished: false };
        Self {
            hold,
            buffer: BytesMut::new(),
            permit: None,
            size: 0,
            crc: crc32fast::Hasher::new(),
            file: None,
            under_way: None,
        }
    }

    async fn add(&mut self, mut octets: Bytes) -> Result<(), SpoolError> {
        self.crc.update(&octets);
        while !octets.is_empty() {
            let most = if self.hold.file.is_some() { PIECE } else { WHOLE };
            let room = most.saturating_sub(self.buffer.len());
            let part = octets.split_to(room.min(octets.len()));
            self.size += part.len() as u64;
            let fits = self.reserve(part.len())?;
            self.buffer.extend_from_slice(&part);
            if !fits || self.buffer.len() >= most {
                self.spill().await?;
            }
            if !fits {
                // Memory is short: nothing of this body stays in it.
                self.arrived().await?;
            }
        }
        Ok(())
    }

    /// Takes memory for so many octets; false when there is none left.
    fn reserve(&mut self, octets: usize) -> Result<bool, SpoolError> {
        let units = u32::try_from(octets.div_ceil(UNIT)).unwrap_or(u32::MAX);
        match Arc::clone(&self.hold.shared.staging).try_acquire_many_owned(units) {
            Ok(more) => {
                match &mut self.permit {
                    Some(permit) => permit.merge(more),
                    None => self.permit = Some(more),
                }
                Ok(true)
            }
            Err(TryAcquireError::NoPermits) => Ok(false),
            Err(TryAcquireError::Closed) => {
                self.hold.shared.check_open()?;
                Err(SpoolError::Closed)
            }
        }
    }

    /// Hands the buffer to a thread that writes it, when the piece before has arrived.
    async fn spill(&mut self) -> Result<(), SpoolError> {
        self.arrived().await?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        let shared = &self.hold.shared;
        shared.check_open()?;
        let more = self.buffer.len() as u64;
        if shared.options.max_octets.is_some_and(|limit| shared.used().saturating_add(more) > limit) {
            return Err(SpoolError::Full);
        }
        let thread = Arc::clone(&shared.stagers).acquire_owned().await.map_err(|_| SpoolError::Closed)?;
        shared.staged_octets.fetch_add(more, Ordering::Relaxed);
        let (seg, size) = self.hold.file.unwrap_or_else(|| (shared.segment_number(), 0));
        self.hold.file = Some((seg, size + more));
        let path = path(&shared.segment_dir, seg);
        let files = Arc::clone(&shared.files);
        let given_up = Arc::clone(&self.hold.given_up);
        let file = self.file.take();
        // Not split off: what is left of the buffer would keep its whole memory.
        let octets = std::mem::take(&mut self.buffer);
        let permits = (self.permit.take(), thread);
        self.under_way = Some(tokio::task::spawn_blocking(move || {
            let mut file = match file {
                Some(file) => file,
                None => create(&*files, &path, &given_up)?,
            };
            file.append(&octets)?;
            drop((octets, permits));
            Ok(file)
        }));
        Ok(())
    }

    async fn arrived(&mut self) -> Result<(), SpoolError> {
        if let Some(under_way) = self.under_way.take() {
            let file = under_way.await.map_err(io::Error::other).flatten().map_err(storage)?;
            self.file = Some(file);
        }
        Ok(())
    }

    async fn end(mut self) -> Result<Staged, SpoolError> {
        if self.hold.file.is_some() {
            self.spill().await?;
        }
        self.arrived().await?;
        let place = match (self.hold.file, self.file.take()) {
            (Some((seg, len)), Some(file)) => {
                sync(&self.hold.shared, file).await?;
                Some(Place { seg, off: 0, len })
            }
            _ => None,
        };
        let whole = place.is_none().then(|| self.buffer.split().freeze());
        let crc = self.crc.finalize();
        let held = Held { size: self.size, whole, place, crc, _permit: self.permit.take() };
        self.hold.shared.check_open()?;
        lock_staged(&self.hold.shared).insert(self.hold.number, held);
        self.hold.finished = true;
        Ok(Staged { number: self.hold.number, size: self.size, guard: Some(Box::new(self.hold)) })
    }
}

impl BodyWriter for StageWriter {
    fn write(&mut self, octets: Bytes) -> BoxFuture<'_, Result<(), SpoolError>> {
        Box::pin(self.add(octets))
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Staged, SpoolError>> {
        Box::pin(self.end())
    }
}

/// Makes the file durable, and its name.
async fn sync(shared: &Arc<Shared>, mut file: Box<dyn SegmentFile>) -> Result<(), SpoolError> {
    let thread = Arc::clone(&shared.stagers).acquire_owned().await.map_err(|_| SpoolError::Closed)?;
    let (files, dir) = (Arc::clone(&shared.files), shared.segment_dir.clone());
    let synced = tokio::task::spawn_blocking(move || {
        let _thread = thread;
        file.sync().and_then(|()| files.sync_dir(&dir))
    });
    let synced = synced.await.map_err(io::Error::other).flatten();
    synced.map_err(|error| {
        // No row names the file; but a disk that fails one sync is not believed the next.
        tracing::error!(%error, "a body could not be synced, and the spool must be opened again");
        shared.poison();
        SpoolError::Unknown(error)
    })
}

fn create(
    files: &dyn SegmentFiles,
    path: &std::path::Path,
    given_up: &AtomicBool,
) -> io::Result<Box<dyn SegmentFile>> {
    let file = files.create(path)?;
    if given_up.load(Ordering::SeqCst) {
        // It was to be removed before it was there.
        files.remove(path)?;
        return Err(io::ErrorKind::Interrupted.into());
    }
    Ok(file)
}

/// A body up to this size waits in memory for its message, where there is memory: it then needs no file, no
/// sync and no name of its own.
const WHOLE: usize = 1 << 20;
