//! What a long queue costs: the time to open the spool, memory, how much slower new mail gets, and orders that
//! look at all of it.
//!
//! `cargo bench --bench scale` fills a spool with 1,000,000 messages for 100,000 destinations under
//! `target/` (some 2 GB) and measures it in processes of their own. `SCALE_ENTRIES`,
//! `SCALE_DESTINATIONS` and `SCALE_FRESH` (new mail in each round) change the numbers.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark fails by panicking, and measures real time"
)]
#![allow(missing_docs, reason = "not a library")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use postroad::BoxFuture;
use postroad::attempt::{Accepted, Deliver, LocalItem, Outcome};
use postroad::clock::{Clock, Rng, SystemClock, Timestamp};
use postroad::delivery::{Engine, EngineOptions, NewMail};
use postroad::hop::{Host, Require};
use postroad::message::{Content, MessageId, Tenant};
use postroad::net::connect::{Connect, ConnectError, Opened};
use postroad::route::{Hosts, LocalId, Resolve, Route, RouteError};
use postroad::smtp::address::{Domain, EhloName, ForwardPath, ReversePath};
use postroad::smtp::params::{Mail, Rcpt};
use postroad::spool::{
    Alter, Change, DiskSpool, NewBody, NewMessage, QueueName, Selection, SetBack, Spool, contract,
};

fn main() {
    // Cargo's own arguments are of no use here.
    let phase = std::env::var("SCALE_PHASE").unwrap_or_default();
    let dir = std::env::var_os("SCALE_DIR").map(std::path::PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match (phase.as_str(), dir) {
        ("fill", Some(dir)) => runtime.block_on(fill(&dir, entries(), destinations())),
        ("dead", Some(dir)) => runtime.block_on(fill(&dir, entries() / 2, 1)),
        ("open", Some(dir)) => runtime.block_on(open(&dir)),
        ("die", Some(dir)) => runtime.block_on(die(&dir)),
        ("engine", Some(dir)) => runtime.block_on(engine(&dir)),
        ("fresh", Some(dir)) => runtime.block_on(fresh(&dir)),
        ("orders", Some(dir)) => runtime.block_on(orders(&dir)),
        _ => everything(),
    }
}

fn everything() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (full, empty, dead) = (dir.path().join("full"), dir.path().join("empty"), dir.path().join("dead"));
    println!("{} entries for {} destinations", entries(), destinations());
    phase("fill", &full);
    phase("open", &full);
    phase("die", &full);
    phase("open", &full);
    phase("engine", &full);
    for round in 0..3 {
        println!("round {round}: through an engine, empty spool, then behind the backlog");
        phase("fresh", &empty);
        phase("fresh", &full);
    }
    phase("orders", &full);
    drop(std::fs::remove_dir_all(full));
    println!("{} entries for one host that does not answer, all of them due", entries() / 2);
    phase("dead", &dead);
    phase("fresh", &dead);
}

fn phase(phase: &str, dir: &Path) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    assert!(child.env("SCALE_PHASE", phase).env("SCALE_DIR", dir).status().unwrap().success());
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn entries() -> u64 {
    number("SCALE_ENTRIES", 1_000_000)
}

fn destinations() -> u64 {
    number("SCALE_DESTINATIONS", 100_000)
}

/// In KiB.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches([':', '\t', ' ']).split(' ').next().unwrap().parse().unwrap()
}

fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    Duration::from_millis(
        fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum::<u64>() * 10,
    )
}

async fn fill(dir: &Path, entries: u64, destinations: u64) {
    let spool = DiskSpool::open(dir).unwrap();
    let began = Instant::now();
    let rng = Rng::seeded(1);
    let body = Bytes::from(vec![b'x'; 1024]);
    let due = if destinations == 1 { Duration::ZERO } else { Duration::from_secs(3600) };
    for batch in 0..entries / 500 {
        let batch = (0..500).map(|n| message(batch * 500 + n, destinations, due, &rng, &body)).collect();
        spool.enqueue(batch, None).await.unwrap();
    }
    spool.close().await.unwrap();
    println!("filled in {:.1} s", began.elapsed().as_secs_f64());
}

