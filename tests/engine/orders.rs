//! What the host program wants done with mail that waits, and what goes before what.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use postroad::attempt::{Cause, Outcome};
use postroad::clock::Timestamp;
use postroad::delivery::{Engine, SubmitError};
use postroad::message::{Envelope, Handling, MessageId, RawMessage, Tag, Tenant};
use postroad::route::RouteError;
use postroad::smtp::address::Domain;
use postroad::smtp::params::Priority;
use postroad::spool::contract::sample;
use postroad::spool::{Class, MemoryOptions, MemorySpool, QueueName, RecipientState, Selection, Spool};

use super::world::World;
use super::{DAY, Ledger, MINUTE, builder, engine, mail, with};

const SECOND: Duration = Duration::from_secs(1);
const T0: Timestamp = Timestamp::from_millis(1_790_000_000_000);

fn to(to: &str) -> Envelope {
    Envelope::parse("a@a.test", [to]).unwrap()
}

fn with_envelope(envelope: Envelope) -> RawMessage {
    RawMessage::new(envelope, &b"From: a@a.test\r\nSubject: the one I sent\r\n\r\nhello\r\n"[..])
}

fn tag(name: &str) -> Tag {
    Tag::new(name).unwrap()
}

async fn send(engine: &Engine, envelope: Envelope) -> MessageId {
    engine.submit(with_envelope(envelope)).await.unwrap().id()
}

/// A spool that holds `count` messages for b.test, of which some are due.
async fn backlog(count: u64, priority: i8) -> MemorySpool {
    let mut options = MemoryOptions::new();
    options.max_messages = 1_000_000;
    let spool = MemorySpool::with(options);
    for from in (0..count).step_by(1_000) {
        let mut batch: Vec<_> = (from..count.min(from + 1_000)).map(sample).collect();
        for message in &mut batch {
            message.mail.priority = Some(Priority::new(priority).unwrap());
            message.expires = T0.after(DAY * 5);
            for entry in &mut message.entries {
                entry.destination = Domain::parse("b.test").unwrap();
                entry.queue = QueueName::new("mx.b.test:25");
            }
        }
        spool.enqueue(batch, None).await.unwrap();
    }
    spool
}

/// How long a message takes to arrive behind a backlog at a site that takes 100 messages a second.
async fn time_behind((count, priority): (u64, i8), envelope: Envelope, release: Duration) -> Duration {
    let (world, spool) = (World::new(), backlog(count, priority).await);
    let think = Duration::from_millis(200);
    world.thinks("mx.b.test", think);
    let engine = engine(&world, &spool).await;
    sleep(SECOND * 10).await;
    let before = world.reached().len();
    assert!((500..1_100).contains(&before), "the site is saturated: {before}");
    assert!(engine.stats().ready > 600, "and its lane full: {:?}", engine.stats());
    let began = Instant::now();
    send(&engine, envelope).await;
    while world.inbox("x@b.test").is_empty() {
        sleep(Duration::from_millis(10)).await;
        assert!(began.elapsed() < MINUTE * 60, "it waits behind the backlog");
    }
    let took = began.elapsed();
    sleep(SECOND * 10).await;
    assert!(world.reached().len() > before + 500, "the backlog goes on");
    // Two may be before it on a connection, and it takes its own time.
    took.saturating_sub(release + think * 3)
}

