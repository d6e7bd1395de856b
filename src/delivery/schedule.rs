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
    /// more, which are claimed at once or after a `pause`; `cancelled`: nothing but cancelled entries. Returns
    /// whether the queue may hold entries whose time is not known: sweep soon.
    pub(crate) fn claimed(
        &mut self,
        queue: &Part,
        full: bool,
        cancelled: bool,
        pause: Option<Timestamp>,
    ) -> bool {
        let Some(record) = self.records.get_mut(queue) else { return false };
        let again = matches!(record.state, State::Claiming { again: true });
        record.state = State::Resting;
        record.cancelled &= again || full && cancelled;
        let learnt = !full && std::mem::take(&mut record.learnt);
        match pause.filter(|_| !record.cancelled) {
            None if full || again => self.fall_due(queue),
            pause => {
                record.moments.extend(pause.filter(|_| full || again));
                self.rest(queue);
            }
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
mod tests;
