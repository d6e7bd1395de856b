//! Conduct is how the peers of a network behaved lately: connections they made, recipients they were
//! refused, mistakes they made, logins that failed.
//!
//! One book for all of it, remembered across sessions, so that closing a connection and making the
//! next does not start from zero. Each count runs for a fixed time from its first event. A network that
//! passes a limit is *barred*: its next connections are refused for a while, those it has go on under
//! the limits of the session.
//!
//! The book is bounded. When it is full, what is out of date goes; then the networks that did nothing
//! but connect; and when it is full of offenders alone, others are let in without being counted, save
//! that their failed logins are answered as late as any.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::network::Network;
use super::options::ServerOptions;

/// How the networks behaved.
#[derive(Debug)]
pub(super) struct Conduct {
    most: Most,
    bar: Duration,
    auth_delay: Duration,
    book: Arc<Mutex<Book>>,
}

/// What may be too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offence {
    RefusedRecipient,
    Mistake,
    FailedLogin,
}

/// The limits; 0 is none.
#[derive(Debug, Clone, Copy)]
struct Most {
    connections: u32,
    recipients: u32,
    mistakes: u32,
    logins: u32,
}

#[derive(Debug, Default)]
struct Book {
    records: HashMap<Network, Record>,
    /// Not before this is a full book looked through again.
    sweep: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    connections: Count,
    recipients: Count,
    mistakes: Count,
    logins: Count,
    barred_until: Option<Instant>,
}

/// Events since the first of them, for as long as that is recent.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    since: Option<Instant>,
    times: u32,
}

impl Count {
    fn add(&mut self, span: Duration, now: Instant) -> u32 {
        if !self.is_fresh(span, now) {
            *self = Self { since: Some(now), times: 0 };
        }
        self.times = self.times.saturating_add(1);
        self.times
    }

    fn is_fresh(&self, span: Duration, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) < span)
    }
}

impl Record {
    fn has_offended(&self, now: Instant) -> bool {
        self.barred_until.is_some_and(|until| until > now)
            || [self.recipients, self.mistakes, self.logins].iter().any(|count| count.is_fresh(MEMORY, now))
    }

    fn is_of_use(&self, now: Instant) -> bool {
        self.connections.is_fresh(MINUTE, now) || self.has_offended(now)
    }
}

impl Conduct {
    pub(super) fn new(options: &ServerOptions) -> Self {
        Self::over(options, Arc::default())
    }

    /// The same book under other limits.
    pub(super) fn under(&self, options: &ServerOptions) -> Self {
        Self::over(options, Arc::clone(&self.book))
    }

    fn over(options: &ServerOptions, book: Arc<Mutex<Book>>) -> Self {
        Self {
            most: Most {
                connections: options.max_connection_rate,
                recipients: options.max_refused_recipients,
                mistakes: options.max_mistakes,
                logins: options.max_failed_logins,
            },
            bar: options.bar,
            auth_delay: options.auth_delay,
            book,
        }
    }

    /// Counts a connection; false when it is one too many, or its network is barred.
    pub(super) fn connects(&self, peer: IpAddr, now: Instant) -> bool {
        let most = self.most.connections;
        let mut book = self.lock();
        let Some(record) = book.record(peer, now) else { return true };
        if record.barred_until.is_some_and(|until| until > now) {
            return false;
        }
        let times = record.connections.add(MINUTE, now);
        most == 0 || times <= most
    }

    /// Counts something bad; true when it was what bars the network.
    pub(super) fn offends(&self, peer: IpAddr, offence: Offence, now: Instant) -> bool {
        let mut book = self.lock();
        let Some(record) = book.record(peer, now) else { return false };
        self.count(record, offence, now)
    }

    /// A login from `peer` failed: how long its answer is held back, the delay of the options doubled
    /// with each failure that is remembered.
    pub(super) fn login_failed(&self, peer: IpAddr, now: Instant) -> Duration {
        let mut book = self.lock();
        // Who is not in a full book is treated as the worst case: somebody has a great many addresses.
        let Some(record) = book.record(peer, now) else {
            return self.auth_delay.saturating_mul(MAX_FACTOR);
        };
        self.count(record, Offence::FailedLogin, now);
        let before = record.logins.times.saturating_sub(1);
        let factor = 1_u32.checked_shl(before).unwrap_or(MAX_FACTOR).min(MAX_FACTOR);
        self.auth_delay.saturating_mul(factor)
    }

    /// A login from `peer` succeeded.
    pub(super) fn login_succeeded(&self, peer: IpAddr) {
        if let Some(record) = self.lock().records.get_mut(&Network::of_peer(peer)) {
            record.logins = Count::default();
        }
    }

