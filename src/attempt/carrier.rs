//! A carrier takes jobs to the hosts of a route, now, over connections from its pool.
//!
//! It is what a queue's lane and a mailer have in common. A *run* has a permit, gets a connection to one
//! of the route's hosts, and carries [`Job`]s over it for as long as its [`Work`] has any. The carrier
//! decides nothing about when to try again: it says what happened, one [`Report`] per job.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Cause;
use super::budget::Budget;
use super::quirks::QuirkBook;
use super::reach::ReachBook;
use super::run::Run;
use super::signatory::Signatory;
use super::trial::Trial;
use crate::BoxFuture;
use crate::clock::{Clock, Gate};
use crate::hop::{Host, Require, TlsStart};
use crate::message::{Content, Sign};
use crate::net::connect::{Connect, ConnectError};
use crate::net::source::{Sending, SourceName, Sources};
use crate::net::tls::ClientTls;
use crate::net::{ClientOptions, Connection, Dialer, Quirks};
use crate::pool::{AcquireError, Keep, Lease, Limits, Pool, Usage};
use crate::route::Hosts;
use crate::smtp::address::EhloName;
use crate::smtp::params::{Mail, Rcpt};

use super::Outcome;

/// One message to recipients that share a route.
#[derive(Debug)]
pub struct Job {
    /// The sender and the parameters.
    pub mail: Mail,
    /// From 1 to 100 recipients.
    pub recipients: Vec<Rcpt>,
    /// The octets as they go over the wire, what we prepend included: lines that end in CRLF and do not
    /// begin with NUL, unless the mail is binary. Where they are sent by BDAT they are not looked at again.
    pub content: Content,
    /// What TLS this message needs; what the route needs is asked besides.
    pub require: Require,
    /// What stands before the last octet of the message: once it is shut, the message is not ended, and
    /// the job not attempted. For those whose claim on a message ends. `None`: nothing does.
    pub gate: Option<Gate>,
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// One outcome per recipient, in order.
    Outcomes(Vec<Outcome>),
    /// No server said anything about it and none can have taken it: requeue it at once, and count no
    /// attempt.
    NotAttempted,
}

/// Gives jobs to a run and takes its reports.
pub trait Work: Send {
    /// The next job for this run. Must not wait for one to turn up: `None` when nothing is ready,
    /// and the run looks again after each report.
    fn next(&mut self) -> BoxFuture<'_, Option<Job>>;

    /// Whether [`next`](Self::next) would have nothing now. Asked each time before it, the first time too; while
    /// it is so, [`next`](Self::next) is not called. A run that pipelines looks behind each job for one more,
    /// mostly in vain: say so where that is cheaper to know than to ask, and never of a job that is ready. The
    /// default does not know, and says no.
    fn is_drained(&self) -> bool {
        false
    }

    /// A connection was tried for this run. Those since the last job that was taken are about whatever is
    /// taken next; when nothing is, about all that waits. The default does nothing.
    fn tried(&mut self, trial: Trial) {
        let _ = trial;
    }

    /// What became of the oldest job that has no report yet. Called once for each job.
    fn done(&mut self, report: Report);
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// There was no more work. The connection went back to the pool.
    Drained,
    /// No host could be used, so no job was asked for. Where hosts failed for different reasons, the
    /// one that says most, and a temporary one before a permanent one.
    Unreachable(Cause),
    /// The connection ended. Each job has its report.
    Lost,
}

/// How a carrier works.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CarrierOptions {
    /// How connections are opened and used.
    pub client: ClientOptions,
    /// How many there may be.
    pub limits: Limits,
    /// How many octets of memory messages may take while they are converted for hosts that take only
    /// seven bits. A message counts five times its size, until it is sent; one for which this is too
    /// little is not converted, and fails where it would have to be. Others wait for their turn. Default:
    /// 128 MiB, for messages of 25 MB, which is the most that large providers take.
    pub conversion_memory: u64,
    /// Where mail comes from, where that is not the same for all. Default: one source without a name, with
    /// the EHLO name of `client` and the connector that the carrier is given.
    pub sources: Option<Sources>,
    /// Signs again what was signed by it and is converted. An engine sets its own here, and a
    /// [`Mailer`](super::Mailer) signs all that it sends with it. Default: none.
    pub signer: Option<Arc<dyn Sign>>,
}

