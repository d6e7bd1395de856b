//! The core is the engine's bookkeeping: which entries this process holds, where each is on its way,
//! and which runs there are. One short lock; no I/O, no clock, no task under it.
//!
//! What follows from a change (entries to settle, runs to start, events to tell) is collected in a
//! [`Todo`] and done by the caller after the lock is gone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::attempt::{Cause, Outcome, RunEnd};
use crate::clock::{Now, Rng, Timestamp};
use crate::message::MessageId;
use crate::net::source::SourceName;
use crate::smtp::address::Domain;
use crate::smtp::params::Rcpt;
use crate::spool::{Claim, QueueName, Token};

use super::care::Care;
use super::lane::{Entry, Lane, Limits, Routed, Way};
use super::options::EngineOptions;
use super::retry::Retry;
use super::routes::{Answer, Books};
use super::schedule::Schedule;
use super::settle::Verdict;
use super::shape::{Hold, Pushed};
use super::terms;
use super::todo::{SiteNews, Todo};

/// The engine's bookkeeping.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) schedule: Schedule,
    pub(crate) routes: Books,
    pub(crate) lanes: BTreeMap<QueueName, Lane>,
    /// Every entry that this process has claimed and not settled.
    // Walked only to extend leases, sorted.
    held: HashMap<(MessageId, u32), Held>,
    /// Places promised to messages that are being stored.
    reserved: usize,
    /// Octets of bodies at hand.
    weight: usize,
    /// Runs that exist.
    pub(crate) runs: usize,
    /// Lanes that wanted a run when there was none to be had.
    starved: VecDeque<QueueName>,
    pub(crate) closing: bool,
    /// The spool must be opened again: what is tried now could not be settled, and would be tried twice.
    pub(crate) halted: bool,
    /// Since when tries count for expiry: the start, or the last jump of the clock.
    since: Now,
    options: EngineOptions,
    retry: Retry,
    rng: Rng,
}

#[derive(Debug)]
struct Held {
    number: u64,
    weight: usize,
}

/// How a message that is about to be stored is stored.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Per entry: its queue and when it is due.
    pub(crate) places: Vec<(QueueName, Timestamp)>,
    /// Claimed from birth until then, and handed over in memory.
    pub(crate) lease: Option<Timestamp>,
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RunNotes {
    /// It asked for work.
    pub(crate) asked: bool,
    /// It was told that it is one too many: it gets nothing more.
    pub(crate) leaves: bool,
    /// It tried an entry.
    pub(crate) tried: bool,
    /// It got nowhere with an entry: gave it back, or the host fell silent.
    pub(crate) failed: bool,
}

impl Core {
    pub(crate) fn new(options: EngineOptions, retry: Retry, rng: Rng, now: Now) -> Self {
        Self {
            schedule: Schedule::default(),
            routes: Books::default(),
            lanes: BTreeMap::new(),
            held: HashMap::new(),
            reserved: 0,
            weight: 0,
            runs: 0,
            starved: VecDeque::new(),
            closing: false,
            halted: false,
            since: now,
            options,
            retry,
            rng,
        }
    }

    const fn limits(&self) -> Limits {
        Limits { ready: self.options.ready_per_site, weight: self.options.bodies_per_site }
    }

    /// How many more entries may be held.
    pub(crate) fn free(&self) -> usize {
        self.options.entries.saturating_sub(self.held.len()).saturating_sub(self.reserved)
    }

    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Goes on under other options: what is beyond a new limit is finished, and no more begun.
    pub(crate) fn reload(&mut self, options: EngineOptions, retry: Retry) {
        for (site, lane) in &mut self.lanes {
            let runs = match lane.way {
                Way::Hosts(_) => options.runs_per_site,
                Way::Local(_) => options.local_runs,
            };
            lane.shape.set_limit(runs);
            // Where a limit is higher now nobody else would look.
            self.schedule.unblock(site);
        }
        (self.options, self.retry) = (options, retry);
    }

