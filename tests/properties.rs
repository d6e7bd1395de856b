//! Laws that hold for every value and every input: what is printed reads back as the same, and how
//! octets are cut changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use postroad::clock::Timestamp;
use postroad::message::MessageId;
use postroad::smtp::address::{Domain, EhloName, ForwardPath, Mailbox, ReversePath};
use postroad::smtp::capability::Capabilities;
use postroad::smtp::command::Command;
use postroad::smtp::data::{Decoder, Encoder, LineRules};
use postroad::smtp::line::{LineDecoder, LineError};
use postroad::smtp::params::{
    BodyKind, ByMode, DeliverBy, Hold, MAX_ENVID, MAX_ORCPT, Mail, Notify, OriginalRecipient, Priority, Rcpt,
    Ret, XText,
};
use postroad::smtp::reply::{EnhancedCode, Reply, ReplyParser};
use postroad::smtp::sasl::{self, Credentials, Mechanism, Nonces};
use postroad::smtp::server::{AuthOffer, Config, Event, Session};
use postroad::smtp::{Input, Output};
use proptest::option;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn the_arguments_of_mail_read_back_as_the_same(mail in mail()) {
        let text = mail.to_string();
        prop_assert_eq!(Mail::parse(&text), Ok(mail.clone()));
        prop_assert_eq!(Command::parse(format!("mail from:{text}").as_bytes()), Ok(Command::Mail(mail)));
    }

    #[test]
    fn the_arguments_of_rcpt_read_back_as_the_same(rcpt in rcpt()) {
        let text = rcpt.to_string();
        prop_assert_eq!(Rcpt::parse(&text), Ok(rcpt.clone()));
        prop_assert_eq!(Command::parse(format!("RCPT TO:{text} ").as_bytes()), Ok(Command::Rcpt(rcpt)));
    }

    #[test]
    fn addresses_read_back_as_the_same(mailbox in mailbox()) {
        let again = Mailbox::parse(&mailbox.to_string()).unwrap();
        prop_assert_eq!((&again, again.to_string()), (&mailbox, mailbox.to_string()));
        prop_assert_eq!(&Domain::parse(mailbox.domain().as_str()).unwrap(), mailbox.domain());
        if let Some(ascii) = mailbox.to_ascii() {
            prop_assert!(ascii.is_ascii() && ascii == mailbox);
        }
    }

    #[test]
    fn a_reply_reads_back_as_the_same(
        code in 200_u16..600, enhanced in option::of((0_u16..1000, 0_u16..1000)),
        text in "[a-zA-Z!-/ \u{e9}]{0,60}(\n[a-z ]{0,20}){0,3}", cut in 1_usize..20,
    ) {
        let text = text.trim_end_matches('\n');
        let class = u8::try_from(code / 100).unwrap();
        let reply = match enhanced.filter(|_| class != 3) {
            Some((subject, detail)) => Reply::new(code, EnhancedCode::new(class, subject, detail), text),
            None => Reply::plain(code, text),
        };
        let mut wire = BytesMut::new();
        reply.encode(&mut wire);
        let (mut parser, mut input, mut found) = (ReplyParser::default(), BytesMut::new(), None);
        for piece in wire.chunks(cut) {
            prop_assert_eq!(&found, &None);
            input.extend_from_slice(piece);
            found = parser.next(&mut input).unwrap();
        }
        prop_assert_eq!(found, Some(reply));
        prop_assert!(input.is_empty() && !parser.is_inside());
    }

    #[test]
    fn capabilities_are_understood_as_they_are_announced(bits: [bool; 11], size: Option<u64>, least: Option<u32>) {
        let mut caps = Capabilities::default();
        [
            caps.pipelining, caps.chunking, caps.eight_bit, caps.binary, caps.smtputf8, caps.starttls, caps.dsn,
            caps.enhanced, caps.require_tls, caps.priority, _,
        ] = bits;
        (caps.size, caps.deliver_by) = (size, least);
        if bits[10] {
            caps.auth = vec![Mechanism::Login, Mechanism::Plain];
        }
        prop_assert_eq!(&Capabilities::parse(&caps.to_reply("mx.test")), &caps);
        // And over the wire.
        let mut wire = BytesMut::new();
        caps.to_reply("mx.test").encode(&mut wire);
        let reply = ReplyParser::default().next(&mut wire).unwrap().unwrap();
        prop_assert_eq!(Capabilities::parse(&reply), caps);
    }

    #[test]
    fn xtext_reads_back_as_the_same(text in "[ -~]{0,100}") {
        let value = XText::new(&text, 400).unwrap();
        prop_assert_eq!(value.as_str(), &text);
        prop_assert_eq!(XText::decode(&value.to_string(), 400), Ok(value));
    }

    #[test]
    fn times_and_ids_read_back_as_the_same(seconds in 0_u64..253_402_300_800, octets: [u8; 16]) {
        let hold = Hold::Until(seconds);
        prop_assert_eq!(Hold::parse_time(hold.to_string().strip_prefix("HOLDUNTIL=").unwrap()), Ok(hold));
        let id = MessageId::from_octets(octets);
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        prop_assert!(id.time() <= Timestamp::from_millis(1 << 48));
    }

    #[test]
    fn a_login_reads_back_as_the_same(user in "[^\0]{1,40}", password in "[^\0]{0,40}") {
        let (ours, nonces) = (Credentials::new(&user, &password), Nonces::system());
        for mechanism in [Mechanism::Plain, Mechanism::Login] {
            let mut client = sasl::client::Exchange::new(mechanism, &ours, None, &nonces).unwrap();
            let mut server = sasl::server::Exchange::new(mechanism, None, false).unwrap();
            let mut step = server.begin(client.initial(usize::MAX).as_deref()).unwrap();
            while let sasl::server::Step::Challenge(challenge) = step {
                step = server.answer(&client.challenge(&challenge).unwrap()).unwrap();
            }
            let sasl::server::Step::Login(login) = step else { panic!("{step:?}") };
            prop_assert_eq!((login.user(), login.password()), (&*user, Some(&*password)));
        }
    }

    #[test]
    fn what_the_encoder_writes_the_decoder_reads_however_both_are_cut(
        words in proptest::collection::vec(proptest::sample::select(&LINES[..]), 0..60),
        here in 1_usize..9, there in 1_usize..9,
    ) {
        let content = words.concat();
        let (mut encoder, mut wire) = (Encoder::new(), Vec::new());
        for piece in content.chunks(here) {
            encoder.encode(&Bytes::copy_from_slice(piece), |octets| wire.extend_from_slice(&octets));
        }
        wire.extend_from_slice(encoder.end());
        wire.extend_from_slice(b"QUIT\r\n");
        let (mut decoder, mut input, mut decoded, mut ended) = (Decoder::default(), BytesMut::new(), Vec::new(), false);
        for piece in wire.chunks(there) {
            input.extend_from_slice(piece);
            if !ended {
                let piece = decoder.decode(&mut input);
                decoded.extend_from_slice(&piece.octets);
                ended = piece.end;
            }
        }
        let mut expected = content;
        if !expected.is_empty() && !expected.ends_with(b"\r\n") {
            expected.extend_from_slice(b"\r\n");
        }
        prop_assert!(ended);
        prop_assert_eq!((decoded, &input[..]), (expected, &b"QUIT\r\n"[..]));
    }

    #[test]
    fn line_rules_judge_the_whole_however_it_is_cut(octets in noise(), cut in 1_usize..9) {
        let judge = |cut| {
            let mut rules = LineRules::default();
            octets.chunks(cut).for_each(|piece| rules.check(piece));
            rules.finish();
            rules.is_refused()
        };
        prop_assert_eq!(judge(cut), judge(octets.len().max(1)));
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut(octets in noise(), cut in 1_usize..9, max in 4_usize..40) {
        let read = |cut| {
            let (mut decoder, mut input, mut seen) = (LineDecoder::default(), BytesMut::new(), Vec::new());
            for piece in octets.chunks(cut) {
                input.extend_from_slice(piece);
                loop {
                    match decoder.next(&mut input, max, |line| line.to_vec()) {
                        Ok(Some(line)) => seen.push(Ok(line)),
                        Ok(None) => break,
                        Err(error) => seen.push(Err::<Vec<u8>, LineError>(error)),
                    }
                }
            }
            seen
        };
        prop_assert_eq!(read(cut), read(octets.len().max(1)));
    }

    #[test]
    fn replies_are_the_same_however_they_are_cut(octets in noise(), cut in 1_usize..9) {
        let read = |cut| {
            let (mut parser, mut input, mut seen) = (ReplyParser::default(), BytesMut::new(), Vec::new());
            for piece in octets.chunks(cut) {
                input.extend_from_slice(piece);
                loop {
                    match parser.next(&mut input) {
                        Ok(Some(reply)) => seen.push(Ok(reply)),
                        Ok(None) => break,
                        Err(error) => {
                            seen.push(Err(error));
                            return seen;
                        }
                    }
                }
            }
            seen
        };
        prop_assert_eq!(read(cut), read(octets.len().max(1)));
    }

    #[test]
    fn the_server_session_says_and_asks_the_same_however_its_input_is_cut(octets in noise(), cut in 1_usize..9, binary: bool) {
        prop_assert_eq!(dialogue(&octets, cut, binary), dialogue(&octets, octets.len().max(1), binary));
    }
}

