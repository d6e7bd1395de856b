//! Transactions behind one another: the window, what becomes of what was sent behind a refusal, and how
//! it all ends.

use postroad::smtp::client::Config;

use crate::flights::{CHUNKING, PIPELINING, chunking, pipelining};
use crate::harness::{Peer, config, dialogue, glued};

fn chain() -> Config {
    let mut config = config();
    config.chain = true;
    config
}

const TWO: &str = "H: send a
    C: MAIL FROM:<s@a.test>
    C: RCPT TO:<a@x.test>
    C: BDAT 4 LAST
    C: Hi
    H: send b
    C: RSET
    C: MAIL FROM:<s@a.test>
    C: RCPT TO:<b@x.test>
    C: BDAT 4 LAST
    C: Hi\n";

#[test]
fn a_window_of_transactions_is_open_at_once() {
    chunking(
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
         H: send c
         C: RSET
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<c@x.test>
         C: BDAT 4 LAST
         C: Hi
         S: 250 ok
         S: 250 ok
         S: 250 ok
         S: 250 taken
         S: 250 ok
         S: 250 ok
         S: 250 ok
         S: 250 taken
         E: done 2 Content=250
         E: done 3 Content=250",
    );
}

#[test]
fn what_follows_a_refused_chained_mail_is_void() {
    // A server that kept the envelope it refused would deliver `b`'s content to `a`.
    for (end, result) in [("250 taken", "unknown"), ("503 no", "not-attempted")] {
        chunking(&format!(
            "{TWO}
             S: 250 ok
             S: 250 ok
             S: 554 refused
             E: done 1 Content=554
             S: 250 ok
             S: 503 nested MAIL
             S: 250 ok
             S: {end}
             E: done 2 {result}
             E: failed ChainRefused(503)
             CLOSED"
        ));
    }
    chunking(&format!(
        "{TWO}
         S: 250 ok
         S: 250 ok
         S: 250 taken
         E: done 1 Content=250
         S: 503 no RSET
         H: send c
         E: NotReady
         S: 250 ok
         S: 250 ok
         S: 250 taken
         E: done 2 unknown
         E: failed ChainRefused(503)
         CLOSED"
    ));
}

#[test]
fn the_refusal_of_a_chained_mail_counts_when_its_rset_was_accepted() {
    // Only then is it certainly about this sender; and never when content was taken behind it.
    for (rset, mail, end, result) in [
        ("250 ok", "550 not you", "503 no", "Mail=550"),
        ("250 ok", "451 later", "503 no", "Mail=451"),
        ("250 ok", "550 not you", "250 taken", "unknown"),
        ("250 ok", "503 nested MAIL", "503 no", "not-attempted"),
        ("503 no RSET", "550 not you", "503 no", "not-attempted"),
    ] {
        let failure = if rset == "250 ok" { &mail[..3] } else { "503" };
        chunking(&format!(
            "{TWO}
             S: 250 ok
             S: 250 ok
             S: 250 taken
             E: done 1 Content=250
             S: {rset}
             S: {mail}
             S: 503 no
             S: {end}
             E: done 2 {result}
             E: failed ChainRefused({failure})
             CLOSED"
        ));
    }
}

#[test]
fn the_refusal_of_a_chained_mail_counts_for_large_content_that_was_held_back_too() {
    for (mail, result) in [("550 not you", "Mail=550"), ("503 nested MAIL", "not-attempted")] {
        chunking(&format!(
            "H: send a
             C: MAIL FROM:<s@a.test>
             C: RCPT TO:<a@x.test>
             C: BDAT 4 LAST
             C: Hi
             H: send b size=300000
             C: RSET
             C: MAIL FROM:<s@a.test>
             C: RCPT TO:<b@x.test>
             S: 250 ok
             S: 250 ok
             S: 250 taken
             E: done 1 Content=250
             S: 250 ok
             S: {mail}
             S: 503 no
             E: done 2 {result}
             E: failed ChainRefused({})
             CLOSED",
            &mail[..3]
        ));
    }
}

#[test]
fn a_void_transaction_whose_connection_dies_is_unknown() {
    chunking(&format!(
        "{TWO}
         S: 250 ok
         S: 250 ok
         S: 250 taken
         E: done 1 Content=250
         S: 250 ok
         S: 503 no
         S: 503 no
         H: eof
         E: done 2 unknown
         E: failed Lost
         CLOSED"
    ));
}

#[test]
fn the_window_becomes_unknown_when_the_connection_dies() {
    for (fault, failure) in
        [("H: eof", "Lost"), ("H: timeout", "TimedOut"), ("S: 25", "Protocol(Reply(Malformed))")]
    {
        chunking(&format!(
            "{TWO}
             {fault}
             E: done 1 unknown
             E: done 2 unknown
             E: failed {failure}
             CLOSED"
        ));
    }
}

