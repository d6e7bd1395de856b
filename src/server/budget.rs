//! A budget is how much content all sessions together may hold for their handlers.
//!
//! Each [body stream](super::body) has a window of its own, which is enough for one session and too much
//! for thousands: when handlers are slow, as over a slow disk, the windows fill all at once. While the
//! budget is spent no stream is given more, and no new transaction begins.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
pub(super) struct Budget {
    limit: AtomicUsize,
    held: AtomicUsize,
    next: AtomicU64,
    /// The streams that wait for room: one place for each that is open, at most.
    waiting: Mutex<BTreeMap<u64, Waker>>,
}

/// One stream's part.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    number: u64,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            held: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            waiting: Mutex::default(),
        })
    }

    /// Whether it is spent.
    pub(super) fn is_spent(&self) -> bool {
        self.held() >= self.limit.load(SeqCst)
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(SeqCst)
    }

    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), number: self.next.fetch_add(1, SeqCst) }
    }

    /// Changes what may be held; whoever waits looks again.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, SeqCst);
        self.wake();
    }

    fn wake(&self) {
        // All of them: who finds nothing to read takes nothing, and would keep its turn.
        for waker in std::mem::take(&mut *self.waiting()).into_values() {
            waker.wake();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    pub(super) fn take(&self, octets: usize) {
        self.budget.held.fetch_add(octets, SeqCst);
    }

    pub(super) fn give_back(&self, octets: usize) {
        let before = self.budget.held.fetch_sub(octets, SeqCst);
        if before >= self.budget.limit.load(SeqCst) && !self.budget.is_spent() {
            self.budget.wake();
        }
    }

    /// Ready while the budget is not spent.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.budget.is_spent() {
            return Poll::Ready(());
        }
        self.budget.waiting().insert(self.number, cx.waker().clone());
        // It may have been given back in the meantime, and nobody was woken.
        if self.budget.is_spent() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Waits no more.
    pub(super) fn leave(&self) {
        self.budget.waiting().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    #[test]
    fn who_waits_for_room_is_woken_when_there_is_some() {
        let budget = Budget::new(100);
        let (one, two) = (budget.share(), budget.share());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        one.take(60);
        assert!(two.poll_room(&cx).is_ready());
        two.take(60);
        assert!(budget.is_spent() && two.poll_room(&cx).is_pending() && two.poll_room(&cx).is_pending());
        assert_eq!(budget.waiting().len(), 1);
        one.give_back(10);
        assert!(!woken.0.load(SeqCst), "still spent");
        one.give_back(30);
        assert!(woken.0.load(SeqCst) && two.poll_room(&cx).is_ready());
        assert_eq!(budget.waiting().len(), 0);
    }

    #[test]
    fn a_stream_that_ends_waits_no_more() {
        let budget = Budget::new(0);
        let share = budget.share();
        assert!(share.poll_room(&Context::from_waker(Waker::noop())).is_pending());
        share.leave();
        assert_eq!(budget.waiting().len(), 0);
    }
}