/// What the session says, what it tells and asks, and how much content it gave.
fn dialogue(octets: &[u8], cut: usize, binary: bool) -> (Vec<u8>, Vec<String>, Vec<u8>) {
    #[allow(clippy::disallowed_methods, reason = "where time begins; nothing here is late")]
    let now = Instant::now();
    let mut config = Config::new(EhloName::new("mx.test").unwrap());
    (config.refuse_early_talk, config.binary) = (false, binary);
    (config.max_message_size, config.max_recipients, config.auth) = (60, 3, AuthOffer::Always);
    let mut session = Session::new(config, now);
    let mut input = BytesMut::new();
    let (mut said, mut told, mut content) = (Vec::new(), Vec::new(), Vec::new());
    for piece in octets.chunks(cut) {
        input.extend_from_slice(piece);
        session.handle(now, Input::Data(&mut input));
        loop {
            if session.can_read_on() {
                session.handle(now, Input::Data(&mut input));
            }
            match session.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    said.extend_from_slice(&octets);
                    session.handle(now, Input::Sent(octets.len()));
                }
                // What is refused further on may have been given in part.
                Output::Event(Event::Body(octets)) => content.extend_from_slice(&octets),
                Output::Event(event) => {
                    if matches!(event, Event::MessageAborted | Event::MessageStart) {
                        content.clear();
                    }
                    told.push(format!("{event:?}"));
                    if matches!(event, Event::MessageEnd) {
                        told.push(std::mem::take(&mut content).escape_ascii().to_string());
                    }
                    if session.is_paused() {
                        let ok = EnhancedCode::new(2, 0, 0);
                        session.respond(Reply::new(250, ok, "ok")).unwrap();
                    }
                }
                Output::Wait { .. } if session.can_read_on() => {}
                _ => break,
            }
        }
    }
    content.clear();
    (said, told, content)
}

