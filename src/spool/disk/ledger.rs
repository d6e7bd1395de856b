//! The ledger is what the writer knows without reading: who holds which entry, and how much there is.
//!
//! Leases are in memory only, since one process owns the directory: after a crash everything is
//! unclaimed. The writer thread alone touches the ledger, between its transactions, so a claim and a
//! settlement can never cross. There is nothing in it per waiting entry, only per claimed one and
//! per queue, and besides what no index has (*unlisted*).

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::super::altering::Mark;
use super::super::{
    BodyRef, Claim, ClaimRequest, Class, QueueName, QueueSummary, REPORT_ENTRY, SpoolError, Stats, Token,
};
use super::alter::read_mark;
use super::rows::{COMMON_COLUMNS, Common, columns, entry_number};
use super::schema::{SHIFT, Stock, column, count, failure};
use super::segments::Deltas;
use super::tell;
use super::unlisted::{DUE, Due, Unlisted};
use crate::clock::Timestamp;
use crate::message::MessageId;
use crate::table::{Numbers, Table};

/// A claim that is not settled.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) token: Token,
    pub(super) until: Timestamp,
    pub(super) queue: QueueName,
    pub(super) class: Class,
    /// What was noted of it since it was claimed.
    pub(super) mark: Option<Mark>,
    /// The size of the message's body.
    pub(super) size: u64,
    /// The message has no other entry, and will have none.
    pub(super) single: bool,
    /// The body is known to be in the table in one piece.
    pub(super) small: bool,
    /// How long the message's results are kept, in milliseconds.
    pub(super) keep: Option<i64>,
}

impl Lease {
    pub(super) fn new(
        claim: &Claim,
        until: Timestamp,
        class: Class,
        single: bool,
        keep: Option<i64>,
    ) -> Self {
        let (queue, size, token) = (claim.queue.clone(), claim.body.size, claim.token);
        Self { token, until, queue, class, mark: None, size, single, small: false, keep }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    leases: Table<i64, Lease>,
    held: Table<(MessageId, u32), i64>,
    pub(super) unlisted: Arc<Unlisted>,
    queues: BTreeMap<(QueueName, Class), u64>,
    claims: u64,
    pub(super) stats: Stats,
}

/// What a transaction changes in the ledger once it is committed.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Entries that were born claimed, and when they are due.
    pub(super) born: Vec<(i64, Lease, Timestamp)>,
    /// Those whose claim is over, and those that nobody had claimed and that were changed.
    pub(super) settled: Numbers<i64>,
    /// Messages that are at their end with small bodies, and whose rows still stand.
    pub(super) gone: Vec<i64>,
    /// Entries that were in no index, and are now.
    pub(super) listed: Vec<i64>,
    /// Report entries that were added to: whoever has claimed one has done so for nothing.
    pub(super) told: Numbers<i64>,
    /// Queues that gained (or lost) an entry.
    pub(super) queues: Vec<(QueueName, Class, bool)>,
    /// What is noted of entries that are claimed.
    pub(super) marks: Vec<(i64, Option<Mark>)>,
    /// Leases that end sooner than they did.
    pub(super) ends: Vec<(i64, Timestamp)>,
    pub(super) messages: i64,
    pub(super) entries: i64,
    pub(super) parked: i64,
    pub(super) octets: i64,
    /// What the files of bodies hold more or less.
    pub(super) files: Deltas,
}

/// A row that was to be claimed, and is set aside or removed instead, or put where a person wants it.
#[derive(Debug)]
pub(super) struct Damaged {
    /// Its rowid.
    pub(super) e: i64,
    pub(super) queue: QueueName,
    pub(super) class: Class,
    /// When it was found.
    pub(super) at: Timestamp,
    /// It is in no index, and a person has changed it: it goes into the one that it belongs to now.
    pub(super) moved: bool,
}

/// What a claim found.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) claims: Vec<Claim>,
    /// There was more damage than it goes through at a time, and there may be more behind it.
    pub(super) ends_early: bool,
}

/// What stands in the rows of an entry.
pub(super) enum Found {
    /// A claim, whether it is the only one of its message, and how long results are kept, in milliseconds.
    Sound(Box<Claim>, bool, Option<i64>),
    /// A hold was noted during a claim that is over.
    Held,
    /// What cannot be read back.
    Damaged,
}

impl Ledger {
    pub(super) fn new(found: &Stock, unlisted: Arc<Unlisted>) -> Self {
        let mut queues = BTreeMap::new();
        for (name, class, entries) in &found.queues {
            *queues.entry((name.clone(), *class)).or_default() += *entries;
        }
        Self {
            leases: Table::default(),
            held: Table::default(),
            unlisted,
            queues,
            // A token of an earlier opening is never one of this.
            claims: found.opened << OPENED_SHIFT,
            stats: found.stats,
        }
    }

