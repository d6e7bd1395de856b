//! Which hosts could not be reached, remembered for a while, whatever mail it was that wanted to go there.
//!
//! A host that is down costs a wait each time that it is tried, and it may be in the routes of many
//! destinations. So it is tried behind the others of a route for a minute, then for longer each time, up
//! to a quarter of an hour; when that is over, one run tries it again and the others wait for what comes of
//! it. It is never left out: when none of a route's hosts can be reached, they are tried all the same. How
//! often that happens is the engine's to say, which then leaves the whole site alone for a while.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::hop::Host;
use crate::net::connect::ConnectError;
use crate::net::source::SourceName;

/// Hosts that could not be reached, each from one source: another may have a way to it.
#[derive(Debug, Default)]
pub(super) struct ReachBook {
    // Looked up by key only.
    hosts: HashMap<Box<str>, Unreached>,
    /// In the order in which they were noted, by their number: one for each in `hosts`.
    order: BTreeMap<u64, Box<str>>,
    /// How many were ever noted.
    noted: u64,
}

#[derive(Debug)]
struct Unreached {
    number: u64,
    /// How often in a row.
    times: u32,
    /// Until when it is tried behind the others.
    until: Instant,
}

impl ReachBook {
    /// Whether it is to be tried behind others.
    pub(super) fn is_out(&self, host: &Host, source: Option<&SourceName>, now: Instant) -> bool {
        !self.hosts.is_empty() && self.hosts.get(&key(host, source)).is_some_and(|host| now < host.until)
    }

    /// It is tried now. Where it was not to be reached before, others leave it alone until that is over.
    pub(super) fn tries(&mut self, host: &Host, source: Option<&SourceName>, now: Instant) {
        if !self.hosts.is_empty()
            && let Some(host) = self.hosts.get_mut(&key(host, source))
        {
            host.until = host.until.max(now + TRY);
        }
    }

    /// What came of it.
    pub(super) fn tried(
        &mut self,
        host: &Host,
        source: Option<&SourceName>,
        error: Option<ConnectError>,
        now: Instant,
    ) {
        use ConnectError::{Refused, TimedOut, Unreachable};
        let is_unreached = match error {
            None => false,
            Some(Refused | TimedOut | Unreachable) => true,
            // That is not the host's doing.
            Some(_) => return,
        };
        if !is_unreached && self.hosts.is_empty() {
            return;
        }
        let key = key(host, source);
        let before = self.hosts.remove(&key);
        let (number, times) = before.map_or((None, 0), |before| {
            let forgotten = now.saturating_duration_since(before.until) >= FORGET_AFTER;
            (Some(before.number), if forgotten { 0 } else { before.times })
        });
        if let Some(number) = number {
            self.order.remove(&number);
        }
        if is_unreached {
            if self.order.len() >= MAX_HOSTS
                && let Some((_, oldest)) = self.order.pop_first()
            {
                self.hosts.remove(&oldest);
            }
            let doubled = FIRST.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX));
            self.noted += 1;
            self.order.insert(self.noted, key.clone());
            let (number, times) = (self.noted, times.saturating_add(1));
            self.hosts.insert(key, Unreached { number, times, until: now + doubled.min(LONGEST) });
        }
    }
}

fn key(host: &Host, source: Option<&SourceName>) -> Box<str> {
    source.map_or_else(|| host.to_string(), |source| format!("{host} from {source}")).into()
}

/// Long enough that a burst does not ask again, short enough for a host that restarts.
const FIRST: Duration = Duration::from_secs(60);
/// What a host that comes back waits at most before it gets its share again.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// A try may take this long: five addresses, each of which may wait 30 s, at once.
const TRY: Duration = Duration::from_secs(60);
/// A host that fails again after so long is met as one that fails for the first time.
const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// Some 300 octets each: three megabytes.
const MAX_HOSTS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::smtp::address::Domain;

    const DOWN: Option<ConnectError> = Some(ConnectError::TimedOut);

    fn host(n: usize) -> Host {
        Host::new(Domain::parse(&format!("mx{n}.test")).unwrap(), 25)
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_host_is_left_for_longer_each_time_and_one_try_ends_that() {
        let (mut book, mut now) = (ReachBook::default(), SystemClock.mono());
        for wait in [60, 120, 240, 480, 900, 900] {
            book.tried(&host(1), None, DOWN, now);
            assert!(book.is_out(&host(1), None, now + seconds(wait - 1)));
            now += seconds(wait);
            assert!(!book.is_out(&host(1), None, now), "after {wait} s");
        }
        assert!(!book.is_out(&host(2), None, now));
        // One tries it, and the others wait for that.
        book.tries(&host(1), None, now);
        assert!(book.is_out(&host(1), None, now));
        book.tried(&host(1), None, None, now);
        assert!(!book.is_out(&host(1), None, now));
        assert!(book.hosts.is_empty() && book.order.is_empty());
        // Long ago is as never.
        book.tried(&host(1), None, DOWN, now);
        book.tried(&host(1), None, DOWN, now + seconds(60) + FORGET_AFTER);
        assert!(!book.is_out(&host(1), None, now + seconds(120) + FORGET_AFTER));
    }

    #[test]
    fn a_try_that_nothing_comes_of_ends_too() {
        let (mut book, now) = (ReachBook::default(), SystemClock.mono());
        book.tries(&host(1), None, now);
        assert!(!book.is_out(&host(1), None, now), "nothing is known against it");
        book.tried(&host(1), None, DOWN, now);
        book.tries(&host(1), None, now + seconds(60));
        // What is about us says nothing, be it good or bad.
        book.tried(&host(1), None, Some(ConnectError::Local), now + seconds(61));
        book.tried(&host(1), None, Some(ConnectError::Proxy), now + seconds(61));
        assert!(book.is_out(&host(1), None, now + seconds(119)));
        assert!(!book.is_out(&host(1), None, now + seconds(120)));
    }

    #[test]
    fn what_one_source_does_not_reach_another_may() {
        let (mut book, now) = (ReachBook::default(), SystemClock.mono());
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        book.tried(&host(1), Some(&a), DOWN, now);
        assert!(book.is_out(&host(1), Some(&a), now));
        assert!(!book.is_out(&host(1), Some(&b), now) && !book.is_out(&host(1), None, now));
        let submission = Host::new(host(1).name, 587);
        assert!(!book.is_out(&submission, Some(&a), now), "another port");
    }

    #[test]
    fn the_oldest_makes_room() {
        let (mut book, now) = (ReachBook::default(), SystemClock.mono());
        for n in (0..MAX_HOSTS).chain([0, MAX_HOSTS]) {
            book.tried(&host(n), None, DOWN, now);
        }
        assert_eq!((book.hosts.len(), book.order.len()), (MAX_HOSTS, MAX_HOSTS));
        assert!(!book.is_out(&host(1), None, now), "the one that was noted longest ago");
        assert!(book.is_out(&host(0), None, now) && book.is_out(&host(MAX_HOSTS), None, now));
    }
}
