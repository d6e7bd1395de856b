//! What every message needs is prepared once for a group: to find a statement among the cached ones and to put
//! it back costs a fifth of what running it does.

use rusqlite::{CachedStatement, Connection};

use super::schema::DELETE_BODY;

/// The statements of one group.
pub(super) struct Prepared<'c> {
    conn: &'c Connection,
    message: Option<CachedStatement<'c>>,
    entry: Option<CachedStatement<'c>>,
    body: Option<CachedStatement<'c>>,
    entry_gone: Option<CachedStatement<'c>>,
    place: Option<CachedStatement<'c>>,
    message_gone: Option<CachedStatement<'c>>,
    body_gone: Option<CachedStatement<'c>>,
    piece_gone: Option<CachedStatement<'c>>,
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
    DeleteMessage,
    DeleteBody,
    /// A body in one piece.
    DeletePiece,
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
            message_gone: None,
            body_gone: None,
            piece_gone: None,
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
            Hot::DeleteMessage => (&mut self.message_gone, DELETE_MESSAGE),
            Hot::DeleteBody => (&mut self.body_gone, DELETE_BODY),
            Hot::DeletePiece => (&mut self.piece_gone, DELETE_PIECE),
        };
        match slot {
            Some(statement) => Ok(statement),
            None => Ok(slot.insert(self.conn.prepare_cached(sql)?)),
        }
    }
}

const INSERT_MESSAGE: &str = "INSERT INTO message (n, id, sender, handling, accepted, expires, size, entries, head, keep, seg, off, \
     len, crc) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) ON CONFLICT (id) DO NOTHING";
const INSERT_ENTRY: &str =
    "INSERT INTO entry (e, destination, queue, due, recipients, class) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const INSERT_BODY: &str = "INSERT INTO body (k, data) VALUES (?1, ?2)";
const DELETE_ENTRY: &str = "DELETE FROM entry WHERE e = ?1";
const DELETE_MESSAGE: &str = "DELETE FROM message WHERE n = ?1";
const DELETE_PIECE: &str = "DELETE FROM body WHERE k = ?1";
const PLACE: &str = "SELECT seg, off, len, crc FROM message WHERE n = ?1";
