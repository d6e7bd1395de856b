use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::clock::Rng;
use crate::message::body::{has_long_line, is_clean_crlf};
use crate::smtp::params::OriginalRecipient;

const ORIGINAL: &[u8] =
    b"From: x@a.test\r\nMessage-ID: <1@a.test>\r\nSubject: hi\r\n there\r\n\r\nSee you.\r\n";

fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000 + secs * 1000)
}

fn report(kind: ReportKind, to: &str, text: &str, reply: Option<Reply>) -> Report {
    let rcpt = Rcpt::new(ForwardPath::parse(to).unwrap());
    let mut recipient = ReportRecipient::new(kind, rcpt, EnhancedCode::new(5, 1, 1), text);
    recipient.remote = reply.as_ref().map(|_| Domain::parse("mx.b.test").unwrap());
    recipient.reply = reply;
    let mut report = Report::new(
        MessageId::new(at(0), &Rng::seeded(1)),
        EhloName::new("mail.a.test").unwrap(),
        Mailbox::parse("x@a.test").unwrap(),
        at(0),
        at(60),
        vec![recipient],
    );
    report.original = Bytes::from_static(ORIGINAL);
    report.original_size = ORIGINAL.len() as u64;
    report
}

fn failure() -> Report {
    let reply = Reply::new(550, EnhancedCode::new(5, 1, 1), "no such user\nhere");
    report(ReportKind::Failure, "u@b.test", "mx.b.test said: 550 no such user here", Some(reply))
}

/// Header or block as (name, value) in order, unfolded. Written apart from the code under test.
fn fields(block: &str) -> Vec<(String, String)> {
    let unfolded = block.replace("\r\n ", " ").replace("\r\n\t", "\t");
    let line = |line: &str| {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?}"));
        (name.to_owned(), value.trim().to_owned())
    };
    unfolded.split("\r\n").filter(|l| !l.is_empty()).map(line).collect()
}

fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut found = fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let first = found.next();
    assert_eq!(found.next(), None, "{name} twice");
    first
}

struct Parsed {
    header: Vec<(String, String)>,
    /// Content-Type, Content-Transfer-Encoding, body.
    parts: Vec<(String, String, String)>,
}

fn parse(report: &Report) -> Parsed {
    let octets = report.build();
    assert!(is_clean_crlf(&octets) && !has_long_line(&octets));
    let text = String::from_utf8(octets.to_vec()).unwrap();
    let (header, body) = text.split_once("\r\n\r\n").unwrap();
    let header = fields(header);
    let kind = value(&header, "Content-Type").unwrap();
    let boundary = kind.split_once("boundary=\"").unwrap().1.strip_suffix('"').unwrap().to_owned();
    let body = format!("\r\n{body}");
    let mut pieces: Vec<&str> = body.split(&format!("\r\n--{boundary}")).collect();
    assert_eq!(pieces.pop(), Some("--\r\n"));
    let parts = pieces[1..].iter().map(|piece| {
        let (header, body) = piece.strip_prefix("\r\n").unwrap().split_once("\r\n\r\n").unwrap();
        let header = fields(header);
        assert_eq!(header.len(), 2);
        let of = |name| value(&header, name).unwrap().to_owned();
        (of("Content-Type"), of("Content-Transfer-Encoding"), body.to_owned())
    });
    Parsed { parts: parts.collect(), header }
}

fn blocks(parsed: &Parsed) -> Vec<Vec<(String, String)>> {
    let part = &parsed.parts[1].2;
    part.split("\r\n\r\n").filter(|b| !b.trim().is_empty()).map(fields).collect()
}

fn unbase64(text: &str) -> String {
    use base64::Engine as _;
    let joined = text.replace("\r\n", "");
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(joined).unwrap()).unwrap()
}

