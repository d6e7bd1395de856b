//! Orders are what the host program wants done with mail that waits: hold it, release it, cancel it, have
//! it tried at another time or by another route; and looking at it.
//!
//! The spool comes first: it changes what nobody has claimed, and notes what is wanted of the rest. Then
//! what this engine has claimed and is not trying is taken back, so that only what is in flight is tried
//! once more at most. All of it goes in pages, so that an order about a million entries holds up no mail.

use crate::clock::Timestamp;
use crate::message::MessageId;
use crate::spool::{Alter, Altered, Change, EntrySummary, QueueSummary, Selection, SpoolError};

use super::engine::Engine;
use super::take_back::TakeBack;

/// What came of an order. An entry is a message's recipients at one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Ordered {
    /// Entries that were changed.
    pub changed: u64,
    /// Entries that were being tried or settled, or that another process has claimed: a hold or a
    /// cancellation counts for them unless this settles them, anything else does not reach them.
    pub in_flight: u64,
}

impl Engine {
    /// Holds entries: they are not tried until they are released or cancelled, however long that takes. The
    /// reason, of which 1,024 octets are kept, is shown with them ([`EntrySummary::parked`]) and they are
    /// counted ([`Stats::parked`](crate::spool::Stats)).
    ///
    /// A hold is the host program's word and stands against the deadline too: nobody is told that what is
    /// held expired. When it is released past its deadline, it is tried once and then expires. What is held
    /// already keeps its reason.
    ///
    /// # Errors
    /// [`SpoolError`]: some of what is meant may be held; the order can be given again.
    ///
    /// # Cancel safety
    /// Dropping the future leaves a part of the order done, and it can be given again. The same is true of
    /// the other orders.
    pub async fn hold(&self, which: Selection, reason: &str) -> Result<Ordered, SpoolError> {
        self.order(which, Change::Hold(reason.into()), Some(TakeBack::Back)).await
    }

    /// Releases what is held, by whomever: it is tried when it is due, which is now if that time passed
    /// meanwhile.
    ///
    /// # Errors
    /// As [`Engine::hold`].
    pub async fn release(&self, which: Selection) -> Result<Ordered, SpoolError> {
        self.order(which, Change::Release, None).await
    }

    /// Cancels entries, held or not: they are not tried any more. Their recipients that wait end as
    /// [`RecipientState::Cancelled`](crate::spool::RecipientState::Cancelled), told by
    /// [`Event::Cancelled`](super::Event::Cancelled) and to receipts, within moments; the sender is not
    /// told. This cannot be taken back. An entry in flight is cancelled unless this try settles it.
    ///
    /// # Errors
    /// As [`Engine::hold`].
    pub async fn cancel(&self, which: Selection) -> Result<Ordered, SpoolError> {
        self.order(which, Change::Cancel, Some(TakeBack::Cancel)).await
    }

    /// Has entries tried next at `when`, sooner or later than they would be, or at their deadline if that
    /// comes first. What is held stays so. A notice of delay whose time passes meanwhile is not given.
    ///
    /// # Errors
    /// As [`Engine::hold`].
    pub async fn reschedule(&self, which: Selection, when: Timestamp) -> Result<Ordered, SpoolError> {
        // What is ready now is what was wanted, if it is to be tried now.
        let later = when > self.inner.shared.now().wall;
        self.order(which, Change::Due(when), later.then_some(TakeBack::Until(when))).await
    }

    /// Has entries routed anew and tried now, held ones too: for when routes or policies have changed. Routes at
    /// hand are forgotten; the resolver is asked again, and has its own idea of how long it knows.
    ///
    /// # Errors
    /// As [`Engine::hold`].
    pub async fn requeue(&self, which: Selection) -> Result<Ordered, SpoolError> {
        self.inner.shared.with(|core, _, _| core.routes.forget());
        self.order(which, Change::Requeue, Some(TakeBack::Requeue)).await
    }

    /// What waits, of what is meant: in order, from behind `after` on, at most `limit` entries and 10,000.
    /// The message and number of the last one are the next `after`. Where nothing but a destination, a
    /// tenant or a tag is given, everything is gone through.
    ///
    /// # Errors
    /// [`SpoolError`]
    pub async fn list(
        &self,
        which: Selection,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> Result<Vec<EntrySummary>, SpoolError> {
        self.inner.shared.spool.scan(which, after, limit).await
    }

    async fn order(
        &self,
        which: Selection,
        change: Change,
        take_back: Option<TakeBack>,
    ) -> Result<Ordered, SpoolError> {
        let shared = &self.inner.shared;
        let (mut ordered, mut after) = (Ordered::default(), None);
        loop {
            let (which, now) = (which.clone(), shared.now().wall);
            let alter = Alter { which: which.clone(), change: change.clone(), now, after, limit: PAGE };
            let altered = shared.spool.alter(alter).await?;
            let taken = shared.with(|core, now, todo| {
                learn(core, &altered, &change, now.wall);
                todo.wake = true;
                let Some(how) = take_back.filter(|_| altered.claimed > 0) else { return 0 };
                let taken = core.take_back(&which, (after, altered.next), how, now, todo);
                core.mark_wanted(&which);
                taken
            });
            ordered.changed += altered.changed + taken;
            ordered.in_flight += altered.claimed.saturating_sub(taken);
            after = altered.next;
            if after.is_none() {
                return Ok(ordered);
            }
        }
    }
}

/// The schedule learns of what fell due.
pub(super) fn learn(core: &mut super::core::Core, altered: &Altered, change: &Change, now: Timestamp) {
    for part in &altered.queues {
        match change {
            Change::Hold(_) => {}
            Change::Cancel => core.schedule.cancelled(part),
            Change::Due(due) => core.schedule.note(part, *due, now),
            // Some of it may be due later: a sweep finds out.
            Change::Release | Change::Requeue | Change::SetBack(_) => {
                let (queue, class) = part.clone();
                core.schedule.learn(&QueueSummary { queue, class, entries: 0, due: now }, now);
            }
        }
    }
}

/// Entries that are looked at in one transaction of the spool, some milliseconds.
pub(super) const PAGE: usize = 1_000;
