use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::message_id::MessageId as IdField;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;
use mail_builder::headers::url::URL;
use mail_builder::mime::MimePart;
use proptest::prelude::*;

use super::*;
use crate::clock::Rng;
use crate::message::body::{ends_with_crlf, is_clean_crlf};
use crate::message::header::Header;

fn context() -> SubmitContext {
    let now = Timestamp::from_millis(1_790_000_000_000);
    SubmitContext::new(EhloName::new("mail.a.test").unwrap(), now, MessageId::new(now, &Rng::seeded(1)))
}

fn message() -> MessageBuilder<'static> {
    MessageBuilder::new().from("shop@a.test").to("ada@b.test").subject("Hello").text_body("Hi\n")
}

fn submit(message: impl IntoSubmission) -> Result<Submission, SubmitError> {
    message.into_submission(&context())
}

fn paths(submission: &Submission) -> Vec<String> {
    submission.recipients.iter().map(ToString::to_string).collect()
}

fn fields(submission: &Submission, name: &str) -> Vec<String> {
    let octets = [&submission.head[..], &submission.content[..]].concat();
    let header = Header::scan(&octets).unwrap();
    let found = header.fields().filter(|f| f.is(name));
    found.map(|f| String::from_utf8(f.unfolded().into_owned()).unwrap()).collect()
}

#[test]
fn a_message_becomes_an_envelope_and_clean_octets() {
    let submission = submit(message()).unwrap();
    assert_eq!(submission.mail, Mail::new(ReversePath::parse("shop@a.test").unwrap()));
    assert_eq!(paths(&submission), ["<ada@b.test>"]);
    assert!(is_clean_crlf(&submission.content) && submission.content.ends_with(b"\r\n\r\nHi\r\n"));
    assert_eq!(fields(&submission, "Date"), ["Mon, 21 Sep 2026 14:13:20 +0000"]);
    assert_eq!(fields(&submission, "Message-ID"), [format!("<{}@mail.a.test>", context().id)]);
}

#[test]
fn the_sender_comes_before_the_author_in_the_envelope() {
    let submission = submit(message().sender("list@a.test")).unwrap();
    assert_eq!(submission.mail.from.to_string(), "<list@a.test>");
    let two = || message().header("from", Address::from(vec!["x@a.test", "y@a.test"]));
    assert_eq!(submit(two()).unwrap_err(), SubmitError::Duplicate { field: "From" });
    let two = || MessageBuilder::new().from(vec!["x@a.test", "y@a.test"]).to("ada@b.test");
    assert_eq!(submit(two()).unwrap_err(), SubmitError::Sender);
    assert_eq!(submit(two().sender("y@a.test")).unwrap().mail.from.to_string(), "<y@a.test>");
    assert_eq!(submit(message().sender(vec!["x@a.test", "y@a.test"])).unwrap_err(), SubmitError::Sender);
    assert_eq!(submit(MessageBuilder::new().to("ada@b.test")).unwrap_err(), SubmitError::NoFrom);
}

#[test]
fn recipients_are_found_in_groups_and_lists_and_named_once() {
    let group = |name: &'static str, of: Vec<&'static str>| {
        Address::new_group(Some(name), of.into_iter().map(Address::from).collect())
    };
    let list = Address::new_list(vec![
        "a@b.test".into(),
        group("team", vec!["c@b.test", "a@b.test"]),
        Address::new_list(vec![group("inner", vec!["d@b.test"])]),
    ]);
    let message = MessageBuilder::new()
        .from("x@a.test")
        .to(list)
        .cc(vec!["A@b.test", "c@B.TEST"])
        .bcc(Address::from(("secret", vec!["e@b.test"])));
    let submission = submit(message).unwrap();
    // The local part has its case (RFC 5321 §2.4), the domain has none.
    assert_eq!(paths(&submission), ["<a@b.test>", "<c@b.test>", "<d@b.test>", "<A@b.test>", "<e@b.test>"]);
}

#[test]
fn bcc_gets_the_message_and_is_never_written() {
    let message = message().bcc("secret@c.test").header("BCC", Address::from("hidden@c.test"));
    let submission = submit(message).unwrap();
    assert_eq!(paths(&submission), ["<ada@b.test>", "<secret@c.test>", "<hidden@c.test>"]);
    let text = String::from_utf8(submission.content.to_vec()).unwrap();
    assert!(!text.to_lowercase().contains("bcc") && !text.contains("secret") && !text.contains("hidden"));
}

