//! Logins and TLS.

use super::*;

#[tokio::test]
async fn auth_is_offered_and_taken_only_under_tls() {
    let book = Arc::default();
    let mut options = options();
    options.session.auth = AuthOffer::UnderTls;
    let running = server(&book, options).tls(certificate()).listen("127.0.0.1:0").start().await.unwrap();
    let stream = TcpStream::connect(running.addresses()[0]).await.unwrap();
    let mut client = Client(stream);
    client.expect(&["220"]).await;
    let offer = client.ask("EHLO c.test", "250").await;
    assert!(offer.contains("STARTTLS") && !offer.contains("AUTH"), "{offer}");
    client.ask("AUTH PLAIN AGFkYQBzM2NyZXQ=", "5").await;
    assert_eq!(book.log(), [""; 0]);
    client.ask("STARTTLS", "220").await;
    let mut client = tls(client.0).await;
    client.ask("MAIL FROM:<a@x.test>", "503").await;
    let offer = client.ask("EHLO c.test", "250").await;
    assert!(offer.contains("AUTH PLAIN") && !offer.contains("STARTTLS"), "{offer}");
    client.ask("AUTH PLAIN AGFkYQB3cm9uZw==", "535 5.7.8").await;
    client.ask("AUTH PLAIN AGFkYQBzM2NyZXQ=", "235 2.7.0").await;
    client.ask("AUTH PLAIN AGFkYQBzM2NyZXQ=", "503").await;
    client.ask("MAIL FROM:<a@x.test>", "250").await;
    assert_eq!(book.log(), ["auth ada tls=true", "auth ada tls=true", "mail <a@x.test> user=Some(\"ada\")"]);
}

#[tokio::test(start_paused = true)]
async fn failed_logins_are_answered_later_each_time_and_then_no_more() {
    let mut options = options();
    options.session.auth = AuthOffer::Always;
    options.auth_delay = Duration::from_secs(1);
    let mut client = session(&Arc::default(), options).await;
    client.ask("EHLO c.test", "250").await;
    let mut waits = Vec::new();
    for _ in 0..5 {
        let start = tokio::time::Instant::now();
        client.ask("AUTH PLAIN AGFkYQB3cm9uZw==", "").await;
        waits.push(start.elapsed().as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8, 16]);
    client.rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_proof_or_token_is_answered_as_late_as_a_wrong_password() {
    // `n,,n=ada,r=a`, and a proof of zeros; `n,a=ada,^Aauth=Bearer x^A^A`
    let scram = "AUTH SCRAM-SHA-256 biwsbj1hZGEscj1h";
    let proof = "Yz1iaXdzLHI9YSxwPUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE9";
    let bearer = "AUTH OAUTHBEARER bixhPWFkYSwBYXV0aD1CZWFyZXIgeAEB";
    for (begin, first, second) in [(scram, "334 ", "535 5.7.8"), (bearer, "334 eyJ", "535 5.7.8")] {
        let mut options = options();
        options.session.auth = AuthOffer::Always;
        options.session.mechanisms = Mechanism::ALL.to_vec();
        options.auth_delay = Duration::from_secs(1);
        let mut client = session(&Arc::default(), options).await;
        client.ask("EHLO c.test", "250").await;
        let mut waits = Vec::new();
        for _ in 0..4 {
            let start = tokio::time::Instant::now();
            client.ask(begin, first).await;
            client.ask(proof, second).await;
            waits.push(start.elapsed().as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8], "{begin}");
    }
}

#[tokio::test]
async fn octets_behind_starttls_end_the_session_and_are_never_obeyed() {
    let book = Arc::default();
    let running = server(&book, options()).tls(certificate()).listen("127.0.0.1:0").start().await.unwrap();
    let mut client = Client(TcpStream::connect(running.addresses()[0]).await.unwrap());
    client.expect(&["220"]).await;
    client.ask("EHLO c.test", "250").await;
    client.send("STARTTLS\r\nMAIL FROM:<injected@x.test>\r\n").await;
    let rest = client.rest().await;
    assert!(!rest.contains("2.1.0"), "{rest}");
    assert_eq!(book.log(), [""; 0]);
}

#[tokio::test]
async fn implicit_tls_speaks_tls_from_the_first_octet() {
    let book = Arc::default();
    let running =
        server(&book, options()).tls(certificate()).listen_tls("127.0.0.1:0").start().await.unwrap();
    let mut client = tls(TcpStream::connect(running.addresses()[0]).await.unwrap()).await;
    client.expect(&["220 mx.test"]).await;
    let offer = client.ask("EHLO c.test", "250").await;
    assert!(!offer.contains("STARTTLS"), "{offer}");
    client.send(FLIGHT).await;
    client.expect(&["250", "250", "354"]).await;
    let body = format!("{}\r\n", "x".repeat(900)).repeat(2000);
    client.send(format!("{body}.\r\nQUIT\r\n")).await;
    client.expect(&["250", "221"]).await;
    assert_eq!(book.bodies()[0].as_ref().unwrap().len(), body.len());
    let refused = server(&book, options()).listen_tls("127.0.0.1:0").start().await;
    assert!(matches!(refused, Err(StartError::NoCertificate)));
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let mut options = options();
    options.tls_handshake = Duration::from_millis(50);
    let running =
        server(&Arc::default(), options).tls(certificate()).listen_tls("127.0.0.1:0").start().await.unwrap();
    let mut client = Client(TcpStream::connect(running.addresses()[0]).await.unwrap());
    assert_eq!(client.rest().await, "");
}
