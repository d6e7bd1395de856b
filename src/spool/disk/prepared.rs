//! What every message needs is prepared once for a group: to find a statement among the cached ones and to put
//! it back costs a fifth of what running it does.

use rusqlite::{CachedStatement, Connection};

use super::schema::DELETE_BODIES;

/// The statements of one group.
pub(super) struct Prepared<'c> {
    conn: &'c Connection,
    message: Option<CachedStatement<'c>>,
    entry: Option<CachedStatement<'c>>,
    body: Option<CachedStatement<'c>>,
    entry_gone: Option<CachedStatement<'c>>,
    place: Option<CachedStatement<'c>>,
    messages_gone: Option<CachedStatement<'c>>,
    bodies_gone: Option<CachedStatement<'c>>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hot {
    InsertMessage,
    InsertEntry,
    InsertBody,
    DeleteEntry,
    /// Where the body of a message is.
    Place,
    /// Those in a range.
    DeleteMessages,
    /// All pieces of theirs.
    DeleteBodies,
}

impl<'c> Prepared<'c> {
    pub(super) const fn new(conn: &'c Connection) -> Self {
        Self {
            conn,
            message: None,
            entry: None,
            body: None,
            entry_gone: None,
            place: None,
            messages_gone: None,
            bodies_gone: None,
        }
    }

    /// For what is not run for every message.
    pub(super) const fn conn(&self) -> &'c Connection {
        self.conn
    }

    pub(super) fn get(&mut self, hot: Hot) -> rusqlite::Result<&mut CachedStatement<'c>> {
        let (slot, sql) = match hot {
            Hot::InsertMessage => (&mut self.message, INSERT_MESSAGE),
            Hot::InsertEntry => (&mut self.entry, INSERT_ENTRY),
            Hot::InsertBody => (&mut self.body, INSERT_BODY),
            Hot::DeleteEntry => (&mut self.entry_gone, DELETE_ENTRY),
            Hot::Place => (&mut self.place, PLACE),
            Hot::DeleteMessages => (&mut self.messages_gone, DELETE_MESSAGES),
            Hot::DeleteBodies => (&mut self.bodies_gone, DELETE_BODIES),
        };
        match slot {
            Some(statement) => Ok(statement),
            None => Ok(slot.insert(self.conn.prepare_cached(sql)?)),
        }
    }
}

const INSERT_MESSAGE: &str = "INSERT INTO message (n, id, sender, handling, accepted, expires, size, entries, head, keep, seg, off, \
     len, crc) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) ON CONFLICT (id) DO NOTHING";
const INSERT_ENTRY: &str = "INSERT INTO entry (e, destination, queue, due, recipients, class, claimed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const INSERT_BODY: &str = "INSERT INTO body (k, data) VALUES (?1, ?2)";
const DELETE_ENTRY: &str = "DELETE FROM entry WHERE e = ?1";
const DELETE_MESSAGES: &str = "DELETE FROM message WHERE n >= ?1 AND n < ?2";
const PLACE: &str = "SELECT seg, off, len, crc FROM message WHERE n = ?1";
