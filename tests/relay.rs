//! The relay from the socket to the spool: who may send what, what is stored, and that 250 is never
//! said too early.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use postroad::BoxFuture;
use postroad::clock::Timestamp;
use postroad::delivery::{Engine, EngineOptions};
use postroad::message::{Content, MessageId};
use postroad::relay::{Relay, Rules, Users};
use postroad::route::{Resolve, Route, RouteError};
use postroad::server::{Peer, Server, ServerOptions};
use postroad::smtp::address::{Domain, EhloName};
use postroad::smtp::params::BodyKind;
use postroad::smtp::server::{AuthOffer, Protocol};
use postroad::spool::{
    ClaimRequest, Class, EntrySummary, MemoryOptions, MemorySpool, Selection, Spool, Stats,
};
use postroad::testing::{FaultySpool, Method, SpoolFault};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

#[path = "kit/client.rs"]
mod client;
#[path = "relay/parameters.rs"]
mod parameters;
#[path = "relay/senders.rs"]
mod senders;
use client::Client;

const STRANGER: &str = "198.51.100.1";
const FRIEND: &str = "192.0.2.9";

/// Nothing leaves: what was accepted stays where a test can look at it.
#[derive(Debug)]
struct Nowhere;

impl Resolve for Nowhere {
    fn route<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(std::future::pending())
    }
}

fn hostname() -> EhloName {
    EhloName::new("mx.relay.test").unwrap()
}

fn rules() -> Rules {
    let mut rules = Rules::new(hostname());
    rules.local = vec!["local.test".parse().unwrap()];
    rules.relay_from = vec!["192.0.2.0/24".parse().unwrap()];
    rules.users = Some(Arc::new(Users::new().with("ada", "s3cret")));
    rules
}

async fn engine(spool: Arc<dyn Spool>) -> Engine {
    let mut options = EngineOptions::new();
    options.lookups = 1;
    Engine::builder(spool, hostname()).direct(Nowhere).options(options).start().await.unwrap()
}

async fn connect(engine: &Engine, rules: Rules, from: &str) -> Client<DuplexStream> {
    connect_to(Relay::new(engine.clone(), rules), from).await
}

async fn connect_to(relay: Relay, from: &str) -> Client<DuplexStream> {
    let mut options = ServerOptions::new(hostname());
    options.session.auth = AuthOffer::Always;
    options.auth_delay = Duration::ZERO;
    let (ours, theirs) = duplex(64 * 1024);
    let peer =
        Peer { address: format!("{from}:4000").parse().unwrap(), local: "198.51.100.25:25".parse().unwrap() };
    tokio::spawn(Server::builder(relay, options).serve_io(Box::new(theirs), peer));
    let mut client = Client(ours);
    client.expect(&["220 mx.relay.test"]).await;
    client.ask("EHLO c.test", "250").await;
    client
}

async fn send(client: &mut Client<DuplexStream>, mail: &str, to: &str, content: &[u8]) -> String {
    client.ask(&format!("MAIL FROM:{mail}"), "250").await;
    client.ask(&format!("RCPT TO:{to}"), "250").await;
    client.send(format!("BDAT {} LAST\r\n", content.len())).await;
    client.send(content).await;
    client.reply().await
}

/// What is in the spool under the id of a reply: the entry and the whole message.
async fn stored(spool: &dyn Spool, reply: &str) -> (EntrySummary, String) {
    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    let id: MessageId = reply.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
    let entry = spool.scan(Selection::message(id), None, usize::MAX).await.unwrap().remove(0);
    // A lease far from over hides the entry; take it by force of time.
    let claim = ClaimRequest {
        class: Class::of(&entry.mail),
        queue: entry.queue.clone(),
        now: Timestamp::NEVER,
        limit: 100,
        lease: Timestamp::NEVER,
    };
    let claims = spool.claim(claim).await.unwrap();
    let claim = claims.into_iter().find(|claim| claim.token.message == id).unwrap();
    let mut all = claim.head.to_vec();
    match spool.body(&claim.body).await.unwrap() {
        Content::Whole(octets) => all.extend_from_slice(&octets),
        Content::Stream { mut reader, .. } => {
            while let Some(chunk) = reader.chunk().await.unwrap() {
                all.extend_from_slice(&chunk);
            }
        }
    }
    (entry, String::from_utf8(all).unwrap())
}

