//! The calls that wait for the writer thread: what changes the storage, and what only looks.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::super::{
    Altered, Change, Claim, ClaimRequest, Class, Enqueued, KeepLog, QueueName, QueueSummary, SpoolError,
    Token,
};
use super::damaged::Fate;
use super::ledger::Damaged;
use super::rows::{Row, SettleRow};
use super::segments::Place;
use crate::clock::Timestamp;

pub(super) type Reply<T> = oneshot::Sender<Result<T, SpoolError>>;

/// What changes the storage.
#[derive(Debug)]
pub(super) enum Write {
    Enqueue {
        rows: Vec<Row>,
        lease: Option<Timestamp>,
        /// A key stands for another content: nothing was stored.
        conflict: bool,
        reply: Reply<Enqueued>,
    },
    Settle {
        rows: Vec<SettleRow>,
        fenced: Vec<Token>,
        reply: Reply<Vec<Token>>,
    },
    /// A staged body was given up that has a file.
    Discard {
        seg: i64,
    },
    /// A body that goes into another file, since little else is left in its own.
    Move {
        n: i64,
        from: Place,
        octets: Bytes,
        to: Option<Place>,
    },
    /// A row that cannot be read back, or whose hold was noted by a claim that is over, or that a person moved.
    SetAside {
        damaged: Damaged,
        /// Set where it cannot be read.
        fate: Option<Fate>,
    },
    /// Entries that somebody wants changed. A transaction of its own.
    Alter {
        rows: Vec<i64>,
        change: Change,
        now: Timestamp,
        altered: Altered,
        reply: Reply<Altered>,
    },
    /// Forgets a part of what is over.
    Prune {
        now: Timestamp,
        log: KeepLog,
        more: bool,
        reply: Reply<bool>,
    },
    Flush {
        reply: Reply<()>,
    },
}

impl Write {
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Enqueue { rows, .. } => rows.iter().map(Row::weight).sum(),
            Self::Settle { rows, .. } => rows.iter().map(SettleRow::weight).sum(),
            Self::Move { octets, .. } => octets.len(),
            Self::Alter { rows, .. } => rows.len() * size_of::<i64>(),
            Self::Discard { .. } | Self::SetAside { .. } | Self::Prune { .. } | Self::Flush { .. } => 0,
        }
    }

    /// Calls `f` with every body that this brings, and with the place it is to get.
    pub(super) fn bodies(&mut self, f: &mut dyn FnMut(&Bytes, &mut Option<Place>)) {
        let mut of_rows = |rows: &mut [Row]| {
            for row in rows {
                if let Some(body) = &row.body {
                    f(body, &mut row.place);
                }
            }
        };
        match self {
            Self::Enqueue { rows, .. } => of_rows(rows),
            Self::Settle { rows, .. } => rows.iter_mut().for_each(|row| of_rows(&mut row.submit)),
            Self::Move { octets, to, .. } => f(octets, to),
            Self::Alter { .. }
            | Self::Discard { .. }
            | Self::SetAside { .. }
            | Self::Prune { .. }
            | Self::Flush { .. } => {}
        }
    }

    /// Answers that it could not be done.
    pub(super) fn fail(self, error: SpoolError) {
        // Nobody listening is no error: dropping a call's future is allowed.
        match self {
            Self::Enqueue { reply, .. } => drop(reply.send(Err(error))),
            Self::Settle { reply, .. } => drop(reply.send(Err(error))),
            Self::Flush { reply } => drop(reply.send(Err(error))),
            Self::Alter { reply, .. } => drop(reply.send(Err(error))),
            Self::Prune { reply, .. } => drop(reply.send(Err(error))),
            Self::Discard { .. } | Self::SetAside { .. } | Self::Move { .. } => {}
        }
    }
}

/// What only looks, and takes or extends leases, which are in memory.
#[derive(Debug)]
pub(super) enum Look {
    Claim { request: ClaimRequest, turns: u32, reply: Reply<Vec<Claim>> },
    Extend { tokens: Vec<Token>, lease: Timestamp, reply: Reply<Vec<Token>> },
    Queues { after: Option<(QueueName, Class)>, limit: usize, reply: Reply<Vec<QueueSummary>> },
}

impl Look {
    pub(super) fn fail(self, error: SpoolError) {
        match self {
            Self::Claim { reply, .. } => drop(reply.send(Err(error))),
            Self::Extend { reply, .. } => drop(reply.send(Err(error))),
            Self::Queues { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}
