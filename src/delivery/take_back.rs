//! Taking back is done with what this process has claimed and is not trying: at the end, and when somebody
//! wants entries changed.
//!
//! What is in flight cannot be taken back. The spool has noted what is wanted of it; here it is only
//! remembered that somebody wanted something, so that its queue is looked at again when it is settled.

use crate::clock::{Now, Timestamp};
use crate::message::MessageId;
use crate::spool::{Claim, QueueName, REPORT_ENTRY, Selection, Token};

use super::core::Core;
use super::lane::{Entry, Lane};
use super::settle::Verdict;
use super::todo::Todo;

/// What becomes of what is taken back.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TakeBack {
    /// It goes back as it is: the spool has noted what is to be done.
    Back,
    /// It is given up.
    Cancel,
    /// It waits until then.
    Until(Timestamp),
    /// It waits in its destination's queue, due at once.
    Requeue,
}

/// A part of the spool, in the order of its entries: behind the first, up to the second.
pub(crate) type Stretch = (Option<(MessageId, u32)>, Option<(MessageId, u32)>);

impl Core {
    /// Gives back what is claimed and not being tried.
    pub(crate) fn give_back(&mut self, todo: &mut Todo) {
        let waiting = self.routes.drain();
        let ready = self.lanes.values_mut().flat_map(Lane::drain);
        for entry in waiting.into_iter().chain(ready) {
            let due = entry.claim.due;
            todo.finish(entry, Verdict::Back { queue: None, due });
        }
    }

    /// Takes back what is meant, of this stretch, and is not being tried. Returns how many.
    pub(crate) fn take_back(
        &mut self,
        which: &Selection,
        (after, up_to): Stretch,
        how: TakeBack,
        now: Now,
        todo: &mut Todo,
    ) -> u64 {
        let is_meant = |claim: &Claim| {
            let place = (claim.token.message, claim.token.entry);
            after.is_none_or(|after| place > after)
                && up_to.is_none_or(|up_to| place <= up_to)
                && place.1 != REPORT_ENTRY
                && which.has_claim(claim)
        };
        let mut taken = self.routes.take_out(is_meant);
        let mut relieved = Vec::new();
        for (site, lane) in &mut self.lanes {
            let before = taken.len();
            taken.extend(lane.take_out(is_meant));
            if taken.len() > before {
                relieved.push(site.clone());
            }
        }
        let count = taken.len() as u64;
        for entry in taken {
            let verdict = how.verdict(&entry, now);
            todo.finish(entry, verdict);
        }
        relieved.iter().for_each(|site| todo.wake |= self.unblock(site));
        count
    }

    /// Something is wanted of what is meant, and in flight.
    pub(crate) fn mark_wanted(&mut self, which: &Selection) {
        for ((message, _), held) in &mut self.held {
            held.wanted |= which.message.is_none_or(|meant| meant == *message);
        }
    }

    /// Whether something was wanted of an entry since it was claimed.
    pub(crate) fn is_wanted(&self, token: &Token) -> bool {
        self.held.get(&(token.message, token.entry)).is_some_and(|held| held.wanted)
    }
}

impl TakeBack {
    fn verdict(self, entry: &Entry, now: Now) -> Verdict {
        let claim = &entry.claim;
        match self {
            Self::Back => Verdict::Back { queue: None, due: claim.due },
            Self::Cancel => Verdict::Cancelled,
            Self::Until(due) => Verdict::Moved { queue: None, due },
            Self::Requeue => {
                Verdict::Moved { queue: Some(QueueName::from(&claim.destination)), due: now.wall }
            }
        }
    }
}
