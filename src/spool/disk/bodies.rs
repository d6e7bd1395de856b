//! Bodies in SQL: a body is in the table `body` in pieces, or in a file that its message's row names.

use rusqlite::{Connection, params};

use super::PIECE;
use super::ledger::Change;
use super::prepared::{Hot, Prepared};
use super::rows::Row;
use super::schema::{SHIFT, column, count};
use super::segments::Place;

/// Writes the body of a message that was just inserted, or counts it where its file is.
pub(super) fn insert(sql: &mut Prepared<'_>, change: &mut Change, row: &Row) -> rusqlite::Result<()> {
    if let Some(place) = &row.place {
        let delta = change.files.entry(place.seg).or_default();
        delta.live += 1;
        delta.bytes += column(place.len);
        delta.size = delta.size.max(place.off + place.len);
        return Ok(());
    }
    let Some(body) = &row.body else { return Ok(()) };
    let insert = sql.get(Hot::InsertBody)?;
    for (piece, octets) in (0_i64..).zip(body.chunks(PIECE)) {
        insert.execute(params![row.n << SHIFT | piece, octets])?;
    }
    Ok(())
}

/// Whether the body is in the table in one piece, or empty. No file will have it later: only what is in one is
/// moved.
pub(super) fn is_one_piece(row: &Row) -> bool {
    row.place.is_none() && row.body.as_ref().is_none_or(|body| body.len() <= PIECE)
}

/// Removes a message's row and its body with it. Its entries must be gone.
pub(super) fn forget(sql: &mut Prepared<'_>, change: &mut Change, n: i64) -> rusqlite::Result<()> {
    // Not by RETURNING, for which SQLite makes a table of its own each time.
    let Some(kept) = find(sql, n)? else { return Ok(()) };
    sql.get(Hot::DeleteMessages)?.execute([n, n + 1])?;
    match kept.place {
        Some(place) => {
            let delta = change.files.entry(place.seg).or_default();
            delta.live -= 1;
            delta.bytes -= column(place.len);
        }
        None => {
            sql.get(Hot::DeleteBodies)?.execute([n << SHIFT, (n + 1) << SHIFT])?;
        }
    }
    Ok(())
}

/// [`forget`] of messages whose bodies are known to be in the table in one piece. What is settled together mostly
/// came together and stands side by side, and rows side by side go for little more than one.
pub(super) fn forget_small(sql: &mut Prepared<'_>, gone: &mut Vec<i64>) -> rusqlite::Result<()> {
    gone.sort_unstable();
    for run in gone.chunk_by(|n, next| n + 1 == *next) {
        let ([first, .., last] | [first @ last]) = run else { continue };
        sql.get(Hot::DeleteMessages)?.execute([*first, last + 1])?;
        sql.get(Hot::DeleteBodies)?.execute([first << SHIFT, (last + 1) << SHIFT])?;
    }
    gone.clear();
    Ok(())
}

/// Notes that a body was copied into another file, unless its message has gone meanwhile.
pub(super) fn relocate(
    conn: &Connection,
    change: &mut Change,
    n: i64,
    from: &Place,
    to: &Place,
) -> rusqlite::Result<()> {
    let params = params![n, from.seg, column(from.off), to.seg, column(to.off)];
    if conn.prepare_cached(RELOCATE)?.execute(params)? > 0 {
        for (place, sign) in [(from, -1), (to, 1)] {
            let delta = change.files.entry(place.seg).or_default();
            delta.live += sign;
            delta.bytes += sign * column(place.len);
        }
    }
    Ok(())
}

/// What the row of a message says about its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    /// `None`: it is in the table.
    pub(super) place: Option<Place>,
    /// `None`: an earlier version wrote it down without.
    pub(super) crc: Option<u32>,
}

/// Where the body of a message is; `None` when there is no such message.
pub(super) fn find(sql: &mut Prepared<'_>, n: i64) -> rusqlite::Result<Option<Kept>> {
    let mut found = sql.get(Hot::Place)?.query([n])?;
    let Some(row) = found.next()? else { return Ok(None) };
    let place = match (row.get(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, Option<i64>>(2)?) {
        (Some(seg), Some(off), Some(len)) => Some(Place { seg, off: count(off), len: count(len) }),
        _ => None,
    };
    Ok(Some(Kept { place, crc: row.get(3)? }))
}

const RELOCATE: &str = "UPDATE message SET seg = ?4, off = ?5 WHERE n = ?1 AND seg = ?2 AND off = ?3";
