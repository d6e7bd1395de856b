//! A spool that fails on demand, and a clock that jumps.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad::BoxFuture;
use postroad::clock::{Clock, Now, SteppedClock, Timestamp};
use postroad::message::{Content, MessageId};
use postroad::spool::{
    Alter, Altered, BodyRef, BodyWriter, Claim, ClaimRequest, Class, Durability, Enqueued, EntrySummary,
    KeepLog, Logged, MemorySpool, NewMessage, QueueName, QueueSummary, Results, Selection, Settlement, Spool,
    SpoolError, Stats, Token,
};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Every call.
    Poisoned,
    /// Settling fails, and nothing is settled.
    Storage,
    /// Settling fails for want of room.
    Full,
    /// Settling fails for want of room where there is a report to store.
    NoReports,
    /// No body can be read.
    Bodies,
    /// Settling happens, and the answer says that this is not known.
    SettledUnknown,
}

/// A memory spool with faults.
#[derive(Debug, Clone)]
pub struct Faulty {
    inner: MemorySpool,
    state: Arc<(Mutex<Fault>, AtomicUsize)>,
    shared: bool,
}

impl Faulty {
    pub fn new() -> Self {
        let state = Arc::new((Mutex::new(Fault::None), AtomicUsize::new(0)));
        Self { inner: MemorySpool::new(), state, shared: false }
    }

    /// One on which other processes may work, too.
    pub fn shared() -> Self {
        Self { shared: true, ..Self::new() }
    }

    pub fn set(&self, fault: Fault) {
        *self.state.0.lock().unwrap() = fault;
    }

    pub fn calls(&self) -> usize {
        self.state.1.load(Ordering::Relaxed)
    }

    fn call(&self) -> Result<Fault, SpoolError> {
        self.state.1.fetch_add(1, Ordering::Relaxed);
        match *self.state.0.lock().unwrap() {
            Fault::Poisoned => Err(SpoolError::Poisoned),
            fault => Ok(fault),
        }
    }
}

impl Spool for Faulty {
    fn stage(&self) -> BoxFuture<'_, Result<Box<dyn BodyWriter>, SpoolError>> {
        self.inner.stage()
    }

    fn enqueue(
        &self,
        batch: Vec<NewMessage>,
        lease: Option<Timestamp>,
    ) -> BoxFuture<'_, Result<Enqueued, SpoolError>> {
        Box::pin(async move {
            self.call()?;
            self.inner.enqueue(batch, lease).await
        })
    }

    fn claim(&self, request: ClaimRequest) -> BoxFuture<'_, Result<Vec<Claim>, SpoolError>> {
        Box::pin(async move {
            self.call()?;
            self.inner.claim(request).await
        })
    }

    fn body(&self, body: &BodyRef) -> BoxFuture<'_, Result<Content, SpoolError>> {
        if *self.state.0.lock().unwrap() == Fault::Bodies {
            let error = SpoolError::Storage(io::Error::other("as the test has it"));
            return Box::pin(std::future::ready(Err(error)));
        }
        self.inner.body(body)
    }

    fn extend(&self, tokens: Vec<Token>, lease: Timestamp) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        Box::pin(async move {
            self.call()?;
            self.inner.extend(tokens, lease).await
        })
    }

    fn settle(
        &self,
        batch: Vec<Settlement>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        Box::pin(async move {
            match self.call()? {
                Fault::Storage => Err(SpoolError::Storage(io::Error::other("as the test has it"))),
                Fault::Full => Err(SpoolError::Full),
                Fault::NoReports if batch.iter().any(|s| !s.submit.is_empty()) => Err(SpoolError::Full),
                Fault::SettledUnknown => {
                    self.inner.settle(batch, durability).await?;
                    Err(SpoolError::Unknown(io::Error::other("as the test has it")))
                }
                _ => self.inner.settle(batch, durability).await,
            }
        })
    }

    fn queues(
        &self,
        after: Option<(QueueName, Class)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<QueueSummary>, SpoolError>> {
        Box::pin(async move {
            self.call()?;
            self.inner.queues(after, limit).await
        })
    }

    fn scan(
        &self,
        which: Selection,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<EntrySummary>, SpoolError>> {
        self.inner.scan(which, after, limit)
    }

    fn alter(&self, alter: Alter) -> BoxFuture<'_, Result<Altered, SpoolError>> {
        self.inner.alter(alter)
    }
    fn results(&self, message: MessageId) -> BoxFuture<'_, Result<Option<Results>, SpoolError>> {
        self.inner.results(message)
    }
    fn log(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Logged>, SpoolError>> {
        self.inner.log(after, limit)
    }
    fn prune(&self, now: Timestamp, log: KeepLog) -> BoxFuture<'_, Result<bool, SpoolError>> {
        self.inner.prune(now, log)
    }

    fn is_shared(&self) -> bool {
        self.shared
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    fn wait(&self, _: Duration) -> BoxFuture<'_, ()> {
        // As often as the promise allows: for no reason.
        Box::pin(std::future::ready(()))
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), SpoolError>> {
        self.inner.flush()
    }
}

/// A clock whose wall time can be moved.
#[derive(Debug)]
pub struct Jumping {
    clock: SteppedClock,
    ahead: AtomicU64,
}

impl Jumping {
    pub fn new() -> Self {
        let clock = SteppedClock::starting_at(Timestamp::from_millis(1_790_000_000_000));
        Self { clock, ahead: AtomicU64::new(0) }
    }

    pub fn jump(&self, by: Duration) {
        self.ahead.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

impl Clock for Jumping {
    fn now(&self) -> Now {
        let now = self.clock.now();
        let ahead = Duration::from_millis(self.ahead.load(Ordering::Relaxed));
        Now { wall: now.wall.after(ahead), ..now }
    }
}