impl CarrierOptions {
    /// The defaults, with the name given in EHLO.
    #[must_use]
    pub fn new(ehlo: EhloName) -> Self {
        Self {
            client: ClientOptions::new(ehlo),
            limits: Limits::new(),
            conversion_memory: 128 * 1024 * 1024,
            sources: None,
            signer: None,
        }
    }
}

/// Takes jobs to hosts. Clones share the pool.
#[derive(Clone)]
pub struct Carrier {
    shared: Arc<Shared>,
    /// Whence its runs go.
    source: Option<SourceName>,
}

/// What connections are lent by, and limited by: the hosts of a site share the limit. What else makes a
/// connection fit for a message (host, TLS) is asked of the connection; credentials are the same for all
/// of a carrier's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    site: Arc<str>,
    source: Option<SourceName>,
}

/// A connection as the pool lends it: behind a pointer, since it is handed on with each run, and is large.
pub(super) type Link = Box<Connection>;

struct Shared {
    dialer: Dialer,
    sources: Option<Sources>,
    /// One for each source.
    dialers: BTreeMap<SourceName, Dialer>,
    pool: Pool<Key, Link>,
    quirks: Mutex<QuirkBook>,
    reach: Mutex<ReachBook>,
    budget: Budget,
    signatory: Option<Signatory>,
    clock: Arc<dyn Clock>,
}

/// Leave for one run to a site; dropping it gives the leave back.
#[derive(Debug)]
#[must_use = "a permit that is dropped is given up"]
pub struct RunPermit {
    lease: Option<Lease<Key, Link>>,
    source: Option<SourceName>,
}

impl Carrier {
    /// A carrier that connects by `connect` and makes TLS with `tls`.
    #[must_use]
    pub fn new(
        options: CarrierOptions,
        connect: Arc<dyn Connect>,
        tls: ClientTls,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let pool = Pool::new(options.limits, Arc::clone(&clock));
        let dialer = Dialer::new(options.client, connect, tls, Arc::clone(&clock));
        let budget = Budget::new(options.conversion_memory);
        let sources = options.sources;
        let all = sources.iter().flat_map(Sources::all);
        let dialers = all.map(|source| (source.name.clone(), dialer.at(source))).collect();
        let (quirks, reach) = (Mutex::default(), Mutex::default());
        let signatory = options.signer.map(|signer| Signatory::new(signer, Arc::clone(&clock)));
        let shared = Shared { dialer, sources, dialers, pool, quirks, reach, budget, signatory, clock };
        Self { shared: Arc::new(shared), source: None }
    }

    /// The source that a message comes from, each time the same; `None` where there are none to choose
    /// from.
    #[must_use]
    pub fn source_of(&self, sending: &Sending<'_>) -> Option<SourceName> {
        self.shared.sources.as_ref()?.choose(sending).map(|source| source.name.clone())
    }

    /// The same carrier for runs from this source; `None` where there is none of that name.
    #[must_use]
    pub fn via(&self, source: &SourceName) -> Option<Self> {
        let known = self.shared.dialers.contains_key(source);
        known.then(|| Self { shared: Arc::clone(&self.shared), source: Some(source.clone()) })
    }

    /// Leave for a run to `site`, if the limits allow one now.
    #[must_use]
    pub fn try_permit(&self, site: &str) -> Option<RunPermit> {
        self.shared.pool.try_acquire(&self.key(site)).map(|lease| self.with(lease))
    }

