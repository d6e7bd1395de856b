//! Everything a client can send has a limit, and a test that reaches it.

use bytes::BytesMut;
use postroad::smtp::server::{Event, Session};
use postroad::smtp::{Input, Output};

use crate::dsl::{Peer, config, dialogue, reply, uncut, with};

#[test]
fn twenty_errors_end_the_session() {
    let errors = "C: XYZZY\n".repeat(21);
    dialogue(&format!("{errors}\n{}\nS: 421 4.7.0\nX", "S: 500 5.5.2\n".repeat(19)));
}

#[test]
fn recipients_the_host_refuses_are_no_errors() {
    dialogue(&format!(
        "C: EHLO me\nS: 250...\nC: MAIL FROM:<a@a.test>\n{}\nS: 250 2.1.0\n{}",
        "C: RCPT TO:<nobody@b.test>\n".repeat(30),
        "S: 550 5.1.1\n".repeat(30)
    ));
}

#[test]
fn recipients_past_the_limit_wait_for_the_next_transaction() {
    // RFC 5321 §4.5.3.1.10
    let mut few = config();
    few.max_recipients = 2;
    with(
        &few,
        &format!(
            "C: EHLO me
             S: 250...
             C: MAIL FROM:<a@a.test>
             C: RCPT TO:<b@b.test>
             C: RCPT TO:<nobody@b.test>
             C: RCPT TO:<c@b.test>
             {}
             C: DATA
             S: 250 2.1.0
             S: 250 2.1.5
             S: 550 5.1.1
             S: 250 2.1.5
             {}
             S: 354
             C: .
             S: 250 2.6.0",
            "C: RCPT TO:<d@b.test>\n".repeat(25),
            "S: 452 4.5.3\n".repeat(25)
        ),
    );
}

#[test]
fn lines_past_the_limit_are_refused_and_skipped() {
    let line = |octets: usize| format!("NOOP {}", "x".repeat(octets - 7));
    dialogue(&format!("C: {}\nS: 250 2.0.0", line(2048)));
    dialogue(&format!("C: {}\nC: NOOP\nS: 500 5.5.2\nS: 250 2.0.0", line(2049)));
    dialogue(&format!("C: {}\nC: NOOP\nS: 500 5.5.2\nS: 250 2.0.0", line(20_000)));
    // Only AUTH has longer lines.
    dialogue(&format!("C: EHLO me\nS: 250...\nC: AUTHX {}\nS: 500 5.5.2", "x".repeat(2048)));
}

#[test]
fn a_line_without_end_ends_the_session() {
    dialogue(&format!("C> {}\nS: 421 4.7.0\nX", "x".repeat(70_000)));
}

#[test]
fn idling_with_commands_ends_the_session() {
    let noop = "C: NOOP\n".repeat(101);
    dialogue(&format!("{noop}\n{}\nS: 421 4.7.0\nX", "S: 250 2.0.0\n".repeat(100)));
    dialogue(&format!("{}\n{}\nS: 421 4.7.0\nX", "C: HELO me\n".repeat(101), "S: 250 mx.test\n".repeat(100)));
}

#[test]
fn a_message_earns_new_idling() {
    let message = "C: MAIL FROM:<>\nC: RCPT TO:<b@b.test>\nC: BDAT 0 LAST\n";
    let taken = "S: 250 2.1.0\nS: 250 2.1.5\nS: 250 2.6.0\n";
    let (noop, ok) = ("C: NOOP\n".repeat(60), "S: 250 2.0.0\n".repeat(60));
    dialogue(&format!("C: EHLO me\nS: 250...\n{noop}{message}{noop}{ok}{taken}{ok}"));
}

#[test]
fn a_client_that_talks_before_the_greeting_is_refused() {
    let mut peer = Peer::silent(&config());
    peer.feed(b"EHLO me\r\n");
    assert_eq!(peer.said, "554 5.5.1 Client talked before its turn, closing connection\r\n");
    assert!(peer.over);
    assert!(peer.events.is_empty());
}

#[test]
fn the_greeting_counts_only_when_it_was_sent_whole() {
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    let now = std::time::Instant::now();
    let mut session = Session::new(config(), now);
    let Output::Send(greeting) = session.poll() else { panic!("no greeting") };
    session.handle(now, Input::Sent(greeting.len() - 1));
    session.handle(now, Input::Data(&mut BytesMut::from("NOOP\r\n")));
    let Output::Send(refusal) = session.poll() else { panic!("no refusal") };
    assert!(refusal.starts_with(b"554 5.5.1"));
    assert!(matches!(session.poll(), Output::Closed));
}

#[test]
fn early_talk_may_be_allowed() {
    let mut lenient = config();
    lenient.refuse_early_talk = false;
    let mut peer = Peer::silent(&lenient);
    peer.feed(b"NOOP\r\n");
    assert_eq!(peer.said, "220 mx.test ESMTP\r\n250 2.0.0 OK\r\n");
}

