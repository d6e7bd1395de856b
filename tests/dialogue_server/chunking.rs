//! Content behind BDAT (RFC 3030).

use crate::dsl::{config, dialogue, uncut, with};

const READY: &str =
    "C: EHLO me\nS: 250...\nC: MAIL FROM:<a@a.test>\nC: RCPT TO:<b@b.test>\nS: 250 2.1.0\nS: 250 2.1.5";
const ASKED: &str = "E: hello me true\nE: mail <a@a.test>\nE: rcpt <b@b.test>";

#[test]
fn envelope_and_content_come_in_one_flight() {
    dialogue(
        "C: EHLO me
         S: 250...
         C: MAIL FROM:<a@a.test>
         C: RCPT TO:<b@b.test>
         C: BDAT 7
         C: .hell
         C: BDAT 3 LAST
         C> o\\r\\nMAIL FROM:<c@c.test>\\r\\n
         S: 250 2.1.0
         S: 250 2.1.5
         S: 250 2.0.0 7 octets received
         S: 250 2.6.0
         S: 250 2.1.0
         E: hello me true
         E: mail <a@a.test>
         E: rcpt <b@b.test>
         E: start
         E: end .hell\\r\\no\\r\\n
         E: mail <c@c.test>",
    );
}

#[test]
fn an_empty_last_chunk_ends_the_message() {
    dialogue(
        &format!("{READY}\nC: BDAT 0 LAST\nS: 250 2.6.0\n{ASKED}\nE: start\nE: end")
            .replace("E: end", "E: end "),
    );
    dialogue(&format!(
        "{READY}\nC: BDAT 3\nC> x\\r\\n\nC: BDAT 0\nC: BDAT 0 LAST\nS: 250 2.0.0 3\nS: 250 2.0.0 0\nS: 250 2.6.0\n{ASKED}\nE: start\nE: end x\\r\\n"
    ));
}

#[test]
fn content_may_lack_its_last_line_end() {
    dialogue(&format!("{READY}\nC: BDAT 1 LAST\nC> x\nS: 250 2.6.0\n{ASKED}\nE: start\nE: end x"));
}

#[test]
fn dots_and_commands_in_a_chunk_are_content() {
    dialogue(&format!(
        "{READY}\nC: BDAT 12 LAST\nC> \\r\\n.\\r\\nQUIT\\r\\n.\nS: 250 2.6.0\n{ASKED}\nE: start\nE: end \\r\\n.\\r\\nQUIT\\r\\n."
    ));
}

#[test]
fn a_line_end_may_be_cut_by_a_chunk_border_but_not_broken() {
    for (first, second, whole) in [
        ("x\\r", "\\ny", Some("x\\r\\ny")),
        ("x\\r\\n", "y\\r\\n", Some("x\\r\\ny\\r\\n")),
        ("x\\r", "yz", None),
        ("xy", "\\nz", None),
        ("x\\n", "yz", None),
        ("xy", "z\\r", None),
        ("\\rx", "yz", None),
    ] {
        let size = |text: &str| text.replace("\\r", "r").replace("\\n", "n").len();
        let (one, two) = (size(first), size(second));
        let early = whole.is_none() && (first == "x\\n" || first == "\\rx");
        let (reply_one, reply_two, event) = match whole {
            Some(content) => ("250 2.0.0", "250 2.6.0", format!("end {content}")),
            None if early => ("554 5.6.0", "503 5.5.1", "aborted".to_owned()),
            None => ("250 2.0.0", "554 5.6.0", "aborted".to_owned()),
        };
        dialogue(&format!(
            "{READY}
             C: BDAT {one}
             C> {first}
             C: BDAT {two} LAST
             C> {second}
             S: {reply_one}
             S: {reply_two}
             {ASKED}
             E: start
             E: {event}"
        ));
    }
}

#[test]
fn binary_content_is_any_octets() {
    let mut binary = config();
    binary.binary = true;
    with(
        &binary,
        "C: EHLO me
         S: 250...
         C: MAIL FROM:<a@a.test> BODY=BINARYMIME
         C: RCPT TO:<b@b.test>
         C: BDAT 4
         C> \\r\\n\\n\\r
         C: BDAT 2 LAST
         C> \\0\\r
         S: 250 2.1.0
         S: 250 2.1.5
         S: 250 2.0.0
         S: 250 2.6.0
         E: hello me true
         E: mail <a@a.test> BODY=BINARYMIME
         E: rcpt <b@b.test>
         E: start
         E: end \\r\\n\\n\\r\\x00\\r",
    );
}

