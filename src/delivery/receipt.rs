//! A receipt stands for a message that was taken, and resolves when every recipient is settled.
//!
//! It is a convenience of this process: the spool keeps the message whether or not anybody watches,
//! and dropping a receipt changes nothing but the memory it took. The number of watched messages is
//! bounded; a receipt beyond that bound still works, by asking the spool now and then, as does one for a
//! message that another process may settle. It then tells what the spool remembers.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::attempt::{Delivery, Outcome};
use crate::message::MessageId;
use crate::smtp::address::ForwardPath;
use crate::spool::{REPORT_ENTRY, SpoolError};
use crate::table::Table;

use super::recall::{Recall, Told, told};

/// A message that was taken.
#[must_use = "the message is in the spool; drop the receipt if its delivery need not be awaited"]
pub struct Receipt {
    id: MessageId,
    recall: Arc<Recall>,
    watch: Option<Watch>,
    /// The recipients in the order in which they are listed.
    order: Vec<ForwardPath>,
    /// Those that were settled before there was this receipt.
    before: Vec<Told>,
    /// All of them were.
    settled: bool,
    known: bool,
}

impl Receipt {
    pub(crate) const fn new(
        id: MessageId,
        recall: Arc<Recall>,
        watch: Option<Watch>,
        order: Vec<ForwardPath>,
    ) -> Self {
        Self { id, recall, watch, order, before: Vec::new(), settled: false, known: false }
    }

    /// One for a message that is settled, and of which nothing more is known.
    pub(crate) fn forgotten(id: MessageId, recall: Arc<Recall>) -> Self {
        Self { settled: true, ..Self::new(id, recall, None, Vec::new()) }
    }

    /// One for a message of which the spool knows; `None` when it knows nothing.
    pub(crate) async fn find(
        id: MessageId,
        recall: &Arc<Recall>,
        watchers: &Arc<Watchers>,
    ) -> Result<Option<Self>, SpoolError> {
        // Watched first, so that nothing is settled unseen after the spool was asked; and the entries before
        // the results, so that what goes in between is in these.
        let watch = watchers.attach(id);
        let mut entries = recall.entries(id).await?;
        entries.retain(|entry| entry.entry != REPORT_ENTRY);
        let (recipients, settled) = match recall.results(id).await? {
            Some(results) => (results.recipients, results.finished || entries.is_empty()),
            None if entries.is_empty() => return Ok(None),
            None => (entries.iter().flat_map(|entry| entry.recipients.clone()).collect(), false),
        };
        let watch = watch.filter(|_| !settled);
        if let Some(watch) = &watch {
            watch.opened(entries.iter().map(|entry| entry.entry));
        }
        let before = told(&recipients);
        let order = recipients.into_iter().map(|recipient| recipient.rcpt.to).collect();
        Ok(Some(Self { before, settled, ..Self::new(id, Arc::clone(recall), watch, order) }))
    }

    /// The same with its recipients in this order.
    pub(crate) fn in_order(self, order: Vec<ForwardPath>) -> Self {
        Self { order, ..self }
    }

    /// The same for a message that was submitted again, with its recipients in this order.
    pub(crate) fn known(self, order: Vec<ForwardPath>) -> Self {
        Self { known: true, ..self.in_order(order) }
    }

