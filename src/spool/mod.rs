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
//! the last entry of a message is removed, the message and its body go too. Within a queue, mail of a
//! higher [`Class`] is claimed on its own, so that a newsletter is not in the way of a password reset.
//!
//! What outlives a message is small and has a time of its own: its idempotency [`Key`], its [`Results`],
//! and the events that were put into the log with it. [`Spool::prune`] forgets them.
//!
//! A message with several entries has one more while there is something to tell its sender
//! ([`Settlement::tell`], [`REPORT_ENTRY`]): there it is gathered, until it is told in one report.
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

use crate::BoxFuture;
use crate::clock::Timestamp;
use crate::message::{Content, MessageId};
use bytes::Bytes;

pub(crate) mod altering;
mod aside;
mod claim;
pub mod contract;
#[cfg(feature = "disk")]
mod disk;
mod error;
#[cfg(any(feature = "disk", feature = "postgres"))]
mod lines;
mod log;
mod look;
mod memory;
mod new;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
mod queue;
pub(crate) mod rules;
pub(crate) mod set_back;

pub use aside::SetAside;
pub use claim::{
    BodyRef, Claim, Durability, Recipient, RecipientState, Results, Settlement, Tell, Then, Token,
};
#[cfg(feature = "disk")]
pub use disk::{DiskCounters, DiskOptions, DiskSpool};
#[cfg(feature = "disk")]
#[doc(hidden)]
pub use disk::{Files, SegmentFile, SegmentFiles};
pub use error::SpoolError;
pub use log::{KeepLog, LogEvent, LogKind, Logged};
pub use look::{Alter, Altered, Change, EntrySummary, Selection};
pub use memory::{MemoryOptions, MemorySpool};
pub use new::{
    Enqueued, Key, KeyError, Known, NewBody, NewEntry, NewMessage, REPORT_ENTRY, Staged, StagedGuard,
};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresHealth, PostgresOptions, PostgresSpool};
pub use queue::{ClaimRequest, Class, QueueName, QueueSummary};
pub use set_back::SetBack;

/// The durable queue. Implementations: `MemorySpool` (keeps nothing across a restart), `DiskSpool` and
/// `PostgresSpool`; `contract` is the test suite that any implementation must pass.
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
    /// it none are returned. (Entries of an id that was already there are never returned.)
    ///
    /// A message with a [`Key`] that the spool remembers, with the same content, counts as stored too:
    /// [`Enqueued::known`] says under which id.
    ///
    /// # Errors
    /// [`SpoolError::Full`] when the queue in front of the storage or the storage itself is full:
    /// nothing was stored, try later (452 4.3.1). [`SpoolError::Unknown`]: may or may not be stored,
    /// enqueue again under the same ids. [`SpoolError::KeyConflict`]: a key stands for another content.
    fn enqueue(
        &self,
        batch: Vec<NewMessage>,
        lease: Option<Timestamp>,
    ) -> BoxFuture<'_, Result<Enqueued, SpoolError>>;

    /// Takes up to `limit` entries of one queue and class that are due, earliest first.
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

    /// The queues in order of their names and classes, from behind `after` on, at most `limit`.
    ///
    /// # Errors
    /// [`SpoolError`]
    fn queues(
        &self,
        after: Option<(QueueName, Class)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<QueueSummary>, SpoolError>>;

    /// The entries that `which` selects, in order of (message id, number), from behind `after` on, at most
    /// `limit`, claimed ones included. For people and for start-up, not for delivering.
    ///
    /// # Errors
    /// [`SpoolError`]
    fn scan(
        &self,
        which: Selection,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<EntrySummary>, SpoolError>>;

    /// Changes entries from outside, a page at a time; see [`Change`] for what becomes of those that are
    /// claimed.
    ///
    /// # Errors
    /// [`SpoolError`]; then nothing of this page was changed.
    fn alter(&self, alter: Alter) -> BoxFuture<'_, Result<Altered, SpoolError>>;

    /// How every recipient of a message stands whose results are kept ([`NewMessage::keep`]): while it has
    /// entries, and for that long afterwards. `None`: there is nothing, or nothing any more.
    ///
    /// # Errors
    /// [`SpoolError`]
    fn results(&self, message: MessageId) -> BoxFuture<'_, Result<Option<Results>, SpoolError>>;

    /// The durable log from behind the number `after` on, at most `limit`, in order. Numbers grow, with
    /// gaps; nothing appears later behind a number that was read.
    ///
    /// # Errors
    /// [`SpoolError`]
    fn log(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Logged>, SpoolError>>;

    /// Forgets keys and results whose time is over at `now`, and of the log what `log` does not keep: a
    /// part of it, so that the call is short. A key whose message still waits is kept. Returns whether there
    /// may be more.
    ///
    /// # Errors
    /// [`SpoolError`]
    fn prune(&self, now: Timestamp, log: KeepLog) -> BoxFuture<'_, Result<bool, SpoolError>>;

    /// Whether other processes may work on the same spool.
    fn is_shared(&self) -> bool {
        false
    }

    /// What it has set aside by itself since it was last asked, because it could not be read. Kept for a while
    /// only: who does not ask finds it by [`Spool::scan`].
    fn set_aside(&self) -> Vec<SetAside> {
        Vec::new()
    }

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

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Messages stored.
    pub messages: u64,
    /// Entries, parked ones included.
    pub entries: u64,
    /// Entries that are parked.
    pub parked: u64,
    /// Octets of bodies.
    pub octets: u64,
}
