//! When a message is sent, when it must have arrived, what goes first, and what a host leaves over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use postroad::BoxFuture;
use postroad::attempt::{Accepted, Cause, Deliver, LocalItem, Outcome};
use postroad::clock::{SteppedClock, Timestamp};
use postroad::delivery::SubmitError;
use postroad::hop::Host;
use postroad::message::Content;
use postroad::route::LocalId;
use postroad::smtp::address::Domain;
use postroad::spool::{MemorySpool, Selection, Spool};

use super::reports::{Mailbox, asking};
use super::world::World;
use super::{DAY, MINUTE, builder, engine, mail, with};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn a_message_to_be_returned_fails_at_its_time_and_is_not_tried_behind_it() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 450).with_deliver_by("mx.b.test");
    let engine = engine(&world, &spool).await;
    let began = Instant::now();
    let receipt = engine.submit(asking("<a@a.test> BY=600;R", &["<1@b.test>"])).await.unwrap();
    let delivery = receipt.finished().await;
    let took = began.elapsed();
    assert!((MINUTE * 10..MINUTE * 11).contains(&took), "{took:?}");
    assert!(matches!(delivery.recipients[0].1, Outcome::Failed(Cause::Expired(Some(_)))), "{delivery:?}");
    world.rule("mx.b.test", |_, _| 250);
    sleep(DAY).await;
    assert_eq!(world.reached(), ["a@a.test"]);
    let report = &world.net().got[0].content;
    for line in ["Action: failed", "Status: 5.4.7", "Deliver-By-Date: Mon, 21 Sep 2026 14:23:20 +0000"] {
        assert!(report.contains(&format!("\r\n{line}\r\n")), "{line}: {report}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_time_passed_while_nobody_was_there_is_returned_untried() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.down("mx.b.test");
    let first = engine(&world, &spool).await;
    drop(first.submit(asking("<a@a.test> BY=600;R", &["<1@b.test>"])).await.unwrap());
    sleep(MINUTE).await;
    first.shutdown(MINUTE).await;
    world.up("mx.b.test");
    let clock = SteppedClock::starting_at(Timestamp::from_millis(1_790_000_000_000 + 601_000));
    let _second = builder(&world, &spool).clock(Arc::new(clock)).start().await.unwrap();
    sleep(HOUR).await;
    assert_eq!(world.reached(), ["a@a.test"]);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_wants_to_know_is_told_once_that_the_time_is_over_and_it_is_tried_on() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, nth| if nth < 12 { 450 } else { 250 });
    let engine = engine(&world, &spool).await;
    let to = ["<1@b.test>", "<2@b.test> NOTIFY=FAILURE"];
    let receipt = engine.submit(asking("<a@a.test> BY=1200;N", &to)).await.unwrap();
    assert!(receipt.finished().await.is_complete());
    sleep(MINUTE).await;
    let inbox = world.inbox("a@a.test");
    assert_eq!(inbox.len(), 2);
    let late = &inbox[0];
    assert!((MINUTE * 20..MINUTE * 22).contains(&late.at), "{:?}", late.at);
    assert!(late.content.contains("\r\nAction: delayed\r\nStatus: 4.4.7\r\n"), "{}", late.content);
    assert!(!late.content.contains("2@b.test"));
    // RFC 2852 §4.1: the next host does not know of the time.
    assert!(inbox[1].content.contains("\r\nAction: relayed\r\n") && !inbox[1].content.contains("2@b.test"));
}

