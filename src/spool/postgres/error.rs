//! Errors of the server, and what they mean to whoever called.

use std::io;

use tokio_postgres::error::SqlState;

use super::super::SpoolError;

/// Why a call failed, with as much as is needed to decide whether to try again.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It is the call's own fault, or the spool's state.
    Spool(SpoolError),
    /// The server said no, or is gone.
    Server(tokio_postgres::Error),
    /// The same while it was committing.
    Commit(tokio_postgres::Error),
}

impl From<SpoolError> for Failure {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error)
    }
}

impl From<Failure> for SpoolError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Spool(error) => error,
            // A server that answers has rolled back: only silence leaves it open.
            Failure::Commit(error) if error.code().is_none_or(is_unclear) => {
                Self::Unknown(io::Error::other(error))
            }
            Failure::Server(error) | Failure::Commit(error) => match error.code() {
                Some(code) if is_full(code) => Self::Full,
                Some(&SqlState::PROGRAM_LIMIT_EXCEEDED) => Self::TooLarge,
                Some(&SqlState::DATA_CORRUPTED | &SqlState::INDEX_CORRUPTED) => Self::Corrupt,
                _ => Self::Storage(io::Error::other(error)),
            },
        }
    }
}

impl Failure {
    /// Whether the same call may well succeed at once: the server chose it to lose against another.
    pub(super) fn is_collision(&self) -> bool {
        let (Self::Server(error) | Self::Commit(error)) = self else { return false };
        matches!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED))
    }

    /// Whether the connection is of no use any more and nothing was changed: another one may do better.
    pub(super) fn is_lost(&self) -> bool {
        let Self::Server(error) = self else { return false };
        error.is_closed() || error.code().is_none_or(is_unclear)
    }
}

/// What a server says when it is being stopped, or its connection is cut.
fn is_unclear(code: &SqlState) -> bool {
    // Class 08: connection exceptions; 57P01-57P03: shut down by an administrator, by a crash, not yet ready.
    code.code().starts_with("08") || code.code().starts_with("57P0")
}

fn is_full(code: &SqlState) -> bool {
    [SqlState::DISK_FULL, SqlState::OUT_OF_MEMORY].contains(code)
}
