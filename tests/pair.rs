//! The client session against the server session, in memory: whatever pieces the octets travel in,
//! either way, the same messages arrive and the same results come back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use postroad::smtp::address::{EhloName, ForwardPath, ReversePath};
use postroad::smtp::error::Misuse;
use postroad::smtp::params::{BodyKind, Mail, Rcpt};
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::sasl::Credentials;
use postroad::smtp::server::AuthOffer;
use postroad::smtp::{Input, Output, TlsInfo, client, server};
use proptest::prelude::*;

/// How octets travel.
#[derive(Debug, Clone, Copy)]
enum Travel {
    Whole,
    /// In one direction the flow is cut once, behind so many octets.
    CutToServer(usize),
    CutToClient(usize),
    OneByOne,
}

struct Message {
    from: &'static str,
    to: Vec<&'static str>,
    kind: BodyKind,
    content: Vec<u8>,
    /// How much of it is given at a time.
    chunk: usize,
}

fn message(from: &'static str, to: &[&'static str], content: &[u8]) -> Message {
    Message { from, to: to.to_vec(), kind: BodyKind::EightBit, content: content.to_vec(), chunk: 7 }
}

struct Setup {
    client: client::Config,
    server: server::Config,
    messages: Vec<Message>,
}

fn setup(messages: Vec<Message>) -> Setup {
    let mut server = server::Config::new(EhloName::new("mx.test").unwrap());
    server.auth = AuthOffer::Never;
    Setup {
        client: client::Config::new(EhloName::new("client.test").unwrap(), client::TlsUse::Never),
        server,
        messages,
    }
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Default)]
struct Outcome {
    /// Envelope and content, as the host took them.
    taken: Vec<(String, Vec<String>, Vec<u8>)>,
    /// A line per recipient, message by message.
    results: Vec<Vec<String>>,
    failure: Option<String>,
    logins: Vec<String>,
    encrypted: bool,
}

struct Flow {
    octets: VecDeque<u8>,
    done: usize,
    cut: Option<usize>,
    one_by_one: bool,
}

impl Flow {
    fn new(cut: Option<usize>, one_by_one: bool) -> Self {
        Self { octets: VecDeque::new(), done: 0, cut, one_by_one }
    }

    /// Moves the next piece into `to`; false when there is none.
    fn deliver(&mut self, to: &mut BytesMut) -> bool {
        let mut count = self.octets.len();
        if let Some(cut) = self.cut
            && (self.done + 1..self.done + count).contains(&cut)
        {
            count = cut - self.done;
        }
        if self.one_by_one {
            count = count.min(1);
        }
        to.extend(self.octets.drain(..count));
        self.done += count;
        count > 0
    }
}

/// Runs until nothing moves; also tells how many octets went each way.
fn run(setup: &Setup, travel: Travel) -> (Outcome, usize, usize) {
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    let now = Instant::now();
    let mut pair = Pair {
        now,
        client: client::Session::new(setup.client.clone(), now),
        server: server::Session::new(setup.server.clone(), now),
        to_server: Flow::new(
            if let Travel::CutToServer(at) = travel { Some(at) } else { None },
            matches!(travel, Travel::OneByOne),
        ),
        to_client: Flow::new(
            if let Travel::CutToClient(at) = travel { Some(at) } else { None },
            matches!(travel, Travel::OneByOne),
        ),
        at_server: BytesMut::new(),
        at_client: BytesMut::new(),
        messages: &setup.messages,
        begun: 0,
        given: 0,
        mail: String::new(),
        recipients: Vec::new(),
        body: Vec::new(),
        tls: [false; 2],
        outcome: Outcome::default(),
    };
    loop {
        pair.pump_server();
        pair.pump_client();
        if pair.to_client.deliver(&mut pair.at_client) {
            pair.client.handle(now, Input::Data(&mut pair.at_client));
        } else if pair.to_server.deliver(&mut pair.at_server) {
            pair.server.handle(now, Input::Data(&mut pair.at_server));
        } else if pair.tls == [true; 2] {
            pair.tls = [false; 2];
            assert!(pair.at_server.is_empty() && pair.at_client.is_empty());
            pair.server.handle(now, Input::TlsReady(TlsInfo::new("TLSv1.3", "X")));
            pair.client.handle(now, Input::TlsReady(TlsInfo::new("TLSv1.3", "X")));
        } else {
            break;
        }
    }
    pair.outcome.encrypted = pair.server.is_encrypted();
    (pair.outcome, pair.to_server.done, pair.to_client.done)
}

