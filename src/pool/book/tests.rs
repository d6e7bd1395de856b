use std::time::Duration;

use super::*;

type TestBook = Book<char, u32, u32>;

fn limits(per_key: usize, total: usize) -> Limits {
    Limits { per_key, total, ..Limits::new() }
}

fn kept(connection: u32, opened: Instant) -> Kept<u32> {
    Kept { connection, opened, uses: 0 }
}

fn epoch() -> Instant {
    use crate::clock::{Clock, SystemClock};
    SystemClock.mono()
}

fn take(book: &mut TestBook, key: char, now: Instant) -> (Option<Grant<u32>>, Vec<u32>) {
    let mut done = Decided::default();
    let grant = book.take(&key, now, &mut done);
    assert!(done.grants.is_empty());
    (grant, done.close)
}

fn opened(book: &mut TestBook, key: char, now: Instant) {
    assert!(matches!(take(book, key, now).0, Some(Grant::Open)));
}

#[test]
fn a_key_gets_its_limit_and_no_more() {
    let (mut book, now) = (TestBook::new(limits(2, 9)), epoch());
    opened(&mut book, 'a', now);
    opened(&mut book, 'a', now);
    assert!(take(&mut book, 'a', now).0.is_none());
    opened(&mut book, 'b', now);
    drop(book.free(&'a', now));
    opened(&mut book, 'a', now);
}

#[test]
fn the_connection_used_last_is_lent_first() {
    let (mut book, now) = (TestBook::new(limits(3, 9)), epoch());
    opened(&mut book, 'a', now);
    opened(&mut book, 'a', now);
    drop(book.put_back(&'a', kept(1, now), now));
    drop(book.put_back(&'a', kept(2, now), now));
    let Some(Grant::Idle(first)) = take(&mut book, 'a', now).0 else { panic!("idle") };
    assert_eq!(first.connection, 2);
}

#[test]
fn idle_connections_expire_at_their_time_and_not_before() {
    let (mut book, now) = (TestBook::new(limits(3, 9)), epoch());
    opened(&mut book, 'a', now);
    drop(book.put_back(&'a', kept(1, now), now));
    assert_eq!(book.next_expiry(), Some(now + Duration::from_secs(5)));
    assert!(book.reap(now + Duration::from_millis(4999)).close.is_empty());
    assert_eq!(book.reap(now + Duration::from_secs(5)).close, [1]);
    assert_eq!((book.open(), book.idle(), book.next_expiry()), (0, 0, None));
    assert!(book.keys.is_empty(), "a key nobody uses is forgotten");
}

#[test]
fn a_worn_connection_is_closed_when_it_comes_back() {
    let (mut book, now) = (TestBook::new(limits(3, 9)), epoch());
    for (uses, age, closed) in [(99, 299, false), (100, 0, true), (0, 300, true)] {
        assert!(take(&mut book, 'a', now).0.is_some());
        let later = now + Duration::from_secs(age);
        let done = book.put_back(&'a', Kept { connection: 7, opened: now, uses }, later);
        assert_eq!(!done.close.is_empty(), closed, "{uses} uses, {age} s");
        drop(book.clear());
    }
    assert_eq!(book.open(), 0);
}

#[test]
fn when_the_total_is_full_the_longest_idle_of_another_key_makes_room() {
    let (mut book, now) = (TestBook::new(limits(2, 3)), epoch());
    for (n, key) in [(1, 'a'), (2, 'b'), (3, 'c')] {
        opened(&mut book, key, now);
        let at = now + Duration::from_millis(u64::from(n));
        drop(book.put_back(&key, kept(n, at), at));
    }
    let (grant, closed) = take(&mut book, 'd', now + Duration::from_secs(1));
    assert!(matches!(grant, Some(Grant::Open)));
    assert_eq!(closed, [1]);
    assert_eq!((book.open(), book.idle()), (3, 2));
}

#[test]
fn waiters_of_a_key_are_served_in_order() {
    let (mut book, now) = (TestBook::new(limits(1, 9)), epoch());
    opened(&mut book, 'a', now);
    for waiter in 1..=3 {
        book.enqueue(&'a', waiter).unwrap();
    }
    let done = book.put_back(&'a', kept(9, now), now);
    assert!(matches!(done.grants.as_slice(), [('a', 1, Grant::Idle(_))]));
    let done = book.free(&'a', now);
    assert!(matches!(done.grants.as_slice(), [('a', 2, Grant::Open)]));
}

#[test]
fn nobody_overtakes_a_waiter() {
    let (mut book, now) = (TestBook::new(limits(2, 2)), epoch());
    opened(&mut book, 'a', now);
    opened(&mut book, 'b', now);
    book.enqueue(&'a', 1).unwrap();
    let done = book.free(&'b', now);
    assert!(matches!(done.grants.as_slice(), [('a', 1, Grant::Open)]));
    book.enqueue(&'b', 2).unwrap();
    assert!(take(&mut book, 'b', now).0.is_none());
}

