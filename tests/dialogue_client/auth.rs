//! AUTH (RFC 4954): which mechanism is taken, and what a server must show to be believed.

use std::time::Instant;

use bytes::BytesMut;
use postroad::smtp::client::{Config, Session, TlsUse};
use postroad::smtp::sasl::{Credentials, Mechanism, Nonces};
use postroad::smtp::{ChannelBinding, Input, Output, TlsInfo};

use crate::harness::{config, dialogue, glued};

/// RFC 7677 §3
const FIRST: &str = "biwsbj11c2VyLHI9ck9wck5HZndFYmVSV2diTkVrcU8=";
const CHALLENGE: &str = "cj1yT3ByTkdmd0ViZVJXZ2JORWtxTyVodllEcFdVYTJSYVRDQWZ1eEZJbGopaE5sRiRrMCxzPVcyMlphSjBTTlk3c29Fc1VFamI2Z1E9PSxpPTQwOTY=";
const PROOF: &str = "Yz1iaXdzLHI9ck9wck5HZndFYmVSV2diTkVrcU8laHZZRHBXVWEyUmFUQ0FmdXhGSWxqKWhObEYkazAscD1kSHpiWmFwV0lrNGpVaE4rVXRlOXl0YWc5empmTUhnc3FtbWl6N0FuZFZRPQ==";
const SIGNATURE: &str = "dj02cnJpVFJCaTIzV3BSUi93dHVwK21NaFVaVW4vZEI1bkxUSlJzamw5NUc0PQ==";

fn with(credentials: Credentials) -> Config {
    let mut config = config();
    config.tls = TlsUse::AlreadyOn;
    config.credentials = Some(credentials);
    config.nonces = Nonces::fixed("rOprNGfwEbeRWgbNEkqO");
    config
}

fn user() -> Config {
    with(Credentials::new("user", "pencil"))
}

/// The opening up to AUTH, then `rest`. Glued, where a cut would cost a hash of many rounds each time.
fn offered(run: fn(&Config, &str), config: &Config, mechanisms: &str, rest: &str) {
    run(config, &format!("S: 220 mx\nC: EHLO me.test\nS: 250-mx\nS: 250 AUTH {mechanisms}\n{rest}"));
}

#[test]
fn scram_is_that_of_the_rfc() {
    offered(
        glued,
        &user(),
        "PLAIN SCRAM-SHA-256",
        &format!(
            "C! AUTH SCRAM-SHA-256 {FIRST}\nS: 334 {CHALLENGE}\nC! {PROOF}\nS: 334 {SIGNATURE}\nC! \nS: 235 welcome\nE: ready"
        )
        .replace("C! \n", "C!\n"),
    );
}

#[test]
fn the_strongest_mechanism_is_taken() {
    let first = |config: &Config, mechanisms: &str, line: &str| {
        offered(dialogue, config, mechanisms, &format!("{line}\nS: 535 no\nE: failed Auth(535)\nCLOSED"));
    };
    let everything = "LOGIN CRAM-MD5 PLAIN XOAUTH2 OAUTHBEARER EXTERNAL SCRAM-SHA-256 SCRAM-SHA-256-PLUS";
    let scram = format!("C! AUTH SCRAM-SHA-256 {FIRST}");
    let plain = "C! AUTH PLAIN AHVzZXIAcGVuY2ls";
    first(&user(), everything, &scram);
    first(&user(), "LOGIN CRAM-MD5 PLAIN", plain);
    first(&user(), "LOGIN CRAM-MD5", "C: AUTH CRAM-MD5");
    first(&user(), "LOGIN", "C: AUTH LOGIN");
    let token = with(Credentials::token("user", "t"));
    first(&token, everything, "C! AUTH OAUTHBEARER bixhPXVzZXIsAWF1dGg9QmVhcmVyIHQBAQ==");
    first(&token, "PLAIN XOAUTH2", "C! AUTH XOAUTH2 dXNlcj11c2VyAWF1dGg9QmVhcmVyIHQBAQ==");
    first(&with(Credentials::certificate("user")), everything, "C! AUTH EXTERNAL dXNlcg==");
    first(&with(Credentials::certificate("")), everything, "C! AUTH EXTERNAL =");
    // In clear, what shows least goes first.
    let mut clear = user();
    (clear.tls, clear.auth_in_clear) = (TlsUse::Never, true);
    first(&clear, everything, &scram);
    first(&clear, "LOGIN PLAIN CRAM-MD5", "C: AUTH CRAM-MD5");
    first(&clear, "LOGIN PLAIN", plain);
    // Only what the host allows.
    let mut strict = user();
    strict.mechanisms = vec![Mechanism::ScramSha256Plus, Mechanism::ScramSha256];
    first(&strict, everything, &scram);
    offered(dialogue, &strict, "PLAIN LOGIN CRAM-MD5", "E: failed Auth(None)\nCLOSED");
    offered(dialogue, &token, "PLAIN SCRAM-SHA-256", "E: failed Auth(None)\nCLOSED");
    let mut unproven = with(Credentials::certificate("user"));
    (unproven.tls, unproven.auth_in_clear) = (TlsUse::Never, true);
    offered(dialogue, &unproven, everything, "E: failed Auth(None)\nCLOSED");
}

