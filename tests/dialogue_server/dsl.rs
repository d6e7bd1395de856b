//! Dialogues as they look on the wire.
//!
//! `C: text` is a line of the client, `C> text` the same without CRLF and with escapes (`\r \n \0 \xNN`),
//! `S: text` the beginning of a line of the server; `S: 250...` is a whole reply of any number of lines.
//! Lines of the client that follow each other are one input. `E: text` is an event; when a dialogue
//! has any, all events are compared. `T: n` lets n seconds pass, `TLS` completes the handshake, `TRUST`
//! lets the peer say XCLIENT, `EOF` ends the client's side, `X` says that the session is over. Everything that the server says between
//! two inputs must be listed.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postroad::smtp::address::EhloName;
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::server::{AuthOffer, Config, Event, Session};
use postroad::smtp::{Input, Output, TlsInfo};

pub(crate) fn config() -> Config {
    let mut config = Config::new(EhloName::new("mx.test").unwrap());
    config.auth = AuthOffer::Never;
    config
}

/// Runs a dialogue under the usual configuration, uncut and cut at every octet.
#[track_caller]
pub(crate) fn dialogue(script: &str) {
    with(&config(), script);
}

/// The same under another configuration.
#[track_caller]
pub(crate) fn with(config: &Config, script: &str) {
    let steps = parse(script);
    let whole = run(config, &steps, &Cut::Never);
    check(script, &steps, &whole);
    let octets: usize =
        steps.iter().map(|step| if let Step::Client(octets) = step { octets.len() } else { 0 }).sum();
    for at in (1..octets).step_by(octets / 400 + 1) {
        let cut = run(config, &steps, &Cut::At(at));
        assert_eq!(whole, cut, "cut at octet {at} of {script}");
    }
    if octets < 5000 {
        assert_eq!(whole, run(config, &steps, &Cut::Everywhere), "one octet at a time: {script}");
    }
}

/// Runs a dialogue whose meaning depends on what comes in one piece, uncut.
#[track_caller]
pub(crate) fn uncut(config: &Config, script: &str) {
    let steps = parse(script);
    check(script, &steps, &run(config, &steps, &Cut::Never));
}

/// For each row a dialogue of its own behind `before`: a command and the beginning of its reply.
#[track_caller]
pub(crate) fn rows(config: &Config, before: &str, rows: &[(&str, &str)]) {
    for (command, reply) in rows {
        with(config, &format!("{before}\nC: {command}\nS: {reply}"));
    }
}

#[derive(Debug)]
enum Step {
    Client(Vec<u8>),
    Server(String),
    Event(String),
    Time(u64),
    Tls,
    Trust,
    Eof,
    Over,
}

enum Cut {
    Never,
    At(usize),
    Everywhere,
}

/// What was said and asked, in the pieces between two steps of the client.
#[derive(Debug, PartialEq, Eq, Default)]
pub(crate) struct Transcript {
    said: Vec<String>,
    events: Vec<String>,
    over: bool,
}

fn parse(script: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in script.lines().map(|line| line.trim_start()).filter(|line| !line.is_empty()) {
        let octets = match line.split_at_checked(2) {
            Some(("C:", text)) => [text.strip_prefix(' ').unwrap_or(text).as_bytes(), b"\r\n"].concat(),
            Some(("C>", text)) => unescape(text.strip_prefix(' ').unwrap_or(text)),
            Some(("S:", text)) => {
                steps.push(Step::Server(text.trim_start().to_owned()));
                continue;
            }
            Some(("E:", text)) => {
                steps.push(Step::Event(text.trim_start().to_owned()));
                continue;
            }
            Some(("T:", text)) => {
                steps.push(Step::Time(text.trim().parse().unwrap()));
                continue;
            }
            _ => {
                steps.push(match line.trim() {
                    "TLS" => Step::Tls,
                    "TRUST" => Step::Trust,
                    "EOF" => Step::Eof,
                    "X" => Step::Over,
                    other => panic!("what is {other:?}?"),
                });
                continue;
            }
        };
        match steps.last_mut() {
            Some(Step::Client(before)) => before.extend_from_slice(&octets),
            _ => steps.push(Step::Client(octets)),
        }
    }
    steps
}

fn unescape(text: &str) -> Vec<u8> {
    let (mut octets, mut rest) = (Vec::new(), text.bytes());
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'\\' => match rest.next().unwrap() {
                b'r' => b'\r',
                b'n' => b'\n',
                b'0' => 0,
                b'x' => {
                    let hex = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
                }
                other => other,
            },
            other => other,
        });
    }
    octets
}

