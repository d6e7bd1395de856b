//! STARTTLS (RFC 3207) and TLS from the start.

use postroad::smtp::server::{AuthOffer, Config, Session};
use postroad::smtp::{Input, TlsInfo};

use crate::dsl::{Peer, config, rows, uncut, with};

fn tls() -> Config {
    let mut config = config();
    (config.starttls, config.auth) = (true, AuthOffer::Always);
    config
}

#[test]
fn tls_begins_and_everything_before_is_forgotten() {
    // RFC 3207 §4.2
    with(
        &tls(),
        "C: EHLO me
         S: 250...
         C: AUTH PLAIN AGFkYQByaWdodA==
         S: 235 2.7.0
         C: STARTTLS
         S: 220 2.0.0
         TLS
         C: MAIL FROM:<a@a.test>
         S: 503 5.5.1
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
         C: STARTTLS
         S: 503 5.5.1
         C: AUTH PLAIN AGFkYQByaWdodA==
         S: 235 2.7.0",
    );
}

#[test]
fn starttls_has_its_place_in_the_dialogue() {
    rows(&tls(), "", &[("STARTTLS", "503 5.5.1")]);
    rows(&tls(), "C: EHLO me\nS: 250...", &[("STARTTLS x", "501 5.5.4")]);
    rows(&tls(), "C: EHLO me\nS: 250...\nC: MAIL FROM:<>\nS: 250 2.1.0", &[("STARTTLS", "503 5.5.1")]);
}

#[test]
fn octets_behind_starttls_end_the_session_unread() {
    // CVE-2011-0411
    for behind in ["C: EHLO evil", "C> x", "C> \\r\\n", "C: MAIL FROM:<evil@a.test>"] {
        uncut(
            &tls(),
            &format!("C: EHLO me\nS: 250...\nC: STARTTLS\n{behind}\nS: 554 5.5.1\nE: hello me true\nX"),
        );
        // When they come later, our 220 is on its way, and nothing more is said in the clear.
        uncut(
            &tls(),
            &format!("C: EHLO me\nS: 250...\nC: STARTTLS\nS: 220 2.0.0\n{behind}\nE: hello me true\nX"),
        );
    }
}

#[test]
fn nothing_is_said_in_the_clear_while_tls_begins() {
    uncut(&tls(), "C: EHLO me\nS: 250...\nC: STARTTLS\nS: 220 2.0.0\nT: 300\nX");
    uncut(&tls(), "C: EHLO me\nS: 250...\nC: STARTTLS\nS: 220 2.0.0\nEOF\nX");
}

#[test]
fn a_server_may_insist_on_tls() {
    // RFC 3207 §4
    let mut strict = tls();
    strict.require_tls = true;
    rows(
        &strict,
        "C: EHLO me\nS: 250...",
        &[
            ("MAIL FROM:<a@a.test>", "530 5.7.0"),
            ("RCPT TO:<a@a.test>", "530 5.7.0"),
            ("DATA", "530 5.7.0"),
            ("BDAT 0 LAST", "530 5.7.0"),
            ("AUTH PLAIN AGFkYQByaWdodA==", "530 5.7.0"),
            ("VRFY x", "530 5.7.0"),
            ("RSET", "530 5.7.0"),
            ("NOOP", "250 2.0.0"),
            ("HELO me", "250 mx.test"),
            ("STARTTLS", "220 2.0.0"),
        ],
    );
    with(&strict, "C: BDAT 6\nC: QUIT\nC: NOOP\nS: 530 5.7.0\nS: 250 2.0.0");
    with(
        &strict,
        "C: EHLO me\nS: 250...\nC: STARTTLS\nS: 220 2.0.0\nTLS\nC: EHLO me\nC: MAIL FROM:<>\nS: 250...\nS: 250 2.1.0",
    );
}

#[test]
fn tls_may_begin_with_the_connection() {
    // RFC 8314 §3
    let mut implicit = tls();
    (implicit.auth, implicit.require_tls) = (AuthOffer::UnderTls, true);
    let mut peer = Peer::silent(&implicit);
    peer.session = Session::over_tls(implicit, TlsInfo::new("TLSv1.3", "X"), peer.now);
    peer.pump();
    peer.feed(b"EHLO me\r\n");
    assert!(peer.session.is_encrypted());
    assert!(peer.said.contains("AUTH PLAIN LOGIN") && !peer.said.contains("STARTTLS"), "{}", peer.said);
}

#[test]
fn a_handshake_that_nobody_asked_for_changes_nothing() {
    let mut peer = Peer::new(&tls());
    peer.feed(b"EHLO me\r\n");
    peer.session.handle(peer.now, Input::TlsReady(TlsInfo::new("TLSv1.3", "X")));
    assert!(!peer.session.is_encrypted());
    assert_eq!(peer.session.hello(), Some("me"));
}
