//! What keeps a server safe: whom it believes, how much it takes from one peer and from all, and what
//! it shows to those who look.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and measures time"
)]

#[path = "kit/client.rs"]
mod client;
#[path = "armour/limits.rs"]
mod limits;
#[path = "armour/proxy.rs"]
mod proxy;
#[path = "armour/tls.rs"]
mod tls;
#[path = "armour/trace.rs"]
mod trace;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad::BoxFuture;
use postroad::server::{
    BodyStream, Builder, Conversation, Handler, Peer, Server, ServerOptions, SessionInfo, Transaction,
    Verdict,
};
use postroad::smtp::address::EhloName;
use postroad::smtp::params::Rcpt;
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::sasl::Login;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::Notify;

use client::Client;

/// What a handler saw, and whether it waits.
#[derive(Default)]
struct Book {
    peers: Mutex<Vec<Peer>>,
    /// `message` waits for as many of these as there are messages before it reads.
    hold: Option<Notify>,
}

struct Taker(Arc<Book>);

impl Handler for Taker {
    fn connect<'a>(&'a self, peer: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        self.0.peers.lock().unwrap().push(*peer);
        let session = Session(Arc::clone(&self.0));
        Box::pin(async move { Ok(Box::new(session) as Box<dyn Conversation>) })
    }
}

struct Session(Arc<Book>);

impl Conversation for Session {
    fn authenticate<'a>(
        &'a mut self,
        login: &'a Login,
        _: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        let right = login.user() == "ada" && login.password() == "s3cret";
        Box::pin(async move {
            if right { Ok(()) } else { Err(Reply::new(535, EnhancedCode::new(5, 7, 8), "no")) }
        })
    }

    fn recipient<'a>(&'a mut self, rcpt: &'a Rcpt, _: &'a SessionInfo) -> BoxFuture<'a, Result<(), Reply>> {
        let code = match rcpt.to.to_string() {
            to if to.starts_with("<no") => 550,
            to if to.starts_with("<later") => 450,
            _ => return Box::pin(async { Ok(()) }),
        };
        Box::pin(async move { Err(Reply::plain(code, "not this one")) })
    }

    fn message(&mut self, _: Transaction, mut body: BodyStream) -> BoxFuture<'_, Verdict> {
        Box::pin(async move {
            if let Some(leave) = &self.0.hold {
                leave.notified().await;
            }
            match body.collect(32 << 20).await {
                Ok(_) => Reply::new(250, EnhancedCode::new(2, 0, 0), "taken").into(),
                Err(_) => Reply::new(554, EnhancedCode::new(5, 6, 0), "not taken").into(),
            }
        })
    }
}

fn options() -> ServerOptions {
    let mut options = ServerOptions::new(EhloName::new("mx.test").unwrap());
    options.auth_delay = Duration::ZERO;
    options
}

fn server(book: &Arc<Book>, options: ServerOptions) -> Builder {
    Server::builder(Taker(Arc::clone(book)), options)
}

/// A client on a pipe, whose address is this.
fn pipe(book: &Arc<Book>, options: ServerOptions, ip: &str) -> Client<DuplexStream> {
    let (ours, theirs) = duplex(64 * 1024);
    let peer =
        Peer { address: format!("{ip}:4000").parse().unwrap(), local: "198.51.100.1:25".parse().unwrap() };
    tokio::spawn(server(book, options).serve_io(Box::new(theirs), peer));
    Client(ours)
}

const FLIGHT: &str = "MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n";
