//! Hosts that take less than a message has: it is converted for them, or the next host is asked.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "kit/carry.rs"]
mod carry;
#[path = "kit/mime.rs"]
mod mime;
#[path = "kit/peer.rs"]
mod peer;

use std::time::Duration;

use bytes::Bytes;
use postroad::BoxFuture;
use postroad::attempt::{Cause, ConnectFault, Feature, Job, Outcome, Report, RunEnd};
use postroad::clock::{Clock, SystemClock};
use postroad::hop::{Host, Refused, Require};
use postroad::message::body::{has_long_line, is_clean_crlf, is_seven_bit};
use postroad::message::convert::to_seven_bit;
use postroad::message::{Content, ReadBody};
use postroad::route::Hosts;
use postroad::smtp::params::BodyKind;
use proptest::prelude::*;

use carry::{first, in_memory, job, options, over_tcp, rcpts, run, run_at};
use mime::leaves;
use peer::{Authority, Peer, Talk};

const TEXT: &str = "Subject: x\r\n\r\n.Grüße\r\n";
const SIGNED: &str =
    "Content-Type: multipart/signed; boundary=\"b\"\r\n\r\n--b\r\n\r\né\r\n--b\r\n\r\nsig\r\n--b--\r\n";

/// A server with these extensions that takes everything.
fn offers(extensions: &'static str) -> impl Fn(Talk) -> BoxFuture<'static, ()> + Send + Sync + 'static {
    move |mut talk| {
        Box::pin(async move {
            talk.open(extensions).await;
            talk.take(usize::MAX).await;
        })
    }
}

fn with_body(body: BodyKind, content: impl Into<Bytes>) -> Job {
    let mut job = Job { content: Content::Whole(content.into()), ..job(Require::Opportunistic) };
    job.mail.body = body;
    job
}

fn eight(content: &'static str) -> Job {
    with_body(BodyKind::EightBit, content)
}

fn utf8(content: &'static str) -> Job {
    let mut job = eight(content);
    job.mail.smtputf8 = true;
    job
}

/// The content of each message that came by DATA.
fn taken(peer: &Peer) -> Vec<String> {
    let (mut messages, mut open) = (Vec::new(), None);
    for line in peer.heard() {
        match (&mut open, line.as_str()) {
            (None, "DATA") => open = Some(String::new()),
            (None, _) => {}
            (Some(_), ".") => messages.extend(open.take()),
            (Some(message), line) => {
                message.push_str(line.strip_prefix('.').unwrap_or(line));
                message.push_str("\r\n");
            }
        }
    }
    messages
}

fn lacks(outcome: &Outcome) -> (Feature, String) {
    let Outcome::Failed(cause @ Cause::Lacks { host, feature }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(cause.status(true), feature.status());
    (*feature, host.name.to_string())
}

/// Pieces of a body that is not in memory.
struct Pieces(Vec<Bytes>);

impl ReadBody for Pieces {
    fn chunk(&mut self) -> BoxFuture<'_, std::io::Result<Option<Bytes>>> {
        let next = (!self.0.is_empty()).then(|| self.0.remove(0));
        Box::pin(async { Ok(next) })
    }
}

fn streamed(content: &str) -> Content {
    let pieces = content.as_bytes().chunks(1000).map(Bytes::copy_from_slice).collect();
    Content::Stream { size: content.len() as u64, reader: Box::new(Pieces(pieces)) }
}

// Conversion

