//! A carrier takes jobs to the hosts of a route, now, over connections from its pool.
//!
//! It is what a queue's lane and a mailer have in common. A *run* has a permit, gets a connection to one
//! of the route's hosts, and carries [`Job`]s over it for as long as its [`Work`] has any. The carrier
//! decides nothing about when to try again: it says what happened, one [`Report`] per job.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Cause;
use super::budget::Budget;
use super::quirks::QuirkBook;
use super::run::Run;
use super::signatory::Signatory;
use super::trial::Trial;
use crate::BoxFuture;
use crate::clock::Clock;
use crate::hop::{Host, Require};
use crate::message::{Content, Sign};
use crate::net::connect::Connect;
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
    /// and the run asks again after each report.
    fn next(&mut self) -> BoxFuture<'_, Option<Job>>;

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
            signer: None,
        }
    }
}

/// Takes jobs to hosts. Clones share the pool.
#[derive(Clone)]
pub struct Carrier {
    shared: Arc<Shared>,
}

struct Shared {
    dialer: Dialer,
    /// By site: its hosts share the limit. What else makes a connection fit for a message (host, TLS)
    /// is asked of the connection; source address and credentials are the same for all of a carrier's.
    pool: Pool<Arc<str>, Connection>,
    quirks: Mutex<QuirkBook>,
    budget: Budget,
    signatory: Option<Signatory>,
    clock: Arc<dyn Clock>,
}

/// Leave for one run to a site; dropping it gives the leave back.
#[derive(Debug)]
#[must_use = "a permit that is dropped is given up"]
pub struct RunPermit(Option<Lease<Arc<str>, Connection>>);

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
        let signatory = options.signer.map(|signer| Signatory::new(signer, Arc::clone(&clock)));
        Self { shared: Arc::new(Shared { dialer, pool, quirks: Mutex::default(), budget, signatory, clock }) }
    }

    /// Leave for a run to `site`, if the limits allow one now.
    #[must_use]
    pub fn try_permit(&self, site: &str) -> Option<RunPermit> {
        self.shared.pool.try_acquire(&Arc::from(site)).map(RunPermit::new)
    }

    /// Leave for a run to `site`, waiting up to `wait` for it.
    ///
    /// # Errors
    /// [`AcquireError`] when the limits allow none in time.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn permit(&self, site: &str, wait: Duration) -> Result<RunPermit, AcquireError> {
        self.shared.pool.acquire(&Arc::from(site), wait).await.map(RunPermit::new)
    }

    /// Gets a connection to one of `hosts`, idle or new, tries them in order for that, and carries
    /// the jobs of `work` over it until there are none or the connection ends.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection: jobs without a report may or may not have been
    /// delivered.
    pub async fn run(&self, hosts: &Hosts, permit: RunPermit, work: &mut dyn Work) -> RunEnd {
        match permit.into_lease() {
            Some(lease) => Run::new(self, hosts, work).carry(lease).await,
            None => RunEnd::Lost,
        }
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
        &self.shared.dialer
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

impl RunPermit {
    const fn new(lease: Lease<Arc<str>, Connection>) -> Self {
        Self(Some(lease))
    }

    fn into_lease(mut self) -> Option<Lease<Arc<str>, Connection>> {
        self.0.take()
    }
}

impl Drop for RunPermit {
    fn drop(&mut self) {
        // An idle connection that was lent with the permit was not used: it stays open.
        if let Some(lease) = self.0.take() {
            lease.give_back();
        }
    }
}

impl Keep for Connection {
    fn is_fresh(&mut self) -> bool {
        self.is_alive()
    }

    fn retire(self) {
        self.quit();
    }
}
