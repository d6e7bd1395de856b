//! Inserting is writing a batch of messages with one statement, in a transaction of ours or in one that the
//! host program has open itself.

use std::collections::{HashMap, HashSet};
use std::io;

use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;

use super::super::lines::write_line;
use super::super::{Class, Key, Known, LogEvent, NewBody, NewMessage, RecipientState, SpoolError, rules};
use super::error::Failure;
use super::tables::{Call, On};
use super::value::{Id, Sent, column, count, entry_column, lease_column, text};
use super::{BATCH_MESSAGES, BATCH_OCTETS, PIECE};
use crate::clock::Timestamp;
use crate::message::{MessageId, Tag};

/// What was stored.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// The new entries, with the numbers of their claims where they were born claimed.
    pub(super) entries: Vec<(MessageId, u32, Option<u64>)>,
    /// Messages that were not stored because their keys are known.
    pub(crate) known: Vec<Known>,
}

/// Who stores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct By<'a> {
    /// Its time.
    pub(super) sent: Sent<'a>,
    /// How long it waits for another transaction that stores under the same key, in the server's words;
    /// `None`: as long as the transaction that the caller has open says.
    pub(super) patience: Option<&'a str>,
}

/// Refuses what can never be stored, before anything is sent.
pub(crate) fn check<'a>(batch: impl IntoIterator<Item = &'a NewMessage>) -> Result<(), SpoolError> {
    batch.into_iter().try_for_each(|message| {
        rules::check_message(message)?;
        // A column takes 1 GB and an array of them no more.
        if message.head.len() as u64 + message.body.size() > MAX_OCTETS {
            return Err(SpoolError::TooLarge);
        }
        if message.entries.iter().any(|entry| entry.queue.as_str().contains('\0')) {
            return Err(SpoolError::Invalid("a queue's name holds NUL"));
        }
        Ok(())
    })
}

/// Writes a batch of messages that [`check`] has let pass, for a spool and inside a caller's own transaction
/// alike. Staged bodies are those of `staged`, by their numbers.
///
/// One statement does it all where there are no keys, no staged bodies and not too many messages (see
/// [`is_single`]); it must be in a transaction otherwise, which must be rolled back after an error. With
/// a lease the entries are born claimed.
///
/// # Errors
/// [`SpoolError::KeyConflict`], [`SpoolError::Invalid`], or what the server says.
pub(crate) async fn insert<C: GenericClient + Sync>(
    on: &On<'_, C>,
    mut batch: Vec<&NewMessage>,
    staged: &Bodies,
    lease: impl Fn(MessageId) -> Option<Timestamp>,
    by: By<'_>,
) -> Result<Stored, Failure> {
    let known = keys(on, &mut batch, by.patience).await?;
    let mut stored = Stored { known, entries: Vec::new() };
    let mut ids = HashSet::with_capacity(batch.len());
    batch.retain(|message| ids.insert(message.id));
    for part in parts(&batch) {
        let rows = Rows::new(part, staged, &lease)?;
        take_staged(on, &rows).await?;
        let found = on
            .query(
                Call::Enqueue,
                &[
                    &rows.ids,
                    &rows.bodies,
                    &rows.senders,
                    &rows.handlings,
                    &rows.tenants,
                    &rows.tags,
                    &rows.accepted,
                    &rows.expires,
                    &rows.sizes,
                    &rows.entries,
                    &rows.keeps,
                    &rows.heads,
                    &rows.body_ids,
                    &rows.pieces,
                    &rows.octets,
                    &rows.log.owners,
                    &rows.log.at,
                    &rows.log.messages,
                    &rows.log.entries,
                    &rows.log.kinds,
                    &rows.log.recipients,
                    &rows.log.attempts,
                    &rows.log.notes,
                    &rows.entry_messages,
                    &rows.numbers,
                    &rows.destinations,
                    &rows.queues,
                    &rows.classes,
                    &rows.due,
                    &rows.recipients,
                    &rows.leases,
                    &by.sent,
                ],
            )
            .await?;
        for row in found {
            let (Id(message), entry, claim): (Id, i32, Option<i64>) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let entry = u32::try_from(entry).unwrap_or_default();
            stored.entries.push((message, entry, claim.map(count)));
        }
        drop_staged(on, &rows, &stored).await?;
    }
    Ok(stored)
}