#[test]
fn a_date_in_any_case_is_the_only_date() {
    use mail_builder::headers::date::Date;
    let message = message().header("date", Date::new(0)).header("MESSAGE-id", IdField::new("<mine@a.test>"));
    let submission = submit(message.header("mime-version", Raw::new("1.0"))).unwrap();
    assert_eq!(fields(&submission, "date"), ["Thu, 1 Jan 1970 00:00:00 +0000"]);
    assert_eq!(fields(&submission, "message-id"), ["<mine@a.test>"]);
    assert_eq!(fields(&submission, "mime-version"), ["1.0"]);
}

#[test]
fn no_field_name_makes_another_field() {
    for name in ["N\r\nQ", "N\nBcc", "N:", "N m", "", "Ñ", "N\0"] {
        let message = message().header(name.to_owned(), Text::new("x"));
        assert_eq!(submit(message).unwrap_err(), SubmitError::FieldName, "{name:?}");
        let part = MimePart::new("text/plain", "x").header(name.to_owned(), Text::new("x"));
        assert_eq!(submit(message_with(part)).unwrap_err(), SubmitError::FieldName, "{name:?}");
    }
}

fn message_with(part: MimePart<'static>) -> MessageBuilder<'static> {
    message().body(MimePart::new("multipart/mixed", vec![part]))
}

#[test]
fn no_field_value_makes_another_field() {
    let evil = "x>\r\nBcc: evil@c.test\r\nX: <y";
    for (message, error) in [
        (message().message_id(evil), SubmitError::FieldValue),
        (message().in_reply_to(evil), SubmitError::FieldValue),
        (message().header("List-Help", URL::new(evil)), SubmitError::FieldValue),
        (message().header("X", Raw::new("a\0b")), SubmitError::FieldValue),
        (message().header("X", ContentType::new(evil)), SubmitError::FieldValue),
        (message().header("X", ContentType::new("a/b").attribute(evil, "x")), SubmitError::FieldValue),
        (message_with(MimePart::new(evil, "x")), SubmitError::FieldValue),
        (message_with(MimePart::new("text/plain", "x").cid(evil)), SubmitError::FieldValue),
        (
            message().body(MimePart::new(
                ContentType::new("multipart/mixed").attribute("boundary", evil),
                Vec::<MimePart<'_>>::new(),
            )),
            SubmitError::FieldValue,
        ),
        (
            message().body(
                MimePart::raw(Vec::<MimePart<'_>>::new())
                    .header("content-type", Raw::new("multipart/mixed\r\nBcc: evil@c.test")),
            ),
            SubmitError::FieldValue,
        ),
        (message().reply_to(evil), SubmitError::Address { field: "Reply-To", error: AddressError::Control }),
        (message().body(MimePart::raw("Bcc: evil@c.test\r\n\r\nx")), SubmitError::Duplicate { field: "Bcc" }),
        (message().body(MimePart::raw("Date: x\r\n\r\nx")), SubmitError::Duplicate { field: "Date" }),
        (message().body(MimePart::raw("no field\r\n\r\nx")), SubmitError::FieldValue),
    ] {
        assert_eq!(submit(message.clone()).unwrap_err(), error, "{message:?}");
    }
    for message in [
        message().header("X", Text::new(evil)),
        message().header("X", Raw::new(evil)),
        MessageBuilder::new().from((evil, "x@a.test")).to("ada@b.test"),
        message().attachment("text/plain", evil, "x"),
    ] {
        let submission = submit(message).unwrap();
        assert_eq!(fields(&submission, "Bcc"), Vec::<String>::new());
    }
}

#[test]
fn addresses_given_as_text_are_refused() {
    for field in ["To", "Cc", "Bcc", "From", "Sender"] {
        let base = || MessageBuilder::new().to("ada@b.test").from("x@a.test");
        let text = |m: MessageBuilder<'static>| m.header(field.to_lowercase(), Text::new("y@a.test"));
        let raw = |m: MessageBuilder<'static>| m.header(field, Raw::new("y@a.test"));
        for mut message in [text(base()), raw(base())] {
            // The one under test is the only one of its name.
            let last = message.headers.pop().unwrap();
            message.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(field));
            message.headers.push(last);
            assert_eq!(submit(message).unwrap_err(), SubmitError::NotAddresses { field }, "{field}");
        }
    }
    // With an envelope given, nobody needs to read them.
    let envelope = Envelope::parse("x@a.test", ["ada@b.test"]).unwrap();
    let builder = MessageBuilder::new().from("x@a.test").header("To", Raw::new("undisclosed-recipients:;"));
    let submission = submit(Enveloped { envelope, builder }).unwrap();
    assert_eq!(fields(&submission, "To"), ["undisclosed-recipients:;"]);
}

#[test]
fn what_is_no_address_is_told_with_its_field() {
    let error = submit(message().cc("ada")).unwrap_err();
    assert_eq!(error, SubmitError::Address { field: "Cc", error: AddressError::NoDomain });
    let error = submit(message().header("X-To", Address::from("a@b, c@d"))).unwrap_err();
    assert!(matches!(error, SubmitError::Address { field: "an address field", .. }));
}

#[test]
fn an_envelope_of_its_own_decides_alone() {
    let mut envelope = Envelope::parse("", ["u@c.test", "u@C.test", "postmaster"]).unwrap();
    envelope.envid = Some(XText::new("q1", 100).unwrap());
    envelope.ret = Some(Ret::Headers);
    let submission = submit(Enveloped { envelope, builder: message().bcc("secret@c.test") }).unwrap();
    assert_eq!(submission.mail.to_string(), "<> RET=HDRS ENVID=q1");
    assert_eq!(paths(&submission), ["<u@c.test>", "<postmaster>"]);
    assert!(fields(&submission, "Bcc").is_empty());
    let envelope = Envelope::parse("x@a.test", []).unwrap();
    assert_eq!(submit(Enveloped { envelope, builder: message() }).unwrap_err(), SubmitError::NoRecipients);
}

#[test]
fn what_a_sender_asks_of_the_way_is_in_its_envelope() {
    for parameters in ["REQUIRETLS BY=120;NT HOLDFOR=60 MT-PRIORITY=-3", "RET=HDRS ENVID=q1", ""] {
        let asked = Mail::parse(&format!("<x@a.test> {parameters}")).unwrap();
        let mut envelope = Envelope::parse("x@a.test", ["y@b.test"]).unwrap();
        (envelope.ret, envelope.envid, envelope.require_tls) =
            (asked.ret, asked.envid.clone(), asked.require_tls);
        (envelope.by, envelope.hold, envelope.priority) = (asked.by, asked.hold, asked.priority);
        let raw = RawMessage::new(envelope, &b"From: x@a.test\r\n\r\nhi\r\n"[..]);
        assert_eq!(submit(raw).unwrap().mail, asked);
    }
}

#[test]
fn addresses_in_utf8_need_smtputf8_only_for_the_local_part() {
    let submission = submit(message().cc("grün@bücher.test")).unwrap();
    assert!(submission.mail.smtputf8);
    assert_eq!(submission.mail.body, BodyKind::EightBit);
    assert!(paths(&submission).contains(&"<grün@bücher.test>".to_owned()));
    // The same mailbox in A-labels can go through any host.
    let submission = submit(message().cc("ada@bücher.test")).unwrap();
    assert!(!submission.mail.smtputf8);
    assert_eq!(submission.mail.body, BodyKind::SevenBit);
    assert_eq!(paths(&submission), ["<ada@b.test>", "<ada@xn--bcher-kva.test>"]);
    assert_eq!(fields(&submission, "Cc"), ["<ada@xn--bcher-kva.test>"]);
    // Text in any script does not.
    let submission = submit(message().subject("Grüße").text_body("schön")).unwrap_err();
    assert_eq!(submission, SubmitError::Duplicate { field: "Subject" });
    let greeting = MessageBuilder::new().from(("Ada Ä", "x@a.test")).to("ada@b.test").subject("Grüße");
    assert!(!submit(greeting).unwrap().mail.smtputf8);
}

#[test]
fn a_body_is_eight_bit_only_when_it_has_such_octets() {
    let part = MimePart::new(ContentType::new("text/plain").attribute("charset", "utf-8"), "schön\n")
        .transfer_encoding("8bit");
    let submission = submit(message().body(part)).unwrap();
    assert_eq!((submission.mail.body, submission.mail.smtputf8), (BodyKind::EightBit, false));
    assert_eq!(submit(message().text_body("schön")).unwrap().mail.body, BodyKind::SevenBit);
}

#[test]
fn line_feeds_of_raw_parts_become_line_ends() {
    let part = MimePart::new("text/plain", "one\ntwo\rthree").transfer_encoding("7bit");
    let submission = submit(message().body(part)).unwrap();
    assert!(submission.content.ends_with(b"\r\n\r\none\r\ntwo\r\nthree\r\n"));
    let long = MimePart::new("text/plain", "x".repeat(999)).transfer_encoding("7bit");
    assert_eq!(submit(message().body(long)).unwrap_err(), SubmitError::LongLine);
}

#[test]
fn too_many_recipients_and_too_deep_lists_are_refused() {
    let many = |n: usize| (0..n).map(|i| format!("u{i}@b.test")).collect::<Vec<_>>();
    let to = |n| MessageBuilder::new().from("x@a.test").to(many(n));
    assert_eq!(submit(to(1000)).unwrap().recipients.len(), 1000);
    let error = SubmitError::TooManyRecipients { limit: 1000 };
    assert_eq!(submit(to(1001)).unwrap_err(), error);
    assert_eq!(submit(to(5000)).unwrap_err(), error);
    assert_eq!(submit(MessageBuilder::new().from("x@a.test")).unwrap_err(), SubmitError::NoRecipients);
    let mut deep = Address::from("a@b.test");
    let mut part = MimePart::new("text/plain", "x");
    for _ in 0..40 {
        deep = Address::new_list(vec![deep]);
        part = MimePart::new("multipart/mixed", vec![part]);
    }
    assert_eq!(submit(message().cc(deep)).unwrap_err(), SubmitError::Nested);
    assert_eq!(submit(message().body(part)).unwrap_err(), SubmitError::Nested);
}

fn raw(octets: &'static [u8]) -> RawMessage {
    RawMessage::new(Envelope::parse("x@a.test", ["ada@b.test"]).unwrap(), octets)
}

#[test]
fn raw_octets_that_are_clean_are_passed_on_as_they_are() {
    let octets = Bytes::from(b"From: x@a.test\r\n\r\nHi\r\n".to_vec());
    let envelope = Envelope::parse("x@a.test", ["ada@b.test"]).unwrap();
    let submission = submit(RawMessage::new(envelope, octets.clone())).unwrap();
    assert_eq!(submission.content.as_ptr(), octets.as_ptr());
    let id = context().id;
    let head = format!("Date: Mon, 21 Sep 2026 14:13:20 +0000\r\nMessage-ID: <{id}@mail.a.test>\r\n");
    assert_eq!(submission.head, head.as_bytes());
}

#[test]
fn raw_octets_are_made_a_message() {
    for (octets, content) in [
        (
            &b"Subject: x\nDATE: y\nmessage-id: <z>\n\nHi"[..],
            &b"Subject: x\r\nDATE: y\r\nmessage-id: <z>\r\n\r\nHi\r\n"[..],
        ),
        (b"BCC: s@c.test,\r\n t@c.test\r\nTo: a\r\n\r\nBcc: body\r\n", b"To: a\r\n\r\nBcc: body\r\n"),
        (b"hello\r\n", b"\r\nhello\r\n"),
        (b"From : x@a.test\r\nresent-bcc: s@c.test\r\n\r\nb\r\n", b"From : x@a.test\r\n\r\nb\r\n"),
        (b"To: a\r\nhello\r\n", b"To: a\r\n\r\nhello\r\n"),
        (b"From x@a.test Mon Sep 21 14:13:20 2026\nTo: a\n\nb\n", b"To: a\r\n\r\nb\r\n"),
        (b"", b""),
    ] {
        assert_eq!(submit(raw(octets)).unwrap().content, content, "{}", octets.escape_ascii());
    }
}

#[test]
fn a_message_from_elsewhere_is_left_as_it_is() {
    let mut message = raw(b"Bcc: y\r\nhello\r\n");
    message.complete = false;
    let submission = submit(message).unwrap();
    assert_eq!((&submission.head[..], &submission.content[..]), (&b""[..], &b"Bcc: y\r\nhello\r\n"[..]));
}

#[test]
fn raw_octets_say_what_they_need_of_a_host() {
    let needs = |octets| {
        let mail = submit(raw(octets)).unwrap().mail;
        (mail.body, mail.smtputf8)
    };
    assert_eq!(needs(b"To: a\r\n\r\nb\r\n"), (BodyKind::SevenBit, false));
    assert_eq!(needs(b"To: a\r\n\r\n\xe9\r\n"), (BodyKind::EightBit, false));
    assert_eq!(needs("To: é\r\n\r\nb\r\n".as_bytes()), (BodyKind::EightBit, true));
    assert_eq!(needs(b"To: \xe9\r\n\r\nb\r\n"), (BodyKind::EightBit, false));
    let utf8 = RawMessage::new(Envelope::parse("grün@a.test", ["ada@b.test"]).unwrap(), "To: a\r\n\r\n");
    assert!(submit(utf8).unwrap().mail.smtputf8);
}

#[test]
fn long_lines_are_let_through_only_on_request() {
    let line = format!("To: a\r\n\r\n{}\r\n", "x".repeat(999));
    let envelope = Envelope::parse("x@a.test", ["ada@b.test"]).unwrap();
    let mut message = RawMessage::new(envelope, line);
    assert_eq!(submit(message.clone()).unwrap_err(), SubmitError::LongLine);
    message.long_lines = true;
    assert!(submit(message).is_ok());
}

#[test]
fn what_no_session_would_send_is_refused() {
    let envelope = || Envelope::parse("x@a.test", ["ada@b.test"]).unwrap();
    for octets in ["To: a\r\n\r\n\0.\r\n", "To: a\n\nx\n\0\n"] {
        assert_eq!(submit(RawMessage::new(envelope(), octets)).unwrap_err(), SubmitError::LineEnd);
    }
    assert!(submit(RawMessage::new(envelope(), "To: a\n\nx\0.\r")).is_ok());
    for (head, content) in [("", "a\nb\r\n"), ("A: b\n", "\r\n"), ("", "a\r"), ("A: b\r\n", "\0\r\n")] {
        let mut mail = Mail::new(ReversePath::Null);
        let to = vec![Rcpt::new(ForwardPath::Postmaster)];
        let by_hand = Submission::new(mail.clone(), to.clone(), head.into(), content.into());
        assert_eq!(submit(by_hand).unwrap_err(), SubmitError::LineEnd, "{head:?} {content:?}");
        mail.body = BodyKind::Binary;
        assert!(submit(Submission::new(mail, to, head.into(), content.into())).is_ok());
    }
}

#[test]
fn entries_keep_the_order_and_have_100_recipients_at_most() {
    let rcpt = |text: &str| Rcpt::new(ForwardPath::parse(text).unwrap());
    let mut recipients = vec![rcpt("a@b.test"), rcpt("postmaster"), rcpt("a@c.test"), rcpt("z@B.test")];
    recipients.extend((0..220).map(|i| rcpt(&format!("u{i}@c.test"))));
    let host = Domain::parse("mail.a.test").unwrap();
    let units = by_destination(recipients.clone(), &host);
    let shape: Vec<_> = units.iter().map(|(domain, unit)| (domain.as_str(), unit.len())).collect();
    let expected = [("b.test", 2), ("mail.a.test", 1), ("c.test", 100), ("c.test", 100), ("c.test", 21)];
    assert_eq!(shape, expected);
    assert_eq!(units.iter().map(|(_, unit)| unit.len()).sum::<usize>(), recipients.len());
    assert_eq!(units[4].1.last(), recipients.last());
    assert!(by_destination(Vec::new(), &host).is_empty());
    // One alone goes where it goes among others.
    for alone in &recipients[..4] {
        let of_many = units.iter().find(|(_, unit)| unit.contains(alone)).unwrap();
        assert_eq!(by_destination(vec![alone.clone()], &host), [(of_many.0.clone(), vec![alone.clone()])]);
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_field_or_a_bare_line_end(
        name in "(?s).{0,40}", subject in "(?s).{0,120}", id in "(?s).{0,20}", body in "(?s).{0,200}",
        file in "(?s).{0,60}", field in "(?s).{1,10}", value in "(?s).{0,100}",
    ) {
        let message = MessageBuilder::new()
            .from((name.as_str(), "x@a.test"))
            .to("ada@b.test")
            .subject(subject)
            .header("X-Raw", Raw::new(value.as_str()))
            .text_body(body)
            .attachment("text/plain", file, "x");
        for message in [
            message.clone(),
            message.clone().in_reply_to(id.as_str()),
            message.header(field.as_str(), Text::new(value.as_str())),
        ] {
            if let Ok(submission) = submit(message.clone()) {
                prop_assert!(is_clean_crlf(&submission.content) && ends_with_crlf(&submission.content));
                let header = Header::scan(&submission.content).unwrap();
                // What was given, Date, Message-ID, MIME-Version and Content-Type.
                prop_assert_eq!(header.fields().count(), message.headers.len() + 4);
            }
        }
    }

    #[test]
    fn raw_octets_of_any_kind_become_lines(octets in proptest::collection::vec(any::<u8>(), 0..120)) {
        let envelope = Envelope::parse("x@a.test", ["ada@b.test"]).unwrap();
        let submission = match submit(RawMessage::new(envelope, octets.clone())) {
            Err(SubmitError::LineEnd) if octets.contains(&0) => return Ok(()),
            submission => submission.unwrap(),
        };
        prop_assert!(is_clean_crlf(&submission.content) && ends_with_crlf(&submission.content));
        let whole = [&submission.head[..], &submission.content[..]].concat();
        let header = Header::scan(&whole).unwrap();
        prop_assert!(!header.is_broken() && header.count("Date") == 1 && header.count("Bcc") == 0);
    }
}
