//! What a message costs in the protocol alone: a client session against a server session, octets handed
//! over in memory, no socket and no runtime.
//!
//! `cargo bench --bench session`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark fails by panicking"
)]
#![allow(missing_docs, reason = "not a library")]

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use postroad::smtp::address::{EhloName, ForwardPath, ReversePath};
use postroad::smtp::client::{self, RecipientResult, TlsUse, Transaction};
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::server::{self, AuthOffer};
use postroad::smtp::{Input, Output};

fn main() {
    divan::main();
}

#[divan::bench(args = [1_024, 10_240, 1 << 20])]
fn data(bencher: Bencher<'_, '_>, octets: usize) {
    transaction(bencher, octets, 1, |config| config.chunking = false);
}

#[divan::bench(args = [1_024, 10_240, 1 << 20])]
fn bdat(bencher: Bencher<'_, '_>, octets: usize) {
    transaction(bencher, octets, 1, |_| {});
}

#[divan::bench(args = [10_240])]
fn bdat_to_fifty(bencher: Bencher<'_, '_>, octets: usize) {
    transaction(bencher, octets, 50, |_| {});
}

/// A connection for one message: greeting, EHLO, the message, QUIT.
#[divan::bench]
fn connection(bencher: Bencher<'_, '_>) {
    let (transaction, content) = (message(10_240, 1), content(10_240));
    bencher.counter(ItemsCount::new(1_u32)).bench(|| {
        let mut pair = Pair::new(|_| {});
        pair.send(transaction.clone(), content.clone());
        pair.client.quit(pair.now);
        pair.run();
        assert!(pair.client.is_closed());
    });
}

fn transaction(
    bencher: Bencher<'_, '_>,
    octets: usize,
    recipients: usize,
    change: impl FnOnce(&mut client::Config),
) {
    let (transaction, content) = (message(octets, recipients), content(octets));
    let mut pair = Pair::new(change);
    bencher
        .counter(ItemsCount::new(1_u32))
        .counter(BytesCount::new(content.len()))
        .bench_local(|| pair.send(transaction.clone(), content.clone()));
}

fn content(octets: usize) -> Bytes {
    let line = b"The quick brown fox jumps over the lazy dog. 0123456789 abcdefghijklm\r\n";
    let mut content: Vec<u8> = line.iter().copied().cycle().take(octets - 2).collect();
    content.extend_from_slice(b"\r\n");
    // The lines were cut: a CR at the cut would stand alone.
    let end = content.len() - 3;
    content[end] = b'x';
    content.into()
}

fn message(octets: usize, recipients: usize) -> Transaction {
    let mail = Mail::new(ReversePath::parse("someone@example.com").unwrap());
    let to = |n| Rcpt::new(ForwardPath::parse(&format!("someone{n}@example.net")).unwrap());
    let mut transaction = Transaction::new(mail, (0..recipients).map(to).collect(), octets as u64);
    // As an engine sends it.
    transaction.is_lines = true;
    transaction
}

/// Two sessions and the octets between them.
struct Pair {
    now: Instant,
    client: client::Session,
    server: server::Session,
    to_server: BytesMut,
    to_client: BytesMut,
    content: Bytes,
    taken: usize,
    done: usize,
}

impl Pair {
    /// Ready for transactions.
    fn new(change: impl FnOnce(&mut client::Config)) -> Self {
        #[allow(clippy::disallowed_methods, reason = "where time begins")]
        let now = Instant::now();
        let mut client = client::Config::new(EhloName::new("client.example.com").unwrap(), TlsUse::Never);
        change(&mut client);
        let mut server = server::Config::new(EhloName::new("mx.example.net").unwrap());
        server.auth = AuthOffer::Never;
        let mut pair = Self {
            now,
            client: client::Session::new(client, now),
            server: server::Session::new(server, now),
            to_server: BytesMut::new(),
            to_client: BytesMut::new(),
            content: Bytes::new(),
            taken: 0,
            done: 0,
        };
        pair.run();
        assert!(pair.client.can_begin());
        pair
    }

    fn send(&mut self, transaction: Transaction, content: Bytes) {
        (self.taken, self.done) = (0, 0);
        let (octets, recipients) = (content.len(), transaction.recipients.len());
        self.content = content;
        self.client.begin(transaction).unwrap();
        self.run();
        assert_eq!((self.taken, self.done), (octets, recipients));
    }

    /// Until nothing moves.
    fn run(&mut self) {
        while self.client_turn() | self.server_turn() {}
    }

    /// Whether anything was sent.
    fn client_turn(&mut self) -> bool {
        let mut moved = false;
        if !self.to_client.is_empty() {
            self.client.handle(self.now, Input::Data(&mut self.to_client));
        }
        loop {
            match self.client.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    moved = true;
                    self.to_server.extend_from_slice(&octets);
                    self.client.handle(self.now, Input::Sent(octets.len()));
                }
                Output::Event(client::Event::WantBody { .. }) => {
                    self.client.body(std::mem::take(&mut self.content)).unwrap();
                    self.client.end_body().unwrap();
                }
                Output::Event(client::Event::Done { result, .. }) => {
                    let taken = |result: &&RecipientResult| match result {
                        RecipientResult::Replied { reply, .. } => reply.is_positive(),
                        _ => false,
                    };
                    self.done += result.recipients.iter().filter(taken).count();
                }
                Output::Event(_) => {}
                Output::StartTls | Output::Wait { .. } | Output::Closed => return moved,
            }
        }
    }

    /// Whether anything was sent.
    fn server_turn(&mut self) -> bool {
        let mut moved = false;
        if !self.to_server.is_empty() {
            self.server.handle(self.now, Input::Data(&mut self.to_server));
        }
        loop {
            if self.server.can_read_on() {
                self.server.handle(self.now, Input::Data(&mut self.to_server));
            }
            let ok = match self.server.poll() {
                Output::Send(octets) => {
                    moved = true;
                    self.to_client.extend_from_slice(&octets);
                    self.server.handle(self.now, Input::Sent(octets.len()));
                    continue;
                }
                Output::Event(server::Event::Mail(_)) => (1, 0, "Sender ok"),
                Output::Event(server::Event::Rcpt(_)) => (1, 5, "Recipient ok"),
                Output::Event(server::Event::Body(octets)) => {
                    self.taken += octets.len();
                    continue;
                }
                Output::Event(server::Event::MessageEnd) => (6, 0, "Queued"),
                Output::Event(_) => continue,
                Output::Wait { .. } if self.server.can_read_on() => continue,
                _ => return moved,
            };
            let (subject, detail, text) = ok;
            self.server.respond(Reply::new(250, EnhancedCode::new(2, subject, detail), text)).unwrap();
        }
    }
}
