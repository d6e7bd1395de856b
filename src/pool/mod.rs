//! A pool keeps open connections for the next one who needs them, and says when no more may be opened.
//!
//! It is the one place where limits on connections live: per key and in total. Whoever wants to speak to
//! a host first takes a [`Lease`]: an idle connection, or a permit to open one. Dropping closes, only
//! [`Held::release`] keeps: a connection in an unknown state is never lent again. The pool is generic; it
//! does not know what a connection is, opens none, and does not look inside one except through [`Keep`].

mod book;

use std::fmt;
use std::hash::Hash;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use self::book::{Book, Decided, Grant, Kept};
use crate::clock::Clock;

/// How many connections there may be, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections to one key, idle ones included. Default 20, as Postfix has it; large providers
    /// throttle above some 20 to 50.
    pub per_key: usize,
    /// Connections in total. Default 500: with a socket and two buffers each well under the usual limit
    /// of 1024 descriptors.
    pub total: usize,
    /// How long an unused connection is kept. Default 5 s: longer holds the peer's slots for nothing.
    pub idle: Duration,
    /// How many messages a connection carries, one at least. Default 100: spreads load over a provider's
    /// hosts.
    pub uses: u32,
    /// How old a connection gets. Default 5 min: after that its addresses, its certificate and the
    /// preference of its host are looked at again.
    pub age: Duration,
    /// How many may wait for a connection at once. Default 10,000: a waiter is some hundred octets.
    pub waiters: usize,
}

impl Limits {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            per_key: 20,
            total: 500,
            idle: Duration::from_secs(5),
            uses: 100,
            age: Duration::from_secs(300),
            waiters: 10_000,
        }
    }
}

impl Limits {
    /// Whether a connection has reached its age or its number of uses.
    fn is_spent(&self, uses: u32, opened: Instant, now: Instant) -> bool {
        uses >= self.uses || now.saturating_duration_since(opened) >= self.age
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

/// What a pool asks of the connections it keeps.
pub trait Keep: Send + 'static {
    /// Whether the connection can still be used after it lay idle. Must not wait.
    fn is_fresh(&mut self) -> bool;

    /// Ends the connection politely. Must not wait.
    fn retire(self);
}

/// What connections are grouped by.
pub trait Key: Hash + Eq + Clone + Send + 'static {}
impl<K: Hash + Eq + Clone + Send + 'static> Key for K {}

/// Why there is no lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Nothing became free in the time one was willing to wait.
    #[error("no connection became free in time")]
    TimedOut,
    /// Too many are waiting.
    #[error("too many are waiting for a connection")]
    Crowded,
}

/// How full a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Connections and permits, idle connections included.
    pub open: usize,
    /// Idle connections.
    pub idle: usize,
    /// Waiters.
    pub waiting: usize,
}

/// A pool of connections `C`, grouped and limited by `K`. Clones are the same pool.
pub struct Pool<K: Key, C: Keep> {
    shared: Arc<Shared<K, C>>,
}

struct Shared<K: Key, C: Keep> {
    state: Mutex<State<K, C>>,
    clock: Arc<dyn Clock>,
}

struct State<K: Key, C: Keep> {
    book: Book<K, C, Waiter<K, C>>,
    /// Whether a task is there that closes idle connections when their time is over.
    reaping: bool,
}

type Waiter<K, C> = oneshot::Sender<Lease<K, C>>;

/// What an acquirer gets.
#[must_use = "a lease that is dropped is given up"]
pub enum Lease<K: Key, C: Keep> {
    /// An idle connection, found fresh.
    Idle(Held<K, C>),
    /// Leave to open one.
    Open(Permit<K, C>),
}

/// Leave to open one connection; dropping it gives the leave back.
#[must_use = "a permit that is dropped is given up"]
pub struct Permit<K: Key, C: Keep>(Slot<K, C>);

/// A connection that is lent; dropping it closes the connection.
#[must_use = "a connection that is dropped is closed"]
pub struct Held<K: Key, C: Keep> {
    // Before the slot, so that the socket is closed before somebody else gets leave to open one.
    connection: C,
    opened: Instant,
    uses: u32,
    slot: Slot<K, C>,
}

/// One unit of the limits.
struct Slot<K: Key, C: Keep> {
    shared: Arc<Shared<K, C>>,
    key: K,
    /// Whether the unit is still ours to give back.
    counted: bool,
}

