//! What the storage itself gives: durable enqueue at several numbers of producers, through a `DiskSpool` and
//! beside it through the least that does the same: one thread, one SQLite database with the same rows and indexes
//! (bodies of this size are kept in it), groups without a timer. The last column is the one over the other.
//!
//! `cargo bench --bench bare`
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
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bytes::Bytes;
use postroad::clock::{Clock, Rng, SystemClock, Timestamp};
use postroad::message::MessageId;
use postroad::spool::{DiskSpool, NewBody, Spool, contract};
use rusqlite::{Connection, params};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const ROUNDS: usize = 3;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let rng = Rng::seeded(1);
    let body: Bytes = (0..10_240 / 8).flat_map(|_| rng.bits().to_le_bytes()).collect();
    println!("durable enqueue, 10 KiB, messages/s: median of {ROUNDS}, in turn");
    for producers in [1_u64, 16, 64, 256] {
        let messages = if producers == 1 { 1_000 } else { 12_800 };
        let (mut bare, mut spool) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare.push(with_bare(&runtime, producers, messages, &rng, &body));
            spool.push(with_spool(&runtime, producers, messages, &rng, &body));
        }
        bare.sort_by(f64::total_cmp);
        spool.sort_by(f64::total_cmp);
        let (bare, spool) = (bare[ROUNDS / 2], spool[ROUNDS / 2]);
        println!("  {producers:3} producers: bare {bare:7.0}, spool {spool:7.0}, {:.2}", spool / bare);
    }
}

fn with_spool(runtime: &Runtime, producers: u64, messages: u64, rng: &Rng, body: &Bytes) -> f64 {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let spool = Arc::new(DiskSpool::open(dir.path()).unwrap());
    run(runtime, producers, messages, || {
        let (spool, rng, body) = (Arc::clone(&spool), rng.clone(), body.clone());
        async move {
            let mut message = contract::sample(1);
            message.id = MessageId::new(SystemClock.now().wall, &rng);
            message.body = NewBody::Inline(body);
            drop(spool.enqueue(vec![message], Some(Timestamp::NEVER)).await.unwrap());
        }
    })
}

type Call = (String, Bytes, oneshot::Sender<()>);

fn with_bare(runtime: &Runtime, producers: u64, messages: u64, rng: &Rng, body: &Bytes) -> f64 {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (to, from) = mpsc::channel::<Call>();
    let path = dir.path().to_owned();
    let writer = std::thread::spawn(move || write(&path, &from));
    let rate = run(runtime, producers, messages, || {
        let (to, id, body) = (to.clone(), MessageId::new(SystemClock.now().wall, rng), body.clone());
        async move {
            let (done, stored) = oneshot::channel();
            to.send((id.to_string(), body, done)).unwrap();
            stored.await.unwrap();
        }
    });
    drop(to);
    writer.join().unwrap();
    rate
}

fn write(dir: &Path, from: &mpsc::Receiver<Call>) {
    let conn = Connection::open(dir.join("bare.db")).unwrap();
    conn.execute_batch(
        "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4096;
         CREATE TABLE message (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, meta BLOB NOT NULL);
         CREATE TABLE body (k INTEGER PRIMARY KEY, data BLOB NOT NULL);
         CREATE TABLE entry (e INTEGER PRIMARY KEY, queue TEXT NOT NULL, due INTEGER NOT NULL, recipients TEXT NOT NULL);
         CREATE INDEX entry_due ON entry (queue, due);",
    )
    .unwrap();
    let mut n = 0_i64;
    while let Ok(first) = from.recv() {
        let mut group = vec![first];
        while group.len() < 512
            && let Ok(more) = from.try_recv()
        {
            group.push(more);
        }
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        {
            let mut message = conn.prepare_cached("INSERT INTO message VALUES (?1, ?2, ?3)").unwrap();
            let mut store = conn.prepare_cached("INSERT INTO body VALUES (?1, ?2)").unwrap();
            let mut entry = conn.prepare_cached("INSERT INTO entry VALUES (?1, 'q.test', ?2, ?3)").unwrap();
            for (id, body, _) in &group {
                n += 1;
                message.execute(params![n, id, [0_u8; 100].as_slice()]).unwrap();
                store.execute(params![n, &body[..]]).unwrap();
                entry.execute(params![n, n, "waiting <someone@q.test>"]).unwrap();
            }
        }
        conn.execute_batch("COMMIT").unwrap();
        for (_, _, done) in group {
            let _ = done.send(());
        }
    }
}

/// Messages a second.
fn run<F: Future<Output = ()> + Send + 'static>(
    runtime: &Runtime,
    producers: u64,
    messages: u64,
    mut one: impl FnMut() -> F,
) -> f64 {
    let began = Instant::now();
    let work: Vec<Vec<F>> =
        (0..producers).map(|_| (0..messages / producers).map(|_| one()).collect()).collect();
    runtime.block_on(async {
        let tasks: Vec<_> = work
            .into_iter()
            .map(|calls| {
                tokio::spawn(async move {
                    for call in calls {
                        call.await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    messages as f64 / began.elapsed().as_secs_f64()
}
