//! A dialogue is a script of lines; the session must produce just those that are its own.
//!
//! ```text
//! S: 220 mx            the server sends a line; consecutive ones arrive together
//! C: EHLO me.test      the session writes a line; consecutive ones are one write, `--` begins another
//! C! AUTH PLAIN …      the same, marked as secret
//! E: ready             the session tells its caller
//! TLS                  the session asks for a handshake, which succeeds
//! H: send a b          the host begins a transaction to a@x.test and b@x.test; `body=…` (\n is CRLF),
//!                      `size=…` (octets of filler), `piece=…` (given so many at a time), `mail=…` and `rcpt=…` (arguments, + is space)
//! H: stall 3           the transport takes 3 more octets and then none
//! H: drain             … and takes all again
//! H: eof | timeout | quit | reset | wait 299
//! CLOSED               the session is over
//! ```
//! Unless it is `glued`, a dialogue runs again with the server's octets cut at every place and the
//! content given octet by octet; what is written and what is told must stay the same.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use postroad::smtp::address::EhloName;
use postroad::smtp::client::{Config, Event, RecipientResult, Session, TlsUse, Transaction};
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::{Input, Output, TlsInfo};

pub(crate) fn config() -> Config {
    Config::new(EhloName::new("me.test").unwrap(), TlsUse::Never)
}

/// Runs the dialogue whole, then cut.
pub(crate) fn dialogue(config: &Config, script: &str) {
    glued(config, script);
    let octets = script.lines().filter_map(|l| l.trim().strip_prefix("S: ")).map(|l| l.len() + 2).sum();
    let whole = Peer::run(config, script, None);
    for cut in 1..octets {
        let peer = Peer::run(config, script, Some(cut));
        assert_eq!(peer.events, whole.events, "cut at {cut}:\n{}", peer.trace);
        assert_eq!(peer.wire, whole.wire, "cut at {cut}:\n{}", peer.trace);
    }
}

/// Runs the dialogue whole only: what arrives together matters in it.
pub(crate) fn glued(config: &Config, script: &str) {
    let wanted = script.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
    let trace = Peer::run(config, script, None).trace;
    assert!(trace.trim() == wanted, "--- wanted:\n{wanted}\n--- got:\n{trace}");
}

/// The session with everything around it.
pub(crate) struct Peer {
    pub(crate) session: Session,
    pub(crate) trace: String,
    /// All that was sent, wherever the writes ended.
    pub(crate) wire: String,
    pub(crate) events: Vec<String>,
    now: Instant,
    until: Option<Instant>,
    /// How many octets the transport takes.
    room: usize,
    unsent: usize,
    contents: HashMap<u64, Bytes>,
    /// How many octets of content are given at once.
    piece: usize,
    input: BytesMut,
    /// After so many octets of the server's the session sees what it has.
    cut: Option<usize>,
}

impl Peer {
    pub(crate) fn new(config: &Config) -> Self {
        #[allow(clippy::disallowed_methods, reason = "some instant is needed to count from")]
        let now = Instant::now();
        let mut peer = Self {
            session: Session::new(config.clone(), now),
            trace: String::new(),
            wire: String::new(),
            events: Vec::new(),
            now,
            until: None,
            room: usize::MAX,
            unsent: 0,
            contents: HashMap::new(),
            piece: usize::MAX,
            input: BytesMut::new(),
            cut: None,
        };
        peer.settle();
        peer
    }

    pub(crate) fn run(config: &Config, script: &str, cut: Option<usize>) -> Self {
        let mut peer = Self::new(config);
        peer.cut = cut;
        let mut lines = script.lines().map(str::trim).filter(|l| !l.is_empty()).peekable();
        while let Some(line) = lines.next() {
            if let Some(reply) = line.strip_prefix("S: ") {
                writeln!(peer.trace, "{line}").unwrap();
                let more = lines.peek().is_some_and(|l| l.starts_with("S: "));
                peer.server(&format!("{reply}\r\n"), more);
            } else if let Some(command) = line.strip_prefix("H: ") {
                writeln!(peer.trace, "{line}").unwrap();
                peer.host(command);
            }
        }
        peer
    }

    /// Octets from the server; with `more`, they are seen only with what comes next.
    fn server(&mut self, text: &str, more: bool) {
        for octet in text.bytes() {
            self.input.extend_from_slice(&[octet]);
            if let Some(left) = &mut self.cut {
                *left = left.wrapping_sub(1);
                if *left == 0 {
                    self.read();
                }
            }
        }
        if !more {
            self.read();
        }
    }

    pub(crate) fn read(&mut self) {
        let mut input = std::mem::take(&mut self.input);
        self.session.handle(self.now, Input::Data(&mut input));
        self.input = input;
        self.settle();
    }

    /// What the server says, at once.
    pub(crate) fn say(&mut self, text: &str) {
        self.input.extend_from_slice(text.as_bytes());
        self.read();
    }

