//! A pump hands committed rows over to an engine, and then takes them out of the table.
//!
//! In between it may die, or the program with it: the row is there again then, and the engine's spool knows it
//! by its key, its own or one made from its id, also when the message is delivered long ago. So nothing
//! is sent twice, and nothing is forgotten.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::table::{self, Fate, Waiting};
use crate::clock::{Clock, Timestamp};
use crate::delivery::{Engine, SubmitError, SubmitOptions};
use crate::spool::SpoolError;

/// How a [`Pump`] works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PumpOptions {
    /// How long at most until a committed row is found that [`Pump::nudge`] did not tell of. Default 1 s,
    /// which is one short read of an index each time.
    pub poll: Duration,
    /// Rows that are handed over together. Default 64: with as many a spool's group commit works well.
    pub rows: usize,
    /// Octets of rows that are in memory at one time; one row may be larger. Default 8 MiB.
    pub octets: usize,
    /// How long a key is remembered in the table once its message was handed over. Default 7 days, as in an
    /// engine ([`EngineOptions::keep_keys`](crate::delivery::EngineOptions)), where it should be no less.
    pub keep_keys: Duration,
}

impl PumpOptions {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            poll: Duration::from_secs(1),
            rows: 64,
            octets: 8 << 20,
            keep_keys: Duration::from_secs(7 * 86_400),
        }
    }
}

