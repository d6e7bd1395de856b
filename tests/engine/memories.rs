//! What the engine remembers of mail: keys, results and the log, over restarts and between processes.

use std::collections::BTreeSet;

use mail_builder::MessageBuilder;
use postroad::delivery::{Receipt, ReceiptError, SubmitOptions};
use postroad::message::{Tag, Tenant};
use postroad::smtp::params::Hold;
use postroad::spool::{KeepLog, LogKind, Logged};
use postroad::testing::{FaultySpool, Method, SpoolFault};

use super::*;
use crate::faults::{Fault, Set};

/// Built anew each time: with boundaries, a Date and a Message-ID of its own.
fn order(subject: &str) -> MessageBuilder<'static> {
    let builder = MessageBuilder::new().from("shop@a.test").to(vec!["yes@b.test", "no@b.test"]);
    builder.subject(subject.to_owned()).text_body("Thank you.").html_body("<p>Thank you.</p>")
}

fn refusing() -> World {
    let world = World::new();
    world.rule("mx.b.test", |to, _| if to == "no@b.test" { 550 } else { 250 });
    world
}

/// What is recalled: the outcome of each recipient as text.
async fn recalled(receipt: Receipt) -> Vec<String> {
    let delivery = receipt.finished().await;
    let text = |outcome: &Outcome| match outcome {
        Outcome::Delivered(Accepted { noted: Some(noted), .. }) => format!("delivered, noted: {noted}"),
        Outcome::Delivered(_) => "delivered".into(),
        Outcome::Failed(Cause::Noted(Some(noted))) => format!("failed, noted: {noted}"),
        Outcome::Failed(cause) => format!("failed: {cause}"),
        Outcome::Deferred(_) => panic!("not settled"),
    };
    delivery.recipients.iter().map(|(to, outcome)| format!("{to} {}", text(outcome))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_key_sends_its_message_once_even_when_that_is_delivered() {
    let (world, spool) = (refusing(), MemorySpool::new());
    let engine = engine(&world, &spool).await;
    let first = engine.submit_once("order-17", order("17")).await.unwrap();
    let id = first.id();
    assert!(!first.was_known());
    assert_eq!(first.finished().await.recipients.len(), 2);
    sleep(MINUTE).await;
    assert_eq!(spool.stats().messages, 0, "the report is delivered, too");
    let again = engine.submit_once("order-17", order("17")).await.unwrap();
    assert_eq!((again.id(), again.was_known(), again.is_watched()), (id, true, false));
    let [yes, no] = recalled(again).await.try_into().unwrap();
    assert_eq!(yes, "<yes@b.test> delivered, noted: 250 2.0.0 as the test has it");
    assert!(no.starts_with("<no@b.test> failed, noted: mx.b.test") && no.contains("550"), "{no}");
    sleep(MINUTE).await;
    assert_eq!(world.inbox("yes@b.test").len(), 1);
    assert_eq!(engine.stats().accepted, 1);
}

#[tokio::test(start_paused = true)]
async fn another_content_under_a_key_is_a_conflict() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let engine = engine(&world, &spool).await;
    let _ = engine.submit_once("order-17", order("17")).await.unwrap().finished().await;
    for other in [order("18"), order("17").cc("eve@b.test"), order("17").attachment("text/plain", "a", "b")] {
        let mut other = other;
        // Of two subjects the last is meant.
        other.headers.dedup_by(|b, a| a.0 == b.0);
        let refused = engine.submit_once("order-17", other).await;
        assert!(matches!(refused, Err(SubmitError::KeyConflict)), "{refused:?}");
    }
    for name in ["", "a\0b", &"x".repeat(256)] {
        let refused = engine.submit_once(name, order("17")).await;
        assert!(matches!(refused, Err(SubmitError::Key(_))), "{refused:?}");
    }
    assert_eq!((spool.stats().messages, engine.stats().accepted), (0, 1));
    // Another tenant's key of the same name is another.
    let mut options = SubmitOptions::once("order-17");
    (options.tenant, options.tags) = (Tenant::new("acme"), Tag::new("spring").into_iter().collect());
    world.thinks("mx.b.test", MINUTE);
    let theirs = engine.submit_with(order("18"), options).await.unwrap();
    assert!(!theirs.was_known());
    let stored = spool.scan(Selection::message(theirs.id()), None, 1).await.unwrap();
    assert_eq!(stored[0].handling.tenant, Tenant::new("acme"));
    assert_eq!(stored[0].handling.tags.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn submits_of_one_key_at_once_are_one_message() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.thinks("mx.b.test", MINUTE);
    let engine = engine(&world, &spool).await;
    let submits: Vec<_> = (0..20)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.submit_once("order-17", order("17")).await.unwrap() })
        })
        .collect();
    let mut receipts = Vec::new();
    for submit in submits {
        receipts.push(submit.await.unwrap());
    }
    assert_eq!(receipts.iter().map(Receipt::id).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(receipts.iter().filter(|receipt| !receipt.was_known()).count(), 1);
    for receipt in receipts {
        assert_eq!(receipt.finished().await.recipients.len(), 2);
    }
    assert_eq!(world.reached(), ["no@b.test", "yes@b.test"]);
    assert_eq!((engine.stats().held, engine.stats().watched), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn keys_and_results_are_forgotten_in_time() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let hour = MINUTE * 60;
    let options = with(|o| (o.keep_keys, o.keep_results) = (hour * 2, hour));
    let engine = builder(&world, &spool).options(options).start().await.unwrap();
    let first = engine.submit_once("order-17", order("17")).await.unwrap();
    let id = first.id();
    let _ = first.finished().await;
    sleep(hour * 3 / 2).await;
    assert!(matches!(engine.receipt(id).await, Err(ReceiptError::NotWaiting)), "the results are over");
    let again = engine.submit_once("order-17", order("17")).await.unwrap();
    assert_eq!((again.id(), again.was_known()), (id, true), "the key is not");
    assert!(again.finished().await.recipients.is_empty(), "and of the outcomes nothing is known");
    sleep(hour).await;
    world.down("mx.b.test");
    let second = engine.submit_once("order-17", order("17")).await.unwrap();
    assert!(!second.was_known() && second.id() != id);
    // It cannot be delivered, and waits for longer than keys are kept.
    sleep(hour * 5).await;
    let again = engine.submit_once("order-17", order("17")).await.unwrap();
    assert_eq!((again.id(), again.was_known()), (second.id(), true));
}

#[tokio::test(start_paused = true)]
async fn mail_without_a_key_is_remembered_only_on_request() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let engine = engine(&world, &spool).await;
    let plain = engine.submit(order("1")).await.unwrap();
    let mut options = SubmitOptions::new();
    options.keep = Some(DAY);
    let kept = engine.submit_with(order("2"), options).await.unwrap();
    let body = NewBody::Inline("Subject: x\r\n\r\nhi\r\n".into());
    let to = vec![Rcpt::new(ForwardPath::parse("x@b.test").unwrap())];
    let relayed = engine.accept(NewMail::new(engine.new_id(), Mail::default(), to, body)).await.unwrap();
    let (plain_id, kept_id) = (plain.id(), kept.id());
    let _ = plain.finished().await;
    let _ = kept.finished().await;
    sleep(MINUTE).await;
    for id in [plain_id, relayed] {
        assert_eq!(spool.results(id).await.unwrap(), None);
        assert!(matches!(engine.receipt(id).await, Err(ReceiptError::NotWaiting)));
    }
    assert_eq!(recalled(engine.receipt(kept_id).await.unwrap()).await.len(), 2);
    assert!(engine.log(0, 9).await.unwrap().is_empty(), "and nothing is logged");
}