/// Whether [`insert`] needs no transaction around it.
pub(super) fn is_single(batch: &[&NewMessage]) -> bool {
    let plain = |message: &&NewMessage| message.key.is_none() && matches!(message.body, NewBody::Inline(_));
    batch.iter().all(plain) && parts(batch).len() <= 1
}

/// The batch in parts that are one statement each.
fn parts<'a, 'b>(batch: &'b [&'a NewMessage]) -> Vec<&'b [&'a NewMessage]> {
    let (mut parts, mut from, mut octets) = (Vec::new(), 0, 0_u64);
    for (at, message) in batch.iter().enumerate() {
        let more = message.head.len() as u64 + message.body.size();
        if at > from && (at - from >= BATCH_MESSAGES || octets + more > BATCH_OCTETS) {
            parts.extend(batch.get(from..at));
            (from, octets) = (at, 0);
        }
        octets += more;
    }
    parts.extend(batch.get(from..).filter(|rest| !rest.is_empty()));
    parts
}

/// Remembers the keys of a batch, and takes those out of it that are known.
async fn keys<C: GenericClient + Sync>(
    on: &On<'_, C>,
    batch: &mut Vec<&NewMessage>,
    patience: Option<&str>,
) -> Result<Vec<Known>, Failure> {
    let mut keyed: Vec<(&Key, &NewMessage)> =
        batch.iter().filter_map(|message| Some((message.key.as_ref()?, *message))).collect();
    if keyed.is_empty() {
        return Ok(Vec::new());
    }
    keyed.sort_by_key(|(key, message)| (tenant(key), &key.name, message.id));
    let tenants: Vec<_> = keyed.iter().map(|(key, _)| tenant(key)).collect();
    let names: Vec<_> = keyed.iter().map(|(key, _)| &*key.name).collect();
    let digests: Vec<_> = keyed.iter().map(|(key, _)| key.digest.as_slice()).collect();
    let ids: Vec<_> = keyed.iter().map(|(_, message)| Id(message.id)).collect();
    let until: Vec<_> = keyed.iter().map(|(key, _)| column(key.until.as_millis())).collect();
    let (mut new, mut there) = (HashSet::new(), HashMap::new());
    for tries in 1.. {
        let params: [&(dyn ToSql + Sync); 6] = [&tenants, &names, &digests, &ids, &until, &patience];
        for row in on.query(Call::InsertKeys, &params).await? {
            let (tenant, name, Id(id)): (String, String, Id) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            new.insert((tenant, name, id));
        }
        for row in on.query(Call::FindKeys, &[&tenants, &names]).await? {
            let (tenant, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let (digest, Id(id)): (Vec<u8>, Id) = (row.try_get(2)?, row.try_get(3)?);
            there.insert((tenant, name), (digest, id));
        }
        // One that was there and was forgotten in this moment is nobody's: it is ours then.
        let is_there = |(key, _): &(&Key, &NewMessage)| {
            there.contains_key(&(tenant(key).to_owned(), key.name.to_string()))
        };
        if keyed.iter().all(is_there) {
            break;
        }
        if tries >= KEY_TRIES {
            return Err(SpoolError::Storage(io::ErrorKind::ResourceBusy.into()).into());
        }
    }
    let mut known = HashMap::new();
    for (key, message) in keyed {
        let name = (tenant(key).to_owned(), key.name.to_string());
        let Some((digest, stored)) = there.get(&name) else { continue };
        if digest.as_slice() != key.digest {
            return Err(SpoolError::KeyConflict.into());
        }
        // A key of this very id that was there before is this call's own, made again.
        if !new.contains(&(name.0, name.1, message.id)) {
            known.insert(message.id, *stored);
        }
    }
    let mut found = Vec::new();
    batch.retain(|message| match known.get(&message.id) {
        Some(stored) => {
            found.push(Known { given: message.id, stored: *stored });
            false
        }
        None => true,
    });
    Ok(found)
}

/// Nobody's is written as the empty name, which no tenant has.
fn tenant(key: &Key) -> &str {
    key.tenant.as_ref().map_or("", |tenant| tenant.as_str())
}

/// Staged bodies become their messages' own. One that is there no longer was left alone for too long.
async fn take_staged<C: GenericClient + Sync>(on: &On<'_, C>, rows: &Rows<'_>) -> Result<(), Failure> {
    if rows.staged.is_empty() {
        return Ok(());
    }
    let mut taken = HashSet::new();
    for row in on.query(Call::TakeStaged, &[&rows.staged]).await? {
        let Id(body) = row.try_get(0)?;
        taken.insert(body);
    }
    for (message, body) in rows.ids.iter().zip(&rows.bodies) {
        if rows.staged.contains(body) && !taken.contains(&body.0) {
            // A call whose answer was lost has stored the message and taken it: there is nothing to do.
            if on.query(Call::IsThere, &[message]).await?.is_empty() {
                return Err(SpoolError::Invalid("its staged body was given up").into());
            }
        }
    }
    Ok(())
}

/// The staged bodies of messages that were there already are nobody's.
async fn drop_staged<C: GenericClient + Sync>(
    on: &On<'_, C>,
    rows: &Rows<'_>,
    stored: &Stored,
) -> Result<(), Failure> {
    if rows.staged.is_empty() {
        return Ok(());
    }
    let new: HashSet<_> = stored.entries.iter().map(|(message, ..)| *message).collect();
    let owned = rows.ids.iter().zip(&rows.bodies).filter(|(id, _)| !new.contains(&id.0));
    let left: Vec<_> = owned.map(|(_, body)| *body).filter(|body| rows.staged.contains(body)).collect();
    if !left.is_empty() {
        on.query(Call::DropBodies, &[&left]).await?;
    }
    Ok(())
}

/// Staged bodies that are in their table, by the numbers that the spool gave out.
pub(crate) type Bodies = HashMap<u64, MessageId>;

/// A batch as arrays, one a column.
#[derive(Debug, Default)]
struct Rows<'a> {
    ids: Vec<Id>,
    bodies: Vec<Id>,
    senders: Vec<String>,
    handlings: Vec<String>,
    tenants: Vec<Option<&'a str>>,
    tags: Vec<String>,
    accepted: Vec<i64>,
    expires: Vec<i64>,
    sizes: Vec<i64>,
    entries: Vec<i32>,
    keeps: Vec<Option<i64>>,
    heads: Vec<&'a [u8]>,

    body_ids: Vec<Id>,
    pieces: Vec<i32>,
    octets: Vec<&'a [u8]>,
    /// Bodies that are in their table already.
    staged: Vec<Id>,

    entry_messages: Vec<Id>,
    numbers: Vec<i32>,
    destinations: Vec<&'a str>,
    queues: Vec<&'a str>,
    classes: Vec<i16>,
    due: Vec<i64>,
    recipients: Vec<String>,
    leases: Vec<Option<i64>>,

    log: LogRows,
}

