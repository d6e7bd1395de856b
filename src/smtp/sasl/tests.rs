//! Exchanges with the vectors of the RFCs, and with peers that do not keep to them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::client::Exchange as Client;
use super::server::{Exchange as Server, Step};
use super::*;
use crate::smtp::{ChannelBinding, PeerCertificate, TlsInfo};

fn wire(clear: impl AsRef<[u8]>) -> Vec<u8> {
    STANDARD.encode(clear).into_bytes()
}

fn clear(wire: &[u8]) -> String {
    String::from_utf8(STANDARD.decode(wire).unwrap()).unwrap()
}

fn bound(octet: u8) -> ChannelBinding {
    ChannelBinding::tls_exporter([octet; 32])
}

fn tls(octet: u8) -> TlsInfo {
    let mut tls = TlsInfo::new("TLSv1.3", "X");
    tls.binding = Some(bound(octet));
    tls
}

fn client(mechanism: Mechanism, credentials: &Credentials) -> Client {
    Client::new(mechanism, credentials, None, &Nonces::fixed(CLIENT_NONCE)).unwrap()
}

fn first(mechanism: Mechanism, credentials: &Credentials) -> String {
    clear(&client(mechanism, credentials).initial(9999).unwrap())
}

/// What a server makes of an initial response.
fn login(mechanism: Mechanism, message: impl AsRef<[u8]>) -> Result<Login, SaslError> {
    match Server::new(mechanism, None, false).unwrap().begin(Some(&wire(message)))? {
        Step::Login(login) => Ok(login),
        step => panic!("{step:?}"),
    }
}

/// RFC 7677 §3
const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

/// The keys behind that vector, as a library of another language computes them.
const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                      WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                      wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

fn pencil() -> ScramKeys {
    ScramKeys::parse(PENCIL).unwrap()
}

/// A server that has been asked for the keys of who sent this.
fn asked(mechanism: Mechanism, message: &str, tls: Option<&TlsInfo>) -> Result<Server, SaslError> {
    let mut server = Server::new(mechanism, tls, tls.is_some()).unwrap();
    assert_eq!(server.begin(Some(&wire(message)))?, Step::Keys);
    Ok(server)
}

fn challenged(server: &mut Server, keys: Option<ScramKeys>) -> String {
    let step = server.keys(keys, &Nonces::fixed(SERVER_NONCE), &Decoy::new([7; 32])).unwrap();
    let Step::Challenge(challenge) = step else { panic!("{step:?}") };
    clear(&challenge)
}

#[test]
fn scram_is_that_of_the_rfc_in_both_roles() {
    // RFC 7677 §3
    let mut client = client(Mechanism::ScramSha256, &Credentials::new("user", "pencil"));
    assert_eq!(clear(&client.initial(9999).unwrap()), CLIENT_FIRST);
    assert_eq!(clear(&client.challenge(&wire(SERVER_FIRST)).unwrap()), CLIENT_FINAL);
    assert_eq!(client.succeeded(), Err(SaslError::ServerProof));
    assert!(client.challenge(&wire(SERVER_FINAL)).unwrap().is_empty());
    assert_eq!(client.succeeded(), Ok(()));
    assert_eq!(client.challenge(&wire(SERVER_FINAL)), Err(SaslError::Unexpected));

    let mut server = asked(Mechanism::ScramSha256, CLIENT_FIRST, None).unwrap();
    assert_eq!(server.user(), Some("user"));
    assert_eq!(challenged(&mut server, Some(pencil())), SERVER_FIRST);
    let Step::Challenge(signature) = server.answer(&wire(CLIENT_FINAL)).unwrap() else { panic!() };
    assert_eq!(clear(&signature), SERVER_FINAL);
    let Step::Login(login) = server.answer(b"").unwrap() else { panic!() };
    assert_eq!((login.user(), login.evidence()), ("user", Evidence::Proven));
    assert_eq!(server.answer(b""), Err(SaslError::Unexpected));
}

#[test]
fn the_first_message_waits_for_its_challenge_where_there_is_no_room() {
    let mut client = client(Mechanism::ScramSha256, &Credentials::new("user", "pencil"));
    assert_eq!(client.initial(10), None);
    assert_eq!(clear(&client.challenge(b"").unwrap()), CLIENT_FIRST);
    assert_eq!(clear(&client.challenge(&wire(SERVER_FIRST)).unwrap()), CLIENT_FINAL);
}