#[tokio::test(start_paused = true)]
async fn a_time_that_is_over_already_is_told_of_when_the_first_try_did_not_help() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 450).down("mx.c.test").locally("here.test", "store");
    let store = Arc::new(Mailbox::default());
    let engine = builder(&world, &spool).local(LocalId::new("store"), store).start().await.unwrap();
    // The second message to c.test finds its site held.
    for (by, to) in [
        ("0;N", "<1@b.test>"),
        ("-5;N", "<2@c.test>"),
        ("-5;N", "<3@c.test>"),
        ("0;N", "<4@here.test>"),
        ("0;N", "<5@b.test> NOTIFY=NEVER"),
    ] {
        drop(engine.submit(asking(&format!("<a@a.test> BY={by}"), &[to])).await.unwrap());
        sleep(Duration::from_secs(1)).await;
    }
    sleep(HOUR * 9).await;
    let inbox = world.inbox("a@a.test");
    assert_eq!(inbox.len(), 3, "{inbox:?}");
    assert!(inbox.iter().all(|report| report.at < Duration::from_secs(10)), "{inbox:?}");
}

#[tokio::test(start_paused = true)]
async fn a_trace_is_given_of_every_host_that_takes_the_message() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.with_deliver_by("mx.b.test").with_deliver_by("mx.c.test");
    world.rule("mx.b.test", |_, nth| if nth == 1 { 450 } else { 250 });
    let engine = engine(&world, &spool).await;
    drop(engine.submit(asking("<a@a.test> BY=900;RT", &["<1@b.test>"])).await.unwrap());
    drop(engine.submit(asking("<a@a.test> BY=900;N", &["<2@c.test>"])).await.unwrap());
    sleep(MINUTE * 2).await;
    let by = |to: &str| world.inbox(to)[0].mail.split_once(" BY=").unwrap().1.to_owned();
    assert_eq!(by("2@c.test"), "900;N");
    // The first try was a minute before.
    let left: u32 = by("1@b.test").strip_suffix(";RT").unwrap().parse().unwrap();
    assert!((825..=846).contains(&left), "{left}");
    assert_eq!(world.inbox("a@a.test").len(), 1, "of the other the next host takes care");
    assert!(world.inbox("a@a.test")[0].content.contains("\r\nAction: relayed\r\n"));
}

