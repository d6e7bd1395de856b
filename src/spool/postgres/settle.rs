//! Settling is one statement for a whole batch, and a transaction where that submits messages.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use tokio_postgres::GenericClient;

use super::super::lines::write_recipients;
use super::super::{REPORT_ENTRY, Settlement, SpoolError, Then, Token, rules};
use super::count::Delta;
use super::error::Failure;
use super::insert::{self, Bodies, By, LogRows};
use super::tables::{Call, On};
use super::value::{Id, column, entry_column, text};
use super::write::delta;
use super::{BATCH_MESSAGES, Inner};

/// Refuses what can never be settled, and finds the bodies of what is submitted.
pub(super) fn check(inner: &Inner, batch: &mut [Settlement]) -> Result<Bodies, SpoolError> {
    let mut bodies = Bodies::new();
    for settlement in batch {
        rules::check_settlement(settlement)?;
        let queues = settlement.queue.iter().chain(settlement.tell.iter().map(|tell| &tell.queue));
        if queues.map(|queue| queue.as_str()).any(|queue| queue.contains('\0')) {
            return Err(SpoolError::Invalid("a queue's name holds NUL"));
        }
        insert::check(&settlement.submit)?;
        bodies.extend(inner.staging.bodies(&mut settlement.submit)?);
    }
    Ok(bodies)
}

impl Inner {
    /// Applies a batch; returns the tokens that were old ones.
    pub(super) async fn settle(&self, batch: &[Settlement], bodies: &Bodies) -> Result<Vec<Token>, Failure> {
        let busy = self.counts.begin();
        let rounds = rounds(batch);
        let submits = batch.iter().any(|settlement| !settlement.submit.is_empty());
        let mut work = Work {
            bodies,
            by: self.by(),
            fenced: Vec::new(),
            delta: Delta::default(),
            gone: 0,
            submitted: false,
        };
        let mut held = self.link.take().await?;
        let conn = held.conn();
        if let ([round], false) = (rounds.as_slice(), submits) {
            let on = conn.on(&self.link.tables);
            let last = self.link.timed(work.apply(&on, round)).await.map_err(Failure::of_statement)?;
            // What is told is due at a time of its own if this is not reached.
            if let Err(failure) = self.link.timed(hasten(&on, &last)).await {
                tracing::debug!(?failure, "a report is sent later than it could be");
            }
        } else {
            let tx = conn.begin(&self.link).await?;
            for round in rounds {
                self.link
                    .timed(async {
                        let last = work.apply(&tx.on(), round).await?;
                        hasten(&tx.on(), &last).await?;
                        work.submit(&tx.on(), round).await
                    })
                    .await?;
            }
            tx.commit(&self.link).await?;
        }
        held.release();
        busy.add(work.delta);
        self.gone.fetch_add(work.gone, Ordering::Relaxed);
        let applied = batch.iter().filter(|settlement| !work.fenced.contains(&settlement.token));
        applied.flat_map(|settlement| &settlement.submit).for_each(|m| self.staging.taken(&m.body));
        if work.submitted {
            self.nudge.notify_one();
        }
        Ok(work.fenced)
    }
}

/// The batch in parts that are one statement each, and no longer than one for new messages: what the parts of a
/// statement hand each other has no index, so its time grows with the square. And in one statement nothing sees what another part of it does,
/// so an entry may be meant only once, and a report entry only alone with its message.
fn rounds(batch: &[Settlement]) -> Vec<&[Settlement]> {
    let mut rounds = Vec::new();
    let (mut entries, mut messages, mut reports) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut from = 0;
    for (at, settlement) in batch.iter().enumerate() {
        let (message, entry) = (settlement.token.message, settlement.token.entry);
        let is_report = entry == REPORT_ENTRY;
        let collides = at - from >= BATCH_MESSAGES
            || entries.contains(&(message, entry))
            || reports.contains(&message)
            || (is_report && messages.contains(&message));
        if collides {
            rounds.extend(batch.get(from..at));
            from = at;
            entries.clear();
            messages.clear();
            reports.clear();
        }
        entries.insert((message, entry));
        messages.insert(message);
        if is_report {
            reports.insert(message);
        }
    }
    rounds.extend(batch.get(from..).filter(|rest| !rest.is_empty()));
    rounds
}

/// What came of a batch so far.
struct Work<'a> {
    bodies: &'a Bodies,
    by: By<'a>,
    fenced: Vec<Token>,
    delta: Delta,
    /// Messages of which nothing is left.
    gone: u64,
    submitted: bool,
}

