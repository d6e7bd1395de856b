//! One report for each message and round: what is told of several destinations is gathered first.

use std::time::Duration;

use tokio::time::sleep;

use postroad::delivery::{ChannelObserver, Retry};
use postroad::spool::{MemorySpool, REPORT_ENTRY, Selection, Spool};

use super::faults::{Fault, Faulty, Set as _};
use super::reports::asking;
use super::world::{Got, World};
use super::{DAY, MINUTE, builder, engine, engine_later, faulty, mail, with};

const SECOND: Duration = Duration::from_secs(1);

/// A world in which the first `refusing` of fifty destinations refuse everything.
fn fifty(refusing: usize) -> (World, Vec<String>) {
    let world = World::new();
    for n in 0..refusing {
        world.rule(&format!("mx.d{n}.test"), |_, _| 550);
    }
    (world, (0..50).map(|n| format!("x@d{n}.test")).collect())
}

fn told(world: &World) -> Vec<Got> {
    world.inbox("a@a.test")
}

/// How many recipients a report lists.
fn listed(report: &Got) -> usize {
    report.content.matches("\r\nFinal-Recipient: ").count()
}

fn names(to: &[String]) -> Vec<&str> {
    to.iter().map(String::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn fifty_destinations_that_refuse_are_one_report() {
    let ((world, to), spool) = (fifty(50), MemorySpool::new());
    let (observer, mut events) = ChannelObserver::new(1_000);
    let engine = builder(&world, &spool).observer(observer).start().await.unwrap();
    let receipt = engine.submit(mail("a@a.test", &names(&to))).await.unwrap();
    assert_eq!(receipt.finished().await.recipients.len(), 50);
    // At once: there is nothing left to wait for.
    sleep(SECOND * 2).await;
    let told = told(&world);
    assert_eq!((told.len(), listed(&told[0])), (1, 50));
    for to in &to {
        assert!(told[0].content.contains(&format!("Final-Recipient: rfc822; {to}\r\n")), "{to}");
    }
    for line in [
        "Subject: Your message could not be delivered",
        "Auto-Submitted: auto-replied",
        "Remote-MTA: dns; mx.d7.test",
        "Diagnostic-Code: smtp; 550 5.0.0 as the test has it",
        "Subject: the one I sent",
    ] {
        assert!(told[0].content.contains(&format!("\r\n{line}\r\n")), "{line}: {}", told[0].content);
    }
    assert_eq!(told[0].content.matches("\r\nLast-Attempt-Date: ").count(), 50);
    let reported = std::iter::from_fn(|| events.try_recv().ok()).filter(|event| event.name == "reported");
    assert_eq!(reported.map(|event| event.text.to_string()).collect::<Vec<_>>(), ["failed, 50 recipients"]);
    assert_eq!((spool.stats().messages, engine.stats().held), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_follows_later_is_another_report() {
    let ((world, to), spool) = (fifty(0), MemorySpool::new());
    for n in 0..50 {
        let now = n < 20;
        world.rule(&format!("mx.d{n}.test"), move |_, nth| if now || nth > 2 { 550 } else { 450 });
    }
    let engine = engine(&world, &spool).await;
    let receipt = engine.submit(mail("a@a.test", &names(&to))).await.unwrap();
    drop(receipt.finished().await);
    sleep(MINUTE * 2).await;
    let told = told(&world);
    assert_eq!(told.iter().map(listed).collect::<Vec<_>>(), [20, 30]);
    let ids: Vec<_> =
        told.iter().map(|got| got.content.split("Message-ID: ").nth(1).unwrap()[..28].to_owned()).collect();
    assert_ne!(ids[0], ids[1]);
    assert_eq!(spool.stats().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn one_destination_that_puts_off_holds_back_no_report_for_longer_than_the_wait() {
    for wait in [MINUTE, MINUTE * 10] {
        let ((world, to), spool) = (fifty(49), MemorySpool::new());
        world.rule("mx.d49.test", |_, _| 450);
        let options = with(|options| options.report_wait = wait);
        let engine = builder(&world, &spool).options(options).start().await.unwrap();
        let receipt = engine.submit(mail("a@a.test", &names(&to))).await.unwrap();
        sleep(wait - SECOND).await;
        assert_eq!(told(&world).len(), 0, "it waits for the others");
        sleep(wait / 8).await;
        let told = told(&world);
        assert_eq!((told.len(), listed(&told[0])), (1, 49));
        let waiting = spool.scan(Selection::message(receipt.id()), None, 9).await.unwrap();
        assert_eq!(waiting.len(), 1, "only the one that is put off");
    }
}

#[tokio::test(start_paused = true)]
async fn one_report_says_of_each_recipient_what_became_of_it() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.without_dsn("mx.old.test").rule("mx.no.test", |_, _| 550).rule("mx.full.test", |_, _| 450);
    let mut retry = Retry::new();
    retry.expire = MINUTE * 20;
    let options = with(|options| (options.delay_notice, options.report_wait) = (Some(MINUTE), MINUTE * 10));
    let engine = builder(&world, &spool).retry(retry).options(options).start().await.unwrap();
    let to = [
        "<1@old.test> NOTIFY=SUCCESS",
        "<2@no.test> NOTIFY=FAILURE ORCPT=rfc822;two@x.test",
        "<3@full.test> NOTIFY=DELAY",
        "<4@no.test> NOTIFY=SUCCESS,DELAY",
        "<5@no.test> NOTIFY=NEVER",
        "<6@old.test>",
    ];
    drop(engine.submit(asking("<a@a.test> ENVID=q7 RET=FULL", &to)).await.unwrap());
    sleep(MINUTE * 12).await;
    let told = told(&world);
    assert_eq!((told.len(), listed(&told[0])), (1, 3), "nobody else's is there to tell");
    let content = &told[0].content;
    let blocks: Vec<_> = content.split("\r\nFinal-Recipient: rfc822; ").skip(1).collect();
    for (block, (to, action)) in
        blocks.iter().zip([("2@no.test", "failed"), ("3@full.test", "delayed"), ("1@old.test", "relayed")])
    {
        assert!(block.starts_with(&format!("{to}\r\nAction: {action}\r\n")), "{content}");
    }
    for line in [
        "Subject: Your message could not be delivered",
        "Original-Envelope-Id: q7",
        "Original-Recipient: rfc822; two@x.test",
        // RFC 3461 §6.2: one failed, so the message is returned as it was asked for.
        "Content-Type: message/rfc822",
    ] {
        assert!(content.contains(&format!("\r\n{line}\r\n")), "{line}: {content}");
    }
    assert_eq!(content.matches("\r\nWill-Retry-Until: ").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_with_one_destination_is_reported_with_its_settlement() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 550).down("mx.a.test");
    let engine = engine(&world, &spool).await;
    let receipt = engine.submit(mail("a@a.test", &["1@b.test", "2@b.test"])).await.unwrap();
    drop(receipt.finished().await);
    let left = spool.scan(Selection::all(), None, 9).await.unwrap();
    assert_eq!(left.len(), 1, "the report, and nothing of the message");
    assert_eq!(left[0].recipients[0].rcpt.to.to_string(), "<a@a.test>");
}

#[tokio::test(start_paused = true)]
async fn many_recipients_of_one_destination_are_one_report_however_many_tries_they_take() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 550);
    let engine = engine(&world, &spool).await;
    let to: Vec<_> = (0..350).map(|n| format!("x{n}@b.test")).collect();
    drop(engine.submit(mail("a@a.test", &names(&to))).await.unwrap().finished().await);
    sleep(SECOND * 2).await;
    let told = told(&world);
    assert_eq!(told.iter().map(listed).collect::<Vec<_>>(), [350]);
    assert_eq!(spool.stats().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_gathered_outlives_the_engine_and_is_told_once() {
    for when in [MINUTE / 2, MINUTE * 2] {
        let ((world, to), spool) = (fifty(49), MemorySpool::new());
        world.rule("mx.d49.test", |_, _| 450);
        let first = engine(&world, &spool).await;
        let receipt = first.submit(mail("a@a.test", &names(&to))).await.unwrap();
        sleep(MINUTE / 3).await;
        first.shutdown(MINUTE).await;
        assert_eq!(told(&world).len(), 0, "it is not hurried");
        let left = spool.scan(Selection::message(receipt.id()), None, 99).await.unwrap();
        assert_eq!(left.iter().map(|entry| entry.entry).collect::<Vec<_>>(), [49, REPORT_ENTRY]);
        assert_eq!(left[1].recipients.len(), 49);
        sleep(when).await;
        let _second = engine_later(&world, &spool).await;
        sleep(MINUTE * 3).await;
        assert_eq!(told(&world).iter().map(listed).collect::<Vec<_>>(), [49]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_spool_that_fails_between_the_settlement_and_the_report_has_one_report() {
    for fault in [Fault::Storage, Fault::SettledUnknown, Fault::Full, Fault::NoReports] {
        let ((world, to), spool) = (fifty(49), Faulty::new());
        world.rule("mx.d49.test", |_, _| 450);
        let engine = faulty(&world, &spool).start().await.unwrap();
        drop(engine.submit(mail("a@a.test", &names(&to))).await.unwrap());
        sleep(MINUTE - SECOND).await;
        spool.set(fault);
        sleep(MINUTE * 3).await;
        if fault != Fault::SettledUnknown {
            assert_eq!(told(&world).len(), 0, "{fault:?}");
        }
        spool.set(Fault::None);
        sleep(MINUTE * 3).await;
        assert_eq!(told(&world).iter().map(listed).collect::<Vec<_>>(), [49], "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_has_room_for_what_empties_it_while_many_reports_wait() {
    let (world, spool) = (World::new(), Faulty::new());
    world.rule("mx.no.test", |_, _| 550).rule("mx.later.test", |_, _| 450);
    let options = with(|options| (options.entries, options.report_wait) = (1_000, SECOND));
    let engine = faulty(&world, &spool).options(options).start().await.unwrap();
    spool.set(Fault::NoReports);
    for n in 0..400 {
        let to = [format!("{n}@no.test"), format!("{n}@later.test")];
        drop(engine.submit(mail("a@a.test", &names(&to))).await.unwrap());
    }
    sleep(MINUTE / 2).await;
    assert!(engine.stats().held <= 300, "{:?}", engine.stats());
    assert!(engine.submit(mail("a@a.test", &["x@good.test"])).await.unwrap().finished().await.is_complete());
    spool.set(Fault::None);
    sleep(MINUTE * 5).await;
    let reported: usize = told(&world).iter().map(listed).sum();
    assert_eq!(reported, 400);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_gathered_for_the_null_sender() {
    let ((world, to), spool) = (fifty(49), MemorySpool::new());
    world.rule("mx.d49.test", |_, _| 450);
    let engine = engine(&world, &spool).await;
    drop(engine.submit(mail("", &names(&to))).await.unwrap());
    sleep(SECOND * 10).await;
    assert_eq!(spool.stats().entries, 1);
    sleep(DAY * 6).await;
    assert_eq!((world.reached().len(), spool.stats().messages), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_receipt_does_not_wait_for_what_is_still_to_be_told() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.no.test", |_, _| 550).rule("mx.later.test", |_, _| 450);
    let options = with(|options| options.report_wait = DAY * 9);
    let engine = builder(&world, &spool).options(options).start().await.unwrap();
    let first = engine.submit(mail("a@a.test", &["1@no.test", "2@later.test"])).await.unwrap();
    sleep(SECOND).await;
    let again = engine.receipt(first.id()).await.unwrap().finished().await;
    assert_eq!(again.recipients.len(), 2);
    assert_eq!(first.finished().await.recipients.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_told_while_a_report_is_being_stored_is_in_it() {
    let (world, spool) = (World::new(), Faulty::new());
    world.rule("mx.now.test", |_, _| 550);
    world.rule("mx.soon.test", |_, nth| if nth > 1 { 550 } else { 450 });
    world.rule("mx.late.test", |_, _| 450);
    let options = with(|options| options.report_wait = SECOND * 20);
    let engine = faulty(&world, &spool).options(options).start().await.unwrap();
    let to = ["1@now.test", "2@soon.test", "3@late.test"];
    let receipt = engine.submit(mail("a@a.test", &to)).await.unwrap();
    sleep(SECOND * 10).await;
    // The report of the first is refused, and waits, when the second is to be told of.
    spool.set(Fault::NoReports);
    sleep(MINUTE * 2).await;
    let left = spool.scan(Selection::message(receipt.id()), None, 9).await.unwrap();
    assert_eq!(left.iter().map(|entry| entry.recipients.len()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(told(&world).len(), 0);
    spool.set(Fault::None);
    sleep(MINUTE * 2).await;
    let told = told(&world);
    assert_eq!(told.iter().map(listed).collect::<Vec<_>>(), [2]);
    assert!(told[0].content.contains("1@now.test") && told[0].content.contains("2@soon.test"));
    assert_eq!(spool.stats().messages, 1, "the one that is put off");
    assert_eq!(engine.stats().held, 0);
}