#[test]
fn a_server_that_does_not_keep_to_scram_is_not_answered() {
    let nonce = format!("{CLIENT_NONCE}{SERVER_NONCE}");
    for (challenge, error) in [
        (format!("r={SERVER_NONCE},s={SALT},i=4096"), SaslError::Malformed), // not our nonce
        (format!("r={CLIENT_NONCE},s={SALT},i=4096"), SaslError::Malformed), // nothing added
        (format!("r=x{nonce},s={SALT},i=4096"), SaslError::Malformed),
        (format!("r={nonce}\u{7f},s={SALT},i=4096"), SaslError::Malformed),
        (format!("r={CLIENT_NONCE}{},s={SALT},i=4096", "x".repeat(600)), SaslError::Malformed),
        (format!("r={nonce},s={SALT},i=1"), SaslError::Iterations),
        (format!("r={nonce},s={SALT},i=4095"), SaslError::Iterations),
        (format!("r={nonce},s={SALT},i=600001"), SaslError::Iterations),
        (format!("r={nonce},s={SALT},i=2147483648"), SaslError::Iterations),
        (format!("r={nonce},s={SALT},i=99999999999999999999"), SaslError::Iterations),
        (format!("r={nonce},s={SALT},i=-4096"), SaslError::Malformed),
        (format!("r={nonce},s={SALT},i=+4096"), SaslError::Malformed),
        (format!("r={nonce},s={SALT},i="), SaslError::Malformed),
        (format!("r={nonce},s={SALT}"), SaslError::Malformed),
        (format!("r={nonce},s=,i=4096"), SaslError::Malformed),
        (format!("r={nonce},s=!,i=4096"), SaslError::Malformed),
        (format!("r={nonce},s={},i=4096", STANDARD.encode([1; 1025])), SaslError::Malformed),
        (format!("s={SALT},r={nonce},i=4096"), SaslError::Malformed),
        (format!("m=x,r={nonce},s={SALT},i=4096"), SaslError::Malformed), // RFC 5802 §5.1
        ("e=other-error".to_owned(), SaslError::Refused),
        ("v=".to_owned(), SaslError::Malformed),
        (String::new(), SaslError::Malformed),
    ] {
        let mut client = client(Mechanism::ScramSha256, &Credentials::new("user", "pencil"));
        client.initial(9999).unwrap();
        assert_eq!(client.challenge(&wire(&challenge)), Err(error), "{challenge}");
        assert_eq!(client.succeeded(), Err(SaslError::ServerProof));
    }
    let mut client = client(Mechanism::ScramSha256, &Credentials::new("user", "pencil"));
    client.initial(9999).unwrap();
    assert_eq!(client.challenge(b"!"), Err(SaslError::Malformed), "no Base64");
    // An extension behind may be there.
    assert!(client.challenge(&wire(format!("{SERVER_FIRST},x=y"))).is_ok());
}

#[test]
fn a_server_without_the_password_is_not_believed() {
    let wrong = format!("v={}", STANDARD.encode([0; 32]));
    for (last, error) in [
        (wrong.as_str(), SaslError::ServerProof),
        ("", SaslError::Malformed),
        ("v=", SaslError::Malformed),
        ("v=AAAA", SaslError::Malformed),
        ("x=y", SaslError::Malformed),
        (SERVER_FIRST, SaslError::Malformed),
        ("e=invalid-proof", SaslError::Refused),
    ] {
        let mut client = client(Mechanism::ScramSha256, &Credentials::new("user", "pencil"));
        client.initial(9999).unwrap();
        client.challenge(&wire(SERVER_FIRST)).unwrap();
        assert_eq!(client.challenge(&wire(last)), Err(error), "{last}");
        assert_eq!(client.succeeded(), Err(SaslError::ServerProof), "{last}");
    }
}

