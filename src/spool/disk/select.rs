//! Selecting is finding the entries that are meant, for people who look and for changes.
//!
//! What few entries can be is found by an index: those of a message, of a short queue, the parked ones. All
//! else goes through the messages in order, a page at a time; a row that is not meant costs a look at a
//! few of its columns and no parsing.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};

use super::super::{EntrySummary, REPORT_ENTRY, Selection};
use super::alter::read_mark;
use super::rows::{COMMON_COLUMNS, Common, columns, entry_number};
use super::schema::SHIFT;
use super::tell;
use super::unlisted::Unlisted;
use crate::message::MessageId;
use crate::spool::altering::Mark;

/// An entry's place in the order of all.
pub(super) type Place = (MessageId, u32);

/// A page of entries to alter: their rowids, and where to go on. `reports`: also those of messages.
pub(super) fn page(
    conn: &Connection,
    unlisted: &Unlisted,
    which: &Selection,
    reports: bool,
    after: Option<Place>,
    limit: usize,
) -> rusqlite::Result<(Vec<i64>, Option<Place>)> {
    let limit = limit.clamp(1, MAX_PAGE);
    let (mut meant, mut looked, mut last) = (Vec::new(), 0, None);
    let found = walk(conn, unlisted, which, after, |row, e, is_meant| {
        looked += 1;
        last = place(row, e).or(last);
        // For people, of reports only those that are set aside can be altered, if they are damaged.
        let is_parked = || row.get_ref(COMMON_COLUMNS + 1).is_ok_and(|parked| parked != ValueRef::Null);
        if is_meant && (reports || entry_number(e) != REPORT_ENTRY || is_parked()) {
            meant.push(e);
        }
        Ok(looked < limit)
    });
    found?;
    Ok((meant, last.filter(|_| looked >= limit)))
}

/// Summaries of what is meant. Rows that cannot be read are left out: they are for a person with an SQLite
/// shell.
pub(super) fn summaries(
    conn: &Connection,
    unlisted: &Unlisted,
    which: &Selection,
    after: Option<Place>,
    limit: usize,
) -> rusqlite::Result<Vec<EntrySummary>> {
    let limit = limit.min(MAX_PAGE);
    let mut page = Vec::new();
    if limit == 0 {
        return Ok(page);
    }
    walk(conn, unlisted, which, after, |row, e, is_meant| {
        if is_meant && let Some(mut summary) = summary(row) {
            if entry_number(e) == REPORT_ENTRY {
                summary.recipients.extend(tell::rest(conn, e >> SHIFT)?.unwrap_or_default());
            }
            page.push(summary);
        }
        Ok(page.len() < limit)
    })?;
    Ok(page)
}