    /// The message's id; of one that was submitted again under its key, the first one's.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.id
    }

    /// Whether the message had been submitted before under its key, so that this time nothing was stored.
    #[must_use]
    pub const fn was_known(&self) -> bool {
        self.known
    }

    /// Whether this process collects the outcomes for this receipt. `false` when the message is settled
    /// already, or when too many messages are watched (`EngineOptions::receipts`): [`Receipt::finished`] then
    /// asks the spool.
    #[must_use]
    pub const fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Resolves when every recipient is in a terminal state, with the outcome of each: delivered or failed,
    /// where a recipient whose time ran out counts as failed with
    /// [`Cause::Expired`](crate::attempt::Cause::Expired). That can take as long as the message lives; it
    /// never resolves if the engine is shut down before, unless another process on the same spool settles the
    /// message.
    ///
    /// Outcomes that this process did not see itself are recalled from the spool with what was noted there
    /// ([`Accepted::noted`](crate::attempt::Accepted::noted), [`Cause::Noted`](crate::attempt::Cause::Noted));
    /// of mail that keeps no results ([`SubmitOptions::keep`](super::SubmitOptions::keep)) those recipients are
    /// missing that were settled elsewhere, or without a watch.
    ///
    /// # Cancel safety
    /// Dropping the future drops the receipt. The message is not affected; `Engine::receipt` gives
    /// another one.
    pub async fn finished(self) -> Delivery {
        let mut recalled = self.before;
        if !self.settled {
            let asks = self.watch.is_none() || self.recall.is_shared();
            tokio::select! {
                biased;
                () = done(self.watch.as_ref()) => {}
                told = self.recall.settled(self.id), if asks => recalled.extend(told),
            }
        }
        let mut recipients = self.watch.as_ref().map(Watch::outcomes).unwrap_or_default();
        let mut seen: HashSet<_> = recipients.iter().map(|(to, _)| to.clone()).collect();
        // What was seen says more than what was noted.
        recipients.extend(recalled.into_iter().filter(|(to, _)| seen.insert(to.clone())));
        let places: HashMap<_, _> = self.order.iter().zip(0_usize..).collect();
        recipients.sort_by_key(|(to, _)| places.get(to).copied());
        Delivery { recipients }
    }
}

async fn done(watch: Option<&Watch>) {
    match watch {
        Some(watch) => watch.done().await,
        None => std::future::pending().await,
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receipt").field(&self.id).finish()
    }
}

/// Why there is no receipt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// The message is settled and keeps no results, or no longer, or was never here.
    #[error("no such message is waiting")]
    NotWaiting,
    /// The spool could not say.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// The messages that somebody watches.
#[derive(Debug)]
pub(crate) struct Watchers {
    // Looked up by key only.
    slots: Mutex<Table<MessageId, Arc<Slot>>>,
    limit: AtomicUsize,
}

/// One watched message, until dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    id: MessageId,
    slot: Arc<Slot>,
    watchers: Arc<Watchers>,
}

#[derive(Debug)]
struct Slot {
    state: Mutex<SlotState>,
    done: Notify,
}

#[derive(Debug)]
struct SlotState {
    /// How many receipts share the slot.
    receipts: usize,
    open: BTreeSet<u32>,
    /// Entries that were closed while it was not known yet which are open.
    closed: Option<BTreeSet<u32>>,
    outcomes: Vec<(ForwardPath, Outcome)>,
}

impl SlotState {
    fn is_done(&self) -> bool {
        self.open.is_empty() && self.closed.is_none()
    }
}

impl Watchers {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { slots: Mutex::default(), limit: limit.into() })
    }

    /// Watches a message whose entries are numbered from 0 to `entries`. `None`: too many.
    pub(crate) fn watch(self: &Arc<Self>, id: MessageId, entries: u32) -> Option<Watch> {
        self.add(id, (0..entries).collect(), None)
    }

    /// Watches a message whose open entries are still to be found out.
    pub(crate) fn attach(self: &Arc<Self>, id: MessageId) -> Option<Watch> {
        self.add(id, BTreeSet::new(), Some(BTreeSet::new()))
    }

    fn add(
        self: &Arc<Self>,
        id: MessageId,
        open: BTreeSet<u32>,
        closed: Option<BTreeSet<u32>>,
    ) -> Option<Watch> {
        let mut slots = lock(&self.slots);
        let slot = if let Some(slot) = slots.get(&id) {
            lock(&slot.state).receipts += 1;
            Arc::clone(slot)
        } else {
            if slots.len() >= self.limit.load(Ordering::Relaxed) {
                return None;
            }
            let state = SlotState { receipts: 1, open, closed, outcomes: Vec::new() };
            let slot = Arc::new(Slot { state: Mutex::new(state), done: Notify::new() });
            slots.insert(id, Arc::clone(&slot));
            slot
        };
        drop(slots);
        Some(Watch { id, slot, watchers: Arc::clone(self) })
    }

    /// Watches so many from now on; those that are watched stay.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.slots).len()
    }

    /// Whether anybody watches this message.
    pub(crate) fn is_watched(&self, id: MessageId) -> bool {
        lock(&self.slots).contains_key(&id)
    }

    /// An entry was settled: terminal outcomes; and, when it is gone, those that others have seen.
    pub(crate) fn settled(
        &self,
        id: MessageId,
        entry: u32,
        outcomes: impl Iterator<Item = Told>,
        gone: Option<Vec<Told>>,
    ) {
        let Some(slot) = lock(&self.slots).get(&id).cloned() else { return };
        let mut state = lock(&slot.state);
        state.outcomes.extend(outcomes);
        if let Some(others) = gone {
            for (to, outcome) in others {
                if !state.outcomes.iter().any(|(seen, _)| *seen == to) {
                    state.outcomes.push((to, outcome));
                }
            }
            state.open.remove(&entry);
            if let Some(closed) = &mut state.closed {
                closed.insert(entry);
            }
        }
        if state.is_done() {
            slot.done.notify_waiters();
        }
    }
}

