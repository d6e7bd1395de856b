//! What goes wrong around the engine: a spool that fails, a clock that jumps, a second engine, an end
//! in the middle of the work.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use postroad::attempt::{Cause, Outcome};
use postroad::clock::Rng;
use postroad::delivery::{ChannelObserver, Event, Health, Observer, Retry, SubmitError};
use postroad::spool::{MemorySpool, Selection, Spool};

use super::faults::{Fault, Faulty, Jumping, Set};
use super::world::World;
use super::{DAY, Ledger, MINUTE, builder, engine, engine_later, faulty, mail, with};

#[tokio::test(start_paused = true)]
async fn a_new_engine_on_the_same_spool_delivers_the_rest() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, nth| if nth == 1 { 450 } else { 250 });
    world.down("mx.c.test");
    let first = engine(&world, &spool).await;
    let mut ids = Vec::new();
    for n in 0..300 {
        let to = [format!("{n}@b.test"), format!("{n}@c.test")];
        let receipt = first.submit(mail("", &[&to[0], &to[1]])).await.unwrap();
        ids.push(receipt.id());
    }
    sleep(Duration::from_secs(5)).await;
    first.shutdown(MINUTE).await;
    assert_eq!(first.health(), Health::Closed);
    assert!(matches!(first.submit(mail("", &["x@b.test"])).await, Err(SubmitError::Closed)));
    assert_eq!(spool.stats().messages, 300);
    world.up("mx.c.test");
    let second = engine(&world, &spool).await;
    let mut receipts = Vec::new();
    for id in ids {
        receipts.push(second.receipt(id).await.unwrap());
    }
    for receipt in receipts {
        let id = receipt.id();
        assert_eq!(receipt.finished().await.recipients.len(), 2);
        assert!(second.receipt(id).await.is_err());
    }
    let reached = world.reached();
    assert_eq!(reached.len(), 600);
    assert!(reached.windows(2).all(|w| w[0] != w[1]), "nobody twice");
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_what_is_in_flight_and_gives_back_the_rest() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", Duration::from_secs(20));
    let engine = builder(&world, &spool).options(with(|o| o.runs_per_site = 2)).start().await.unwrap();
    for n in 0..10 {
        drop(engine.submit(mail("", &[&format!("{n}@b.test")])).await.unwrap());
    }
    sleep(Duration::from_secs(25)).await;
    let before = world.reached().len();
    assert!((1..9).contains(&before));
    let began = Instant::now();
    engine.shutdown(MINUTE).await;
    assert!(began.elapsed() < MINUTE, "it does not wait for the whole grace");
    let reached = world.reached().len();
    assert!(reached > before, "what was in flight arrived");
    assert_eq!(usize::try_from(spool.stats().messages).unwrap(), 10 - reached, "and is settled");
    let began = Instant::now();
    world.thinks("mx.b.test", Duration::ZERO);
    let _next = engine_later(&world, &spool).await;
    while world.reached().len() < 10 {
        sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < MINUTE, "something keeps its lease");
    }
    assert!(world.reached().windows(2).all(|w| w[0] != w[1]), "nobody twice");
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_stops_nothing() {
    #[derive(Debug)]
    struct Broken;
    impl Observer for Broken {
        fn on_event(&self, _: &Event<'_>) {
            panic!("its own fault");
        }
    }
    let (world, spool) = (World::new(), MemorySpool::new());
    let engine = builder(&world, &spool).observer(Arc::new(Broken)).start().await.unwrap();
    assert!(engine.submit(mail("", &["x@b.test"])).await.unwrap().finished().await.is_complete());
    assert_eq!(engine.stats().observer_panics, 3, "accepted, tried, delivered");
}

