//! The pipeline is what was written, how much of it was sent, and which replies are awaited for it.
//!
//! Every octet written has an offset, counted from the start of the session. A command is remembered
//! with the offset behind its last octet, so that it can be told for each reply whether its command
//! had been sent, and when a connection dies, whether the content had been.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::{Event, Timeouts};
use crate::smtp::Output;

/// What was written and awaits a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Auth,
    /// RSET in front of a transaction's MAIL.
    Rset,
    Mail,
    Rcpt,
    Data,
    /// A chunk of the oldest open transaction's content, not the last.
    Chunk,
    /// The end of the oldest open transaction's content.
    Content,
    /// A dot alone, for no recipient.
    LoneDot,
    /// RSET on its own.
    Reset,
    Quit,
}

#[derive(Debug, Clone, Copy)]
struct Awaited {
    command: Command,
    /// The offset behind its last octet.
    end: u64,
}

#[derive(Debug)]
pub(super) struct Pipeline {
    out: VecDeque<Output<Event>>,
    /// The tail of what was written, not yet in `out`, so that a flight leaves in one piece.
    flight: BytesMut,
    written: u64,
    polled: u64,
    sent: u64,
    awaited: VecDeque<Awaited>,
    /// How many of `awaited`, from the front, are sent.
    covered: usize,
    /// Since when we have been waiting for what is awaited first.
    since: Instant,
    /// `since` is from before the last command was written: it was written without a time.
    stale: bool,
}

impl Pipeline {
    /// Awaits the greeting, for which nothing is sent.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            out: VecDeque::new(),
            flight: BytesMut::new(),
            written: 0,
            polled: 0,
            sent: 0,
            awaited: VecDeque::from([Awaited { command: Command::Greeting, end: 0 }]),
            covered: 1,
            since: now,
            stale: false,
        }
    }

    /// The buffer of the flight, with room for `expected` octets more.
    pub(super) fn reserve(&mut self, expected: usize) {
        self.flight.reserve(expected);
    }

    /// Writes to the flight.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.flight.len();
        write(&mut self.flight);
        self.written += (self.flight.len() - before) as u64;
    }

    /// Writes a command whose reply is awaited.
    pub(super) fn command(&mut self, command: Command, write: impl FnOnce(&mut BytesMut)) {
        self.write(write);
        self.expect(command, self.written);
    }

    /// Writes credentials, whose reply is awaited.
    pub(super) fn secret(&mut self, line: Bytes) {
        self.flush();
        self.written += line.len() as u64;
        self.out.push_back(Output::SendSecret(line));
        self.expect(Command::Auth, self.written);
    }

    /// Writes octets of their own: without copying them when they are many.
    pub(super) fn octets(&mut self, octets: Bytes) {
        if octets.len() < COPY_BELOW {
            self.write(|flight| flight.extend_from_slice(&octets));
            self.flush_if_full();
        } else {
            self.flush();
            self.written += octets.len() as u64;
            self.out.push_back(Output::Send(octets));
        }
    }

    /// Lets a flight go that has become large.
    pub(super) fn flush_if_full(&mut self) {
        if self.flight.len() >= FLIGHT {
            self.flush();
        }
    }

    /// Expects a reply to what ends at `end`, which may be written later.
    pub(super) fn expect(&mut self, command: Command, end: u64) {
        self.stale |= self.awaited.is_empty();
        self.awaited.push_back(Awaited { command, end });
    }

    /// Expects one more reply to what was just answered, before all others.
    pub(super) fn expect_again(&mut self, command: Command) {
        self.awaited.push_front(Awaited { command, end: self.sent });
        self.covered += 1;
    }

    /// The last thing expected ends with what was written until now.
    pub(super) fn end_last(&mut self) {
        if let Some(last) = self.awaited.back_mut() {
            last.end = self.written;
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }

    pub(super) fn start_tls(&mut self) {
        self.flush();
        self.out.push_back(Output::StartTls);
    }

    fn flush(&mut self) {
        if !self.flight.is_empty() {
            self.out.push_back(Output::Send(self.flight.split().freeze()));
        }
    }

    /// The next thing in order, the flight excepted.
    pub(super) fn poll(&mut self) -> Option<Output<Event>> {
        let next = self.out.pop_front()?;
        if let Output::Send(octets) | Output::SendSecret(octets) = &next {
            self.polled += octets.len() as u64;
        }
        Some(next)
    }

    /// The flight, when all before it was polled.
    pub(super) fn poll_flight(&mut self) -> Option<Output<Event>> {
        self.flush();
        self.poll()
    }

    /// The session is over: nothing more is sent.
    pub(super) fn shut(&mut self) {
        self.out.retain(|output| matches!(output, Output::Event(_)));
        self.flight.clear();
        self.awaited.clear();
        self.covered = 0;
    }

    pub(super) fn sent(&mut self, now: Instant, octets: usize) {
        // More than was polled cannot have been sent; believing it would make "unsent" into "sent".
        self.sent = self.sent.saturating_add(octets as u64).min(self.polled);
        if self.covered == 0 && octets > 0 {
            self.since = now;
        }
        while self.awaited.get(self.covered).is_some_and(|next| next.end <= self.sent) {
            self.covered += 1;
        }
    }

    /// Gives `since` the time that it lacks.
    pub(super) const fn notice(&mut self, now: Instant) {
        if self.stale {
            self.since = now;
            self.stale = false;
        }
    }

    /// What the next reply answers, and whether it is sent.
    pub(super) fn front(&self) -> Option<(Command, bool)> {
        self.awaited.front().map(|front| (front.command, self.covered > 0))
    }

    /// The reply to the front came.
    pub(super) fn pop(&mut self, now: Instant) {
        self.awaited.pop_front();
        self.covered = self.covered.saturating_sub(1);
        self.since = now;
        self.stale = false;
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.awaited.is_empty()
    }

    /// How many replies are awaited for what is sent.
    pub(super) const fn covered(&self) -> usize {
        self.covered
    }

    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    pub(super) const fn is_sent(&self, end: u64) -> bool {
        end <= self.sent
    }

    pub(super) const fn unsent(&self) -> u64 {
        self.written - self.sent
    }

    /// Until when something must have happened.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Option<Instant> {
        let (command, sent) = self.front()?;
        let wait = match command {
            Command::Greeting => timeouts.greeting,
            Command::Reset | Command::Quit => timeouts.quit,
            _ if !sent => timeouts.block,
            Command::Ehlo | Command::Helo | Command::StartTls | Command::Auth => timeouts.hello,
            Command::Rset | Command::Mail => timeouts.mail,
            Command::Rcpt => timeouts.rcpt,
            Command::Data => timeouts.data,
            // A chunk's, too: what the transport took may still be far from the server.
            Command::Chunk | Command::Content | Command::LoneDot => timeouts.end,
        };
        self.since.checked_add(wait)
    }
}

/// Below this, copying into the flight costs less than a slice of its own in the transport's vector.
pub(super) const COPY_BELOW: usize = 16 * 1024;
/// A flight of small chunks leaves when it has the size of a usual socket buffer's half.
const FLIGHT: usize = 64 * 1024;
