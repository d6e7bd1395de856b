//! Why mail is not taken.

use crate::message;
use crate::spool::KeyError;

/// Why an outbox does not take a message. Nothing of it is in the transaction then, but what the error says
/// of the transaction itself holds: after [`OutboxError::Sqlite`] it may have to be rolled back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The message is wrong, and the caller's to change.
    #[error(transparent)]
    Message(#[from] message::SubmitError),
    /// The key cannot be one.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key stands for another content.
    #[error("the idempotency key stands for another message")]
    KeyConflict,
    /// A parameter of the envelope that was put together by hand could not be read again.
    #[error("the envelope cannot be written down: {0}")]
    Invalid(&'static str),
    /// The host's database.
    #[cfg(feature = "disk")]
    #[error("the database failed")]
    Sqlite(#[from] rusqlite::Error),
}