impl Watch {
    /// Which entries are open, for a watch that did not know.
    pub(crate) fn opened(&self, entries: impl Iterator<Item = u32>) {
        let mut state = lock(&self.slot.state);
        if let Some(closed) = state.closed.take() {
            state.open.extend(entries.filter(|entry| !closed.contains(entry)));
        }
        if state.is_done() {
            self.slot.done.notify_waiters();
        }
    }

    fn outcomes(&self) -> Vec<Told> {
        lock(&self.slot.state).outcomes.clone()
    }

    async fn done(&self) {
        loop {
            let notified = self.slot.done.notified();
            tokio::pin!(notified);
            // Before looking, so that what happens in between is not missed.
            notified.as_mut().enable();
            {
                let state = lock(&self.slot.state);
                if state.is_done() {
                    return;
                }
            }
            notified.await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut slots = lock(&self.watchers.slots);
        let mut state = lock(&self.slot.state);
        state.receipts -= 1;
        if state.receipts == 0 {
            slots.remove(&self.id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is in there is changed in single steps: a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::Accepted;
    use crate::clock::{Rng, Timestamp};

    fn id(n: u64) -> MessageId {
        MessageId::new(Timestamp::from_millis(n), &Rng::seeded(n))
    }

    fn delivered(to: &str) -> (ForwardPath, Outcome) {
        (ForwardPath::parse(to).unwrap(), Outcome::Delivered(Accepted::locally()))
    }

    #[tokio::test]
    async fn a_watch_resolves_when_the_last_entry_is_gone() {
        let watchers = Watchers::new(10);
        let watch = watchers.watch(id(1), 2).unwrap();
        watchers.settled(id(1), 0, [delivered("a@a.test")].into_iter(), Some(Vec::new()));
        watchers.settled(id(1), 1, [delivered("b@b.test")].into_iter(), None);
        assert!(!lock(&watch.slot.state).is_done());
        // Of the last entry, another process has settled one, and one was seen here before.
        let others = vec![delivered("b@b.test"), delivered("d@b.test")];
        watchers.settled(id(1), 1, [delivered("c@b.test")].into_iter(), Some(others));
        watch.done().await;
        assert_eq!(watch.outcomes().len(), 4);
    }

    #[tokio::test]
    async fn what_is_settled_while_attaching_is_not_waited_for() {
        let watchers = Watchers::new(10);
        let watch = watchers.attach(id(1)).unwrap();
        watchers.settled(id(1), 0, [delivered("a@a.test")].into_iter(), Some(Vec::new()));
        // The spool was asked before that was settled.
        watch.opened([0].into_iter());
        watch.done().await;
        assert_eq!(watch.outcomes().len(), 1);
    }

    #[test]
    fn watches_are_bounded_and_dropping_one_makes_room() {
        let watchers = Watchers::new(2);
        let first = watchers.watch(id(1), 1).unwrap();
        let again = watchers.attach(id(1)).unwrap();
        let _second = watchers.watch(id(2), 1).unwrap();
        assert!(watchers.watch(id(3), 1).is_none());
        drop(first);
        assert!(watchers.watch(id(3), 1).is_none(), "shared with another receipt");
        drop(again);
        assert!(watchers.watch(id(3), 1).is_some());
    }
}
