//! What senders ask for with the parameters of MAIL and RCPT: who may, and what is kept of it.

use std::sync::Arc;
use std::time::Duration;

use postroad::delivery::{Engine, EngineOptions};
use postroad::relay::Relay;
use postroad::server::{Peer, Server, ServerOptions};
use postroad::smtp::server::AuthOffer;
use postroad::spool::MemorySpool;
use tokio::io::{DuplexStream, duplex};

use super::client::Client;
use super::{FRIEND, Nowhere, STRANGER, connect, engine, hostname, rules, send, stored};

/// A client of a server that offers what the relay obeys.
async fn asking(engine: &Engine, from: &str) -> Client<DuplexStream> {
    asking_where(engine, from, AuthOffer::Never, 587).await
}

async fn asking_where(engine: &Engine, from: &str, auth: AuthOffer, port: u16) -> Client<DuplexStream> {
    let mut rules = rules();
    rules.priority_from = vec!["203.0.113.0/24".parse().unwrap()];
    let relay = Relay::new(engine.clone(), rules);
    let mut options = ServerOptions::new(hostname());
    relay.offer(&mut options.session);
    options.session.auth = auth;
    let (ours, theirs) = duplex(64 * 1024);
    let peer = Peer {
        address: format!("{from}:4000").parse().unwrap(),
        local: format!("198.51.100.25:{port}").parse().unwrap(),
    };
    tokio::spawn(Server::builder(relay, options).serve_io(Box::new(theirs), peer));
    let mut client = Client(ours);
    client.expect(&["220"]).await;
    client
}

#[tokio::test]
async fn what_the_relay_obeys_is_offered() {
    let mut client = asking(&engine(Arc::new(MemorySpool::new())).await, FRIEND).await;
    let offer = client.ask("EHLO c.test", "250").await;
    for line in ["DELIVERBY\r\n", "FUTURERELEASE 2592000 ", "MT-PRIORITY\r\n"] {
        assert!(offer.contains(line), "{line} in {offer}");
    }
    assert!(!offer.contains("REQUIRETLS"), "in the clear it would promise nothing");
    let engine = engine(Arc::new(MemorySpool::new())).await;
    let offer = asking_where(&engine, FRIEND, AuthOffer::Never, 25).await.ask("EHLO c.test", "250").await;
    assert!(offer.contains("DELIVERBY") && !offer.contains("FUTURERELEASE"), "between servers: {offer}");
    for (days, offered) in [(0, None), (1, Some(86_400)), (1_000_000, Some(999_999_999))] {
        let mut options = EngineOptions::new();
        options.max_hold = Duration::from_secs(days * 86_400);
        let spool = Arc::new(MemorySpool::new());
        let engine = Engine::builder(spool, hostname()).direct(Nowhere).options(options).start();
        let mut session = ServerOptions::new(hostname()).session;
        Relay::new(engine.await.unwrap(), rules()).offer(&mut session);
        assert_eq!((session.future_release, session.offer_require_tls), (offered, true));
    }
}

#[tokio::test]
async fn only_submitters_have_mail_held_and_nobody_for_too_long() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    for (parameters, from, code) in [
        ("HOLDFOR=3600", FRIEND, "250"),
        ("HOLDFOR=3600", STRANGER, "550 5.7.1"),
        ("HOLDFOR=2592002", FRIEND, "501 5.5.4"),
        ("HOLDFOR=600 BY=600;R", FRIEND, "501 5.5.4"),
        ("HOLDUNTIL=1970-01-01T00:00:00Z", FRIEND, "250"),
    ] {
        let mut client = asking(&engine, from).await;
        client.ask("EHLO c.test", "250").await;
        client.ask(&format!("MAIL FROM:<a@x.test> {parameters}"), code).await;
    }
    let mut client = asking(&engine, FRIEND).await;
    client.ask("EHLO c.test", "250").await;
    let reply = send(&mut client, "<a@x.test> HOLDFOR=3600", "<b@far.test>", b"\r\nhi\r\n").await;
    let entry = stored(&*spool, &reply).await.0;
    let wait = entry.due.since(entry.accepted).as_secs_f64();
    assert!((3600.0..=3601.0).contains(&wait), "{wait}");
    assert_eq!(entry.expires.since(entry.due), Duration::from_secs(5 * 86_400), "from the release on");
}