    fn count(&self, record: &mut Record, offence: Offence, now: Instant) -> bool {
        let (count, most) = match offence {
            Offence::RefusedRecipient => (&mut record.recipients, self.most.recipients),
            Offence::Mistake => (&mut record.mistakes, self.most.mistakes),
            Offence::FailedLogin => (&mut record.logins, self.most.logins),
        };
        // What was good enough for a bar must happen as often again for the next.
        let times = count.add(MEMORY, now);
        let too_many = most > 0 && times.is_multiple_of(most);
        if too_many {
            record.barred_until = now.checked_add(self.bar);
        }
        too_many
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// The record of the peer's network; `None` when there is no room for one.
    fn record(&mut self, peer: IpAddr, now: Instant) -> Option<&mut Record> {
        let network = Network::of_peer(peer);
        if self.records.len() >= MAX_REMEMBERED && !self.records.contains_key(&network) {
            self.sweep(now);
            if self.records.len() >= MAX_REMEMBERED {
                return None;
            }
        }
        Some(self.records.entry(network).or_default())
    }

    fn sweep(&mut self, now: Instant) {
        // A book that stays full is not looked through for each connection of a flood.
        if self.sweep.is_some_and(|next| now < next) {
            return;
        }
        self.records.retain(|_, record| record.is_of_use(now));
        if self.records.len() >= MAX_REMEMBERED {
            self.records.retain(|_, record| record.has_offended(now));
        }
        self.sweep = now.checked_add(SWEEP);
    }
}

/// Connections are counted by the minute.
const MINUTE: Duration = Duration::from_secs(60);
/// Long enough to make guessing slow, short enough that a person who mistyped is not locked out.
const MEMORY: Duration = Duration::from_secs(600);
/// 1 s becomes 16 s at most: longer waits only hold our own connections.
const MAX_FACTOR: u32 = 16;
/// About three megabytes.
const MAX_REMEMBERED: usize = 10_000;
/// A look through the book takes about a millisecond.
const SWEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::smtp::address::EhloName;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn nth(n: usize) -> IpAddr {
        IpAddr::V4((0x0100_0000 + u32::try_from(n).unwrap()).into())
    }

    fn book(change: impl FnOnce(&mut ServerOptions)) -> (Conduct, Instant) {
        let mut options = ServerOptions::new(EhloName::new("mx.test").unwrap());
        change(&mut options);
        (Conduct::new(&options), SystemClock.mono())
    }

    fn len(book: &Conduct) -> usize {
        book.lock().records.len()
    }

    #[test]
    fn connections_beyond_the_rate_are_refused_until_the_minute_is_over() {
        let (book, now) = book(|options| options.max_connection_rate = 3);
        let welcome = |peer, after| book.connects(ip(peer), now + Duration::from_secs(after));
        assert!((0..3).all(|n| welcome("2001:db8::1", n)));
        assert!(!welcome("2001:db8::2", 59), "the same /64");
        assert!(welcome("192.0.2.1", 59));
        assert!(welcome("2001:db8::1", 60));
    }

    #[test]
    fn each_offence_has_its_own_count_and_bars_for_a_while() {
        for offence in [Offence::RefusedRecipient, Offence::Mistake, Offence::FailedLogin] {
            let (book, now) = book(|options| {
                (options.max_refused_recipients, options.max_mistakes, options.max_failed_logins) = (3, 3, 3);
                options.bar = Duration::from_secs(50);
            });
            let at = |secs| now + Duration::from_secs(secs);
            let peer = ip("192.0.2.1");
            let offences: Vec<_> = (0..7).map(|_| book.offends(peer, offence, now)).collect();
            assert_eq!(offences, [false, false, true, false, false, true, false], "{offence:?}");
            assert!(!book.connects(peer, at(49)) && book.connects(ip("192.0.2.2"), now));
            assert!(book.connects(peer, at(50)));
            assert!(!book.offends(peer, offence, at(600)), "forgotten");
            let (book, now) = self::book(|options| {
                (options.max_refused_recipients, options.max_mistakes, options.max_failed_logins) = (0, 0, 0);
            });
            assert!((0..1000).all(|_| !book.offends(peer, offence, now)), "0 is no limit");
        }
    }

    #[test]
    fn a_failed_login_is_answered_later_each_time_up_to_a_limit() {
        let (book, now) = book(|_| {});
        let failed = |peer| book.login_failed(ip(peer), now).as_secs();
        let waits: Vec<_> = (0..7).map(|_| failed("2001:db8::1")).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 16, 16]);
        assert_eq!(failed("2001:db8::2"), 16, "the same /64");
        assert_eq!(failed("192.0.2.1"), 1);
        assert_eq!(book.login_failed(ip("2001:db8::1"), now + MEMORY).as_secs(), 1, "forgotten");
        failed("192.0.2.1");
        book.login_succeeded(ip("192.0.2.1"));
        assert_eq!(failed("192.0.2.1"), 1);
    }

    #[test]
    fn a_full_book_gives_up_first_what_is_old_then_who_only_connected() {
        let (book, now) = book(|_| {});
        for n in 0..MAX_REMEMBERED {
            assert!(book.connects(nth(n), now));
        }
        book.offends(nth(7), Offence::Mistake, now);
        assert!(book.connects(nth(MAX_REMEMBERED), now));
        assert_eq!(len(&book), 2, "the offender and the last");
        for n in 0..MAX_REMEMBERED {
            book.connects(nth(n), now + MINUTE);
        }
        assert_eq!(len(&book), MAX_REMEMBERED);
        book.connects(nth(MAX_REMEMBERED + 1), now + MINUTE + MINUTE);
        assert_eq!(len(&book), 2, "those of a minute ago are gone");
    }

    #[test]
    fn a_book_full_of_offenders_lets_others_in_and_delays_their_logins_most() {
        let (book, now) = book(|options| options.max_mistakes = 1);
        for n in 0..MAX_REMEMBERED {
            book.login_failed(nth(n), now);
        }
        let other = ip("198.51.100.1");
        assert_eq!(book.login_failed(other, now).as_secs(), 16);
        assert!(!book.offends(other, Offence::Mistake, now) && book.connects(other, now));
        assert_eq!(len(&book), MAX_REMEMBERED);
        assert_eq!(book.login_failed(other, now + MEMORY).as_secs(), 1, "there is room again");
        assert_eq!(len(&book), 1);
    }
}
