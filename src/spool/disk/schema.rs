//! The schema is the format of `spool.db`: what a newer version must still read and what a person
//! finds with any SQLite shell, in the views `mail` and `content`.
//!
//! A message's number `n` is its place in all tables: its entries have the rowids `n << 20 | entry`,
//! the pieces of its body `n << 20 | piece`. So the two big tables need no index to find what belongs
//! together, and most messages touch one page of each.

use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use super::super::{Class, QueueName, SpoolError, Stats};
use super::unlisted::{Known, Unlisted};
use super::{DiskOptions, migrate};

/// Opens the one connection that writes, makes the tables when there are none.
pub(super) fn open_writer(path: &Path, options: &DiskOptions) -> Result<Connection, SpoolError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let conn = open(path, flags, options.vfs.as_deref()).map_err(failure)?;
    prepare(&conn, path, options).map_err(failure)??;
    Ok(conn)
}

fn prepare(
    conn: &Connection,
    path: &Path,
    options: &DiskOptions,
) -> rusqlite::Result<Result<(), SpoolError>> {
    conn.busy_timeout(BUSY)?;
    let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if !(1..=VERSION).contains(&found) && (found != 0 || tables != 0) {
        return Ok(Err(SpoolError::Version { found, supported: VERSION }));
    }
    if tables == 0 {
        conn.pragma_update(None, "page_size", column(PAGE))?;
    }
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        let error = io::Error::new(io::ErrorKind::Unsupported, "the file system has no write-ahead log");
        return Ok(Err(SpoolError::Storage(error)));
    }
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "journal_size_limit", WAL_KEPT)?;
    conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    conn.set_prepared_statement_cache_capacity(64);
    if let Some(octets) = options.max_octets {
        let pages = column(octets.saturating_add(RESERVE) / page_size(conn)?);
        conn.pragma_update(None, "max_page_count", pages)?;
    }
    if let Err(error) = renew_log(conn, path, options)? {
        return Ok(Err(SpoolError::Storage(error)));
    }
    if tables == 0 {
        conn.execute_batch(TABLES)?;
    } else {
        migrate::migrate(conn, found)?;
    }
    Ok(Ok(()))
}

/// Brings the log of a spool that was not closed to the disk, once more. When a sync has failed, or a process
/// has died before one, what the log holds can be read and need not be on the disk, and no later sync of the
/// same file makes up for a failed one. What is decided by it (a commit behind it, a file that nothing names)
/// would outlive it in a power cut. The lock keeps a person's shell from writing meanwhile.
fn renew_log(
    conn: &Connection,
    path: &Path,
    options: &DiskOptions,
) -> rusqlite::Result<Result<(), io::Error>> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let renewed = options.files.get().rewrite(Path::new(&log));
    conn.execute_batch("ROLLBACK")?;
    Ok(renewed)
}

/// The size of a page of this database, whoever made it.
pub(super) fn page_size(conn: &Connection) -> rusqlite::Result<u64> {
    conn.pragma_query_value(None, "page_size", |row| row.get(0)).map(|size| count(size).max(512))
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path, vfs: Option<&str>) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let conn = open(path, flags, vfs)?;
    conn.busy_timeout(BUSY)?;
    Ok(conn)
}

fn open(path: &Path, flags: OpenFlags, vfs: Option<&str>) -> rusqlite::Result<Connection> {
    let conn = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs)?,
        None => Connection::open_with_flags(path, flags)?,
    };
    // A plan holds for every value. Else what looks into a partial index is parsed again with each, which
    // takes longer than the look.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(conn)
}

/// What is found at an open, and what is made of it.
pub(super) struct Stock {
    /// How often the spool was opened: the high part of claim numbers.
    pub(super) opened: u64,
    pub(super) clean: bool,
    /// The first number that is not in use.
    pub(super) next: u64,
    pub(super) stats: Stats,
    /// Entries that are not parked, by queue.
    pub(super) queues: Vec<(QueueName, Class, u64)>,
}