#[test]
fn a_failure_tells_people_and_programs_and_returns_the_message() {
    let mut report = failure();
    report.envid = Some(XText::new("q 7+", 100).unwrap());
    report.recipients[0].rcpt.orcpt = Some(OriginalRecipient::new("rfc822", "info@a.test").unwrap());
    report.recipients[0].last_attempt = Some(at(30));
    let parsed = parse(&report);
    for (name, expected) in [
        ("From", "Mail Delivery System <MAILER-DAEMON@mail.a.test>"),
        ("To", "<x@a.test>"),
        ("Auto-Submitted", "auto-replied"),
        ("References", "<1@a.test>"),
        ("Date", "Mon, 21 Sep 2026 14:14:20 +0000"),
        ("MIME-Version", "1.0"),
    ] {
        assert_eq!(value(&parsed.header, name), Some(expected));
    }
    assert!(value(&parsed.header, "Message-ID").unwrap().ends_with("@mail.a.test>"));
    let kinds: Vec<_> = parsed.parts.iter().map(|p| p.0.as_str()).collect();
    assert_eq!(kinds, ["text/plain; charset=us-ascii", "message/delivery-status", "message/rfc822"]);
    assert!(parsed.parts[0].2.contains("<u@b.test>\r\n    mx.b.test said: 550 no such user here\r\n"));
    assert_eq!(parsed.parts[2].2.as_bytes(), ORIGINAL);
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    };
    // RFC 3464 §2: a block about the message, an empty line, a block about the recipient.
    let message = pairs(&[
        ("Original-Envelope-Id", "q 7+"),
        ("Reporting-MTA", "dns; mail.a.test"),
        ("Arrival-Date", "Mon, 21 Sep 2026 14:13:20 +0000"),
    ]);
    let recipient = pairs(&[
        ("Original-Recipient", "rfc822; info@a.test"),
        ("Final-Recipient", "rfc822; u@b.test"),
        ("Action", "failed"),
        ("Status", "5.1.1"),
        ("Remote-MTA", "dns; mx.b.test"),
        ("Diagnostic-Code", "smtp; 550 5.1.1 no such user here"),
        ("Last-Attempt-Date", "Mon, 21 Sep 2026 14:13:50 +0000"),
    ]);
    assert_eq!(blocks(&parsed), [message, recipient]);
}

#[test]
fn each_kind_has_its_action_and_only_failures_return_the_message() {
    let until = ReportKind::Delay { until: at(3600) };
    for (kind, action, returned) in [
        (ReportKind::Failure, "failed", "message/rfc822"),
        (until, "delayed", "text/rfc822-headers"),
        (ReportKind::Success, "delivered", "text/rfc822-headers"),
        (ReportKind::Relayed, "relayed", "text/rfc822-headers"),
        (ReportKind::Expanded, "expanded", "text/rfc822-headers"),
    ] {
        let parsed = parse(&report(kind, "u@b.test", "x", None));
        let block = &blocks(&parsed)[1];
        assert_eq!(value(block, "Action"), Some(action));
        assert_eq!(parsed.parts[2].0, returned);
        assert_eq!(value(block, "Will-Retry-Until").is_some(), kind == until);
    }
}

#[test]
fn a_diagnostic_code_is_there_only_for_what_a_host_said() {
    // RFC 3464 §2.3.6
    let parsed = parse(&report(ReportKind::Failure, "u@b.test", "connection refused", None));
    let block = &blocks(&parsed)[1];
    assert_eq!((value(block, "Diagnostic-Code"), value(block, "Remote-MTA")), (None, None));
}

