//! The engine over a memory spool, fixed routes and a network in memory, under paused time: five days
//! pass in milliseconds, and a seed is a history.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test fails by panicking, and measures the runtime's own time"
)]

#[path = "engine/clock.rs"]
mod clock;
#[path = "engine/expanding.rs"]
mod expanding;
#[path = "engine/faults.rs"]
mod faults;
#[path = "engine/gathering.rs"]
mod gathering;
#[path = "engine/life.rs"]
mod life;
#[path = "engine/memories.rs"]
mod memories;
#[path = "engine/orders.rs"]
mod orders;
#[path = "engine/parsed.rs"]
mod parsed;
#[path = "kit/reports.rs"]
mod python;
#[path = "engine/reports.rs"]
mod reports;
#[path = "engine/sites.rs"]
mod sites;
#[path = "engine/sources.rs"]
mod sources;
#[path = "engine/stuck.rs"]
mod stuck;
#[path = "engine/terms.rs"]
mod terms;
#[path = "engine/trouble.rs"]
mod trouble;
#[path = "engine/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use postroad::BoxFuture;
use postroad::attempt::{Accepted, Cause, Deliver, Delivery, LocalItem, Outcome};
use postroad::clock::{Rng, SteppedClock, Timestamp};
use postroad::delivery::{
    ChannelObserver, Engine, EngineBuilder, EngineOptions, Event, NewMail, Observer, Retry, SubmitError,
};
use postroad::message::{Content, Envelope, MessageId, RawMessage};
use postroad::route::{LocalId, RouteError};
use postroad::smtp::address::{EhloName, ForwardPath};
use postroad::smtp::params::{Mail, Rcpt};
use postroad::spool::{MemorySpool, NewBody, RecipientState, Selection, Spool};

use faults::Faulty;
use world::World;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

fn builder(world: &World, spool: &MemorySpool) -> EngineBuilder {
    over(world, spool.clone())
}

fn faulty(world: &World, spool: &Faulty) -> EngineBuilder {
    over(world, spool.clone())
}

fn over(world: &World, spool: impl Spool) -> EngineBuilder {
    Engine::builder(spool, EhloName::new("us.test").unwrap())
        .direct(world.clone())
        .connect(Arc::new(world.clone()))
        .clock(Arc::new(SteppedClock::starting_at(Timestamp::from_millis(1_790_000_000_000))))
        .rng(Rng::seeded(7))
}

async fn engine(world: &World, spool: &MemorySpool) -> Engine {
    builder(world, spool).start().await.unwrap()
}

/// An engine whose clock went on.
async fn engine_later(world: &World, spool: &MemorySpool) -> Engine {
    let clock = SteppedClock::starting_at(Timestamp::from_millis(1_790_000_120_000));
    builder(world, spool).clock(Arc::new(clock)).start().await.unwrap()
}

fn with(change: impl FnOnce(&mut EngineOptions)) -> EngineOptions {
    let mut options = EngineOptions::new();
    change(&mut options);
    options
}

fn mail(from: &str, to: &[&str]) -> RawMessage {
    let envelope = Envelope::parse(from, to.iter().copied()).unwrap();
    RawMessage::new(envelope, &b"From: a@a.test\r\nSubject: the one I sent\r\n\r\nhello\r\n"[..])
}

/// Every terminal state that was told, by message and recipient.
#[derive(Debug, Default)]
struct Ledger(Mutex<BTreeMap<(MessageId, String), Vec<RecipientState>>>);

impl Observer for Ledger {
    fn on_event(&self, event: &Event<'_>) {
        use Event::{Cancelled, Delivered, Expired, Failed};
        let (Delivered { about, .. } | Failed { about, .. } | Expired { about, .. } | Cancelled { about }) =
            event
        else {
            return;
        };
        let key = (about.message, about.recipient.to.to_string());
        self.0.lock().unwrap().entry(key).or_default().push(about.state);
    }
}

