//! The report entry of a message: what its sender is to be told, until it is. It stands in the last of the
//! places that the entries of a message have, so that nothing has to be looked for.
//!
//! What is told first stands in the entry, and what is told after that each in a row of its own, in order:
//! so that telling does not cost more the more was told before.

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{Class, QueueName, REPORT_ENTRY, Recipient, SpoolError, Tell};
use super::ledger::Change;
use super::rows::{entry_key, read_recipients, write_line};
use super::schema::column;

/// What is told, ready to be stored.
#[derive(Debug)]
pub(super) struct TellRow {
    destination: String,
    queue: QueueName,
    due: i64,
    recipients: String,
}

impl TellRow {
    pub(super) fn new(tell: Tell) -> Result<Self, SpoolError> {
        let mut recipients = String::new();
        for recipient in &tell.recipients {
            write_line(&mut recipients, recipient.state, &recipient.rcpt, recipient.note.as_deref())?;
        }
        let (destination, due) = (tell.destination.to_string(), column(tell.due.as_millis()));
        Ok(Self { destination, queue: tell.queue, due, recipients })
    }

    pub(super) fn weight(&self) -> usize {
        self.recipients.len()
    }
}

/// Adds to the report entry of a message, which comes into being with that. Returns whether there is one
/// now.
pub(super) fn tell(
    conn: &Connection,
    change: &mut Change,
    n: i64,
    class: Class,
    row: Option<&TellRow>,
) -> rusqlite::Result<bool> {
    let Some(row) = row else { return Ok(false) };
    let e = entry_key(n, REPORT_ENTRY);
    let due = conn.prepare_cached(DUE)?.query_row([e], |row| row.get::<_, i64>(0)).optional()?;
    if let Some(due) = due {
        conn.prepare_cached(ADD)?.execute(params![n, row.recipients])?;
        if row.due < due {
            conn.prepare_cached(SOONER)?.execute([e, row.due])?;
        }
    } else {
        if conn.prepare_cached(ONE_MORE)?.execute([n])? == 0 {
            return Ok(false); // a person has removed the message
        }
        forget(conn, n)?; // a person may have removed the entry
        let new = params![e, row.destination, row.queue.as_str(), row.due, row.recipients, class.number()];
        conn.prepare_cached(INSERT)?.execute(new)?;
        change.queues.push((row.queue.clone(), class, true));
        change.entries += 1;
    }
    // Whoever is at work on it does not know of these.
    change.told.insert(e);
    Ok(true)
}

/// What was told behind that which stands in the report entry of a message; `None` when some of it cannot be
/// read.
pub(super) fn rest(conn: &Connection, n: i64) -> rusqlite::Result<Option<Vec<Recipient>>> {
    let mut rows = conn.prepare_cached(REST)?;
    let mut rows = rows.query([n])?;
    let mut told = Vec::new();
    while let Some(row) = rows.next()? {
        let Some(more) = row.get_ref(0)?.as_str().ok().and_then(read_recipients) else { return Ok(None) };
        told.extend(more);
    }
    Ok(Some(told))
}

/// Removes it, when all of it stands in the entry again or the entry is gone.
pub(super) fn forget(conn: &Connection, n: i64) -> rusqlite::Result<()> {
    conn.prepare_cached(FORGET)?.execute([n]).map(drop)
}

/// Makes the report entry of a message due at once that has `left` entries, if it is the last of them.
pub(super) fn hasten(conn: &Connection, n: i64, left: i64) -> rusqlite::Result<()> {
    if left == 1 {
        conn.prepare_cached(HASTEN)?.execute([entry_key(n, REPORT_ENTRY)])?;
    }
    Ok(())
}

const DUE: &str = "SELECT due FROM entry WHERE e = ?1";
const SOONER: &str = "UPDATE entry SET due = ?2 WHERE e = ?1";
const ADD: &str = "INSERT INTO told (n, place, recipients) VALUES \
     (?1, 1 + coalesce((SELECT place FROM told WHERE n = ?1 ORDER BY place DESC LIMIT 1), 0), ?2)";
const REST: &str = "SELECT recipients FROM told WHERE n = ?1 ORDER BY place";
const FORGET: &str = "DELETE FROM told WHERE n = ?1";
const ONE_MORE: &str = "UPDATE message SET entries = entries + 1 WHERE n = ?1";
const INSERT: &str =
    "INSERT INTO entry (e, destination, queue, due, recipients, class) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const HASTEN: &str = "UPDATE entry SET due = 0 WHERE e = ?1";