#[test]
fn a_large_or_unwanted_or_odd_message_comes_back_as_its_header() {
    let header = "From: x@a.test\r\nMessage-ID: <1@a.test>\r\nSubject: hi\r\n there\r\n";
    let returned = |change: &dyn Fn(&mut Report)| {
        let mut report = failure();
        change(&mut report);
        let parsed = parse(&report);
        assert!(parsed.parts[0].2.contains("Its header follows."));
        let (kind, encoding, octets) = parsed.parts[2].clone();
        assert_eq!((kind.as_str(), encoding.as_str()), ("text/rfc822-headers", "7bit"));
        octets
    };
    assert_eq!(returned(&|r| r.ret = Some(Ret::Headers)), header);
    assert_eq!(returned(&|r| r.max_returned = ORIGINAL.len() - 1), header);
    assert_eq!(returned(&|r| r.original_size += 1), header);
    // Only whole fields come back.
    assert_eq!(returned(&|r| r.max_returned = 50), &header[..40]);
    assert_eq!(
        returned(&|r| {
            r.original = r.original.slice(..30);
        }),
        &header[..16]
    );
    for body in [&b"\xe9"[..], b"\0", b"a\nb", &[b'x'; 999]] {
        let octets = Bytes::from([header.as_bytes(), b"\r\n", body].concat());
        let change = |r: &mut Report| {
            r.original_size = octets.len() as u64;
            r.original = octets.clone();
        };
        assert_eq!(returned(&change), header, "{}", body.escape_ascii());
    }
    let odd = Bytes::from_static(b"A: \xe9\r\nB: a\rC: d\0\n\r\n");
    let change = |r: &mut Report| {
        r.original_size = odd.len() as u64;
        r.original = odd.clone();
    };
    assert_eq!(returned(&change), "A: ?\r\nB: a C: d \r\n");
    let mut none = failure();
    none.original = Bytes::new();
    assert_eq!(parse(&none).parts.len(), 2);
}

#[test]
fn a_report_stays_small_whatever_it_reports_on() {
    let mut report = failure();
    let long = "word ".repeat(20_000);
    report.recipients[0].text = long.clone().into();
    report.recipients[0].reply = Some(Reply::plain(550, &long));
    report.original = Bytes::from(format!("Subject: {}\r\n\r\n{long}", "x\r\n ".repeat(100_000)));
    report.original_size = report.original.len() as u64;
    assert!(report.build().len() < 8 * 1024);
}

#[test]
fn recipients_in_utf8_are_named_in_ascii_to_an_ascii_sender() {
    // RFC 6533 §3
    let report = report(ReportKind::Failure, "grün+1@bücher.test", "grün is unknown", None);
    let parsed = parse(&report);
    assert!(report.build().is_ascii() && !report.to_submission().mail.smtputf8);
    assert_eq!(
        value(&blocks(&parsed)[1], "Final-Recipient"),
        Some("utf-8; gr\\x{FC}n\\x{2B}1@xn--bcher-kva.test")
    );
    assert_eq!(parsed.parts[0].1, "base64");
    assert!(unbase64(&parsed.parts[0].2).contains("<grün+1@bücher.test>\r\n    grün is unknown\r\n"));
    assert_eq!(
        value(
            &blocks(&parse(&self::report(ReportKind::Failure, "u@bücher.test", "x", None)))[1],
            "Final-Recipient"
        ),
        Some("rfc822; u@xn--bcher-kva.test")
    );
}

#[test]
fn a_report_to_an_address_in_utf8_is_utf8() {
    let mut report = report(ReportKind::Failure, "grün@b.test", "x", None);
    report.sender = Mailbox::parse("ärzte@a.test").unwrap();
    let kinds = |report: &Report| -> Vec<String> {
        parse(report).parts.into_iter().skip(1).map(|p| format!("{} {}", p.0, p.1)).collect()
    };
    assert_eq!(kinds(&report), ["message/global-delivery-status 8bit", "message/rfc822 7bit"]);
    assert_eq!(value(&blocks(&parse(&report))[1], "Final-Recipient"), Some("utf-8; grün@b.test"));
    let submission = report.to_submission();
    assert_eq!((submission.mail.smtputf8, submission.mail.body), (true, BodyKind::EightBit));
    let mut original = |octets: &'static str| {
        report.original = Bytes::from_static(octets.as_bytes());
        report.original_size = octets.len() as u64;
        kinds(&report)[1].clone()
    };
    assert_eq!(original("Subject: x\r\n\r\né\r\n"), "message/rfc822 8bit");
    assert_eq!(original("Subject: é\r\n\r\nx\r\n"), "message/global 8bit");
    assert_eq!(original("Subject: é\r\n\r\nx\n"), "message/global-headers 8bit");
    let mut plain = failure();
    plain.original = Bytes::from_static("Subject: é\r\n\r\nx\r\n".as_bytes());
    plain.original_size = plain.original.len() as u64;
    let part = parse(&plain).parts.remove(2);
    assert_eq!((part.0.as_str(), part.1.as_str()), ("message/global-headers", "base64"));
    assert_eq!(unbase64(&part.2), "Subject: é\r\n");
}