fn run(config: &Config, steps: &[Step], cut: &Cut) -> Transcript {
    let mut peer = Peer::new(config);
    let mut done = 0;
    let mut transcript = Transcript::default();
    for step in steps {
        match step {
            Step::Client(octets) => {
                match cut {
                    Cut::At(at) if (done + 1..done + octets.len()).contains(at) => {
                        peer.feed(&octets[..at - done]);
                        peer.feed(&octets[at - done..]);
                    }
                    Cut::Everywhere => octets.chunks(1).for_each(|octet| peer.feed(octet)),
                    _ => peer.feed(octets),
                }
                done += octets.len();
            }
            Step::Time(seconds) => peer.pass(Duration::from_secs(*seconds)),
            Step::Tls => peer.tls(),
            Step::Eof => peer.eof(),
            Step::Trust => {
                peer.session.trust_xclient();
                continue;
            }
            Step::Server(_) | Step::Event(_) | Step::Over => continue,
        }
        transcript.said.push(std::mem::take(&mut peer.said));
    }
    transcript.events = peer.events;
    transcript.over = peer.over;
    transcript
}

#[track_caller]
fn check(script: &str, steps: &[Step], transcript: &Transcript) {
    let mut groups: Vec<Vec<&str>> = Vec::new();
    for step in steps {
        match step {
            Step::Client(_) | Step::Time(_) | Step::Tls | Step::Eof => groups.push(Vec::new()),
            Step::Server(text) => groups.last_mut().expect("the client begins").push(text),
            Step::Event(_) | Step::Over | Step::Trust => {}
        }
    }
    for (expected, said) in groups.iter().zip(&transcript.said) {
        let mut lines = said.lines();
        for pattern in expected {
            let Some(line) = lines.next() else {
                panic!("{pattern:?} was not said, only {said:?}, in {script}")
            };
            if let Some(start) = pattern.strip_suffix("...") {
                assert!(line.starts_with(start), "{pattern:?} is not {line:?} in {script}");
                let mut line = line;
                while line.as_bytes()[3] == b'-' {
                    line = lines.next().expect("the reply goes on");
                }
            } else {
                assert!(line.starts_with(pattern), "{pattern:?} is not {line:?} in {script}");
            }
        }
        let rest: Vec<&str> = lines.collect();
        assert!(rest.is_empty(), "{rest:?} was said too in {script}");
        each_reply_is_well_formed(said);
    }
    let events: Vec<&str> = steps
        .iter()
        .filter_map(|step| if let Step::Event(text) = step { Some(text.as_str()) } else { None })
        .collect();
    if !events.is_empty() {
        assert_eq!(transcript.events, events, "{script}");
    }
    assert_eq!(transcript.over, steps.iter().any(|step| matches!(step, Step::Over)), "over? {script}");
}

/// RFC 2034 §4; RFC 5321 §4.2.1
#[track_caller]
pub(crate) fn each_reply_is_well_formed(said: &str) {
    let mut hello = false;
    let mut inside = false;
    for line in said.split_inclusive("\r\n") {
        let line = line.strip_suffix("\r\n").expect("only CRLF ends a line");
        assert!(line.len() <= 510, "{line}");
        let (code, text) = (&line[..3], &line[4..]);
        if !inside {
            hello = text.starts_with("mx.test");
        }
        inside = line.as_bytes()[3] == b'-';
        if !hello && !code.starts_with('3') {
            assert!(text.starts_with(&format!("{}.", &code[..1])), "no enhanced code: {line}");
        }
    }
    assert!(!inside, "{said}");
}

/// A session, the host behind it and the socket before it.
pub(crate) struct Peer {
    pub(crate) session: Session,
    pub(crate) now: Instant,
    pub(crate) said: String,
    pub(crate) events: Vec<String>,
    pub(crate) over: bool,
    /// How often something was written.
    pub(crate) writes: usize,
    input: BytesMut,
    until: Option<Instant>,
    wants_tls: bool,
    body: Vec<u8>,
}

impl Peer {
    /// A session that has greeted.
    pub(crate) fn new(config: &Config) -> Self {
        let mut peer = Self::silent(config);
        peer.pump();
        assert!(peer.said.starts_with("220 mx.test "), "{}", peer.said);
        peer.said.clear();
        peer.writes = 0;
        peer
    }

    /// A session that was not asked for anything yet.
    pub(crate) fn silent(config: &Config) -> Self {
        #[allow(clippy::disallowed_methods, reason = "where time begins")]
        let now = Instant::now();
        let mut session = Session::new(config.clone(), now);
        session.set_wall(NOON, now);
        Self {
            session,
            now,
            said: String::new(),
            events: Vec::new(),
            over: false,
            writes: 0,
            input: BytesMut::new(),
            until: None,
            wants_tls: false,
            body: Vec::new(),
        }
    }

    pub(crate) fn feed(&mut self, octets: &[u8]) {
        if self.over {
            return;
        }
        self.input.extend_from_slice(octets);
        self.session.handle(self.now, Input::Data(&mut self.input));
        self.pump();
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        if self.until.is_some_and(|until| until <= self.now) {
            self.session.handle(self.now, Input::Timeout);
            self.pump();
        }
    }

