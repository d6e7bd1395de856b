//! Staging takes a body in while its sender is still sending, in bounded memory.
//!
//! A small body stays in memory until its message is enqueued, so that both are written at once. A
//! larger one goes to the table piece by piece, one piece under way per body; so does a small one
//! when the memory for all of them together is used up. The table `staged` names what no message
//! names yet: it is collected when the body is given up, or at the next open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError, oneshot};

use super::super::{BodyWriter, SpoolError, Staged, StagedGuard};
use super::queue::{Held, Shared, UNIT, Write};
use super::schema::{SHIFT, column};
use super::writer::lock_staged;
use super::{PIECE, answered};
use crate::BoxFuture;

/// A body being taken in.
#[derive(Debug)]
pub(super) struct StageWriter {
    hold: Hold,
    buffer: BytesMut,
    /// The memory that the buffer may use.
    permit: Option<OwnedSemaphorePermit>,
    size: u64,
    pieces: i64,
    /// The piece that is being written.
    under_way: Option<oneshot::Receiver<Result<(), SpoolError>>>,
}

/// Gives the body up when dropped, unless a message has taken it.
#[derive(Debug)]
struct Hold {
    shared: Arc<Shared>,
    number: u64,
    in_table: AtomicBool,
    finished: bool,
}

impl StagedGuard for Hold {}

impl Drop for Hold {
    fn drop(&mut self) {
        let taken = self.finished && lock_staged(&self.shared).remove(&self.number).is_none();
        if !taken && self.in_table.load(Ordering::Relaxed) {
            // A closed spool collects it at the next open.
            let _ = self.shared.write(Write::Discard { n: column(self.number) }, true);
        }
    }
}

impl StageWriter {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let hold =
            Hold { number: shared.number(), shared, in_table: AtomicBool::new(false), finished: false };
        Self { hold, buffer: BytesMut::new(), permit: None, size: 0, pieces: 0, under_way: None }
    }

    async fn add(&mut self, mut octets: Bytes) -> Result<(), SpoolError> {
        while !octets.is_empty() {
            let room = PIECE.saturating_sub(self.buffer.len());
            let part = octets.split_to(room.min(octets.len()));
            self.size += part.len() as u64;
            let fits = self.reserve(part.len())?;
            self.buffer.extend_from_slice(&part);
            if !fits || self.buffer.len() >= PIECE {
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

    /// Hands the buffer to the writer, when the piece before has arrived.
    async fn spill(&mut self) -> Result<(), SpoolError> {
        self.arrived().await?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.pieces >= 1 << SHIFT {
            return Err(SpoolError::TooLarge);
        }
        let (reply, answer) = oneshot::channel();
        let piece = Write::Piece {
            n: column(self.hold.number),
            piece: self.pieces,
            octets: self.buffer.split().freeze(),
            permit: self.permit.take(),
            reply,
        };
        self.hold.shared.write(piece, true)?;
        self.hold.in_table.store(true, Ordering::Relaxed);
        self.pieces += 1;
        self.under_way = Some(answer);
        Ok(())
    }

    async fn arrived(&mut self) -> Result<(), SpoolError> {
        match self.under_way.take() {
            Some(answer) => answered(answer).await,
            None => Ok(()),
        }
    }

    async fn end(mut self) -> Result<Staged, SpoolError> {
        if self.pieces > 0 {
            self.spill().await?;
        }
        self.arrived().await?;
        let whole = (self.pieces == 0).then(|| self.buffer.split().freeze());
        let held = Held { size: self.size, whole, _permit: self.permit.take() };
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