    /// The wall clock jumped, or the process starts: what was tried before does not count.
    pub(crate) fn restart_times(&mut self, now: Now) {
        self.since = now;
    }

    /// Decides how a message with these entries is stored that is not sent before `release`, and keeps
    /// places for them. `sources` has where each goes from, where there are several.
    pub(crate) fn plan(
        &mut self,
        units: &[(Domain, Vec<Rcpt>)],
        sources: &[Option<SourceName>],
        care: Care,
        release: Timestamp,
        now: Now,
    ) -> Plan {
        let (limits, free) = (self.limits(), self.free());
        let routes = self.routes.of(care);
        let mut fits = 0;
        let mut places = Vec::with_capacity(units.len());
        for (at, (destination, _)) in units.iter().enumerate() {
            let Some(Ok(routed)) = routes.get(destination, now.mono) else {
                places.push((QueueName::from(destination), release));
                fits += usize::from(routes.waiting_for(destination) < limits.ready / 2);
                continue;
            };
            let queue = routed.queue(sources.get(at).and_then(Option::as_ref));
            let lane = self.lanes.get(&queue);
            let held = lane.and_then(|lane| lane.held_until(now));
            // Half of a lane is left for what waits in the spool.
            let room = lane.is_none_or(|lane| lane.room(limits, free) > lane.ready());
            fits += usize::from(held.is_none() && room);
            places.push((queue, held.map_or(release, |held| held.max(release))));
        }
        // One lease covers the whole message: entries without room are given back afterwards.
        let now_or_later = release <= now.wall && !self.closing;
        let lease = now_or_later && free >= units.len() && fits > 0 && fits * 2 >= units.len();
        if lease {
            self.reserved += units.len();
        }
        Plan { places, lease: lease.then(|| now.wall.after(self.options.lease)) }
    }

    /// Gives places back that [`Core::plan`] kept.
    pub(crate) fn unreserve(&mut self, places: usize) {
        self.reserved = self.reserved.saturating_sub(places);
    }

    /// The next queue to claim from, and how many.
    pub(crate) fn next_claim(&mut self, now: Now) -> Option<(QueueName, usize)> {
        let free = self.free();
        if free == 0 || self.closing {
            return None;
        }
        self.schedule.advance(now.wall);
        let (lanes, limits) = (&self.lanes, self.limits());
        let (queue, limit) = self.schedule.next(|queue| match lanes.get(queue) {
            // What a held site's queue has due is put off, and needs no room in the lane.
            Some(lane) if lane.shape.held(now.mono).is_none() => lane.room(limits, free).min(CLAIM),
            _ => free.div_ceil(16).min(CLAIM),
        })?;
        self.reserved += limit;
        Some((queue, limit))
    }

    /// An entry was claimed.
    pub(crate) fn admit(&mut self, mut entry: Entry, now: Now, todo: &mut Todo) {
        let claim = &mut entry.claim;
        let key = (claim.token.message, claim.token.entry);
        if let Some(held) = self.held.get_mut(&key) {
            // Its lease ended while we are still at it (a jump of the clock, a long pause): go on, and
            // settle with the newer proof.
            held.number = held.number.max(claim.token.number);
            return;
        }
        let mut weight = claim.body.at_hand.as_ref().map_or(0, bytes::Bytes::len);
        if self.weight.saturating_add(weight) > self.options.bodies {
            claim.body.at_hand = None;
            weight = 0;
        }
        self.weight += weight;
        self.held.insert(key, Held { number: claim.token.number, weight });
        self.place(entry, now, todo);
    }

    /// An entry is settled, or no longer ours.
    pub(crate) fn release(&mut self, token: &Token) {
        if let Some(held) = self.held.remove(&(token.message, token.entry)) {
            self.weight = self.weight.saturating_sub(held.weight);
        }
    }

    /// The number of the latest claim of an entry; `None` when it is not ours any more.
    pub(crate) fn number(&self, token: &Token) -> Option<u64> {
        self.held.get(&(token.message, token.entry)).map(|held| held.number)
    }

