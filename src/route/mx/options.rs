//! The options of routing by MX: which port, what TLS, who we are, and the limits.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::clock::Rng;
use crate::hop::Require;
use crate::route::dns::{Anchors, DnsOptions, Dnssec};
#[cfg(feature = "mta-sts")]
use crate::route::sts::StsOptions;
use crate::smtp::address::Domain;

/// How routes are made from MX records.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MxOptions {
    /// The name servers to ask, as [`DnsOptions::servers`]. Default: those of the system.
    pub servers: Vec<SocketAddr>,
    /// Whose word counts for DNSSEC, and with it for DANE, as [`DnsOptions::dnssec`]. Default:
    /// [`Dnssec::Auto`].
    pub dnssec: Dnssec,
    /// The keys of the root, as [`DnsOptions::anchors`]. Default: those that IANA publishes.
    pub anchors: Anchors,
    /// The port of MX hosts. Default: 25. Only a test has a reason to change it.
    pub port: u16,
    /// What TLS the hosts must show. Default: [`Require::Opportunistic`], as MX names from
    /// unsigned DNS prove nothing that a certificate could be compared with. What DNSSEC proves of a
    /// host comes first, except with [`Require::Cleartext`], which asks for no TLSA records.
    pub require: Require,
    /// How the policies of recipient domains are found (RFC 8461). Default: with the defaults of
    /// [`StsOptions`]; give it a store that outlives the process. `None` asks for none.
    #[cfg(feature = "mta-sts")]
    pub sts: Option<StsOptions>,
    /// The names under which other hosts know this one, such as the EHLO name. An MX host of such
    /// a name and all that are no better are left out (RFC 5321 §5.1). Default: none. A host that
    /// is somebody's backup MX must set it, or mail goes in circles.
    pub own_names: Vec<Domain>,
    /// The addresses at which others reach this host, for the same purpose. Loopback addresses are
    /// always taken for ours. Default: none.
    pub own_addresses: Vec<IpAddr>,
    /// The ports at which others reach this host. An address is ours only where
    /// [`port`](Self::port) is one of these. Default: 25.
    pub own_ports: Vec<u16>,
    /// Which address families to ask for and to try first. Default: both, IPv6 first.
    pub families: Families,
    /// How long to wait for a name server's answer, as [`DnsOptions::timeout`]. Default: 5 seconds.
    pub timeout: Duration,
    /// How often a question is asked, as [`DnsOptions::attempts`]. Default: 2.
    pub attempts: u32,
    /// How many questions may be open at the same time, over all routes, as
    /// [`DnsOptions::max_lookups`]. Default: 128.
    pub max_lookups: usize,
    /// How many answers are remembered, as [`DnsOptions::max_cached`]. Default: 16,384.
    pub max_cached: u64,
    /// How many MX hosts of a domain are looked at, the best ones. Default: 20; the largest
    /// providers list seven.
    pub max_hosts: usize,
    /// How many addresses a route has in all, dealt out evenly, so that every host keeps one at
    /// least. Default: 40, two for each host. How many of these one attempt tries is up to it: [`Hosts::first`](crate::route::Hosts::first).
    pub max_addresses: usize,
    /// Where the order of equal hosts comes from. Default: seeded by the system.
    pub rng: Rng,
}

impl MxOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        let DnsOptions { servers, timeout, attempts, max_lookups, max_cached, dnssec, anchors } =
            DnsOptions::new();
        Self {
            servers,
            dnssec,
            anchors,
            port: 25,
            require: Require::Opportunistic,
            #[cfg(feature = "mta-sts")]
            sts: Some(StsOptions::new()),
            own_names: Vec::new(),
            own_addresses: Vec::new(),
            own_ports: vec![25],
            families: Families::V6AndV4,
            timeout,
            attempts,
            max_lookups,
            max_cached,
            max_hosts: 20,
            max_addresses: 40,
            rng: Rng::from_entropy(),
        }
    }

    /// The part that is about asking.
    #[cfg(feature = "dns")]
    pub(super) fn dns(&self) -> DnsOptions {
        DnsOptions {
            servers: self.servers.clone(),
            timeout: self.timeout,
            attempts: self.attempts,
            max_lookups: self.max_lookups,
            max_cached: self.max_cached,
            dnssec: self.dnssec,
            anchors: self.anchors.clone(),
        }
    }
}

impl Default for MxOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Which address families are used, and which comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Families {
    /// Both in turn, IPv6 first (RFC 6724).
    #[default]
    V6AndV4,
    /// Both in turn, IPv4 first: where the IPv6 address has no reverse name, or a worse
    /// reputation.
    V4AndV6,
    /// IPv4 only: where there is no way out over IPv6. AAAA is not asked for.
    V4,
    /// IPv6 only. A is not asked for.
    V6,
}

impl Families {
    /// Whether to ask for A.
    #[must_use]
    pub const fn has_v4(self) -> bool {
        !matches!(self, Self::V6)
    }

    /// Whether to ask for AAAA.
    #[must_use]
    pub const fn has_v6(self) -> bool {
        !matches!(self, Self::V4)
    }

    pub(super) const fn starts_with_v6(self) -> bool {
        matches!(self, Self::V6AndV4 | Self::V6)
    }
}
