//! A mailer sends one message now, and returns what became of it.
//!
//! For programs that have a provider to relay through, or that send to each domain's own hosts, and want
//! the answer at once. It keeps no queue: what is deferred is the caller's to send again. What it shares
//! with the engine is the carrier, so its connections are pooled and its replies read in the same way.

mod address;
mod direct;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use self::address::Target;
use super::{Carrier, CarrierOptions, Cause, ConnectFault, Delivery, Job, Outcome, Report, RunEnd, Work};
use crate::BoxFuture;
use crate::clock::{Clock, Rng, SystemClock};
use crate::hop::{Host, Require};
use crate::message::{Content, IntoSubmission, MessageId, SignError, Submission, SubmitContext, SubmitError};
use crate::net::connect::{Connect, TcpConnect};
use crate::net::source::Sending;
use crate::net::tls::{ClientTls, TlsConfigError, TlsOptions};
use crate::pool::AcquireError;
use crate::route::{Hosts, Protocol, Resolve, RouteError};
use crate::smtp::address::{AddressError, EhloName, Mailbox};
use crate::smtp::client::MAX_RECIPIENTS;
use crate::smtp::params::{Mail, Rcpt};
use crate::smtp::sasl::Credentials;

/// How a mailer works.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MailerOptions {
    /// How connections are opened, used and limited. The name given in EHLO is `[127.0.0.1]` by
    /// default, as mail programs behind address translation have it; relays that know their clients by
    /// login do not look at it.
    pub carrier: CarrierOptions,
    /// Which certificates are trusted. Default: the system's roots.
    pub tls: TlsOptions,
    /// How to connect. Default: TCP.
    pub connect: Arc<dyn Connect>,
    /// What time it is. Default: the system's clock.
    pub clock: Arc<dyn Clock>,
    /// How long to wait for a connection when all are in use. Default: 1 min.
    pub wait: Duration,
}

impl MailerOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        let name = EhloName::from(std::net::IpAddr::from([127, 0, 0, 1]));
        Self {
            carrier: CarrierOptions::new(name),
            tls: TlsOptions::new(),
            connect: Arc::new(TcpConnect::new()),
            clock: Arc::new(SystemClock),
            wait: Duration::from_secs(60),
        }
    }
}