impl<K: Key, C: Keep> Pool<K, C> {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let state = State { book: Book::new(limits), reaping: false };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), clock }) }
    }

    /// The limits that hold now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.lock().book.limits().clone()
    }

    /// Goes on under other limits. Connections at work are never closed for it: those beyond a limit are
    /// retired when they are released, idle ones at once.
    pub fn set_limits(&self, limits: Limits) {
        let now = self.shared.now();
        let done = self.shared.lock().book.set_limits(limits, now);
        self.shared.carry_out(done);
    }

    /// A lease, if there is one now and nobody has waited longer.
    #[must_use]
    pub fn try_acquire(&self, key: &K) -> Option<Lease<K, C>> {
        let (grant, done) = {
            let mut done = Decided::default();
            let now = self.shared.now();
            let grant = self.shared.lock().book.take(key, now, &mut done);
            (grant, done)
        };
        self.shared.carry_out(done);
        grant.map(|grant| self.shared.lease(key.clone(), grant).checked())
    }

    /// A lease, waiting up to `wait` for it. Those who wait for one key are served in the order in
    /// which they came.
    ///
    /// # Errors
    /// [`AcquireError`] when nothing became free in time, or too many wait already.
    ///
    /// # Cancel safety
    /// May be dropped at any time: a place in the queue, or a lease just granted, goes to the next.
    pub async fn acquire(&self, key: &K, wait: Duration) -> Result<Lease<K, C>, AcquireError> {
        let (sender, receiver) = oneshot::channel();
        let mut done = Decided::default();
        let now = self.shared.now();
        let taken = {
            let mut state = self.shared.lock();
            match state.book.take(key, now, &mut done) {
                Some(grant) => Ok(grant),
                None => Err(state.book.enqueue(key, sender)),
            }
        };
        self.shared.carry_out(done);
        let number = match taken {
            Ok(grant) => return Ok(self.shared.lease(key.clone(), grant).checked()),
            Err(Err(_)) => return Err(AcquireError::Crowded),
            Err(Ok(number)) => number,
        };
        let mut place = Place { shared: &self.shared, key, number, receiver };
        match tokio::time::timeout(wait, &mut place.receiver).await {
            Ok(Ok(lease)) => Ok(lease.checked()),
            // The first cannot be: the sender lives in the book as long as the place does.
            Ok(Err(_)) | Err(_) => Err(AcquireError::TimedOut),
        }
    }

    /// How full the pool is.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let state = self.shared.lock();
        Usage { open: state.book.open(), idle: state.book.idle(), waiting: state.book.waiting() }
    }

    /// How many connections and permits `key` has, idle connections included.
    #[must_use]
    pub fn open_for(&self, key: &K) -> usize {
        self.shared.lock().book.open_for(key)
    }

    /// Closes all idle connections.
    pub fn close_idle(&self) {
        let done = self.shared.lock().book.clear();
        self.shared.carry_out(done);
    }
}

impl<K: Key, C: Keep> Lease<K, C> {
    /// Trades this lease for an idle connection of the same key that `fits`, if it does not hold one. A
    /// connection that does not fit is put back while the limits leave room beside it, and retired
    /// otherwise. `fits` is called under the pool's lock: it must be quick and not use the pool.
    pub fn prefer(self, mut fits: impl FnMut(&mut C) -> bool) -> Self {
        let mut this = self;
        if let Self::Idle(held) = &mut this
            && fits(&mut held.connection)
        {
            return this;
        }
        let slot = match &this {
            Self::Idle(held) => &held.slot,
            Self::Open(permit) => &permit.0,
        };
        let (shared, key) = (Arc::clone(&slot.shared), slot.key.clone());
        let now = shared.now();
        let mut done = Decided::default();
        let fitting = shared.lock().book.take_fitting(&key, now, fits, &mut done);
        shared.carry_out(done);
        match (fitting, this) {
            (Some(kept), unfit) => {
                unfit.give_back();
                shared.lease(key, Grant::Idle(kept)).checked()
            }
            (None, Self::Open(permit)) => Self::Open(permit),
            (None, Self::Idle(held)) => {
                let mut done = Decided::default();
                let beside = shared.lock().book.take_open(&key, &mut done);
                shared.carry_out(done);
                if beside {
                    held.put_back();
                    return shared.lease(key, Grant::Open);
                }
                let (connection, permit) = held.into_permit();
                connection.retire();
                Self::Open(permit)
            }
        }
    }

    /// Gives the lease back unused: an idle connection stays open.
    pub fn give_back(self) {
        match self {
            Self::Idle(held) => held.put_back(),
            Self::Open(permit) => drop(permit),
        }
    }

    /// A stale connection becomes leave to open another: it keeps the place that was waited for, and
    /// where one has died the others, idle for longer, are likely dead too.
    fn checked(self) -> Self {
        match self {
            Self::Idle(mut held) => {
                if held.connection.is_fresh() {
                    return Self::Idle(held);
                }
                let (connection, permit) = held.into_permit();
                drop(connection);
                Self::Open(permit)
            }
            open @ Self::Open(_) => open,
        }
    }
}

impl<K: Key, C: Keep> Permit<K, C> {
    /// Uses the permit for `connection`, just opened.
    pub fn hold(self, connection: C) -> Held<K, C> {
        let opened = self.0.shared.now();
        Held { connection, opened, uses: 0, slot: self.0 }
    }
}

