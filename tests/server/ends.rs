//! How connections end: for want of room, at a shutdown, by a panic.

use super::*;

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let mut options = options();
    options.max_connections = 2;
    let running = server(&Arc::default(), options).listen("127.0.0.1:0").start().await.unwrap();
    let address = running.addresses()[0];
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client(TcpStream::connect(address).await.unwrap());
        client.expect(&["220"]).await;
        clients.push(client);
    }
    let mut third = Client(TcpStream::connect(address).await.unwrap());
    third.expect(&["421 4.3.2"]).await;
    assert_eq!(third.reply().await, "(closed)");
    clients[0].ask("QUIT", "221").await;
    assert_eq!(clients[0].reply().await, "(closed)");
    drop(clients.remove(0));
    // The place is free as soon as the server has seen the connection end.
    loop {
        let mut next = Client(TcpStream::connect(address).await.unwrap());
        if next.reply().await.starts_with("220") {
            break;
        }
    }
    let stats = running.shutdown(Duration::from_secs(5)).await;
    assert!(stats.connections == 3 && stats.refused >= 1, "{stats:?}");
}

#[tokio::test]
async fn shutdown_finishes_what_is_in_flight_and_sends_the_idle_away() {
    let book = Book::holding();
    let running = server(&book, options()).listen("127.0.0.1:0").start().await.unwrap();
    let address = running.addresses()[0];
    let mut idle = Client(TcpStream::connect(address).await.unwrap());
    idle.expect(&["220"]).await;
    let mut busy = Client(TcpStream::connect(address).await.unwrap());
    busy.expect(&["220"]).await;
    busy.send(format!("EHLO c.test\r\n{FLIGHT}hello\r\n.\r\n")).await;
    busy.expect(&["250", "250", "250", "354"]).await;
    let (begun, leave) = book.hold.as_ref().unwrap();
    begun.notified().await;
    let shutdown = tokio::spawn(running.shutdown(Duration::from_secs(60)));
    idle.expect(&["421 4.3.2"]).await;
    assert_eq!(idle.reply().await, "(closed)");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    leave.notify_one();
    busy.expect(&["250 2.0.0 taken", "421 4.3.2"]).await;
    let stats = shutdown.await.unwrap();
    assert_eq!((stats.messages, stats.recipients, stats.octets, stats.open), (1, 1, 7, 0));
}

#[tokio::test]
async fn grace_has_an_end() {
    let book = Book::holding();
    let running = server(&book, options()).listen("127.0.0.1:0").start().await.unwrap();
    let mut client = Client(TcpStream::connect(running.addresses()[0]).await.unwrap());
    client.expect(&["220"]).await;
    client.send(format!("EHLO c.test\r\n{FLIGHT}hello\r\n.\r\n")).await;
    book.hold.as_ref().unwrap().0.notified().await;
    let stats = running.shutdown(Duration::from_millis(50)).await;
    assert_eq!((stats.messages, stats.open), (0, 0));
    assert!(!client.rest().await.contains("taken"));
}

#[tokio::test]
async fn a_panic_in_a_handler_ends_one_session_only() {
    let running = server(&Arc::default(), options()).listen("127.0.0.1:0").start().await.unwrap();
    let address = running.addresses()[0];
    let mut one = Client(TcpStream::connect(address).await.unwrap());
    let mut other = Client(TcpStream::connect(address).await.unwrap());
    one.expect(&["220"]).await;
    other.expect(&["220"]).await;
    one.send("EHLO c.test\r\nMAIL FROM:<panic@x.test>\r\n").await;
    one.rest().await;
    other.ask("EHLO c.test", "250").await;
    assert_eq!(running.stats().open, 1);
}

#[tokio::test]
async fn a_reload_closes_nothing_and_is_for_connections_made_after_it() {
    let book = Book::holding();
    let mut old = options();
    old.max_connections = 2;
    let running = server(&book, old.clone()).listen("127.0.0.1:0").start().await.unwrap();
    let address = running.addresses()[0];
    assert!(running.is_ready());
    let mut busy = Client(TcpStream::connect(address).await.unwrap());
    busy.expect(&["220"]).await;
    busy.send(format!("EHLO c.test\r\n{FLIGHT}hello\r\n.\r\n")).await;
    busy.expect(&["250", "250", "250", "354"]).await;
    let mut idle = Client(TcpStream::connect(address).await.unwrap());
    idle.expect(&["220 mx.test"]).await;
    assert!(!running.is_ready(), "the places are taken");
    let (begun, leave) = book.hold.as_ref().unwrap();
    begun.notified().await;

    let mut new = ServerOptions::new(EhloName::new("new.test").unwrap());
    new.session.max_message_size = 1000;
    (new.max_connections, new.max_per_network) = (4, 50);
    running.reload(new.clone());
    assert!(running.is_ready());
    let mut third = Client(TcpStream::connect(address).await.unwrap());
    third.expect(&["220 new.test"]).await;
    assert!(third.ask("EHLO c.test", "250").await.contains("SIZE 1000\r\n"));
    assert!(!idle.ask("EHLO c.test", "250").await.contains("SIZE 1000\r\n"), "it began under other options");
    leave.notify_one();
    busy.expect(&["250 2.0.0 taken"]).await;

    // What is open counts under the new limits too.
    new.max_connections = 3;
    running.reload(new);
    let mut fourth = Client(TcpStream::connect(address).await.unwrap());
    fourth.expect(&["421 4.3.2"]).await;
    let stats = running.shutdown(Duration::from_secs(5)).await;
    assert_eq!((stats.connections, stats.messages, stats.refused), (3, 1, 1));
}