#[tokio::test]
async fn a_message_taken_by_lmtp_says_so() {
    // RFC 3848
    let spool = Arc::new(MemorySpool::new());
    let mut options = ServerOptions::new(hostname());
    options.session.protocol = Protocol::Lmtp;
    let (ours, theirs) = duplex(64 * 1024);
    let peer = Peer { address: "192.0.2.9:1".parse().unwrap(), local: "192.0.2.1:24".parse().unwrap() };
    let relay = Relay::new(engine(Arc::<MemorySpool>::clone(&spool)).await, rules());
    tokio::spawn(Server::builder(relay, options).serve_io(Box::new(theirs), peer));
    let mut client = Client(ours);
    client.expect(&["220 mx.relay.test LMTP"]).await;
    client.ask("LHLO c.test", "250").await;
    let reply = send(&mut client, "<a@b.test>", "<b@local.test>", b"Subject: x\r\n\r\nx\r\n").await;
    let (_, text) = stored(&*spool, &reply).await;
    assert!(text.contains("with LMTP id"), "{text}");
}

#[tokio::test]
async fn relaying_is_denied_to_strangers_whatever_the_address_looks_like() {
    let engine = engine(Arc::new(MemorySpool::new())).await;
    let mut client = connect(&engine, rules(), STRANGER).await;
    client.ask("MAIL FROM:<a@local.test>", "250").await;
    for path in [
        "<b@victim.test>",
        "<B@VICTIM.TEST>",
        "<b%local.test@victim.test>",
        "<local.test!b@victim.test>",
        "<\"b@local.test\"@victim.test>",
        "<\"b\\@local.test\"@victim.test>",
        "<@local.test:b@victim.test>",
        "<@local.test,@local.test:b@victim.test>",
        "<b@sub.local.test>",
        "<b@local.test.victim.test>",
        "<b@notlocal.test>",
        "<b@[192.0.2.1]>",
        "<b@[198.51.100.25]>",
        "<b@[IPv6:2001:db8::1]>",
        "<postmaster@victim.test>",
        "<b@localhost>",
    ] {
        client.ask(&format!("RCPT TO:{path}"), "550 5.7.1").await;
    }
    for malformed in [
        "<b@victim.test@local.test>",
        "<b@local.test@victim.test>",
        "<b@local.test.>",
        "<b@local.test,c@victim.test>",
        "<b@local.test> <c@victim.test>",
        "<b>",
        "<>",
        "<|cat@local.test",
        "<@local.test>",
    ] {
        client.ask(&format!("RCPT TO:{malformed}"), "5").await;
    }
    client.ask("DATA", "554").await;
}

#[tokio::test]
async fn local_mail_is_taken_from_anyone_and_stamped() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    let mut client = connect(&engine, rules(), STRANGER).await;
    let content = b"Subject: x\r\n\r\nhello";
    let reply = send(&mut client, "<a@x.test> BODY=8BITMIME", "<b@LOCAL.test>", content).await;
    let (entry, message) = stored(&*spool, &reply).await;
    assert_eq!(entry.mail.body, BodyKind::SevenBit, "declared, yet not so");
    assert_eq!(entry.destination.as_str(), "local.test");
    let (head, body) = message.split_once("Subject: x").unwrap();
    assert!(head.starts_with("Received: from c.test ([198.51.100.1])"), "{head}");
    for part in ["by mx.relay.test", "with ESMTP", "for <b@local.test>"] {
        let flat = head.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.to_ascii_lowercase().contains(&part.to_ascii_lowercase()), "{part}: {flat}");
    }
    assert_eq!(body, "\r\n\r\nhello\r\n", "the missing line end is added");
    let eight = "Subject: x\r\n\r\ngr\u{fc}n\r\n".as_bytes();
    let reply = send(&mut client, "<>", "<b@local.test>", eight).await;
    assert_eq!(stored(&*spool, &reply).await.0.mail.body, BodyKind::EightBit, "not declared, yet so");
}

