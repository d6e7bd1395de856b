//! XCLIENT, as Postfix defined it (`XCLIENT_README`).

use postroad::smtp::sasl::Mechanism;
use postroad::smtp::server::{AuthOffer, Config};

use crate::dsl::{config, dialogue, rows, with};

const XCLIENT: &str = "XCLIENT NAME=spike.test ADDR=192.0.2.7";
const ASKED: &str = "E: xclient Some(192.0.2.7) Some(\"spike.test\")";

fn users() -> Config {
    let mut config = config();
    (config.auth, config.require_auth) = (AuthOffer::Always, true);
    config
}

#[test]
fn only_trusted_peers_are_offered_and_believed() {
    dialogue(&format!("C: {XCLIENT}\nS: 550 5.7.0\nC: EHLO me\nS: 250...\nE: hello me true"));
    dialogue(
        "TRUST
         C: EHLO me
         S: 250-mx.test
         S: 250-PIPELINING
         S: 250-SIZE
         S: 250-8BITMIME
         S: 250-SMTPUTF8
         S: 250-CHUNKING
         S: 250-DSN
         S: 250-ENHANCEDSTATUSCODES
         S: 250-LIMITS RCPTMAX=1000
         S: 250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT",
    );
}

#[test]
fn the_session_begins_anew_with_the_client_behind_the_proxy() {
    dialogue(&format!(
        "TRUST
         C: EHLO proxy
         C: {XCLIENT}
         C: MAIL FROM:<>
         S: 250...
         S: 220 mx.test ESMTP
         S: 503 5.5.1
         C: EHLO me
         C: MAIL FROM:<>
         S: 250...
         S: 250 2.1.0
         E: hello proxy true
         {ASKED}
         E: hello me true
         E: mail <>"
    ));
}

#[test]
fn xclient_has_its_place_in_the_dialogue_and_its_form() {
    rows(&config(), "TRUST\nC: EHLO me\nC: MAIL FROM:<>\nS: 250...\nS: 250 2.1.0", &[(XCLIENT, "503 5.5.1")]);
    rows(&config(), "TRUST", &[("XCLIENT", "501 5.5.4"), ("XCLIENT FOO=BAR", "501 5.5.4")]);
}

#[test]
fn a_user_the_proxy_vouches_for_is_logged_in() {
    let mail = "C: EHLO me\nC: MAIL FROM:<>\nS: 250...";
    with(&users(), &format!("TRUST\nC: {XCLIENT} LOGIN=ada\nS: 220 mx.test\n{mail}\nS: 250 2.1.0"));
    // One client may take several commands.
    with(
        &users(),
        &format!(
            "TRUST\nC: XCLIENT LOGIN=ada\nC: {XCLIENT}\nS: 220 mx.test\nS: 220 mx.test\n{mail}\nS: 250 2.1.0"
        ),
    );
    with(&users(), &format!("TRUST\nC: XCLIENT LOGIN=[UNAVAILABLE]\nS: 220 mx.test\n{mail}\nS: 530 5.7.0"));
}

#[test]
fn a_login_at_the_proxy_is_not_the_clients() {
    with(
        &users(),
        &format!(
            "TRUST
             C: EHLO proxy
             S: 250...
             C: AUTH PLAIN AGFkYQByaWdodA==
             S: 235 2.7.0
             C: {XCLIENT}
             S: 220 mx.test
             C: EHLO me
             C: MAIL FROM:<>
             S: 250...
             S: 530 5.7.0"
        ),
    );
}

#[test]
fn tls_forgets_a_login_the_proxy_vouched_for() {
    // RFC 3207 §4.2
    let mut tls = users();
    tls.starttls = true;
    with(
        &tls,
        &format!(
            "TRUST
             C: {XCLIENT} LOGIN=ada
             C: EHLO me
             S: 220 mx.test
             S: 250...
             C: STARTTLS
             S: 220 2.0.0
             TLS
             C: EHLO me
             C: MAIL FROM:<>
             S: 250...
             S: 530 5.7.0"
        ),
    );
}

