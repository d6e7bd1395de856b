use super::*;
use crate::clock::{Clock, SystemClock};

const DAY: u64 = 24 * 3600;

/// A moment, this many seconds after the start.
#[derive(Clone, Copy)]
struct At(Now);

impl At {
    fn start() -> Self {
        Self(Now { mono: SystemClock.mono(), wall: Timestamp::from_millis(1_700_000_000_000) })
    }

    fn plus(self, seconds: u64) -> Now {
        let wait = Duration::from_secs(seconds);
        Now { mono: self.0.mono + wait, wall: self.0.wall.after(wait) }
    }
}

fn domain(n: usize) -> Domain {
    Domain::parse(&format!("d{n}.test")).unwrap()
}

fn policy(id: &str, seconds: u64) -> Arc<StsPolicy> {
    let text = format!("version: STSv1\nmode: enforce\nmx: mx.test\nmax_age: {seconds}\n");
    Arc::new(StsPolicy::parse(id, text.as_bytes()).unwrap())
}

fn book() -> Book {
    Book::new(BookLimits { domains: 100, octets: 1_000_000 })
}

fn id(id: &str) -> Said {
    Said::Id(id.into())
}

/// What counts for a domain, by its id.
fn counts(book: &mut Book, domain: &Domain, now: Now) -> Option<String> {
    book.held(domain, now).map(|policy| policy.id.to_string())
}

#[test]
fn what_is_done_follows_from_what_is_known_and_what_dns_says() {
    let at = At::start();
    for (known, failed, said, step) in [
        (None, None, Said::Nothing, Step::Use(None)),
        (None, None, Said::Unknown, Step::Use(None)),
        (None, None, id("1"), Step::Fetch("1".into())),
        (None, Some("1"), id("1"), Step::Failed(StsFault::Fetch)),
        (None, Some("1"), id("2"), Step::Fetch("2".into())),
        (None, Some("1"), Said::Nothing, Step::Use(None)),
        (Some("1"), None, id("1"), Step::Use(Some(policy("1", DAY)))),
        (Some("1"), None, Said::Nothing, Step::Use(Some(policy("1", DAY)))),
        (Some("1"), None, Said::Unknown, Step::Use(Some(policy("1", DAY)))),
        (Some("1"), None, id("2"), Step::Fetch("2".into())),
        (Some("1"), Some("2"), id("2"), Step::Use(Some(policy("1", DAY)))),
        (Some("1"), Some("2"), id("3"), Step::Fetch("3".into())),
    ] {
        let mut book = book();
        if let Some(known) = known {
            book.fetched(&domain(1), policy(known, DAY), at.plus(0));
        }
        if let Some(failed) = failed {
            book.failed(&domain(1), failed, StsFault::Fetch, at.plus(1));
        }
        assert_eq!(book.decide(&domain(1), &said, at.plus(2)), step, "{known:?} {failed:?} {said:?}");
    }
}

#[test]
fn a_policy_counts_until_its_lifetime_is_over() {
    let (mut book, at) = (book(), At::start());
    book.fetched(&domain(1), policy("1", DAY), at.plus(0));
    assert_eq!(counts(&mut book, &domain(1), at.plus(DAY - 1)).as_deref(), Some("1"));
    assert_eq!(book.dropped(), []);
    assert_eq!(counts(&mut book, &domain(1), at.plus(DAY)), None);
    assert_eq!(book.dropped(), [domain(1)]);
    assert_eq!((book.known.len(), book.due.len(), book.octets), (0, 0, 0));
    // No shorter than the time in which nothing is fetched twice.
    book.fetched(&domain(1), policy("1", 0), at.plus(0));
    assert_eq!(counts(&mut book, &domain(1), at.plus(299)).as_deref(), Some("1"));
    assert_eq!(counts(&mut book, &domain(1), at.plus(300)), None);
}

#[test]
fn a_failure_is_remembered_for_five_minutes() {
    let (mut book, at) = (book(), At::start());
    book.failed(&domain(1), "1", StsFault::Certificate, at.plus(0));
    assert_eq!(book.decide(&domain(1), &id("1"), at.plus(299)), Step::Failed(StsFault::Certificate));
    assert_eq!(book.decide(&domain(1), &id("1"), at.plus(300)), Step::Fetch("1".into()));
    book.fetched(&domain(1), policy("1", DAY), at.plus(301));
    assert!(book.failed.is_empty() && book.failed_order.is_empty());
}

