//! A resolver by MX: asks DNS what the rules of [`mx`] need to know.
//!
//! The queries, their cache (by TTL) and the fall back to TCP are hickory-resolver's. Added are what
//! mail needs: every name is absolute, so that no search domain of the machine can capture mail; A
//! and AAAA are asked apart, so that the failure of one is seen; and no question waits for ever.
//! DNSSEC is not validated: whoever forges DNS can take unauthenticated mail.

use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::dns::Answer;
use super::mx::{self, Exchange, Mx, Plan};
use super::{MxOptions, Resolve, Route, RouteError};
use crate::BoxFuture;
use crate::smtp::address::Domain;

/// Finds routes by MX records.
pub struct MxResolver {
    dns: TokioResolver,
    /// One permit per open question.
    lookups: Semaphore,
    options: MxOptions,
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
}

impl MxResolver {
    /// Asks the name servers of the system, with default options.
    ///
    /// # Errors
    /// [`SetupError::System`]
    pub fn from_system() -> Result<Self, SetupError> {
        Self::new(MxOptions::new())
    }

    /// Asks these name servers, with default options otherwise.
    ///
    /// # Errors
    /// [`SetupError::NoServers`] when there are none.
    pub fn with_servers(servers: Vec<SocketAddr>) -> Result<Self, SetupError> {
        if servers.is_empty() {
            return Err(SetupError::NoServers);
        }
        let mut options = MxOptions::new();
        options.servers = servers;
        Self::new(options)
    }

    /// With options.
    ///
    /// # Errors
    /// [`SetupError::System`] when no servers are given and the system's cannot be found out.
    pub fn new(options: MxOptions) -> Result<Self, SetupError> {
        let servers = if options.servers.is_empty() {
            read_system_conf().map_err(|error| SetupError::System(error.into()))?.0.name_servers
        } else {
            options.servers.iter().map(name_server).collect()
        };
        // Neither a domain nor a search list, also of the system's configuration.
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = resolver_options(&options);
        let dns = builder.build().map_err(|error| SetupError::System(error.into()))?;
        let permits = options.max_lookups.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self { dns, lookups: Semaphore::new(permits), options })
    }

    async fn find(&self, destination: &Domain) -> Result<Route, RouteError> {
        let options = &self.options;
        if let Some(ip) = destination.as_literal() {
            return mx::literal(ip, options).map(Route::Hosts);
        }
        let answer = self.ask(destination, RecordType::MX, as_mx).await;
        let plan = Plan::new(destination, answer, options)?;
        let questions: Vec<BoxFuture<'_, _>> =
            plan.names().map(|name| Box::pin(self.ask_addresses(name)) as _).collect();
        let answers = all(questions).await;
        plan.finish(answers, options).map(Route::Hosts)
    }

    async fn ask_addresses(&self, host: &Domain) -> Answer<IpAddr> {
        let families = self.options.families;
        // A family that is not wanted has no say in why there is no address.
        let v4 = async {
            if families.has_v4() { self.ask(host, RecordType::A, as_v4).await } else { Answer::NoName }
        };
        let v6 = async {
            if families.has_v6() { self.ask(host, RecordType::AAAA, as_v6).await } else { Answer::NoName }
        };
        let (v4, v6) = tokio::join!(v4, v6);
        mx::addresses(v4, v6, &self.options)
    }

    /// Asks one question, and waits no longer than its attempts take, however long the CNAME chain.
    async fn ask<T>(&self, name: &Domain, kind: RecordType, pick: fn(&RData) -> Option<T>) -> Answer<T> {
        // The dot makes it absolute. What does not fit into a DNS name cannot exist.
        let Ok(name) = Name::from_ascii(format!("{name}.")) else { return Answer::NoName };
        let limit = longest_wait(&self.options);
        let silent = Answer::Failed(RouteError::Timeout(limit));
        let Ok(permit) = timeout(limit, self.lookups.acquire()).await else { return silent };
        let answer = match timeout(limit, self.dns.lookup(name, kind)).await {
            Ok(result) => read(result, pick, limit),
            Err(_) => silent,
        };
        drop(permit);
        answer
    }
}

impl Resolve for MxResolver {
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(self.find(destination))
    }

    fn addresses<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        Box::pin(async move {
            if let Some(ip) = host.as_literal() {
                return Ok(vec![ip]);
            }
            match self.ask_addresses(host).await {
                Answer::Records(addresses) => Ok(addresses),
                Answer::NoData => Err(RouteError::NoHost),
                Answer::NoName => Err(RouteError::NoSuchDomain),
                Answer::Failed(error) => Err(error),
            }
        })
    }
}

impl fmt::Debug for MxResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MxResolver").field("options", &self.options).finish_non_exhaustive()
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

fn resolver_options(options: &MxOptions) -> ResolverOpts {
    let mut opts = ResolverOpts::default();
    opts.ndots = 0;
    // The hosts file is for the machine's own names, not for where mail goes.
    opts.use_hosts_file = ResolveHosts::Never;
    opts.timeout = options.timeout;
    // The library counts the retries.
    opts.attempts = usize::try_from(options.attempts.saturating_sub(1)).unwrap_or(usize::MAX);
    opts.cache_size = options.max_cached;
    opts.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    // Else questions over TCP are refused as "busy" before our own limit is reached.
    opts.max_active_requests = options.max_lookups;
    opts
}

fn longest_wait(options: &MxOptions) -> Duration {
    options.timeout.saturating_mul(options.attempts.max(1))
}

fn as_mx(data: &RData) -> Option<Mx> {
    let RData::MX(mx) = data else { return None };
    let exchange = if mx.exchange.is_root() {
        Exchange::Null
    } else {
        as_domain(&mx.exchange).map_or(Exchange::Unusable, Exchange::Host)
    };
    Some(Mx::new(mx.preference, exchange))
}

fn as_domain(name: &Name) -> Option<Domain> {
    let text = name.to_ascii();
    Domain::parse(text.strip_suffix('.').unwrap_or(&text)).ok()
}

fn as_v4(data: &RData) -> Option<std::net::Ipv4Addr> {
    if let RData::A(a) = data { Some(a.0) } else { None }
}

fn as_v6(data: &RData) -> Option<std::net::Ipv6Addr> {
    if let RData::AAAA(aaaa) = data { Some(aaaa.0) } else { None }
}

/// What the library's result says. It is permanent only where a server said so.
fn read<T>(result: Result<Lookup, NetError>, pick: fn(&RData) -> Option<T>, limit: Duration) -> Answer<T> {
    match result {
        // CNAMEs on the way stand among the answers, and not always those of this question: the
        // type tells the records that count.
        Ok(lookup) => {
            Answer::Records(lookup.answers().iter().filter_map(|record| pick(&record.data)).collect())
        }
        Err(error) if error.is_nx_domain() => Answer::NoName,
        // RFC 2308 §2.2: name servers without an SOA are a referral, from a server that does not
        // know the answer and does not look for it.
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) if none.ns.is_some() && none.soa.is_none() => {
            Answer::Failed(RouteError::Dns)
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Answer::NoData,
        Err(NetError::Timeout) => Answer::Failed(RouteError::Timeout(limit)),
        Err(_) => Answer::Failed(RouteError::Dns),
    }
}

/// Runs all of them at once in this task; their results in the same order. How many are open at the
/// same time is the semaphore's to say.
async fn all<T>(mut futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut waiting = false;
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// How long "does not exist" is believed at most: RFC 2308 §5 advises one to three hours, and a
/// domain that has just been set up should not wait longer.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(3600);
