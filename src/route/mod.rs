//! A route says where mail for a destination goes: hosts in the order to try them, or to us.
//!
//! Routing decides who may receive the mail and what TLS they must show. It opens no connection and
//! keeps no memory of hosts that do not answer: that is the engine's.

pub mod dns;
mod fixed;
pub mod mx;
pub mod sts;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use self::sts::{StsFault, StsMode, StsPolicy};
use crate::BoxFuture;
use crate::hop::{Host, PolicyKind, Require, Tlsa, TlsaUsage};
use crate::smtp::address::Domain;
use crate::smtp::reply::EnhancedCode;

pub use crate::smtp::Protocol;
#[cfg(feature = "dns")]
pub use dns::SetupError;
pub use fixed::{FixedRoutes, Match, NotAMatch};
pub use mx::options::{Families, MxOptions};
#[cfg(feature = "dns")]
pub use mx::resolver::MxResolver;

/// Where mail for a destination goes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// To other hosts, over SMTP.
    Hosts(Hosts),
    /// To us: final delivery by the `Deliver` that is registered under this id.
    Local(LocalId),
}

/// The hosts of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hosts {
    /// In the order to try them; never empty.
    pub hosts: Vec<Host>,
    /// What they speak.
    pub protocol: Protocol,
    /// What TLS they must show at least; what DNSSEC says of each host comes first.
    pub require: Require,
    /// Who requires that: [`PolicyKind::Own`], or [`PolicyKind::Sts`] after [`Hosts::under_policy`].
    pub by: PolicyKind,
    /// The destination's policy. Default: none.
    pub sts: Option<Arc<StsPolicy>>,
    /// Why a policy that is announced is not there. Default: nothing.
    pub sts_fault: Option<StsFault>,
    /// Whether it is proven that these are the destination's hosts: by a table of ours, by DNSSEC or by
    /// the destination's policy, not by plain DNS, which somebody on the way can forge. Mail with
    /// REQUIRETLS goes to no others (RFC 8689 §4.2.1).
    pub proven: bool,
    /// Whether these are the destination's own hosts, found by the rules of MX, and not by a table of ours:
    /// only those are reported on (RFC 8460). Default: `false`.
    pub by_mx: bool,
}

impl Hosts {
    /// Hosts that speak SMTP, as a table of ours has them.
    #[must_use]
    pub const fn new(hosts: Vec<Host>, require: Require) -> Self {
        let by = match require {
            Require::Opportunistic => PolicyKind::Opportunistic,
            _ => PolicyKind::Own,
        };
        Self {
            hosts,
            protocol: Protocol::Smtp,
            require,
            by,
            sts: None,
            sts_fault: None,
            proven: true,
            by_mx: false,
        }
    }

    /// The same as its policies leave it: under an enforced policy only the hosts that match it, each
    /// with a valid certificate. With `relaxed`, for a message whose sender would rather have it
    /// delivered than protected (`TLS-Required: No`, RFC 8689 §4.2.2), neither the domain's policy nor
    /// the hosts' counts; what the host program requires stays.
    ///
    /// # Errors
    /// [`RouteError::Sts`] when no host matches.
    pub fn under_policy(mut self, relaxed: bool) -> Result<Self, RouteError> {
        if self.require == Require::Cleartext {
            return Ok(self);
        }
        if relaxed {
            self.hosts.iter_mut().for_each(|host| host.tlsa = Tlsa::Absent);
            return Ok(self);
        }
        let enforced = self.sts.as_ref().filter(|policy| policy.mode == StsMode::Enforce);
        if let Some(policy) = enforced {
            self.hosts.retain(|host| policy.matches(&host.name));
            if self.hosts.is_empty() {
                return Err(RouteError::Sts);
            }
            self.proven = true;
            (self.require, self.by) = (Require::Verified, PolicyKind::Sts);
        }
        Ok(self)
    }

    /// The same, known from where they can be forged.
    #[must_use]
    pub fn unproven(self) -> Self {
        Self { proven: false, ..self }
    }

