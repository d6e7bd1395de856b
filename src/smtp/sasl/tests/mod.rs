//! Exchanges with the vectors of the RFCs, and with peers that do not keep to them.

mod scram;

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