#[test]
fn dns_is_asked_once_a_minute_and_after_each_silence() {
    let (mut book, at) = (book(), At::start());
    book.fetched(&domain(1), policy("1", DAY), at.plus(0));
    assert!(!book.recall(&domain(1), at.plus(59)).ask);
    assert!(book.recall(&domain(1), at.plus(60)).ask);
    book.decide(&domain(1), &Said::Unknown, at.plus(61));
    assert!(book.recall(&domain(1), at.plus(61)).ask);
    book.decide(&domain(1), &Said::Nothing, at.plus(61));
    assert!(!book.recall(&domain(1), at.plus(62)).ask);
    assert!(book.recall(&domain(2), at.plus(62)).ask);
}

#[test]
fn a_policy_in_doubt_is_fetched_once_in_five_minutes() {
    let (mut book, at) = (book(), At::start());
    book.fetched(&domain(1), policy("1", DAY), at.plus(0));
    book.doubt(&domain(1), at.plus(10));
    assert!(book.recall(&domain(1), at.plus(10)).ask);
    assert_eq!(book.decide(&domain(1), &id("1"), at.plus(11)), Step::Fetch("1".into()));
    book.fetched(&domain(1), policy("1", DAY), at.plus(12));
    book.doubt(&domain(1), at.plus(13));
    assert!(!book.recall(&domain(1), at.plus(14)).ask);
    book.doubt(&domain(1), at.plus(310));
    assert_eq!(book.decide(&domain(1), &Said::Nothing, at.plus(311)), Step::Use(Some(policy("1", DAY))));
    assert!(!book.recall(&domain(1), at.plus(312)).ask);
    // Nothing to doubt.
    book.doubt(&domain(2), at.plus(0));
    assert_eq!(book.known.len(), 1);
}

#[test]
fn policies_are_due_each_day_or_at_half_their_lifetime() {
    let (mut book, at) = (book(), At::start());
    book.fetched(&domain(1), policy("1", 30 * DAY), at.plus(0));
    book.fetched(&domain(2), policy("1", 1000), at.plus(0));
    let due = |book: &mut Book, seconds| book.next_due(at.plus(seconds)).map(|(domain, _)| domain);
    assert_eq!(due(&mut book, 499), None);
    assert_eq!(due(&mut book, 500), Some(domain(2)));
    assert_eq!(due(&mut book, 500), None);
    // Its lifetime ends meanwhile.
    assert_eq!(due(&mut book, 500 + 3600), None);
    assert_eq!(book.dropped(), [domain(2)]);
    assert_eq!(due(&mut book, DAY), Some(domain(1)));
    book.failed(&domain(1), "1", StsFault::Fetch, at.plus(DAY + 60));
    assert_eq!(due(&mut book, DAY + 60 + 3599), None);
    assert_eq!(due(&mut book, DAY + 60 + 3600), Some(domain(1)));
    book.leave(&domain(1), at.plus(DAY + 7200));
    assert_eq!(due(&mut book, 2 * DAY + 7199), None);
    assert_eq!(due(&mut book, 2 * DAY + 7200), Some(domain(1)));
    book.fetched(&domain(1), policy("2", 30 * DAY), at.plus(2 * DAY + 7200));
    assert_eq!(due(&mut book, 3 * DAY + 7199), None);
    assert_eq!(due(&mut book, 3 * DAY + 7200), Some(domain(1)));
}

#[test]
fn a_policy_that_nobody_uses_is_left_to_end() {
    let (mut book, at) = (book(), At::start());
    book.fetched(&domain(1), policy("1", 60 * DAY), at.plus(0));
    book.fetched(&domain(2), policy("1", 60 * DAY), at.plus(0));
    let now = at.plus(30 * DAY);
    book.recall(&domain(2), now);
    assert_eq!(book.next_due(now).map(|(domain, _)| domain), Some(domain(2)));
    assert_eq!(book.next_due(now), None);
    // A fetch is no use.
    book.fetched(&domain(2), policy("1", 60 * DAY), at.plus(31 * DAY));
    assert_eq!(book.next_due(at.plus(60 * DAY)), None);
    assert_eq!(book.dropped(), [domain(1)]);
}