impl Default for MailerOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Why there is no mailer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailerError {
    /// The address is not `host`, `host:port` or `[address]:port`.
    #[error("the relay's address is not host:port")]
    Address,
    /// The host's name is none.
    #[error("the relay's name is malformed")]
    Name(#[from] AddressError),
    /// The URL is not `smtps://user:password@host:port` or the same with `smtp`.
    #[error("the URL is not smtp://user:password@host:port or smtps://user:password@host:port")]
    Url,
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
}

/// Why nothing was sent. Once a server has looked at the envelope the answer is a [`Delivery`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The message is not complete.
    #[error(transparent)]
    Message(#[from] SubmitError),
    /// It could not be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// All connections are in use.
    #[error(transparent)]
    Busy(#[from] AcquireError),
    /// The relay could not be reached, did not show the TLS that is required, or did not let us in.
    #[error("{0}")]
    Unreachable(Cause),
}

/// Sends messages through a relay, or to each domain's own hosts. Clones share connections.
#[derive(Debug, Clone)]
pub struct Mailer {
    carrier: Carrier,
    way: Way,
    options: MailerOptions,
    rng: Rng,
}

/// Where messages go.
#[derive(Debug, Clone)]
enum Way {
    /// All to the same hosts.
    Relay(Hosts),
    /// Each recipient to the hosts of its domain.
    Direct(Arc<dyn Resolve>),
}

impl Mailer {
    /// A mailer through a provider's relay, `host:port`, logged in. TLS with a certificate that is valid
    /// for the host: from the first octet on port 465, by STARTTLS on any other (587 when none is given).
    ///
    /// # Errors
    /// [`MailerError`] with what is wrong in the address.
    pub fn smarthost(address: &str, credentials: Credentials) -> Result<Self, MailerError> {
        Self::to(Target::parse(address, SUBMISSION)?, Some(credentials), Require::Verified)
    }

    /// A mailer without TLS and without login, to `host:port` (25 when none is given): for a relay on the
    /// same machine.
    ///
    /// # Errors
    /// [`MailerError`] with what is wrong in the address.
    pub fn cleartext(address: &str) -> Result<Self, MailerError> {
        Self::to(Target::parse(address, 25)?, None, Require::Cleartext)
    }

    /// A mailer from a URL: `smtps://user:password@host` for TLS from the first octet (port 465), or
    /// `smtp://…` for STARTTLS (port 587), which is required. What is special in a URL is written `%40`.
    ///
    /// # Errors
    /// [`MailerError`]
    pub fn from_url(url: &str) -> Result<Self, MailerError> {
        let (target, credentials) = Target::from_url(url)?;
        Self::to(target, credentials, Require::Verified)
    }

    /// A mailer to any hosts. `hosts.require` says what TLS they must show.
    ///
    /// # Errors
    /// [`MailerError::Tls`] when TLS cannot be set up.
    pub fn new(hosts: Hosts, options: MailerOptions) -> Result<Self, MailerError> {
        Self::over(Way::Relay(hosts), options)
    }

    /// A mailer to each domain's own hosts, as `resolver` finds them. The routes say what TLS the hosts
    /// must show. `ehlo` is the name under which others know this host: servers look at it.
    ///
    /// Each domain of a message is tried on its own, so [`send`](Self::send) tells of every recipient
    /// what became of it; that no host of a domain could be reached is no error then.
    ///
    /// # Errors
    /// [`MailerError::Tls`] when TLS cannot be set up.
    pub fn direct(resolver: impl Resolve, ehlo: EhloName) -> Result<Self, MailerError> {
        let mut options = MailerOptions::new();
        options.carrier = CarrierOptions::new(ehlo);
        Self::over(Way::Direct(Arc::new(resolver)), options)
    }

    fn over(way: Way, options: MailerOptions) -> Result<Self, MailerError> {
        let clock = Arc::clone(&options.clock);
        let tls = ClientTls::new(options.tls.clone(), Arc::clone(&clock))?;
        let carrier = Carrier::new(options.carrier.clone(), Arc::clone(&options.connect), tls, clock);
        Ok(Self { carrier, way, options, rng: Rng::from_entropy() })
    }

    /// The same mailer with other options, and connections of its own.
    ///
    /// # Errors
    /// [`MailerError::Tls`] when TLS cannot be set up.
    pub fn configured(self, change: impl FnOnce(&mut MailerOptions)) -> Result<Self, MailerError> {
        let mut options = self.options;
        change(&mut options);
        Self::over(self.way, options)
    }

    fn to(target: Target, credentials: Option<Credentials>, require: Require) -> Result<Self, MailerError> {
        let mut host = Host::new(target.name, target.port);
        if let Some(start) = target.tls_start {
            host.tls_start = start;
        }
        let mut options = MailerOptions::new();
        options.carrier.client.session.credentials = credentials;
        Self::new(Hosts::new(vec![host], require), options)
    }

    /// Sends a message and returns what became of each recipient. A recipient that is refused does not
    /// stop the others, and is no error.
    ///
    /// # Errors
    /// [`SendError`] when no server has looked at the envelope; nothing was sent then.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; whether the message was delivered is not known then.
    pub async fn send(&self, mail: impl IntoSubmission) -> Result<Delivery, SendError> {
        let now = self.options.clock.now().wall;
        let id = MessageId::new(now, &self.rng);
        let context = SubmitContext::new(self.hostname(), now, id);
        let mut submission = mail.into_submission(&context)?.handled();
        if let Some(signatory) = self.carrier.signatory() {
            let fields = signatory.sign([submission.head.clone(), submission.content.clone()]).await?;
            submission.head = [fields, submission.head].concat().into();
        }
        let submission = submission.whole();
        match &self.way {
            Way::Relay(hosts) => self.carry(hosts, submission, id).await,
            Way::Direct(resolver) => Ok(self.send_direct(resolver, submission, id).await),
        }
    }

    /// To one set of hosts, as their policies leave it.
    async fn carry(
        &self,
        hosts: &Hosts,
        submission: Submission,
        id: MessageId,
    ) -> Result<Delivery, SendError> {
        let relaxed = submission.handling.tls_optional && !submission.mail.require_tls;
        let hosts = hosts.clone().under_policy(relaxed);
        let hosts = &hosts.map_err(|error| SendError::Unreachable(Cause::Route(error)))?;
        let site = hosts.key();
        let carrier = match hosts.protocol {
            Protocol::Smtp => self.carrier_for(&submission, id),
            // Final delivery is nearer than any source.
            Protocol::Lmtp => self.carrier.clone(),
        };
        let mut letter = Letter::new(submission, hosts.require);
        let mut barren = 0;
        while barren < TRIES {
            let open = letter.open();
            let permit = match carrier.permit(&site, self.options.wait).await {
                Ok(permit) => permit,
                Err(error) if !letter.is_begun() => return Err(error.into()),
                Err(_) => {
                    // What went out is not to be sent again: its results matter more than the error.
                    letter.settle_rest(&unused(hosts, ConnectFault::Busy));
                    break;
                }
            };
            match carrier.run(hosts, permit, &mut letter).await {
                RunEnd::Unreachable(cause) if !letter.is_begun() => {
                    return Err(SendError::Unreachable(cause));
                }
                RunEnd::Unreachable(cause) => letter.settle_rest(&cause),
                RunEnd::Drained | RunEnd::Lost => {}
            }
            if letter.is_settled() {
                break;
            }
            let again = std::mem::take(&mut letter.again);
            letter.waiting.extend(again);
            // A host may take a message per connection. It ends, as there is less left each time.
            barren = if letter.open() < open { 0 } else { barren + 1 };
        }
        letter.settle_rest(&unused(hosts, ConnectFault::Lost));
        Ok(letter.into_delivery())
    }

    /// The carrier from the source of this message. By the first recipient, where it goes to several
    /// domains at once: then a relay takes them all.
    fn carrier_for(&self, submission: &Submission, id: MessageId) -> Carrier {
        let to = submission.recipients.first().and_then(|rcpt| rcpt.to.mailbox());
        let own = self.options.carrier.client.session.ehlo.as_domain();
        let destination = to.map_or(own, Mailbox::domain);
        let sending = Sending::new(id, &submission.mail.from, &submission.handling, destination);
        let source = self.carrier.source_of(&sending);
        source.and_then(|source| self.carrier.via(&source)).unwrap_or_else(|| self.carrier.clone())
    }

    /// For Message-IDs: the domain of who logs in says more than the name in EHLO.
    fn hostname(&self) -> EhloName {
        let session = &self.options.carrier.client.session;
        let domain = session.credentials.as_ref().and_then(|login| login.user().rsplit_once('@'));
        domain.and_then(|(_, domain)| EhloName::new(domain).ok()).unwrap_or_else(|| session.ehlo.clone())
    }
}

impl Submission {
    /// The same with the head joined to the content.
    fn whole(self) -> Self {
        if self.head.is_empty() {
            return self;
        }
        let mut whole = BytesMut::with_capacity(self.head.len() + self.content.len());
        whole.extend_from_slice(&self.head);
        whole.extend_from_slice(&self.content);
        Self { head: Bytes::new(), content: whole.freeze(), ..self }
    }
}

/// One message, as work: in parts, where it has more recipients than one transaction takes. What a host
/// leaves over of a part goes in another transaction, as long as there is less each time.
struct Letter {
    mail: Mail,
    content: Bytes,
    require: Require,
    parts: Vec<Part>,
    waiting: VecDeque<usize>,
    /// Given to the run, in order, without a report.
    given: VecDeque<usize>,
    /// Not attempted in this run: one that does nothing for them must not have them again and again.
    again: Vec<usize>,
}

/// Recipients of one transaction at most, and what became of each.
struct Part(Vec<(Rcpt, Option<Outcome>)>);

impl Part {
    fn open(&mut self) -> impl Iterator<Item = (&Rcpt, &mut Option<Outcome>)> {
        self.0.iter_mut().filter(|(_, outcome)| outcome.is_none()).map(|(rcpt, outcome)| (&*rcpt, outcome))
    }

    /// Notes the outcomes of those that were open. What was left over stays open where the host decided
    /// about others, if only to put them off: in the same order it would be left over each time. Returns
    /// whether something did.
    fn note(&mut self, outcomes: Vec<Outcome>) -> bool {
        let decided =
            |outcome: &Outcome| !matches!(outcome, Outcome::Deferred(cause) if cause.reply().is_none());
        let moved = outcomes.iter().any(decided);
        let mut rest = false;
        for ((_, place), outcome) in self.open().zip(outcomes) {
            if moved && matches!(outcome, Outcome::Deferred(Cause::LeftOver { .. })) {
                rest = true;
            } else {
                *place = Some(outcome);
            }
        }
        rest
    }
}

impl Letter {
    fn new(submission: Submission, require: Require) -> Self {
        let Submission { mail, mut recipients, content, .. } = submission;
        let mut parts = Vec::new();
        while !recipients.is_empty() {
            let rest = recipients.split_off(recipients.len().min(MAX_RECIPIENTS));
            let part = std::mem::replace(&mut recipients, rest);
            parts.push(Part(part.into_iter().map(|rcpt| (rcpt, None)).collect()));
        }
        let waiting = (0..parts.len()).collect();
        Self { mail, content, require, parts, waiting, given: VecDeque::new(), again: Vec::new() }
    }

    fn is_begun(&self) -> bool {
        self.parts.iter().any(|part| part.0.iter().any(|(_, outcome)| outcome.is_some()))
    }

    /// How many have no outcome yet.
    fn open(&self) -> usize {
        let open = |part: &Part| part.0.iter().filter(|(_, outcome)| outcome.is_none()).count();
        self.parts.iter().map(open).sum()
    }

    fn is_settled(&self) -> bool {
        self.open() == 0
    }

    fn settle_rest(&mut self, cause: &Cause) {
        for (_, outcome) in self.parts.iter_mut().flat_map(Part::open) {
            *outcome = Some(Outcome::Deferred(cause.clone()));
        }
    }

    fn into_delivery(self) -> Delivery {
        let recipients = self.parts.into_iter().flat_map(|part| part.0);
        let settled = recipients.filter_map(|(rcpt, outcome)| Some((rcpt.to, outcome?)));
        Delivery { recipients: settled.collect() }
    }
}

impl Work for Letter {
    fn next(&mut self) -> BoxFuture<'_, Option<Job>> {
        let next = self.waiting.pop_front();
        let job = next.and_then(|index| self.parts.get_mut(index)).map(|part| Job {
            mail: self.mail.clone(),
            recipients: part.open().map(|(rcpt, _)| rcpt.clone()).collect(),
            content: Content::Whole(self.content.clone()),
            require: self.require,
            gate: None,
        });
        self.given.extend(next);
        Box::pin(std::future::ready(job))
    }

    fn done(&mut self, report: Report) {
        let Some(index) = self.given.pop_front() else { return };
        match report {
            Report::Outcomes(outcomes) => {
                if self.parts.get_mut(index).is_some_and(|part| part.note(outcomes)) {
                    self.waiting.push_back(index);
                }
            }
            Report::NotAttempted => self.again.push(index),
        }
    }
}

/// Why a message waits that no connection could take to these hosts.
fn unused(hosts: &Hosts, fault: ConnectFault) -> Cause {
    match hosts.hosts.first() {
        Some(host) => Cause::Connect { host: Arc::new(host.clone()), fault },
        None => Cause::Route(RouteError::NoHost),
    }
}

/// RFC 6409
const SUBMISSION: u16 = 587;
/// Connections in a row that settle nothing: an idle one can die at the very moment it is used, and the
/// next is new. A third for a relay that is just being restarted.
const TRIES: usize = 3;

#[cfg(test)]
mod tests;