/// Octets as either side sends them, in the wrong order.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&[u8]> = vec![
        b"EHLO a\r\n",
        b"MAIL FROM:<a@b.test>\r\n",
        b"MAIL FROM:<a@b.test> BODY=BINARYMIME\r\n",
        b"RCPT TO:<c@d.test>\r\n",
        b"RCPT TO:<c@d.test>\r\n",
        b"DATA\r\n",
        b".\r\n",
        b"\r\n.\r\n",
        b"text\r\n",
        b"BDAT 4\r\n",
        b"BDAT 3 LAST\r\n",
        b"ab\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"AUTH PLAIN AGEAYg==\r\n",
        b"AUTH LOGIN\r\n",
        b"YQ==\r\n",
        b"*\r\n",
        b"\r",
        b"\n",
        b"\0",
        b".",
        b"x",
        b"250 ok\r\n",
        b"250-a\r\n",
        b"550 5.1.1 no\r\n",
        b"\xff\xfe",
        b"0123456789012345678901234567890123456789",
    ];
    proptest::collection::vec(proptest::sample::select(words), 0..40).prop_map(|words| words.concat())
}

fn mailbox() -> impl Strategy<Value = Mailbox> {
    let local = prop_oneof![
        "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\\.[a-z]{1,5}){0,3}",
        "\"([ !#-\\[\\]-~]|\\\\[ -~]){0,30}\"",
        "[a-z\u{fc}\u{4e2d}]{1,10}",
    ];
    let domain = prop_oneof![
        3 => "[a-zA-Z0-9]{1,10}(\\.[a-z0-9]{1,10}){0,3}",
        1 => Just("b\u{fc}cher.test".to_owned()),
        1 => any::<[u8; 4]>().prop_map(|ip| format!("[{}]", std::net::Ipv4Addr::from(ip))),
        1 => any::<[u8; 16]>().prop_map(|ip| format!("[IPv6:{}]", std::net::Ipv6Addr::from(ip))),
    ];
    (local, domain).prop_map(|(local, domain)| {
        let text = format!("{local}@{domain}");
        Mailbox::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    })
}