impl<'a> Rows<'a> {
    fn new(
        batch: &[&'a NewMessage],
        staged: &Bodies,
        lease: impl Fn(MessageId) -> Option<Timestamp>,
    ) -> Result<Self, SpoolError> {
        let mut rows = Self::default();
        batch.iter().try_for_each(|message| rows.add(message, staged, lease(message.id)))?;
        Ok(rows)
    }

    fn add(
        &mut self,
        message: &'a NewMessage,
        staged: &Bodies,
        lease: Option<Timestamp>,
    ) -> Result<(), SpoolError> {
        let id = Id(message.id);
        let sender = message.mail.to_string();
        // A value that was put together by hand could not be read again.
        if sender.contains(char::is_control) {
            return Err(SpoolError::Invalid("its sender holds a control character"));
        }
        if !message.mail.is_in_bounds() {
            return Err(SpoolError::Invalid("a parameter of its sender is too long to be read again"));
        }
        let body = match &message.body {
            NewBody::Inline(octets) => {
                for (piece, octets) in (0..).zip(octets.chunks(PIECE)) {
                    self.body_ids.push(id);
                    self.pieces.push(piece);
                    self.octets.push(octets);
                }
                id
            }
            NewBody::Staged(body) => match staged.get(&body.number) {
                Some(number) => {
                    self.staged.push(Id(*number));
                    Id(*number)
                }
                None => return Err(SpoolError::Invalid("its staged body is not one of this spool")),
            },
        };
        let handling = &message.handling;
        let tags: Vec<_> = handling.tags.iter().map(Tag::as_str).collect();
        self.ids.push(id);
        self.bodies.push(body);
        self.senders.push(sender);
        self.handlings.push(handling.to_line());
        self.tenants.push(handling.tenant.as_ref().map(|tenant| tenant.as_str()));
        self.tags.push(tags.join(" "));
        self.accepted.push(column(message.accepted.as_millis()));
        self.expires.push(column(message.expires.as_millis()));
        self.sizes.push(column(message.body.size()));
        self.entries.push(i32::try_from(message.entries.len()).unwrap_or(i32::MAX));
        // Added to a time later on.
        let keep = message.keep.map(|keep| i64::try_from(keep.as_millis()).unwrap_or(LONGEST).min(LONGEST));
        self.keeps.push(keep);
        self.heads.push(&message.head);
        let class = i16::from(Class::of(&message.mail).number());
        for (at, entry) in (0..).zip(&message.entries) {
            let mut recipients = String::new();
            for rcpt in &entry.recipients {
                write_line(&mut recipients, RecipientState::Waiting, rcpt, None)?;
            }
            self.entry_messages.push(id);
            self.numbers.push(entry_column(at));
            self.destinations.push(entry.destination.as_str());
            self.queues.push(entry.queue.as_str());
            self.classes.push(class);
            self.due.push(column(entry.due.as_millis()));
            self.recipients.push(recipients);
            self.leases.push(lease.map(lease_column));
        }
        message.log.iter().for_each(|event| self.log.add(message.id, event));
        Ok(())
    }
}

/// Events for the log as arrays, each with the message whose storing it is a part of.
#[derive(Debug, Default)]
pub(super) struct LogRows {
    pub(super) owners: Vec<Id>,
    pub(super) at: Vec<i64>,
    pub(super) messages: Vec<Id>,
    pub(super) entries: Vec<Option<i32>>,
    pub(super) kinds: Vec<&'static str>,
    pub(super) recipients: Vec<Option<String>>,
    pub(super) attempts: Vec<i32>,
    pub(super) notes: Vec<Option<String>>,
}

impl LogRows {
    pub(super) fn add(&mut self, owner: MessageId, event: &LogEvent) {
        self.owners.push(Id(owner));
        self.at.push(column(event.at.as_millis()));
        self.messages.push(Id(event.message));
        self.entries.push(event.entry.map(entry_column));
        self.kinds.push(event.kind.as_str());
        self.recipients.push(event.recipient.as_ref().map(|rcpt| text(&rcpt.to_string())));
        self.attempts.push(i32::try_from(event.attempt).unwrap_or(i32::MAX));
        self.notes.push(event.note.as_deref().map(|note| text(rules::cut(note))));
    }
}

const LONGEST: i64 = i64::MAX / 2;

/// Keys are forgotten days after their messages: that it hits one of ours at this moment is rare enough once.
const KEY_TRIES: u32 = 5;

/// What a message may have: a quarter of what one value of the server's can be.
const MAX_OCTETS: u64 = 256 << 20;
