//! Commands, their order and their arguments.

use postroad::smtp::server::AuthOffer;

use crate::dsl::{Peer, config, dialogue, rows, with};

const HELLO: &str = "C: EHLO me\nS: 250...";
const MAIL: &str = "C: EHLO me\nS: 250...\nC: MAIL FROM:<a@a.test>\nS: 250 2.1.0";
const RCPT: &str =
    "C: EHLO me\nS: 250...\nC: MAIL FROM:<a@a.test>\nS: 250 2.1.0\nC: RCPT TO:<b@b.test>\nS: 250 2.1.5";

#[test]
fn a_message_is_taken() {
    dialogue(
        "C: EHLO client.test
         S: 250-mx.test
         S: 250-PIPELINING
         S: 250-SIZE 26214400
         S: 250-8BITMIME
         S: 250-SMTPUTF8
         S: 250-CHUNKING
         S: 250-DSN
         S: 250-ENHANCEDSTATUSCODES
         S: 250 LIMITS RCPTMAX=1000
         C: MAIL FROM:<a@a.test> SIZE=20 BODY=8BITMIME RET=HDRS ENVID=x1
         S: 250 2.1.0 Sender OK
         C: RCPT TO:<b@b.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;c@c.test
         S: 250 2.1.5 Recipient OK
         C: DATA
         S: 354 End with <CR><LF>.<CR><LF>
         C: Subject: x
         C:
         C: hello
         C: .
         S: 250 2.6.0 Taken
         C: QUIT
         S: 221 2.0.0
         E: hello client.test true
         E: mail <a@a.test> SIZE=20 BODY=8BITMIME RET=HDRS ENVID=x1
         E: rcpt <b@b.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;c@c.test
         E: start
         E: end Subject: x\\r\\n\\r\\nhello\\r\\n
         E: quit
         X",
    );
}

#[test]
fn what_is_announced_follows_the_configuration() {
    let mut config = config();
    (config.binary, config.starttls, config.auth, config.max_message_size) =
        (true, true, AuthOffer::Always, 0);
    with(
        &config,
        "C: EHLO me
         S: 250-mx.test
         S: 250-PIPELINING
         S: 250-SIZE 0
         S: 250-STARTTLS
         S: 250-AUTH PLAIN LOGIN
         S: 250-8BITMIME
         S: 250-SMTPUTF8
         S: 250-CHUNKING
         S: 250-BINARYMIME
         S: 250-DSN
         S: 250-ENHANCEDSTATUSCODES
         S: 250 LIMITS RCPTMAX=1000",
    );
}

#[test]
fn helo_gets_one_line() {
    dialogue("C: HELO me\nS: 250 mx.test\nC: MAIL FROM:<>\nS: 250 2.1.0\nE: hello me false\nE: mail <>");
}

