//! The MX rules turn what DNS answered about a domain into the hosts that take its mail.
//!
//! They are pure: no DNS library, no socket, no waiting. [`Plan::new`] judges the answer to the MX
//! question and says whose addresses to ask for; [`Plan::finish`] judges those and gives the route.
//! Whoever brings another resolver than the one of the `dns` feature puts it between the two.
//!
//! Two things matter beyond RFC 5321 §5.1. A failed question never reads as an empty answer: what
//! may pass is transient, because a bounce cannot be taken back. And the set of hosts of a domain is
//! the same at each look-up, only its order is shuffled, because the set is the identity of its
//! queue. How long a host is avoided after it did not answer is not decided here.

pub(super) mod options;
#[cfg(feature = "dns")]
pub(super) mod resolver;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::dns::Answer;
use super::{Hosts, MxOptions, RouteError};
use crate::hop::Host;
use crate::smtp::address::Domain;

/// One MX record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mx {
    /// Lower is better.
    pub preference: u16,
    /// The host.
    pub exchange: Exchange,
}

impl Mx {
    /// A record.
    #[must_use]
    pub const fn new(preference: u16, exchange: Exchange) -> Self {
        Self { preference, exchange }
    }
}

/// The host of an MX record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    /// A host by name.
    Host(Domain),
    /// The root, which is no host (RFC 7505).
    Null,
    /// Something that cannot be a host's name; of no use, yet the list is not empty.
    Unusable,
}

/// The hosts that may take a domain's mail, before their addresses are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By preference, then by name; no name twice.
    candidates: Vec<Candidate>,
    /// We were among the hosts, and what is no better than us was removed.
    ours: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    preference: u16,
    name: Domain,
}

impl Plan {
    /// Judges the answer to the MX question for `destination`.
    ///
    /// # Errors
    /// [`RouteError`] when there is nobody to ask for: the domain does not exist, refuses mail, is
    /// served by us alone, or the answer cannot be relied on.
    pub fn new(destination: &Domain, answer: Answer<Mx>, options: &MxOptions) -> Result<Self, RouteError> {
        let records = match answer {
            Answer::Records(records) if !records.is_empty() => records,
            // RFC 5321 §5.1: without any MX record the domain is its own host. Only then: an answer
            // that failed must not become a delivery to the web server.
            Answer::Records(_) | Answer::NoData => return Self::new_implicit(destination, options),
            Answer::NoName => return Err(RouteError::NoSuchDomain),
            Answer::Failed(error) => return Err(error),
        };
        // RFC 7505 §3. Beside other records the root is merely useless.
        if records.iter().all(|mx| mx.exchange == Exchange::Null) {
            return Err(RouteError::NullMx);
        }
        let mut candidates: Vec<_> = records
            .into_iter()
            .filter_map(|mx| match mx.exchange {
                Exchange::Host(name) => Some(Candidate { preference: mx.preference, name }),
                Exchange::Null | Exchange::Unusable => None,
            })
            .collect();
        candidates.sort_by(|a, b| (a.preference, &a.name).cmp(&(b.preference, &b.name)));
        let mut seen = BTreeSet::new();
        candidates.retain(|candidate| seen.insert(candidate.name.clone()));
        Self::checked(candidates, options)
    }

    fn new_implicit(destination: &Domain, options: &MxOptions) -> Result<Self, RouteError> {
        Self::checked(vec![Candidate { preference: 0, name: destination.clone() }], options)
    }

    /// Without ourselves, by name, and within the limits.
    fn checked(mut candidates: Vec<Candidate>, options: &MxOptions) -> Result<Self, RouteError> {
        let own = candidates.iter().find(|c| options.own_names.contains(&c.name)).map(|c| c.preference);
        candidates.retain(|candidate| own.is_none_or(|own| candidate.preference < own));
        // Sorted by name within a preference, so the limit always cuts the same hosts.
        candidates.truncate(options.max_hosts.min(options.max_addresses));
        match (candidates.is_empty(), own) {
            (true, Some(_)) => Err(RouteError::Loop),
            (true, None) => Err(RouteError::NoHost),
            (false, own) => Ok(Self { candidates, ours: own.is_some() }),
        }
    }

    /// The hosts whose addresses are needed, in the order in which [`Plan::finish`] wants them.
    #[must_use]
    pub fn names(&self) -> impl ExactSizeIterator<Item = &Domain> {
        self.candidates.iter().map(|candidate| &candidate.name)
    }

