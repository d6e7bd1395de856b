//! Migrating brings the tables of an earlier version up to date, a version and a transaction at a time.

use rusqlite::{Connection, params};

use super::super::Class;
use super::schema::{DELETE_BODIES, SHIFT, besides, view_mail};
use crate::smtp::params::Mail;

/// Brings tables of this version up to date.
pub(super) fn migrate(conn: &Connection, found: i64) -> rusqlite::Result<()> {
    if found < 2 {
        conn.execute_batch(FROM_1)?;
    }
    if found < 3 {
        from_2(conn)?;
    }
    if found < 4 {
        conn.execute_batch(FROM_3)?;
    }
    Ok(())
}

/// Version 2 knows how a message is to be handled.
const FROM_1: &str = "
BEGIN IMMEDIATE;
DROP VIEW mail;
ALTER TABLE message ADD COLUMN handling TEXT NOT NULL DEFAULT '';
UPDATE meta SET value = 2 WHERE key = 'version';
PRAGMA user_version = 2;
COMMIT;
";

/// Version 3 knows classes, marks, keys, results, a log, segments, and how to tell of many.
fn from_2(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(BEGIN_3)?;
    collect_staged(conn)?;
    classify(conn)?;
    conn.execute_batch(END_3)
}

/// Bodies that were being taken in are files now. What is in the table, no message has named.
fn collect_staged(conn: &Connection) -> rusqlite::Result<()> {
    let mut staged = conn.prepare("SELECT n FROM staged")?;
    let mut staged = staged.query([])?;
    while let Some(row) = staged.next()? {
        let n: i64 = row.get(0)?;
        conn.execute(DELETE_BODIES, params![n << SHIFT, (n + 1) << SHIFT])?;
    }
    Ok(())
}

/// Gives entries the class of their messages, where that is another than most have: who claims a class is to
/// find all of it.
fn classify(conn: &Connection) -> rusqlite::Result<()> {
    let mut with_priority =
        conn.prepare("SELECT n, sender FROM message WHERE sender LIKE '% MT-PRIORITY=%'")?;
    let mut with_priority = with_priority.query([])?;
    let mut update = conn.prepare("UPDATE entry SET class = ?3 WHERE e >= ?1 AND e < ?2")?;
    while let Some(row) = with_priority.next()? {
        let n: i64 = row.get(0)?;
        let class = row.get_ref(1)?.as_str().ok().and_then(|sender| Mail::parse(sender).ok());
        let class = class.map_or_else(Class::default, |mail| Class::of(&mail));
        update.execute(params![n << SHIFT, (n + 1) << SHIFT, class.number()])?;
    }
    Ok(())
}

const BEGIN_3: &str = concat!(
    "
BEGIN IMMEDIATE;
DROP VIEW IF EXISTS mail;
DROP INDEX entry_due;
ALTER TABLE message ADD COLUMN keep INTEGER;
ALTER TABLE entry ADD COLUMN class INTEGER NOT NULL DEFAULT 1;
ALTER TABLE entry ADD COLUMN mark TEXT;
",
    besides!(),
    view_mail!(),
);

const END_3: &str = "
DROP TABLE staged;
CREATE INDEX entry_due ON entry (queue, class, due) WHERE parked IS NULL;
UPDATE meta SET value = 3 WHERE key = 'version';
PRAGMA user_version = 3;
COMMIT;
";

/// Version 4 keeps what is born claimed out of the index of what is due.
const FROM_3: &str = "
BEGIN IMMEDIATE;
DROP INDEX entry_due;
ALTER TABLE entry ADD COLUMN claimed INTEGER NOT NULL DEFAULT 0;
CREATE INDEX entry_due ON entry (queue, class, due) WHERE parked IS NULL AND claimed = 0;
UPDATE meta SET value = 4 WHERE key = 'version';
PRAGMA user_version = 4;
COMMIT;
";
