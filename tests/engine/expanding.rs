//! Recipients that stand for others: aliases and lists, said by a local store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use postroad::BoxFuture;
use postroad::attempt::{Accepted, Cause, Deliver, Expansion, LocalItem, Outcome};
use postroad::clock::{SteppedClock, Timestamp};
use postroad::delivery::{ChannelObserver, Engine, EngineBuilder, NewMail};
use postroad::message::Content;
use postroad::route::LocalId;
use postroad::smtp::address::ReversePath;
use postroad::smtp::params::{Mail, Rcpt};
use postroad::spool::{DiskSpool, MemorySpool, NewBody, Selection, Spool};

use super::faults::{Fault, Faulty, Set as _};
use super::reports::asking;
use super::world::{Got, World};
use super::{MINUTE, builder, faulty, mail, over};

/// A store that knows aliases and lists, by the local part; whoever else it has a mailbox for.
#[derive(Debug, Default)]
struct Directory {
    known: Mutex<BTreeMap<String, Expansion>>,
    /// Recipients in the order of delivery, with the sender.
    boxes: Mutex<Vec<String>>,
}

impl Directory {
    fn alias(&self, name: &str, others: &[&str]) -> &Self {
        let expansion = Expansion::alias(rcpts(others));
        self.known.lock().unwrap().insert(format!("<{name}@here.test>"), expansion);
        self
    }

    fn list(&self, name: &str, members: &[&str]) -> &Self {
        let owner = ReversePath::parse("owner@own.test").unwrap();
        let expansion = Expansion::list(owner, rcpts(members));
        self.known.lock().unwrap().insert(format!("<{name}@here.test>"), expansion);
        self
    }
}

impl Deliver for Directory {
    fn deliver<'a>(&'a self, item: &'a LocalItem, _: Content) -> BoxFuture<'a, Vec<Outcome>> {
        let one = |rcpt: &Rcpt| match self.known.lock().unwrap().get(&rcpt.to.to_string()) {
            Some(expansion) => Outcome::expanded(expansion.clone()),
            None => {
                self.boxes.lock().unwrap().push(format!("{} -> {rcpt}", item.mail));
                Outcome::Delivered(Accepted::locally())
            }
        };
        Box::pin(std::future::ready(item.recipients.iter().map(one).collect()))
    }
}

fn rcpts(all: &[&str]) -> Vec<Rcpt> {
    all.iter().map(|rcpt| Rcpt::parse(rcpt).unwrap()).collect()
}

fn with(builder: EngineBuilder, world: &World, directory: &Arc<Directory>) -> EngineBuilder {
    world.locally("here.test", "store");
    builder.local(LocalId::new("store"), Arc::clone(directory) as Arc<dyn Deliver>)
}

async fn started(world: &World, spool: &MemorySpool, directory: &Arc<Directory>) -> Engine {
    with(builder(world, spool), world, directory).start().await.unwrap()
}

fn told(world: &World) -> Vec<Got> {
    world.inbox("a@a.test")
}

