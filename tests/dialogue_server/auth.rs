//! AUTH (RFC 4954).

use postroad::smtp::server::{AuthOffer, Config};

use crate::dsl::{config, rows, with};

const HELLO: &str = "C: EHLO me\nS: 250...";
/// "ada" and "right"
const PLAIN: &str = "AGFkYQByaWdodA==";
/// "ada" and "wrong"
const WRONG: &str = "AGFkYQB3cm9uZw==";

fn open() -> Config {
    let mut config = config();
    config.auth = AuthOffer::Always;
    config
}

#[test]
fn plain_with_and_without_an_initial_response() {
    with(
        &open(),
        &format!("{HELLO}\nC: AUTH PLAIN {PLAIN}\nS: 235 2.7.0\nE: hello me true\nE: auth PLAIN ada right"),
    );
    with(
        &open(),
        &format!(
            "{HELLO}\nC: AUTH plain\nS: 334 \nC: {PLAIN}\nS: 235 2.7.0\nE: hello me true\nE: auth PLAIN ada right"
        ),
    );
    with(
        &open(),
        &format!("{HELLO}\nC: AUTH PLAIN {WRONG}\nS: 535 5.7.8\nC: AUTH PLAIN {PLAIN}\nS: 235 2.7.0"),
    );
}

#[test]
fn login_with_and_without_an_initial_user_name() {
    with(
        &open(),
        &format!(
            "{HELLO}\nC: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: YWRh\nS: 334 UGFzc3dvcmQ6\nC: cmlnaHQ=\nS: 235 2.7.0\nE: hello me true\nE: auth LOGIN ada right"
        ),
    );
    with(&open(), &format!("{HELLO}\nC: AUTH LOGIN YWRh\nS: 334 UGFzc3dvcmQ6\nC: cmlnaHQ=\nS: 235 2.7.0"));
    with(&open(), &format!("{HELLO}\nC: AUTH LOGIN YWRh\nC: d3Jvbmc=\nS: 334\nS: 535 5.7.8"));
}

#[test]
fn an_asterisk_cancels() {
    // RFC 4954 §4
    with(&open(), &format!("{HELLO}\nC: AUTH PLAIN\nS: 334\nC: *\nS: 501 5.7.0\nC: NOOP\nS: 250 2.0.0"));
    with(&open(), &format!("{HELLO}\nC: AUTH LOGIN\nS: 334\nC: *\nS: 501 5.7.0\nC: NOOP\nS: 250 2.0.0"));
    with(&open(), &format!("{HELLO}\nC: AUTH LOGIN YWRh\nS: 334\nC: *\nS: 501 5.7.0\nC: NOOP\nS: 250 2.0.0"));
}

#[test]
fn what_is_no_answer_is_refused() {
    rows(
        &open(),
        HELLO,
        &[
            ("AUTH PLAIN =", "501 5.5.2"), // the empty response, which PLAIN does not know
            ("AUTH PLAIN !", "501 5.5.2"),
            ("AUTH PLAIN AGFkYQByaWdodA", "501 5.5.2"), // no padding
            ("AUTH PLAIN YQ==", "501 5.5.2"),
            ("AUTH PLAIN cm9vdABhZGEAcmlnaHQ=", "535 5.7.8"), // root\0ada\0right
            ("AUTH", "501 5.5.4"),
            ("AUTH PLAIN a b", "501 5.5.4"),
            ("AUTH CRAM-MD5", "504 5.5.4"),
            ("AUTH XOAUTH2 x", "504 5.5.4"),
        ],
    );
    with(&open(), &format!("{HELLO}\nC: AUTH PLAIN\nS: 334\nC: =\nS: 501 5.5.2"));
    with(&open(), &format!("{HELLO}\nC: AUTH PLAIN\nS: 334\nC:\nS: 501 5.5.2"));
    with(&open(), &format!("{HELLO}\nC: AUTH LOGIN =\nS: 334\nC: cmlnaHQ=\nS: 501 5.5.2"));
    with(
        &open(),
        &format!(
            "{HELLO}\nC: AUTH PLAIN\nS: 334\nC> AGFk\\nYQByaWdodA==\\r\\n\nS: 500 5.5.2\nC: NOOP\nS: 250"
        ),
    );
}

