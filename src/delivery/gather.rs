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
    Decision { entry, recipients, news, attempted: false, counts: false, late: None, queue, then }
}
