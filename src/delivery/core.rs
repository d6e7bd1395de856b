//! The core is the engine's bookkeeping: which entries this process holds, where each is on its way,
//! and which runs there are. One short lock; no I/O, no clock, no task under it.
//!
//! What follows from a change (entries to settle, runs to start, events to tell) is collected in a
//! [`Todo`] and done by the caller after the lock is gone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::attempt::{Cause, Outcome, RunEnd};
use crate::clock::{Gate, Now, Rng, Timestamp};
use crate::message::MessageId;
use crate::net::source::SourceName;
use crate::smtp::address::Domain;
use crate::spool::{Claim, Class, QueueName, REPORT_ENTRY, Token};

use super::care::Care;
use super::gather::is_report;
use super::lane::{Entry, Lane, Limits, Routed, Way};
use super::options::EngineOptions;
use super::per_class::PerClass;
use super::report;
use super::retry::Retry;
use super::routes::{Answer, Books};
use super::schedule::{Part, Schedule};
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
    // Walked only to extend leases, sorted, and to mark all alike.
    pub(super) held: HashMap<(MessageId, u32), Held>,
    /// Places promised to messages that are being stored.
    pub(super) reserved: usize,
    /// Octets of bodies at hand.
    weight: usize,
    /// Runs that exist.
    pub(crate) runs: usize,
    /// Lanes that wanted a run when there was none to be had.
    starved: VecDeque<QueueName>,
    /// Where what senders are to be told waits, and how many of those are held.
    pub(crate) report_queue: QueueName,
    reports: usize,
    pub(crate) closing: bool,
    /// The spool must be opened again: what is tried now could not be settled, and would be tried twice.
    pub(crate) halted: bool,
    /// Others may claim from the same spool.
    shared: bool,
    /// Since when tries count for expiry: the start, or the last jump of the clock.
    since: Now,
    pub(super) options: EngineOptions,
    retry: Retry,
    rng: Rng,
}

#[derive(Debug)]
pub(super) struct Held {
    number: u64,
    gate: Gate,
    weight: usize,
    /// Somebody wanted something of it since it was claimed.
    pub(super) wanted: bool,
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
    pub(crate) fn new(options: EngineOptions, retry: Retry, shared: bool, rng: Rng, now: Now) -> Self {
        Self {
            schedule: Schedule::default(),
            routes: Books::default(),
            lanes: BTreeMap::new(),
            held: HashMap::new(),
            reserved: 0,
            weight: 0,
            runs: 0,
            starved: VecDeque::new(),
            report_queue: report::queue(),
            reports: 0,
            closing: false,
            halted: false,
            shared,
            since: now,
            options,
            retry,
            rng,
        }
    }

    pub(super) const fn limits(&self) -> Limits {
        Limits { ready: self.options.ready_per_site, weight: self.options.bodies_per_site }
    }

    /// How many more entries may be held.
    pub(crate) fn free(&self) -> usize {
        self.options.entries.saturating_sub(self.held.len()).saturating_sub(self.reserved)
    }