#[test]
fn a_full_key_does_not_hold_up_the_others() {
    let (mut book, now) = (TestBook::new(limits(1, 2)), epoch());
    opened(&mut book, 'a', now);
    opened(&mut book, 'b', now);
    book.enqueue(&'a', 1).unwrap();
    book.enqueue(&'c', 2).unwrap();
    let done = book.free(&'b', now);
    assert!(matches!(done.grants.as_slice(), [('c', 2, Grant::Open)]));
}

#[test]
fn a_waiter_for_the_total_gets_the_room_of_a_returned_connection() {
    let (mut book, now) = (TestBook::new(limits(1, 1)), epoch());
    opened(&mut book, 'a', now);
    book.enqueue(&'b', 1).unwrap();
    let done = book.put_back(&'a', kept(9, now), now);
    assert_eq!(done.close, [9]);
    assert!(matches!(done.grants.as_slice(), [('b', 1, Grant::Open)]));
    assert_eq!(book.open(), 1);
}

#[test]
fn who_gives_up_waiting_is_passed_over() {
    let (mut book, now) = (TestBook::new(limits(1, 9)), epoch());
    opened(&mut book, 'a', now);
    let first = book.enqueue(&'a', 1).unwrap();
    book.enqueue(&'a', 2).unwrap();
    assert!(book.forget(&'a', first));
    assert!(!book.forget(&'a', first));
    let done = book.free(&'a', now);
    assert!(matches!(done.grants.as_slice(), [('a', 2, Grant::Open)]));
}

#[test]
fn only_so_many_may_wait() {
    let (mut book, now) = (TestBook::new(Limits { waiters: 2, ..limits(1, 1) }), epoch());
    opened(&mut book, 'a', now);
    assert!(book.enqueue(&'a', 1).is_ok() && book.enqueue(&'b', 2).is_ok());
    assert_eq!(book.enqueue(&'c', 3), Err(3));
}

#[test]
fn a_fitting_connection_is_found_behind_others() {
    let (mut book, now) = (TestBook::new(limits(3, 9)), epoch());
    for _ in 0..3 {
        opened(&mut book, 'a', now);
    }
    for n in 1..=3 {
        drop(book.put_back(&'a', kept(n, now), now));
    }
    let mut done = Decided::default();
    let found = book.take_fitting(&'a', now, |n| *n < 3, &mut done).unwrap();
    assert_eq!((found.connection, book.idle(), book.open()), (2, 2, 3));
    assert!(book.take_fitting(&'a', now, |n| *n > 3, &mut done).is_none());
    assert!(!book.take_open(&'a', &mut done));
}

/// A hundred thousand random steps: the limits hold, the counts are what is there, and nobody waits who
/// could be served.
#[test]
fn the_book_balances_whatever_happens() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut book = TestBook::new(Limits { waiters: 6, ..limits(3, 7) });
        let (mut now, mut serial) = (epoch(), 0);
        let mut held: Vec<(char, Kept<u32>)> = Vec::new();
        let mut queue: Vec<(char, u64, u32)> = Vec::new();
        let keys = ['a', 'b', 'c', 'd'];
        for _ in 0..5000 {
            now += Duration::from_millis(rng.u64(0..400));
            let key = keys[rng.usize(0..keys.len())];
            let mut done = Decided::default();
            match rng.u32(0..6) {
                0 | 1 => {
                    serial += 1;
                    match book.take(&key, now, &mut done) {
                        Some(Grant::Open) => held.push((key, kept(serial, now))),
                        Some(Grant::Idle(kept)) => held.push((key, kept)),
                        None => {
                            if let Ok(number) = book.enqueue(&key, serial) {
                                queue.push((key, number, serial));
                            }
                        }
                    }
                }
                2 | 3 if !held.is_empty() => {
                    let (key, mut kept) = held.swap_remove(rng.usize(0..held.len()));
                    kept.uses += 1;
                    done = book.put_back(&key, kept, now);
                }
                4 if !held.is_empty() => {
                    let (key, _) = held.swap_remove(rng.usize(0..held.len()));
                    done = book.free(&key, now);
                }
                5 if !queue.is_empty() => {
                    let (key, number, _) = queue.remove(rng.usize(0..queue.len()));
                    assert!(book.forget(&key, number));
                }
                _ => done = book.reap(now),
            }
            for (key, waiter, grant) in done.grants {
                let first = queue.iter().position(|(k, ..)| *k == key).unwrap();
                assert_eq!(queue.remove(first).2, waiter, "in the order in which they came");
                serial += 1;
                held.push((
                    key,
                    match grant {
                        Grant::Open => kept(serial, now),
                        Grant::Idle(kept) => kept,
                    },
                ));
            }
            assert!(book.open() <= 7 && book.waiting() <= 6);
            assert_eq!(book.open(), held.len() + book.idle());
            assert_eq!(book.waiting(), queue.len());
            for key in keys {
                assert!(book.open_for(&key) <= 3);
                let waits = queue.iter().any(|(k, ..)| *k == key);
                let full = book.open_for(&key) == 3 || book.open() == 7 && book.idle() == 0;
                assert!(!waits || full, "{key} waits though it could be served");
            }
        }
    }
}