#[tokio::test(start_paused = true)]
async fn a_receipt_after_a_restart_knows_what_was_settled_before() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |to, nth| if to == "late@b.test" && nth < 2 { 450 } else { 250 });
    world.rule("mx.c.test", |_, _| 550);
    let engine = engine(&world, &spool).await;
    let to = ["late@b.test", "x@b.test", "no@c.test"];
    let mut options = SubmitOptions::new();
    options.keep = Some(DAY);
    let id = engine.submit_with(mail("", &to), options).await.unwrap().id();
    sleep(Duration::from_secs(5)).await;
    engine.shutdown(MINUTE).await;
    let engine = engine_later(&world, &spool).await;
    let receipt = engine.receipt(id).await.unwrap();
    assert!(receipt.is_watched());
    let [late, x, no] = recalled(receipt).await.try_into().unwrap();
    assert_eq!(late, "<late@b.test> delivered", "this was seen");
    assert_eq!(x, "<x@b.test> delivered, noted: 250 2.0.0 as the test has it", "this was read");
    assert!(no.starts_with("<no@c.test> failed, noted: mx.c.test"), "this too: {no}");
}

#[tokio::test(start_paused = true)]
async fn a_message_submitted_again_under_its_id_resolves_when_the_rest_of_it_is_settled() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, nth| if nth < 3 { 450 } else { 250 });
    let first = engine(&world, &spool).await;
    let (id, to) = (first.new_id(), ["late@b.test", "x@c.test"]);
    drop(first.submit_as(id, mail("", &to)).await.unwrap());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.inbox("x@c.test").len(), 1);
    // Once where nobody watches any more, and once in another life.
    let here = first.submit_as(id, mail("", &to)).await.unwrap();
    assert!(here.is_watched() && !here.was_known());
    drop(here);
    first.shutdown(MINUTE).await;
    let later = engine_later(&world, &spool).await;
    let receipt = later.submit_as(id, mail("", &to)).await.unwrap();
    let delivery = tokio::time::timeout(DAY, receipt.finished()).await.expect("it resolves");
    let settled: Vec<_> = delivery.recipients.iter().map(|(to, _)| to.to_string()).collect();
    assert_eq!(settled, ["<late@b.test>"], "nothing is kept of what was settled before");
    assert_eq!(world.inbox("x@c.test").len(), 1, "and nothing was sent twice");
    // A new one under an id of the caller's making is watched whole.
    let fresh = later.submit_as(later.new_id(), mail("", &to)).await.unwrap();
    assert_eq!(tokio::time::timeout(DAY, fresh.finished()).await.unwrap().recipients.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_is_not_refused_because_the_spool_cannot_say_more_of_it() {
    let (world, spool) = (World::new(), FaultySpool::new());
    let engine = over(&world, spool.clone()).start().await.unwrap();
    spool.script(|call| match call.method {
        Method::Scan | Method::Results => SpoolFault::Before,
        _ => SpoolFault::None,
    });
    // It waits, so that the engine does not have it in hand.
    let mut later = Envelope::parse("a@a.test", ["x@b.test"]).unwrap();
    later.hold = Some(Hold::For(60));
    let message = RawMessage::new(later, &b"Subject: x\r\n\r\n"[..]);
    let receipt = engine.submit_as(engine.new_id(), message).await.expect("it is stored");
    spool.clear();
    assert!(tokio::time::timeout(DAY, receipt.finished()).await.is_ok());
    assert_eq!(world.reached(), ["x@b.test"]);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_beyond_their_number_tells_what_is_remembered() {
    let (world, spool) = (refusing(), MemorySpool::new());
    world.thinks("mx.b.test", Duration::from_secs(5));
    let engine = builder(&world, &spool).options(with(|o| o.receipts = 0)).start().await.unwrap();
    let receipt = engine.submit_once("k", order("17")).await.unwrap();
    let again = engine.receipt(receipt.id()).await.unwrap();
    assert!(!receipt.is_watched() && !again.is_watched());
    assert_eq!(recalled(receipt).await, recalled(again).await);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_resolves_when_another_process_settles_the_message() {
    let (world, spool) = (refusing(), Faulty::new().shared());
    let first = faulty(&world, &spool).start().await.unwrap();
    world.down("mx.b.test");
    let receipt = first.submit_once("k", order("17")).await.unwrap();
    let id = receipt.id();
    let plain = first.submit(mail("", &["plain@b.test"])).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    // The first one is gone for good, and its receipts wait on.
    first.shutdown(MINUTE).await;
    world.up("mx.b.test");
    let second = faulty(&world, &spool).start().await.unwrap();
    let [yes, no] = recalled(receipt).await.try_into().unwrap();
    assert_eq!(yes, "<yes@b.test> delivered, noted: 250 2.0.0 as the test has it");
    assert!(no.starts_with("<no@b.test> failed, noted: "), "{no}");
    assert!(plain.finished().await.recipients.is_empty(), "settled, but nothing was kept of it");
    assert_eq!(recalled(second.receipt(id).await.unwrap()).await, [yes, no]);
}

/// What a consumer has dealt with, and how far it is.
#[derive(Debug, Default)]
struct Consumer {
    seen: Vec<Logged>,
}

impl Consumer {
    async fn read(&mut self, engine: &Engine) {
        loop {
            let page = engine.log(self.seen.last().map_or(0, |last| last.number), 2).await.unwrap();
            assert!(page.len() <= 2);
            if page.is_empty() {
                return;
            }
            self.seen.extend(page);
        }
    }

    fn kinds(&self, kind: LogKind) -> Vec<String> {
        let of = self.seen.iter().filter(|logged| logged.event.kind == kind);
        of.map(|logged| logged.event.recipient.as_ref().map_or_else(String::new, ToString::to_string))
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_tells_everything_once_over_a_restart_and_a_lost_answer() {
    let (world, spool) = (World::new(), Faulty::new());
    world.rule("mx.b.test", |to, nth| match to {
        "no@b.test" => 550,
        "late@b.test" if nth < 3 => 450,
        _ => 250,
    });
    let logging = || with(|o| o.log = Some(KeepLog::new()));
    let mut consumer = Consumer::default();
    let engine = faulty(&world, &spool).options(logging()).start().await.unwrap();
    let id = engine.submit(mail("a@a.test", &["late@b.test", "no@b.test", "x@b.test"])).await.unwrap().id();
    sleep(Duration::from_secs(5)).await;
    consumer.read(&engine).await;
    assert_eq!(consumer.kinds(LogKind::Delivered).len(), 2, "one, and the report");
    engine.shutdown(MINUTE).await;
    spool.set(Fault::SettledUnknown);
    let engine = faulty(&world, &spool).options(logging()).start().await.unwrap();
    sleep(MINUTE * 3).await;
    spool.set(Fault::None);
    sleep(MINUTE * 60).await;
    consumer.read(&engine).await;
    assert_eq!(consumer.kinds(LogKind::Accepted).len(), 1);
    assert_eq!(consumer.kinds(LogKind::Deferred), ["<late@b.test>", "<late@b.test>"]);
    assert_eq!(consumer.kinds(LogKind::Failed), ["<no@b.test>"]);
    assert_eq!(
        consumer.kinds(LogKind::Delivered),
        ["<x@b.test>", "<a@a.test> NOTIFY=NEVER", "<late@b.test>"]
    );
    let first = &consumer.seen[0].event;
    assert_eq!((first.kind, first.message, first.attempt), (LogKind::Accepted, id, 0));
    let reported: Vec<_> =
        consumer.seen.iter().filter(|logged| logged.event.kind == LogKind::Reported).collect();
    let report: MessageId = reported[0].event.note.as_ref().unwrap().parse().unwrap();
    assert_eq!(reported.len(), 1);
    assert!(consumer.seen.iter().any(|logged| logged.event.message == report));
    let attempts: Vec<_> = consumer.seen.iter().map(|logged| logged.event.attempt).collect();
    assert_eq!(attempts.iter().max(), Some(&3));
}

#[tokio::test(start_paused = true)]
async fn no_more_of_the_log_is_kept_than_is_asked_for() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let mut keep = KeepLog::new();
    keep.events = 3;
    let engine = builder(&world, &spool).options(with(|o| o.log = Some(keep))).start().await.unwrap();
    for _ in 0..5 {
        let _ = engine.submit(mail("", &["x@b.test"])).await.unwrap().finished().await;
    }
    assert_eq!(engine.log(0, 99).await.unwrap().len(), 10);
    sleep(MINUTE * 3).await;
    let left: Vec<_> = engine.log(0, 99).await.unwrap().iter().map(|logged| logged.number).collect();
    assert_eq!(left, [8, 9, 10]);
}

#[cfg(feature = "disk")]
#[tokio::test]
async fn keys_and_results_are_there_when_the_spool_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let world = refusing();
    let mut told = Vec::new();
    let mut ids = BTreeSet::new();
    for round in 0..3 {
        let spool = postroad::spool::DiskSpool::open(dir.path()).unwrap();
        let options = with(|o| o.log = Some(KeepLog::new()));
        let engine = over(&world, spool.clone()).options(options).start().await.unwrap();
        let receipt = engine.submit_once("order-17", order("17")).await.unwrap();
        assert_eq!(receipt.was_known(), round > 0);
        ids.insert(receipt.id());
        let id = receipt.id();
        if round > 0 {
            told.push(recalled(engine.receipt(id).await.unwrap()).await);
        }
        told.push(recalled(receipt).await);
        engine.shutdown(MINUTE).await;
        let accepted = engine.log(0, 99).await.unwrap();
        assert_eq!(accepted.iter().filter(|logged| logged.event.kind == LogKind::Accepted).count(), 1);
        drop(engine);
        spool.close().await.unwrap();
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(told[1..].iter().collect::<BTreeSet<_>>().len(), 1, "{told:?}");
    assert_eq!(world.inbox("yes@b.test").len(), 1);
}
