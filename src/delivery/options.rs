//! The engine's options: how much runs at once and how much is kept in memory.

use std::time::Duration;

use crate::clock::Now;
use crate::spool::{Durability, KeepLog};

/// How much an engine does at once. Every number bounds memory or sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Connections at work for one site at once, from each source. Default: 20, which the large providers take; lower
    /// it for a small smarthost. The pool has a limit of its own.
    pub runs_per_site: usize,
    /// Connections at work in total. Default: 500. Raise it together with the pool's limit and the
    /// process's file descriptors.
    pub runs: usize,
    /// Deliveries at once to one local store. Default: 8; a file system does not get faster by more.
    pub local_runs: usize,
    /// Entries that are claimed and in memory, in total. Default: 20,000, some 20 MB without bodies.
    pub entries: usize,
    /// Entries that are ready for one site. Default: 2,000.
    pub ready_per_site: usize,
    /// Octets of bodies kept in memory for one site; what does not fit is read back from the spool.
    /// Default: 64 MiB.
    pub bodies_per_site: usize,
    /// Octets of bodies kept in memory in total. Default: 256 MiB.
    pub bodies: usize,
    /// Routes that are looked up at once. Default: 128; more helps when many destinations' name
    /// servers do not answer.
    pub lookups: usize,
    /// Messages for which receipts collect outcomes. Default: 100,000, some 30 MB.
    pub receipts: usize,
    /// How many recipients one submitted message may have. Default: 1,000.
    pub max_recipients: usize,
    /// How long a claim hides an entry from other processes on the same spool; it is extended while
    /// the entry is worked on, and after a crash this is how long they wait. Default: 10 min.
    pub lease: Duration,
    /// How often the spool is looked through for what others have put there. Default: 60 s.
    pub sweep: Duration,
    /// How soon a settlement is on stable storage. Default: [`Durability::Soon`], with which a power
    /// failure may deliver again what was delivered in the last moment; `Synced` costs throughput.
    pub durability: Durability,
    /// A message of more octets is not returned in a report, only its header. Default: 64 KiB.
    pub max_returned: usize,
    /// When a sender is told that its message is still being tried, once for every destination that
    /// is, unless it asked not to be (RFC 3461 §4.1). Default: never; people are used to 4 hours.
    pub delay_notice: Option<Duration>,
    /// How long what a sender is to be told of a message with several destinations is gathered, from the
    /// first of it on, so that it is told in one report. It is told sooner when there is nothing left to wait
    /// for. Default: 60 s, in which most destinations have answered; more where reports are too many, less
    /// where somebody waits for them.
    pub report_wait: Duration,
    /// How far ahead the release of a message may lie (RFC 4865). Default: 30 days.
    /// [`Relay::offer`](crate::relay::Relay::offer) announces it.
    pub max_hold: Duration,
    /// How long idempotency keys are remembered, counted from when the message is accepted; at least as long
    /// as the message waits. Default: 7 days. Longer than the longest time after which the host program may
    /// submit the same again.
    pub keep_keys: Duration,
    /// How long the results of mail that is submitted with a key are kept, counted from when its last
    /// recipient is settled; zero: not at all. Default: 7 days. Other mail keeps none unless asked to
    /// ([`SubmitOptions::keep`](super::SubmitOptions::keep)), and mail that is accepted from elsewhere never
    /// does.
    pub keep_results: Duration,
    /// Whether what happens is put into the spool's durable log, for [`Engine::log`](super::Engine::log), and
    /// how much of that is kept. Default: `None`, not at all; it costs a row for each message and each outcome.
    pub log: Option<KeepLog>,
}

impl EngineOptions {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            runs_per_site: 20,
            runs: 500,
            local_runs: 8,
            entries: 20_000,
            ready_per_site: 2_000,
            bodies_per_site: 64 << 20,
            bodies: 256 << 20,
            lookups: 128,
            receipts: 100_000,
            max_recipients: 1_000,
            lease: Duration::from_secs(600),
            sweep: Duration::from_secs(60),
            durability: Durability::Soon,
            max_returned: 64 << 10,
            delay_notice: None,
            report_wait: Duration::from_secs(60),
            max_hold: Duration::from_secs(30 * 86_400),
            keep_keys: Duration::from_secs(7 * 86_400),
            keep_results: Duration::from_secs(7 * 86_400),
            log: None,
        }
    }

    /// With what would stop the engine, or make it spin, put right.
    pub(crate) fn sound(mut self) -> Self {
        for at_least_one in [
            &mut self.runs_per_site,
            &mut self.runs,
            &mut self.local_runs,
            &mut self.entries,
            &mut self.ready_per_site,
            &mut self.lookups,
            &mut self.max_recipients,
        ] {
            *at_least_one = (*at_least_one).max(1);
        }
        self.lease = self.lease.max(SHORTEST_LEASE);
        self.sweep = self.sweep.max(SHORTEST_SWEEP);
        self
    }

    /// Until when messages are ended under a claim that was asked for, or extended, at `asked`. A sixth of
    /// the lease is left for the reply to be heard and stored, before somebody else tries it again. Leases
    /// are extended at a third, so that is met only when the storage or this process stands still.
    pub(crate) fn gate_until(&self, asked: Now) -> Now {
        let time = self.lease - self.lease / 6;
        Now { mono: asked.mono + time, wall: asked.wall.after(time) }
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A lease is extended at a third of its length, which must leave time to do so; and the sixth in which no
/// message is ended any more must be longer than clocks of nodes may differ without being noticed, which is 1.5 s
/// in PostgreSQL.
const SHORTEST_LEASE: Duration = Duration::from_secs(10);
/// Looking through the spool costs more than it finds when done more often.
const SHORTEST_SWEEP: Duration = Duration::from_secs(1);
