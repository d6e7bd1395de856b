//! Several transactions in flight to servers of other people: Exim, which keeps the envelope of content
//! that it refused, and Postfix. Nothing is lost, and nothing is delivered under another's envelope.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod kit;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use postroad::clock::SystemClock;
use postroad::hop::{Host, Require};
use postroad::message::Content;
use postroad::net::connect::TcpConnect;
use postroad::net::tls::{ClientTls, TlsOptions};
use postroad::net::{ClientOptions, Connection, Dialer, Quirks, TraceLine};
use postroad::smtp::address::{Domain, EhloName, ForwardPath, ReversePath};
use postroad::smtp::client::{Config, Phase, Protocol, RecipientResult, Transaction};
use postroad::smtp::params::{Mail, Rcpt};

use kit::peers::{Exim, Postfix};
use kit::process::wait_until;

/// The dialogue, line by line.
type Trace = Arc<Mutex<Vec<String>>>;

async fn open(to: SocketAddr, change: impl FnOnce(&mut Config)) -> (Connection, Trace) {
    let trace = Trace::default();
    let mut options = ClientOptions::new(EhloName::new("client.test").unwrap());
    options.longest_wait = Some(Duration::from_secs(30));
    change(&mut options.session);
    let seen = Arc::clone(&trace);
    options.trace = Some(Arc::new(move |line: TraceLine<'_>| seen.lock().unwrap().push(line.to_string())));
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    let tls = ClientTls::new(trust, Arc::new(SystemClock)).unwrap();
    let dialer = Dialer::new(options, Arc::new(TcpConnect::new()), tls, Arc::new(SystemClock));
    let host = Host::new(Domain::parse(&format!("[{}]", to.ip())).unwrap(), to.port());
    let connection =
        dialer.open(&Arc::new(host), Protocol::Smtp, Require::Cleartext, Quirks::default()).await.unwrap();
    (connection, trace)
}

/// A message of which no two are alike.
struct Letter {
    from: String,
    to: Vec<String>,
    body: String,
}

fn letter(number: usize, to: &[&str], octets: usize) -> Letter {
    let body = format!("This is letter {number}.\n.\n..\n");
    let line = "x".repeat(70) + "\n";
    let filler = line.repeat(octets / line.len());
    Letter {
        from: format!("sender{number}@a.test"),
        to: to.iter().map(ToString::to_string).collect(),
        body: body + &filler,
    }
}

impl Letter {
    fn octets(&self) -> Bytes {
        format!("Subject: x\n\n{}", self.body).replace('\n', "\r\n").into()
    }

    /// As Exim shows it.
    fn kept(&self) -> (String, String, String) {
        (self.from.clone(), self.to.join(" "), self.body.clone())
    }
}

/// Sends the letters with as many in flight as the connection takes; `phase code` per recipient.
async fn send(connection: &mut Connection, letters: &[Letter]) -> Vec<Vec<String>> {
    let mut results = Vec::new();
    let mut next = letters.iter();
    while results.len() < letters.len() {
        while connection.can_begin() {
            let Some(letter) = next.next() else { break };
            let mail = Mail::new(ReversePath::parse(&letter.from).unwrap());
            let to = letter.to.iter().map(|to| Rcpt::new(ForwardPath::parse(to).unwrap())).collect();
            let octets = letter.octets();
            let transaction = Transaction::new(mail, to, octets.len() as u64);
            connection.begin(transaction, Content::Whole(octets)).unwrap();
        }
        let Some((_, result)) = connection.next_done().await else {
            panic!("{:?} after {results:?}", connection.failure());
        };
        let lines = result.recipients.iter().map(|recipient| match recipient {
            RecipientResult::Replied { phase, reply } => format!("{phase:?} {}", reply.code()),
            other => format!("{other:?}"),
        });
        results.push(lines.collect());
    }
    results
}

fn taken(recipients: usize) -> Vec<String> {
    vec![format!("{:?} 250", Phase::Content); recipients]
}

/// How many transactions left while another was unanswered: those begin with RSET, and no other does.
fn chained(trace: &Trace) -> usize {
    trace.lock().unwrap().iter().filter(|line| *line == "C: RSET").count()
}

#[tokio::test]
async fn exim_takes_a_window_of_bdat_whole() {
    let Some(exim) = Exim::start() else { return };
    let letters: Vec<_> = (0..40)
        .map(|n| letter(n, &["one@b.test", "two@b.test"], if n % 10 == 0 { 300_000 } else { 2_000 }))
        .collect();
    let (mut connection, trace) = open(exim.address(), |config| config.window = 4).await;
    assert!(connection.capabilities().chunking, "Exim offers CHUNKING");
    let results = send(&mut connection, &letters).await;
    assert_eq!(results, vec![taken(2); letters.len()]);
    let expected: Vec<_> = letters.iter().map(Letter::kept).collect();
    assert!(exim.kept() == expected, "{:#?}", exim.accepted());
    assert!(chained(&trace) >= 10, "in flight together: {:#?}", trace.lock().unwrap());
}

#[tokio::test]
async fn exim_takes_pipelined_data_whole() {
    let Some(exim) = Exim::start() else { return };
    for chain in [false, true] {
        let letters: Vec<_> = (0..10).map(|n| letter(n, &["one@b.test"], 5_000)).collect();
        let before = exim.accepted().len();
        let (mut connection, _) =
            open(exim.address(), |config| (config.chunking, config.chain) = (false, chain)).await;
        assert_eq!(send(&mut connection, &letters).await, vec![taken(1); letters.len()], "chain: {chain}");
        let expected: Vec<_> = letters.iter().map(Letter::kept).collect();
        assert!(exim.kept()[before..] == expected, "chain: {chain}: {:#?}", exim.accepted());
    }
}

#[tokio::test]
async fn what_follows_a_refused_message_in_flight_never_goes_under_its_envelope() {
    let Some(exim) = Exim::start() else { return };
    let letters = [
        letter(0, &["nobody@b.test"], 500),
        letter(1, &["one@b.test"], 500),
        letter(2, &["nobody@b.test", "two@b.test"], 500),
        letter(3, &["nobody@b.test"], 100_000),
        letter(4, &["nobody@b.test"], 500),
        letter(5, &["three@b.test"], 500),
    ];
    let (mut connection, trace) = open(exim.address(), |config| config.window = 6).await;
    let results = send(&mut connection, &letters).await;
    let refused = || vec!["Rcpt 550".to_owned()];
    let mut half = refused();
    half.extend(taken(1));
    assert_eq!(results, [refused(), taken(1), half, refused(), refused(), taken(1)]);
    let mut expected: Vec<_> = [1, 2, 5].map(|n: usize| letters[n].kept()).into();
    expected[1].1 = "two@b.test".into();
    assert_eq!(exim.kept(), expected);
    assert!(chained(&trace) >= 3, "in flight together: {:#?}", trace.lock().unwrap());
}

/// The control for the test above: without RSET the fault is there to be met.
#[test]
fn without_rset_exim_delivers_what_follows_a_refused_message_under_its_sender() {
    let Some(exim) = Exim::start() else { return };
    let mut stream = TcpStream::connect(exim.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // Exim wants the greeting and EHLO in lock-step.
    let mut buffer = [0; 4096];
    let _ = stream.read(&mut buffer).unwrap();
    stream.write_all(b"EHLO client.test\r\n").unwrap();
    let _ = stream.read(&mut buffer).unwrap();
    let body = |n| format!("Subject: {n}\r\n\r\nbody {n}\r\n");
    let transaction = |n, to| {
        let body = body(n);
        format!("MAIL FROM:<sender{n}@a.test>\r\nRCPT TO:<{to}@b.test>\r\nBDAT {} LAST\r\n{body}", body.len())
    };
    let flight = transaction(0, "nobody") + &transaction(1, "one") + "QUIT\r\n";
    stream.write_all(flight.as_bytes()).unwrap();
    let mut replies = String::new();
    let _ = stream.read_to_string(&mut replies);
    let kept = exim.kept();
    assert_eq!(
        kept,
        [("sender0@a.test".into(), "one@b.test".into(), "body 1\n".into())],
        "this Exim does not mix envelopes up: the chaining rule may be loosened for it\n{replies}"
    );
}

#[tokio::test]
async fn postfix_takes_a_window_of_bdat_whole() {
    let Some(postfix) = Postfix::start(None) else { return };
    let letters: Vec<_> = (0..40)
        .map(|n| letter(n, &[&format!("r{n}@b.test")], if n % 10 == 0 { 300_000 } else { 2_000 }))
        .collect();
    let (mut connection, trace) = open(postfix.address(), |config| config.window = 4).await;
    assert!(connection.capabilities().chunking, "Postfix offers CHUNKING");
    let results = send(&mut connection, &letters).await;
    assert_eq!(results, vec![taken(1); letters.len()], "{}", postfix.log());
    assert!(chained(&trace) >= 10, "in flight together: {:#?}", trace.lock().unwrap());
    wait_until("Postfix throws forty letters away", || postfix.log().matches("status=sent").count() >= 40);
    // Each under its own envelope: the queue id ties sender and recipient together.
    let log = postfix.log();
    let field = |line: &str, name: &str| {
        let id = line.split(": ").nth(1)?.to_owned();
        let value = line.split_once(&format!("{name}=<"))?.1.split_once('>')?.0.to_owned();
        Some((id, value))
    };
    let from: BTreeSet<_> = log.lines().filter_map(|line| field(line, " from")).collect();
    let to: BTreeSet<_> = log.lines().filter_map(|line| field(line, " to")).collect();
    let pairs: BTreeSet<_> = from
        .iter()
        .flat_map(|(id, from)| to.iter().filter(move |to| to.0 == *id).map(move |to| (from, &to.1)))
        .collect();
    let expected: Vec<_> = letters.iter().map(|letter| (&letter.from, &letter.to[0])).collect();
    assert_eq!(pairs, expected.into_iter().collect(), "{log}");
}