/// Takes stock: counts what there is, notes that the spool is open.
pub(super) fn take_stock(conn: &mut Connection) -> rusqlite::Result<(Stock, Unlisted)> {
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let key = |key: &str| -> rusqlite::Result<i64> {
        let value = tx.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0));
        Ok(value.optional()?.unwrap_or_default())
    };
    let (opened, clean) = (key("opened")?, key("clean")?);
    tx.execute("INSERT OR REPLACE INTO meta VALUES ('opened', ?1), ('clean', 0)", [opened + 1])?;
    let mut next = 0;
    for sql in
        ["SELECT max(n) FROM message", "SELECT max(k) >> 20 FROM body", "SELECT max(e) >> 20 FROM entry"]
    {
        next = next.max(tx.query_row(sql, [], |row| row.get::<_, Option<i64>>(0))?.unwrap_or_default());
    }
    // An index alone tells how many there are; a message's row need be read only where no file counts its body.
    let messages: i64 = tx.query_row("SELECT count(*) FROM message", [], |row| row.get(0))?;
    let octets: i64 = tx.query_row(OCTETS, [], |row| row.get(0))?;
    let mut queues: Vec<(QueueName, Class, u64)> = tx
        .prepare(QUEUES)?
        .query_map([], |row| {
            let class = Class::from_number(row.get(1)?).unwrap_or_default();
            Ok((queue_name(row.get_ref(0)?), class, count(row.get(2)?)))
        })?
        .collect::<Result<_, _>>()?;
    let unlisted = if clean == CLEAN { Known::default() } else { Known::find(&tx, &mut queues)? };
    let parked: i64 =
        tx.query_row("SELECT count(*) FROM entry WHERE parked IS NOT NULL", [], |row| row.get(0))?;
    tx.commit()?;
    let entries = count(parked) + queues.iter().map(|(.., n)| n).sum::<u64>();
    let stats = Stats { messages: count(messages), entries, parked: count(parked), octets: count(octets) };
    let (opened, clean, next) = (count(opened) + 1, clean != 0, count(next) + 1);
    Ok((Stock { opened, clean, next, stats, queues }, unlisted.into()))
}

/// What an error before a commit means: nothing was changed.
pub(super) fn failure(error: rusqlite::Error) -> SpoolError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => SpoolError::Full,
        Some(ErrorCode::TooBig) => SpoolError::TooLarge,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => SpoolError::Corrupt,
        _ => SpoolError::Storage(io::Error::other(error)),
    }
}

/// The name of a queue; where it is damaged, one that nobody asks for.
pub(super) fn queue_name(value: ValueRef<'_>) -> QueueName {
    QueueName::new(&String::from_utf8_lossy(value.as_bytes().unwrap_or_default()))
}

/// A count or size from a column, where less than nothing cannot be.
pub(super) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

/// A number for a column. The spool's own never come near the limit.
pub(super) fn column(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Written to `user_version`. A change of the tables below raises it and brings a migration and a
/// fixture of the old format.
pub(super) const VERSION: i64 = 4;

/// What stands in `meta` as `clean` when the spool was closed properly; 0 while it is open.
pub(super) const CLEAN: i64 = 1;
/// The same, when there was no room to put everything into the index.
pub(super) const CLEAN_UNLISTED: i64 = 2;

/// 2^20 pieces of a body (at least 4 KiB each where memory is short, 256 KiB otherwise) or entries of
/// a message; 2^43 messages are 27 years at 10,000 a second.
pub(super) const SHIFT: u32 = 20;

/// The size of a page of a new database. A commit writes about seven pages besides the bodies, so small
/// groups want small pages and large bodies large ones. Measured with 10 KiB bodies: 8 KiB takes as
/// little CPU as 16 KiB at 64 producers and writes half as much at one; 4 KiB takes a quarter more.
const PAGE: u64 = 8_192;

/// Room past `max_octets` for settlements, for what of them goes into the index only then (some 60 octets an
/// entry), and for reports, so that a full spool can still empty itself.
pub(super) const RESERVE: u64 = 4 << 20;

/// What a checkpoint leaves of a log that grew.
const WAL_KEPT: i64 = 64 << 20;

/// Only the writer's inner pages and the group at hand need to be in memory.
const WRITER_CACHE_KIB: i64 = 8 << 10;

/// Against a person's shell that holds the lock for a moment.
const BUSY: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(5) };

const QUEUES: &str =
    "SELECT queue, class, count(*) FROM entry WHERE parked IS NULL AND claimed = 0 GROUP BY queue, class";

/// Where no body is in the table, no message need be read.
const OCTETS: &str = "SELECT CASE WHEN EXISTS (SELECT 1 FROM body) \
     THEN (SELECT coalesce(sum(size), 0) FROM message WHERE seg IS NULL) ELSE 0 END + \
     (SELECT coalesce(sum(bytes), 0) FROM seg)";

