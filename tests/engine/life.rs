//! An engine's life: options that change under it, and what it says of itself.

use std::time::Duration;

use tokio::time::sleep;

use postroad::delivery::{Health, Retry, SubmitError};
use postroad::spool::MemorySpool;

use super::world::World;
use super::{MINUTE, builder, engine, mail, with};

#[tokio::test(start_paused = true)]
async fn a_reload_narrows_and_widens_a_site_at_work_and_closes_nothing() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", Duration::from_secs(10));
    let options = |runs: usize| with(|o| o.runs_per_site = runs);
    let engine = builder(&world, &spool).options(options(8)).start().await.unwrap();
    for n in 0..200 {
        drop(engine.submit(mail("", &[&format!("{n}@b.test")])).await.unwrap());
    }
    sleep(Duration::from_secs(35)).await;
    let busiest = || world.take_most_busy("mx.b.test");
    assert_eq!(busiest(), 8);

    engine.reload(options(2), Retry::new());
    assert_eq!(engine.settings().0.runs_per_site, 2);
    // What is at work is finished first.
    sleep(Duration::from_secs(25)).await;
    let _ = busiest();
    sleep(MINUTE).await;
    assert_eq!(busiest(), 2);

    engine.reload(options(16), Retry::new());
    sleep(MINUTE).await;
    assert_eq!(busiest(), 16);
    sleep(10 * MINUTE).await;
    let reached = world.reached();
    assert_eq!(reached.len(), 200, "nothing lost, nothing twice");
    assert_eq!(engine.stats().deferred, 0, "nothing broken off");
}

#[tokio::test(start_paused = true)]
async fn a_new_retry_curve_is_for_what_is_put_off_from_then_on() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 450);
    let engine = engine(&world, &spool).await;
    drop(engine.submit(mail("", &["x@b.test"])).await.unwrap());
    sleep(Duration::from_secs(5)).await;
    let mut hourly = Retry::new();
    hourly.steps = vec![60 * MINUTE];
    engine.reload(engine.settings().0, hourly);
    // The first minute was decided before.
    sleep(2 * MINUTE).await;
    assert_eq!(engine.stats().deferred, 2);
    sleep(30 * MINUTE).await;
    assert_eq!(engine.stats().deferred, 2);
    sleep(45 * MINUTE).await;
    assert_eq!(engine.stats().deferred, 3);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_drains_is_alive_and_not_ready() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", Duration::from_secs(20));
    let engine = engine(&world, &spool).await;
    assert!(engine.health().is_ready() && engine.health().is_alive());
    drop(engine.submit(mail("", &["x@b.test"])).await.unwrap());
    sleep(Duration::from_secs(5)).await;
    let ending = tokio::spawn({
        let engine = engine.clone();
        async move { engine.shutdown(MINUTE).await }
    });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(engine.health(), Health::Draining);
    assert!(engine.health().is_alive() && !engine.health().is_ready());
    assert!(matches!(engine.submit(mail("", &["y@b.test"])).await, Err(SubmitError::Closed)));
    ending.await.unwrap();
    assert_eq!(world.reached(), ["x@b.test"], "what was in flight was finished");
    assert!(!engine.health().is_alive());
}
