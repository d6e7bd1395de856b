//! Errors of the server, and what they mean to whoever called.

use std::io;
use std::time::Duration;

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
    /// It does not answer.
    Silent,
    /// The same while it was committing.
    SilentCommit,
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
            Failure::Silent => Self::Storage(io::ErrorKind::TimedOut.into()),
            Failure::SilentCommit => Self::Unknown(io::ErrorKind::TimedOut.into()),
            // A server that answers has rolled back: only silence leaves it open.
            Failure::Commit(error) if error.code().is_none_or(is_unclear) => {
                Self::Unknown(io::Error::other(error))
            }
            Failure::Server(error) | Failure::Commit(error) => match error.code() {
                Some(code) if is_full(code) => Self::Full,
                // Another transaction has what this one needs, and may for long.
                Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    Self::Storage(io::Error::new(io::ErrorKind::ResourceBusy, error))
                }
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
        match self {
            Self::Server(error) => error.is_closed() || error.code().is_none_or(is_unclear),
            Self::Silent => true,
            Self::Spool(_) | Self::Commit(_) | Self::SilentCommit => false,
        }
    }

    /// The same, of a call that may be made again whether it was done or not.
    pub(super) fn before(self) -> Self {
        match self {
            Self::Commit(error) => Self::Server(error),
            Self::SilentCommit => Self::Silent,
            other => other,
        }
    }

    /// Whether it may or may not have been done.
    pub(super) fn is_unsure(&self) -> bool {
        match self {
            Self::Commit(error) => error.code().is_none_or(is_unclear),
            Self::SilentCommit => true,
            Self::Spool(_) | Self::Server(_) | Self::Silent => false,
        }
    }

    /// What it means for a call that was one statement, which commits by itself: as long as the server said
    /// nothing, it may have.
    pub(super) fn of_statement(self) -> Self {
        match self {
            Self::Server(error) => Self::Commit(error),
            Self::Silent => Self::SilentCommit,
            other => other,
        }
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

/// How often one call is tried, and how long it waits in between.
#[derive(Debug, Default)]
pub(super) struct Tries {
    lost: u32,
    collided: u32,
}

impl Tries {
    /// Returns when the call may be made again.
    ///
    /// # Errors
    /// What it failed with, when that will not help.
    pub(super) async fn again(&mut self, failure: Failure) -> Result<(), SpoolError> {
        if failure.is_collision() && self.collided < COLLISIONS {
            self.collided += 1;
            return Ok(());
        }
        if failure.is_lost() && self.lost < LOST {
            tokio::time::sleep(FIRST_PAUSE * 2_u32.saturating_pow(self.lost)).await;
            self.lost += 1;
            return Ok(());
        }
        Err(failure.into())
    }
}

/// Whoever loses against another wins the next time, unless it is a third.
const COLLISIONS: u32 = 10;

/// With the pauses: 6 s, in which a server that is restarted is there again.
const LOST: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
