//! Counting is knowing how much there is without asking: what was counted last, and what this process has
//! done since. What other nodes do shows with the next count.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::Stats;

/// What a call changes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delta {
    pub(super) messages: i64,
    pub(super) entries: i64,
    pub(super) parked: i64,
    pub(super) octets: i64,
}

impl std::ops::AddAssign for Delta {
    fn add_assign(&mut self, more: Self) {
        self.messages += more.messages;
        self.entries += more.entries;
        self.parked += more.parked;
        self.octets += more.octets;
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    stats: Stats,
    /// Calls that change something and are under way, and those that have ended.
    busy: u64,
    ended: u64,
}

/// A call that changes something is under way.
#[derive(Debug)]
pub(super) struct Busy<'a>(&'a Counts);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.busy = state.busy.saturating_sub(1);
        state.ended += 1;
    }
}

impl Busy<'_> {
    /// What it has changed.
    pub(super) fn add(&self, delta: Delta) {
        let stats = &mut self.0.lock().stats;
        for (value, change) in [
            (&mut stats.messages, delta.messages),
            (&mut stats.entries, delta.entries),
            (&mut stats.parked, delta.parked),
            (&mut stats.octets, delta.octets),
        ] {
            *value = value.saturating_add_signed(change);
        }
    }
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> Stats {
        self.lock().stats
    }

    pub(super) fn begin(&self) -> Busy<'_> {
        self.lock().busy += 1;
        Busy(self)
    }

    /// A mark to hand to [`Counts::set`] with what is counted from now on; `None` while something is under
    /// way, of which a count might see a part.
    pub(super) fn mark(&self) -> Option<u64> {
        let state = self.lock();
        (state.busy == 0).then_some(state.ended)
    }

    /// Takes over what was counted, unless this process did something meanwhile. `mark`: `None` takes it in any
    /// case, for a process that is never idle.
    pub(super) fn set(&self, stats: Stats, mark: Option<u64>) -> bool {
        let mut state = self.lock();
        if mark.is_some_and(|mark| state.busy > 0 || state.ended != mark) {
            return false;
        }
        state.stats = stats;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_something_happened_during_is_not_taken() {
        let counts = Counts::default();
        let counted = Stats { messages: 7, ..Stats::default() };
        let mark = counts.mark();
        counts.begin().add(Delta { messages: 1, ..Delta::default() });
        assert!(!counts.set(counted, mark));
        assert_eq!(counts.stats().messages, 1);
        let busy = counts.begin();
        assert_eq!(counts.mark(), None);
        drop(busy);
        assert!(counts.set(counted, counts.mark()));
        assert_eq!(counts.stats(), counted);
        counts.begin().add(Delta { messages: -9, ..Delta::default() });
        assert_eq!(counts.stats().messages, 0, "never less than nothing");
    }
}
