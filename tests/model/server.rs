//! The server session under random clients: every reply, and what the session believes, is what the
//! table has.

use std::time::Instant;

use bytes::BytesMut;
use postroad::clock::Rng;
use postroad::smtp::address::EhloName;
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::server::{AuthOffer, Config, Event, Protocol, Session};
use postroad::smtp::{Input, Output, TlsInfo};

use crate::moves::{Answer, Mail, Move, path};
use crate::rules::{Message, Model, Setting, Wants, host, judged};
use crate::seeds::{below, histories, one_in, pick, pieces};

#[test]
fn every_reply_and_every_belief_is_what_the_table_of_states_has() {
    histories(4_000, |rng| play(rng, &setting(rng, false)));
}

#[test]
fn the_same_holds_for_lmtp() {
    histories(2_000, |rng| play(rng, &setting(rng, true)));
}

fn setting(rng: &Rng, lmtp: bool) -> Setting {
    let starttls = one_in(rng, 2);
    Setting {
        lmtp,
        starttls,
        require_tls: starttls && one_in(rng, 4),
        require_auth: one_in(rng, 6),
        binary: one_in(rng, 2),
        auth: pick(rng, &[[false, false], [false, true], [true, true]]),
        max_recipients: 1 + below(rng, 4),
        max_size: pick(rng, &[0, 40, 40, 100_000]),
    }
}

fn config(setting: &Setting) -> Config {
    let mut config = Config::new(EhloName::new("mx.test").unwrap());
    config.protocol = if setting.lmtp { Protocol::Lmtp } else { Protocol::Smtp };
    (config.starttls, config.require_tls) = (setting.starttls, setting.require_tls);
    (config.require_auth, config.binary) = (setting.require_auth, setting.binary);
    (config.max_recipients, config.max_message_size) = (setting.max_recipients, setting.max_size);
    config.auth = match setting.auth {
        [true, _] => AuthOffer::Always,
        [false, true] => AuthOffer::UnderTls,
        _ => AuthOffer::Never,
    };
    // What ends a session early has tests of its own.
    (config.max_errors, config.max_auth_failures, config.max_idle_commands) = (u32::MAX, u32::MAX, u32::MAX);
    config
}

fn play(rng: &Rng, setting: &Setting) {
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    let now = Instant::now();
    let mut peer = Peer {
        session: Session::new(config(setting), now),
        now,
        input: BytesMut::new(),
        said: Vec::new(),
        taken: Vec::new(),
        current: Message { from: String::new(), to: Vec::new(), content: Vec::new() },
        lmtp: setting.lmtp,
        over: false,
        wants_tls: false,
    };
    peer.pump();
    assert_eq!(replies(&std::mem::take(&mut peer.said)), [(220, false)]);
    let mut model = Model::new(*setting);
    let mut trace = Vec::new();
    for _ in 0..below(rng, 60) {
        let moves = group(rng, &model);
        let wire: Vec<u8> = moves.iter().flat_map(Move::wire).collect();
        trace.push(wire.escape_ascii().to_string());
        for piece in pieces(rng, &wire) {
            peer.feed(piece);
        }
        let said = std::mem::take(&mut peer.said);
        trace.push(said.escape_ascii().to_string());
        check(&mut model, &moves, &said, &trace);
        if model.wants == Wants::Handshake {
            assert!(std::mem::take(&mut peer.wants_tls), "{trace:#?}");
            peer.session.handle(now, Input::TlsReady(TlsInfo::new("TLSv1.3", "X")));
            peer.pump();
            model.encrypted();
        }
        compare(&peer, &model, &trace);
        if model.closed {
            return;
        }
    }
    peer.session.handle(now, Input::Eof);
    peer.pump();
    assert!(peer.over && peer.said.is_empty());
}

/// What a client sends at once: one move, or several where that is possible (RFC 2920 §3.1).
fn group(rng: &Rng, model: &Model) -> Vec<Move> {
    match model.wants {
        Wants::Content => return vec![Move::Content(content(rng))],
        Wants::AuthAnswer => return vec![Move::AuthAnswer(pick(rng, &ANSWERS))],
        _ => {}
    }
    let mut moves: Vec<Move> = (0..below(rng, 5)).map(|_| middle(rng)).collect();
    if one_in(rng, 2) {
        // Mail as it should be, or nearly.
        moves = vec![mail(rng)];
        moves.extend((0..below(rng, 4)).map(|_| Move::Rcpt(pick(rng, &RECIPIENTS))));
        if one_in(rng, 2) {
            return [moves, vec![Move::Data]].concat();
        }
    }
    moves.push(last(rng, model));
    moves
}

