//! Gathering: what a sender is to be told of a message with several entries waits in one entry more, which
//! goes to no host but becomes a report.
//!
//! It is due when the rest of the message is settled, or has taken as long as
//! [`EngineOptions::report_wait`](super::EngineOptions::report_wait); it does not expire, and is not tried.

use crate::clock::Timestamp;
use crate::spool::{Claim, REPORT_ENTRY, RecipientState, Then};

use super::lane::Entry;
use super::settle::{Decision, Verdict};

/// Whether this is the entry that gathers what the sender is to be told.
pub(crate) const fn is_report(claim: &Claim) -> bool {
    claim.token.entry == REPORT_ENTRY
}

impl Decision {
    /// Whether what is told now waits for what is still to be told of the same message.
    pub(crate) fn is_gathered(&self, now: Timestamp) -> bool {
        // The rest of this entry goes on at once: what becomes of it belongs to the same round.
        !self.entry.claim.alone || matches!(self.then, Then::Retry(due) if due <= now)
    }

    /// Whether it is about the entry that gathers what the sender is to be told.
    pub(crate) const fn is_of_report(&self) -> bool {
        is_report(&self.entry.claim)
    }
}

/// An entry that gathers what the sender is to be told is reported, or stays as it is: it does not expire.
pub(crate) fn decide_report(entry: Entry, verdict: Verdict) -> Decision {
    let mut recipients = entry.claim.recipients.clone();
    let then = match verdict {
        Verdict::Back { due, .. } => Then::Retry(due),
        _ => {
            // They wait on in an entry of their own, if they do.
            let waiting = recipients.iter_mut().filter(|r| !r.state.is_terminal());
            waiting.for_each(|recipient| recipient.state = RecipientState::Delivered);
            Then::Remove
        }
    };
    let (news, queue) = (Vec::new(), None);
    Decision {
        entry,
        recipients,
        news,
        attempted: false,
        counts: false,
        late: None,
        queue,
        then,
        aside: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Rng, SystemClock};
    use crate::delivery::EngineOptions;
    use crate::delivery::core::Core;
    use crate::delivery::lane::tests::{T0, claim};
    use crate::delivery::retry::Retry;
    use crate::delivery::settle::{Finished, decide};
    use crate::delivery::todo::Todo;
    use crate::spool::Token;

    fn gathered() -> Claim {
        let mut claim = claim(1, "<a@a.test>", &["x@b.test", "y@c.test"]);
        claim.token.entry = REPORT_ENTRY;
        claim.recipients[0].state = RecipientState::Failed;
        claim
    }

    #[test]
    fn a_later_claim_of_what_is_to_be_told_replaces_the_earlier_one() {
        let now = SystemClock.now();
        let mut core = Core::new(EngineOptions::new(), Retry::new(), false, Rng::seeded(1), now);
        let (mut todo, mut claim) = (Todo::default(), gathered());
        let first = claim.token;
        core.admit(Entry::unbound(claim.clone()), now, now, &mut todo);
        claim.token.number += 1;
        let second = claim.token;
        core.admit(Entry::unbound(claim), now, now, &mut todo);
        assert_eq!((todo.finished.len(), core.held()), (2, 1), "both are written, and one is held");
        core.release(&first);
        assert_eq!(core.number(&second), Some(second.number), "what was fenced off takes nothing along");
        core.release(&second);
        assert_eq!(core.held(), 0);
    }

    #[test]
    fn what_is_to_be_told_neither_expires_nor_is_late() {
        let over = T0.after(std::time::Duration::from_secs(9 * 86_400));
        let decide = |verdict| {
            let finished = Finished { entry: Entry::unbound(gathered()), verdict };
            let delay = Some(std::time::Duration::from_secs(1));
            decide(finished, over, &Retry::new(), delay, &Rng::seeded(1))
        };
        let back = decide(Verdict::Back { queue: None, due: over });
        assert_eq!((&back.then, back.notices().len()), (&Then::Retry(over), 0));
        assert_eq!(back.recipients, back.entry.claim.recipients);
        let reported = decide(Verdict::Reported);
        assert_eq!((&reported.then, reported.news.len(), reported.notices().len()), (&Then::Remove, 0, 0));
        assert!(reported.recipients.iter().all(|recipient| recipient.state.is_terminal()));
        let Token { entry, .. } = reported.entry.claim.token;
        assert!(reported.is_of_report() && entry == REPORT_ENTRY);
    }
}
