//! The client session against random servers, some lawful and some not: what a server may do to it,
//! and what must hold whatever the server does.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use postroad::clock::Rng;
use postroad::smtp::address::{EhloName, ForwardPath, ReversePath};
use postroad::smtp::client::{
    BeginError, Config, Event, Failure, Phase, RecipientResult, Session, TlsUse, Transaction,
};
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::{Input, Output};

use crate::host::{Host, Kind};
use crate::seeds::{below, histories, one_in, pick};

#[test]
fn a_lawful_server_is_understood_in_full() {
    histories(1_500, |rng| play(rng, Kind::Lawful));
}

#[test]
fn no_server_makes_the_session_lie_or_go_on_after_its_end() {
    histories(3_000, |rng| play(rng, Kind::Hostile));
}

fn play(rng: &Rng, kind: Kind) {
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    let now = Instant::now();
    let mut config = Config::new(EhloName::new("client.test").unwrap(), TlsUse::Never);
    (config.pipelining, config.chunking) = (!one_in(rng, 4), !one_in(rng, 3));
    (config.chain, config.window) = (one_in(rng, 2), 1 + below(rng, 4));
    let mut pair = Pair {
        rng,
        now,
        session: Session::new(config, now),
        host: Host::new(rng, kind),
        wire: VecDeque::new(),
        at_client: BytesMut::new(),
        messages: (0..1 + below(rng, 7)).map(|n| message(rng, n + 1)).collect(),
        begun: 0,
        chained: Vec::new(),
        given: 0,
        ended: 0,
        wanted: None,
        polled: 0,
        sent: 0,
        ends: Vec::new(),
        results: Vec::new(),
        until: None,
        failure: None,
        quit: false,
        closed: false,
    };
    // A history is finite: every octet that moves, and every wait that ends, brings its end nearer.
    for _ in 0..200_000 {
        if pair.closed {
            return pair.judge(kind);
        }
        pair.step();
    }
    panic!("a history without end: {:?}", pair.host.heard());
}

struct Letter {
    recipients: usize,
    content: Vec<u8>,
}

fn message(rng: &Rng, number: usize) -> Letter {
    let mut content = format!("N: {number}\r\n\r\n").into_bytes();
    let lines = pick(rng, &[0, 1, 5, 300]);
    for _ in 0..below(rng, lines + 1) {
        content.extend_from_slice(pick(rng, &[&b"text\r\n"[..], b".\r\n", b"..x\r\n", b"\r\n", b"RSET\r\n"]));
    }
    if one_in(rng, 250) {
        content.extend(b"0123456789abcdef\r\n".repeat(20_000));
    }
    if one_in(rng, 4) {
        content.extend_from_slice(b"no end");
    }
    Letter { recipients: 1 + below(rng, 4), content }
}

struct Pair<'a> {
    rng: &'a Rng,
    now: Instant,
    session: Session,
    host: Host<'a>,
    /// Polled, and not yet taken by the transport.
    wire: VecDeque<u8>,
    /// What the session left unread.
    at_client: BytesMut,
    messages: Vec<Letter>,
    begun: usize,
    /// Of each begun transaction, whether it was begun behind an open one.
    chained: Vec<bool>,
    /// Octets given of the youngest transaction's content.
    given: usize,
    /// Of how many transactions the content was ended by us.
    ended: usize,
    wanted: Option<u64>,
    polled: usize,
    sent: usize,
    /// Of each transaction, how many octets were polled when its content was there with its end.
    ends: Vec<usize>,
    results: Vec<Vec<RecipientResult>>,
    until: Option<Instant>,
    failure: Option<Failure>,
    quit: bool,
    closed: bool,
}

