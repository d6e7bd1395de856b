//! The log in its table. One thread writes it, in the order in which it commits, so a number that can be
//! read has all smaller ones in front of it; and SQLite gives no number twice (AUTOINCREMENT).

use rusqlite::{Connection, params};

use super::super::{KeepLog, LogEvent, LogKind, Logged, SpoolError, rules};
use super::schema::{column, count};
use crate::clock::Timestamp;
use crate::smtp::params::Rcpt;

/// An event ready to be inserted.
#[derive(Debug)]
pub(super) struct LogRow {
    at: i64,
    message: String,
    entry: Option<u32>,
    kind: LogKind,
    recipient: Option<String>,
    attempt: u32,
    note: Option<Box<str>>,
}

impl LogRow {
    pub(super) fn all(events: Vec<LogEvent>) -> Result<Vec<Self>, SpoolError> {
        events.into_iter().map(Self::new).collect()
    }

    fn new(event: LogEvent) -> Result<Self, SpoolError> {
        let recipient = event.recipient.map(|rcpt| rcpt.to_string());
        if recipient.as_ref().is_some_and(|rcpt| rcpt.contains(char::is_control)) {
            return Err(SpoolError::Invalid("a recipient holds a control character"));
        }
        Ok(Self {
            at: column(event.at.as_millis()),
            message: event.message.to_string(),
            entry: event.entry,
            kind: event.kind,
            recipient,
            attempt: event.attempt,
            note: event.note.map(|note| rules::cut(&note).into()),
        })
    }

    /// How much it weighs in the queue in front of the writer.
    pub(super) fn weight(&self) -> usize {
        LOG_WEIGHT
            + self.recipient.as_ref().map_or(0, String::len)
            + self.note.as_ref().map_or(0, |n| n.len())
    }
}

/// Notes events.
pub(super) fn note(conn: &Connection, events: &[LogRow]) -> rusqlite::Result<()> {
    for event in events {
        let LogRow { at, message, entry, kind, recipient, attempt, note } = event;
        let mut insert = conn.prepare_cached(INSERT)?;
        insert.execute(params![at, message, entry, kind.as_str(), recipient, attempt, note.as_deref()])?;
    }
    Ok(())
}

/// A page of the log. Rows that cannot be read are left out: they are for a person with an SQLite shell.
pub(super) fn read(conn: &Connection, after: u64, limit: usize) -> rusqlite::Result<Vec<Logged>> {
    let mut rows = conn.prepare_cached(READ)?;
    let mut rows = rows.query([column(after)])?;
    let mut page = Vec::new();
    while page.len() < limit.min(MAX_PAGE)
        && let Some(row) = rows.next()?
    {
        page.extend(logged(row));
    }
    Ok(page)
}

fn logged(row: &rusqlite::Row<'_>) -> Option<Logged> {
    let number = |at: usize| u64::try_from(row.get::<_, i64>(at).ok()?).ok();
    let text = |at: usize| row.get_ref(at).ok()?.as_str_or_null().ok();
    let event = LogEvent {
        at: Timestamp::from_millis(number(1)?),
        message: text(2)??.parse().ok()?,
        entry: row.get(3).ok()?,
        kind: LogKind::from_name(text(4)??)?,
        recipient: match text(5)? {
            Some(rcpt) => Some(Rcpt::parse(rcpt).ok()?),
            None => None,
        },
        attempt: row.get(6).ok()?,
        note: text(7)?.map(Into::into),
    };
    Some(Logged { number: number(0)?, event })
}

/// Forgets the front of the log as far as it is not to be kept. Returns whether there may be more.
pub(super) fn prune(conn: &Connection, now: Timestamp, keep: KeepLog, steps: i64) -> rusqlite::Result<bool> {
    let last: Option<i64> =
        conn.prepare_cached("SELECT max(number) FROM log")?.query_row([], |row| row.get(0))?;
    let Some(last) = last else { return Ok(false) };
    // There are no gaps but where a person has made some.
    let first = count(last).saturating_sub(keep.events);
    let (mut seen, mut over) = (0, None);
    let mut rows = conn.prepare_cached("SELECT number, at FROM log ORDER BY number LIMIT ?1")?;
    let mut rows = rows.query([steps])?;
    while let Some(row) = rows.next()? {
        let (number, at) = (row.get::<_, i64>(0)?, Timestamp::from_millis(count(row.get(1)?)));
        if count(number) > first && at.after(keep.time) > now {
            break;
        }
        (seen, over) = (seen + 1, Some(number));
    }
    drop(rows);
    if let Some(over) = over {
        conn.prepare_cached("DELETE FROM log WHERE number <= ?1")?.execute([over])?;
    }
    Ok(seen >= steps)
}

const INSERT: &str = "INSERT INTO log (at, message, entry, kind, recipient, attempt, note) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const READ: &str = "SELECT number, at, message, entry, kind, recipient, attempt, note FROM log \
     WHERE number > ?1 ORDER BY number";

/// What an event takes in memory besides its text, roughly.
const LOG_WEIGHT: usize = 128;

/// Events of a page: more is a list that nobody needs at once.
const MAX_PAGE: usize = 10_000;
