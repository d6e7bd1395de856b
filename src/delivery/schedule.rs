//! The schedule knows which queues have something due, and goes round those that also have room.
//!
//! It keeps one small record per queue and never an entry: what waits stays in the spool, and a
//! million entries cost what their queues cost. For each queue it notes the moments at which
//! something falls due, rounded up, so that entries put off together are claimed together. A queue
//! that is due but whose lane is full is set aside until the lane has room: it costs the others
//! nothing, whatever its length.
//!
//! What it notes may be incomplete (another process enqueued, this one was restarted); a sweep over
//! [`Spool::queues`](crate::spool::Spool::queues) corrects it. It may also note too much: then a claim
//! finds nothing. It reads no clock and does no I/O.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::spool::{QueueName, QueueSummary};

/// The queues, by when they are due.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    // Looked up by key only, never walked: its order decides nothing.
    records: HashMap<QueueName, Record>,
    /// Each resting queue that has a moment, under its first one.
    wakes: BTreeSet<(Timestamp, QueueName)>,
    /// The queues that are due, in the order of their turns.
    ring: VecDeque<QueueName>,
    /// Those that are due and whose lanes are full.
    blocked: BTreeSet<QueueName>,
}

#[derive(Debug, Default)]
struct Record {
    moments: BTreeSet<Timestamp>,
    state: State,
    /// Its moment came from a sweep: behind it there may be more that we know nothing of.
    learnt: bool,
    /// Claimed from next although its lane is full, to see whether what is due has expired.
    probed: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is due.
    #[default]
    Resting,
    /// In the ring.
    Due,
    /// A claim is under way; `again`: something fell due meanwhile.
    Claiming { again: bool },
    /// Due, and its lane is full.
    Blocked,
}

impl Schedule {
    /// An entry of `queue` is due at `due`.
    pub(crate) fn note(&mut self, queue: &QueueName, due: Timestamp, now: Timestamp) {
        if due <= now {
            return self.fall_due(queue);
        }
        let wait = due.since(now);
        if wait > HORIZON {
            return; // the sweep finds it when it comes near
        }
        self.insert(queue, round_up(due, wait));
    }

    /// What a sweep found out about a queue.
    pub(crate) fn learn(&mut self, summary: &QueueSummary, now: Timestamp) {
        let (queue, due) = (&summary.queue, summary.due);
        if due <= now {
            self.fall_due(queue);
            if let Some(record) = self.records.get_mut(queue) {
                record.learnt = true;
            }
            return;
        }
        let wait = due.since(now);
        if wait > HORIZON {
            return;
        }
        let moment = round_up(due, wait);
        let known = self.records.get(queue).is_some_and(|r| r.moments.range(due..=moment).next().is_some());
        if !known {
            self.insert(queue, moment);
            if let Some(record) = self.records.get_mut(queue) {
                record.learnt = true;
            }
        } else if let Some(record) = self.records.get_mut(queue) {
            record.learnt = false;
        }
    }

