//! Keys in their table: looked up and stored in the transaction that stores the message.

use std::collections::HashMap;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, params};

use super::super::{Key, rules};
use super::rows::Row;
use super::schema::column;
use crate::clock::Timestamp;
use crate::message::{MessageId, Tenant};

/// Whether one of these has a key that stands for another content. Asked before anything of the call is
/// stored, so that a refusal costs the others of its group nothing.
pub(super) fn conflict(conn: &Connection, rows: &[Row]) -> rusqlite::Result<bool> {
    let mut new = HashMap::new();
    for key in rows.iter().filter_map(|row| row.key.as_ref()) {
        let (tenant, name) = place(key);
        let mut find = conn.prepare_cached("SELECT digest FROM key WHERE tenant = ?1 AND name = ?2")?;
        let known: Option<Vec<u8>> = find.query_row([tenant, name], |row| row.get(0)).optional()?;
        let differs = match known {
            Some(digest) => digest != key.digest,
            None => *new.entry((tenant, name)).or_insert(key.digest) != key.digest,
        };
        if differs {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Under which id the message with this key is stored; where that is not known, it is from now on.
pub(super) fn known(conn: &Connection, row: &Row) -> rusqlite::Result<Option<MessageId>> {
    let Some(key) = &row.key else { return Ok(None) };
    let (tenant, name) = place(key);
    let mut learn = conn.prepare_cached(LEARN)?;
    let until = column(key.until.as_millis());
    if learn.execute(params![tenant, name, key.digest, row.id.to_string(), until])? > 0 {
        return Ok(None);
    }
    let mut find = conn.prepare_cached("SELECT message FROM key WHERE tenant = ?1 AND name = ?2")?;
    find.query_row([tenant, name], |row| {
        let id = row.get_ref(0)?.as_str()?.parse();
        // Somebody has edited it.
        id.map(Some)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
    })
}

/// Forgets keys whose time is over, but not those of messages that still wait: these are looked at again
/// later. Returns whether there may be more.
pub(super) fn prune(conn: &Connection, now: Timestamp, steps: i64) -> rusqlite::Result<bool> {
    let again = column(now.after(rules::KEY_AGAIN).as_millis());
    let now = column(now.as_millis());
    let kept = conn.prepare_cached(PUT_OFF)?.execute(params![now, steps, again])?;
    let gone = conn.prepare_cached(FORGET)?.execute(params![now, steps])?;
    Ok(i64::try_from(kept + gone).is_ok_and(|seen| seen >= steps))
}

fn place(key: &Key) -> (&str, &str) {
    (key.tenant.as_ref().map_or("", Tenant::as_str), &key.name)
}

const LEARN: &str = "INSERT INTO key (tenant, name, digest, message, until) VALUES (?1, ?2, ?3, ?4, ?5) \
     ON CONFLICT (tenant, name) DO NOTHING";
const PUT_OFF: &str = "UPDATE key SET until = ?3 WHERE (tenant, name) IN \
     (SELECT tenant, name FROM key WHERE until <= ?1 ORDER BY until LIMIT ?2) \
     AND EXISTS (SELECT 1 FROM message WHERE id = key.message)";
const FORGET: &str = "DELETE FROM key WHERE (tenant, name) IN \
     (SELECT k.tenant, k.name FROM key k WHERE k.until <= ?1 ORDER BY k.until LIMIT ?2) \
     AND NOT EXISTS (SELECT 1 FROM message WHERE id = key.message)";