#[test]
fn a_mechanism_that_is_too_weak_or_not_there_gives_way_and_a_refusal_is_final() {
    offered(
        dialogue,
        &user(),
        "SCRAM-SHA-256 PLAIN CRAM-MD5 LOGIN",
        &format!(
            "C! AUTH SCRAM-SHA-256 {FIRST}
             S: 504 not there
             C! AUTH PLAIN AHVzZXIAcGVuY2ls
             S: 534 too weak
             C: AUTH CRAM-MD5
             S: 504 nor this
             C: AUTH LOGIN
             S: 534 nor this
             E: failed Auth(534)
             CLOSED"
        ),
    );
    offered(
        dialogue,
        &user(),
        "SCRAM-SHA-256 PLAIN",
        &format!("C! AUTH SCRAM-SHA-256 {FIRST}\nS: 535 no\nE: failed Auth(535)\nCLOSED"),
    );
}

#[test]
fn cram_md5_hashes_what_it_is_told_to() {
    // RFC 2195 §2
    offered(
        dialogue,
        &with(Credentials::new("tim", "tanstaaftanstaaf")),
        "CRAM-MD5",
        "C: AUTH CRAM-MD5
         S: 334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+
         C! dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw
         S: 235 welcome
         E: ready",
    );
}

#[test]
fn an_explained_refusal_of_a_token_gets_the_dummy() {
    let token = with(Credentials::token("user", "t"));
    // RFC 7628 §3.2.3
    offered(
        dialogue,
        &token,
        "OAUTHBEARER",
        "C! AUTH OAUTHBEARER bixhPXVzZXIsAWF1dGg9QmVhcmVyIHQBAQ==
         S: 334 eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIn0=
         C! AQ==
         S: 535 no
         E: failed Auth(535)
         CLOSED",
    );
    offered(
        dialogue,
        &token,
        "XOAUTH2",
        "C! AUTH XOAUTH2 dXNlcj11c2VyAWF1dGg9QmVhcmVyIHQBAQ==
         S: 334 eyJzdGF0dXMiOiI0MDEifQ==
         C!
         S: 535 no
         E: failed Auth(535)
         CLOSED",
    );
}

#[test]
fn a_server_that_breaks_the_exchange_is_cancelled_and_gets_no_mail() {
    let scram = format!("C! AUTH SCRAM-SHA-256 {FIRST}\n");
    for (challenge, why) in [
        // r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096
        ("cj1vdGhlcixzPVcyMlphSjBTTlk3c29Fc1VFamI2Z1E9PSxpPTQwOTY=", "Malformed"),
        // The right nonce with i=1 and i=2147483648
        ("cj1yT3ByTkdmd0ViZVJXZ2JORWtxT3gscz1XMjJaYUowU05ZN3NvRXNVRWpiNmdRPT0saT0x", "Iterations"),
        (
            "cj1yT3ByTkdmd0ViZVJXZ2JORWtxT3gscz1XMjJaYUowU05ZN3NvRXNVRWpiNmdRPT0saT0yMTQ3NDgzNjQ4",
            "Iterations",
        ),
        ("bT14LHI9ck9wck5HZndFYmVSV2diTkVrcU94LHM9VzIyWiwsaT00MDk2", "Malformed"), // m=x,…
        ("ZT1vdGhlci1lcnJvcg==", "Refused"),
        ("", "Malformed"),
        ("not Base64", "Malformed"),
    ] {
        for answer in ["501 cancelled", "235 welcome", "504 no"] {
            offered(
                glued,
                &user(),
                "SCRAM-SHA-256 PLAIN",
                &format!(
                    "{scram}S: 334 {challenge}\nC: *\nS: {answer}\nE: failed AuthExchange({why})\nCLOSED"
                )
                .replace("334 \n", "334\n"),
            );
        }
    }
    offered(
        glued,
        &user(),
        "PLAIN",
        "C! AUTH PLAIN AHVzZXIAcGVuY2ls\nS: 334 more\nC: *\nS: 501 ok\nE: failed AuthExchange(Unexpected)\nCLOSED",
    );
}

