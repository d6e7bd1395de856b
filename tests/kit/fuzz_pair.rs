//! The client session against the server session, each direction cut as the input says. Without faults,
//! what the server took is what the client sent, whole, under its envelope. With them (early ends,
//! silence, octets that are lost, doubled or changed), each transaction has one result, and where the
//! octets themselves are sound, it is honest.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use postroad::smtp::address::{EhloName, ForwardPath, ReversePath};
use postroad::smtp::client::RecipientResult;
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::{Input, Output, client, server};

use super::start;

const MESSAGES: u64 = 12;
/// Only so many steps go wrong, for octets that are doubled each time are soon too many.
const MAX_FAULTY: usize = 300;
/// No more octets than this are doubled.
const MAX_DOUBLED: usize = 10_000;

/// See the [module](self).
pub fn client_against_server(data: &[u8]) {
    let [options, faults, cuts @ ..] = data else { return };
    let name = EhloName::new("fuzz.test").expect("name");
    let mut config = client::Config::new(name.clone(), client::TlsUse::Never);
    (config.pipelining, config.chunking, config.chain) =
        (options & 1 == 0, options & 2 == 0, options & 4 != 0);
    config.window = 1 + usize::from(options >> 4 & 3);
    let now = start();
    let mut pair = Pair {
        now,
        client: client::Session::new(config, now),
        server: server::Session::new(server::Config::new(name), now),
        to_server: BytesMut::new(),
        to_client: BytesMut::new(),
        at_server: BytesMut::new(),
        at_client: BytesMut::new(),
        picky: options & 8 != 0,
        lock_step: options & 64 != 0,
        begun: 0,
        results: Vec::new(),
        current: Vec::new(),
        taken: Vec::new(),
        over: false,
    };
    let mut corrupted = false;
    for (nth, cut) in cuts.iter().copied().chain(std::iter::repeat_n(255, 400)).enumerate() {
        pair.client();
        pair.server();
        let fault = faults.wrapping_mul(cut) ^ cut.rotate_left(3);
        if *faults != 0 && fault & 31 == 7 && nth < cuts.len().min(MAX_FAULTY) {
            corrupted |= pair.fault(fault >> 5);
        } else {
            pair.travel(usize::from(cut) * usize::from(cut) + 1);
        }
        if pair.results.len() as u64 == MESSAGES || pair.over {
            break;
        }
    }
    if *faults == 0 {
        return pair.all_is_well();
    }
    pair.client.handle(pair.now, Input::Eof);
    pair.client();
    assert_eq!(pair.results.len() as u64, pair.begun, "each transaction has one result");
    if !corrupted {
        pair.is_honest();
    }
}

struct Pair {
    now: Instant,
    client: client::Session,
    server: server::Session,
    to_server: BytesMut,
    to_client: BytesMut,
    at_server: BytesMut,
    at_client: BytesMut,
    /// The host refuses some.
    picky: bool,
    /// Octets go the one way only when there are none the other way.
    lock_step: bool,
    begun: u64,
    results: Vec<RecipientResult>,
    current: Vec<u8>,
    /// The numbers of the messages that the host took, from their recipients, and their content.
    taken: Vec<Vec<u8>>,
    over: bool,
}

fn body(number: u64) -> Vec<u8> {
    let dots = "x.".repeat(usize::try_from(number).unwrap_or(0) * 7);
    format!("N: {number}\r\n\r\n.\r\n{dots}\r\n").into_bytes()
}

