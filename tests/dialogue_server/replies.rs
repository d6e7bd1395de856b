//! Every reply has its form: an enhanced code of the same class on every line (RFC 2034 §4), save for
//! greeting, EHLO, HELO and 3xx.

use postroad::smtp::server::{AuthOffer, Config, Protocol};

use crate::dsl::{Peer, config, each_reply_is_well_formed};

const COMMANDS: &[&str] = &[
    "EHLO me",
    "HELO me",
    "LHLO me",
    "EHLO",
    "MAIL FROM:<a@a.test>",
    "MAIL FROM:<nobody@a.test>",
    "MAIL FROM:<later@a.test>",
    "MAIL FROM:<a@a.test> SIZE=99999999999",
    "MAIL FROM:<a@a.test> BODY=BINARYMIME",
    "MAIL FROM:<a@a.test> REQUIRETLS BY=1;R HOLDFOR=9 MT-PRIORITY=9",
    "MAIL FROM:<gr\u{fc}n@a.test>",
    "MAIL FROM:a",
    "MAIL",
    "RCPT TO:<b@b.test>",
    "RCPT TO:<nobody@b.test>",
    "RCPT TO:<b@c.test>",
    "RCPT TO:<b>",
    "RCPT TO:<b@b.test> NOTIFY=NEVER",
    "DATA",
    "DATA x",
    "BDAT 0",
    "BDAT 0 LAST",
    "BDAT 2 LAST\r\nx\n",
    "BDAT x",
    "BDAT 99999999999",
    "STARTTLS",
    "STARTTLS x",
    "AUTH PLAIN",
    "AUTH PLAIN AGFkYQByaWdodA==",
    "AUTH PLAIN AGFkYQB3cm9uZw==",
    "AUTH PLAIN !",
    "AUTH NONE",
    "RSET",
    "NOOP",
    "NOOP x",
    "VRFY",
    "VRFY ada",
    "VRFY gr\u{fc}n",
    "EXPN",
    "EXPN list",
    "HELP",
    "HELP DATA",
    "XCLIENT NAME=a",
    "XCLIENT NAME=nobody",
    "XCLIENT",
    "ETRN x",
    "TURN",
    "SEND FROM:<a@a.test>",
    "SAML FROM:<a@a.test>",
    "SOML FROM:<a@a.test>",
    "FOO",
    "",
    "GET / HTTP/1.1",
    "NOOP \n",
    "QUIT",
    "QUIT x",
];

/// Commands that lead into each state.
const STATES: &[&[&str]] = &[
    &[],
    &["HELO me"],
    &["EHLO me"],
    &["EHLO me", "AUTH PLAIN AGFkYQByaWdodA=="],
    &["EHLO me", "AUTH PLAIN"],
    &["EHLO me", "AUTH LOGIN", "YWRh"],
    &["EHLO me", "MAIL FROM:<a@a.test>"],
    &["EHLO me", "MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>"],
    &["EHLO me", "MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>", "BDAT 0"],
    &["EHLO me", "MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>", "BDAT 2\r\nx\n"],
    &["EHLO me", "MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>", "BDAT 0 LAST"],
    &["XCLIENT NAME=a"],
    &["XCLIENT NAME=nobody"],
];

fn configurations() -> Vec<Config> {
    let plain = config();
    let mut full = config();
    (full.auth, full.starttls, full.binary) = (AuthOffer::Always, true, true);
    (full.vrfy, full.expn, full.priority) = (true, true, true);
    (full.deliver_by, full.future_release) = (Some(60), Some(5));
    (full.max_recipients, full.max_recipient_domains, full.max_messages) = (2, Some(1), Some(1));
    let mut strict = full.clone();
    strict.require_tls = true;
    let mut submission = full.clone();
    submission.require_auth = true;
    let mut lmtp = full.clone();
    lmtp.protocol = Protocol::Lmtp;
    vec![plain, full, strict, submission, lmtp]
}

#[test]
fn every_command_in_every_state_gets_one_reply_of_the_right_form() {
    for (nth, config) in configurations().iter().enumerate() {
        for state in STATES {
            for command in COMMANDS {
                let mut peer = Peer::new(config);
                if nth > 0 {
                    peer.session.trust_xclient();
                }
                for before in *state {
                    let before = match config.protocol {
                        Protocol::Lmtp => before.replace("EHLO", "LHLO"),
                        Protocol::Smtp => (*before).to_owned(),
                    };
                    peer.feed(&line(&before));
                }
                if peer.over {
                    continue;
                }
                peer.said.clear();
                peer.feed(&line(command));
                let which = format!("{command:?} after {state:?} in configuration {nth}: {}", peer.said);
                // A chunk's own content ends it; a message that was refused may have several in LMTP.
                let replies = peer.said.lines().filter(|line| line.as_bytes()[3] == b' ').count();
                assert_eq!(replies, 1, "{which}");
                each_reply_is_well_formed(&peer.said);
                let code = peer.said.get(..3).unwrap();
                assert!(("200"..="599").contains(&code), "{which}");
            }
        }
    }
}

/// A chunk has its octets behind it and no line end of its own.
fn line(command: &str) -> Vec<u8> {
    let end = if command.starts_with("BDAT 2") { "" } else { "\r\n" };
    format!("{command}{end}").into_bytes()
}