#[tokio::test]
async fn friends_and_users_may_send_everywhere() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    let mut friend = connect(&engine, rules(), FRIEND).await;
    let reply = send(&mut friend, "<a@x.test>", "<b@far.test>", b"\r\nhi\r\n").await;
    assert_eq!(stored(&*spool, &reply).await.0.destination.as_str(), "far.test");
    let mut user = connect(&engine, rules(), STRANGER).await;
    // ada, wrong
    user.ask("AUTH PLAIN AGFkYQB3cm9uZw==", "535 5.7.8").await;
    user.ask("MAIL FROM:<a@x.test>", "250").await;
    user.ask("RCPT TO:<b@far.test>", "550 5.7.1").await;
    user.ask("RSET", "250").await;
    // ada, s3cret
    user.ask("AUTH PLAIN AGFkYQBzM2NyZXQ=", "235").await;
    let reply = send(&mut user, "<a@x.test>", "<b@far.test>", b"\r\nhi\r\n").await;
    let message = stored(&*spool, &reply).await.1;
    assert!(message.contains("ESMTPA"), "{message}");
}

#[tokio::test]
async fn rules_are_reloaded_for_the_sessions_that_begin_afterwards() {
    let engine = engine(Arc::new(MemorySpool::new())).await;
    let relay = Relay::new(engine, rules());
    let mut before = connect_to(relay.clone(), STRANGER).await;
    before.ask("MAIL FROM:<a@x.test>", "250").await;
    let mut other = rules();
    other.local = vec!["other.test".parse().unwrap()];
    relay.reload(other);
    let mut after = connect_to(relay, STRANGER).await;
    after.ask("MAIL FROM:<a@x.test>", "250").await;
    before.ask("RCPT TO:<b@local.test>", "250").await;
    after.ask("RCPT TO:<b@local.test>", "550 5.7.1").await;
    after.ask("RCPT TO:<b@other.test>", "250").await;
}

#[tokio::test]
async fn a_bare_postmaster_gets_mail_where_there_is_one() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    let mut client = connect(&engine, rules(), STRANGER).await;
    let reply = send(&mut client, "<>", "<PostMaster>", b"\r\nhelp\r\n").await;
    let entry = stored(&*spool, &reply).await.0;
    assert_eq!(entry.recipients[0].rcpt.to.to_string(), "<postmaster@local.test>");
    let mut nobody = connect(&engine, Rules::new(hostname()), STRANGER).await;
    nobody.ask("MAIL FROM:<>", "250").await;
    nobody.ask("RCPT TO:<postmaster>", "550 5.7.1").await;
}

#[tokio::test]
async fn a_large_message_is_staged_and_comes_out_whole() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    let mut client = connect(&engine, rules(), FRIEND).await;
    let content = ["Subject: x\r\n\r\n", &format!("{}\r\n", "y".repeat(998)).repeat(3000), "end"].concat();
    let reply = send(&mut client, "<a@x.test>", "<b@far.test>", content.as_bytes()).await;
    let message = stored(&*spool, &reply).await.1;
    assert!(message.ends_with(&format!("{content}\r\n")), "{} octets", message.len());
}