fn middle(rng: &Rng) -> Move {
    match below(rng, 16) {
        0..4 => mail(rng),
        4..9 => Move::Rcpt(pick(rng, &RECIPIENTS)),
        9..13 => Move::Bdat { octets: content(rng), last: one_in(rng, 3) },
        13 => Move::Rset,
        14 => Move::Noop,
        _ => Move::Garbage(pick(rng, &GARBAGE)),
    }
}

fn last(rng: &Rng, model: &Model) -> Move {
    // Without a hello nothing goes on.
    if model.hello.is_none() && !one_in(rng, 4) {
        let verb = if model.setting.lmtp { "LHLO" } else { pick(rng, &["EHLO", "EHLO", "HELO"]) };
        return Move::Hello { verb, named: true };
    }
    match below(rng, 24) {
        0 => Move::Hello { verb: pick(rng, &["EHLO", "HELO", "LHLO"]), named: !one_in(rng, 4) },
        1..9 => Move::Data,
        9..12 => Move::StartTls,
        12..15 => Move::Auth {
            mechanism: pick(rng, &["PLAIN", "PLAIN", "NONSUCH"]),
            initial: if one_in(rng, 2) { Some(pick(rng, &ANSWERS[..3])) } else { None },
        },
        15 if one_in(rng, 3) => Move::Quit,
        16 => Move::Vrfy,
        17 => Move::Expn,
        18 => Move::Help,
        _ => middle(rng),
    }
}

fn mail(rng: &Rng) -> Move {
    Move::Mail(Mail {
        from: pick(rng, &["yes", "yes", "yes", "", "no", "later", "gr\u{fc}n"]),
        size: if one_in(rng, 3) { Some(pick(rng, &[0, 40, 41, 1 << 40])) } else { None },
        binary: one_in(rng, 4),
        smtputf8: one_in(rng, 3),
        auth: one_in(rng, 8),
        unknown: one_in(rng, 12),
    })
}

/// Mostly sound; sometimes with what ends lines or messages for others, sometimes too large.
fn content(rng: &Rng) -> Vec<u8> {
    let words: &[&[u8]] = match below(rng, 3) {
        0 => &[b"x", b"\r\n", b".", b"..\r\n", b"\r\n.\r\nMAIL FROM:<evil@b.test>\r\n", b"\r", b"\n", b"\0"],
        _ => &[b"x", b"text\r\n", b".", b"\r\n", b"\r\n.", b"n", b"l", b"RSET\r\n"],
    };
    let octets: Vec<u8> = (0..below(rng, 8)).flat_map(|_| pick(rng, words).to_vec()).collect();
    octets
}

/// Each move of a group against its replies.
fn check(model: &mut Model, moves: &[Move], said: &[u8], trace: &[String]) {
    let replies = replies(said);
    let mut rest = &replies[..];
    for step in moves {
        if model.closed {
            break;
        }
        let expected = model.expected(step);
        let mut codes = Vec::new();
        for allowed in &expected {
            let Some(((code, enhanced), tail)) = rest.split_first() else {
                panic!("no reply to {step:?}: {trace:#?}")
            };
            assert!(allowed.contains(code), "{code} to {step:?}, not {allowed:?}: {trace:#?}");
            let bare = matches!(step, Move::Hello { .. }) && *code == 250 || *code == 354 || *code == 334;
            assert!(*enhanced != bare, "the enhanced code of {code} to {step:?}: {trace:#?}");
            codes.push(*code);
            rest = tail;
        }
        if let (Move::Hello { verb, .. }, [250]) = (step, &codes[..]) {
            announced(model, said, *verb != "HELO");
        }
        model.apply(step, &codes);
    }
    assert!(rest.is_empty(), "{rest:?} was said to nothing: {trace:#?}");
}

fn announced(model: &Model, said: &[u8], extended: bool) {
    let said = String::from_utf8_lossy(said);
    let has = |keyword: &str| said.lines().any(|line| line.get(4..).is_some_and(|l| l.starts_with(keyword)));
    assert_eq!(has("STARTTLS"), extended && model.setting.starttls && !model.tls, "{said}");
    assert_eq!(has("AUTH "), extended && model.offers_auth(), "{said}");
    assert_eq!(has("BINARYMIME"), extended && model.setting.binary, "{said}");
    for keyword in ["PIPELINING", "8BITMIME", "CHUNKING", "SIZE", "ENHANCEDSTATUSCODES", "SMTPUTF8", "DSN"] {
        assert_eq!(has(keyword), extended, "{keyword}: {said}");
    }
}

fn compare(peer: &Peer, model: &Model, trace: &[String]) {
    assert_eq!(peer.over, model.closed, "{trace:#?}");
    assert_eq!(peer.taken, model.taken, "{trace:#?}");
    if model.closed {
        return;
    }
    let session = &peer.session;
    assert_eq!(session.in_transaction(), model.transaction.is_some(), "{trace:#?}");
    let recipients = model.transaction.as_ref().map_or(0, |t| t.to.len());
    assert_eq!(session.recipients(), recipients, "{trace:#?}");
    assert_eq!(session.user().is_some(), model.user, "{trace:#?}");
    assert_eq!(session.is_encrypted(), model.tls, "{trace:#?}");
    assert_eq!(session.hello().is_some(), model.hello.is_some(), "{trace:#?}");
    assert_eq!(session.is_extended(), model.hello == Some(true), "{trace:#?}");
}

