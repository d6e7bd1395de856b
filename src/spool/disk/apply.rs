//! Applying is turning one call into SQL inside the group's transaction.
//!
//! Nothing here touches the ledger: what has to change there is collected and taken over after the
//! commit, so a group that is rolled back can be tried again call by call.

use std::time::Duration;

use rusqlite::params;

use super::super::altering::{Mark, stays};
use super::super::{REPORT_ENTRY, Then, Token};
use super::alter::{UNMARK, alter_rows};
use super::bodies;
use super::calls::Write;
use super::ledger::{Change, Lease, Ledger};
use super::prepared::{Hot, Prepared};
use super::rows::{Row, SettleRow, entry_key};
use super::schema::{SHIFT, column, count};
use super::{damaged, keys, log, results, tell};
use crate::clock::Timestamp;

/// Applies one call.
pub(super) fn apply(
    sql: &mut Prepared<'_>,
    ledger: &mut Ledger,
    change: &mut Change,
    write: &mut Write,
) -> rusqlite::Result<()> {
    let conn = sql.conn();
    match write {
        Write::Enqueue { rows, lease, conflict, .. } => {
            *conflict = keys::conflict(conn, rows)?;
            if *conflict {
                return Ok(());
            }
            rows.iter_mut().try_for_each(|row| insert(sql, ledger, change, row, *lease))
        }
        Write::Settle { rows, fenced, .. } => {
            fenced.clear();
            for row in rows {
                if !settle(sql, ledger, change, row)? {
                    fenced.push(row.token);
                }
            }
            Ok(())
        }
        Write::Move { n, from, to: Some(to), .. } => bodies::relocate(conn, change, *n, from, to),
        Write::SetAside { damaged, fate } => {
            *fate = damaged::set_aside(conn, change, damaged)?;
            Ok(())
        }
        Write::Alter { rows, change: what, now, altered, .. } => {
            alter_rows(conn, ledger, change, rows, (what, *now), altered)
        }
        Write::Prune { now, log, more, .. } => {
            *more = keys::prune(conn, *now, STEPS)?;
            *more |= results::prune(conn, *now, STEPS)?;
            *more |= log::prune(conn, *now, *log, STEPS)?;
            Ok(())
        }
        Write::Flush { .. } | Write::Discard { .. } | Write::Move { to: None, .. } => Ok(()),
    }
}

fn insert(
    sql: &mut Prepared<'_>,
    ledger: &mut Ledger,
    change: &mut Change,
    row: &mut Row,
    lease: Option<Timestamp>,
) -> rusqlite::Result<()> {
    // A message that ended in this group may come again, and is then a new one.
    bodies::forget_small(sql, &mut change.gone)?;
    row.inserted = false;
    row.known = keys::known(sql.conn(), row)?;
    if row.known.is_some() {
        return Ok(());
    }
    let id = row.id.to_string();
    row.inserted = sql.get(Hot::InsertMessage)?.execute(params![
        row.n,
        id,
        row.sender,
        row.handling,
        row.accepted,
        row.expires,
        column(row.size),
        column(row.entries.len() as u64),
        row.head.as_ref(),
        row.keep,
        row.place.map(|at| at.seg),
        row.place.map(|at| column(at.off)),
        row.place.map(|at| column(at.len)),
        row.crc
    ])? > 0;
    if !row.inserted {
        return Ok(());
    }
    let insert_entry = sql.get(Hot::InsertEntry)?;
    for (at, entry) in (0_u32..).zip(&row.entries) {
        insert_entry.execute(params![
            entry_key(row.n, at),
            entry.destination.as_str(),
            entry.queue.as_str(),
            entry.due,
            entry.recipients,
            row.class.number(),
            lease.is_some()
        ])?;
        change.queues.push((entry.queue.clone(), row.class, true));
    }
    bodies::insert(sql, change, row)?;
    log::note(sql.conn(), &row.log)?;
    change.messages += 1;
    change.entries += i64::try_from(row.entries.len()).unwrap_or_default();
    change.octets += column(row.size);
    if let Some(until) = lease {
        let single = row.entries.len() == 1;
        let small = bodies::is_one_piece(row);
        for claim in &mut row.claims {
            claim.token = Token { number: ledger.next_claim(), ..claim.token };
            let lease = Lease { small, ..Lease::new(claim, until, row.class, single, row.keep) };
            change.born.push((entry_key(row.n, claim.token.entry), lease, claim.due));
        }
    }
    Ok(())
}

