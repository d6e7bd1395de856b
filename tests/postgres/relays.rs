//! Real relays on one database, one of which stands still.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use super::cluster::Cluster;
use super::kit::process::{Program, wait_until};
use super::peer::{Peer, Talk};

/// What the peer has seen: which messages were ended, and on which connections.
type Ended = Arc<Mutex<Vec<(String, usize)>>>;

/// Where a message stands still.
#[derive(Clone)]
struct Stall {
    /// A part of it is there.
    begun: Arc<Semaphore>,
    /// The rest is read.
    go_on: Arc<Semaphore>,
    /// Its connection was broken off before its end.
    broken: Arc<Semaphore>,
}

/// A peer that takes everything, but stops reading in the middle of the first large message that it is sent.
fn peer(stall: Stall) -> (Peer, Ended) {
    let (ended, first) = (Ended::default(), Arc::new(Mutex::new(true)));
    let seen = Arc::clone(&ended);
    let socket = TcpSocket::new_v4().unwrap();
    // Little of it is on its way.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let peer = Peer::listening(socket.listen(64).unwrap(), move |mut talk: Talk| {
        let (stall, seen, first) = (stall.clone(), Arc::clone(&seen), Arc::clone(&first));
        async move {
            talk.open("PIPELINING").await?;
            loop {
                match &*talk.line().await? {
                    "DATA" => talk.say("354 go on").await,
                    "QUIT" => {
                        talk.say("221 bye").await;
                        return Some(());
                    }
                    _ => {
                        talk.say("250 ok").await;
                        continue;
                    }
                }
                let name = talk.until("Subject: ").await?.replace("Subject: ", "");
                if name == "large" && std::mem::take(&mut *first.lock().unwrap()) {
                    talk.until("x").await?;
                    stall.begun.add_permits(1);
                    stall.go_on.acquire().await.unwrap().forget();
                    if talk.until(".").await.is_none() {
                        stall.broken.add_permits(1);
                        return None;
                    }
                } else {
                    talk.until(".").await?;
                }
                seen.lock().unwrap().push((name, talk.number));
                talk.say("250 taken").await;
            }
        }
    });
    (peer, ended)
}

fn relay(cluster: &Cluster, next: &str) -> Program {
    let (spool, route) = (cluster.scheme_url(), format!("*={next}"));
    Program::example(
        "relay",
        &[
            "--listen",
            "127.0.0.1:0",
            "--hostname",
            "relay.test",
            "--relay-from",
            "127.0.0.0/8",
            "--tls-policy",
            "none",
            "--lease",
            "10s",
            "--spool",
            &spool,
            "--route",
            &route,
        ],
    )
}

/// Hands a message to a relay, which acknowledges it.
async fn submit(relay: &Program, name: &str, lines: usize) {
    let stream = BufReader::new(TcpStream::connect(relay.address()).await.unwrap());
    let mut stream = stream;
    let body = format!("Subject: {name}\r\n\r\n{}.\r\n", format!("{}\r\n", "x".repeat(78)).repeat(lines));
    let said =
        ["", "HELO c.test\r\n", "MAIL FROM:<a@a.test>\r\n", "RCPT TO:<b@b.test>\r\n", "DATA\r\n", &body];
    for (say, code) in said.iter().zip(["220", "250", "250", "250", "354", "250"]) {
        stream.write_all(say.as_bytes()).await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert!(line.starts_with(code), "{line}");
    }
}

fn signal(relay: &Program, signal: &str) {
    let pid = relay.pid().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_stopped_past_its_lease_and_then_continued_sends_nothing_twice() {
    let Some(cluster) = Cluster::start() else { return };
    let none = || Arc::new(Semaphore::new(0));
    let stall = Stall { begun: none(), go_on: none(), broken: none() };
    let (peer, ended) = peer(stall.clone());
    let next = format!("127.0.0.1:{}", peer.host("mx.test").port);
    let (one, two) = (relay(&cluster, &next), relay(&cluster, &next));
    // It takes up its delivery at once.
    submit(&one, "large", 100_000).await;
    let soon = |what: Arc<Semaphore>| async move {
        let permit = tokio::time::timeout(Duration::from_secs(60), what.acquire_owned()).await;
        permit.expect("in time").unwrap().forget();
    };
    soon(Arc::clone(&stall.begun)).await;
    signal(&one, "-STOP");
    submit(&two, "small", 1).await;
    let taken_over = || ended.lock().unwrap().iter().filter(|(name, _)| name == "large").count();
    tokio::task::block_in_place(|| wait_until("the other took it over", || taken_over() == 1));
    // What was on its way arrives, and then the one that was stopped goes on.
    stall.go_on.add_permits(1);
    signal(&one, "-CONT");
    soon(stall.broken).await;
    // It is a node as any other again.
    submit(&one, "last", 1).await;
    let all = || ended.lock().unwrap().len() >= 3;
    tokio::task::block_in_place(|| wait_until("all are there", all));
    for relay in [one, two] {
        let end = tokio::task::spawn_blocking(|| relay.terminate()).await.unwrap();
        assert_eq!(end.0, Some(0));
    }
    let mut names: Vec<_> = ended.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    assert_eq!(names, ["large", "last", "small"], "each once");
    let (shell, connection) = tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let left = shell.query_one("SELECT count(*) FROM postroad_message", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0, "all is settled");
}
