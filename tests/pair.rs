//! The client session against the server session, in memory: whatever pieces the octets travel in,
//! either way, the same messages arrive and the same results come back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "pair/link.rs"]
mod link;

use postroad::smtp::address::{EhloName, ForwardPath, ReversePath};
use postroad::smtp::error::Misuse;
use postroad::smtp::params::{BodyKind, Mail, Rcpt};
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::sasl::Credentials;
use postroad::smtp::server::AuthOffer;
use postroad::smtp::{client, server};
use proptest::prelude::*;

use link::run;

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
