//! SCRAM, in both roles.

use super::*;

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