/// False when the token is an old one.
fn settle(
    sql: &mut Prepared<'_>,
    ledger: &mut Ledger,
    change: &mut Change,
    row: &mut SettleRow,
) -> rusqlite::Result<bool> {
    let Some((e, lease)) = ledger.find(&row.token) else { return Ok(false) };
    if change.told.contains(&e) || !change.settled.insert(e) {
        return Ok(false);
    }
    let (n, conn) = (e >> SHIFT, sql.conn());
    change.queues.push((lease.queue.clone(), lease.class, false));
    let queue = row.queue.as_ref().unwrap_or(&lease.queue);
    if row.token.entry == REPORT_ENTRY {
        // The entry goes, or it is written with all that it was claimed with.
        tell::forget(conn, n)?;
    }
    let retry = |due: Option<i64>, parked: Option<&str>| -> rusqlite::Result<bool> {
        let mut update = conn.prepare_cached(UPDATE_ENTRY)?;
        Ok(update.execute(params![e, due, queue.as_str(), row.attempted, parked, row.recipients])? > 0)
    };
    let there = match &row.then {
        Then::Remove => {
            let there = sql.get(Hot::DeleteEntry)?.execute([e])? > 0;
            change.entries -= 1;
            let told = there && tell::tell(conn, change, n, lease.class, row.tell.as_ref())?;
            let last = lease.single && !told || {
                conn.prepare_cached(ONE_LESS)?.execute([n])?;
                let mut left = conn.prepare_cached(LEFT)?;
                let mut left = left.query([n])?;
                let left = left.next()?.map_or(Ok(0), |row| row.get::<_, i64>(0))?;
                tell::hasten(conn, n, left)?;
                left <= 0
            };
            if let Some(keep) = lease.keep.filter(|_| there) {
                let until = last.then(|| row.at.after(Duration::from_millis(count(keep))));
                results::keep(conn, (row.token.message, row.token.entry), &row.gone, until)?;
            }
            if last {
                if lease.small {
                    change.gone.push(n);
                } else {
                    bodies::forget(sql, change, n)?;
                }
                change.messages -= 1;
                change.octets -= column(lease.size);
            }
            there
        }
        then => {
            let (due, parked) = stays(then, lease.mark.as_ref());
            match parked {
                Some(_) => change.parked += 1,
                None => change.queues.push((queue.clone(), lease.class, true)),
            }
            if matches!(lease.mark, Some(Mark::Hold(_))) {
                conn.prepare_cached(UNMARK)?.execute([e])?;
            }
            retry(due.map(|due| column(due.as_millis())), parked)?
        }
    };
    // A person has removed the entry: what it would submit is then not wanted either.
    if there {
        if row.then != Then::Remove {
            tell::tell(conn, change, n, lease.class, row.tell.as_ref())?;
        }
        row.submit.iter_mut().try_for_each(|message| insert(sql, ledger, change, message, None))?;
        log::note(conn, &row.log)?;
    }
    Ok(there)
}

const UPDATE_ENTRY: &str = "UPDATE entry SET due = coalesce(?2, due), queue = ?3, attempts = attempts + ?4, \
     parked = ?5, recipients = ?6, claimed = 0 WHERE e = ?1";
const ONE_LESS: &str = "UPDATE message SET entries = entries - 1 WHERE n = ?1";
const LEFT: &str = "SELECT entries FROM message WHERE n = ?1";

/// Rows that one call forgets of each kind: a few milliseconds, in which fresh mail waits.
const STEPS: i64 = 1_000;