#[tokio::test(start_paused = true)]
async fn an_alias_hands_on_the_message_of_the_same_sender() {
    let (world, spool, directory) = (World::new(), MemorySpool::new(), Arc::new(Directory::default()));
    directory.alias("all", &["<1@b.test>", "<2@c.test>", "<3@here.test>", "<1@b.test>"]);
    directory.alias("me", &["<4@b.test> NOTIFY=NEVER"]);
    let (observer, mut events) = ChannelObserver::new(100);
    let engine = with(builder(&world, &spool), &world, &directory).observer(observer).start().await.unwrap();
    let to = ["<all@here.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@x.test", "<me@here.test> NOTIFY=SUCCESS"];
    let receipt = engine.submit(asking("<a@a.test> RET=HDRS ENVID=q7 MT-PRIORITY=3", &to)).await.unwrap();
    let id = receipt.id();
    assert!(receipt.finished().await.is_complete(), "whoever stands for others has it");
    sleep(MINUTE).await;
    for (to, rcpt) in [
        ("1@b.test", "<1@b.test> NOTIFY=DELAY ORCPT=rfc822;o@x.test"),
        ("2@c.test", "<2@c.test> NOTIFY=DELAY ORCPT=rfc822;o@x.test"),
        ("4@b.test", "<4@b.test> NOTIFY=SUCCESS"),
    ] {
        let got = world.inbox(to);
        assert_eq!(got.len(), 1, "{to} has it once");
        assert_eq!(got[0].rcpt, rcpt);
        assert_eq!(got[0].from, "<a@a.test>");
        assert!(got[0].mail.contains(" RET=HDRS ENVID=q7"), "{}", got[0].mail);
        assert!(got[0].content.contains("Subject: the one I sent\r\n"));
    }
    assert_eq!(directory.boxes.lock().unwrap().len(), 1);
    // Of the one with several behind it, once; of the other, those behind it will be reported.
    let told = told(&world);
    assert_eq!(told.len(), 1);
    let text = &told[0].content;
    assert!(text.contains("Final-Recipient: rfc822; all@here.test\r\nAction: expanded\r\nStatus: 2.0.0\r\n"));
    assert!(!text.contains("1@b.test") && !text.contains("me@here.test"), "{text}");
    assert!(text.contains("\r\nSubject: Your message was sent on\r\n"));
    assert_eq!(spool.stats().messages, 0);
    let events: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    let expanded: Vec<_> = events.iter().filter(|event| event.name == "expanded").collect();
    assert_eq!((expanded.len(), expanded[0].message), (1, Some(id)), "one message for all of them");
}