    /// The number of the next claim.
    pub(super) const fn next_claim(&mut self) -> u64 {
        self.claims += 1;
        self.claims
    }

    /// The rowid and lease that a token stands for, unless it is an old one.
    pub(super) fn find(&self, token: &Token) -> Option<(i64, &Lease)> {
        let e = *self.held.get(&(token.message, token.entry))?;
        let lease = self.leases.get(&e)?;
        (lease.token == *token).then_some((e, lease))
    }

    /// Takes over what was committed.
    pub(super) fn apply(&mut self, change: Change) {
        let unlisted = Arc::clone(&self.unlisted);
        let mut unlisted = unlisted.lock();
        for e in change.settled.iter().chain(&change.told) {
            self.forget(*e);
            unlisted.remove(*e);
        }
        change.listed.iter().for_each(|e| unlisted.remove(*e));
        for (e, lease, due) in change.born {
            unlisted.insert(e, lease.queue.clone(), lease.class, due);
            self.lease(e, lease);
        }
        for (e, mark) in change.marks {
            unlisted.remove(e);
            if let Some(lease) = self.leases.get_mut(&e) {
                lease.mark = mark;
            }
        }
        drop(unlisted);
        for (e, until) in change.ends {
            if let Some(lease) = self.leases.get_mut(&e) {
                lease.until = until;
            }
        }
        for (queue, class, more) in change.queues {
            let queue = (queue, class);
            if more {
                *self.queues.entry(queue).or_default() += 1;
            } else if let Some(entries) = self.queues.get_mut(&queue) {
                *entries = entries.saturating_sub(1);
                if *entries == 0 {
                    self.queues.remove(&queue);
                }
            }
        }
        self.stats.messages = self.stats.messages.saturating_add_signed(change.messages);
        self.stats.entries = self.stats.entries.saturating_add_signed(change.entries);
        self.stats.parked = self.stats.parked.saturating_add_signed(change.parked);
        self.stats.octets = self.stats.octets.saturating_add_signed(change.octets);
    }

    fn lease(&mut self, e: i64, lease: Lease) {
        self.held.insert((lease.token.message, lease.token.entry), e);
        self.leases.insert(e, lease);
    }

    fn forget(&mut self, e: i64) {
        let Some(lease) = self.leases.remove(&e) else { return };
        // A message that a person has removed may have come again under its id, and is then another one.
        if let Entry::Occupied(held) = self.held.entry((lease.token.message, lease.token.entry))
            && *held.get() == e
        {
            held.remove();
        }
    }

    /// Until when an entry is claimed, or was.
    pub(super) fn lease_of(&self, e: i64) -> Option<Timestamp> {
        self.leases.get(&e).map(|lease| lease.until)
    }

    /// Gives a claim up that nobody received.
    pub(super) fn release(&mut self, token: &Token) {
        if let Some((e, _)) = self.find(token) {
            self.forget(e);
        }
    }

    /// Extends leases; returns the tokens that are old.
    pub(super) fn extend(&mut self, tokens: Vec<Token>, until: Timestamp) -> Vec<Token> {
        let mut fenced = Vec::new();
        for token in tokens {
            let found = self.find(&token).map(|(e, _)| e);
            match found.and_then(|e| self.leases.get_mut(&e)) {
                Some(lease) => lease.until = until,
                None => fenced.push(token),
            }
        }
        fenced
    }

    /// Claims entries. Those that cannot be read are put into `damaged` and passed over.
    pub(super) fn claim(
        &mut self,
        conn: &Connection,
        request: &ClaimRequest,
        damaged: &mut Vec<Damaged>,
    ) -> Result<Claimed, SpoolError> {
        let mut claimed = Claimed { claims: Vec::new(), ends_early: false };
        let class = request.class;
        if !self.queues.contains_key(&(request.queue.clone(), class)) || request.limit == 0 {
            return Ok(claimed);
        }
        let limit = request.limit.min(MAX_CLAIM);
        let mut places = conn.prepare_cached(DUE).map_err(failure)?;
        let now = column(request.now.as_millis());
        let queue = request.queue.as_str();
        let places = places.query(params![queue, class.number(), now]).map_err(failure)?;
        let unlisted = Arc::clone(&self.unlisted);
        let unlisted = unlisted.lock();
        let unlisted = unlisted.of(&request.queue, class).take_while(|place| place.due <= request.now);
        let mut places = Due::new(places, unlisted);
        // Taken over at the end: who gets an error instead has claimed nothing.
        let (mut leases, mut broken) = (Vec::new(), Vec::new());
        while let Some(place) = places.next().map_err(failure)? {
            let e = place.e;
            if self.leases.get(&e).is_some_and(|lease| lease.until > request.now) {
                continue;
            }
            let moved = !place.listed && !place.stands(conn, &request.queue, class).map_err(failure)?;
            let found = if moved { Found::Held } else { look_at(conn, e).map_err(failure)? };
            let Found::Sound(mut claim, single, keep) = found else {
                broken.push(Damaged { e, queue: request.queue.clone(), class, at: request.now, moved });
                claimed.ends_early = broken.len() >= MAX_DAMAGED;
                if claimed.ends_early {
                    break;
                }
                continue;
            };
            claim.token.number = self.next_claim();
            leases.push((e, Lease::new(&claim, request.lease, class, single, keep)));
            claimed.claims.push(*claim);
            if claimed.claims.len() >= limit {
                break;
            }
        }
        // Whoever had it is late.
        broken.iter().for_each(|broken| self.forget(broken.e));
        damaged.extend(broken);
        leases.into_iter().for_each(|(e, lease)| self.lease(e, lease));
        Ok(claimed)
    }

