//! AUTH (RFC 4954).

use postroad::smtp::ChannelBinding;
use postroad::smtp::sasl::client::Exchange;
use postroad::smtp::sasl::{Credentials, Decoy, Mechanism, Nonces};
use postroad::smtp::server::{AuthOffer, Config};

use crate::dsl::{config, rows, with};

const HELLO: &str = "C: EHLO me\nS: 250...";
/// "ada" and "right"
const PLAIN: &str = "AGFkYQByaWdodA==";
/// "ada" and "wrong"
const WRONG: &str = "AGFkYQB3cm9uZw==";

fn open() -> Config {
    let mut config = config();
    config.auth = AuthOffer::Always;
    config
}

#[test]
fn plain_with_and_without_an_initial_response() {
    with(
        &open(),
        &format!("{HELLO}\nC: AUTH PLAIN {PLAIN}\nS: 235 2.7.0\nE: hello me true\nE: auth PLAIN ada right"),
    );
    with(
        &open(),
        &format!(
            "{HELLO}\nC: AUTH plain\nS: 334 \nC: {PLAIN}\nS: 235 2.7.0\nE: hello me true\nE: auth PLAIN ada right"
        ),
    );
    with(
        &open(),
        &format!("{HELLO}\nC: AUTH PLAIN {WRONG}\nS: 535 5.7.8\nC: AUTH PLAIN {PLAIN}\nS: 235 2.7.0"),
    );
}

#[test]
fn login_with_and_without_an_initial_user_name() {
    with(
        &open(),
        &format!(
            "{HELLO}\nC: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: YWRh\nS: 334 UGFzc3dvcmQ6\nC: cmlnaHQ=\nS: 235 2.7.0\nE: hello me true\nE: auth LOGIN ada right"
        ),
    );
    with(&open(), &format!("{HELLO}\nC: AUTH LOGIN YWRh\nS: 334 UGFzc3dvcmQ6\nC: cmlnaHQ=\nS: 235 2.7.0"));
    with(&open(), &format!("{HELLO}\nC: AUTH LOGIN YWRh\nC: d3Jvbmc=\nS: 334\nS: 535 5.7.8"));
}

#[test]
fn an_asterisk_cancels() {
    // RFC 4954 §4
    with(&open(), &format!("{HELLO}\nC: AUTH PLAIN\nS: 334\nC: *\nS: 501 5.7.0\nC: NOOP\nS: 250 2.0.0"));
    with(&open(), &format!("{HELLO}\nC: AUTH LOGIN\nS: 334\nC: *\nS: 501 5.7.0\nC: NOOP\nS: 250 2.0.0"));
    with(&open(), &format!("{HELLO}\nC: AUTH LOGIN YWRh\nS: 334\nC: *\nS: 501 5.7.0\nC: NOOP\nS: 250 2.0.0"));
}

#[test]
fn what_is_no_answer_is_refused() {
    rows(
        &open(),
        HELLO,
        &[
            ("AUTH PLAIN =", "501 5.5.2"), // the empty response, which PLAIN does not know
            ("AUTH PLAIN !", "501 5.5.2"),
            ("AUTH PLAIN AGFkYQByaWdodA", "501 5.5.2"), // no padding
            ("AUTH PLAIN YQ==", "501 5.5.2"),
            ("AUTH PLAIN cm9vdABhZGEAcmlnaHQ=", "535 5.7.8"), // root\0ada\0right
            ("AUTH", "501 5.5.4"),
            ("AUTH PLAIN a b", "501 5.5.4"),
            ("AUTH CRAM-MD5", "504 5.5.4"),
            ("AUTH XOAUTH2 x", "504 5.5.4"),
            ("AUTH SCRAM-SHA-256 x", "504 5.5.4"),
            ("AUTH SCRAM-SHA-256-PLUS x", "504 5.5.4"),
            ("AUTH EXTERNAL =", "504 5.5.4"),
        ],
    );
    with(&open(), &format!("{HELLO}\nC: AUTH PLAIN\nS: 334\nC: =\nS: 501 5.5.2"));
    with(&open(), &format!("{HELLO}\nC: AUTH PLAIN\nS: 334\nC:\nS: 501 5.5.2"));
    with(&open(), &format!("{HELLO}\nC: AUTH LOGIN =\nS: 334\nC: cmlnaHQ=\nS: 501 5.5.2"));
    with(
        &open(),
        &format!(
            "{HELLO}\nC: AUTH PLAIN\nS: 334\nC> AGFk\\nYQByaWdodA==\\r\\n\nS: 500 5.5.2\nC: NOOP\nS: 250"
        ),
    );
}