    /// Moves the queues whose moment has come to the end of the ring.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        while let Some((moment, queue)) = self.wakes.first().cloned() {
            if moment > now {
                break;
            }
            self.wakes.pop_first();
            if let Some(record) = self.records.get_mut(&queue) {
                record.moments = record.moments.split_off(&now.after(Duration::from_millis(1)));
            }
            self.fall_due(&queue);
        }
    }

    /// The queue whose turn it is, and how many entries it has room for. Queues without room are set
    /// aside until [`Schedule::unblock`].
    pub(crate) fn next(&mut self, mut room: impl FnMut(&QueueName) -> usize) -> Option<(QueueName, usize)> {
        while let Some(queue) = self.ring.pop_front() {
            let Some(record) = self.records.get_mut(&queue) else { continue };
            match room(&queue) {
                0 if std::mem::take(&mut record.probed) => {
                    record.state = State::Claiming { again: true };
                    return Some((queue, PROBE));
                }
                0 => {
                    record.state = State::Blocked;
                    self.blocked.insert(queue);
                }
                room => {
                    record.state = State::Claiming { again: false };
                    return Some((queue, room));
                }
            }
        }
        None
    }

    /// Lets a few entries of each queue be claimed whose lane is full: the first in it are over first,
    /// and would else wait for a room that may never come.
    pub(crate) fn probe(&mut self) {
        for queue in std::mem::take(&mut self.blocked) {
            if let Some(record) = self.records.get_mut(&queue).filter(|r| r.state == State::Blocked) {
                (record.state, record.probed) = (State::Due, true);
                self.ring.push_back(queue);
            }
        }
    }

    /// What was claimed of a queue whose lane is full had expired, so that the next may have, too.
    pub(crate) fn probe_on(&mut self, queue: &QueueName) {
        if let Some(record) = self.records.get_mut(queue) {
            record.probed = true;
        }
    }

    /// A claim of `queue` came back. `full`: with as many as were asked for, so that there may be
    /// more. Returns whether the queue may hold entries whose time is not known: sweep soon.
    pub(crate) fn claimed(&mut self, queue: &QueueName, full: bool) -> bool {
        let Some(record) = self.records.get_mut(queue) else { return false };
        let again = matches!(record.state, State::Claiming { again: true });
        record.state = State::Resting;
        let learnt = !full && std::mem::take(&mut record.learnt);
        if full || again {
            self.fall_due(queue);
        } else {
            self.rest(queue);
        }
        learnt
    }

    /// A lane has room again. Returns whether its queue waited for that.
    pub(crate) fn unblock(&mut self, queue: &QueueName) -> bool {
        match self.records.get_mut(queue) {
            Some(record) if record.state == State::Blocked => {
                record.state = State::Due;
                self.blocked.remove(queue);
                self.ring.push_back(queue.clone());
                true
            }
            _ => false,
        }
    }

    /// When the next queue falls due.
    pub(crate) fn wake(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(moment, _)| *moment)
    }

    /// How many queues have a record.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    fn fall_due(&mut self, queue: &QueueName) {
        let record = self.records.entry(queue.clone()).or_default();
        match record.state {
            State::Resting => {
                if let Some(first) = record.moments.first() {
                    self.wakes.remove(&(*first, queue.clone()));
                }
                record.state = State::Due;
                self.ring.push_back(queue.clone());
            }
            State::Claiming { .. } => record.state = State::Claiming { again: true },
            State::Due | State::Blocked => {}
        }
    }

    fn insert(&mut self, queue: &QueueName, moment: Timestamp) {
        let record = self.records.entry(queue.clone()).or_default();
        let first = record.moments.first().copied();
        record.moments.insert(moment);
        if record.state == State::Resting && first.is_none_or(|first| moment < first) {
            if let Some(first) = first {
                self.wakes.remove(&(first, queue.clone()));
            }
            self.wakes.insert((moment, queue.clone()));
        }
    }

    /// Puts a queue that is not due back under its first moment, or forgets it.
    fn rest(&mut self, queue: &QueueName) {
        match self.records.get(queue).map(|record| record.moments.first().copied()) {
            Some(Some(first)) => {
                self.wakes.insert((first, queue.clone()));
            }
            Some(None) => {
                self.records.remove(queue);
            }
            None => {}
        }
    }
}

/// `due` on a grid that is coarser the further away it is: at most a 16th of the wait later.
fn round_up(due: Timestamp, wait: Duration) -> Timestamp {
    let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let grid = (wait / 32).max(1).checked_next_power_of_two().unwrap_or(u64::MAX).min(COARSEST_MS);
    Timestamp::from_millis(due.as_millis().div_ceil(grid).saturating_mul(grid))
}