#[tokio::test(start_paused = true)]
async fn the_least_time_of_a_host_is_for_what_is_to_be_returned_only() {
    // RFC 2852 §2: it is longer than what is left.
    let (world, spool) = (World::new(), MemorySpool::new());
    world.with_least_time("mx.b.test", 3600);
    let engine = engine(&world, &spool).await;
    drop(engine.submit(asking("<a@a.test> BY=900;N", &["<1@b.test>"])).await.unwrap());
    drop(engine.submit(asking("<r@a.test> BY=900;R", &["<2@b.test>"])).await.unwrap());
    sleep(MINUTE).await;
    assert!(world.inbox("1@b.test")[0].mail.contains(" BY="));
    assert!(world.inbox("a@a.test").is_empty() && world.inbox("2@b.test").is_empty());
    assert!(world.inbox("r@a.test")[0].content.contains("\r\nAction: failed\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_message_to_be_returned_does_not_wait_longer_because_its_site_is_held() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.down("mx.b.test");
    let engine = engine(&world, &spool).await;
    drop(engine.submit(mail("", &["0@b.test"])).await.unwrap());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(engine.stats().sites_held, 1);
    let began = Instant::now();
    let receipt = engine.submit(asking("<a@a.test> BY=5;R", &["<1@b.test>"])).await.unwrap();
    assert!(!receipt.finished().await.is_complete());
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_held_message_is_sent_at_its_time_and_says_no_more_of_it() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.locally("here.test", "store");
    let store = Arc::new(Mailbox::default());
    let local = |store: &Arc<Mailbox>| builder(&world, &spool).local(LocalId::new("store"), store.clone());
    let first = local(&store).start().await.unwrap();
    let message = asking("<a@a.test> BY=86400;R HOLDFOR=7200", &["<1@here.test> NOTIFY=NEVER"]);
    drop(first.submit(message).await.unwrap());
    drop(first.submit(asking("<> HOLDUNTIL=2026-01-01T00:00:00Z", &["<2@here.test>"])).await.unwrap());
    sleep(HOUR).await;
    let gone = ("<>".to_owned(), "<2@here.test>".to_owned());
    assert_eq!(*store.0.lock().unwrap(), vec![gone], "a time that has passed means now");
    first.shutdown(MINUTE).await;
    let clock = SteppedClock::starting_at(Timestamp::from_millis(1_790_000_000_000 + 3_600_000));
    let _second = local(&store).clock(Arc::new(clock)).start().await.unwrap();
    sleep(MINUTE * 59).await;
    assert_eq!(store.0.lock().unwrap().len(), 1);
    sleep(MINUTE * 3).await;
    let store = store.0.lock().unwrap();
    let mail = &store[1].0;
    let left: i64 = mail.strip_prefix("<a@a.test> BY=").unwrap().strip_suffix(";R").unwrap().parse().unwrap();
    // Two hours of a day are over, and what the grid of the schedule adds.
    assert!((79_100..=79_200).contains(&left), "{mail}");
}

#[tokio::test(start_paused = true)]
async fn expiry_counts_from_the_release() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 450);
    let engine = engine(&world, &spool).await;
    let began = Instant::now();
    let receipt = engine.submit(asking("<> HOLDFOR=259200", &["<1@b.test>"])).await.unwrap();
    assert!(!receipt.finished().await.is_complete());
    assert!((DAY * 4..DAY * 4 + MINUTE * 3).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_too_long_or_ends_after_the_deadline_is_refused() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let engine = builder(&world, &spool).options(with(|o| o.max_hold = HOUR)).start().await.unwrap();
    for (parameters, taken) in [
        ("HOLDFOR=3600", true),
        ("HOLDUNTIL=2026-09-21T15:13:20Z", true),
        ("HOLDFOR=3602", false),
        ("HOLDUNTIL=2026-09-21T15:13:30Z", false),
        ("HOLDFOR=999999999", false),
    ] {
        let answer = engine.submit(asking(&format!("<a@a.test> {parameters}"), &["<1@b.test>"])).await;
        assert_eq!(answer.is_ok(), taken, "{parameters}");
        assert!(matches!(answer, Ok(_) | Err(SubmitError::Hold)), "{parameters}");
    }
    let answer = engine.submit(asking("<a@a.test> HOLDFOR=600 BY=600;N", &["<1@b.test>"])).await;
    assert!(matches!(answer, Err(SubmitError::Release)));
    assert_eq!(spool.stats().messages, 2);
}

#[tokio::test(start_paused = true)]
async fn urgent_mail_overtakes_what_waits_for_the_same_host() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", Duration::from_secs(1));
    let engine = builder(&world, &spool).options(with(|o| o.runs_per_site = 1)).start().await.unwrap();
    for n in 0..40 {
        drop(engine.submit(mail("", &[&format!("{n}@b.test")])).await.unwrap());
    }
    drop(engine.submit(asking("<> MT-PRIORITY=-4", &["<last@b.test>"])).await.unwrap());
    sleep(Duration::from_secs(3)).await;
    drop(engine.submit(asking("<> MT-PRIORITY=4", &["<urgent@b.test>"])).await.unwrap());
    sleep(MINUTE * 2).await;
    let order: Vec<_> = world.net().got.iter().map(|got| got.to.clone()).collect();
    let place = |to: &str| order.iter().position(|got| got == to).unwrap();
    // Two are in flight already.
    assert!(place("urgent@b.test") < 8, "{order:?}");
    assert_eq!((place("last@b.test"), order.len()), (41, 42));
}

/// Takes a few recipients at once, as some hosts do.
#[derive(Debug)]
struct Narrow {
    takes: usize,
    tries: Mutex<Vec<usize>>,
}

