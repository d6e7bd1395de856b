//! The server over real sockets and over pipes in memory: what clients of every kind are told, and
//! that none of them gets more than its share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and measures time"
)]

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use postroad::BoxFuture;
use postroad::clock::SystemClock;
use postroad::hop::Host;
use postroad::net::tls::{ClientTls, ServerTls, TlsClass, TlsOptions};
use postroad::server::{
    BodyError, BodyStream, Builder, Conversation, Handler, Peer, Server, ServerOptions, SessionInfo,
    StartError, Transaction, Verdict,
};
use postroad::smtp::address::EhloName;
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::sasl::{Login, Mechanism};
use postroad::smtp::server::AuthOffer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, duplex};
use tokio::net::TcpStream;
use tokio::sync::Notify;

#[path = "kit/client.rs"]
mod client;
#[path = "server/ends.rs"]
mod ends;
#[path = "server/secure.rs"]
mod secure;
#[path = "server/slow.rs"]
mod slow;
use client::Client;

const MIB: usize = 1024 * 1024;

/// What a handler was told, and how it behaves.
#[derive(Default)]
struct Book {
    log: Mutex<Vec<String>>,
    bodies: Mutex<Vec<Result<Vec<u8>, BodyError>>>,
    /// `message` says that it has begun, then waits for leave.
    hold: Option<(Notify, Notify)>,
    /// `message` answers without a look at the content.
    careless: bool,
}

impl Book {
    fn holding() -> Arc<Self> {
        Arc::new(Self { hold: Some(Default::default()), ..Self::default() })
    }

    fn note(&self, line: impl Into<String>) {
        self.log.lock().unwrap().push(line.into());
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn bodies(&self) -> Vec<Result<Vec<u8>, BodyError>> {
        self.bodies.lock().unwrap().clone()
    }
}

struct Taker(Arc<Book>);
struct Session(Arc<Book>);

impl Handler for Taker {
    fn connect<'a>(&'a self, peer: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        let unwanted = peer.address.ip().to_string() == "203.0.113.66";
        let session = Session(Arc::clone(&self.0));
        Box::pin(async move {
            if unwanted {
                return Err(Reply::new(554, EnhancedCode::new(5, 7, 1), "not you"));
            }
            Ok(Box::new(session) as Box<dyn Conversation>)
        })
    }
}

impl Conversation for Session {
    fn authenticate<'a>(
        &'a mut self,
        login: &'a Login,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        self.0.note(format!("auth {} tls={}", login.user(), session.tls.is_some()));
        let right = login.user() == "ada" && login.password() == Some("s3cret");
        Box::pin(async move {
            if right { Ok(()) } else { Err(Reply::new(535, EnhancedCode::new(5, 7, 8), "no")) }
        })
    }

    fn sender<'a>(
        &'a mut self,
        mail: &'a Mail,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        self.0.note(format!("mail {} user={:?}", mail.from, session.user));
        let from = mail.from.to_string();
        Box::pin(async move {
            match from.as_str() {
                "<panic@x.test>" => panic!("as the sender wished"),
                "<slow@x.test>" => tokio::task::yield_now().await,
                "<odd@x.test>" => return Err(Reply::plain(250, "a refusal that says yes")),
                _ => {}
            }
            Ok(())
        })
    }

    fn recipient<'a>(&'a mut self, rcpt: &'a Rcpt, _: &'a SessionInfo) -> BoxFuture<'a, Result<(), Reply>> {
        self.0.note(format!("rcpt {}", rcpt.to));
        let refused = rcpt.to.to_string().starts_with("<no");
        Box::pin(async move {
            if refused { Err(Reply::new(550, EnhancedCode::new(5, 1, 1), "no such user")) } else { Ok(()) }
        })
    }

    fn message(&mut self, transaction: Transaction, mut body: BodyStream) -> BoxFuture<'_, Verdict> {
        self.0.note(format!("message for {}", transaction.recipients.len()));
        Box::pin(async move {
            if self.0.careless {
                return Reply::new(550, EnhancedCode::new(5, 7, 1), "not this").into();
            }
            if let Some((begun, leave)) = &self.0.hold {
                begun.notify_one();
                leave.notified().await;
            }
            let octets = body.collect(32 * MIB).await.map(|octets| octets.to_vec());
            let reply = match &octets {
                Ok(_) => Reply::new(250, EnhancedCode::new(2, 0, 0), "taken"),
                Err(_) => Reply::new(554, EnhancedCode::new(5, 6, 0), "not taken"),
            };
            self.0.bodies.lock().unwrap().push(octets);
            reply.into()
        })
    }

    fn reset(&mut self) {
        self.0.note("reset");
    }
}

fn options() -> ServerOptions {
    let mut options = ServerOptions::new(EhloName::new("mx.test").unwrap());
    options.auth_delay = Duration::ZERO;
    options.tarpit = Duration::ZERO;
    options
}

