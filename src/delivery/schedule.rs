//! The schedule knows which queues have something due, and goes round those that also have room.
//!
//! It keeps one small record per queue and class of mail, and never an entry: what waits stays in the spool, and a
//! million entries cost what their queues cost. For each queue it notes the moments at which
//! something falls due, rounded up, so that entries put off together are claimed together. A queue
//! that is due but whose lane is full is set aside until the lane has room: it costs the others
//! nothing, whatever its length.
//!
//! Each class has a round of its own, and the more urgent one goes first. Every fourth turn is normal
//! mail's and every sixteenth bulk mail's all the same, so that nothing waits for ever. A queue's urgent
//! mail is due while the rest of it is set aside.
//!
//! What it notes may be incomplete (another process enqueued, this one was restarted); a sweep over
//! [`Spool::queues`](crate::spool::Spool::queues) corrects it. It may also note too much: then a claim
//! finds nothing. It reads no clock and does no I/O.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::spool::{Class, QueueName, QueueSummary};

use super::per_class::PerClass;

/// A queue's mail of one class.
pub(crate) type Part = (QueueName, Class);

/// The queues, by when they are due.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    // Looked up by key only, never walked: its order decides nothing.
    records: HashMap<Part, Record>,
    /// Each resting queue that has a moment, under its first one.
    wakes: BTreeSet<(Timestamp, Part)>,
    /// The queues that are due, in the order of their turns.
    rings: PerClass<VecDeque<QueueName>>,
    /// Turns taken.
    turns: u64,
    /// Those that are due and whose lanes are full.
    blocked: BTreeSet<Part>,
}

#[derive(Debug, Default)]
struct Record {
    moments: BTreeSet<Timestamp>,
    state: State,
    /// Its moment came from a sweep: behind it there may be more that we know nothing of.
    learnt: bool,
    /// Entries were cancelled that stand before the others in it: they are claimed without asking for room,
    /// since they need none.
    cancelled: bool,
    /// Claimed from next although its lane is full, to see whether what is due has expired.
    probed: bool,
}

