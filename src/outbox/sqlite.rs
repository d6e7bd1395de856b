//! The outbox in a SQLite file of the host program's own.

use std::fmt;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::table::{self, column};
use super::{OutboxError, Pump, PumpOptions};
use crate::clock::{Clock, Rng, SystemClock};
use crate::delivery::{Engine, SubmitOptions};
use crate::message::{IntoSubmission, MessageId, SubmitContext};
use crate::smtp::address::EhloName;
use crate::spool::Key;

/// Takes mail in transactions on a SQLite database of the host program.
///
/// ```
/// use postroad::message::{Envelope, RawMessage};
/// use postroad::outbox::{SqliteOutbox, rusqlite};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut shop = rusqlite::Connection::open_in_memory()?;
/// shop.execute_batch("CREATE TABLE orders (number TEXT)")?;
/// SqliteOutbox::create_tables(&shop)?;
/// let outbox = SqliteOutbox::new(postroad::EhloName::new("mail.example.com")?);
///
/// let transaction = shop.transaction()?;
/// transaction.execute("INSERT INTO orders VALUES ('4711')", [])?;
/// let envelope = Envelope::parse("shop@example.com", ["ada@example.org"])?;
/// let mail = RawMessage::new(envelope, "From: shop@example.com\r\nSubject: Your order\r\n\r\nThanks\r\n");
/// let id = outbox.enqueue(&transaction, mail, Some("order 4711"))?;
/// transaction.commit()?; // from here on it is sent
/// # let _ = id;
/// # Ok(()) }
/// ```
///
/// The rows are handed over by a [`Pump`], in the order in which they were enqueued. One engine's spool takes
/// them all: two pumps on one file are harmless when their engines share a spool, and send twice otherwise.
/// Mail is as safe as that spool, so not in a memory spool.
#[derive(Clone)]
pub struct SqliteOutbox {
    ehlo: EhloName,
    clock: Arc<dyn Clock>,
    rng: Rng,
    max_recipients: usize,
}

/// A message that was committed and cannot be sent, because of what it is: a key that stands for something
/// else in the spool, a hold that is too long, a row that is damaged. It stays in the table until the host
/// deletes it, or enqueues another under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The message.
    pub id: MessageId,
    /// Its key.
    pub key: Option<String>,
    /// Why, for people.
    pub error: String,
}

impl SqliteOutbox {
    /// The statement that [`SqliteOutbox::enqueue`] runs, for programs that do not use this driver. Its
    /// parameters: the id, 16 octets, a UUID of version 7; the tenant or an empty string; the key or null, the
    /// SHA-256 digest of what the key stands for or null; for how many seconds results are kept or null; the
    /// argument of MAIL FROM, such as `<shop@example.com> BODY=8BITMIME`; those of RCPT TO, one a line; the
    /// handling, an empty string in general; octets in front of the content, may be empty; the content, lines
    /// that end in CRLF.
    pub const ENQUEUE: &str = table::ENQUEUE;

    /// An outbox whose messages get this name into their Message-ID where they have none: the engine's.
    #[must_use]
    pub fn new(ehlo: EhloName) -> Self {
        let max_recipients = SubmitContext::new(ehlo.clone(), Default::default(), NO_ID).max_recipients;
        Self { ehlo, clock: Arc::new(SystemClock), rng: Rng::from_entropy(), max_recipients }
    }

    /// Goes by another clock than the system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How many recipients one message may have. Default: 1,000; the engine must take as many.
    #[must_use]
    pub const fn max_recipients(mut self, limit: usize) -> Self {
        self.max_recipients = limit;
        self
    }

    /// Makes the table `postroad_outbox` and its indexes, where they are not there yet. In a transaction of the
    /// caller's, if there is one.
    ///
    /// # Errors
    /// The database's.
    pub fn create_tables(connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch(table::TABLES)
    }

