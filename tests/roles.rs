//! What a server can be beside a plain SMTP host: an LMTP one, one behind a proxy, one that answers
//! VRFY, one that takes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad::BoxFuture;
use postroad::clock::{Clock, SystemClock};
use postroad::server::{
    BodyStream, Conversation, Handler, Peer, Server, ServerOptions, SessionInfo, StartError, Transaction,
    Verdict, domain_takes_no_mail, takes_no_mail,
};
use postroad::smtp::address::EhloName;
use postroad::smtp::command::Lookup;
use postroad::smtp::params::Rcpt;
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::server::{AuthOffer, Protocol};
use tokio::io::{DuplexStream, duplex};
use tokio::net::TcpStream;

#[path = "kit/client.rs"]
mod client;
use client::Client;

/// Takes everything, and notes what it was told about whom.
#[derive(Clone, Default)]
struct Host(Arc<Mutex<Vec<String>>>);

impl Host {
    fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn notes(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// One session, which knows whom it was made for.
struct Guest(Host, Peer);

impl Handler for Host {
    fn connect<'a>(&'a self, peer: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        self.note(format!("connect {} {}", peer.address, peer.local));
        let refused = match peer.address.ip().to_string().as_str() {
            "203.0.113.66" => Some(takes_no_mail()),
            "203.0.113.67" => Some(Reply::new(421, EnhancedCode::new(4, 7, 0), "later")),
            _ => None,
        };
        let guest = Guest(self.clone(), *peer);
        Box::pin(async move { refused.map_or_else(|| Ok(Box::new(guest) as Box<dyn Conversation>), Err) })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.note(format!("gone {}", self.1.address));
    }
}

impl Conversation for Guest {
    fn recipient<'a>(
        &'a mut self,
        rcpt: &'a Rcpt,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        let SessionInfo { peer, hello, user, protocol, .. } = session;
        assert_eq!(*peer, self.1, "the conversation is another one's");
        self.0.note(format!("rcpt {} {:?} {hello:?} {user:?} {protocol:?}", rcpt.to, peer.address));
        let null = rcpt.to.to_string().ends_with("@null.test>");
        Box::pin(async move { if null { Err(domain_takes_no_mail()) } else { Ok(()) } })
    }

    fn verify<'a>(&'a mut self, lookup: &'a Lookup, _: &'a SessionInfo) -> BoxFuture<'a, Reply> {
        Box::pin(
            async move { Reply::new(250, EnhancedCode::new(2, 1, 5), &format!("<{}@b.test>", lookup.text)) },
        )
    }

    fn message(&mut self, transaction: Transaction, mut body: BodyStream) -> BoxFuture<'_, Verdict> {
        Box::pin(async move {
            let text = body.collect(1000).await.map(|octets| octets.to_vec()).unwrap_or_default();
            self.0.note(format!("message, priority {:?}", transaction.mail.priority.map(|p| p.get())));
            let mut replies: Vec<Reply> = (0..transaction.recipients.len())
                .map(|nth| match nth {
                    0 => Reply::new(250, EnhancedCode::new(2, 1, 5), "delivered"),
                    _ => Reply::new(452, EnhancedCode::new(4, 2, 2), "mailbox full"),
                })
                .collect();
            if text.starts_with(b"lose one") {
                replies.pop();
            }
            Verdict::Each(replies)
        })
    }
}

fn options() -> ServerOptions {
    ServerOptions::new(EhloName::new("mx.test").unwrap())
}

fn peer(ip: &str) -> Peer {
    Peer { address: format!("{ip}:4000").parse().unwrap(), local: "198.51.100.1:25".parse().unwrap() }
}

fn session(host: &Host, options: ServerOptions, from: &str) -> Client<DuplexStream> {
    let (ours, theirs) = duplex(16 * 1024);
    tokio::spawn(Server::builder(host.clone(), options).serve_io(Box::new(theirs), peer(from)));
    Client(ours)
}

