//! Reports read by a parser that somebody else wrote: Python's `email`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "kit/reports.rs"]
mod reports;

use bytes::Bytes;
use postroad::clock::{Rng, Timestamp};
use postroad::message::{MessageId, Report, ReportKind, ReportRecipient};
use postroad::smtp::address::{EhloName, ForwardPath, Mailbox};
use postroad::smtp::params::{Rcpt, Ret, XText};
use postroad::smtp::reply::{EnhancedCode, Reply};

/// What Python says of a report; `None` where there is no Python.
fn read(report: &Report) -> Option<String> {
    reports::read(&report.build())
}

fn report(said: &str) -> Report {
    let now = Timestamp::from_millis(1_790_000_000_000);
    let mut gone = ReportRecipient::new(
        ReportKind::Failure,
        Rcpt::new(ForwardPath::parse("gone@b.test").unwrap()),
        EnhancedCode::new(5, 1, 1),
        said,
    );
    gone.reply = Some(Reply::new(550, EnhancedCode::new(5, 1, 1), said));
    let late = ReportRecipient::new(
        ReportKind::Failure,
        Rcpt::new(ForwardPath::parse("late@b.test").unwrap()),
        EnhancedCode::new(5, 4, 7),
        "could not be delivered in time",
    );
    let mut report = Report::new(
        MessageId::new(now, &Rng::seeded(9)),
        EhloName::new("mail.a.test").unwrap(),
        Mailbox::parse("x@a.test").unwrap(),
        now,
        now,
        vec![gone, late],
    );
    report.envid = Some(XText::new("order 77", 100).unwrap());
    report.original = Bytes::from_static(b"From: x@a.test\r\nSubject: Hello\r\n\r\nSee you.\r\n");
    report.original_size = report.original.len() as u64;
    report
}

const BLOCKS: &str = "block|Original-Envelope-Id|Reporting-MTA|Arrival-Date
Original-Envelope-Id|order 77
block|Final-Recipient|Action|Status|Diagnostic-Code
Final-Recipient|rfc822; gone@b.test
Action|failed
Status|5.1.1
Diagnostic-Code|SAID
block|Final-Recipient|Action|Status
Final-Recipient|rfc822; late@b.test
Action|failed
Status|5.4.7
subject|Hello
";

fn expected(parts: &str, said: &str) -> String {
    format!(
        "type|multipart/report|delivery-status\nauto|auto-replied\nto|x@a.test\ndefects|0\n\
         parts|{parts}\ndefects|0\ndefects|0\ndefects|0\n{}",
        BLOCKS.replace("SAID", said)
    )
}

#[test]
fn another_parser_reads_what_was_reported() {
    let Some(found) = read(&report("no such user")) else { return };
    let parts = "text/plain|message/delivery-status|message/rfc822";
    assert_eq!(found, expected(parts, "smtp; 550 5.1.1 no such user"));
    let mut headers = report("no such user");
    headers.ret = Some(Ret::Headers);
    let parts = "text/plain|message/delivery-status|text/rfc822-headers";
    assert_eq!(read(&headers).unwrap(), expected(parts, "smtp; 550 5.1.1 no such user"));
}

#[test]
fn another_parser_finds_no_field_that_a_reply_forged() {
    let evil = "no\r\n\r\nFinal-Recipient: rfc822; root@a.test\nAction: delivered\r\n.\r\n--=_\0";
    let Some(found) = read(&report(evil)) else { return };
    let parts = "text/plain|message/delivery-status|message/rfc822";
    let said = "smtp; 550 5.1.1 no Final-Recipient: rfc822; root@a.test Action: delivered . --=_";
    assert_eq!(found, expected(parts, said));
}

#[test]
fn another_parser_reads_a_report_to_an_address_in_utf8() {
    let mut report = report("no such user");
    report.sender = Mailbox::parse("ärzte@a.test").unwrap();
    report.recipients[0].rcpt = Rcpt::new(ForwardPath::parse("grün@b.test").unwrap());
    let Some(found) = read(&report) else { return };
    assert!(found.contains("to|ärzte@a.test\ndefects|0\n"), "{found}");
    assert!(found.contains("parts|text/plain|message/global-delivery-status|message/rfc822\n"), "{found}");
    assert!(found.contains("Final-Recipient|utf-8; grün@b.test\nAction|failed\n"), "{found}");
}

#[test]
fn another_parser_reads_each_kind_of_report() {
    let until = Timestamp::from_millis(1_790_000_600_000);
    for (kind, action) in [
        (ReportKind::Delay { until }, "delayed"),
        (ReportKind::Success, "delivered"),
        (ReportKind::Relayed, "relayed"),
        (ReportKind::Expanded, "expanded"),
    ] {
        let mut report = report("ok");
        report.recipients.iter_mut().for_each(|recipient| recipient.kind = kind);
        report.deliver_by = Some(until);
        let Some(found) = read(&report) else { return };
        let parts = "parts|text/plain|message/delivery-status|text/rfc822-headers\n";
        assert!(found.contains(parts), "{found}");
        assert!(found.contains("Arrival-Date|Deliver-By-Date\n"), "{found}");
        assert!(found.contains("Deliver-By-Date|Mon, 21 Sep 2026 14:23:20 +0000\n"), "{found}");
        assert_eq!(found.matches(&format!("Action|{action}\n")).count(), 2, "{found}");
        let retried = found.matches("Will-Retry-Until|Mon, 21 Sep 2026 14:23:20 +0000\n").count();
        assert_eq!(retried, if action == "delayed" { 2 } else { 0 });
        assert!(found.ends_with("subject|Hello\n"), "{found}");
    }
}

#[test]
fn another_parser_finds_no_body_of_a_message_that_required_tls() {
    let mut report = report("no such user");
    report.require_tls = true;
    report.ret = Some(Ret::Full);
    assert!(!String::from_utf8_lossy(&report.build()).contains("See you."));
    let submission = report.to_submission();
    assert_eq!(submission.mail.to_string(), "<> REQUIRETLS");
    assert_eq!(submission.recipients[0].to_string(), "<x@a.test> NOTIFY=NEVER");
    let Some(found) = read(&report) else { return };
    let parts = "text/plain|message/delivery-status|text/rfc822-headers";
    assert_eq!(found, expected(parts, "smtp; 550 5.1.1 no such user"));
}
