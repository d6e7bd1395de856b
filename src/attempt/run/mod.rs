//! A run is one leased connection at work: jobs in, reports out, in the same order.
//!
//! Where a host lacks what a message needs, the message is made to fit if it can be (`parcel`). Else the
//! next host of the route is asked, over another connection, and each once; only when all that one attempt
//! tries lack something, its recipients fail.

mod causes;
mod parcel;

use std::collections::VecDeque;
use std::sync::Arc;

use self::causes::{cause_of, phase_of, telling};
use self::parcel::{Misfit, Parcel};
use super::carrier::{Carrier, Job, Key, Link, Report, RunEnd, Work};
use super::trial::Trial;
use super::{Cause, ConnectFault, Feature, Outcome};
use crate::clock::Gate;
use crate::hop::{Demand, Host, PolicyKind, Refused, Require};
use crate::message::Content;
use crate::net::{Connection, OpenError, Step};
use crate::pool::{Held, Lease, Permit};
use crate::route::{Hosts, RouteError};
use crate::smtp::client::{BeginError, Failure, RecipientResult, Transaction, TransactionResult};
use crate::smtp::params::DeliverBy;

pub(super) struct Run<'a> {
    carrier: &'a Carrier,
    hosts: &'a Hosts,
    work: &'a mut dyn Work,
    /// One that needs another connection than the one at hand.
    next: Option<Parcel>,
    /// Jobs without a report, oldest first.
    flights: VecDeque<Flight>,
    /// The job on which the connection ended was reported.
    blamed: bool,
}

enum Flight {
    /// Begun on the connection under this number.
    Begun { number: u64, recipients: usize, by: Option<DeliverBy>, demand: Demand },
    /// Decided without it, and waiting for its turn to be reported.
    Decided(Report),
}

/// What is asked of every host of the route, before what is known of each.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Floor {
    require: Require,
    by: PolicyKind,
    /// The message asks for it too.
    message: bool,
}

impl Floor {
    fn demand(self, host: &Host) -> Demand {
        Demand::of(self.require, self.by, host, self.message)
    }
}

/// Why a connection carries nothing more.
enum Stop {
    Drained,
    /// It is worn out, or not good enough for the next job.
    Change,
    Lost,
}

/// No host could be used.
struct Unreached {
    /// Of the hosts' reasons the one that says most.
    cause: Cause,
    /// It was the TLS that none of them showed.
    only_tls: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(carrier: &'a Carrier, hosts: &'a Hosts, work: &'a mut dyn Work) -> Self {
        Self { carrier, hosts, work, next: None, flights: VecDeque::new(), blamed: false }
    }