#[test]
fn what_was_stored_counts_from_its_fetch_also_after_a_restart() {
    let (mut book, at) = (book(), At::start());
    let stored = |n, seconds_ago: u64| StoredPolicy {
        domain: domain(n),
        policy: policy("1", 10 * DAY),
        fetched: Timestamp::from_millis(at.0.wall.as_millis() - seconds_ago * 1000),
    };
    book.put(stored(1, 9 * DAY), at.0);
    book.put(stored(2, 10 * DAY), at.0);
    // By a clock that was ahead.
    book.put(StoredPolicy { fetched: at.0.wall.after(Duration::from_secs(DAY)), ..stored(3, 0) }, at.0);
    assert_eq!(counts(&mut book, &domain(1), at.plus(DAY - 1)).as_deref(), Some("1"));
    assert_eq!(counts(&mut book, &domain(1), at.plus(DAY)), None);
    assert_eq!(counts(&mut book, &domain(2), at.0), None);
    assert_eq!(counts(&mut book, &domain(3), at.plus(10 * DAY)), None);
    // What is old is due at once; DNS is asked before it counts without asking.
    book.put(stored(1, 9 * DAY), at.0);
    assert!(book.recall(&domain(1), at.0).ask);
    assert_eq!(book.next_due(at.0).map(|(domain, _)| domain), Some(domain(1)));
}

#[test]
fn what_is_kept_has_a_limit_of_domains_and_of_octets() {
    let at = At::start();
    let mut book = Book::new(BookLimits { domains: 10, octets: 1_000_000 });
    for n in 0..15 {
        book.fetched(&domain(n), policy("1", DAY), at.plus(n as u64));
    }
    assert_eq!((book.known.len(), book.due.len()), (10, 10));
    assert_eq!(book.dropped(), (0..5).map(domain).collect::<Vec<_>>());
    // Who was fetched again is not the oldest.
    book.fetched(&domain(5), policy("1", DAY), at.plus(20));
    book.fetched(&domain(20), policy("1", DAY), at.plus(21));
    assert_eq!(book.dropped(), [domain(6)]);

    let one = size(&policy("1", DAY));
    let mut book = Book::new(BookLimits { domains: 1000, octets: 5 * one });
    for n in 0..9 {
        book.fetched(&domain(n), policy("1", DAY), at.plus(n as u64));
    }
    assert_eq!((book.known.len(), book.octets), (5, 5 * one));
    // One that is larger than all is kept alone.
    let lines = "x: y\n".repeat(250);
    let large = format!("version: STSv1\nmode: enforce\nmx: mx.test\nmax_age: {DAY}\n{lines}");
    let large = Arc::new(StsPolicy::parse("1", large.as_bytes()).unwrap());
    let mut book = Book::new(BookLimits { domains: 1000, octets: one });
    book.fetched(&domain(1), policy("1", DAY), at.plus(0));
    book.fetched(&domain(2), large, at.plus(1));
    assert_eq!((book.known.len(), counts(&mut book, &domain(2), at.plus(2)).as_deref()), (1, Some("1")));
}

#[test]
fn failures_have_a_limit() {
    let (mut book, at) = (book(), At::start());
    for n in 0..MAX_FAILED + 5 {
        book.failed(&domain(n), "1", StsFault::Fetch, at.plus(0));
        book.failed(&domain(n), "2", StsFault::Fetch, at.plus(0));
    }
    assert_eq!((book.failed.len(), book.failed_order.len()), (MAX_FAILED, MAX_FAILED));
    assert_eq!(book.decide(&domain(4), &id("2"), at.plus(1)), Step::Fetch("2".into()));
    assert_eq!(book.decide(&domain(5), &id("2"), at.plus(1)), Step::Failed(StsFault::Fetch));
}

#[test]
fn huge_policies_drive_out_one_another_and_no_small_ones() {
    let at = At::start();
    let text =
        format!("version: STSv1\nmode: enforce\nmx: mx.test\nmax_age: {DAY}\nx: {}\n", "y".repeat(60_000));
    let huge = Arc::new(StsPolicy::parse("1", text.as_bytes()).unwrap());
    let mut book = Book::new(BookLimits { domains: 1000, octets: 3 * size(&huge) });
    for n in 0..20 {
        book.fetched(&domain(n), policy("1", DAY), at.plus(n as u64));
    }
    for n in 100..110 {
        book.fetched(&domain(n), Arc::clone(&huge), at.plus(n as u64));
        assert!(book.known.contains_key(&domain(n)), "the latest counts");
    }
    assert!((0..20).all(|n| book.known.contains_key(&domain(n))));
    assert_eq!(book.dropped(), (100..108).map(domain).collect::<Vec<_>>());
}
