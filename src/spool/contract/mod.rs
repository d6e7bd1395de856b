//! The contract is a test suite that any [`Spool`] must pass: one function per promise.
//!
//! Each takes a fresh, empty spool and says which promise was broken. An own implementation is
//! tested by calling them all; none sleeps, reads a clock or depends on another. What only a kind of
//! storage can show (crashes, a full disk, a second process) is not here.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{
    BodyRef, Claim, ClaimRequest, Class, Durability, EntrySummary, KeepLog, Key, Known, LogEvent, LogKind,
    Logged, NewBody, NewEntry, NewMessage, QueueName, QueueSummary, Recipient, RecipientState, Selection,
    Settlement, Spool, SpoolError, Staged, Stats, Then, Token,
};
use crate::clock::{Rng, Timestamp};
use crate::message::{Content, Handling, MessageId, Tenant};
use crate::smtp::address::Domain;
use crate::smtp::params::{Mail, Rcpt};

mod altering;
mod claiming;
mod remembering;
mod settling;
mod storing;
mod telling;

pub use altering::*;
pub use claiming::*;
pub use remembering::*;
pub use settling::*;
pub use storing::*;
pub use telling::*;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// A promise is not kept.
    #[error("not kept: {0}")]
    Promise(&'static str),
    /// A call failed that must not.
    #[error("a call failed")]
    Failed(#[from] SpoolError),
    /// A body could not be read.
    #[error("a body could not be read")]
    Body(#[from] std::io::Error),
}

/// How every promise ends.
pub type Kept = Result<(), Broken>;

/// A message for tests of a spool: the `n`-th of a row of ids that grow, for one recipient, in the
/// queue `q.test`, due at 0.
#[must_use]
pub fn sample(n: u64) -> NewMessage {
    NewMessage {
        id: id(n),
        mail: Mail::parse("<sender@s.test>").unwrap_or_default(),
        handling: Handling::new(),
        head: Bytes::from_static(b"Received: from c.test by s.test\r\n"),
        body: NewBody::Inline(Bytes::from_static(BODY)),
        accepted: Timestamp::from_millis(1),
        expires: Timestamp::from_millis(1_000_000),
        entries: Domain::parse("q.test")
            .ok()
            .map(|destination| NewEntry {
                queue: QueueName::from(&destination),
                destination,
                due: Timestamp::default(),
                recipients: Rcpt::parse("<someone@q.test>").into_iter().collect(),
            })
            .into_iter()
            .collect(),
        key: None,
        keep: None,
        log: Vec::new(),
    }
}

/// A settlement that says of each recipient of `claim` that it is delivered.
#[must_use]
pub fn remove(claim: &Claim) -> Settlement {
    let delivered = |r: &Recipient| Recipient { state: RecipientState::Delivered, ..r.clone() };
    Settlement {
        token: claim.token,
        at: Timestamp::from_millis(SETTLED),
        recipients: claim.recipients.iter().map(delivered).collect(),
        attempted: true,
        queue: None,
        then: Then::Remove,
        submit: Vec::new(),
        tell: None,
        log: Vec::new(),
    }
}

/// All octets of a body, read from the storage even where they are at hand.
///
/// # Errors
/// [`Broken`]
pub async fn octets(spool: &dyn Spool, body: &BodyRef) -> Result<Bytes, Broken> {
    match spool.body(&BodyRef { at_hand: None, ..body.clone() }).await? {
        Content::Whole(octets) => Ok(octets),
        Content::Stream { mut reader, .. } => {
            let mut octets = BytesMut::new();
            while let Some(piece) = reader.chunk().await? {
                ensure(!piece.is_empty(), "a piece has octets")?;
                octets.extend_from_slice(&piece);
            }
            Ok(octets.freeze())
        }
    }
}

async fn stage(spool: &dyn Spool, body: &Bytes) -> Result<Staged, SpoolError> {
    let mut writer = spool.stage().await?;
    // A size that divides no power of two.
    let mut rest = body.clone();
    while !rest.is_empty() {
        writer.write(rest.split_to(rest.len().min(99_991))).await?;
    }
    writer.finish().await
}

async fn claim(spool: &dyn Spool, queue: &str, now: u64, limit: usize) -> Result<Vec<Claim>, SpoolError> {
    let lease = Timestamp::from_millis(now.max(LEASE - 1) + 1 + now / LEASE * LEASE);
    let request = ClaimRequest {
        queue: QueueName::new(queue),
        class: Class::Normal,
        now: Timestamp::from_millis(now),
        limit,
        lease,
    };
    spool.claim(request).await
}

fn ensure(kept: bool, promise: &'static str) -> Kept {
    if kept { Ok(()) } else { Err(Broken::Promise(promise)) }
}

fn only<T>(items: Vec<T>) -> Result<T, Broken> {
    let mut items = items.into_iter();
    match (items.next(), items.next()) {
        (Some(item), None) => Ok(item),
        _ => Err(Broken::Promise("there is exactly one")),
    }
}

fn id(n: u64) -> MessageId {
    MessageId::new(Timestamp::from_millis(1_790_000_000_000 + n), &Rng::seeded(n))
}

fn ids(claims: &[Claim]) -> Vec<MessageId> {
    claims.iter().map(|claim| claim.token.message).collect()
}

fn due_at(mut message: NewMessage, due: u64) -> NewMessage {
    message.entries.iter_mut().for_each(|entry| entry.due = Timestamp::from_millis(due));
    message
}

/// A settlement that puts a claim off as it is.
fn retry(claim: &Claim, due: u64) -> Settlement {
    Settlement {
        recipients: claim.recipients.clone(),
        then: Then::Retry(Timestamp::from_millis(due)),
        ..remove(claim)
    }
}

fn in_queue(message: &mut NewMessage, queue: &str) {
    message.entries.iter_mut().for_each(|entry| entry.queue = QueueName::new(queue));
}

/// The first of a list, cloned.
trait FirstCloned<T> {
    fn first_cloned(&self) -> Result<T, Broken>;
}

impl<T: Clone> FirstCloned<T> for Vec<T> {
    fn first_cloned(&self) -> Result<T, Broken> {
        self.first().cloned().ok_or(SAMPLE)
    }
}

/// The suite's own sample is wrong.
const SAMPLE: Broken = Broken::Promise("the sample can be parsed");

/// The body of a sample.
const BODY: &[u8] = b"Subject: x\r\n\r\nHello.\r\n";

/// When everything is settled, in the suite's time.
const SETTLED: u64 = 500;

/// When leases end, in the suite's time.
const LEASE: u64 = 1_000;