impl Pair {
    fn client(&mut self) {
        loop {
            match self.client.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    assert!(!self.over, "sent after the end");
                    self.to_server.extend_from_slice(&octets);
                    self.client.handle(self.now, Input::Sent(octets.len()));
                }
                Output::Event(client::Event::WantBody { transaction }) => {
                    let octets = Bytes::from(body(transaction));
                    self.client.body(octets).and_then(|()| self.client.end_body()).expect("it asked");
                }
                Output::Event(client::Event::Done { mut result, .. }) => {
                    assert_eq!(result.recipients.len(), 1);
                    self.results.extend(result.recipients.pop());
                }
                Output::Event(client::Event::Failed(_)) => self.over = true,
                Output::Event(_) => {}
                Output::StartTls => panic!("TLS was not offered"),
                Output::Wait { .. } | Output::Closed => {
                    if !self.client.can_begin() || self.begun == MESSAGES {
                        return;
                    }
                    let path = format!("r{}@d.test", self.begun + 1);
                    let to = Rcpt::new(ForwardPath::parse(&path).expect("path"));
                    let mail = Mail::new(ReversePath::parse("a@b.test").expect("path"));
                    self.begun += 1;
                    let size = body(self.begun).len() as u64;
                    let transaction = client::Transaction::new(mail, vec![to], size);
                    let number = self.client.begin(transaction).expect("it can begin");
                    assert_eq!(number, self.begun, "transactions are counted from 1");
                }
            }
        }
    }

    fn server(&mut self) {
        loop {
            if self.server.can_read_on() {
                self.server.handle(self.now, Input::Data(&mut self.at_server));
            }
            match self.server.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    self.to_client.extend_from_slice(&octets);
                    self.server.handle(self.now, Input::Sent(octets.len()));
                }
                Output::Event(event) => self.host(event),
                Output::StartTls => panic!("TLS was not offered"),
                Output::Wait { .. } if self.server.can_read_on() => {}
                Output::Wait { .. } | Output::Closed => return,
            }
        }
    }

    fn host(&mut self, event: server::Event) {
        let mut refuse = false;
        match event {
            server::Event::Rcpt(rcpt) => refuse = self.picky && rcpt.to.to_string().contains('3'),
            server::Event::MessageStart | server::Event::MessageAborted => return self.current.clear(),
            server::Event::Body(octets) => return self.current.extend_from_slice(&octets),
            server::Event::MessageEnd => {
                refuse = self.picky && self.current.starts_with(b"N: 5");
                if !refuse {
                    self.taken.push(std::mem::take(&mut self.current));
                }
            }
            // The question may be that of the next event.
            server::Event::Hello { .. } | server::Event::Quit => return,
            _ => {}
        }
        if self.server.is_paused() {
            let (code, class) = if refuse { (550, 5) } else { (250, 2) };
            self.server.respond(Reply::new(code, EnhancedCode::new(class, 0, 0), "so")).expect("it asked");
        }
    }

    /// Moves up to `step` octets each way.
    fn travel(&mut self, step: usize) {
        let moved = self.to_client.split_to(step.min(self.to_client.len()));
        let quiet = moved.is_empty();
        self.at_client.unsplit(moved);
        self.client.handle(self.now, Input::Data(&mut self.at_client));
        if quiet || !self.lock_step {
            self.at_server.unsplit(self.to_server.split_to(step.min(self.to_server.len())));
            self.server.handle(self.now, Input::Data(&mut self.at_server));
        }
    }

    /// Something goes wrong; whether octets themselves do.
    fn fault(&mut self, kind: u8) -> bool {
        match kind {
            0 => self.client.handle(self.now, Input::Eof),
            1 => {
                self.server.handle(self.now, Input::Eof);
                self.to_server.clear();
            }
            2 => {
                self.now += Duration::from_secs(700);
                self.client.handle(self.now, Input::Timeout);
                self.server.handle(self.now, Input::Timeout);
            }
            3 => self.to_client.clear(),
            4 if self.to_client.len() < MAX_DOUBLED => {
                let twice = self.to_client.clone();
                self.to_client.extend_from_slice(&twice);
            }
            5 => {
                if let Some(octet) = self.to_client.first_mut() {
                    *octet ^= 1;
                }
            }
            6 if self.to_server.len() < MAX_DOUBLED => {
                let twice = self.to_server.clone();
                self.to_server.extend_from_slice(&twice);
            }
            _ => {
                if let Some(octet) = self.to_server.last_mut() {
                    *octet ^= 4;
                }
            }
        }
        kind > 2
    }

    fn all_is_well(&self) {
        let results: Vec<bool> = self.results.iter().map(is_delivered).collect();
        let refused = |number: u64| self.picky && matches!(number, 3 | 5);
        let expected: Vec<bool> = (1..).take(results.len()).map(|number| !refused(number)).collect();
        assert_eq!(results, expected, "{:?}", self.results);
        let numbers = (1..).filter(|number| !refused(*number));
        for (number, octets) in numbers.zip(&self.taken) {
            assert_eq!(*octets, body(number));
        }
        assert!(results.iter().filter(|delivered| **delivered).count() <= self.taken.len());
    }

    /// Delivered is what was taken, and what was taken is delivered or unknown.
    fn is_honest(&self) {
        for (number, result) in (1..).zip(&self.results) {
            let taken = self.taken.contains(&body(number));
            assert!(taken || !is_delivered(result), "{number}: {result:?}");
            let honest = is_delivered(result) || *result == RecipientResult::Unknown;
            assert!(honest || !taken, "{number} was taken: {result:?}");
        }
    }
}

fn is_delivered(result: &RecipientResult) -> bool {
    matches!(result, RecipientResult::Replied { phase: client::Phase::Content, reply } if reply.is_positive())
}