struct Pair<'a> {
    now: Instant,
    client: client::Session,
    server: server::Session,
    to_server: Flow,
    to_client: Flow,
    at_server: BytesMut,
    at_client: BytesMut,
    messages: &'a [Message],
    begun: usize,
    given: usize,
    mail: String,
    recipients: Vec<String>,
    body: Vec<u8>,
    tls: [bool; 2],
    outcome: Outcome,
}

impl Pair<'_> {
    fn pump_client(&mut self) {
        loop {
            if self.client.can_begin()
                && let Some(message) = self.messages.get(self.begun)
            {
                let mut mail = Mail::new(ReversePath::parse(message.from).unwrap());
                mail.body = message.kind;
                let to = message.to.iter().map(|to| Rcpt::new(ForwardPath::parse(to).unwrap())).collect();
                let size = message.content.len() as u64;
                self.client.begin(client::Transaction::new(mail, to, size)).unwrap();
                self.begun += 1;
                self.given = 0;
            }
            match self.client.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    self.to_server.octets.extend(&octets);
                    self.client.handle(self.now, Input::Sent(octets.len()));
                }
                Output::StartTls => self.tls[0] = true,
                Output::Event(client::Event::WantBody { .. }) => {
                    let message = &self.messages[self.begun - 1];
                    let rest = &message.content[self.given..];
                    if rest.is_empty() {
                        self.offered(|client| client.end_body());
                    } else {
                        let piece = &rest[..rest.len().min(message.chunk)];
                        self.given += piece.len();
                        let piece = Bytes::copy_from_slice(piece);
                        self.offered(|client| client.body(piece));
                    }
                }
                Output::Event(client::Event::Done { transaction, result }) => {
                    assert_eq!(transaction, self.outcome.results.len() as u64 + 1);
                    let lines = result.recipients.iter().map(|recipient| match recipient {
                        client::RecipientResult::Replied { phase, reply } => {
                            format!("{phase:?} {}", reply.code())
                        }
                        other => format!("{other:?}"),
                    });
                    self.outcome.results.push(lines.collect());
                    if self.outcome.results.len() == self.messages.len() {
                        self.client.quit(self.now);
                    }
                }
                Output::Event(client::Event::Failed(failure)) => {
                    self.outcome.failure = Some(format!("{failure:?}"));
                }
                Output::Event(_) => {}
                Output::Wait { .. } | Output::Closed => break,
            }
        }
    }

    /// Content that is no lines is refused, and nothing else is.
    fn offered(&mut self, give: impl FnOnce(&mut client::Session) -> Result<(), Misuse>) {
        assert!(matches!(give(&mut self.client), Ok(()) | Err(Misuse::LineEnd)));
    }

    fn pump_server(&mut self) {
        loop {
            if self.server.can_read_on() {
                self.server.handle(self.now, Input::Data(&mut self.at_server));
            }
            match self.server.poll() {
                Output::Send(octets) => {
                    self.to_client.octets.extend(&octets);
                    self.server.handle(self.now, Input::Sent(octets.len()));
                }
                Output::SendSecret(_) => panic!("a server has no secrets"),
                Output::StartTls => self.tls[1] = true,
                Output::Event(event) => self.host(event),
                Output::Wait { .. } if self.server.can_read_on() => {}
                Output::Wait { .. } | Output::Closed => break,
            }
        }
    }

    fn host(&mut self, event: server::Event) {
        use server::Event;
        let reply = |code: u16, subject, detail, text: &str| {
            let class = u8::try_from(code / 100).unwrap();
            Reply::new(code, EnhancedCode::new(class, subject, detail), text)
        };
        let answer = match event {
            Event::Auth(login) => {
                self.outcome.logins.push(format!(
                    "{} {}",
                    login.user(),
                    login.password().unwrap_or_default()
                ));
                if login.password() == Some("right") {
                    reply(235, 7, 0, "Welcome")
                } else {
                    reply(535, 7, 8, "Wrong")
                }
            }
            Event::Mail(mail) => {
                self.recipients.clear();
                self.mail = mail.from.to_string();
                if self.mail.contains("nobody") {
                    reply(550, 1, 0, "Not you")
                } else {
                    reply(250, 1, 0, "OK")
                }
            }
            Event::Rcpt(rcpt) => {
                let to = rcpt.to.to_string();
                if to.contains("nobody") {
                    reply(550, 1, 1, "Unknown")
                } else if to.contains("later") {
                    reply(450, 2, 0, "Later")
                } else {
                    self.recipients.push(to);
                    reply(250, 1, 5, "OK")
                }
            }
            Event::MessageStart => return self.body.clear(),
            Event::Body(octets) => return self.body.extend_from_slice(&octets),
            Event::MessageAborted => return self.body.clear(),
            Event::MessageEnd if self.body.starts_with(b"refuse") => reply(554, 7, 1, "Spam"),
            Event::MessageEnd => {
                let body = std::mem::take(&mut self.body);
                self.outcome.taken.push((self.mail.clone(), self.recipients.clone(), body));
                reply(250, 6, 0, "Taken")
            }
            _ => return,
        };
        self.server.respond(answer).unwrap();
    }
}

