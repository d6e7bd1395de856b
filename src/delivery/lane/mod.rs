//! A lane is the running side of one site's queue: entries that are claimed and ready, and the runs
//! that work on them. Final delivery on this machine has lanes too, one per `LocalId`.
//!
//! A lane takes a run for each piece of ready work that no run is about to take, as long as its shape
//! allows, and doubles at most: a burst of twenty messages does not open twenty connections before
//! the first has shown that the host answers.
//!
//! Of what is ready, the highest priority goes first (RFC 6710), and in one priority what came first.
//! Every eighth time it is what came first of all, so that urgent mail slows down the rest but does
//! not stop it.
//!
//! Room is by class: what is less urgent does not take the place of what is more so, neither here nor in
//! the schedule, so that a password reset does not wait for the newsletter before it.
//!
//! It is bookkeeping only: it spawns nothing and asks no clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attempt::{Cause, ConnectFault, LocalFault};
use crate::clock::{Gate, Timestamp};
use crate::net::source::SourceName;
use crate::route::{Hosts, LocalId, Protocol, Route, RouteError};
use crate::smtp::params::Priority;
use crate::spool::{Claim, Class, QueueName};

use super::care::Care;
use super::per_class::PerClass;
use super::schedule::Part;
use super::shape::Shape;

/// A claimed entry on its way through the engine.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Apart, since an entry moves from hand to hand.
    pub(crate) claim: Box<Claim>,
    /// Until when its message may be ended. It also tells this claim from a later one of the same entry.
    pub(crate) gate: Gate,
    /// Where it comes from, where there are several sources.
    pub(crate) source: Option<SourceName>,
    /// Times in a row that a run took it and did not try it.
    pub(crate) untried: u8,
    /// Its destination's own route, once it is in a lane: other destinations share the lane.
    pub(crate) routed: Option<Arc<Routed>>,
    /// When it came into its lane: counted, not timed.
    came: u64,
}

impl Entry {
    pub(crate) fn new(claim: Claim, gate: Gate) -> Self {
        let claim = Box::new(claim);
        Self { claim, gate, source: None, untried: 0, routed: None, came: 0 }
    }

    /// One whose time does not end.
    #[cfg(test)]
    pub(crate) fn unbound(claim: Claim) -> Self {
        use crate::clock::{Clock as _, Now, SystemClock};
        let mono = SystemClock.mono() + Duration::from_secs(1 << 30);
        let gate = Gate::new(Arc::new(SystemClock), Now { mono, wall: Timestamp::NEVER });
        Self::new(claim, gate)
    }

    /// The same, to be sent from there.
    pub(crate) fn with_source(self, source: Option<SourceName>) -> Self {
        Self { source, ..self }
    }

    pub(crate) const fn care(&self) -> Care {
        Care::of(&self.claim.mail, &self.claim.handling)
    }

    pub(crate) fn class(&self) -> Class {
        Class::of(&self.claim.mail)
    }

    /// The part of the schedule that it was claimed from.
    pub(crate) fn part(&self) -> Part {
        (self.claim.queue.clone(), self.class())
    }

    /// Octets of memory that its body takes.
    pub(crate) fn weight(&self) -> usize {
        self.claim.body.at_hand.as_ref().map_or(0, bytes::Bytes::len)
    }
}

/// How a site is reached.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    Hosts(Arc<Hosts>),
    Local(LocalId),
}

impl Way {
    /// Why an entry was put off whose connections were lost before it was tried.
    pub(crate) fn lost(&self) -> Cause {
        let host = match self {
            Self::Hosts(hosts) => hosts.hosts.first().cloned(),
            Self::Local(_) => None,
        };
        match host {
            Some(host) => Cause::Connect { host: Arc::new(host), fault: ConnectFault::Lost },
            None => Cause::Local(LocalFault::Storage),
        }
    }
}

/// A route with the name of its site's queue.
#[derive(Debug, Clone)]
pub(crate) struct Routed {
    pub(crate) way: Way,
    pub(crate) site: QueueName,
}

impl Routed {
    /// The route as its policies leave it. Destinations that ask for different TLS do not share a lane,
    /// although they may share hosts: a connection opened for the one may not do for the other. Mail with
    /// REQUIRETLS has lanes of its own, because a lane goes by the latest of its destinations' routes, and
    /// with such mail it matters by which of them the hosts are proven.
    ///
    /// # Errors
    /// [`RouteError::Sts`], see [`Hosts::under_policy`].
    pub(crate) fn new(route: Route, care: Care) -> Result<Self, RouteError> {
        match route {
            Route::Hosts(hosts) => {
                let hosts = hosts.under_policy(care == Care::Relaxed)?;
                let own = match (care, hosts.proven) {
                    (Care::Usual | Care::Relaxed, _) => "",
                    (Care::Required, true) => "requiretls ",
                    (Care::Required, false) => "requiretls unproven ",
                };
                let site = QueueName::new(&format!("{own}{}", hosts.key()));
                Ok(Self { site, way: Way::Hosts(Arc::new(hosts)) })
            }
            Route::Local(id) => {
                let site = QueueName::new(&format!("local {}", id.as_str()));
                Ok(Self { site, way: Way::Local(id) })
            }
        }
    }