#[tokio::test(start_paused = true)]
async fn what_a_short_curve_holds_back_goes_out_soon_after_a_restart() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.down("mx.b.test");
    let mut retry = Retry::new();
    retry.steps = vec![Duration::from_secs(1)];
    let first = builder(&world, &spool).retry(retry.clone()).start().await.unwrap();
    for n in 0..100 {
        drop(first.submit(mail("", &[&format!("{n}@b.test")])).await.unwrap());
        sleep(Duration::from_millis(20)).await;
    }
    first.shutdown(MINUTE).await;
    world.up("mx.b.test");
    let _second = builder(&world, &spool).retry(retry).start().await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.reached().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_spool_stops_the_engine_without_a_spin_and_is_waited_for() {
    let (world, spool) = (World::new(), Faulty::new());
    world.rule("mx.b.test", |_, nth| if nth == 1 { 450 } else { 250 });
    let (observer, mut events) = ChannelObserver::new(100);
    let engine = faulty(&world, &spool).observer(observer).start().await.unwrap();
    let receipt = engine.submit(mail("", &["x@b.test"])).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(engine.health(), Health::Running);
    spool.set(Fault::Poisoned);
    let calls = spool.calls();
    sleep(MINUTE * 30).await;
    assert_eq!(engine.health(), Health::SpoolPoisoned);
    assert!(spool.calls() - calls < 100, "{} calls", spool.calls() - calls);
    assert!(matches!(engine.submit(mail("", &["y@b.test"])).await, Err(SubmitError::Spool(_))));
    spool.set(Fault::None);
    assert!(receipt.finished().await.is_complete());
    assert_eq!(engine.health(), Health::Running);
    let mut names = Vec::new();
    while let Ok(event) = events.try_recv() {
        names.push(event.name);
    }
    // The second connection comes behind a break.
    let (tried, others): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| *name == "tls tried");
    assert_eq!(others, ["accepted", "deferred", "spool failed", "spool recovered", "delivered"]);
    assert_eq!(tried.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_more_is_tried_that_a_poisoned_spool_could_not_settle() {
    let (world, spool) = (World::new(), Faulty::new());
    // It wakes the engine for no reason, which then asks it each second.
    spool.set(Fault::None);
    world.thinks("mx.b.test", Duration::from_secs(5));
    let engine = faulty(&world, &spool).options(with(|o| o.runs_per_site = 1)).start().await.unwrap();
    let mut receipts = Vec::new();
    for n in 0..10 {
        receipts.push(engine.submit(mail("", &[&format!("{n}@b.test")])).await.unwrap());
    }
    sleep(Duration::from_secs(7)).await;
    spool.set(Fault::Poisoned);
    sleep(MINUTE * 5).await;
    assert!((1..=3).contains(&world.reached().len()), "{:?}", world.reached());
    spool.set(Fault::None);
    for receipt in receipts {
        assert!(receipt.finished().await.is_complete());
    }
    assert_eq!(world.reached().len(), 10, "nobody twice");
}

#[tokio::test(start_paused = true)]
async fn a_settlement_whose_answer_was_lost_is_told_once() {
    for fault in [Fault::Storage, Fault::SettledUnknown, Fault::Full] {
        let (world, spool) = (World::new(), Faulty::new());
        world.thinks("mx.b.test", Duration::from_secs(5));
        world.rule("mx.b.test", |to, _| if to.starts_with("no") { 550 } else { 250 });
        let ledger = Arc::new(Ledger::default());
        let engine = faulty(&world, &spool).observer(ledger.clone()).start().await.unwrap();
        let mut receipts = Vec::new();
        for to in ["1@b.test", "2@b.test", "no@b.test"] {
            receipts.push(engine.submit(mail("a@a.test", &[to])).await.unwrap());
        }
        spool.set(fault);
        sleep(MINUTE).await;
        assert_eq!(ledger.states().len(), 0, "nothing is told that is not stored");
        spool.set(Fault::None);
        for receipt in receipts {
            let _ = receipt.finished().await;
        }
        sleep(MINUTE).await;
        assert_eq!(ledger.states().len(), 4, "{fault:?}");
        assert_eq!(world.reached(), ["1@b.test", "2@b.test", "a@a.test"], "and one report");
    }
}

#[tokio::test(start_paused = true)]
async fn mail_whose_body_cannot_be_read_expires_too() {
    let (world, spool) = (World::new(), Faulty::new());
    spool.set(Fault::Bodies);
    let mut retry = Retry::new();
    retry.expire_null_sender = MINUTE * 20;
    let options = with(|o| o.bodies = 0);
    let engine = faulty(&world, &spool).options(options).retry(retry).start().await.unwrap();
    let receipt = engine.submit(mail("", &["x@b.test"])).await.unwrap();
    let began = Instant::now();
    let delivery = receipt.finished().await;
    assert!(matches!(delivery.recipients[0].1, Outcome::Failed(Cause::Expired(_))), "{delivery:?}");
    assert!(began.elapsed() < MINUTE * 23);
}

#[tokio::test(start_paused = true)]
async fn a_report_without_room_holds_up_no_other_settlement() {
    let (world, spool) = (World::new(), Faulty::new());
    world.rule("mx.b.test", |_, _| 550);
    let engine = faulty(&world, &spool).start().await.unwrap();
    spool.set(Fault::NoReports);
    let refused = engine.submit(mail("a@a.test", &["no@b.test"])).await.unwrap();
    sleep(MINUTE).await;
    let calls = spool.calls();
    let began = Instant::now();
    let taken = engine.submit(mail("", &["yes@c.test"])).await.unwrap();
    assert!(taken.finished().await.is_complete());
    assert!(began.elapsed() < Duration::from_secs(1));
    sleep(MINUTE * 10).await;
    assert!(spool.calls() - calls < 1_000, "{} calls", spool.calls() - calls);
    spool.set(Fault::None);
    assert!(!refused.finished().await.is_complete());
    sleep(MINUTE).await;
    assert_eq!(world.reached(), ["a@a.test", "yes@c.test"]);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_shut_down_lets_go_of_a_spool_that_fails() {
    let (world, spool) = (World::new(), Faulty::new());
    world.thinks("mx.b.test", Duration::from_secs(5));
    let ledger = Arc::new(Ledger::default());
    let engine = faulty(&world, &spool).observer(ledger.clone()).start().await.unwrap();
    drop(engine.submit(mail("", &["x@b.test"])).await.unwrap());
    spool.set(Fault::Poisoned);
    sleep(MINUTE).await;
    engine.shutdown(MINUTE).await;
    drop(engine);
    sleep(MINUTE).await;
    assert_eq!(Arc::strong_count(&ledger), 1, "its tasks are gone");
    assert!(ledger.states().is_empty(), "and told nothing that is not stored");
}

#[tokio::test(start_paused = true)]
async fn what_takes_longer_than_a_lease_stays_ours() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", MINUTE * 5);
    // The second looks through the spool all the time, the first never.
    let leases = |sweep| with(|o| (o.lease, o.sweep) = (Duration::from_secs(10), sweep));
    let first = builder(&world, &spool).options(leases(DAY)).start().await.unwrap();
    let options = leases(Duration::from_secs(1));
    let second = builder(&world, &spool).options(options).start().await.unwrap();
    let receipt = first.submit(mail("", &["x@b.test"])).await.unwrap();
    assert!(receipt.finished().await.is_complete());
    sleep(MINUTE * 20).await;
    assert_eq!(world.reached(), ["x@b.test"]);
    assert_eq!(second.stats().delivered, 0);
}

#[tokio::test(start_paused = true)]
async fn two_engines_on_one_spool_share_the_work_and_double_nothing() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, nth| if nth < 3 { 450 } else { 250 });
    let first = engine(&world, &spool).await;
    let second = builder(&world, &spool).rng(Rng::seeded(8)).start().await.unwrap();
    for n in 0..200 {
        let engine = if n % 2 == 0 { &first } else { &second };
        drop(engine.submit(mail("", &[&format!("{n}@b.test")])).await.unwrap());
    }
    sleep(MINUTE * 30).await;
    let reached = world.reached();
    assert_eq!(reached.len(), 200);
    assert!(reached.windows(2).all(|w| w[0] != w[1]));
    assert_eq!(first.stats().delivered + second.stats().delivered, 200);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_expires_nothing_without_another_try() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 450).down("mx.c.test");
    let clock = Arc::new(Jumping::new());
    let engine = builder(&world, &spool).clock(clock.clone()).start().await.unwrap();
    let put_off = engine.submit(mail("a@a.test", &["x@b.test"])).await.unwrap();
    let held = engine.submit(mail("a@a.test", &["x@c.test"])).await.unwrap();
    // Long enough for the last try to have been one of this process.
    sleep(DAY).await;
    assert!(engine.stats().deferred > 10);
    clock.jump(DAY * 10);
    world.rule("mx.b.test", |_, _| 250).up("mx.c.test");
    assert!(put_off.finished().await.is_complete());
    assert!(held.finished().await.is_complete());
    assert_eq!(engine.stats().expired, 0);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_breaks_off_every_time_is_not_hammered() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.breaks("mx.b.test");
    let engine = engine(&world, &spool).await;
    for n in 0..100 {
        drop(engine.submit(mail("", &[&format!("{n}@b.test")])).await.unwrap());
    }
    sleep(MINUTE * 10).await;
    let connects = world.net().connects.len();
    assert!(connects < 40, "{connects} connections");
    assert_eq!(spool.stats().messages, 100);
}

#[tokio::test(start_paused = true)]
async fn the_engine_ends_when_its_last_handle_goes() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let observer = Arc::new(Ledger::default());
    let engine = builder(&world, &spool).observer(observer.clone()).start().await.unwrap();
    let again = engine.clone();
    drop(engine);
    let receipt = again.submit(mail("", &["x@b.test"])).await.unwrap();
    assert!(receipt.finished().await.is_complete());
    drop(again);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(Arc::strong_count(&observer), 1, "its tasks are gone");
}

#[tokio::test(start_paused = true)]
async fn mail_for_a_host_that_falls_silent_counts_its_attempts_and_the_host_is_held() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.silent("mx.b.test");
    let engine = engine(&world, &spool).await;
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(engine.submit(mail("", &[&format!("{n}@b.test")])).await.unwrap().id());
    }
    sleep(MINUTE * 60).await;
    let connects = world.net().connects.len();
    assert!(connects < 100, "{connects} connections");
    for id in ids {
        let entries = engine.spool().scan(Selection::message(id), None, usize::MAX).await.unwrap();
        assert!(entries[0].attempts > 0, "{entries:?}");
    }
}
