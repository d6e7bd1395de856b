//! A spool is what must not be lost: messages that were accepted and are not yet settled.
//!
//! # The promise
//! `Ok` from [`Spool::enqueue`] means that the batch is on stable storage; power may fail in the
//! next instant. `Ok` from [`Spool::settle`] means the same of the settlements. A call is all or
//! nothing. Dropping the future of a call does not undo it: no answer means *unknown*, and the same
//! call may be made again, since ids make it idempotent.
//!
//! # How it is arranged
//! A *message* is stored once, with its envelope, head and body. It has one *entry* per destination,
//! the unit that is claimed, tried and settled. Every entry stands in one *queue*, named after the
//! site its destination was last found at, or after the destination while that is not known;
//! [`Spool::claim`] takes from one queue only, so that a queue that cannot move hides no other. When
//! the last entry of a message is removed, the message and its body go too.
//!
//! # Leases and fencing
//! A claimed entry is hidden from other claims until its lease ends. Each claim carries a [`Token`]
//! with a number that grows with each claim of the entry; a settlement with an old token is not
//! applied but reported, so that a slow worker cannot undo what a later one did.
//!
//! # What it does not do
//! It does not decide anything: when to retry, what to report and whom to serve first is the
//! engine's. It does not convert or sign: it keeps octets.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::BoxFuture;
use crate::clock::Timestamp;
use crate::message::{Content, Handling, MessageId};
use crate::smtp::address::Domain;
use crate::smtp::params::{Mail, Rcpt};

pub mod contract;
#[cfg(feature = "disk")]
mod disk;
mod error;
mod memory;
pub(crate) mod rules;

#[cfg(feature = "disk")]
pub use disk::{DiskCounters, DiskOptions, DiskSpool};
pub use error::SpoolError;
pub use memory::{MemoryOptions, MemorySpool};

/// The durable queue. Implementations: `MemorySpool` (keeps nothing across a restart) and
/// `DiskSpool`; `contract` is the test suite that any implementation must pass.
pub trait Spool: Send + Sync + fmt::Debug + 'static {
    /// Starts a body whose octets are not all there yet. What was staged and is not named by an
    /// [`Spool::enqueue`] is collected: when the writer is dropped, or at the next open.
    ///
    /// # Errors
    /// [`SpoolError::Full`] and what else keeps the spool from taking anything.
    fn stage(&self) -> BoxFuture<'_, Result<Box<dyn BodyWriter>, SpoolError>>;

    /// Stores a batch of messages, all or none. A message whose id is already there is left as it
    /// is and counts as stored.
    ///
    /// With `lease`, the new entries are born claimed until that time and are returned, in order,
    /// with their bodies at hand, so that fresh mail is delivered without being read back. Without
    /// it nothing is returned. (Entries of an id that was already there are never returned.)
    ///
    /// # Errors
    /// [`SpoolError::Full`] when the queue in front of the storage or the storage itself is full:
    /// nothing was stored, try later (452 4.3.1). [`SpoolError::Unknown`]: may or may not be stored,
    /// enqueue again under the same ids.
    fn enqueue(
        &self,
        batch: Vec<NewMessage>,
        lease: Option<Timestamp>,
    ) -> BoxFuture<'_, Result<Vec<Claim>, SpoolError>>;

    /// Takes up to `limit` entries of one queue that are due, earliest first.
    ///
    /// # Errors
    /// [`SpoolError`]
    fn claim(&self, request: ClaimRequest) -> BoxFuture<'_, Result<Vec<Claim>, SpoolError>>;

    /// Opens the body of a claimed message. A body that is small or at hand comes whole.
    ///
    /// # Errors
    /// [`SpoolError::Corrupt`] when the body is not what was stored.
    fn body(&self, body: &BodyRef) -> BoxFuture<'_, Result<Content, SpoolError>>;

    /// Makes leases last until `lease`. Returns the tokens that are no longer valid.
    ///
    /// # Errors
    /// [`SpoolError`]
    fn extend(&self, tokens: Vec<Token>, lease: Timestamp) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>>;

    /// Applies what attempts found out; each settlement, with the messages it submits, is atomic.
    /// Returns the tokens that were fenced off: those settlements were not applied.
    ///
    /// # Errors
    /// [`SpoolError`]; then none or all were applied, and the call may be made again.
    fn settle(
        &self,
        batch: Vec<Settlement>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>>;

    /// The queues in order of their names, from behind `after` on, at most `limit`.
    ///
    /// # Errors
    /// [`SpoolError`]
    fn queues(
        &self,
        after: Option<QueueName>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<QueueSummary>, SpoolError>>;

    /// Entries in order of (message id, number), from behind `after` on, at most `limit`, claimed
    /// ones included. For people and for start-up, not for delivering.
    ///
    /// # Errors
    /// [`SpoolError`]
    fn scan(
        &self,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<EntrySummary>, SpoolError>>;

    /// The entries that one message still has; empty when it is settled or was never there.
    ///
    /// # Errors
    /// [`SpoolError`]
    fn entries(&self, message: MessageId) -> BoxFuture<'_, Result<Vec<EntrySummary>, SpoolError>>;

    /// How much there is. Cheap enough to ask every second.
    fn stats(&self) -> Stats;

    /// Returns when entries may have come that this process did not enqueue itself, or after
    /// `limit`. May return for no reason.
    fn wait(&self, limit: Duration) -> BoxFuture<'_, ()>;

    /// Returns when everything handed over before is on stable storage.
    ///
    /// # Errors
    /// [`SpoolError`]
    fn flush(&self) -> BoxFuture<'_, Result<(), SpoolError>>;
}

/// Takes a body in pieces, see [`Spool::stage`].
pub trait BodyWriter: Send {
    /// Adds octets. Waits while the spool is behind: this is the back-pressure.
    ///
    /// # Errors
    /// [`SpoolError`]; the body is then lost, drop the writer.
    fn write(&mut self, octets: Bytes) -> BoxFuture<'_, Result<(), SpoolError>>;

    /// Ends the body. It becomes durable with the message that names it.
    ///
    /// # Errors
    /// [`SpoolError`]
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Staged, SpoolError>>;
}

/// A body that was staged and is not yet named by a message. Dropping it gives it up.
#[derive(Debug)]
pub struct Staged {
    /// The spool's own number for it.
    pub number: u64,
    /// Its size in octets.
    pub size: u64,
    /// Gives the staged octets up when dropped.
    pub guard: Option<Box<dyn StagedGuard>>,
}

/// Gives up a staged body when it is dropped before a message named it.
pub trait StagedGuard: Send + Sync + fmt::Debug {}

/// The body of a new message.
#[derive(Debug)]
pub enum NewBody {
    /// At hand.
    Inline(Bytes),
    /// Already handed over.
    Staged(Staged),
}

impl NewBody {
    /// Its size in octets.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(octets) => octets.len() as u64,
            Self::Staged(staged) => staged.size,
        }
    }
}

