//! Memory bars: what a thousand idle connections and a hundred thousand queued entries may cost.
//! Each is measured in a process of its own, as the system counts it (`VmHWM`, the most it ever was).
#![cfg(all(target_os = "linux", feature = "dns", feature = "disk"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod kit;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postroad::BoxFuture;
use postroad::clock::{Clock, Rng, SystemClock};
use postroad::delivery::{Engine, EngineOptions};
use postroad::hop::{Host, Require};
use postroad::message::MessageId;
use postroad::net::connect::TcpConnect;
use postroad::net::tls::{ClientTls, TlsOptions};
use postroad::net::{ClientOptions, Connection, Dialer, Quirks};
use postroad::route::{Resolve, Route, RouteError};
use postroad::smtp::Protocol;
use postroad::smtp::address::{Domain, EhloName, ForwardPath};
use postroad::smtp::params::Rcpt;
use postroad::spool::{DiskSpool, NewBody, NewMessage, QueueName, Spool, contract};

use kit::process::Program;

/// In KiB, as /proc has it.
const MEGABYTE: u64 = 1_000_000 / 1024;

/// A figure of `/proc/PID/status` in KiB.
fn memory(process: &str, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect(field);
    line.trim_matches([':', '\t', ' ']).split(' ').next().unwrap().parse().unwrap()
}

fn relay(spool: &Path) -> Program {
    let spool = spool.join("spool");
    Program::example(
        "relay",
        &["--listen", "127.0.0.1:0", "--spool", spool.to_str().unwrap(), "--relay-from", "127.0.0.0/8"],
    )
}

/// Connections that have said EHLO, and STARTTLS if that is asked for, and nothing since.
async fn idle(to: SocketAddr, count: usize, require: Require) -> Vec<Connection> {
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    let tls = ClientTls::new(trust, Arc::new(SystemClock)).unwrap();
    let options = ClientOptions::new(EhloName::new("client.test").unwrap());
    let dialer = Dialer::new(options, Arc::new(TcpConnect::new()), tls, Arc::new(SystemClock));
    let host = Arc::new(Host::new(Domain::parse(&format!("[{}]", to.ip())).unwrap(), to.port()));
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        open.push(dialer.open(&host, Protocol::Smtp, require, Quirks::default()).await.unwrap());
    }
    open
}

#[tokio::test]
async fn a_thousand_idle_connections_take_less_than_fifty_megabytes() {
    const CONNECTIONS: usize = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let relay = relay(dir.path());
    let before = memory(&relay.pid().to_string(), "VmHWM");
    let mut open = idle(relay.address(), CONNECTIONS, Require::Cleartext).await;
    let after = memory(&relay.pid().to_string(), "VmHWM");
    assert_eq!(open.iter_mut().map(Connection::is_alive).filter(|alive| *alive).count(), CONNECTIONS);
    eprintln!("{CONNECTIONS} idle connections: {after} KiB, {before} KiB before them");
    assert!(after < 50 * MEGABYTE, "{after} KiB");
}

#[tokio::test]
async fn idle_connections_under_tls_take_less_than_a_hundred_kilobytes_each() {
    const CONNECTIONS: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let relay = relay(dir.path());
    // The first handshake sets up what all share.
    let _first = idle(relay.address(), 1, Require::Opportunistic).await;
    let before = memory(&relay.pid().to_string(), "VmHWM");
    let mut open = idle(relay.address(), CONNECTIONS, Require::Opportunistic).await;
    let after = memory(&relay.pid().to_string(), "VmHWM");
    assert!(open.iter().all(|connection| connection.seen().tls.is_some()));
    assert_eq!(open.iter_mut().map(Connection::is_alive).filter(|alive| *alive).count(), CONNECTIONS);
    let each = (after - before) as f64 / CONNECTIONS as f64;
    eprintln!("{CONNECTIONS} idle connections under TLS: {each:.1} KiB each, {after} KiB in all");
    assert!(each < 100.0, "{each:.1} KiB each");
}

/// Where a process of its own finds its spool: set, the test is that process.
const SPOOL: &str = "POSTROAD_TEST_SPOOL";

#[test]
fn a_hundred_thousand_queued_entries_take_less_than_a_hundred_megabytes() {
    // Memory is measured in a process of its own, which runs this test and nothing else.
    if let Some(dir) = std::env::var_os(SPOOL) {
        return hold_a_hundred_thousand(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let this = "a_hundred_thousand_queued_entries_take_less_than_a_hundred_megabytes";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this, "--nocapture"])
        .env(SPOOL, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stderr).into_owned();
    assert!(child.status.success(), "{text}");
    let most: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("most: "))
        .expect("a line that says so")
        .parse()
        .unwrap();
    eprintln!("{text}");
    assert!(most < 100 * MEGABYTE, "{most} KiB");
}

/// Fills a spool, lets an engine go through it, and says on stderr what that took.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn hold_a_hundred_thousand(dir: &Path) {
    const ENTRIES: u64 = 100_000;
    const DESTINATIONS: u64 = 1_000;
    let spool = DiskSpool::open(dir).unwrap();
    let rng = Rng::seeded(1);
    let body = Bytes::from(vec![b'x'; 1024]);
    for batch in 0..ENTRIES / 500 {
        let batch = (0..500).map(|n| message(batch * 500 + n, DESTINATIONS, &rng, &body)).collect();
        spool.enqueue(batch, None).await.unwrap();
    }
    eprintln!("enqueued: {} KiB", memory("self", "VmHWM"));
    let engine = Engine::builder(Arc::new(spool) as Arc<dyn Spool>, EhloName::new("relay.test").unwrap())
        .direct(Lost)
        .options(EngineOptions::new())
        .start()
        .await
        .unwrap();
    // As when a relay comes up with a long queue: more than twice what an engine holds at once goes
    // through it.
    while engine.stats().deferred < ENTRIES / 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stats = engine.stats();
    assert_eq!(stats.spool.entries, ENTRIES);
    eprintln!("most: {}", memory("self", "VmHWM"));
    eprintln!("now: {} KiB, {} held", memory("self", "VmRSS"), stats.held);
}

fn message(number: u64, destinations: u64, rng: &Rng, body: &Bytes) -> NewMessage {
    let mut message = contract::sample(1);
    let now = SystemClock.now().wall;
    let domain = format!("d{}.test", number % destinations);
    message.id = MessageId::new(now, rng);
    message.body = NewBody::Inline(body.clone());
    message.accepted = now;
    message.expires = now.after(Duration::from_secs(86_400));
    let entry = &mut message.entries[0];
    entry.destination = Domain::parse(&domain).unwrap();
    entry.queue = QueueName::from(&entry.destination);
    entry.recipients = vec![Rcpt::new(ForwardPath::parse(&format!("r{number}@{domain}")).unwrap())];
    message
}

/// DNS is down.
#[derive(Debug)]
struct Lost;

impl Resolve for Lost {
    fn route<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(async { Err(RouteError::Dns) })
    }
}
