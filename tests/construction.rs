//! No value that ends up on the wire can hold what would end its line there: what the application or a
//! peer gives is refused when the value is made, or made harmless when it is printed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use postroad::clock::{Rng, Timestamp};
use postroad::message::{
    Envelope, Header, IntoSubmission, MessageId, RawMessage, Received, Report, ReportKind, ReportRecipient,
    SubmitContext, With, write_field,
};
use postroad::smtp::address::{Domain, EhloName, ForwardPath, Mailbox, ReversePath};
use postroad::smtp::capability::Capabilities;
use postroad::smtp::client;
use postroad::smtp::params::{
    ByMode, DeliverBy, Hold, MAX_ENVID, MAX_ORCPT, Mail, OriginalRecipient, Priority, Rcpt, Ret, XText,
};
use postroad::smtp::reply::{EnhancedCode, Reply, ReplyParser};
use postroad::smtp::sasl::Credentials;
use postroad::smtp::server;
use postroad::smtp::{Input, Output, TlsInfo};
use proptest::prelude::*;

/// What ends a line, a string or a command for somebody.
const CONTROLS: [char; 9] = ['\r', '\n', '\0', '\t', '\u{b}', '\u{1b}', '\u{7f}', '\u{85}', '\u{9f}'];

/// A constructor by name: whether it takes a string.
type Maker = (&'static str, fn(&str) -> bool, &'static str);

/// Each with a string that it takes.
const MAKERS: [Maker; 18] = [
    ("Domain", |t| Domain::parse(t).is_ok(), "b.test"),
    ("Domain, a literal", |t| Domain::parse(t).is_ok(), "[IPv6:2001:db8::1]"),
    ("EhloName", |t| EhloName::new(t).is_ok(), "mx.b.test"),
    ("Mailbox", |t| Mailbox::parse(t).is_ok(), "ada@b.test"),
    ("Mailbox, quoted", |t| Mailbox::parse(t).is_ok(), "\"ada lovelace\"@b.test"),
    ("Mailbox, quoted pair", |t| Mailbox::parse(t).is_ok(), "\"ada\\\"b\"@b.test"),
    ("Mailbox, UTF-8", |t| Mailbox::parse(t).is_ok(), "gr\u{fc}n@b\u{fc}cher.test"),
    ("ReversePath", |t| ReversePath::parse(t).is_ok(), "@a.test,@b.test:ada@b.test"),
    ("ForwardPath", |t| ForwardPath::parse(t).is_ok(), "postmaster"),
    ("Mail", |t| Mail::parse(t).is_ok(), "<a@b.test> SIZE=1 ENVID=a+2Bb AUTH=<> BY=5;R HOLDFOR=3"),
    ("Rcpt", |t| Rcpt::parse(t).is_ok(), "<a@b.test> NOTIFY=DELAY ORCPT=rfc822;a@b.test"),
    ("XText", |t| XText::new(t, 100).is_ok(), "a=b + c"),
    ("XText, encoded", |t| XText::decode(t, 100).is_ok(), "a+3Db"),
    ("OriginalRecipient's type", |t| OriginalRecipient::new(t, "a@b.test").is_ok(), "rfc822"),
    ("OriginalRecipient's address", |t| OriginalRecipient::new("rfc822", t).is_ok(), "a@b.test"),
    ("DeliverBy", |t| DeliverBy::parse(t).is_ok(), "120;NT"),
    ("Hold", |t| Hold::parse_time(t).is_ok(), "2026-11-21T12:00:00Z"),
    ("Priority", |t| Priority::parse(t).is_ok(), "-3"),
];

#[test]
fn no_constructor_takes_a_control_character_anywhere() {
    for (name, make, good) in MAKERS {
        assert!(make(good), "{name} of {good:?}");
        for control in CONTROLS {
            for at in (0..=good.len()).filter(|at| good.is_char_boundary(*at)) {
                let (head, tail) = good.split_at(at);
                for hostile in [
                    format!("{head}{control}{tail}"),
                    format!("{head}\r{control}\nRCPT TO:<evil@b.test>\r\n{tail}"),
                    format!("{head}\\{control}{tail}"),
                ] {
                    assert!(!make(&hostile), "{name} takes {hostile:?}");
                }
            }
        }
    }
}

