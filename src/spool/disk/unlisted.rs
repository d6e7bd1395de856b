//! What is not in the index of what is due: entries that were born claimed, until somebody changes them.
//!
//! Most mail is delivered at its first attempt. Its entries would go into the deepest index of all and out of
//! it again without anybody ever having looked for them there; so their column `claimed` keeps them out, and
//! whoever looks for what is due is told of them by the ledger, which has their leases. Whatever changes such
//! an entry puts it into the index, and so do a good end and the opening after a bad one.

use std::collections::BTreeSet;

use rusqlite::{Rows, Transaction};

use super::super::{Class, QueueName};
use super::schema::count;
use crate::clock::Timestamp;

/// The rowids of such entries, by queue.
#[derive(Debug, Default)]
pub(super) struct Unlisted(BTreeSet<(QueueName, Class, i64)>);

impl Unlisted {
    pub(super) fn insert(&mut self, queue: &QueueName, class: Class, e: i64) {
        self.0.insert((queue.clone(), class, e));
    }

    pub(super) fn remove(&mut self, queue: &QueueName, class: Class, e: i64) {
        self.0.remove(&(queue.clone(), class, e));
    }

    /// Those of a queue.
    pub(super) fn of(&self, queue: &QueueName, class: Class) -> impl Iterator<Item = i64> {
        let range = (queue.clone(), class, i64::MIN)..=(queue.clone(), class, i64::MAX);
        self.0.range(range).map(|(.., e)| *e)
    }

    /// Puts all of them into the index.
    pub(super) fn list(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut list = tx.prepare("UPDATE entry SET claimed = 0 WHERE e = ?1")?;
        self.0.iter().try_for_each(|(.., e)| list.execute([e]).map(drop))
    }
}

/// Puts those into the index that a process has left which came to no good end. It goes through all entries:
/// to know where they are would cost each message what this saves.
pub(super) fn list_left(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute("UPDATE entry SET claimed = 0 WHERE claimed <> 0", []).map(drop)
}

/// What is due in a queue, earliest first: what the index has, and what it does not.
pub(super) struct Due<'rows> {
    listed: Rows<'rows>,
    next: Option<(Timestamp, i64)>,
    /// The latest first.
    unlisted: Vec<(Timestamp, i64)>,
}

impl<'rows> Due<'rows> {
    /// Goes through the rows of [`DUE`], and these besides.
    pub(super) fn new(listed: Rows<'rows>, mut unlisted: Vec<(Timestamp, i64)>) -> Self {
        unlisted.sort_unstable_by(|a, b| b.cmp(a));
        Self { listed, next: None, unlisted }
    }

    /// When the next one is due, and its rowid.
    pub(super) fn next(&mut self) -> rusqlite::Result<Option<(Timestamp, i64)>> {
        if self.next.is_none()
            && let Some(row) = self.listed.next()?
        {
            self.next = Some((Timestamp::from_millis(count(row.get(1)?)), row.get(0)?));
        }
        Ok(match (self.next, self.unlisted.last()) {
            (Some(listed), Some(other)) if listed < *other => self.next.take(),
            (Some(_), None) => self.next.take(),
            _ => self.unlisted.pop(),
        })
    }
}

/// The index alone answers this, so passing over claimed entries is cheap.
pub(super) const DUE: &str = "SELECT e, due FROM entry WHERE queue = ?1 AND class = ?2 AND parked IS NULL AND claimed = 0 AND due <= ?3 ORDER BY due, e";