/// Goes through the entries behind `after` in order, by the shortest way, for as long as `visit` says so.
/// It is told of each whether it is meant.
fn walk(
    conn: &Connection,
    unlisted: &Unlisted,
    which: &Selection,
    after: Option<Place>,
    mut visit: impl FnMut(&rusqlite::Row<'_>, i64, bool) -> rusqlite::Result<bool>,
) -> rusqlite::Result<()> {
    let filter = Filter::new(which);
    if which.message.is_none()
        && let Some(rows) = few(conn, unlisted, which)?
    {
        let mut places = Vec::with_capacity(rows.len());
        let mut nowhere = Vec::new();
        let mut one = conn.prepare_cached(ONE)?;
        for e in rows {
            let mut row = one.query(params![e, e >> SHIFT])?;
            if let Some(row) = row.next()?
                && filter.has(row).unwrap_or_default()
            {
                match place(row, e) {
                    Some(place) if after.is_none_or(|after| place > after) => places.push((place, e)),
                    // What has no place, since its message's id cannot be read, comes first.
                    None if after.is_none() => nowhere.push(e),
                    _ => {}
                }
            }
        }
        places.sort_unstable();
        for e in nowhere.into_iter().chain(places.into_iter().map(|(_, e)| e)) {
            let mut row = one.query(params![e, e >> SHIFT])?;
            if let Some(row) = row.next()?
                && !visit(row, e, true)?
            {
                break;
            }
        }
        return Ok(());
    }
    let (id, entry) = after.map_or((String::new(), -1), |(id, entry)| (id.to_string(), i64::from(entry)));
    let mut rows = conn.prepare_cached(if which.message.is_some() { ENTRIES } else { ALL })?;
    let mut rows = match which.message {
        // Another message's place stands before or behind all of this one's.
        Some(message) if after.is_some_and(|(id, _)| id > message) => return Ok(()),
        Some(message) if after.is_some_and(|(id, _)| id < message) => {
            rows.query(params![message.to_string(), -1])?
        }
        Some(message) => rows.query(params![message.to_string(), entry])?,
        None => rows.query(params![id, entry])?,
    };
    while let Some(row) = rows.next()? {
        let is_meant = filter.has(row).unwrap_or_default();
        if !visit(row, row.get(COMMON_COLUMNS)?, is_meant)? {
            break;
        }
    }
    Ok(())
}

/// The rowids of those that may be meant, where an index finds them and they are few.
fn few(conn: &Connection, unlisted: &Unlisted, which: &Selection) -> rusqlite::Result<Option<Vec<i64>>> {
    let mut rows: Vec<i64> = Vec::new();
    if which.queue.is_none() && which.parked != Some(true) {
        return Ok(None);
    }
    if let Some(queue) = &which.queue
        && which.parked != Some(true)
    {
        rows = unlisted.in_queue(queue, FEW + 1);
        for e in conn.prepare_cached(IN_QUEUE)?.query_map(params![queue.as_str()], |row| row.get(0))? {
            rows.push(e?);
        }
    }
    if which.parked != Some(false) && rows.len() <= FEW {
        for e in conn.prepare_cached(PARKED)?.query_map([], |row| row.get(0))? {
            rows.push(e?);
        }
    }
    // What changes while it is looked for is found in more than one place.
    rows.sort_unstable();
    rows.dedup();
    Ok(Some(rows).filter(|rows| rows.len() <= FEW))
}

fn place(row: &rusqlite::Row<'_>, e: i64) -> Option<Place> {
    Some((row.get_ref(0).ok()?.as_str().ok()?.parse().ok()?, entry_number(e)))
}

/// A selection as text to compare columns with.
struct Filter {
    destination: Option<String>,
    queue: Option<String>,
    /// Words that must stand in the column `handling`.
    words: Vec<String>,
    parked: Option<bool>,
}

impl Filter {
    fn new(which: &Selection) -> Self {
        let tenant = which.tenant.as_ref().map(|tenant| format!("tenant={tenant}"));
        let tag = which.tag.as_ref().map(|tag| format!("tag={tag}"));
        Self {
            destination: which.destination.as_ref().map(|domain| domain.as_str().to_owned()),
            queue: which.queue.as_ref().map(|queue| queue.as_str().to_owned()),
            words: tenant.into_iter().chain(tag).collect(),
            parked: which.parked,
        }
    }

    /// Whether a row with the columns of [`Common`] and the rowid and `parked` behind them is meant.
    fn has(&self, row: &rusqlite::Row<'_>) -> Option<bool> {
        let text = |at: usize| row.get_ref(at).ok()?.as_str().ok();
        if let Some(destination) = &self.destination
            && text(5)? != destination
        {
            return Some(false);
        }
        if let Some(queue) = &self.queue
            && text(6)? != queue
        {
            return Some(false);
        }
        if !self.words.is_empty() {
            let line = text(2)?;
            if !self.words.iter().all(|word| line.split(' ').any(|has| has == word)) {
                return Some(false);
            }
        }
        let parked = row.get_ref(COMMON_COLUMNS + 1).ok()? != ValueRef::Null;
        Some(self.parked.is_none_or(|wanted| wanted == parked))
    }
}

fn summary(row: &rusqlite::Row<'_>) -> Option<EntrySummary> {
    let common = Common::read(row)?;
    let mark = row.get::<_, Option<String>>(COMMON_COLUMNS + 2).ok()?;
    Some(EntrySummary {
        message: common.message,
        entry: entry_number(row.get(COMMON_COLUMNS).ok()?),
        mail: common.mail,
        handling: common.handling,
        accepted: common.accepted,
        expires: common.expires,
        destination: common.destination,
        queue: common.queue,
        due: common.due,
        attempts: common.attempts,
        cancelled: mark.as_deref().and_then(read_mark) == Some(Mark::Cancel),
        parked: row.get::<_, Option<Box<str>>>(COMMON_COLUMNS + 1).ok()?,
        recipients: common.recipients,
    })
}

// CROSS JOIN keeps the order of the tables, so that the order by id costs no sorting.
const ALL: &str = columns!(
    ", e.e, e.parked, e.mark FROM message m CROSS JOIN entry e ON e.e >= m.n << 20 AND e.e < (m.n + 1) << 20 \
     WHERE m.id >= ?1 AND (m.id > ?1 OR e.e & 1048575 > ?2) ORDER BY m.id, e.e"
);

const ENTRIES: &str = columns!(
    ", e.e, e.parked, e.mark FROM message m CROSS JOIN entry e ON e.e >= m.n << 20 AND e.e < (m.n + 1) << 20 \
     WHERE m.id = ?1 AND e.e & 1048575 > ?2 ORDER BY e.e"
);

const ONE: &str = columns!(", e.e, e.parked, e.mark FROM entry e JOIN message m ON m.n = ?2 WHERE e.e = ?1");

/// One more than are few, so that more is noticed.
const IN_QUEUE: &str = "SELECT e FROM entry WHERE queue = ?1 AND parked IS NULL AND claimed = 0 LIMIT 10001";
const PARKED: &str = "SELECT e FROM entry WHERE parked IS NOT NULL LIMIT 10001";

/// As many are found anew for each page, which takes some 50 ms; going through a million in order takes
/// seconds in total, however many of them are meant.
const FEW: usize = 10_000;

/// Rows of a page, an envelope each.
const MAX_PAGE: usize = 10_000;
