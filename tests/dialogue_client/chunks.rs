//! Large content by several BDATs: what follows what, and what a refused one stops.

use bytes::Bytes;
use postroad::smtp::error::Misuse;
use proptest::prelude::*;

use crate::flights::CHUNKING;
use crate::harness::{config, glued};
use crate::limits::{self, Bare, WANT};

const MIB: usize = 1024 * 1024;
const ENVELOPE: &str = "C: MAIL FROM:<s@a.test>\nC: RCPT TO:<a@x.test>\nS: 250 ok\nS: 250 ok\n";
const NEXT: &str = "H: send b
    C: RSET
    C: MAIL FROM:<s@a.test>
    C: RCPT TO:<b@x.test>
    C: BDAT 4 LAST
    C: Hi\n";

fn chunking(script: &str) {
    glued(&config(), &format!("{CHUNKING}{script}"));
}

#[test]
fn no_chunk_waits_for_the_reply_to_the_one_before() {
    chunking(&format!(
        "H: send a size=2097153
         {ENVELOPE}
         C: BDAT 1048576
         --
         C: (1048576 octets)
         --
         C: BDAT 1048576
         --
         C: (1048576 octets)
         --
         C: BDAT 1 LAST
         C: x
         S: 250 ok
         S: 250 ok
         S: 250 taken
         E: done 1 Content=250
         H: send a
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: BDAT 4 LAST
         C: Hi"
    ));
    chunking(&format!(
        "H: send a size=1048576
         {ENVELOPE}
         C: BDAT 1048576 LAST
         --
         C: (1048576 octets)
         S: 250 taken
         E: done 1 Content=250"
    ));
}

#[test]
fn a_refused_chunk_kills_only_its_transaction() {
    // RFC 3030 §2. Of the chunk that is on its way the server counts the octets: it is completed, and
    // that is the end of it.
    for code in ["552", "451"] {
        let mut peer = limits::ready(limits::CHUNKING);
        peer.host("send a size=10000000 piece=262144");
        peer.host(&format!("stall {}", "BDAT 1048576\r\n".len() + MIB));
        peer.say("250 ok\r\n250 ok\r\n");
        peer.say(&format!("{code} no\r\n"));
        peer.host("drain");
        assert_eq!(peer.events, ["ready"]);
        peer.say("503 no\r\n");
        assert_eq!(peer.events[1..], [format!("done 1 Content={code}")]);
        assert_eq!(peer.wire.matches("BDAT 1048576\r\n").count(), 2);
        assert!(!peer.wire.contains("LAST") && peer.wire.len() < 3 * MIB);
        peer.wire.clear();
        peer.host("send b");
        assert!(peer.wire.starts_with("RSET\r\nMAIL"), "{}", peer.wire);
        peer.say("250 ok\r\n250 ok\r\n250 ok\r\n250 taken\r\n");
        assert_eq!(peer.events[2], "done 2 Content=250");
    }
}

#[test]
fn a_chunk_refused_between_two_ends_the_message_at_once() {
    let mut bare = begun(3 * MIB);
    assert_eq!(drain(&mut bare).1, [WANT]);
    bare.session.body(vec![b'x'; MIB].into()).unwrap();
    assert_eq!(drain(&mut bare).1, [WANT]);
    bare.say("554 no\r\n");
    let (writes, events) = drain(&mut bare);
    assert_eq!((writes.len(), events), (0, vec!["done 1 Content=554".to_owned()]));
    assert_eq!(bare.session.body("x".into()), Err(Misuse::NotWanted));
    assert!(bare.session.is_idle());
}

#[test]
fn what_is_given_of_a_message_that_was_refused_meanwhile_is_dropped() {
    let mut bare = begun(4 * MIB);
    for _ in 0..2 {
        drain(&mut bare);
        bare.session.body(vec![b'x'; MIB].into()).unwrap();
    }
    drain(&mut bare);
    bare.say("554 no\r\n");
    assert_eq!(bare.session.body("x".into()), Ok(()));
    assert_eq!(bare.session.end_body(), Ok(()));
    assert_eq!(drain(&mut bare), (Vec::new(), Vec::new()));
    bare.say("503 no\r\n");
    assert_eq!(drain(&mut bare).1, ["done 1 Content=554"]);
}

#[test]
fn every_chunk_behind_a_refused_one_has_its_reply_and_so_has_the_next_transaction() {
    for (last, result) in [("503 no", "Content=552"), ("250 taken", "unknown")] {
        chunking(&format!(
            "H: send a size=2097152
             {ENVELOPE}
             C: BDAT 1048576
             --
             C: (1048576 octets)
             --
             C: BDAT 1048576 LAST
             --
             C: (1048576 octets)
             {NEXT}S: 552 no
             S: {last}
             E: done 1 {result}
             S: 250 ok
             S: 250 ok
             S: 250 ok
             S: 250 taken
             E: done 2 Content=250"
        ));
    }
}