#[test]
fn a_client_that_does_not_keep_to_scram_is_not_answered() {
    let long = "x".repeat(300);
    for (message, error) in [
        ("", SaslError::Malformed),
        ("n", SaslError::Malformed),
        ("n,", SaslError::Malformed),
        ("n,,", SaslError::Malformed),
        ("x,,n=user,r=abc", SaslError::Malformed),
        ("n,,n=,r=abc", SaslError::Malformed),
        ("n,,n=user", SaslError::Malformed),
        ("n,,n=user,r=", SaslError::Malformed),
        ("n,,n=user,r=a b", SaslError::Malformed),
        ("n,,n=us=er,r=abc", SaslError::Malformed),
        ("n,,n=us=00er,r=abc", SaslError::Malformed),
        ("n,,n=us\0er,r=abc", SaslError::Malformed),
        ("n,,r=abc,n=user", SaslError::Malformed),
        ("n,,m=x,n=user,r=abc", SaslError::Malformed), // RFC 5802 §5.1
        ("n,user,n=user,r=abc", SaslError::Malformed),
        ("p=tls-exporter,,n=user,r=abc", SaslError::Malformed), // not without -PLUS
        ("n,a=root,n=user,r=abc", SaslError::ActAs),
        (&format!("n,,n=user,r={long}"), SaslError::TooLong),
        (&format!("n,,n={},r=abc", "x".repeat(MAX_VALUE + 1)), SaslError::TooLong),
    ] {
        let got = asked(Mechanism::ScramSha256, message, None).map(|_| ());
        assert_eq!(got, Err(error), "{message}");
    }
    for message in ["n,a=user,n=user,r=abc", "y,,n=user,r=abc", "n,,n=user,r=abc,x=y"] {
        let server = asked(Mechanism::ScramSha256, message, None).unwrap();
        assert_eq!(server.user(), Some("user"), "{message}");
    }
    let odd = asked(Mechanism::ScramSha256, "n,,n=a=2Cb=3D=2C,r=abc", None).unwrap();
    assert_eq!(odd.user(), Some("a,b=,"));
}

#[test]
fn only_the_right_proof_is_one() {
    let nonce = format!("{CLIENT_NONCE}{SERVER_NONCE}");
    let zeros = STANDARD.encode([0; 32]);
    let proof = CLIENT_FINAL.rsplit_once(",p=").unwrap().1;
    for (last, error) in [
        (format!("c=biws,r={nonce},p={zeros}"), SaslError::Proof),
        (format!("c=biws,r={CLIENT_NONCE},p={proof}"), SaslError::Proof),
        (format!("c=eSws,r={nonce},p={proof}"), SaslError::Proof), // y,,
        (format!("c=biws,r={nonce},x=y,p={proof}"), SaslError::Proof),
        (format!("c=biws,r={nonce},p="), SaslError::Malformed),
        (format!("c=biws,r={nonce},p=AAAA"), SaslError::Malformed),
        (format!("c=biws,r={nonce}"), SaslError::Malformed),
        (format!("r={nonce},c=biws,p={proof}"), SaslError::Malformed),
        (String::new(), SaslError::Malformed),
    ] {
        let mut server = asked(Mechanism::ScramSha256, CLIENT_FIRST, None).unwrap();
        challenged(&mut server, Some(pencil()));
        assert_eq!(server.answer(&wire(&last)), Err(error), "{last}");
        assert!(server.answer(&wire(CLIENT_FINAL)).is_err(), "one try each");
    }
    // The right proof, and no acknowledgement of our signature.
    let mut server = asked(Mechanism::ScramSha256, CLIENT_FIRST, None).unwrap();
    challenged(&mut server, Some(pencil()));
    server.answer(&wire(CLIENT_FINAL)).unwrap();
    assert_eq!(server.answer(&wire("hm")), Err(SaslError::Malformed));
}

#[test]
fn a_proof_over_another_nonce_is_none_even_when_it_is_made_by_who_knows_the_password() {
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::{Digest, Sha256};
    let hmac = |key: &[u8], text: &str| {
        Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes()
    };
    let salt = STANDARD.decode(SALT).unwrap();
    let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(b"pencil", &salt, 4096);
    let client_key = hmac(&salted, "Client Key");
    for (nonce, right) in
        [(format!("{CLIENT_NONCE}{SERVER_NONCE}"), true), (format!("{CLIENT_NONCE}x"), false)]
    {
        let mut server = asked(Mechanism::ScramSha256, CLIENT_FIRST, None).unwrap();
        let challenge = challenged(&mut server, Some(pencil()));
        let unproven = format!("c=biws,r={nonce}");
        let bare = CLIENT_FIRST.strip_prefix("n,,").unwrap();
        let signature = hmac(&Sha256::digest(client_key), &format!("{bare},{challenge},{unproven}"));
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(one, other)| one ^ other).collect();
        let last = format!("{unproven},p={}", STANDARD.encode(proof));
        assert_eq!(server.answer(&wire(last)).is_ok(), right, "{nonce}");
    }
}

