//! A wire is the socket of a session with its buffers and its one timer.
//!
//! Replies are gathered and leave in one write. A connection that waits for its client holds no read
//! buffer: octets are read into a buffer that all connections of a thread share, and copied out, so
//! that what a handler keeps is as large as what arrived. Only while large content flows are they
//! read in place.
//!
//! A socket that failed is *dead*: what is written to it vanishes and reading it gives its end, so
//! that there is one way out of a session.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::clock::{Clock, SystemClock};
use crate::net::connect::Io;

pub(super) struct Wire {
    io: Box<dyn Io>,
    /// What was read and not yet taken.
    pub(super) input: BytesMut,
    output: Bytes,
    /// TLS keeps what it has encrypted until it is flushed.
    unflushed: bool,
    /// When the output that is there must have been taken.
    taken_by: Option<Instant>,
    patience: Duration,
    timer: Timer,
    last_read: usize,
    dead: bool,
}

/// What reading brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Octets,
    Eof,
    TimedOut,
}

impl Wire {
    /// `patience` is how long a client may take to take our replies.
    pub(super) fn new(io: Box<dyn Io>, patience: Duration) -> Self {
        Self {
            io,
            input: BytesMut::new(),
            output: Bytes::new(),
            unflushed: false,
            taken_by: None,
            patience,
            timer: Timer::default(),
            last_read: 0,
            dead: false,
        }
    }

    /// Adds to the next write.
    pub(super) fn queue(&mut self, octets: Bytes) {
        if self.dead {
            return;
        }
        if self.output.is_empty() {
            self.output = octets;
        } else {
            let mut both = BytesMut::with_capacity(self.output.len() + octets.len());
            both.extend_from_slice(&self.output);
            both.extend_from_slice(&octets);
            self.output = both.freeze();
        }
    }

    /// Whether something waits to be written.
    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty() || self.unflushed
    }

    /// Gives the socket away, to be wrapped; [`Wire::put`] takes it back.
    pub(super) fn take(&mut self) -> Box<dyn Io> {
        std::mem::replace(&mut self.io, Box::new(tokio::io::empty()))
    }

    pub(super) fn put(&mut self, io: Box<dyn Io>) {
        self.io = io;
    }

    /// Ends everything: the peer is gone, or is to be treated so.
    pub(super) fn kill(&mut self) {
        self.dead = true;
        self.unflushed = false;
        self.output = Bytes::new();
    }

    pub(super) const fn is_dead(&self) -> bool {
        self.dead
    }

    /// Writes what was queued. Ready with how much was taken, when that is anything or nothing is
    /// left to do.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let mut taken = 0;
        while !self.output.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.output) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.output.advance(n);
                    self.unflushed = true;
                    taken += n;
                }
                Poll::Ready(_) => self.kill(),
                Poll::Pending if taken > 0 => return Poll::Ready(taken),
                Poll::Pending => ready!(self.poll_patience(cx)),
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => self.kill(),
                Poll::Pending if taken > 0 => return Poll::Ready(taken),
                Poll::Pending => ready!(self.poll_patience(cx)),
            }
        }
        self.taken_by = None;
        Poll::Ready(taken)
    }

    /// Ready when the client took too long to take our replies; the wire is dead then.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let patience = self.patience;
        let by = *self.taken_by.get_or_insert_with(|| SystemClock.mono() + patience);
        ready!(self.timer.poll(by, cx));
        self.kill();
        Poll::Ready(())
    }

    /// Reads once. `large` says that content flows, so that a read is worth a buffer of its own.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        until: Option<Instant>,
        large: bool,
    ) -> Poll<Read> {
        if self.dead {
            return Poll::Ready(Read::Eof);
        }
        // Small messages are copied even while content flows: what is kept of them would otherwise
        // hold a whole buffer.
        let own = large && self.last_read >= LARGE;
        let read = if own { self.poll_own(cx) } else { self.poll_shared(cx) };
        match read {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Read::Eof),
            Poll::Ready(Ok(octets)) => {
                self.last_read = octets;
                Poll::Ready(Read::Octets)
            }
            Poll::Pending => {
                if self.input.is_empty() {
                    // Idle connections hold nothing.
                    self.input = BytesMut::new();
                }
                match until {
                    Some(until) => self.timer.poll(until, cx).map(|()| Read::TimedOut),
                    None => Poll::Pending,
                }
            }
        }
    }

    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() - self.input.len() < LEAST_READ {
            self.input.reserve(READ);
        }
        pin!(self.io.read_buf(&mut self.input)).poll(cx)
    }

    fn poll_shared(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SHARED.with(|shared| {
            let mut shared = shared.borrow_mut();
            if shared.is_empty() {
                shared.resize(READ, 0);
            }
            let mut buffer = ReadBuf::new(&mut shared);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            self.input.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }
}

thread_local! {
    /// Lent for the duration of one read. A socket never reads another one's wire inside its own
    /// read, so that it is never lent twice.
    static SHARED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A timer that is moved as rarely as possible: a deadline that moves away costs nothing until the
/// old one has come.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn poll(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = tokio::time::Instant::from_std(until);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// A read of everything that one flight of pipelined small messages brings, and large enough that
/// the system call costs little beside the copy.
const READ: usize = 64 * 1024;
/// Below this a read is not worth its system call.
const LEAST_READ: usize = 8 * 1024;
/// A read that brought this much is followed by another as large.
const LARGE: usize = READ / 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_no_replies_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut wire = Wire::new(Box::new(ours), Duration::from_secs(5));
        wire.queue(Bytes::from(vec![b'x'; 40]));
        assert_eq!(poll_fn(|cx| wire.poll_write(cx)).await, 16);
        let before = SystemClock.mono();
        assert_eq!(poll_fn(|cx| wire.poll_write(cx)).await, 0);
        assert_eq!((SystemClock.mono() - before).as_secs(), 5);
        assert!(wire.is_dead() && !wire.has_output());
        assert_eq!(poll_fn(|cx| wire.poll_read(cx, None, false)).await, Read::Eof);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_can_move_both_ways() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut wire = Wire::new(Box::new(ours), Duration::from_secs(5));
        let start = SystemClock.mono();
        let at = |secs| Some(start + Duration::from_secs(secs));
        let pending = poll_fn(|cx| Poll::Ready(wire.poll_read(cx, at(30), false).is_pending())).await;
        assert!(pending);
        assert_eq!(poll_fn(|cx| wire.poll_read(cx, at(10), false)).await, Read::TimedOut);
        assert_eq!((SystemClock.mono() - start).as_secs(), 10);
        assert_eq!(poll_fn(|cx| wire.poll_read(cx, at(60), true)).await, Read::TimedOut);
        assert_eq!((SystemClock.mono() - start).as_secs(), 60);
        theirs.write_all(b"abc").await.unwrap();
        assert_eq!(poll_fn(|cx| wire.poll_read(cx, at(90), true)).await, Read::Octets);
        assert_eq!(wire.input, "abc");
    }

    #[tokio::test]
    async fn a_waiting_connection_holds_no_buffer() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let mut wire = Wire::new(Box::new(ours), Duration::from_secs(5));
        theirs.write_all(&[b'x'; 9000]).await.unwrap();
        assert_eq!(poll_fn(|cx| wire.poll_read(cx, None, false)).await, Read::Octets);
        wire.input.advance(9000);
        let waits = poll_fn(|cx| Poll::Ready(wire.poll_read(cx, None, false).is_pending())).await;
        assert!(waits);
        assert_eq!(wire.input.capacity(), 0);
    }
}
