//! Runs of a carrier against scripted peers, and what to look at afterwards.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "every test file uses a part of the kit, and a test fails by panicking"
)]

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use postroad::BoxFuture;
use postroad::attempt::{Carrier, CarrierOptions, Job, Outcome, Report, RunEnd, Trial, Work};
use postroad::clock::{Clock, Now, SystemClock, Timestamp};
use postroad::hop::Require;
use postroad::message::{Content, ReadBody};
use postroad::net::connect::{Connect, TcpConnect};
use postroad::net::tls::{ClientTls, TlsOptions};
use postroad::route::Hosts;
use postroad::smtp::address::{EhloName, ForwardPath, ReversePath};
use postroad::smtp::params::{Mail, Rcpt};

use crate::peer::{Authority, Peer, Talk};

/// Wall time that a test can move.
#[derive(Debug, Default)]
pub struct Wall(AtomicU64);

impl Wall {
    /// So many seconds after 1970.
    pub fn at(seconds: u64) -> Arc<Self> {
        let clock = Self::default();
        clock.set(seconds);
        Arc::new(clock)
    }
    pub fn set(&self, seconds: u64) {
        self.0.store(seconds * 1000, Ordering::SeqCst);
    }
}

impl Clock for Wall {
    fn now(&self) -> Now {
        Now { wall: Timestamp::from_millis(self.0.load(Ordering::SeqCst)), ..SystemClock.now() }
    }
}

pub fn options() -> CarrierOptions {
    CarrierOptions::new(EhloName::new("client.test").unwrap())
}

pub fn carrier_with(
    options: CarrierOptions,
    connect: Arc<dyn Connect>,
    roots: Option<&Authority>,
    clock: Arc<dyn Clock>,
) -> Carrier {
    carrier_trusting(options, connect, roots.map(|authority| &*authority.pem), clock)
}

/// With the roots in this PEM text.
pub fn carrier_trusting(
    options: CarrierOptions,
    connect: Arc<dyn Connect>,
    roots: Option<&str>,
    clock: Arc<dyn Clock>,
) -> Carrier {
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    if let Some(roots) = roots {
        trust = trust.trust_pem(roots.as_bytes()).unwrap();
    }
    let tls = ClientTls::new(trust, Arc::clone(&clock)).unwrap();
    Carrier::new(options, connect, tls, clock)
}

pub fn over_tcp(roots: Option<&Authority>) -> Carrier {
    carrier_with(options(), Arc::new(TcpConnect::new()), roots, Wall::at(IN_2026))
}

pub fn in_memory(peer: &Peer, options: CarrierOptions) -> Carrier {
    carrier_with(options, Arc::new(peer.clone()), None, Arc::new(SystemClock))
}

pub fn mail() -> Mail {
    Mail::new(ReversePath::parse("s@client.test").unwrap())
}

pub fn rcpts(to: &[&str]) -> Vec<Rcpt> {
    to.iter().map(|to| Rcpt::new(ForwardPath::parse(to).unwrap())).collect()
}

pub fn job(require: Require) -> Job {
    Job {
        mail: mail(),
        recipients: rcpts(&["r@mx.test"]),
        content: Content::Whole(Bytes::from_static(b"Subject: x\r\n\r\nHello\r\n")),
        require,
        gate: None,
    }
}

pub fn big(octets: usize) -> Job {
    let line = [b'x'; 78];
    let body: Vec<u8> = line.iter().chain(b"\r\n").copied().cycle().take(octets / 80 * 80).collect();
    Job { content: Content::Whole(body.into()), ..job(Require::Opportunistic) }
}

/// Content that comes in pieces.
struct Pieces(VecDeque<io::Result<Bytes>>);

impl ReadBody for Pieces {
    fn chunk(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        let next = self.0.pop_front().transpose();
        Box::pin(async { next })
    }
}

/// A job whose content comes in these pieces.
pub fn streamed(size: u64, pieces: Vec<io::Result<Bytes>>) -> Job {
    let reader = Box::new(Pieces(pieces.into()));
    Job { content: Content::Stream { size, reader }, ..job(Require::Opportunistic) }
}

#[derive(Default)]
pub struct List {
    pub jobs: VecDeque<Job>,
    pub reports: Vec<Report>,
    pub trials: Vec<Trial>,
}

impl List {
    pub fn of(jobs: impl IntoIterator<Item = Job>) -> Self {
        Self { jobs: jobs.into_iter().collect(), reports: Vec::new(), trials: Vec::new() }
    }
    pub fn delivered(&self) -> usize {
        let all = |o: &Vec<Outcome>| o.iter().all(|o| matches!(o, Outcome::Delivered(_)));
        self.reports.iter().filter(|r| matches!(r, Report::Outcomes(o) if all(o))).count()
    }
}

impl Work for List {
    fn next(&mut self) -> BoxFuture<'_, Option<Job>> {
        let job = self.jobs.pop_front();
        assert!(job.is_some(), "a run asks where it was told that there is nothing");
        Box::pin(async { job })
    }
    fn is_drained(&self) -> bool {
        self.jobs.is_empty()
    }
    fn tried(&mut self, trial: Trial) {
        self.trials.push(trial);
    }
    fn done(&mut self, report: Report) {
        self.reports.push(report);
    }
}

pub async fn run(
    carrier: &Carrier,
    peer: &Peer,
    require: Require,
    jobs: impl IntoIterator<Item = Job>,
) -> (RunEnd, List) {
    run_at(carrier, &Hosts::new(vec![peer.host("mx.test")], require), jobs).await
}

pub async fn run_at(carrier: &Carrier, hosts: &Hosts, jobs: impl IntoIterator<Item = Job>) -> (RunEnd, List) {
    let mut work = List::of(jobs);
    let permit = carrier.try_permit(&hosts.site()).unwrap();
    let end = carrier.run(hosts, permit, &mut work).await;
    (end, work)
}

pub fn first(list: &List) -> &Outcome {
    match &list.reports[0] {
        Report::Outcomes(outcomes) => &outcomes[0],
        Report::NotAttempted => panic!("not attempted"),
    }
}

/// A server that takes everything.
pub fn taker() -> impl Fn(Talk) -> BoxFuture<'static, ()> + Send + Sync + 'static {
    |mut talk| {
        Box::pin(async move {
            talk.open("PIPELINING CHUNKING").await;
            talk.take(usize::MAX).await;
        })
    }
}

pub const IN_2026: u64 = 1_770_000_000;
