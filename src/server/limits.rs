//! Limits keep one peer, or all of them together, from taking everything.
//!
//! Two small books: how many connections are open, in total and per network, and which networks
//! failed to log in lately. Both are bounded, and neither waits for anything.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::network::Network;

/// Counts open connections.
#[derive(Debug)]
pub(super) struct Connections {
    total: usize,
    per_network: usize,
    exempt: Vec<Network>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_network: HashMap<Network, usize>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    book: Arc<Connections>,
    network: Option<Network>,
}

/// Why a connection is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooMany {
    InTotal,
    FromNetwork,
}

impl Connections {
    pub(super) fn new(total: usize, per_network: usize, exempt: Vec<Network>) -> Arc<Self> {
        Arc::new(Self { total, per_network, exempt, open: Mutex::default() })
    }

    /// Counts a connection from `peer`.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Result<Counted, TooMany> {
        let peer = peer.to_canonical();
        let free = peer.is_loopback() || self.exempt.iter().any(|network| network.contains(peer));
        let network = (!free).then(|| Network::of_peer(peer));
        let mut open = self.lock();
        if open.total >= self.total {
            return Err(TooMany::InTotal);
        }
        if let Some(network) = network {
            // The map is as long as there are connections at most: entries that reach 0 go.
            let count = open.by_network.entry(network).or_default();
            if *count >= self.per_network {
                return Err(TooMany::FromNetwork);
            }
            *count += 1;
        }
        open.total += 1;
        drop(open);
        Ok(Counted { book: Arc::clone(self), network })
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.book.lock();
        open.total = open.total.saturating_sub(1);
        if let Some(network) = self.network
            && let Some(count) = open.by_network.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                open.by_network.remove(&network);
            }
        }
    }
}

/// Remembers which networks failed to log in, so that a new connection does not start from zero.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<Network, Failed>>);

#[derive(Debug, Clone, Copy)]
struct Failed {
    times: u32,
    last: Instant,
}

impl Failures {
    /// A login from `peer` failed: how long its answer is held back, `first` doubled with each
    /// failure that is remembered.
    pub(super) fn failed(&self, peer: IpAddr, first: Duration, now: Instant) -> Duration {
        let network = Network::of_peer(peer);
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |failed: &Failed| now.saturating_duration_since(failed.last) < MEMORY;
        if book.len() >= MAX_REMEMBERED && !book.contains_key(&network) {
            book.retain(|_, failed| is_fresh(failed));
            if book.len() >= MAX_REMEMBERED {
                // Somebody has a great many addresses: whoever is not in the book by now is treated
                // as the worst case.
                return first.saturating_mul(MAX_FACTOR);
            }
        }
        let failed = book.entry(network).or_insert(Failed { times: 0, last: now });
        if !is_fresh(failed) {
            failed.times = 0;
        }
        let factor = 1_u32.checked_shl(failed.times).unwrap_or(MAX_FACTOR).min(MAX_FACTOR);
        *failed = Failed { times: failed.times.saturating_add(1), last: now };
        first.saturating_mul(factor)
    }

    /// A login from `peer` succeeded.
    pub(super) fn succeeded(&self, peer: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&Network::of_peer(peer));
    }
}

/// Long enough to make guessing slow, short enough that a person who mistyped is not locked out.
const MEMORY: Duration = Duration::from_secs(600);
/// 1 s becomes 16 s at most: longer waits only hold our own connections.
const MAX_FACTOR: u32 = 16;
/// About a megabyte.
const MAX_REMEMBERED: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_total_and_the_share_of_a_network_are_bounded_and_given_back() {
        let book = Connections::new(4, 2, vec!["198.51.100.0/24".parse().unwrap()]);
        let one = book.enter(ip("192.0.2.1")).unwrap();
        let _two = book.enter(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(book.enter(ip("192.0.2.1")).unwrap_err(), TooMany::FromNetwork);
        drop(one);
        let _three = book.enter(ip("192.0.2.1")).unwrap();
        let four = [book.enter(ip("198.51.100.7")).unwrap(), book.enter(ip("198.51.100.7")).unwrap()];
        assert_eq!(book.enter(ip("127.0.0.1")).unwrap_err(), TooMany::InTotal);
        drop(four);
        assert_eq!(book.open(), 2);
        assert_eq!(book.lock().by_network.len(), 1);
    }

    #[test]
    fn loopback_is_exempt_from_the_share() {
        let book = Connections::new(10, 1, Vec::new());
        let held: Vec<_> = (0..5).map(|_| book.enter(ip("127.0.0.1")).unwrap()).collect();
        assert_eq!(book.open(), held.len());
    }

    #[test]
    fn a_failed_login_is_answered_later_each_time_up_to_a_limit() {
        let (book, now, second) = (Failures::default(), SystemClock.mono(), Duration::from_secs(1));
        let waits: Vec<_> = (0..7).map(|_| book.failed(ip("2001:db8::1"), second, now).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 16, 16]);
        assert_eq!(book.failed(ip("2001:db8::2"), second, now).as_secs(), 16, "the same /64");
        assert_eq!(book.failed(ip("192.0.2.1"), second, now).as_secs(), 1);
        assert_eq!(book.failed(ip("2001:db8::1"), second, now + MEMORY).as_secs(), 1, "forgotten");
        book.failed(ip("192.0.2.1"), second, now);
        book.succeeded(ip("192.0.2.1"));
        assert_eq!(book.failed(ip("192.0.2.1"), second, now).as_secs(), 1);
    }

    #[test]
    fn the_memory_of_failures_is_bounded() {
        let (book, now, second) = (Failures::default(), SystemClock.mono(), Duration::from_secs(1));
        for n in 0..=u32::try_from(MAX_REMEMBERED).unwrap() {
            book.failed(IpAddr::V4((0x0100_0000 + n).into()), second, now);
        }
        assert_eq!(book.0.lock().unwrap().len(), MAX_REMEMBERED);
        assert_eq!(book.failed(ip("198.51.100.1"), second, now).as_secs(), 16);
        assert_eq!(book.failed(ip("198.51.100.1"), second, now + MEMORY).as_secs(), 1);
    }
}
