//! The queue in front of the writer thread: what callers hand over, bounded in octets and calls.
//!
//! New mail is refused when it is full, which is the back-pressure of the whole spool; what makes
//! room again (settlements, claims) has as much space again for itself, so that a flood of new mail
//! cannot keep old mail from being finished.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::{SetAside, SpoolError, Stats};
use super::calls::{Look, Reply, Write};
use super::files::SegmentFiles;
use super::segments::Place;
use super::{DiskCounters, DiskOptions};
use crate::clock::{Clock, SystemClock};

/// Whether the spool takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// What was handed over is finished, nothing more is taken.
    Closing,
    Closed,
    Poisoned,
}

/// What the writer does next.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) looks: Vec<Look>,
    pub(super) writes: Vec<Write>,
    /// Nothing is left and nothing will come.
    pub(super) last: bool,
    /// The spool was found broken elsewhere.
    pub(super) broken: bool,
}

#[derive(Debug)]
struct Pending {
    phase: Phase,
    looks: VecDeque<Look>,
    /// To be synced at once.
    urgent: VecDeque<Write>,
    /// To ride on the next group.
    lazy: VecDeque<Write>,
    octets: usize,
    close: Option<Reply<()>>,
    /// The writer sleeps, and nobody has woken it yet. To wake one that does not is a call of the kernel for
    /// nothing.
    sleeps: bool,
}

/// What the handle, the bodies under way and the writer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: DiskOptions,
    /// The directory of the files with bodies, and the way to them.
    pub(super) segment_dir: PathBuf,
    pub(super) files: Arc<dyn SegmentFiles>,
    pending: Mutex<Pending>,
    wake: Condvar,
    /// Bodies that are staged and named by no message, with their octets where they never left
    /// memory.
    pub(super) staged: Mutex<HashMap<u64, Held>>,
    /// Memory for staged octets, in units of [`UNIT`].
    pub(super) staging: Arc<Semaphore>,
    /// The next number for a message or a staged body.
    next: AtomicU64,
    messages: AtomicU64,
    entries: AtomicU64,
    parked: AtomicU64,
    octets: AtomicU64,
    /// The next number for a file.
    next_segment: AtomicI64,
    /// Octets of the database, of the files that messages name, and of the files of staged bodies.
    pub(super) database: AtomicU64,
    pub(super) segments: AtomicU64,
    pub(super) staged_octets: AtomicU64,
    /// Threads that write staged bodies.
    pub(super) stagers: Arc<Semaphore>,
    asides: Mutex<Vec<SetAside>>,
    pub(super) commits: AtomicU64,
    pub(super) operations: AtomicU64,
    pub(super) checkpoints: AtomicU64,
    pub(super) moved: AtomicU64,
    #[cfg(test)]
    pub(super) break_commit: std::sync::atomic::AtomicBool,
    #[cfg(test)]
    pub(super) fill_disk: std::sync::atomic::AtomicBool,
}

/// A finished staged body.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) size: u64,
    /// `None`: in a file.
    pub(super) whole: Option<Bytes>,
    /// That file.
    pub(super) place: Option<Place>,
    pub(super) crc: u32,
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

