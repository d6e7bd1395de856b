//! From the greeting to `ready`: EHLO, HELO, STARTTLS, AUTH.

use postroad::smtp::client::{Config, TlsUse};
use postroad::smtp::sasl::Credentials;

use crate::harness::{config, dialogue, glued};

fn tls(tls: TlsUse) -> Config {
    let mut config = config();
    config.tls = tls;
    config
}

fn login(tls_use: TlsUse) -> Config {
    let mut config = tls(tls_use);
    config.credentials = Some(Credentials::new("tim", "tanstaaftanstaaf"));
    config
}

#[test]
fn a_session_opens_with_ehlo() {
    dialogue(
        &config(),
        "S: 220-mx.test
         S: 220-no spam
         S: 220 please
         C: EHLO me.test
         S: 250-mx.test
         S: 250 PIPELINING
         E: ready",
    );
}

#[test]
fn a_server_without_ehlo_is_spoken_to_with_helo() {
    // RFC 5321 §3.2
    dialogue(
        &config(),
        "S: 220 old
         C: EHLO me.test
         S: 500 what
         C: HELO me.test
         S: 250 hello
         E: ready
         H: send a
         C: MAIL FROM:<s@a.test>
         S: 250 ok
         C: RCPT TO:<a@x.test>
         S: 250 ok
         C: DATA
         S: 354 go
         C: Hi
         C: .
         S: 250 taken
         E: done 1 Content=250
         H: quit
         C: QUIT
         S: 221 bye
         CLOSED",
    );
}

#[test]
fn starttls_forgets_what_was_said_in_clear() {
    // RFC 3207 §4.2
    dialogue(
        &tls(TlsUse::Required),
        "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250-PIPELINING
         S: 250-SIZE 1
         S: 250 STARTTLS
         C: STARTTLS
         S: 220 go
         TLS
         C: EHLO me.test
         S: 250-mx
         S: 250 STARTTLS
         E: ready
         H: send a
         C: MAIL FROM:<s@a.test>",
    );
}

#[test]
fn starttls_is_the_last_of_its_write() {
    // RFC 3207 §4: what stood behind it would be said to nobody.
    let mut config = login(TlsUse::Required);
    config.chain = true;
    let mut peer = crate::harness::Peer::new(&config);
    peer.say("220 mx\r\n");
    peer.say("250-mx\r\n250-PIPELINING\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n");
    peer.host("send a");
    assert_eq!(peer.events, ["NotReady"]);
    assert!(peer.wire.ends_with("\r\nSTARTTLS\r\n"), "{}", peer.wire);
}

#[test]
fn limits_are_asked_for_again_after_the_login_where_there_are_any() {
    // RFC 9422 §3
    let before = "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250-LIMITS MAILMAX=1
         S: 250 AUTH PLAIN
         C! AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm
         S: 235 welcome
         C: EHLO me.test\n";
    for (reply, limit) in
        [("250 mx", None), ("250-mx\nS: 250 LIMITS MAILMAX=9", Some(9)), ("503 again?", Some(1))]
    {
        let script = format!("{before}S: {reply}\nE: ready");
        dialogue(&login(TlsUse::AlreadyOn), &script);
        let peer = crate::harness::Peer::run(&login(TlsUse::AlreadyOn), &script, None);
        assert_eq!(peer.session.capabilities().limits.transactions, limit);
    }
}

#[test]
fn octets_behind_the_220_to_starttls_end_the_session() {
    // CVE-2011-0411
    let before = "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250 STARTTLS
         C: STARTTLS\n";
    for behind in ["250 evil", "250-x", "2", "\u{16}\u{3}\u{1}"] {
        glued(
            &tls(TlsUse::IfOffered),
            &format!("{before}S: 220 go\nS: {behind}\nE: failed Protocol(Injected)\nCLOSED"),
        );
    }
}