#[test]
fn what_stands_behind_a_421_was_not_looked_at() {
    for (before, first) in
        [("", "Mail=421"), ("S: 250 ok\n", "Rcpt=421"), ("S: 250 ok\nS: 250 ok\n", "Content=421")]
    {
        chunking(&format!(
            "{TWO}
             {before}S: 421 closing
             E: done 1 {first}
             E: done 2 not-attempted
             E: failed Closing(421)
             CLOSED"
        ));
    }
    chunking(&format!(
        "{TWO}
         S: 250 ok
         S: 250 ok
         S: 250 taken
         E: done 1 Content=250
         S: 250 ok
         S: 421 enough for one connection
         E: done 2 not-attempted
         E: failed Closing(421)
         CLOSED"
    ));
}

#[test]
fn two_envelopes_refused_in_a_row_end_chaining() {
    let refused = "S: 250 ok
         S: 550 no
         S: 503 nobody\n";
    chunking(&format!(
        "{TWO}
         {refused}
         E: done 1 Rcpt=550
         S: 250 ok
         {refused}
         E: done 2 Rcpt=550
         H: send c
         C: RSET
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<c@x.test>
         C: BDAT 4 LAST
         C: Hi
         H: send d
         E: NotReady
         S: 250 ok
         S: 250 ok
         S: 250 ok
         S: 250 taken
         E: done 3 Content=250
         H: send d
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<d@x.test>
         C: BDAT 4 LAST
         C: Hi
         H: send e
         C: RSET
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<e@x.test>
         C: BDAT 4 LAST
         C: Hi"
    ));
}

#[test]
fn the_next_mail_goes_behind_a_final_dot_only_if_asked_for() {
    let one = "H: send a
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: DATA
         H: send b
         E: NotReady
         S: 250 ok
         S: 250 ok
         S: 354 go
         C: Hi
         C: .
         H: send b\n";
    pipelining(&format!("{one}E: NotReady"));
    let two = format!(
        "{PIPELINING}{one}
         C: RSET
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<b@x.test>
         C: DATA\n"
    );
    dialogue(
        &chain(),
        &format!(
            "{two}
             S: 250 taken
             E: done 1 Content=250
             S: 250 ok
             S: 250 ok
             S: 250 ok
             S: 354 go
             C: Hi
             C: .
             S: 250 taken
             E: done 2 Content=250"
        ),
    );
    let refused = format!(
        "{two}
         S: 250 taken
         E: done 1 Content=250
         S: 503 smuggler
         S: 503 smuggler
         S: 503 smuggler
         S: 503 smuggler
         E: done 2 not-attempted
         E: failed ChainRefused(503)
         CLOSED"
    );
    dialogue(&chain(), &refused);
    assert!(Peer::run(&chain(), &refused, None).session.chain_refused());
    dialogue(
        &chain(),
        &format!(
            "{two}
             S: 250 taken
             E: done 1 Content=250
             S: 250 ok
             S: 550 not you
             S: 250 ok
             S: 354 go
             E: done 2 Mail=550
             E: failed ChainRefused(550)
             CLOSED"
        ),
    );
}

#[test]
fn quit_waits_for_what_is_open_and_needs_no_answer() {
    for end in ["S: 221 bye", "H: eof", "H: timeout", "S: garbage", "S: 421 bye"] {
        chunking(&format!(
            "{TWO}
             H: quit
             S: 250 ok
             S: 250 ok
             S: 250 taken
             E: done 1 Content=250
             S: 250 ok
             S: 250 ok
             S: 250 ok
             S: 250 taken
             E: done 2 Content=250
             C: QUIT
             {end}
             CLOSED"
        ));
    }
}

#[test]
fn one_reply_too_many_is_never_the_next_transactions() {
    glued(
        &config(),
        &format!(
            "{CHUNKING}
             H: send a
             C: MAIL FROM:<s@a.test>
             C: RCPT TO:<a@x.test>
             C: BDAT 4 LAST
             C: Hi
             S: 250 ok
             S: 250 ok
             S: 250 taken
             S: 250 taken
             E: done 1 Content=250
             E: failed Protocol(Unasked)
             CLOSED"
        ),
    );
}

#[test]
fn giving_up_an_open_transaction_ends_the_session() {
    chunking(&format!("{TWO}H: reset\nE: done 1 unknown\nE: done 2 unknown\nE: failed Abandoned\nCLOSED"));
    pipelining(
        "H: send a
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: DATA
         H: reset
         E: done 1 not-attempted
         E: failed Abandoned
         CLOSED",
    );
}
