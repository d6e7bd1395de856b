//! DNS as routing needs it: an answer to one question, and whether DNSSEC proves it.
//!
//! [`Dns`] is a seam. `HickoryDns` asks name servers and validates what they say, or trusts a validating
//! resolver on this machine; [`StaticDns`] is a table, for tests and for closed networks. Whoever has a
//! better validator puts it in its place.

#[cfg(feature = "dns")]
mod cache;
mod fixed;
#[cfg(feature = "dns")]
mod hickory;
mod options;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::RouteError;
use super::mx::Mx;
use crate::BoxFuture;
use crate::smtp::address::Domain;

pub use fixed::StaticDns;
#[cfg(feature = "dns")]
pub use hickory::{HickoryDns, SetupError};
pub use options::{Anchors, DnsOptions, Dnssec};

/// Answers questions.
pub trait Dns: Send + Sync + fmt::Debug + 'static {
    /// Asks for the records of one kind at a name, or at the end of its CNAME chain. Caching by TTL is
    /// the implementation's, also of what does not exist.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    fn look_up<'a>(&'a self, name: &'a DnsName, kind: RecordKind) -> BoxFuture<'a, Found>;
}

/// What was found at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// The records, or why there are none. An answer that DNSSEC shows to be forged or broken is
    /// [`RouteError::Bogus`].
    pub answer: Answer<Record>,
    /// Whether DNSSEC proves the answer, from the name that was asked for to the end of the chain; also
    /// for records that do not exist.
    pub secure: bool,
    /// Whether DNSSEC proves the first step: the CNAME at the name that was asked for, or the records
    /// there. A chain may leave the signed part of the tree behind it (RFC 7672 §2.2.2).
    pub secure_start: bool,
    /// The end of the CNAME chain: where the records are. The name itself where there is no chain.
    pub end: DnsName,
}

impl Found {
    /// An answer at the very name that was asked for.
    #[must_use]
    pub const fn new(answer: Answer<Record>, secure: bool, end: DnsName) -> Self {
        Self { answer, secure, secure_start: secure, end }
    }
}

/// What DNS said to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// Records of the type asked for, at the name or at the end of its CNAME chain.
    Records(Vec<T>),
    /// The name exists and has no record of this type (NODATA). No records at all read as this too.
    NoData,
    /// The name does not exist (NXDOMAIN).
    NoName,
    /// No answer that can be relied on: SERVFAIL, REFUSED, a referral, silence.
    Failed(RouteError),
}

impl<T> Answer<T> {
    /// The same of other records.
    #[must_use]
    pub fn map<U>(self, into: impl FnMut(T) -> U) -> Answer<U> {
        match self {
            Self::Records(records) => Answer::Records(records.into_iter().map(into).collect()),
            Self::NoData => Answer::NoData,
            Self::NoName => Answer::NoName,
            Self::Failed(error) => Answer::Failed(error),
        }
    }

    /// The same of those records that are of use.
    #[must_use]
    pub fn filter_map<U>(self, into: impl FnMut(T) -> Option<U>) -> Answer<U> {
        match self {
            Self::Records(records) => Answer::Records(records.into_iter().filter_map(into).collect()),
            Self::NoData => Answer::NoData,
            Self::NoName => Answer::NoName,
            Self::Failed(error) => Answer::Failed(error),
        }
    }
}

/// What to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RecordKind {
    /// MX: mail hosts.
    Mx,
    /// A: IPv4 addresses.
    A,
    /// AAAA: IPv6 addresses.
    Aaaa,
    /// TLSA: certificates (RFC 6698).
    Tlsa,
    /// TXT: text.
    Txt,
    /// PTR: the name of an address.
    Ptr,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record {
    /// A mail host.
    Mx(Mx),
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// The numbers and the data of a TLSA record (RFC 6698 §2.1).
    Tlsa {
        /// The certificate usage.
        usage: u8,
        /// The selector.
        selector: u8,
        /// The matching type.
        matching: u8,
        /// The certificate association data.
        data: Bytes,
    },
    /// A text, its strings joined.
    Txt(Bytes),
    /// The name of an address.
    Ptr(DnsName),
}

/// An absolute name as it is asked for: ASCII in lower case, without the dot at its end. Unlike a
/// [`Domain`] it may have labels such as `_25`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(Box<str>);

impl DnsName {
    /// A name. `None` when it is not printable ASCII in labels of 1 to 63 octets, 253 in all.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
        };
        (name.len() <= 253 && name.split('.').all(is_label))
            .then(|| Self(name.to_ascii_lowercase().into_boxed_str()))
    }

    /// The name below this one: `_mta-sts` below `example.com` is `_mta-sts.example.com`.
    #[must_use]
    pub fn below(&self, labels: &str) -> Option<Self> {
        Self::new(&format!("{labels}.{}", self.0))
    }

    /// The name without its first label; `None` for a name of one.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.split_once('.').map(|(_, rest)| Self(rest.into()))
    }

    /// Whether this is that name, or one below it.
    #[must_use]
    pub fn is_at_or_below(&self, name: &Self) -> bool {
        let rest = self.0.strip_suffix(&*name.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The name under which the name of an address is found (RFC 1035 §3.5, RFC 3596 §2.5).
    #[must_use]
    pub fn reverse(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa").into()
            }
            IpAddr::V6(v6) => {
                let digits = format!("{:032x}", u128::from(v6));
                digits.chars().rev().flat_map(|digit| [digit, '.']).chain("ip6.arpa".chars()).collect()
            }
        })
    }

    /// The name without the dot at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same as a domain, if it can be one.
    #[must_use]
    pub fn to_domain(&self) -> Option<Domain> {
        Domain::parse(&self.0).ok().filter(|domain| domain.as_literal().is_none())
    }

    /// The name of a domain; `None` for an address literal.
    #[must_use]
    pub fn of(domain: &Domain) -> Option<Self> {
        if domain.as_literal().is_some() { None } else { Self::new(domain.as_str()) }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_absolute_lower_case_and_within_its_limits() {
        let text = |name: &str| DnsName::new(name).map(|name| name.to_string());
        assert_eq!(text("_25._tcp.MX.example."), Some("_25._tcp.mx.example".into()));
        for bad in
            ["", ".", "a..b", "ü.test", "a b.test", "a\\.test", &"x".repeat(64), &"abcdefg.".repeat(32)]
        {
            assert_eq!(text(bad), None, "{bad:?}");
        }
        let below = DnsName::new("example.com").unwrap().below("_mta-sts");
        assert_eq!(below.unwrap().as_str(), "_mta-sts.example.com");
    }

    #[test]
    fn names_above_and_below_and_those_of_addresses() {
        let name = |text: &str| DnsName::new(text).unwrap();
        assert_eq!(name("a.b.test").parent(), Some(name("b.test")));
        assert_eq!(name("test").parent(), None);
        for (below, is) in [("b.test", true), ("a.b.test", true), ("ab.test", false), ("test", false)] {
            assert_eq!(name(below).is_at_or_below(&name("b.test")), is, "{below}");
        }
        let reverse = |ip: &str| DnsName::reverse(ip.parse().unwrap()).to_string();
        assert_eq!(reverse("192.0.2.1"), "1.2.0.192.in-addr.arpa");
        assert_eq!(reverse("::ffff:192.0.2.1"), "1.2.0.192.in-addr.arpa");
        assert_eq!(reverse("2001:db8::1"), format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23)));
    }
}