#[test]
fn before_hello_there_is_no_mail() {
    // RFC 5321 §4.1.4
    rows(
        &config(),
        "",
        &[
            ("MAIL FROM:<a@a.test>", "503 5.5.1"),
            ("RCPT TO:<a@a.test>", "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            ("BDAT 0 LAST", "503 5.5.1"),
            ("NOOP", "250 2.0.0"),
            ("RSET", "250 2.0.0"),
            ("VRFY x", "252 2.0.0"),
            ("HELP", "214-2.0.0..."),
        ],
    );
}

#[test]
fn every_command_has_its_reply_after_hello() {
    rows(
        &config(),
        HELLO,
        &[
            ("MAIL FROM:<>", "250 2.1.0"),
            ("mail from:<A@a.test>", "250 2.1.0"),
            ("MAIL FROM: <a@a.test>", "250 2.1.0"),
            ("MAIL FROM:<@x.test,@y.test:a@a.test>", "250 2.1.0"),
            ("MAIL FROM:<\"a b\"@a.test>", "250 2.1.0"),
            ("MAIL FROM:<a@[192.0.2.1]>", "250 2.1.0"),
            ("MAIL FROM:<a@a.test> BODY=7BIT", "250 2.1.0"),
            ("MAIL FROM:<a@a.test> SMTPUTF8", "250 2.1.0"),
            ("MAIL FROM:<gr\u{fc}n@a.test> SMTPUTF8", "250 2.1.0"),
            ("MAIL FROM:<gr\u{fc}n@a.test>", "553 5.6.7"),
            ("MAIL FROM:<a@b\u{fc}cher.test>", "553 5.6.7"),
            ("MAIL FROM:<a@a.test> SIZE=26214400", "250 2.1.0"),
            ("MAIL FROM:<a@a.test> SIZE=26214401", "552 5.3.4"),
            ("MAIL FROM:<a@a.test> SIZE=18446744073709551615", "552 5.3.4"),
            ("MAIL FROM:<a@a.test> SIZE=18446744073709551616", "501 5.5.4"),
            ("MAIL FROM:<a@a.test> SIZE=-1", "501 5.5.4"),
            ("MAIL FROM:<a@a.test> SIZE", "501 5.5.4"),
            ("MAIL FROM:<a@a.test> SIZE=1 size=1", "501 5.5.4"),
            ("MAIL FROM:<a@a.test> BODY=9BIT", "501 5.5.4"),
            ("MAIL FROM:<a@a.test> BODY=BINARYMIME", "555 5.5.4"),
            ("MAIL FROM:<a@a.test> AUTH=<>", "555 5.5.4"),
            ("MAIL FROM:<a@a.test> FOO", "555 5.5.4"),
            ("MAIL FROM:<a@a.test> FOO=BAR", "555 5.5.4"),
            ("MAIL FROM:<a@a.test> NOTIFY=NEVER", "555 5.5.4"),
            ("MAIL FROM:<a@a.test> RET=SOME", "501 5.5.4"),
            ("MAIL FROM:<a@a.test> ENVID=+zz", "501 5.5.4"),
            ("MAIL FROM:<a>", "501 5.1.7"),
            ("MAIL FROM:<a..b@a.test>", "501 5.1.7"),
            ("MAIL FROM:<a@-.test>", "501 5.1.7"),
            ("MAIL FROM:<a@a.test", "501 5.5.4"),
            ("MAIL FROM:a@a.test", "501 5.5.4"),
            ("MAIL FROM:", "501 5.5.4"),
            ("MAIL", "501 5.5.4"),
            ("MAIL TO:<a@a.test>", "501 5.5.4"),
            ("MAIL FROM:<nobody@a.test>", "550 5.1.1"),
            ("MAIL FROM:<later@a.test>", "450 4.2.0"),
            ("RCPT TO:<a@a.test>", "503 5.5.1"),
            ("DATA", "503 5.5.1"),
            ("BDAT 0", "503 5.5.1"),
            ("BDAT 0 LAST", "503 5.5.1"),
            ("STARTTLS", "502 5.5.1"),
            ("AUTH PLAIN", "502 5.5.1"),
            ("NOOP", "250 2.0.0"),
            ("NOOP with words", "250 2.0.0"),
            ("noop ", "250 2.0.0"),
            ("RSET", "250 2.0.0"),
            ("RSET x", "501 5.5.4"),
            ("DATA x", "501 5.5.4"),
            ("QUIT x", "501 5.5.4"),
            ("VRFY a@a.test", "252 2.0.0"),
            ("EXPN list", "502 5.5.1"),
            ("HELP", "214-2.0.0 EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\nS: 214 2.0.0"),
            ("HELP MAIL", "214-2.0.0..."),
            ("VRFY", "501 5.5.4"),
            ("EXPN", "501 5.5.4"),
            ("VRFY gr\u{fc}n", "553 5.6.7"),
            ("VRFY gr\u{fc}n SMTPUTF8", "252 2.0.0"),
            ("XCLIENT NAME=x", "550 5.7.0"),
            ("SEND FROM:<a@a.test>", "502 5.5.1"),
            ("SAML FROM:<a@a.test>", "502 5.5.1"),
            ("EHLO", "501 5.5.4"),
            ("EHLO a b", "501 5.5.4"),
            ("HELO", "501 5.5.4"),
            ("LHLO me", "500 5.5.1"),
            ("TURN", "502 5.5.1"),
            ("ETRN x", "502 5.5.1"),
            ("SOML FROM:<a@a.test>", "502 5.5.1"),
            ("XYZZY", "500 5.5.2"),
            ("", "500 5.5.2"),
            (" MAIL FROM:<a@a.test>", "500 5.5.2"),
        ],
    );
}

#[test]
fn every_command_has_its_reply_within_a_transaction() {
    rows(
        &config(),
        MAIL,
        &[
            ("MAIL FROM:<a@a.test>", "503 5.5.1"),
            ("RCPT TO:<b@b.test>", "250 2.1.5"),
            ("rcpt to: <b@b.test>", "250 2.1.5"),
            ("RCPT TO:<postmaster>", "250 2.1.5"),
            ("RCPT TO:<PostMaster>", "250 2.1.5"),
            ("RCPT TO:<@x.test:b@b.test>", "250 2.1.5"),
            ("RCPT TO:<>", "501 5.1.3"),
            ("RCPT TO:<b>", "501 5.1.3"),
            ("RCPT TO:<b@b..test>", "501 5.1.3"),
            ("RCPT TO:b@b.test", "501 5.5.4"),
            ("RCPT FROM:<b@b.test>", "501 5.5.4"),
            ("RCPT TO:<gr\u{fc}n@b.test>", "553 5.6.7"),
            ("RCPT TO:<b@b.test> FOO=1", "555 5.5.4"),
            ("RCPT TO:<b@b.test> SIZE=1", "555 5.5.4"),
            ("RCPT TO:<b@b.test> NOTIFY=NEVER", "250 2.1.5"),
            ("RCPT TO:<b@b.test> NOTIFY=NEVER,DELAY", "501 5.5.4"),
            ("RCPT TO:<b@b.test> NOTIFY=DELAY,DELAY", "501 5.5.4"),
            ("RCPT TO:<b@b.test> NOTIFY=DELAY NOTIFY=DELAY", "501 5.5.4"),
            ("RCPT TO:<b@b.test> ORCPT=rfc822;b+2Bc@b.test", "250 2.1.5"),
            ("RCPT TO:<b@b.test> ORCPT=b@b.test", "501 5.5.4"),
            ("RCPT TO:<b@b.test> ORCPT=rfc822;b+2bc@b.test", "501 5.5.4"),
            ("RCPT TO:<nobody@b.test>", "550 5.1.1"),
            ("RCPT TO:<later@b.test>", "450 4.2.0"),
            ("DATA", "554 5.5.1"),
            ("BDAT 0 LAST", "554 5.5.1"),
            ("AUTH PLAIN", "503 5.5.1"),
            ("NOOP", "250 2.0.0"),
            ("VRFY x", "252 2.0.0"),
            ("RSET", "250 2.0.0"),
        ],
    );
}

#[test]
fn utf8_recipients_need_the_parameter_on_mail() {
    // RFC 6531 §3.4
    dialogue(
        "C: EHLO me
         S: 250...
         C: MAIL FROM:<a@a.test> SMTPUTF8
         C: RCPT TO:<gr\u{fc}n@b\u{fc}cher.test>
         S: 250 2.1.0
         S: 250 2.1.5
         E: hello me true
         E: mail <a@a.test> SMTPUTF8
         E: rcpt <gr\u{fc}n@b\u{fc}cher.test>",
    );
}

#[test]
fn the_local_part_keeps_its_case() {
    // RFC 5321 §2.4
    dialogue(
        "C: EHLO me\nS: 250...\nC: MAIL FROM:<AdA@A.Test>\nS: 250 2.1.0\nE: hello me true\nE: mail <AdA@a.test>",
    );
}

#[test]
fn postmaster_needs_no_domain_and_no_case() {
    // RFC 5321 §4.5.1
    for name in ["postmaster", "Postmaster", "POSTMASTER"] {
        dialogue(&format!("{MAIL}\nC: RCPT TO:<{name}>\nS: 250 2.1.5"));
    }
}

#[test]
fn a_declared_size_past_the_limit_is_refused_at_once() {
    // RFC 1870 §6.1
    dialogue(&format!(
        "{HELLO}\nC: MAIL FROM:<> SIZE=26214401\nS: 552 5.3.4\nC: MAIL FROM:<> SIZE=26214400\nS: 250 2.1.0"
    ));
}

#[test]
fn hello_and_rset_end_the_transaction() {
    // RFC 5321 §4.1.4, §4.1.1.5
    for command in ["EHLO me", "HELO me", "RSET"] {
        dialogue(&format!(
            "{RCPT}
             C: {command}
             S: 250...
             C: RCPT TO:<c@c.test>
             S: 503 5.5.1
             C: MAIL FROM:<d@d.test>
             S: 250 2.1.0"
        ));
    }
}

#[test]
fn a_malformed_hello_changes_nothing() {
    dialogue(&format!("{RCPT}\nC: EHLO\nS: 501 5.5.4\nC: RCPT TO:<c@c.test>\nS: 250 2.1.5"));
}

#[test]
fn a_refused_recipient_does_not_stop_the_others() {
    dialogue(
        "C: EHLO me
         S: 250...
         C: MAIL FROM:<a@a.test>
         C: RCPT TO:<nobody@b.test>
         C: RCPT TO:<later@b.test>
         C: RCPT TO:<b@b.test>
         C: DATA
         S: 250 2.1.0
         S: 550 5.1.1
         S: 450 4.2.0
         S: 250 2.1.5
         S: 354
         C: x
         C: .
         S: 250 2.6.0",
    );
}

#[test]
fn data_without_an_accepted_recipient_is_refused_and_the_transaction_stays() {
    // RFC 5321 §3.3, RFC 2920 §3.1
    dialogue(
        "C: EHLO me
         S: 250...
         C: MAIL FROM:<a@a.test>
         C: RCPT TO:<nobody@b.test>
         C: DATA
         S: 250 2.1.0
         S: 550 5.1.1
         S: 554 5.5.1
         C: RCPT TO:<b@b.test>
         C: DATA
         S: 250 2.1.5
         S: 354
         C: .
         S: 250 2.6.0",
    );
}

#[test]
fn a_refused_sender_opens_no_transaction() {
    dialogue(
        "C: EHLO me
         S: 250...
         C: MAIL FROM:<nobody@a.test>
         C: RCPT TO:<b@b.test>
         C: DATA
         S: 550 5.1.1
         S: 503 5.5.1
         S: 503 5.5.1
         C: MAIL FROM:<a@a.test>
         S: 250 2.1.0",
    );
}

#[test]
fn a_whole_pipelined_dialogue_is_answered_in_order_and_in_one_write_per_read() {
    // RFC 2920 §3.2
    let mut peer = Peer::new(&config());
    peer.feed(
        b"EHLO me\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nRCPT TO:<nobody@b.test>\r\nDATA\r\n",
    );
    assert_eq!(peer.writes, 1);
    assert!(peer.said.ends_with(
        "250 2.1.0 Sender OK\r\n250 2.1.5 Recipient OK\r\n550 5.1.1 No such user\r\n354 End with <CR><LF>.<CR><LF>\r\n"
    ));
    peer.feed(b"x\r\n.\r\nMAIL FROM:<a@a.test>\r\nRSET\r\nQUIT\r\n");
    assert_eq!(peer.writes, 2);
    assert!(peer.over);
}

#[test]
fn what_follows_quit_is_not_read() {
    dialogue("C: QUIT\nC: NOOP\nS: 221 2.0.0\nE: quit\nX");
}

#[test]
fn a_421_of_the_host_ends_the_session() {
    // RFC 5321 §3.8
    dialogue(&format!("{HELLO}\nC: MAIL FROM:<begone@a.test>\nC: NOOP\nS: 421 4.3.2\nX"));
    dialogue(&format!("{RCPT}\nC: DATA\nS: 354\nC: begone\nC: .\nC: NOOP\nS: 421 4.3.2\nX"));
}

#[test]
fn other_protocols_are_shown_the_door() {
    for line in [
        "GET / HTTP/1.1",
        "POST /x HTTP/1.0",
        "put / HTTP/1.1",
        "HEAD / HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT a:25 HTTP/1.1",
        "PRI * HTTP/2.0",
        "Host: mx.test",
        "SSH-2.0-x",
        "INVITE sip:x SIP/2.0",
    ] {
        dialogue(&format!("C: {line}\nC: MAIL FROM:<a@a.test>\nS: 421 4.7.0\nX"));
    }
    // A client that thinks TLS began with the connection.
    dialogue("C> \\x16\\x03\\x01\\x02\\x00\nS: 421 4.7.0\nX");
}

#[test]
fn a_message_whose_data_was_refused_is_not_taken_for_commands() {
    dialogue(
        "C: EHLO me
         S: 250...
         C: DATA
         S: 503 5.5.1
         C: Subject: x
         C:
         C: MAIL FROM:<smuggled@a.test>
         S: 421 4.7.0
         E: hello me true
         X",
    );
}

#[test]
fn only_crlf_ends_a_command() {
    dialogue(&format!("{HELLO}\nC> MAIL FROM:<a@a.test>\\nRSET\\r\\n\nS: 500 5.5.2"));
    dialogue(&format!("{HELLO}\nC> NOOP\\rNOOP\\r\\n\nS: 500 5.5.2"));
    dialogue(&format!("{HELLO}\nC> NOOP\\r\\r\\n\nS: 500 5.5.2"));
    dialogue(&format!("{HELLO}\nC> NOOP\\0\\r\\n\nS: 500 5.5.2\nC: NOOP\nS: 250 2.0.0"));
    dialogue(&format!("{HELLO}\nC> NOOP \\xff\\r\\n\nS: 500 5.5.2"));
    dialogue(&format!("{HELLO}\nC> QUIT\\n"));
}

#[test]
fn a_client_that_hangs_up_leaves_nothing_behind() {
    dialogue("EOF\nX");
    dialogue(&format!("{RCPT}\nEOF\nX"));
    dialogue(&format!(
        "{RCPT}\nC: DATA\nS: 354\nC: half\nEOF\nE: hello me true\nE: mail <a@a.test>\nE: rcpt <b@b.test>\nE: start\nE: aborted\nX"
    ));
}

#[test]
fn a_half_closed_client_is_answered_to_the_end() {
    let mut peer = Peer::silent(&config());
    peer.pump();
    peer.said.clear();
    peer.feed(b"EHLO me\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\nx\r\n.\r\n");
    peer.eof();
    assert!(peer.said.ends_with("250 2.6.0 Taken\r\n"), "{}", peer.said);
    assert!(peer.over);
}

#[test]
fn replies_of_the_host_are_made_fit_for_the_wire() {
    use postroad::smtp::reply::{EnhancedCode, Reply};
    use postroad::smtp::server::{Event, Session};
    use postroad::smtp::{Input, Output};
    for (given, wire) in [
        (Reply::plain(250, "ok"), "250 2.0.0 ok\r\n"),
        (Reply::plain(550, "a\nb"), "550-5.0.0 a\r\n550 5.0.0 b\r\n"),
        (Reply::new(450, EnhancedCode::new(5, 1, 1), "x"), "450 4.0.0 x\r\n"),
        (Reply::plain(354, "go on"), "451 4.3.0 go on\r\n"),
    ] {
        let mut options = config();
        options.refuse_early_talk = false;
        let now = Peer::silent(&options).now;
        let mut session = Session::new(options, now);
        session.handle(now, Input::Data(&mut (&b"HELO me\r\nMAIL FROM:<>\r\n"[..]).into()));
        loop {
            match session.poll() {
                Output::Event(Event::Mail(_)) => session.respond(given.clone()).unwrap(),
                Output::Event(_) => {}
                Output::Send(octets) => {
                    assert!(octets.ends_with(wire.as_bytes()), "{octets:?}");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(session.in_transaction(), given.is_positive());
    }
}
