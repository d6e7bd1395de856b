//! Fixed routes are a table from domains to hosts or to local delivery, which DNS has no say in.
//!
//! For smarthosts, gateways and local domains. The longest match wins; what matches nothing is left
//! to another resolver. The table is the host program's and is not limited here; nothing is added
//! to it by what comes from the network: no TLSA records are asked for, as the route itself says what
//! TLS its hosts must show.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use super::{Hosts, LocalId, Resolve, Route, RouteError};
use crate::BoxFuture;
use crate::hop::{Host, Require};
use crate::smtp::address::Domain;

/// A table of routes.
///
/// ```
/// use postroad::hop::{Host, Require};
/// use postroad::route::{FixedRoutes, LocalId, Match};
/// use postroad::smtp::address::Domain;
///
/// let smarthost = Host::new(Domain::parse("smtp.provider.example")?, 587);
/// let routes = FixedRoutes::new()
///     .local(Domain::parse("example.org")?, LocalId::new("maildir"))
///     .smarthost(smarthost, Require::Verified);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct FixedRoutes {
    exact: BTreeMap<Domain, Row>,
    below: BTreeMap<Domain, Row>,
    rest: Option<Row>,
    otherwise: Option<Arc<dyn Resolve>>,
}

/// What the table says of a destination.
type Row = Result<Route, RouteError>;

/// Which destinations an entry is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// This domain, or address literal, alone.
    Domain(Domain),
    /// Every domain below this one, at any depth; not this one itself.
    Below(Domain),
    /// All that nothing else matches.
    Rest,
}

/// A string that says no [`Match`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither a domain, nor *.domain, nor *")]
pub struct NotAMatch;

impl FromStr for Match {
    type Err = NotAMatch;

    /// `example.org`, `*.example.org` or `.example.org` for what is below it, or `*`.
    fn from_str(text: &str) -> Result<Self, NotAMatch> {
        if text == "*" {
            return Ok(Self::Rest);
        }
        let below = text.strip_prefix('*').unwrap_or(text).strip_prefix('.');
        match below {
            Some(parent) => Domain::parse(parent).map(Self::Below),
            None => Domain::parse(text).map(Self::Domain),
        }
        .map_err(|_| NotAMatch)
    }
}

impl From<Domain> for Match {
    fn from(domain: Domain) -> Self {
        Self::Domain(domain)
    }
}

impl FixedRoutes {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a host for these destinations, to be tried after those already there for the same
    /// match. Where they differ in what TLS they require, the strictest holds for all. A host
    /// without addresses is looked up by the resolver of [`FixedRoutes::otherwise`], and by
    /// whoever connects where that knows none. Takes the place of local delivery.
    #[must_use]
    pub fn host(self, on: impl Into<Match>, host: Host, require: Require) -> Self {
        self.change(on.into(), |before| match before {
            Some(Ok(Route::Hosts(mut hosts))) => {
                hosts.hosts.push(host);
                hosts.require = hosts.require.max(require);
                Ok(Route::Hosts(hosts))
            }
            _ => Ok(Route::Hosts(Hosts::new(vec![host], require))),
        })
    }

    /// These destinations are delivered here, by what is registered under `id`. Takes the place of
    /// hosts.
    #[must_use]
    pub fn local(self, on: impl Into<Match>, id: LocalId) -> Self {
        self.change(on.into(), |_| Ok(Route::Local(id)))
    }

    /// These destinations take no mail, as if they said so by a null MX (RFC 7505): what is sent to
    /// them fails at once. Takes the place of what was there.
    #[must_use]
    pub fn no_mail(self, on: impl Into<Match>) -> Self {
        self.change(on.into(), |_| Err(RouteError::NullMx))
    }

    /// Adds a host for all that nothing else matches; the resolver of [`FixedRoutes::otherwise`]
    /// then only looks up addresses.
    #[must_use]
    pub fn smarthost(self, host: Host, require: Require) -> Self {
        self.host(Match::Rest, host, require)
    }