#[test]
fn xtext_cannot_hide_a_control_character() {
    for octet in (0..32_u8).chain([127]) {
        let value = format!("a+{octet:02X}b");
        assert!(XText::decode(&value, 100).is_err(), "{value}");
        assert!(Mail::parse(&format!("<a@b.test> ENVID={value}")).is_err(), "{value}");
        assert!(Rcpt::parse(&format!("<a@b.test> ORCPT=rfc822;{value}")).is_err(), "{value}");
    }
}

#[test]
fn an_original_recipient_is_within_its_limit_with_its_type() {
    // RFC 3461 §4.2
    assert!(OriginalRecipient::new("rfc822", &"x".repeat(MAX_ORCPT - 7)).is_ok());
    assert!(OriginalRecipient::new("rfc822", &"x".repeat(MAX_ORCPT - 6)).is_err());
    assert!(OriginalRecipient::new("", "a@b.test").is_err() && OriginalRecipient::new("a b", "c").is_err());
    let of = OriginalRecipient::new("rfc822", "a=b@c.test").unwrap();
    assert_eq!(
        (of.kind(), of.address(), of.to_string().as_str()),
        ("rfc822", "a=b@c.test", "rfc822;a+3Db@c.test")
    );
}

#[test]
fn numbers_that_no_parameter_can_say_are_printed_as_the_nearest_that_it_can() {
    for (seconds, mode) in [
        (0, ByMode::Return),
        (i32::MIN, ByMode::Return),
        (i32::MIN, ByMode::Notify),
        (i32::MAX, ByMode::Return),
    ] {
        let by = DeliverBy { seconds, mode, trace: true };
        assert_eq!(DeliverBy::parse(&by.to_string()).unwrap().mode, mode, "{by}");
    }
    let mut mail = Mail::new(ReversePath::Null);
    for hold in [Hold::For(u32::MAX), Hold::Until(u64::MAX)] {
        mail.hold = Some(hold);
        assert!(Mail::parse(&mail.to_string()).is_ok(), "{mail}");
    }
}

#[test]
fn a_greeting_is_one_line_of_the_reply_to_ehlo() {
    let reply = Capabilities::default().to_reply("mx.b.test\nSTARTTLS\r\nAUTH PLAIN");
    let found = Capabilities::parse(&reply);
    assert_eq!(found, Capabilities::default());
}

