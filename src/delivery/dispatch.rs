//! The dispatcher is the engine's loop: it claims what is due and has room, asks for routes, looks
//! through the spool for what it does not know of, keeps leases alive, and at the end gives back what
//! was not tried.
//!
//! It waits for many things and works on none: claims and lookups run beside it, a few at a time, so
//! that one slow answer holds up nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};

use crate::BoxFuture;
use crate::clock::Now;
use crate::route::{Route, RouteError};
use crate::smtp::address::Domain;
use crate::spool::{Claim, ClaimRequest, Class, KeepLog, QueueName, QueueSummary, SpoolError, Token};

use super::aside;
use super::care::Care;
use super::lane::Routed;
use super::schedule::Part;
use super::set_back::Passes;
use super::settler::ToSettle;
use super::shared::{Close, Shared};
use super::trials;

/// Runs the engine until it is closed.
pub(crate) async fn dispatch(shared: Arc<Shared>, mut close: watch::Receiver<Close>) {
    let now = shared.now();
    let mut dispatcher = Dispatcher {
        claims: JoinSet::new(),
        claiming: HashMap::new(),
        lookups: JoinSet::new(),
        asking: HashMap::new(),
        sweep: JoinSet::new(),
        leases: JoinSet::new(),
        prunes: JoinSet::new(),
        passes: Passes::default(),
        next_prune: now.mono,
        last: shared.look(|core| core.since),
        next_sweep: Some(now.mono),
        sweep_began: now.mono,
        sweep_took: Duration::ZERO,
        listening: true,
        listens_until: now.mono,
        next_lease: now.mono + shared.settings().options.lease / 3,
        next_starved: None,
        failures: 0,
        paused_until: None,
        shared,
    };
    dispatcher.run(&mut close).await;
    dispatcher.close(&mut close).await;
}

/// The claims that an extension was asked for, those of them that are lost, and until when messages of the
/// others may be ended: reckoned from when it was asked for, however long the answer took.
type Extended = Result<(Vec<Token>, Vec<Token>, Now), SpoolError>;

struct Dispatcher {
    shared: Arc<Shared>,
    claims: JoinSet<Result<Vec<Claim>, SpoolError>>,
    claiming: HashMap<Id, (Part, usize, Now)>,
    lookups: JoinSet<Result<Route, RouteError>>,
    asking: HashMap<Id, (Domain, Care)>,
    sweep: JoinSet<Result<Vec<QueueSummary>, SpoolError>>,
    leases: JoinSet<Extended>,
    prunes: JoinSet<Result<bool, SpoolError>>,
    passes: Passes,
    /// When what is remembered of old is forgotten next.
    next_prune: Instant,
    /// The last look at the clock.
    last: Now,
    /// When the spool is looked through next; `None` while it is.
    next_sweep: Option<Instant>,
    sweep_began: Instant,
    sweep_took: Duration,
    /// Whether the spool is asked for what others put there. After an answer not again before a sweep
    /// has looked: it may answer for no reason.
    listening: bool,
    /// When it answers because nobody put anything there.
    listens_until: Instant,
    next_lease: Instant,
    /// When lanes are looked at that wanted a run when there was none.
    next_starved: Option<Instant>,
    /// Failures of the spool in a row.
    failures: u32,
    paused_until: Option<Instant>,
}

impl Dispatcher {
    async fn run(&mut self, close: &mut watch::Receiver<Close>) {
        let shared = Arc::clone(&self.shared);
        let mut foreign: Option<BoxFuture<'_, ()>> = None;
        while *close.borrow_and_update() == Close::Open {
            self.step();
            if foreign.is_none() && self.listening {
                let limit = shared.settings().options.sweep;
                (foreign, self.listens_until) = (Some(shared.spool.wait(limit)), shared.mono() + limit);
            }
            let wake = tokio::time::sleep(self.until_next());
            tokio::select! {
                biased;
                _ = close.changed() => {}
                Some(answer) = self.claims.join_next_with_id() => self.claimed(answer),
                Some(answer) = self.lookups.join_next_with_id() => self.answered(answer),
                Some(answer) = self.sweep.join_next() => self.swept(flat(answer)),
                Some(answer) = self.leases.join_next() => self.extended(answer),
                Some(answer) = self.prunes.join_next() => self.pruned(flat(answer)),
                answer = self.passes.answer() => self.passes.answered(&shared, answer),
                () = shared.wake.notified() => {}
                () = wait(&mut foreign) => {
                    foreign = None;
                    // Nobody came: the spool is looked through when that is due, and not for this.
                    if shared.mono() < self.listens_until {
                        self.listening = false;
                        self.sweep_within(BETWEEN_SWEEPS);
                    }
                }
                () = wake => {}
            }
        }
    }