fn message(number: u64, destinations: u64, due: Duration, rng: &Rng, body: &Bytes) -> NewMessage {
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
    entry.due = now.after(due + Duration::from_millis(if due.is_zero() { 0 } else { number * 10 }));
    entry.recipients = vec![Rcpt::new(ForwardPath::parse(&format!("r{number}@{domain}")).unwrap())];
    message
}

/// Takes mail in that it claims at once, and ends as by kill -9.
async fn die(dir: &Path) {
    let spool = DiskSpool::open(dir).unwrap();
    let (rng, body) = (Rng::seeded(2), Bytes::from_static(b"x"));
    let due = Duration::from_secs(3600);
    let batch = (0..10_000).map(|n| message(n, destinations(), due, &rng, &body)).collect();
    let claims = spool.enqueue(batch, Some(Timestamp::NEVER)).await.unwrap().claims;
    println!("killed with {} claimed since they came", claims.len());
    std::process::exit(0);
}

async fn open(dir: &Path) {
    let began = Instant::now();
    let spool = DiskSpool::open(dir).unwrap();
    let opened = began.elapsed();
    println!(
        "opened in {:.2} s, {:.2} s of CPU: {:?}, {} KiB",
        opened.as_secs_f64(),
        cpu().as_secs_f64(),
        spool.stats(),
        memory("VmRSS")
    );
    let (mut after, mut queues, mut longest, began) = (None, 0, Duration::ZERO, Instant::now());
    loop {
        let at = Instant::now();
        let page = spool.queues(after, 1_000).await.unwrap();
        longest = longest.max(at.elapsed());
        queues += page.len();
        let Some(last) = page.last() else { break };
        after = Some((last.queue.clone(), last.class));
    }
    println!(
        "{queues} queues in pages of 1,000: {:.2} s, the longest page {:.1} ms; {} KiB",
        began.elapsed().as_secs_f64(),
        longest.as_secs_f64() * 1e3,
        memory("VmRSS")
    );
    spool.close().await.unwrap();
}

/// Where mail goes: fresh mail to a store that takes it at once, everything else nowhere.
#[derive(Debug)]
struct World;

impl Resolve for World {
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(async move {
            match destination.as_str() {
                "fresh.test" => Ok(Route::Local(LocalId::new("fresh"))),
                name => {
                    let host = Host::new(Domain::parse(&format!("mx.{name}")).unwrap(), 25);
                    Ok(Route::Hosts(Hosts::new(vec![host], Require::Opportunistic)))
                }
            }
        })
    }
}

impl Connect for World {
    fn connect<'a>(&'a self, _: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        Box::pin(async { Err(ConnectError::Refused) })
    }
}

impl Deliver for World {
    fn deliver<'a>(&'a self, item: &'a LocalItem, _: Content) -> BoxFuture<'a, Vec<Outcome>> {
        let outcomes = item.recipients.iter().map(|_| Outcome::Delivered(Accepted::locally())).collect();
        Box::pin(async move { outcomes })
    }
}

async fn start(dir: &Path) -> Engine {
    let spool: Arc<dyn Spool> = Arc::new(DiskSpool::open(dir).unwrap());
    Engine::builder(spool, EhloName::new("relay.test").unwrap())
        .direct(World)
        .connect(Arc::new(World))
        .local(LocalId::new("fresh"), Arc::new(World))
        .options(EngineOptions::new())
        .start()
        .await
        .unwrap()
}

async fn engine(dir: &Path) {
    let began = Instant::now();
    let engine = start(dir).await;
    let entries = engine.stats().spool.entries;
    println!("engine: started after {:.2} s, {} KiB", began.elapsed().as_secs_f64(), memory("VmRSS"));
    while engine.stats().queues < usize::try_from(destinations()).unwrap() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!(
        "engine: knows all queues after {:.2} s; {} KiB, {} KiB at the most: {:.0} octets an entry",
        began.elapsed().as_secs_f64(),
        memory("VmRSS"),
        memory("VmHWM"),
        memory("VmHWM") as f64 * 1024.0 / entries as f64
    );
    engine.shutdown(Duration::from_secs(5)).await;
}