#[tokio::test(start_paused = true)]
async fn a_list_sends_in_its_owners_name_and_reports_nothing_of_its_members() {
    let (world, spool, directory) = (World::new(), MemorySpool::new(), Arc::new(Directory::default()));
    directory.list("list", &["<1@b.test>", "<2@no.test> NOTIFY=FAILURE"]);
    world.rule("mx.no.test", |_, _| 550);
    let engine = started(&world, &spool, &directory).await;
    let to = ["<list@here.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o@x.test"];
    let message = asking("<a@a.test> RET=FULL ENVID=q7 BY=120;RT", &to);
    assert!(engine.submit(message).await.unwrap().finished().await.is_complete());
    sleep(MINUTE * 5).await;
    let got = world.inbox("1@b.test").remove(0);
    assert_eq!((got.from.as_str(), got.rcpt.as_str()), ("<owner@own.test>", "<1@b.test>"));
    assert!(!got.mail.contains("RET") && !got.mail.contains("ENVID") && !got.mail.contains("BY="));
    // RFC 3461 §5.2.7.1: the sender hears of the list, its owner of the members.
    let told = told(&world);
    assert_eq!(told.len(), 1);
    assert!(told[0].content.contains("Final-Recipient: rfc822; list@here.test\r\nAction: delivered\r\n"));
    let owner = world.inbox("owner@own.test");
    assert_eq!(owner.len(), 1);
    assert!(owner[0].content.contains("Final-Recipient: rfc822; 2@no.test\r\nAction: failed\r\n"));
    assert!(!owner[0].content.contains("Original-Envelope-Id"));
    assert_eq!(spool.stats().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_of_what_the_null_sender_sends_to_a_list() {
    let (world, spool, directory) = (World::new(), MemorySpool::new(), Arc::new(Directory::default()));
    directory.list("list", &["<1@b.test>", "<2@no.test>"]).alias("all", &["<3@b.test>", "<4@no.test>"]);
    world.rule("mx.no.test", |_, _| 550);
    let engine = started(&world, &spool, &directory).await;
    let to = ["<list@here.test> NOTIFY=SUCCESS", "<all@here.test> NOTIFY=SUCCESS"];
    drop(engine.submit(asking("<>", &to)).await.unwrap());
    sleep(MINUTE * 5).await;
    assert_eq!(world.reached(), ["1@b.test", "3@b.test"]);
    assert_eq!(world.inbox("1@b.test")[0].from, "<>");
    assert_eq!(spool.stats().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn aliases_that_go_round_come_to_an_end_and_the_sender_is_told() {
    let (world, spool, directory) = (World::new(), MemorySpool::new(), Arc::new(Directory::default()));
    // Two that stand for both of them and somebody else: there must not be twice as many each time.
    let both = ["<one@here.test>", "<two@here.test>", "<x@here.test>"];
    directory.alias("one", &both).alias("two", &both).alias("empty", &[]);
    let engine = started(&world, &spool, &directory).await;
    drop(engine.submit(mail("a@a.test", &["one@here.test", "empty@here.test"])).await.unwrap());
    sleep(MINUTE * 5).await;
    let boxes = directory.boxes.lock().unwrap().len();
    assert_eq!(boxes, 10, "once each time that it goes round");
    let told = told(&world);
    let lines = |line: &str| told.iter().filter(|got| got.content.contains(line)).count();
    assert_eq!(told.len(), 2);
    assert_eq!(lines("\r\nStatus: 5.4.6\r\n"), 1, "no end");
    assert_eq!(lines("Final-Recipient: rfc822; empty@here.test\r\nAction: failed\r\nStatus: 5.1.1\r\n"), 1);
    assert_eq!(spool.stats().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn an_expansion_whose_storing_was_not_answered_is_made_once() {
    for fault in [Fault::Storage, Fault::SettledUnknown, Fault::Full, Fault::NoReports, Fault::Bodies] {
        let (world, spool, directory) = (World::new(), Faulty::new(), Arc::new(Directory::default()));
        directory.alias("all", &["<1@b.test>", "<2@c.test>"]);
        let engine = with(faulty(&world, &spool), &world, &directory).start().await.unwrap();
        world.down("mx.d.test");
        // The fault is there when the store answers.
        drop(engine.submit(mail("a@a.test", &["x@d.test", "all@here.test"])).await.unwrap());
        spool.set(fault);
        sleep(MINUTE * 3).await;
        spool.set(Fault::None);
        sleep(MINUTE * 10).await;
        assert_eq!(world.reached(), ["1@b.test", "2@c.test"], "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_expansion_that_was_stored_unnoticed_is_told_as_what_it_is_although_the_message_is_gone() {
    let (world, spool, directory) = (World::new(), Faulty::new(), Arc::new(Directory::default()));
    directory.alias("all", &["<1@b.test>"]);
    let (observer, mut events) = ChannelObserver::new(100);
    // No body is at hand, so that it is gone with its message.
    let options = super::with(|o| o.bodies = 0);
    let builder = with(faulty(&world, &spool), &world, &directory).observer(observer).options(options);
    let engine = builder.start().await.unwrap();
    let receipt = engine.submit(mail("a@a.test", &["all@here.test"])).await.unwrap();
    spool.set(Fault::SettledUnknown);
    sleep(MINUTE).await;
    spool.set(Fault::None);
    assert!(receipt.finished().await.is_complete());
    sleep(MINUTE * 20).await;
    assert_eq!(world.reached(), ["1@b.test"], "no report of a failure");
    let names: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.name).collect();
    assert_eq!(names.iter().filter(|name| **name == "delivered").count(), 2, "{names:?}");
    assert!(names.contains(&"expanded") && !names.contains(&"failed"), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn what_an_alias_stands_for_expires_when_the_message_does() {
    let (world, spool, directory) = (World::new(), MemorySpool::new(), Arc::new(Directory::default()));
    directory.alias("all", &["<1@b.test>", "<2@b.test>"]);
    world.rule("mx.b.test", |_, _| 450);
    let engine = started(&world, &spool, &directory).await;
    drop(engine.submit(mail("a@a.test", &["all@here.test"])).await.unwrap());
    sleep(MINUTE).await;
    let waiting = spool.scan(Selection::all(), None, 9).await.unwrap().remove(0);
    let start = Timestamp::from_millis(1_790_000_000_000);
    assert_eq!(waiting.accepted, start);
    assert_eq!(waiting.expires, start.after(Duration::from_secs(5 * 86_400)));
    assert_eq!(waiting.handling.expansions, 1);
    sleep(Duration::from_secs(6 * 86_400)).await;
    let told = told(&world);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].content.matches("\r\nStatus: 5.4.7\r\n").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn those_behind_an_alias_that_was_held_past_its_deadline_are_tried_once() {
    let (world, spool, directory) = (World::new(), MemorySpool::new(), Arc::new(Directory::default()));
    directory.alias("all", &["<1@b.test>", "<2@c.test>"]);
    world.rule("mx.c.test", |_, _| 450);
    // Not ours at first, and not to be had.
    world.down("mx.here.test");
    let store = Arc::clone(&directory) as Arc<dyn Deliver>;
    let engine = builder(&world, &spool).local(LocalId::new("store"), store).start().await.unwrap();
    let id = engine.submit(mail("a@a.test", &["all@here.test"])).await.unwrap().id();
    sleep(MINUTE).await;
    engine.hold(Selection::message(id), "for a look").await.unwrap();
    sleep(Duration::from_secs(6 * 86_400)).await;
    world.locally("here.test", "store");
    engine.release(Selection::message(id)).await.unwrap();
    sleep(MINUTE * 10).await;
    assert_eq!(world.reached(), ["1@b.test", "a@a.test"], "the one that can be had, and a report");
    let told = told(&world);
    assert!(told[0].content.contains("<2@c.test>") || told[0].content.contains("; 2@c.test"), "{told:?}");
    assert_eq!(spool.stats().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn those_behind_an_alias_are_not_named_as_the_original_recipients() {
    let (world, spool, directory) = (World::new(), MemorySpool::new(), Arc::new(Directory::default()));
    directory.alias("all", &["<1@b.test>"]);
    let engine = started(&world, &spool, &directory).await;
    let body = NewBody::Inline("From: a@a.test\r\n\r\nhi\r\n".into());
    let mut message =
        NewMail::new(engine.new_id(), Mail::parse("<a@a.test>").unwrap(), rcpts(&["<all@here.test>"]), body);
    message.head = "Received: by us\r\n".into();
    engine.accept(message).await.unwrap();
    sleep(MINUTE).await;
    // RFC 3461 §5.2.1 (d): it would have to be as it was received.
    assert_eq!(world.inbox("1@b.test")[0].rcpt, "<1@b.test>");
}

#[tokio::test]
async fn a_large_message_goes_to_those_behind_an_alias_by_way_of_the_disk() {
    let directory = Arc::new(Directory::default());
    directory.alias("all", &["<x@here.test>", "<y@here.test>"]);
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let spool = DiskSpool::open(dir.path().join("spool")).unwrap();
    let engine = with(over(&world, spool.clone()), &world, &directory)
        .clock(Arc::new(SteppedClock::starting_at(Timestamp::from_millis(1_790_000_000_000))))
        .start()
        .await
        .unwrap();
    let octets = [b"Subject: large\r\n\r\n".to_vec(), b"x\r\n".repeat(300_000)].concat();
    let body = {
        let mut writer = spool.stage().await.unwrap();
        writer.write(octets.into()).await.unwrap();
        NewBody::Staged(writer.finish().await.unwrap())
    };
    let mail = Mail::parse("<a@a.test>").unwrap();
    engine.accept(NewMail::new(engine.new_id(), mail, rcpts(&["<all@here.test>"]), body)).await.unwrap();
    for _ in 0..1_000 {
        if directory.boxes.lock().unwrap().len() == 2 && spool.stats().messages == 0 {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?} {:?}", directory.boxes, spool.stats());
}

#[test]
fn an_expansion_that_goes_nowhere_has_a_cause_of_its_own() {
    assert_eq!(Cause::Loop.status(true).to_string(), "5.4.6");
}
