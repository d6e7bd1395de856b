//! Setting aside is for what cannot be delivered because it cannot be read. Observers are told, and it waits
//! for somebody who can bring it back: trying it again would not help, and failing it would throw away what a
//! backup may still have. Where its recipients are known it waits until its deadline and no longer.

use crate::attempt::{Cause, Outcome};
use crate::message::Content;
use crate::spool::{Claim, Spool, SpoolError};

use super::event::Event;
use super::lane::Entry;
use super::settle::{Finished, Verdict};
use super::shared::Shared;

/// A try that ended because the content broke off: a reading that failed may work the next time, octets that
/// are not what was stored will not. They are read once more to know which.
pub(super) async fn look_again(shared: &Shared, finished: &mut Finished) {
    let Verdict::Tried { outcomes, .. } = &finished.verdict else { return };
    let broke_off = |outcome: &Outcome| matches!(outcome, Outcome::Deferred(Cause::Damaged));
    if !outcomes.is_empty()
        && outcomes.iter().all(broke_off)
        && is_damaged(&*shared.spool, &finished.entry).await
    {
        finished.verdict = Verdict::Damaged;
    }
}

async fn is_damaged(spool: &dyn Spool, entry: &Entry) -> bool {
    match spool.body(&entry.claim.body).await {
        Err(SpoolError::Corrupt) => true,
        Ok(Content::Stream { mut reader, .. }) => loop {
            match reader.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(error) => return error.kind() == std::io::ErrorKind::InvalidData,
            }
        },
        _ => false,
    }
}

/// Tells that an entry's content is not what was stored.
pub(super) fn tell_damaged(shared: &Shared, claim: &Claim) {
    let (message, entry) = (claim.token.message, claim.token.entry);
    tracing::error!(%message, entry, DAMAGED, "an entry is set aside");
    let event = Event::SetAside { message: Some(message), entry, queue: &claim.queue, reason: DAMAGED };
    shared.observers.tell(&event);
}

/// Why.
const DAMAGED: &str = "damaged: its body could not be read";

/// Tells what the spool has found by itself.
pub(super) fn tell(shared: &Shared) {
    for found in shared.spool.set_aside() {
        shared.observers.tell(&Event::SetAside {
            message: found.message,
            entry: found.entry,
            queue: &found.queue,
            reason: &found.reason,
        });
    }
}