    pub(crate) fn host(&mut self, line: &str) {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "send" => self.begin(rest),
            "stall" => self.room = rest.parse().unwrap(),
            "drain" => {
                self.room = usize::MAX;
                self.sent();
            }
            "wait" => self.now += Duration::from_secs(rest.parse().unwrap()),
            "eof" => self.session.handle(self.now, Input::Eof),
            "timeout" => {
                self.now = self.until.expect("a wait has an end");
                self.session.handle(self.now, Input::Timeout);
            }
            "quit" => self.session.quit(self.now),
            "reset" => self.session.reset(),
            _ => panic!("{line}"),
        }
        self.settle();
    }

    fn begin(&mut self, words: &str) {
        let (mut mail, mut recipients) = (Mail::parse("<s@a.test>").unwrap(), Vec::new());
        let mut content = Bytes::from_static(b"Hi\r\n");
        for word in words.split(' ') {
            match word.split_once('=') {
                Some(("body", body)) => content = body.replace("\\n", "\r\n").into_bytes().into(),
                Some(("size", size)) => content = vec![b'x'; size.parse().unwrap()].into(),
                Some(("piece", size)) => self.piece = size.parse().unwrap(),
                Some(("mail", argument)) => mail = Mail::parse(&argument.replace('+', " ")).unwrap(),
                Some(("rcpt", argument)) => {
                    recipients.push(Rcpt::parse(&argument.replace('+', " ")).unwrap());
                }
                _ => recipients.push(Rcpt::parse(&format!("<{word}@x.test>")).unwrap()),
            }
        }
        match self.session.begin(Transaction::new(mail, recipients, content.len() as u64)) {
            Ok(id) => {
                self.contents.insert(id, content);
            }
            Err(error) => self.tell(&format!("{error:?}")),
        }
    }

    fn tell(&mut self, event: &str) {
        writeln!(self.trace, "E: {event}").unwrap();
        self.events.push(event.to_owned());
    }

    /// Does what the session wants until it waits.
    pub(crate) fn settle(&mut self) {
        let mut writes = 0;
        loop {
            match self.session.poll() {
                Output::Send(octets) => self.write(&octets, "C:", &mut writes),
                Output::SendSecret(octets) => self.write(&octets, "C!", &mut writes),
                Output::StartTls => {
                    self.trace.push_str("TLS\n");
                    self.events.push("tls".into());
                    self.session.handle(self.now, Input::TlsReady(TlsInfo::new("TLSv1.3", "X")));
                }
                Output::Event(Event::WantBody { transaction }) => self.give(transaction),
                Output::Event(event) => self.tell(&show(&event)),
                Output::Wait { until } => {
                    self.until = until;
                    return;
                }
                Output::Closed => {
                    if !self.trace.ends_with("CLOSED\n") {
                        self.trace.push_str("CLOSED\n");
                    }
                    return;
                }
            }
        }
    }

    fn give(&mut self, transaction: u64) {
        let content = self.contents.get_mut(&transaction).unwrap();
        let size = if self.cut.is_some() { 1 } else { self.piece }.min(content.len());
        let chunk = content.split_to(size);
        let done = content.is_empty();
        if !chunk.is_empty() {
            self.session.body(chunk).unwrap();
        }
        if done {
            self.session.end_body().unwrap();
        }
    }

    fn write(&mut self, octets: &[u8], mark: &str, writes: &mut usize) {
        let text = String::from_utf8(octets.to_vec()).unwrap();
        if *writes > 0 {
            self.trace.push_str("--\n");
        }
        *writes += 1;
        if octets.len() > 4096 {
            writeln!(self.trace, "{mark} ({} octets)", octets.len()).unwrap();
        } else {
            for line in text.split_terminator("\r\n") {
                writeln!(self.trace, "{mark} {line}").unwrap();
            }
        }
        self.wire.push_str(&text);
        self.unsent += octets.len();
        self.sent();
    }

    fn sent(&mut self) {
        let taken = self.unsent.min(self.room);
        self.unsent -= taken;
        self.room -= if self.room == usize::MAX { 0 } else { taken };
        let step = if self.cut.is_some() { 7 } else { taken.max(1) };
        let mut left = taken;
        while left > 0 {
            let now = left.min(step);
            self.session.handle(self.now, Input::Sent(now));
            left -= now;
        }
    }
}

pub(crate) fn show(event: &Event) -> String {
    match event {
        Event::Ready => "ready".into(),
        Event::Reset => "reset".into(),
        Event::Done { transaction, result } => {
            let each = result.recipients.iter().map(|r| match r {
                RecipientResult::LeftOver => " left-over".into(),
                RecipientResult::Replied { phase, reply } => format!(" {phase:?}={}", reply.code()),
                RecipientResult::Unknown => " unknown".into(),
                RecipientResult::NotAttempted => " not-attempted".into(),
            });
            format!("done {transaction}{}", each.collect::<String>())
        }
        Event::Failed(failure) => {
            let text = format!("{failure:?}");
            match text.split_once("Reply {") {
                // Of a reply, the code is enough.
                Some((what, reply)) => {
                    let code: String = reply.chars().filter(char::is_ascii_digit).take(3).collect();
                    format!("failed {what}{code})").replace("Some(", "")
                }
                None => format!("failed {text}"),
            }
        }
        _ => format!("{event:?}"),
    }
}
