//! What a session knows: where it is, what it asked, the transaction, the clocks that run.

use std::time::{Duration, Instant};

use super::super::address::Domain;
use super::super::data::{Decoder, LineRules};
use super::super::reply::Reply;
use super::super::sasl::Mechanism;
use super::super::sasl::server::Exchange;
use super::super::xclient::Told;
use super::config::Timeouts;

/// What the next octets are.
#[derive(Debug)]
pub(super) enum State {
    /// A command.
    Command,
    /// An answer within AUTH.
    Auth(Awaited),
    /// Content behind DATA.
    Data(Decoder),
    /// Content behind BDAT.
    Chunk(Chunk),
    /// Nothing: STARTTLS was granted.
    Handshake,
    /// Nothing any more.
    Closed,
}

/// What an answer within AUTH is an answer to.
#[derive(Debug)]
pub(super) enum Awaited {
    Challenge(Exchange),
    /// Why a token was refused, was said; now the command is refused with this (RFC 7628 §3.2.3).
    Refusal(Reply),
}

/// One BDAT.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) left: u64,
    pub(super) last: bool,
    /// Why it is refused; its octets are read all the same (RFC 3030 §2).
    pub(super) refused: Option<&'static str>,
    pub(super) taken: u64,
}

/// What the host was asked.
#[derive(Debug)]
pub(super) enum Question {
    /// The keys of who logs in.
    Keys(Exchange),
    Auth {
        user: Box<str>,
        mechanism: Mechanism,
    },
    /// Whatever the answer is, nobody is logged in.
    Refused,
    Mail(Transaction),
    Rcpt {
        /// The recipient's, where domains are counted and this is a new one.
        domain: Option<Domain>,
    },
    Message,
    Lookup {
        /// The client reads UTF-8.
        smtputf8: bool,
    },
    Xclient {
        user: Option<Box<str>>,
        told: Told,
    },
}

/// From an accepted MAIL to the end of the message.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) smtputf8: bool,
    pub(super) binary: bool,
    /// Accepted ones.
    pub(super) recipients: usize,
    /// Theirs, where domains are counted.
    pub(super) domains: Vec<Domain>,
    pub(super) content: Option<Reception>,
    /// A BDAT failed; nothing but RSET helps.
    pub(super) dead: bool,
}

/// Content that is being received.
#[derive(Debug)]
pub(super) struct Reception {
    pub(super) started: Instant,
    /// Octets of the message, as RFC 1870 counts them.
    pub(super) octets: u64,
    /// For BDAT.
    pub(super) rules: LineRules,
    /// Why the message is refused. The host knows already.
    pub(super) refused: Option<&'static str>,
}

impl Reception {
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, octets: 0, rules: LineRules::default(), refused: None }
    }
}

/// The clocks of a session.
#[derive(Debug)]
pub(super) struct Timer {
    /// When the wait for a command began.
    since: Instant,
    /// When the first octet of an unfinished line came.
    line: Option<Instant>,
    /// While content is read.
    flow: Option<Flow>,
    /// The host took its time since; nothing of that is the client's fault.
    stale: bool,
    /// When the last message was answered, or the session began.
    message: Instant,
    /// A message was answered; the time will be known with the next input.
    answered: bool,
}

#[derive(Debug)]
struct Flow {
    message: Instant,
    began: Instant,
    last: Instant,
    octets: u64,
}

impl Timer {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, line: None, flow: None, stale: false, message: now, answered: false }
    }

    /// The host answered; the time will be known with the next input.
    pub(super) const fn host_answered(&mut self) {
        self.stale = true;
    }

    pub(super) const fn input(&mut self, now: Instant) {
        if self.stale {
            self.since = now;
            self.stale = false;
        }
        if self.answered {
            self.message = now;
            self.answered = false;
        }
    }

    pub(super) const fn message_answered(&mut self) {
        self.answered = true;
    }

    /// A line is complete, or replies were taken.
    pub(super) const fn progress(&mut self, now: Instant) {
        self.since = now;
    }

    pub(super) const fn line_complete(&mut self, now: Instant) {
        self.since = now;
        self.line = None;
    }

    pub(super) const fn line_begun(&mut self, now: Instant) {
        if self.line.is_none() {
            self.line = Some(now);
        }
    }

    pub(super) const fn is_inside_line(&self) -> bool {
        self.line.is_some()
    }

    /// Content begins; `message` is when that of the whole message did.
    pub(super) const fn content_begun(&mut self, message: Instant, now: Instant) {
        self.flow = Some(Flow { message, began: now, last: now, octets: 0 });
    }

    pub(super) const fn content_read(&mut self, now: Instant, octets: u64) {
        if let Some(flow) = &mut self.flow {
            flow.last = now;
            flow.octets = flow.octets.saturating_add(octets);
        }
    }

    /// The host took no content for so long.
    pub(super) fn excuse(&mut self, time: Duration) {
        if let Some(flow) = &mut self.flow {
            flow.began = flow.began.checked_add(time).unwrap_or(flow.began);
            flow.last = flow.last.checked_add(time).unwrap_or(flow.last);
        }
    }

    pub(super) const fn content_ended(&mut self, now: Instant) {
        self.flow = None;
        self.since = now;
    }

    /// Octets of content since it began, dots and all.
    pub(super) fn content_octets(&self) -> u64 {
        self.flow.as_ref().map_or(0, |flow| flow.octets)
    }

    /// When the client is late. `between` says that no message is on its way.
    pub(super) fn deadline(&self, timeouts: &Timeouts, between: bool) -> Option<Instant> {
        let waits = match (&self.flow, self.line) {
            (Some(flow), _) => {
                // The floor counts from one block's time on, so that a slow start is forgiven.
                let paid = flow.octets.checked_div(timeouts.min_rate).map(Duration::from_secs);
                let floor = paid.and_then(|paid| flow.began.checked_add(timeouts.block)?.checked_add(paid));
                [flow.last.checked_add(timeouts.block), flow.message.checked_add(timeouts.content), floor]
            }
            (None, line) => [
                self.since.checked_add(timeouts.command),
                line.and_then(|line| line.checked_add(timeouts.line)),
                if between && !self.answered { self.message.checked_add(timeouts.message) } else { None },
            ],
        };
        waits.into_iter().flatten().min()
    }
}
