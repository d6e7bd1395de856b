use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::clock::SystemClock;

#[derive(Debug, Default, Clone)]
struct Line {
    dead: Arc<AtomicBool>,
    retired: Arc<AtomicUsize>,
    name: u32,
}

impl Keep for Line {
    fn is_fresh(&mut self) -> bool {
        !self.dead.load(Ordering::SeqCst)
    }
    fn retire(self) {
        self.retired.fetch_add(1, Ordering::SeqCst);
    }
}

fn pool(per_key: usize) -> Pool<&'static str, Line> {
    Pool::new(Limits { per_key, ..Limits::new() }, Arc::new(SystemClock))
}

fn open(pool: &Pool<&'static str, Line>, line: Line) -> Held<&'static str, Line> {
    match pool.try_acquire(&"k") {
        Some(Lease::Open(permit)) => permit.hold(line),
        other => panic!("{other:?}"),
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn only_release_keeps_a_connection() {
    let pool = pool(1);
    drop(open(&pool, Line::default()));
    assert_eq!(pool.usage(), Usage::default());
    open(&pool, Line::default()).release();
    assert!(matches!(pool.try_acquire(&"k"), Some(Lease::Idle(_))));
    assert_eq!(pool.usage().open, 0, "the lease was dropped, so the connection was closed");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_gets_what_is_released() {
    let pool = pool(1);
    let held = open(&pool, Line::default());
    let (lease, ()) = tokio::join!(pool.acquire(&"k", LONG), async {
        tokio::task::yield_now().await;
        held.release();
    });
    assert!(matches!(lease, Ok(Lease::Idle(_))));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_in_time_and_leaves_no_trace() {
    let pool = pool(1);
    let _held = open(&pool, Line::default());
    assert_eq!(pool.acquire(&"k", LONG).await.err(), Some(AcquireError::TimedOut));
    assert_eq!(pool.usage().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_nobody_fetched_goes_to_the_next() {
    let pool = pool(1);
    let held = open(&pool, Line::default());
    let mut first = Box::pin(pool.acquire(&"k", LONG));
    let mut second = Box::pin(pool.acquire(&"k", LONG));
    assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(first.as_mut().poll(cx))).await.is_pending());
    assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx))).await.is_pending());
    held.release();
    drop(first);
    assert!(matches!(second.await, Ok(Lease::Idle(_))));
}

#[tokio::test(start_paused = true)]
async fn a_dead_idle_connection_becomes_leave_to_open() {
    let pool = pool(1);
    let line = Line::default();
    open(&pool, line.clone()).release();
    line.dead.store(true, Ordering::SeqCst);
    assert!(matches!(pool.try_acquire(&"k"), Some(Lease::Open(_))));
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_retired_though_nobody_asks() {
    let pool = pool(2);
    let line = Line::default();
    open(&pool, line.clone()).release();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((line.retired.load(Ordering::SeqCst), pool.usage().open), (1, 0));
    open(&pool, line.clone()).release();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(line.retired.load(Ordering::SeqCst), 2, "also the second time");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_traded_for_a_connection_that_fits() {
    let pool = pool(2);
    let (one, two) =
        (open(&pool, Line { name: 1, ..Line::default() }), open(&pool, Line { name: 2, ..Line::default() }));
    one.release();
    two.release();
    let lease = pool.try_acquire(&"k").unwrap().prefer(|line| line.name == 1);
    let Lease::Idle(held) = lease else { panic!("there is one") };
    assert_eq!(held.name, 1);
    assert_eq!((pool.usage().open, pool.usage().idle), (2, 1));
    // The key is full, so a connection that fits nobody makes room.
    let lease = pool.try_acquire(&"k").unwrap().prefer(|line| line.name == 3);
    assert!(matches!(lease, Lease::Open(_)));
    assert_eq!((pool.usage().open, pool.usage().idle), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_worn_connection_says_so() {
    let pool = pool(1);
    let mut held = open(&pool, Line::default());
    for _ in 0..100 {
        assert!(!held.is_worn());
        held.count_use();
    }
    assert!(held.is_worn());
    held.release();
    assert_eq!(pool.usage().open, 0);
}

#[tokio::test(start_paused = true)]
async fn other_limits_let_waiters_in_at_once_and_retire_what_is_beyond_when_it_comes_back() {
    let pool = pool(1);
    let first = open(&pool, Line::default());
    let waiter = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire(&"k", Duration::from_secs(60)).await.map(drop) }
    });
    tokio::task::yield_now().await;
    let limits = |per_key, total| Limits { per_key, total, ..pool.limits() };
    pool.set_limits(limits(2, 10));
    waiter.await.unwrap().unwrap();
    let second = open(&pool, Line::default());
    pool.set_limits(limits(1, 10));
    assert_eq!(pool.usage().open, 2, "at work: not closed");
    second.release();
    assert_eq!((pool.usage().open, pool.usage().idle), (1, 0));
    first.release();
    assert_eq!((pool.usage().open, pool.usage().idle), (1, 1));
    pool.set_limits(limits(1, 0));
    assert_eq!(pool.usage().open, 0, "idle ones go at once");
}