#[tokio::test(start_paused = true)]
async fn transactional_mail_passes_a_bulk_backlog_of_100_000_within_a_second() {
    let urgent = || to("x@b.test").with_priority(Priority::new(3).unwrap());
    for backlog in [(100_000, -1), (20_000, 0)] {
        let took = time_behind(backlog, urgent(), Duration::ZERO).await;
        assert!(took < SECOND, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn normal_mail_passes_bulk_mail() {
    let took = time_behind((20_000, -4), to("x@b.test"), Duration::ZERO).await;
    assert!(took < SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn urgent_mail_that_waits_in_the_spool_passes_a_full_lane() {
    let wait = SECOND * 5;
    let urgent = to("x@b.test").with_priority(Priority::new(1).unwrap()).release_after(wait);
    let took = time_behind((20_000, 0), urgent, wait).await;
    // Released a second late at most: times are kept in whole seconds.
    assert!(took < SECOND * 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_class_that_fills_the_engine_leaves_places_to_the_more_urgent() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let options = with(|o| o.entries = 160);
    let engine = builder(&world, &spool).options(options).start().await.unwrap();
    for n in 0..2_000 {
        world.thinks(&format!("mx.d{n}.test"), MINUTE * 9);
        send(&engine, to(&format!("x@d{n}.test")).with_priority(Priority::new(-1).unwrap())).await;
    }
    sleep(SECOND * 30).await;
    assert_eq!(engine.stats().held, 140, "an eighth is left");
    for (n, priority) in [(1, 0), (2, 1)] {
        let began = Instant::now();
        let envelope = to(&format!("x@e{n}.test")).with_priority(Priority::new(priority).unwrap());
        let receipt = engine.submit(with_envelope(envelope)).await.unwrap();
        assert!(receipt.finished().await.is_complete());
        assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_in_a_lane_is_not_tried_until_it_is_released() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", SECOND * 10);
    let options = with(|o| o.runs_per_site = 1);
    let engine = builder(&world, &spool).options(options).start().await.unwrap();
    for n in 0..10 {
        let campaign = tag(if n % 2 == 0 { "even" } else { "odd" });
        send(&engine, to(&format!("{n}@b.test")).tagged(campaign)).await;
    }
    sleep(SECOND).await;
    let held = engine.hold(Selection::tag(tag("odd")), "a mistake in it").await.unwrap();
    assert_eq!(held.changed + held.in_flight, 5);
    assert!(held.in_flight <= 1, "{held:?}");
    sleep(DAY * 9).await;
    assert_eq!(world.reached().len() as u64, 5 + held.in_flight);
    assert_eq!(engine.stats().spool.parked, held.changed);
    let seen = engine.list(Selection::parked(), None, 100).await.unwrap();
    assert!(seen.iter().all(|entry| entry.parked.as_deref() == Some("a mistake in it")));
    assert_eq!(seen.len() as u64, held.changed);
    let released = engine.release(Selection::parked()).await.unwrap();
    assert_eq!((released.changed, released.in_flight), (held.changed, 0));
    sleep(MINUTE * 2).await;
    assert_eq!(world.reached().len(), 10, "past the deadline too, each has its try");
    assert_eq!(spool.stats().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_hold_of_what_is_in_flight_counts_when_it_is_put_off() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", SECOND * 10).content("mx.b.test", 450);
    let engine = engine(&world, &spool).await;
    let id = send(&engine, to("x@b.test")).await;
    sleep(SECOND).await;
    let held = engine.hold(Selection::message(id), "wait").await.unwrap();
    assert_eq!((held.changed, held.in_flight), (0, 1));
    sleep(DAY).await;
    assert_eq!((engine.stats().deferred, engine.stats().spool.parked), (1, 1));
    world.content("mx.b.test", 250);
    engine.release(Selection::message(id)).await.unwrap();
    sleep(MINUTE).await;
    assert_eq!(world.reached(), ["x@b.test"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_and_put_off_is_cancelled_without_another_try() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", SECOND * 10).content("mx.b.test", 450);
    let engine = engine(&world, &spool).await;
    let (late, good) = (to("late@b.test"), to("good@c.test"));
    let late = engine.submit(with_envelope(late)).await.unwrap();
    world.thinks("mx.c.test", SECOND * 10);
    let good = engine.submit(with_envelope(good)).await.unwrap();
    sleep(SECOND).await;
    let cancelled = engine.cancel(Selection::all()).await.unwrap();
    assert_eq!((cancelled.changed, cancelled.in_flight), (0, 2));
    let began = Instant::now();
    let delivery = late.finished().await;
    assert!(matches!(delivery.recipients[0].1, Outcome::Failed(Cause::Cancelled)), "{delivery:?}");
    assert!(began.elapsed() < SECOND * 12, "{:?}", began.elapsed());
    assert!(good.finished().await.is_complete(), "what was delivered is delivered");
    sleep(DAY).await;
    assert_eq!(world.connects_to("mx.b.test").len(), 1);
    assert_eq!(world.reached(), ["good@c.test"], "and nobody is told");
}

#[tokio::test(start_paused = true)]
async fn what_is_cancelled_in_a_lane_ends_at_once_and_is_not_reported() {
    let (world, spool, ledger) = (World::new(), MemorySpool::new(), Arc::new(Ledger::default()));
    world.thinks("mx.b.test", MINUTE);
    let options = with(|o| o.runs_per_site = 1);
    let engine = builder(&world, &spool).options(options).observer(ledger.clone()).start().await.unwrap();
    let mut receipts = Vec::new();
    for n in 0..9 {
        receipts.push(engine.submit(mail("a@a.test", &[&format!("{n}@b.test")])).await.unwrap());
    }
    sleep(SECOND).await;
    let began = Instant::now();
    let mut cancelled = 0;
    for receipt in receipts.split_off(5) {
        let ordered = engine.cancel(Selection::message(receipt.id())).await.unwrap();
        assert_eq!((ordered.changed, ordered.in_flight), (1, 0));
        let delivery = receipt.finished().await;
        assert!(matches!(delivery.recipients[0].1, Outcome::Failed(Cause::Cancelled)), "{delivery:?}");
        cancelled += 1;
    }
    assert!(began.elapsed() < SECOND * 2, "{:?}", began.elapsed());
    for receipt in receipts {
        assert!(receipt.finished().await.is_complete());
    }
    assert_eq!((world.reached().len(), engine.stats().cancelled), (5, cancelled));
    let ended = ledger.states().iter().filter(|(_, state)| *state == RecipientState::Cancelled).count();
    assert_eq!(ended as u64, cancelled);
    let nothing = engine.cancel(Selection::all()).await.unwrap();
    assert_eq!((nothing.changed, nothing.in_flight), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_are_cancelled_by_tag_and_the_others_are_not() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.down("mx.b.test");
    let engine = engine(&world, &spool).await;
    for n in 0..10_100 {
        let envelope = Envelope::parse("", [&*format!("{n}@b.test")]).unwrap();
        send(&engine, if n % 101 == 0 { envelope } else { envelope.tagged(tag("spring")) }).await;
    }
    sleep(MINUTE).await;
    let began = Instant::now();
    let ordered = engine.cancel(Selection::tag(tag("spring"))).await.unwrap();
    assert_eq!(ordered.changed + ordered.in_flight, 10_000);
    while spool.stats().entries > 100 {
        sleep(SECOND).await;
        assert!(began.elapsed() < SECOND * 10, "{:?}", engine.stats());
    }
    assert_eq!((engine.stats().cancelled, spool.stats().entries), (10_000, 100));
    world.up("mx.b.test");
    sleep(MINUTE * 10).await;
    assert_eq!(world.reached().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn what_is_cancelled_ends_where_a_lane_is_full_a_site_held_and_no_route_there() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.down("mx.held.test").no_route("lost.test", RouteError::Dns);
    // For longer than anybody waits here.
    world.thinks("mx.full.test", MINUTE * 9);
    let options = with(|o| (o.ready_per_site, o.runs_per_site) = (4, 1));
    let engine = builder(&world, &spool).options(options).start().await.unwrap();
    let acme = Tenant::new("acme").unwrap();
    for n in 0..300 {
        for domain in ["full", "held", "lost"] {
            let envelope = Envelope::parse("", [&*format!("{n}@{domain}.test")]).unwrap();
            send(&engine, if n < 100 { envelope } else { envelope.for_tenant(acme.clone()) }).await;
        }
    }
    sleep(SECOND * 30).await;
    let ordered = engine.cancel(Selection::tenant(acme)).await.unwrap();
    assert_eq!(ordered.changed + ordered.in_flight, 600);
    sleep(SECOND * 20).await;
    assert_eq!((engine.stats().cancelled, ordered.in_flight), (600, 0));
    assert_eq!(spool.stats().entries, 300);
}

#[tokio::test(start_paused = true)]
async fn what_is_cancelled_before_it_is_due_ends_at_once() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let engine = engine(&world, &spool).await;
    let receipt = engine.submit(with_envelope(to("x@b.test").release_after(DAY))).await.unwrap();
    assert_eq!(spool.queues(None, 9).await.unwrap()[0].due, T0.after(DAY));
    engine.cancel(Selection::message(receipt.id())).await.unwrap();
    let began = Instant::now();
    let delivery = receipt.finished().await;
    assert!(matches!(delivery.recipients[0].1, Outcome::Failed(Cause::Cancelled)), "{delivery:?}");
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_requeued_goes_by_the_new_route_at_once() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.hosted("b.test", "old.test").down("old.test");
    world.hosted("c.test", "slow.test").thinks("slow.test", MINUTE * 9);
    let options = with(|o| o.runs_per_site = 1);
    let engine = builder(&world, &spool).options(options).start().await.unwrap();
    for n in 0..5 {
        send(&engine, to(&format!("{n}@b.test"))).await;
        send(&engine, to(&format!("{n}@c.test"))).await;
    }
    sleep(MINUTE).await;
    assert!(world.reached().is_empty());
    let began = Instant::now();
    world.hosted("b.test", "new.test").hosted("c.test", "new.test");
    let ordered = engine.requeue(Selection::all()).await.unwrap();
    assert_eq!(ordered.changed + ordered.in_flight, 10);
    assert!(ordered.in_flight <= 2, "{ordered:?}");
    sleep(SECOND * 5).await;
    let arrived = world.net().got.iter().filter(|got| got.host == "new.test").count();
    assert_eq!(arrived as u64, ordered.changed, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_rescheduled_is_tried_then_and_not_before() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", SECOND * 10).down("mx.c.test");
    let options = with(|o| o.runs_per_site = 1);
    let engine = builder(&world, &spool).options(options).start().await.unwrap();
    for n in 0..6 {
        send(&engine, to(&format!("{n}@b.test")).tagged(tag("late"))).await;
    }
    let soon = send(&engine, to("x@c.test")).await;
    sleep(MINUTE * 9).await;
    assert_eq!(world.reached().len(), 6);
    world.up("mx.c.test");
    let clock = T0.after(MINUTE * 9);
    engine.reschedule(Selection::message(soon), clock).await.unwrap();
    sleep(SECOND).await;
    let waiting = engine.list(Selection::message(soon), None, 9).await.unwrap();
    assert!(waiting.is_empty() || waiting[0].due > clock, "it was tried: {waiting:?}");
    for n in 6..12 {
        send(&engine, to(&format!("{n}@b.test")).tagged(tag("late"))).await;
    }
    sleep(SECOND).await;
    let ordered = engine.reschedule(Selection::tag(tag("late")), T0.after(DAY)).await.unwrap();
    assert!(ordered.changed >= 4 && ordered.changed + ordered.in_flight == 6, "{ordered:?}");
    sleep(DAY - MINUTE * 20).await;
    let late = |world: &World| world.reached().iter().filter(|to| to.ends_with("b.test")).count() as u64;
    assert_eq!(late(&world), 6 + ordered.in_flight);
    // On the grid of the schedule, and one after the other.
    sleep(MINUTE * 15).await;
    assert_eq!(late(&world), 12);
}

#[tokio::test(start_paused = true)]
async fn what_was_held_past_its_deadline_is_tried_once_and_then_expires() {
    let (world, spool) = (World::new(), MemorySpool::new());
    for (host, code) in [("mx.b.test", 450), ("mx.c.test", 450)] {
        world.content(host, code);
    }
    let engine = engine(&world, &spool).await;
    // Long enough for what was tried before to count for the deadline.
    sleep(DAY * 3).await;
    let receipts =
        [engine.submit(mail("a@a.test", &["x@b.test"])).await, engine.submit(mail("", &["x@c.test"])).await];
    let [never, late] = receipts.map(Result::unwrap);
    sleep(DAY / 2).await;
    engine.hold(Selection::all(), "wait").await.unwrap();
    sleep(DAY * 30).await;
    assert!(world.reached().is_empty(), "nobody is told that it expired");
    assert_eq!(engine.stats().spool.parked, 2, "the hold stands");
    let tries = world.connects_to("mx.b.test").len();
    world.content("mx.c.test", 250);
    engine.release(Selection::all()).await.unwrap();
    let began = Instant::now();
    let delivery = never.finished().await;
    assert!(matches!(delivery.recipients[0].1, Outcome::Failed(Cause::Expired(Some(_)))), "{delivery:?}");
    assert!(late.finished().await.is_complete(), "one try is enough");
    assert!(began.elapsed() < SECOND * 2, "{:?}", began.elapsed());
    sleep(DAY).await;
    assert_eq!(world.connects_to("mx.b.test").len(), tries + 1);
    assert_eq!(world.reached(), ["a@a.test", "x@c.test"], "the sender is told");
    assert_eq!(spool.stats().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_can_be_paged_through() {
    let (world, spool) = (World::new(), backlog(25, -1).await);
    world.down("mx.b.test");
    let engine = engine(&world, &spool).await;
    let queue = Selection::queue(QueueName::new("mx.b.test:25"));
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = engine.list(queue.clone(), after, 10).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.message, last.entry));
        seen.extend(page.iter().map(|entry| entry.message));
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.windows(2).all(|w| w[0] < w[1]));
    assert!(spool.queues(None, 9).await.unwrap().iter().all(|queue| queue.class == Class::Bulk));
}

#[tokio::test(start_paused = true)]
async fn more_tags_than_are_kept_are_refused() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let engine = engine(&world, &spool).await;
    let mut envelope = to("x@b.test");
    for n in 0..Handling::MAX_TAGS {
        envelope = envelope.tagged(tag(&n.to_string()));
    }
    assert!(engine.submit(with_envelope(envelope.clone())).await.is_ok());
    let refused = engine.submit(with_envelope(envelope.tagged(tag("more")))).await.unwrap_err();
    assert!(matches!(refused, SubmitError::Message(postroad::message::SubmitError::TooManyTags)));
}