/// The outcome, the same however the octets travel.
fn outcome(setup: &Setup) -> Outcome {
    let (whole, to_server, to_client) = run(setup, Travel::Whole);
    assert_eq!(run(setup, Travel::OneByOne).0, whole);
    for at in 1..to_server {
        assert_eq!(run(setup, Travel::CutToServer(at)).0, whole, "cut behind octet {at} to the server");
    }
    for at in 1..to_client {
        assert_eq!(run(setup, Travel::CutToClient(at)).0, whole, "cut behind octet {at} to the client");
    }
    whole
}

const BODY: &[u8] = b"Subject: x\r\n\r\n.\r\n..two\r\n.\r\n\r\nend.\r\n";

/// Every way the client has of sending content.
fn ways() -> Vec<fn(&mut client::Config)> {
    vec![
        |_| {},
        |config| config.window = 1,
        |config| config.chunking = false,
        |config| (config.chunking, config.chain) = (false, true),
        |config| config.pipelining = false,
        |config| (config.pipelining, config.chunking) = (false, false),
    ]
}

#[test]
fn messages_arrive_as_they_were_sent_by_every_way() {
    for way in ways() {
        let mut setup = setup(vec![
            message("a@a.test", &["b@b.test", "c@b.test"], BODY),
            message("", &["d@b.test"], b"x\r\n"),
            message("a@a.test", &["b@b.test"], b""),
        ]);
        way(&mut setup.client);
        let outcome = outcome(&setup);
        let path = |text: &str| format!("<{text}>");
        let empty = outcome.taken[2].2.clone();
        assert!(empty.is_empty() || empty == b"\r\n", "{empty:?}");
        assert_eq!(
            outcome.taken[..2],
            [
                (path("a@a.test"), vec![path("b@b.test"), path("c@b.test")], BODY.to_vec()),
                (path(""), vec![path("d@b.test")], b"x\r\n".to_vec()),
            ]
        );
        let taken = || "Content 250".to_owned();
        assert_eq!(outcome.results, [vec![taken(), taken()], vec![taken()], vec![taken()]]);
        assert_eq!(outcome.failure, None);
    }
}

#[test]
fn each_recipient_gets_its_own_result() {
    for way in ways() {
        let mut setup = setup(vec![
            message("a@a.test", &["nobody@b.test", "b@b.test", "later@b.test"], BODY),
            message("a@a.test", &["nobody@b.test", "later@b.test"], BODY),
            message("a@a.test", &["b@b.test"], b"refuse this\r\n"),
            message("nobody@a.test", &["b@b.test"], BODY),
            message("a@a.test", &["b@b.test"], BODY),
        ]);
        way(&mut setup.client);
        for travel in [Travel::Whole, Travel::OneByOne] {
            let (outcome, ..) = run(&setup, travel);
            assert_eq!(
                outcome.results[..3],
                [
                    vec!["Rcpt 550", "Content 250", "Rcpt 450"],
                    vec!["Rcpt 550", "Rcpt 450"],
                    vec!["Content 554"],
                ]
            );
            // Refused within a chain, it was not attempted and comes again, as may what is behind it.
            assert!(outcome.results[3] == ["Mail 550"] || outcome.results[3] == ["NotAttempted"]);
            for (from, to, body) in &outcome.taken {
                assert_eq!(
                    (&**from, &to[..], &body[..]),
                    ("<a@a.test>", &["<b@b.test>".to_owned()][..], BODY)
                );
            }
            // What was taken is what was reported as taken.
            let delivered = outcome.results.iter().flatten().filter(|line| *line == "Content 250").count();
            assert_eq!(delivered, outcome.taken.len());
        }
    }
}

#[test]
fn refused_recipients_have_the_same_results_however_the_octets_travel() {
    for way in ways() {
        let mut setup = setup(vec![
            message("a@a.test", &["nobody@b.test"], BODY),
            message("a@a.test", &["nobody@b.test", "b@b.test"], BODY),
        ]);
        way(&mut setup.client);
        let outcome = outcome(&setup);
        assert_eq!(outcome.results, [vec!["Rcpt 550"], vec!["Rcpt 550", "Content 250"]]);
        assert_eq!(outcome.taken.len(), 1);
    }
}

