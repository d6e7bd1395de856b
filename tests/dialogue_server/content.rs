//! Content behind DATA.

use crate::dsl::{config, dialogue, with};

const READY: &str = "C: EHLO me\nS: 250...\nC: MAIL FROM:<a@a.test>\nC: RCPT TO:<b@b.test>\nC: DATA\nS: 250 2.1.0\nS: 250 2.1.5\nS: 354";
const ASKED: &str = "E: hello me true\nE: mail <a@a.test>\nE: rcpt <b@b.test>\nE: start";

#[test]
fn doubled_dots_are_removed_wherever_the_input_is_cut() {
    // RFC 5321 §4.5.2
    for (wire, content) in [
        ("..\\r\\n", ".\\r\\n"),
        ("...\\r\\n", "..\\r\\n"),
        (".x\\r\\n", "x\\r\\n"),
        ("x\\r\\n..\\r\\n..y\\r\\n", "x\\r\\n.\\r\\n.y\\r\\n"),
        ("x.\\r\\n .\\r\\n", "x.\\r\\n .\\r\\n"),
        ("", ""),
        ("\\r\\n", "\\r\\n"),
        ("\\r\\n\\r\\n", "\\r\\n\\r\\n"),
        ("x\\0\\xff\\r\\n", "x\\x00\\xff\\r\\n"),
    ] {
        dialogue(&format!("{READY}\nC> {wire}.\\r\\n\nS: 250 2.6.0\n{ASKED}\nE: end {content}"));
    }
}

#[test]
fn nothing_but_crlf_dot_crlf_ends_content_and_bare_line_ends_are_refused() {
    // RFC 5321 §2.3.8, §4.1.1.4; CVE-2023-51764
    for smuggled in [
        "x\\n.\\n",
        "x\\n.\\r\\n",
        "x\\r.\\r",
        "x\\r.\\r\\n",
        "x\\r\\n.\\n",
        "x\\r\\n.\\r",
        "x\\n.\\r",
        "x\\r.\\n",
        "\\n",
        "\\0.\\r\\n",
        ".\\0\\r\\n",
        "x\\r\\n\\0\\r\\n",
        "\\r",
        "x\\r\\r\\n",
        "\\r\\n\\n",
        ".\\n",
        ".\\r",
        "\\n.\\n",
    ] {
        dialogue(&format!(
            "{READY}
             C> {smuggled}MAIL FROM:<evil@a.test>\\r\\n.\\r\\n
             S: 554 5.6.0
             C: MAIL FROM:<a@a.test>
             S: 250 2.1.0
             {ASKED}
             E: aborted
             E: mail <a@a.test>"
        ));
    }
}

#[test]
fn the_commands_behind_the_dot_are_commands() {
    dialogue(&format!(
        "{READY}
         C: x
         C: .
         C: MAIL FROM:<c@c.test>
         C: RCPT TO:<d@d.test>
         S: 250 2.6.0
         S: 250 2.1.0
         S: 250 2.1.5
         {ASKED}
         E: end x\\r\\n
         E: mail <c@c.test>
         E: rcpt <d@d.test>"
    ));
}

#[test]
fn whatever_the_reply_the_transaction_is_over() {
    for (body, reply) in [("fine", "250 2.6.0"), ("later", "450 4.2.0"), ("nobody", "550 5.1.1")] {
        dialogue(&format!(
            "{READY}
             C: {body}
             C: .
             S: {reply}
             C: RCPT TO:<c@c.test>
             S: 503 5.5.1
             C: DATA
             S: 503 5.5.1
             C: MAIL FROM:<a@a.test>
             S: 250 2.1.0"
        ));
    }
}

#[test]
fn size_counts_the_content_without_stuffing_and_without_the_end() {
    // RFC 1870 §5
    let mut small = config();
    small.max_message_size = 10;
    for (wire, reply, event) in [
        ("12345678\\r\\n", "250 2.6.0", "end 12345678\\r\\n"),
        ("123456789\\r\\n", "552 5.3.4", "aborted"),
        ("..345678\\r\\n.", "250 2.6.0", ""),
        ("..\\r\\n..\\r\\n..\\r\\n", "250 2.6.0", "end .\\r\\n.\\r\\n.\\r\\n"),
        ("..\\r\\n..\\r\\n..\\r\\n..\\r\\n", "552 5.3.4", "aborted"),
    ] {
        if event.is_empty() {
            continue;
        }
        with(
            &small,
            &format!("{READY}\nC> {wire}.\\r\\n\nS: {reply}\nC: NOOP\nS: 250 2.0.0\n{ASKED}\nE: {event}"),
        );
    }
}

#[test]
fn a_message_past_the_limit_is_read_to_its_end_and_refused_once() {
    let mut small = config();
    small.max_message_size = 100;
    let lines = "C: 0123456789\n".repeat(50);
    with(
        &small,
        &format!("{READY}\n{lines}\nC: .\nC: RSET\nS: 552 5.3.4\nS: 250 2.0.0\n{ASKED}\nE: aborted"),
    );
}

#[test]
fn binary_content_needs_bdat() {
    // RFC 3030 §3
    let mut binary = config();
    binary.binary = true;
    with(
        &binary,
        "C: EHLO me
         S: 250...
         C: MAIL FROM:<a@a.test> BODY=BINARYMIME
         C: RCPT TO:<b@b.test>
         C: DATA
         S: 250 2.1.0
         S: 250 2.1.5
         S: 503 5.5.1",
    );
}
