//! A bounded memory of answers, each for as long as it may be believed.
//!
//! It is the only one: validated and trusted answers, and what does not exist, are remembered in the
//! same way. When it is full, what would end first makes room.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Values by key, until they end.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    limit: usize,
    state: Mutex<State<K, V>>,
}

#[derive(Debug)]
struct State<K, V> {
    entries: HashMap<K, (End, V)>,
    /// The same keys, the first to end first.
    ends: BTreeMap<End, K>,
    /// Tells entries apart that end at the same time.
    count: u64,
}

type End = (Instant, u64);

impl<K: Clone + Eq + Hash, V: Clone> Cache<K, V> {
    /// With room for so many.
    pub(super) fn new(limit: u64) -> Self {
        let state = State { entries: HashMap::new(), ends: BTreeMap::new(), count: 0 };
        Self { limit: usize::try_from(limit).unwrap_or(usize::MAX), state: Mutex::new(state) }
    }

    /// What is remembered.
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<V> {
        let state = self.lock();
        let ((end, _), value) = state.entries.get(key)?;
        (now < *end).then(|| value.clone())
    }

    /// Remembers a value for so long; not at all for no time.
    pub(super) fn put(&self, key: K, value: V, now: Instant, ttl: Duration) {
        let mut state = self.lock();
        if let Some((end, _)) = state.entries.remove(&key) {
            state.ends.remove(&end);
        }
        let Some(end) = now.checked_add(ttl).filter(|end| *end > now && self.limit > 0) else { return };
        while state.entries.len() >= self.limit {
            let Some((_, first)) = state.ends.pop_first() else { break };
            state.entries.remove(&first);
        }
        state.count += 1;
        let end = (end, state.count);
        state.ends.insert(end, key.clone());
        state.entries.insert(key, (end, value));
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.entries.clear();
        state.ends.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_entry_lives_as_long_as_its_ttl() {
        let (cache, now) = (Cache::new(9), SystemClock.mono());
        cache.put("a", 1, now, SECOND);
        cache.put("b", 2, now, Duration::ZERO);
        cache.put("c", 3, now, Duration::MAX); // no such time
        let at = |key, late| cache.get(&key, now + late);
        assert_eq!((at("a", SECOND / 2), at("a", SECOND)), (Some(1), None));
        assert_eq!((at("b", Duration::ZERO), at("c", Duration::ZERO)), (None, None));
        cache.put("a", 4, now + SECOND, SECOND);
        assert_eq!(at("a", SECOND), Some(4));
        cache.put("a", 5, now + SECOND, Duration::ZERO);
        assert_eq!(at("a", SECOND), None);
        cache.put("a", 6, now, SECOND);
        cache.clear();
        assert_eq!(at("a", Duration::ZERO), None);
    }

    #[test]
    fn no_more_is_kept_than_the_limit_and_what_ends_first_goes_first() {
        let (cache, now) = (Cache::new(3), SystemClock.mono());
        for (key, ttl) in [(1, 30), (2, 10), (3, 20), (1, 40), (4, 50), (5, 60)] {
            cache.put(key, key, now, ttl * SECOND);
        }
        let kept: Vec<_> = (1..=5).filter_map(|key| cache.get(&key, now)).collect();
        assert_eq!(kept, [1, 4, 5]);
        let state = cache.lock();
        assert_eq!((state.entries.len(), state.ends.len()), (3, 3));
        let none = Cache::new(0);
        none.put(1, 1, now, SECOND);
        assert_eq!(none.get(&1, now), None);
    }
}
