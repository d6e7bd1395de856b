//! What durable mail costs: enqueue and settle, 10 KiB a message, at several numbers of producers.
//!
//! `cargo bench --bench spool` prints, besides the times, CPU per message and the size of a group
//! (Linux only); the times depend on the disk, the CPU hardly.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark fails by panicking"
)]
#![allow(missing_docs, reason = "not a library")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use postroad::clock::{Clock, Rng, SystemClock, Timestamp};
use postroad::message::MessageId;
use postroad::spool::{
    DiskSpool, Durability, MemorySpool, NewBody, NewMessage, QueueName, RecipientState, Spool, Tell, contract,
};
use tokio::runtime::Runtime;

/// Messages per sample: enough for a steady state with 64 producers, few enough for a minute in all.
const MESSAGES: u64 = 4_000;

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 16, 64], sample_count = 5, sample_size = 1)]
fn disk_enqueue_and_settle(bencher: divan::Bencher<'_, '_>, producers: u64) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let before = spool.counters();
    let cpu = cpu_ticks();
    let sent = run(bencher, Arc::new(spool.clone()), producers, true);
    let after = spool.counters();
    let group = (after.operations - before.operations) as f64 / (after.commits - before.commits) as f64;
    println!(
        "  {producers} producers, enqueue + settle: {:.1} us CPU a message, {group:.1} calls a commit, {} checkpoints",
        (cpu_ticks() - cpu) as f64 * 10_000.0 / sent as f64,
        after.checkpoints,
    );
}

#[divan::bench(args = [1, 16, 64], sample_count = 3, sample_size = 1)]
fn disk_enqueue(bencher: divan::Bencher<'_, '_>, producers: u64) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let cpu = cpu_ticks();
    let sent = run(bencher, Arc::new(spool), producers, false);
    println!(
        "  {producers} producers, enqueue: {:.1} us CPU a message",
        (cpu_ticks() - cpu) as f64 * 10_000.0 / sent as f64
    );
}

#[divan::bench(args = [64], sample_count = 5, sample_size = 1)]
fn memory_enqueue_and_settle(bencher: divan::Bencher<'_, '_>, producers: u64) {
    run(bencher, Arc::new(MemorySpool::new()), producers, true);
}

/// A message to so many destinations, of each of which its sender is to be told.
#[divan::bench(args = [1_000, 10_000], sample_count = 1, sample_size = 1)]
fn disk_tell(bencher: divan::Bencher<'_, '_>, destinations: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    bencher.counter(divan::counter::ItemsCount::new(destinations)).bench(|| {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        runtime.block_on(async {
            let spool = DiskSpool::open(dir.path()).unwrap();
            let mut message = contract::sample(1);
            message.entries = vec![message.entries[0].clone(); destinations];
            let claims = spool.enqueue(vec![message], Some(Timestamp::NEVER)).await.unwrap().claims;
            let cpu = cpu_ticks();
            // As they come in while a site or two are being found dead.
            for some in claims.chunks(20) {
                let settlements = some.iter().map(|claim| {
                    let mut settlement = contract::remove(claim);
                    let mut recipient = claim.recipients[0].clone();
                    recipient.state = RecipientState::Expired;
                    recipient.note = Some("could not be delivered in time; last: no host answered".into());
                    settlement.tell = Some(Tell {
                        queue: QueueName::new("reports"),
                        destination: claim.destination.clone(),
                        due: Timestamp::NEVER,
                        recipients: vec![recipient],
                    });
                    settlement
                });
                spool.settle(settlements.collect(), Durability::Synced).await.unwrap();
            }
            let cpu = (cpu_ticks() - cpu) as f64 * 10_000.0 / destinations as f64;
            println!("  {destinations} destinations told of: {cpu:.1} us CPU each");
        });
    });
}

/// Returns how many messages went through.
fn run(bencher: divan::Bencher<'_, '_>, spool: Arc<dyn Spool>, producers: u64, settle: bool) -> u64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let sent = AtomicU64::new(0);
    let rng = Rng::seeded(1);
    let body: Bytes = (0..10_240 / 8).flat_map(|_| rng.bits().to_le_bytes()).collect();
    bencher.counter(divan::counter::ItemsCount::new(MESSAGES)).bench(|| {
        sent.fetch_add(MESSAGES, Ordering::Relaxed);
        produce(&runtime, &spool, producers, settle, &rng, &body);
    });
    sent.into_inner()
}

fn produce(runtime: &Runtime, spool: &Arc<dyn Spool>, producers: u64, settle: bool, rng: &Rng, body: &Bytes) {
    runtime.block_on(async {
        let tasks: Vec<_> = (0..producers)
            .map(|_| {
                let (spool, rng, body) = (Arc::clone(spool), rng.clone(), body.clone());
                tokio::spawn(async move {
                    for _ in 0..MESSAGES / producers {
                        let claims = spool.enqueue(vec![message(&rng, &body)], Some(Timestamp::NEVER)).await;
                        let done: Vec<_> = claims.unwrap().claims.iter().map(contract::remove).collect();
                        if settle {
                            // As an engine does: the next message does not wait for it.
                            let spool = Arc::clone(&spool);
                            tokio::spawn(async move { spool.settle(done, Durability::Soon).await.unwrap() });
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        spool.flush().await.unwrap();
    });
}

fn message(rng: &Rng, body: &Bytes) -> NewMessage {
    let mut message = contract::sample(1);
    message.id = MessageId::new(SystemClock.now().wall, rng);
    message.body = NewBody::Inline(body.clone());
    message
}

/// User and system time of this process in hundredths of a second; 0 where that is not to be had.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}