#[test]
fn a_refused_chunk_is_known_even_when_the_connection_dies() {
    for (before, result) in [("", "unknown"), ("S: 250 ok\n", "unknown"), ("S: 552 no\n", "Content=552")] {
        chunking(&format!(
            "H: send a size=2097152
             {ENVELOPE}
             C: BDAT 1048576
             --
             C: (1048576 octets)
             --
             C: BDAT 1048576 LAST
             --
             C: (1048576 octets)
             {before}H: eof
             E: done 1 {result}
             E: failed Lost
             CLOSED"
        ));
    }
    for (reply, result, failure) in
        [("421 bye", "Content=421", "Closing(421)"), ("354 what", "Content=354", "Protocol(WrongClass)")]
    {
        chunking(&format!(
            "H: send a size=2097152
             {ENVELOPE}
             C: BDAT 1048576
             --
             C: (1048576 octets)
             --
             C: BDAT 1048576 LAST
             --
             C: (1048576 octets)
             S: {reply}
             E: done 1 {result}
             E: failed {failure}
             CLOSED"
        ));
    }
}

#[test]
fn a_message_that_breaks_off_between_chunks_has_no_last() {
    let mut bare = begun(3 * MIB);
    let mut wire = drain(&mut bare).0;
    bare.session.body(vec![b'x'; MIB + 1].into()).unwrap();
    wire.extend(drain(&mut bare).0);
    assert_eq!(bare.session.end_body(), Err(Misuse::TooShort));
    wire.extend(drain(&mut bare).0);
    let wire = wire.concat();
    assert!(!wire.windows(4).any(|four| four == b"LAST") && wire.len() > MIB);
}

#[test]
fn so_many_chunks_may_be_unanswered_and_no_more() {
    let mut bare = begun(100 * MIB);
    let piece = Bytes::from(vec![b'x'; MIB]);
    let mut given = 0;
    while drain(&mut bare).1 == [WANT] {
        bare.session.body(piece.clone()).unwrap();
        given += 1;
    }
    assert_eq!(given, 16);
    bare.say("250 ok\r\n");
    assert_eq!(drain(&mut bare).1, [WANT]);
}

/// What comes while all that was written is sent.
fn drain(bare: &mut Bare) -> (Vec<Bytes>, Vec<String>) {
    let (mut writes, mut events) = bare.drain();
    let (more, later) = bare.drain();
    writes.extend(more);
    events.extend(later);
    (writes, events)
}

/// A transaction whose recipient is accepted, so that content is asked for.
fn begun(size: usize) -> Bare {
    let mut bare = Bare::new(config(), limits::CHUNKING);
    bare.begin(size as u64);
    bare.drain();
    bare.say("250 ok\r\n250 ok\r\n");
    bare
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn the_chunks_are_the_message_whatever_it_was_given_in(
        size in MIB + 1..4 * MIB,
        pieces in proptest::collection::vec(1_usize..2 * MIB, 1..5),
    ) {
        let mut bare = begun(size);
        let content: Vec<u8> = (0..size).map(|at| b'a' + u8::try_from(at % 23).unwrap()).collect();
        let (mut rest, mut pieces) = (&content[..], pieces.iter().cycle());
        let mut wire = Vec::new();
        while !rest.is_empty() {
            let (writes, events) = drain(&mut bare);
            wire.extend(writes);
            prop_assert_eq!(events, [WANT]);
            let (piece, behind) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
            bare.session.body(Bytes::copy_from_slice(piece)).unwrap();
            rest = behind;
        }
        bare.session.end_body().unwrap();
        wire.extend(drain(&mut bare).0);
        let wire = wire.concat();
        let (mut at, mut got, mut ended) = (0, Vec::new(), false);
        while at < wire.len() {
            prop_assert!(!ended);
            let line_end = at + wire[at..].iter().position(|octet| *octet == b'\n').unwrap();
            let line = std::str::from_utf8(&wire[at..line_end]).unwrap().trim_end();
            let length: usize = line.split(' ').nth(1).unwrap().parse().unwrap();
            ended = line.ends_with(" LAST");
            prop_assert!(ended || length == MIB, "{}", line);
            got.extend_from_slice(&wire[line_end + 1..line_end + 1 + length]);
            at = line_end + 1 + length;
        }
        prop_assert!(ended && got == content);
    }
}