#[test]
fn a_received_field_is_written_for_the_longest_recipient() {
    // Nearly all of a label of 63 octets in A-labels are letters of four octets each.
    let label = "\u{20000}".repeat(50);
    let domain = [label.as_str(); 4].join(".");
    let longest = ["\u{20000}".repeat(63), "x".repeat(255)].iter().find_map(|local| {
        (1..=4).rev().find_map(|count| {
            let domain: Vec<&str> = domain.split('.').take(count).collect();
            Mailbox::parse(&format!("{local}@{}", domain.join("."))).ok()
        })
    });
    let longest = longest.expect("such a mailbox");
    assert!(longest.to_string().len() > 500, "{}", longest.to_string().len());
    let mut received = received("client.test", None);
    received.with.smtputf8 = true;
    received.recipient = Some(ForwardPath::Mailbox(longest));
    let field = received.to_field();
    assert!(field.starts_with(b"Received: from ") && field.ends_with(b"\r\n"));
    one_field(&field);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_a_constructor_takes_prints_without_control_characters(text in hostile()) {
        let printed = [
            Domain::parse(&text).ok().map(|v| v.to_string()),
            EhloName::new(&text).ok().map(|v| v.to_string()),
            Mailbox::parse(&text).ok().map(|v| v.to_string()),
            ReversePath::parse(&text).ok().map(|v| v.to_string()),
            ForwardPath::parse(&text).ok().map(|v| v.to_string()),
            Mail::parse(&text).ok().map(|v| v.to_string()),
            Rcpt::parse(&text).ok().map(|v| v.to_string()),
            XText::new(&text, 500).ok().map(|v| v.to_string()),
            OriginalRecipient::new("rfc822", &text).ok().map(|v| v.to_string()),
            OriginalRecipient::new(&text, "x").ok().map(|v| v.to_string()),
        ];
        for printed in printed.into_iter().flatten() {
            prop_assert!(!printed.chars().any(char::is_control), "{:?}", printed);
        }
    }

    #[test]
    fn each_command_of_an_envelope_is_one_line(
        from in hostile(), to in proptest::collection::vec(hostile(), 1..4), envid in hostile(), kind in hostile(),
        body in "[a-z]{0,9}", utf8: bool,
    ) {
        let mut mail = Mail::new(ReversePath::parse(&from).unwrap_or_default());
        mail.envid = XText::new(&envid, MAX_ENVID).ok();
        mail.auth = XText::new(&envid, MAX_ORCPT).ok();
        (mail.ret, mail.smtputf8) = (Some(Ret::Headers), utf8);
        let recipients: Vec<Rcpt> = to.iter().map(|to| {
            let mut rcpt = Rcpt::new(ForwardPath::parse(to).unwrap_or(ForwardPath::Postmaster));
            rcpt.orcpt = OriginalRecipient::new(&kind, to).or_else(|_| OriginalRecipient::new("utf-8", &kind)).ok();
            rcpt
        }).collect();
        let count = recipients.len();
        let mut session = ready(None);
        session.begin(client::Transaction::new(mail, recipients, body.len() as u64)).unwrap();
        let wire = said(&mut session);
        let text = String::from_utf8(wire).unwrap();
        let lines: Vec<&str> = text.split("\r\n").collect();
        prop_assert_eq!(lines.len(), count + 3, "{:?}", text);
        for line in &lines {
            prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
        }
        prop_assert!(lines[0].starts_with("MAIL FROM:<") && lines[count + 1] == "DATA" && lines[count + 2].is_empty());
        for (line, rcpt) in lines[1..=count].iter().zip(&to) {
            prop_assert!(line.starts_with("RCPT TO:<"), "{:?} of {:?}", line, rcpt);
        }
    }

    #[test]
    fn credentials_make_no_line_of_their_own(user in hostile(), password in hostile()) {
        for offer in ["AUTH PLAIN", "AUTH LOGIN"] {
            let mut session = opening(Some(Credentials::new(user.clone(), password.clone())), offer);
            for _ in 0..4 {
                let wire = said(&mut session);
                let lines = wire.windows(2).filter(|two| two == b"\r\n").count();
                prop_assert!(wire.is_empty() || lines == 1 && wire.ends_with(b"\r\n"), "{}", wire.escape_ascii());
                prop_assert!(wire.iter().all(|octet| octet.is_ascii_graphic() || b" \r\n".contains(octet)));
                hear(&mut session, "334 VXNlcm5hbWU6\r\n");
            }
        }
    }

    #[test]
    fn a_reply_of_the_host_is_one_reply_whatever_its_text(code: u16, text in hostile(), numbers: (u8, u16, u16)) {
        for reply in [
            Reply::plain(code, &text),
            Reply::new(code, EnhancedCode::new(numbers.0, numbers.1, numbers.2), &text),
        ] {
            let mut wire = BytesMut::new();
            reply.encode(&mut wire);
            one_reply(&wire, reply.code());
            // The same through a session, which mends codes that fit no question.
            let mut session = server::Session::new(server_config(), now());
            session.handle(now(), Input::Data(&mut BytesMut::from("HELO me\r\nMAIL FROM:<>\r\n")));
            let mut said = BytesMut::new();
            loop {
                match session.poll() {
                    Output::Send(octets) => said.extend_from_slice(&octets),
                    Output::Event(server::Event::Mail(_)) => session.respond(reply.clone()).unwrap(),
                    Output::Event(_) => {}
                    _ => break,
                }
            }
            let third = said.windows(2).enumerate().filter(|(_, two)| *two == b"\r\n").nth(1).unwrap().0 + 2;
            let given = said.split_off(third);
            let code = std::str::from_utf8(&given[..3]).unwrap().parse().unwrap();
            prop_assert!(matches!(code, 200..300 | 400..600));
            one_reply(&given, code);
        }
    }

    #[test]
    fn what_a_client_tells_of_itself_makes_no_second_field(hello in hostile(), tls in hostile(), cipher in hostile()) {
        let tls = TlsInfo::new(&tls, &cipher);
        let received = received(&hello, Some(format!("{} {}", tls.version, tls.cipher)));
        one_field(&received.to_field());
    }

    #[test]
    fn a_field_holds_its_value_or_is_not_written(name in hostile(), value in hostile()) {
        let mut out = Vec::new();
        match write_field(&mut out, &name, &value) {
            Ok(()) => one_field(&out),
            Err(_) => prop_assert!(out.is_empty()),
        }
    }

    #[test]
    fn a_report_has_the_fields_it_was_made_with(said in hostile(), text in hostile(), kind in hostile()) {
        let mut rcpt = Rcpt::parse("<ada@b.test>").unwrap();
        rcpt.orcpt = OriginalRecipient::new(&kind, "x").ok();
        let mut recipient = ReportRecipient::new(ReportKind::Failure, rcpt, EnhancedCode::new(5, 1, 1), &text);
        recipient.reply = Some(Reply::plain(550, &said));
        let (name, id) = (EhloName::new("mx.b.test").unwrap(), id());
        let sender = Mailbox::parse("s@a.test").unwrap();
        let at = Timestamp::from_millis(1_790_000_000_000);
        let octets = Report::new(id, name, sender, at, at, vec![recipient]).build();
        prop_assert!(postroad::smtp::data::is_clean(&octets) && octets.is_ascii() && !octets.contains(&0));
        let header = Header::scan(&octets).unwrap();
        prop_assert!(!header.is_broken());
        for field in ["Date", "From", "To", "Subject", "Message-ID", "Content-Type", "MIME-Version"] {
            prop_assert_eq!(header.count(field), 1, "{}", field);
        }
        let text = String::from_utf8(octets.to_vec()).unwrap();
        prop_assert_eq!(text.matches("\r\nAction: ").count(), 1, "{}", text);
    }

    #[test]
    fn an_envelope_given_as_text_is_addresses_or_nothing(from in hostile(), to in hostile()) {
        let Ok(envelope) = Envelope::parse(&from, [to.as_str()]) else { return Ok(()) };
        let context = SubmitContext::new(
            EhloName::new("mx.b.test").unwrap(),
            Timestamp::from_millis(1_790_000_000_000),
            id(),
        );
        let octets = Bytes::from_static(b"From: a@b.test\r\n\r\n");
        let submission = RawMessage::new(envelope, octets).into_submission(&context).unwrap();
        prop_assert_eq!(Mail::parse(&submission.mail.to_string()).unwrap(), submission.mail);
        for rcpt in &submission.recipients {
            prop_assert_eq!(&Rcpt::parse(&rcpt.to_string()).unwrap(), rcpt);
        }
    }
}