impl Pair<'_> {
    /// One thing happens.
    fn step(&mut self) {
        match below(self.rng, 4) {
            0 if !self.wire.is_empty() => self.transport(),
            1 if !self.host.out.is_empty() => self.deliver(),
            2 => self.give(),
            _ => self.begin(),
        }
        self.poll();
        if self.closed || !self.wire.is_empty() || !self.host.out.is_empty() || self.wanted.is_some() {
            return;
        }
        if self.host.has_left {
            self.session.handle(self.now, Input::Eof);
        } else if let Some(until) = self.until {
            // Nothing moves any more: the host keeps silent.
            self.now = self.now.max(until);
            self.session.handle(self.now, Input::Timeout);
        } else if self.session.can_begin() && self.begun < self.messages.len() {
            return;
        } else if !std::mem::replace(&mut self.quit, true) {
            self.session.quit(self.now);
        } else {
            panic!("the session waits without a deadline: {:?}", self.host.heard());
        }
        self.poll();
    }

    fn transport(&mut self) {
        let most = pick(self.rng, &[self.wire.len() / 50 + 1, 30, 2000, usize::MAX]).min(self.wire.len());
        let count = 1 + below(self.rng, most);
        let octets: Vec<u8> = self.wire.drain(..count).collect();
        self.sent += count;
        self.session.handle(self.now, Input::Sent(count));
        self.host.hear(&octets, &self.chained);
    }

    fn deliver(&mut self) {
        let most = pick(self.rng, &[1, 7, usize::MAX]).min(self.host.out.len());
        let count = 1 + below(self.rng, most);
        self.at_client.extend(self.host.out.drain(..count));
        self.session.handle(self.now, Input::Data(&mut self.at_client));
    }

    fn give(&mut self) {
        if self.wanted.is_none() {
            return;
        }
        let content = &self.messages[self.begun - 1].content;
        let rest = &content[self.given..];
        if rest.is_empty() {
            self.wanted = None;
            self.session.end_body().unwrap();
            self.ended = self.begun;
            self.poll();
            self.ends.resize(self.begun, usize::MAX);
            self.ends[self.begun - 1] = self.polled;
        } else {
            let most = pick(self.rng, &[rest.len() / 20 + 1, 300, usize::MAX]).min(rest.len());
            let piece = Bytes::copy_from_slice(&rest[..1 + below(self.rng, most)]);
            self.given += piece.len();
            self.wanted = None;
            self.session.body(piece).unwrap();
        }
    }

    fn begin(&mut self) {
        let Some(letter) = self.messages.get(self.begun) else { return };
        let number = self.begun + 1;
        let mail = Mail::new(ReversePath::parse(&format!("m{number}@a.test")).unwrap());
        let to = (0..letter.recipients)
            .map(|n| Rcpt::new(ForwardPath::parse(&format!("r{n}.{number}@b.test")).unwrap()))
            .collect();
        let open = self.begun - self.results.len();
        let before_is_given = self.begun == self.ended || self.begun == self.results.len();
        let can = self.session.can_begin();
        match self.session.begin(Transaction::new(mail, to, letter.content.len() as u64)) {
            Ok(given) => {
                assert!(can && before_is_given, "begun before the one before was given");
                assert_eq!(given, number as u64);
                self.begun = number;
                self.given = 0;
                self.chained.push(open > 0);
            }
            Err(error) => assert!(!can && error == BeginError::NotReady, "{error}"),
        }
    }

    fn poll(&mut self) {
        loop {
            match self.session.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    assert_eq!(self.failure, None, "sent after the end");
                    self.wire.extend(&octets);
                    self.polled += octets.len();
                }
                Output::StartTls => panic!("TLS is not wanted"),
                Output::Event(event) => self.event(event),
                Output::Wait { until } => {
                    self.until = until;
                    assert!(self.failure.is_none());
                    return;
                }
                Output::Closed => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        assert_eq!(self.failure, None, "{event:?} after the end");
        match event {
            Event::WantBody { transaction } => {
                assert_eq!(transaction, self.begun as u64, "content of the youngest alone is wanted");
                assert!(self.ended < self.begun, "more is wanted than there is");
                self.wanted = Some(transaction);
            }
            Event::Done { transaction, result } => {
                assert_eq!(transaction, self.results.len() as u64 + 1, "one result each, in order");
                assert!(transaction <= self.begun as u64);
                assert_eq!(result.recipients.len(), self.messages[self.results.len()].recipients);
                if self.wanted == Some(transaction) {
                    self.wanted = None;
                }
                self.at_once(&result.recipients);
                self.results.push(result.recipients);
            }
            Event::Failed(failure) => {
                assert_eq!(self.results.len(), self.begun, "each open transaction has its end first");
                self.failure = Some(failure);
                self.wire.clear();
                self.wanted = None;
            }
            _ => {}
        }
    }

    /// What must hold at the moment of a result, whoever the server is.
    fn at_once(&self, recipients: &[RecipientResult]) {
        let number = self.results.len() + 1;
        // By BDAT it is whole with its last octet, before we say so.
        let whole =
            self.host.truth(number).whole || self.ends.get(number - 1).is_some_and(|end| *end <= self.sent);
        for result in recipients {
            let delivered = is_delivered(result);
            assert!(whole || !delivered, "delivered before all of it was sent: {number}");
            assert!(whole || *result != RecipientResult::Unknown, "unknown and not sent: {number}");
        }
    }

    fn judge(&self, kind: Kind) {
        assert_eq!(self.results.len(), self.begun, "each transaction has one result");
        if kind == Kind::Hostile {
            return;
        }
        if let Some(failure) = &self.failure {
            assert!(
                !matches!(
                    failure,
                    Failure::Protocol(_) | Failure::Abandoned | Failure::NoTls | Failure::Auth(_)
                ),
                "{failure:?}: {:?}",
                self.host.heard()
            );
        }
        for (number, results) in self.results.iter().enumerate().map(|(at, results)| (at + 1, results)) {
            let truth = self.host.truth(number);
            for (at, result) in results.iter().enumerate() {
                let taken = truth.taken && truth.accepted.contains(&at);
                let told = is_delivered(result);
                let unknown = *result == RecipientResult::Unknown;
                assert!(taken || !told, "{number}/{at} is told as delivered: {:?}", self.host.heard());
                assert!(told || unknown || !taken, "{number}/{at} was delivered: {result:?}");
            }
            if truth.whole && truth.taken {
                let mut content = self.messages[number - 1].content.clone();
                if truth.content.len() != content.len() {
                    content.extend_from_slice(b"\r\n");
                }
                assert_eq!(truth.content, content, "{number} arrived as it was");
            }
        }
    }
}

fn is_delivered(result: &RecipientResult) -> bool {
    matches!(result, RecipientResult::Replied { phase: Phase::Content, reply } if reply.is_positive())
}
