//! Results in their table: one row for each entry that is gone, written in the transaction that settles it.
//! What an entry that waits says of its recipients stands in the entry.

use rusqlite::{Connection, params};

use super::super::{REPORT_ENTRY, Recipient, Results, SpoolError};
use super::rows::{read_recipients, write_recipients};
use super::schema::{SHIFT, column, count};
use crate::clock::Timestamp;
use crate::message::MessageId;

/// Keeps how the recipients of an entry stand that goes. `until`: it is the last one, and all of its message
/// are kept until then.
pub(super) fn keep(
    conn: &Connection,
    (message, entry): (MessageId, u32),
    recipients: &[Recipient],
    until: Option<Timestamp>,
) -> rusqlite::Result<()> {
    if entry != REPORT_ENTRY {
        let recipients = write_recipients(recipients).map_err(invalid)?;
        let at = until.map(|until| column(until.as_millis()));
        conn.prepare_cached(KEEP)?.execute(params![message.to_string(), entry, recipients, at])?;
    }
    until.map_or(Ok(()), |at| self::until(conn, message, at))
}

/// Keeps the results of a message until then: nothing of it waits any more.
pub(super) fn until(conn: &Connection, message: MessageId, at: Timestamp) -> rusqlite::Result<()> {
    let mut until = conn.prepare_cached(UNTIL)?;
    until.execute(params![message.to_string(), column(at.as_millis())]).map(drop)
}

/// What is known of a message's recipients. One query, so that an entry is seen where it was or where it went.
pub(super) fn read(conn: &Connection, message: MessageId) -> rusqlite::Result<Option<Results>> {
    let mut rows = conn.prepare_cached(READ)?;
    let mut rows = rows.query(params![message.to_string(), REPORT_ENTRY])?;
    let (mut found, mut waits, mut until) = (false, false, None);
    let mut recipients = Vec::new();
    while let Some(row) = rows.next()? {
        found = true;
        // What cannot be read is left out, and does not count as settled.
        match row.get_ref(1)?.as_str().ok().and_then(read_recipients) {
            Some(all) => recipients.extend(all),
            None => waits = true,
        }
        until = until.max(row.get::<_, Option<i64>>(2)?);
    }
    let finished = !waits && recipients.iter().all(|recipient: &Recipient| recipient.state.is_terminal());
    let until = until.map(|until| Timestamp::from_millis(count(until)));
    Ok(found.then(|| Results::new(recipients, finished, until)))
}

/// Forgets results whose time is over. Returns whether there may be more.
pub(super) fn prune(conn: &Connection, now: Timestamp, steps: i64) -> rusqlite::Result<bool> {
    let gone = conn.prepare_cached(FORGET)?.execute(params![column(now.as_millis()), steps])?;
    Ok(i64::try_from(gone).is_ok_and(|gone| gone >= steps))
}

/// The recipients of a settlement are those of its claim, which could be written once.
pub(super) fn invalid(error: SpoolError) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

const KEEP: &str =
    "INSERT OR REPLACE INTO result (message, entry, recipients, until) VALUES (?1, ?2, ?3, ?4)";
const UNTIL: &str = "UPDATE result SET until = ?2 WHERE message = ?1 AND until IS NOT ?2";
const READ: &str = "SELECT e.e & 1048575 AS entry, e.recipients, NULL FROM message m \
     CROSS JOIN entry e ON e.e >= m.n << 20 AND e.e < (m.n + 1) << 20 \
     WHERE m.id = ?1 AND m.keep IS NOT NULL AND e.e & 1048575 <> ?2 \
     UNION ALL SELECT entry, recipients, until FROM result WHERE message = ?1 ORDER BY 1";
const FORGET: &str = "DELETE FROM result WHERE (message, entry) IN \
     (SELECT message, entry FROM result WHERE until <= ?1 ORDER BY until LIMIT ?2)";

/// The queries above have it in full.
const _: () = assert!(SHIFT == 20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::RecipientState;
    use crate::spool::contract::sample;

    #[test]
    fn the_entry_of_reports_is_no_result_and_keeps_them_until_it_goes() {
        let conn = Connection::open_in_memory().unwrap();
        let tables = "CREATE TABLE message (n INTEGER PRIMARY KEY, id TEXT, keep INTEGER);
             CREATE TABLE entry (e INTEGER PRIMARY KEY, recipients TEXT);
             CREATE TABLE result (message TEXT, entry INTEGER, recipients TEXT, until INTEGER,
               PRIMARY KEY (message, entry));
             INSERT INTO entry VALUES (3 << 20 | 1048575, 'waiting <copy@q.test>');";
        conn.execute_batch(tables).unwrap();
        let message = sample(1);
        conn.execute("INSERT INTO message VALUES (3, ?1, 9)", [message.id.to_string()]).unwrap();
        let all: Vec<_> = message.entries[0]
            .recipients
            .iter()
            .map(|rcpt| Recipient { state: RecipientState::Failed, ..Recipient::new(rcpt.clone()) })
            .collect();
        keep(&conn, (message.id, 0), &all, None).unwrap();
        let results = read(&conn, message.id).unwrap().unwrap();
        assert_eq!(results, Results::new(all.clone(), true, None), "of its reports one waits still");
        conn.execute("DELETE FROM entry", []).unwrap();
        let until = Timestamp::from_millis(7);
        keep(&conn, (message.id, REPORT_ENTRY), &all, Some(until)).unwrap();
        assert_eq!(read(&conn, message.id).unwrap(), Some(Results::new(all, true, Some(until))));
        assert!(!prune(&conn, until, 9).unwrap());
        conn.execute("DELETE FROM message", []).unwrap();
        assert_eq!(read(&conn, message.id).unwrap(), None);
    }
}
