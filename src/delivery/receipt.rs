//! A receipt stands for a message that is in the spool, and resolves when every recipient is settled.
//!
//! It is a convenience of this process: the spool keeps the message whether or not anybody watches,
//! and dropping a receipt changes nothing but the memory it took. The number of watched messages is
//! bounded; a receipt beyond that bound still works, by asking the spool now and then, but then only
//! knows *that* the message is settled.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::attempt::{Delivery, Outcome};
use crate::message::MessageId;
use crate::smtp::address::ForwardPath;
use crate::spool::{Selection, Spool, SpoolError};

/// A message that is in the spool.
#[must_use = "the message is in the spool; drop the receipt if its delivery need not be awaited"]
pub struct Receipt {
    id: MessageId,
    spool: Arc<dyn Spool>,
    watch: Option<Watch>,
    /// The recipients in the order in which they are listed.
    order: Vec<ForwardPath>,
}

impl Receipt {
    pub(crate) const fn new(
        id: MessageId,
        spool: Arc<dyn Spool>,
        watch: Option<Watch>,
        order: Vec<ForwardPath>,
    ) -> Self {
        Self { id, spool, watch, order }
    }

    /// The message's id.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.id
    }

    /// Whether outcomes are collected for this receipt. `false` when too many messages are watched
    /// already (`EngineOptions::receipts`): [`Receipt::finished`] then only tells when.
    #[must_use]
    pub const fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Resolves when every recipient is in a terminal state, with the outcome of each that was
    /// settled while the receipt existed: delivered or failed, where a recipient whose time ran out
    /// counts as failed with [`Cause::Expired`](crate::attempt::Cause::Expired). That can take as
    /// long as the message lives; it never resolves if the engine is shut down before, or if another
    /// process on the same spool settles the message.
    ///
    /// # Cancel safety
    /// Dropping the future drops the receipt. The message is not affected; `Engine::receipt` gives
    /// another one.
    pub async fn finished(self) -> Delivery {
        let mut recipients = match &self.watch {
            Some(watch) => watch.finished().await,
            None => {
                // An error is no answer: the message may be there, so ask again.
                while self
                    .spool
                    .scan(Selection::message(self.id), None, usize::MAX)
                    .await
                    .map_or(true, |entries| !entries.is_empty())
                {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Vec::new()
            }
        };
        let places: HashMap<_, _> = self.order.iter().zip(0_usize..).collect();
        recipients.sort_by_key(|(to, _)| places.get(to).copied());
        Delivery { recipients }
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
    /// The message is settled, or was never here.
    #[error("no such message is waiting")]
    NotWaiting,
    /// As many messages are watched as may be.
    #[error("too many messages are watched")]
    TooMany,
    /// The spool could not say.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// The messages that somebody watches.
#[derive(Debug)]
pub(crate) struct Watchers {
    // Looked up by key only.
    slots: Mutex<HashMap<MessageId, Arc<Slot>>>,
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

    /// An entry was settled: terminal outcomes, and whether it is gone.
    pub(crate) fn settled(
        &self,
        id: MessageId,
        entry: u32,
        outcomes: impl Iterator<Item = (ForwardPath, Outcome)>,
        gone: bool,
    ) {
        let Some(slot) = lock(&self.slots).get(&id).cloned() else { return };
        let mut state = lock(&slot.state);
        state.outcomes.extend(outcomes);
        if gone {
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

    async fn finished(&self) -> Vec<(ForwardPath, Outcome)> {
        loop {
            let notified = self.slot.done.notified();
            tokio::pin!(notified);
            // Before looking, so that what happens in between is not missed.
            notified.as_mut().enable();
            {
                let state = lock(&self.slot.state);
                if state.is_done() {
                    return state.outcomes.clone();
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

/// How often a receipt without a watch asks the spool.
const ASK_AGAIN: Duration = Duration::from_secs(1);

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
        watchers.settled(id(1), 0, [delivered("a@a.test")].into_iter(), true);
        watchers.settled(id(1), 1, [delivered("b@b.test")].into_iter(), false);
        assert!(!lock(&watch.slot.state).is_done());
        watchers.settled(id(1), 1, [delivered("c@b.test")].into_iter(), true);
        assert_eq!(watch.finished().await.len(), 3);
    }

    #[tokio::test]
    async fn what_is_settled_while_attaching_is_not_waited_for() {
        let watchers = Watchers::new(10);
        let watch = watchers.attach(id(1)).unwrap();
        watchers.settled(id(1), 0, [delivered("a@a.test")].into_iter(), true);
        // The spool was asked before that was settled.
        watch.opened([0].into_iter());
        assert_eq!(watch.finished().await.len(), 1);
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
