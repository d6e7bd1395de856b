//! DNS by asking name servers.
//!
//! Every name is absolute, so that no search domain of the machine can capture mail; one question is
//! asked for each kind of record, so that the failure of one is seen; no question waits for ever, and
//! no more are open than the limit. What was answered is remembered for as long as its TTL says.
//!
//! Three sources give the same answers and differ in what proves them ([`Dnssec`]): plain DNS nothing,
//! a trusted resolver by its word, our own validation by signatures. [`Dnssec::Auto`] finds out which
//! one is to be had.

mod names;
mod probe;
mod reply;
mod servers;
mod validate;
mod walk;
mod wildcard;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::net::NetError;
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::cache::Cache;
use super::{Answer, Dns, DnsName, DnsOptions, Found, RecordKind};
use crate::BoxFuture;
use crate::clock::{Clock, SystemClock};
use crate::net::tls::TlsConfigError;
use crate::route::RouteError;
use probe::{Probe, Source};
use servers::Servers;
use validate::Validator;
use walk::{Ask, Walked, walk};

/// Asks name servers, of the system or as told.
pub struct HickoryDns {
    servers: Servers,
    validator: Validator,
    probe: Probe,
    cache: Cache<(DnsName, RecordKind), Arc<Found>>,
    /// One permit per open question.
    lookups: Semaphore,
    options: DnsOptions,
}

/// Why a resolver could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The system's configuration is missing, unreadable, or names no server.
    #[error("the system's DNS configuration cannot be used")]
    System(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The list of servers is empty.
    #[error("no name server to ask")]
    NoServers,
    /// The keys of the root are none.
    #[error("the keys of the root cannot be read")]
    Anchors(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// TLS cannot be set up, by which the policies of MTA-STS are fetched.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
}

impl HickoryDns {
    /// With options.
    ///
    /// # Errors
    /// [`SetupError::System`] when no servers are given and the system's cannot be found out,
    /// [`SetupError::Anchors`] when keys are given that cannot be read.
    pub fn new(options: DnsOptions) -> Result<Self, SetupError> {
        let system = |error: NetError| SetupError::System(error.into());
        // Neither a domain nor a search list, also of the system's configuration.
        let servers = if options.servers.is_empty() {
            read_system_conf().map_err(system)?.0.name_servers
        } else {
            options.servers.iter().map(servers::name_server).collect()
        };
        let anchors = match options.anchors.as_text() {
            None => TrustAnchors::default(),
            Some(text) => TrustAnchors::from_str(text).map_err(|error| SetupError::Anchors(error.into()))?,
        };
        if anchors.is_empty() {
            return Err(SetupError::Anchors("there is none".into()));
        }
        let local = servers.iter().all(|server| servers::is_here(server.ip));
        let servers = Servers::new(servers, &options).map_err(system)?;
        Ok(Self {
            validator: Validator::new(servers.clone(), Arc::new(anchors), options.max_cached),
            probe: Probe::new(options.dnssec, local),
            servers,
            cache: Cache::new(options.max_cached),
            lookups: Semaphore::new(options.max_lookups.clamp(1, Semaphore::MAX_PERMITS)),
            options,
        })
    }

    /// Asks these name servers, with default options otherwise.
    ///
    /// # Errors
    /// [`SetupError::NoServers`] when there are none.
    pub fn with_servers(servers: Vec<SocketAddr>) -> Result<Self, SetupError> {
        if servers.is_empty() {
            return Err(SetupError::NoServers);
        }
        Self::new(DnsOptions { servers, ..DnsOptions::new() })
    }

    async fn find(&self, name: &DnsName, kind: RecordKind) -> Arc<Found> {
        let key = (name.clone(), kind);
        if let Some(found) = self.cache.get(&key, SystemClock.mono()) {
            return found;
        }
        if let Some(answer) = names::special(name, kind) {
            return Arc::new(Found::new(answer, false, name.clone()));
        }
        let source = self.probe.source(self).await;
        let (found, ttl) = self.ask(source, name, kind).await;
        let found = Arc::new(found);
        let keep = || self.cache.put(key, Arc::clone(&found), SystemClock.mono(), ttl);
        self.probe.while_in_use(source, keep);
        found
    }

    /// Asks, and waits no longer than the attempts take, however long the CNAME chain.
    async fn ask(&self, source: Source, name: &DnsName, kind: RecordKind) -> (Found, Duration) {
        let none = |answer| (Found::new(answer, false, name.clone()), Duration::ZERO);
        let Some(absolute) = names::absolute(name) else { return none(Answer::NoName) };
        // A chain of trust has many questions, one after the other, of which most are remembered.
        let limit = self.servers.limit.saturating_mul(if source == Source::Validated { 3 } else { 1 });
        let silent = Answer::Failed(RouteError::Timeout(limit));
        let Ok(permit) = timeout(limit, self.lookups.acquire()).await else { return none(silent) };
        let answer = match timeout(limit, self.walk(source, &absolute, names::record_type(kind))).await {
            Ok(Ok(walked)) => found(name, walked),
            Ok(Err(error)) => none(Answer::Failed(error)),
            Err(_) => none(silent),
        };
        drop(permit);
        answer
    }

    async fn walk(&self, source: Source, name: &Name, kind: RecordType) -> Result<Walked, RouteError> {
        let ask = match source {
            Source::Plain => Ask::Plain(&self.servers),
            Source::Trusted => Ask::Trusted(&self.servers),
            Source::Validated => Ask::Validated(&self.validator),
        };
        match walk(&ask, name, kind).await {
            // A key that could not be fetched makes a bogus answer too: so once more, all of it, before
            // a domain is held up for it.
            Err(RouteError::Bogus) => {
                let afresh = self.validator.afresh();
                let walked = walk(&Ask::Validated(&afresh), name, kind).await;
                if matches!(walked, Err(RouteError::Bogus)) {
                    let failed = afresh.has_failed();
                    tracing::debug!(%name, %kind, failed, "the answer does not stand up to DNSSEC");
                    return if failed { Err(RouteError::Dns) } else { walked };
                }
                walked
            }
            walked => walked,
        }
    }
}

impl Dns for HickoryDns {
    fn look_up<'a>(&'a self, name: &'a DnsName, kind: RecordKind) -> BoxFuture<'a, Found> {
        Box::pin(async move { Found::clone(&*self.find(name, kind).await) })
    }
}

impl fmt::Debug for HickoryDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HickoryDns").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What was found, and how long it is remembered.
fn found(name: &DnsName, walked: Walked) -> (Found, Duration) {
    let ttl = Duration::from_secs(walked.ttl.into());
    let ttl = ttl.min(if matches!(walked.answer, Answer::Records(_)) { MAX_TTL } else { MAX_NEGATIVE_TTL });
    let answer = walked.answer.filter_map(names::record);
    // An end that is no name of ours leads nowhere that could be asked.
    let (end, secure) = match names::dns_name(&walked.end) {
        Some(end) => (end, walked.secure),
        None => (name.clone(), false),
    };
    (Found { answer, secure, secure_start: walked.secure_start, end }, ttl)
}

/// How long an answer is believed at most: a day, as other resolvers do (RFC 2181 §8 allows decades).
const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long "does not exist" is believed at most: RFC 2308 §5 advises one to three hours, and a
/// domain that has just been set up should not wait longer.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(3600);