#[tokio::test(start_paused = true)]
async fn a_host_without_8bitmime_gets_what_decodes_to_the_original() {
    for extensions in ["", "PIPELINING", "PIPELINING SIZE"] {
        let peer = Peer::in_memory(65536, offers(extensions));
        let jobs =
            [eight(TEXT), Job { content: streamed(TEXT), ..eight("") }, eight("Subject: y\r\n\r\ny\r\n")];
        let (end, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, jobs).await;
        assert_eq!((end, work.delivered(), peer.connections()), (RunEnd::Drained, 3, 1), "{extensions}");
        let taken = taken(&peer);
        for message in &taken[..2] {
            assert!(message.is_ascii() && message.contains("quoted-printable"), "{message}");
            assert_eq!(leaves(message.as_bytes()), leaves(TEXT.as_bytes()));
        }
        assert_eq!(taken[2], "Subject: y\r\n\r\ny\r\n");
        assert_eq!(peer.count("MAIL") - peer.heard().iter().filter(|l| l.contains("BODY=")).count(), 3);
        if extensions.contains("SIZE") {
            assert!(peer.count(&format!("MAIL FROM:<s@client.test> SIZE={}", taken[0].len())) > 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_streamed_message_is_converted_too() {
    let long = format!("Subject: x\r\n\r\n{}", "größer als ein Stück\r\n".repeat(40_000));
    let peer = Peer::in_memory(65536, offers("PIPELINING"));
    let jobs = [Job { content: streamed(&long), ..eight("") }];
    let (_, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, jobs).await;
    assert_eq!(work.delivered(), 1, "{:?}", work.reports);
    assert_eq!(leaves(taken(&peer)[0].as_bytes()), leaves(long.as_bytes()));
}

#[tokio::test(start_paused = true)]
async fn binary_content_goes_to_a_host_without_chunking_as_base64() {
    let binary =
        "MIME-Version: 1.0\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\na\nb\0é";
    for extensions in ["PIPELINING", "PIPELINING 8BITMIME BINARYMIME", "PIPELINING 8BITMIME CHUNKING"] {
        let peer = Peer::in_memory(65536, offers(extensions));
        let carrier = in_memory(&peer, options());
        let jobs = [with_body(BodyKind::Binary, binary)];
        let (_, work) = run(&carrier, &peer, Require::Opportunistic, jobs).await;
        assert_eq!(work.delivered(), 1, "{extensions}: {:?}", work.reports);
        assert!(peer.heard().iter().all(|line| !line.contains("BODY=")));
        if !extensions.contains("CHUNKING") {
            assert_eq!(leaves(taken(&peer)[0].as_bytes()), leaves(binary.as_bytes()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_takes_eight_bits_gets_the_original_also_after_a_conversion() {
    let stored = Bytes::from(TEXT);
    let less = Peer::in_memory(65536, offers("PIPELINING"));
    let more = Peer::in_memory(65536, offers("PIPELINING 8BITMIME"));
    for (peer, original) in [(&less, false), (&more, true)] {
        let jobs = [with_body(BodyKind::EightBit, stored.clone())];
        let (_, work) = run(&in_memory(peer, options()), peer, Require::Opportunistic, jobs).await;
        assert_eq!(work.delivered(), 1);
        assert_eq!(taken(peer)[0] == TEXT, original);
    }
    assert_eq!(more.count("MAIL FROM:<s@client.test> BODY=8BITMIME"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_converted_fails_with_the_reason() {
    let damaged =
        Job { content: Content::Stream { size: 99, reader: Box::new(Pieces(vec![])) }, ..eight("") };
    let jobs = [eight(SIGNED), eight("Subject: é\r\n\r\nx\r\n"), damaged, eight(TEXT)];
    let peer = Peer::in_memory(65536, offers("PIPELINING"));
    let (end, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, jobs).await;
    assert_eq!((end, work.delivered(), peer.count("MAIL")), (RunEnd::Drained, 1, 1));
    let features: Vec<_> = work.reports[..2]
        .iter()
        .map(|report| {
            let Report::Outcomes(outcomes) = report else { panic!() };
            lacks(&outcomes[0]).0
        })
        .collect();
    assert_eq!(features, [Feature::EightBit, Feature::SmtpUtf8]);
    assert_eq!(work.reports[2], Report::Outcomes(vec![Outcome::Deferred(Cause::Damaged)]));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_large_once_converted_is_told_as_such() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.say("220 mx.test").await;
        talk.until("EHLO").await;
        talk.say("250-mx.test\n250 SIZE 60").await;
        talk.take(9).await;
    });
    let (_, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, [eight(TEXT)]).await;
    assert_eq!(lacks(first(&work)).0, Feature::Size);
}

// The budget

#[tokio::test(start_paused = true)]
async fn conversions_wait_for_memory_and_what_is_larger_than_all_of_it_fails() {
    let text = |octets: usize| format!("Subject: x\r\n\r\né{}\r\n", "x\r\n".repeat(octets / 3));
    let mut options = options();
    options.conversion_memory = 52 * 1024;
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.open("PIPELINING").await;
        talk.until("DATA").await;
        talk.say("250 ok\n250 ok\n354 go").await;
        talk.until(".").await;
        tokio::time::sleep(Duration::from_secs(40)).await;
        talk.say("250 taken").await;
    });
    let carrier = in_memory(&peer, options);
    let one = || run(&carrier, &peer, Require::Opportunistic, [with_body(BodyKind::EightBit, text(10_000))]);
    let start = SystemClock.mono();
    let (a, b, c) = tokio::join!(one(), one(), one());
    assert!(SystemClock.mono().duration_since(start) >= Duration::from_secs(80));
    // One has waited for another, and one too long.
    let (taken, left): (Vec<_>, Vec<_>) = [a.1, b.1, c.1].into_iter().partition(|work| work.delivered() == 1);
    assert_eq!((taken.len(), left.len()), (2, 1));
    let Outcome::Deferred(Cause::Connect { fault, .. }) = first(&left[0]) else { panic!() };
    assert_eq!(*fault, ConnectFault::Local);
    let huge = [with_body(BodyKind::EightBit, text(11_000))];
    let (_, work) = run(&carrier, &peer, Require::Opportunistic, huge).await;
    assert_eq!(lacks(first(&work)).0, Feature::EightBit);
}

#[tokio::test(start_paused = true)]
async fn a_run_does_not_wait_for_memory_that_it_holds_itself() {
    let mut options = options();
    options.conversion_memory = 1024;
    options.client.session.chain = true;
    let peer = Peer::in_memory(65536, offers("PIPELINING"));
    let jobs = std::iter::repeat_with(|| eight(TEXT)).take(5);
    let start = SystemClock.mono();
    let (_, work) = run(&in_memory(&peer, options), &peer, Require::Opportunistic, jobs).await;
    assert_eq!((work.delivered(), SystemClock.mono().duration_since(start)), (5, Duration::ZERO));
}

// SMTPUTF8

#[tokio::test(start_paused = true)]
async fn smtputf8_is_dropped_where_nothing_needs_it() {
    let part = |head: &str| {
        let parts = format!("--b\r\n{head}\r\n\r\né\r\n--b--\r\n");
        Bytes::from(format!("Content-Type: multipart/mixed; boundary=\"b\"\r\n\r\n{parts}"))
    };
    let with = |content: Bytes| Job { content: Content::Whole(content), ..utf8("") };
    let to = |to: &str| Job { recipients: rcpts(&[to]), ..utf8("Subject: x\r\n\r\nx\r\n") };
    for (job, sent) in [
        (utf8("Subject: x\r\n\r\nx\r\n"), true),
        (utf8(TEXT), true),
        (to("r@bücher.test"), true),
        (with(part("Content-Type: image/png")), true),
        (utf8("Subject: é\r\n\r\nx\r\n"), false),
        (with(part("Content-Description: é")), false),
        (to("é@mx.test"), false),
    ] {
        for extensions in ["PIPELINING", "PIPELINING 8BITMIME"] {
            let peer = Peer::in_memory(65536, offers(extensions));
            let Content::Whole(content) = &job.content else { panic!() };
            let content = Content::Whole(content.clone());
            let again = Job {
                mail: job.mail.clone(),
                recipients: job.recipients.clone(),
                content,
                gate: None,
                ..job
            };
            let (_, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, [again]).await;
            if sent {
                assert_eq!(work.delivered(), 1, "{job:?} {extensions}: {:?}", work.reports);
                assert!(peer.heard().iter().all(|line| !line.contains("SMTPUTF8")));
                assert_eq!(peer.count("RCPT TO:<r@"), 1);
                assert!(peer.count("RCPT TO:<r@b") == 0, "in A-labels");
            } else {
                assert_eq!(lacks(first(&work)).0, Feature::SmtpUtf8, "{job:?}");
                assert_eq!(peer.count("MAIL"), 0);
            }
        }
    }
}

// The next host

#[tokio::test]
async fn the_next_host_is_asked_when_the_first_lacks_something() {
    let less = Peer::on_tcp(offers("PIPELINING")).await;
    let more = Peer::on_tcp(offers("PIPELINING 8BITMIME SMTPUTF8")).await;
    let hosts = Hosts::new(vec![less.host("mx1.test"), more.host("mx2.test")], Require::Opportunistic);
    let jobs = [eight(TEXT), eight(SIGNED), eight("Subject: x\r\n\r\nx\r\n")];
    let (end, work) = run_at(&over_tcp(None), &hosts, jobs).await;
    assert_eq!((end, work.delivered()), (RunEnd::Drained, 3), "{:?}", work.reports);
    assert_eq!((less.connections(), more.connections()), (1, 1));
    assert_eq!(taken(&more)[0], SIGNED, "untouched");
    // What is given is in order.
    let Report::Outcomes(outcomes) = &work.reports[1] else { panic!() };
    let Outcome::Delivered(accepted) = &outcomes[0] else { panic!() };
    assert_eq!(accepted.host.as_ref().unwrap().name.as_str(), "mx2.test");
}

#[tokio::test]
async fn only_when_every_host_lacks_something_a_message_fails_and_each_is_asked_once() {
    let one = Peer::on_tcp(offers("PIPELINING SMTPUTF8")).await;
    let two = Peer::on_tcp(offers("PIPELINING 8BITMIME")).await;
    let hosts =
        |a: &Peer, b: &Peer| Hosts::new(vec![a.host("mx1.test"), b.host("mx2.test")], Require::Opportunistic);
    for (hosts, says_most) in [(hosts(&one, &two), "mx2.test"), (hosts(&two, &one), "mx1.test")] {
        let mut needy = utf8(SIGNED);
        needy.recipients = rcpts(&["é@mx.test", "r@mx.test"]);
        let carrier = over_tcp(None);
        let (before, other) = (one.connections() + two.connections(), job(Require::Opportunistic));
        let (end, work) = run_at(&carrier, &hosts, [needy, other]).await;
        assert_eq!((end, work.delivered(), work.reports.len()), (RunEnd::Drained, 1, 2));
        assert_eq!(lacks(first(&work)), (Feature::SmtpUtf8, says_most.to_owned()));
        assert_eq!(one.connections() + two.connections(), before + 2);
    }
}

#[tokio::test]
async fn a_host_that_is_only_busy_may_have_what_the_others_lack() {
    let less = Peer::on_tcp(offers("PIPELINING")).await;
    for (greeting, deferred) in [("421 4.3.2 too busy", true), ("554 no mail here", false)] {
        let other = Peer::on_tcp(move |mut talk: Talk| async move { talk.say(greeting).await }).await;
        let hosts = Hosts::new(vec![less.host("mx1.test"), other.host("mx2.test")], Require::Opportunistic);
        let jobs = [eight(SIGNED), job(Require::Opportunistic)];
        let (end, work) = run_at(&over_tcp(None), &hosts, jobs).await;
        assert_eq!((end, work.delivered()), (RunEnd::Drained, 1));
        match first(&work) {
            Outcome::Deferred(Cause::Reply { .. }) => assert!(deferred),
            outcome => assert_eq!((lacks(outcome).0, deferred), (Feature::EightBit, false)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_hosts_are_asked_than_one_attempt_tries() {
    let peer = Peer::in_memory(65536, offers("PIPELINING"));
    let hosts = (0..9).map(|n| peer.host(&format!("mx{n}.test"))).collect();
    let carrier = in_memory(&peer, options());
    let (_, work) = run_at(&carrier, &Hosts::new(hosts, Require::Opportunistic), [eight(SIGNED)]).await;
    assert_eq!((lacks(first(&work)).0, peer.connections()), (Feature::EightBit, 5));
}

// REQUIRETLS

fn private() -> Job {
    let mut job = job(Require::Opportunistic);
    job.mail.require_tls = true;
    job
}

#[tokio::test]
async fn mail_with_requiretls_goes_to_proven_hosts_over_verified_tls_only() {
    let authority = Authority::new();
    let tls = authority.issue("mx1.test", 2030);
    let good = Peer::on_tcp(move |mut talk: Talk| {
        let tls = tls.clone();
        async move {
            talk.open("STARTTLS PIPELINING").await;
            talk.until("STARTTLS").await;
            talk.say("220 go").await;
            if talk.secure(&tls).await {
                talk.until("EHLO").await;
                talk.extensions("PIPELINING REQUIRETLS").await;
                talk.take(9).await;
            }
        }
    })
    .await;
    let clear = Peer::on_tcp(offers("PIPELINING")).await;
    let carrier = over_tcp(Some(&authority));
    let to = |hosts: Vec<Host>| Hosts::new(hosts, Require::Opportunistic);

    let proven = to(vec![clear.host("mx0.test"), good.host("mx1.test")]);
    let (end, work) = run_at(&carrier, &proven, [private(), job(Require::Opportunistic)]).await;
    assert_eq!((end, work.delivered(), clear.count("MAIL")), (RunEnd::Drained, 2, 0), "{:?}", work.reports);

    // RFC 8689 §4.2.1: it goes back to its sender at once. What asks for less is not kept from going.
    let unproven = to(vec![good.host("mx1.test")]).unproven();
    let (end, work) = run_at(&carrier, &unproven, [private(), job(Require::Opportunistic)]).await;
    assert_eq!((end, work.delivered()), (RunEnd::Drained, 1));
    assert_eq!(lacks(first(&work)), (Feature::RequireTls, "mx1.test".to_owned()));

    let (_, work) = run_at(&carrier, &to(vec![clear.host("mx0.test")]), [private()]).await;
    let Outcome::Failed(cause @ Cause::Tls { refused, .. }) = first(&work) else {
        panic!("{work:?}", work = work.reports)
    };
    assert_eq!((*refused, cause.status(true).to_string()), (Refused::NoTls, "5.7.10".to_owned()));

    // A host that cannot be reached may have it.
    let mut gone = good.host("mx2.test");
    gone.addresses = vec!["127.0.0.77".parse().unwrap()];
    let (_, work) = run_at(&carrier, &to(vec![clear.host("mx0.test"), gone]), [private()]).await;
    assert!(matches!(first(&work), Outcome::Deferred(_)), "{:?}", work.reports);
    assert_eq!(clear.count("MAIL"), 0);
}

// Any message

#[derive(Debug, Clone)]
enum Part {
    Leaf { kind: &'static str, encoding: &'static str, body: Vec<u8> },
    Many { preamble: String, parts: Vec<Self>, closed: bool },
    Message(Box<Self>),
}

fn write(part: &Part, boundaries: &mut usize, out: &mut Vec<u8>) {
    match part {
        Part::Leaf { kind, encoding, body } => {
            for (name, value) in [("Content-Type", kind), ("content-transfer-encoding", encoding)] {
                if !value.is_empty() {
                    out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
                }
            }
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(body);
        }
        Part::Message(inner) => {
            out.extend_from_slice(b"Content-Type: message/rfc822\r\n\r\nSubject: in\r\n side\r\n");
            write(inner, boundaries, out);
        }
        Part::Many { preamble, parts, closed } => {
            *boundaries += 1;
            let boundary = format!("=_{boundaries}");
            out.extend_from_slice(
                format!("Content-Type: multipart/mixed;\r\n\tboundary=\"{boundary}\"\r\n\r\n{preamble}")
                    .as_bytes(),
            );
            for part in parts {
                out.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
                write(part, boundaries, out);
            }
            if *closed {
                out.extend_from_slice(format!("\r\n--{boundary}-- \r\n").as_bytes());
            }
        }
    }
}

fn part() -> impl Strategy<Value = Part> {
    let kind = prop::sample::select(vec![
        "",
        "text/plain; charset=utf-8",
        "text/html; charset=utf-16",
        "image/png",
        "message/global",
    ]);
    let encoding = prop::sample::select(vec!["", "7bit", "8bit", "binary"]);
    let body = prop_oneof![
        "([a-c=. \t-]|\r\n|é|--|From ){0,60}(\r\n)?".prop_map(String::into_bytes),
        "[ -~]{0,200}(\r\n)?é?".prop_map(String::into_bytes),
        "[ab\r\n\u{0}é]{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(prop::sample::select(b"\r\n=a\xff\0 ".to_vec()), 0..80),
        Just("x".repeat(1200).into_bytes()),
    ];
    let leaf = (kind, encoding, body).prop_map(|(kind, encoding, body)| Part::Leaf { kind, encoding, body });
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            ("[a é]{0,8}", prop::collection::vec(inner.clone(), 1..4), any::<bool>())
                .prop_map(|(preamble, parts, closed)| Part::Many { preamble, parts, closed }),
            inner.prop_map(|part| Part::Message(Box::new(part))),
        ]
    })
}

proptest! {
    #[test]
    fn any_message_comes_out_seven_bit_and_decodes_to_what_it_was(part in part()) {
        let mut message = b"Received: a\r\n\tb\r\nSubject:  x\r\n".to_vec();
        write(&part, &mut 0, &mut message);
        let out = to_seven_bit(&message).unwrap();
        prop_assert!(is_seven_bit(&out) && is_clean_crlf(&out) && !out.contains(&0), "{}", out.escape_ascii());
        prop_assert_eq!(leaves(&out), leaves(&message));
        prop_assert_eq!(&to_seven_bit(&out).unwrap(), &out);
        prop_assert!(out.starts_with(b"Received: a\r\n\tb\r\nSubject:  x\r\n"));
        if is_seven_bit(&message) && is_clean_crlf(&message) && !message.contains(&0) {
            prop_assert_eq!(&out[..], &message[..]);
        } else {
            prop_assert!(!has_long_line(&out));
        }
    }

    #[test]
    fn no_octets_break_the_converter(message in "([A-Za-z:; =\"-]|\r\n|\n|é|--b|boundary=b|Content-Type: multipart/mixed; ){0,40}") {
        if let Ok(out) = to_seven_bit(message.as_bytes()) {
            prop_assert!(is_seven_bit(&out) && is_clean_crlf(&out));
        }
    }
}