#[test]
fn nobody_learns_who_exists() {
    let decoy = Decoy::new([7; 32]);
    let shown = |user: &str, keys: Option<ScramKeys>| {
        let first = format!("n,,n={user},r={CLIENT_NONCE}");
        let mut server = asked(Mechanism::ScramSha256, &first, None).unwrap();
        let challenge = challenged(&mut server, keys);
        let mut client = Client::new(
            Mechanism::ScramSha256,
            &Credentials::new(user, "guess"),
            None,
            &Nonces::fixed(CLIENT_NONCE),
        )
        .unwrap();
        client.initial(9999).unwrap();
        let answer = client.challenge(&wire(&challenge)).unwrap();
        assert_eq!(server.answer(&answer), Err(SaslError::Proof), "{user}");
        challenge
    };
    let (eve, again, bob) = (shown("eve", None), shown("eve", None), shown("bob", None));
    assert_eq!(eve, again, "the salt of nobody is always the same");
    assert_ne!(eve, bob);
    assert_eq!(eve.len(), shown("user", Some(pencil())).len());
    assert_eq!(decoy.keys("eve").unwrap(), Decoy::new([7; 32]).keys("eve").unwrap());
    assert_ne!(decoy.keys("eve").unwrap(), Decoy::new([8; 32]).keys("eve").unwrap());
    let other = decoy.like(10_000, 24).keys("eve").unwrap().to_text();
    assert_eq!(other.find("$10000:").map(|at| other[at + 7..].find('$')), Some(Some(32)), "{other}");
}

#[test]
fn a_proof_is_bound_to_its_tls_session() {
    let plus = Mechanism::ScramSha256Plus;
    let ada = Credentials::new("user", "pencil");
    let nonces = Nonces::fixed(CLIENT_NONCE);
    let run = |at_client: u8, at_server: u8| {
        let mut client = Client::new(plus, &ada, Some(&bound(at_client)), &nonces).unwrap();
        let first = clear(&client.initial(9999).unwrap());
        assert!(first.starts_with("p=tls-exporter,,n=user,r="), "{first}");
        let mut server = asked(plus, &first, Some(&tls(at_server))).unwrap();
        let challenge = challenged(&mut server, Some(pencil()));
        let answer = client.challenge(&wire(challenge)).unwrap();
        let Step::Challenge(signature) = server.answer(&answer)? else { panic!() };
        client.challenge(&signature).unwrap();
        server.answer(b"").map(|_| ())
    };
    assert_eq!(run(1, 1), Ok(()));
    // Somebody in between has one TLS session with each, and passes everything on.
    assert_eq!(run(1, 2), Err(SaslError::Binding));
    assert!(Client::new(plus, &ada, None, &nonces).is_none());
    assert!(Server::new(plus, None, true).is_none());
    assert!(Server::new(plus, Some(&TlsInfo::new("TLSv1.2", "X")), true).is_none());
}

#[test]
fn a_client_that_was_kept_from_binding_is_found_out() {
    let ada = Credentials::new("user", "pencil");
    let nonces = Nonces::fixed(CLIENT_NONCE);
    let mut client = Client::new(Mechanism::ScramSha256, &ada, Some(&bound(1)), &nonces).unwrap();
    let first = clear(&client.initial(9999).unwrap());
    assert!(first.starts_with("y,,n=user,r="), "{first}");
    let refused = |mechanism, first: &str| asked(mechanism, first, Some(&tls(1))).map(|_| ()).unwrap_err();
    assert_eq!(refused(Mechanism::ScramSha256, &first), SaslError::Binding);
    // Taking the `y` for an `n` on the way does not help: the proof covers it.
    let mut server = asked(Mechanism::ScramSha256, &first.replacen('y', "n", 1), Some(&tls(1))).unwrap();
    let challenge = challenged(&mut server, Some(pencil()));
    let answer = client.challenge(&wire(challenge)).unwrap();
    assert_eq!(server.answer(&answer), Err(SaslError::Binding));
    // Other bindings are not ours, and none is none.
    let plus = Mechanism::ScramSha256Plus;
    assert_eq!(refused(plus, "p=tls-unique,,n=user,r=abc"), SaslError::Binding);
    assert_eq!(refused(plus, "n,,n=user,r=abc"), SaslError::Malformed);
    assert_eq!(refused(plus, "y,,n=user,r=abc"), SaslError::Malformed);
    // A client that knows no binding is welcome.
    assert!(asked(Mechanism::ScramSha256, CLIENT_FIRST, Some(&tls(1))).is_ok());
}

