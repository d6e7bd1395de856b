//! A simulation is one seed, and the history that follows from it.
//!
//! From the seed come the messages (their sizes, recipients, priorities and wishes), the hosts and what is
//! wrong with them and when, the spool's failures, the crashes of the process, the jumps of the clock and
//! the engine's options. Then it runs, and after each step and at the end it is checked that
//!
//! - what was accepted is delivered, reported or still queued, each recipient on its own, and what was
//!   refused is not stored;
//! - every recipient comes to exactly one end, no later than its deadline and what it takes to try once;
//! - an observer is told of that end once at most in the life of a process, and after it is stored;
//! - what counts as delivered was taken by a host, with the octets that were submitted; nobody gets what is
//!   not for him, and nobody gets it twice unless the host could not say that it took it, or the process
//!   ended in between;
//! - a failure is reported to the sender once, unless it did not want that, and no report is reported on;
//! - a domain whose hosts are well is not held up by others, nor by a clock that is set back;
//! - what is to be sent at a time is not sent before, by the clock as it is;
//! - what is held is not sent and does not expire; what was cancelled before it was in flight is not sent, and
//!   nobody else is cancelled; an order reaches all that it is about;
//! - a key never stands for two messages, nor for two contents, also for a caller that begins again after a crash;
//! - of a recipient that stands for others, each of those is sent the message once.
//!
//! Each life of the process has a runtime of its own, which a crash drops as it stands.

mod callers;
mod clock;
mod content;
mod ledger;
mod life;
mod lists;
mod options;
mod orders;
mod peers;
mod plan;
mod state;
mod submit;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::ledger::Ledger;
use self::life::{End, Life};
pub use self::options::{NoHistory, SimulationOptions};
use self::plan::Plan;
use super::time::{START, paused};
use super::{FaultySpool, Network};
use crate::delivery::EngineBuilder;
use crate::spool::{MemorySpool, Spool};

/// One seed, to be run.
///
/// ```
/// use postroad::testing::{Simulation, SimulationOptions};
///
/// let mut options = SimulationOptions::new();
/// options.messages = 10;
/// for seed in 0..3 {
///     // The error says what was broken and what led there.
///     let history = Simulation::new(seed).options(options.clone()).run()?;
///     assert!(history.messages <= 10);
/// }
/// # Ok::<(), postroad::testing::Broken>(())
/// ```
#[must_use = "nothing happens before run()"]
pub struct Simulation {
    seed: u64,
    options: SimulationOptions,
    spool: Option<Box<dyn Fn() -> Arc<dyn Spool>>>,
    engine: Option<Box<dyn Fn(EngineBuilder) -> EngineBuilder>>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct History {
    /// The seed it came from.
    pub seed: u64,
    /// Messages that were accepted.
    pub messages: u64,
    /// Their recipients, and those of reports.
    pub recipients: u64,
    /// How often a host took a message for a recipient.
    pub deliveries: u64,
    /// Of those, how often one that had it already.
    pub doubles: u64,
    /// Recipients that were refused for good, and that ran out of time.
    pub failed: u64,
    /// Recipients that ran out of time.
    pub expired: u64,
    /// Reports that came into being.
    pub reports: u64,
    /// Recipients that were cancelled.
    pub cancelled: u64,
    /// Messages that were sent on to those for whom a recipient stood.
    pub sent_on: u64,
    /// Messages that were submitted again under their keys.
    pub repeats: u64,
    /// Orders about what waits.
    pub orders: u64,
    /// Lives of the process.
    pub lives: u64,
    /// Large bodies that a host broke off in the middle.
    pub cuts: u64,
    /// Calls of the spool.
    pub calls: u64,
    /// The time that passed in it.
    pub time: Duration,
    /// A digest of all lines: the same for the same seed.
    pub hash: u64,
    /// The lines, where they are kept.
    pub lines: Vec<String>,
}

impl History {
    /// Adds the counts and the time of another, as for a sum over many seeds.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.messages, other.messages),
            (&mut self.recipients, other.recipients),
            (&mut self.deliveries, other.deliveries),
            (&mut self.doubles, other.doubles),
            (&mut self.failed, other.failed),
            (&mut self.expired, other.expired),
            (&mut self.reports, other.reports),
            (&mut self.cancelled, other.cancelled),
            (&mut self.sent_on, other.sent_on),
            (&mut self.repeats, other.repeats),
            (&mut self.orders, other.orders),
            (&mut self.lives, other.lives),
            (&mut self.cuts, other.cuts),
            (&mut self.calls, other.calls),
        ] {
            *sum += more;
        }
        self.time += other.time;
    }
}

