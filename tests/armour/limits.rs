//! What one peer, and all of them together, may take: time, memory, and the benefit of the doubt.

use std::sync::Arc;
use std::time::Duration;

use postroad::smtp::server::AuthOffer;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::{Book, Client, FLIGHT, options, pipe, server};

/// The proxy through which strangers come to a server on loopback.
fn from(n: u8) -> String {
    format!("PROXY TCP4 203.0.113.{n} 198.51.100.9 4321 25\r\n")
}

#[tokio::test(start_paused = true)]
async fn from_the_tenth_mistake_on_each_reply_is_a_second_late() {
    let mut client = pipe(&Arc::default(), options(), "192.0.2.1");
    client.expect(&["220"]).await;
    let start = Instant::now();
    client.send("FROB\r\n".repeat(9)).await;
    client.expect(&["500"; 9]).await;
    assert_eq!(start.elapsed().as_secs(), 0);
    for (command, code, after) in
        [("FROB", "500", 1), ("NOOP", "250", 2), ("FROB\r\nNOOP\r\nFROB", "500", 4), ("FROB", "", 5)]
    {
        client.ask(command, code).await;
        assert_eq!(start.elapsed().as_secs(), after, "{command}");
        if after == 4 {
            client.expect(&["250", "500"]).await;
        }
    }
    // What is sent together is paid for together, the last words included.
    client.send("FROB\r\n".repeat(20)).await;
    assert!(client.rest().await.lines().last().unwrap().starts_with("421 4.7.0"));
    assert_eq!(start.elapsed().as_secs(), 12, "seven more until the twentieth");
}

#[tokio::test(start_paused = true)]
async fn a_tarpit_of_zero_is_none() {
    let mut options = options();
    options.tarpit = Duration::ZERO;
    let mut client = pipe(&Arc::default(), options, "192.0.2.1");
    client.expect(&["220"]).await;
    let start = Instant::now();
    client.send("FROB\r\n".repeat(40)).await;
    client.rest().await;
    assert_eq!(start.elapsed().as_secs(), 0);
}