#[test]
fn keys_are_stored_as_text_and_fit_one_password() {
    let keys = ScramKeys::new("pencil", &STANDARD.decode(SALT).unwrap(), 4096).unwrap();
    let text = keys.to_text();
    assert_eq!(text, PENCIL);
    assert_eq!(ScramKeys::parse(&text), Ok(keys.clone()));
    assert!(keys.fits("pencil") && !keys.fits("pencils") && !keys.fits(""));
    assert_ne!(ScramKeys::of("pencil").unwrap(), ScramKeys::of("pencil").unwrap(), "salted");
    for (text, error) in [
        ("", SaslError::Malformed),
        (&text.replace("256", "1"), SaslError::Malformed),
        (&text.replace("4096", "4095"), SaslError::Iterations),
        (&text.replace("4096", "2147483648"), SaslError::Iterations),
        (&text.replace("W22Z", "!"), SaslError::Malformed),
        (text.strip_suffix('=').unwrap(), SaslError::Malformed),
    ] {
        assert_eq!(ScramKeys::parse(text), Err(error), "{text}");
    }
    assert_eq!(ScramKeys::new("x", b"", 4096), Err(SaslError::Malformed));
    assert_eq!(ScramKeys::new("x", &[0; 1025], 4096), Err(SaslError::Malformed));
    assert_eq!(ScramKeys::new("x", b"salt", 600_001), Err(SaslError::Iterations));
    // RFC 4013 §3: one password, however it was typed.
    assert!(ScramKeys::new("I\u{ad}X", b"salt", 4096).unwrap().fits("IX"));
    assert!(ScramKeys::new("\u{2168}", b"salt", 4096).unwrap().fits("IX"));
}

#[test]
fn the_old_mechanisms_are_those_of_their_rfcs() {
    let tim = Credentials::new("tim", "tanstaaftanstaaf");
    // RFC 4616 §4, without its authorisation identity
    assert_eq!(first(Mechanism::Plain, &tim), "\0tim\0tanstaaftanstaaf");
    // RFC 2195 §2
    let mut cram = client(Mechanism::CramMd5, &tim);
    assert_eq!(cram.initial(9999), None);
    let challenge = "PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+";
    let answer = cram.challenge(challenge.as_bytes()).unwrap();
    assert_eq!(&answer[..], b"dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw");
    assert_eq!(cram.challenge(challenge.as_bytes()), Err(SaslError::Unexpected));
    for bad in [&b""[..], b"!", b"="] {
        assert_eq!(client(Mechanism::CramMd5, &tim).challenge(bad), Err(SaslError::Malformed));
    }
    let mut login = client(Mechanism::Login, &tim);
    assert_eq!(login.initial(9999), None);
    assert_eq!(clear(&login.challenge(b"VXNlcm5hbWU6").unwrap()), "tim");
    assert_eq!(clear(&login.challenge(b"whatever").unwrap()), "tanstaaftanstaaf");
    assert_eq!(login.challenge(b""), Err(SaslError::Unexpected));
    assert!(Server::new(Mechanism::CramMd5, None, false).is_none());
}

#[test]
fn a_token_goes_as_the_rfc_has_it() {
    let token = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==";
    let user = Credentials::token("user@example.com", token);
    let sent = first(Mechanism::OAuthBearer, &user);
    assert_eq!(sent, format!("n,a=user@example.com,\x01auth=Bearer {token}\x01\x01"));
    // RFC 7628 §4.1, with the host and port that we leave out
    let vector = "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB";
    for message in [clear(vector.as_bytes()), sent] {
        let login = login(Mechanism::OAuthBearer, message).unwrap();
        assert_eq!((login.user(), login.evidence()), ("user@example.com", Evidence::Token(token)));
    }
    let sent = first(Mechanism::XOAuth2, &user);
    assert_eq!(sent, format!("user=user@example.com\x01auth=Bearer {token}\x01\x01"));
    let login = login(Mechanism::XOAuth2, sent).unwrap();
    assert_eq!((login.user(), login.evidence()), ("user@example.com", Evidence::Token(token)));
    // What is special in a name
    let odd =
        self::login(Mechanism::OAuthBearer, first(Mechanism::OAuthBearer, &Credentials::token("a,b=", "t")));
    assert_eq!(odd.unwrap().user(), "a,b=");
}

