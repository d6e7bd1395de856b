//! Every kind of report that an engine makes, read by a parser that somebody else wrote.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use postroad::BoxFuture;
use postroad::attempt::{Accepted, Deliver, Expansion, LocalItem, Outcome};
use postroad::delivery::EngineBuilder;
use postroad::message::Content;
use postroad::route::LocalId;
use postroad::smtp::address::ForwardPath;
use postroad::smtp::params::Rcpt;
use postroad::smtp::reply::Reply;
use postroad::spool::MemorySpool;
use postroad::testing::{Act, Step};

use super::python;
use super::reports::asking;
use super::world::World;
use super::{MINUTE, builder, with};

/// Tries to end the field, the block and the part that it stands in.
const EVIL: &str =
    "no\n\nFinal-Recipient: rfc822; root@a.test\nAction: delivered\n\n--=_x--\nContent-Type: text/html";
const EVIL_SAID: &str = "smtp; 550 5.0.0 no Final-Recipient: rfc822; root@a.test Action: delivered --=_x-- \
                         Content-Type: text/html";

/// Some hosts and a store, each with another fate for its mail.
fn world() -> World {
    let world = World::new();
    world.script(|host, step| match (host, step) {
        ("mx.no.test", Step::Rcpt(..)) => Act::Reply(Reply::plain(550, EVIL)),
        ("mx.late.test", Step::Rcpt(..)) => {
            Act::Reply(Reply::plain(450, "Gr\u{fc}\u{df}e\nAction: delivered"))
        }
        _ => Act::Usual,
    });
    world.without_dsn("mx.old.test").locally("here.test", "store");
    world
}

/// A store with mailboxes, and one address that stands for two others.
#[derive(Debug)]
struct Store;

impl Deliver for Store {
    fn deliver<'a>(&'a self, item: &'a LocalItem, _: Content) -> BoxFuture<'a, Vec<Outcome>> {
        let one = |rcpt: &Rcpt| match &rcpt.to {
            ForwardPath::Mailbox(mailbox) if mailbox.local() == "all" => {
                let others = ["<1@b.test>", "<2@b.test>"].map(|other| Rcpt::parse(other).unwrap());
                Outcome::expanded(Expansion::alias(others.to_vec()))
            }
            _ => Outcome::Delivered(Accepted::locally()),
        };
        Box::pin(ready(item.recipients.iter().map(one).collect()))
    }
}

fn engine(world: &World, spool: &MemorySpool) -> EngineBuilder {
    let options = with(|options| {
        (options.delay_notice, options.report_wait) = (Some(Duration::from_secs(1)), MINUTE * 10);
    });
    builder(world, spool).options(options).local(LocalId::new("store"), Arc::new(Store))
}

/// What the reader finds in the report on a message that was sent like this.
async fn found(from: &str, inbox: &str, to: &[&str], header: &str) -> Option<String> {
    let (world, spool) = (world(), MemorySpool::new());
    let engine = engine(&world, &spool).start().await.unwrap();
    let mut message = asking(from, to);
    message.octets = Bytes::from(format!("From: a@a.test\r\n{header}\r\n\r\nhello\r\n"));
    drop(engine.submit(message).await.unwrap());
    sleep(MINUTE * 15).await;
    let reports = world.inbox(inbox);
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert_eq!((reports[0].from.as_str(), reports[0].rcpt.contains(" NOTIFY=NEVER")), ("<>", true));
    let found = python::read(reports[0].content.as_bytes())?;
    let front = "type|multipart/report|delivery-status\nauto|auto-replied\n";
    assert!(found.starts_with(front), "{found}");
    assert_eq!(found.matches("defects|0\n").count(), 4, "{found}");
    Some(found)
}

/// The blocks about recipients, each as the fields that it has and the lines that are shown of it.
fn blocks(found: &str) -> Vec<(&str, &str)> {
    let blocks = found.split("\nsubject|").next().unwrap().split("\nblock|").skip(2);
    blocks.map(|block| block.split_once('\n').unwrap()).collect()
}

const RELAYED: &str = "Final-Recipient|Action|Status|Remote-MTA|Diagnostic-Code|Last-Attempt-Date";

