//! Rows are messages and settlements as they are written down, made by the caller's task so that the
//! writer thread has nothing to format; and the way back from a row to a claim.

use std::fmt::Write as _;

use bytes::Bytes;

use super::super::{
    BodyRef, Claim, Class, Key, NewBody, NewMessage, QueueName, Recipient, RecipientState, Settlement,
    SpoolError, Staged, Then, Token,
};
use super::log::LogRow;
use super::schema::{SHIFT, column};
use super::segments::Place;
use super::tell::TellRow;
use crate::clock::Timestamp;
use crate::message::{Handling, MessageId};
use crate::smtp::address::Domain;
use crate::smtp::params::Mail;
pub(super) use crate::spool::lines::{read_recipients, write_line, write_recipients};

/// The body of a message that is to be inserted.
#[derive(Debug)]
pub(super) struct Octets {
    /// The number of the message it was taken in for.
    pub(super) number: u64,
    pub(super) octets: Option<Bytes>,
    /// The file it is in, where it is in one.
    pub(super) place: Option<Place>,
    pub(super) crc: u32,
}

/// A message ready to be inserted.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: MessageId,
    /// Its place in the tables.
    pub(super) n: i64,
    pub(super) sender: String,
    pub(super) handling: String,
    pub(super) head: Bytes,
    /// The octets, unless they are in a file already.
    pub(super) body: Option<Bytes>,
    /// Where they are, unless that is the table. Found anew whenever `body` is written.
    pub(super) place: Option<Place>,
    pub(super) crc: u32,
    pub(super) size: u64,
    pub(super) accepted: i64,
    pub(super) expires: i64,
    pub(super) class: Class,
    pub(super) entries: Vec<EntryRow>,
    /// One per entry when they are born claimed, without their numbers.
    pub(super) claims: Vec<Claim>,
    pub(super) key: Option<Key>,
    /// How long results are kept, in milliseconds.
    pub(super) keep: Option<i64>,
    pub(super) log: Vec<LogRow>,
    /// Under which id it is stored already, when its key is known.
    pub(super) known: Option<MessageId>,
    /// Set when the row was inserted; its id may have been there before.
    pub(super) inserted: bool,
    /// Keeps a staged body until it is the message's.
    pub(super) staged: Option<Staged>,
}

#[derive(Debug)]
pub(super) struct EntryRow {
    pub(super) destination: Domain,
    pub(super) queue: QueueName,
    pub(super) due: i64,
    pub(super) recipients: String,
}

impl Row {
    /// How much it weighs in the queue in front of the writer.
    pub(super) fn weight(&self) -> usize {
        let entries: usize = self.entries.iter().map(|e| e.recipients.len() + ENTRY_WEIGHT).sum();
        let log: usize = self.log.iter().map(LogRow::weight).sum();
        self.head.len() + self.body.as_ref().map_or(0, Bytes::len) + entries + log + ROW_WEIGHT
    }

    /// Makes the row of `message`, whose octets are in `body`.
    pub(super) fn new(message: NewMessage, body: Octets, claimed: bool) -> Result<Self, SpoolError> {
        let Octets { number, octets: body, place, crc } = body;
        let size = message.body.size();
        let mut sender = String::with_capacity(LINE);
        // Writing to a string does not fail.
        let _ = write!(sender, "{}", message.mail);
        // A value that was put together by hand could break the lines of the table.
        if sender.contains(char::is_control) {
            return Err(SpoolError::Invalid("its sender holds a control character"));
        }
        if !message.mail.is_in_bounds() {
            return Err(SpoolError::Invalid("a parameter of its sender is too long to be read again"));
        }
        let mut entries = Vec::with_capacity(message.entries.len());
        let mut claims = Vec::with_capacity(if claimed { message.entries.len() } else { 0 });
        let alone = message.entries.len() == 1;
        for (at, entry) in (0_u32..).zip(message.entries) {
            let mut recipients = String::with_capacity(LINE * entry.recipients.len());
            for rcpt in &entry.recipients {
                write_line(&mut recipients, RecipientState::Waiting, rcpt, None)?;
            }
            entries.push(EntryRow {
                destination: entry.destination.clone(),
                queue: entry.queue.clone(),
                due: column(entry.due.as_millis()),
                recipients,
            });
            if claimed {
                claims.push(Claim {
                    token: Token { message: message.id, entry: at, number: 0 },
                    mail: message.mail.clone(),
                    handling: message.handling.clone(),
                    head: message.head.clone(),
                    body: BodyRef { message: message.id, number, size, at_hand: body.clone() },
                    accepted: message.accepted,
                    expires: message.expires,
                    destination: entry.destination,
                    queue: entry.queue,
                    due: entry.due,
                    attempts: 0,
                    cancelled: false,
                    alone,
                    recipients: entry.recipients.into_iter().map(Recipient::new).collect(),
                });
            }
        }
        Ok(Self {
            id: message.id,
            n: column(number),
            sender,
            handling: message.handling.to_line(),
            head: message.head,
            body,
            place,
            crc,
            size,
            accepted: column(message.accepted.as_millis()),
            expires: column(message.expires.as_millis()),
            class: Class::of(&message.mail),
            entries,
            claims,
            key: message.key,
            keep: message.keep.map(|keep| i64::try_from(keep.as_millis()).unwrap_or(i64::MAX)),
            log: LogRow::all(message.log)?,
            known: None,
            inserted: false,
            staged: match message.body {
                NewBody::Staged(staged) => Some(staged),
                NewBody::Inline(_) => None,
            },
        })
    }
}

