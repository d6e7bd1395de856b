//! What the server takes at most: recipients, domains, transactions; what is left over, and when a
//! session is used up.

use crate::harness::{Peer, config, dialogue};

fn limited(limits: &str, script: &str) -> String {
    format!(
        "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250-LIMITS {limits}
         S: 250-CHUNKING
         S: 250 PIPELINING
         E: ready
         {script}"
    )
}

#[test]
fn recipients_beyond_the_limit_are_left_for_the_next_transaction() {
    // RFC 9422 §4.2
    dialogue(
        &config(),
        &limited(
            "RCPTMAX=2",
            "H: send a b c d
             C: MAIL FROM:<s@a.test>
             C: RCPT TO:<a@x.test>
             C: RCPT TO:<b@x.test>
             C: BDAT 4 LAST
             C: Hi
             S: 250 ok
             S: 550 no
             S: 250 ok
             S: 250 taken
             E: done 1 Rcpt=550 Content=250 left-over left-over
             H: send c d
             C: MAIL FROM:<s@a.test>
             C: RCPT TO:<c@x.test>
             C: RCPT TO:<d@x.test>
             C: BDAT 4 LAST
             C: Hi",
        ),
    );
}

#[test]
fn domains_beyond_the_limit_are_left_over_for_the_whole_session() {
    // RFC 9422 §4.3
    let script = limited(
        "RCPTDOMAINMAX=2",
        "H: send rcpt=<a@x.test> rcpt=<a@y.test> rcpt=<a@z.test> rcpt=<b@Y.test> rcpt=<postmaster>
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: RCPT TO:<a@y.test>
         C: RCPT TO:<b@y.test>
         C: RCPT TO:<postmaster>
         C: BDAT 4 LAST
         C: Hi
         S: 250 ok
         S: 250 ok
         S: 550 no
         S: 250 ok
         S: 250 ok
         S: 250 taken
         E: done 1 Content=250 Rcpt=550 left-over Content=250 Content=250
         H: send rcpt=<a@z.test> rcpt=<c@x.test>
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<c@x.test>
         C: BDAT 4 LAST
         C: Hi
         S: 250 ok
         S: 250 ok
         S: 250 taken
         E: done 2 left-over Content=250
         H: send rcpt=<a@z.test>
         E: UsedUp
         H: send rcpt=<a@y.test>
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@y.test>
         C: BDAT 4 LAST
         C: Hi",
    );
    dialogue(&config(), &script);
}

#[test]
fn one_command_at_a_time_the_same_recipients_are_left_over() {
    dialogue(
        &config(),
        "S: 220 mx
         C: EHLO me.test
         S: 250-mx
         S: 250 LIMITS RCPTDOMAINMAX=1 RCPTMAX=2
         E: ready
         H: send rcpt=<a@x.test> rcpt=<a@y.test> rcpt=<b@x.test> rcpt=<c@x.test>
         C: MAIL FROM:<s@a.test>
         S: 250 ok
         C: RCPT TO:<a@x.test>
         S: 250 ok
         C: RCPT TO:<b@x.test>
         S: 550 no
         C: DATA
         S: 354 go
         C: Hi
         C: .
         S: 250 taken
         E: done 1 Content=250 left-over Rcpt=550 left-over",
    );
}

#[test]
fn a_session_that_had_all_its_transactions_is_used_up_and_not_broken() {
    // RFC 9422 §4.1
    let script = limited(
        "MAILMAX=2",
        "H: send a
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: BDAT 4 LAST
         C: Hi
         H: send b
         C: RSET
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<b@x.test>
         C: BDAT 4 LAST
         C: Hi
         H: send c
         E: NotReady
         S: 250 ok
         S: 250 ok
         S: 250 taken
         E: done 1 Content=250
         S: 250 ok
         S: 550 not you
         S: 503 no
         S: 503 no
         E: done 2 Mail=550
         E: failed ChainRefused(550)
         CLOSED",
    );
    dialogue(&config(), &script);
    let script = limited(
        "MAILMAX=1",
        "H: send a
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: BDAT 4 LAST
         C: Hi
         S: 550 no
         S: 503 no
         S: 503 no
         E: done 1 Mail=550
         H: send b
         E: NotReady",
    );
    let quit = "\nH: quit\nC: QUIT\nS: 221 bye\nCLOSED";
    dialogue(&config(), &format!("{script}{quit}"));
    let session = Peer::run(&config(), &script, None).session;
    assert!(session.is_used_up() && session.is_at_rest() && !session.is_idle() && !session.is_closed());
}

#[test]
fn one_too_many_behind_an_accepted_recipient_is_left_over() {
    // RFC 5321 §4.5.3.1.10. The accepted one may come later; where none does, the reply stands.
    for (first, second, results) in [
        ("250 ok", "452 4.5.3 too many", "Content=250 left-over"),
        ("250 ok", "452 too many", "Content=250 left-over"),
        ("250 ok", "552 too many", "Content=250 left-over"),
        ("250 ok", "552 5.5.3 too many", "Content=250 left-over"),
        ("452 too many", "250 ok", "left-over Content=250"),
        ("250 ok", "452 4.2.2 mailbox full", "Content=250 Rcpt=452"),
        ("250 ok", "552 5.2.2 mailbox full", "Content=250 Rcpt=552"),
        ("250 ok", "450 4.5.3 odd", "Content=250 Rcpt=450"),
        ("452 too many", "452 too many", "Rcpt=452 Rcpt=452"),
        ("550 no", "452 4.5.3 too many", "Rcpt=550 Rcpt=452"),
    ] {
        let mut peer = crate::limits::ready(crate::limits::CHUNKING);
        peer.host("send a b");
        peer.say(&format!("250 ok\r\n{first}\r\n{second}\r\n250 taken\r\n"));
        assert_eq!(peer.events[1], format!("done 1 {results}"), "{first} {second}");
    }
    let mut peer = crate::limits::ready(crate::limits::CHUNKING);
    peer.host("send a b");
    peer.say("250 ok\r\n250 ok\r\n452 too many\r\n554 refused\r\n");
    assert_eq!(peer.events[1], "done 1 Content=554 left-over");
}

#[test]
fn a_limit_on_domains_is_remembered_of_so_many_only() {
    let mut peer = crate::limits::ready("250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTDOMAINMAX=999999\r\n");
    for round in 0..3 {
        let to: Vec<_> = (0..100).map(|n| format!("rcpt=<a@d{}.test>", round * 100 + n)).collect();
        peer.host(&format!("send {}", to.join(" ")));
        peer.say(&"250 ok\r\n".repeat(if round == 2 { 57 } else { 101 }));
        peer.say("354 go\r\n");
        peer.say("250 taken\r\n");
    }
    let last = peer.events.last().unwrap();
    assert_eq!((last.matches("Content=250").count(), last.matches("left-over").count()), (56, 44), "{last}");
}