    /// The same, spoken to in LMTP: the final delivery of mail by another program.
    #[must_use]
    pub fn lmtp(self) -> Self {
        Self { protocol: Protocol::Lmtp, ..self }
    }

    /// The identity of this set of hosts and what they speak, whatever their order: all destinations
    /// hosted by one provider share it. Readable, stable across restarts.
    #[must_use]
    pub fn site(&self) -> String {
        let mut names: Vec<_> = self.hosts.iter().map(ToString::to_string).collect();
        names.sort_unstable();
        names.dedup();
        // One host may speak both; a connection of the one kind is of no use for the other.
        let protocol = if self.protocol == Protocol::Lmtp { "lmtp:" } else { "" };
        format!("{protocol}{}", names.join(","))
    }

    /// The identity of this set of hosts and of what they have to show: what is kept for the one, queue,
    /// limits or connections, is not shared with others. The site, with the policies in front. Readable,
    /// stable across restarts.
    ///
    /// An authority in a TLSA record may have signed certificates for many names, so that those that this
    /// route looks for are named too, unless they are the host's own (RFC 7672 §3.2.2).
    #[must_use]
    pub fn key(&self) -> String {
        let floor = match (self.require, self.by) {
            (Require::Cleartext, _) => return format!("cleartext {}", self.site()),
            (Require::Opportunistic, _) => "",
            (Require::Encrypted, _) => "encrypted ",
            (Require::Verified, PolicyKind::Sts) => "sts ",
            (Require::Verified, _) => "verified ",
        };
        let is_counted = |host: &Host| host.tlsa != Tlsa::Absent;
        let dane = if self.hosts.iter().any(is_counted) { "dane " } else { "" };
        let mut names: Vec<_> = self.hosts.iter().flat_map(foreign_names).collect();
        names.sort_unstable();
        names.dedup();
        let by = if names.is_empty() { String::new() } else { format!(" as {}", names.join(",")) };
        format!("{dane}{floor}{}{by}", self.site())
    }

    /// What one attempt tries: the first hosts, with no more than `limit` addresses in all. Each
    /// gives two before one gives more, so that a host with many addresses does not use up the
    /// attempt (RFC 5321 §5.1 wants two tried at least). A host whose addresses are not known
    /// counts as one.
    #[must_use]
    pub fn first(&self, limit: usize) -> Vec<Host> {
        let counts: Vec<_> = self.hosts.iter().map(|host| host.addresses.len().max(1)).collect();
        let shares = mx::share(&counts, limit, 2);
        let some = self.hosts.iter().zip(shares).filter(|(_, share)| *share > 0);
        some.map(|(host, share)| {
            let addresses = host.addresses.iter().take(share).copied().collect();
            host.clone().with_addresses(addresses)
        })
        .collect()
    }
}

/// The names besides the host's own that its certificate may be for, where an authority vouches for it.
fn foreign_names(host: &Host) -> Vec<&str> {
    let Tlsa::Records(set) = &host.tlsa else { return Vec::new() };
    if !set.records.iter().any(|record| record.usage == TlsaUsage::DaneTa) {
        return Vec::new();
    }
    let own = |name: &&Domain| **name != host.name && **name != set.base;
    set.names.iter().filter(own).map(Domain::as_str).collect()
}

/// Names one of the host program's own ways of final delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalId(Box<str>);

impl LocalId {
    /// The id `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Finds routes.
pub trait Resolve: Send + Sync + fmt::Debug + 'static {
    /// The route of a destination, asked before each delivery that has none at hand: caching is
    /// the implementation's.
    ///
    /// # Errors
    /// [`RouteError`], which says whether trying again can help.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>>;

    /// The addresses of one host by name, in the order to try them; for routes that name a host
    /// without addresses. The default does not know any.
    ///
    /// # Errors
    /// [`RouteError`]
    fn addresses<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        let _ = host;
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Mail for a destination could not be sent because of its policy ([`Hosts::sts`]): before it is tried
    /// again, whether there is another policy should be found out (RFC 8461 §5.1). May be called for
    /// each message. The default does nothing.
    fn policy_failed(&self, destination: &Domain) {
        let _ = destination;
    }
}

