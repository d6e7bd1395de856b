//! Every wait has its deadline, and a session can be ended.

use std::time::Duration;

use crate::dsl::{Peer, config, reply, uncut, with};

const READY: &str = "C: EHLO me\nS: 250...\nC: MAIL FROM:<a@a.test>\nC: RCPT TO:<b@b.test>\nC: DATA\nS: 250 2.1.0\nS: 250 2.1.5\nS: 354";

#[test]
fn a_silent_client_has_five_minutes_for_each_command() {
    // RFC 5321 §4.5.3.2.7
    uncut(&config(), "T: 299\nT: 1\nS: 421 4.4.2\nX");
    uncut(&config(), "T: 299\nC: NOOP\nS: 250\nT: 299\nC: EHLO me\nS: 250...\nT: 299\nT: 1\nS: 421 4.4.2\nX");
}

#[test]
fn a_dripping_client_has_thirty_seconds_for_a_line() {
    uncut(&config(), "T: 200\nC> N\nT: 20\nC> O\nT: 9\nC> O\nT: 1\nS: 421 4.4.2\nX");
    uncut(&config(), "C> N\nT: 29\nC> OOP\\r\\n\nS: 250\nT: 299\nT: 1\nS: 421 4.4.2\nX");
    // An overlong line that is being skipped is a line too.
    let long = "x".repeat(3000);
    uncut(&config(), &format!("C> {long}\nT: 30\nS: 421 4.4.2\nX"));
}

#[test]
fn content_has_three_minutes_for_each_block() {
    // RFC 5321 §4.5.3.2.5
    let mut slow = config();
    slow.timeouts.min_rate = 0;
    uncut(
        &slow,
        &format!(
            "{READY}\nT: 179\nC: x\nT: 179\nC: y\nT: 180\nS: 421 4.4.2\nE: hello me true\nE: mail <a@a.test>\nE: rcpt <b@b.test>\nE: start\nE: aborted\nX"
        ),
    );
}

#[test]
fn content_has_an_hour_in_total() {
    let mut slow = config();
    slow.timeouts.min_rate = 0;
    let mut script = String::from(READY);
    for _ in 0..23 {
        script.push_str("\nT: 150\nC: x");
    }
    script.push_str("\nT: 149\nT: 1\nS: 421 4.4.2\nX");
    uncut(&slow, &script);
}

#[test]
fn content_must_keep_up_a_least_rate() {
    // 3 minutes are forgiven; 1,000 octets pay for two seconds.
    let block = format!("C> {}", "x".repeat(1000));
    uncut(&config(), &format!("{READY}\nT: 100\n{block}\nT: 81\nT: 1\nS: 421 4.4.2\nX"));
    let mut script = String::from(READY);
    for _ in 0..40 {
        script.push_str(&format!("\nT: 10\nC> {}", "x".repeat(6000)));
    }
    script.push_str("\nC> \\r\\n.\\r\\n\nS: 250 2.6.0");
    uncut(&config(), &script);
}

#[test]
fn chunks_are_timed_like_data() {
    let ready = READY.replace("C: DATA\n", "").replace("\nS: 354", "");
    uncut(&config(), &format!("{ready}\nC: BDAT 9\nC> x\nT: 179\nT: 3\nS: 421 4.4.2\nX"));
    // A refused chunk is waited for no longer.
    uncut(&config(), "C: BDAT 9\nC> x\nT: 179\nT: 3\nS: 421 4.4.2\nX");
    // Between chunks the next command is waited for.
    uncut(&config(), &format!("{ready}\nC: BDAT 1\nC> x\nS: 250\nT: 299\nT: 1\nS: 421 4.4.2\nX"));
}

#[test]
fn the_time_the_host_takes_is_not_the_clients() {
    use bytes::BytesMut;
    use postroad::smtp::server::{Event, Session};
    use postroad::smtp::{Input, Output};

    let mut options = config();
    options.refuse_early_talk = false;
    let start = Peer::silent(&options).now;
    let mut session = Session::new(options, start);
    session.handle(start, Input::Data(&mut BytesMut::from("HELO me\r\nMAIL FROM:<>\r\n")));
    while !matches!(session.poll(), Output::Event(Event::Mail(_))) {}
    let later = start + Duration::from_secs(1000);
    session.handle(later, Input::Timeout);
    session.respond(reply(250, (2, 1, 0), "OK")).unwrap();
    session.handle(later, Input::Timeout);
    assert!(matches!(session.poll(), Output::Send(octets) if octets.ends_with(b"250 2.1.0 OK\r\n")));
    assert!(
        matches!(session.poll(), Output::Wait { until: Some(until) } if until == later + Duration::from_secs(300))
    );
}

#[test]
fn an_early_timeout_is_none() {
    with(&config(), "T: 10\nC: NOOP\nS: 250");
}