#[test]
fn a_report_is_from_nobody_and_never_reported_on() {
    // RFC 3461 §6.2.1
    let submission = failure().to_submission();
    assert_eq!(submission.mail, Mail::new(ReversePath::Null));
    assert_eq!(submission.recipients[0].to_string(), "<x@a.test> NOTIFY=NEVER");
    for kind in [ReportKind::Failure, ReportKind::Success] {
        assert!(!wants_report(&submission.mail, &submission.recipients[0], kind));
    }
}

#[test]
fn the_sender_is_told_what_was_asked_for() {
    let mail = Mail::new(ReversePath::parse("x@a.test").unwrap());
    let delay = ReportKind::Delay { until: at(0) };
    for (rcpt, failure, delayed, success) in [
        ("<u@b.test>", true, false, false),
        ("<u@b.test> NOTIFY=NEVER", false, false, false),
        ("<u@b.test> NOTIFY=SUCCESS", false, false, true),
        ("<u@b.test> NOTIFY=FAILURE,DELAY", true, true, false),
    ] {
        let rcpt = Rcpt::parse(rcpt).unwrap();
        let wanted = |kind| wants_report(&mail, &rcpt, kind);
        assert_eq!((wanted(ReportKind::Failure), wanted(delay)), (failure, delayed), "{rcpt}");
        for kind in [ReportKind::Success, ReportKind::Relayed, ReportKind::Expanded] {
            assert_eq!(wanted(kind), success, "{rcpt}");
            assert!(!wants_report(&Mail::default(), &rcpt, kind), "nobody is told about <>");
        }
        assert!(!wants_report(&Mail::default(), &rcpt, ReportKind::Failure));
    }
}

#[test]
fn a_boundary_that_was_guessed_is_not_used() {
    let mut report = failure();
    let guesses: String = (0..50).map(|n| format!("--=_{}_{n}--\r\n", report.id)).collect();
    report.original = Bytes::from(format!("Subject: x\r\n\r\n{guesses}"));
    report.original_size = report.original.len() as u64;
    let parsed = parse(&report);
    assert_eq!(parsed.parts.len(), 3);
    assert_eq!(parsed.parts[2].2.as_bytes(), report.original);
}

#[test]
fn a_hostile_reply_forges_no_field() {
    let evil = "no\r\nAction: delivered\r\n\r\nFinal-Recipient: rfc822; root@a.test\r\n--=_x";
    let mut report = failure();
    // As a parser that lets anything through would hand it over.
    report.recipients[0].reply = Some(Reply::plain(550, evil));
    report.recipients[0].text = evil.into();
    let parsed = parse(&report);
    let blocks = blocks(&parsed);
    assert_eq!((blocks.len(), parsed.parts.len()), (2, 3));
    assert_eq!(value(&blocks[1], "Action"), Some("failed"));
    assert!(value(&blocks[1], "Diagnostic-Code").unwrap().contains("no Action: delivered Final-Recipient:"));
}

