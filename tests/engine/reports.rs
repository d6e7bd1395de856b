//! What a sender is told of its message, and what the next host is asked to tell.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use postroad::BoxFuture;
use postroad::attempt::{Accepted, Deliver, LocalItem, Outcome};
use postroad::clock::{SteppedClock, Timestamp};
use postroad::delivery::{ChannelObserver, EngineBuilder, NewMail};
use postroad::message::{Content, Envelope, RawMessage};
use postroad::route::LocalId;
use postroad::smtp::params::{Mail, Rcpt};
use postroad::spool::{MemorySpool, NewBody, Selection, Spool};

use super::faults::{Fault, Faulty, Set};
use super::world::{Got, World};
use super::{DAY, MINUTE, builder, engine, faulty, mail, with};

const HOUR: Duration = Duration::from_secs(3600);

/// A message with these arguments of MAIL and RCPT, as they go over the wire.
pub fn asking(from: &str, to: &[&str]) -> RawMessage {
    let from = Mail::parse(from).unwrap();
    let to = to.iter().map(|to| Rcpt::parse(to).unwrap()).collect();
    let mut message = mail("", &[]);
    message.envelope = Envelope::new(from.from, to);
    (message.envelope.ret, message.envelope.envid) = (from.ret, from.envid);
    (message.envelope.by, message.envelope.hold) = (from.by, from.hold);
    (message.envelope.priority, message.envelope.require_tls) = (from.priority, from.require_tls);
    message
}

/// The reports of one kind that reached the sender.
fn reports(world: &World, action: &str) -> Vec<Got> {
    let mut inbox = world.inbox("a@a.test");
    inbox.retain(|got| got.content.contains(&format!("\r\nAction: {action}\r\n")));
    inbox
}

fn telling(builder: EngineBuilder) -> EngineBuilder {
    builder.options(with(|options| options.delay_notice = Some(HOUR * 4)))
}

/// A store that takes all, and remembers what it was given.
#[derive(Debug, Default)]
pub struct Mailbox(pub Mutex<Vec<(String, String)>>);