    /// Leave for a run to `site`, waiting up to `wait` for it.
    ///
    /// # Errors
    /// [`AcquireError`] when the limits allow none in time.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn permit(&self, site: &str, wait: Duration) -> Result<RunPermit, AcquireError> {
        self.shared.pool.acquire(&self.key(site), wait).await.map(|lease| self.with(lease))
    }

    fn key(&self, site: &str) -> Key {
        Key { site: site.into(), source: self.source.clone() }
    }

    fn with(&self, lease: Lease<Key, Link>) -> RunPermit {
        RunPermit { lease: Some(lease), source: self.source.clone() }
    }

    /// Gets a connection to one of `hosts`, idle or new, tries them in order for that, and carries
    /// the jobs of `work` over it until there are none or the connection ends. It comes from the source
    /// that the permit is for.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection: jobs without a report may or may not have been
    /// delivered.
    pub async fn run(&self, hosts: &Hosts, permit: RunPermit, work: &mut dyn Work) -> RunEnd {
        let mut permit = permit;
        let carrier = Self { shared: Arc::clone(&self.shared), source: permit.source.take() };
        match permit.lease.take() {
            Some(lease) => Run::new(&carrier, hosts, work).carry(lease).await,
            None => RunEnd::Lost,
        }
    }

    /// The limits on connections that hold now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.pool.limits()
    }

    /// Goes on under other limits; connections at work stay.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.pool.set_limits(limits);
    }

    /// How full the pool is.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.shared.pool.usage()
    }

    /// Closes idle connections, as at the end of a program.
    pub fn close_idle(&self) {
        self.shared.pool.close_idle();
    }

    pub(super) fn dialer(&self) -> &Dialer {
        let dialer = self.source.as_ref().and_then(|source| self.shared.dialers.get(source));
        dialer.unwrap_or(&self.shared.dialer)
    }

    /// The hosts as they are tried from here: each once, with the addresses that can be used, and behind
    /// the others those that could not be reached the last time. When none can be used, they are as they
    /// were.
    pub(super) fn sorted(&self, hosts: &Hosts) -> Hosts {
        let (mut sorted, now) = (hosts.clone(), self.shared.clock.mono());
        // What the first says of a host counts: a second with less would be reached and never be used.
        let mut seen = BTreeSet::new();
        sorted.hosts.retain(|host| {
            let start = host.tls_start == TlsStart::Implicit;
            seen.insert((host.name.clone(), host.port, start))
        });
        sorted.hosts.retain_mut(|host| {
            // Without addresses it is looked up by whoever connects.
            let known = !host.addresses.is_empty();
            host.addresses = self.dialer().usable(std::mem::take(&mut host.addresses));
            !known || !host.addresses.is_empty()
        });
        if sorted.hosts.is_empty() {
            sorted.hosts.clone_from(&hosts.hosts);
        }
        let book = self.shared.reach.lock().unwrap_or_else(PoisonError::into_inner);
        sorted.hosts.sort_by_cached_key(|host| book.is_out(host, self.source.as_ref(), now));
        sorted
    }

    /// Notes that a host is tried, so that others do not all do so at once.
    pub(super) fn tries(&self, host: &Host) {
        let now = self.shared.clock.mono();
        let mut book = self.shared.reach.lock().unwrap_or_else(PoisonError::into_inner);
        book.tries(host, self.source.as_ref(), now);
    }

    /// Notes whether a host was reached, or why not.
    pub(super) fn tried(&self, host: &Host, error: Option<ConnectError>) {
        let now = self.shared.clock.mono();
        let mut book = self.shared.reach.lock().unwrap_or_else(PoisonError::into_inner);
        book.tried(host, self.source.as_ref(), error, now);
    }

    /// What signs, where something does.
    pub(crate) fn signatory(&self) -> Option<&Signatory> {
        self.shared.signatory.as_ref()
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    pub(super) fn quirks(&self, host: &Host) -> Quirks {
        let now = self.shared.clock.mono();
        self.shared.quirks.lock().unwrap_or_else(PoisonError::into_inner).of(host, now)
    }

    pub(super) fn note_quirks(&self, connection: &Connection) {
        let quirks =
            Quirks { no_pipelining: connection.pipelining_broken(), no_chain: connection.chain_refused() };
        if quirks != Quirks::default() {
            let now = self.shared.clock.mono();
            let mut book = self.shared.quirks.lock().unwrap_or_else(PoisonError::into_inner);
            book.note(connection.host(), quirks, now);
        }
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl Drop for RunPermit {
    fn drop(&mut self) {
        // An idle connection that was lent with the permit was not used: it stays open.
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Keep for Link {
    fn is_fresh(&mut self) -> bool {
        self.is_alive()
    }

    fn retire(self) {
        (*self).quit();
    }
}