    /// Any route for these destinations, such as hosts that speak another protocol. Takes the
    /// place of what was there.
    #[must_use]
    pub fn set(self, on: impl Into<Match>, route: Route) -> Self {
        self.change(on.into(), |_| Ok(route))
    }

    /// Who is asked for what matches nothing here, and for the addresses of hosts that are given
    /// by name. Default: nobody, so that such destinations have [`RouteError::NoRoute`].
    #[must_use]
    pub fn otherwise(mut self, resolver: Arc<dyn Resolve>) -> Self {
        self.otherwise = Some(resolver);
        self
    }

    fn change(mut self, on: Match, change: impl FnOnce(Option<Row>) -> Row) -> Self {
        match on {
            Match::Domain(domain) => {
                let before = self.exact.remove(&domain);
                self.exact.insert(domain, change(before));
            }
            Match::Below(parent) => {
                let before = self.below.remove(&parent);
                self.below.insert(parent, change(before));
            }
            Match::Rest => self.rest = Some(change(self.rest.take())),
        }
        self
    }

    /// The longest match.
    fn find(&self, destination: &Domain) -> Option<&Row> {
        let exact = self.exact.get(destination);
        exact.or_else(|| self.find_below(destination)).or(self.rest.as_ref())
    }

    fn find_below(&self, destination: &Domain) -> Option<&Row> {
        // An address literal is below nothing, though it may hold dots.
        if self.below.is_empty() || destination.as_literal().is_some() {
            return None;
        }
        let mut name = destination.as_str();
        while let Some((_, parent)) = name.split_once('.') {
            if let Some(route) = Domain::parse(parent).ok().and_then(|parent| self.below.get(&parent)) {
                return Some(route);
            }
            name = parent;
        }
        None
    }

    async fn with_addresses(&self, mut hosts: Hosts) -> Hosts {
        let Some(resolver) = &self.otherwise else { return hosts };
        for host in hosts.hosts.iter_mut().filter(|host| host.addresses.is_empty()) {
            // Not an error of the destination: the name may be one that only the system knows, and
            // a mistake in the table must not bounce mail.
            host.addresses = resolver.addresses(&host.name).await.unwrap_or_default();
        }
        hosts
    }
}