impl Ledger {
    fn states(&self) -> Vec<(String, RecipientState)> {
        let told = self.0.lock().unwrap();
        told.iter().flat_map(|((_, to), states)| states.iter().map(move |s| (to.clone(), *s))).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_delivered_and_its_receipt_says_so() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let engine = engine(&world, &spool).await;
    let receipt = engine.submit(mail("a@a.test", &["x@b.test", "y@b.test", "z@c.test"])).await.unwrap();
    let delivery = receipt.finished().await;
    assert_eq!(delivery.recipients.len(), 3);
    assert!(delivery.is_complete(), "{delivery:?}");
    assert_eq!(world.reached(), ["x@b.test", "y@b.test", "z@c.test"]);
    assert!(world.net().got[0].content.contains("Subject: the one I sent"));
    assert_eq!(spool.stats().messages, 0);
    assert_eq!(engine.stats().delivered, 3);
    assert_eq!((engine.stats().held, engine.stats().watched), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_recipient_put_off_is_tried_again_alone() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |to, nth| if to == "late@b.test" && nth < 3 { 450 } else { 250 });
    let engine = engine(&world, &spool).await;
    let receipt = engine.submit(mail("a@a.test", &["late@b.test", "x@b.test"])).await.unwrap();
    assert!(receipt.finished().await.is_complete());
    assert_eq!(world.reached(), ["late@b.test", "x@b.test"], "nobody twice");
    let late = world.net().got.iter().find(|got| got.to == "late@b.test").unwrap().at;
    // 1 min and 5 min behind the first try, each by a tenth and the grid.
    assert!((MINUTE * 5..MINUTE * 8).contains(&late), "{late:?}");
    assert_eq!(engine.stats().deferred, 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_recipient_is_reported_to_the_sender_and_does_not_stop_the_others() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |to, _| if to == "no@b.test" { 550 } else { 250 });
    let (observer, mut events) = ChannelObserver::new(100);
    let engine = builder(&world, &spool).observer(observer).start().await.unwrap();
    let receipt = engine.submit(mail("a@a.test", &["no@b.test", "yes@b.test"])).await.unwrap();
    let id = receipt.id();
    let delivery = receipt.finished().await;
    let refused = delivery.recipients.iter().find(|(to, _)| to.to_string() == "<no@b.test>").unwrap();
    let Outcome::Failed(cause) = &refused.1 else { panic!("{refused:?}") };
    assert_eq!(cause.reply().unwrap().code(), 550);
    sleep(MINUTE).await;
    assert_eq!(world.reached(), ["a@a.test", "yes@b.test"]);
    let report = world.net().got.iter().find(|got| got.to == "a@a.test").unwrap().clone();
    assert_eq!((report.host.as_str(), report.from.as_str()), ("mx.a.test", "<>"));
    assert!(report.content.contains("Final-Recipient: rfc822; no@b.test"), "{}", report.content);
    assert!(report.content.contains("Subject: the one I sent"));
    assert!(!report.content.contains("yes@b.test"), "who has it is not reported");
    assert_eq!(spool.stats().messages, 0);
    let mut names = Vec::new();
    while let Ok(event) = events.try_recv() {
        names.push((event.name, event.message == Some(id)));
    }
    let told: Vec<_> =
        names.iter().map(|(name, ours)| format!("{name}{}", if *ours { "" } else { " (report)" })).collect();
    // Of a connection no message is told.
    let tried = "tls tried (report)";
    assert_eq!(told, ["accepted", tried, "failed", "delivered", "reported", tried, "delivered (report)"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_of_the_null_senders_failures() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 550);
    let engine = engine(&world, &spool).await;
    let receipt = engine.submit(mail("", &["no@b.test"])).await.unwrap();
    assert!(!receipt.finished().await.is_complete());
    sleep(DAY).await;
    assert_eq!(world.reached(), [""; 0]);
    assert_eq!(spool.stats().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn a_report_that_cannot_be_delivered_is_not_reported_on() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 550).rule("mx.a.test", |_, _| 550);
    let engine = engine(&world, &spool).await;
    let _ = engine.submit(mail("a@a.test", &["no@b.test"])).await.unwrap().finished().await;
    sleep(DAY).await;
    assert_eq!(engine.stats().failed, 2);
    assert_eq!((spool.stats().messages, engine.stats().accepted), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_permanent_reply_to_the_content_fails_all_and_a_domain_without_mail_at_once() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.content("mx.b.test", 554).no_route("null.test", RouteError::NullMx);
    let engine = engine(&world, &spool).await;
    let receipt = engine.submit(mail("a@a.test", &["1@b.test", "2@b.test", "3@null.test"])).await.unwrap();
    let delivery = receipt.finished().await;
    assert!(delivery.recipients.iter().all(|(_, outcome)| matches!(outcome, Outcome::Failed(_))));
    sleep(MINUTE).await;
    let reports: Vec<_> = world.net().got.iter().map(|got| got.content.clone()).collect();
    assert_eq!(reports.len(), 1, "one for the message");
    assert!(reports[0].contains("Status: 5.1.10") && reports[0].contains("Status: 5.0.0"));
}

#[tokio::test(start_paused = true)]
async fn what_is_never_taken_expires_after_five_days_and_is_reported() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 451);
    let ledger = Arc::new(Ledger::default());
    let engine = builder(&world, &spool).observer(ledger.clone()).start().await.unwrap();
    let began = Instant::now();
    let receipt = engine.submit(mail("a@a.test", &["x@b.test"])).await.unwrap();
    let delivery = receipt.finished().await;
    let took = began.elapsed();
    assert!(took >= DAY * 5 && took < DAY * 5 + MINUTE * 3, "{took:?}");
    let Outcome::Failed(Cause::Expired(Some(last))) = &delivery.recipients[0].1 else {
        panic!("{delivery:?}")
    };
    assert!(last.contains("451"), "{last}");
    sleep(MINUTE).await;
    assert_eq!(world.reached(), ["a@a.test"]);
    assert!(world.net().got[0].content.contains("Status: 5.4.7"));
    let tries = engine.stats().deferred;
    assert!((34..45).contains(&tries), "{tries} tries on the curve");
    assert!(ledger.states().contains(&("<x@b.test>".into(), RecipientState::Expired)));
}

#[tokio::test(start_paused = true)]
async fn a_grace_that_is_over_breaks_off_without_ending_a_message() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", MINUTE * 9);
    let engine = engine(&world, &spool).await;
    let receipt = engine.submit(mail("", &["x@b.test"])).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    engine.shutdown(Duration::from_secs(10)).await;
    assert!(began.elapsed() <= Duration::from_secs(11));
    assert_eq!(
        spool.scan(Selection::message(receipt.id()), None, usize::MAX).await.unwrap().len(),
        1,
        "it is not lost"
    );
    assert_eq!(engine.stats().delivered, 0);
}