/// A promise that was broken, or a history that could not be run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broken {
    /// The seed.
    pub seed: u64,
    /// What else the history follows from.
    pub options: SimulationOptions,
    /// Which promise, and by what.
    pub what: String,
    /// What happened before.
    pub lines: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        let (seed, options) = (self.seed, &self.options);
        writeln!(f, "seed {seed}: {}", self.what)?;
        writeln!(
            f,
            "the same again: \"{seed} {options}\".parse::<Simulation>(), with the same spool and engine"
        )?;
        write!(
            f,
            "of those of this crate: POSTROAD_REPLAY='{seed} {options}' cargo test --all-features --test simulation replay"
        )
    }
}

impl std::error::Error for Broken {}

impl Simulation {
    /// The history of this seed, with the default options.
    pub fn new(seed: u64) -> Self {
        Self { seed, options: SimulationOptions::new(), spool: None, engine: None }
    }

    /// With other options. They are a part of the history: the same seed with others is another one.
    pub fn options(mut self, options: SimulationOptions) -> Self {
        self.options = options;
        self
    }

    /// Keeps every line of the history.
    pub const fn record(mut self) -> Self {
        self.options.record = true;
        self
    }

    /// Over spools that this makes, one for each history: for an implementation of one's own. It has to
    /// keep what it is given while the process "crashes", and must not need a runtime of its own or an I/O
    /// driver. Default: a memory spool.
    pub fn spool(mut self, spool: impl Fn() -> Arc<dyn Spool> + 'static) -> Self {
        self.spool = Some(Box::new(spool));
        self
    }

    /// With engines that this has changed. Routes, connector, clock, random source and retry curve are the
    /// simulation's.
    pub fn engine(mut self, change: impl Fn(EngineBuilder) -> EngineBuilder + 'static) -> Self {
        self.engine = Some(Box::new(change));
        self
    }

    /// Runs it. To be called from a plain `#[test]`, not from within a runtime.
    ///
    /// # Errors
    /// [`Broken`]: a promise does not hold.
    pub fn run(&self) -> Result<History, Broken> {
        let history = self.once(self.options.record);
        match history {
            // The same once more, to tell what led there.
            Err(broken) if !self.options.record => Err(self.once(true).err().unwrap_or(broken)),
            history => history,
        }
    }

    fn once(&self, record: bool) -> Result<History, Broken> {
        let plan = Arc::new(Plan::new(self.seed, &self.options));
        let network = Network::new();
        let inner = match &self.spool {
            Some(spool) => spool(),
            None => Arc::new(MemorySpool::new()),
        };
        let ledger = Ledger::new(Arc::clone(&plan), network.clone(), &self.options, record);
        let spool = FaultySpool::watched(inner, ledger.clone());
        let (mut at, mut wall, mut next) = (Duration::ZERO, START, 0);
        loop {
            let life = Life {
                plan: &plan,
                network: &network,
                spool: &spool,
                ledger: &ledger,
                change: self.engine.as_deref(),
                at,
                wall,
            };
            let runtime = paused().map_err(|error| ledger.broken(&format!("no runtime: {error}")))?;
            let end = runtime.block_on(life.run(next));
            // What is in there ends where it stands.
            drop(runtime);
            ledger.look();
            ledger.verdict()?;
            match end {
                End::Over { at } => return Ok(ledger.history(at, spool.calls())),
                End::Again { at: when, wall: shown, next: event } => (at, wall, next) = (when, shown, event),
            }
        }
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("seed", &self.seed).field("options", &self.options).finish()
    }
}