    /// Takes a message in the transaction that is open on this connection: a [`rusqlite::Transaction`] or
    /// `Savepoint` is given as it is. Without one it is committed at once.
    ///
    /// With a key, 1 to 255 octets of the caller's own, a message is taken once: enqueuing it again gives the id
    /// of the first for as long as the key is remembered ([`PumpOptions::keep_keys`]). Date, Message-ID and the
    /// boundaries of parts may differ.
    ///
    /// # Errors
    /// [`OutboxError`]; [`OutboxError::KeyConflict`] when the key stands for another content.
    pub fn enqueue(
        &self,
        transaction: &Connection,
        message: impl IntoSubmission,
        key: Option<&str>,
    ) -> Result<MessageId, OutboxError> {
        let key = key.map(Into::into);
        self.enqueue_with(transaction, message, SubmitOptions { key, ..SubmitOptions::new() })
    }

    /// The same with all that can be asked for.
    ///
    /// # Errors
    /// [`OutboxError`]
    pub fn enqueue_with(
        &self,
        transaction: &Connection,
        message: impl IntoSubmission,
        mut options: SubmitOptions,
    ) -> Result<MessageId, OutboxError> {
        let now = self.clock.now().wall;
        let id = options.id.unwrap_or_else(|| MessageId::new(now, &self.rng));
        let mut context = SubmitContext::new(self.ehlo.clone(), now, id);
        context.max_recipients = self.max_recipients;
        let mut submission = message.into_submission(&context)?.handled();
        options.handle(&mut submission.handling);
        let tenant = submission.handling.tenant.clone();
        let key = options.key.take().map(|name| Key::new(tenant, &name, submission.digest(), now));
        let key = key.transpose()?;
        let tenant = key.as_ref().and_then(|key| key.tenant.as_ref()).map_or("", |tenant| tenant.as_str());
        if let Some(key) = &key
            && let Some((n, first, digest, is_over)) = transaction
                .prepare_cached(table::KNOWN)?
                .query_row(params![tenant, key.name, column(now)], |row| {
                    let digest: Option<[u8; 32]> = row.get(2)?;
                    Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 16]>(1)?, digest, row.get::<_, bool>(3)?))
                })
                .optional()?
        {
            match digest {
                _ if is_over => transaction.prepare_cached(table::FORGET)?.execute([n])?,
                Some(known) if known == key.digest => return Ok(MessageId::from_octets(first)),
                _ => return Err(OutboxError::KeyConflict),
            };
        }
        let (mail, rcpts) = table::envelope(&submission)?;
        let keep = options.keep.map(|keep| i64::try_from(keep.as_secs()).unwrap_or(i64::MAX));
        transaction.prepare_cached(table::ENQUEUE)?.execute(params![
            id.to_octets(),
            tenant,
            key.as_ref().map(|key| &*key.name),
            key.as_ref().map(|key| key.digest),
            keep,
            mail,
            rcpts,
            submission.handling.to_line(),
            &*submission.head,
            &*submission.content,
        ])?;
        Ok(id)
    }

    /// Starts to hand over to `engine` what is committed, over a connection of its own to the same database.
    /// It waits for the host's own writing, 5 s unless the connection has another busy timeout by then.
    ///
    /// Must be called in the runtime that the pump is to live in.
    pub fn pump(&self, connection: Connection, engine: Engine, options: PumpOptions) -> Pump {
        Pump::start(connection, engine, options, Arc::clone(&self.clock))
    }

    /// Messages that cannot be sent, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The database's.
    pub fn refused(connection: &Connection, limit: u32) -> rusqlite::Result<Vec<Refused>> {
        let mut statement = connection.prepare_cached(
            "SELECT id, name, coalesce(error, '') FROM postroad_outbox WHERE state = 1 ORDER BY n LIMIT ?1",
        )?;
        let rows = statement.query_map([limit], |row| {
            // Perhaps it is refused for this.
            let id = MessageId::from_octets(row.get(0).unwrap_or_default());
            let key = row.get(1).unwrap_or_default();
            Ok(Refused { id, key, error: row.get(2)? })
        })?;
        rows.collect()
    }

    /// How many messages wait to be handed over.
    ///
    /// # Errors
    /// The database's.
    pub fn waiting(connection: &Connection) -> rusqlite::Result<u64> {
        let count = "SELECT count(*) FROM postroad_outbox WHERE state = 0";
        let count: i64 = connection.prepare_cached(count)?.query_row([], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }
}

impl fmt::Debug for SqliteOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteOutbox").field("ehlo", &self.ehlo).finish_non_exhaustive()
    }
}

/// Stands where no message is made.
const NO_ID: MessageId = MessageId::from_octets([0; 16]);