/// Messages to fifty destinations each, of which some put off, some refuse, some are slow, one is
/// down for half an hour, one never gets beyond 421 and one takes no mail.
#[tokio::test(start_paused = true)]
async fn every_recipient_reaches_exactly_one_terminal_state() {
    let (world, spool, messages) = (World::new(), MemorySpool::new(), 40);
    for n in 0..50 {
        let host = format!("mx.d{n}.test");
        match n % 5 {
            0 => world.rule(&host, |_, nth| if nth % 3 == 0 { 250 } else { 450 }),
            1 => world.rule(&host, |to, _| if to.starts_with('3') { 550 } else { 250 }),
            2 => world.thinks(&host, Duration::from_millis(700)),
            _ => &world,
        };
    }
    world.down("mx.d9.test").rule("mx.d8.test", |_, _| 421).no_route("d7.test", RouteError::NullMx);
    let ledger = Arc::new(Ledger::default());
    let options = with(|o| (o.entries, o.ready_per_site) = (1_000, 60));
    let engine = builder(&world, &spool).observer(ledger.clone()).options(options).start().await.unwrap();
    for n in 0..messages {
        let to: Vec<_> = (0..50).map(|d| format!("{n}@d{d}.test")).collect();
        let to: Vec<_> = to.iter().map(String::as_str).collect();
        drop(engine.submit(mail("", &to)).await.unwrap());
    }
    sleep(MINUTE * 30).await;
    world.up("mx.d9.test");
    sleep(DAY * 2).await;
    assert_eq!(spool.stats().messages, 0);
    assert_eq!(engine.stats().held, 0);
    let told = ledger.0.lock().unwrap();
    assert_eq!(told.len(), 50 * messages);
    assert!(told.values().all(|states| states.len() == 1), "one terminal state each");
    let count = |state| told.values().filter(|states| states[0] == state).count();
    // Ten domains refuse those that begin with 3, one takes no mail.
    let refused = 10 * (0..messages).filter(|n| n.to_string().starts_with('3')).count() + messages;
    assert_eq!(count(RecipientState::Failed), refused);
    assert_eq!(count(RecipientState::Expired), messages);
    assert_eq!(count(RecipientState::Delivered), 49 * messages - refused);
    let reached = world.reached();
    assert_eq!(reached.len(), 49 * messages - refused);
    assert!(reached.windows(2).all(|w| w[0] != w[1]), "nobody twice");
}

#[derive(Debug, Default)]
struct Store(Mutex<Vec<String>>);

impl Deliver for Store {
    fn deliver<'a>(&'a self, item: &'a LocalItem, content: Content) -> BoxFuture<'a, Vec<Outcome>> {
        Box::pin(async move {
            let mut store = self.0.lock().unwrap();
            let Content::Whole(octets) = content else { panic!("small") };
            assert!(octets.starts_with(b"Received: by us\r\nFrom:"));
            assert_eq!(item.id.time(), item.accepted);
            store.extend(item.recipients.iter().map(|rcpt| rcpt.to.to_string()));
            vec![Outcome::Delivered(Accepted::locally()); item.recipients.len()]
        })
    }
}