#[test]
fn required_tls_is_never_done_without() {
    dialogue(
        &tls(TlsUse::Required),
        "S: 220 mx
         C: EHLO me.test
         S: 250 mx
         E: failed NoTls
         CLOSED",
    );
    dialogue(
        &tls(TlsUse::Required),
        "S: 220 mx
         C: EHLO me.test
         S: 502 what
         C: HELO me.test
         S: 250 mx
         E: failed NoTls
         CLOSED",
    );
    for reply in ["454 no", "250 go", "221 go", "354 go", "554 no"] {
        let code = &reply[..3];
        dialogue(
            &tls(TlsUse::Required),
            &format!(
                "S: 220 mx
                 C: EHLO me.test
                 S: 250-mx
                 S: 250 STARTTLS
                 C: STARTTLS
                 S: {reply}
                 E: failed TlsRefused({code})
                 CLOSED"
            ),
        );
    }
}

#[test]
fn optional_tls_that_is_refused_is_done_without() {
    dialogue(
        &tls(TlsUse::IfOffered),
        "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250 STARTTLS
         C: STARTTLS
         S: 454 not now
         E: ready",
    );
    dialogue(
        &tls(TlsUse::Never),
        "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250 STARTTLS
         E: ready",
    );
}

#[test]
fn a_handshake_that_never_ends_times_out() {
    let mut peer = crate::harness::Peer::new(&tls(TlsUse::Required));
    peer.say("220 mx\r\n");
    peer.say("250-mx\r\n250 STARTTLS\r\n");
    let mut input = bytes::BytesMut::from("220 go\r\n");
    #[allow(clippy::disallowed_methods, reason = "later than the start")]
    let now = std::time::Instant::now();
    peer.session.handle(now, postroad::smtp::Input::Data(&mut input));
    assert!(matches!(peer.session.poll(), postroad::smtp::Output::StartTls));
    assert!(matches!(
        peer.session.poll(),
        postroad::smtp::Output::Wait { until: Some(at) } if at == now + std::time::Duration::from_secs(300)
    ));
}

#[test]
fn plain_goes_with_the_command_and_is_marked_secret() {
    dialogue(
        &login(TlsUse::AlreadyOn),
        "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250 AUTH LOGIN PLAIN
         C! AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm
         S: 235 welcome
         E: ready",
    );
}

#[test]
fn login_answers_challenge_by_challenge() {
    dialogue(
        &login(TlsUse::Required),
        "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250 STARTTLS
         C: STARTTLS
         S: 220 go
         TLS
         C: EHLO me.test
         S: 250-mx
         S: 250 AUTH LOGIN
         C: AUTH LOGIN
         S: 334 VXNlcm5hbWU6
         C! dGlt
         S: 334 UGFzc3dvcmQ6
         C! dGFuc3RhYWZ0YW5zdGFhZg==
         S: 235 welcome
         E: ready",
    );
}

#[test]
fn a_password_too_long_for_a_command_waits_for_its_challenge() {
    // RFC 4954 §4
    let mut config = tls(TlsUse::AlreadyOn);
    config.credentials = Some(Credentials::new("tim", "x".repeat(400)));
    let answer = config.credentials.as_ref().unwrap();
    let answer = answer.answer(postroad::smtp::sasl::Mechanism::Plain, 0).unwrap();
    dialogue(
        &config,
        &format!(
            "S: 220 mx
             C: EHLO me.test
             S: 250-mx
             S: 250 AUTH PLAIN
             C: AUTH PLAIN
             S: 334 go
             C! {}
             S: 235 welcome
             E: ready",
            std::str::from_utf8(&answer).unwrap()
        ),
    );
}

#[test]
fn credentials_never_leave_in_clear() {
    for config in [login(TlsUse::Never), login(TlsUse::IfOffered)] {
        dialogue(
            &config,
            "S: 220 mx
             C: EHLO me.test
             S: 250-mx
             S: 250 AUTH PLAIN
             E: failed AuthInClear
             CLOSED",
        );
    }
    dialogue(
        &login(TlsUse::IfOffered),
        "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250-STARTTLS
         S: 250 AUTH PLAIN
         C: STARTTLS
         S: 454 no
         E: failed AuthInClear
         CLOSED",
    );
    let mut config = login(TlsUse::Never);
    config.auth_in_clear = true;
    dialogue(
        &config,
        "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250 AUTH PLAIN
         C! AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm
         S: 235 ok
         E: ready",
    );
}

