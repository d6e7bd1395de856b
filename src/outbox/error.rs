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
    /// It could not be signed.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Sign(message::SignError),
    /// It is to be held for too long, or released after it has to be delivered.
    #[cfg(feature = "postgres")]
    #[error("the message is to be held for too long, or past its time")]
    Hold,
    /// The spool's tables did not take it.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Spool(crate::spool::SpoolError),
    /// The host's own transaction.
    #[cfg(feature = "postgres")]
    #[error("the database failed")]
    Postgres(#[from] tokio_postgres::Error),
    /// The host's database.
    #[cfg(feature = "disk")]
    #[error("the database failed")]
    Sqlite(#[from] rusqlite::Error),
}

#[cfg(feature = "postgres")]
impl From<crate::spool::SpoolError> for OutboxError {
    fn from(error: crate::spool::SpoolError) -> Self {
        match error {
            crate::spool::SpoolError::KeyConflict => Self::KeyConflict,
            error => Self::Spool(error),
        }
    }
}

#[cfg(feature = "postgres")]
impl From<crate::delivery::SubmitError> for OutboxError {
    fn from(error: crate::delivery::SubmitError) -> Self {
        use crate::delivery::SubmitError;
        match error {
            SubmitError::Message(error) => Self::Message(error),
            SubmitError::Spool(error) => error.into(),
            SubmitError::Closed => Self::Spool(crate::spool::SpoolError::Closed),
            SubmitError::KeyConflict => Self::KeyConflict,
            SubmitError::Key(error) => Self::Key(error),
            SubmitError::Sign(error) => Self::Sign(error),
            SubmitError::Hold | SubmitError::Release => Self::Hold,
        }
    }
}
