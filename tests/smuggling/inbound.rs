//! Into the server session: by DATA and by BDAT, cut everywhere.

use std::time::Instant;

use bytes::BytesMut;
use postroad::smtp::address::EhloName;
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::server::{Config, Event, Session};
use postroad::smtp::{Input, Output};

use crate::receivers::strict;
use crate::{KNOWN, strings};

const EVIL: &[u8] = b"MAIL FROM:<evil@b.test>\r\nRCPT TO:<victim@b.test>\r\n";

#[test]
fn every_string_of_six_look_alikes_is_one_message_however_it_is_cut_in_two() {
    for length in 0..=6 {
        strings(length).for_each(|string| by_data(&string));
    }
}

#[test]
fn the_known_sequences_smuggle_nothing_in() {
    for (name, end) in KNOWN {
        let mut peer = Peer::new();
        let wire = [b"x", end.as_bytes(), EVIL, b"\r\n.\r\n"].concat();
        peer.data(&wire, &[]);
        let harmless = end == "\r\n..\r\n" || end == "\r\n. \r\n";
        assert_eq!(peer.senders, ["<a@b.test>"], "{name}");
        assert_eq!(
            (peer.messages.len(), peer.refused()),
            (usize::from(harmless), usize::from(!harmless)),
            "{name}"
        );
        for at in 0..end.len() {
            // The same by chunks, whose border falls within it.
            let mut peer = Peer::new();
            let (head, tail) = end.as_bytes().split_at(at);
            peer.bdat(&[&[b"x", head].concat(), &[tail, EVIL].concat()]);
            assert_eq!(peer.senders, ["<a@b.test>"], "{name} by BDAT, cut at {at}");
            // No dot ends a chunk, so a dot and a NUL are content like any other, but where a line
            // begins with the NUL.
            let lines = !is_refused(&[b"x", end.as_bytes(), EVIL].concat());
            assert_eq!(peer.messages.len(), usize::from(lines), "{name} by BDAT, cut at {at}");
        }
    }
}

#[test]
fn every_string_of_five_look_alikes_is_one_message_wherever_chunks_end() {
    for length in 0..=5 {
        for string in strings(length) {
            let content = [b"x", &string[..], EVIL].concat();
            for cut in 1..=1 + string.len() {
                let mut peer = Peer::new();
                let (head, tail) = content.split_at(cut);
                peer.bdat(&[head, tail]);
                assert_eq!(peer.senders, ["<a@b.test>"], "{}", content.escape_ascii());
                let expected = if is_refused(&content) { Vec::new() } else { vec![content.clone()] };
                assert_eq!(peer.messages, expected, "{}", content.escape_ascii());
            }
        }
    }
}

#[test]
fn nul_is_content_but_where_a_line_begins() {
    // RFC 5321 §4.1.1.4 lets it pass, and who drops it may see a dot alone.
    for (content, taken) in [
        (&b"a\0b\r\n"[..], true),
        (b"a\0\r\n", true),
        (b"a\r\n \0.\r\n", true),
        (b"\0\r\n", false),
        (b"a\r\n\0\0.\0\r\n", false),
        (b"a\r\n\0b\r\n", false),
    ] {
        let mut peer = Peer::new();
        peer.data(&[content, b".\r\n"].concat(), &[]);
        assert_eq!(peer.messages.len(), usize::from(taken), "{}", content.escape_ascii());
        let mut peer = Peer::new();
        peer.bdat(&[content]);
        assert_eq!(peer.messages.len(), usize::from(taken), "{}", content.escape_ascii());
    }
}

