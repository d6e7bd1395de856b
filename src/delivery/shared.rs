//! What the engine's tasks and its handle share: the core under its lock, the seams to the outside,
//! and the counts.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};

use crate::attempt::{Carrier, Deliver};
use crate::clock::{Clock, Gate, Now, Rng};
use crate::message::SignError;
use crate::net::source::Sending;
use crate::route::{LocalId, Resolve};
use crate::smtp::address::EhloName;
use crate::spool::{Claim, Spool, SpoolError};

use super::compose;
use super::core::Core;
use super::event::{Event, Observers};
use super::gather::is_report;
use super::lane::{Entry, Way};
use super::options::EngineOptions;
use super::recall::Recall;
use super::receipt::Watchers;
use super::retry::Retry;
use super::run;
use super::settle::Finished;
use super::settler::ToSettle;
use super::todo::{SiteNews, Todo};

/// What everybody in the engine has.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) spool: Arc<dyn Spool>,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) locals: Vec<(LocalId, Arc<dyn Deliver>)>,
    pub(crate) carrier: Carrier,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Rng,
    pub(crate) ehlo: EhloName,
    pub(crate) settings: RwLock<Arc<Settings>>,
    /// The carrier's limits are those of the options.
    pub(crate) own_limits: bool,
    pub(crate) observers: Observers,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) recall: Arc<Recall>,
    pub(crate) core: Mutex<Core>,
    /// Wakes the dispatcher.
    pub(crate) wake: Notify,
    /// Unbounded, and bounded all the same: each item is an entry that is held, and
    /// `EngineOptions::entries` bounds those.
    pub(crate) settler: mpsc::UnboundedSender<ToSettle>,
    /// Runs are broken off when it turns true.
    pub(crate) abort: watch::Sender<bool>,
    pub(crate) close: watch::Sender<Close>,
    pub(crate) health: AtomicU8,
    pub(crate) counts: Counts,
    pub(crate) runtime: Handle,
}

/// What can be changed while the engine runs.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) options: EngineOptions,
    pub(crate) retry: Retry,
}

/// How far the engine is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    Open,
    /// Finishing what is in flight, until then at most.
    Closing(Option<Instant>),
    Closed,
}

/// What happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) accepted: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) deferred: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) cancelled: AtomicU64,
}

/// How the engine is: whether it lives ([`Health::is_alive`]) and whether mail should be handed to it
/// ([`Health::is_ready`]), as those ask who watch over a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Health {
    /// It works.
    Running,
    /// It finishes what is in flight and takes nothing more.
    Draining,
    /// The spool fails in a way that may pass; the engine tries again, ever more slowly.
    SpoolFailing,
    /// The spool must be opened again: nothing is tried and submitting fails until it was. A spool
    /// that does not do so itself needs a new engine over one that is opened anew.
    SpoolPoisoned,
    /// It was shut down.
    Closed,
}

