//! Setting back: what is done when the wall clock was set back.
//!
//! Stored times are wall time, so what the old clock put off would wait so much longer, and what was stored and
//! not claimed yet would too. The spool is gone through once, a page at a time beside everything else, and what
//! the old clock put off is due so much sooner ([`Change::SetBack`]). What a call carried that was under way
//! then comes into the spool behind that: so it is gone through again, after the length of a lease and then ever
//! more rarely, until the clock has caught up with itself.
//!
//! The first time all is moved that the engine has put off; on a spool that others put off in too, and
//! later, only what waits for longer than the retry curve says, which never moves an entry twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};

use crate::clock::{Now, Timestamp};
use crate::message::MessageId;
use crate::spool::{Alter, Altered, Change, Selection, SetBack, SpoolError};

use super::orders::{PAGE, learn};
use super::shape::LONGEST_WAIT;
use super::shared::Shared;

/// The clock was set back, and what is still to be done about it.
#[derive(Debug)]
struct Jump {
    by: Duration,
    /// The latest time that the old clock put anything off to.
    until: Timestamp,
    /// All is moved, and not only what waits for too long.
    all: bool,
    /// How far the spool was gone through.
    after: Option<(MessageId, u32)>,
    /// When the next page has its turn.
    next: Instant,
    /// Until it is gone through again.
    gap: Duration,
    failures: u32,
}

/// Goes through the spool where the clock was set back.
#[derive(Debug, Default)]
pub(crate) struct Passes {
    jump: Option<Jump>,
    page: JoinSet<Result<(Change, Altered), SpoolError>>,
}

impl Passes {
    /// The clock shows `now`, and would have shown `expected`.
    pub(crate) fn jumped(&mut self, shared: &Shared, expected: Timestamp, now: Now) {
        let (back, on) = (expected.since(now.wall), now.wall.since(expected));
        if back.is_zero() {
            // What is left to be done may be less by now, or nothing.
            self.jump = self.jump.take().filter(|jump| jump.by > on);
            return self.jump.iter_mut().for_each(|jump| jump.by = jump.by.saturating_sub(on));
        }
        let settings = shared.settings();
        let longest = settings.retry.longest().max(LONGEST_WAIT).max(settings.options.report_wait);
        // Half done: what was not moved yet is behind by both. What was is moved by both, and tried early.
        let before = self.jump.take().filter(|jump| jump.all);
        let until = expected.after(longest);
        self.jump = Some(Jump {
            by: back.saturating_add(before.as_ref().map_or(Duration::ZERO, |jump| jump.by)),
            until: before.map_or(until, |jump| jump.until.max(until)),
            all: true,
            after: None,
            next: now.mono,
            gap: settings.options.lease,
            failures: 0,
        });
        // The answer to a page that was asked for before says nothing of where to go on now.
        self.page = JoinSet::new();
    }

    /// Asks for the next page, if there is one to ask for now.
    pub(crate) fn step(&mut self, shared: &Shared, now: Now) {
        let Some(jump) = self.jump.as_ref().filter(|jump| now.mono >= jump.next) else { return };
        if !self.page.is_empty() {
            return;
        }
        if jump.after.is_none() && !jump.all && now.wall >= jump.until {
            self.jump = None;
            return;
        }
        let settings = shared.settings();
        let lease = now.wall.after(settings.options.lease);
        let mut back = SetBack::new(jump.by, jump.until, lease);
        if !jump.all || shared.spool.is_shared() {
            back.waits = settings.retry.waits().map(|wait| wait.max(LONGEST_WAIT)).collect();
        }
        let change = Change::SetBack(back);
        let (which, after) = (Selection::all(), jump.after);
        let alter = Alter { which, change: change.clone(), now: now.wall, after, limit: PAGE };
        let spool = Arc::clone(&shared.spool);
        self.page.spawn(async move { Ok((change, spool.alter(alter).await?)) });
    }

    /// The answer to a page; pending where none was asked for.
    pub(crate) async fn answer(&mut self) -> Result<(Change, Altered), SpoolError> {
        match self.page.join_next().await {
            None => std::future::pending().await,
            Some(answer) => answer.unwrap_or_else(|error| Err(panicked(error))),
        }
    }

    /// What follows from it.
    pub(crate) fn answered(&mut self, shared: &Arc<Shared>, answer: Result<(Change, Altered), SpoolError>) {
        let now = shared.mono();
        match answer {
            Ok((change, altered)) => {
                shared.with(|core, now, _| learn(core, &altered, &change, now.wall));
                let Some(jump) = &mut self.jump else { return };
                (jump.after, jump.failures) = (altered.next, 0);
                if jump.after.is_none() {
                    (jump.all, jump.next) = (false, now + jump.gap);
                    jump.gap = jump.gap.saturating_mul(2).min(LONGEST_GAP);
                }
            }
            // Nobody waits for it; a spool that fails is noticed elsewhere.
            Err(error) => {
                tracing::debug!(%error, "the spool did not put due times right");
                let Some(jump) = &mut self.jump else { return };
                jump.next = now + FIRST_PAUSE.saturating_mul(1 << jump.failures.min(16)).min(LONGEST_PAUSE);
                jump.failures = jump.failures.saturating_add(1);
            }
        }
    }

    /// How long until there is a page to ask for; while one is, its answer wakes.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        let jump = self.jump.as_ref().filter(|_| self.page.is_empty())?;
        Some(jump.next.saturating_duration_since(now))
    }
}

fn panicked(error: JoinError) -> SpoolError {
    SpoolError::Storage(std::io::Error::other(error))
}

/// Between two looks through the spool: so that what came late waits no longer than most retries.
const LONGEST_GAP: Duration = Duration::from_secs(4 * 3600);
/// After a page that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
