//! What outlives messages: keys, results, the log. Forgetting them is done in parts.
//!
//! # The order of the log
//! Transactions that write to the log do so at once, and commit in any order; a reader must not see number 7
//! and later find 6. So a writer announces, before it takes numbers, behind which number its own will be: by an
//! advisory lock of that name, which it shares with everybody and which ends with its transaction. A reader
//! looks at the last number first, then at what is announced, and reads up to there: what was not announced
//! by then is committed, or will take later numbers. So no writer waits for another: a lock around the numbers
//! until the commit would have one host transaction that is left open with mail in it stop every settlement.
//! What it stops instead is the reading.

use tokio_postgres::{GenericClient, Row};

use super::super::lines::read_recipients;
use super::super::{KeepLog, LogEvent, LogKind, Logged, REPORT_ENTRY, Recipient, Results, rules};
use super::Inner;
use super::error::Failure;
use super::tables::{Call, On};
use super::value::{Id, column, count, entry_column, time};
use crate::clock::Timestamp;
use crate::message::MessageId;
use crate::smtp::params::Rcpt;

impl Inner {
    pub(super) async fn results(&self, message: MessageId) -> Result<Option<Results>, Failure> {
        let found = self.run_once(Call::Results, &[&Id(message)]).await?;
        if found.is_empty() {
            return Ok(None);
        }
        let (mut recipients, mut waits, mut until): (Vec<Recipient>, _, _) = (Vec::new(), false, None);
        for row in found {
            let (entry, waiting): (i32, bool) = (row.try_get(0)?, row.try_get(2)?);
            waits |= waiting;
            until = until.max(row.try_get::<_, Option<i64>>(3)?);
            if entry != entry_column(REPORT_ENTRY) {
                recipients.extend(read_recipients(row.try_get(1)?).unwrap_or_default());
            }
        }
        let finished = recipients.iter().all(|recipient| recipient.state.is_terminal());
        Ok(Some(Results::new(recipients, finished, until.filter(|_| !waits).map(time))))
    }

    pub(super) async fn log(&self, after: u64, limit: usize) -> Result<Vec<Logged>, Failure> {
        let mut held = self.link.take().await?;
        let on = held.conn().on(&self.link.tables);
        let found = self.link.timed(read_log(&on, after, limit)).await?;
        held.release();
        let mut log = Vec::with_capacity(found.len());
        for row in found {
            let (Id(message), entry): (Id, Option<i32>) = (row.try_get(2)?, row.try_get(3)?);
            // A kind that a later version writes is not for this one.
            let Some(kind) = LogKind::from_name(row.try_get(4)?) else { continue };
            let (recipient, note): (Option<&str>, Option<&str>) = (row.try_get(5)?, row.try_get(7)?);
            let event = LogEvent {
                at: time(row.try_get(1)?),
                message,
                entry: entry.and_then(|entry| u32::try_from(entry).ok()),
                kind,
                recipient: recipient.and_then(|rcpt| Rcpt::parse(rcpt).ok()),
                attempt: u32::try_from(row.try_get::<_, i32>(6)?).unwrap_or_default(),
                note: note.map(Into::into),
            };
            log.push(Logged { number: count(row.try_get(0)?), event });
        }
        Ok(log)
    }

    pub(super) async fn prune(&self, now: Timestamp, keep: KeepLog) -> Result<bool, Failure> {
        let again = column(now.after(rules::KEY_AGAIN).as_millis());
        let oldest = now.as_millis().checked_sub(u64::try_from(keep.time.as_millis()).unwrap_or(u64::MAX));
        // Before the epoch nothing happened.
        let oldest = oldest.map_or(-1, column);
        let (now, events) = (column(now.as_millis()), column(keep.events));
        let mut more = false;
        for found in [
            self.run_once(Call::PruneKeys, &[&now, &again, &STEP]).await?,
            self.run_once(Call::PruneResults, &[&now, &again, &STEP]).await?,
            self.run_once(Call::PruneLog, &[&oldest, &events, &STEP]).await?,
        ] {
            for row in found {
                more |= row.try_get::<_, i64>(0)? >= STEP;
            }
        }
        Ok(more)
    }
}

async fn read_log<C: GenericClient + Sync>(
    on: &On<'_, C>,
    after: u64,
    limit: usize,
) -> Result<Vec<Row>, Failure> {
    let first = |rows: Vec<Row>| -> Result<i64, Failure> {
        let first = rows.first().map(|row| row.try_get::<_, Option<i64>>(0)).transpose()?;
        Ok(first.flatten().unwrap_or_default())
    };
    let last = first(on.query(Call::LogLast, &[]).await?)?;
    if count(last) <= after {
        return Ok(Vec::new());
    }
    let back = first(on.query(Call::LogHorizon, &[&last]).await?)?;
    let until = last.saturating_sub(back);
    on.query(Call::Log, &[&column(after), &until, &column(limit as u64)]).await
}

/// How much of each is forgotten at once: some ten milliseconds of the server's time.
const STEP: i64 = 1_000;
