//! Extensions: announced where they are switched on, accepted only where they were announced, within
//! what was announced.

use postroad::smtp::server::{AuthOffer, Config};

use crate::dsl::{config, rows, with};

const HELLO: &str = "C: EHLO me\nS: 250...";
const LOGIN: &str = "C: AUTH PLAIN AGFkYQByaWdodA==\nS: 235 2.7.0";
const STARTTLS: &str = "C: EHLO me\nS: 250...\nC: STARTTLS\nS: 220 2.0.0\nTLS\nC: EHLO me\nS: 250...";

fn everything() -> Config {
    let mut config = config();
    (config.starttls, config.offer_require_tls, config.priority) = (true, true, true);
    (config.deliver_by, config.future_release) = (Some(60), Some(3600));
    (config.max_messages, config.max_recipient_domains) = (Some(5), Some(2));
    config
}

#[test]
fn what_is_switched_on_is_announced_and_requiretls_only_under_tls() {
    with(
        &everything(),
        "C: EHLO me
         S: 250-mx.test
         S: 250-PIPELINING
         S: 250-SIZE
         S: 250-STARTTLS
         S: 250-8BITMIME
         S: 250-SMTPUTF8
         S: 250-CHUNKING
         S: 250-DSN
         S: 250-ENHANCEDSTATUSCODES
         S: 250-LIMITS RCPTMAX=1000 MAILMAX=5 RCPTDOMAINMAX=2
         S: 250-DELIVERBY 60
         S: 250-FUTURERELEASE 3600 2026-11-21T13:00:00Z
         S: 250 MT-PRIORITY
         C: STARTTLS
         S: 220 2.0.0
         T: 60
         TLS
         C: EHLO me
         S: 250-mx.test
         S: 250-PIPELINING
         S: 250-SIZE
         S: 250-8BITMIME
         S: 250-SMTPUTF8
         S: 250-CHUNKING
         S: 250-DSN
         S: 250-ENHANCEDSTATUSCODES
         S: 250-REQUIRETLS
         S: 250-LIMITS RCPTMAX=1000 MAILMAX=5 RCPTDOMAINMAX=2
         S: 250-DELIVERBY 60
         S: 250-FUTURERELEASE 3600 2026-11-21T13:01:00Z
         S: 250 MT-PRIORITY",
    );
}

#[test]
fn a_parameter_that_was_not_announced_is_refused() {
    // RFC 5321 §4.1.1.11
    rows(
        &config(),
        HELLO,
        &[
            ("MAIL FROM:<> REQUIRETLS", "555 5.5.4"),
            ("MAIL FROM:<> BY=60;R", "555 5.5.4"),
            ("MAIL FROM:<> HOLDFOR=1", "555 5.5.4"),
            ("MAIL FROM:<> HOLDUNTIL=2026-11-21T12:00:00Z", "555 5.5.4"),
            ("MAIL FROM:<> MT-PRIORITY=0", "555 5.5.4"),
        ],
    );
    rows(&everything(), HELLO, &[("MAIL FROM:<> REQUIRETLS", "555 5.5.4")]);
    rows(&everything(), STARTTLS, &[("MAIL FROM:<> REQUIRETLS", "250 2.1.0")]);
}

#[test]
fn helo_allows_no_parameters() {
    // RFC 5321 §2.2.1
    let mut offers = everything();
    (offers.auth, offers.binary) = (AuthOffer::Always, true);
    for parameter in [
        "SIZE=1",
        "BODY=8BITMIME",
        "BODY=BINARYMIME",
        "SMTPUTF8",
        "RET=HDRS",
        "ENVID=x",
        "AUTH=<>",
        "BY=60;R",
        "HOLDFOR=1",
        "MT-PRIORITY=1",
    ] {
        rows(&offers, "C: HELO me\nS: 250", &[(&format!("MAIL FROM:<> {parameter}"), "555 5.5.4")]);
    }
    let mail = "C: HELO me\nS: 250\nC: MAIL FROM:<>\nS: 250 2.1.0";
    for parameter in ["NOTIFY=NEVER", "ORCPT=rfc822;b@b.test"] {
        rows(&offers, mail, &[(&format!("RCPT TO:<b@b.test> {parameter}"), "555 5.5.4")]);
    }
    rows(&offers, mail, &[("RCPT TO:<b@b.test>", "250 2.1.5")]);
}

#[test]
fn mail_is_held_no_longer_than_announced() {
    // RFC 4865 §4
    rows(
        &everything(),
        HELLO,
        &[
            ("MAIL FROM:<> HOLDFOR=3600", "250 2.1.0"),
            ("MAIL FROM:<> HOLDFOR=3601", "501 5.5.4"),
            ("MAIL FROM:<> HOLDFOR=0", "250 2.1.0"),
            ("MAIL FROM:<> HOLDUNTIL=2026-11-21T13:00:00Z", "250 2.1.0"),
            ("MAIL FROM:<> HOLDUNTIL=2026-11-21T13:00:01Z", "501 5.5.4"),
            ("MAIL FROM:<> HOLDUNTIL=1999-01-01T00:00:00Z", "250 2.1.0"),
            ("MAIL FROM:<> HOLDUNTIL=tomorrow", "501 5.5.4"),
            ("MAIL FROM:<> HOLDFOR=1 HOLDUNTIL=2026-11-21T13:00:00Z", "501 5.5.4"),
        ],
    );
    // The end moves with the time.
    with(
        &everything(),
        &format!("T: 100\n{HELLO}\nC: MAIL FROM:<> HOLDUNTIL=2026-11-21T13:01:40Z\nS: 250 2.1.0"),
    );
}

