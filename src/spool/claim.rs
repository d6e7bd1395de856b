//! A claimed entry, its recipients, and what becomes of it.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::message::{Handling, MessageId};
use crate::smtp::address::Domain;
use crate::smtp::params::{Mail, Rcpt};

use super::log::LogEvent;
use super::new::NewMessage;
use super::queue::QueueName;

/// Proof of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// The message.
    pub message: MessageId,
    /// Which of its entries, counted from 0.
    pub entry: u32,
    /// Grows by one with each claim of this entry.
    pub number: u64,
}

/// A claimed entry.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Proof of the claim, needed to settle.
    pub token: Token,
    /// Sender and parameters.
    pub mail: Mail,
    /// How the message is to be handled besides.
    pub handling: Handling,
    /// What goes in front of the body.
    pub head: Bytes,
    /// Where the body is.
    pub body: BodyRef,
    /// When the message was accepted.
    pub accepted: Timestamp,
    /// When the sender is told that it could not be delivered.
    pub expires: Timestamp,
    /// The domain of the recipients.
    pub destination: Domain,
    /// Where the entry waits.
    pub queue: QueueName,
    /// When it was due.
    pub due: Timestamp,
    /// How often it was tried before.
    pub attempts: u32,
    /// It was cancelled ([`Change::Cancel`](super::Change::Cancel)): it is not to be tried, only settled.
    pub cancelled: bool,
    /// The message had no other entry when this was claimed, so that it will have none that this does not
    /// make: what its sender is to be told can be told at once. `false` where that is not known.
    pub alone: bool,
    /// All recipients of the entry and how they stand.
    pub recipients: Vec<Recipient>,
}

/// Where a body is.
#[derive(Debug, Clone)]
pub struct BodyRef {
    /// The message it belongs to.
    pub message: MessageId,
    /// The spool's own number for it.
    pub number: u64,
    /// Its size in octets.
    pub size: u64,
    /// The octets themselves, where they are at hand.
    pub at_hand: Option<Bytes>,
}

/// A recipient in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The path and parameters.
    pub rcpt: Rcpt,
    /// How it stands.
    pub state: RecipientState,
    /// What was said about it last, for people and for reports; at most 1,024 octets are kept.
    pub note: Option<Box<str>>,
}

impl Recipient {
    /// A recipient that was not tried yet.
    #[must_use]
    pub const fn new(rcpt: Rcpt) -> Self {
        Self { rcpt, state: RecipientState::Waiting, note: None }
    }
}

/// How a recipient stands. All but the first are terminal: no recipient leaves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecipientState {
    /// Not settled yet.
    Waiting,
    /// The next hop has taken responsibility.
    Delivered,
    /// Refused for good.
    Failed,
    /// Not delivered in time.
    Expired,
    /// Taken back by the host program.
    Cancelled,
}

impl RecipientState {
    /// As it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more can happen to it.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Waiting)
    }
}

/// What an attempt changes, in one transaction.
#[derive(Debug)]
pub struct Settlement {
    /// Proof of the claim.
    pub token: Token,
    /// When it was decided: from when on results are kept ([`NewMessage::keep`]).
    pub at: Timestamp,
    /// The recipients as they stand now, all of the entry's.
    pub recipients: Vec<Recipient>,
    /// Whether an attempt was made, so that it counts.
    pub attempted: bool,
    /// Where the entry waits from now on; `None`: where it was.
    pub queue: Option<QueueName>,
    /// What becomes of the entry.
    pub then: Then,
    /// Messages that come into being with this: reports.
    pub submit: Vec<NewMessage>,
    /// What the sender is to be told later, in one report with what becomes of the message's other entries.
    /// Not for [`REPORT_ENTRY`](super::REPORT_ENTRY) itself.
    pub tell: Option<Tell>,
    /// What goes into the log with this.
    pub log: Vec<LogEvent>,
}

/// What becomes of a settled entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// Every recipient is in a terminal state: it goes.
    Remove,
    /// It is tried again at this time.
    Retry(Timestamp),
    /// It is set aside and not claimed until somebody looks at it.
    Park(Box<str>),
}

/// When [`Spool::settle`](super::Spool::settle) answers and how soon its effect is on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It rides on the next group that is synced anyway, after 50 ms at the latest. A crash in
    /// between delivers again what was settled.
    #[default]
    Soon,
    /// At once.
    Synced,
}

/// What is added to a message's [`REPORT_ENTRY`](super::REPORT_ENTRY), which comes into being with the first
/// of these and is claimed and settled like any other, in the class of its message. The message and its body stay
/// until it is settled. It falls due at once, which is at 0, when no other entry of the message is left.
///
/// Where it is claimed already, adding to it ends that claim: the token is an old one from then on, so that
/// whoever reports what was there cannot remove what came behind it.
#[derive(Debug, Clone)]
pub struct Tell {
    /// Where the report entry waits. Used when there is none yet, as is the next.
    pub queue: QueueName,
    /// The domain it counts as.
    pub destination: Domain,
    /// When it falls due, at the latest: an earlier time of an entry that is there stays.
    pub due: Timestamp,
    /// Whom it is about; the notes carry what is to be told. Added behind those that are there.
    pub recipients: Vec<Recipient>,
}

/// How the recipients of a message stand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Results {
    /// All recipients, by entry.
    pub recipients: Vec<Recipient>,
    /// Whether each of them is in a terminal state.
    pub finished: bool,
    /// Until when this is kept; `None` while it is not finished.
    pub until: Option<Timestamp>,
}

impl Results {
    /// Results.
    #[must_use]
    pub const fn new(recipients: Vec<Recipient>, finished: bool, until: Option<Timestamp>) -> Self {
        Self { recipients, finished, until }
    }
}