pub(super) const DELETE_BODIES: &str = "DELETE FROM body WHERE k >= ?1 AND k < ?2";

/// What a person finds in the spool.
macro_rules! view_mail {
    () => {
        "CREATE VIEW mail AS SELECT
  m.id AS id, e.e & 1048575 AS entry, m.sender AS sender, e.destination AS destination, e.queue AS queue,
  e.attempts AS attempts, datetime(e.due / 1000, 'unixepoch') AS due, e.parked AS parked,
  datetime(m.accepted / 1000, 'unixepoch') AS accepted, datetime(m.expires / 1000, 'unixepoch') AS expires,
  m.size AS size, e.recipients || CASE e.e & 1048575 WHEN 1048575 THEN coalesce((SELECT char(10) ||
  group_concat(t.recipients, char(10)) FROM told t WHERE t.n = m.n), '') ELSE '' END AS recipients, m.handling AS handling, CAST(m.head AS TEXT) AS head
FROM message m JOIN entry e ON e.e >= m.n << 20 AND e.e < (m.n + 1) << 20;
"
    };
}
pub(super) use view_mail;

/// What outlives a message: its key, how its recipients stand, what happened to it. The segments, which
/// hold bodies of several messages. And what report entries are to tell besides what stands in them.
macro_rules! besides {
    () => {
        "
CREATE TABLE key (
  tenant TEXT NOT NULL, name TEXT NOT NULL, digest BLOB NOT NULL, message TEXT NOT NULL, until INTEGER NOT NULL,
  PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX key_until ON key (until);
CREATE TABLE result (
  message TEXT NOT NULL, entry INTEGER NOT NULL, recipients TEXT NOT NULL, until INTEGER,
  PRIMARY KEY (message, entry)
) STRICT, WITHOUT ROWID;
CREATE INDEX result_until ON result (until) WHERE until IS NOT NULL;
CREATE TABLE log (
  number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, message TEXT NOT NULL, entry INTEGER,
  kind TEXT NOT NULL, recipient TEXT, attempt INTEGER NOT NULL, note TEXT
) STRICT;
CREATE TABLE seg (n INTEGER PRIMARY KEY, live INTEGER NOT NULL, bytes INTEGER NOT NULL, size INTEGER NOT NULL) STRICT;
CREATE INDEX message_seg ON message (seg) WHERE seg IS NOT NULL;
CREATE TABLE told (
  n INTEGER NOT NULL, place INTEGER NOT NULL, recipients TEXT NOT NULL, PRIMARY KEY (n, place)
) STRICT, WITHOUT ROWID;
"
    };
}
pub(super) use besides;

// STRICT, since a person may edit it. `entries` counts those that are left; `keep` is how long results are
// kept, in milliseconds; the segment columns are NULL for a body in the table `body`. `mark` is what is to be
// done with an entry that was claimed when somebody wanted it: 'cancel', or 'hold' with the reason behind a
// space. `claimed` is 1 for an entry that was born claimed and not changed since: the index does not have it.
const TABLES: &str = concat!(
    "
BEGIN IMMEDIATE;
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
CREATE TABLE message (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, sender TEXT NOT NULL,
  accepted INTEGER NOT NULL, expires INTEGER NOT NULL, size INTEGER NOT NULL, entries INTEGER NOT NULL,
  head BLOB NOT NULL, seg INTEGER, off INTEGER, len INTEGER, crc INTEGER,
  handling TEXT NOT NULL DEFAULT '', keep INTEGER
) STRICT;
CREATE TABLE entry (
  e INTEGER PRIMARY KEY, destination TEXT NOT NULL, queue TEXT NOT NULL, due INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, parked TEXT, recipients TEXT NOT NULL,
  class INTEGER NOT NULL DEFAULT 1, mark TEXT, claimed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX entry_due ON entry (queue, class, due) WHERE parked IS NULL AND claimed = 0;
CREATE INDEX entry_parked ON entry (parked) WHERE parked IS NOT NULL;
CREATE TABLE body (k INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
",
    besides!(),
    view_mail!(),
    "CREATE VIEW content AS SELECT m.id AS id, b.k & 1048575 AS piece, CAST(b.data AS TEXT) AS text
FROM message m JOIN body b ON b.k >= m.n << 20 AND b.k < (m.n + 1) << 20;
INSERT INTO meta VALUES ('version', 4), ('spool', lower(hex(randomblob(16)))), ('clean', 1), ('opened', 0);
PRAGMA user_version = 4;
COMMIT;
"
);
