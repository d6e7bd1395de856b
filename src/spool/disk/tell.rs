//! The report entry of a message: what its sender is to be told, until it is. It stands in the last of the
//! places that the entries of a message have, so that nothing has to be looked for.

use rusqlite::{Connection, params};

use super::super::{QueueName, REPORT_ENTRY, SpoolError, Tell};
use super::ledger::Change;
use super::rows::{entry_key, write_line};
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
    row: Option<&TellRow>,
) -> rusqlite::Result<bool> {
    let Some(row) = row else { return Ok(false) };
    let e = entry_key(n, REPORT_ENTRY);
    if conn.prepare_cached(ADD)?.execute(params![e, row.due, row.recipients])? == 0 {
        if conn.prepare_cached(ONE_MORE)?.execute([n])? == 0 {
            return Ok(false); // a person has removed the message
        }
        let new = params![e, row.destination, row.queue.as_str(), row.due, row.recipients];
        conn.prepare_cached(INSERT)?.execute(new)?;
        change.queues.push((row.queue.clone(), true));
        change.entries += 1;
    }
    // Whoever is at work on it does not know of these.
    change.told.insert(e);
    Ok(true)
}

/// Makes the report entry of a message due at once that has `left` entries, if it is the last of them.
pub(super) fn hasten(conn: &Connection, n: i64, left: i64) -> rusqlite::Result<()> {
    if left == 1 {
        conn.prepare_cached(HASTEN)?.execute([entry_key(n, REPORT_ENTRY)])?;
    }
    Ok(())
}

const ADD: &str =
    "UPDATE entry SET recipients = recipients || char(10) || ?3, due = min(due, ?2) WHERE e = ?1";
const ONE_MORE: &str = "UPDATE message SET entries = entries + 1 WHERE n = ?1";
const INSERT: &str = "INSERT INTO entry (e, destination, queue, due, recipients) VALUES (?1, ?2, ?3, ?4, ?5)";
const HASTEN: &str = "UPDATE entry SET due = 0 WHERE e = ?1";