fn mail() -> impl Strategy<Value = Mail> {
    let from = prop_oneof![1 => Just(ReversePath::Null), 4 => mailbox().prop_map(ReversePath::Mailbox)];
    let body = proptest::sample::select(vec![BodyKind::SevenBit, BodyKind::EightBit, BodyKind::Binary]);
    let ret = option::of(proptest::sample::select(vec![Ret::Full, Ret::Headers]));
    let by = option::of((-999_999_999_i32..=999_999_999, any::<bool>(), any::<bool>()).prop_map(
        |(seconds, back, trace)| {
            let mode = if back && seconds > 0 { ByMode::Return } else { ByMode::Notify };
            DeliverBy { seconds, mode, trace }
        },
    ));
    let hold = option::of(prop_oneof![
        (0_u32..=999_999_999).prop_map(Hold::For),
        (0_u64..253_402_300_800).prop_map(Hold::Until)
    ]);
    let priority = option::of((-9_i8..=9).prop_map(|value| Priority::new(value).unwrap()));
    let texts = (option::of("[ -~]{0,33}"), option::of("[ -~]{0,160}"));
    (from, option::of(any::<u64>()), body, any::<[bool; 2]>(), ret, texts, by, hold, priority).prop_map(
        |(from, size, body, flags, ret, (envid, auth), by, hold, priority)| {
            let mut mail = Mail::new(from);
            (mail.size, mail.body, mail.ret) = (size, body, ret);
            [mail.smtputf8, mail.require_tls] = flags;
            mail.envid = envid.map(|text| XText::new(&text, MAX_ENVID).unwrap());
            mail.auth = auth.map(|text| XText::new(&text, MAX_ORCPT).unwrap());
            (mail.by, mail.hold, mail.priority) = (by, hold, priority);
            mail
        },
    )
}

fn rcpt() -> impl Strategy<Value = Rcpt> {
    let to = prop_oneof![1 => Just(ForwardPath::Postmaster), 6 => mailbox().prop_map(ForwardPath::Mailbox)];
    let notify = option::of(any::<[bool; 3]>().prop_map(|[success, failure, delay]| Notify {
        success,
        failure,
        delay,
    }));
    let orcpt = option::of(("[a-zA-Z0-9-]{1,12}", "[ -~]{0,160}"));
    (to, notify, orcpt).prop_map(|(to, notify, orcpt)| {
        let mut rcpt = Rcpt::new(to);
        rcpt.notify = notify;
        rcpt.orcpt = orcpt.map(|(kind, address)| OriginalRecipient::new(&kind, &address).unwrap());
        rcpt
    })
}

/// Content whose line ends are whole.
const LINES: [&[u8]; 6] = [b"x", b".", b"\r\n", b"..", b"x\0", b"\xfc"];