#[tokio::test(start_paused = true)]
async fn another_parser_reads_what_became_of_each_recipient() {
    let to = [
        "<1@old.test> NOTIFY=SUCCESS",
        "<2@late.test> NOTIFY=DELAY",
        "<3@no.test> ORCPT=rfc822;three+2B@x.test",
        "<all@here.test> NOTIFY=SUCCESS",
        "<4@here.test> NOTIFY=SUCCESS",
        "<5@no.test> NOTIFY=NEVER",
    ];
    for (ret, returned) in [("FULL", "message/rfc822"), ("HDRS", "text/rfc822-headers")] {
        let from = format!("<a@a.test> RET={ret} ENVID=q+2B7");
        let Some(found) = found(&from, "a@a.test", &to, "Subject: hi").await else { return };
        assert!(found.contains(&format!("parts|text/plain|message/delivery-status|{returned}\n")), "{found}");
        assert!(found.contains("\nOriginal-Envelope-Id|q+7\n") && found.ends_with("subject|hi\n"), "{found}");
        let named = format!("Original-Recipient|{RELAYED}");
        let late = format!("{RELAYED}|Will-Retry-Until");
        let here = "Final-Recipient|Action|Status|Last-Attempt-Date";
        let failed = format!(
            "Original-Recipient|rfc822; three+@x.test\nFinal-Recipient|rfc822; 3@no.test\nAction|failed\n\
             Status|5.0.0\nRemote-MTA|dns; mx.no.test\nDiagnostic-Code|{EVIL_SAID}"
        );
        let until = "Will-Retry-Until|Sat, 26 Sep 2026 14:13:20 +0000";
        let delayed = format!(
            "Final-Recipient|rfc822; 2@late.test\nAction|delayed\nStatus|4.0.0\nRemote-MTA|dns; mx.late.test\n\
             Diagnostic-Code|smtp; 450 4.0.0 Gr??e Action: delivered\n{until}"
        );
        let relayed = "Final-Recipient|rfc822; 1@old.test\nAction|relayed\nStatus|2.0.0\n\
                       Remote-MTA|dns; mx.old.test\nDiagnostic-Code|smtp; 250 2.0.0 as the test has it";
        let expanded = "Final-Recipient|rfc822; all@here.test\nAction|expanded\nStatus|2.0.0";
        let delivered = "Final-Recipient|rfc822; 4@here.test\nAction|delivered\nStatus|2.0.0";
        let expected = [
            (named.as_str(), failed.as_str()),
            (late.as_str(), delayed.as_str()),
            (RELAYED, relayed),
            (here, expanded),
            (here, delivered),
        ];
        assert_eq!(blocks(&found), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn another_parser_reads_each_kind_alone() {
    for (to, action) in [
        ("<1@no.test>", "failed"),
        ("<1@late.test> NOTIFY=DELAY", "delayed"),
        ("<1@old.test> NOTIFY=SUCCESS", "relayed"),
        ("<all@here.test> NOTIFY=SUCCESS", "expanded"),
        ("<1@here.test> NOTIFY=SUCCESS", "delivered"),
    ] {
        let Some(found) = found("<a@a.test>", "a@a.test", &[to], "Subject: hi").await else { return };
        let returned = if action == "failed" { "message/rfc822" } else { "text/rfc822-headers" };
        assert!(found.contains(&format!("parts|text/plain|message/delivery-status|{returned}\n")), "{found}");
        assert_eq!(blocks(&found).len(), 1, "{found}");
        assert!(blocks(&found)[0].1.contains(&format!("\nAction|{action}\n")), "{found}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_parser_reads_a_report_in_utf8() {
    let from = "<\u{e4}rzte@a.test> SMTPUTF8 RET=FULL";
    let to = ["<gr\u{fc}n@no.test> ORCPT=utf-8;gr\\x{FC}n@no.test", "<2@late.test> NOTIFY=DELAY"];
    let Some(found) = found(from, "\u{e4}rzte@a.test", &to, "Subject: Gr\u{fc}\u{df}e").await else { return };
    assert!(found.contains("\nparts|text/plain|message/global-delivery-status|message/global\n"), "{found}");
    assert!(found.contains("to|\u{e4}rzte@a.test\n"), "{found}");
    let blocks = blocks(&found);
    assert_eq!(blocks.len(), 2, "{found}");
    assert!(blocks[0].1.starts_with(
        "Original-Recipient|utf-8; gr\\x{FC}n@no.test\nFinal-Recipient|utf-8; gr\u{fc}n@no.test\n"
    ));
    assert!(blocks[0].1.ends_with(&format!("Diagnostic-Code|{EVIL_SAID}")), "{found}");
    assert!(
        blocks[1].1.contains("Diagnostic-Code|smtp; 450 4.0.0 Gr\u{fc}\u{df}e Action: delivered\n"),
        "{found}"
    );
    assert!(found.ends_with("subject|Gr\u{fc}\u{df}e\n"), "{found}");
}

#[tokio::test(start_paused = true)]
async fn another_parser_reads_a_report_in_ascii_on_a_message_in_utf8() {
    let to = ["<gr\u{fc}n@no.test>", "<1@old.test> NOTIFY=SUCCESS"];
    let sent = found("<a@a.test> SMTPUTF8", "a@a.test", &to, "Subject: Gr\u{fc}\u{df}e").await;
    let Some(found) = sent else { return };
    assert!(found.contains("\nparts|text/plain|message/delivery-status|message/global-headers\n"), "{found}");
    assert!(blocks(&found)[0].1.starts_with("Final-Recipient|utf-8; gr\\x{FC}n@no.test\nAction|failed\n"));
    assert!(found.ends_with("subject|Gr\u{fc}\u{df}e\n"), "{found}");
}
