//! A server with a will of its own, which keeps the truth about what it took.

use std::collections::{HashMap, VecDeque};

use postroad::clock::Rng;

use crate::seeds::{below, one_in, pick};

/// Whether it keeps to the RFCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It refuses what it likes and leaves when it likes, but what it says answers what was said.
    Lawful,
    /// It says anything at any time.
    Hostile,
}

/// What it knows about a transaction.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    /// All of the content was received.
    pub whole: bool,
    /// And answered with a 2xx.
    pub taken: bool,
    /// Which recipients were accepted before.
    pub accepted: Vec<usize>,
    pub content: Vec<u8>,
}

enum State {
    Command,
    Data,
    /// So many octets are left; LAST; is refused.
    Chunk(usize, bool, bool),
}

pub struct Host<'a> {
    rng: &'a Rng,
    kind: Kind,
    pub out: VecDeque<u8>,
    /// It sends nothing more.
    pub has_left: bool,
    pipelining: bool,
    chunking: bool,
    old: bool,
    state: State,
    input: Vec<u8>,
    /// Octets of content at the front of the input that hold no end.
    looked: usize,
    /// The transaction it is in, and whether a BDAT of it failed.
    open: Option<(usize, bool)>,
    content: Vec<u8>,
    truths: HashMap<usize, Truth>,
    lines: Vec<String>,
    greeted: bool,
}

impl<'a> Host<'a> {
    pub fn new(rng: &'a Rng, kind: Kind) -> Self {
        let mut host = Self {
            rng,
            kind,
            out: VecDeque::new(),
            has_left: false,
            pipelining: !one_in(rng, 4),
            chunking: !one_in(rng, 3),
            old: one_in(rng, 12),
            state: State::Command,
            input: Vec::new(),
            looked: 0,
            open: None,
            content: Vec::new(),
            truths: HashMap::new(),
            lines: Vec::new(),
            greeted: false,
        };
        let code = if one_in(rng, 60) { 554 } else { 220 };
        host.say(code, "");
        host
    }

    pub fn truth(&self, number: usize) -> Truth {
        self.truths.get(&number).cloned().unwrap_or_default()
    }

    /// The commands it was given.
    pub fn heard(&self) -> &[String] {
        &self.lines
    }

    /// Takes octets; `chained` tells which transactions were begun behind an open one.
    pub fn hear(&mut self, octets: &[u8], chained: &[bool]) {
        if self.has_left {
            return;
        }
        self.input.extend_from_slice(octets);
        while !self.has_left && self.go_on(chained) {}
    }