/// Strings that are nearly right, right, or anything.
fn hostile() -> impl Strategy<Value = String> {
    let parts = proptest::sample::select(vec![
        "a@b.test",
        "<a@b.test>",
        "b.test",
        "\r\n",
        "\n",
        "\r",
        "\0",
        "\r\nRCPT TO:<evil@b.test>",
        "\r\n.\r\n",
        "\"",
        "\\",
        " ",
        ">",
        "<",
        ";",
        "+0D+0A",
        "\u{85}",
        "\u{2028}",
        "rfc822",
        "SIZE=1",
        "ENVID=x",
        "@",
        ".",
        "\u{fc}",
        "250 2.0.0 ok",
        "\r\nBcc: x@y.test",
        "(",
        ")",
        "x",
    ]);
    prop_oneof![
        3 => proptest::collection::vec(parts, 0..6).prop_map(|parts| parts.concat()),
        1 => "(?s).{0,300}",
        1 => "[a-z]{1,9}@[a-z]{1,9}\\.test",
        1 => "\"[ -~]{0,20}\"@[a-z]{1,5}\\.test",
    ]
}

/// One whole reply on the wire, all of whose lines have its code.
fn one_reply(wire: &[u8], code: u16) {
    let text = std::str::from_utf8(wire).unwrap();
    let body = text.strip_suffix("\r\n").expect("a whole line");
    let lines: Vec<&str> = body.split("\r\n").collect();
    for (at, line) in lines.iter().enumerate() {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(
            line.starts_with(&format!("{code}{}", if at + 1 == lines.len() { ' ' } else { '-' })),
            "{text:?}"
        );
    }
    let (mut parser, mut input) = (ReplyParser::default(), BytesMut::from(wire));
    assert_eq!(parser.next(&mut input).unwrap().expect("whole").code(), code);
    assert!(input.is_empty());
}