async fn two_recipients(client: &mut Client<TcpStream>, text: &str) {
    client
        .send(format!("MAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\nRCPT TO:<c@b.test>\r\nDATA\r\n{text}\r\n.\r\n"))
        .await;
    client.expect(&["250", "250", "250", "354"]).await;
}

#[tokio::test]
async fn one_server_speaks_smtp_here_and_lmtp_there() {
    let host = Host::default();
    let server = Server::builder(host.clone(), options())
        .listen("127.0.0.1:0")
        .listen_lmtp("127.0.0.1:0")
        .start()
        .await
        .unwrap();
    let mut smtp = Client(TcpStream::connect(server.addresses()[0]).await.unwrap());
    smtp.expect(&["220 mx.test ESMTP"]).await;
    smtp.ask("LHLO c.test", "500").await;
    smtp.ask("EHLO c.test", "250").await;
    two_recipients(&mut smtp, "hello").await;
    // RFC 5321 has one reply: another try would deliver to the first one again.
    smtp.expect(&["250 2.1.5 delivered"]).await;
    smtp.ask("QUIT", "221").await;

    let mut lmtp = Client(TcpStream::connect(server.addresses()[1]).await.unwrap());
    lmtp.expect(&["220 mx.test LMTP"]).await;
    lmtp.ask("EHLO c.test", "500").await;
    lmtp.ask("LHLO c.test", "250").await;
    // RFC 2033 §4.2
    two_recipients(&mut lmtp, "hello").await;
    lmtp.expect(&["250 2.1.5 delivered", "452 4.2.2 mailbox full"]).await;
    two_recipients(&mut lmtp, "lose one").await;
    lmtp.expect(&["451 4.3.0", "451 4.3.0"]).await;
    lmtp.ask("QUIT", "221").await;
    assert_eq!(host.notes().iter().filter(|note| note.ends_with(" Smtp")).count(), 2);
    assert_eq!(host.notes().iter().filter(|note| note.ends_with(" Lmtp")).count(), 4);
}

#[tokio::test]
async fn lmtp_is_not_spoken_on_port_25() {
    // RFC 2033 §5
    let listen = Server::builder(Host::default(), options()).listen_lmtp("127.0.0.1:25").start().await;
    assert!(matches!(listen, Err(StartError::LmtpOnPort25)), "{listen:?}");
    let mut lmtp = options();
    lmtp.session.protocol = Protocol::Lmtp;
    let listen = Server::builder(Host::default(), lmtp).listen("127.0.0.1:25").start().await;
    assert!(matches!(listen, Err(StartError::LmtpOnPort25)), "{listen:?}");
}

#[tokio::test]
async fn a_trusted_proxy_says_who_its_client_is() {
    let host = Host::default();
    let mut options = options();
    options.xclient_from = vec!["10.0.0.0/8".parse().unwrap()];
    let mut client = session(&host, options.clone(), "10.0.0.1");
    client.expect(&["220 mx.test"]).await;
    let offer = client.ask("EHLO proxy", "250").await;
    assert!(offer.contains("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"), "{offer}");
    let told = "XCLIENT ADDR=IPV6:2001:db8::7 PORT=99 HELO=c.test PROTO=ESMTP LOGIN=ada DESTADDR=192.0.2.25";
    client.ask(told, "220 mx.test ESMTP").await;
    client.ask("MAIL FROM:<>", "503").await;
    client.ask("EHLO said.test", "250").await;
    client.ask("MAIL FROM:<>", "250").await;
    client.ask("RCPT TO:<a@b.test>", "250").await;
    client.ask("QUIT", "221").await;
    assert_eq!(client.reply().await, "(closed)");
    assert_eq!(
        host.notes(),
        [
            "connect 10.0.0.1:4000 198.51.100.1:25",
            "connect [2001:db8::7]:99 192.0.2.25:0",
            "gone 10.0.0.1:4000",
            "rcpt <a@b.test> [2001:db8::7]:99 Some(\"said.test\") Some(\"ada\") Smtp",
            "gone [2001:db8::7]:99",
        ]
    );

    let mut stranger = session(&host, options, "192.0.2.1");
    stranger.expect(&["220"]).await;
    assert!(!stranger.ask("EHLO c.test", "250").await.contains("XCLIENT"));
    stranger.ask("XCLIENT ADDR=10.0.0.1", "550 5.7.0").await;
}

