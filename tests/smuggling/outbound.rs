//! Out of the client session by DATA, as every kind of receiver sees it.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use postroad::smtp::address::{EhloName, ForwardPath, ReversePath};
use postroad::smtp::client::{BeginError, Config, Event, Feature, Session, TlsUse, Transaction};
use postroad::smtp::params::{BodyKind, Mail, Rcpt};
use postroad::smtp::{Input, Output};
use proptest::prelude::*;

use crate::receivers::{lenient, strict, without_nul};
use crate::{KNOWN, strings};

#[test]
fn every_string_of_six_look_alikes_leaves_as_one_message_or_not_at_all() {
    for length in 0..=6 {
        for string in strings(length) {
            check(&[b"x", &string[..], b"MAIL FROM:<evil@b.test>\r\n"].concat(), 1 + string.len() / 2);
        }
    }
}

#[test]
fn the_known_sequences_smuggle_nothing_out() {
    for (name, end) in KNOWN {
        let content = [b"x", end.as_bytes(), b"MAIL FROM:<evil@b.test>\r\n"].concat();
        for cut in 1..content.len() {
            let left = check(&content, cut);
            let harmless = ["\r\n..\r\n", "\r\n. \r\n", "\r\n.\0\r\n"].contains(&end);
            assert_eq!(left, harmless, "{name}");
        }
    }
}

#[test]
fn binary_content_never_leaves_by_data() {
    // RFC 3030 §3, whatever of it the server offers.
    for offers in ["", "250-BINARYMIME\r\n", "250-CHUNKING\r\n", "250-8BITMIME\r\n"] {
        let mut session = ready(offers);
        let transaction = transaction(BodyKind::Binary, 3);
        assert_eq!(session.begin(transaction), Err(BeginError::Lacks(Feature::Binary)), "{offers}");
        assert!(matches!(session.poll(), Output::Wait { .. }), "nothing was written");
    }
    let mut session = ready("250-BINARYMIME\r\n250-CHUNKING\r\n");
    session.begin(transaction(BodyKind::Binary, 3)).unwrap();
    assert!(!said(&mut session, b"\n.\n", 1).windows(4).any(|four| four == b"DATA"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_content_leaves_as_one_message_or_not_at_all(
        content in proptest::collection::vec(
            proptest::sample::select(&PARTS[..]),
            0..30,
        ),
        cut in 1_usize..40,
    ) {
        check(&content.concat(), cut);
    }
}

/// Sends `content` by DATA, in two pieces; whether it left. What left is one message for each receiver,
/// the same octets, with an end for its last line.
fn check(content: &[u8], cut: usize) -> bool {
    let mut session = ready("250-8BITMIME\r\n");
    session.begin(transaction(BodyKind::EightBit, content.len() as u64)).unwrap();
    let wire = said(&mut session, content, cut);
    let shown = content.escape_ascii();
    let start = wire.windows(6).position(|six| six == b"DATA\r\n").expect("DATA") + 6;
    let wire = &wire[start..];
    if session.is_closed() {
        // What of it left, if any did, holds no end for anybody.
        assert!(strict(wire).is_none() && lenient(wire).is_none() && without_nul(wire).is_none(), "{shown}");
        return false;
    }
    let mut ended = content.to_vec();
    if !ended.is_empty() && !ended.ends_with(b"\r\n") {
        ended.extend_from_slice(b"\r\n");
    }
    for receiver in [strict, lenient] {
        let received = receiver(wire).expect("an end");
        assert_eq!(received.behind.escape_ascii().to_string(), "", "{shown}");
        assert_eq!(received.content, ended, "{shown}");
    }
    let received = without_nul(wire).expect("an end");
    assert_eq!(received.behind.escape_ascii().to_string(), "", "{shown}");
    true
}

fn transaction(body: BodyKind, size: u64) -> Transaction {
    let mut mail = Mail::new(ReversePath::parse("a@a.test").unwrap());
    mail.body = body;
    Transaction::new(mail, vec![Rcpt::new(ForwardPath::parse("b@b.test").unwrap())], size)
}

/// A session with a server that offers PIPELINING and this.
fn ready(offers: &str) -> Session {
    let config = Config::new(EhloName::new("me.test").unwrap(), TlsUse::Never);
    let mut session = Session::new(config, now());
    hear(&mut session, "220 mx\r\n");
    while let Output::Send(octets) = session.poll() {
        session.handle(now(), Input::Sent(octets.len()));
    }
    hear(&mut session, &format!("250-mx\r\n{offers}250 PIPELINING\r\n"));
    while !matches!(session.poll(), Output::Wait { .. }) {}
    session
}

/// All that the session says for an open transaction whose envelope is accepted.
fn said(session: &mut Session, content: &[u8], cut: usize) -> Vec<u8> {
    let (head, tail) = content.split_at(cut.min(content.len()));
    let mut pieces = vec![Bytes::copy_from_slice(tail), Bytes::copy_from_slice(head)];
    pieces.retain(|piece| !piece.is_empty());
    let mut wire = Vec::new();
    let mut answered = false;
    loop {
        match session.poll() {
            Output::Send(octets) | Output::SendSecret(octets) => {
                wire.extend_from_slice(&octets);
                session.handle(now(), Input::Sent(octets.len()));
            }
            Output::Event(Event::WantBody { .. }) => {
                // What is refused ends the session, and that is looked at.
                let _ = match pieces.pop() {
                    Some(piece) => session.body(piece),
                    None => session.end_body(),
                };
            }
            Output::Event(_) | Output::StartTls => {}
            Output::Wait { .. } if !std::mem::replace(&mut answered, true) => {
                hear(session, "250 ok\r\n250 ok\r\n354 go\r\n");
            }
            Output::Wait { .. } | Output::Closed => return wire,
        }
    }
}

fn hear(session: &mut Session, wire: &str) {
    session.handle(now(), Input::Data(&mut BytesMut::from(wire)));
}

/// Mostly whole line ends, so that some of the content is sound.
const PARTS: [&[u8]; 12] =
    [b"\r\n", b"\r\n.", b"\r\n", b"\r\n", b"\r", b"\n", b".", b".", b"\0", b"x", b"x", b"\xfc"];

fn now() -> Instant {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    *START.get_or_init(Instant::now)
}