fn server(book: &Arc<Book>, options: ServerOptions) -> Builder {
    Server::builder(Taker(Arc::clone(book)), options)
}

fn peer(ip: &str) -> Peer {
    Peer { address: format!("{ip}:4000").parse().unwrap(), local: "198.51.100.1:25".parse().unwrap() }
}

/// A session on a pipe; the client's greeting is read.
async fn session(book: &Arc<Book>, options: ServerOptions) -> Client<tokio::io::DuplexStream> {
    let (ours, theirs) = duplex(16 * 1024);
    tokio::spawn(server(book, options).serve_io(Box::new(theirs), peer("192.0.2.1")));
    let mut client = Client(ours);
    client.expect(&["220 mx.test"]).await;
    client
}

fn certificate() -> ServerTls {
    let made = rcgen::generate_simple_self_signed(vec!["mx.test".to_owned()]).unwrap();
    ServerTls::from_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap()
}

async fn tls(stream: TcpStream) -> Client<impl AsyncRead + AsyncWrite + Unpin> {
    let host = Host::new("mx.test".parse().unwrap(), 25);
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    let tls = ClientTls::new(trust, Arc::new(SystemClock)).unwrap();
    Client(tls.handshake(stream, &host, TlsClass::Accepting).await.unwrap().0)
}

const FLIGHT: &str = "MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n";

#[tokio::test]
async fn a_message_comes_out_as_it_was_sent() {
    let book = Arc::default();
    let mut client = session(&book, options()).await;
    client.ask("EHLO c.test", "250-mx.test").await;
    client.send(FLIGHT).await;
    client.expect(&["250 2.1.0", "250 2.1.5", "354"]).await;
    client.send("Subject: x\r\n\r\n..dot\r\n.\r\n").await;
    client.expect(&["250 2.0.0 taken"]).await;
    client.ask("QUIT", "221").await;
    assert_eq!(client.reply().await, "(closed)");
    assert_eq!(book.bodies(), [Ok(b"Subject: x\r\n\r\n.dot\r\n".to_vec())]);
    let log = ["mail <a@x.test> user=None", "rcpt <b@y.test>", "message for 1", "reset"];
    assert_eq!(book.log(), log);
}

#[tokio::test]
async fn replies_are_the_same_wherever_the_clients_octets_are_cut() {
    let script = format!(
        "EHLO c.test\r\nNOOP\r\n{FLIGHT}a\r\n..\r\n.\r\nRSET\r\nMAIL FROM:<slow@x.test>\r\n\
         RCPT TO:<no@y.test>\r\nRCPT TO:<b@y.test>\r\nBDAT 4\r\nab\r\nBDAT 3 LAST\r\ncd\nVRFY x\r\n\
         MAIL FROM:<c@x.test>\r\nRCPT TO:<b@y.test>\r\nBDAT 4 LAST\r\nab\r\nQUIT\r\n"
    );
    let mut first = None;
    for cut in 0..script.len() {
        let book = Arc::default();
        let mut client = session(&book, options()).await;
        client.send(&script[..cut]).await;
        tokio::task::yield_now().await;
        client.send(&script[cut..]).await;
        let replies = client.rest().await;
        let (replies_0, log_0, bodies_0) =
            first.get_or_insert_with(|| (replies.clone(), book.log(), book.bodies()));
        assert_eq!(
            (&replies, &book.log(), &book.bodies()),
            (&*replies_0, &*log_0, &*bodies_0),
            "cut at {cut}"
        );
    }
    let (replies, _, bodies) = first.unwrap();
    assert!(replies.ends_with("221 2.0.0 Bye\r\n"), "{replies}");
    assert_eq!(bodies[0], Ok(b"a\r\n.\r\n".to_vec()));
    assert_eq!(bodies[1], Err(BodyError::Aborted), "a bare LF");
    assert_eq!(bodies[2], Ok(b"ab\r\n".to_vec()));
}