#[test]
fn auth_has_its_place_in_the_dialogue() {
    // RFC 4954 §4
    let auth = format!("AUTH PLAIN {PLAIN}");
    with(&open(), &format!("C: {auth}\nS: 503 5.5.1"));
    with(&open(), &format!("{HELLO}\nC: {auth}\nS: 235 2.7.0\nC: {auth}\nS: 503 5.5.1"));
    with(&open(), &format!("{HELLO}\nC: MAIL FROM:<a@a.test>\nS: 250 2.1.0\nC: {auth}\nS: 503 5.5.1"));
    with(
        &open(),
        &format!("{HELLO}\nC: {auth}\nS: 235 2.7.0\nC: EHLO me\nS: 250...\nC: {auth}\nS: 503 5.5.1"),
    );
}

#[test]
fn a_password_is_not_taken_in_the_clear() {
    let mut tls = config();
    (tls.auth, tls.starttls) = (AuthOffer::UnderTls, true);
    with(
        &tls,
        &format!(
            "C: EHLO me
             S: 250-mx.test
             S: 250-PIPELINING
             S: 250-SIZE
             S: 250-STARTTLS
             S: 250-8BITMIME
             S: 250-SMTPUTF8
             S: 250-CHUNKING
             S: 250-DSN
             S: 250-ENHANCEDSTATUSCODES
             S: 250 LIMITS RCPTMAX=1000
             C: AUTH PLAIN {PLAIN}
             S: 538 5.7.11
             C: STARTTLS
             S: 220 2.0.0
             TLS
             C: EHLO me
             S: 250-mx.test
             S: 250-PIPELINING
             S: 250-SIZE
             S: 250-AUTH PLAIN LOGIN
             S: 250-8BITMIME
             S: 250-SMTPUTF8
             S: 250-CHUNKING
             S: 250-DSN
             S: 250-ENHANCEDSTATUSCODES
             S: 250 LIMITS RCPTMAX=1000
             C: AUTH PLAIN {PLAIN}
             S: 235 2.7.0"
        ),
    );
}

#[test]
fn submission_needs_a_login() {
    // RFC 6409 §4.3
    let mut submission = open();
    submission.require_auth = true;
    with(
        &submission,
        &format!(
            "{HELLO}
             C: MAIL FROM:<a@a.test>
             C: RCPT TO:<b@b.test>
             C: DATA
             S: 530 5.7.0
             S: 503 5.5.1
             S: 503 5.5.1
             C: AUTH PLAIN {PLAIN}
             S: 235 2.7.0
             C: MAIL FROM:<a@a.test> AUTH=<>
             S: 250 2.1.0"
        ),
    );
}

#[test]
fn five_wrong_passwords_end_the_session() {
    // RFC 4954 §9
    let wrong = format!("C: AUTH PLAIN {WRONG}\n");
    with(
        &open(),
        &format!("{HELLO}\n{}\nC: NOOP\n{}\nS: 421 4.7.0\nX", wrong.repeat(5), "S: 535 5.7.8\n".repeat(4)),
    );
}

#[test]
fn auth_lines_are_longer_than_others_and_limited() {
    // RFC 4954 §4
    let pad = |octets: usize| "A".repeat(octets);
    let fits = pad(12_288 - "AUTH PLAIN \r\n".len());
    let too_long = pad(12_288 - "AUTH PLAIN \r\n".len() + 1);
    with(&open(), &format!("{HELLO}\nC: AUTH PLAIN {fits}\nS: 501 5.5.2\nC: NOOP\nS: 250 2.0.0"));
    with(&open(), &format!("{HELLO}\nC: AUTH PLAIN {too_long}\nS: 500 5.5.2\nC: NOOP\nS: 250 2.0.0"));
    with(
        &open(),
        &format!("{HELLO}\nC: AUTH PLAIN\nS: 334\nC: {}\nS: 501 5.5.2\nC: NOOP\nS: 250 2.0.0", pad(12_286)),
    );
    with(
        &open(),
        &format!("{HELLO}\nC: AUTH PLAIN\nS: 334\nC: {}\nS: 500 5.5.6\nC: NOOP\nS: 250 2.0.0", pad(12_287)),
    );
}
