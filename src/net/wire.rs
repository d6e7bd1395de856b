//! A wire moves octets between a session's queue and a stream, plain or encrypted.
//!
//! It is the only place that reads, writes and sleeps for a client connection. One turn does one thing
//! and says what: it reads before it writes, so that a reply which came too early is seen as such, and
//! it goes on reading while it cannot write, because a peer that stopped reading may be waiting for us
//! to read its replies (RFC 2920 §3.1). Before each write it asks the gates of the messages that would
//! end: however long it was stopped, none is ended late.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};
use tokio_rustls::client::TlsStream;

use super::connect::Io;
use super::gates::Gates;

/// The stream below a session.
pub(super) enum Stream {
    Plain(Box<dyn Io>),
    Tls(Box<TlsStream<Box<dyn Io>>>),
    /// Given away for a handshake, or lost.
    Gone,
}

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// So many octets left for the peer.
    Sent(usize),
    /// So many octets were added to the input.
    Received(usize),
    /// The peer sends nothing more.
    Eof,
    /// The deadline has come.
    Due,
    /// The message of this transaction must not be ended any more: its end is taken out of what is
    /// queued, with all behind it. Where the stream has it already, the stream is gone.
    Barred(u64),
}

pub(super) struct Wire {
    stream: Stream,
    output: VecDeque<Bytes>,
    /// Octets that the stream took and may still hold back.
    unflushed: usize,
    /// The peer takes nothing more; what it has sent before is still read.
    deaf: bool,
    /// Nothing more is queued: an end was taken out.
    cut: bool,
    /// How many octets have left since the first.
    sent: u64,
    pub(super) gates: Gates,
    pub(super) input: BytesMut,
    timer: Option<(Pin<Box<Sleep>>, Instant)>,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            output: VecDeque::new(),
            unflushed: 0,
            deaf: false,
            cut: false,
            sent: 0,
            gates: Gates::default(),
            input: BytesMut::new(),
            timer: None,
        }
    }

    /// Queues octets. Bounded by the session, which asks for content a chunk at a time.
    pub(super) fn push(&mut self, octets: Bytes) {
        if !octets.is_empty() && !self.cut {
            self.output.push_back(octets);
        }
    }

    /// Whether everything queued has left.
    pub(super) fn is_drained(&self) -> bool {
        self.output.is_empty() && self.unflushed == 0 && !self.cut
    }

    /// Forgets what is queued; for a session that is over.
    pub(super) fn discard(&mut self) {
        self.output.clear();
        self.gates.clear();
        self.deaf = true;
    }

    /// Whether the stream is gone, and what it had taken with it.
    pub(super) const fn is_severed(&self) -> bool {
        matches!(self.stream, Stream::Gone)
    }

    /// Gives the stream away, for a handshake over it.
    pub(super) fn take_stream(&mut self) -> Stream {
        self.input.clear();
        std::mem::replace(&mut self.stream, Stream::Gone)
    }

    pub(super) fn set_stream(&mut self, stream: Stream) {
        self.stream = stream;
    }

    /// Frees the buffers of a connection that goes idle.
    pub(super) fn rest(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.output.shrink_to(0);
    }

    /// Does the next thing that can be done: reads, or writes all that is queued and fits, or finds
    /// that `until` has come.
    ///
    /// # Cancel safety
    /// May be dropped at any time: what was done was told.
    pub(super) async fn turn(&mut self, until: Option<Instant>) -> Turn {
        std::future::poll_fn(|cx| self.poll_turn(cx, until)).await
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>, until: Option<Instant>) -> Poll<Turn> {
        if let Some(transaction) = self.bar() {
            return Poll::Ready(Turn::Barred(transaction));
        }
        if let Poll::Ready(turn) = self.poll_read(cx) {
            return Poll::Ready(turn);
        }
        if let Poll::Ready(turn) = self.poll_write(cx) {
            return Poll::Ready(turn);
        }
        // Shut between two writes.
        if let Some(transaction) = self.bar() {
            return Poll::Ready(Turn::Barred(transaction));
        }
        if self.poll_due(cx, until) { Poll::Ready(Turn::Due) } else { Poll::Pending }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        if self.input.capacity() - self.input.len() < READ_LEAST {
            self.input.reserve(if self.input.capacity() == 0 { READ_FIRST } else { READ_MOST });
        }
        let read = match &mut self.stream {
            Stream::Plain(io) => pin!(io.read_buf(&mut self.input)).poll(cx),
            Stream::Tls(io) => pin!(io.read_buf(&mut self.input)).poll(cx),
            Stream::Gone => Poll::Ready(Ok(0)),
        };
        read.map(|read| match read {
            Ok(0) | Err(_) => {
                self.deaf = true;
                Turn::Eof
            }
            Ok(new) => Turn::Received(new),
        })
    }

    /// Everything in as few writes as the stream takes, and then its own buffer: octets count as sent
    /// when the stream holds none of them back, so that a reply to the last one cannot come earlier.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let mut sent = 0;
        while !self.deaf {
            let shut = self.gates.shut();
            if self.unflushed > 0 {
                if shut.is_some_and(|(_, end)| end <= self.taken()) {
                    break;
                }
                match self.stream.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {
                        let flushed = std::mem::take(&mut self.unflushed);
                        sent += flushed;
                        self.sent += flushed as u64;
                        self.gates.sent(self.sent);
                    }
                    Poll::Ready(Err(_)) => self.deaf = true,
                    Poll::Pending => break,
                }
            } else if self.output.is_empty() || shut.is_some() {
                break;
            } else {
                match self.stream.poll_write(cx, &self.output) {
                    Poll::Ready(Ok(0) | Err(_)) => self.deaf = true,
                    Poll::Ready(Ok(taken)) => {
                        self.unflushed += taken;
                        self.took(taken);
                    }
                    Poll::Pending => break,
                }
            }
        }
        if sent > 0 { Poll::Ready(Turn::Sent(sent)) } else { Poll::Pending }
    }

    /// Finds a message that must not be ended any more, and sees to it that it is not. What stands in
    /// front of it may still leave.
    fn bar(&mut self) -> Option<u64> {
        let (transaction, end) = self.gates.shut()?;
        let taken = self.taken();
        let keep = end.saturating_sub(MARK).saturating_sub(taken);
        if end <= taken {
            self.output.clear();
            self.stream = Stream::Gone;
            self.deaf = true;
        } else {
            let mut keep = usize::try_from(keep).unwrap_or(usize::MAX);
            self.output.retain_mut(|octets| {
                octets.truncate(keep);
                keep -= octets.len();
                !octets.is_empty()
            });
        }
        self.cut = true;
        self.gates.cut(transaction);
        Some(transaction)
    }

    /// How many octets the stream has taken since the first.
    const fn taken(&self) -> u64 {
        self.sent + self.unflushed as u64
    }

    fn took(&mut self, mut taken: usize) {
        while let Some(front) = self.output.front_mut() {
            if front.len() > taken {
                front.advance(taken);
                return;
            }
            taken -= front.len();
            self.output.pop_front();
        }
    }

    /// One timer for the whole life of the connection, moved only when the deadline came nearer or
    /// the timer fires too early: deadlines move with each reply, and timers cost more than replies.
    fn poll_due(&mut self, cx: &mut Context<'_>, until: Option<Instant>) -> bool {
        let Some(until) = until else { return false };
        let (timer, armed) = self.timer.get_or_insert_with(|| (Box::pin(sleep_until(until.into())), until));
        if until < *armed {
            timer.as_mut().reset(until.into());
            *armed = until;
        }
        while timer.as_mut().poll(cx).is_ready() {
            if *armed >= until {
                return true;
            }
            timer.as_mut().reset(until.into());
            *armed = until;
        }
        false
    }

    /// Whether nothing has come in, end included, since the connection went idle.
    pub(super) fn is_silent(&mut self) -> bool {
        if !self.input.is_empty() || self.deaf {
            return false;
        }
        let mut octet = [0; 1];
        let mut buffer = ReadBuf::new(&mut octet);
        let mut cx = Context::from_waker(Waker::noop());
        match &mut self.stream {
            Stream::Plain(io) => Pin::new(io).poll_read(&mut cx, &mut buffer).is_pending(),
            Stream::Tls(io) => Pin::new(io).poll_read(&mut cx, &mut buffer).is_pending(),
            Stream::Gone => false,
        }
    }

    /// Writes what can be written without waiting and ends the stream.
    pub(super) fn close_now(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = self.poll_write(&mut cx);
        if let Stream::Tls(io) = &mut self.stream
            // Else it would send what it holds back, be it the end of a message that is given up.
            && self.unflushed == 0
        {
            // Tells the peer that nothing was cut off (RFC 8446 §6.1).
            let _ = Pin::new(io).poll_shutdown(&mut cx);
        }
        self.stream = Stream::Gone;
    }
}