impl<K: Key, C: Keep> Held<K, C> {
    /// Gives the connection back for the next one; it must be in a state in which anybody can use it.
    /// One that has reached its age or its number of uses is retired.
    pub fn release(self) {
        self.put_back();
    }

    /// Counts one more message.
    pub const fn count_use(&mut self) {
        self.uses = self.uses.saturating_add(1);
    }

    /// Whether the connection has reached its age or its number of uses and should carry nothing more.
    /// One that has carried nothing never has: else connections would be opened for nothing, without end.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        let shared = &self.slot.shared;
        let now = shared.now();
        self.uses > 0 && shared.lock().book.limits().is_spent(self.uses, self.opened, now)
    }

    /// Takes the connection out of the pool's care and keeps the leave to open another in its place.
    pub fn into_permit(self) -> (C, Permit<K, C>) {
        (self.connection, Permit(self.slot))
    }

    fn put_back(self) {
        let Self { connection, opened, uses, mut slot } = self;
        slot.counted = false;
        let shared = Arc::clone(&slot.shared);
        let now = shared.now();
        let done = shared.lock().book.put_back(&slot.key, Kept { connection, opened, uses }, now);
        shared.carry_out(done);
        shared.reap_later();
    }
}

impl<K: Key, C: Keep> Deref for Held<K, C> {
    type Target = C;
    fn deref(&self) -> &C {
        &self.connection
    }
}

impl<K: Key, C: Keep> DerefMut for Held<K, C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.connection
    }
}

impl<K: Key, C: Keep> Drop for Slot<K, C> {
    fn drop(&mut self) {
        if self.counted {
            let now = self.shared.now();
            let done = self.shared.lock().book.free(&self.key, now);
            self.shared.carry_out(done);
        }
    }
}

impl<K: Key, C: Keep> Shared<K, C> {
    fn lock(&self) -> MutexGuard<'_, State<K, C>> {
        // No call into the book panics half-way, and a book that is off by one is better than none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Instant {
        self.clock.mono()
    }

    fn lease(self: &Arc<Self>, key: K, grant: Grant<C>) -> Lease<K, C> {
        let slot = Slot { shared: Arc::clone(self), key, counted: true };
        match grant {
            Grant::Open => Lease::Open(Permit(slot)),
            Grant::Idle(Kept { connection, opened, uses }) => {
                Lease::Idle(Held { connection, opened, uses, slot })
            }
        }
    }

    /// Hands grants on and closes connections; never called under the lock.
    fn carry_out(self: &Arc<Self>, done: Decided<K, C, Waiter<K, C>>) {
        for connection in done.close {
            connection.retire();
        }
        for (key, waiter, grant) in done.grants {
            if let Err(unwanted) = waiter.send(self.lease(key, grant)) {
                unwanted.give_back();
            }
        }
    }

    /// Makes sure that idle connections are closed in time even when nobody uses the pool.
    fn reap_later(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut state = self.lock();
        if state.reaping || state.book.next_expiry().is_none() {
            return;
        }
        state.reaping = true;
        drop(state);
        runtime.spawn(reap(Arc::downgrade(self)));
    }
}

async fn reap<K: Key, C: Keep>(pool: Weak<Shared<K, C>>) {
    let reaper = Reaper(pool);
    loop {
        let wait = {
            let Some(shared) = reaper.0.upgrade() else { return };
            let now = shared.now();
            let (done, next) = {
                let mut state = shared.lock();
                let done = state.book.reap(now);
                let next = state.book.next_expiry();
                state.reaping = next.is_some();
                (done, next)
            };
            shared.carry_out(done);
            next.map(|next| next.saturating_duration_since(now))
        };
        let Some(wait) = wait else { return };
        tokio::time::sleep(wait).await;
    }
}

/// The task that closes idle connections, which may be dropped with its runtime before the pool is.
struct Reaper<K: Key, C: Keep>(Weak<Shared<K, C>>);

impl<K: Key, C: Keep> Drop for Reaper<K, C> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.lock().reaping = false;
        }
    }
}

/// A place in the queue, left when dropped.
struct Place<'a, K: Key, C: Keep> {
    shared: &'a Arc<Shared<K, C>>,
    key: &'a K,
    number: u64,
    receiver: oneshot::Receiver<Lease<K, C>>,
}

impl<K: Key, C: Keep> Drop for Place<'_, K, C> {
    fn drop(&mut self) {
        let forgotten = self.shared.lock().book.forget(self.key, self.number);
        if !forgotten {
            self.receiver.close();
            if let Ok(lease) = self.receiver.try_recv() {
                lease.give_back();
            }
        }
    }
}

impl<K: Key, C: Keep> Clone for Pool<K, C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K: Key, C: Keep> fmt::Debug for Pool<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl<K: Key, C: Keep> fmt::Debug for Lease<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle(_) => "Lease::Idle",
            Self::Open(_) => "Lease::Open",
        })
    }
}

#[cfg(test)]
mod tests;
