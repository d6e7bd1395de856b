//! A run is one leased connection at work: jobs in, reports out, in the same order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::carrier::{Carrier, Job, Report, RunEnd, Work};
use super::{Cause, ConnectFault, Outcome, Phase};
use crate::hop::{Host, Refused, Require};
use crate::net::connect::ConnectError;
use crate::net::tls::HandshakeError;
use crate::net::{Connection, OpenError, Step};
use crate::pool::{Held, Lease, Permit};
use crate::route::{Hosts, Protocol, RouteError};
use crate::smtp::client::{self, BeginError, Failure, RecipientResult, Transaction, TransactionResult};

type Key = Arc<str>;

pub(super) struct Run<'a> {
    carrier: &'a Carrier,
    hosts: &'a Hosts,
    work: &'a mut dyn Work,
    /// A job that needs another connection than the one at hand.
    next: Option<Job>,
    /// Jobs without a report, oldest first.
    flights: VecDeque<Flight>,
    /// The job on which the connection ended was reported.
    blamed: bool,
}

enum Flight {
    /// Begun on the connection under this number.
    Begun { number: u64, recipients: usize },
    /// Decided without it, and waiting for its turn to be reported.
    Decided(Report),
}

/// Why a connection carries nothing more.
enum Stop {
    Drained,
    /// It is worn out, or not good enough for the next job.
    Change,
    Lost,
}

impl<'a> Run<'a> {
    pub(super) fn new(carrier: &'a Carrier, hosts: &'a Hosts, work: &'a mut dyn Work) -> Self {
        Self { carrier, hosts, work, next: None, flights: VecDeque::new(), blamed: false }
    }

    pub(super) async fn carry(mut self, lease: Lease<Key, Connection>) -> RunEnd {
        let mut lease = lease;
        let mut reached = false;
        loop {
            let require =
                self.next.as_ref().map_or(self.hosts.require, |job| job.require.max(self.hosts.require));
            let mut held = match self.connect(require, lease).await {
                Ok(held) => held,
                Err((permit, cause)) => match self.next.take() {
                    Some(job) if require > self.hosts.require => {
                        // Others may ask for less: only this one has to wait.
                        let outcome = Outcome::Deferred(cause);
                        self.work.done(Report::Outcomes(vec![outcome; job.recipients.len()]));
                        lease = Lease::Open(permit);
                        continue;
                    }
                    Some(_) => {
                        self.work.done(Report::NotAttempted);
                        return RunEnd::Lost;
                    }
                    None if reached => return RunEnd::Lost,
                    None => return RunEnd::Unreachable(cause),
                },
            };
            reached = true;
            let stop = self.use_up(&mut held).await;
            self.carrier.note_quirks(&held);
            match stop {
                Stop::Drained => {
                    self.put_back(held);
                    return RunEnd::Drained;
                }
                Stop::Lost => {
                    if self.next.take().is_some() {
                        self.work.done(Report::NotAttempted);
                    }
                    return RunEnd::Lost;
                }
                Stop::Change => {
                    if self.next.is_none() {
                        self.next = self.work.next().await;
                    }
                    if self.next.is_none() {
                        self.put_back(held);
                        return RunEnd::Drained;
                    }
                    lease = if held.is_worn() || !held.is_reusable() {
                        let (connection, permit) = held.into_permit();
                        connection.quit();
                        Lease::Open(permit)
                    } else {
                        held.rest();
                        Lease::Idle(held)
                    };
                }
            }
        }
    }

    /// Carries jobs until there are none, or this connection cannot carry the next.
    async fn use_up(&mut self, held: &mut Held<Key, Connection>) -> Stop {
        loop {
            let mut stop = self.begin(held).await;
            self.report_decided();
            if self.flights.is_empty() && stop.is_some() && held.is_reusable() {
                return stop.unwrap_or(Stop::Lost);
            }
            match held.next_step(stop.is_none()).await {
                Step::Done(number, result) => self.settle(held, number, result),
                Step::Room => {}
                Step::Over if held.is_reusable() => {
                    // Nothing is open though flights wait: the connection knows nothing of them.
                    self.abandon();
                    if let Some(stop) = stop.take() {
                        return stop;
                    }
                }
                Step::Over => {
                    self.abandon();
                    return Stop::Lost;
                }
            }
        }
    }

    /// Begins as many jobs as the connection takes; says why it stopped, unless it is only full.
    async fn begin(&mut self, held: &mut Held<Key, Connection>) -> Option<Stop> {
        while held.can_begin() {
            if held.is_worn() {
                return Some(Stop::Change);
            }
            let job = match self.next.take() {
                Some(job) => job,
                None => match self.work.next().await {
                    Some(job) => job,
                    None => return Some(Stop::Drained),
                },
            };
            if !is_good_enough(held, job.require) {
                self.next = Some(job);
                return Some(Stop::Change);
            }
            let flight = begin(held, job);
            self.flights.push_back(flight);
            // Else they pile up where no connection can carry any.
            self.report_decided();
        }
        None
    }