impl Health {
    /// Whether the next message is likely to be taken. A spool that is full or slow says so message by
    /// message, and is no reason to turn away from the whole service.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Running)
    }

    /// Whether it works, or will again without help. One that is not is to be built anew.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Draining | Self::SpoolFailing)
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// A head with the signatures of the message in front, where something signs it.
    pub(crate) async fn signed(&self, head: Bytes, content: &Bytes) -> Result<Bytes, SignError> {
        compose::signed(self.carrier.signatory(), head, content).await
    }

    /// The same for a report, of which one is written at a time.
    pub(crate) async fn signed_report(&self, head: Bytes, content: &Bytes) -> Result<Bytes, SignError> {
        let Some(signatory) = self.carrier.signatory() else { return Ok(head) };
        let fields = signatory.sign_at_once([head.clone(), content.clone()]).await?;
        Ok(in_front(fields, head))
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn mono(&self) -> Instant {
        self.clock.mono()
    }

    /// Changes the core, and then does what follows from the change.
    pub(crate) fn with<T>(self: &Arc<Self>, change: impl FnOnce(&mut Core, Now, &mut Todo) -> T) -> T {
        let now = self.now();
        let mut todo = Todo::default();
        // Changes are made of steps that do not panic; an observer or a resolver never runs under it.
        let result = change(&mut self.core.lock().unwrap_or_else(PoisonError::into_inner), now, &mut todo);
        for finished in todo.finished {
            self.settle(finished);
        }
        for site in todo.starts {
            self.start_runs(&site);
        }
        for news in todo.news {
            match &news {
                SiteNews::Held { site, cause, wait } => {
                    self.observers.tell(&Event::SiteHeld { site, cause, wait: *wait });
                }
                SiteNews::Released { site } => self.observers.tell(&Event::SiteReleased { site }),
            }
        }
        if todo.wake {
            self.wake.notify_one();
        }
        result
    }

    /// A claim as an entry, with the source that it is sent from. Not under the lock: the host program
    /// may have a say in it.
    pub(crate) fn entry(&self, claim: Claim, until: Now) -> Entry {
        let gate = Gate::new(Arc::clone(&self.clock), until);
        if is_report(&claim) {
            return Entry::new(claim, gate);
        }
        let (message, destination) = (claim.token.message, &claim.destination);
        let sending = Sending::new(message, &claim.mail.from, &claim.handling, destination);
        let source = self.carrier.source_of(&sending);
        Entry::new(claim, gate).with_source(source)
    }

    /// Looks at the core.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Core) -> T) -> T {
        look(&self.core.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn settle(&self, finished: Finished) {
        if finished.verdict.is_by_policy() {
            self.resolver.policy_failed(&finished.entry.claim.destination);
        }
        // Refused only when the settler is gone, at the end: the lease then ends with the process.
        let _ = self.settler.send(ToSettle::Entry(finished));
    }

    /// Starts as many runs as the lane wants and may have: the permit first, then the work.
    pub(crate) fn start_runs(self: &Arc<Self>, site: &crate::spool::QueueName) {
        loop {
            let now = self.mono();
            let begun = self.core.lock().unwrap_or_else(PoisonError::into_inner).begin_run(site, now);
            match begun {
                None => return,
                Some((Way::Hosts(hosts), source)) => {
                    let permit = match &source {
                        Some(source) => {
                            self.carrier.via(source).and_then(|from| from.try_permit(site.as_str()))
                        }
                        None => self.carrier.try_permit(site.as_str()),
                    };
                    let Some(permit) = permit else {
                        self.core.lock().unwrap_or_else(PoisonError::into_inner).no_permit(site);
                        return self.wake.notify_one();
                    };
                    self.runtime.spawn(run::to_hosts(Arc::clone(self), site.clone(), hosts, permit));
                }
                Some((Way::Local(id), _)) => {
                    self.runtime.spawn(run::to_local(Arc::clone(self), site.clone(), id));
                }
            }
        }
    }

    /// Notes that the spool failed. Told once, not each time.
    pub(crate) fn spool_failed(&self, error: &SpoolError) {
        let poisoned = matches!(error, SpoolError::Poisoned | SpoolError::Closed);
        let health = if poisoned { Health::SpoolPoisoned } else { Health::SpoolFailing };
        if self.set_health(health) != health {
            self.halt(poisoned);
            tracing::error!(%error, "the spool failed");
            self.observers.tell(&Event::SpoolFailed { poisoned });
        }
    }

    /// Notes that the spool works.
    pub(crate) fn spool_worked(&self) {
        if self.health.load(Ordering::Relaxed) != RUNNING
            && self.set_health(Health::Running) != Health::Running
        {
            self.halt(false);
            self.observers.tell(&Event::SpoolRecovered);
        }
    }

    pub(crate) fn health(&self) -> Health {
        match *self.close.borrow() {
            Close::Closed => return Health::Closed,
            Close::Closing(_) => return Health::Draining,
            Close::Open => {}
        }
        health(self.health.load(Ordering::Relaxed))
    }

    /// Lanes that are stopped by this look again every second.
    fn halt(&self, halted: bool) {
        self.core.lock().unwrap_or_else(PoisonError::into_inner).halted = halted;
    }

    fn set_health(&self, new: Health) -> Health {
        health(self.health.swap(number(new), Ordering::Relaxed))
    }

    pub(crate) fn count(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Stops taking and claiming; what is in flight has until `deadline`.
    pub(crate) fn close(&self, deadline: Option<Instant>) {
        self.core.lock().unwrap_or_else(PoisonError::into_inner).closing = true;
        self.close.send_if_modified(|close| match *close {
            Close::Open | Close::Closing(None) => {
                *close = Close::Closing(deadline);
                true
            }
            Close::Closing(Some(before)) if deadline.is_some_and(|deadline| deadline < before) => {
                *close = Close::Closing(deadline);
                true
            }
            Close::Closing(_) | Close::Closed => false,
        });
    }
}

/// Fields before others.
pub(crate) fn in_front(fields: Bytes, head: Bytes) -> Bytes {
    match (fields.is_empty(), head.is_empty()) {
        (true, _) => head,
        (_, true) => fields,
        _ => [fields, head].concat().into(),
    }
}

/// What the spool does to the engine's health, as a number.
pub(crate) const RUNNING: u8 = 0;
const FAILING: u8 = 1;
const POISONED: u8 = 2;

const fn number(health: Health) -> u8 {
    match health {
        Health::SpoolFailing => FAILING,
        Health::SpoolPoisoned => POISONED,
        Health::Running | Health::Draining | Health::Closed => RUNNING,
    }
}

const fn health(number: u8) -> Health {
    match number {
        RUNNING => Health::Running,
        FAILING => Health::SpoolFailing,
        _ => Health::SpoolPoisoned,
    }
}