/// The codes of the replies, and whether each of their lines has an enhanced code of its class (RFC
/// 2034 §4).
fn replies(said: &[u8]) -> Vec<(u16, bool)> {
    let mut found = Vec::new();
    let mut before: Option<&str> = None;
    for line in std::str::from_utf8(said).unwrap().split_inclusive("\r\n") {
        let line = line.strip_suffix("\r\n").expect("only CRLF ends a line");
        assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
        let (code, text) = (&line[..3], &line[4..]);
        assert!(before.is_none_or(|first| first == code), "{line}");
        let enhanced = text.starts_with(&format!("{}.", &code[..1]));
        before = if line.as_bytes()[3] == b'-' { Some(code) } else { None };
        if before.is_none() {
            found.push((code.parse().unwrap(), enhanced));
        }
    }
    assert_eq!(before, None, "half a reply");
    found
}

struct Peer {
    session: Session,
    now: Instant,
    input: BytesMut,
    said: Vec<u8>,
    taken: Vec<Message>,
    current: Message,
    lmtp: bool,
    over: bool,
    wants_tls: bool,
}

impl Peer {
    fn feed(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        self.session.handle(self.now, Input::Data(&mut self.input));
        self.pump();
    }

    fn pump(&mut self) {
        loop {
            if self.session.can_read_on() {
                self.session.handle(self.now, Input::Data(&mut self.input));
            }
            match self.session.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    self.said.extend_from_slice(&octets);
                    self.session.handle(self.now, Input::Sent(octets.len()));
                }
                Output::StartTls => self.wants_tls = true,
                Output::Event(event) => self.host(event),
                Output::Wait { .. } if self.session.can_read_on() => {}
                Output::Wait { .. } => return,
                Output::Closed => {
                    self.over = true;
                    return;
                }
            }
        }
    }

    fn host(&mut self, event: Event) {
        let local = |path: &str| path.trim_matches(['<', '>']).split('@').next().unwrap_or("").to_owned();
        match event {
            Event::Auth(login) => self.answer(if login.password() == Some("right") { 235 } else { 535 }),
            Event::Mail(mail) => {
                self.current = Message { from: mail.from.to_string(), to: Vec::new(), content: Vec::new() };
                self.answer(host(&local(&self.current.from)));
            }
            Event::Rcpt(rcpt) => {
                let to = rcpt.to.to_string();
                let code = host(&local(&to));
                if code == 250 {
                    self.current.to.push(to);
                }
                self.answer(code);
            }
            Event::MessageStart | Event::MessageAborted => self.current.content.clear(),
            Event::Body(octets) => self.current.content.extend_from_slice(&octets),
            Event::MessageEnd => {
                let code = judged(&self.current.content);
                let codes: Vec<u16> = self
                    .current
                    .to
                    .iter()
                    .map(|to| if self.lmtp && *to == path("full") { 452 } else { code })
                    .collect();
                if codes.iter().any(|code| code / 100 == 2) {
                    self.taken.push(self.current.clone());
                }
                if self.lmtp {
                    let each: Vec<Reply> = codes.iter().map(|code| reply(*code)).collect();
                    self.session.respond_each(&each).unwrap();
                } else {
                    self.answer(code);
                }
            }
            // The question may be that of the next event.
            Event::Hello { .. } | Event::Quit => {}
            _ if self.session.is_paused() => self.answer(252),
            _ => {}
        }
    }

    fn answer(&mut self, code: u16) {
        self.session.respond(reply(code)).unwrap();
    }
}

fn reply(code: u16) -> Reply {
    Reply::new(code, EnhancedCode::new((code / 100) as u8, 0, 0), "as the host says")
}

const RECIPIENTS: [&str; 9] = ["yes", "yes", "other", "full", "no", "later", "gr\u{fc}n", "yes", "begone"];
const ANSWERS: [Answer; 4] = [Answer::Right, Answer::Wrong, Answer::NoBase64, Answer::Cancel];
const GARBAGE: [&[u8]; 10] = [
    b"XYZZY",
    b"",
    b"MAIL FROM:yes",
    b"MAIL FROM:<yes@b.test> SIZE=x",
    b"RCPT TO:<>",
    b"RCPT TO:<yes@b.test> NOTIFY=NEVER,DELAY",
    b"RSET now",
    b"NOOP\nRSET",
    b"RSET\rNOOP",
    b"QUIT\0",
];