/// Entries that are looked at for having expired where there is no room: few, for each that has not is
/// written back.
const PROBE: usize = 8;
/// The coarsest grid, so that mail with a set time is at most about a minute late.
const COARSEST_MS: u64 = 65_536;
/// What is due later is left to the sweep: this bounds the moments per queue to some 500, whatever
/// the number of entries.
const HORIZON: Duration = Duration::from_secs(6 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Class;

    const T0: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn at(secs: u64) -> Timestamp {
        T0.after(Duration::from_secs(secs))
    }

    fn queue(name: &str) -> QueueName {
        QueueName::new(name)
    }

    #[test]
    fn queues_take_turns_whatever_their_length() {
        let mut schedule = Schedule::default();
        let names = ["long", "b", "c"].map(queue);
        for name in &names {
            schedule.note(name, T0, T0);
        }
        let mut turns = Vec::new();
        for _ in 0..7 {
            let Some((name, _)) = schedule.next(|_| 10) else { break };
            // Only "long" always gives as many as were asked for.
            schedule.claimed(&name, name == names[0]);
            turns.push(name.to_string());
        }
        assert_eq!(turns, ["long", "b", "c", "long", "long", "long", "long"]);
    }

    #[test]
    fn a_full_lane_takes_its_queue_out_of_the_round_until_it_has_room() {
        let mut schedule = Schedule::default();
        let (dead, live) = (queue("dead"), queue("live"));
        schedule.note(&dead, T0, T0);
        schedule.note(&live, T0, T0);
        let room = |name: &QueueName| if name.as_str() == "dead" { 0 } else { 5 };
        assert_eq!(schedule.next(room), Some((live.clone(), 5)));
        assert_eq!(schedule.next(room), None);
        schedule.note(&dead, T0, T0);
        assert_eq!(schedule.next(|_| 9), None, "more mail does not put it back");
        schedule.unblock(&dead);
        assert_eq!(schedule.next(|_| 2), Some((dead, 2)));
    }

    #[test]
    fn of_a_queue_whose_lane_is_full_a_few_are_looked_at_now_and_then() {
        let mut schedule = Schedule::default();
        let full = queue("full");
        schedule.note(&full, T0, T0);
        assert_eq!(schedule.next(|_| 0), None);
        schedule.probe();
        assert_eq!(schedule.next(|_| 0), Some((full.clone(), PROBE)));
        schedule.claimed(&full, true);
        assert_eq!(schedule.next(|_| 0), None, "until the next time");
        schedule.probe();
        schedule.next(|_| 0).unwrap();
        schedule.probe_on(&full);
        schedule.claimed(&full, true);
        assert_eq!(
            schedule.next(|_| 0),
            Some((full.clone(), PROBE)),
            "all had expired, and there may be more"
        );
        schedule.claimed(&full, false);
        assert_eq!(schedule.next(|_| 0), None);
        assert!(schedule.unblock(&full));
        assert_eq!(schedule.next(|_| 3), Some((full, 3)));
    }

    #[test]
    fn a_queue_wakes_at_each_of_its_moments_and_is_then_forgotten() {
        let mut schedule = Schedule::default();
        let name = queue("q");
        for secs in [100, 10, 50] {
            schedule.note(&name, at(secs), T0);
        }
        let mut woken = Vec::new();
        while let Some(wake) = schedule.wake() {
            schedule.advance(wake);
            assert_eq!(schedule.next(|_| 1), Some((name.clone(), 1)));
            assert_eq!(schedule.next(|_| 1), None);
            schedule.claimed(&name, false);
            woken.push(wake.since(T0).as_secs_f64());
        }
        assert_eq!(woken.len(), 3);
        for (woken, noted) in woken.iter().zip([10.0, 50.0, 100.0]) {
            assert!((noted..noted * 1.0625).contains(woken), "{woken} for {noted}");
        }
        assert_eq!(schedule.len(), 0);
    }

    #[test]
    fn half_a_million_entries_cost_a_bounded_number_of_moments() {
        let mut schedule = Schedule::default();
        let name = queue("dead");
        for n in 0..500_000 {
            schedule.note(&name, at(1).after(Duration::from_millis(n * 40)), T0);
        }
        assert!(schedule.records[&name].moments.len() < 600, "{}", schedule.records[&name].moments.len());
        schedule.note(&name, at(30 * 86_400), T0);
        assert!(*schedule.records[&name].moments.last().unwrap() < at(6 * 3600));
    }

    #[test]
    fn what_falls_due_during_a_claim_is_not_forgotten() {
        let mut schedule = Schedule::default();
        let name = queue("q");
        schedule.note(&name, T0, T0);
        schedule.next(|_| 1).unwrap();
        schedule.note(&name, T0, T0);
        schedule.note(&name, at(60), T0);
        schedule.claimed(&name, false);
        assert_eq!(schedule.next(|_| 1), Some((name.clone(), 1)));
        schedule.claimed(&name, false);
        assert!(schedule.wake().is_some_and(|wake| wake >= at(60)));
    }

    #[test]
    fn a_queue_known_only_from_a_sweep_asks_for_another_one() {
        let mut schedule = Schedule::default();
        let name = queue("q");
        schedule.learn(&QueueSummary { queue: name.clone(), class: Class::Normal, entries: 9, due: T0 }, T0);
        schedule.next(|_| 5).unwrap();
        assert!(!schedule.claimed(&name, true), "there is more that is due");
        schedule.next(|_| 5).unwrap();
        assert!(schedule.claimed(&name, false), "and more that is not");
        schedule
            .learn(&QueueSummary { queue: name.clone(), class: Class::Normal, entries: 9, due: at(60) }, T0);
        schedule.note(&name, at(30), T0);
        schedule.advance(at(40));
        schedule.next(|_| 5).unwrap();
        assert!(schedule.claimed(&name, false));
        assert!(schedule.wake().is_some_and(|wake| wake >= at(60) && wake < at(64)));
        schedule.learn(
            &QueueSummary { queue: name, class: Class::Normal, entries: 0, due: Timestamp::NEVER },
            T0,
        );
    }
}