#[test]
fn a_refused_token_is_answered_with_the_dummy_and_no_more() {
    for (mechanism, dummy) in [(Mechanism::OAuthBearer, &b"AQ=="[..]), (Mechanism::XOAuth2, b"")] {
        let mut client = client(mechanism, &Credentials::token("u", "t"));
        client.initial(9999).unwrap();
        assert_eq!(&client.challenge(b"eyJzdGF0dXMiOiI0MDEifQ==").unwrap()[..], dummy);
        assert_eq!(client.challenge(b""), Err(SaslError::Unexpected));
        let refusal = clear(Server::refusal(mechanism).unwrap().as_bytes());
        assert!(refusal.starts_with("{\"status\":\""), "{refusal}");
    }
    assert_eq!(Server::refusal(Mechanism::Plain), None);
}

#[test]
fn malformed_tokens_are_refused() {
    for message in [
        "",
        "n,a=u,",
        "n,a=u,\x01\x01",
        "n,a=u,\x01auth=Bearer t",
        "n,a=u,\x01auth=Bearer t\x01",
        "n,a=u,\x01auth=Basic t\x01\x01",
        "n,a=u,\x01auth=Bearer \x01\x01",
        "n,a=u,\x01auth=Bearer a b\x01\x01",
        "n,a=u,\x01auth=Bearer t\r\x01\x01",
        "n,a=u,\x01auth=Bearer t\x01auth=Bearer u\x01\x01",
        "n,a=u,\x01auth\x01\x01",
        "n,,\x01auth=Bearer t\x01\x01",
        "n,a=,\x01auth=Bearer t\x01\x01",
        "p=tls-exporter,a=u,\x01auth=Bearer t\x01\x01",
        "user=u\x01auth=Bearer t\x01\x01",
    ] {
        assert_eq!(login(Mechanism::OAuthBearer, message), Err(SaslError::Malformed), "{message:?}");
    }
    for message in
        ["", "user=\x01auth=Bearer t\x01\x01", "user=u\x01auth=Bearer t\x01", "u\x01auth=Bearer t\x01\x01"]
    {
        assert_eq!(login(Mechanism::XOAuth2, message), Err(SaslError::Malformed), "{message:?}");
    }
    for (user, token) in [("u", ""), ("u", "a b"), ("u", "a\x01b"), ("u\x01", "t"), ("", "t"), ("u", "é")] {
        assert!(!Credentials::token(user, token).fit(Mechanism::OAuthBearer), "{user:?} {token:?}");
    }
}

#[test]
fn a_certificate_says_who_it_is_unless_somebody_is_named() {
    let mut tls = TlsInfo::new("TLSv1.3", "X");
    assert!(Server::new(Mechanism::External, Some(&tls), false).is_none());
    let certificate = PeerCertificate::from_der(&b"abc"[..]);
    tls.certificate = Some(certificate.clone());
    for (named, user) in [("ada", "ada".to_owned()), ("", certificate.fingerprint())] {
        let mut client = client(Mechanism::External, &Credentials::certificate(named));
        let initial = client.initial(9999).unwrap();
        assert_eq!(named.is_empty(), &initial[..] == b"=");
        let mut server = Server::new(Mechanism::External, Some(&tls), false).unwrap();
        let Step::Login(login) = server.begin(Some(&initial)).unwrap() else { panic!() };
        assert_eq!((login.user(), login.evidence()), (&*user, Evidence::Certificate(&certificate)));
    }
}

