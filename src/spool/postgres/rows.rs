//! Rows are what a statement brings back, read into values; one that this code has not written is no value.

use tokio_postgres::Row;

use super::super::lines::read_recipients;
use super::super::{BodyRef, Claim, EntrySummary, QueueName, Recipient, Token};
use super::value::{Id, count, time};
use crate::clock::Timestamp;
use crate::message::{Handling, MessageId};
use crate::smtp::address::Domain;
use crate::smtp::params::Mail;

/// Which entry a row is about, in the columns that claims and summaries share.
pub(super) fn place(row: &Row) -> Option<(MessageId, u32)> {
    let (Id(message), entry): (Id, i32) = (row.try_get(0).ok()?, row.try_get(10).ok()?);
    Some((message, u32::try_from(entry).ok()?))
}

/// A claimed entry.
pub(super) fn claim(row: &Row) -> Option<Claim> {
    let common = Common::read(row)?;
    let number = count(row.try_get(13).ok()?);
    let head: &[u8] = row.try_get(14).ok()?;
    let size = count(row.try_get(15).ok()?);
    let entries: i32 = row.try_get(16).ok()?;
    Some(Claim {
        token: Token { message: common.message, entry: common.entry, number },
        mail: common.mail,
        handling: common.handling,
        head: head.to_vec().into(),
        body: BodyRef { message: common.message, number: 0, size, at_hand: None },
        accepted: common.accepted,
        expires: common.expires,
        destination: common.destination,
        queue: common.queue,
        due: common.due,
        attempts: common.attempts,
        cancelled: common.cancelled,
        alone: entries == 1,
        recipients: common.recipients,
    })
}

/// An entry for people.
pub(super) fn summary(row: &Row) -> Option<EntrySummary> {
    let common = Common::read(row)?;
    Some(EntrySummary {
        message: common.message,
        entry: common.entry,
        mail: common.mail,
        handling: common.handling,
        accepted: common.accepted,
        expires: common.expires,
        destination: common.destination,
        queue: common.queue,
        due: common.due,
        attempts: common.attempts,
        cancelled: common.cancelled,
        parked: row.try_get::<_, Option<&str>>(12).ok()?.map(Into::into),
        recipients: common.recipients,
    })
}

/// The columns that claims and summaries share.
struct Common {
    message: MessageId,
    entry: u32,
    mail: Mail,
    handling: Handling,
    accepted: Timestamp,
    expires: Timestamp,
    destination: Domain,
    queue: QueueName,
    due: Timestamp,
    attempts: u32,
    cancelled: bool,
    recipients: Vec<Recipient>,
}

impl Common {
    fn read(row: &Row) -> Option<Self> {
        let text = |at: usize| row.try_get::<_, &str>(at).ok();
        let (message, entry) = place(row)?;
        Some(Self {
            message,
            entry,
            mail: Mail::parse(text(1)?).ok()?,
            handling: Handling::parse(text(2)?)?,
            accepted: time(row.try_get(3).ok()?),
            expires: time(row.try_get(4).ok()?),
            destination: Domain::parse(text(5)?).ok()?,
            queue: QueueName::new(text(6)?),
            due: time(row.try_get(7).ok()?),
            attempts: u32::try_from(row.try_get::<_, i32>(8).ok()?).ok()?,
            recipients: read_recipients(text(9)?)?,
            cancelled: row
                .try_get::<_, Option<&str>>(11)
                .ok()?
                .is_some_and(|mark| mark.starts_with("cancel")),
        })
    }
}