impl Deliver for Narrow {
    fn deliver<'a>(&'a self, item: &'a LocalItem, _: Content) -> BoxFuture<'a, Vec<Outcome>> {
        Box::pin(async move {
            self.tries.lock().unwrap().push(item.recipients.len());
            let host = Arc::new(Host::new(Domain::parse("narrow.test").unwrap(), 25));
            let outcome = |n| match n {
                n if n < self.takes => Outcome::Delivered(Accepted::locally()),
                _ => Outcome::Deferred(Cause::LeftOver { host: Arc::clone(&host) }),
            };
            (0..item.recipients.len()).map(outcome).collect()
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_host_leaves_over_follows_at_once_and_is_put_off_only_without_progress() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.locally("narrow.test", "narrow").locally("shut.test", "shut");
    let store = |takes| Arc::new(Narrow { takes, tries: Mutex::default() });
    let (narrow, shut) = (store(30), store(0));
    let engine = builder(&world, &spool)
        .local(LocalId::new("narrow"), narrow.clone())
        .local(LocalId::new("shut"), shut.clone())
        .options(with(|options| options.delay_notice = Some(Duration::from_secs(1))))
        .start()
        .await
        .unwrap();
    let to: Vec<_> = (0..100).map(|n| format!("{n}@narrow.test")).collect();
    let to: Vec<_> = to.iter().map(String::as_str).collect();
    let began = Instant::now();
    assert!(engine.submit(mail("", &to)).await.unwrap().finished().await.is_complete());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(*narrow.tries.lock().unwrap(), [100, 70, 40, 10]);
    assert_eq!(engine.stats().deferred, 0, "it is no delay");
    let receipt = engine.submit(mail("", &["1@shut.test", "2@shut.test"])).await.unwrap();
    sleep(MINUTE / 2).await;
    assert_eq!(*shut.tries.lock().unwrap(), [2]);
    assert_eq!(spool.scan(Selection::message(receipt.id()), None, usize::MAX).await.unwrap()[0].attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn mailboxes_that_stay_full_do_not_keep_the_others_from_being_named() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let full = |to: &str, _| if to.contains("full") { 450 } else { 250 };
    world.takes("mx.b.test", 5).rule("mx.b.test", full).rule("mx.c.test", full);
    let engine = engine(&world, &spool).await;
    // More than the host takes at once, or than one transaction holds, stand in front.
    for (domain, stuck, fine) in [("b.test", 8, 40), ("c.test", 120, 30)] {
        let to: Vec<_> = (0..stuck).map(|n| format!("full{n}@{domain}")).collect();
        let to: Vec<_> = to.into_iter().chain((0..fine).map(|n| format!("{n}@{domain}"))).collect();
        let to: Vec<_> = to.iter().map(String::as_str).collect();
        drop(engine.submit(mail("", &to)).await.unwrap());
    }
    sleep(HOUR).await;
    assert_eq!(world.reached().len(), 70);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_takes_few_recipients_gets_all_of_them_at_once() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.takes("mx.b.test", 30).rule("mx.c.test", |_, _| 452);
    let engine = engine(&world, &spool).await;
    let to: Vec<_> = (0..100).map(|n| format!("{n}@b.test")).collect();
    let to: Vec<_> = to.iter().map(String::as_str).collect();
    let began = Instant::now();
    assert!(engine.submit(mail("", &to)).await.unwrap().finished().await.is_complete());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(world.reached().len(), 100);
    // One that takes nobody now is left alone as ever.
    drop(engine.submit(mail("", &["1@c.test", "2@c.test"])).await.unwrap());
    sleep(MINUTE / 2).await;
    assert_eq!(engine.stats().deferred, 2);
}

#[tokio::test(start_paused = true)]
async fn more_recipients_than_one_transaction_takes_are_split() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let engine = engine(&world, &spool).await;
    let to: Vec<_> = (0..250).map(|n| format!("{n}@b.test")).collect();
    let to: Vec<_> = to.iter().map(String::as_str).collect();
    let delivery = engine.submit(mail("", &to)).await.unwrap().finished().await;
    assert!(delivery.is_complete());
    assert_eq!(world.reached().len(), 250);
}