/// One message with `string` behind some text, then what looks like a second envelope: whole, octet by
/// octet, and cut in two at each place in and behind the string.
fn by_data(string: &[u8]) {
    let wire = [b"x", string, EVIL, b"\r\n.\r\n"].concat();
    let received = strict(&wire).unwrap();
    let content = received.content.clone();
    let mut senders = vec!["<a@b.test>".to_owned()];
    // What stands behind a real end of data is commands, read by the same rule: CRLF ends them.
    let behind = String::from_utf8_lossy(&received.behind).into_owned();
    if behind.split("\r\n").any(|line| line == "MAIL FROM:<evil@b.test>") {
        senders.push("<evil@b.test>".into());
    }
    let mut ways: Vec<Vec<usize>> = (1..string.len() + 3).map(|cut| vec![cut]).collect();
    ways.push((1..wire.len()).collect());
    ways.push(Vec::new());
    for cuts in ways {
        let mut peer = Peer::new();
        peer.data(&wire, &cuts);
        let shown = wire.escape_ascii();
        assert_eq!(peer.senders, senders, "{shown}");
        if is_refused_by_data(&wire) {
            assert_eq!((peer.messages.len(), peer.refused()), (0, 1), "{shown}");
        } else {
            assert_eq!(peer.messages, std::slice::from_ref(&content), "{shown}");
            assert_eq!(peer.refused(), 0, "{shown}");
        }
    }
}

/// Whether content holds what is refused: bare CR or LF, or a line that begins with NUL.
fn is_refused(content: &[u8]) -> bool {
    let bare = (0..content.len()).any(|at| match content[at] {
        b'\r' => content.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || content[at - 1] != b'\r',
        _ => false,
    });
    bare || content.starts_with(b"\0") || content.windows(3).any(|three| three == b"\r\n\0")
}

/// The same of octets on the wire, whose end is found first.
fn is_refused_by_data(wire: &[u8]) -> bool {
    let received = strict(wire).unwrap();
    let octets = &wire[..wire.len() - received.behind.len() - 3];
    is_refused(octets) || is_refused(&received.content)
}

struct Peer {
    session: Session,
    now: Instant,
    input: BytesMut,
    said: Vec<u8>,
    senders: Vec<String>,
    current: Vec<u8>,
    messages: Vec<Vec<u8>>,
}

impl Peer {
    /// A session that waits for content.
    fn new() -> Self {
        #[allow(clippy::disallowed_methods, reason = "where time begins")]
        let now = Instant::now();
        let mut config = Config::new(EhloName::new("mx.test").unwrap());
        config.refuse_early_talk = false;
        let mut peer = Self {
            session: Session::new(config, now),
            now,
            input: BytesMut::new(),
            said: Vec::new(),
            senders: Vec::new(),
            current: Vec::new(),
            messages: Vec::new(),
        };
        peer.feed(b"HELO me\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<b@b.test>\r\n");
        peer
    }

    fn data(&mut self, wire: &[u8], cuts: &[usize]) {
        self.feed(b"DATA\r\n");
        self.said.clear();
        let mut done = 0;
        for cut in cuts.iter().copied().chain([wire.len()]) {
            self.feed(&wire[done..cut]);
            done = cut;
        }
    }

    fn bdat(&mut self, chunks: &[&[u8]]) {
        self.said.clear();
        for (at, chunk) in chunks.iter().enumerate() {
            let last = if at + 1 == chunks.len() { " LAST" } else { "" };
            self.feed(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
            self.feed(chunk);
        }
    }

    /// How many messages were refused for their octets.
    fn refused(&self) -> usize {
        self.said.windows(9).filter(|nine| nine == b"554 5.6.0").count()
    }

    fn feed(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        self.session.handle(self.now, Input::Data(&mut self.input));
        loop {
            if self.session.can_read_on() {
                self.session.handle(self.now, Input::Data(&mut self.input));
            }
            match self.session.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    self.said.extend_from_slice(&octets);
                    self.session.handle(self.now, Input::Sent(octets.len()));
                }
                Output::Event(event) => self.event(event),
                Output::Wait { .. } if self.session.can_read_on() => {}
                _ => return,
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Mail(mail) => self.senders.push(mail.from.to_string()),
            Event::MessageStart | Event::MessageAborted => self.current.clear(),
            Event::Body(octets) => self.current.extend_from_slice(&octets),
            Event::MessageEnd => self.messages.push(std::mem::take(&mut self.current)),
            _ => {}
        }
        if self.session.is_paused() {
            self.session.respond(Reply::new(250, EnhancedCode::new(2, 0, 0), "ok")).unwrap();
        }
    }
}