    /// The same for a class of mail: the last places are kept for what is more urgent.
    pub(super) fn free_for(&self, class: Class) -> usize {
        let kept = match class {
            Class::Urgent => 0,
            Class::Normal => self.options.entries / KEPT_FROM_NORMAL,
            Class::Bulk => self.options.entries / KEPT_FROM_BULK,
        };
        self.free().saturating_sub(kept)
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
            self.schedule.unblock_all(site);
        }
        (self.options, self.retry) = (options, retry);
    }

    /// The wall clock jumped, or the process starts: what was tried before does not count.
    pub(crate) fn restart_times(&mut self, now: Now) {
        self.since = now;
    }

    /// The next queue to claim from, and how many.
    pub(crate) fn next_claim(&mut self, now: Now) -> Option<(Part, usize)> {
        if self.free() == 0 || self.closing {
            return None;
        }
        self.schedule.advance(now.wall);
        let mut free = PerClass::new();
        Class::ALL.into_iter().for_each(|class| *free.of_mut(class) = self.free_for(class));
        let (lanes, limits) = (&self.lanes, self.limits());
        let (report_queue, reports) = (&self.report_queue, self.reports);
        let open = |class| *free.of(class) > 0;
        let (part, limit) = self.schedule.next(open, |queue, wanted| {
            let free = *free.of(wanted.class);
            match lanes.get(queue) {
                _ if queue == report_queue => REPORTS.saturating_sub(reports).min(free),
                // What a held site's queue has due is put off, and needs no room in the lane; nor does
                // what was cancelled.
                Some(lane) if lane.shape.held(now.mono).is_none() && !wanted.cancelled => {
                    lane.room(wanted.class, limits, free).min(CLAIM)
                }
                _ => free.div_ceil(16).min(CLAIM),
            }
        })?;
        self.reserved += limit;
        Some((part, limit))
    }

    /// An entry was claimed; under that claim its message may be ended until then.
    pub(crate) fn admit(&mut self, mut entry: Entry, until: Now, now: Now, todo: &mut Todo) {
        let claim = &mut entry.claim;
        let key = (claim.token.message, claim.token.entry);
        if let Some(held) = self.held.get_mut(&key).filter(|_| !is_report(claim)) {
            // Its lease ended while we are still at it (a jump of the clock, a long pause): go on, and
            // settle with the newer proof. But somebody else may have had it in between: what has not been
            // ended by now is not, and starts anew.
            held.number = held.number.max(claim.token.number);
            match self.shared {
                true => held.gate.shut(),
                false => held.gate.keep_open(until),
            }
            return;
        }
        let mut weight = claim.body.at_hand.as_ref().map_or(0, bytes::Bytes::len);
        if self.weight.saturating_add(weight) > self.options.bodies {
            claim.body.at_hand = None;
            weight = 0;
        }
        self.weight += weight;
        // There was more to tell meanwhile: what is being reported of it was fenced off.
        let held = Held { number: claim.token.number, gate: entry.gate.clone(), weight, wanted: false };
        let before = self.held.insert(key, held);
        self.reports += usize::from(is_report(&entry.claim) && before.is_none());
        self.weight = self.weight.saturating_sub(before.map_or(0, |held| held.weight));
        self.place(entry, now, todo);
    }

    /// An entry is settled, or no longer ours.
    pub(crate) fn release(&mut self, token: &Token) {
        let key = (token.message, token.entry);
        let is_report = token.entry == REPORT_ENTRY;
        // Of a report entry, a later claim knows more than this one.
        if is_report && self.held.get(&key).is_some_and(|held| held.number != token.number) {
            return;
        }
        if let Some(held) = self.held.remove(&key) {
            held.gate.shut();
            self.weight = self.weight.saturating_sub(held.weight);
            if is_report {
                self.reports = self.reports.saturating_sub(1);
                self.schedule.unblock_all(&self.report_queue);
            }
        }
    }

    /// There may be something to report now, if there is anything to report at all.
    pub(crate) fn may_report(&mut self, now: Timestamp) {
        for class in Class::ALL {
            let part = (self.report_queue.clone(), class);
            if self.schedule.knows(&part) {
                self.schedule.note(&part, now, now);
            }
        }
    }

    /// The number of the latest claim of an entry; `None` when it is not ours any more.
    pub(crate) fn number(&self, token: &Token) -> Option<u64> {
        self.held.get(&(token.message, token.entry)).map(|held| held.number)
    }

    /// Whether an entry is ours by this very claim. It may have been lost and claimed again since.
    pub(crate) fn holds(&self, entry: &Entry) -> bool {
        let token = &entry.claim.token;
        self.held.get(&(token.message, token.entry)).is_some_and(|held| held.gate == entry.gate)
    }

    /// These claims were extended: their messages may be ended until then.
    pub(crate) fn extended(&mut self, tokens: &[Token], until: Now) {
        for token in tokens {
            if let Some(held) = self.held.get(&(token.message, token.entry))
                && held.number == token.number
            {
                held.gate.keep_open(until);
            }
        }
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
        if claim.cancelled {
            // Whether or not there is a route, and room.
            return todo.finish(entry, Verdict::Cancelled);
        }
        if self.closing {
            let due = claim.due;
            return todo.finish(entry, Verdict::Back { queue: None, due });
        }
        if is_report(claim) {
            return todo.finish(entry, Verdict::Reported);
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
        let class = entry.class();
        let (limits, free) = (self.limits(), self.free_for(class) + 1);
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
        if lane.is_full(class, limits, free) {
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
        let stopped = self.closing || self.halted;
        let free = Class::ALL.map(|class| (class, self.free_for(class)));
        let (retry, since) = (&self.retry, self.since);
        let lane = self.lanes.get_mut(site)?;
        if !std::mem::replace(&mut notes.asked, true) {
            lane.run_works();
        }
        let mut taken = None;
        notes.leaves = notes.leaves || lane.run_leaves();
        let stopped = stopped || notes.leaves;
        while !stopped && let Some(entry) = lane.pop() {
            let (claim, token) = (&entry.claim, &entry.claim.token);
            if self.held.get(&(token.message, token.entry)).is_none_or(|held| held.gate != entry.gate) {
                continue; // somebody else has it now
            }
            if !entry.gate.is_open() {
                // It could not be ended. The spool knows whether it is ours still.
                let due = claim.due;
                todo.finish(entry, Verdict::Back { queue: None, due });
                continue;
            }
            if is_over(retry, claim, now, since) {
                todo.finish(entry, Verdict::Expired);
                continue;
            }
            taken = Some(entry);
            break;
        }
        for (class, free) in free {
            if lane.has_room(class, limits, free) {
                todo.wake |= self.schedule.unblock(&(site.clone(), class));
            }
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
                todo.wake |= self.schedule.unblock_all(site);
            }
        }
        if lane.is_idle(now.mono) {
            self.lanes.remove(site);
            todo.wake |= self.schedule.unblock_all(site);
        } else if lane.ready() > 0 {
            todo.start(site);
        }
    }

    /// A lane has lost entries that were not taken by a run.
    pub(crate) fn unblock(&mut self, site: &QueueName) -> bool {
        self.schedule.unblock_all(site)
    }

    /// Once in a sweep: what is over is not kept waiting for a run or a route, and what waits in the queues
    /// of full lanes is looked at, in small numbers.
    pub(crate) fn sweep(&mut self, now: Now, todo: &mut Todo) {
        self.prune(now.mono);
        let (retry, since) = (&self.retry, self.since);
        let over = |claim: &Claim| !is_report(claim) && is_over(retry, claim, now, since);
        let mut entries: Vec<_> = self.lanes.values_mut().flat_map(|lane| lane.take_out(over)).collect();
        entries.extend(self.routes.take_out(over));
        entries.into_iter().for_each(|entry| todo.finish(entry, Verdict::Expired));
        self.schedule.probe();
    }

    /// Forgets lanes that have nothing to do and nothing to remember.
    fn prune(&mut self, now: Instant) {
        let schedule = &mut self.schedule;
        self.lanes.retain(|site, lane| {
            let keep = !lane.is_idle(now);
            if !keep {
                schedule.unblock_all(site);
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
            self.schedule.unblock_all(&site);
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
/// What part of all places normal and bulk mail leave to what is more urgent than they are.
const KEPT_FROM_NORMAL: usize = 16;
const KEPT_FROM_BULK: usize = 8;
/// Reports that are written at once: while a full spool does not take them, there is room for what empties it.
const REPORTS: usize = 256;
/// After so many connections that were lost before an entry was tried, that counts as a try.
const MAX_UNTRIED: u8 = 3;
/// Lanes that are kept for what they remember.
const MAX_LANES: usize = 50_000;
