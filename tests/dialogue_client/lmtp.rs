//! LMTP: LHLO, and behind the content a reply for each recipient that was accepted.

use postroad::smtp::client::{Config, Protocol, TlsUse};

use crate::harness::{Peer, config, dialogue, glued};

fn lmtp() -> Config {
    let mut config = config();
    config.protocol = Protocol::Lmtp;
    config
}

const PIPELINING: &str = "S: 220 mda
    C: LHLO me.test
    S: 250-mda
    S: 250 PIPELINING
    E: ready
    H: send a b c
    C: MAIL FROM:<s@a.test>
    C: RCPT TO:<a@x.test>
    C: RCPT TO:<b@x.test>
    C: RCPT TO:<c@x.test>
    C: DATA\n";
const CHUNKING: &str = "S: 220 mda
    C: LHLO me.test
    S: 250-mda
    S: 250-CHUNKING
    S: 250 PIPELINING
    E: ready
    H: send a b c
    C: MAIL FROM:<s@a.test>
    C: RCPT TO:<a@x.test>
    C: RCPT TO:<b@x.test>
    C: RCPT TO:<c@x.test>
    C: BDAT 4 LAST
    C: Hi\n";

#[test]
fn each_accepted_recipient_has_a_reply_of_its_own() {
    // RFC 2033 §4.2
    dialogue(
        &lmtp(),
        &format!(
            "{PIPELINING}
             S: 250 ok
             S: 250 ok
             S: 550 no
             S: 250 ok
             S: 354 go
             C: Hi
             C: .
             S: 452 4.2.2 full
             S: 250 taken
             E: done 1 Content=452 Rcpt=550 Content=250
             H: quit
             C: QUIT
             S: 221 bye
             CLOSED"
        ),
    );
    dialogue(
        &lmtp(),
        &format!(
            "{CHUNKING}
             S: 250 ok
             S: 250 ok
             S: 250 ok
             S: 250 ok
             S: 250 taken
             S: 250 taken
             S: 550 not for c
             E: done 1 Content=250 Content=250 Content=550"
        ),
    );
}

#[test]
fn a_transaction_behind_another_has_its_own_replies() {
    dialogue(
        &lmtp(),
        &format!(
            "{CHUNKING}
             H: send d e
             C: RSET
             C: MAIL FROM:<s@a.test>
             C: RCPT TO:<d@x.test>
             C: RCPT TO:<e@x.test>
             C: BDAT 4 LAST
             C: Hi
             S: 250 ok
             S: 250 ok
             S: 550 no
             S: 250 ok
             S: 250 taken
             S: 451 later
             E: done 1 Content=250 Rcpt=550 Content=451
             S: 250 ok
             S: 250 ok
             S: 250 ok
             S: 250 ok
             S: 551 moved
             S: 250 taken
             E: done 2 Content=551 Content=250"
        ),
    );
}

#[test]
fn a_connection_that_dies_between_the_replies_leaves_the_rest_unknown() {
    let accepted = "S: 250 ok\nS: 250 ok\nS: 250 ok\nS: 250 ok\n";
    for (fault, failure, second) in [
        ("H: eof", "Lost", "unknown"),
        ("H: timeout", "TimedOut", "unknown"),
        ("S: hm", "Protocol(Reply(Malformed))", "unknown"),
        ("S: 354 what", "Protocol(WrongClass)", "Content=354"),
        ("S: 421 closing", "Closing(421)", "Content=421"),
    ] {
        dialogue(
            &lmtp(),
            &format!(
                "{CHUNKING}
                 H: send d
                 C: RSET
                 C: MAIL FROM:<s@a.test>
                 C: RCPT TO:<d@x.test>
                 C: BDAT 4 LAST
                 C: Hi
                 {accepted}S: 250 taken
                 {fault}
                 E: done 1 Content=250 {second} unknown
                 E: done 2 {}
                 E: failed {failure}
                 CLOSED",
                if failure == "Closing(421)" { "not-attempted" } else { "unknown" }
            ),
        );
    }
}

#[test]
fn content_for_nobody_has_one_reply_and_the_session_goes_on() {
    dialogue(
        &lmtp(),
        &format!(
            "{CHUNKING}
             S: 250 ok
             S: 550 no
             S: 550 no
             S: 550 no
             S: 503 nobody
             E: done 1 Rcpt=550 Rcpt=550 Rcpt=550
             H: send a
             C: RSET
             C: MAIL FROM:<s@a.test>
             C: RCPT TO:<a@x.test>
             C: BDAT 4 LAST
             C: Hi"
        ),
    );
}

#[test]
fn a_server_that_knows_no_lhlo_is_not_asked_with_helo() {
    // RFC 2033 §4.1
    for code in ["500", "502", "421"] {
        dialogue(
            &lmtp(),
            &format!("S: 220 mx\nC: LHLO me.test\nS: {code} what\nE: failed Hello({code})\nCLOSED"),
        );
    }
}

#[test]
fn tls_starts_in_lmtp_too() {
    let mut config = lmtp();
    config.tls = TlsUse::Required;
    dialogue(
        &config,
        "S: 220 mda
         C: LHLO me.test
         S: 250-mda
         S: 250 STARTTLS
         C: STARTTLS
         S: 220 go
         TLS
         C: LHLO me.test
         S: 250 mda
         E: ready",
    );
}

#[test]
fn large_content_is_one_chunk_because_replies_behind_a_refused_one_cannot_be_counted() {
    glued(
        &lmtp(),
        "S: 220 mda
         C: LHLO me.test
         S: 250-mda
         S: 250-CHUNKING
         S: 250 PIPELINING
         E: ready
         H: send a b size=3000000
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: RCPT TO:<b@x.test>
         S: 250 ok
         S: 250 ok
         S: 250 ok
         C: BDAT 3000000 LAST
         --
         C: (3000000 octets)
         S: 250 taken
         S: 250 taken
         E: done 1 Content=250 Content=250",
    );
}

#[test]
fn a_refusal_before_the_end_is_for_the_next_recipient_alone() {
    let mut peer = Peer::new(&lmtp());
    peer.say("220 mda\r\n");
    peer.say("250-mda\r\n250-CHUNKING\r\n250 PIPELINING\r\n");
    peer.host("stall 90");
    peer.host("send a b body=a\\nlonger\\nbody");
    peer.say("250 ok\r\n250 ok\r\n250 ok\r\n552 quota\r\n");
    assert_eq!(peer.events[1..], ["done 1 Content=552 not-attempted", "failed Protocol(Premature)"]);
}