    /// The route, given what DNS said about the addresses of each of [`Plan::names`], in that order.
    /// A host for which there is no answer has none.
    ///
    /// # Errors
    /// [`RouteError`] when no host can be used: transient if any question failed in a way that may
    /// pass, [`RouteError::Loop`] if we are the only host with an address, else
    /// [`RouteError::NoHost`].
    pub fn finish(self, answers: Vec<Answer<IpAddr>>, options: &MxOptions) -> Result<Hosts, RouteError> {
        let mut failed = Vec::new();
        let mut usable = Vec::new();
        for (candidate, answer) in self.candidates.into_iter().zip(answers) {
            match answer {
                Answer::Records(addresses) if !addresses.is_empty() => usable.push((candidate, addresses)),
                Answer::Failed(error) => failed.push((candidate.preference, error)),
                Answer::Records(_) | Answer::NoData | Answer::NoName => {}
            }
        }
        // RFC 5321 §5.1: ourselves, and whoever is no better, or two backup hosts send in circles.
        let own = usable
            .iter()
            .filter(|(_, addresses)| addresses.iter().any(|&ip| options.is_own(ip)))
            .map(|(candidate, _)| candidate.preference)
            .min();
        let is_better = |preference: u16| own.is_none_or(|own| preference < own);
        usable.retain(|(candidate, _)| is_better(candidate.preference));
        if usable.is_empty() {
            // RFC 5321 §5.1: a list without a usable host never falls back to the domain's address.
            return Err(match failed.into_iter().find(|(preference, _)| is_better(*preference)) {
                Some((_, error)) => error,
                None if self.ours || own.is_some() => RouteError::Loop,
                None => RouteError::NoHost,
            });
        }
        // RFC 5321 §5.1: equal hosts in random order. Both steps are stable, so shuffling all of
        // them and sorting by preference does it.
        options.rng.shuffle(&mut usable);
        usable.sort_by_key(|(candidate, _)| candidate.preference);
        let hosts = Hosts::new(within_limit(usable, options), options.require).unproven();
        Ok(Hosts { by_mx: true, ..hosts })
    }
}

/// The route to an address literal (RFC 5321 §4.1.3), for which DNS is not asked: it has no TLSA records
/// either.
///
/// # Errors
/// [`RouteError::Loop`] when it is ours.
pub fn literal(ip: IpAddr, options: &MxOptions) -> Result<Hosts, RouteError> {
    if options.is_own(ip) {
        return Err(RouteError::Loop);
    }
    Ok(Hosts::new(vec![Host::new(Domain::from(ip), options.port)], options.require))
}

/// One host's addresses from the answers for both families, in the order to try them: families in
/// turn (RFC 8305 §4), each in random order.
///
/// A family that failed is hidden by one that answered. A family that failed beside an empty one is
/// not: the host may have addresses that could not be read.
#[must_use]
pub fn addresses(v4: Answer<Ipv4Addr>, v6: Answer<Ipv6Addr>, options: &MxOptions) -> Answer<IpAddr> {
    let mut failed = None;
    let mut absent = Answer::NoName;
    let mut note = |answer: Answer<IpAddr>| match answer {
        Answer::Records(found) if !found.is_empty() => {
            let mut found: Vec<_> = found.into_iter().map(|ip| ip.to_canonical()).filter(usable).collect();
            found.sort_unstable();
            found.dedup();
            options.rng.shuffle(&mut found);
            absent = Answer::NoData;
            found
        }
        Answer::Records(_) | Answer::NoData => {
            absent = Answer::NoData;
            Vec::new()
        }
        Answer::NoName => Vec::new(),
        Answer::Failed(error) => {
            failed = failed.or(Some(error));
            Vec::new()
        }
    };
    let v4 = note(v4.map(IpAddr::V4));
    let v6 = note(v6.map(IpAddr::V6));
    let mut found = if options.families.starts_with_v6() { in_turn(v6, v4) } else { in_turn(v4, v6) };
    found.truncate(options.max_addresses);
    match failed {
        _ if !found.is_empty() => Answer::Records(found),
        Some(error) => Answer::Failed(error),
        None => absent,
    }
}

impl MxOptions {
    /// Whether a connection to this address would reach ourselves. An unspecified or loopback
    /// address in somebody's DNS is this very machine, whoever listens there.
    fn is_own(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.own_ports.contains(&self.port)
            && (ip.is_loopback()
                || ip.is_unspecified()
                || self.own_addresses.iter().any(|own| own.to_canonical() == ip))
    }
}

/// Nobody's mail server is reached at a multicast or broadcast address.
fn usable(ip: &IpAddr) -> bool {
    !ip.is_multicast() && *ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn in_turn(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut all = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let (one, two) = (first.next(), second.next());
        if one.is_none() && two.is_none() {
            return all;
        }
        all.extend(one.into_iter().chain(two));
    }
}

/// Hosts with no more addresses in all than the limit, and each with at least one: a host without
/// would be looked up elsewhere, and the set of hosts would change with the shuffling.
fn within_limit(usable: Vec<(Candidate, Vec<IpAddr>)>, options: &MxOptions) -> Vec<Host> {
    let counts: Vec<_> = usable.iter().map(|(_, addresses)| addresses.len()).collect();
    usable
        .into_iter()
        .zip(share(&counts, options.max_addresses, 1))
        .map(|((candidate, mut addresses), keep)| {
            addresses.truncate(keep);
            Host::new(candidate.name, options.port).with_addresses(addresses)
        })
        .collect()
}

/// Deals `budget` out over `counts` in rounds, at most `step` to each in a round.
pub(super) fn share(counts: &[usize], mut budget: usize, step: usize) -> Vec<usize> {
    let mut shares = vec![0_usize; counts.len()];
    loop {
        let before = budget;
        for (share, count) in shares.iter_mut().zip(counts) {
            let dealt = (count - *share).min(step).min(budget);
            *share += dealt;
            budget -= dealt;
        }
        if budget == before {
            return shares;
        }
    }
}
