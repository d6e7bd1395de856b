//! Damaged entries are rows that cannot be read back. They are set aside, so that they are in nobody's way,
//! and wait for a person who may know better; when they are cancelled there is nothing to be settled first,
//! and they go at once.

use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};

use super::super::altering::Mark;
use super::super::{Class, LogEvent, LogKind, QueueName, REPORT_ENTRY, Recipient, RecipientState};
use super::alter::read_mark;
use super::ledger::{Change, Damaged, Found, look_at};
use super::log::{self, LogRow};
use super::prepared::Prepared;
use super::rows::{entry_number, read_recipients};
use super::schema::{SHIFT, count};
use super::{bodies, results, tell, unlisted};
use crate::clock::Timestamp;
use crate::message::MessageId;

/// What became of an entry that could not be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is set aside. With its message, where that much can be read.
    Aside(Option<MessageId>),
    /// It was cancelled and is removed.
    Removed(Option<MessageId>),
}

/// Whether an entry is there and cannot be read back.
pub(super) fn is_damaged(conn: &Connection, e: i64) -> rusqlite::Result<bool> {
    let there = conn.prepare_cached("SELECT 1 FROM entry WHERE e = ?1")?.exists([e])?;
    Ok(there && matches!(look_at(conn, e)?, Found::Damaged))
}

/// Sets an entry aside that could not be claimed; removes it if it is cancelled, and parks it with the reason
/// of the hold that was noted of it, if one was. `None`: that, or it is no longer there, or a person has moved it.
pub(super) fn set_aside(
    conn: &Connection,
    change: &mut Change,
    damaged: &Damaged,
) -> rusqlite::Result<Option<Fate>> {
    let Damaged { e, queue, class, at, moved } = damaged;
    change.listed.push(*e);
    // What is no text is no mark.
    let read = |row: &rusqlite::Row<'_>| Ok(row.get_ref(0)?.as_str().ok().map(str::to_owned));
    let mark = if *moved { None } else { conn.prepare_cached(MARK)?.query_row([e], read).optional()? };
    let Some(mark) = mark else {
        conn.prepare_cached(unlisted::LIST)?.execute([e])?;
        return Ok(None);
    };
    let (reason, fate) = match mark.as_deref().and_then(read_mark) {
        Some(Mark::Cancel) => return Ok(Some(Fate::Removed(remove(conn, change, *e, *at)?))),
        Some(Mark::Hold(reason)) => (reason, None),
        None => (DAMAGED.into(), Some(Fate::Aside(message(conn, e >> SHIFT)?))),
    };
    conn.prepare_cached("UPDATE entry SET parked = ?2, mark = NULL, claimed = 0 WHERE e = ?1")?
        .execute(params![e, reason])?;
    change.queues.push((queue.clone(), *class, false));
    change.parked += 1;
    Ok(fate)
}

/// Removes an entry that cannot be read, and its message with the body when it was the last. What can be read
/// of it is counted, kept as a result and logged as of any other that is cancelled. Returns its message, where
/// that much can be read.
pub(super) fn remove(
    conn: &Connection,
    change: &mut Change,
    e: i64,
    at: Timestamp,
) -> rusqlite::Result<Option<MessageId>> {
    let (n, entry) = (e >> SHIFT, entry_number(e));
    let mut gone = conn.prepare_cached(DELETE)?;
    let mut gone = gone.query([e])?;
    let Some(row) = gone.next()? else { return Ok(None) };
    if row.get_ref(2)? == ValueRef::Null {
        let class = Class::from_number(row.get(1)?).unwrap_or_default();
        if let Ok(queue) = row.get_ref(0)?.as_str() {
            change.queues.push((QueueName::new(queue), class, false));
        }
    } else {
        change.parked -= 1;
    }
    change.entries -= 1;
    let recipients = row.get_ref(3)?.as_str().ok().and_then(read_recipients);
    if entry == REPORT_ENTRY {
        tell::forget(conn, n)?;
    }
    let id = message(conn, n)?;
    let mut left = conn.prepare_cached(ONE_LESS)?;
    let mut left = left.query([n])?;
    // Without its message there is nothing else.
    let Some(row) = left.next()? else { return Ok(id) };
    let (left, keep, size): (i64, Option<i64>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    tell::hasten(conn, n, left)?;
    if let Some(id) = id.filter(|_| entry != REPORT_ENTRY) {
        cancelled(conn, (id, entry), recipients, keep.is_some(), at)?;
    }
    if left <= 0 {
        if let (Some(id), Some(keep)) = (id, keep) {
            results::until(conn, id, at.after(Duration::from_millis(count(keep))))?;
        }
        bodies::forget(&mut Prepared::new(conn), change, n)?;
        change.messages -= 1;
        change.octets -= size;
    }
    Ok(id)
}

/// Notes of the recipients that wait that they were cancelled: as far as they can be read.
fn cancelled(
    conn: &Connection,
    (message, entry): (MessageId, u32),
    recipients: Option<Vec<Recipient>>,
    keep: bool,
    at: Timestamp,
) -> rusqlite::Result<()> {
    let (kind, attempt, note) = (LogKind::Cancelled, 0, Some(DAMAGED.into()));
    let event = LogEvent { at, message, entry: Some(entry), kind, recipient: None, attempt, note };
    let mut events = Vec::new();
    match recipients {
        None => events.push(event),
        Some(mut all) => {
            for recipient in all.iter_mut().filter(|recipient| !recipient.state.is_terminal()) {
                recipient.state = RecipientState::Cancelled;
                events.push(LogEvent { recipient: Some(recipient.rcpt.clone()), ..event.clone() });
            }
            if keep {
                results::keep(conn, (message, entry), &all, None)?;
            }
        }
    }
    // The engine says what is logged, and did not see this one: it is, where anything ever was.
    if conn.prepare_cached(LOGS)?.exists([])? {
        log::note(conn, &LogRow::all(events).map_err(results::invalid)?)?;
    }
    Ok(())
}

fn message(conn: &Connection, n: i64) -> rusqlite::Result<Option<MessageId>> {
    let mut id = conn.prepare_cached("SELECT id FROM message WHERE n = ?1")?;
    let mut id = id.query([n])?;
    let Some(row) = id.next()? else { return Ok(None) };
    Ok(row.get_ref(0)?.as_str().ok().and_then(|id| id.parse().ok()))
}

/// Why an entry is set aside.
pub(super) const DAMAGED: &str = "damaged: this row could not be read";

const MARK: &str = "SELECT mark FROM entry WHERE e = ?1 AND parked IS NULL";
const DELETE: &str = "DELETE FROM entry WHERE e = ?1 RETURNING queue, class, parked, recipients";
const ONE_LESS: &str = "UPDATE message SET entries = entries - 1 WHERE n = ?1 RETURNING entries, keep, size";
const LOGS: &str = "SELECT 1 FROM sqlite_sequence WHERE name = 'log'";
