//! Those who do not read, or not in time.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_read_stalls_its_client() {
    let book = Book::holding();
    let mut client = session(&book, options()).await;
    client.send(format!("EHLO c.test\r\n{FLIGHT}")).await;
    client.expect(&["250", "250", "250", "354"]).await;
    let mut sent = 0;
    let line = [&[b'x'; 998][..], b"\r\n"].concat();
    while tokio::time::timeout(Duration::from_secs(200), client.send(&line)).await.is_ok() {
        sent += line.len();
        assert!(sent < MIB, "the server takes what nobody reads");
    }
    book.hold.as_ref().unwrap().1.notify_one();
    // The line that was being sent is there in part: end it and the message.
    client.send("\r\n.\r\n").await;
    client.expect(&["250"]).await;
    assert!(book.bodies()[0].as_ref().unwrap().len() >= sent);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_take_its_replies_is_let_go() {
    let (ours, theirs) = duplex(1024);
    let served =
        tokio::spawn(server(&Arc::default(), options()).serve_io(Box::new(theirs), peer("192.0.2.1")));
    let mut client = Client(ours);
    client.expect(&["220"]).await;
    let error = loop {
        if let Err(error) = client.0.write_all(b"NOOP\r\n").await {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_or_drips_is_told_so_and_let_go() {
    let bdat = FLIGHT.replace("DATA", "BDAT 100000");
    for (begin, drip, replies) in [
        ("", None, &["250"][..]),
        ("", Some("x"), &["250"]),
        (FLIGHT, None, &["250", "250", "250", "354"]),
        (FLIGHT, Some("x\r\n"), &["250", "250", "250", "354"]),
        (&bdat, Some("x"), &["250", "250", "250"]),
    ] {
        let book = Arc::default();
        let mut client = session(&book, options()).await;
        client.send(format!("EHLO c.test\r\n{begin}")).await;
        client.expect(replies).await;
        let start = tokio::time::Instant::now();
        let last = match drip {
            None => client.reply().await,
            Some(drip) => loop {
                let reply = tokio::time::timeout(Duration::from_secs(20), client.reply()).await;
                match reply {
                    Ok(reply) => break reply,
                    Err(_) => {
                        let _ = client.0.write_all(drip.as_bytes()).await;
                    }
                }
            },
        };
        assert!(last.starts_with("421 4.4.2"), "{begin:?} {drip:?}: {last}");
        assert!(start.elapsed() <= Duration::from_secs(3700), "{begin:?} {drip:?}: {:?}", start.elapsed());
        assert_eq!(client.reply().await, "(closed)");
    }
}