    /// The queue of what goes there from this source: a lane of its own, so that a source that a site
    /// does not take, or takes slowly, holds up no other. What waits must be told apart in the spool too,
    /// or claims for a lane that has room would find what another has none for.
    pub(crate) fn queue(&self, source: Option<&SourceName>) -> QueueName {
        match self.source(source) {
            Some(source) => QueueName::new(&format!("{} from {source}", self.site)),
            None => self.site.clone(),
        }
    }

    /// The source, for what goes out into the world: final delivery, also that by LMTP, is nearer than
    /// any of them.
    pub(crate) fn source<'a>(&self, source: Option<&'a SourceName>) -> Option<&'a SourceName> {
        source.filter(|_| matches!(&self.way, Way::Hosts(hosts) if hosts.protocol == Protocol::Smtp))
    }
}

/// The running side of a site's queue.
#[derive(Debug)]
pub(crate) struct Lane {
    /// How to reach it, as the latest route said.
    pub(crate) way: Way,
    /// From where.
    pub(crate) source: Option<SourceName>,
    pub(crate) shape: Shape,
    /// By priority, of which there are 19. A list that is empty stays, with its memory.
    ready: BTreeMap<Priority, VecDeque<Entry>>,
    /// How many those are, by class.
    counts: PerClass<usize>,
    /// How many ever came, and how many were taken.
    came: u64,
    taken: u64,
    weight: usize,
    /// Runs that exist, and those of them that have not asked for work yet.
    runs: usize,
    starting: usize,
    /// Those that were told to end because there are more than there may be.
    leaving: usize,
    /// Whether it stands in the row of those that wanted a run when there was none.
    pub(crate) starved: bool,
}

/// What lanes may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) ready: usize,
    pub(crate) weight: usize,
}

impl Limits {
    /// What one lane may take, when there is room for `free` entries in all lanes.
    fn share(self, free: usize) -> usize {
        self.ready.min(free.div_ceil(READY_SHARE))
    }
}

impl Lane {
    pub(crate) const fn new(way: Way, runs: usize) -> Self {
        Self {
            way,
            source: None,
            shape: Shape::new(runs),
            ready: BTreeMap::new(),
            counts: PerClass::new(),
            came: 0,
            taken: 0,
            weight: 0,
            runs: 0,
            starting: 0,
            leaving: 0,
            starved: false,
        }
    }

    /// How many more entries of a class it takes, when there is room for `free` in all lanes. Never all of
    /// that, so that lanes that do not move leave room for the others whatever their number.
    ///
    /// What is less urgent does not count: a lane that is full of bulk mail takes urgent mail as an empty one
    /// does. What is more urgent leaves a little room for the rest.
    pub(crate) fn room(&self, class: Class, limits: Limits, free: usize) -> usize {
        let share = limits.share(free);
        let own = least(share).saturating_sub(*self.counts.of(class));
        share.saturating_sub(self.ahead(class)).max(own)
    }

    /// Whether there is room for a claim that is worth its while.
    pub(crate) fn has_room(&self, class: Class, limits: Limits, free: usize) -> bool {
        let share = limits.share(free);
        self.ahead(class) <= share / 2 || *self.counts.of(class) <= least(share) / 2
    }

    /// Whether it must refuse even what was claimed for it. Twice the room: what comes by way of its
    /// destinations' queues was claimed without asking, and would else go to and fro.
    pub(crate) fn is_full(&self, class: Class, limits: Limits, free: usize) -> bool {
        let share = limits.share(free);
        self.ahead(class) >= 2 * share && *self.counts.of(class) >= 2 * least(share)
    }

    /// How many are ready that are not less urgent than this.
    pub(crate) fn ahead(&self, class: Class) -> usize {
        Class::ALL.into_iter().filter(|other| *other <= class).map(|other| *self.counts.of(other)).sum()
    }

    pub(crate) fn ready(&self) -> usize {
        self.ahead(Class::Bulk)
    }

    pub(crate) const fn runs(&self) -> usize {
        self.runs
    }

    /// Adds an entry. A body that no longer fits in memory is let go, and read back later.
    pub(crate) fn push(&mut self, mut entry: Entry, limits: Limits) {
        if self.weight.saturating_add(entry.weight()) > limits.weight {
            entry.claim.body.at_hand = None;
        }
        self.came += 1;
        entry.came = self.came;
        self.weight += entry.weight();
        *self.counts.of_mut(entry.class()) += 1;
        self.ready.entry(priority(&entry)).or_default().push_back(entry);
    }

