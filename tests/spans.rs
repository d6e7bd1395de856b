//! What `tracing` is told. Alone in its program, because a subscriber is the whole program's.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use postroad::BoxFuture;
use postroad::clock::SystemClock;
use postroad::hop::{Host, Require};
use postroad::message::Content;
use postroad::net::connect::{Connect, ConnectError, Opened};
use postroad::net::tls::{ClientTls, TlsOptions};
use postroad::net::{ClientOptions, Dialer, Quirks};
use postroad::server::{
    BodyStream, Conversation, Handler, Peer, Server, ServerOptions, SessionInfo, Transaction as Message,
    Verdict,
};
use postroad::smtp::Protocol;
use postroad::smtp::address::EhloName;
use postroad::smtp::client::Transaction;
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::reply::{EnhancedCode, Reply};
use tokio::io::duplex;

/// Takes everything.
struct Taker;

impl Handler for Taker {
    fn connect<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        Box::pin(async { Ok(Box::new(Self) as Box<dyn Conversation>) })
    }
}

impl Conversation for Taker {
    fn recipient<'a>(&'a mut self, _: &'a Rcpt, _: &'a SessionInfo) -> BoxFuture<'a, Result<(), Reply>> {
        Box::pin(async { Ok(()) })
    }

    fn message(&mut self, _: Message, mut body: BodyStream) -> BoxFuture<'_, Verdict> {
        Box::pin(async move {
            body.collect(1000).await.unwrap();
            Reply::new(250, EnhancedCode::new(2, 0, 0), "taken").into()
        })
    }
}

/// Everything that `tracing` is told, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(octets)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Connects to a server in memory.
#[derive(Debug)]
struct Memory;

impl Connect for Memory {
    fn connect<'a>(&'a self, _: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        let (ours, theirs) = duplex(64 * 1024);
        let peer =
            Peer { address: "192.0.2.1:4000".parse().unwrap(), local: "198.51.100.1:25".parse().unwrap() };
        let options = ServerOptions::new(EhloName::new("mx.test").unwrap());
        tokio::spawn(Server::builder(Taker, options).serve_io(Box::new(theirs), peer));
        Box::pin(async move { Ok(Opened::new(ours)) })
    }
}

#[tokio::test]
async fn sessions_connections_and_transactions_have_spans() {
    let log = Log::default();
    let sink = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || sink.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    let tls = ClientTls::new(trust, Arc::new(SystemClock)).unwrap();
    let client = ClientOptions::new(EhloName::new("c.test").unwrap());
    let dialer = Dialer::new(client, Arc::new(Memory), tls, Arc::new(SystemClock));
    let host = Arc::new(Host::new("mx.test".parse().unwrap(), 25));
    let mut open = dialer.open(&host, Protocol::Smtp, Require::Cleartext, Quirks::default()).await.unwrap();
    let (mail, rcpt) = (Mail::parse("<a@x.test>").unwrap(), Rcpt::parse("<b@y.test>").unwrap());
    let body = Bytes::from_static(b"Subject: x\r\n\r\nhello\r\n");
    let transaction = Transaction::new(mail, vec![rcpt], 0);
    open.begin(transaction, Content::Whole(body)).unwrap();
    open.next_done().await.unwrap();
    open.quit();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for shown in [
        "smtp_session{peer=192.0.2.1:4000 listener=198.51.100.1:25}:transaction{sender=<a@x.test>}",
        "message answered",
        "smtp_connection{host=mx.test port=25}:transaction{",
        "transaction over",
        "postroad::wire",
        "C: MAIL FROM:<a@x.test>",
    ] {
        assert!(log.contains(shown), "{shown} in\n{log}");
    }
}
