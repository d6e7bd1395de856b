//! What hosts were found not to bear, remembered for a while.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::hop::Host;
use crate::net::Quirks;

/// Quirks by host. Each is forgotten an hour after it was first seen, since servers are mended.
#[derive(Debug, Default)]
pub(super) struct QuirkBook {
    hosts: HashMap<Box<str>, (Quirks, Instant)>,
    /// In the order in which they were noted; one for each in `hosts`.
    order: VecDeque<Box<str>>,
}

impl QuirkBook {
    pub(super) fn note(&mut self, host: &Host, quirks: Quirks, now: Instant) {
        if quirks == Quirks::default() {
            return;
        }
        self.forget_old(now);
        let name = host.to_string().into_boxed_str();
        if let Some((known, _)) = self.hosts.get_mut(&name) {
            known.no_pipelining |= quirks.no_pipelining;
            known.no_chain |= quirks.no_chain;
            return;
        }
        if self.order.len() >= MAX_HOSTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.hosts.remove(&oldest);
        }
        self.order.push_back(name.clone());
        self.hosts.insert(name, (quirks, now));
    }

    pub(super) fn of(&mut self, host: &Host, now: Instant) -> Quirks {
        self.forget_old(now);
        if self.hosts.is_empty() {
            return Quirks::default();
        }
        self.hosts.get(host.to_string().as_str()).map_or_else(Quirks::default, |(quirks, _)| *quirks)
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some(oldest) = self.order.front() {
            let noted = self.hosts.get(oldest).map(|(_, at)| *at);
            if noted.is_some_and(|at| now.saturating_duration_since(at) < REMEMBERED) {
                return;
            }
            if let Some(oldest) = self.order.pop_front() {
                self.hosts.remove(&oldest);
            }
        }
    }
}

/// Some 100 octets each: a megabyte.
const MAX_HOSTS: usize = 10_000;
/// Long enough that a broken host costs little, short enough that a mended one is soon spoken to well.
const REMEMBERED: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::smtp::address::Domain;

    fn host(n: usize) -> Host {
        Host::new(Domain::parse(&format!("mx{n}.test")).unwrap(), 25)
    }

    #[test]
    fn quirks_add_up_and_are_forgotten_after_an_hour() {
        let (mut book, now) = (QuirkBook::default(), SystemClock.mono());
        let pipelining = Quirks { no_pipelining: true, ..Quirks::default() };
        let chain = Quirks { no_chain: true, ..Quirks::default() };
        book.note(&host(1), pipelining, now);
        book.note(&host(1), chain, now + Duration::from_secs(10));
        let both = Quirks { no_pipelining: true, no_chain: true };
        assert_eq!(book.of(&host(1), now + Duration::from_secs(3599)), both);
        assert_eq!(book.of(&host(2), now), Quirks::default());
        assert_eq!(book.of(&host(1), now + Duration::from_secs(3600)), Quirks::default());
        assert!(book.hosts.is_empty() && book.order.is_empty());
    }

    #[test]
    fn the_oldest_makes_room() {
        let (mut book, now) = (QuirkBook::default(), SystemClock.mono());
        let quirks = Quirks { no_chain: true, ..Quirks::default() };
        for n in 0..=MAX_HOSTS {
            book.note(&host(n), quirks, now);
        }
        assert_eq!((book.hosts.len(), book.order.len()), (MAX_HOSTS, MAX_HOSTS));
        assert_eq!(book.of(&host(0), now), Quirks::default());
        assert_eq!(book.of(&host(MAX_HOSTS), now), quirks);
    }
}