    /// Gives an entry back that a run took and did not try: it is the next of its priority.
    pub(crate) fn push_front(&mut self, entry: Entry) {
        self.weight += entry.weight();
        *self.counts.of_mut(entry.class()) += 1;
        self.ready.entry(priority(&entry)).or_default().push_front(entry);
    }

    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let turn = self.taken.wrapping_add(1);
        let mut lists = self.ready.values_mut().rev().filter(|list| !list.is_empty());
        let list = if turn.is_multiple_of(OLDEST_EVERY) {
            lists.min_by_key(|list| list.front().map(|entry| entry.came))
        } else {
            lists.next()
        };
        let entry = list?.pop_front()?;
        self.taken = turn;
        self.leaves(&entry);
        Some(entry)
    }

    /// Takes out what is ready and meant.
    pub(crate) fn take_out(&mut self, mut is_meant: impl FnMut(&Claim) -> bool) -> Vec<Entry> {
        let mut taken = Vec::new();
        for list in self.ready.values_mut() {
            if list.iter().any(|entry| is_meant(&entry.claim)) {
                let (meant, rest) = std::mem::take(list).into_iter().partition(|e| is_meant(&e.claim));
                *list = rest;
                taken.extend::<VecDeque<_>>(meant);
            }
        }
        taken.iter().for_each(|entry| self.leaves(entry));
        taken
    }

    fn leaves(&mut self, entry: &Entry) {
        let count = self.counts.of_mut(entry.class());
        *count = count.saturating_sub(1);
        self.weight = self.weight.saturating_sub(entry.weight());
    }

    /// Takes everything that is ready.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Entry> {
        (self.weight, self.counts) = (0, PerClass::new());
        std::mem::take(&mut self.ready).into_values().rev().flatten()
    }

    /// Whether it wants one more run, when all lanes together may start `free` more.
    pub(crate) fn wants_run(&mut self, now: Instant, free: usize) -> bool {
        if self.ready() <= self.starting || free == 0 {
            return false;
        }
        let working = self.runs - self.starting;
        // As with entries: lanes that do not move may not take all runs, so that the next lane has one.
        self.starting < working.max(1) && self.runs < self.shape.runs(now).min(free.div_ceil(RUN_SHARE))
    }

    pub(crate) const fn run_begins(&mut self) {
        self.runs += 1;
        self.starting += 1;
    }

    /// A run asks for work for the first time.
    pub(crate) const fn run_works(&mut self) {
        self.starting = self.starting.saturating_sub(1);
    }

    /// Whether a run is one too many since the limit was lowered; it then ends.
    pub(crate) const fn run_leaves(&mut self) -> bool {
        let beyond = self.runs.saturating_sub(self.leaving) > self.shape.limit();
        if beyond {
            self.leaving += 1;
        }
        beyond
    }

    pub(crate) const fn run_ends(&mut self, worked: bool, left: bool) {
        self.runs = self.runs.saturating_sub(1);
        if left {
            self.leaving = self.leaving.saturating_sub(1);
        }
        if !worked {
            self.starting = self.starting.saturating_sub(1);
        }
    }

    /// Whether it can be forgotten.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.ready() == 0 && self.runs == 0 && self.shape.is_plain(now)
    }

    /// When an entry that comes now is tried, if the site is held: a little behind the probe.
    pub(crate) fn held_until(&self, now: crate::clock::Now) -> Option<Timestamp> {
        let hold = self.shape.held(now.mono)?;
        Some(now.wall.after(hold.until.saturating_duration_since(now.mono) + BEHIND_HOLD))
    }
}

/// How many of a class have a place whatever is before them.
const fn least(share: usize) -> usize {
    share.div_ceil(LEAST_SHARE)
}

fn priority(entry: &Entry) -> Priority {
    entry.claim.mail.priority.unwrap_or_default()
}

/// Mail without priority gets an eighth of the turns at least, however much of the other there is.
const OLDEST_EVERY: u64 = 8;
/// What of a lane's room is kept for each class: enough to fill the turns that it has.
const LEAST_SHARE: usize = 16;
/// A lane takes at most this part of the room that is left: with 20,000 places, more than a hundred
/// lanes that do not move leave room for the next one.
const READY_SHARE: usize = 16;
/// The same for runs: with 500, a site still gets 20 as long as 160 are free.
const RUN_SHARE: usize = 8;
/// So that rounding does not put an entry just before the end of a hold.
const BEHIND_HOLD: Duration = Duration::from_millis(20);

#[cfg(test)]
pub(crate) mod tests;