impl Stream {
    fn poll_write(&mut self, cx: &mut Context<'_>, output: &VecDeque<Bytes>) -> Poll<io::Result<usize>> {
        let vectored = match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
            Self::Gone => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };
        // One record at a time: the peer can read nothing of it before it has left whole, so that what is
        // flushed is what may be answered. Several that are held back together would be answered one by one.
        let most = if matches!(self, Self::Tls(_)) { RECORD } else { usize::MAX };
        let Some(first) = output.front() else { return Poll::Ready(Ok(0)) };
        if output.len() == 1 || !vectored || first.len() >= most {
            let first = first.get(..most).unwrap_or(first);
            return match self {
                Self::Plain(io) => Pin::new(io).poll_write(cx, first),
                Self::Tls(io) => Pin::new(io).poll_write(cx, first),
                Self::Gone => Poll::Pending,
            };
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let (mut left, mut count) = (most, 0);
        for (slice, octets) in slices.iter_mut().zip(output) {
            if left == 0 {
                break;
            }
            let octets = octets.get(..left).unwrap_or(octets);
            *slice = IoSlice::new(octets);
            left -= octets.len();
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or(&slices);
        match self {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Self::Gone => Poll::Pending,
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// Octets that end a message, at most: CRLF, dot, CRLF.
const MARK: u64 = 5;
/// Octets in one TLS record (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;
/// Room for what a connection reads first, which is all that one reads that rests between two messages: the
/// replies to one transaction.
const READ_FIRST: usize = 1024;
/// Room for one read: the replies to a full window of transactions with 100 recipients each.
const READ_MOST: usize = 8 * 1024;
/// Below this much room the buffer is made larger; a reply line fits.
const READ_LEAST: usize = 512;
/// Slices in one write: head and body of a window of messages, with stuffed dots between them.
const MAX_SLICES: usize = 32;