#[test]
fn shutdown_waits_for_the_message_and_not_for_the_next() {
    let bye = || reply(421, (4, 3, 2), "Shutting down");
    let mut idle = Peer::new(&config());
    idle.feed(b"EHLO me\r\n");
    idle.said.clear();
    idle.session.shutdown(bye());
    idle.pump();
    assert_eq!(idle.said, "421 4.3.2 Shutting down\r\n");
    assert!(idle.over);

    let mut busy = Peer::new(&config());
    busy.feed(b"EHLO me\r\nMAIL FROM:<>\r\n");
    busy.session.shutdown(bye());
    busy.pump();
    assert!(!busy.over);
    busy.said.clear();
    busy.feed(b"RCPT TO:<b@b.test>\r\nDATA\r\nx\r\n.\r\nMAIL FROM:<>\r\nNOOP\r\n");
    let replies: Vec<&str> = busy.said.lines().map(|line| &line[..3]).collect();
    assert_eq!(replies, ["250", "354", "250", "421"]);
    assert!(busy.over);

    let mut reset = Peer::new(&config());
    reset.feed(b"EHLO me\r\nMAIL FROM:<>\r\n");
    reset.session.shutdown(bye());
    reset.feed(b"RSET\r\n");
    assert!(reset.said.ends_with("250 2.0.0 OK\r\n421 4.3.2 Shutting down\r\n") && reset.over);
}

#[test]
fn a_connection_can_be_refused_in_place_of_the_greeting() {
    let mut peer = Peer::silent(&config());
    peer.session.close(&reply(554, (5, 7, 1), "Not from there"));
    peer.pump();
    assert_eq!(peer.said, "554 5.7.1 Not from there\r\n");
    assert!(peer.over);
}

#[test]
fn closing_in_the_middle_of_content_aborts_it() {
    let mut peer = Peer::new(&config());
    peer.feed(b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<b@b.test>\r\nDATA\r\nhalf");
    peer.session.close(&reply(421, (4, 3, 2), "Now"));
    peer.pump();
    assert_eq!(peer.events.last().unwrap(), "aborted");
    assert!(peer.said.ends_with("421 4.3.2 Now\r\n") && peer.over);
}

#[test]
fn tiny_chunks_do_not_stretch_the_hour() {
    let mut script = READY.replace("C: DATA\n", "").replace("\nS: 354", "");
    for _ in 0..25 {
        script.push_str("\nC: BDAT 0\nS: 250\nT: 144");
    }
    script.push_str("\nC: BDAT 0\nS: 421 4.4.2\nX");
    uncut(&config(), &script);
}

#[test]
fn a_client_has_an_hour_from_one_message_to_the_next_whatever_it_says_meanwhile() {
    let talk = "\nT: 290\nC: NOOP\nS: 250".repeat(12);
    let end = "\nT: 119\nT: 1\nS: 421 4.4.2\nX";
    uncut(&config(), &format!("C: EHLO me\nS: 250...{talk}{end}"));
    // The answer to a message starts the hour again; a refused one does not.
    let message = format!("{READY}\nC: x\nC: .\nS: 250 2.6.0");
    uncut(&config(), &format!("T: 200\n{message}{talk}{end}"));
    let refused = format!("{READY}\nC> a\\nb\\r\\n.\\r\\n\nS: 554 5.6.0");
    let end = "\nT: 9\nT: 1\nS: 421 4.4.2\nX";
    uncut(&config(), &format!("T: 110\n{refused}{talk}{end}"));
    // Recipient after recipient is no message either.
    let mut script = String::from("C: EHLO me\nS: 250...\nC: MAIL FROM:<a@a.test>\nS: 250");
    script.push_str(&"\nT: 299\nC: RCPT TO:<b@b.test>\nS: 250".repeat(12));
    uncut(&config(), &format!("{script}\nT: 11\nT: 1\nS: 421 4.4.2\nX"));
}

#[test]
fn a_session_in_a_hurry_waits_less_for_a_command_and_as_long_as_ever_for_the_rest() {
    let mut peer = Peer::new(&config());
    peer.session.hurry(Some(Duration::from_secs(30)));
    peer.feed(b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<b@b.test>\r\n");
    peer.pass(Duration::from_secs(29));
    peer.feed(b"DATA\r\n");
    peer.pass(Duration::from_secs(170));
    peer.feed(b"x\r\n.\r\n");
    assert!(peer.said.contains("\r\n250 2.6.0") && !peer.over, "{}", peer.said);
    peer.pass(Duration::from_secs(29));
    assert!(!peer.over);
    peer.session.hurry(None);
    peer.pump();
    peer.pass(Duration::from_secs(270));
    assert!(!peer.over);
    peer.session.hurry(Some(Duration::from_secs(30)));
    peer.pump();
    peer.pass(Duration::from_secs(1));
    assert!(peer.over && peer.said.contains("421 4.4.2"), "{}", peer.said);
}
