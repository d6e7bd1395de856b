//! The table, and its rows on the way in and out.

use std::fmt::Write as _;

use rusqlite::{Connection, Row, params};

use super::OutboxError;
use crate::clock::Timestamp;
use crate::message::{Handling, MessageId, Submission};
use crate::smtp::params::{Mail, Rcpt};

/// Made again on each start; a later version adds to it. `n` is the order of enqueuing.
/// `state`: 0 waits, 1 was refused, 2 was handed over and is kept for its key.
pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS postroad_outbox (
  n        INTEGER PRIMARY KEY AUTOINCREMENT,
  id       BLOB NOT NULL UNIQUE,
  form     INTEGER NOT NULL DEFAULT 1,
  state    INTEGER NOT NULL DEFAULT 0,
  tenant   TEXT NOT NULL DEFAULT '',
  name     TEXT,
  digest   BLOB,
  keep     INTEGER,
  due      INTEGER NOT NULL DEFAULT 0,
  tries    INTEGER NOT NULL DEFAULT 0,
  until    INTEGER NOT NULL DEFAULT 0,
  error    TEXT,
  mail     TEXT NOT NULL,
  rcpts    TEXT NOT NULL,
  handling TEXT NOT NULL DEFAULT '',
  head     BLOB NOT NULL DEFAULT x'',
  content  BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS postroad_outbox_name ON postroad_outbox(tenant, name) WHERE name IS NOT NULL;
CREATE INDEX IF NOT EXISTS postroad_outbox_waiting ON postroad_outbox(n, due) WHERE state = 0;
CREATE INDEX IF NOT EXISTS postroad_outbox_until ON postroad_outbox(until) WHERE state = 2;
";

/// See [`super::SqliteOutbox::ENQUEUE`].
pub(super) const ENQUEUE: &str = "INSERT INTO postroad_outbox
  (id, tenant, name, digest, keep, mail, rcpts, handling, head, content)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// What is known of a key: the message's id, its digest, and whether the row is in the way of another.
pub(super) const KNOWN: &str = "SELECT n, id, digest, state = 1 OR (state = 2 AND until <= ?3)
  FROM postroad_outbox WHERE tenant = ?1 AND name = ?2";

pub(super) const FORGET: &str = "DELETE FROM postroad_outbox WHERE n = ?1";

/// In the order of enqueuing, so that none is passed over for ever. What was put off by a clock that was
/// ahead is not put off until that time.
const WAITING: &str = "SELECT n, id, form, name, keep, tries, mail, rcpts, handling, head, content
  FROM postroad_outbox WHERE state = 0 AND (due <= ?1 OR due > ?2) ORDER BY n LIMIT ?3";

const PUT_OFF: &str = "UPDATE postroad_outbox SET tries = tries + 1, due = ?2, error = ?3 WHERE n = ?1";

const REFUSE: &str = "UPDATE postroad_outbox SET state = 1, error = ?2 WHERE n = ?1";

const KEEP: &str =
    "UPDATE postroad_outbox SET state = 2, until = ?2, error = NULL, head = x'', content = x'' WHERE n = ?1";

const PRUNE: &str = "DELETE FROM postroad_outbox WHERE n IN
  (SELECT n FROM postroad_outbox WHERE state = 2 AND until <= ?1 LIMIT 1000)";

/// A row that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) n: i64,
    pub(super) id: MessageId,
    pub(super) name: Option<String>,
    pub(super) keep: Option<i64>,
    pub(super) tries: i64,
    /// `None` when the row is damaged, or of a form of a later version.
    pub(super) submission: Option<Submission>,
    pub(super) octets: usize,
}

/// What becomes of a row.
#[derive(Debug)]
pub(super) enum Fate {
    /// Handed over; nothing has to be remembered here.
    Gone,
    /// Handed over; its key is remembered until then.
    Kept(Timestamp),
    /// Tried again then.
    PutOff(Timestamp, String),
    /// Never.
    Refused(String),
}

