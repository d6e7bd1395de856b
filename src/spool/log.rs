//! The durable log: what happened, stored in the transaction in which it became true, for consumers that
//! must not miss anything.
//!
//! A consumer reads by number and remembers the last that it has dealt with. A settlement that is made
//! again after its answer was lost may be logged twice; (message, entry, recipient, kind) tells.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::message::MessageId;
use crate::smtp::params::Rcpt;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// When.
    pub at: Timestamp,
    /// To which message.
    pub message: MessageId,
    /// To which of its entries, where it is about one.
    pub entry: Option<u32>,
    /// What.
    pub kind: LogKind,
    /// To whom, where it is about one.
    pub recipient: Option<Rcpt>,
    /// Which try this was, counted from 1; 0 where none was made.
    pub attempt: u32,
    /// What was said; at most 1,024 octets are kept.
    pub note: Option<Box<str>>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogKind {
    /// The message was stored.
    Accepted,
    /// The next hop has taken responsibility for a recipient. Terminal.
    Delivered,
    /// A recipient was put off.
    Deferred,
    /// A recipient was refused for good. Terminal.
    Failed,
    /// A recipient's time ran out. Terminal.
    Expired,
    /// A recipient was taken back. Terminal.
    Cancelled,
    /// The sender is told of recipients; the note is the report's id.
    Reported,
}

impl LogKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Delivered,
        Self::Deferred,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
        Self::Reported,
    ];

    /// As it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Reported => "reported",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Its number, from 1.
    pub number: u64,
    /// What happened.
    pub event: LogEvent,
}

/// How much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeepLog {
    /// For how long. Default 7 days: longer than any consumer is away.
    pub time: Duration,
    /// How many events at most. Default 1,000,000, some 200 MB.
    pub events: u64,
}

impl KeepLog {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self { time: Duration::from_secs(7 * 86_400), events: 1_000_000 }
    }
}

impl Default for KeepLog {
    fn default() -> Self {
        Self::new()
    }
}
