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

use rusqlite::{Connection, Rows, params};

use super::super::{Class, QueueName};
use super::schema::{column, count, queue_name};
use crate::clock::Timestamp;

/// The rowids of such entries, whether they are still claimed or not: as many as came claimed and wait for their
/// first settlement, which an engine bounds by the mail that it has in hand.
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

    /// Those of all classes of a queue, at most so many of each.
    pub(super) fn in_queue(&self, queue: &QueueName, limit: usize) -> Vec<i64> {
        let known = self.lock();
        Class::ALL.into_iter().flat_map(|class| known.of(queue, class).take(limit).map(|at| at.e)).collect()
    }

    pub(super) fn all(&self) -> Vec<i64> {
        self.lock().places.keys().copied().collect()
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

    /// Those of a queue, earliest first.
    pub(super) fn of(&self, queue: &QueueName, class: Class) -> impl Iterator<Item = Place> {
        let from = (queue.clone(), class, Timestamp::default(), i64::MIN);
        let to = (queue.clone(), class, Timestamp::NEVER, i64::MAX);
        self.queues.range(from..=to).map(|(.., due, e)| Place { due: *due, e: *e, listed: false })
    }

    /// Those that a process has left which came to no good end; what of them is not parked is counted. Nothing is
    /// written: the disk may be full.
    pub(super) fn find(
        conn: &Connection,
        queues: &mut Vec<(QueueName, Class, u64)>,
    ) -> rusqlite::Result<Self> {
        let mut known = Self::default();
        let mut left = conn.prepare(FIND)?;
        let mut left = left.query([])?;
        while let Some(row) = left.next()? {
            let (e, queue) = (row.get(0)?, queue_name(row.get_ref(1)?));
            let class = Class::from_number(row.get(2)?).unwrap_or_default();
            if !row.get::<_, bool>(4)? {
                queues.push((queue.clone(), class, 1));
            }
            known.insert(e, queue, class, Timestamp::from_millis(count(row.get(3)?)));
        }
        Ok(known)
    }
}

impl From<Known> for Unlisted {
    fn from(known: Known) -> Self {
        Self(Mutex::new(known))
    }
}

/// Where an entry stands in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) due: Timestamp,
    /// The rowid.
    pub(super) e: i64,
    /// The index has it.
    pub(super) listed: bool,
}

impl Place {
    /// Whether the row of one that is not listed is still as it came: a person may have changed it.
    pub(super) fn stands(
        &self,
        conn: &Connection,
        queue: &QueueName,
        class: Class,
    ) -> rusqlite::Result<bool> {
        let due = column(self.due.as_millis());
        conn.prepare_cached(STANDS)?.exists(params![self.e, queue.as_str(), class.number(), due])
    }
}

/// What is due in a queue, earliest first: what the index has, and what it does not.
pub(super) struct Due<'rows, I: Iterator> {
    listed: Rows<'rows>,
    next: Option<Place>,
    unlisted: std::iter::Peekable<I>,
}

impl<'rows, I: Iterator<Item = Place>> Due<'rows, I> {
    /// Goes through the rows of [`DUE`], and these besides, earliest first.
    pub(super) fn new(listed: Rows<'rows>, unlisted: I) -> Self {
        Self { listed, next: None, unlisted: unlisted.peekable() }
    }

    pub(super) fn next(&mut self) -> rusqlite::Result<Option<Place>> {
        if self.next.is_none()
            && let Some(row) = self.listed.next()?
        {
            let due = Timestamp::from_millis(count(row.get(1)?));
            self.next = Some(Place { due, e: row.get(0)?, listed: true });
        }
        let Some(listed) = self.next else { return Ok(self.unlisted.next()) };
        let other = self.unlisted.next_if(|other| *other < listed);
        if other.is_none() {
            self.next = None;
        }
        Ok(other.or(Some(listed)))
    }
}

/// The index alone answers this, so passing over claimed entries is cheap.
pub(super) const DUE: &str = "SELECT e, due FROM entry WHERE queue = ?1 AND class = ?2 AND parked IS NULL AND claimed = 0 AND due <= ?3 ORDER BY due, e";

/// An entry goes into the index.
pub(super) const LIST: &str = "UPDATE entry SET claimed = 0 WHERE e = ?1";

const STANDS: &str = "SELECT 1 FROM entry WHERE e = ?1 AND parked IS NULL AND claimed <> 0 AND queue = ?2 AND class = ?3 AND due = ?4";
const FIND: &str = "SELECT e, queue, class, due, parked IS NOT NULL FROM entry WHERE claimed <> 0";