/// Everything that there is, with the nonce of RFC 7677 §3.
fn all() -> Config {
    let mut config = open();
    config.starttls = true;
    config.mechanisms = Mechanism::ALL.to_vec();
    config.nonces = Nonces::fixed("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
    config.decoy = Decoy::new([7; 32]);
    config
}

/// `n,,n=user,r=rOprNGfwEbeRWgbNEkqO`, and what follows in RFC 7677 §3.
const FIRST: &str = "biwsbj11c2VyLHI9ck9wck5HZndFYmVSV2diTkVrcU8=";
const CHALLENGE: &str = "cj1yT3ByTkdmd0ViZVJXZ2JORWtxTyVodllEcFdVYTJSYVRDQWZ1eEZJbGopaE5sRiRrMCxzPVcyMlphSjBTTlk3c29Fc1VFamI2Z1E9PSxpPTQwOTY=";
const PROOF: &str = "Yz1iaXdzLHI9ck9wck5HZndFYmVSV2diTkVrcU8laHZZRHBXVWEyUmFUQ0FmdXhGSWxqKWhObEYkazAscD1kSHpiWmFwV0lrNGpVaE4rVXRlOXl0YWc5empmTUhnc3FtbWl6N0FuZFZRPQ==";
const SIGNATURE: &str = "dj02cnJpVFJCaTIzV3BSUi93dHVwK21NaFVaVW4vZEI1bkxUSlJzamw5NUc0PQ==";
/// The same with a proof of zeros.
const NO_PROOF: &str = "Yz1iaXdzLHI9ck9wck5HZndFYmVSV2diTkVrcU8laHZZRHBXVWEyUmFUQ0FmdXhGSWxqKWhObEYkazAscD1BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBPQ==";

#[test]
fn scram_is_that_of_the_rfc_and_ends_with_an_empty_line() {
    // RFC 7677 §3; RFC 4954 §4: no data goes with 235
    with(
        &all(),
        &format!(
            "{HELLO}
             C: AUTH SCRAM-SHA-256 {FIRST}
             S: 334 {CHALLENGE}
             C: {PROOF}
             S: 334 {SIGNATURE}
             C:
             S: 235 2.7.0
             C: AUTH PLAIN {PLAIN}
             S: 503 5.5.1
             E: hello me true
             E: keys user
             E: auth SCRAM-SHA-256 user proven"
        ),
    );
    // Without an initial response, and with a second thought at each step.
    let start = format!("{HELLO}\nC: AUTH SCRAM-SHA-256\nS: 334 \nC: {FIRST}\nS: 334 {CHALLENGE}\n");
    let cancelled = "C: *\nS: 501 5.7.0\nC: MAIL FROM:<a@a.test>\nS: 530 5.7.0";
    let mut submission = all();
    submission.require_auth = true;
    with(&submission, &format!("{start}{cancelled}"));
    with(&submission, &format!("{start}C: {PROOF}\nS: 334 {SIGNATURE}\n{cancelled}"));
    with(&submission, &format!("{start}C: {PROOF}\nS: 334 {SIGNATURE}\nC: aG0=\nS: 501 5.5.2"));
    with(&submission, &format!("{start}C: Zm9v\nS: 501 5.5.2"));
}

#[test]
fn a_failed_proof_logs_nobody_in_whatever_the_host_says() {
    let config = all();
    with(
        &config,
        &format!(
            "{HELLO}
             C: AUTH SCRAM-SHA-256 {FIRST}
             S: 334 {CHALLENGE}
             C: {NO_PROOF}
             S: 535 5.7.8
             C: AUTH PLAIN {PLAIN}
             S: 235 2.7.0
             E: hello me true
             E: keys user
             E: failed user Proof
             E: auth PLAIN ada right"
        ),
    );
    // `n,,n=yes,r=a` and `n,,n=later,r=a`: no keys, but a reply.
    with(&config, &format!("{HELLO}\nC: AUTH SCRAM-SHA-256 biwsbj15ZXMscj1h\nS: 535 5.7.8\nC: NOOP\nS: 250"));
    with(&config, &format!("{HELLO}\nC: AUTH SCRAM-SHA-256 biwsbj1sYXRlcixyPWE=\nS: 454 4.7.0"));
    // They count.
    let guess = format!("C: AUTH SCRAM-SHA-256 {FIRST}\nS: 334 {CHALLENGE}\nC: {NO_PROOF}\n");
    let five = format!("{HELLO}\n{}{guess}S: 421 4.7.0\nX", format!("{guess}S: 535 5.7.8\n").repeat(4));
    with(&config, &five);
}

#[test]
fn a_user_that_does_not_exist_looks_like_one_that_does() {
    // `n,,n=eve,r=rOprNGfwEbeRWgbNEkqO`: a challenge like any other, the same each time.
    let eve = "biwsbj1ldmUscj1yT3ByTkdmd0ViZVJXZ2JORWtxTw==";
    let once = format!(
        "C: AUTH SCRAM-SHA-256 {eve}\nS: 334 cj1yT3ByTkdmd0ViZVJXZ2JORWtxTyVodllEcFdVYTJSYVRDQWZ1eEZJbGopaE5sRiRrMCxzP\nC: {NO_PROOF}\nS: 535 5.7.8\n"
    );
    with(
        &all(),
        &format!(
            "{HELLO}\n{once}{once}E: hello me true\nE: keys eve\nE: failed eve Proof\nE: keys eve\nE: failed eve Proof"
        ),
    );
}

#[test]
fn what_is_offered_depends_on_the_tls() {
    let offer = |config: &Config, tls: &str, mechanisms: &str| {
        let tls =
            if tls.is_empty() { String::new() } else { format!("C: STARTTLS\nS: 220\n{tls}\nC: EHLO me\n") };
        let mut config = config.clone();
        config.max_message_size = 0;
        let auth = if mechanisms.is_empty() { String::new() } else { format!("S: 250-AUTH {mechanisms}\n") };
        let starttls = if tls.is_empty() { "S: 250-STARTTLS\n" } else { "" };
        let before = if tls.is_empty() { "C: EHLO me\n".to_owned() } else { format!("{HELLO}\n{tls}") };
        with(
            &config,
            &format!(
                "{before}S: 250-mx.test\nS: 250-PIPELINING\nS: 250-SIZE\n{starttls}{auth}S: 250-8BITMIME\n\
                 S: 250-SMTPUTF8\nS: 250-CHUNKING\nS: 250-DSN\nS: 250-ENHANCEDSTATUSCODES\n\
                 S: 250 LIMITS RCPTMAX=1000"
            ),
        );
    };
    let mut config = all();
    offer(&config, "TLS BOUND", "SCRAM-SHA-256-PLUS SCRAM-SHA-256 EXTERNAL OAUTHBEARER XOAUTH2 PLAIN LOGIN");
    offer(&config, "TLS", "SCRAM-SHA-256 OAUTHBEARER XOAUTH2 PLAIN LOGIN");
    config.auth = AuthOffer::UnderTls;
    offer(&config, "", "");
    config.auth = AuthOffer::ScramInClear;
    offer(&config, "", "SCRAM-SHA-256");
    offer(&config, "TLS", "SCRAM-SHA-256 OAUTHBEARER XOAUTH2 PLAIN LOGIN");
    with(&config, &format!("{HELLO}\nC: AUTH PLAIN {PLAIN}\nS: 538 5.7.11\nC: AUTH FOO\nS: 504 5.5.4"));
    with(&config, &format!("{HELLO}\nC: AUTH SCRAM-SHA-256 {FIRST}\nS: 334 {CHALLENGE}"));
}

#[test]
fn a_client_that_did_not_see_the_binding_is_refused() {
    // `y,,n=user,r=rOprNGfwEbeRWgbNEkqO`; RFC 5802 §6
    let first = "eSwsbj11c2VyLHI9ck9wck5HZndFYmVSV2diTkVrcU8=";
    let auth = |tls: &str, reply: &str| {
        let script = format!(
            "{HELLO}\nC: STARTTLS\nS: 220\n{tls}\n{HELLO}\nC: AUTH SCRAM-SHA-256 {first}\nS: {reply}"
        );
        with(&all(), &script);
    };
    auth("TLS BOUND", "535 5.7.8");
    auth("TLS", "334 ");
}

#[test]
fn a_proof_for_another_tls_session_is_refused() {
    let ada = Credentials::new("user", "pencil");
    let nonces = Nonces::fixed("rOprNGfwEbeRWgbNEkqO");
    for (session, reply) in [([1; 32], "334 dj"), ([2; 32], "535 5.7.8")] {
        let binding = ChannelBinding::tls_exporter(session);
        let mut client = Exchange::new(Mechanism::ScramSha256Plus, &ada, Some(&binding), &nonces).unwrap();
        let first = client.initial(9999).unwrap();
        let last = client.challenge(CHALLENGE.as_bytes()).unwrap();
        let [first, last] = [first, last].map(|octets| String::from_utf8(octets.to_vec()).unwrap());
        with(
            &all(),
            &format!(
                "{HELLO}\nC: STARTTLS\nS: 220\nTLS BOUND\n{HELLO}\nC: AUTH SCRAM-SHA-256-PLUS {first}\n\
                 S: 334 {CHALLENGE}\nC: {last}\nS: {reply}"
            ),
        );
    }
}

#[test]
fn a_refused_token_is_explained_before_the_command_is_refused() {
    // `n,a=ada,^Aauth=Bearer TOKEN^A^A` with `right`, `wrong` and `later`; RFC 7628 §3.2.3
    let bearer = |token| format!("C: AUTH OAUTHBEARER bixhPWFkYSwBYXV0aD1CZWFyZXIg{token}\n");
    let error = "S: 334 eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIn0=\n";
    with(
        &all(),
        &format!(
            "{HELLO}\n{}S: 235 2.7.0\nE: hello me true\nE: auth OAUTHBEARER ada right",
            bearer("cmlnaHQBAQ==")
        ),
    );
    for dummy in ["AQ==", "", "*", "whatever"] {
        let refused = format!("{}{error}C: {dummy}\nS: 535 5.7.8\n", bearer("d3JvbmcBAQ=="));
        with(&all(), &format!("{HELLO}\n{refused}{}S: 235 2.7.0", bearer("cmlnaHQBAQ==")));
    }
    with(&all(), &format!("{HELLO}\n{}S: 454 4.7.0", bearer("bGF0ZXIBAQ==")));
    // `user=ada^Aauth=Bearer wrong^A^A`
    with(
        &all(),
        &format!(
            "{HELLO}
             C: AUTH XOAUTH2 dXNlcj1hZGEBYXV0aD1CZWFyZXIgd3JvbmcBAQ==
             S: 334 eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiQmVhcmVyIn0=
             C:
             S: 535 5.7.8"
        ),
    );
    let guess = format!("{}{error}C: AQ==\n", bearer("d3JvbmcBAQ=="));
    let fifth = bearer("d3JvbmcBAQ==");
    with(&all(), &format!("{HELLO}\n{}{fifth}S: 421 4.7.0\nX", format!("{guess}S: 535 5.7.8\n").repeat(4)));
}

#[test]
fn a_certificate_is_evidence_for_the_host_to_judge() {
    let auth = |response: &str, rest: &str| {
        let script =
            format!("{HELLO}\nC: STARTTLS\nS: 220\nTLS BOUND\n{HELLO}\nC: AUTH EXTERNAL {response}\n{rest}");
        with(&all(), &script);
    };
    let hello = "E: hello me true\nE: hello me true";
    auth("YWRh", &format!("S: 235 2.7.0\n{hello}\nE: auth EXTERNAL ada certificate"));
    auth("Ym9i", &format!("S: 535 5.7.8\n{hello}\nE: auth EXTERNAL bob certificate"));
    let name = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    auth("=", &format!("S: 535 5.7.8\n{hello}\nE: auth EXTERNAL {name} certificate"));
}

#[test]
fn auth_has_its_place_in_the_dialogue() {
    // RFC 4954 §4
    let auth = format!("AUTH PLAIN {PLAIN}");
    with(&open(), &format!("C: {auth}\nS: 503 5.5.1"));
    with(&open(), &format!("{HELLO}\nC: {auth}\nS: 235 2.7.0\nC: {auth}\nS: 503 5.5.1"));
    with(&open(), &format!("{HELLO}\nC: MAIL FROM:<a@a.test>\nS: 250 2.1.0\nC: {auth}\nS: 503 5.5.1"));
    with(
        &open(),
        &format!("{HELLO}\nC: {auth}\nS: 235 2.7.0\nC: EHLO me\nS: 250...\nC: {auth}\nS: 503 5.5.1"),
    );
}

#[test]
fn a_password_is_not_taken_in_the_clear() {
    let mut tls = config();
    (tls.auth, tls.starttls) = (AuthOffer::UnderTls, true);
    with(
        &tls,
        &format!(
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
             S: 250 LIMITS RCPTMAX=1000
             C: AUTH PLAIN {PLAIN}
             S: 538 5.7.11
             C: STARTTLS
             S: 220 2.0.0
             TLS
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
             C: AUTH PLAIN {PLAIN}
             S: 235 2.7.0"
        ),
    );
}

#[test]
fn submission_needs_a_login() {
    // RFC 6409 §4.3
    let mut submission = open();
    submission.require_auth = true;
    with(
        &submission,
        &format!(
            "{HELLO}
             C: MAIL FROM:<a@a.test>
             C: RCPT TO:<b@b.test>
             C: DATA
             S: 530 5.7.0
             S: 503 5.5.1
             S: 503 5.5.1
             C: AUTH PLAIN {PLAIN}
             S: 235 2.7.0
             C: MAIL FROM:<a@a.test> AUTH=<>
             S: 250 2.1.0"
        ),
    );
}

#[test]
fn five_wrong_passwords_end_the_session() {
    // RFC 4954 §9
    let wrong = format!("C: AUTH PLAIN {WRONG}\n");
    with(
        &open(),
        &format!("{HELLO}\n{}\nC: NOOP\n{}\nS: 421 4.7.0\nX", wrong.repeat(5), "S: 535 5.7.8\n".repeat(4)),
    );
}

#[test]
fn auth_lines_are_longer_than_others_and_limited() {
    // RFC 4954 §4
    let pad = |octets: usize| "A".repeat(octets);
    let fits = pad(12_288 - "AUTH PLAIN \r\n".len());
    let too_long = pad(12_288 - "AUTH PLAIN \r\n".len() + 1);
    with(&open(), &format!("{HELLO}\nC: AUTH PLAIN {fits}\nS: 501 5.5.2\nC: NOOP\nS: 250 2.0.0"));
    with(&open(), &format!("{HELLO}\nC: AUTH PLAIN {too_long}\nS: 500 5.5.2\nC: NOOP\nS: 250 2.0.0"));
    with(
        &open(),
        &format!("{HELLO}\nC: AUTH PLAIN\nS: 334\nC: {}\nS: 501 5.5.2\nC: NOOP\nS: 250 2.0.0", pad(12_286)),
    );
    with(
        &open(),
        &format!("{HELLO}\nC: AUTH PLAIN\nS: 334\nC: {}\nS: 500 5.5.6\nC: NOOP\nS: 250 2.0.0", pad(12_287)),
    );
}
