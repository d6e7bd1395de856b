//! A resolver by MX: asks DNS what the rules of [`mx`](super) need to know, and what DNSSEC proves.
//!
//! Where the MX records of a domain and the addresses of a host are secure, the host's TLSA records are
//! asked for too (RFC 7672 §2.2): they say what certificate it must show. Nowhere else: unsigned zones are
//! where name servers fail at questions that they do not know, and nobody could rely on the answer.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;

use super::{Mx, Plan};
use crate::BoxFuture;
use crate::hop::{Require, Tlsa, TlsaRecord, TlsaSet};
use crate::route::dns::{Answer, Dns, DnsName, Found, HickoryDns, Record, RecordKind, SetupError};
#[cfg(feature = "mta-sts")]
use crate::route::sts::StsPolicies;
use crate::route::{Hosts, MxOptions, Resolve, Route, RouteError, mx};
use crate::smtp::address::Domain;

/// Finds routes by MX records.
pub struct MxResolver {
    dns: Arc<dyn Dns>,
    options: MxOptions,
    #[cfg(feature = "mta-sts")]
    policies: Option<StsPolicies>,
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
    /// [`SetupError::System`] when no servers are given and the system's cannot be found out,
    /// [`SetupError::Anchors`] when keys are given that cannot be read.
    pub fn new(options: MxOptions) -> Result<Self, SetupError> {
        Self::over(Arc::new(HickoryDns::new(options.dns())?), options)
    }

    /// Over any DNS; the options about servers and questions are then its own.
    ///
    /// # Errors
    /// [`SetupError`] when TLS cannot be set up, by which policies are fetched.
    pub fn over(dns: Arc<dyn Dns>, options: MxOptions) -> Result<Self, SetupError> {
        Ok(Self {
            #[cfg(feature = "mta-sts")]
            policies: options.sts.clone().map(|sts| StsPolicies::new(Arc::clone(&dns), sts)).transpose()?,
            dns,
            options,
        })
    }

    /// What is known of MTA-STS, where it is asked for.
    #[cfg(feature = "mta-sts")]
    #[must_use]
    pub const fn policies(&self) -> Option<&StsPolicies> {
        self.policies.as_ref()
    }

    /// The DNS that is asked, for other questions.
    #[must_use]
    pub fn dns(&self) -> &Arc<dyn Dns> {
        &self.dns
    }

    async fn find(&self, destination: &Domain) -> Result<Route, RouteError> {
        let options = &self.options;
        if let Some(ip) = destination.as_literal() {
            return mx::literal(ip, options).map(Route::Hosts);
        }
        // What does not fit into a DNS name cannot exist.
        let Some(found) = self.ask(destination, RecordKind::Mx).await else {
            return Err(RouteError::NoSuchDomain);
        };
        let implicit = !matches!(&found.answer, Answer::Records(records) if !records.is_empty());
        let next = NextHop {
            // RFC 7672 §2.2.1: a domain that is its own host needs proof of its addresses alone.
            secure: found.secure || implicit,
            names: [Some(destination.clone()), found.end.to_domain().filter(|_| found.secure)],
        };
        let proven = found.secure;
        let plan = Plan::new(destination, found.answer.filter_map(as_mx), options)?;
        let questions: Vec<BoxFuture<'_, HostSeen>> =
            plan.names().map(|name| Box::pin(self.ask_host(name, &next)) as _).collect();
        let mut seen = BTreeMap::new();
        let mut answers = Vec::with_capacity(questions.len());
        for (name, host) in plan.names().zip(all(questions).await) {
            seen.insert(name.clone(), (host.tlsa, host.secure));
            answers.push(host.addresses);
        }
        let mut hosts: Hosts = plan.finish(answers, options)?;
        hosts.proven = proven;
        for host in &mut hosts.hosts {
            if let Some((tlsa, secure)) = seen.remove(&host.name) {
                host.tlsa = tlsa;
                hosts.proven |= implicit && secure;
            }
        }
        Ok(Route::Hosts(hosts))
    }

    async fn ask_host(&self, host: &Domain, next: &NextHop) -> HostSeen {
        let (v4, v6) = self.ask_addresses(host).await;
        let found = |found: &&Found| matches!(&found.answer, Answer::Records(all) if !all.is_empty());
        let with: Vec<_> = [&v4, &v6].into_iter().flatten().filter(found).collect();
        let secure = !with.is_empty() && with.iter().all(|found| found.secure);
        let begun = !with.is_empty() && with.iter().all(|found| found.secure_start);
        let end = with.first().map(|found| found.end.clone());
        let addresses = self.addresses_of(v4, v6);
        let wanted = next.secure && self.options.require != Require::Cleartext;
        let tlsa = match end.zip(DnsName::of(host)) {
            Some((end, name)) if wanted => self.ask_tlsa(&name, secure.then_some(&end), begun, next).await,
            _ => Tlsa::Absent,
        };
        HostSeen { addresses, secure, tlsa }
    }