#[test]
fn a_client_behind_a_proxy_may_be_refused() {
    dialogue(
        "TRUST
         C: XCLIENT NAME=nobody.test
         C: EHLO me
         C: QUIT
         S: 554 5.7.1
         S: 503 5.5.1
         S: 221 2.0.0
         E: xclient None Some(\"nobody.test\")
         E: quit
         X",
    );
    dialogue("TRUST\nC: XCLIENT NAME=begone.test\nC: EHLO me\nS: 421 4.3.2\nX");
    dialogue("TRUST\nC: XCLIENT NAME=later.test\nC: EHLO me\nS: 450 4.2.0\nS: 250...");
}

#[test]
fn a_client_that_was_named_cannot_name_another() {
    // Proxies hand the connection over once they have said who it is.
    with(
        &users(),
        &format!(
            "TRUST
             C: EHLO proxy
             S: 250...
             C: {XCLIENT}
             C: EHLO me
             S: 220 mx.test
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
             C: XCLIENT ADDR=127.0.0.1
             C: XCLIENT LOGIN=ada
             C: MAIL FROM:<>
             S: 550 5.7.0
             S: 550 5.7.0
             S: 530 5.7.0"
        ),
    );
    // Before it has said anything it may add to what was told, and not change it.
    let mail = "C: EHLO me\nC: MAIL FROM:<>\nS: 250...\nS: 250 2.1.0";
    for (again, code) in [("ADDR=127.0.0.1", "550 5.7.0"), ("LOGIN=eve", "550 5.7.0"), ("PORT=9", "220")] {
        let told = format!("TRUST\nC: {XCLIENT} LOGIN=ada\nS: 220 mx.test");
        with(&users(), &format!("{told}\nC: XCLIENT {again}\nS: {code}\n{mail}"));
    }
    // Who was turned away for the moment was not named.
    dialogue("TRUST\nC: XCLIENT NAME=later.test\nS: 450 4.2.0\nC: XCLIENT NAME=spike.test\nS: 220 mx.test");
}

#[test]
fn what_the_proxy_showed_in_tls_is_not_the_clients() {
    let mut tls = users();
    (tls.mechanisms, tls.starttls) = (Mechanism::ALL.to_vec(), true);
    let offers = |offer: &str| {
        format!(
            "S: 250-mx.test
             S: 250-PIPELINING
             S: 250-SIZE
             S: 250-AUTH {offer}
             S: 250-8BITMIME
             S: 250-SMTPUTF8
             S: 250-CHUNKING
             S: 250-DSN
             S: 250-ENHANCEDSTATUSCODES"
        )
    };
    let (bound, plain) = (
        offers("SCRAM-SHA-256-PLUS SCRAM-SHA-256 EXTERNAL OAUTHBEARER XOAUTH2 PLAIN LOGIN"),
        offers("SCRAM-SHA-256 OAUTHBEARER XOAUTH2 PLAIN LOGIN"),
    );
    with(
        &tls,
        &format!(
            "TRUST
             C: EHLO proxy
             S: 250...
             C: STARTTLS
             S: 220 2.0.0
             TLS BOUND
             C: EHLO proxy
             {bound}
             S: 250-LIMITS RCPTMAX=1000
             S: 250 XCLIENT
             C: {XCLIENT}
             C: EHLO me
             S: 220 mx.test
             {plain}
             S: 250 LIMITS RCPTMAX=1000
             C: AUTH EXTERNAL =
             S: 504 5.5.4"
        ),
    );
}

#[test]
fn naming_a_client_again_and_again_ends_the_session() {
    dialogue(&format!(
        "TRUST\nC: XCLIENT PORT=1\n{}S: 220 mx.test\n{}S: 421 4.7.0\nX",
        "C: XCLIENT PORT=1\n".repeat(20),
        "S: 550 5.7.0\n".repeat(19)
    ));
}
