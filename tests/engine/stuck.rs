//! Nothing sticks: what waits for a site, a route or a lease comes to its end in time, and waiting costs
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use postroad::clock::{Clock, Now};
use postroad::delivery::{ChannelObserver, Retry};
use postroad::spool::{MemorySpool, Selection, Spool};
use postroad::testing::{FaultySpool, JumpingClock, Method, SpoolFault};

use super::world::World;
use super::{DAY, MINUTE, builder, mail, over, with};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_site_that_takes_less_than_is_sent_to_it_expires_in_time() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", MINUTE * 9);
    let mut retry = Retry::new();
    (retry.expire, retry.expire_null_sender) = (HOUR * 6, HOUR * 6);
    // So that some wait in the lane and most in the spool.
    let options = with(|o| (o.ready_per_site, o.runs_per_site) = (40, 1));
    let engine = builder(&world, &spool).options(options).retry(retry).start().await.unwrap();
    for n in 0..400 {
        drop(engine.submit(mail("", &[&format!("{n}@b.test")])).await.unwrap());
    }
    sleep(HOUR * 6 - MINUTE).await;
    assert!(world.reached().len() < 50 && engine.stats().expired == 0);
    sleep(MINUTE * 15).await;
    assert_eq!(spool.stats().entries, 0, "{:?}", engine.stats());
    let taken = world.reached().len() as u64;
    assert_eq!((engine.stats().expired, engine.stats().delivered), (400 - taken, taken));
}

/// Counts how often it is read, which the engine does whenever it does anything.
#[derive(Debug)]
struct Counting(JumpingClock, AtomicU64);

impl Clock for Counting {
    fn now(&self) -> Now {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.now()
    }
}

#[tokio::test(start_paused = true)]
async fn a_spool_that_is_slow_to_extend_leases_is_waited_for_without_a_spin() {
    let (world, spool) = (World::new(), FaultySpool::new());
    world.thinks("mx.b.test", MINUTE * 8);
    spool.script(|call| match call.method {
        Method::Extend => SpoolFault::Delay(MINUTE * 5, Box::new(SpoolFault::None)),
        _ => SpoolFault::None,
    });
    let clock = Arc::new(Counting(JumpingClock::new(), AtomicU64::new(0)));
    let options = with(|o| o.lease = MINUTE);
    let engine = over(&world, spool.clone()).options(options).clock(clock.clone()).start().await.unwrap();
    drop(engine.submit(mail("", &["x@b.test"])).await.unwrap());
    sleep(MINUTE * 7).await;
    assert!(clock.1.load(Ordering::Relaxed) < 1_000, "{clock:?}");
}

#[tokio::test(start_paused = true)]
async fn mail_whose_body_is_damaged_waits_to_be_mended_and_ends_by_its_deadline() {
    let (world, spool) = (World::new(), FaultySpool::new());
    spool.script(|call| match call.method {
        Method::Body => SpoolFault::Corrupt,
        _ => SpoolFault::None,
    });
    let (observer, mut events) = ChannelObserver::new(100);
    let options = with(|o| o.delay_notice = None);
    let engine = over(&world, spool.clone()).options(options).observer(observer).start().await.unwrap();
    let lost = engine.submit(mail("s@ours.test", &["lost@b.test"])).await.unwrap();
    let mended = engine.submit(mail("s@ours.test", &["mended@b.test"])).await.unwrap();
    sleep(HOUR).await;
    let told = std::iter::from_fn(|| events.try_recv().ok());
    let asides: Vec<_> = told.filter(|event| event.name == "set aside").map(|event| event.message).collect();
    assert_eq!(asides, [Some(lost.id()), Some(mended.id())], "each is told once");
    assert_eq!((world.reached().len(), engine.stats().spool.parked), (0, 0));

    // Nothing more is said or tried before somebody has mended it.
    let calls = spool.calls();
    sleep(HOUR).await;
    assert!(spool.calls() < calls + 200, "{} calls", spool.calls() - calls);
    spool.clear();
    assert_eq!(engine.requeue(Selection::message(mended.id())).await.unwrap().changed, 1);
    sleep(MINUTE).await;
    assert_eq!(world.reached(), ["mended@b.test"]);

    spool.script(|call| match call.method {
        Method::Body => SpoolFault::Corrupt,
        _ => SpoolFault::None,
    });
    sleep(DAY * 5).await;
    let ended = lost.finished().await;
    assert_eq!(engine.stats().expired, 1, "{ended:?}");
    let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.name).collect();
    assert!(told.windows(2).any(|two| two == ["expired", "reported"]), "its sender is told: {told:?}");
}