#[tokio::test]
async fn a_client_behind_a_proxy_is_refused_for_itself() {
    let mut options = options();
    options.xclient_from = vec!["10.0.0.1".parse().unwrap()];
    let mut client = session(&Host::default(), options.clone(), "10.0.0.1");
    client.expect(&["220"]).await;
    client.ask("XCLIENT ADDR=203.0.113.66", "521 5.3.2").await;
    client.ask("EHLO c.test", "503 5.5.1").await;
    client.ask("QUIT", "221").await;
    assert_eq!(client.reply().await, "(closed)");
    let mut client = session(&Host::default(), options, "10.0.0.1");
    client.expect(&["220"]).await;
    client.ask("XCLIENT ADDR=203.0.113.67", "421 4.7.0").await;
    assert_eq!(client.reply().await, "(closed)");
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_has_ten_seconds_to_take_its_leave() {
    // RFC 5321 §3.1, RFC 7504 §3
    let mut client = session(&Host::default(), options(), "203.0.113.66");
    client.expect(&["521 5.3.2"]).await;
    let before = SystemClock.mono();
    client.ask("EHLO c.test", "503 5.5.1").await;
    client.ask("MAIL FROM:<>", "503 5.5.1").await;
    assert_eq!(client.rest().await, "421 4.4.2 Timed out, closing connection\r\n");
    let waited = SystemClock.mono() - before;
    assert!(waited >= Duration::from_secs(9) && waited <= Duration::from_secs(10), "{waited:?}");

    let mut client = session(&Host::default(), options(), "203.0.113.67");
    client.expect(&["421 4.7.0"]).await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_recipient_whose_domain_takes_no_mail_is_refused_as_the_rfc_has_it() {
    // RFC 7505 §4.1
    let mut client = session(&Host::default(), options(), "192.0.2.1");
    client.expect(&["220"]).await;
    client.send("EHLO c.test\r\nMAIL FROM:<>\r\nRCPT TO:<a@null.test>\r\n").await;
    client.expect(&["250", "250", "556 5.1.10"]).await;
}

#[tokio::test]
async fn the_handler_is_asked_to_verify_where_it_wants_to() {
    let mut options = options();
    let mut silent = session(&Host::default(), options.clone(), "192.0.2.1");
    silent.expect(&["220"]).await;
    silent.ask("VRFY ada", "252 2.0.0").await;
    (options.session.vrfy, options.session.expn) = (true, true);
    let mut client = session(&Host::default(), options, "192.0.2.1");
    client.expect(&["220"]).await;
    client.ask("VRFY ada", "250 2.1.5 <ada@b.test>").await;
    client.ask("EXPN list", "502 5.5.1").await;
}

#[tokio::test]
async fn a_stranger_is_no_more_urgent_than_others() {
    // RFC 6710 §4.1
    let host = Host::default();
    let mut options = options();
    (options.session.priority, options.session.auth) = (true, AuthOffer::Always);
    let mut client = session(&host, options, "192.0.2.1");
    client.expect(&["220"]).await;
    client.ask("EHLO c.test", "250").await;
    for (wanted, said) in [(5, "250 2.3.6 0 is the new priority"), (0, "250 2.1.0"), (-5, "250 2.1.0")] {
        client.ask(&format!("MAIL FROM:<> MT-PRIORITY={wanted}"), said).await;
        client.send("RCPT TO:<a@b.test>\r\nBDAT 0 LAST\r\n").await;
        client.expect(&["250", "250"]).await;
    }
    let priorities: Vec<String> =
        host.notes().into_iter().filter(|note| note.starts_with("message")).collect();
    assert_eq!(priorities, [0, 0, -5].map(|p| format!("message, priority Some({p})")));
}