#[tokio::test]
async fn what_all_sessions_hold_in_memory_is_bounded_and_given_back() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    let with = |octets| {
        let mut rules = rules();
        rules.max_in_memory = octets;
        rules
    };
    // More than one read brings, so that the header must be held.
    let long = format!("{}\r\nhi\r\n", format!("X: {}\r\n", "y".repeat(96)).repeat(900));
    let mut client = connect(&engine, with(0), FRIEND).await;
    for (content, code) in [("Subject: x\r\n\r\nhi\r\n", "250"), (&long, "452 4.3.1"), ("\r\nhi\r\n", "250")]
    {
        let reply = send(&mut client, "<a@x.test>", "<b@far.test>", content.as_bytes()).await;
        assert!(reply.starts_with(code), "{code}: {reply}");
        if code == "250" {
            assert!(stored(&*spool, &reply).await.1.ends_with(content));
        }
    }
    let mut client = connect(&engine, with(long.len()), FRIEND).await;
    for _ in 0..3 {
        let reply = send(&mut client, "<a@x.test>", "<b@far.test>", long.as_bytes()).await;
        assert!(stored(&*spool, &reply).await.1.ends_with(&long));
    }
}

#[tokio::test]
async fn what_goes_in_circles_or_has_no_end_of_header_is_refused() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    let mut client = connect(&engine, rules(), FRIEND).await;
    let hops = |n| format!("{}\r\nhi\r\n", "Received: from a by b; now\r\n".repeat(n));
    let padding = format!("{}\r\n", "z".repeat(900)).repeat(2000);
    for (content, code) in [
        (hops(100), "250"),
        (hops(101), "554 5.4.6"),
        (hops(101) + &padding, "554 5.4.6"),
        (format!("X: {}\r\n\r\nhi\r\n", "y".repeat(300_000)), "552 5.3.4"),
        (format!("X: {}\r\n\r\nhi\r\n", "y".repeat(3_000_000)), "552 5.3.4"),
        (format!("{}\r\nhi\r\n", "X: y\r\n".repeat(2001)), "552 5.3.4"),
    ] {
        let reply = send(&mut client, "<a@x.test>", "<b@far.test>", content.as_bytes()).await;
        assert!(reply.starts_with(code), "{code}: {reply}");
    }
    assert_eq!(spool.stats().messages, 1);
}

#[tokio::test]
async fn a_full_spool_says_try_later_and_the_session_goes_on() {
    let mut options = MemoryOptions::new();
    options.max_messages = 1;
    let engine = engine(Arc::new(MemorySpool::with(options))).await;
    let mut client = connect(&engine, rules(), FRIEND).await;
    for code in ["250", "452 4.3.1", "452 4.3.1"] {
        let reply = send(&mut client, "<a@x.test>", "<b@far.test>", b"\r\nhi\r\n").await;
        assert!(reply.starts_with(code), "{code}: {reply}");
    }
}

#[tokio::test]
async fn a_broken_off_message_leaves_nothing() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    for size in [100, 3_000_000] {
        let mut client = connect(&engine, rules(), FRIEND).await;
        client.send(format!("MAIL FROM:<>\r\nRCPT TO:<b@far.test>\r\nBDAT {} LAST\r\n", size + 1)).await;
        client.expect(&["250", "250"]).await;
        client.send([b"\r\n".to_vec(), vec![b'x'; size - 2]].concat()).await;
        client.0.shutdown().await.unwrap();
        client.rest().await;
    }
    assert_eq!(spool.stats(), Stats::default());
}

#[tokio::test]
async fn two_hundred_and_fifty_waits_for_the_spool() {
    let slow = FaultySpool::new();
    slow.script(|call| if call.method == Method::Enqueue { SpoolFault::Wait } else { SpoolFault::None });
    let engine = engine(Arc::new(slow.clone())).await;
    let mut client = connect(&engine, rules(), FRIEND).await;
    client.send("MAIL FROM:<>\r\nRCPT TO:<b@far.test>\r\nDATA\r\n\r\nhi\r\n.\r\nNOOP\r\n").await;
    client.expect(&["250", "250", "354"]).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let early = tokio::time::timeout(Duration::from_millis(50), client.reply()).await;
    assert!(early.is_err(), "{early:?}");
    slow.clear();
    let reply = client.reply().await;
    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    client.expect(&["250"]).await;
}
