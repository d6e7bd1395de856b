//! The book of a pool: who holds how many connections, which lie idle, and who waits for one.
//!
//! It exists apart from the pool so that every rule about limits, fairness and age is a plain function
//! of what happened and when. It knows no task, no lock and no clock: the time is an argument, waiters
//! are values of any type that come back in a [`Grant`].
//!
//! Two things hold whenever a call returns. Nobody waits who could be served: a waiter's key is full, or
//! the whole pool is full and nothing in it lies idle. And waiters are served in the order in which they
//! came, except that a key which is full does not hold up the others.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hash;
use std::time::Instant;

use super::Limits;
use crate::table::Table;

/// The bookkeeping of connections `C` to keys `K`, waited for by `W`.
#[derive(Debug)]
pub(super) struct Book<K, C, W> {
    limits: Limits,
    keys: Table<K, Shelf<C, W>>,
    /// Connections and permits in existence, idle ones included.
    open: usize,
    /// All idle connections by the number they were put down under: the first lies longest.
    idle: BTreeMap<u64, K>,
    /// Keys that have waiters and are not full, by their first waiter's number: the first came first.
    eligible: BTreeMap<u64, K>,
    waiting: usize,
    counter: u64,
}

/// What belongs to one key.
#[derive(Debug)]
struct Shelf<C, W> {
    open: usize,
    /// Most recently used at the back.
    idle: VecDeque<Idle<C>>,
    waiters: VecDeque<(u64, W)>,
}

#[derive(Debug)]
struct Idle<C> {
    number: u64,
    since: Instant,
    kept: Kept<C>,
}

/// A connection with its history.
#[derive(Debug)]
pub(super) struct Kept<C> {
    pub(super) connection: C,
    pub(super) opened: Instant,
    pub(super) uses: u32,
}

/// What a waiter, or the one who asks, gets.
#[derive(Debug)]
pub(super) enum Grant<C> {
    /// An idle connection.
    Idle(Kept<C>),
    /// Leave to open one.
    Open,
}

/// What a call decided: grants for waiters to hand on and connections to close, both outside any lock.
#[derive(Debug)]
pub(super) struct Decided<K, C, W> {
    pub(super) grants: Vec<(K, W, Grant<C>)>,
    pub(super) close: Vec<C>,
}

impl<K, C, W> Default for Decided<K, C, W> {
    fn default() -> Self {
        Self { grants: Vec::new(), close: Vec::new() }
    }
}

