//! Sites: one that is down, slow or saturated waits alone, is held and probed, and gets everything when it is
//! back.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::world::World;
use super::*;

#[tokio::test(start_paused = true)]
async fn mail_for_a_site_that_is_down_for_days_expires_too() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.down("mx.b.test").no_route("dns.test", RouteError::Dns);
    let engine = engine(&world, &spool).await;
    let began = Instant::now();
    let receipt = engine.submit(mail("a@a.test", &["x@b.test", "y@dns.test"])).await.unwrap();
    let delivery = receipt.finished().await;
    assert!(began.elapsed() < DAY * 5 + MINUTE * 5);
    for (_, outcome) in &delivery.recipients {
        assert!(matches!(outcome, Outcome::Failed(Cause::Expired(Some(_)))), "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_dead_site_with_a_long_queue_delays_no_other() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.down("mx.dead.test");
    // Slow beyond any patience, and its lane full.
    world.thinks("mx.slow.test", MINUTE * 5);
    let engine = engine(&world, &spool).await;
    for n in 0..6_000 {
        let to = if n % 2 == 0 { "x@dead.test" } else { "x@slow.test" };
        drop(engine.submit(mail("", &[to])).await.unwrap());
    }
    let began = Instant::now();
    for n in 0..100 {
        let receipt = engine.submit(mail("", &[&format!("x@live{n}.test")])).await.unwrap();
        assert!(receipt.finished().await.is_complete());
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(world.net().connects.iter().filter(|(host, _)| host == "mx.dead.test").count() < 5);
    assert_eq!(world.net().most_busy["mx.slow.test"], 20);
}

#[tokio::test(start_paused = true)]
async fn a_long_queue_for_a_dead_site_is_put_off_a_part_at_a_time() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.down("mx.dead.test");
    let first = engine(&world, &spool).await;
    for n in 0..10_000 {
        drop(first.submit(mail("", &[&format!("{n}@dead.test")])).await.unwrap());
    }
    sleep(MINUTE).await;
    first.shutdown(MINUTE).await;
    // When it is up again, all of it is due.
    let later = SteppedClock::starting_at(Timestamp::from_millis(1_790_010_000_000));
    let engine = builder(&world, &spool).clock(Arc::new(later)).start().await.unwrap();
    sleep(Duration::from_secs(4)).await;
    let soon = engine.stats().deferred;
    assert!((1_000..9_000).contains(&soon), "{soon} are put off after four seconds");
    sleep(MINUTE).await;
    assert!(engine.stats().deferred >= 10_000, "{:?}", engine.stats());
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_site_is_held_probed_by_one_and_released() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.down("mx.b.test");
    let (observer, mut events) = ChannelObserver::new(10_000);
    let engine = builder(&world, &spool).observer(observer).start().await.unwrap();
    let mut receipts = Vec::new();
    for n in 0..50 {
        receipts.push(engine.submit(mail("", &[&format!("{n}@b.test")])).await.unwrap());
    }
    sleep(MINUTE * 20).await;
    let connects: Vec<_> = world.net().connects.iter().map(|(_, at)| at.as_secs()).collect();
    // 0, 30 s, 1, 2, 4, 5, 5 min behind each other at most, and only when something is due.
    assert!((3..9).contains(&connects.len()), "{connects:?}");
    assert!(connects.windows(2).all(|w| w[1] - w[0] >= 27), "{connects:?}");
    assert_eq!(engine.stats().sites_held + engine.stats().lanes, engine.stats().sites_held * 2);
    world.up("mx.b.test");
    for receipt in receipts {
        assert!(receipt.finished().await.is_complete());
    }
    assert_eq!(world.reached().len(), 50);
    let mut names = Vec::new();
    while let Ok(event) = events.try_recv() {
        names.push(event.name);
    }
    assert!(names.contains(&"site held"));
    assert_eq!(names.iter().filter(|name| **name == "site released").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn mail_for_a_saturated_site_waits_in_the_queue_of_the_site() {
    let (world, spool) = (World::new(), MemorySpool::new());
    for n in 0..20 {
        world.hosted(&format!("d{n}.test"), "mx.provider.test");
    }
    world.thinks("mx.provider.test", Duration::from_secs(10));
    let options = with(|o| (o.ready_per_site, o.runs_per_site) = (10, 2));
    let engine = builder(&world, &spool).options(options).start().await.unwrap();
    for n in 0..200 {
        drop(engine.submit(mail("", &[&format!("{n}@d{}.test", n % 20)])).await.unwrap());
    }
    sleep(Duration::from_secs(30)).await;
    let queues = spool.queues(None, 100).await.unwrap();
    let site = queues.iter().find(|queue| queue.queue.as_str() == "mx.provider.test:25").unwrap();
    assert!(site.entries > 100, "{queues:?}");
    assert!(engine.stats().held <= 40, "{:?}", engine.stats());
    sleep(MINUTE * 30).await;
    assert_eq!(world.reached().len(), 200);
    assert_eq!(world.net().most_busy["mx.provider.test"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_site_that_is_back_gets_all_that_waits_for_its_probe_at_once() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.down("mx.b.test");
    let engine = engine(&world, &spool).await;
    drop(engine.submit(mail("", &["first@b.test"])).await.unwrap());
    sleep(Duration::from_secs(1)).await;
    for n in 0..1_000 {
        drop(engine.submit(mail("", &[&format!("{n}@b.test")])).await.unwrap());
    }
    world.up("mx.b.test");
    sleep(Duration::from_secs(40)).await;
    assert_eq!(world.reached().len(), 1_000, "all but the one that waits for its retry");
}
