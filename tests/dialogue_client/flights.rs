//! Transactions: what goes out in one write, what follows which reply, what becomes of whom.

use crate::harness::{Peer, config, dialogue, glued};

pub(crate) const PIPELINING: &str = "S: 220 mx
    C: EHLO me.test
    S: 250-mx
    S: 250 PIPELINING
    E: ready\n";
pub(crate) const CHUNKING: &str = "S: 220 mx
    C: EHLO me.test
    S: 250-mx
    S: 250-PIPELINING
    S: 250 CHUNKING
    E: ready\n";
const NEITHER: &str = "S: 220 mx
    C: EHLO me.test
    S: 250 mx
    E: ready\n";

pub(crate) fn pipelining(script: &str) {
    dialogue(&config(), &format!("{PIPELINING}{script}"));
}

pub(crate) fn chunking(script: &str) {
    dialogue(&config(), &format!("{CHUNKING}{script}"));
}

#[test]
fn the_envelope_leaves_in_one_write() {
    pipelining(
        "H: send a b
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: RCPT TO:<b@x.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 250 ok
         S: 354 go
         C: Hi
         C: .
         S: 250 taken
         E: done 1 Content=250 Content=250
         H: quit
         C: QUIT
         S: 221 bye
         CLOSED",
    );
}

#[test]
fn with_chunking_the_content_leaves_with_the_envelope() {
    chunking(
        "H: send a
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: BDAT 4 LAST
         C: Hi
         S: 250 ok
         S: 250 ok
         S: 250 taken
         E: done 1 Content=250
         H: quit
         C: QUIT
         S: 221 bye
         CLOSED",
    );
}

#[test]
fn rejected_recipient_does_not_stop_the_others() {
    pipelining(
        "H: send a b c d e
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: RCPT TO:<b@x.test>
         C: RCPT TO:<c@x.test>
         C: RCPT TO:<d@x.test>
         C: RCPT TO:<e@x.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 251 forwarded
         S: 252 maybe
         S: 450 later
         S: 550-no
         S: 550 such user
         S: 354 go
         C: Hi
         C: .
         S: 250 taken
         E: done 1 Content=250 Content=250 Content=250 Rcpt=450 Rcpt=550",
    );
}

#[test]
fn a_server_without_pipelining_is_spoken_to_step_by_step() {
    dialogue(
        &config(),
        &format!(
            "{NEITHER}
             H: send a b
             C: MAIL FROM:<s@a.test>
             S: 250 ok
             C: RCPT TO:<a@x.test>
             S: 550 no
             C: RCPT TO:<b@x.test>
             S: 250 ok
             C: DATA
             S: 354 go
             C: Hi
             C: .
             S: 250 taken
             E: done 1 Rcpt=550 Content=250
             H: send a
             C: MAIL FROM:<s@a.test>
             S: 250 ok
             C: RCPT TO:<a@x.test>
             S: 550 no
             E: done 2 Rcpt=550
             H: send a
             C: RSET
             S: 250 ok
             C: MAIL FROM:<s@a.test>
             S: 550 no
             E: done 3 Mail=550"
        ),
    );
}

#[test]
fn dots_are_doubled_and_the_last_line_is_ended() {
    // RFC 5321 §4.5.2
    pipelining(
        "H: send a body=.one\\n..two\\n.\\nthree
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go
         C: ..one
         C: ...two
         C: ..
         C: three
         C: .
         S: 250 taken
         E: done 1 Content=250",
    );
}

#[test]
fn go_ahead_for_nobody_gets_a_lone_dot_and_is_no_success() {
    // RFC 2920 §3.1
    for (end, next) in [("250 taken", ""), ("554 nobody", "C: RSET\n")] {
        pipelining(&format!(
            "H: send a b
             C: MAIL FROM:<s@a.test>
             C: RCPT TO:<a@x.test>
             C: RCPT TO:<b@x.test>
             C: DATA
             S: 250 ok
             S: 550 no
             S: 450 no
             S: 354 go
             C: .
             S: {end}
             E: done 1 Rcpt=550 Rcpt=450
             H: send a
             {next}C: MAIL FROM:<s@a.test>
             C: RCPT TO:<a@x.test>
             C: DATA"
        ));
    }
    pipelining(
        "H: send a
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: DATA
         S: 550 no
         S: 250 what
         S: 354 go
         C: .
         S: 250 taken
         E: done 1 Mail=550",
    );
}

#[test]
fn content_taken_for_nobody_is_no_success() {
    chunking(
        "H: send a
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: BDAT 4 LAST
         C: Hi
         S: 250 ok
         S: 550 no
         S: 250 taken
         E: done 1 Rcpt=550",
    );
}