/// Up to so many rows, and so many octets but for the first.
pub(super) fn waiting(
    connection: &Connection,
    now: Timestamp,
    ahead: Timestamp,
    limit: usize,
    octets: usize,
) -> rusqlite::Result<Vec<Waiting>> {
    let mut statement = connection.prepare_cached(WAITING)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![column(now), column(ahead), limit])?;
    let (mut found, mut sum) = (Vec::new(), 0_usize);
    while let Some(row) = rows.next()? {
        let row = read(row)?;
        sum = sum.saturating_add(row.octets);
        if sum > octets && !found.is_empty() {
            break;
        }
        found.push(row);
    }
    Ok(found)
}

/// A row, whatever is in it: other programs may write some, and one that cannot be read is refused and
/// does not stop the others.
fn read(row: &Row<'_>) -> rusqlite::Result<Waiting> {
    let n = row.get(0)?;
    Ok(read_whole(row).unwrap_or_else(|_| Waiting {
        n,
        id: MessageId::from_octets([0; 16]),
        name: row.get(3).unwrap_or_default(),
        keep: None,
        tries: 0,
        submission: None,
        octets: 0,
    }))
}

fn read_whole(row: &Row<'_>) -> rusqlite::Result<Waiting> {
    let id: [u8; 16] = row.get(1)?;
    let form: i64 = row.get(2)?;
    let (mail, rcpts, handling): (String, String, String) = (row.get(6)?, row.get(7)?, row.get(8)?);
    let (head, content): (Vec<u8>, Vec<u8>) = (row.get(9)?, row.get(10)?);
    let octets = head.len() + content.len();
    let submission = || {
        let mail = Mail::parse(&mail).ok()?;
        let rcpts = rcpts.lines().map(Rcpt::parse).collect::<Result<Vec<_>, _>>().ok()?;
        let mut submission = Submission::new(mail, rcpts, head.into(), content.into());
        submission.handling = Handling::parse(&handling)?;
        Some(submission)
    };
    Ok(Waiting {
        n: row.get(0)?,
        id: MessageId::from_octets(id),
        name: row.get(3)?,
        keep: row.get(4)?,
        tries: row.get(5)?,
        submission: if form == FORM { submission() } else { None },
        octets,
    })
}

/// The envelope as it is written: the argument of MAIL, and a line for each of RCPT.
pub(super) fn envelope(submission: &Submission) -> Result<(String, String), OutboxError> {
    let mail = submission.mail.to_string();
    let mut rcpts = String::new();
    for rcpt in &submission.recipients {
        let line = rcpt.to_string();
        if line.contains(char::is_control) {
            return Err(OutboxError::Invalid("a recipient holds a control character"));
        }
        if !rcpts.is_empty() {
            rcpts.push('\n');
        }
        let _ = write!(rcpts, "{line}");
    }
    if mail.contains(char::is_control) || Mail::parse(&mail).is_err() {
        return Err(OutboxError::Invalid("a parameter of its sender cannot be read again"));
    }
    Ok((mail, rcpts))
}

/// Writes down what became of rows, in one transaction.
pub(super) fn settle(connection: &mut Connection, fates: &[(i64, Fate)]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for (n, fate) in fates {
        match fate {
            Fate::Gone => transaction.prepare_cached(FORGET)?.execute([n])?,
            Fate::Kept(until) => transaction.prepare_cached(KEEP)?.execute(params![n, column(*until)])?,
            Fate::PutOff(due, error) => {
                transaction.prepare_cached(PUT_OFF)?.execute(params![n, column(*due), error])?
            }
            Fate::Refused(error) => transaction.prepare_cached(REFUSE)?.execute(params![n, error])?,
        };
    }
    transaction.commit()
}

/// Forgets keys whose time is over.
pub(super) fn prune(connection: &Connection, now: Timestamp) -> rusqlite::Result<usize> {
    connection.prepare_cached(PRUNE)?.execute([column(now)])
}

/// A time for a column.
pub(super) fn column(time: Timestamp) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The form of the rows that this version writes and reads.
const FORM: i64 = 1;
