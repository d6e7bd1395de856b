//! Looking at what waits, and changing it from outside: by message, destination, queue, tenant or tag.

use crate::clock::Timestamp;
use crate::message::{Handling, MessageId, Tag, Tenant};
use crate::smtp::address::Domain;
use crate::smtp::params::Mail;

use super::claim::{Claim, Recipient};
use super::queue::{Class, QueueName};
use super::set_back::SetBack;

/// One entry, for people.
#[derive(Debug, Clone)]
pub struct EntrySummary {
    /// The message.
    pub message: MessageId,
    /// Which of its entries.
    pub entry: u32,
    /// The sender.
    pub mail: Mail,
    /// How the message is to be handled besides.
    pub handling: Handling,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
    /// The domain of its recipients.
    pub destination: Domain,
    /// Where it waits.
    pub queue: QueueName,
    /// When it is due.
    pub due: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// It was cancelled and is about to be settled.
    pub cancelled: bool,
    /// Why it is set aside, if it is.
    pub parked: Option<Box<str>>,
    /// Its recipients.
    pub recipients: Vec<Recipient>,
}

/// Which entries are meant: those for which everything holds that is given; all, where nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// Of this message.
    pub message: Option<MessageId>,
    /// For this domain.
    pub destination: Option<Domain>,
    /// Waiting in this queue.
    pub queue: Option<QueueName>,
    /// On behalf of this tenant.
    pub tenant: Option<Tenant>,
    /// Of a message with this tag.
    pub tag: Option<Tag>,
    /// Set aside, or not.
    pub parked: Option<bool>,
}

impl Selection {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// The entries of one message.
    #[must_use]
    pub fn message(message: MessageId) -> Self {
        Self { message: Some(message), ..Self::default() }
    }

    /// What is for one domain.
    #[must_use]
    pub fn destination(destination: Domain) -> Self {
        Self { destination: Some(destination), ..Self::default() }
    }

    /// What waits in one queue.
    #[must_use]
    pub fn queue(queue: QueueName) -> Self {
        Self { queue: Some(queue), ..Self::default() }
    }

    /// What is sent on behalf of a tenant.
    #[must_use]
    pub fn tenant(tenant: Tenant) -> Self {
        Self { tenant: Some(tenant), ..Self::default() }
    }

    /// What has a tag.
    #[must_use]
    pub fn tag(tag: Tag) -> Self {
        Self { tag: Some(tag), ..Self::default() }
    }

    /// What is set aside.
    #[must_use]
    pub fn parked() -> Self {
        Self { parked: Some(true), ..Self::default() }
    }

    /// Whether an entry is meant.
    #[must_use]
    pub fn has(&self, entry: &EntrySummary) -> bool {
        let is = (entry.message, &entry.destination, &entry.queue, &entry.handling);
        self.fits(is, entry.parked.is_some())
    }

    /// Whether a claimed entry is meant.
    #[must_use]
    pub fn has_claim(&self, claim: &Claim) -> bool {
        self.fits((claim.token.message, &claim.destination, &claim.queue, &claim.handling), false)
    }

    pub(crate) fn fits(&self, is: (MessageId, &Domain, &QueueName, &Handling), parked: bool) -> bool {
        let (message, destination, queue, handling) = is;
        self.message.is_none_or(|m| m == message)
            && self.destination.as_ref().is_none_or(|d| d == destination)
            && self.queue.as_ref().is_none_or(|q| q == queue)
            && self.tenant.as_ref().is_none_or(|t| handling.tenant.as_ref() == Some(t))
            && self.tag.as_ref().is_none_or(|t| handling.tags.contains(t))
            && self.parked.is_none_or(|p| p == parked)
    }
}

/// A change of entries from outside.
#[derive(Debug, Clone)]
pub struct Alter {
    /// Of which.
    pub which: Selection,
    /// What changes.
    pub change: Change,
    /// The time now.
    pub now: Timestamp,
    /// From behind this entry on.
    pub after: Option<(MessageId, u32)>,
    /// How many are looked at at most, whether they are meant or not: a page is one short transaction,
    /// however much waits. What a page looks for through an index may be more.
    pub limit: usize,
}

/// What can be done to an entry from outside.
///
/// One that is claimed, by a lease that has not ended at [`Alter::now`], is in somebody's hands: what of the
/// change can wait is noted with it and done when it is settled and stays ([`Then::Retry`](super::Then::Retry)).
/// A note outlives the claim: what is claimed next, because the lease ended or the process died, is parked
/// instead, or comes as cancelled. Where a lease has ended, a change takes the entry as another claim would: the old
/// token is fenced off.
///
/// No due time is set past the deadline of the message. What is made due at once and is past its deadline is
/// due since the beginning of time ([`Timestamp::default`]), by which an engine sees that it was not tried
/// since it was looked at, and owes it a try. What was cancelled is never changed again, and the
/// [`REPORT_ENTRY`](super::REPORT_ENTRY) of a message is not changed at all: what became of recipients is told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It is parked, with this reason, of which 1,024 octets are kept. A claimed one when it is settled for a
    /// retry. One that is parked already keeps its reason. A parked entry waits for as long as nobody
    /// releases or cancels it, also past its deadline.
    Hold(Box<str>),
    /// It is parked no longer. It keeps its due time; what passed meanwhile is due at once. Takes a hold
    /// back that waits for a settlement.
    Release,
    /// It is given up: it falls due at once, parked or not, before all that was due in its queue, and its
    /// next claim has [`Claim::cancelled`](super::Claim::cancelled). A claimed one when it is settled and
    /// stays. It is cancelled until it is settled for good, also when it is put off. What cannot be read back
    /// ([`Spool::set_aside`](super::Spool::set_aside)) nobody can settle: the disk spool removes it at once.
    Cancel,
    /// It falls due then; what is parked stays so. A claimed one is left as it is.
    Due(Timestamp),
    /// It falls due now, in its destination's own queue, so that it is routed anew; parked no longer. A
    /// claimed one is left as it is.
    Requeue,
    /// The wall clock was set back. What the old clock put off falls due so much sooner: entries that were
    /// tried, those accepted in what is the future now, and the reports of messages
    /// ([`REPORT_ENTRY`](super::REPORT_ENTRY), which no other change touches). What waits for a time that
    /// somebody gave keeps it: never before the release of its message ([`Mail::hold`]), and one that was never
    /// tried and was accepted before now is left. A claimed one is left too, but for the end of its lease.
    ///
    /// For engines, which notice by their monotonic clock; no order of a person's. A spool whose leases do not
    /// go by its callers' clocks leaves those alone.
    SetBack(SetBack),
}

/// What [`Spool::alter`](super::Spool::alter) did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Altered {
    /// Entries that were changed.
    pub changed: u64,
    /// Entries that are claimed: the change is noted, or they were left as they are.
    pub claimed: u64,
    /// Where to go on; `None`: that was all.
    pub next: Option<(MessageId, u32)>,
    /// Where the changed entries wait that are not parked, each once, so that they are claimed in time.
    pub queues: Vec<(QueueName, Class)>,
}
