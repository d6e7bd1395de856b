//! Which runs there are: the core's side of them. A run is counted in where a lane wants one, asks for entries,
//! and is counted out with what it found.

use std::time::Instant;

use crate::attempt::{Outcome, RunEnd};
use crate::clock::Now;
use crate::net::source::SourceName;
use crate::spool::{Class, QueueName};

use super::core::{Core, is_over};
use super::lane::{Entry, Way};
use super::settle::Verdict;
use super::shape::{Hold, Pushed};
use super::todo::{SiteNews, Todo};

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

    /// Whether nothing is ready for a run of a lane.
    pub(crate) fn has_nothing(&self, site: &QueueName) -> bool {
        self.lanes.get(site).is_none_or(|lane| lane.ready() == 0)
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
}

/// After so many connections that were lost before an entry was tried, that counts as a try.
const MAX_UNTRIED: u8 = 3;