#[test]
fn what_a_client_answers_is_what_a_server_reads() {
    for (user, password) in [("ada", "s3cret"), ("ada@x.test", ""), ("grün", "pässwörd "), ("a", "=")] {
        let ada = Credentials::new(user, password);
        let plain = login(Mechanism::Plain, first(Mechanism::Plain, &ada)).unwrap();
        assert_eq!((plain.user(), plain.password()), (user, Some(password)));
        let mut client = client(Mechanism::Login, &ada);
        let mut server = Server::new(Mechanism::Login, None, false).unwrap();
        let mut step = server.begin(None).unwrap();
        for _ in 0..2 {
            let Step::Challenge(challenge) = &step else { panic!("{step:?}") };
            step = server.answer(&client.challenge(challenge).unwrap()).unwrap();
        }
        let Step::Login(login) = step else { panic!("{step:?}") };
        assert_eq!((login.user(), login.password()), (user, Some(password)));
    }
}

#[test]
fn a_nul_cannot_move_the_border_between_name_and_password() {
    for (user, password) in [("a\0b", "c"), ("a", "b\0c"), ("", "c")] {
        for mechanism in [Mechanism::Plain, Mechanism::ScramSha256] {
            assert!(!Credentials::new(user, password).fit(mechanism), "{user:?} {password:?}");
        }
    }
    assert_eq!(login(Mechanism::Plain, b"\0a\0b\0c"), Err(SaslError::Malformed));
    let mut server = Server::new(Mechanism::Login, None, false).unwrap();
    server.begin(Some(&wire(b"a\0b"))).unwrap();
    assert_eq!(server.answer(&wire(b"c")), Err(SaslError::Malformed));
}

#[test]
fn malformed_answers_are_refused() {
    for (response, error) in [
        (b"=".to_vec(), SaslError::Malformed),
        (b"".to_vec(), SaslError::Malformed),
        (b"AGEAYg".to_vec(), SaslError::Malformed), // no padding
        (b"AGEAYg==\r".to_vec(), SaslError::Malformed),
        (b"AGE AYg==".to_vec(), SaslError::Malformed),
        (wire(b"a\0b"), SaslError::Malformed),
        (wire(b"\0\0b"), SaslError::Malformed),
        (wire(b"\0\xff\0b"), SaslError::Malformed),
        (wire(b"root\0ada\0b"), SaslError::ActAs),
        (wire([&b"\0"[..], &[b'a'; MAX_VALUE + 1], b"\0b"].concat()), SaslError::TooLong),
        (vec![b'A'; MAX_AUTH_LINE + 1], SaslError::TooLong),
    ] {
        let mut server = Server::new(Mechanism::Plain, None, false).unwrap();
        assert_eq!(server.begin(Some(&response)), Err(error), "{response:?}");
    }
    assert!(login(Mechanism::Plain, b"ada\0ada\0b").is_ok());
}

#[test]
fn secrets_are_never_shown() {
    let shown = |what: &dyn std::fmt::Debug| {
        let shown = format!("{what:?}");
        for secret in ["s3cret", "czNjcmV0", "ada", "YWRh", "115, 51, 99"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    };
    let nonces = Nonces::system();
    for credentials in [
        Credentials::new("ada", "s3cret"),
        Credentials::token("ada", "s3cret"),
        Credentials::certificate("ada"),
    ] {
        shown(&credentials);
        for mechanism in Mechanism::ALL {
            let Some(mut client) = Client::new(mechanism, &credentials, Some(&bound(1)), &nonces) else {
                continue;
            };
            shown(&client);
            let initial = client.initial(9999);
            shown(&client);
            let _ = client.challenge(&wire("x"));
            shown(&client);
            let mut tls = tls(1);
            tls.certificate = Some(PeerCertificate::from_der(&b"abc"[..]));
            if let Some(mut server) = Server::new(mechanism, Some(&tls), false) {
                shown(&server);
                let step = initial.map(|initial| server.begin(Some(&initial)));
                if !matches!(step, Some(Ok(Step::Keys))) {
                    shown(&step);
                }
                shown(&server);
                if let Some(Ok(Step::Login(login))) = &step {
                    shown(login);
                    shown(&login.evidence());
                }
            }
        }
    }
    shown(&ScramKeys::of("s3cret").unwrap());
    shown(&Refused { mechanism: Mechanism::Plain, user: Some("ada".into()), why: SaslError::Proof });
}

#[test]
fn every_mechanism_is_read_by_its_name() {
    for mechanism in Mechanism::ALL {
        assert_eq!(Mechanism::parse(&mechanism.as_str().to_lowercase()), Some(mechanism));
    }
    assert_eq!(Mechanism::parse("SCRAM-SHA-1"), None);
}
