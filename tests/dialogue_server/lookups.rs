//! VRFY and EXPN: nothing is told by default, and what a host tells has limits.

use postroad::smtp::server::{Config, Protocol};

use crate::dsl::{config, dialogue, rows, with};

fn telling() -> Config {
    let mut config = config();
    (config.vrfy, config.expn) = (true, true);
    config
}

#[test]
fn the_host_is_not_asked_unless_it_wants_to() {
    // RFC 5321 §7.3
    dialogue(
        "C: EHLO me\nC: VRFY ada\nC: EXPN list\nS: 250...\nS: 252 2.0.0\nS: 502 5.5.1\nE: hello me true",
    );
}

#[test]
fn what_the_host_tells_goes_to_the_client() {
    // RFC 5321 §3.5
    with(
        &telling(),
        "C: VRFY ada
         C: EXPN list
         C: VRFY nobody
         C: EXPN later
         C: NOOP
         S: 250 2.1.5 <ada@b.test>
         S: 250-2.1.5 <0@b.test>
         S: 250 2.1.5 <1@b.test>
         S: 550 5.1.1
         S: 450 4.2.0
         S: 250 2.0.0
         E: vrfy ada false
         E: expn list false
         E: vrfy nobody false
         E: expn later false",
    );
    with(&telling(), "C: VRFY begone\nC: NOOP\nS: 421 4.3.2\nX");
}

#[test]
fn between_chunks_the_host_answers_for_nothing_but_the_message() {
    // Asked there, it would never answer, and what the client sent meanwhile would be kept without end.
    with(
        &telling(),
        "C: EHLO me
         C: MAIL FROM:<a@a.test>
         C: RCPT TO:<b@b.test>
         S: 250...
         S: 250 2.1.0
         S: 250 2.1.5
         C: BDAT 3
         C> x\\r\\n
         C: VRFY ada
         C: EXPN list
         C: BDAT 0 LAST
         S: 250 2.0.0 3
         S: 503 5.5.1
         S: 503 5.5.1
         S: 250 2.6.0
         E: hello me true
         E: mail <a@a.test>
         E: rcpt <b@b.test>
         E: start
         E: end x\\r\\n",
    );
}

#[test]
fn utf8_is_told_only_to_those_who_read_it() {
    // RFC 6531 §3.7.4.2
    with(
        &telling(),
        "C: VRFY gr\u{fc}n SMTPUTF8
         S: 250 2.1.5 <gr\u{fc}n@b.test>
         C: VRFY gr\u{fc}n
         S: 553 5.6.7
         E: vrfy gr\u{fc}n true",
    );
}

#[test]
fn an_answer_in_utf8_to_a_question_without_is_not_sent() {
    use bytes::BytesMut;
    use postroad::smtp::server::{Event, Session};
    use postroad::smtp::{Input, Output};

    let mut lenient = telling();
    lenient.refuse_early_talk = false;
    let now = crate::dsl::Peer::silent(&lenient).now;
    let mut session = Session::new(lenient, now);
    session.handle(now, Input::Data(&mut BytesMut::from("VRFY gruen\r\n")));
    assert!(matches!(session.poll(), Output::Event(Event::Vrfy(_))));
    session.respond(crate::dsl::reply(250, (2, 1, 5), "<gr\u{fc}n@b.test>")).unwrap();
    let Output::Send(said) = session.poll() else { panic!("no reply") };
    assert!(said.ends_with(b"553 5.6.8 The answer needs SMTPUTF8\r\n"), "{said:?}");
}

#[test]
fn a_list_is_told_up_to_its_limit() {
    let told: String =
        (0..1000).map(|n| format!("S: 250{}2.1.5 <{n}@b.test>\n", if n < 999 { '-' } else { ' ' })).collect();
    with(&telling(), &format!("C: EXPN 1000\n{told}C: EXPN 2000\nS: 550 5.3.4"));
}

#[test]
fn guessing_names_ends_the_session() {
    let guesses = "C: VRFY nobody\n".repeat(101);
    with(&telling(), &format!("{guesses}{}S: 421 4.7.0\nX", "S: 550 5.1.1\n".repeat(100)));
}

#[test]
fn help_lists_what_can_be_said_here() {
    let mut config = telling();
    config.starttls = true;
    rows(
        &config,
        "",
        &[(
            "HELP",
            "214-2.0.0 EHLO HELO STARTTLS MAIL RCPT DATA BDAT RSET NOOP VRFY EXPN HELP QUIT\nS: 214 2.0.0",
        )],
    );
    config.protocol = Protocol::Lmtp;
    rows(&config, "", &[("HELP", "214-2.0.0 LHLO STARTTLS\nS: 214 2.0.0")]);
}