impl Shared {
    pub(super) fn new(
        options: DiskOptions,
        segment_dir: PathBuf,
        next: u64,
        next_segment: i64,
        stats: Stats,
    ) -> Self {
        let files = options.files.get();
        let units = options.staging_octets / UNIT;
        Self {
            options,
            segment_dir,
            files,
            pending: Mutex::new(Pending {
                phase: Phase::Open,
                looks: VecDeque::new(),
                urgent: VecDeque::new(),
                lazy: VecDeque::new(),
                octets: 0,
                close: None,
                sleeps: false,
            }),
            wake: Condvar::new(),
            staged: Mutex::default(),
            staging: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            next: AtomicU64::new(next),
            messages: AtomicU64::new(stats.messages),
            entries: AtomicU64::new(stats.entries),
            parked: AtomicU64::new(stats.parked),
            octets: AtomicU64::new(stats.octets),
            next_segment: AtomicI64::new(next_segment),
            database: AtomicU64::new(0),
            segments: AtomicU64::new(0),
            staged_octets: AtomicU64::new(0),
            stagers: Arc::new(Semaphore::new(STAGERS)),
            asides: Mutex::default(),
            commits: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            checkpoints: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            #[cfg(test)]
            break_commit: std::sync::atomic::AtomicBool::new(false),
            #[cfg(test)]
            fill_disk: std::sync::atomic::AtomicBool::new(false),
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes what was set aside, unless nobody asks.
    pub(super) fn note_aside(&self, aside: SetAside) {
        let mut asides = self.asides.lock().unwrap_or_else(PoisonError::into_inner);
        if asides.len() < MAX_ASIDES {
            asides.push(aside);
        }
    }

    pub(super) fn take_asides(&self) -> Vec<SetAside> {
        std::mem::take(&mut *self.asides.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn segment_number(&self) -> i64 {
        self.next_segment.fetch_add(1, Ordering::Relaxed)
    }

    /// How large a file with several bodies gets. Small ones where there is little room, since what is no
    /// longer in use of the last one is not given back.
    pub(super) fn segment_octets(&self) -> u64 {
        let most = self.options.max_octets.map_or(u64::MAX, |limit| limit / 8);
        self.options.segment_octets.min(most).max(SMALLEST_SEGMENT)
    }

    /// Octets on the disk that something is kept in.
    pub(super) fn used(&self) -> u64 {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        read(&self.database) + read(&self.segments) + read(&self.staged_octets)
    }

    pub(super) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            messages: read(&self.messages),
            entries: read(&self.entries),
            parked: read(&self.parked),
            octets: read(&self.octets),
        }
    }

    pub(super) fn set_stats(&self, stats: Stats) {
        self.messages.store(stats.messages, Ordering::Relaxed);
        self.entries.store(stats.entries, Ordering::Relaxed);
        self.parked.store(stats.parked, Ordering::Relaxed);
        self.octets.store(stats.octets, Ordering::Relaxed);
    }

    pub(super) fn counters(&self) -> DiskCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiskCounters {
            commits: read(&self.commits),
            operations: read(&self.operations),
            checkpoints: read(&self.checkpoints),
            moved: read(&self.moved),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Why no call is taken, if none is.
    pub(super) fn check_open(&self) -> Result<(), SpoolError> {
        match self.phase() {
            Phase::Open => Ok(()),
            Phase::Poisoned => Err(SpoolError::Poisoned),
            Phase::Closing | Phase::Closed => Err(SpoolError::Closed),
        }
    }

    /// Hands a write over.
    pub(super) fn write(&self, write: Write, urgent: bool) -> Result<(), SpoolError> {
        let weight = write.weight();
        let (calls, octets) = (self.options.queue_operations, self.options.queue_octets);
        if weight > octets {
            return Err(SpoolError::TooLarge);
        }
        let share = match write {
            Write::Enqueue { .. } => 1,
            _ => 2,
        };
        let mut pending = self.lock();
        refuse(pending.phase)?;
        let waiting = pending.urgent.len() + pending.lazy.len();
        // As many as bodies were staged, which are bounded where they come from; and none may be lost.
        let bounded = matches!(write, Write::Discard { .. });
        if !bounded
            && (waiting >= calls.saturating_mul(share)
                || pending.octets.saturating_add(weight) > octets.saturating_mul(share))
        {
            return Err(SpoolError::Full);
        }
        pending.octets += weight;
        if matches!(write, Write::Flush { .. }) {
            let lazy = std::mem::take(&mut pending.lazy);
            pending.urgent.extend(lazy);
        }
        if urgent {
            pending.urgent.push_back(write);
            self.wake_writer(pending);
        } else {
            pending.lazy.push_back(write);
            if pending.lazy.len() == 1 || pending.lazy.len() == GROUP_CALLS {
                self.wake_writer(pending);
            }
        }
        Ok(())
    }

    /// Hands a look over.
    pub(super) fn look(&self, look: Look) -> Result<(), SpoolError> {
        let mut pending = self.lock();
        refuse(pending.phase)?;
        if pending.looks.len() >= self.options.queue_operations {
            return Err(SpoolError::Full);
        }
        pending.looks.push_back(look);
        self.wake_writer(pending);
        Ok(())
    }

    /// Until there is something to do, or it was waited for so long.
    fn sleep<'a>(
        &self,
        mut pending: MutexGuard<'a, Pending>,
        longest: Option<Duration>,
    ) -> MutexGuard<'a, Pending> {
        pending.sleeps = true;
        let mut pending = match longest {
            None => self.wake.wait(pending).unwrap_or_else(PoisonError::into_inner),
            Some(longest) => {
                self.wake.wait_timeout(pending, longest).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        pending.sleeps = false;
        pending
    }

    /// Wakes the writer if it sleeps, when the lock is free that it takes first.
    fn wake_writer(&self, mut pending: MutexGuard<'_, Pending>) {
        let sleeps = std::mem::take(&mut pending.sleeps);
        drop(pending);
        if sleeps {
            self.wake.notify_one();
        }
    }

    /// Puts a look back that is not at its end, before all others. From the writer: it is answered, if only
    /// by [`Shared::end`].
    pub(super) fn look_again(&self, look: Look) {
        self.lock().looks.push_front(look);
    }

    /// Lets the writer finish what it has and end. False when that was said before.
    pub(super) fn close(&self, reply: Option<Reply<()>>) -> bool {
        let mut pending = self.lock();
        if pending.phase != Phase::Open {
            return false;
        }
        pending.phase = Phase::Closing;
        pending.close = reply;
        self.staging.close();
        self.wake_writer(pending);
        true
    }

    /// Something could not be made durable, and nothing is taken any more.
    pub(super) fn poison(&self) {
        let mut pending = self.lock();
        if matches!(pending.phase, Phase::Open | Phase::Closing) {
            pending.phase = Phase::Poisoned;
            self.staging.close();
            self.wake_writer(pending);
        }
    }

    /// The writer's next work: all that was handed over, up to the size of a group. Without anything
    /// urgent, lazy writes wait until `options.lazy` has passed; `since` remembers their start.
    /// With `busy`, the writer has something to do of its own, and nothing is waited for.
    pub(super) fn take(&self, since: &mut Option<Instant>, busy: bool) -> Turn {
        let mut pending = self.lock();
        let due = loop {
            let waits = !pending.lazy.is_empty();
            let many = pending.lazy.len() >= GROUP_CALLS;
            if busy || many || pending.phase != Phase::Open || !pending.urgent.is_empty() {
                break true;
            }
            if !waits {
                if !pending.looks.is_empty() {
                    break false;
                }
                pending = self.sleep(pending, None);
                continue;
            }
            let now = SystemClock.mono();
            let waited = now.saturating_duration_since(*since.get_or_insert(now));
            if waited >= self.options.lazy || !pending.looks.is_empty() {
                break waited >= self.options.lazy;
            }
            pending = self.sleep(pending, Some(self.options.lazy.saturating_sub(waited)));
        };
        let mut turn = Turn { looks: pending.looks.drain(..).collect(), ..Turn::default() };
        if due {
            *since = None;
            let pending = &mut *pending;
            let mut octets = 0;
            for from in [&mut pending.urgent, &mut pending.lazy] {
                let mut calls = 0;
                while calls < GROUP_CALLS && octets < GROUP_OCTETS {
                    let Some(write) = from.pop_front() else { break };
                    (calls, octets) = (calls + 1, octets + write.weight());
                    turn.writes.push(write);
                }
            }
            pending.octets = pending.octets.saturating_sub(octets);
        }
        turn.broken = pending.phase == Phase::Poisoned;
        turn.last = pending.phase != Phase::Open && pending.urgent.is_empty() && pending.lazy.is_empty();
        turn
    }

    /// Ends the spool in `phase`; whatever is still waiting is answered with what that means.
    pub(super) fn end(&self, phase: Phase) -> Option<Reply<()>> {
        let mut pending = self.lock();
        pending.phase = phase;
        self.staging.close();
        let looks = std::mem::take(&mut pending.looks);
        let urgent = std::mem::take(&mut pending.urgent);
        let lazy = std::mem::take(&mut pending.lazy);
        pending.octets = 0;
        let close = pending.close.take();
        // Answering drops staged bodies, which come back here.
        drop(pending);
        let error = || if phase == Phase::Poisoned { SpoolError::Poisoned } else { SpoolError::Closed };
        looks.into_iter().for_each(|look| look.fail(error()));
        urgent.into_iter().chain(lazy).for_each(|write| write.fail(error()));
        close
    }
}

const fn refuse(phase: Phase) -> Result<(), SpoolError> {
    match phase {
        Phase::Open => Ok(()),
        Phase::Poisoned => Err(SpoolError::Poisoned),
        Phase::Closing | Phase::Closed => Err(SpoolError::Closed),
    }
}

/// More calls or octets in one transaction make it no cheaper (measured), only its answers later.
const GROUP_CALLS: usize = 512;
const GROUP_OCTETS: usize = 4 << 20;

/// More than this is a spool that is damaged as a whole, which is known from the log by then.
const MAX_ASIDES: usize = 1_000;

/// Threads that write staged bodies at a time: more make no disk faster, and the runtime's threads for
/// blocking work are also needed by others.
const STAGERS: usize = 16;

/// Below this, files would be made all the time.
const SMALLEST_SEGMENT: u64 = 256 << 10;

/// A semaphore counts 32 bits at a time: in KiB, no piece comes near.
pub(super) const UNIT: usize = 1024;

#[cfg(test)]
mod tests;