    fn settle(&mut self, held: &Held<Key, Connection>, number: u64, result: TransactionResult) {
        while let Some(flight) = self.flights.pop_front() {
            match flight {
                Flight::Decided(report) => self.work.done(report),
                Flight::Begun { number: ours, .. } => {
                    if ours == number {
                        let report = self.report(held, number, result);
                        self.work.done(report);
                        break;
                    }
                    self.work.done(Report::NotAttempted);
                }
            }
        }
        self.report_decided();
    }

    fn report(&mut self, connection: &Connection, number: u64, result: TransactionResult) -> Report {
        let damaged = connection.content_failed() == Some(number);
        let is_untouched = |result: &RecipientResult| *result == RecipientResult::NotAttempted;
        let untouched = result.recipients.iter().all(is_untouched);
        let open = result
            .recipients
            .iter()
            .any(|result| is_untouched(result) || *result == RecipientResult::Unknown);
        let oldest = open && connection.failure().is_some() && !std::mem::replace(&mut self.blamed, true);
        let fault = match connection.failure() {
            Some(Failure::TimedOut) => ConnectFault::TimedOut,
            Some(Failure::Protocol(_)) => ConnectFault::Protocol,
            _ => ConnectFault::Lost,
        };
        // A host that goes silent or talks nonsense does so again: that is an attempt, for the job that
        // it did it to. One that may only have broken under pipelining is first spoken to slowly.
        let attempted = oldest && fault != ConnectFault::Lost && !connection.pipelining_broken();
        if untouched && !damaged && !attempted {
            return Report::NotAttempted;
        }
        let host = connection.host();
        let outcomes = result.recipients.into_iter().map(|recipient| match recipient {
            RecipientResult::LeftOver => Outcome::Deferred(Cause::LeftOver { host: Arc::clone(host) }),
            RecipientResult::Replied { phase, reply } => {
                Outcome::of_reply(host, phase_of(phase), reply, connection.seen().tls.clone())
            }
            RecipientResult::Unknown => Outcome::Deferred(Cause::Unknown { host: Arc::clone(host) }),
            RecipientResult::NotAttempted if damaged => Outcome::Deferred(Cause::Damaged),
            RecipientResult::NotAttempted => {
                Outcome::Deferred(Cause::Connect { host: Arc::clone(host), fault })
            }
        });
        Report::Outcomes(outcomes.collect())
    }

    fn report_decided(&mut self) {
        while let Some(Flight::Decided(_)) = self.flights.front() {
            if let Some(Flight::Decided(report)) = self.flights.pop_front() {
                self.work.done(report);
            }
        }
    }

    /// Every job gets a report, even one that the connection has lost sight of: then nobody knows.
    fn abandon(&mut self) {
        for flight in std::mem::take(&mut self.flights) {
            self.work.done(match flight {
                Flight::Decided(report) => report,
                Flight::Begun { recipients, .. } => {
                    let cause = self.hosts.hosts.first().map_or(Cause::Route(RouteError::NoHost), |host| {
                        Cause::Unknown { host: Arc::new(host.clone()) }
                    });
                    Report::Outcomes(vec![Outcome::Deferred(cause); recipients])
                }
            });
        }
    }

    fn put_back(&self, mut held: Held<Key, Connection>) {
        if held.is_reusable() {
            held.rest();
            held.release();
        } else {
            let (connection, _permit) = held.into_permit();
            connection.quit();
        }
    }

    /// An idle connection that fits, or a new one to the first host that can be used.
    // By `&mut`, although nothing changes: the work need not be `Sync`.
    async fn connect(
        &mut self,
        require: Require,
        lease: Lease<Key, Connection>,
    ) -> Result<Held<Key, Connection>, (Permit<Key, Connection>, Cause)> {
        let fits = |connection: &mut Connection| {
            self.hosts.hosts.iter().any(|host| is_same(host, connection.host()))
                && is_good_enough(connection, require)
        };
        let permit = match lease.prefer(fits) {
            Lease::Idle(held) => return Ok(held),
            Lease::Open(permit) => permit,
        };
        let mut worst: Option<Cause> = None;
        for host in self.hosts.first(MAX_ADDRESSES) {
            let host = Arc::new(host);
            if self.hosts.protocol != Protocol::Smtp {
                return Err((permit, Cause::Connect { host, fault: ConnectFault::NoLmtp }));
            }
            match self.carrier.dialer().open(&host, require, self.carrier.quirks(&host)).await {
                Ok(connection) => return Ok(permit.hold(connection)),
                Err(error) => {
                    let cause = cause_of(&host, error);
                    if worst.as_ref().is_none_or(|worst| telling(&cause) > telling(worst)) {
                        worst = Some(cause);
                    }
                }
            }
        }
        Err((permit, worst.unwrap_or(Cause::Route(RouteError::NoHost))))
    }
}