#[tokio::test]
async fn shutdown_cuts_a_tarpit_short() {
    let mut options = options();
    options.tarpit = Duration::from_secs(3600);
    let running = server(&Arc::default(), options).listen("127.0.0.1:0").start().await.unwrap();
    let mut stuck = Client(TcpStream::connect(running.addresses()[0]).await.unwrap());
    stuck.expect(&["220"]).await;
    stuck.send("FROB\r\n".repeat(11)).await;
    let mut over = Client(TcpStream::connect(running.addresses()[0]).await.unwrap());
    over.expect(&["220"]).await;
    over.send("FROB\r\n".repeat(30)).await;
    // In the middle of a transaction, which it may finish.
    let mut inside = Client(TcpStream::connect(running.addresses()[0]).await.unwrap());
    inside.expect(&["220"]).await;
    inside.ask("EHLO c.test", "250").await;
    inside.ask("MAIL FROM:<>", "250").await;
    inside.send("FROB\r\n".repeat(11)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let shutdown = running.shutdown(Duration::from_secs(60));
    let finish = async {
        inside.expect(&["500"; 11]).await;
        inside.send("RSET\r\n").await;
        inside.expect(&["250", "421 4.3.2"]).await;
    };
    let (stats, replies, ..) =
        timeout(Duration::from_secs(20), async { tokio::join!(shutdown, stuck.rest(), over.rest(), finish) })
            .await
            .expect("nobody waits for an hour");
    assert_eq!(stats.open, 0);
    assert!(replies.lines().last().unwrap().starts_with("421 4.3.2"), "{replies}");
}

#[tokio::test]
async fn a_network_that_misbehaves_is_refused_for_a_while_and_others_are_not() {
    let mut options = options();
    options.proxy_from = vec!["127.0.0.0/8".parse().unwrap()];
    options.exempt = vec!["203.0.113.9".parse().unwrap()];
    options.session.auth = AuthOffer::Always;
    options.tarpit = Duration::ZERO;
    (options.max_refused_recipients, options.max_mistakes, options.max_failed_logins) = (3, 3, 3);
    options.max_connection_rate = 3;
    let running = server(&Arc::default(), options).listen("127.0.0.1:0").start().await.unwrap();
    let open = async |n| {
        let mut client = Client(TcpStream::connect(running.addresses()[0]).await.unwrap());
        client.send(from(n)).await;
        let reply = client.reply().await;
        (client, reply)
    };
    let refused = "RCPT TO:<no@y.test>\r\n".repeat(3);
    let later = "RCPT TO:<later@y.test>\r\n".repeat(9);
    let mail = "EHLO c.test\r\nMAIL FROM:<>\r\n";
    for (n, said, barred) in [
        (1, format!("{mail}{refused}"), true),
        (2, format!("{mail}{later}"), false),
        (3, "FROB\r\n".repeat(3), true),
        (4, "FROB\r\n".repeat(2), false),
        (5, format!("EHLO c.test\r\n{}", "AUTH PLAIN AGFkYQB3cm9uZw==\r\n".repeat(3)), true),
        // The exempt network.
        (9, "FROB\r\n".repeat(9), false),
    ] {
        let (mut client, greeting) = open(n).await;
        assert!(greeting.starts_with("220"), "{n}: {greeting}");
        client.send(format!("{said}QUIT\r\n")).await;
        let replies = client.rest().await;
        assert!(replies.contains("221 "), "the session goes on: {n}: {replies}");
        let (_, greeting) = open(n).await;
        assert_eq!(greeting.starts_with("421 4.7.0"), barred, "{n}: {greeting}");
    }
    let mut greetings = Vec::new();
    for _ in 0..4 {
        greetings.push(open(7).await.1[..3].to_owned());
    }
    assert_eq!(greetings, ["220", "220", "220", "421"], "more than the rate");
    for _ in 0..4 {
        assert!(open(9).await.1.starts_with("220"), "no rate for the exempt");
    }
}

/// One thread, so that it is known what runs at the same time.
#[tokio::test]
async fn bodies_in_flight_share_one_budget_and_no_more_begin_when_it_is_spent() {
    const BUDGET: usize = 300_000;
    const WINDOW: usize = 128 * 1024;
    const CLIENTS: usize = 12;
    let book = Arc::new(Book { hold: Some(Notify::new()), ..Book::default() });
    let mut options = options();
    options.max_body_memory = BUDGET;
    let running = server(&book, options).listen("127.0.0.1:0").start().await.unwrap();
    let address = running.addresses()[0];
    let body = format!("{}\r\n", "x".repeat(998)).repeat(1000);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client(TcpStream::connect(address).await.unwrap());
        client.expect(&["220"]).await;
        client.ask("EHLO c.test", "250").await;
        client.send(FLIGHT).await;
        client.expect(&["250", "250", "354"]).await;
        clients.push(client);
    }
    let mut late = Client(TcpStream::connect(address).await.unwrap());
    late.expect(&["220"]).await;
    late.ask("EHLO c.test", "250").await;
    let sending: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let body = body.clone();
            tokio::spawn(async move {
                client.send(format!("{body}.\r\n")).await;
                client.expect(&["250 2.0.0 taken"]).await;
            })
        })
        .collect();
    let mut most = 0;
    let mut look = || {
        most = most.max(running.stats().body_memory);
        most
    };
    while look() < BUDGET {
        tokio::task::yield_now().await;
    }
    // Everybody has had many turns to send more.
    for _ in 0..2000 {
        look();
        tokio::task::yield_now().await;
    }
    late.ask("MAIL FROM:<a@x.test>", "452 4.3.1").await;
    for _ in 0..CLIENTS {
        book.hold.as_ref().unwrap().notify_one();
        for _ in 0..100 {
            look();
            tokio::task::yield_now().await;
        }
    }
    // Each `notify_one` is for a handler that waits; those that began to wait later need theirs.
    while !sending.iter().all(tokio::task::JoinHandle::is_finished) {
        book.hold.as_ref().unwrap().notify_waiters();
        look();
        tokio::task::yield_now().await;
    }
    for sent in sending {
        sent.await.unwrap();
    }
    assert!(most <= BUDGET + WINDOW, "{most}");
    assert_eq!(running.stats().body_memory, 0, "all of it was given back");
    late.ask("MAIL FROM:<a@x.test>", "250").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_always_in_time_and_never_sends_a_message_is_let_go() {
    for step in ["NOOP", "RSET", "EHLO c.test", "MAIL FROM:<a@x.test>\r\nRSET"] {
        let mut client = pipe(&Arc::default(), options(), "192.0.2.1");
        client.expect(&["220"]).await;
        client.ask("EHLO c.test", "250").await;
        let start = Instant::now();
        let last = loop {
            client.send(format!("{step}\r\n")).await;
            match timeout(Duration::from_secs(250), async {
                loop {
                    let reply = client.reply().await;
                    if reply.starts_with("421") {
                        break reply;
                    }
                }
            })
            .await
            {
                Ok(reply) => break reply,
                Err(_) => assert!(start.elapsed() < Duration::from_secs(4000), "{step}"),
            }
        };
        assert!(last.starts_with("421 4.4.2"), "{step}: {last}");
        assert_eq!(start.elapsed().as_secs(), 3600, "{step}");
    }
}