async fn fresh(dir: &Path) {
    let engine = start(dir).await;
    // What is in the way is found out first, as it is for a relay that has been up for a while.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let body = Bytes::from(vec![b'x'; 10_240]);
    let mail = number("SCALE_FRESH", 20_000);
    let (began, used) = (Instant::now(), cpu());
    let before = engine.stats().delivered;
    let senders: Vec<_> = (0..64)
        .map(|_| {
            let (engine, body) = (engine.clone(), body.clone());
            tokio::spawn(async move {
                let mut took = Vec::new();
                for _ in 0..mail / 64 {
                    let at = Instant::now();
                    let mail = Mail::new(ReversePath::parse("shop@us.test").unwrap());
                    let rcpt = Rcpt::new(ForwardPath::parse("ada@fresh.test").unwrap());
                    let mail = NewMail::new(engine.new_id(), mail, vec![rcpt], NewBody::Inline(body.clone()));
                    engine.accept(mail).await.unwrap();
                    took.push(at.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for sender in senders {
        took.extend(sender.await.unwrap());
    }
    let sent = took.len() as u64;
    while engine.stats().delivered < before + sent {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let elapsed = began.elapsed();
    took.sort();
    println!(
        "  {:.0} messages/s accepted and delivered, {:.1} us CPU each; accepted in {:.1} ms (p50), {:.1} ms (p99)",
        sent as f64 / elapsed.as_secs_f64(),
        (cpu() - used).as_secs_f64() * 1e6 / sent as f64,
        took[took.len() / 2].as_secs_f64() * 1e3,
        took[took.len() * 99 / 100].as_secs_f64() * 1e3
    );
    engine.shutdown(Duration::from_secs(5)).await;
}

/// What orders cost that look at every entry, and how long new mail waits meanwhile.
async fn orders(dir: &Path) {
    let spool = Arc::new(DiskSpool::open(dir).unwrap());
    let now = SystemClock.now().wall;
    let nobody = Selection::tenant(Tenant::new("nobody").unwrap());
    order(&spool, "holding the mail of a tenant that has none", nobody, Change::Hold("".into()), now).await;
    let due = now.after(Duration::from_secs(40_000));
    order(&spool, "putting all off", Selection::all(), Change::Due(due), now).await;
    // As after an hour that was set back: all was accepted in what is the future now.
    let back = SetBack::new(Duration::from_secs(3_600), now.after(Duration::from_secs(90_000)), due);
    let before = Timestamp::from_millis(now.as_millis() - 7_200_000);
    order(&spool, "a clock that was set back", Selection::all(), Change::SetBack(back), before).await;
    Arc::into_inner(spool).unwrap().close().await.unwrap();
}

async fn order(spool: &Arc<DiskSpool>, what: &str, which: Selection, change: Change, now: Timestamp) {
    let (fresh, done) = (Arc::clone(spool), Arc::new(AtomicBool::new(false)));
    let is_done = Arc::clone(&done);
    let sender = tokio::spawn(async move {
        let (rng, body, mut took) = (Rng::seeded(2), Bytes::from(vec![b'x'; 1024]), Vec::new());
        while took.is_empty() || !is_done.load(Ordering::Relaxed) {
            let at = Instant::now();
            fresh.enqueue(vec![message(0, 1, Duration::ZERO, &rng, &body)], None).await.unwrap();
            took.push(at.elapsed());
        }
        took.sort();
        took
    });
    let (began, used, mut changed, mut after) = (Instant::now(), cpu(), 0, None);
    loop {
        let which = which.clone();
        let altered = spool.alter(Alter { which, change: change.clone(), now, after, limit: 1_000 }).await;
        let altered = altered.unwrap();
        (changed, after) = (changed + altered.changed, altered.next);
        if after.is_none() {
            break;
        }
    }
    let (elapsed, used) = (began.elapsed(), cpu() - used);
    done.store(true, Ordering::Relaxed);
    let took = sender.await.unwrap();
    println!(
        "{what}: {changed} changed, {:.1} s, {:.1} s CPU with {} new messages beside it, one after the other, in {:.1} ms (p50), {:.1} ms (p99), {:.1} ms (longest)",
        elapsed.as_secs_f64(),
        used.as_secs_f64(),
        took.len(),
        took[took.len() / 2].as_secs_f64() * 1e3,
        took[took.len() * 99 / 100].as_secs_f64() * 1e3,
        took.last().unwrap().as_secs_f64() * 1e3
    );
}