    /// Starts whatever can be started now.
    fn step(&mut self) {
        let shared = Arc::clone(&self.shared);
        let now = shared.now();
        self.check_clock(now);
        self.passes.step(&shared, now);
        if self.paused_until.is_some_and(|until| now.mono >= until) {
            self.paused_until = None;
        }
        if self.paused_until.is_none() {
            while self.claims.len() < CLAIMS
                && let Some((part, limit)) = shared.with(|core, now, _| core.next_claim(now))
            {
                self.claim(part, limit);
            }
            if self.next_sweep.is_some_and(|at| now.mono >= at) {
                self.sweep_began = now.mono;
                shared.with(|core, now, todo| core.sweep(now, todo));
                self.sweep_page(None);
            }
        }
        while self.lookups.len() < shared.settings().options.lookups
            && let Some(asking) = shared.with(|core, _, _| core.routes.ask())
        {
            let (resolver, asked) = (Arc::clone(&shared.resolver), asking.0.clone());
            let task = self.lookups.spawn(async move {
                let answer = tokio::time::timeout(LOOKUP, resolver.route(&asked)).await;
                answer.unwrap_or(Err(RouteError::Timeout(LOOKUP)))
            });
            self.asking.insert(task.id(), asking);
        }
        if now.mono >= self.next_lease && self.leases.is_empty() {
            self.extend_leases(now);
        }
        // By time only, never because one of them starved again: that would spin.
        if !shared.look(|core| core.has_starved()) {
            self.next_starved = None;
        } else if now.mono >= *self.next_starved.get_or_insert(now.mono + STARVED) {
            self.next_starved = None;
            for _ in 0..STARVED_AT_ONCE {
                let Some(site) = shared.with(|core, _, _| core.next_starved()) else { break };
                shared.start_runs(&site);
            }
        }
    }

    /// How long until there is something to do that nobody wakes us for.
    fn until_next(&self) -> Duration {
        let now = self.shared.now();
        let (due, free) = self.shared.look(|core| (core.schedule.wake(), core.free()));
        let mono = |at: Instant| at.saturating_duration_since(now.mono);
        let mut wait = self.until_lease(now.mono);
        if let Some(until) = self.paused_until {
            wait = wait.min(mono(until));
        } else {
            if free > 0 && self.claims.len() < CLAIMS {
                wait = due.map_or(wait, |due| wait.min(due.since(now.wall)));
            }
            wait = self.next_sweep.map_or(wait, |at| wait.min(mono(at)));
        }
        wait = self.next_starved.map_or(wait, |at| wait.min(mono(at)));
        wait = self.passes.wait(now.mono).map_or(wait, |pass| wait.min(pass));
        // Never zero, so that nothing that is due and cannot be done spins.
        wait.max(Duration::from_millis(1))
    }

    /// How long until leases are to be extended; while they are being, their answer wakes us.
    fn until_lease(&self, now: Instant) -> Duration {
        if self.leases.is_empty() {
            self.next_lease.saturating_duration_since(now)
        } else {
            self.shared.settings().options.lease
        }
    }

    /// Notices when wall time and monotonic time part.
    fn check_clock(&mut self, now: Now) {
        let mono = now.mono.saturating_duration_since(self.last.mono);
        let expected = self.last.wall.after(mono);
        let off = expected.since(now.wall).max(now.wall.since(expected));
        self.last = now;
        if off > JUMP {
            tracing::warn!(seconds = off.as_secs(), "the clock jumped");
            self.shared.with(|core, now, _| core.restart_times(now));
            self.passes.jumped(&self.shared, expected, now);
            // What is leased may have become free, and what was due may not be any more.
            self.next_lease = now.mono;
            self.sweep_within(Duration::ZERO);
        }
    }

    fn claim(&mut self, part: Part, limit: usize) {
        let (spool, now) = (Arc::clone(&self.shared.spool), self.shared.now());
        let settings = self.shared.settings();
        let options = &settings.options;
        let lease = now.wall.after(options.lease);
        let request = ClaimRequest { queue: part.0.clone(), class: part.1, now: now.wall, limit, lease };
        let task = self.claims.spawn(async move { spool.claim(request).await });
        self.claiming.insert(task.id(), (part, limit, options.gate_until(now)));
    }