#[test]
fn the_octets_of_a_refused_chunk_are_no_commands() {
    // RFC 3030 §2
    let chunk = "C: BDAT 10\nC> QUIT\\r\\nRSET";
    dialogue(&format!("{chunk}\nC: NOOP\nS: 503 5.5.1\nS: 250 2.0.0"));
    dialogue(&format!("C: EHLO me\nS: 250...\n{chunk}\nC: NOOP\nS: 503 5.5.1\nS: 250 2.0.0"));
    dialogue(&format!(
        "C: EHLO me\nS: 250...\nC: MAIL FROM:<a@a.test>\nC: RCPT TO:<nobody@b.test>\n{chunk}\n{chunk}\nC: NOOP\nS: 250 2.1.0\nS: 550 5.1.1\nS: 554 5.5.1\nS: 503 5.5.1\nS: 250 2.0.0"
    ));
    let mut small = config();
    small.max_message_size = 9;
    with(
        &small,
        &format!("{READY}\n{chunk}\nC: NOOP\nS: 552 5.3.4\nS: 250 2.0.0\n{ASKED}\nE: ")
            .replace("\nE: hello me true\nE: mail <a@a.test>\nE: rcpt <b@b.test>\nE: ", ""),
    );
}

#[test]
fn a_failed_chunk_kills_its_transaction_until_rset() {
    for (reset, reply) in [("RSET", "250 2.0.0"), ("EHLO me", "250...")] {
        dialogue(&format!(
            "{READY}
             C: BDAT 3
             C> x\\ny
             C: BDAT 1 LAST
             C> z
             C: MAIL FROM:<c@c.test>
             C: RCPT TO:<c@c.test>
             C: DATA
             S: 554 5.6.0
             S: 503 5.5.1
             S: 503 5.5.1
             S: 503 5.5.1
             S: 503 5.5.1
             C: {reset}
             S: {reply}
             C: MAIL FROM:<c@c.test>
             S: 250 2.1.0"
        ));
    }
}

#[test]
fn a_refused_last_chunk_ends_the_transaction_as_a_final_dot_does() {
    dialogue(&format!(
        "{READY}\nC: BDAT 2 LAST\nC> x\\n\nC: MAIL FROM:<c@c.test>\nS: 554 5.6.0\nS: 250 2.1.0"
    ));
    dialogue(&format!(
        "{READY}\nC: BDAT 5 LAST\nC> later\nC: MAIL FROM:<c@c.test>\nS: 450 4.2.0\nS: 250 2.1.0"
    ));
}

#[test]
fn data_and_bdat_do_not_mix() {
    // RFC 3030 §2
    dialogue(&format!(
        "{READY}\nC: BDAT 1\nC> x\nC: DATA\nS: 250 2.0.0\nS: 503 5.5.1\nC: BDAT 0 LAST\nS: 250 2.6.0"
    ));
    dialogue(&format!(
        "{READY}\nC: BDAT 1\nC> x\nC: RCPT TO:<c@c.test>\nC: MAIL FROM:<>\nS: 250 2.0.0\nS: 503 5.5.1\nS: 503 5.5.1"
    ));
    // No chunk may follow the last one.
    dialogue(&format!("{READY}\nC: BDAT 1 LAST\nC> x\nC: BDAT 1 LAST\nC> y\nS: 250 2.6.0\nS: 503 5.5.1"));
}

#[test]
fn rset_quit_and_eof_abort_a_half_sent_message() {
    for (command, reply, over) in [
        ("RSET", "250 2.0.0", ""),
        ("EHLO me", "250...", "E: hello me true"),
        ("QUIT", "221 2.0.0", "E: quit\nX"),
    ] {
        dialogue(&format!(
            "{READY}\nC: BDAT 1\nC> x\nS: 250 2.0.0\nC: {command}\nS: {reply}\n{ASKED}\nE: start\nE: aborted\n{over}"
        ));
    }
    dialogue(&format!("{READY}\nC: BDAT 9\nC> x\nEOF\n{ASKED}\nE: start\nE: aborted\nX"));
}

#[test]
fn the_size_limit_holds_for_all_chunks_together() {
    let mut small = config();
    small.max_message_size = 10;
    with(
        &small,
        &format!("{READY}\nC: BDAT 6\nC> 123456\nC: BDAT 4 LAST\nC> 7890\nS: 250 2.0.0\nS: 250 2.6.0"),
    );
    with(
        &small,
        &format!(
            "{READY}\nC: BDAT 6\nC> 123456\nC: BDAT 5 LAST\nC> 78901\nC: NOOP\nS: 250 2.0.0\nS: 552 5.3.4\nS: 250 2.0.0\n{ASKED}\nE: start\nE: aborted"
        ),
    );
}

#[test]
fn a_chunk_that_cannot_be_measured_or_read_ends_the_session() {
    for size in ["x", "", "-1", "+1", "1 FIRST", "18446744073709551616", "99999999999999999999999"] {
        dialogue(&format!("{READY}\nC: BDAT {size}\nC: NOOP\nS: 501 5.5.4\nX"));
    }
    for size in ["18446744073709551615", "9223372036854775808", "100000000000"] {
        dialogue(&format!("{READY}\nC: BDAT {size} LAST\nC: NOOP\nS: 552 5.3.4\nX"));
        dialogue(&format!("C: EHLO me\nS: 250...\nC: BDAT {size}\nC: NOOP\nS: 552 5.3.4\nX"));
    }
}

#[test]
fn a_chunk_of_a_dripping_client_is_one_message() {
    let body = "C: 0123456789\n".repeat(40);
    uncut(&config(), &format!("{READY}\nC: BDAT 480 LAST\n{body}\nS: 250 2.6.0"));
}