    pub(crate) fn eof(&mut self) {
        self.session.handle(self.now, Input::Eof);
        self.pump();
    }

    pub(crate) fn tls(&mut self) {
        assert!(std::mem::take(&mut self.wants_tls), "TLS was not granted");
        assert!(self.input.is_empty());
        self.session.handle(self.now, Input::TlsReady(TlsInfo::new("TLSv1.3", "X")));
        self.pump();
    }

    pub(crate) fn pump(&mut self) {
        loop {
            if self.session.can_read_on() {
                self.session.handle(self.now, Input::Data(&mut self.input));
            }
            match self.session.poll() {
                Output::Send(octets) => {
                    self.writes += 1;
                    self.said.push_str(std::str::from_utf8(&octets).unwrap());
                    self.session.handle(self.now, Input::Sent(octets.len()));
                }
                Output::SendSecret(_) => panic!("a server has no secrets"),
                Output::StartTls => self.wants_tls = true,
                Output::Event(event) => self.event(event),
                Output::Wait { until } => {
                    self.until = until;
                    if !self.session.can_read_on() {
                        break;
                    }
                }
                Output::Closed => {
                    self.over = true;
                    break;
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        let (what, answer) = match event {
            Event::Hello { name, extended } => (format!("hello {name} {extended}"), None),
            Event::Auth(login) => {
                let answer = if login.password() == "right" {
                    reply(235, (2, 7, 0), "Welcome")
                } else {
                    reply(535, (5, 7, 8), "Wrong")
                };
                (
                    format!("auth {} {} {}", login.mechanism().as_str(), login.user(), login.password()),
                    Some(answer),
                )
            }
            Event::Mail(mail) => {
                let text = format!("mail {mail}");
                (text.clone(), Some(decision(&text, reply(250, (2, 1, 0), "Sender OK"))))
            }
            Event::Rcpt(rcpt) => {
                let text = format!("rcpt {rcpt}");
                (text.clone(), Some(decision(&text, reply(250, (2, 1, 5), "Recipient OK"))))
            }
            Event::MessageStart => {
                self.body.clear();
                ("start".to_owned(), None)
            }
            Event::Body(octets) => {
                assert!(!octets.is_empty());
                self.body.extend_from_slice(&octets);
                return;
            }
            Event::MessageEnd => {
                let text = format!("end {}", self.body.escape_ascii());
                (text.clone(), Some(decision(&text, reply(250, (2, 6, 0), "Taken"))))
            }
            Event::MessageAborted => ("aborted".to_owned(), None),
            Event::Vrfy(lookup) => {
                let text = format!("vrfy {} {}", lookup.text, lookup.smtputf8);
                (
                    text.clone(),
                    Some(decision(&text, reply(250, (2, 1, 5), &format!("<{}@b.test>", lookup.text)))),
                )
            }
            Event::Expn(lookup) => {
                let text = format!("expn {} {}", lookup.text, lookup.smtputf8);
                (text.clone(), Some(decision(&text, members(&lookup.text))))
            }
            Event::Xclient(told) => {
                let text = format!("xclient {:?} {:?}", told.address.value(), told.name.value());
                if text.contains("nobody") {
                    self.events.push(text);
                    return self.session.refuse(&reply(554, (5, 7, 1), "Not you"), self.now);
                }
                (text.clone(), Some(decision(&text, reply(250, (2, 0, 0), "Unheard"))))
            }
            Event::Quit => ("quit".to_owned(), None),
            other => panic!("{other:?}"),
        };
        let mut text = String::new();
        write!(text, "{what}").unwrap();
        self.events.push(text);
        if let Some(answer) = answer {
            assert!(self.session.is_paused());
            self.session.respond(answer).unwrap();
        }
    }
}

/// The people on a list: as many as its name says, else two.
fn members(list: &str) -> Reply {
    let count = list.parse().unwrap_or(2);
    let people: Vec<String> = (0..count).map(|n| format!("<{n}@b.test>")).collect();
    reply(250, (2, 1, 5), &people.join("\n"))
}

/// 2026-11-21T12:00:00Z, when every dialogue begins.
const NOON: u64 = 1_795_262_400;

/// The host's policy: what it is asked about says what it answers.
fn decision(text: &str, otherwise: Reply) -> Reply {
    if text.contains("nobody") {
        reply(550, (5, 1, 1), "No such user")
    } else if text.contains("later") {
        reply(450, (4, 2, 0), "Not now")
    } else if text.contains("begone") {
        reply(421, (4, 3, 2), "Going down")
    } else {
        otherwise
    }
}

pub(crate) fn reply(code: u16, (class, subject, detail): (u8, u16, u16), text: &str) -> Reply {
    Reply::new(code, EnhancedCode::new(class, subject, detail), text)
}