    /// A page of queues.
    pub(super) fn queues(
        &self,
        conn: &Connection,
        after: Option<(QueueName, Class)>,
        limit: usize,
    ) -> Result<Vec<QueueSummary>, SpoolError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Vec::new();
        for ((queue, class), entries) in self.queues.range((from, Bound::Unbounded)).take(limit.min(MAX_PAGE))
        {
            let due = self.first_due(conn, queue, *class).map_err(failure)?;
            page.push(QueueSummary { queue: queue.clone(), class: *class, entries: *entries, due });
        }
        Ok(page)
    }

    /// When the first entry of a queue can be claimed.
    fn first_due(&self, conn: &Connection, queue: &QueueName, class: Class) -> rusqlite::Result<Timestamp> {
        let mut places = conn.prepare_cached(DUE)?;
        let places = places.query(params![queue.as_str(), class.number(), i64::MAX])?;
        let unlisted = self.unlisted.lock();
        let mut places = Due::new(places, unlisted.of(queue, class));
        let mut first = Timestamp::NEVER;
        while let Some(place) = places.next()? {
            match self.leases.get(&place.e) {
                Some(lease) => first = first.min(lease.until.max(place.due)),
                None => return Ok(first.min(place.due)),
            }
        }
        Ok(first)
    }
}

/// Reads an entry.
pub(super) fn look_at(conn: &Connection, e: i64) -> rusqlite::Result<Found> {
    let mut rows = conn.prepare_cached(READ)?;
    let mut rows = rows.query(params![e, e >> SHIFT])?;
    let mut found = rows.next()?.and_then(|row| read_entry(row, e)).unwrap_or(Found::Damaged);
    if entry_number(e) == REPORT_ENTRY
        && let Found::Sound(claim, ..) = &mut found
    {
        match tell::rest(conn, e >> SHIFT)? {
            Some(rest) => claim.recipients.extend(rest),
            None => found = Found::Damaged,
        }
    }
    Ok(found)
}

fn read_entry(row: &rusqlite::Row<'_>, e: i64) -> Option<Found> {
    let common = Common::read(row)?;
    let head = Bytes::copy_from_slice(row.get_ref(COMMON_COLUMNS).ok()?.as_blob().ok()?);
    let size = u64::try_from(row.get::<_, i64>(COMMON_COLUMNS + 1).ok()?).ok()?;
    let entries: i64 = row.get(COMMON_COLUMNS + 2).ok()?;
    let keep = row.get(COMMON_COLUMNS + 3).ok()?;
    let mark = row.get::<_, Option<String>>(COMMON_COLUMNS + 4).ok()?;
    let mark = mark.as_deref().and_then(read_mark);
    if matches!(mark, Some(Mark::Hold(_))) {
        return Some(Found::Held);
    }
    let claim = Claim {
        token: Token { message: common.message, entry: entry_number(e), number: 0 },
        mail: common.mail,
        handling: common.handling,
        head,
        body: BodyRef { message: common.message, number: count(e >> SHIFT), size, at_hand: None },
        accepted: common.accepted,
        expires: common.expires,
        destination: common.destination,
        queue: common.queue,
        due: common.due,
        attempts: common.attempts,
        cancelled: mark.is_some(),
        alone: entries == 1,
        recipients: common.recipients,
    };
    Some(Found::Sound(Box::new(claim), entries == 1, keep))
}

const READ: &str = columns!(
    ", m.head, m.size, m.entries, m.keep, e.mark FROM entry e JOIN message m ON m.n = ?2 WHERE e.e = ?1"
);

/// A claim of more, with an envelope and a head each, would be a list nobody needs at once.
const MAX_CLAIM: usize = 10_000;

/// Rows that cannot be read, in one look: a few milliseconds, in which everybody else waits.
const MAX_DAMAGED: usize = 1_000;

/// The same for a page of queues: each costs a look into the index.
const MAX_PAGE: usize = 10_000;

/// 2^40 claims per opening and 2^23 openings.
const OPENED_SHIFT: u32 = 40;