impl Work<'_> {
    /// Applies one round. Returns the messages that have one entry left.
    async fn apply<C: GenericClient + Sync>(
        &mut self,
        on: &On<'_, C>,
        round: &[Settlement],
    ) -> Result<Vec<Id>, Failure> {
        let rows = Rows::new(round)?;
        let log = &rows.log;
        let found = on
            .query(
                Call::Settle,
                &[
                    &rows.messages,
                    &rows.entries,
                    &rows.numbers,
                    &rows.at,
                    &rows.remove,
                    &rows.attempted,
                    &rows.queues,
                    &rows.due,
                    &rows.parked,
                    &rows.recipients,
                    &rows.tell_queues,
                    &rows.tell_destinations,
                    &rows.tell_due,
                    &rows.tell_recipients,
                    &log.owners,
                    &rows.log_entries,
                    &log.at,
                    &log.messages,
                    &log.entries,
                    &log.kinds,
                    &log.recipients,
                    &log.attempts,
                    &log.notes,
                ],
            )
            .await?;
        let (mut held, mut last) = (HashMap::new(), Vec::new());
        for row in found {
            let (Id(message), entry): (Id, Option<i32>) = (row.try_get(0)?, row.try_get(1)?);
            let (remain, more): (Option<i32>, bool) = (row.try_get(2)?, row.try_get(4)?);
            match (entry, remain) {
                (Some(entry), _) => *held.entry((message, entry)).or_insert(false) |= more,
                (None, Some(1)) => last.push(Id(message)),
                (None, Some(..=0)) => {
                    self.delta.messages -= 1;
                    self.gone += 1;
                    self.delta.octets -= row.try_get::<_, Option<i64>>(3)?.unwrap_or_default();
                }
                (None, _) => self.delta.entries += i64::from(more),
            }
        }
        for settlement in round {
            let token = settlement.token;
            match held.get(&(token.message, entry_column(token.entry))) {
                Some(parked) => {
                    self.delta.entries -= i64::from(settlement.then == Then::Remove);
                    self.delta.parked += i64::from(*parked);
                }
                None => self.fenced.push(token),
            }
        }
        Ok(last)
    }

    /// Stores what those of a round submit that were held.
    async fn submit<C: GenericClient + Sync>(
        &mut self,
        on: &On<'_, C>,
        round: &[Settlement],
    ) -> Result<(), Failure> {
        let is_held = |settlement: &&Settlement| !self.fenced.contains(&settlement.token);
        let batch: Vec<_> = round.iter().filter(is_held).flat_map(|settlement| &settlement.submit).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let stored = insert::insert(on, batch.clone(), self.bodies, |_| None, self.by).await?;
        self.delta += delta(batch.into_iter(), &stored);
        self.submitted |= !stored.entries.is_empty();
        Ok(())
    }
}

async fn hasten<C: GenericClient + Sync>(on: &On<'_, C>, last: &Vec<Id>) -> Result<(), Failure> {
    if !last.is_empty() {
        on.query(Call::Hasten, &[last]).await?;
    }
    Ok(())
}

/// A round as arrays, one a column.
#[derive(Debug, Default)]
struct Rows<'a> {
    messages: Vec<Id>,
    entries: Vec<i32>,
    numbers: Vec<i64>,
    at: Vec<i64>,
    remove: Vec<bool>,
    attempted: Vec<bool>,
    queues: Vec<Option<&'a str>>,
    due: Vec<Option<i64>>,
    parked: Vec<Option<String>>,
    recipients: Vec<String>,

    tell_queues: Vec<Option<&'a str>>,
    tell_destinations: Vec<Option<&'a str>>,
    tell_due: Vec<Option<i64>>,
    tell_recipients: Vec<Option<String>>,

    log: LogRows,
    log_entries: Vec<i32>,
}

impl<'a> Rows<'a> {
    fn new(round: &'a [Settlement]) -> Result<Self, SpoolError> {
        let mut rows = Self::default();
        for settlement in round {
            let token = settlement.token;
            let (due, parked) = match &settlement.then {
                Then::Remove => (None, None),
                Then::Retry(due) => (Some(column(due.as_millis())), None),
                Then::Park(reason) => (None, Some(text(reason))),
            };
            rows.messages.push(Id(token.message));
            rows.entries.push(entry_column(token.entry));
            rows.numbers.push(column(token.number));
            rows.at.push(column(settlement.at.as_millis()));
            rows.remove.push(settlement.then == Then::Remove);
            rows.attempted.push(settlement.attempted);
            rows.queues.push(settlement.queue.as_ref().map(|queue| queue.as_str()));
            rows.due.push(due);
            rows.parked.push(parked);
            rows.recipients.push(write_recipients(&settlement.recipients)?);
            let tell = settlement.tell.as_ref();
            rows.tell_queues.push(tell.map(|tell| tell.queue.as_str()));
            rows.tell_destinations.push(tell.map(|tell| tell.destination.as_str()));
            rows.tell_due.push(tell.map(|tell| column(tell.due.as_millis())));
            rows.tell_recipients.push(tell.map(|tell| write_recipients(&tell.recipients)).transpose()?);
            for event in &settlement.log {
                rows.log.add(token.message, event);
                rows.log_entries.push(entry_column(token.entry));
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Rng, Timestamp};
    use crate::message::MessageId;
    use crate::spool::Tell;

    fn settlement(message: u64, entry: u32) -> Settlement {
        let id = MessageId::new(Timestamp::from_millis(message), &Rng::seeded(message));
        Settlement {
            token: Token { message: id, entry, number: 1 },
            at: Timestamp::default(),
            recipients: Vec::new(),
            attempted: true,
            queue: None,
            then: Then::Remove,
            submit: Vec::new(),
            tell: None::<Tell>,
            log: Vec::new(),
        }
    }

    #[test]
    fn nothing_in_a_round_depends_on_the_rest_of_it() {
        for (batch, expected) in [
            (&[][..], &[][..]),
            (&[(1, 0), (1, 1), (2, 0)], &[3]),
            (&[(1, 0), (2, 0), (1, 0)], &[2, 1]),
            (&[(1, 0), (2, REPORT_ENTRY), (1, REPORT_ENTRY)], &[2, 1]),
            (&[(1, REPORT_ENTRY), (1, 0), (1, 1)], &[1, 2]),
        ] {
            let batch: Vec<_> = batch.iter().map(|(message, entry)| settlement(*message, *entry)).collect();
            let lengths: Vec<_> = rounds(&batch).iter().map(|round| round.len()).collect();
            assert_eq!(lengths, expected);
        }
        let many: Vec<_> = (0..130).map(|message| settlement(message, 0)).collect();
        assert_eq!(rounds(&many).iter().map(|round| round.len()).collect::<Vec<_>>(), [64, 64, 2]);
    }
}
