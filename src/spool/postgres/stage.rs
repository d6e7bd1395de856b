//! Staging takes a body in while its sender is still sending, in bounded memory, and gives bodies out again.
//!
//! A small body stays in memory until its message is enqueued, so that both are stored by one statement. A
//! larger one goes to its table piece by piece, under a name of its own; so does a small one when the memory
//! for all of them together is used up. What is given up is dropped in the background; what a node that died
//! had staged is collected after a day, by any other.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::{BodyRef, BodyWriter, NewBody, NewMessage, SpoolError, Staged, StagedGuard};
use super::error::{Failure, Tries};
use super::insert::Bodies;
use super::tables::Call;
use super::value::Id;
use super::{Inner, PIECE, trying};
use crate::BoxFuture;
use crate::clock::{Clock, SystemClock};
use crate::message::{Content, MessageId, ReadBody};

/// The bodies that are staged and that no message has.
#[derive(Debug)]
pub(super) struct Staging {
    /// Memory for them, in units of [`UNIT`].
    memory: Arc<Semaphore>,
    next: AtomicU64,
    held: Mutex<HashMap<u64, Body>>,
}

/// A finished staged body.
#[derive(Debug)]
struct Body {
    size: u64,
    place: Place,
    _permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Place {
    Memory(Bytes),
    Table(MessageId),
}

impl Staging {
    pub(super) fn new(octets: usize) -> Self {
        let memory = Arc::new(Semaphore::new((octets / UNIT).min(Semaphore::MAX_PERMITS)));
        Self { memory, next: AtomicU64::new(1), held: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Body>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the bodies of a batch: those in memory become the messages' own.
    pub(super) fn bodies(&self, batch: &mut [NewMessage]) -> Result<Bodies, SpoolError> {
        let mut bodies = Bodies::new();
        for message in batch {
            let NewBody::Staged(staged) = &message.body else { continue };
            let mut held = self.lock();
            let whole = match held.get(&staged.number).filter(|body| body.size == staged.size) {
                Some(Body { place: Place::Memory(octets), .. }) => octets.clone(),
                Some(Body { place: Place::Table(id), .. }) => {
                    bodies.insert(staged.number, *id);
                    continue;
                }
                None => return Err(SpoolError::Invalid("its staged body is not one of this spool")),
            };
            held.remove(&staged.number);
            drop(held);
            message.body = NewBody::Inline(whole);
        }
        Ok(bodies)
    }

    /// A message has this body now.
    pub(super) fn taken(&self, body: &NewBody) {
        if let NewBody::Staged(staged) = body {
            self.lock().remove(&staged.number);
        }
    }
}

/// Starts a body.
pub(super) fn writer(inner: &Arc<Inner>) -> Box<dyn BodyWriter> {
    let number = inner.staging.next.fetch_add(1, Ordering::Relaxed);
    let id = MessageId::new(SystemClock.now().wall, &inner.rng);
    let hold = Hold { inner: Arc::clone(inner), number, id, in_table: false, finished: false };
    Box::new(Writer { hold, buffer: BytesMut::new(), permit: None, size: 0, pieces: 0 })
}

/// Gives the body up when dropped, unless a message has taken it.
struct Hold {
    inner: Arc<Inner>,
    number: u64,
    id: MessageId,
    in_table: bool,
    finished: bool,
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({})", self.number)
    }
}

impl StagedGuard for Hold {}

impl Drop for Hold {
    fn drop(&mut self) {
        let taken = self.finished && self.inner.staging.lock().remove(&self.number).is_none();
        if taken || !self.in_table {
            return;
        }
        let (inner, id) = (Arc::clone(&self.inner), self.id);
        self.inner.runtime.spawn(async move {
            if let Err(failure) = inner.run(Call::DropStaged, &[&Id(id)]).await {
                tracing::debug!(?failure, "a staged body is left to be collected");
            }
        });
    }
}

/// A body being taken in.
struct Writer {
    hold: Hold,
    buffer: BytesMut,
    /// The memory that the buffer may use.
    permit: Option<OwnedSemaphorePermit>,
    size: u64,
    pieces: i32,
}

impl Writer {
    async fn add(&mut self, mut octets: Bytes) -> Result<(), SpoolError> {
        while !octets.is_empty() {
            let room = PIECE.saturating_sub(self.buffer.len());
            let part = octets.split_to(room.min(octets.len()));
            self.size += part.len() as u64;
            let fits = self.reserve(part.len());
            self.buffer.extend_from_slice(&part);
            if !fits || self.buffer.len() >= PIECE {
                self.spill().await?;
            }
        }
        Ok(())
    }

