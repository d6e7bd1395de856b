//! Transactions: what goes out in one write, what follows which reply, what becomes of whom.

use postroad::smtp::client::Config;

use crate::harness::{Peer, config, dialogue, glued};

const PIPELINING: &str = "S: 220 mx
    C: EHLO me.test
    S: 250-mx
    S: 250 PIPELINING
    E: ready\n";
const CHUNKING: &str = "S: 220 mx
    C: EHLO me.test
    S: 250-mx
    S: 250-PIPELINING
    S: 250 CHUNKING
    E: ready\n";
const NEITHER: &str = "S: 220 mx
    C: EHLO me.test
    S: 250 mx
    E: ready\n";

fn pipelining(script: &str) {
    dialogue(&config(), &format!("{PIPELINING}{script}"));
}

fn chunking(script: &str) {
    dialogue(&config(), &format!("{CHUNKING}{script}"));
}

fn chain() -> Config {
    let mut config = config();
    config.chain = true;
    config
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
fn an_idle_connection_that_speaks_is_over() {
    pipelining("S: 421 idle too long\nE: failed Closing(421)\nCLOSED");
    pipelining("S: 250 ok\nE: failed Protocol(Unasked)\nCLOSED");
    pipelining("H: eof\nE: failed Lost\nCLOSED");
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
