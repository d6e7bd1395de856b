//! Whatever a server says, in whatever pieces: each recipient gets one result, and nothing is
//! delivered that a plain reading of the replies does not say.

use postroad::smtp::client::{Config, Protocol, TlsUse};
use postroad::smtp::sasl::Credentials;
use proptest::prelude::*;

use crate::harness::{Peer, config};

const LINES: [&str; 14] = [
    "250 ok",
    "250 2.0.0 ok",
    "250-more",
    "251 ok",
    "354 go",
    "450 no",
    "421 bye",
    "503 what",
    "550 5.1.1 no",
    "221 bye",
    "999 x",
    "",
    "25",
    "250\tok",
];

/// What becomes of two recipients sent by DATA in one flight, read off the replies in order. `None`
/// for what is not delivered.
fn delivered(replies: &[u16]) -> [bool; 2] {
    let ok = |at: usize| replies.get(at).is_some_and(|code| code / 100 == 2);
    // A 421, or a reply of a class that its command cannot have, ends it all.
    let end = replies
        .iter()
        .enumerate()
        .position(|(at, code)| *code == 421 || (code / 100 == 3) != (at == 3) && !(at == 3 && *code >= 400));
    let whole = end.is_none_or(|at| at > 4);
    let taken = whole && ok(0) && replies.get(3).is_some_and(|code| code / 100 == 3) && ok(4);
    [taken && ok(1), taken && ok(2)]
}

fn opening(config: &Config, ehlo: &str) -> Peer {
    let mut peer = Peer::new(config);
    peer.say("220 mx\r\n");
    peer.say(ehlo);
    peer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn delivered_is_what_the_replies_say(codes in proptest::collection::vec(
        prop_oneof![8 => Just(250_u16), 4 => Just(354), 1 => Just(450), 1 => Just(550), 1 => Just(421), 1 => Just(503)],
        0..6,
    )) {
        let mut peer = opening(&config(), "250-mx\r\n250 PIPELINING\r\n");
        peer.host("send a b");
        for code in &codes {
            peer.say(&format!("{code} x\r\n"));
        }
        if !peer.events.iter().any(|e| e.starts_with("done")) {
            peer.host("eof");
        }
        let done = peer.events.iter().find_map(|e| e.strip_prefix("done 1 ")).unwrap();
        let got: Vec<bool> = done.split(' ').map(|r| r == "Content=250").collect();
        prop_assert_eq!(got, delivered(&codes), "{:?} {}", codes, done);
    }

    #[test]
    fn every_transaction_is_told_once_and_in_order(
        lines in proptest::collection::vec(proptest::sample::select(&LINES[..]), 0..40),
        cuts in proptest::collection::vec(1_usize..30, 1..8),
        announced in 0_usize..3,
        chain: bool,
        lmtp: bool,
        stall in proptest::option::of(0_usize..300),
    ) {
        let mut config = config();
        config.chain = chain;
        if lmtp {
            config.protocol = Protocol::Lmtp;
        }
        config.window = 3;
        let ehlo = ["250 mx\r\n", "250-mx\r\n250 PIPELINING\r\n", "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n"];
        let mut peer = opening(&config, ehlo[announced]);
        if let Some(room) = stall {
            peer.host(&format!("stall {room}"));
        }
        let text = lines.iter().map(|l| format!("{l}\r\n")).collect::<String>();
        let (mut rest, mut cuts, mut begun) = (text.as_str(), cuts.iter().cycle(), 0);
        while !rest.is_empty() {
            if peer.session.can_begin() {
                begun += 1;
                peer.host("send a b body=one\\n.two");
            }
            let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            peer.say(now);
            rest = later;
        }
        peer.host("eof");
        let done = peer.events.iter().filter_map(|e| e.strip_prefix("done "));
        let numbers: Vec<&str> = done.map(|d| d.split(' ').next().unwrap()).collect();
        let wanted: Vec<String> = (1..=begun).map(|n: u32| n.to_string()).collect();
        prop_assert_eq!(numbers, wanted);
        let failed: Vec<_> = peer.events.iter().filter(|e| e.starts_with("failed")).collect();
        prop_assert_eq!(failed.len(), 1);
        prop_assert!(peer.events.last().unwrap().starts_with("failed"));
        prop_assert!(peer.session.is_closed());
    }

    #[test]
    fn any_octets_end_an_opening_in_a_failure_or_ready(
        pieces in proptest::collection::vec(proptest::collection::vec(
            prop_oneof![Just(b'2'), Just(b'5'), Just(b'0'), Just(b' '), Just(b'-'), Just(b'\r'), Just(b'\n'), any::<u8>()],
            0..20,
        ), 0..20),
    ) {
        let mut config = config();
        config.tls = TlsUse::IfOffered;
        config.credentials = Some(Credentials::new("tim", "secret"));
        let mut peer = opening(&config, "250-mx\r\n250-STARTTLS\r\n250 AUTH PLAIN LOGIN\r\n");
        for piece in pieces {
            let mut input = bytes::BytesMut::from(&piece[..]);
            #[allow(clippy::disallowed_methods, reason = "any instant will do")]
            let now = std::time::Instant::now();
            peer.session.handle(now, postroad::smtp::Input::Data(&mut input));
            peer.settle();
        }
        peer.host("eof");
        prop_assert!(peer.session.is_closed());
        prop_assert!(!peer.wire.contains("AUTH") || peer.events.contains(&"tls".to_owned()));
    }
}