/// A settlement ready to be applied.
#[derive(Debug)]
pub(super) struct SettleRow {
    pub(super) token: Token,
    pub(super) at: Timestamp,
    pub(super) recipients: String,
    /// Those of an entry that goes, in case its message keeps results: only the lease knows.
    pub(super) gone: Vec<Recipient>,
    pub(super) log: Vec<LogRow>,
    pub(super) attempted: bool,
    pub(super) queue: Option<QueueName>,
    pub(super) then: Then,
    pub(super) submit: Vec<Row>,
    pub(super) tell: Option<TellRow>,
}

impl SettleRow {
    pub(super) fn weight(&self) -> usize {
        let tell = self.tell.as_ref().map_or(0, TellRow::weight);
        let gone: usize = self.gone.iter().map(|r| r.note.as_ref().map_or(0, |n| n.len())).sum();
        let log: usize = self.log.iter().map(LogRow::weight).sum();
        let submit: usize = self.submit.iter().map(Row::weight).sum();
        self.recipients.len() + gone + log + submit + tell + ROW_WEIGHT
    }

    /// Makes the row; `submit` are the rows of the messages it submits.
    pub(super) fn new(settlement: Settlement, submit: Vec<Row>) -> Result<Self, SpoolError> {
        let (recipients, gone) = match settlement.then {
            Then::Remove => (String::new(), settlement.recipients),
            _ => (write_recipients(&settlement.recipients)?, Vec::new()),
        };
        Ok(Self {
            token: settlement.token,
            at: settlement.at,
            recipients,
            gone,
            log: LogRow::all(settlement.log)?,
            attempted: settlement.attempted,
            queue: settlement.queue,
            then: settlement.then,
            submit,
            tell: settlement.tell.map(TellRow::new).transpose()?,
        })
    }
}

/// The rowid of an entry.
pub(super) const fn entry_key(n: i64, entry: u32) -> i64 {
    n << SHIFT | entry as i64
}

/// Which entry of its message has this rowid.
pub(super) fn entry_number(e: i64) -> u32 {
    u32::try_from(e & ((1 << SHIFT) - 1)).unwrap_or_default()
}

/// The columns that a claim and a summary share, in the order in which both queries name them.
pub(super) struct Common {
    pub(super) message: MessageId,
    pub(super) mail: Mail,
    pub(super) handling: Handling,
    pub(super) accepted: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) destination: Domain,
    pub(super) queue: QueueName,
    pub(super) due: Timestamp,
    pub(super) attempts: u32,
    pub(super) recipients: Vec<Recipient>,
}

/// The query for the columns of [`Common`], of `message m` and `entry e`, and what follows.
macro_rules! columns {
    ($rest:literal) => {
        concat!(
            "SELECT m.id, m.sender, m.handling, m.accepted, m.expires, ",
            "e.destination, e.queue, e.due, e.attempts, e.recipients",
            $rest
        )
    };
}
pub(super) use columns;

/// How many columns [`columns`] names.
pub(super) const COMMON_COLUMNS: usize = 10;

impl Common {
    /// `None` when the row is not one that this code has written.
    pub(super) fn read(row: &rusqlite::Row<'_>) -> Option<Self> {
        let text = |at: usize| row.get_ref(at).ok()?.as_str().ok();
        let number = |at: usize| u64::try_from(row.get::<_, i64>(at).ok()?).ok();
        Some(Self {
            message: text(0)?.parse().ok()?,
            mail: Mail::parse(text(1)?).ok()?,
            handling: Handling::parse(text(2)?)?,
            accepted: Timestamp::from_millis(number(3)?),
            expires: Timestamp::from_millis(number(4)?),
            destination: Domain::parse(text(5)?).ok()?,
            queue: QueueName::new(text(6)?),
            due: Timestamp::from_millis(number(7)?),
            attempts: u32::try_from(number(8)?).ok()?,
            recipients: read_recipients(text(9)?)?,
        })
    }
}

/// What most envelopes take for an address.
const LINE: usize = 64;

/// What a row and an entry take in memory besides their octets, roughly.
const ROW_WEIGHT: usize = 512;
const ENTRY_WEIGHT: usize = 128;