impl Deliver for Mailbox {
    fn deliver<'a>(&'a self, item: &'a LocalItem, _: Content) -> BoxFuture<'a, Vec<Outcome>> {
        Box::pin(async move {
            let mail = item.mail.to_string();
            let rcpt = |rcpt: &Rcpt| (mail.clone(), rcpt.to_string());
            self.0.lock().unwrap().extend(item.recipients.iter().map(rcpt));
            vec![Outcome::Delivered(Accepted::locally()); item.recipients.len()]
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_next_host_that_does_not_report_is_reported_to_have_the_message() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.without_dsn("mx.old.test");
    let (observer, mut events) = ChannelObserver::new(100);
    let engine = builder(&world, &spool).observer(observer).start().await.unwrap();
    let to = [
        "<1@old.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;one@x.test",
        "<2@old.test>",
        "<3@old.test> NOTIFY=NEVER",
        "<4@new.test> NOTIFY=SUCCESS",
    ];
    let message = asking("<a@a.test> RET=FULL ENVID=q7", &to);
    assert!(engine.submit(message).await.unwrap().finished().await.is_complete());
    sleep(MINUTE).await;
    let inbox = world.inbox("a@a.test");
    assert_eq!(inbox.len(), 1);
    let report = &reports(&world, "relayed")[0];
    assert!(report.mail.starts_with("<> SIZE="), "{}", report.mail);
    assert_eq!(report.rcpt, "<a@a.test> NOTIFY=NEVER");
    for line in [
        "Original-Envelope-Id: q7",
        "Original-Recipient: rfc822; one@x.test",
        "Final-Recipient: rfc822; 1@old.test",
        "Status: 2.0.0",
        "Remote-MTA: dns; mx.old.test",
        "Diagnostic-Code: smtp; 250 2.0.0 as the test has it",
        "Content-Type: text/rfc822-headers",
    ] {
        assert!(report.content.contains(&format!("\r\n{line}\r\n")), "{line}: {}", report.content);
    }
    for other in ["2@old.test", "3@old.test", "4@new.test"] {
        assert!(!report.content.contains(other), "{other}");
    }
    let told = std::iter::from_fn(|| events.try_recv().ok()).find(|event| event.name == "reported").unwrap();
    assert_eq!(&*told.text, "relayed, 1 recipients");
}

#[tokio::test(start_paused = true)]
async fn what_a_sender_asks_of_reports_reaches_the_next_host_as_it_was() {
    let (world, spool) = (World::new(), MemorySpool::new());
    let engine = engine(&world, &spool).await;
    let to = ["<1@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;one+2B@x.test", "<2@b.test>"];
    let message = asking("<a@a.test> RET=HDRS ENVID=q+2B7", &to);
    assert!(engine.submit(message).await.unwrap().finished().await.is_complete());
    let got = world.inbox("1@b.test").remove(0);
    assert!(got.mail.contains(" RET=HDRS ENVID=q+2B7"), "{}", got.mail);
    assert_eq!(got.rcpt, to[0]);
    // RFC 3461 §5.2.1: nothing is put where nothing was.
    assert_eq!(world.inbox("2@b.test")[0].rcpt, to[1]);
    assert!(
        engine.submit(asking("<a@a.test>", &["<3@b.test>"])).await.unwrap().finished().await.is_complete()
    );
    assert!(!world.inbox("3@b.test")[0].mail.contains("RET="));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_relayed_names_its_original_recipient_to_the_next_host() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |to, _| if to.starts_with("no") { 550 } else { 250 });
    let engine = engine(&world, &spool).await;
    let to = ["<x=y@b.test>", "<2@b.test> ORCPT=rfc822;two@x.test", "<no@b.test>", "<ü@b.test>"];
    let recipients = to.iter().map(|to| Rcpt::parse(to).unwrap()).collect();
    let body = NewBody::Inline("From: a@a.test\r\n\r\nhi\r\n".into());
    let mut message =
        NewMail::new(engine.new_id(), Mail::parse("<a@a.test> SMTPUTF8").unwrap(), recipients, body);
    message.head = "Received: by us\r\n".into();
    engine.accept(message).await.unwrap();
    sleep(MINUTE).await;
    assert_eq!(world.inbox("x=y@b.test")[0].rcpt, "<x=y@b.test> ORCPT=rfc822;x+3Dy@b.test");
    assert_eq!(world.inbox("2@b.test")[0].rcpt, to[1]);
    assert_eq!(world.inbox("ü@b.test")[0].rcpt, to[3], "it has no name in ASCII");
    // RFC 3461 §6.3 (d): our own report has none that the sender did not give.
    assert!(!reports(&world, "failed")[0].content.contains("Original-Recipient"));
}

#[tokio::test(start_paused = true)]
async fn delivery_to_a_mailbox_is_reported_to_who_asked() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.locally("here.test", "store");
    let store = Arc::new(Mailbox::default());
    let engine = builder(&world, &spool).local(LocalId::new("store"), store).start().await.unwrap();
    let to = ["<1@here.test> NOTIFY=SUCCESS", "<2@here.test>", "<3@here.test> NOTIFY=NEVER"];
    for from in ["<a@a.test>", "<>"] {
        drop(engine.submit(asking(from, &to)).await.unwrap());
    }
    sleep(MINUTE).await;
    let told = reports(&world, "delivered");
    assert_eq!((told.len(), world.net().got.len()), (1, 1), "nobody is told about the null sender's");
    assert!(told[0].content.contains("Final-Recipient: rfc822; 1@here.test\r\n"));
    assert!(!told[0].content.contains("2@here.test"));
}

#[tokio::test(start_paused = true)]
async fn a_sender_is_told_once_that_its_message_is_late() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 451).down("mx.c.test");
    let engine = telling(builder(&world, &spool)).start().await.unwrap();
    let to = [
        "<1@b.test>",
        "<2@b.test> NOTIFY=DELAY",
        "<3@b.test> NOTIFY=FAILURE",
        "<4@b.test> NOTIFY=NEVER",
        "<5@c.test>",
    ];
    for from in ["<a@a.test>", "<>"] {
        drop(engine.submit(asking(from, &to)).await.unwrap());
    }
    sleep(HOUR * 4 - MINUTE).await;
    assert_eq!(world.reached(), [""; 0]);
    sleep(DAY).await;
    let told = reports(&world, "delayed");
    assert_eq!((told.len(), world.net().got.len()), (1, 1), "one for both destinations");
    for report in &told {
        assert!((HOUR * 4..HOUR * 4 + MINUTE * 7).contains(&report.at), "{:?}", report.at);
        assert!(report.content.contains("\r\nWill-Retry-Until: Sat, 26 Sep 2026 14:13:20 +0000\r\n"));
    }
    let refused = &told[0];
    assert!(refused.content.contains("Final-Recipient: rfc822; 5@c.test\r\n"));
    assert!(refused.content.contains("Final-Recipient: rfc822; 2@b.test\r\n"));
    assert!(
        refused.content.contains("Diagnostic-Code: smtp; 451 4.0.0 as the test has it\r\nLast-Attempt-Date"),
        "{}",
        refused.content
    );
    assert!(!refused.content.contains("3@b.test") && !refused.content.contains("4@b.test"));
    sleep(DAY * 5).await;
    assert_eq!(reports(&world, "delayed").len(), 1);
    let failed = reports(&world, "failed");
    assert_eq!(failed.len(), 1);
    for (to, is_told) in [("1@b.test", true), ("2@b.test", false), ("3@b.test", true), ("5@c.test", true)] {
        assert_eq!(failed[0].content.contains(&format!("Final-Recipient: rfc822; {to}")), is_told, "{to}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_of_a_delay_unless_the_host_program_wants_it() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 451);
    let engine = engine(&world, &spool).await;
    drop(engine.submit(asking("<a@a.test>", &["<1@b.test> NOTIFY=DELAY"])).await.unwrap());
    sleep(DAY * 3).await;
    assert_eq!(world.reached(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_neither_forgets_nor_repeats_that_a_message_is_late() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 451);
    let started = |hours: u64| {
        let clock = SteppedClock::starting_at(Timestamp::from_millis(1_790_000_000_000 + hours * 3_600_000));
        telling(builder(&world, &spool)).clock(Arc::new(clock)).start()
    };
    let first = started(0).await.unwrap();
    drop(first.submit(asking("<a@a.test>", &["<1@b.test>"])).await.unwrap());
    sleep(HOUR).await;
    first.shutdown(MINUTE).await;
    // The time of the notice passes while nobody is there.
    let second = started(10).await.unwrap();
    sleep(HOUR * 2).await;
    assert_eq!(reports(&world, "delayed").len(), 1);
    second.shutdown(MINUTE).await;
    let _third = started(13).await.unwrap();
    sleep(DAY).await;
    assert_eq!(reports(&world, "delayed").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_notice_whose_storing_was_not_answered_is_given_once() {
    for fault in [Fault::Storage, Fault::SettledUnknown, Fault::Full, Fault::NoReports] {
        let (world, spool) = (World::new(), Faulty::new());
        world.rule("mx.b.test", |_, _| 451);
        let options = with(|options| options.delay_notice = Some(MINUTE * 15));
        let engine = faulty(&world, &spool).options(options).start().await.unwrap();
        drop(engine.submit(asking("<a@a.test>", &["<1@b.test>"])).await.unwrap());
        sleep(MINUTE * 14).await;
        spool.set(fault);
        sleep(MINUTE * 5).await;
        spool.set(Fault::None);
        sleep(HOUR).await;
        assert_eq!(reports(&world, "delayed").len(), 1, "{fault:?}");
        assert_eq!(world.net().got.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_on_a_message_that_required_tls_requires_it_too_and_holds_no_body() {
    let (world, spool) = (World::new(), MemorySpool::new());
    world.locally("here.test", "none").down("mx.a.test");
    let mut retry = postroad::delivery::Retry::new();
    retry.expire = MINUTE;
    let engine = builder(&world, &spool).retry(retry).start().await.unwrap();
    drop(engine.submit(asking("<a@a.test> REQUIRETLS RET=FULL", &["<1@here.test>"])).await.unwrap());
    sleep(MINUTE * 3).await;
    let report = spool.scan(Selection::all(), None, 10).await.unwrap().remove(0);
    assert_eq!(report.mail.to_string(), "<> REQUIRETLS");
    assert_eq!(report.recipients[0].rcpt.to_string(), "<a@a.test> NOTIFY=NEVER");
}

#[tokio::test(start_paused = true)]
async fn a_report_is_as_urgent_as_the_message_it_is_about() {
    // RFC 6710 §4.6
    let (world, spool) = (World::new(), MemorySpool::new());
    world.rule("mx.b.test", |_, _| 550).down("mx.a.test");
    let engine = engine(&world, &spool).await;
    drop(engine.submit(asking("<a@a.test> MT-PRIORITY=4", &["<1@b.test>"])).await.unwrap());
    sleep(MINUTE).await;
    let waiting = spool.scan(Selection::all(), None, 10).await.unwrap();
    let mail = waiting.iter().map(|entry| entry.mail.to_string()).collect::<Vec<_>>();
    assert_eq!(mail, ["<> MT-PRIORITY=4"]);
}

#[tokio::test(start_paused = true)]
async fn a_report_on_a_message_for_which_tls_is_optional_is_held_up_by_no_policy_either() {
    for (mail, optional) in [("<a@a.test>", true), ("<a@a.test> REQUIRETLS", false)] {
        let (world, spool) = (World::new(), MemorySpool::new());
        world.locally("here.test", "none").down("mx.a.test");
        let mut retry = postroad::delivery::Retry::new();
        retry.expire = MINUTE;
        let engine = builder(&world, &spool).retry(retry).start().await.unwrap();
        let mut message = asking(mail, &["<1@here.test>"]);
        message.octets = [b"TLS-Required: No\r\n", &message.octets[..]].concat().into();
        drop(engine.submit(message).await.unwrap());
        sleep(MINUTE * 3).await;
        let report = spool.scan(Selection::all(), None, 10).await.unwrap().remove(0);
        assert!(report.mail.to_string().starts_with("<>"));
        assert_eq!(report.handling.tls_optional, optional);
    }
}