proptest! {
    #[test]
    fn no_text_forges_a_field_or_a_part(
        said in "(?s).{0,400}", text in "(?s).{0,400}", kind in "[a-zA-Z0-9-]{1,20}", local in "[a-zé \"+=]{1,9}",
        original in proptest::collection::vec(any::<u8>(), 0..200), utf8 in any::<bool>(),
    ) {
        let to = format!("\"{}\"@b.test", local.replace('"', ""));
        let mut report = report(ReportKind::Failure, &to, &text, Some(Reply::plain(550, &said)));
        report.recipients[0].rcpt.orcpt =
            Some(OriginalRecipient::new(&kind, "y@b.test").unwrap());
        if utf8 {
            report.sender = Mailbox::parse("ärzte@a.test").unwrap();
        }
        report.original = Bytes::from(original);
        report.original_size = report.original.len() as u64;
        let octets = report.build();
        prop_assert!(is_clean_crlf(&octets) && !has_long_line(&octets));
        prop_assert!(utf8 || octets.is_ascii());
        if std::str::from_utf8(&octets).is_ok() {
            let parsed = parse(&report);
            let blocks = blocks(&parsed);
            prop_assert_eq!(blocks.len(), 2);
            let names: Vec<&str> = blocks[1].iter().map(|(name, _)| name.as_str()).collect();
            prop_assert_eq!(
                names,
                ["Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code"]
            );
            let unique: HashSet<_> = parsed.header.iter().map(|(name, _)| name).collect();
            prop_assert_eq!(unique.len(), parsed.header.len());
        }
    }
}

fn about(kind: ReportKind, to: &str) -> ReportRecipient {
    ReportRecipient::new(kind, Rcpt::parse(&format!("<{to}>")).unwrap(), EnhancedCode::new(2, 0, 0), "x")
}

#[test]
fn a_report_has_an_action_for_each_recipient_and_the_worst_in_its_subject() {
    let until = at(3600);
    let kinds = [
        ReportKind::Success,
        ReportKind::Expanded,
        ReportKind::Relayed,
        ReportKind::Delay { until },
        ReportKind::Failure,
    ];
    let subjects = ["delivered", "sent on", "passed on", "delayed", "could not be delivered"];
    let mut report = failure();
    report.recipients.clear();
    for (count, (kind, subject)) in (1..).zip(kinds.into_iter().zip(subjects)) {
        report.recipients.push(about(kind, &format!("{count}@b.test")));
        let parsed = parse(&report);
        assert_eq!(report.kind(), kind);
        assert!(value(&parsed.header, "Subject").unwrap().ends_with(subject));
        // What came last is the worst, and stands first.
        let blocks = blocks(&parsed);
        let actions: Vec<_> = blocks[1..].iter().map(|block| value(block, "Action").unwrap()).collect();
        let expected: Vec<_> = kinds[..count].iter().rev().map(|kind| kind.action()).collect();
        assert_eq!(actions, expected);
        let retried = blocks.iter().filter(|block| value(block, "Will-Retry-Until").is_some()).count();
        assert_eq!(retried, usize::from(count > 3));
    }
    let text = &parse(&report).parts[0].2;
    let places: Vec<_> = (1..=5).rev().map(|n| text.find(&format!("<{n}@b.test>")).unwrap()).collect();
    assert!(places.is_sorted(), "{text}");
    assert_eq!(text.matches("Your message of").count(), 1, "{text}");
    assert!(!text.contains("\r\n\r\n\r\n"), "{text}");
}

#[test]
fn what_comes_back_follows_from_what_was_asked_and_from_what_failed() {
    // RFC 3461 §4.3 and §6.2, RFC 8689 §5
    let (whole, header) = ("message/rfc822", "text/rfc822-headers");
    for (kinds, ret, require_tls, returned) in [
        (&[ReportKind::Failure][..], None, false, whole),
        (&[ReportKind::Failure], Some(Ret::Full), false, whole),
        (&[ReportKind::Failure], Some(Ret::Headers), false, header),
        (&[ReportKind::Failure], Some(Ret::Full), true, header),
        (&[ReportKind::Success, ReportKind::Failure], Some(Ret::Full), false, whole),
        (&[ReportKind::Success, ReportKind::Failure], Some(Ret::Headers), false, header),
        (&[ReportKind::Success, ReportKind::Relayed], Some(Ret::Full), false, header),
        (&[ReportKind::Expanded], Some(Ret::Full), false, header),
    ] {
        let mut report = failure();
        report.recipients = kinds.iter().map(|kind| about(*kind, "u@b.test")).collect();
        (report.ret, report.require_tls) = (ret, require_tls);
        assert_eq!(parse(&report).parts[2].0, returned, "{kinds:?} {ret:?}");
    }
}

