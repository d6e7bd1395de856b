//! What senders ask for with the parameters of MAIL and RCPT: who may, and what is kept of it.

use std::sync::Arc;
use std::time::Duration;

use postroad::BoxFuture;
use postroad::delivery::Engine;
use postroad::relay::Relay;
use postroad::server::{
    BodyStream, Conversation, Handler, Peer, Server, ServerOptions, SessionInfo, Transaction, Verdict,
};
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::reply::Reply;
use postroad::spool::MemorySpool;
use tokio::io::{DuplexStream, duplex};

use super::client::Client;
use super::{FRIEND, STRANGER, connect, engine, hostname, rules, send, stored};

/// Asks for what the session in front does not offer.
struct Asking {
    relay: Relay,
    mail: Mail,
}

impl Handler for Asking {
    fn connect<'a>(&'a self, peer: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        Box::pin(async {
            let relay = self.relay.connect(peer).await?;
            Ok(Box::new(AskingSession { relay, mail: self.mail.clone() }) as Box<dyn Conversation>)
        })
    }
}

struct AskingSession {
    relay: Box<dyn Conversation>,
    mail: Mail,
}

impl AskingSession {
    fn ask(&self, mail: &Mail) -> Mail {
        let mut asked = self.mail.clone();
        (asked.from, asked.body) = (mail.from.clone(), mail.body);
        asked
    }
}

impl Conversation for AskingSession {
    fn sender<'a>(
        &'a mut self,
        mail: &'a Mail,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        Box::pin(async move {
            let mail = self.ask(mail);
            self.relay.sender(&mail, session).await
        })
    }

    fn recipient<'a>(
        &'a mut self,
        rcpt: &'a Rcpt,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        self.relay.recipient(rcpt, session)
    }

    fn message(&mut self, mut transaction: Transaction, body: BodyStream) -> BoxFuture<'_, Verdict> {
        transaction.mail = self.ask(&transaction.mail);
        self.relay.message(transaction, body)
    }
}

/// A client whose MAIL has these parameters when the relay sees it.
async fn asking(engine: &Engine, parameters: &str, from: &str) -> Client<DuplexStream> {
    let mail = Mail::parse(&format!("<> {parameters}")).unwrap();
    let mut rules = rules();
    rules.priority_from = vec!["203.0.113.0/24".parse().unwrap()];
    let handler = Asking { relay: Relay::new(engine.clone(), rules), mail };
    let (ours, theirs) = duplex(64 * 1024);
    let peer =
        Peer { address: format!("{from}:4000").parse().unwrap(), local: "198.51.100.25:25".parse().unwrap() };
    let server = Server::builder(handler, ServerOptions::new(hostname()));
    tokio::spawn(server.serve_io(Box::new(theirs), peer));
    let mut client = Client(ours);
    client.expect(&["220"]).await;
    client.ask("EHLO c.test", "250").await;
    client
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
        asking(&engine, parameters, from).await.ask("MAIL FROM:<a@x.test>", code).await;
    }
    let mut client = asking(&engine, "HOLDFOR=3600", FRIEND).await;
    let reply = send(&mut client, "<a@x.test>", "<b@far.test>", b"\r\nhi\r\n").await;
    let entry = stored(&*spool, &reply).await.0;
    let wait = entry.due.since(entry.accepted).as_secs_f64();
    assert!((3600.0..=3601.0).contains(&wait), "{wait}");
    assert_eq!(entry.expires.since(entry.due), Duration::from_secs(5 * 86_400), "from the release on");
}

#[tokio::test]
async fn a_strangers_word_makes_no_mail_urgent() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    for (from, given) in [(FRIEND, true), ("203.0.113.7", true), (STRANGER, false)] {
        let mut client = asking(&engine, "MT-PRIORITY=7", from).await;
        let reply = send(&mut client, "<a@x.test>", "<b@local.test>", b"\r\nhi\r\n").await;
        assert_eq!(reply.starts_with("250 2.0.0 queued as "), given, "{reply}");
        assert_eq!(reply.starts_with("250 2.3.6 queued with priority 0 as "), !given, "{reply}");
        let reply = reply.replace("2.3.6 queued with priority 0 as", "2.0.0 queued as");
        let mail = stored(&*spool, &reply).await.0.mail;
        assert_eq!(mail.priority.map(|priority| priority.get()), given.then_some(7), "{from}");
    }
}

#[tokio::test]
async fn who_wrote_a_message_is_believed_of_trusted_networks_only() {
    // RFC 4954 §5: the next host would believe us.
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    for (from, kept) in [(FRIEND, "boss@x.test"), (STRANGER, "<>")] {
        let mut client = asking(&engine, "AUTH=boss@x.test", from).await;
        let reply = send(&mut client, "<a@x.test>", "<b@local.test>", b"\r\nhi\r\n").await;
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