#[test]
fn a_refused_login_ends_the_session() {
    for (reply, end) in [
        ("535 wrong", "failed Auth(535)"),
        ("454 later", "failed Auth(454)"),
        ("334 more", "failed Auth(334)"),
        ("421 bye", "failed Auth(421)"),
        ("504 no such", "failed Auth(504)"),
        ("hm", "failed Protocol(Reply(Malformed))"),
    ] {
        dialogue(
            &login(TlsUse::AlreadyOn),
            &format!(
                "S: 220 mx
                 C: EHLO me.test
                 S: 250-mx
                 S: 250 AUTH PLAIN
                 C! AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm
                 S: {reply}
                 E: {end}
                 CLOSED"
            ),
        );
    }
    dialogue(
        &login(TlsUse::AlreadyOn),
        "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250 AUTH CRAM-MD5
         E: failed Auth(None)
         CLOSED",
    );
}

#[test]
fn a_mechanism_that_is_not_there_after_all_gives_way_to_the_next() {
    dialogue(
        &login(TlsUse::AlreadyOn),
        "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250 AUTH PLAIN LOGIN
         C! AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm
         S: 504 no such
         C: AUTH LOGIN
         S: 504 nor this
         E: failed Auth(504)
         CLOSED",
    );
}

#[test]
fn two_greetings_are_one_too_many() {
    glued(
        &config(),
        "S: 220 mx
         S: 220 mx
         E: failed Protocol(Premature)
         CLOSED",
    );
}

#[test]
fn every_fault_of_the_opening_has_its_failure() {
    let after_greeting = "S: 220 mx\nC: EHLO me.test\n";
    let after_ehlo = "S: 220 mx\nC: EHLO me.test\nS: 500 no\nC: HELO me.test\n";
    for (before, fault, failure) in [
        ("", "S: 554 no", "Greeting(554)"),
        ("", "S: 521 no mail", "Greeting(521)"),
        ("", "S: 450 later", "Greeting(450)"),
        ("", "S: 421 busy", "Greeting(421)"),
        ("", "S: 250 hello", "Greeting(250)"),
        ("", "S: 354 hello", "Greeting(354)"),
        ("", "S: SSH-2.0-x", "Protocol(Reply(Malformed))"),
        ("", "S: HTTP/1.1 400 Bad Request", "Protocol(Reply(Malformed))"),
        ("", "H: eof", "Lost"),
        ("", "H: timeout", "TimedOut"),
        (after_greeting, "S: 450 later", "Hello(450)"),
        (after_greeting, "S: 421 bye", "Hello(421)"),
        (after_greeting, "S: 354 what", "Hello(354)"),
        (after_greeting, "S: 2500 what", "Protocol(Reply(Malformed))"),
        (after_greeting, "H: eof", "Lost"),
        (after_greeting, "H: timeout", "TimedOut"),
        (after_ehlo, "S: 550 no", "Hello(550)"),
        (after_ehlo, "S: 450 no", "Hello(450)"),
        (after_ehlo, "S: 421 no", "Hello(421)"),
        (after_ehlo, "H: eof", "Lost"),
        (after_ehlo, "H: timeout", "TimedOut"),
    ] {
        dialogue(&config(), &format!("{before}{fault}\nE: failed {failure}\nCLOSED"));
    }
    glued(&config(), "S: 220-a\nS: 250 b\nE: failed Protocol(Reply(MixedCodes))\nCLOSED");
}

#[test]
fn quitting_before_the_session_is_ready_just_closes() {
    dialogue(&config(), "S: 220 mx\nC: EHLO me.test\nH: quit\nCLOSED");
}
