//! What wakes the writer.

use std::sync::mpsc;
use std::thread;

use super::*;

const TEST_TIME: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(3600);

fn shared(lazy: Duration) -> Arc<Shared> {
    let options = DiskOptions { lazy, ..DiskOptions::new() };
    Arc::new(Shared::new(options, PathBuf::new(), 0, 0, Stats::default()))
}

fn lazy(shared: &Shared) {
    shared.write(Write::Discard { seg: 1 }, false).unwrap();
}

fn urgent(shared: &Shared) {
    shared.write(Write::Discard { seg: 2 }, true).unwrap();
}

fn look(shared: &Shared) {
    let reply = tokio::sync::oneshot::channel().0;
    shared.look(Look::Queues { after: None, limit: 1, reply }).unwrap();
}

/// What a writer takes that sleeps when something is handed over.
fn woken(shared: &Arc<Shared>, hand_over: fn(&Shared)) -> Turn {
    let (taken, turn) = mpsc::channel();
    let ends = SystemClock.mono() + TEST_TIME;
    thread::spawn({
        let shared = Arc::clone(shared);
        move || taken.send(shared.take(&mut None, false))
    });
    while !shared.lock().sleeps {
        assert!(SystemClock.mono() < ends, "it sleeps");
        thread::yield_now();
    }
    hand_over(shared);
    let turn = turn.recv_timeout(TEST_TIME).unwrap();
    assert!(!shared.lock().sleeps);
    turn
}

#[test]
fn a_writer_that_sleeps_is_woken_by_all_that_it_has_to_do() {
    let shared = || shared(LONG);
    assert_eq!(woken(&shared(), urgent).writes.len(), 1);
    assert_eq!(woken(&shared(), look).looks.len(), 1);
    assert!(woken(&shared(), |shared| assert!(shared.close(None))).last);
    assert!(woken(&shared(), Shared::poison).broken);
}

#[test]
fn what_may_wait_waits_no_longer_than_it_may() {
    assert_eq!(woken(&shared(Duration::ZERO), lazy).writes.len(), 1);
}

#[test]
fn what_may_wait_goes_with_what_may_not() {
    let shared = shared(LONG);
    lazy(&shared);
    assert_eq!(woken(&shared, urgent).writes.len(), 2);
    lazy(&shared);
    assert_eq!(woken(&shared, look).writes.len(), 0, "a look does not hurry it");
    assert_eq!(woken(&shared, |shared| assert!(shared.close(None))).writes.len(), 1);
}

#[test]
fn a_writer_that_waits_for_more_is_woken_when_that_is_a_group() {
    let shared = shared(LONG);
    lazy(&shared);
    let more = |shared: &Shared| (1..GROUP_CALLS).for_each(|_| lazy(shared));
    assert_eq!(woken(&shared, more).writes.len(), GROUP_CALLS);
}
