//! What the server offers: parameters that go out, messages that cannot be begun.

use postroad::smtp::client::{BeginError, Feature, TlsUse};

use crate::harness::{Peer, config};
use crate::limits::{CHUNKING, PIPELINING, ready};

const ALL: &str = "250-mx\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-BINARYMIME\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n\
                   250-DSN\r\n250-AUTH PLAIN\r\n250 SIZE 1000\r\n";

#[test]
fn parameters_go_out_only_where_they_are_offered() {
    let full = "mail=<s@a.test>+SIZE=9+BODY=8BITMIME+RET=HDRS+ENVID=x+2B+AUTH=<> rcpt=<a@x.test>+NOTIFY=DELAY+ORCPT=rfc822;b";
    let rcpt = "RCPT TO:<a@x.test>\r\n";
    let ascii = "mail=<s@bücher.test> rcpt=<a@bücher.test>";
    let utf8 = "mail=<grün@a.test> rcpt=<a@bücher.test>";
    for (ehlo, send, mail, rcpt) in [
        (ALL, "a", "MAIL FROM:<s@a.test> SIZE=4\r\n", rcpt),
        (PIPELINING, "a", "MAIL FROM:<s@a.test>\r\n", rcpt),
        ("250-mx\r\n250 SIZE\r\n", "a", "MAIL FROM:<s@a.test> SIZE=4\r\n", ""),
        ("250-mx\r\n250 SIZE 0\r\n", "a size=5000", "MAIL FROM:<s@a.test> SIZE=5000\r\n", ""),
        (
            ALL,
            &full.replace("x+2B", "xy"),
            "MAIL FROM:<s@a.test> SIZE=4 BODY=8BITMIME RET=HDRS ENVID=xy AUTH=<>\r\n",
            "RCPT TO:<a@x.test> NOTIFY=DELAY ORCPT=rfc822;b\r\n",
        ),
        (
            "250-mx\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
            &full.replace("x+2B", "xy"),
            "MAIL FROM:<s@a.test> BODY=8BITMIME\r\n",
            rcpt,
        ),
        (PIPELINING, "mail=<> postmaster", "MAIL FROM:<>\r\n", "RCPT TO:<postmaster@x.test>\r\n"),
        (PIPELINING, "mail=<> rcpt=<postmaster>", "MAIL FROM:<>\r\n", "RCPT TO:<postmaster>\r\n"),
        // RFC 6531 §3.2: where only the domain is not ASCII, it has a form for everybody.
        (PIPELINING, ascii, "MAIL FROM:<s@xn--bcher-kva.test>\r\n", "RCPT TO:<a@xn--bcher-kva.test>\r\n"),
        (ALL, ascii, "MAIL FROM:<s@xn--bcher-kva.test> SIZE=4\r\n", "RCPT TO:<a@xn--bcher-kva.test>\r\n"),
        (ALL, utf8, "MAIL FROM:<grün@a.test> SIZE=4 SMTPUTF8\r\n", "RCPT TO:<a@bücher.test>\r\n"),
        (ALL, "mail=<s@a.test>+SMTPUTF8 a", "MAIL FROM:<s@a.test> SIZE=4 SMTPUTF8\r\n", rcpt),
    ] {
        let mut peer = ready(ehlo);
        peer.wire.clear();
        peer.host(&format!("send {send}"));
        assert!(peer.wire.starts_with(&format!("{mail}{rcpt}")), "{send}: {}", peer.wire);
    }
}

#[test]
fn a_message_that_the_server_cannot_carry_is_not_begun() {
    let mut without_chunking = config();
    without_chunking.chunking = false;
    for (config, ehlo, send, lack) in [
        (config(), ALL, "a size=1001", Feature::Size),
        (config(), PIPELINING, "mail=<s@a>+BODY=8BITMIME a", Feature::EightBit),
        (config(), CHUNKING, "mail=<s@a>+BODY=BINARYMIME a", Feature::Binary),
        (config(), "250-mx\r\n250 BINARYMIME\r\n", "mail=<s@a>+BODY=BINARYMIME a", Feature::Binary),
        (without_chunking, ALL, "mail=<s@a>+BODY=BINARYMIME a", Feature::Binary),
        (config(), PIPELINING, "mail=<s@a>+SMTPUTF8 a", Feature::SmtpUtf8),
        (config(), PIPELINING, "mail=<grün@a> a", Feature::SmtpUtf8),
        (config(), PIPELINING, "mail=<> rcpt=<grün@a>", Feature::SmtpUtf8),
    ] {
        let mut peer = Peer::new(&config);
        peer.say("220 mx\r\n");
        peer.say(ehlo);
        peer.wire.clear();
        peer.host(&format!("send {send}"));
        assert_eq!(peer.events, ["ready", &format!("{:?}", BeginError::Lacks(lack))], "{send}");
        assert!(peer.wire.is_empty() && peer.session.is_idle());
    }
    let mut peer = ready(ALL);
    peer.host("send a size=1000");
    peer.host("send mail=<s@a>+BODY=BINARYMIME a");
    assert!(peer.wire.contains("BODY=BINARYMIME"));
}