/// Counts what the server does with its socket.
struct Counting(tokio::io::DuplexStream, Arc<(AtomicUsize, AtomicUsize)>);

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        b: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut self.0).poll_read(cx, b);
        if read.is_ready() {
            self.1.0.fetch_add(1, SeqCst);
        }
        read
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<std::io::Result<usize>> {
        self.1.1.fetch_add(1, SeqCst);
        Pin::new(&mut self.0).poll_write(cx, b)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_pipelined_flight_costs_one_read_and_one_write() {
    let (ours, theirs) = duplex(64 * 1024);
    let counts = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let io = Counting(theirs, Arc::clone(&counts));
    tokio::spawn(server(&Arc::default(), options()).serve_io(Box::new(io), peer("192.0.2.1")));
    let mut client = Client(ours);
    client.expect(&["220"]).await;
    client.ask("EHLO c.test", "250").await;
    let before = (counts.0.load(SeqCst), counts.1.load(SeqCst));
    let body = "x".repeat(70) + "\r\n";
    let message = format!("{FLIGHT}{}.\r\n", body.repeat(142));
    client.send(message.repeat(3)).await;
    client.expect(&["250", "250", "354", "250 2.0.0"].repeat(3)).await;
    assert_eq!((counts.0.load(SeqCst) - before.0, counts.1.load(SeqCst) - before.1), (1, 1));
}

#[tokio::test]
async fn one_refused_recipient_does_not_stop_the_others() {
    let book = Arc::default();
    let mut client = session(&book, options()).await;
    client.ask("EHLO c.test", "250").await;
    client.ask("MAIL FROM:<>", "250").await;
    client.ask("RCPT TO:<no@y.test>", "550 5.1.1").await;
    client.ask("RCPT TO:<yes@y.test>", "250").await;
    client.ask("RCPT TO:<nobody@y.test>", "550").await;
    client.ask("DATA", "354").await;
    client.ask(".", "250").await;
    assert!(book.log().contains(&"message for 1".to_owned()));
}

#[tokio::test]
async fn a_broken_off_message_reaches_the_handler_as_an_error() {
    for end in ["RSET\r\n", "EHLO again\r\n", "", "GET / HTTP/1.1\r\n"] {
        let book = Arc::default();
        let mut client = session(&book, options()).await;
        client.send("EHLO c.test\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nBDAT 5\r\nhello").await;
        client.send(end).await;
        client.0.shutdown().await.unwrap();
        client.rest().await;
        assert_eq!(book.bodies(), [Err(BodyError::Aborted)], "{end}");
        assert_eq!(book.log().last().unwrap(), "reset", "{end}");
    }
}

#[tokio::test]
async fn a_half_closed_client_gets_the_replies_to_what_it_sent() {
    let book = Arc::default();
    let mut client = session(&book, options()).await;
    client.send(format!("EHLO c.test\r\n{FLIGHT}hello\r\n.\r\n")).await;
    client.0.shutdown().await.unwrap();
    let replies = client.rest().await;
    assert!(replies.contains("\r\n250 2.0.0 taken\r\n"), "{replies}");
}

#[tokio::test(start_paused = true)]
async fn a_client_is_not_late_by_the_time_that_its_handler_did_not_read() {
    let book = Book::holding();
    let mut client = session(&book, options()).await;
    client.send(format!("EHLO c.test\r\n{FLIGHT}")).await;
    client.expect(&["250", "250", "250", "354"]).await;
    let line = [&[b'x'; 998][..], b"\r\n"].concat();
    while tokio::time::timeout(Duration::from_secs(2), client.send(&line)).await.is_ok() {}
    // Far beyond what the least rate allows for that much.
    tokio::time::sleep(Duration::from_secs(1800)).await;
    book.hold.as_ref().unwrap().1.notify_one();
    tokio::time::sleep(Duration::from_secs(60)).await;
    client.send("\r\n.\r\n").await;
    client.expect(&["250"]).await;
}

/// Brings one flight, then takes nothing: the peer has reset the connection.
struct Reset(&'static [u8], bool);

impl AsyncRead for Reset {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        b: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        // The greeting is taken first: this client is polite until it is gone.
        if !self.1 {
            return Poll::Pending;
        }
        Pin::new(&mut self.0).poll_read(cx, b)
    }
}

impl AsyncWrite for Reset {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<std::io::Result<usize>> {
        if std::mem::replace(&mut self.1, true) {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(b.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_client_that_is_gone_with_its_replies_untaken_ends_the_session() {
    // More replies than the session holds: it leaves the rest of the flight unread.
    let flight = format!("EHLO c.test\r\n{FLIGHT}").replace("DATA\r\n", &"BDAT 0\r\n".repeat(7000));
    let flight: &'static [u8] = Box::leak(flight.into_boxed_str()).as_bytes();
    // A session that spins would not let go of its thread.
    let (over, is_over) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let book = Arc::default();
        let session = server(&book, options()).serve_io(Box::new(Reset(flight, false)), peer("192.0.2.1"));
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(session);
        over.send(book.bodies()).unwrap();
    });
    let bodies = is_over.recv_timeout(Duration::from_secs(20)).expect("the session ends");
    assert_eq!(bodies, [Err(BodyError::Aborted)]);
}

#[tokio::test]
async fn a_handler_that_refuses_early_does_not_lose_the_dialogue() {
    let book = Arc::new(Book { careless: true, ..Book::default() });
    let mut client = session(&book, options()).await;
    client.send(format!("EHLO c.test\r\n{FLIGHT}")).await;
    client.expect(&["250", "250", "250", "354"]).await;
    client.send(vec![b'x'; 3 * MIB]).await;
    client.send("\r\nMAIL FROM:<in@content.test>\r\n.\r\nNOOP\r\n").await;
    client.expect(&["550 5.7.1 not this", "250"]).await;
    assert!(!book.log().iter().any(|line| line.contains("content.test")));
}

#[tokio::test]
async fn garbage_gets_a_clear_reply_or_the_end_of_the_session() {
    let long = "x".repeat(5000);
    let endless = "x".repeat(2 * MIB);
    let noop = "NOOP\r\n".repeat(200);
    for (garbage, said) in [
        ("\r\n", "500"),
        ("FROB\r\n", "500"),
        ("MAIL FROM:a@x.test\r\n", "501"),
        ("MAIL FROM:<a@x.test\r\n", "501"),
        ("RCPT TO:<b@y.test>\r\n", "503"),
        ("DATA\r\n", "503"),
        ("NOOP\nNOOP\r\n", "500"),
        ("NOOP\0\r\n", "500"),
        (&format!("{long}\r\n"), "500"),
        (&endless, "421"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "421"),
        ("\u{16}\u{3}\u{1}\u{0}\u{1}", "421"),
        ("BDAT x\r\n", "5"),
        (&noop, "421"),
        ("\u{ff}\u{fe}\r\n", "500"),
    ] {
        let book = Arc::default();
        let mut client = session(&book, options()).await;
        client.ask("EHLO c.test", "250").await;
        let _ = client.0.write_all(garbage.as_bytes()).await;
        let mut reply = client.reply().await;
        while said == "421" && reply.starts_with("250") {
            reply = client.reply().await;
        }
        assert!(reply.starts_with(said), "{:?}: {reply}", &garbage[..garbage.len().min(20)]);
        assert_eq!(book.log(), [""; 0]);
    }
}

#[tokio::test]
async fn the_twentieth_mistake_ends_the_session() {
    let mut client = session(&Arc::default(), options()).await;
    client.send("FROB\r\n".repeat(40)).await;
    let replies = client.rest().await;
    assert!(replies.lines().count() <= 21, "{replies}");
    assert!(replies.lines().last().unwrap().starts_with("421"), "{replies}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_talks_before_the_greeting_is_refused() {
    for delay in [Duration::ZERO, Duration::from_secs(3)] {
        let (mut ours, theirs) = duplex(1024);
        ours.write_all(b"EHLO early.test\r\n").await.unwrap();
        let mut options = options();
        options.greeting_delay = delay;
        tokio::spawn(server(&Arc::default(), options).serve_io(Box::new(theirs), peer("192.0.2.1")));
        let mut client = Client(ours);
        client.expect(&["554 5.5.1"]).await;
        assert_eq!(client.reply().await, "(closed)");
    }
}

#[tokio::test]
async fn a_handler_can_turn_a_peer_away() {
    let (ours, theirs) = duplex(1024);
    tokio::spawn(server(&Arc::default(), options()).serve_io(Box::new(theirs), peer("203.0.113.66")));
    let mut client = Client(ours);
    client.expect(&["554 5.7.1 not you"]).await;
    client.ask("QUIT", "221").await;
    assert_eq!(client.reply().await, "(closed)");
}

#[tokio::test]
async fn limits_on_recipients_and_size_hold() {
    let book = Arc::default();
    let mut options = options();
    options.session.max_recipients = 2;
    options.session.max_message_size = 1000;
    let mut client = session(&book, options).await;
    client.ask("EHLO c.test", "250").await;
    client.ask("MAIL FROM:<a@x.test> SIZE=1001", "552 5.3.4").await;
    client.ask("MAIL FROM:<a@x.test> SIZE=1000", "250").await;
    client.send("RCPT TO:<b@y.test>\r\n".repeat(3)).await;
    client.expect(&["250", "250", "452 4.5.3"]).await;
    client.ask("DATA", "354").await;
    client.send(["x".repeat(500), "x".repeat(499), ".".to_owned(), String::new()].join("\r\n")).await;
    client.expect(&["552 5.3.4"]).await;
    client.send(format!("{FLIGHT}{}\r\n.\r\n", "x".repeat(998))).await;
    client.expect(&["250", "250", "354", "250"]).await;
    let bodies = book.bodies();
    assert_eq!(bodies[0], Err(BodyError::Aborted));
    assert_eq!(bodies[1].as_ref().unwrap().len(), 1000);
}

#[tokio::test]
async fn a_refusal_never_says_yes() {
    let mut client = session(&Arc::default(), options()).await;
    client.ask("EHLO c.test", "250").await;
    client.ask("MAIL FROM:<odd@x.test>", "451 4.3.0").await;
    client.ask("RCPT TO:<b@y.test>", "503").await;
}
