//! The core is the engine's bookkeeping: which entries this process holds, where each is on its way,
//! and which runs there are. One short lock; no I/O, no clock, no task under it.
//!
//! What follows from a change (entries to settle, runs to start, events to tell) is collected in a
//! [`Todo`] and done by the caller after the lock is gone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::attempt::{Cause, Outcome};
use crate::clock::{Gate, Now, Rng, Timestamp};
use crate::message::MessageId;
use crate::smtp::address::Domain;
use crate::spool::{Claim, Class, QueueName, REPORT_ENTRY, Token};
use crate::table::Table;

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
use super::terms;
use super::todo::Todo;

/// The engine's bookkeeping.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) schedule: Schedule,
    pub(crate) routes: Books,
    pub(crate) lanes: BTreeMap<QueueName, Lane>,
    /// Every entry that this process has claimed and not settled.
    // Walked only to extend leases, sorted, and to mark all alike.
    pub(super) held: Table<(MessageId, u32), Held>,
    /// Places promised to messages that are being stored.
    pub(super) reserved: usize,
    /// Octets of bodies at hand.
    weight: usize,
    /// Runs that exist.
    pub(crate) runs: usize,
    /// Lanes that wanted a run when there was none to be had.
    pub(super) starved: VecDeque<QueueName>,
    /// Where what senders are to be told waits, and how many of those are held.
    pub(crate) report_queue: QueueName,
    reports: usize,
    pub(crate) closing: bool,
    /// The spool must be opened again: what is tried now could not be settled, and would be tried twice.
    pub(crate) halted: bool,
    /// Others may claim from the same spool.
    shared: bool,
    /// Since when tries count for expiry: the start, or the last jump of the clock.
    pub(super) since: Now,
    pub(super) options: EngineOptions,
    pub(super) retry: Retry,
    pub(super) rng: Rng,
}

#[derive(Debug)]
pub(super) struct Held {
    number: u64,
    /// What had become of it when it was claimed: its tries, and how many recipients were settled.
    round: (u32, usize),
    pub(super) gate: Gate,
    weight: usize,
    /// Somebody wanted something of it since it was claimed.
    pub(super) wanted: bool,
}

impl Core {
    pub(crate) fn new(options: EngineOptions, retry: Retry, shared: bool, rng: Rng, now: Now) -> Self {
        Self {
            schedule: Schedule::default(),
            routes: Books::default(),
            lanes: BTreeMap::new(),
            held: Table::default(),
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
        let round = round(claim);
        match self.held.get_mut(&key).filter(|_| !is_report(claim)) {
            // Its lease ended while we are still at it (a jump of the clock, a long pause): go on, and
            // settle with the newer proof. But somebody else may have had it in between: what has not been
            // ended by now is not, and starts anew.
            Some(held) if held.round == round => {
                held.number = held.number.max(claim.token.number);
                held.wanted |= claim.cancelled;
                match self.shared {
                    true => held.gate.shut(),
                    false => held.gate.keep_open(until),
                }
                return;
            }
            // It was settled in between, by somebody else or by a call of ours whose answer was lost: what
            // we know of it is over, and must not be written over what became of it.
            Some(held) => held.gate.shut(),
            None => {}
        }
        let mut weight = claim.body.at_hand.as_ref().map_or(0, bytes::Bytes::len);
        if self.weight.saturating_add(weight) > self.options.bodies {
            claim.body.at_hand = None;
            weight = 0;
        }
        self.weight += weight;
        // There was more to tell meanwhile: what is being reported of it was fenced off.
        let held =
            Held { number: claim.token.number, round, gate: entry.gate.clone(), weight, wanted: false };
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

    /// The same for an entry that may have been claimed again since: that claim stays.
    pub(crate) fn release_entry(&mut self, entry: &Entry) {
        if self.holds(entry) {
            self.release(&entry.claim.token);
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
        self.schedule.probe(&self.report_queue);
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

/// How far an entry has come.
fn round(claim: &Claim) -> (u32, usize) {
    (claim.attempts, claim.recipients.iter().filter(|r| r.state.is_terminal()).count())
}

/// Whether an entry's time is over, so that it is not tried again. Where the process and its clock went on
/// for longer than any wait between two tries, one that was not tried had its chance: its site takes less
/// than is sent to it, or was never found. What its sender wants back at a time is not tried behind it,
/// whenever it was tried last (RFC 2852 §4.1).
pub(super) fn is_over(retry: &Retry, claim: &Claim, now: Now, since: Now) -> bool {
    let had_its_chance = now.mono.saturating_duration_since(since.mono) >= retry.longest();
    // What was held past its deadline and is due since the beginning of time is owed a try.
    let owed = claim.due == Timestamp::default();
    (had_its_chance && !owed && now.wall >= claim.expires)
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
/// Lanes that are kept for what they remember.
const MAX_LANES: usize = 50_000;
