//! Address families: which of a host's addresses are tried, and which family comes first.

use std::net::IpAddr;

/// Which family of a host's addresses is tried first. The two take turns behind the first address
/// (RFC 8305 §4), so that a family in which nothing arrives costs one step and not all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum FamilyOrder {
    /// That of the first address that the route gives.
    #[default]
    AsGiven,
    /// IPv6.
    Ipv6First,
    /// IPv4: where the reputation of the own IPv6 address is worse.
    Ipv4First,
    /// No IPv4 at all.
    Ipv6Only,
    /// No IPv6 at all.
    Ipv4Only,
}

impl FamilyOrder {
    /// The addresses that are tried, in that order. Within a family it stays what it was.
    #[must_use]
    pub fn sort(self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let v6_first = match self {
            Self::AsGiven => addresses.first().is_some_and(IpAddr::is_ipv6),
            Self::Ipv6First | Self::Ipv6Only => true,
            Self::Ipv4First | Self::Ipv4Only => false,
        };
        let (mut first, mut other): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|ip| ip.is_ipv6() == v6_first);
        if matches!(self, Self::Ipv6Only | Self::Ipv4Only) {
            other.clear();
        }
        let mut sorted = Vec::with_capacity(first.len() + other.len());
        let (mut first, mut other) = (first.drain(..), other.drain(..));
        loop {
            let before = sorted.len();
            sorted.extend(first.next());
            sorted.extend(other.next());
            if sorted.len() == before {
                return sorted;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_behind_the_preferred_one() {
        use FamilyOrder::{AsGiven, Ipv4First, Ipv4Only, Ipv6First, Ipv6Only};
        for (order, given, sorted) in [
            (AsGiven, "::1 ::2 ::3 1.1.1.1 2.2.2.2", "::1 1.1.1.1 ::2 2.2.2.2 ::3"),
            (AsGiven, "1.1.1.1 2.2.2.2 ::1", "1.1.1.1 ::1 2.2.2.2"),
            (AsGiven, "2.2.2.2 1.1.1.1", "2.2.2.2 1.1.1.1"),
            (AsGiven, "", ""),
            (Ipv6First, "1.1.1.1 2.2.2.2 ::1", "::1 1.1.1.1 2.2.2.2"),
            (Ipv4First, "::1 ::2 1.1.1.1", "1.1.1.1 ::1 ::2"),
            (Ipv6Only, "1.1.1.1 ::2 ::1", "::2 ::1"),
            (Ipv4Only, "::2 1.1.1.1 ::1", "1.1.1.1"),
            (Ipv4Only, "::2", ""),
        ] {
            let parse =
                |list: &str| list.split_whitespace().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
            assert_eq!(order.sort(parse(given)), parse(sorted), "{order:?} {given}");
        }
    }
}
