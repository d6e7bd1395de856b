//! Altering on disk: readers look for a page of what is meant, the writer changes it.
//!
//! The looking costs the writer nothing, however much waits; what it is handed is a list of rowids, and
//! each list is one short transaction of its own, in which what is claimed and settled does not change.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::altering::{Done, Fixed, Mark, Standing, alter, concerns, lease_end};
use super::super::set_back::released;
use super::super::{Altered, Change as What, Class, QueueName};
use super::damaged;
use super::ledger::{Change, Ledger};
use super::rows::entry_number;
use super::schema::{SHIFT, column, count};
use crate::clock::Timestamp;
use crate::smtp::address::Domain;
use crate::smtp::params::Mail;

/// Alters these entries.
pub(super) fn alter_rows(
    conn: &Connection,
    ledger: &Ledger,
    change: &mut Change,
    rows: &[i64],
    (what, now): (&What, Timestamp),
    altered: &mut Altered,
) -> rusqlite::Result<()> {
    let mut queues = BTreeSet::new();
    (altered.changed, altered.claimed) = (0, 0);
    for e in rows {
        match alter_row(conn, ledger, change, *e, (what, now), &mut queues)? {
            Done::Nothing => {}
            Done::Changed => altered.changed += 1,
            Done::Claimed => altered.claimed += 1,
        }
    }
    altered.queues = queues.into_iter().collect();
    Ok(())
}

fn alter_row(
    conn: &Connection,
    ledger: &Ledger,
    change: &mut Change,
    e: i64,
    (what, now): (&What, Timestamp),
    queues: &mut BTreeSet<(QueueName, Class)>,
) -> rusqlite::Result<Done> {
    let given = ledger.lease_of(e);
    let lease = given.map(|until| lease_end(what, until));
    if lease != given {
        change.ends.extend(lease.map(|until| (e, until)));
    }
    let claimed = lease.is_some_and(|until| until > now);
    // A report that cannot be written can be given up like any other.
    if *what == What::Cancel && !claimed && damaged::is_damaged(conn, e)? {
        let message = damaged::remove(conn, change, e, now)?;
        tracing::warn!(?message, entry = entry_number(e), "a stored entry that cannot be read is cancelled");
        change.settled.insert(e);
        return Ok(Done::Changed);
    }
    if !concerns(what, entry_number(e)) {
        return Ok(Done::Nothing);
    }
    let mut look = conn.prepare_cached(STANDING)?;
    // Gone since it was found, or not to be read: for a person with an SQLite shell.
    let Some(Some(row)) = look.query_row(params![e, e >> SHIFT], |row| Ok(read(row))).optional()? else {
        return Ok(Done::Nothing);
    };
    let Row { mut is, class, destination, expires, attempts, accepted, release } = row;
    let (before, was_parked) = (is.clone(), is.parked.is_some());
    let (destination, entry) = (&destination, entry_number(e));
    let fixed = Fixed { destination, expires, entry, attempts, accepted, release, claimed };
    let done = alter(&mut is, fixed, what, now);
    // What is claimed and left as it is need not be written.
    if done == Done::Nothing || done == Done::Claimed && is == before {
        return Ok(done);
    }
    let (due, mark) = (column(is.due.as_millis()), is.mark.as_ref().map(write_mark));
    conn.prepare_cached(ALTER)?.execute(params![e, is.queue.as_str(), due, is.parked, mark])?;
    let is_parked = is.parked.is_some();
    if !was_parked {
        change.queues.push((before.queue, class, false));
    }
    if !is_parked {
        change.queues.push((is.queue.clone(), class, true));
        if done == Done::Changed {
            queues.insert((is.queue, class));
        }
    }
    change.parked += i64::from(is_parked) - i64::from(was_parked);
    if claimed {
        change.marks.push((e, is.mark));
    } else {
        // Whoever had it is late, and from here on the index has it.
        change.settled.insert(e);
    }
    Ok(done)
}

struct Row {
    is: Standing,
    class: Class,
    destination: Domain,
    expires: Timestamp,
    attempts: u32,
    accepted: Timestamp,
    release: Timestamp,
}

fn read(row: &rusqlite::Row<'_>) -> Option<Row> {
    let text = |at: usize| row.get_ref(at).ok()?.as_str().ok();
    let time = |at: usize| Some(Timestamp::from_millis(count(row.get(at).ok()?)));
    let is = Standing {
        queue: QueueName::new(text(0)?),
        due: time(2)?,
        parked: row.get(4).ok()?,
        mark: row.get::<_, Option<String>>(5).ok()?.as_deref().and_then(read_mark),
    };
    let class = Class::from_number(row.get(1).ok()?)?;
    // Where these cannot be read, other changes are possible all the same.
    let attempts = row.get(7).unwrap_or_default();
    let accepted = time(8).unwrap_or_default();
    let mail = text(9).and_then(|mail| Mail::parse(mail).ok());
    let release = mail.map_or(Timestamp::NEVER, |mail| released(&mail, accepted));
    let destination = Domain::parse(text(3)?).ok()?;
    Some(Row { is, class, destination, expires: time(6)?, attempts, accepted, release })
}

/// As it stands in the column.
fn write_mark(mark: &Mark) -> String {
    match mark {
        Mark::Hold(reason) => format!("hold {reason}"),
        Mark::Cancel => "cancel".to_owned(),
    }
}

/// What stands in the column; `None` where a person wrote something else.
pub(super) fn read_mark(text: &str) -> Option<Mark> {
    match text {
        "cancel" => Some(Mark::Cancel),
        _ => text.strip_prefix("hold ").map(|reason| Mark::Hold(reason.into())),
    }
}

const STANDING: &str = "SELECT e.queue, e.class, e.due, e.destination, e.parked, e.mark, m.expires, \
     e.attempts, m.accepted, m.sender FROM entry e JOIN message m ON m.n = ?2 WHERE e.e = ?1";
const ALTER: &str = "UPDATE entry SET queue = ?2, due = ?3, parked = ?4, mark = ?5, claimed = 0 WHERE e = ?1";
/// A hold that was noted has come true.
pub(super) const UNMARK: &str = "UPDATE entry SET mark = NULL WHERE e = ?1";
