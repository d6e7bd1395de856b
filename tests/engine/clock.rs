//! A wall clock that is set back stalls nothing, and sends nothing before its time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use postroad::clock::{Clock, Rng};
use postroad::delivery::{Engine, EngineBuilder};
use postroad::message::{Envelope, RawMessage};
use postroad::spool::{MemorySpool, Selection, Spool};
use postroad::testing::{FaultySpool, JumpingClock, Method, SpoolFault};

use super::world::World;
use super::{DAY, MINUTE, mail, over, with};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn to(to: &str) -> Envelope {
    Envelope::parse("s@ours.test", [to]).unwrap()
}

async fn start(
    world: &World,
    spool: impl Spool,
    change: impl FnOnce(EngineBuilder) -> EngineBuilder,
) -> (Engine, Arc<JumpingClock>) {
    let clock = Arc::new(JumpingClock::new());
    let engine = change(over(world, spool).clock(clock.clone())).start().await.unwrap();
    (engine, clock)
}

/// When the only entry that waits is due, seen from now.
async fn wait(engine: &Engine, clock: &JumpingClock) -> Duration {
    let entries = engine.list(Selection::all(), None, 10).await.unwrap();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0].due.since(clock.now().wall)
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_stalls_nothing_that_was_put_off() {
    // Tried so often, when the next try is a minute away and when it is four hours away.
    for (tries, by) in [(1, DAY * 10), (1, HOUR), (4, DAY * 10), (6, MINUTE * 90), (9, DAY), (9, HOUR)] {
        let (world, spool) = (World::new(), MemorySpool::new());
        world.rule("mx.b.test", move |_, nth| if nth <= tries { 450 } else { 250 });
        let (engine, clock) = start(&world, spool.clone(), |builder| builder).await;
        drop(engine.submit(mail("s@ours.test", &["x@b.test"])).await.unwrap());
        while engine.stats().deferred < tries.into() {
            sleep(SECOND * 10).await;
        }
        let left = wait(&engine, &clock).await;
        clock.jump_back(by);
        sleep(left - SECOND).await;
        assert!(world.reached().is_empty(), "no sooner than it would have been: {tries} tries, {by:?}");
        // By the grid of the schedule.
        sleep(left / 16 + MINUTE).await;
        assert_eq!(world.reached(), ["x@b.test"], "{tries} tries, {by:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn on_a_shared_spool_a_clock_that_is_set_back_moves_nothing_that_another_node_put_off() {
    for (tries, by, moved) in [(1, HOUR, true), (9, HOUR, false), (9, DAY, true)] {
        let (world, spool) = (World::new(), FaultySpool::new().shared());
        world.rule("mx.b.test", |_, _| 450);
        let (engine, clock) = start(&world, spool, |builder| builder).await;
        drop(engine.submit(mail("s@ours.test", &["x@b.test"])).await.unwrap());
        while engine.stats().deferred < tries {
            sleep(SECOND * 10).await;
        }
        // So that it waits no longer by the new clock than a node would have it wait whose clock was right.
        sleep(if tries == 9 { MINUTE * 90 } else { SECOND }).await;
        let before = wait(&engine, &clock).await;
        clock.jump_back(by);
        // The clock is looked at when there is something to do.
        drop(engine.submit(mail("s@ours.test", &["y@c.test"])).await.unwrap());
        sleep(SECOND * 30).await;
        let after = wait(&engine, &clock).await + SECOND * 30;
        assert_eq!(after, if moved { before } else { before + by }, "{tries} tries, {by:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_stalls_nothing_that_was_stored_and_not_claimed() {
    for by in [MINUTE * 2, HOUR, DAY * 10] {
        let (world, spool) = (World::new(), MemorySpool::new());
        world.thinks("mx.b.test", MINUTE);
        let (engine, clock) = start(&world, spool, |builder| {
            builder.options(with(|o| (o.entries, o.lease) = (1, MINUTE * 10)))
        })
        .await;
        for n in 0..4 {
            drop(engine.submit(mail("s@ours.test", &[&format!("{n}@b.test")])).await.unwrap());
        }
        sleep(SECOND * 10).await;
        assert_eq!((engine.stats().held, world.reached().len()), (1, 0), "the others are not claimed");
        clock.jump_back(by);
        sleep(MINUTE * 15).await;
        assert_eq!(world.reached().len(), 4, "{by:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_sends_nothing_before_its_time() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let (engine, clock) = start(&world, spool, |builder| builder).await;
    let submit =
        async |to: Envelope| engine.submit(RawMessage::new(to, &b"Subject: x\r\n\r\nx\r\n"[..])).await;
    // Accepted long before the clock is set back, and in what is the future then.
    drop(submit(to("early@b.test").release_after(DAY + HOUR * 2)).await.unwrap());
    let moved = submit(to("moved@b.test").release_after(DAY * 2)).await.unwrap().id();
    sleep(DAY).await;
    drop(submit(to("late@b.test").release_after(HOUR * 3)).await.unwrap());
    // One that the host program has given a time.
    engine.reschedule(Selection::message(moved), clock.now().wall.after(HOUR * 4)).await.unwrap();
    let begun = clock.now().wall;
    clock.jump_back(HOUR * 12);
    let mut reached = Vec::new();
    for (hours, next) in [(2, "early@b.test"), (3, "late@b.test"), (4, "moved@b.test")] {
        while clock.now().wall < begun.after(HOUR * hours) {
            assert_eq!(world.reached(), reached, "before hour {hours}");
            sleep(MINUTE).await;
        }
        sleep(MINUTE * 5).await;
        reached.push(next.to_owned());
        assert_eq!(world.reached(), reached, "in hour {hours}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_tried_and_is_to_be_sent_later_by_the_clock_that_was_set_back_waits_for_that() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, nth| if nth == 1 { 450 } else { 250 });
    let (engine, clock) = start(&world, spool, |builder| builder).await;
    let release = clock.now().wall.after(HOUR);
    let message = RawMessage::new(to("x@b.test").release_after(HOUR), &b"Subject: x\r\n\r\nx\r\n"[..]);
    drop(engine.submit(message).await.unwrap());
    while engine.stats().deferred == 0 {
        sleep(SECOND).await;
    }
    clock.jump_back(DAY);
    while clock.now().wall < release {
        assert!(world.reached().is_empty());
        sleep(MINUTE).await;
    }
    sleep(MINUTE * 2).await;
    assert_eq!(world.reached(), ["x@b.test"]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_stalls_no_report() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 550).rule("mx.c.test", |_, _| 450);
    let (engine, clock) = start(&world, spool, |builder| builder).await;
    drop(engine.submit(mail("s@ours.test", &["x@b.test", "y@c.test"])).await.unwrap());
    sleep(SECOND * 5).await;
    clock.jump_back(DAY);
    sleep(MINUTE * 3).await;
    assert_eq!(world.reached(), ["s@ours.test"]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_prolongs_no_lease() {
    let (world, spool) = (World::new(), FaultySpool::new());
    let (engine, clock) = start(&world, spool.clone(), |builder| builder).await;
    spool.script(|call| match call.method {
        Method::Enqueue => SpoolFault::After,
        _ => SpoolFault::None,
    });
    engine.submit(mail("s@ours.test", &["x@b.test"])).await.unwrap_err();
    spool.clear();
    assert_eq!(spool.stats().entries, 1, "it is stored and claimed, and nobody knows");
    clock.jump_back(DAY);
    sleep(MINUTE * 12).await;
    assert_eq!(world.reached(), ["x@b.test"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_on_its_way_into_the_spool_when_the_clock_was_set_back_is_not_stalled() {
    let (world, spool) = (World::new(), FaultySpool::new());
    world.rule("mx.b.test", |_, nth| if nth == 1 { 450 } else { 250 });
    let (engine, clock) = start(&world, spool.clone(), |builder| builder).await;
    spool.script(|call| match call.method {
        Method::Settle => SpoolFault::Delay(MINUTE, Box::new(SpoolFault::None)),
        _ => SpoolFault::None,
    });
    drop(engine.submit(mail("s@ours.test", &["x@b.test"])).await.unwrap());
    sleep(SECOND * 10).await;
    clock.jump_back(DAY);
    // Noticed before that is stored which says when it is tried again.
    drop(engine.submit(mail("s@ours.test", &["y@c.test"])).await.unwrap());
    sleep(MINUTE * 15).await;
    assert_eq!(world.reached(), ["x@b.test", "y@c.test"]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_over_and_over_stalls_nothing() {
    let (world, spool) = (World::new(), FaultySpool::new());
    world.rule("mx.b.test", |_, _| 450);
    let (engine, clock) = start(&world, spool.clone(), |builder| builder).await;
    for n in 0..50 {
        drop(engine.submit(mail("s@ours.test", &[&format!("{n}@b.test")])).await.unwrap());
    }
    sleep(HOUR * 8).await;
    let rng = Rng::seeded(3);
    // The first looks through the spool do not come far.
    spool.script(move |call| match call.method {
        Method::Alter if rng.below(3) > 0 => SpoolFault::Before,
        Method::Alter => SpoolFault::After,
        _ => SpoolFault::None,
    });
    for _ in 0..4 {
        clock.jump_back(HOUR * 7);
        sleep(SECOND * 20).await;
    }
    clock.jump(HOUR * 2);
    sleep(SECOND * 20).await;
    spool.clear();
    world.rule("mx.b.test", |_, _| 250);
    timeout(HOUR * 5, async {
        while world.reached().len() < 50 {
            sleep(MINUTE).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_spool_is_not_gone_through_for_ever() {
    let (world, spool) = (World::new(), FaultySpool::new());
    let (engine, clock) = start(&world, spool.clone(), |builder| builder).await;
    let message = RawMessage::new(to("x@b.test").release_after(DAY * 20), &b"Subject: x\r\n\r\nx\r\n"[..]);
    drop(engine.submit(message).await.unwrap());
    let (alters, counts) = tokio::sync::watch::channel(0);
    spool.script(move |call| {
        alters.send_modify(|count| *count += u32::from(call.method == Method::Alter));
        SpoolFault::None
    });
    clock.jump_back(HOUR * 12);
    sleep(DAY).await;
    assert!((3..10).contains(&*counts.borrow()), "{}", *counts.borrow());
    let before = *counts.borrow();
    sleep(DAY * 5).await;
    assert_eq!(*counts.borrow(), before, "the clock has caught up");
}