/// Two routes may know different addresses of one host.
fn is_same(a: &Host, b: &Host) -> bool {
    a.name == b.name && a.port == b.port && a.tls_start == b.tls_start
}

/// Asked before each MAIL. A connection on which TLS was never tried shows nothing against
/// opportunistic mail, but is not for it.
fn is_good_enough(connection: &Connection, require: Require) -> bool {
    require.admits(connection.host(), connection.seen()).is_ok()
        && (require == Require::Cleartext || connection.opened_for() > Require::Cleartext)
}

fn begin(held: &mut Held<Key, Connection>, job: Job) -> Flight {
    let recipients = job.recipients.len();
    let every = |outcome| Flight::Decided(Report::Outcomes(vec![outcome; recipients]));
    let transaction = Transaction::new(job.mail, job.recipients, job.content.size());
    match held.begin(transaction, job.content) {
        Ok(number) => {
            held.count_use();
            Flight::Begun { number, recipients }
        }
        Err(BeginError::Lacks(feature)) => {
            let host = Arc::clone(held.host());
            every(Outcome::Failed(Cause::Lacks { host, feature }))
        }
        Err(BeginError::Recipients) => {
            let host = Arc::clone(held.host());
            every(Outcome::Deferred(Cause::Connect { host, fault: ConnectFault::Local }))
        }
        Err(BeginError::NotReady) => Flight::Decided(Report::NotAttempted),
    }
}

const fn phase_of(phase: client::Phase) -> Phase {
    match phase {
        client::Phase::Mail => Phase::Mail,
        client::Phase::Rcpt => Phase::Rcpt,
        client::Phase::Data => Phase::Data,
        client::Phase::Content => Phase::Content,
    }
}

fn cause_of(host: &Arc<Host>, error: OpenError) -> Cause {
    let host = Arc::clone(host);
    let said = |host, phase, reply| Cause::Reply { host: Some(host), phase, reply };
    let fault = match error {
        OpenError::Refused(refused) => return Cause::Tls { host, refused },
        OpenError::Connect(error) => match error {
            ConnectError::NoAddress => ConnectFault::NoAddress,
            ConnectError::Refused => ConnectFault::Refused,
            ConnectError::TimedOut => ConnectFault::TimedOut,
            ConnectError::Unreachable => ConnectFault::Unreachable,
            ConnectError::Local => ConnectFault::Local,
        },
        OpenError::Handshake(HandshakeError::TimedOut) => ConnectFault::TimedOut,
        OpenError::Handshake(_) => ConnectFault::Handshake,
        OpenError::Credentials(_) => ConnectFault::NoLogin,
        OpenError::Session(failure) => match failure {
            Failure::Greeting(reply) => return said(host, Phase::Greeting, reply),
            Failure::Hello(reply) | Failure::Closing(reply) => return said(host, Phase::Hello, reply),
            Failure::Auth(Some(reply)) => return said(host, Phase::Auth, reply),
            Failure::Auth(None) => ConnectFault::NoLogin,
            Failure::AuthInClear | Failure::NoTls | Failure::TlsRefused(_) => {
                return Cause::Tls { host, refused: Refused::NoTls };
            }
            Failure::TimedOut => ConnectFault::TimedOut,
            Failure::Lost => ConnectFault::Lost,
            _ => ConnectFault::Protocol,
        },
    };
    Cause::Connect { host, fault }
}

/// How much a cause says about why a route cannot be used. A permanent reply counts least: while any
/// other host of the route may take the mail later, it is not refused for good.
const fn telling(cause: &Cause) -> u8 {
    match cause {
        Cause::Reply { reply, .. } if reply.is_permanent() => 0,
        Cause::Reply { .. } => 6,
        Cause::Tls { .. } => 5,
        Cause::Connect { fault, .. } => match fault {
            ConnectFault::Handshake | ConnectFault::Protocol | ConnectFault::NoLogin => 4,
            ConnectFault::Lost | ConnectFault::TimedOut => 3,
            ConnectFault::Refused | ConnectFault::Unreachable => 2,
            _ => 1,
        },
        _ => 1,
    }
}

/// How many addresses of a route one run tries, over all its hosts: RFC 5321 §5.1 asks for two at least,
/// and each may take the 30 s that a black hole takes, with a permit held.
const MAX_ADDRESSES: usize = 5;