impl Default for PumpOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A task that moves rows into an engine. Dropping it ends it, between any two steps: what it was at is done
/// again by the next, and not sent again.
#[derive(Debug)]
#[must_use = "a pump that is dropped ends"]
pub struct Pump {
    nudge: Arc<Notify>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Pump {
    pub(super) fn start(
        connection: Connection,
        engine: Engine,
        options: PumpOptions,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let nudge = Arc::new(Notify::new());
        let (stop, stopped) = watch::channel(false);
        let moving = Moving { connection: Some(connection), engine, options, clock, next_prune: None };
        let task = tokio::spawn(moving.run(Arc::clone(&nudge), stopped));
        Self { nudge, stop, task: Some(task) }
    }

    /// Has it look now. To be called after a commit; forgetting it costs [`PumpOptions::poll`].
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Ends it after what it is at.
    ///
    /// # Cancel safety
    /// Dropping the future ends it at once.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = &mut self.task {
            let _ = task.await;
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// What came of one look at the table.
enum Round {
    /// There may be more.
    More,
    Empty,
    /// The database could not be read or written.
    Failed,
}

struct Moving {
    /// Away while a thread works with it.
    connection: Option<Connection>,
    engine: Engine,
    options: PumpOptions,
    clock: Arc<dyn Clock>,
    next_prune: Option<Timestamp>,
}

impl Moving {
    async fn run(mut self, nudge: Arc<Notify>, mut stop: watch::Receiver<bool>) {
        let mut failures = 0_u32;
        while !*stop.borrow_and_update() && self.connection.is_some() {
            let wait = match self.round().await {
                Round::More => {
                    failures = 0;
                    continue;
                }
                Round::Empty => {
                    failures = 0;
                    self.options.poll
                }
                Round::Failed => {
                    failures = failures.saturating_add(1);
                    pause(failures.into())
                }
            };
            tokio::select! {
                biased;
                _ = stop.changed() => {}
                () = nudge.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Hands over one batch.
    async fn round(&mut self) -> Round {
        let now = self.clock.now().wall;
        let (rows, octets) = (self.options.rows.max(1), self.options.octets);
        let prune = self.next_prune.is_none_or(|at| now >= at || at > now.after(BETWEEN_PRUNES));
        let found = self.aside(move |connection| {
            if prune {
                table::prune(connection, now)?;
            }
            table::waiting(connection, now, now.after(AHEAD), rows, octets)
        });
        let found = match found.await {
            Ok(found) => found,
            Err(error) => return failed(&error),
        };
        if prune {
            self.next_prune = Some(now.after(BETWEEN_PRUNES));
        }
        if found.is_empty() {
            return Round::Empty;
        }
        let mut at_work = JoinSet::new();
        for row in found {
            let (engine, keep, clock) =
                (self.engine.clone(), self.options.keep_keys, Arc::clone(&self.clock));
            at_work.spawn(async move {
                let n = row.n;
                hand_over(&engine, row, keep, &*clock).await.map(|fate| (n, fate))
            });
        }
        let (mut fates, mut closed) = (Vec::new(), false);
        while let Some(done) = at_work.join_next().await {
            match done {
                Ok(Some(fate)) => fates.push(fate),
                // A row whose message broke something is looked at again, like all of an engine that is gone.
                Ok(None) | Err(_) => closed = true,
            }
        }
        let settled = self.aside(move |connection| table::settle(connection, &fates)).await;
        match settled {
            Ok(()) if closed => Round::Empty,
            Ok(()) => Round::More,
            // They come again, and the engine knows them.
            Err(error) => failed(&error),
        }
    }

    /// Works with the connection where nobody waits for the thread.
    async fn aside<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let Some(mut connection) = self.connection.take() else {
            return Err(rusqlite::Error::InvalidQuery);
        };
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut connection);
            (connection, done)
        });
        // Without its connection, after a panic or as the runtime goes down, the pump ends.
        let (connection, done) = done.await.map_err(|_| rusqlite::Error::InvalidQuery)?;
        self.connection = Some(connection);
        done
    }
}

/// Gives a row to the engine. `None`: the engine is shut down.
async fn hand_over(engine: &Engine, row: Waiting, keep_keys: Duration, clock: &dyn Clock) -> Option<Fate> {
    let Some(submission) = row.submission else {
        return Some(Fate::Refused("the row is damaged, or of a later version".to_owned()));
    };
    let mut options = SubmitOptions::new();
    options.id = Some(row.id);
    options.keep = row.keep.map(|keep| Duration::from_secs(u64::try_from(keep).unwrap_or_default()));
    let is_named = row.name.is_some();
    // Without a name of its own it is known by its id, for as long as it can come again.
    let name = row.name.unwrap_or_else(|| format!("postroad outbox {}", row.id));
    if !is_named && options.keep.is_none() {
        options.keep = Some(Duration::ZERO);
    }
    options.key = Some(name.into());
    let submitted = engine.submit_with(submission, options).await;
    let now = clock.now().wall;
    Some(match submitted {
        Ok(_) if is_named => Fate::Kept(now.after(keep_keys)),
        Ok(_) => Fate::Gone,
        Err(SubmitError::Closed) => return None,
        Err(error) if is_final(&error) => {
            tracing::error!(message = %row.id, %error, "a message in the outbox cannot be sent");
            Fate::Refused(error.to_string())
        }
        Err(error) => Fate::PutOff(now.after(pause(row.tries)), error.to_string()),
    })
}

/// Whether it would be the same next time.
const fn is_final(error: &SubmitError) -> bool {
    match error {
        SubmitError::Message(_)
        | SubmitError::KeyConflict
        | SubmitError::Key(_)
        | SubmitError::Hold
        | SubmitError::Release
        | SubmitError::Spool(SpoolError::TooLarge | SpoolError::Invalid(_)) => true,
        SubmitError::Spool(_) | SubmitError::Sign(_) | SubmitError::Closed => false,
    }
}

fn failed(error: &rusqlite::Error) -> Round {
    tracing::warn!(%error, "the outbox cannot be read or written");
    Round::Failed
}

/// How long until it is tried again that was tried so often.
fn pause(tries: i64) -> Duration {
    let doubled = u32::try_from(tries.clamp(0, 16)).unwrap_or_default();
    FIRST_PAUSE.saturating_mul(1 << doubled).min(LONGEST_PAUSE)
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A spool that fails is asked this often for each row.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Nothing is put off for longer: what seems to be was put off by a clock that was ahead.
const AHEAD: Duration = Duration::from_secs(600);
/// Keys that are remembered for longer than they need to be do no harm.
const BETWEEN_PRUNES: Duration = Duration::from_secs(60);
