//! What is not in the index of what is due: entries that were born claimed, until somebody changes them.
//!
//! Most mail is delivered at its first attempt. Its entries would go into the deepest index of all and out of
//! it again without anybody ever having looked for them there; so their column `claimed` keeps them out, and
//! whoever looks for what is due looks here as well. Whatever changes such an entry puts it into the index, and
//! so does a good end. After another, the next opening finds them by going through all entries: to know where
//! they are would cost each message what this saves.
//!
//! The writer adds and removes behind its commits. So who looks here first and reads then misses nothing, and
//! may find an entry in both places.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Rows, Transaction};

use super::super::{Class, QueueName};
use super::schema::{count, queue_name};
use crate::clock::Timestamp;

/// The rowids of such entries, whether they are still claimed or not.
#[derive(Debug, Default)]
pub(super) struct Unlisted(Mutex<Known>);

#[derive(Debug, Default)]
pub(super) struct Known {
    places: BTreeMap<i64, (QueueName, Class, Timestamp)>,
    /// The same by queue, in the order in which they are due.
    queues: BTreeSet<(QueueName, Class, Timestamp, i64)>,
}

impl Unlisted {
    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of all classes of a queue.
    pub(super) fn in_queue(&self, queue: &QueueName) -> Vec<i64> {
        let known = self.lock();
        Class::ALL.into_iter().flat_map(|class| known.of(queue, class).map(|(_, e)| e)).collect()
    }
}

impl Known {
    pub(super) fn insert(&mut self, e: i64, queue: QueueName, class: Class, due: Timestamp) {
        self.queues.insert((queue.clone(), class, due, e));
        self.places.insert(e, (queue, class, due));
    }

    pub(super) fn remove(&mut self, e: i64) {
        if let Some((queue, class, due)) = self.places.remove(&e) {
            self.queues.remove(&(queue, class, due, e));
        }
    }

    /// Those of a queue, and when they are due, earliest first.
    pub(super) fn of(&self, queue: &QueueName, class: Class) -> impl Iterator<Item = (Timestamp, i64)> {
        let from = (queue.clone(), class, Timestamp::default(), i64::MIN);
        let to = (queue.clone(), class, Timestamp::NEVER, i64::MAX);
        self.queues.range(from..=to).map(|(.., due, e)| (*due, *e))
    }

    /// How many there are of each queue.
    pub(super) fn queues(&self) -> impl Iterator<Item = (&QueueName, Class)> {
        self.places.values().map(|(queue, class, _)| (queue, *class))
    }

    /// Puts all of them into the index.
    pub(super) fn list(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut list = tx.prepare(LIST)?;
        self.places.keys().try_for_each(|e| list.execute([e]).map(drop))
    }

    /// Those that a process has left which came to no good end. Nothing is written: the disk may be full.
    pub(super) fn find(conn: &Connection) -> rusqlite::Result<Self> {
        let mut known = Self::default();
        let mut left =
            conn.prepare("SELECT e, queue, class, due FROM entry WHERE claimed <> 0 AND parked IS NULL")?;
        let mut left = left.query([])?;
        while let Some(row) = left.next()? {
            let class = Class::from_number(row.get(2)?).unwrap_or_default();
            let due = Timestamp::from_millis(count(row.get(3)?));
            known.insert(row.get(0)?, queue_name(row.get_ref(1)?), class, due);
        }
        Ok(known)
    }
}

impl From<Known> for Unlisted {
    fn from(known: Known) -> Self {
        Self(Mutex::new(known))
    }
}

/// What is due in a queue, earliest first: what the index has, and what it does not.
pub(super) struct Due<'rows, I: Iterator> {
    listed: Rows<'rows>,
    next: Option<(Timestamp, i64)>,
    unlisted: std::iter::Peekable<I>,
}

impl<'rows, I: Iterator<Item = (Timestamp, i64)>> Due<'rows, I> {
    /// Goes through the rows of [`DUE`], and these besides, earliest first.
    pub(super) fn new(listed: Rows<'rows>, unlisted: I) -> Self {
        Self { listed, next: None, unlisted: unlisted.peekable() }
    }

    /// When the next one is due, and its rowid.
    pub(super) fn next(&mut self) -> rusqlite::Result<Option<(Timestamp, i64)>> {
        if self.next.is_none()
            && let Some(row) = self.listed.next()?
        {
            self.next = Some((Timestamp::from_millis(count(row.get(1)?)), row.get(0)?));
        }
        let Some(listed) = self.next else { return Ok(self.unlisted.next()) };
        let other = self.unlisted.next_if(|other| *other <= listed);
        // A person may have put it into the index.
        if other.is_none_or(|other| other == listed) {
            self.next = None;
        }
        Ok(other.or(Some(listed)))
    }
}

/// The index alone answers this, so passing over claimed entries is cheap.
pub(super) const DUE: &str = "SELECT e, due FROM entry WHERE queue = ?1 AND class = ?2 AND parked IS NULL AND claimed = 0 AND due <= ?3 ORDER BY due, e";

/// An entry goes into the index.
pub(super) const LIST: &str = "UPDATE entry SET claimed = 0 WHERE e = ?1";
