//! Care is what is done now and then by every node: counting, cleaning up, and collecting what a dead one had
//! staged.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_postgres::Client;

use super::super::{SpoolError, Stats};
use super::Inner;
use super::error::Failure;
use super::tables::Call;
use super::value::count;
use crate::clock::{Clock, SystemClock};

/// How a database is, see [`PostgresSpool::health`](super::PostgresSpool::health).
///
/// Of sessions of other users it says nothing where ours may not see them (`pg_read_all_stats`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PostgresHealth {
    /// How many transactions have begun since the oldest that somebody may still see as it was: an open
    /// transaction, a replica, a prepared transaction. What was deleted since then cannot be cleaned up. Worth
    /// an alarm above a million.
    pub oldest_snapshot: u64,
    /// For how long the oldest transaction in this database has been open. Worth an alarm above some minutes.
    pub oldest_transaction: Duration,
    /// Deleted rows that are not cleaned up yet, as the server guesses.
    pub dead_rows: u64,
    /// What the tables take on disk, in octets.
    pub size: u64,
    /// How far our clock and the server's are apart. Leases go by the server's; what is due is so by the clock of
    /// the node that stored it, and is late or early by as much. Worth an alarm above a minute.
    pub clock_off: Duration,
}

/// Runs until it is aborted.
pub(super) async fn run(inner: Arc<Inner>) {
    let (mut wait, mut missed, mut collected) = (LOOK, 0, COLLECT);
    loop {
        tokio::time::sleep(wait).await;
        if inner.link.is_closed() {
            return;
        }
        let began = SystemClock.mono();
        match inner.recount(missed >= MISSES, inner.options.statement_timeout).await {
            Ok(true) => missed = 0,
            Ok(false) => missed += 1,
            Err(error) => tracing::debug!(%error, "the spool was not counted"),
        }
        let took = SystemClock.mono().saturating_duration_since(began);
        collected += wait + took;
        if collected >= COLLECT {
            collected = Duration::ZERO;
            if let Err(error) = inner.run(Call::CollectStaged, &[]).await {
                tracing::debug!(%error, "staged bodies were not collected");
            }
        }
        wait = LOOK.max(took * SHARE);
    }
}

/// Cleans up behind what this node has settled, until it is aborted. Autovacuum does the same when its turn comes,
/// which is once in `autovacuum_naptime`, a minute by default: in that time a busy queue leaves behind a
/// hundred times of what it holds, and its files never get smaller.
pub(super) async fn tidy(inner: Arc<Inner>) {
    let mut client = None;
    let mut wait = TIDY;
    loop {
        tokio::time::sleep(wait).await;
        wait = TIDY;
        if inner.link.is_closed() {
            return;
        }
        let gone = inner.gone.load(Ordering::Relaxed);
        if gone < MANY.max(inner.counts.stats().messages / PART) {
            continue;
        }
        inner.gone.fetch_sub(gone, Ordering::Relaxed);
        client = match inner.vacuum(client.take()).await {
            Ok(client) => Some(client),
            Err(failure) => {
                // Tried again at once, it would keep autovacuum out for nothing.
                wait = LEFT_TO_AUTOVACUUM;
                tracing::debug!(?failure, "cleaning up is left to autovacuum");
                None
            }
        };
    }
}

impl Inner {
    /// On a connection of its own: it takes no mail's turn.
    async fn vacuum(&self, client: Option<Client>) -> Result<Client, Failure> {
        let client = match client.filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.link.open(|_| {}).await?,
        };
        let vacuum = self.link.tables.text(Call::Vacuum);
        self.link.timed(async { Ok(client.batch_execute(vacuum).await?) }).await?;
        Ok(client)
    }

    /// Counts, or estimates when that takes longer than the time given; false when that was in vain, because
    /// something happened meanwhile.
    pub(super) async fn recount(&self, in_any_case: bool, time: Duration) -> Result<bool, SpoolError> {
        let mark = self.counts.mark();
        if mark.is_none() && !in_any_case {
            return Ok(false);
        }
        let stats = match self.count_within(time).await {
            Ok(stats) => stats,
            Err(failure) => {
                tracing::debug!(?failure, "how much there is is estimated");
                self.estimate().await?
            }
        };
        Ok(self.counts.set(stats, mark.filter(|_| !in_any_case)))
    }

    async fn count_within(&self, time: Duration) -> Result<Stats, Failure> {
        let mut held = self.link.take().await?;
        let tx = held.conn().begin(&self.link).await?;
        let limit = format!("SET LOCAL statement_timeout = {}", time.as_millis().max(1));
        let found = self.link.timed(async {
            tx.execute(&limit).await?;
            tx.on().query(Call::Count, &[]).await
        });
        let found = found.await?;
        tx.commit(&self.link).await?;
        held.release();
        let row = found.first().ok_or(SpoolError::Corrupt)?;
        let column = |at: usize| row.try_get(at).map(count);
        Ok(Stats { messages: column(0)?, octets: column(1)?, entries: column(2)?, parked: column(3)? })
    }

    async fn estimate(&self) -> Result<Stats, SpoolError> {
        let found = self.run(Call::Estimate, &[]).await?;
        let row = found.first().ok_or(SpoolError::Corrupt)?;
        let column = |at: usize| row.try_get(at).map(count).map_err(|_| SpoolError::Corrupt);
        // Those that are parked are known to who parked them.
        let parked = self.counts.stats().parked;
        Ok(Stats { messages: column(0)?, entries: column(1)?, octets: column(2)?, parked })
    }

    pub(super) async fn health(&self) -> Result<PostgresHealth, SpoolError> {
        let found = self.run(Call::Health, &[]).await?;
        let now = self.clock.now().wall.as_millis();
        let row = found.first().ok_or(SpoolError::Corrupt)?;
        let column = |at: usize| {
            let value = row.try_get::<_, Option<i64>>(at).map_err(|_| SpoolError::Corrupt)?;
            Ok::<_, SpoolError>(count(value.unwrap_or_default()))
        };
        Ok(PostgresHealth {
            oldest_snapshot: column(0)?,
            oldest_transaction: Duration::from_millis(column(1)?),
            dead_rows: column(2)?,
            size: column(3)?,
            clock_off: Duration::from_millis(column(4)?.abs_diff(now)),
        })
    }
}

/// How long none is tried when one failed, most often since it took too long.
const LEFT_TO_AUTOVACUUM: Duration = Duration::from_secs(600);
/// How often it is looked whether there is something to clean up, which costs nothing.
const TIDY: Duration = Duration::from_secs(2);

/// So many messages that are gone are worth it, some tens of milliseconds of the server's time; and so large a
/// part of what is stored, since all of the indexes is read.
const MANY: u64 = 10_000;
const PART: u64 = 100;

/// How often it is counted, unless that takes long.
const LOOK: Duration = Duration::from_secs(10);

/// What a count may take when the spool is opened: a million entries are counted in a tenth of it.
pub(super) const OPENING: Duration = Duration::from_secs(2);

/// Counting takes at most a hundredth of the time.
const SHARE: u32 = 100;

/// After so many counts that something happened during, the next is taken although it is a little off.
const MISSES: u32 = 5;

/// Bodies that nobody wants are old when they are collected, and there are few.
const COLLECT: Duration = Duration::from_secs(600);