    /// All claims that are held.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let token = |(key, held): (&(MessageId, u32), &Held)| Token {
            message: key.0,
            entry: key.1,
            number: held.number,
        };
        let mut tokens: Vec<_> = self.held.iter().map(token).collect();
        tokens.sort_unstable();
        tokens
    }

    /// Puts an entry where it belongs next.
    pub(crate) fn place(&mut self, entry: Entry, now: Now, todo: &mut Todo) {
        let claim = &entry.claim;
        if self.closing {
            let due = claim.due;
            return todo.finish(entry, Verdict::Back { queue: None, due });
        }
        if self.is_over(claim, now) {
            return todo.finish(entry, Verdict::Expired);
        }
        let routes = self.routes.of(entry.care());
        match routes.get(&claim.destination, now.mono).cloned() {
            Some(answer) => self.routed(entry, &answer, now, todo),
            None => {
                routes.wait(entry);
                todo.wake = true;
            }
        }
    }

    /// Whether there are entries, and all of them have expired.
    pub(crate) fn are_over(&self, entries: &[Entry], now: Now) -> bool {
        !entries.is_empty() && entries.iter().all(|entry| self.is_over(&entry.claim, now))
    }

    fn is_over(&self, claim: &Claim, now: Now) -> bool {
        is_over(&self.retry, claim, now, self.since)
    }

    /// A route was found, or not.
    pub(crate) fn answered(
        &mut self,
        (destination, care): &(Domain, Care),
        answer: Answer,
        now: Now,
        todo: &mut Todo,
    ) {
        let waiting = self.routes.of(*care).answered(destination, answer.clone(), now.mono);
        for entry in waiting {
            self.routed(entry, &answer, now, todo);
        }
    }

    fn routed(&mut self, entry: Entry, answer: &Answer, now: Now, todo: &mut Todo) {
        match answer {
            Ok(routed) => self.enter_lane(entry, routed, now, todo),
            Err(error) if error.is_transient() => {
                todo.finish(entry, Verdict::All(Outcome::Deferred(Cause::Route(*error))));
            }
            Err(error) => todo.finish(entry, Verdict::All(Outcome::Failed(Cause::Route(*error)))),
        }
    }

    fn enter_lane(&mut self, mut entry: Entry, routed: &Arc<Routed>, now: Now, todo: &mut Todo) {
        entry.routed = Some(Arc::clone(routed));
        let (limits, free) = (self.limits(), self.free() + 1);
        let runs = match routed.way {
            Way::Hosts(_) => self.options.runs_per_site,
            Way::Local(_) => self.options.local_runs,
        };
        let site = routed.queue(entry.source.as_ref());
        let lane = self.lanes.entry(site.clone()).or_insert_with(|| Lane::new(routed.way.clone(), runs));
        (lane.way, lane.source) = (routed.way.clone(), routed.source(entry.source.as_ref()).cloned());
        if let Some(hold) = lane.shape.held(now.mono) {
            let verdict = if hold.since >= self.since.mono {
                Verdict::All(hold.outcome())
            } else {
                // Found out before the clock jumped: no try as far as expiry goes.
                let due = lane.held_until(now).unwrap_or(now.wall);
                Verdict::Back { queue: Some(site), due }
            };
            return todo.finish(entry, verdict);
        }
        if lane.is_full(limits, free) {
            let due = entry.claim.due;
            return todo.finish(entry, Verdict::Back { queue: Some(site), due });
        }
        lane.push(entry, limits);
        if lane.runs() == 0 || lane.wants_run(now.mono, self.options.runs.saturating_sub(self.runs)) {
            todo.start(&site);
        }
    }

    /// Counts a run in, if the lane wants one, and says how its site is reached, and from where.
    pub(crate) fn begin_run(&mut self, site: &QueueName, now: Instant) -> Option<(Way, Option<SourceName>)> {
        let free = self.options.runs.saturating_sub(self.runs);
        let lane = self.lanes.get_mut(site).filter(|_| !self.closing)?;
        if (free == 0 || self.halted) && lane.ready() > 0 && lane.runs() == 0 {
            self.starve(site);
            return None;
        }
        if self.halted || !lane.wants_run(now, free) {
            return None;
        }
        lane.run_begins();
        self.runs += 1;
        Some((lane.way.clone(), lane.source.clone()))
    }

    /// There was no permit for a run that was counted in.
    pub(crate) fn no_permit(&mut self, site: &QueueName) {
        self.runs = self.runs.saturating_sub(1);
        if let Some(lane) = self.lanes.get_mut(site) {
            lane.run_ends(false, false);
            self.starve(site);
        }
    }

    fn starve(&mut self, site: &QueueName) {
        if let Some(lane) = self.lanes.get_mut(site)
            && !std::mem::replace(&mut lane.starved, true)
        {
            self.starved.push_back(site.clone());
        }
    }

    /// A lane that wanted a run, in turn.
    pub(crate) fn next_starved(&mut self) -> Option<QueueName> {
        while let Some(site) = self.starved.pop_front() {
            if let Some(lane) = self.lanes.get_mut(&site) {
                lane.starved = false;
                return Some(site);
            }
        }
        None
    }

    pub(crate) fn has_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    /// The next entry for a run of a lane.
    pub(crate) fn take(
        &mut self,
        site: &QueueName,
        notes: &mut RunNotes,
        now: Now,
        todo: &mut Todo,
    ) -> Option<Entry> {
        let limits = self.limits();
        let (free, stopped) = (self.free(), self.closing || self.halted);
        let (retry, since) = (&self.retry, self.since);
        let lane = self.lanes.get_mut(site)?;
        if !std::mem::replace(&mut notes.asked, true) {
            lane.run_works();
        }
        let mut taken = None;
        notes.leaves = notes.leaves || lane.run_leaves();
        let stopped = stopped || notes.leaves;
        while !stopped && let Some(entry) = lane.pop() {
            let claim = &entry.claim;
            if !self.held.contains_key(&(claim.token.message, claim.token.entry)) {
                continue; // somebody else has it now
            }
            if is_over(retry, claim, now, since) {
                todo.finish(entry, Verdict::Expired);
                continue;
            }
            taken = Some(entry);
            break;
        }
        if lane.has_room(limits, free) {
            todo.wake |= self.schedule.unblock(site);
        }
        if lane.wants_run(now.mono, self.options.runs.saturating_sub(self.runs)) {
            todo.start(site);
        }
        taken
    }

    /// A run took an entry and did not try it.
    pub(crate) fn untried(&mut self, site: &QueueName, mut entry: Entry, now: Now, todo: &mut Todo) {
        entry.untried = entry.untried.saturating_add(1);
        let closing = self.closing;
        let Some(lane) = self.lanes.get_mut(site).filter(|_| !closing) else {
            return self.place(entry, now, todo);
        };
        let outcome = match lane.shape.held(now.mono) {
            Some(hold) => hold.outcome(),
            None if entry.untried < MAX_UNTRIED => return lane.push_front(entry),
            None => Outcome::Deferred(lane.way.lost()),
        };
        todo.finish(entry, Verdict::All(outcome));
    }

    /// The site took part in a transaction.
    pub(crate) fn worked(&mut self, site: &QueueName, todo: &mut Todo) {
        if self.lanes.get_mut(site).is_some_and(|lane| lane.shape.worked()) {
            todo.news.push(SiteNews::Released { site: site.clone() });
        }
    }

    /// A run ended; `None` when it was broken off.
    pub(crate) fn run_ended(
        &mut self,
        site: &QueueName,
        end: Option<RunEnd>,
        notes: RunNotes,
        now: Now,
        todo: &mut Todo,
    ) {
        self.runs = self.runs.saturating_sub(1);
        todo.wake |= self.closing;
        if let Some(starved) = self.next_starved() {
            todo.start(&starved);
        }
        let Some(lane) = self.lanes.get_mut(site) else { return };
        lane.run_ends(notes.asked, notes.leaves);
        let cause = match end {
            Some(RunEnd::Unreachable(cause)) => Some(cause),
            // Connections that open and break, over and over, are no better than none.
            Some(RunEnd::Lost) | None if notes.failed && !notes.tried && lane.shape.barren() => {
                Some(lane.way.lost())
            }
            _ => None,
        };
        if let Some(cause) = cause.filter(|_| !self.closing) {
            let others = lane.runs();
            let pushed = lane.shape.unreachable(now.mono, others, cause.clone(), &self.retry, &self.rng);
            if let Pushed::Held(wait) = pushed {
                if let Some(outcome) = lane.shape.held(now.mono).map(Hold::outcome) {
                    lane.drain().for_each(|entry| todo.finish(entry, Verdict::All(outcome.clone())));
                }
                todo.news.push(SiteNews::Held { site: site.clone(), cause, wait });
                todo.wake |= self.schedule.unblock(site);
            }
        }
        if lane.is_idle(now.mono) {
            self.lanes.remove(site);
            todo.wake |= self.schedule.unblock(site);
        } else if lane.ready() > 0 {
            todo.start(site);
        }
    }

    /// Once in a sweep: what is over is not kept waiting for a run or a route, and what waits in the queues
    /// of full lanes is looked at, in small numbers.
    pub(crate) fn sweep(&mut self, now: Now, todo: &mut Todo) {
        self.prune(now.mono);
        let (retry, since) = (&self.retry, self.since);
        let over = |entry: &Entry| is_over(retry, &entry.claim, now, since);
        let lanes = self.lanes.values_mut().flat_map(|lane| lane.take_if(over));
        let entries: Vec<_> = lanes.chain(self.routes.take_if(over)).collect();
        entries.into_iter().for_each(|entry| todo.finish(entry, Verdict::Expired));
        self.schedule.probe();
    }

    /// Forgets lanes that have nothing to do and nothing to remember.
    fn prune(&mut self, now: Instant) {
        let schedule = &mut self.schedule;
        self.lanes.retain(|site, lane| {
            let keep = !lane.is_idle(now);
            if !keep {
                schedule.unblock(site);
            }
            keep
        });
        // Sites that are down, each with a small record: past any number that one host serves.
        while self.lanes.len() > MAX_LANES {
            let Some(site) =
                self.lanes.iter().find(|(_, l)| l.ready() == 0 && l.runs() == 0).map(|(s, _)| s.clone())
            else {
                break;
            };
            self.lanes.remove(&site);
            self.schedule.unblock(&site);
        }
    }

    /// Gives back what is claimed and not being tried.
    pub(crate) fn give_back(&mut self, todo: &mut Todo) {
        let waiting = self.routes.drain();
        let ready = self.lanes.values_mut().flat_map(Lane::drain);
        for entry in waiting.into_iter().chain(ready) {
            let due = entry.claim.due;
            todo.finish(entry, Verdict::Back { queue: None, due });
        }
    }
}

/// Whether an entry's time is over, so that it is not tried again. Where the process and its clock went on
/// for longer than any wait between two tries, one that was not tried had its chance: its site takes less
/// than is sent to it, or was never found. What its sender wants back at a time is not tried behind it,
/// whenever it was tried last (RFC 2852 §4.1).
fn is_over(retry: &Retry, claim: &Claim, now: Now, since: Now) -> bool {
    let had_its_chance = now.mono.saturating_duration_since(since.mono) >= retry.longest();
    (had_its_chance && now.wall >= claim.expires)
        || retry.is_over(claim.attempts, claim.due, claim.expires, now.wall, since.wall)
        || terms::return_at(&claim.mail, claim.accepted).is_some_and(|at| now.wall >= at)
}

/// Entries per claim: enough to spread the cost of a transaction, few enough for turns to be short.
const CLAIM: usize = 256;
/// After so many connections that were lost before an entry was tried, that counts as a try.
const MAX_UNTRIED: u8 = 3;
/// Lanes that are kept for what they remember.
const MAX_LANES: usize = 50_000;