/// Why there is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The domain does not exist (NXDOMAIN).
    #[error("the domain does not exist")]
    NoSuchDomain,
    /// The domain exists and has neither MX nor address records.
    #[error("the domain has no mail server and no address")]
    NoHost,
    /// The domain says that it takes no mail (RFC 7505).
    #[error("the domain does not accept mail")]
    NullMx,
    /// All that remains of the route is ourselves (RFC 5321 §5.1).
    #[error("mail for the domain loops back to this host")]
    Loop,
    /// No table entry, and no resolver to ask.
    #[error("there is no route to the domain")]
    NoRoute,
    /// None of its hosts is one that its MTA-STS policy allows (RFC 8461 §4.1).
    #[error("no mail server of the domain is one that its MTA-STS policy allows")]
    Sts,
    /// Its MTA-STS policy is not known and could not be asked for yet: too many others were.
    #[error("the domain's MTA-STS policy could not be fetched yet")]
    StsUndecided,
    /// DNS gave an answer that DNSSEC shows to be forged, or broken.
    #[error("the answer of the name servers does not stand up to DNSSEC")]
    Bogus,
    /// DNS failed in a way that may pass: SERVFAIL, REFUSED, no answer.
    #[error("the name servers could not answer")]
    Dns,
    /// The lookup took longer than this.
    #[error("the name servers did not answer within {0:?}")]
    Timeout(Duration),
}

impl RouteError {
    /// Whether trying again later can help.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Dns | Self::Bogus | Self::Sts | Self::StsUndecided | Self::Timeout(_))
    }

    /// The status code for reports (RFC 3463, RFC 7505 §5).
    #[must_use]
    pub const fn status(self) -> EnhancedCode {
        match self {
            Self::NoSuchDomain | Self::NoHost => EnhancedCode::new(5, 1, 2),
            Self::NullMx => EnhancedCode::new(5, 1, 10),
            Self::Loop => EnhancedCode::new(5, 4, 6),
            Self::NoRoute => EnhancedCode::new(5, 4, 4),
            Self::Sts | Self::StsUndecided => EnhancedCode::new(4, 7, 0),
            Self::Dns | Self::Bogus | Self::Timeout(_) => EnhancedCode::new(4, 4, 3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(addresses: &[usize]) -> Hosts {
        let host = |(at, n): (usize, &usize)| {
            let name = Domain::parse(&format!("mx{at}.test")).unwrap();
            let ip = |i: usize| IpAddr::from([192, 0, u8::try_from(at).unwrap(), u8::try_from(i).unwrap()]);
            Host::new(name, 25).with_addresses((0..*n).map(ip).collect())
        };
        Hosts::new(addresses.iter().enumerate().map(host).collect(), Require::Opportunistic)
    }

    #[test]
    fn one_attempt_tries_a_few_addresses_of_more_than_one_host() {
        for (addresses, limit, expected) in [
            (&[8, 8][..], 5, &[3, 2][..]),
            (&[2, 2, 2, 2, 2], 5, &[2, 2, 1]),
            (&[1; 9], 5, &[1; 5]),
            (&[9], 5, &[5]),
            (&[9, 1], 5, &[4, 1]),
            (&[0, 0, 3], 5, &[0, 0, 3]), // to be looked up by whoever connects: one each
            (&[3], 0, &[]),
        ] {
            let first = hosts(addresses).first(limit);
            let counts: Vec<_> = first.iter().map(|host| host.addresses.len()).collect();
            assert_eq!(counts, expected, "{addresses:?}");
        }
    }

    #[test]
    fn the_site_is_the_set_of_hosts_not_their_order() {
        let one = hosts(&[1, 1]);
        let mut other = one.clone();
        other.hosts.reverse();
        assert_eq!(one.site(), other.site());
        assert_ne!(one.site(), hosts(&[1]).site());
        assert_ne!(one.site(), one.clone().lmtp().site());
    }
}
