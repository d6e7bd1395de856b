//! LMTP (RFC 2033): LHLO, and a reply for each recipient.

use bytes::BytesMut;
use postroad::smtp::error::Misuse;
use postroad::smtp::server::{Event, Protocol, Session};
use postroad::smtp::{Input, Output};

use crate::dsl::{Peer, config, reply, rows, with};

#[test]
fn lmtp_begins_with_lhlo_and_nothing_else() {
    // RFC 2033 §4.1
    let mut lmtp = config();
    lmtp.protocol = Protocol::Lmtp;
    rows(&lmtp, "", &[("EHLO me", "500 5.5.1"), ("HELO me", "500 5.5.1"), ("MAIL FROM:<>", "503 5.5.1")]);
    // RFC 2033 §5: these it must have.
    with(
        &lmtp,
        "C: LHLO me
         S: 250-mx.test
         S: 250-PIPELINING
         S: 250-SIZE
         S: 250-8BITMIME
         S: 250-SMTPUTF8
         S: 250-CHUNKING
         S: 250-DSN
         S: 250-ENHANCEDSTATUSCODES
         S: 250 LIMITS RCPTMAX=1000",
    );
}

#[test]
fn lmtp_answers_a_message_once_for_each_recipient() {
    // RFC 2033 §4.2
    let mut lmtp = config();
    lmtp.protocol = Protocol::Lmtp;
    with(
        &lmtp,
        "C: LHLO me
         S: 250...
         C: MAIL FROM:<a@a.test>
         C: RCPT TO:<nobody@b.test>
         C: DATA
         S: 250 2.1.0
         S: 550 5.1.1
         S: 503 5.5.1
         C: RCPT TO:<b@b.test>
         C: RCPT TO:<c@b.test>
         C: DATA
         S: 250 2.1.5
         S: 250 2.1.5
         S: 354
         C: x
         C: .
         S: 250 2.6.0
         S: 250 2.6.0
         C: MAIL FROM:<a@a.test>
         C: RCPT TO:<b@b.test>
         C: RCPT TO:<c@b.test>
         S: 250 2.1.0
         S: 250 2.1.5
         S: 250 2.1.5
         C: BDAT 2 LAST
         C> x\\n
         S: 554 5.6.0
         S: 554 5.6.0",
    );
}

#[test]
fn lmtp_recipients_may_fare_differently() {
    let mut lmtp = config();
    (lmtp.protocol, lmtp.refuse_early_talk) = (Protocol::Lmtp, false);
    let now = Peer::silent(&lmtp).now;
    let mut session = Session::new(lmtp, now);
    let mut input =
        BytesMut::from("LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 0 LAST\r\n");
    let ok = || reply(250, (2, 0, 0), "OK");
    let mut said = String::new();
    loop {
        session.handle(now, Input::Data(&mut input));
        match session.poll() {
            Output::Event(Event::Mail(_) | Event::Rcpt(_)) => session.respond(ok()).unwrap(),
            Output::Event(Event::MessageEnd) => {
                assert_eq!(session.respond_each(&[ok()]), Err(Misuse::WrongCount));
                session.respond_each(&[ok(), reply(452, (4, 2, 2), "Full")]).unwrap();
            }
            Output::Send(octets) => said.push_str(std::str::from_utf8(&octets).unwrap()),
            Output::Wait { .. } => break,
            _ => {}
        }
    }
    assert!(said.ends_with("250 2.0.0 OK\r\n452 4.2.2 Full\r\n"), "{said}");
    assert_eq!(session.respond(ok()), Err(Misuse::NothingAsked));
}