#[tokio::test(start_paused = true)]
async fn accepted_mail_is_delivered_locally_with_its_head_in_front() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.locally("here.test", "store").locally("nobody.test", "unknown");
    let store = Arc::new(Store::default());
    let engine = builder(&world, &spool).local(LocalId::new("store"), store.clone()).start().await.unwrap();
    let accept = |to: &[&str]| {
        let body = NewBody::Inline("From: a@a.test\r\n\r\nhi\r\n".into());
        let recipients = to.iter().map(|to| Rcpt::new(ForwardPath::parse(to).unwrap())).collect();
        let mut mail = NewMail::new(engine.new_id(), Mail::default(), recipients, body);
        mail.head = "Received: by us\r\n".into();
        mail
    };
    engine.accept(accept(&["x@here.test", "y@here.test"])).await.unwrap();
    let waiting = engine.accept(accept(&["z@nobody.test"])).await.unwrap();
    sleep(MINUTE).await;
    assert_eq!(*store.0.lock().unwrap(), ["<x@here.test>", "<y@here.test>"]);
    assert_eq!(
        engine.spool().scan(Selection::message(waiting), None, usize::MAX).await.unwrap().len(),
        1,
        "put off, not lost"
    );
    assert!(matches!(engine.accept(accept(&[])).await, Err(SubmitError::Message(_))));
}

#[tokio::test(start_paused = true)]
async fn receipts_beyond_their_number_still_tell_when() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", Duration::from_secs(5));
    let engine = builder(&world, &spool).options(with(|o| o.receipts = 1)).start().await.unwrap();
    let first = engine.submit(mail("", &["1@b.test"])).await.unwrap();
    let second = engine.submit(mail("", &["2@b.test"])).await.unwrap();
    assert!(first.is_watched() && !second.is_watched());
    assert!(second.finished().await.recipients.is_empty());
    assert_eq!(world.reached().len(), 2);
    drop(first);
    assert!(engine.submit(mail("", &["3@b.test"])).await.unwrap().is_watched());
}

#[tokio::test(start_paused = true)]
async fn a_receipt_lists_recipients_in_the_order_of_the_envelope() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", Duration::from_secs(5));
    world.rule("mx.c.test", |to, nth| if to.starts_with('2') && nth == 1 { 450 } else { 250 });
    let engine = engine(&world, &spool).await;
    let to = ["1@b.test", "2@c.test", "3@d.test", "4@b.test", "5@c.test"];
    let receipt = engine.submit(mail("", &to)).await.unwrap();
    let again = engine.receipt(receipt.id()).await.unwrap();
    let list = |delivery: Delivery| -> Vec<String> {
        delivery.recipients.iter().map(|(to, _)| to.to_string()).collect()
    };
    assert_eq!(list(receipt.finished().await), to.map(|to| format!("<{to}>")));
    let order = ["1@b.test", "4@b.test", "2@c.test", "5@c.test", "3@d.test"];
    assert_eq!(list(again.finished().await), order.map(|to| format!("<{to}>")), "by entry");
}

#[tokio::test(start_paused = true)]
async fn a_retry_curve_of_the_host_program_is_obeyed() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 450);
    let mut retry = Retry::new();
    (retry.steps, retry.jitter_percent) = (vec![Duration::from_secs(1), Duration::from_secs(2)], 0);
    retry.expire_null_sender = Duration::from_secs(10);
    let engine = builder(&world, &spool).retry(retry).start().await.unwrap();
    let began = Instant::now();
    let receipt = engine.submit(mail("", &["x@b.test"])).await.unwrap();
    assert!(!receipt.finished().await.is_complete());
    assert!(began.elapsed() >= Duration::from_secs(10) && began.elapsed() < Duration::from_secs(11));
    // At 0, 1, 3, 5, 7, 9 and, for the last time, 10 s.
    assert_eq!(engine.stats().deferred, 6);
}

#[tokio::test(start_paused = true)]
async fn a_seed_is_a_history() {
    let mut histories = Vec::new();
    for _ in 0..2 {
        let (world, spool) = (World::new(), MemorySpool::new());
        world.rule("mx.b.test", |_, nth| if nth < 4 { 450 } else { 250 }).down("mx.c.test");
        let engine = engine(&world, &spool).await;
        for n in 0..50 {
            let to = [format!("{n}@b.test"), format!("{n}@c.test"), format!("{n}@d{n}.test")];
            drop(engine.submit(mail("", &[&to[0], &to[1], &to[2]])).await.unwrap());
        }
        sleep(MINUTE * 10).await;
        world.up("mx.c.test");
        sleep(DAY).await;
        engine.shutdown(MINUTE).await;
        let net = world.net();
        assert_eq!(net.got.len(), 150);
        let got: Vec<_> = net.got.iter().map(|got| (got.to.clone(), got.at)).collect();
        histories.push((got, net.connects.clone()));
    }
    assert_eq!(histories[0], histories[1]);
}