#[test]
fn tls_begins_and_the_login_goes_under_it() {
    let mut setup = setup(vec![message("a@a.test", &["b@b.test"], BODY)]);
    setup.client.tls = client::TlsUse::Required;
    setup.client.credentials = Some(Credentials::new("ada", "right"));
    (setup.server.starttls, setup.server.auth) = (true, AuthOffer::UnderTls);
    (setup.server.require_tls, setup.server.require_auth) = (true, true);
    let outcome = outcome(&setup);
    assert!(outcome.encrypted);
    assert_eq!(outcome.logins, ["ada right"]);
    assert_eq!(outcome.results, [["Content 250"]]);
}

#[test]
fn a_wrong_password_sends_nothing() {
    let mut setup = setup(vec![message("a@a.test", &["b@b.test"], BODY)]);
    setup.client.credentials = Some(Credentials::new("ada", "wrong"));
    setup.client.auth_in_clear = true;
    setup.server.auth = AuthOffer::Always;
    let outcome = outcome(&setup);
    assert!(outcome.taken.is_empty());
    assert!(outcome.failure.unwrap().starts_with("Auth(Some("));
}

#[test]
fn tls_that_is_required_and_not_offered_sends_nothing() {
    let mut setup = setup(vec![message("a@a.test", &["b@b.test"], BODY)]);
    setup.client.tls = client::TlsUse::Required;
    let outcome = outcome(&setup);
    assert_eq!(outcome.failure.as_deref(), Some("NoTls"));
    assert!(outcome.taken.is_empty());
}

#[test]
fn binary_content_goes_by_bdat_alone() {
    let mut content = message("a@a.test", &["b@b.test"], b"\n\r\0\r\n.\r\n\xff");
    content.kind = BodyKind::Binary;
    let mut setup = setup(vec![content]);
    setup.server.binary = true;
    let outcome = outcome(&setup);
    assert_eq!(outcome.taken[0].2, b"\n\r\0\r\n.\r\n\xff");
}

#[test]
fn a_long_chain_keeps_its_envelopes_apart() {
    let froms = ["a@a.test", "b@a.test", "c@a.test", "d@a.test", "e@a.test", "f@a.test"];
    for window in [2, 3, 64] {
        let messages = froms.iter().map(|from| message(from, &[*from], from.as_bytes())).collect();
        let mut setup = setup(messages);
        setup.client.window = window;
        let outcome = outcome(&setup);
        assert_eq!(outcome.taken.len(), froms.len());
        for (from, (mail, to, body)) in froms.iter().zip(&outcome.taken) {
            assert_eq!((mail, &to[0]), (&format!("<{from}>"), &format!("<{from}>")));
            assert_eq!(body, from.as_bytes());
        }
    }
}

#[test]
fn large_content_arrives_whole() {
    let content: Vec<u8> =
        (0..200_000).flat_map(|n: u32| if n.is_multiple_of(60) { *b"\r\n" } else { *b".." }).collect();
    for way in ways() {
        let mut large = message("a@a.test", &["b@b.test"], &content);
        large.chunk = 50_000;
        let mut setup = setup(vec![large, message("a@a.test", &["b@b.test"], BODY)]);
        way(&mut setup.client);
        let (whole, ..) = run(&setup, Travel::Whole);
        assert_eq!(whole.results, [["Content 250"], ["Content 250"]]);
        let got = &whole.taken[0].2;
        assert!(*got == content || got.strip_suffix(b"\r\n") == Some(&content), "{}", got.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Content arrives as it was, with an end for its last line by DATA, or not at all.
    #[test]
    fn any_content_arrives_as_it_was_or_never_leaves(
        content in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'x'), any::<u8>()], 0..200),
        chunk in 1_usize..50,
        chunking: bool,
        one_by_one: bool,
    ) {
        let mut any = message("a@a.test", &["b@b.test"], &content);
        any.chunk = chunk;
        let mut setup = setup(vec![any]);
        setup.client.chunking = chunking;
        let (outcome, ..) = run(&setup, if one_by_one { Travel::OneByOne } else { Travel::Whole });
        let clean = postroad::smtp::data::is_clean(&content);
        let nul_line = content.starts_with(b"\0") || content.windows(3).any(|three| three == b"\r\n\0");
        if !clean || nul_line {
            prop_assert_eq!(outcome.failure.as_deref(), Some("Abandoned"));
            prop_assert!(outcome.taken.is_empty());
            return Ok(());
        }
        prop_assert_eq!(&outcome.results, &vec![vec!["Content 250".to_owned()]]);
        let mut ended = content;
        if !chunking && !ended.is_empty() && !ended.ends_with(b"\r\n") {
            ended.extend_from_slice(b"\r\n");
        }
        prop_assert_eq!(outcome.taken[0].2.as_slice(), ended.as_slice());
    }
}