#[test]
fn a_server_that_does_not_prove_itself_gets_no_mail() {
    let proven = format!("C! AUTH SCRAM-SHA-256 {FIRST}\nS: 334 {CHALLENGE}\nC! {PROOF}\n");
    let end = "E: failed AuthExchange(ServerProof)\nCLOSED";
    // Success at once, in place of the challenge, in place of the signature, and with a wrong one.
    offered(
        glued,
        &user(),
        "SCRAM-SHA-256",
        &format!("C! AUTH SCRAM-SHA-256 {FIRST}\nS: 235 welcome\n{end}"),
    );
    offered(glued, &user(), "SCRAM-SHA-256", &format!("{proven}S: 235 welcome\n{end}"));
    let zeros = "dj1BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBPQ==";
    offered(glued, &user(), "SCRAM-SHA-256", &format!("{proven}S: 334 {zeros}\nC: *\nS: 501 ok\n{end}"));
    offered(glued, &user(), "SCRAM-SHA-256", &format!("{proven}S: 334 {zeros}\nC: *\nS: 235 welcome\n{end}"));
    offered(glued, &user(), "SCRAM-SHA-256", &format!("{proven}S: 535 no\nE: failed Auth(535)\nCLOSED"));
    offered(
        glued,
        &user(),
        "SCRAM-SHA-256",
        &format!(
            "{proven}S: 334 {SIGNATURE}\nC!\nS: 334 more\nC: *\nS: 501 ok\nE: failed AuthExchange(Unexpected)\nCLOSED"
        ),
    );
}

#[test]
fn a_client_says_whether_it_could_have_bound_the_login_to_its_tls() {
    let unbound = [Mechanism::ScramSha256];
    let p = "AUTH SCRAM-SHA-256-PLUS cD10bHMtZXhwb3J0ZXIsLG49"; // p=tls-exporter,,n=
    let y = "AUTH SCRAM-SHA-256 eSwsbj11c2Vy"; // y,,n=user
    let n = "AUTH SCRAM-SHA-256 biwsbj11c2Vy"; // n,,n=user
    for (announced, mechanisms, binding, sent) in [
        ("SCRAM-SHA-256 SCRAM-SHA-256-PLUS", &Mechanism::ALL[..], true, p),
        ("SCRAM-SHA-256", &Mechanism::ALL[..], true, y),
        ("SCRAM-SHA-256 SCRAM-SHA-256-PLUS", &unbound[..], true, n),
        ("SCRAM-SHA-256 SCRAM-SHA-256-PLUS", &Mechanism::ALL[..], false, n),
    ] {
        #[allow(clippy::disallowed_methods, reason = "some instant is needed to count from")]
        let now = Instant::now();
        let mut config = user();
        config.mechanisms = mechanisms.to_vec();
        let mut tls = TlsInfo::new("TLSv1.3", "X");
        tls.binding = binding.then(|| ChannelBinding::tls_exporter([1; 32]));
        let mut session = Session::over_tls(config, tls, now);
        session.handle(now, Input::Data(&mut BytesMut::from("220 mx\r\n")));
        let Output::Send(ehlo) = session.poll() else { panic!() };
        session.handle(now, Input::Sent(ehlo.len()));
        let offer = format!("250-mx\r\n250 AUTH {announced}\r\n");
        session.handle(now, Input::Data(&mut BytesMut::from(&*offer)));
        let output = session.poll();
        assert_eq!(format!("{output:?}"), "SendSecret(..)");
        let Output::SendSecret(line) = output else { panic!() };
        assert!(line.starts_with(sent.as_bytes()), "{line:?} is not {sent}");
    }
}