    fn claimed(&mut self, answer: Result<(Id, Result<Vec<Claim>, SpoolError>), JoinError>) {
        let (id, answer) = by_id(answer);
        let Some((part, limit, until)) = self.claiming.remove(&id) else { return };
        match answer.unwrap_or_else(|| Err(panicked())) {
            Ok(claims) => {
                self.worked();
                let full = claims.len() >= limit;
                let cancelled = claims.iter().all(|claim| claim.cancelled);
                let entries: Vec<_> =
                    claims.into_iter().map(|claim| self.shared.entry(claim, until)).collect();
                let more = self.shared.with(|core, now, todo| {
                    core.unreserve(limit);
                    let over = core.are_over(&entries, now);
                    if over {
                        core.schedule.probe_on(&part);
                    }
                    let (claimed, before) = (entries.len(), todo.finished.len());
                    for entry in entries {
                        core.admit(entry, until, now, todo);
                    }
                    let put_off = claimed > 0 && todo.put_off_since(before) == claimed;
                    let pause = (put_off && !over).then(|| now.wall.after(PAUSE));
                    core.schedule.claimed(&part, full, cancelled, pause)
                });
                if more {
                    self.sweep_within(BETWEEN_SWEEPS);
                }
            }
            Err(error) => {
                self.failed(&error);
                self.shared.with(|core, _, _| {
                    core.unreserve(limit);
                    core.schedule.claimed(&part, true, true, None);
                });
            }
        }
    }

    fn answered(&mut self, answer: Result<(Id, Result<Route, RouteError>), JoinError>) {
        let (id, answer) = by_id(answer);
        let Some(asked) = self.asking.remove(&id) else { return };
        // A resolver that panics has not answered.
        let answer = match answer.unwrap_or(Err(RouteError::Dns)) {
            Ok(Route::Hosts(hosts)) if hosts.hosts.is_empty() => Err(RouteError::NoHost),
            Ok(Route::Hosts(hosts)) if hosts.sts.is_some() => {
                let routed = Routed::new(Route::Hosts(hosts.clone()), asked.1);
                if matches!(routed, Err(RouteError::Sts)) {
                    trials::unlisted(&self.shared.observers, &asked.0, &hosts);
                }
                routed.map(Arc::new)
            }
            answer => answer.and_then(|route| Routed::new(route, asked.1)).map(Arc::new),
        };
        if matches!(answer, Err(RouteError::Sts)) {
            self.shared.resolver.policy_failed(&asked.0);
        }
        self.shared.with(|core, now, todo| core.answered(&asked, answer, now, todo));
    }

    fn sweep_page(&mut self, after: Option<(QueueName, Class)>) {
        self.next_sweep = None;
        let spool = Arc::clone(&self.shared.spool);
        self.sweep.spawn(async move { spool.queues(after, PAGE).await });
    }

    fn swept(&mut self, answer: Result<Vec<QueueSummary>, SpoolError>) {
        let now = self.shared.now();
        match answer {
            Ok(page) => {
                self.worked();
                self.shared.with(|core, now, _| {
                    page.iter().for_each(|summary| core.schedule.learn(summary, now.wall));
                });
                if let Some(last) = page.last().filter(|_| page.len() >= PAGE) {
                    return self.sweep_page(Some((last.queue.clone(), last.class)));
                }
            }
            Err(error) => self.failed(&error),
        }
        self.listening = true;
        self.sweep_took = now.mono.saturating_duration_since(self.sweep_began);
        let sweep = self.shared.settings().options.sweep;
        self.next_sweep = Some(now.mono + sweep.max(self.sweep_took * 20));
        if now.mono >= self.next_prune && self.prunes.is_empty() {
            self.next_prune = now.mono + sweep;
            self.prune();
        }
    }

    fn prune(&mut self) {
        let (spool, now) = (Arc::clone(&self.shared.spool), self.shared.now().wall);
        // Where this engine keeps no log, it is not for it to say how much of another's is kept.
        let log = self.shared.settings().options.log.unwrap_or(EVERYTHING);
        self.prunes.spawn(async move { spool.prune(now, log).await });
    }

    fn pruned(&mut self, answer: Result<bool, SpoolError>) {
        match answer {
            Ok(true) => self.prune(),
            Ok(false) => {}
            // Nothing waits for it; a spool that fails is noticed elsewhere.
            Err(error) => tracing::debug!(%error, "the spool did not forget what is over"),
        }
    }

    /// Looks through the spool within `wait`, but not so often that it takes more than a twentieth of
    /// the time.
    fn sweep_within(&mut self, wait: Duration) {
        if let Some(next) = self.next_sweep {
            let earliest = self.sweep_began + (self.sweep_took * 20).max(BETWEEN_SWEEPS);
            let wanted = self.shared.mono() + wait;
            self.next_sweep = Some(next.min(wanted.max(earliest)));
        }
    }

    fn extend_leases(&mut self, now: Now) {
        self.next_lease = now.mono + self.shared.settings().options.lease / 3;
        let tokens = self.shared.look(super::core::Core::tokens);
        if !tokens.is_empty() {
            let spool = Arc::clone(&self.shared.spool);
            let settings = self.shared.settings();
            let options = &settings.options;
            let (lease, until) = (now.wall.after(options.lease), options.gate_until(now));
            self.leases.spawn(async move {
                let lost = spool.extend(tokens.clone(), lease).await?;
                Ok((tokens, lost, until))
            });
        }
    }