fn one_field(octets: &[u8]) {
    assert!(octets.ends_with(b"\r\n") && postroad::smtp::data::is_clean(octets), "{}", octets.escape_ascii());
    let header = Header::scan(octets).unwrap();
    assert_eq!((header.octets(), header.fields().count()), (octets, 1));
    assert!(octets.split(|octet| *octet == b'\n').all(|line| line.len() <= 999));
}

fn received(hello: &str, tls: Option<String>) -> Received {
    let mut received =
        Received::new(EhloName::new("mx.b.test").unwrap(), id(), Timestamp::from_millis(1_790_000_000_000));
    received.hello = Some(hello.into());
    received.tls = tls.map(Into::into);
    received.with = With::extended();
    received
}

fn id() -> MessageId {
    MessageId::new(Timestamp::from_millis(1_790_000_000_000), &Rng::seeded(1))
}

fn server_config() -> server::Config {
    let mut config = server::Config::new(EhloName::new("mx.test").unwrap());
    config.refuse_early_talk = false;
    config
}

/// A session that was offered this, and SMTPUTF8, DSN and what else an envelope can use.
fn opening(credentials: Option<Credentials>, offer: &str) -> client::Session {
    let mut config = client::Config::new(EhloName::new("me.test").unwrap(), client::TlsUse::Never);
    (config.credentials, config.auth_in_clear) = (credentials, true);
    let mut session = client::Session::new(config, now());
    hear(&mut session, "220 mx\r\n");
    said(&mut session);
    hear(
        &mut session,
        &format!("250-mx\r\n250-{offer}\r\n250-DSN\r\n250-SMTPUTF8\r\n250-SIZE\r\n250 PIPELINING\r\n"),
    );
    session
}

fn ready(credentials: Option<Credentials>) -> client::Session {
    let mut session = opening(credentials, "AUTH PLAIN");
    said(&mut session);
    session
}

fn said(session: &mut client::Session) -> Vec<u8> {
    let mut wire = Vec::new();
    loop {
        match session.poll() {
            Output::Send(octets) | Output::SendSecret(octets) => {
                wire.extend_from_slice(&octets);
                session.handle(now(), Input::Sent(octets.len()));
            }
            Output::Wait { .. } | Output::Closed => return wire,
            _ => {}
        }
    }
}

fn hear(session: &mut client::Session, wire: &str) {
    session.handle(now(), Input::Data(&mut BytesMut::from(wire)));
}

fn now() -> Instant {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    *START.get_or_init(Instant::now)
}
