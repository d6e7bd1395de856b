//! The reporter is the task behind the reports: it writes down what the collector counted, and when a day
//! is over sends each domain that asks for it its report.
//!
//! A report goes out some time after the end of its day, at random, so that not everybody's arrive at
//! midnight (RFC 8460 §4.1), and is tried for a day (§5.5). What was sent is noted behind it, for each
//! address. A restart sends what is not noted: a mail under the same id, which the engine's spool stores
//! once while it has it, a POST with the same report id. So a report comes twice only where the process
//! ends between the sending and the note.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::journal::Line;
use super::send::{Job, Progress, Sender};
use super::{Collector, Day, PostReport, Submitter, Tally};
use crate::clock::{Now, Rng};
use crate::delivery::Engine;
use crate::route::dns::Dns;

/// How reports are made and when they are sent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReporterOptions {
    /// Who makes them.
    pub submitter: Submitter,
    /// How long after the end of a day its reports are sent, at random up to this. Default: 4 h
    /// (RFC 8460 §4.1).
    pub delay: Duration,
    /// How often what was counted is written: what a crash loses. Default: 5 s.
    pub write: Duration,
    /// For how many days a report that could not be made is kept, because the process did not run.
    /// Default: 3.
    pub keep: u64,
    /// Where the delay comes from. Default: the system. For tests.
    pub rng: Rng,
}

impl ReporterOptions {
    /// The defaults.
    #[must_use]
    pub fn new(submitter: Submitter) -> Self {
        Self {
            submitter,
            delay: Duration::from_secs(4 * 3600),
            write: Duration::from_secs(5),
            keep: 3,
            rng: Rng::from_entropy(),
        }
    }
}

/// The running task. Dropping it does what [`TlsReporter::stop`] does, without waiting for it.
#[derive(Debug)]
#[must_use = "the reporter ends when this is dropped"]
pub struct TlsReporter {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl TlsReporter {
    /// Starts the task on the current runtime. `collector` observes `engine`, which sends the reports by
    /// mail; domains are asked by `dns` whether they want any. Without `post` none are sent by HTTPS.
    ///
    /// The task keeps the engine alive: stop it before, or shut the engine down.
    ///
    /// # Errors
    /// What the collector's store said when it was asked what it has.
    ///
    /// # Cancel safety
    /// Dropping the future starts nothing.
    pub async fn start(
        engine: Engine,
        collector: Arc<Collector>,
        dns: Arc<dyn Dns>,
        post: Option<Arc<dyn PostReport>>,
        options: ReporterOptions,
    ) -> io::Result<Self> {
        let store = Arc::clone(collector.store());
        let now = collector.clock().now();
        let today = Day::of(now.wall);
        let before = Tally::read(&store.read(today).await?, collector.bounds());
        collector.on(today, |tally| {
            let live = std::mem::replace(tally, before);
            tally.absorb(live);
        });
        let days = store.days().await?.into_iter().collect();
        let (stop, stopped) = watch::channel(false);
        let delay = drawn(&options);
        let sender = Sender {
            engine,
            dns,
            post,
            store,
            clock: Arc::clone(collector.clock()),
            submitter: options.submitter.clone(),
        };
        let task = Task {
            sender: Arc::new(sender),
            collector,
            options,
            days,
            open: BTreeMap::new(),
            jobs: BTreeMap::new(),
            number: 0,
            running: JoinSet::new(),
            delay,
            next_write: now.mono,
            again: None,
            written: BTreeMap::new(),
        };
        Ok(Self { stop, task: tokio::spawn(task.run(stopped)) })
    }

    /// Ends the task, and writes what was counted. What is not sent yet is sent after the next start.
    ///
    /// # Cancel safety
    /// The task ends even if the future is dropped.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // Fails only when the task panicked.
        let _ = self.task.await;
    }
}

struct Task {
    sender: Arc<Sender>,
    collector: Arc<Collector>,
    options: ReporterOptions,
    /// Days with results that are not reported on, the one that it is now among them.
    days: BTreeSet<Day>,
    /// Days that are being reported on, with the number of domains to do.
    open: BTreeMap<Day, usize>,
    /// What is to be tried, by when; the number keeps those of one instant in order.
    jobs: BTreeMap<(Instant, u64), Job>,
    number: u64,
    running: JoinSet<(Job, Progress)>,
    /// How long after its end the next day is reported on.
    delay: Duration,
    next_write: Instant,
    /// When a day is looked at again that could not be read.
    again: Option<Instant>,
    written: BTreeMap<Day, Written>,
}

/// What was written of a day.
#[derive(Debug, Default, Clone, Copy)]
struct Written {
    /// Octets since all of it was written.
    since: usize,
    /// What all of it took then.
    all: usize,
    /// Nobody knows what is there: all of it is to be written.
    unsure: bool,
}