    pub(super) async fn carry(mut self, lease: Lease<Key, Link>) -> RunEnd {
        let mut lease = lease;
        let mut reached = false;
        loop {
            let floor = self.floor(self.next.as_ref());
            let mut held = match self.connect(floor, lease).await {
                Ok(held) => held,
                Err((permit, Unreached { cause, only_tls })) => match self.next.take() {
                    Some(parcel) if floor != self.floor(None) || parcel.lack().is_some() => {
                        // Others may ask for less: only this one has to wait.
                        let outcome = parcel.stranded(cause, only_tls);
                        self.work.done(all(&parcel.transaction, outcome));
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
                    self.next = self.take().await;
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
    async fn use_up(&mut self, held: &mut Held<Key, Link>) -> Stop {
        loop {
            let mut stop = self.begin(held).await;
            self.report_decided();
            if self.flights.is_empty() && stop.is_some() && is_whole(held) {
                return stop.unwrap_or(Stop::Lost);
            }
            match held.next_step(stop.is_none()).await {
                Step::Done(number, result) => self.settle(held, number, result),
                Step::Room => {}
                Step::Over if is_whole(held) => {
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
    async fn begin(&mut self, held: &mut Held<Key, Link>) -> Option<Stop> {
        while held.can_begin() {
            if held.is_worn() {
                return Some(Stop::Change);
            }
            let Some(parcel) = self.take().await else { return Some(Stop::Drained) };
            let demand = met(self.hosts, held, self.floor(Some(&parcel)));
            let Some(demand) = demand
                .filter(|_| !parcel.is_refused_by(held.host()) && held.takes(&parcel.transaction.recipients))
            else {
                self.next = Some(parcel);
                return Some(Stop::Change);
            };
            let flight = if held.lacks(&parcel.transaction).is_none() {
                let gate = parcel.gate.clone();
                let (transaction, content) = parcel.into_parts();
                begin(held, transaction, content, gate, demand)
            } else if self.flights.is_empty() {
                match self.fit(held, parcel, demand).await {
                    Some(flight) => flight,
                    None => return Some(Stop::Change),
                }
            } else {
                // Making it fit may wait for memory that is given back by what is open here.
                self.next = Some(parcel);
                return Some(Stop::Change);
            };
            self.flights.push_back(flight);
            // Else they pile up where no connection can carry any.
            self.report_decided();
        }
        held.is_used_up().then_some(Stop::Change)
    }

    /// What this one asks of the route's hosts, or the route alone.
    fn floor(&self, parcel: Option<&Parcel>) -> Floor {
        let floor = Floor { require: self.hosts.require, by: self.hosts.by, message: false };
        let Some(parcel) = parcel else { return floor };
        let floor = Floor { message: parcel.transaction.mail.require_tls, ..floor };
        if parcel.require > floor.require {
            return Floor { require: parcel.require, by: PolicyKind::Own, ..floor };
        }
        floor
    }

    /// The next one that this route may carry.
    async fn take(&mut self) -> Option<Parcel> {
        if let Some(parcel) = self.next.take() {
            return Some(parcel);
        }
        loop {
            if self.work.is_drained() {
                return None;
            }
            let job = self.work.next().await?;
            match self.accept(job) {
                Ok(parcel) => return Some(parcel),
                Err(report) => {
                    self.flights.push_back(Flight::Decided(report));
                    self.report_decided();
                }
            }
        }
    }

    /// The job, if this route may carry it at all.
    fn accept(&self, job: Job) -> Result<Parcel, Report> {
        // RFC 8689 §4.2.1: nobody on the way may choose the host.
        if job.mail.require_tls && !self.hosts.proven {
            let cause = self.hosts.hosts.first().map_or(Cause::Route(RouteError::NoHost), |host| {
                Cause::Lacks { host: Arc::new(host.clone()), feature: Feature::RequireTls }
            });
            return Err(Report::Outcomes(vec![Outcome::Failed(cause); job.recipients.len()]));
        }
        Ok(Parcel::new(job))
    }

    /// Begins what the host cannot carry as it is. `None`: it is for the next host.
    async fn fit(
        &mut self,
        held: &mut Held<Key, Link>,
        mut parcel: Parcel,
        demand: Demand,
    ) -> Option<Flight> {
        let outcome = match Box::pin(parcel.fit(self.carrier, held)).await {
            Ok((transaction, content)) => {
                return Some(begin(held, transaction, content, parcel.gate.take(), demand));
            }
            Err(Misfit::Later(cause)) => Outcome::Deferred(cause),
            Err(Misfit::Lacks(feature)) => {
                parcel.lacks(held.host(), feature);
                if self.candidates(self.floor(Some(&parcel))).iter().any(|host| !parcel.is_refused_by(host)) {
                    self.next = Some(parcel);
                    return None;
                }
                let host = Arc::clone(held.host());
                Outcome::Failed(parcel.lack().unwrap_or(Cause::Lacks { host, feature }))
            }
        };
        Some(Flight::Decided(all(&parcel.transaction, outcome)))
    }

    fn settle(&mut self, held: &Held<Key, Link>, number: u64, result: TransactionResult) {
        while let Some(flight) = self.flights.pop_front() {
            match flight {
                Flight::Decided(report) => self.work.done(report),
                Flight::Begun { number: ours, by, demand, .. } => {
                    if ours == number {
                        let report = self.report(held, number, (by, demand), result);
                        self.work.done(report);
                        break;
                    }
                    self.work.done(Report::NotAttempted);
                }
            }
        }
        self.report_decided();
    }

    fn report(
        &mut self,
        connection: &Connection,
        number: u64,
        (by, demand): (Option<DeliverBy>, Demand),
        result: TransactionResult,
    ) -> Report {
        let damaged = connection.content_failed() == Some(number);
        let is_untouched = |result: &RecipientResult| *result == RecipientResult::NotAttempted;
        // What was left over besides was not said to anybody, or waits for those that were not.
        let untouched = result.recipients.iter().any(is_untouched)
            && result.recipients.iter().all(|r| is_untouched(r) || *r == RecipientResult::LeftOver);
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
                    .with_offers(connection.capabilities(), by)
                    .with_demand(demand)
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

    fn put_back(&self, mut held: Held<Key, Link>) {
        if held.is_reusable() {
            held.rest();
            held.release();
        } else {
            let (connection, _permit) = held.into_permit();
            connection.quit();
        }
    }

    /// What one attempt tries. Hosts that are not even connected to use none of it up.
    fn candidates(&self, floor: Floor) -> Vec<Host> {
        let all = self.carrier.sorted(self.hosts);
        let is_unknown = |host: &Host| floor.demand(host) == Demand::Unknown;
        let mut usable = all.clone();
        usable.hosts.retain(|host| !is_unknown(host));
        let mut first = usable.first(MAX_ADDRESSES).into_iter().peekable();
        let place = |host| if is_unknown(&host) { Some(host) } else { first.next_if(|f| is_same(f, &host)) };
        all.hosts.into_iter().filter_map(place).collect()
    }

    /// An idle connection that fits, or a new one to the first host that can be used, and has not been
    /// found to lack what the next one needs.
    async fn connect(
        &mut self,
        floor: Floor,
        lease: Lease<Key, Link>,
    ) -> Result<Held<Key, Link>, (Permit<Key, Link>, Unreached)> {
        let (permit, hosts) = {
            let next = self.next.as_ref();
            let is_out = |host: &Host| next.is_some_and(|next| next.is_refused_by(host));
            let fits = |connection: &mut Link| {
                !is_out(connection.host())
                    && met(self.hosts, connection, floor).is_some()
                    && next.is_none_or(|next| connection.takes(&next.transaction.recipients))
            };
            let permit = match lease.prefer(fits) {
                Lease::Idle(held) => return Ok(held),
                Lease::Open(permit) => permit,
            };
            let mut hosts = self.candidates(floor);
            hosts.retain(|host| !is_out(host));
            (permit, hosts)
        };
        let mut worst: Option<Cause> = None;
        let mut only_tls = true;
        for host in hosts {
            let host = Arc::new(host);
            let (protocol, quirks) = (self.hosts.protocol, self.carrier.quirks(&host));
            let (demand, mut tried) = (floor.demand(&host), Vec::new());
            self.carrier.tries(&host);
            // Opening takes far more room than using: a run on an idle connection is to have no part in it.
            let opened = self.carrier.dialer().open_noting(&host, protocol, demand, quirks, &mut tried);
            let opened = Box::pin(opened).await;
            match &opened {
                Err(OpenError::Connect(error)) => self.carrier.tried(&host, Some(*error)),
                // Nothing was opened.
                Err(OpenError::Credentials(_) | OpenError::Refused(Refused::Unknown)) => {}
                Ok(_) | Err(_) => self.carrier.tried(&host, None),
            }
            let seen = tried.last().and_then(|tried| tried.seen.clone());
            for tried in tried {
                self.work.tried(Trial::of(&host, demand, tried));
            }
            match opened {
                Ok(connection) => return Ok(permit.hold(Box::new(connection))),
                Err(error) => {
                    let cause = cause_of(&host, error, demand, seen);
                    only_tls &= matches!(
                        cause,
                        Cause::Tls { refused, .. } if refused != Refused::Unknown
                    );
                    if worst.as_ref().is_none_or(|worst| telling(&cause) > telling(worst)) {
                        worst = Some(cause);
                    }
                }
            }
        }
        let cause = worst.unwrap_or(Cause::Route(RouteError::NoHost));
        Err((permit, Unreached { cause, only_tls }))
    }
}

/// Whether nothing went wrong with it, be it that it takes no more.
fn is_whole(connection: &Connection) -> bool {
    connection.is_reusable() || connection.is_used_up()
}

/// Two routes may know different addresses of one host.
fn is_same(a: &Host, b: &Host) -> bool {
    a.name == b.name && a.port == b.port && a.tls_start == b.tls_start
}

/// What is demanded of the connection's host, if it was shown. Asked before each MAIL.
fn met(hosts: &Hosts, connection: &Connection, floor: Floor) -> Option<Demand> {
    let host = hosts.hosts.iter().find(|host| is_same(host, connection.host()))?;
    let demand = floor.demand(host);
    // The certificate may match those records no longer, or was not asked for these names.
    let same_records = demand != Demand::Dane || host.tlsa == connection.host().tlsa;
    // One on which TLS was never tried shows nothing against opportunistic mail, but is not for it.
    let tried = demand == Demand::Cleartext || connection.opened_for() != Demand::Cleartext;
    (same_records && tried && demand.admits(host, connection.seen()).is_ok()).then_some(demand)
}

fn begin(
    held: &mut Held<Key, Link>,
    transaction: Transaction,
    content: Content,
    gate: Option<Gate>,
    demand: Demand,
) -> Flight {
    let (recipients, by) = (transaction.recipients.len(), transaction.mail.by);
    let every = |outcome| Flight::Decided(Report::Outcomes(vec![outcome; recipients]));
    match held.begin_gated(transaction, content, gate) {
        Ok(number) => {
            held.count_use();
            Flight::Begun { number, recipients, by, demand }
        }
        Err(BeginError::Lacks(feature)) => {
            let host = Arc::clone(held.host());
            every(Outcome::Failed(Cause::Lacks { host, feature }))
        }
        Err(BeginError::Recipients) => {
            let host = Arc::clone(held.host());
            every(Outcome::Deferred(Cause::Connect { host, fault: ConnectFault::Local }))
        }
        Err(BeginError::NotReady | BeginError::UsedUp) => Flight::Decided(Report::NotAttempted),
    }
}

fn all(transaction: &Transaction, outcome: Outcome) -> Report {
    Report::Outcomes(vec![outcome; transaction.recipients.len()])
}

/// How many addresses of a route one run tries, over all its hosts: RFC 5321 §5.1 asks for two at least,
/// and each may take the 30 s that a black hole takes, with a permit held.
const MAX_ADDRESSES: usize = 5;