#[test]
fn more_recipients_than_a_report_can_list_are_counted() {
    let mut report = failure();
    report.original = Bytes::new();
    let lists = |report: &Report| {
        let parsed = parse(report);
        let listed = blocks(&parsed).len() - 1;
        assert_eq!(parsed.parts[0].2.matches("@b.test>").count(), listed, "the text lists the same");
        let left = report.recipients.len() - listed;
        let counted = format!("There are {left} more recipients");
        assert_eq!(parsed.parts[0].2.contains(&counted), left > 0);
        listed
    };
    report.recipients = (0..1_000).map(|n| about(ReportKind::Success, &format!("{n}@b.test"))).collect();
    assert_eq!(lists(&report), 1_000);
    report.recipients.push(about(ReportKind::Failure, "last@b.test"));
    assert_eq!(lists(&report), 1_000);
    assert!(parse(&report).parts[0].2.contains("<last@b.test>"), "the worst is not what is left out");
    let said = "word ".repeat(500);
    for recipient in &mut report.recipients {
        recipient.reply = Some(Reply::plain(550, &said));
        recipient.text = said.as_str().into();
    }
    assert!((200..400).contains(&lists(&report)));
    assert!(report.build().len() < 600 * 1024);
    report.recipients.truncate(1);
    assert_eq!(lists(&report), 1);
}

#[test]
fn the_types_of_the_parts_follow_from_who_is_told_and_what_is_returned() {
    // RFC 6533 §4 and §6, RFC 6532 §3.7, RFC 3464 §2
    let (ascii, header, body) =
        ("Subject: x\r\n\r\ny\r\n", "Subject: é\r\n\r\ny\r\n", "Subject: x\r\n\r\né\r\n");
    for (sender, original, ret, status, returned) in [
        ("x@a.test", ascii, Ret::Full, "message/delivery-status 7bit", "message/rfc822 7bit"),
        ("x@a.test", ascii, Ret::Headers, "message/delivery-status 7bit", "text/rfc822-headers 7bit"),
        ("x@a.test", header, Ret::Full, "message/delivery-status 7bit", "message/global-headers base64"),
        ("x@a.test", body, Ret::Full, "message/delivery-status 7bit", "text/rfc822-headers 7bit"),
        // A domain in UTF-8 has a name in ASCII, so the sender can be told in ASCII.
        (
            "x@bücher.test",
            header,
            Ret::Headers,
            "message/delivery-status 7bit",
            "message/global-headers base64",
        ),
        ("é@a.test", ascii, Ret::Full, "message/global-delivery-status 8bit", "message/rfc822 7bit"),
        ("é@a.test", ascii, Ret::Headers, "message/global-delivery-status 8bit", "text/rfc822-headers 7bit"),
        ("é@a.test", body, Ret::Full, "message/global-delivery-status 8bit", "message/rfc822 8bit"),
        ("é@a.test", header, Ret::Full, "message/global-delivery-status 8bit", "message/global 8bit"),
        (
            "é@a.test",
            header,
            Ret::Headers,
            "message/global-delivery-status 8bit",
            "message/global-headers 8bit",
        ),
    ] {
        let mut report = failure();
        (report.sender, report.ret) = (Mailbox::parse(sender).unwrap(), Some(ret));
        report.original = Bytes::from_static(original.as_bytes());
        report.original_size = original.len() as u64;
        let parts: Vec<_> = parse(&report).parts.iter().map(|p| format!("{} {}", p.0, p.1)).collect();
        assert_eq!(parts[1..], [status, returned], "{sender} {original}");
        assert_eq!(report.to_submission().mail.smtputf8, sender == "é@a.test");
        let kind = value(&parse(&report).header, "Content-Type").unwrap().to_owned();
        // RFC 6522 §3
        assert!(kind.starts_with("multipart/report; report-type=delivery-status; boundary="), "{kind}");
    }
}