    /// Takes memory for so many octets; false when there is none left.
    fn reserve(&mut self, octets: usize) -> bool {
        let units = u32::try_from(octets.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let Ok(more) = Arc::clone(&self.hold.inner.staging.memory).try_acquire_many_owned(units) else {
            return false;
        };
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        true
    }

    /// Sends the buffer to its table.
    async fn spill(&mut self) -> Result<(), SpoolError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let octets = self.buffer.split().freeze();
        let id = Id(self.hold.id);
        // A piece that was stored although its answer was lost is there twice over: the body is given up.
        if self.pieces == 0 {
            self.hold.in_table = true;
            self.hold.inner.run(Call::StageBody, &[&id, &&*octets]).await?;
        } else if self.hold.inner.run(Call::Piece, &[&id, &self.pieces, &&*octets]).await?.is_empty() {
            return Err(SpoolError::Storage(io::Error::other("the staged body was collected")));
        }
        self.pieces = self.pieces.checked_add(1).ok_or(SpoolError::TooLarge)?;
        self.permit = None;
        Ok(())
    }

    async fn end(mut self) -> Result<Staged, SpoolError> {
        if self.pieces > 0 {
            self.spill().await?;
        }
        let place = match self.pieces {
            0 => Place::Memory(self.buffer.split().freeze()),
            _ => Place::Table(self.hold.id),
        };
        let inner = Arc::clone(&self.hold.inner);
        if inner.link.is_closed() {
            return Err(SpoolError::Closed);
        }
        let body = Body { size: self.size, place, _permit: self.permit.take() };
        inner.staging.lock().insert(self.hold.number, body);
        self.hold.finished = true;
        Ok(Staged { number: self.hold.number, size: self.size, guard: Some(Box::new(self.hold)) })
    }
}

impl BodyWriter for Writer {
    fn write(&mut self, octets: Bytes) -> BoxFuture<'_, Result<(), SpoolError>> {
        Box::pin(self.add(octets))
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Staged, SpoolError>> {
        Box::pin(self.end())
    }
}

/// Opens the body of a message.
pub(super) async fn body(inner: &Arc<Inner>, body: &BodyRef) -> Result<Content, SpoolError> {
    if let Some(octets) = &body.at_hand {
        return Ok(Content::Whole(octets.clone()));
    }
    let whole = usize::try_from(body.size).is_ok_and(|size| size <= PIECE);
    let mut reader = Reader { inner: Arc::clone(inner), id: body.message, next: 0, left: body.size };
    // The first piece in any case, so that a body that is not there is noticed here.
    let first = reader.pieces(if whole { i32::MAX } else { 1 }).await?;
    let octets = first.iter().map(|octets| octets.len() as u64).sum::<u64>();
    if (first.is_empty() && !reader.is_there().await?) || octets > body.size || (whole && octets != body.size)
    {
        return Err(SpoolError::Corrupt);
    }
    if whole {
        return Ok(Content::Whole(first.concat().into()));
    }
    reader.next = 0;
    Ok(Content::Stream { size: body.size, reader: Box::new(reader) })
}

/// Reads a body piece by piece, each with a statement of its own: no transaction is open while a slow host takes
/// it in.
struct Reader {
    inner: Arc<Inner>,
    id: MessageId,
    next: i32,
    left: u64,
}

impl Reader {
    async fn pieces(&mut self, count: i32) -> Result<Vec<Vec<u8>>, SpoolError> {
        let until = self.next.saturating_add(count);
        let rows = self.inner.run(Call::Body, &[&Id(self.id), &self.next, &until]).await?;
        self.next = until;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(|_| SpoolError::Corrupt)
    }

    async fn is_there(&self) -> Result<bool, SpoolError> {
        Ok(!self.inner.run(Call::IsThere, &[&Id(self.id)]).await?.is_empty())
    }

    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let piece = self.pieces(1).await.map_err(io::Error::other)?;
        let octets =
            piece.into_iter().next().filter(|octets| !octets.is_empty() && octets.len() as u64 <= self.left);
        let octets = octets.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, SpoolError::Corrupt))?;
        self.left -= octets.len() as u64;
        Ok(Some(octets.into()))
    }
}

impl ReadBody for Reader {
    fn chunk(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        Box::pin(self.read())
    }
}

impl Inner {
    /// Runs one statement, again where that may help.
    pub(super) async fn run(
        &self,
        call: Call,
        params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, SpoolError> {
        trying!(self.run_once(call, params))
    }

    /// Runs one statement.
    pub(super) async fn run_once(
        &self,
        call: Call,
        params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, Failure> {
        let mut held = self.link.take().await?;
        let rows = self.link.timed(held.conn().on(&self.link.tables).query(call, params)).await?;
        held.release();
        Ok(rows)
    }
}

/// A semaphore counts 32 bits at a time: in KiB, no piece comes near.
const UNIT: usize = 1024;