#[test]
fn a_refused_envelope_is_reset_before_the_next() {
    pipelining(
        "H: send a
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: DATA
         S: 250 ok
         S: 550 no
         S: 554 nobody
         E: done 1 Rcpt=550
         H: send a
         C: RSET
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 250 ok
         S: 354 go
         C: Hi
         C: .
         S: 250 taken
         E: done 2 Content=250
         H: send a
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: DATA",
    );
}

#[test]
fn large_content_by_bdat_waits_for_the_recipients() {
    chunking(
        "H: send a b size=262145
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: RCPT TO:<b@x.test>
         S: 250 ok
         S: 550 no
         S: 550 no
         E: done 1 Rcpt=550 Rcpt=550
         H: send a
         C: RSET
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: BDAT 4 LAST
         C: Hi",
    );
    glued(
        &config(),
        &format!(
            "{CHUNKING}
             H: send a b size=262145
             C: MAIL FROM:<s@a.test>
             C: RCPT TO:<a@x.test>
             C: RCPT TO:<b@x.test>
             S: 250 ok
             S: 550 no
             S: 250 ok
             C: BDAT 262145 LAST
             --
             C: (262145 octets)
             S: 250 taken
             E: done 1 Rcpt=550 Content=250"
        ),
    );
}

#[test]
fn an_empty_message_has_its_end_too() {
    chunking(
        "H: send a body=
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: BDAT 0 LAST
         S: 250 ok
         S: 250 ok
         S: 250 taken
         E: done 1 Content=250",
    );
    pipelining(
        "H: send a body=
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go
         C: .
         S: 250 taken
         E: done 1 Content=250",
    );
}

#[test]
fn a_server_that_loses_count_is_spoken_to_step_by_step() {
    let script = format!(
        "{PIPELINING}
         H: send a b
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: RCPT TO:<b@x.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 503 bad sequence
         S: 503 bad sequence
         E: done 1 not-attempted not-attempted
         H: send a b
         C: RSET
         S: 250 ok
         C: MAIL FROM:<s@a.test>
         S: 250 ok
         C: RCPT TO:<a@x.test>
         S: 503 really no
         C: RCPT TO:<b@x.test>
         S: 250 ok
         C: DATA
         S: 354 go
         C: Hi
         C: .
         S: 250 taken
         E: done 2 Rcpt=503 Content=250"
    );
    dialogue(&config(), &script);
    assert!(Peer::run(&config(), &script, None).session.pipelining_broken());
    let dies = format!(
        "{PIPELINING}
         H: send a
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: DATA
         S: 250 ok
         H: eof
         E: done 1 not-attempted
         E: failed Lost
         CLOSED"
    );
    dialogue(&config(), &dies);
    assert!(Peer::run(&config(), &dies, None).session.pipelining_broken());
}

#[test]
fn an_idle_connection_can_be_asked_whether_it_lives() {
    pipelining("H: reset\nC: RSET\nH: send a\nE: NotReady\nS: 250 ok\nE: reset");
    pipelining("H: reset\nC: RSET\nH: eof\nE: failed Lost\nCLOSED");
    pipelining("H: reset\nC: RSET\nH: timeout\nE: failed TimedOut\nCLOSED");
    pipelining("H: reset\nC: RSET\nS: 500 what\nE: failed Protocol(WrongClass)\nCLOSED");
}

#[test]
fn an_idle_connection_that_speaks_is_over() {
    pipelining("S: 421 idle too long\nE: failed Closing(421)\nCLOSED");
    pipelining("S: 250 ok\nE: failed Protocol(Unasked)\nCLOSED");
    pipelining("H: eof\nE: failed Lost\nCLOSED");
}

#[test]
fn no_reply_to_the_final_dot_leaves_the_outcome_unknown() {
    // RFC 5321 §4.5.3.2.6: it may have been delivered.
    pipelining(
        "H: send a b
         C: MAIL FROM:<s@a.test>
         C: RCPT TO:<a@x.test>
         C: RCPT TO:<b@x.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 550 no
         S: 354 go
         C: Hi
         C: .
         H: timeout
         E: done 1 unknown Rcpt=550
         E: failed TimedOut
         CLOSED",
    );
}

#[test]
fn a_421_within_a_pipelined_group_is_the_answer_to_what_it_answers() {
    for (before, first) in [("", "Mail=421 Mail=421"), ("S: 250 ok\n", "Rcpt=421 Rcpt=421")] {
        pipelining(&format!(
            "H: send a b
             C: MAIL FROM:<s@a.test>
             C: RCPT TO:<a@x.test>
             C: RCPT TO:<b@x.test>
             C: DATA
             {before}S: 421 closing
             E: done 1 {first}
             E: failed Closing(421)
             CLOSED"
        ));
    }
}
