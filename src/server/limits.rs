//! Limits keep one peer, or all of them together, from taking everything.
//!
//! Here is how many connections are open, in total and per network; [`conduct`](super::conduct) is
//! asked too before one more is. Nothing here waits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::conduct::Conduct;
pub(super) use super::conduct::Offence;
use super::network::Network;
use super::options::ServerOptions;
use crate::smtp::reply::{EnhancedCode, Reply};

/// Who may connect.
#[derive(Debug)]
pub(super) struct Limits {
    total: usize,
    per_network: usize,
    exempt: Vec<Network>,
    pub(super) conduct: Conduct,
    /// Shared with the limits that were before, when these came by a reload.
    held: Arc<Held>,
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Held {
    open: AtomicUsize,
    by_network: Mutex<HashMap<Network, usize>>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    limits: Arc<Limits>,
    network: Option<Network>,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooMany {
    InTotal,
    FromNetwork,
    TooOften,
}

impl TooMany {
    /// What the client is told.
    pub(super) fn reply(self) -> Reply {
        match self {
            Self::InTotal => Reply::new(421, EnhancedCode::new(4, 3, 2), "too many connections, try later"),
            Self::FromNetwork => {
                Reply::new(421, EnhancedCode::new(4, 7, 0), "too many connections from your network")
            }
            Self::TooOften => {
                Reply::new(421, EnhancedCode::new(4, 7, 0), "too much from your network lately, try later")
            }
        }
    }
}

impl Limits {
    pub(super) fn new(options: &ServerOptions) -> Arc<Self> {
        Self::over(options, Conduct::new(options), Arc::default())
    }

    /// Other limits for the connections that are counted here.
    pub(super) fn under(&self, options: &ServerOptions) -> Arc<Self> {
        Self::over(options, self.conduct.under(options), Arc::clone(&self.held))
    }

    fn over(options: &ServerOptions, conduct: Conduct, held: Arc<Held>) -> Arc<Self> {
        Arc::new(Self {
            total: options.max_connections,
            per_network: options.max_per_network,
            // A proxy's connections are those of its clients, who are counted when it names them.
            exempt: [&options.exempt[..], &options.xclient_from].concat(),
            conduct,
            held,
        })
    }

    /// Counts a connection from `peer`.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr, now: Instant) -> Result<Place, TooMany> {
        let mut place = self.enter_unknown()?;
        place.belongs_to(peer, now)?;
        Ok(place)
    }

    /// Counts a connection of which it is not known yet whose it is: a proxy's.
    pub(super) fn enter_unknown(self: &Arc<Self>) -> Result<Place, TooMany> {
        let taken =
            self.held.open.fetch_update(Relaxed, Relaxed, |open| (open < self.total).then_some(open + 1));
        taken.map_err(|_| TooMany::InTotal)?;
        Ok(Place { limits: Arc::clone(self), network: None })
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.held.open.load(Relaxed)
    }

    /// Whether there is a place for a stranger.
    pub(super) fn has_room(&self) -> bool {
        self.open() < self.for_strangers().max(1)
    }

    /// Whether places run out: strangers have taken 80 % of those that are theirs.
    pub(super) fn is_crowded(&self) -> bool {
        let strangers = self.for_strangers();
        self.open() > strangers - strangers / SHARE
    }

    /// Whether the limits of a network are not for this peer.
    pub(super) fn is_exempt(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        peer.is_loopback() || self.exempt.iter().any(|network| network.contains(peer))
    }

    /// Counts something bad that `peer` did.
    pub(super) fn offends(&self, peer: IpAddr, offence: Offence, now: Instant) {
        if !self.is_exempt(peer) && self.conduct.offends(peer, offence, now) {
            tracing::info!(%peer, ?offence, "network refused for a while");
        }
    }

    const fn for_strangers(&self) -> usize {
        self.total - self.total / SHARE
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Network, usize>> {
        self.held.by_network.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Says whose connection it is from now on. An error gives the place back with the value.
    pub(super) fn belongs_to(&mut self, peer: IpAddr, now: Instant) -> Result<(), TooMany> {
        self.leave();
        let limits = &self.limits;
        if limits.is_exempt(peer) {
            return Ok(());
        }
        // This one is among the open ones already.
        if limits.open() > limits.for_strangers() {
            return Err(TooMany::InTotal);
        }
        if !limits.conduct.connects(peer, now) {
            return Err(TooMany::TooOften);
        }
        let network = Network::of_peer(peer);
        // The map is as long as there are connections at most: entries that reach 0 go.
        let mut by_network = limits.lock();
        let count = by_network.entry(network).or_default();
        if *count >= limits.per_network {
            if *count == 0 {
                by_network.remove(&network);
            }
            return Err(TooMany::FromNetwork);
        }
        *count += 1;
        drop(by_network);
        self.network = Some(network);
        Ok(())
    }

    /// Whether its wait for commands is to be short.
    pub(super) fn is_hurried(&self) -> bool {
        self.network.is_some() && self.limits.is_crowded()
    }

    /// It is nobody's for the moment.
    fn leave(&mut self) {
        let Some(network) = self.network.take() else { return };
        let mut by_network = self.limits.lock();
        if let Some(count) = by_network.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                by_network.remove(&network);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
        self.limits.held.open.fetch_sub(1, Relaxed);
    }
}

/// One in so many places is kept for exempt networks, and as much of the others left is crowded.
const SHARE: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::smtp::address::EhloName;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn limits(total: usize, per_network: usize, exempt: &[&str]) -> Arc<Limits> {
        let mut options = ServerOptions::new(EhloName::new("mx.test").unwrap());
        (options.max_connections, options.max_per_network) = (total, per_network);
        options.exempt = exempt.iter().map(|network| network.parse().unwrap()).collect();
        Limits::new(&options)
    }

    #[test]
    fn the_total_and_the_share_of_a_network_are_bounded_and_given_back() {
        let (limits, now) = (limits(4, 2, &["198.51.100.0/24"]), SystemClock.mono());
        let enter = |peer| limits.enter(ip(peer), now);
        let one = enter("192.0.2.1").unwrap();
        let _two = enter("::ffff:192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.1").unwrap_err(), TooMany::FromNetwork);
        drop(one);
        let _three = enter("192.0.2.1").unwrap();
        let four = [enter("198.51.100.7").unwrap(), enter("198.51.100.7").unwrap()];
        assert_eq!(enter("127.0.0.1").unwrap_err(), TooMany::InTotal);
        drop(four);
        assert_eq!(limits.open(), 2);
        assert_eq!(limits.lock().len(), 1);
    }

    #[test]
    fn loopback_is_exempt_from_the_share() {
        let limits = limits(10, 1, &[]);
        let held: Vec<_> =
            (0..5).map(|_| limits.enter(ip("127.0.0.1"), SystemClock.mono()).unwrap()).collect();
        assert_eq!(limits.open(), held.len());
    }

    #[test]
    fn a_fifth_of_the_places_is_kept_for_exempt_networks() {
        let (limits, now) = (limits(10, 50, &["198.51.100.0/24"]), SystemClock.mono());
        let strangers: Vec<_> = (0..8).map(|_| limits.enter(ip("192.0.2.1"), now).unwrap()).collect();
        assert_eq!(limits.enter(ip("192.0.2.1"), now).unwrap_err(), TooMany::InTotal);
        let friends: Vec<_> = (0..2).map(|_| limits.enter(ip("198.51.100.1"), now).unwrap()).collect();
        assert_eq!(limits.enter(ip("198.51.100.1"), now).unwrap_err(), TooMany::InTotal);
        assert!(strangers[0].is_hurried() && !friends[0].is_hurried());
        drop(friends);
        assert_eq!(limits.open(), 8, "a refused connection gave its place back");
    }

    #[test]
    fn a_connection_behind_a_proxy_counts_for_its_client() {
        let (limits, now) = (limits(10, 1, &[]), SystemClock.mono());
        let [mut one, mut two] = [limits.enter_unknown().unwrap(), limits.enter_unknown().unwrap()];
        assert_eq!(one.belongs_to(ip("192.0.2.1"), now), Ok(()));
        assert_eq!(two.belongs_to(ip("192.0.2.1"), now), Err(TooMany::FromNetwork));
        // A connection that changes hands counts for the last of them.
        assert_eq!(one.belongs_to(ip("192.0.2.2"), now), Ok(()));
        assert_eq!(two.belongs_to(ip("192.0.2.1"), now), Ok(()));
        drop((one, two));
        assert_eq!((limits.open(), limits.lock().len()), (0, 0));
    }

    #[test]
    fn a_proxy_that_names_its_clients_is_not_counted_and_they_are() {
        let mut options = ServerOptions::new(EhloName::new("mx.test").unwrap());
        (options.max_connections, options.max_per_network, options.max_connection_rate) = (10, 1, 1);
        options.xclient_from = vec!["192.0.2.0/24".parse().unwrap()];
        let (limits, now) = (Limits::new(&options), SystemClock.mono());
        let mut held: Vec<_> = (0..3).map(|_| limits.enter(ip("192.0.2.1"), now).unwrap()).collect();
        assert_eq!(held[0].belongs_to(ip("198.51.100.1"), now), Ok(()));
        assert_eq!(held[1].belongs_to(ip("198.51.100.1"), now), Err(TooMany::TooOften));
        assert_eq!(held[2].belongs_to(ip("198.51.100.2"), now), Ok(()));
    }

    #[test]
    fn sessions_are_hurried_when_four_fifths_of_the_strangers_places_are_taken() {
        let (limits, now) = (limits(100, 100, &[]), SystemClock.mono());
        let mut held: Vec<_> = (0..64).map(|_| limits.enter(ip("192.0.2.1"), now).unwrap()).collect();
        assert!(!held[0].is_hurried());
        held.push(limits.enter(ip("192.0.2.1"), now).unwrap());
        assert!(held[0].is_hurried());
        held.pop();
        assert!(!held[0].is_hurried());
    }
}