/// A claim that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) class: Class,
    /// There may be cancelled entries in front.
    pub(crate) cancelled: bool,
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
    pub(crate) fn note(&mut self, queue: &Part, due: Timestamp, now: Timestamp) {
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
        let (queue, due) = (&(summary.queue.clone(), summary.class), summary.due);
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
    /// aside until [`Schedule::unblock`]; classes that are not `open` are passed over.
    pub(crate) fn next(
        &mut self,
        open: impl Fn(Class) -> bool,
        mut room: impl FnMut(&QueueName, Wanted) -> usize,
    ) -> Option<(Part, usize)> {
        self.turns = self.turns.wrapping_add(1);
        for class in order(self.turns).into_iter().filter(|class| open(*class)) {
            while let Some(queue) = self.rings.of_mut(class).pop_front() {
                let part = (queue, class);
                let Some(record) = self.records.get_mut(&part) else { continue };
                match room(&part.0, Wanted { class, cancelled: record.cancelled }) {
                    0 if std::mem::take(&mut record.probed) => {
                        record.state = State::Claiming { again: true };
                        return Some((part, PROBE));
                    }
                    0 => {
                        record.state = State::Blocked;
                        self.blocked.insert(part);
                    }
                    room => {
                        record.state = State::Claiming { again: false };
                        return Some((part, room));
                    }
                }
            }
        }
        None
    }

    /// Entries of `queue` were cancelled: they are claimed, whether or not its lane has room.
    pub(crate) fn cancelled(&mut self, queue: &Part) {
        self.fall_due(queue);
        if let Some(record) = self.records.get_mut(queue) {
            record.cancelled = true;
        }
        self.unblock(queue);
    }

    /// Lets a few entries of each queue be claimed whose lane is full: the first in it are over first,
    /// and would else wait for a room that may never come.
    /// Not of `but`, where nothing expires.
    pub(crate) fn probe(&mut self, but: &QueueName) {
        for part in std::mem::take(&mut self.blocked) {
            if part.0 == *but {
                self.blocked.insert(part);
            } else if let Some(record) = self.records.get_mut(&part).filter(|r| r.state == State::Blocked) {
                (record.state, record.probed) = (State::Due, true);
                self.rings.of_mut(part.1).push_back(part.0);
            }
        }
    }

    /// What was claimed of a queue whose lane is full had expired, so that the next may have, too.
    pub(crate) fn probe_on(&mut self, queue: &Part) {
        if let Some(record) = self.records.get_mut(queue) {
            record.probed = true;
        }
    }

    /// A claim of `queue` came back. `full`: with as many as were asked for, so that there may be
    /// more; `cancelled`: nothing but cancelled entries. Returns whether the queue may hold entries whose
    /// time is not known: sweep soon.
    pub(crate) fn claimed(&mut self, queue: &Part, full: bool, cancelled: bool) -> bool {
        let Some(record) = self.records.get_mut(queue) else { return false };
        let again = matches!(record.state, State::Claiming { again: true });
        record.state = State::Resting;
        record.cancelled &= again || full && cancelled;
        let learnt = !full && std::mem::take(&mut record.learnt);
        if full || again {
            self.fall_due(queue);
        } else {
            self.rest(queue);
        }
        learnt
    }

    /// A lane has room again for mail of this class. Returns whether its queue waited for that.
    pub(crate) fn unblock(&mut self, queue: &Part) -> bool {
        match self.records.get_mut(queue) {
            Some(record) if record.state == State::Blocked => {
                record.state = State::Due;
                self.blocked.remove(queue);
                self.rings.of_mut(queue.1).push_back(queue.0.clone());
                true
            }
            _ => false,
        }
    }

    /// The same for all classes.
    pub(crate) fn unblock_all(&mut self, queue: &QueueName) -> bool {
        Class::ALL.into_iter().fold(false, |any, class| self.unblock(&(queue.clone(), class)) | any)
    }

    /// When the next queue falls due.
    pub(crate) fn wake(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(moment, _)| *moment)
    }

    /// Whether something of a queue falls due, as far as is known.
    pub(crate) fn knows(&self, queue: &Part) -> bool {
        self.records.contains_key(queue)
    }

    /// How many queues have a record.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    fn fall_due(&mut self, queue: &Part) {
        let record = self.records.entry(queue.clone()).or_default();
        match record.state {
            State::Resting => {
                if let Some(first) = record.moments.first() {
                    self.wakes.remove(&(*first, queue.clone()));
                }
                record.state = State::Due;
                self.rings.of_mut(queue.1).push_back(queue.0.clone());
            }
            State::Claiming { .. } => record.state = State::Claiming { again: true },
            State::Due | State::Blocked => {}
        }
    }

    fn insert(&mut self, queue: &Part, moment: Timestamp) {
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
    fn rest(&mut self, queue: &Part) {
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

/// Who goes first in which turn.
const fn order(turn: u64) -> [Class; 3] {
    use Class::{Bulk, Normal, Urgent};
    if turn.is_multiple_of(BULK_EVERY) {
        [Bulk, Urgent, Normal]
    } else if turn.is_multiple_of(NORMAL_EVERY) {
        [Normal, Urgent, Bulk]
    } else {
        [Urgent, Normal, Bulk]
    }
}

/// `due` on a grid that is coarser the further away it is: at most a 16th of the wait later.
fn round_up(due: Timestamp, wait: Duration) -> Timestamp {
    let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let grid = (wait / 32).max(1).checked_next_power_of_two().unwrap_or(u64::MAX).min(COARSEST_MS);
    Timestamp::from_millis(due.as_millis().div_ceil(grid).saturating_mul(grid))
}

/// What other mail has of the turns while there is urgent mail all the time, as in a lane.
const NORMAL_EVERY: u64 = 4;
const BULK_EVERY: u64 = 16;
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

    fn queue(name: &str) -> Part {
        (QueueName::new(name), Class::Normal)
    }

    fn next(schedule: &mut Schedule, room: impl Fn(&str) -> usize) -> Option<(Part, usize)> {
        schedule.next(|_| true, |queue, _| room(queue.as_str()))
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
            let Some((name, _)) = next(&mut schedule, |_| 10) else { break };
            // Only "long" always gives as many as were asked for.
            schedule.claimed(&name, name == names[0], false);
            turns.push(name.0.to_string());
        }
        assert_eq!(turns, ["long", "b", "c", "long", "long", "long", "long"]);
    }

    #[test]
    fn a_full_lane_takes_its_queue_out_of_the_round_until_it_has_room() {
        let mut schedule = Schedule::default();
        let (dead, live) = (queue("dead"), queue("live"));
        schedule.note(&dead, T0, T0);
        schedule.note(&live, T0, T0);
        let room = |name: &str| if name == "dead" { 0 } else { 5 };
        assert_eq!(next(&mut schedule, room), Some((live.clone(), 5)));
        assert_eq!(next(&mut schedule, room), None);
        schedule.note(&dead, T0, T0);
        assert_eq!(next(&mut schedule, |_| 9), None, "more mail does not put it back");
        schedule.unblock(&dead);
        assert_eq!(next(&mut schedule, |_| 2), Some((dead, 2)));
    }

    #[test]
    fn of_a_queue_whose_lane_is_full_a_few_are_looked_at_now_and_then() {
        let mut schedule = Schedule::default();
        let full = queue("full");
        schedule.note(&full, T0, T0);
        assert_eq!(next(&mut schedule, |_| 0), None);
        schedule.probe(&QueueName::new("reports"));
        assert_eq!(next(&mut schedule, |_| 0), Some((full.clone(), PROBE)));
        schedule.claimed(&full, true, false);
        assert_eq!(next(&mut schedule, |_| 0), None, "until the next time");
        schedule.probe(&QueueName::new("reports"));
        next(&mut schedule, |_| 0).unwrap();
        schedule.probe_on(&full);
        schedule.claimed(&full, true, false);
        assert_eq!(
            next(&mut schedule, |_| 0),
            Some((full.clone(), PROBE)),
            "all had expired, and there may be more"
        );
        schedule.claimed(&full, false, false);
        assert_eq!(next(&mut schedule, |_| 0), None);
        assert!(schedule.unblock(&full));
        assert_eq!(next(&mut schedule, |_| 3), Some((full, 3)));
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
            assert_eq!(next(&mut schedule, |_| 1), Some((name.clone(), 1)));
            assert_eq!(next(&mut schedule, |_| 1), None);
            schedule.claimed(&name, false, false);
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
        next(&mut schedule, |_| 1).unwrap();
        schedule.note(&name, T0, T0);
        schedule.note(&name, at(60), T0);
        schedule.claimed(&name, false, false);
        assert_eq!(next(&mut schedule, |_| 1), Some((name.clone(), 1)));
        schedule.claimed(&name, false, false);
        assert!(schedule.wake().is_some_and(|wake| wake >= at(60)));
    }

    #[test]
    fn a_queue_known_only_from_a_sweep_asks_for_another_one() {
        let mut schedule = Schedule::default();
        let name = queue("q");
        schedule
            .learn(&QueueSummary { queue: name.0.clone(), class: Class::Normal, entries: 9, due: T0 }, T0);
        next(&mut schedule, |_| 5).unwrap();
        assert!(!schedule.claimed(&name, true, false), "there is more that is due");
        next(&mut schedule, |_| 5).unwrap();
        assert!(schedule.claimed(&name, false, false), "and more that is not");
        schedule.learn(
            &QueueSummary { queue: name.0.clone(), class: Class::Normal, entries: 9, due: at(60) },
            T0,
        );
        schedule.note(&name, at(30), T0);
        schedule.advance(at(40));
        next(&mut schedule, |_| 5).unwrap();
        assert!(schedule.claimed(&name, false, false));
        assert!(schedule.wake().is_some_and(|wake| wake >= at(60) && wake < at(64)));
        schedule.learn(
            &QueueSummary { queue: name.0, class: Class::Normal, entries: 0, due: Timestamp::NEVER },
            T0,
        );
    }

    #[test]
    fn urgent_mail_is_due_while_the_rest_of_its_queue_is_set_aside() {
        let mut schedule = Schedule::default();
        let (bulk, urgent) = ((QueueName::new("q"), Class::Bulk), (QueueName::new("q"), Class::Urgent));
        schedule.note(&bulk, T0, T0);
        assert_eq!(next(&mut schedule, |_| 0), None);
        schedule.note(&urgent, T0, T0);
        assert_eq!(next(&mut schedule, |_| 3), Some((urgent, 3)));
        assert_eq!(next(&mut schedule, |_| 3), None);
        schedule.unblock(&bulk);
        assert_eq!(schedule.next(|class| class != Class::Bulk, |_, _| 3), None, "no room kept for bulk");
        assert_eq!(next(&mut schedule, |_| 3), Some((bulk, 3)), "it was passed over, not forgotten");
    }

    #[test]
    fn urgent_mail_goes_first_and_the_rest_has_its_turns() {
        let mut schedule = Schedule::default();
        let mut turns = Vec::new();
        for class in [Class::Bulk, Class::Normal, Class::Urgent] {
            schedule.note(&(QueueName::new("q"), class), T0, T0);
        }
        for _ in 0..160 {
            let (part, _) = next(&mut schedule, |_| 1).unwrap();
            schedule.claimed(&part, true, false);
            turns.push(part.1);
        }
        let of = |class| turns.iter().filter(|turn| **turn == class).count();
        assert_eq!(turns[..3], [Class::Urgent; 3]);
        assert_eq!((of(Class::Urgent), of(Class::Normal), of(Class::Bulk)), (120, 30, 10));
    }

    #[test]
    fn cancelled_entries_are_claimed_without_room_until_none_is_left() {
        let mut schedule = Schedule::default();
        let part = queue("full");
        let ask = |schedule: &mut Schedule| {
            schedule.next(|_| true, |_, wanted| if wanted.cancelled { 2 } else { 0 })
        };
        schedule.note(&part, T0, T0);
        assert_eq!(ask(&mut schedule), None);
        schedule.cancelled(&part);
        assert_eq!(ask(&mut schedule), Some((part.clone(), 2)));
        schedule.claimed(&part, true, true);
        assert_eq!(ask(&mut schedule), Some((part.clone(), 2)), "there may be more");
        schedule.cancelled(&part);
        schedule.claimed(&part, true, false);
        assert_eq!(ask(&mut schedule), Some((part.clone(), 2)), "more were cancelled during the claim");
        schedule.claimed(&part, true, false);
        assert_eq!(ask(&mut schedule), None, "the others need room");
    }
}
