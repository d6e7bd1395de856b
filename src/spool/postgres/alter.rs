//! Altering: a page is one short transaction that locks what is meant, changes it by the rules that every
//! spool shares, and writes it back.

use std::collections::BTreeSet;

use tokio_postgres::{GenericClient, Row};

use super::super::altering::{Done, Fixed, Mark, Standing, alter, concerns};
use super::super::set_back::released;
use super::super::{Alter, Altered, Class, QueueName, REPORT_ENTRY, Selection};
use super::Inner;
use super::count::Delta;
use super::error::Failure;
use super::tables::{Call, On};
use super::value::{Id, Sent, column, entry_column, time};
use crate::clock::Timestamp;
use crate::message::{MessageId, Tag, Tenant};
use crate::smtp::address::Domain;
use crate::smtp::params::Mail;

impl Inner {
    pub(super) async fn alter(&self, request: &Alter) -> Result<Altered, Failure> {
        let busy = self.counts.begin();
        let mut held = self.link.take().await?;
        let tx = held.conn().begin(&self.link).await?;
        let (altered, delta) = self.link.timed(page(&tx.on(), request, self.sent())).await?;
        tx.commit(&self.link).await?;
        held.release();
        busy.add(delta);
        if !altered.queues.is_empty() {
            self.nudge.notify_one();
        }
        Ok(altered)
    }
}

async fn page<C: GenericClient + Sync>(
    on: &On<'_, C>,
    request: &Alter,
    sent: Sent<'_>,
) -> Result<(Altered, Delta), Failure> {
    let (mut altered, mut delta) = (Altered::default(), Delta::default());
    let limit = column(request.limit.max(1) as u64);
    let Selection { message, destination, queue, tenant, tag, parked } = &request.which;
    // Behind nothing is behind an entry that comes before all.
    let none = (MessageId::from_octets([0; 16]), -1);
    let (from, at) = request.after.map_or(none, |(id, entry)| (id, entry_column(entry)));
    let found = on.query(Call::Page, &[&Id(from), &at, &message.map(Id), &limit]).await?;
    let Some(last) = found.first() else { return Ok((altered, delta)) };
    let (Id(until), end): (Id, i32) = (last.try_get(0)?, last.try_get(1)?);
    if last.try_get::<_, i64>(2)? >= limit {
        altered.next = Some((until, u32::try_from(end).unwrap_or_default()));
    }
    let now = column(request.now.as_millis());
    let found = on
        .query(
            Call::Standing,
            &[
                &now,
                &Id(from),
                &at,
                &Id(until),
                &end,
                &destination.as_ref().map(Domain::as_str),
                &queue.as_ref().map(QueueName::as_str),
                &tenant.as_ref().map(Tenant::as_str),
                &tag.as_ref().map(Tag::as_str),
                parked,
                &message.map(Id),
                &sent,
                &concerns(&request.change, REPORT_ENTRY),
            ],
        )
        .await?;
    let (mut rows, mut queues) = (Rows::default(), BTreeSet::new());
    for row in &found {
        // One that cannot be read is for a person with a shell.
        let Some(Read { mut is, class, destination, expires, claimed, entry, attempts, accepted, release }) =
            read(row)
        else {
            continue;
        };
        let was_parked = is.parked.is_some();
        let before = is.clone();
        let destination = &destination;
        let fixed = Fixed { destination, expires, entry, attempts, accepted, release, claimed };
        match alter(&mut is, fixed, &request.change, request.now) {
            Done::Nothing => continue,
            Done::Changed => altered.changed += 1,
            Done::Claimed => altered.claimed += 1,
        }
        delta.parked += i64::from(is.parked.is_some()) - i64::from(was_parked);
        if is.parked.is_none() && !claimed {
            queues.insert((is.queue.clone(), class));
        }
        // A claimed one that is left as it is need not be written.
        if is != before || !claimed {
            rows.add(row.try_get(0)?, row.try_get(1)?, &is, claimed);
        }
    }
    altered.queues = queues.into_iter().collect();
    let Rows { messages, entries, queues, due, parked, marks, claimed } = &rows;
    if !messages.is_empty() {
        on.query(Call::Alter, &[messages, entries, queues, due, parked, marks, claimed]).await?;
    }
    Ok((altered, delta))
}

/// What changes of an entry, and what does not.
struct Read {
    is: Standing,
    class: Class,
    destination: Domain,
    expires: Timestamp,
    claimed: bool,
    entry: u32,
    attempts: u32,
    accepted: Timestamp,
    release: Timestamp,
}

fn read(row: &Row) -> Option<Read> {
    let text = |at: usize| row.try_get::<_, Option<&str>>(at).ok();
    let mark = match text(7)? {
        None => None,
        Some("cancel" | "cancelled") => Some(Mark::Cancel),
        Some(mark) => mark.strip_prefix("hold ").map(|reason| Mark::Hold(reason.into())),
    };
    let is = Standing {
        queue: QueueName::new(text(2)??),
        due: time(row.try_get(4).ok()?),
        parked: text(6)?.map(Into::into),
        mark,
    };
    let class = Class::from_number(u8::try_from(row.try_get::<_, i16>(3).ok()?).ok()?)?;
    // Where the sender cannot be read, other changes are possible all the same.
    let mail = text(12).flatten().and_then(|mail| Mail::parse(mail).ok());
    let number = |at: usize| u32::try_from(row.try_get::<_, i32>(at).ok()?).ok();
    let accepted = time(row.try_get(11).ok()?);
    Some(Read {
        is,
        class,
        destination: Domain::parse(text(5)??).ok()?,
        expires: time(row.try_get(8).ok()?),
        claimed: row.try_get(9).ok()?,
        entry: number(1)?,
        attempts: number(10)?,
        accepted,
        release: mail.map_or(Timestamp::NEVER, |mail| released(&mail, accepted)),
    })
}

/// Changed entries as arrays, one a column.
#[derive(Debug, Default)]
struct Rows {
    messages: Vec<Id>,
    entries: Vec<i32>,
    queues: Vec<String>,
    due: Vec<i64>,
    parked: Vec<Option<String>>,
    marks: Vec<Option<String>>,
    claimed: Vec<bool>,
}

impl Rows {
    fn add(&mut self, message: Id, entry: i32, is: &Standing, claimed: bool) {
        self.messages.push(message);
        self.entries.push(entry);
        self.queues.push(is.queue.as_str().to_owned());
        self.due.push(column(is.due.as_millis()));
        self.parked.push(is.parked.as_deref().map(str::to_owned));
        // Whoever claims it next is told.
        self.marks.push(is.mark.as_ref().map(|mark| match mark {
            Mark::Hold(reason) => format!("hold {reason}"),
            Mark::Cancel => "cancel".to_owned(),
        }));
        self.claimed.push(claimed);
    }
}