impl Resolve for FixedRoutes {
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(async move {
            match (self.find(destination), &self.otherwise) {
                (Some(Ok(Route::Hosts(hosts))), _) => {
                    Ok(Route::Hosts(self.with_addresses(hosts.clone()).await))
                }
                (Some(other), _) => other.clone(),
                (None, Some(resolver)) => resolver.route(destination).await,
                (None, None) => Err(RouteError::NoRoute),
            }
        })
    }

    fn addresses<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        match (&self.otherwise, host.as_literal()) {
            (_, Some(ip)) => Box::pin(async move { Ok(vec![ip]) }),
            (Some(resolver), None) => resolver.addresses(host),
            (None, None) => Box::pin(async { Ok(Vec::new()) }),
        }
    }

    fn policy_failed(&self, destination: &Domain) {
        if let (None, Some(resolver)) = (self.find(destination), &self.otherwise) {
            resolver.policy_failed(destination);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn host(text: &str) -> Host {
        Host::new(name(text), 25)
    }

    /// Knows one host's address and one destination.
    #[derive(Debug)]
    struct Dns;

    impl Resolve for Dns {
        fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
            let hosts = Hosts::new(vec![Host::new(destination.clone(), 99)], Require::Opportunistic);
            Box::pin(async { Ok(Route::Hosts(hosts)) })
        }

        fn addresses<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
            Box::pin(async move {
                if host.as_str() == "known.test" {
                    Ok(vec![[192, 0, 2, 1].into()])
                } else {
                    Err(RouteError::NoSuchDomain)
                }
            })
        }
    }

    async fn shown(routes: &FixedRoutes, destination: &str) -> String {
        match routes.route(&name(destination)).await {
            Ok(Route::Hosts(hosts)) => hosts.hosts.iter().map(|host| format!("{host} ")).collect(),
            Ok(Route::Local(id)) => format!("local {}", id.as_str()),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn the_longest_match_wins() {
        let routes = FixedRoutes::new()
            .host(name("a.test"), host("exact.test"), Require::Opportunistic)
            .host(Match::Below(name("a.test")), host("below.test"), Require::Opportunistic)
            .host(Match::Below(name("c.a.test")), host("deeper.test"), Require::Opportunistic)
            .local(name("here.test"), LocalId::new("maildir"))
            .smarthost(host("smart.test"), Require::Opportunistic);
        for (destination, expected) in [
            ("a.test", "exact.test:25 "),
            ("x.a.test", "below.test:25 "),
            ("x.y.a.test", "below.test:25 "),
            ("c.a.test", "below.test:25 "),
            ("x.c.a.test", "deeper.test:25 "),
            ("xa.test", "smart.test:25 "),
            ("here.test", "local maildir"),
            ("below.here.test", "smart.test:25 "),
            ("[192.0.2.1]", "smart.test:25 "),
        ] {
            assert_eq!(shown(&routes, destination).await, expected, "{destination}");
        }
    }

    #[tokio::test]
    async fn what_matches_nothing_is_left_to_the_other_resolver() {
        let routes = FixedRoutes::new().local(name("here.test"), LocalId::new("x"));
        assert_eq!(shown(&routes, "far.test").await, RouteError::NoRoute.to_string());
        let routes = routes.otherwise(Arc::new(Dns));
        assert_eq!(shown(&routes, "far.test").await, "far.test:99 ");
        assert_eq!(shown(&routes, "here.test").await, "local x");
    }

    #[tokio::test]
    async fn hosts_of_one_match_are_tried_in_the_order_given_under_the_strictest_requirement() {
        let routes = FixedRoutes::new()
            .smarthost(host("one.test"), Require::Opportunistic)
            .smarthost(host("two.test"), Require::Verified)
            .smarthost(host("three.test"), Require::Opportunistic);
        let Ok(Route::Hosts(hosts)) = routes.route(&name("x.test")).await else { panic!() };
        assert_eq!(hosts.hosts, [host("one.test"), host("two.test"), host("three.test")]);
        assert_eq!(hosts.require, Require::Verified);
    }

    #[tokio::test]
    async fn a_named_host_gets_its_addresses_from_the_other_resolver_or_stays_without() {
        let fixed = vec![[10, 0, 0, 1].into()];
        let routes = FixedRoutes::new()
            .smarthost(host("known.test"), Require::Opportunistic)
            .smarthost(host("unknown.test"), Require::Opportunistic)
            .smarthost(host("known.test").with_addresses(fixed.clone()), Require::Opportunistic);
        for (routes, looked_up) in [(routes.clone(), 0), (routes.otherwise(Arc::new(Dns)), 1)] {
            let Ok(Route::Hosts(hosts)) = routes.route(&name("x.test")).await else { panic!() };
            let counts: Vec<_> = hosts.hosts.iter().map(|host| host.addresses.len()).collect();
            assert_eq!(counts, [looked_up, 0, 1]);
            assert_eq!(hosts.hosts[2].addresses, fixed);
        }
    }

    #[test]
    fn matches_parse_as_people_write_them() {
        for (text, expected) in [
            ("*", Ok(Match::Rest)),
            ("Example.ORG", Ok(Match::Domain(name("example.org")))),
            ("*.example.org", Ok(Match::Below(name("example.org")))),
            (".example.org", Ok(Match::Below(name("example.org")))),
            ("[192.0.2.1]", Ok(Match::Domain(name("[192.0.2.1]")))),
            ("*example.org", Err(NotAMatch)),
            ("a.*.org", Err(NotAMatch)),
            ("", Err(NotAMatch)),
            (".", Err(NotAMatch)),
            ("*.", Err(NotAMatch)),
        ] {
            assert_eq!(text.parse::<Match>(), expected, "{text}");
        }
    }
}