#[test]
fn a_client_that_takes_no_replies_gets_no_more_of_them() {
    let mut options = config();
    options.max_idle_commands = u32::MAX;
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    let now = std::time::Instant::now();
    let mut session = Session::new(options, now);
    let Output::Send(greeting) = session.poll() else { panic!("no greeting") };
    session.handle(now, Input::Sent(greeting.len()));
    let mut input = BytesMut::from(&b"NOOP\r\n".repeat(20_000)[..]);
    session.handle(now, Input::Data(&mut input));
    let left = input.len();
    assert!(left > 0 && !session.can_read_on());
    let Output::Send(replies) = session.poll() else { panic!("no replies") };
    assert!(replies.len() < 66 * 1024, "{}", replies.len());
    // Polled is not sent.
    session.handle(now, Input::Data(&mut input));
    assert_eq!(input.len(), left);
    session.handle(now, Input::Sent(replies.len()));
    assert!(session.can_read_on());
    session.handle(now, Input::Data(&mut input));
    assert!(input.len() < left);
}

#[test]
fn a_paused_session_reads_nothing() {
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    let now = std::time::Instant::now();
    let mut options = config();
    options.refuse_early_talk = false;
    let mut session = Session::new(options, now);
    let mut input = BytesMut::from("HELO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\n");
    session.handle(now, Input::Data(&mut input));
    assert_eq!(&input[..], b"RCPT TO:<a@b>\r\n");
    assert!(matches!(session.poll(), Output::Event(Event::Hello { .. })));
    assert!(matches!(session.poll(), Output::Event(Event::Mail(_))));
    // A host that must wait may let go what is ready; there is no deadline for the client meanwhile.
    assert!(matches!(session.poll(), Output::Send(_)));
    assert!(matches!(session.poll(), Output::Wait { until: None }));
    session.handle(now, Input::Data(&mut input));
    assert_eq!(&input[..], b"RCPT TO:<a@b>\r\n");
    session.respond(reply(250, (2, 1, 0), "OK")).unwrap();
    assert!(session.can_read_on());
    session.handle(now, Input::Data(&mut input));
    assert!(matches!(session.poll(), Output::Event(Event::Rcpt(_))));
}

#[test]
fn a_flood_of_hellos_does_not_pile_up_events() {
    let mut peer = Peer::new(&config());
    let mut options = config();
    options.max_idle_commands = u32::MAX;
    let mut session = Session::new(options, peer.now);
    let Output::Send(greeting) = session.poll() else { panic!("no greeting") };
    session.handle(peer.now, Input::Sent(greeting.len()));
    let mut input = BytesMut::from(&b"HELO me\r\n".repeat(1000)[..]);
    session.handle(peer.now, Input::Data(&mut input));
    assert!(input.len() > 8000);
    let mut events = 0;
    while let Output::Event(_) = session.poll() {
        events += 1;
    }
    assert!(events <= 16, "{events}");
    assert!(session.can_read_on());
    peer.eof();
}

#[test]
fn guessing_recipients_ends_the_session() {
    let guesses = "C: RCPT TO:<nobody@b.test>\n".repeat(1001);
    uncut(
        &config(),
        &format!(
            "C: EHLO me\nS: 250...\nC: MAIL FROM:<>\nS: 250 2.1.0\n{guesses}\n{}\nS: 421 4.7.0\nX",
            "S: 550 5.1.1\n".repeat(1000)
        ),
    );
    let guesses = "C: MAIL FROM:<nobody@b.test>\n".repeat(101);
    with(
        &config(),
        &format!("C: EHLO me\nS: 250...\n{guesses}\n{}\nS: 421 4.7.0\nX", "S: 550 5.1.1\n".repeat(99)),
    );
}

#[test]
fn what_was_sent_behind_a_refusal_without_knowing_is_no_mistake() {
    // RFC 2920 §3.1: a whole flight, for nobody or from nobody, again and again.
    let for_nobody = "C: RSET\nC: MAIL FROM:<a@a.test>\nC: RCPT TO:<nobody@b.test>\nC: BDAT 4 LAST\nC: hi\n";
    let from_nobody = "C: RSET\nC: MAIL FROM:<nobody@a.test>\nC: RCPT TO:<b@b.test>\nC: DATA\n";
    for (flight, replies) in [
        (for_nobody, "S: 250 2.0.0\nS: 250 2.1.0\nS: 550 5.1.1\nS: 554 5.5.1\n"),
        (from_nobody, "S: 250 2.0.0\nS: 550 5.1.1\nS: 503 5.5.1\nS: 503 5.5.1\n"),
    ] {
        let script = format!("{flight}{replies}").repeat(25);
        dialogue(&format!("C: EHLO me\nS: 250...\n{script}C: NOOP\nS: 250 2.0.0"));
    }
    // Without a refusal before, it is one.
    let script = "C: RCPT TO:<b@b.test>\nS: 503 5.5.1\n".repeat(19);
    dialogue(&format!("C: EHLO me\nS: 250...\n{script}C: DATA\nS: 421 4.7.0\nX"));
}