#[test]
fn only_users_may_have_their_mail_held_where_there_are_users() {
    let mut submission = everything();
    submission.auth = AuthOffer::Always;
    with(
        &submission,
        &format!(
            "{HELLO}\nC: MAIL FROM:<> HOLDFOR=1\nS: 530 5.7.0\n{LOGIN}\nC: MAIL FROM:<> HOLDFOR=1\nS: 250 2.1.0"
        ),
    );
}

#[test]
fn without_the_time_nothing_is_held() {
    use bytes::BytesMut;
    use postroad::smtp::server::Session;
    use postroad::smtp::{Input, Output};

    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    let now = std::time::Instant::now();
    let mut offers = everything();
    offers.refuse_early_talk = false;
    let mut session = Session::new(offers, now);
    let mut input = BytesMut::from("EHLO me\r\nMAIL FROM:<> HOLDFOR=1\r\n");
    session.handle(now, Input::Data(&mut input));
    assert!(matches!(session.poll(), Output::Event(_)));
    let Output::Send(said) = session.poll() else { panic!("no reply") };
    let said = std::str::from_utf8(&said).unwrap();
    assert!(!said.contains("FUTURERELEASE") && said.contains("\r\n555 5.5.4"), "{said}");
}

#[test]
fn mail_to_be_returned_when_late_needs_the_least_time() {
    // RFC 2852 §4
    rows(
        &everything(),
        HELLO,
        &[
            ("MAIL FROM:<> BY=60;R", "250 2.1.0"),
            ("MAIL FROM:<> BY=59;R", "553 5.4.7"),
            ("MAIL FROM:<> BY=59;RT", "553 5.4.7"),
            ("MAIL FROM:<> BY=59;N", "250 2.1.0"),
            ("MAIL FROM:<> BY=-59;NT", "250 2.1.0"),
            ("MAIL FROM:<> BY=0;R", "501 5.5.4"),
            ("MAIL FROM:<> BY=60", "501 5.5.4"),
        ],
    );
    let mut any = config();
    any.deliver_by = Some(0);
    rows(&any, HELLO, &[("MAIL FROM:<> BY=1;R", "250 2.1.0")]);
}

#[test]
fn every_parameter_reaches_the_host() {
    with(
        &everything(),
        &format!(
            "{STARTTLS}
             C: MAIL FROM:<a@a.test> REQUIRETLS BY=120;RT HOLDFOR=60 MT-PRIORITY=-4
             S: 250 2.1.0
             E: hello me true
             E: hello me true
             E: mail <a@a.test> REQUIRETLS BY=120;RT HOLDFOR=60 MT-PRIORITY=-4"
        ),
    );
}

#[test]
fn a_session_takes_no_more_messages_than_it_announced() {
    // RFC 9422 §4.1
    let mut two = config();
    two.max_messages = Some(2);
    let message = "C: MAIL FROM:<>\nC: RCPT TO:<b@b.test>\nC: BDAT 0 LAST\n";
    let taken = "S: 250 2.1.0\nS: 250 2.1.5\nS: 250 2.6.0\n";
    with(&two, &format!("{HELLO}\n{message}{message}{message}{taken}{taken}S: 421 4.7.0\nX"));
    // A refused sender makes no transaction, an abandoned one does.
    with(
        &two,
        &format!(
            "{HELLO}
             C: MAIL FROM:<nobody@a.test>
             C: MAIL FROM:<>
             C: RSET
             C: MAIL FROM:<>
             C: RSET
             C: MAIL FROM:<>
             S: 550 5.1.1
             S: 250 2.1.0
             S: 250 2.0.0
             S: 250 2.1.0
             S: 250 2.0.0
             S: 421 4.7.0
             X"
        ),
    );
}

#[test]
fn recipients_in_too_many_domains_wait_for_the_next_transaction() {
    // RFC 9422 §4.3
    with(
        &everything(),
        &format!(
            "{HELLO}
             C: MAIL FROM:<>
             C: RCPT TO:<a@one.test>
             C: RCPT TO:<nobody@two.test>
             C: RCPT TO:<a@three.test>
             C: RCPT TO:<a@four.test>
             C: RCPT TO:<postmaster>
             C: RCPT TO:<b@ONE.test>
             C: RCPT TO:<b@three.test>
             S: 250 2.1.0
             S: 250 2.1.5
             S: 550 5.1.1
             S: 250 2.1.5
             S: 452 4.5.3
             S: 250 2.1.5
             S: 250 2.1.5
             S: 250 2.1.5
             C: RSET
             C: MAIL FROM:<>
             C: RCPT TO:<a@four.test>
             S: 250 2.0.0
             S: 250 2.1.0
             S: 250 2.1.5"
        ),
    );
}

#[test]
fn a_limit_that_has_no_form_is_not_announced() {
    // RFC 9422 §4: six digits
    let mut wide = config();
    (wide.max_recipients, wide.max_messages) = (1_000_000, Some(1_000_000));
    with(
        &wide,
        "C: EHLO me
         S: 250-mx.test
         S: 250-PIPELINING
         S: 250-SIZE
         S: 250-8BITMIME
         S: 250-SMTPUTF8
         S: 250-CHUNKING
         S: 250-DSN
         S: 250 ENHANCEDSTATUSCODES",
    );
}

#[test]
fn no_fixed_size_limit_is_announced_as_zero_and_refuses_nothing() {
    // RFC 1870 §3
    let mut any = config();
    any.max_message_size = 0;
    rows(&any, HELLO, &[("MAIL FROM:<> SIZE=18446744073709551615", "250 2.1.0")]);
    with(
        &any,
        &format!(
            "{HELLO}\nC: MAIL FROM:<>\nC: RCPT TO:<b@b.test>\nC: BDAT 3 LAST\nC> abc\nS: 250 2.1.0\nS: 250 2.1.5\nS: 250 2.6.0"
        ),
    );
}