#[tokio::test]
async fn a_strangers_word_makes_no_mail_urgent() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    for (from, asked, said, given) in [
        (FRIEND, 7, "250 2.1.0", 7),
        ("203.0.113.7", 7, "250 2.1.0", 7),
        (STRANGER, 7, "250 2.3.6", 0),
        (STRANGER, -4, "250 2.1.0", -4),
    ] {
        let mut client = asking(&engine, from).await;
        client.ask("EHLO c.test", "250").await;
        client.ask(&format!("MAIL FROM:<a@x.test> MT-PRIORITY={asked}"), said).await;
        client.ask("RSET", "250").await;
        let mail = format!("<a@x.test> MT-PRIORITY={asked}");
        let reply = send(&mut client, &mail, "<b@local.test>", b"\r\nhi\r\n").await;
        let mail = stored(&*spool, &reply).await.0.mail;
        assert_eq!(mail.priority.map(|priority| priority.get()), Some(given), "{from}");
    }
}

#[tokio::test]
async fn who_wrote_a_message_is_believed_of_trusted_networks_only() {
    // RFC 4954 §5: the next host would believe us.
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    for (from, kept) in [(FRIEND, "boss@x.test"), (STRANGER, "<>")] {
        let mut client = asking_where(&engine, from, AuthOffer::Always, 587).await;
        client.ask("EHLO c.test", "250").await;
        let reply = send(&mut client, "<a@x.test> AUTH=boss@x.test", "<b@local.test>", b"\r\nhi\r\n").await;
        let mail = stored(&*spool, &reply).await.0.mail;
        assert_eq!(mail.auth.as_ref().map(|auth| auth.as_str()), Some(kept), "{from}");
    }
}

#[tokio::test]
async fn utf8_is_asked_of_the_next_host_only_where_it_is_needed() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    let mut client = connect(&engine, rules(), FRIEND).await;
    for (to, content, needed) in [
        ("<b@far.test>", "Subject: x\r\n\r\nhi\r\n", false),
        ("<b@far.test>", "Subject: x\r\n\r\ngr\u{fc}n\r\n", false),
        ("<b@f\u{e4}r.test>", "Subject: x\r\n\r\nhi\r\n", false),
        ("<\u{e4}@far.test>", "Subject: x\r\n\r\nhi\r\n", true),
        ("<b@far.test>", "Subject: gr\u{fc}n\r\n\r\nhi\r\n", true),
    ] {
        client.ask("MAIL FROM:<a@x.test> SMTPUTF8 BODY=8BITMIME", "250").await;
        client.ask(&format!("RCPT TO:{to}"), "250").await;
        client.send(format!("BDAT {} LAST\r\n{content}", content.len())).await;
        let (entry, message) = stored(&*spool, &client.reply().await).await;
        assert_eq!(entry.mail.smtputf8, needed, "{to} {content}");
        assert!(message.contains("UTF8SMTP"), "what was spoken: {message}");
    }
}

#[tokio::test]
async fn the_parameters_of_reports_are_kept_and_a_postmaster_keeps_its_name() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    let mut client = connect(&engine, rules(), STRANGER).await;
    for (to, kept) in [
        (
            "<b@local.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bc@x.test",
            "<b@local.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bc@x.test",
        ),
        ("<b@local.test>", "<b@local.test>"),
        ("<postmaster>", "<postmaster@local.test> ORCPT=rfc822;postmaster@mx.relay.test"),
        ("<postmaster> ORCPT=rfc822;p@x.test", "<postmaster@local.test> ORCPT=rfc822;p@x.test"),
    ] {
        let reply = send(&mut client, "<a@x.test> RET=HDRS ENVID=q+2B7", to, b"\r\nhi\r\n").await;
        let entry = stored(&*spool, &reply).await.0;
        assert_eq!(entry.recipients[0].rcpt.to_string(), kept);
        assert_eq!(entry.mail.to_string(), "<a@x.test> RET=HDRS ENVID=q+2B7");
    }
}

/// RFC 8689 §3
#[tokio::test]
async fn a_message_that_says_so_in_one_field_is_stored_as_one_for_which_tls_is_optional() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(Arc::clone(&spool) as _).await;
    for (header, optional) in [
        ("TLS-Required: No\r\n", true),
        ("From: a@b.test\r\ntls-required: (really)\r\n no\r\n", true),
        ("", false),
        ("TLS-Required: Yes\r\n", false),
        ("TLS-Required: No\r\nTLS-Required: No\r\n", false),
    ] {
        let mut client = connect(&engine, rules(), FRIEND).await;
        for size in [10, 2 * 1024 * 1024] {
            // A large one is staged, and its header looked at before that.
            let content = format!("{header}\r\nTLS-Required: No\r\n{}", "text\r\n".repeat(size / 6));
            let reply = send(&mut client, "<s@c.test>", "<a@local.test>", content.as_bytes()).await;
            let (entry, _) = stored(&*spool, &reply).await;
            assert_eq!(entry.handling.tls_optional, optional, "{header:?} {size}");
        }
    }
}