impl Task {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let now = self.collector.clock().now();
            if now.mono >= self.next_write {
                self.write().await;
                self.next_write = now.mono + self.options.write.max(LEAST_WRITE);
            }
            self.open_days(now).await;
            self.start_jobs(now);
            let job = self.jobs.keys().next().filter(|_| self.running.len() < AT_ONCE);
            let next = job.map_or(self.next_write, |(at, _)| self.next_write.min(*at));
            let wait = next.saturating_duration_since(now.mono).max(Duration::from_millis(1));
            tokio::select! {
                biased;
                // The handle was dropped, or says so.
                _ = stop.changed() => break,
                Some(done) = self.running.join_next() => {
                    if let Ok((job, progress)) = done {
                        self.done(job, progress).await;
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.running.shutdown().await;
        self.write().await;
    }

    /// Writes down what was counted since it was done last.
    async fn write(&mut self) {
        let today = Day::of(self.collector.clock().now().wall);
        for day in self.collector.days() {
            let mut written = self.written.get(&day).copied().unwrap_or_default();
            let whole = written.unsure || written.since > COMPACT.max(written.all.saturating_mul(2));
            let lines = self.collector.on(day, |tally| {
                if whole {
                    tally.unwrite();
                }
                tally.take_changes()
            });
            let Some(lines) = lines else { continue };
            let size = lines.len();
            if size > 0 {
                self.days.insert(day);
            }
            let store = &self.sender.store;
            let result = match (size, whole) {
                (0, _) => Ok(()),
                (_, true) => store.replace(day, lines).await,
                (_, false) => store.append(day, lines).await,
            };
            match result {
                Ok(()) if whole => written = Written { since: 0, all: size, unsure: false },
                Ok(()) => written.since = written.since.saturating_add(size),
                Err(error) => {
                    if !std::mem::replace(&mut written.unsure, true) {
                        tracing::error!(%error, %day, "the TLS results could not be written");
                    }
                    self.collector.on(day, Tally::unwrite);
                }
            }
            self.written.insert(day, written);
            if day < today && !written.unsure {
                self.collector.is_written(day);
                self.written.remove(&day);
            }
        }
    }

    /// Begins with the reports of days whose time has come.
    async fn open_days(&mut self, now: Now) {
        if self.again.is_some_and(|again| now.mono < again) {
            return;
        }
        self.again = None;
        let oldest = Day::of(now.wall).before(self.options.keep);
        while let Some(day) = self.days.first().copied() {
            if now.wall < day.end().after(self.delay) {
                return;
            }
            // What is counted of it is all written first.
            if self.collector.days().iter().any(|known| *known == day && day < Day::of(now.wall)) {
                return;
            }
            if day < oldest {
                tracing::warn!(%day, "the TLS reports of a day come too late, and are dropped");
            } else if let Err(error) = self.open_day(day, now).await {
                tracing::error!(%error, %day, "the TLS results of a day could not be read");
                self.again = Some(now.mono + AGAIN);
                return;
            }
            self.days.remove(&day);
            self.delay = drawn(&self.options);
            if !self.open.contains_key(&day) {
                self.forget(day).await;
            }
        }
    }

    async fn open_day(&mut self, day: Day, now: Now) -> io::Result<()> {
        let lines = self.sender.store.read(day).await?;
        let tally = Arc::new(Tally::read(&lines, self.collector.bounds()));
        let domains: Vec<_> = tally.domains().filter(|domain| !tally.is_over(domain)).cloned().collect();
        if !domains.is_empty() {
            self.open.insert(day, domains.len());
        }
        for domain in domains {
            let until = now.mono + TRIED_FOR;
            self.queue(now.mono, Job::new(day, domain, Arc::clone(&tally), until));
        }
        Ok(())
    }

    fn queue(&mut self, at: Instant, job: Job) {
        self.number += 1;
        self.jobs.insert((at, self.number), job);
    }

    fn start_jobs(&mut self, now: Now) {
        while self.running.len() < AT_ONCE
            && let Some(first) = self.jobs.first_entry()
            && first.key().0 <= now.mono
        {
            let mut job = first.remove();
            let sender = Arc::clone(&self.sender);
            self.running.spawn(async move {
                let progress = sender.send(&mut job).await;
                (job, progress)
            });
        }
    }

    async fn done(&mut self, mut job: Job, progress: Progress) {
        let now = self.collector.clock().mono();
        if progress == Progress::Again {
            let wait = FIRST_AGAIN.saturating_mul(2_u32.saturating_pow(job.tries));
            job.tries += 1;
            if now + wait <= job.until {
                return self.queue(now + wait, job);
            }
            tracing::warn!(domain = %job.domain, day = %job.day, "a TLS report could not be sent");
        }
        let Job { day, domain, .. } = job;
        self.sender.note(day, &Line::Over { domain }).await;
        let left = self.open.get(&day).map_or(0, |left| left.saturating_sub(1));
        if left > 0 {
            self.open.insert(day, left);
        } else {
            self.open.remove(&day);
            self.forget(day).await;
        }
    }

    async fn forget(&self, day: Day) {
        if let Err(error) = self.sender.store.remove(day).await {
            tracing::error!(%error, %day, "the TLS results of a day could not be removed");
        }
    }
}

fn drawn(options: &ReporterOptions) -> Duration {
    let most = u64::try_from(options.delay.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(options.rng.below(most.saturating_add(1)))
}

/// Domains at once: they wait for DNS and web servers, and nothing of it is in a hurry.
const AT_ONCE: usize = 8;
/// How long a report is tried (RFC 8460 §5.5).
const TRIED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Then twice as long each time: nine tries in a day.
const FIRST_AGAIN: Duration = Duration::from_secs(300);
/// When a day is looked at again that could not be read.
const AGAIN: Duration = Duration::from_secs(600);
/// A shorter time would only cost writes.
const LEAST_WRITE: Duration = Duration::from_millis(100);
/// So much is appended before the whole is written anew, or twice what the whole takes.
const COMPACT: usize = 8 * 1024 * 1024;