    /// RFC 7672 §2.2.2: the records at the end of a chain that is secure all along; where there are none,
    /// those at the name itself.
    async fn ask_tlsa(&self, name: &DnsName, end: Option<&DnsName>, begun: bool, next: &NextHop) -> Tlsa {
        if let Some(end) = end {
            let tlsa = self.ask_tlsa_at(end, next).await;
            if tlsa != Tlsa::Absent || end == name {
                return tlsa;
            }
        }
        if begun { self.ask_tlsa_at(name, next).await } else { Tlsa::Absent }
    }

    async fn ask_tlsa_at(&self, base: &DnsName, next: &NextHop) -> Tlsa {
        let Some(at) = base.below(&format!("_{}._tcp", self.options.port)) else { return Tlsa::Absent };
        let Some(base) = base.to_domain() else { return Tlsa::Absent };
        let found = self.dns.look_up(&at, RecordKind::Tlsa).await;
        let records = match found.answer {
            Answer::Records(records) if found.secure && !records.is_empty() => records,
            Answer::Records(_) | Answer::NoData | Answer::NoName => return Tlsa::Absent,
            // RFC 7672 §2.1.2: whoever can suppress the answer must not be able to suppress TLS.
            Answer::Failed(_) => return Tlsa::Failed,
        };
        let records: Vec<_> = records.into_iter().filter_map(as_tlsa).take(MAX_TLSA).collect();
        if records.is_empty() {
            return Tlsa::Unusable;
        }
        let mut set = TlsaSet::new(base, records);
        for name in next.names.iter().flatten() {
            if !set.names.contains(name) {
                set.names.push(name.clone());
            }
        }
        Tlsa::Records(Arc::new(set))
    }

    /// What was found for each family that is wanted.
    async fn ask_addresses(&self, host: &Domain) -> (Option<Found>, Option<Found>) {
        let families = self.options.families;
        let v4 = async { if families.has_v4() { self.ask(host, RecordKind::A).await } else { None } };
        let v6 = async { if families.has_v6() { self.ask(host, RecordKind::Aaaa).await } else { None } };
        tokio::join!(v4, v6)
    }

    fn addresses_of(&self, v4: Option<Found>, v6: Option<Found>) -> Answer<IpAddr> {
        // A family that is not wanted has no say in why there is no address.
        let answer = |found: Option<Found>| found.map_or(Answer::NoName, |found| found.answer);
        let v4 = answer(v4).filter_map(|record| if let Record::A(ip) = record { Some(ip) } else { None });
        let v6 = answer(v6).filter_map(|record| if let Record::Aaaa(ip) = record { Some(ip) } else { None });
        mx::addresses(v4, v6, &self.options)
    }

    /// `None` for what is no DNS name.
    async fn ask(&self, name: &Domain, kind: RecordKind) -> Option<Found> {
        Some(self.dns.look_up(&DnsName::of(name)?, kind).await)
    }
}

/// What the hosts' TLSA records have to do with the destination.
struct NextHop {
    /// Whether it is proven that they are its hosts.
    secure: bool,
    /// Its names, which a host's certificate may be for (RFC 7672 §3.2.2): its own, and the end of its
    /// CNAMEs.
    names: [Option<Domain>; 2],
}

/// What DNS says of one host.
struct HostSeen {
    addresses: Answer<IpAddr>,
    /// Whether the addresses are proven.
    secure: bool,
    tlsa: Tlsa,
}

impl Resolve for MxResolver {
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        #[cfg(feature = "mta-sts")]
        if let Some(policies) = self.policies.as_ref().filter(|_| self.options.require != Require::Cleartext)
        {
            return Box::pin(policies.add_to(destination, self.find(destination)));
        }
        Box::pin(self.find(destination))
    }

    #[cfg(feature = "mta-sts")]
    fn policy_failed(&self, destination: &Domain) {
        if let Some(policies) = &self.policies {
            policies.failed(destination);
        }
    }

    fn addresses<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        Box::pin(async move {
            if let Some(ip) = host.as_literal() {
                return Ok(vec![ip]);
            }
            let (v4, v6) = self.ask_addresses(host).await;
            match self.addresses_of(v4, v6) {
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

fn as_mx(record: Record) -> Option<Mx> {
    if let Record::Mx(mx) = record { Some(mx) } else { None }
}

fn as_tlsa(record: Record) -> Option<TlsaRecord> {
    let Record::Tlsa { usage, selector, matching, data } = record else { return None };
    TlsaRecord::new(usage, selector, matching, data)
}

/// Runs all of them at once in this task; their results in the same order. How many questions are open
/// at the same time is for the DNS to say.
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

/// How many TLSA records of a host are looked at; a key and the next one are two.
const MAX_TLSA: usize = 32;