    fn go_on(&mut self, chained: &[bool]) -> bool {
        match self.state {
            State::Command => {
                let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") else {
                    assert!(self.input.len() < 2000 || self.kind == Kind::Hostile, "a command without end");
                    return false;
                };
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                let line = String::from_utf8(line[..end].to_vec()).unwrap();
                assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
                self.command(&line, chained);
                self.lines.push(line);
            }
            State::Data => {
                let from = std::mem::replace(&mut self.looked, self.input.len().saturating_sub(4));
                let Some(end) = end_of_data(&self.input, from) else { return false };
                self.looked = 0;
                let wire: Vec<u8> = self.input.drain(..end).collect();
                self.content = unstuffed(&wire);
                self.state = State::Command;
                self.end();
            }
            State::Chunk(left, last, refused) => {
                let count = left.min(self.input.len());
                let octets = self.input.drain(..count);
                if refused {
                    octets.for_each(drop);
                } else {
                    self.content.extend(octets);
                }
                if left > count {
                    self.state = State::Chunk(left - count, last, refused);
                    return false;
                }
                self.state = State::Command;
                match (refused, last) {
                    (true, _) => self.say(503, ""),
                    (false, true) => self.end(),
                    (false, false) if one_in(self.rng, 12) => {
                        self.open = self.open.map(|(number, _)| (number, true));
                        self.say(452, "");
                    }
                    (false, false) => self.say(250, ""),
                }
            }
        }
        true
    }

    fn command(&mut self, line: &str, chained: &[bool]) {
        let verb = line.split(' ').next().unwrap();
        match verb {
            "EHLO" if self.old => self.say(500, ""),
            "EHLO" => {
                let mut text = String::from("mx.test");
                text += if self.pipelining { "\nPIPELINING" } else { "" };
                text += if self.chunking { "\nCHUNKING" } else { "" };
                text += pick(self.rng, &["", "\nSIZE 0", "\nSIZE 10000000\n8BITMIME"]);
                self.say(250, &text);
            }
            "HELO" => self.say(250, ""),
            "MAIL" => self.mail(line, chained),
            "RCPT" => self.rcpt(line),
            "DATA" => {
                let accepted = self.open.map(|(number, dead)| (self.truth(number).accepted.len(), dead));
                match accepted {
                    None | Some((_, true)) => self.say(503, ""),
                    // RFC 2920 §3.1: some say 354 for nobody.
                    Some((0, _)) if one_in(self.rng, 2) => self.say(554, ""),
                    Some(_) if one_in(self.rng, 16) => self.say(451, ""),
                    Some(_) => {
                        self.content.clear();
                        self.state = State::Data;
                        self.say(354, "");
                    }
                }
            }
            "BDAT" => {
                let mut words = line.split(' ').skip(1);
                let size = words.next().unwrap().parse().unwrap();
                let last = words.next() == Some("LAST");
                let refused =
                    self.open.is_none_or(|(number, dead)| dead || self.truth(number).accepted.is_empty());
                self.state = State::Chunk(size, last, refused);
            }
            "RSET" => {
                self.open = None;
                self.say(if one_in(self.rng, 80) { 451 } else { 250 }, "");
            }
            "QUIT" => {
                self.say(221, "");
                self.has_left = true;
            }
            _ => {
                // Content, for who said 354 and did not mean it.
                assert_eq!(self.kind, Kind::Hostile, "{line:?} is none of the client's commands");
                self.say(500, "");
            }
        }
    }

    fn mail(&mut self, line: &str, chained: &[bool]) {
        let number = between(line, "<m", "@");
        if self.kind == Kind::Lawful {
            assert!(self.open.is_none(), "MAIL within a transaction: {line}, {:?}", self.lines);
        }
        if chained[number - 1] {
            assert_eq!(self.lines.last().map(String::as_str), Some("RSET"), "in front of {line}");
        }
        assert!(self.truths.keys().all(|known| *known < number), "{line} comes late");
        self.truths.insert(number, Truth::default());
        if self.open.is_some() {
            return self.say(503, "");
        }
        let code = pick(self.rng, &[250, 250, 250, 250, 250, 250, 250, 250, 250, 450, 550]);
        if code == 250 {
            self.open = Some((number, false));
            self.content.clear();
        }
        self.say(code, "");
    }

    fn rcpt(&mut self, line: &str) {
        let Some((number, false)) = self.open else { return self.say(503, "") };
        if between(line, ".", "@") != number {
            // Only who lied about what is open gets here.
            assert_eq!(self.kind, Kind::Hostile, "a recipient of another transaction: {line}");
            return self.say(503, "");
        }
        let code = pick(self.rng, &[250, 250, 250, 250, 251, 450, 550, 452]);
        if code / 100 == 2 {
            self.truths.get_mut(&number).unwrap().accepted.push(between(line, "<r", "."));
        }
        self.say(code, "");
    }

    /// All of the content is there.
    fn end(&mut self) {
        let Some((number, _)) = self.open else { return self.say(503, "") };
        let code = pick(self.rng, &[250, 250, 250, 250, 250, 451, 554]);
        let truth = self.truths.get_mut(&number).unwrap();
        truth.whole = true;
        truth.content = std::mem::take(&mut self.content);
        let nobody = truth.accepted.is_empty();
        truth.taken = code == 250 && !nobody;
        // Some keep the envelope of what they refused.
        if code == 250 || one_in(self.rng, 2) {
            self.open = None;
        }
        let before = self.out.len();
        self.say(if nobody { 554 } else { code }, "");
        if self.out.len() == before || self.has_left {
            // What it says last is perhaps not what it did.
            let said = &self.out.iter().copied().skip(before).collect::<Vec<u8>>();
            let truth = self.truths.get_mut(&number).unwrap();
            truth.taken &= said.is_empty() || said.starts_with(b"2");
        }
    }

    /// A reply; or, from time to time, something else.
    fn say(&mut self, code: u16, text: &str) {
        if self.greeted && one_in(self.rng, 250) {
            // RFC 5321 §3.8: at any time.
            self.write(421, "");
            self.has_left = true;
            return;
        }
        if one_in(self.rng, 250) {
            self.has_left = true;
            return;
        }
        let first = !std::mem::replace(&mut self.greeted, true);
        if self.kind == Kind::Lawful || first || !one_in(self.rng, 12) {
            return self.write(code, text);
        }
        match below(self.rng, 9) {
            0 => {}
            1 => {
                self.write(code, text);
                self.write(code, text);
            }
            2 => self.write(354, text),
            3 => self.write(250, text),
            4 => self.out.extend(b"what?\r\n"),
            5 => self.out.extend(b"250-one\r\n550 other\r\n"),
            6 => self.out.extend(b"250-"),
            7 => self.out.extend([b'2'; 5000]),
            _ => {
                for _ in 0..20 {
                    self.write(250, text);
                }
            }
        }
    }

    fn write(&mut self, code: u16, text: &str) {
        let text = if text.is_empty() { pick(self.rng, &["as you say", "", "one\ntwo"]) } else { text };
        let lines: Vec<&str> = text.split('\n').collect();
        for (at, line) in lines.iter().enumerate() {
            let mark = if at + 1 == lines.len() { ' ' } else { '-' };
            self.out.extend(format!("{code}{mark}{line}\r\n").bytes());
        }
    }
}

/// The number between these.
fn between(line: &str, before: &str, behind: &str) -> usize {
    let rest = &line[line.find(before).unwrap() + before.len()..];
    rest[..rest.find(behind).unwrap()].parse().unwrap()
}

/// Where the content ends, its end included (RFC 5321 §4.1.1.4).
fn end_of_data(wire: &[u8], from: usize) -> Option<usize> {
    if wire.starts_with(b".\r\n") {
        return Some(3);
    }
    wire[from..].windows(5).position(|five| five == b"\r\n.\r\n").map(|at| from + at + 5)
}

/// RFC 5321 §4.5.2
fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let body = &wire[..wire.len() - 3];
    let mut content = Vec::new();
    for line in body.split_inclusive(|octet| *octet == b'\n') {
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    content
}