/// A message to store.
#[derive(Debug)]
pub struct NewMessage {
    /// Its id, made by the caller: enqueuing it twice stores it once.
    pub id: MessageId,
    /// Sender and parameters of the envelope.
    pub mail: Mail,
    /// How it is to be handled besides.
    pub handling: Handling,
    /// What stands in front of the body on the wire: the fields that we prepend. The stored message
    /// is head and body, byte for byte.
    pub head: Bytes,
    /// The message as it was received.
    pub body: NewBody,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// When the sender is told that it could not be delivered.
    pub expires: Timestamp,
    /// One per destination; at least one.
    pub entries: Vec<NewEntry>,
}

/// An entry to store.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// The domain of its recipients.
    pub destination: Domain,
    /// Where it waits.
    pub queue: QueueName,
    /// When it is tried first.
    pub due: Timestamp,
    /// The recipients; at least one.
    pub recipients: Vec<Rcpt>,
}

/// The name of a queue: a site, or a destination whose site is not known. At most 255 octets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(std::sync::Arc<str>);

impl QueueName {
    /// A queue of this name. Longer names than 255 octets are cut, with a digest of the whole behind
    /// the cut, so that two long names stay two queues.
    #[must_use]
    pub fn new(name: &str) -> Self {
        if name.len() <= 255 {
            return Self(name.into());
        }
        // Of a kind that nobody can aim at: the names of hosts are a stranger's to choose, and whose queue
        // is another's shares its hosts. Stored names must stay the same for ever.
        let digest = Sha256::digest(name);
        let hash = digest.iter().take(16).fold(0_u128, |hash, octet| hash << 8 | u128::from(*octet));
        let mut end = 222;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        Self(format!("{}#{hash:032x}", name.get(..end).unwrap_or_default()).into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&Domain> for QueueName {
    /// The queue of a destination whose site is not known.
    fn from(domain: &Domain) -> Self {
        Self::new(domain.as_str())
    }
}

/// What to claim.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// From where.
    pub queue: QueueName,
    /// Entries due at this time or before.
    pub now: Timestamp,
    /// How many at most.
    pub limit: usize,
    /// Until when they are hidden from other claims.
    pub lease: Timestamp,
}

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

/// When [`Spool::settle`] answers and how soon its effect is on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It rides on the next group that is synced anyway, after 50 ms at the latest. A crash in
    /// between delivers again what was settled.
    #[default]
    Soon,
    /// At once.
    Synced,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSummary {
    /// Its name.
    pub queue: QueueName,
    /// How many entries wait in it, claimed ones included, parked ones not.
    pub entries: u64,
    /// When the first of them can be claimed: its due time, or for a claimed one the end of its
    /// lease if that is later; so a worker that went silent is noticed. [`Timestamp::NEVER`] only
    /// when nothing will become due by itself.
    pub due: Timestamp,
}

/// One entry, for people.
#[derive(Debug, Clone)]
pub struct EntrySummary {
    /// The message.
    pub message: MessageId,
    /// Which of its entries.
    pub entry: u32,
    /// The sender.
    pub mail: Mail,
    /// How the message is to be handled besides.
    pub handling: Handling,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
    /// The domain of its recipients.
    pub destination: Domain,
    /// Where it waits.
    pub queue: QueueName,
    /// When it is due.
    pub due: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it is set aside, if it is.
    pub parked: Option<Box<str>>,
    /// Its recipients.
    pub recipients: Vec<Recipient>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Messages stored.
    pub messages: u64,
    /// Entries, parked ones included.
    pub entries: u64,
    /// Octets of bodies.
    pub octets: u64,
}