/// A session under TLS, with these extensions.
fn ready_under_tls(ehlo: &str) -> Peer {
    let mut config = config();
    config.tls = TlsUse::AlreadyOn;
    let mut peer = Peer::new(&config);
    peer.say("220 mx\r\n");
    peer.say(ehlo);
    peer
}

#[test]
fn requiretls_goes_out_under_tls_and_an_offer_in_clear_is_none() {
    // RFC 8689 §4.2.1
    let offer = "250-mx\r\n250 REQUIRETLS\r\n";
    let send = "send mail=<s@a.test>+REQUIRETLS a";
    let mut peer = ready_under_tls(offer);
    peer.host(send);
    assert!(peer.wire.ends_with("MAIL FROM:<s@a.test> REQUIRETLS\r\n"), "{}", peer.wire);
    for mut peer in [ready(offer), ready_under_tls("250 mx\r\n")] {
        assert!(!peer.session.capabilities().require_tls);
        peer.host(send);
        assert_eq!(peer.events, ["ready", "Lacks(RequireTls)"]);
        assert!(!peer.wire.contains("MAIL"));
    }
}

#[test]
fn a_time_to_deliver_by_goes_where_it_is_understood_and_long_enough() {
    // RFC 2852 §3, §4
    let (none, any, least) = ("250 mx\r\n", "250-mx\r\n250 DELIVERBY\r\n", "250-mx\r\n250 DELIVERBY 60\r\n");
    for (ehlo, by, sent) in [
        (any, "120;R", Some(" BY=120;R")),
        (any, "1;RT", Some(" BY=1;RT")),
        (any, "-5;NT", Some(" BY=-5;NT")),
        (least, "60;R", Some(" BY=60;R")),
        (least, "59;R", None),
        (least, "59;N", Some("")),
        (least, "60;N", Some(" BY=60;N")),
        (none, "120;R", None),
        (none, "120;N", Some("")),
    ] {
        let mut peer = ready(ehlo);
        peer.wire.clear();
        peer.host(&format!("send mail=<s@a.test>+BY={by} a"));
        match sent {
            Some(sent) => assert_eq!(peer.wire, format!("MAIL FROM:<s@a.test>{sent}\r\n"), "{ehlo} {by}"),
            None => assert_eq!(peer.events.last().unwrap(), "Lacks(DeliverBy)", "{ehlo} {by}"),
        }
    }
}

#[test]
fn a_priority_is_left_out_and_mail_to_be_held_not_sent_where_nobody_asks_for_them() {
    // RFC 4865 §4: sent without it, the message would be there before its time. RFC 6710 §4.1
    let send = |hold: &str| format!("send mail=<s@a.test>+{hold}+MT-PRIORITY=-3 a");
    let until = "HOLDUNTIL=2026-11-21T12:00:00Z";
    let both = "250-mx\r\n250-FUTURERELEASE 86400 2026-12-01T00:00:00Z\r\n250 MT-PRIORITY\r\n";
    for (ehlo, hold, sent) in [
        (both, "HOLDFOR=60", Some(" HOLDFOR=60 MT-PRIORITY=-3")),
        (both, until, Some(" HOLDUNTIL=2026-11-21T12:00:00Z MT-PRIORITY=-3")),
        ("250-mx\r\n250 MT-PRIORITY\r\n", until, None),
        ("250-mx\r\n250 MT-PRIORITY\r\n", "SIZE=1", Some(" MT-PRIORITY=-3")),
        ("250 mx\r\n", "SIZE=1", Some("")),
    ] {
        let mut peer = ready(ehlo);
        peer.wire.clear();
        peer.host(&send(hold));
        match sent {
            Some(sent) => assert_eq!(peer.wire, format!("MAIL FROM:<s@a.test>{sent}\r\n"), "{ehlo} {hold}"),
            None => assert_eq!(peer.events.last().unwrap(), "Lacks(FutureRelease)", "{ehlo} {hold}"),
        }
    }
}