impl<K: Hash + Eq + Clone, C, W> Book<K, C, W> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            keys: Table::default(),
            open: 0,
            idle: BTreeMap::new(),
            eligible: BTreeMap::new(),
            waiting: 0,
            counter: 0,
        }
    }

    pub(super) const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Goes on under other limits. Idle connections beyond them are closed at once, those at work when they
    /// are put back.
    pub(super) fn set_limits(&mut self, limits: Limits, now: Instant) -> Decided<K, C, W> {
        self.limits = limits;
        let mut done = Decided::default();
        let crowded = self.keys.iter().filter(|(_, shelf)| shelf.open > self.limits.per_key);
        for key in crowded.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            while self.open_for(&key) > self.limits.per_key && self.close_idle_of(&key, &mut done) {}
        }
        while self.open > self.limits.total && self.close_longest_idle(&mut done) {}
        for key in self.keys.keys().cloned().collect::<Vec<_>>() {
            self.mark_eligible(&key);
        }
        let served = self.serve(now);
        done.close.extend(served.close);
        done.grants = served.grants;
        done
    }

    pub(super) const fn open(&self) -> usize {
        self.open
    }

    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many connections and permits `key` has.
    pub(super) fn open_for(&self, key: &K) -> usize {
        self.keys.get(key).map_or(0, |shelf| shelf.open)
    }

    /// A connection or leave to open one, if that is possible now and nobody has waited longer.
    pub(super) fn take(&mut self, key: &K, now: Instant, done: &mut Decided<K, C, W>) -> Option<Grant<C>> {
        self.expire(now, done);
        if self.keys.get(key).is_some_and(|shelf| !shelf.waiters.is_empty()) {
            return None;
        }
        self.grant(key, done)
    }

    /// An idle connection of `key` that `fits`, the most recently used first.
    pub(super) fn take_fitting(
        &mut self,
        key: &K,
        now: Instant,
        mut fits: impl FnMut(&mut C) -> bool,
        done: &mut Decided<K, C, W>,
    ) -> Option<Kept<C>> {
        self.expire(now, done);
        let shelf = self.keys.get_mut(key)?;
        let at = shelf.idle.iter_mut().rposition(|idle| fits(&mut idle.kept.connection))?;
        let idle = shelf.idle.remove(at)?;
        self.idle.remove(&idle.number);
        Some(idle.kept)
    }

    /// Leave to open one more, whatever lies idle under `key`.
    pub(super) fn take_open(&mut self, key: &K, done: &mut Decided<K, C, W>) -> bool {
        if self.keys.get(key).is_some_and(|shelf| !shelf.waiters.is_empty()) || !self.make_room(key, done) {
            return false;
        }
        self.count_open(key);
        true
    }

    /// Queues a waiter and returns its number, or gives it back when too many wait.
    pub(super) fn enqueue(&mut self, key: &K, waiter: W) -> Result<u64, W> {
        if self.waiting >= self.limits.waiters {
            return Err(waiter);
        }
        let number = self.next_number();
        let shelf = self.shelf(key);
        shelf.waiters.push_back((number, waiter));
        self.waiting += 1;
        self.mark_eligible(key);
        Ok(number)
    }

    /// Takes a waiter out of the queue; `false` when it has been granted something before.
    pub(super) fn forget(&mut self, key: &K, number: u64) -> bool {
        let Some(shelf) = self.keys.get_mut(key) else { return false };
        let Ok(at) = shelf.waiters.binary_search_by_key(&number, |(waiting, _)| *waiting) else {
            return false;
        };
        shelf.waiters.remove(at);
        self.waiting -= 1;
        self.eligible.remove(&number);
        self.mark_eligible(key);
        self.tidy(key);
        true
    }

    /// Takes back a connection that can be used again; one that is worn out is closed.
    pub(super) fn put_back(&mut self, key: &K, kept: Kept<C>, now: Instant) -> Decided<K, C, W> {
        let beyond = self.open > self.limits.total || self.open_for(key) > self.limits.per_key;
        if beyond || self.limits.is_spent(kept.uses, kept.opened, now) {
            let mut done = self.free(key, now);
            done.close.push(kept.connection);
            return done;
        }
        let number = self.next_number();
        self.shelf(key).idle.push_back(Idle { number, since: now, kept });
        self.idle.insert(number, key.clone());
        self.mark_eligible(key);
        self.serve(now)
    }

    /// A permit was given up, or a connection has ended.
    pub(super) fn free(&mut self, key: &K, now: Instant) -> Decided<K, C, W> {
        self.open = self.open.saturating_sub(1);
        if let Some(shelf) = self.keys.get_mut(key) {
            shelf.open = shelf.open.saturating_sub(1);
        }
        self.mark_eligible(key);
        let done = self.serve(now);
        self.tidy(key);
        done
    }

    /// Closes what has been idle for too long. That serves nobody: where something lies idle, nobody
    /// waits for room.
    pub(super) fn reap(&mut self, now: Instant) -> Decided<K, C, W> {
        let mut done = Decided::default();
        self.expire(now, &mut done);
        done
    }

    /// Closes everything idle.
    pub(super) fn clear(&mut self) -> Decided<K, C, W> {
        let mut done = Decided::default();
        while self.close_longest_idle(&mut done) {}
        done
    }

    /// When the connection that lies longest has to be closed.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let (_, key) = self.idle.first_key_value()?;
        self.keys.get(key)?.idle.front().map(|idle| idle.since + self.limits.idle)
    }

    fn expire(&mut self, now: Instant, done: &mut Decided<K, C, W>) {
        // All lie for the same time, so the one that was put down first is the first to expire.
        while self.next_expiry().is_some_and(|at| at <= now) && self.close_longest_idle(done) {}
    }

    fn serve(&mut self, now: Instant) -> Decided<K, C, W> {
        let mut done = Decided::default();
        self.expire(now, &mut done);
        while let Some(key) = self.eligible.first_key_value().map(|(_, key)| key.clone()) {
            let Some(grant) = self.grant(&key, &mut done) else { break };
            let Some(shelf) = self.keys.get_mut(&key) else { break };
            if let Some((number, waiter)) = shelf.waiters.pop_front() {
                self.waiting -= 1;
                self.eligible.remove(&number);
                done.grants.push((key.clone(), waiter, grant));
            }
            self.mark_eligible(&key);
        }
        done
    }

    fn grant(&mut self, key: &K, done: &mut Decided<K, C, W>) -> Option<Grant<C>> {
        if let Some(idle) = self.keys.get_mut(key).and_then(|shelf| shelf.idle.pop_back()) {
            self.idle.remove(&idle.number);
            return Some(Grant::Idle(idle.kept));
        }
        if !self.make_room(key, done) {
            return None;
        }
        self.count_open(key);
        Some(Grant::Open)
    }

    /// Whether one more may be opened for `key`; when only the total is full, the connection that has
    /// been idle longest makes room.
    fn make_room(&mut self, key: &K, done: &mut Decided<K, C, W>) -> bool {
        if self.open_for(key) >= self.limits.per_key {
            return false;
        }
        self.open < self.limits.total || self.close_longest_idle(done)
    }

    fn close_idle_of(&mut self, key: &K, done: &mut Decided<K, C, W>) -> bool {
        let Some(shelf) = self.keys.get_mut(key) else { return false };
        let Some(idle) = shelf.idle.pop_front() else { return false };
        shelf.open = shelf.open.saturating_sub(1);
        self.idle.remove(&idle.number);
        self.open = self.open.saturating_sub(1);
        done.close.push(idle.kept.connection);
        self.tidy(key);
        true
    }

    fn close_longest_idle(&mut self, done: &mut Decided<K, C, W>) -> bool {
        let Some((_, key)) = self.idle.pop_first() else { return false };
        if let Some(shelf) = self.keys.get_mut(&key) {
            if let Some(idle) = shelf.idle.pop_front() {
                done.close.push(idle.kept.connection);
            }
            shelf.open = shelf.open.saturating_sub(1);
        }
        self.open = self.open.saturating_sub(1);
        self.mark_eligible(&key);
        self.tidy(&key);
        true
    }

    fn count_open(&mut self, key: &K) {
        self.open += 1;
        self.shelf(key).open += 1;
        self.mark_eligible(key);
    }

    /// Keeps `eligible` true for one key.
    fn mark_eligible(&mut self, key: &K) {
        let Some(shelf) = self.keys.get(key) else { return };
        let Some((number, _)) = shelf.waiters.front() else { return };
        if shelf.open < self.limits.per_key || !shelf.idle.is_empty() {
            self.eligible.insert(*number, key.clone());
        } else {
            self.eligible.remove(number);
        }
    }

    fn shelf(&mut self, key: &K) -> &mut Shelf<C, W> {
        self.keys.entry(key.clone()).or_insert_with(|| Shelf {
            open: 0,
            idle: VecDeque::new(),
            waiters: VecDeque::new(),
        })
    }

    fn tidy(&mut self, key: &K) {
        if self.keys.get(key).is_some_and(|shelf| shelf.open == 0 && shelf.waiters.is_empty()) {
            self.keys.remove(key);
        }
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

#[cfg(test)]
mod tests;
