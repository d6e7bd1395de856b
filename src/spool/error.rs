//! Errors of a spool say what is known of the storage afterwards: nothing changed, or not known.

use std::io;

/// Why a spool could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// No room: in the queue in front of the storage, or on it. Nothing was stored; try later.
    #[error("the spool is full")]
    Full,
    /// A message is larger than the spool can ever take. Nothing was stored.
    #[error("the message is too large for the spool")]
    TooLarge,
    /// The message is not one that can be stored (no entry, an entry without recipients, a staged
    /// body of another spool), or a settlement removes an entry that still has a waiting recipient.
    #[error("the message cannot be stored: {0}")]
    Invalid(&'static str),
    /// The storage failed before anything was changed.
    #[error("the spool's storage failed")]
    Storage(#[source] io::Error),
    /// The storage failed while it made the change durable: it may or may not be there.
    #[error("the spool's storage failed, and what it has kept is not known")]
    Unknown(#[source] io::Error),
    /// What is stored cannot be read back.
    #[error("a stored record is damaged")]
    Corrupt,
    /// An earlier failure to make something durable; the spool must be opened again.
    #[error("the spool failed earlier and must be opened again")]
    Poisoned,
    /// Another process has the spool open.
    #[error("the spool is in use by another process")]
    Locked,
    /// The spool was written by a version that this one does not understand.
    #[error("the spool has format version {found}, this version reads {supported}")]
    Version {
        /// What was found.
        found: i64,
        /// What can be read.
        supported: i64,
    },
    /// A message's key stands for another content. Nothing of the batch was stored.
    #[error("the idempotency key stands for another content")]
    KeyConflict,
    /// The spool is closed.
    #[error("the spool is closed")]
    Closed,
}