    fn extended(&mut self, answer: Result<Extended, JoinError>) {
        match answer.unwrap_or_else(|_| Err(panicked())) {
            Ok((tokens, lost, until)) => self.shared.with(|core, _, _| {
                for token in &lost {
                    if core.number(token) == Some(token.number) {
                        core.release(token);
                    }
                }
                core.extended(&tokens, until);
            }),
            Err(error) => {
                // Until it works the claims run out: some tries are left before they do.
                let again = self.shared.mono() + self.shared.settings().options.lease / 12;
                self.next_lease = self.next_lease.min(again);
                self.failed(&error);
            }
        }
    }

    fn worked(&mut self) {
        aside::tell(&self.shared);
        self.failures = 0;
        self.shared.spool_worked();
    }

    fn failed(&mut self, error: &SpoolError) {
        self.shared.spool_failed(error);
        let wait = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.paused_until = Some(self.shared.mono() + wait);
    }

    /// Finishes what is in flight, gives back the rest, and stores what came of it.
    async fn close(mut self, close: &mut watch::Receiver<Close>) {
        let shared = Arc::clone(&self.shared);
        self.lookups.abort_all();
        self.sweep.abort_all();
        self.passes = Passes::default();
        loop {
            shared.with(|core, _, todo| core.give_back(todo));
            if self.claims.is_empty() && shared.look(|core| core.runs) == 0 {
                break;
            }
            let deadline = match *close.borrow_and_update() {
                Close::Closing(deadline) => deadline,
                Close::Open | Close::Closed => None,
            };
            let left = deadline.map(|deadline| deadline.saturating_duration_since(shared.mono()));
            if left.is_some_and(|left| left.is_zero()) {
                // Breaking off closes connections and ends no message: what is between its last octet
                // and the reply keeps its lease, and is tried again.
                shared.abort.send_replace(true);
                self.claims.abort_all();
            }
            // The leases of what takes long are kept alive to the end.
            let lease = self.until_lease(shared.mono());
            let wait = left.filter(|left| !left.is_zero()).unwrap_or(lease).min(lease);
            tokio::select! {
                biased;
                Some(answer) = self.claims.join_next_with_id() => self.claimed(answer),
                Some(answer) = self.leases.join_next() => self.extended(answer),
                _ = close.changed() => {}
                () = shared.wake.notified() => {}
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {
                    let now = shared.now();
                    if now.mono >= self.next_lease && self.leases.is_empty() {
                        self.extend_leases(now);
                    }
                }
            }
        }
        let (done, stored) = oneshot::channel();
        let _ = shared.settler.send(ToSettle::End(done));
        let last = async {
            let _ = stored.await;
            let _ = shared.spool.flush().await;
        };
        if tokio::time::timeout(LAST_WORDS, last).await.is_err() {
            tracing::error!("the spool did not take the last settlements in time");
        }
        shared.close.send_replace(Close::Closed);
    }
}

/// Waits for a future that there may not be.
async fn wait(future: &mut Option<BoxFuture<'_, ()>>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn by_id<T>(answer: Result<(Id, T), JoinError>) -> (Id, Option<T>) {
    match answer {
        Ok((id, answer)) => (id, Some(answer)),
        Err(error) => (error.id(), None),
    }
}

fn flat<T>(answer: Result<Result<T, SpoolError>, JoinError>) -> Result<T, SpoolError> {
    answer.unwrap_or_else(|_| Err(panicked()))
}

/// A spool whose call panicked has failed.
fn panicked() -> SpoolError {
    SpoolError::Storage(std::io::Error::other("a call to the spool panicked"))
}

const EVERYTHING: KeepLog = KeepLog { time: Duration::MAX, events: u64::MAX };
/// Between claims of a queue of which nothing can be tried now: with a claim each, some 1,300 entries a second
/// are put off, which leaves the spool to those that can be delivered.
const PAUSE: Duration = Duration::from_millis(200);
/// Claims at once: several, so that many small queues do not wait for one another.
const CLAIMS: usize = 8;
/// Queues per page of a sweep.
const PAGE: usize = 1_000;
/// What a resolver may take; it has its own, shorter limits.
const LOOKUP: Duration = Duration::from_secs(120);
/// Adjustments below this are a clock being set right, not a jump.
const JUMP: Duration = Duration::from_secs(60);
/// How often a lane is looked at that wanted a run when there was no permit: permits are also given
/// back by others, who tell nobody.
const STARVED: Duration = Duration::from_secs(1);
/// More than these start when other runs end.
const STARVED_AT_ONCE: usize = 100;
const BETWEEN_SWEEPS: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A spool that fails is asked this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// For the last settlements, once nothing is in flight any more.
const LAST_WORDS: Duration = Duration::from_secs(10);
