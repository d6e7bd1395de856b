//! What is stored: a message with its body, its entries, and what is remembered of it afterwards.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::message::{Handling, MessageId, Tenant};
use crate::smtp::address::Domain;
use crate::smtp::params::{Mail, Rcpt};

use super::claim::Claim;
use super::log::LogEvent;
use super::queue::QueueName;

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
    /// One per destination; at least one, and at most [`REPORT_ENTRY`].
    pub entries: Vec<NewEntry>,
    /// Under which the caller knows it, so that handing it over twice stores it once for as long as the key
    /// is remembered, even when it is delivered long ago.
    pub key: Option<Key>,
    /// How long its results are kept, counted from the settlement of its last entry; `None`: not at all.
    pub keep: Option<Duration>,
    /// What goes into the log with it.
    pub log: Vec<LogEvent>,
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

/// The number of the entry that collects what the sender of a message is to be told, see
/// [`Settlement::tell`](super::Settlement::tell). Other entries have smaller numbers.
pub const REPORT_ENTRY: u32 = (1 << 20) - 1;

/// The caller's own name for a message, with a digest of what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Key {
    /// Whose name it is: two tenants may use the same.
    pub tenant: Option<Tenant>,
    /// The name: 1 to 255 octets.
    pub name: Box<str>,
    /// Of the content. The same name with another digest is [`SpoolError::KeyConflict`](super::SpoolError).
    pub digest: [u8; 32],
    /// Until when it is remembered: at least, and for as long as its message waits.
    pub until: Timestamp,
}

impl Key {
    /// A key.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn new(
        tenant: Option<Tenant>,
        name: &str,
        digest: [u8; 32],
        until: Timestamp,
    ) -> Result<Self, KeyError> {
        if name.is_empty() || name.len() > 255 || name.contains('\0') {
            return Err(KeyError);
        }
        Ok(Self { tenant, name: name.into(), digest, until })
    }
}

/// An idempotency key is 1 to 255 octets of text without NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key is 1 to 255 octets without NUL")]
pub struct KeyError;

/// What came of [`Spool::enqueue`](super::Spool::enqueue).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Enqueued {
    /// The entries that were born claimed.
    pub claims: Vec<Claim>,
    /// Messages that were not stored because their keys are known.
    pub known: Vec<Known>,
}

impl Enqueued {
    /// Only claims.
    #[must_use]
    pub const fn claimed(claims: Vec<Claim>) -> Self {
        Self { claims, known: Vec::new() }
    }
}

/// A message whose key is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The id it was handed over with.
    pub given: MessageId,
    /// The id under which it was stored before.
    pub stored: MessageId,
}
