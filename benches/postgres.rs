//! What the PostgreSQL spool costs beside the statements it is made of: the same SQL by hand on as many
//! connections, from rows that are ready. 10 KiB a message.
//!
//! `cargo bench --features postgres --bench postgres` starts a private cluster. Where PostgreSQL is not
//! installed it says so and measures nothing. Both are run in turn, `ROUNDS` times (7), now one first and now the
//! other; the ratio is the median of the rounds', since others may be at work on the machine. The processor's
//! time, of this process and of the server with all that it started, does not depend on them. `CYCLES=300000 NAPTIME=1min` runs that many messages through a queue that is
//! nearly empty and prints what the tables have grown to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a benchmark fails by panicking, and reads the clock"
)]
#![allow(missing_docs, reason = "not a library")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use postroad::clock::{Clock, Rng, SystemClock, Timestamp};
use postroad::message::MessageId;
use postroad::spool::{
    ClaimRequest, Class, Durability, NewBody, NewMessage, PostgresOptions, PostgresSpool, QueueName, Spool,
    contract,
};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};
use tokio_postgres::{Client, NoTls};

#[path = "../tests/kit/postgres.rs"]
mod cluster;

use cluster::Cluster;

/// Enough for a second or so a run.
const MESSAGES: u64 = 8_192;

/// Entries in one claim, and settlements in one call.
const CLAIM: usize = 50;

/// Calls that wait for an answer at a time, for each node: with four writers, batches of 64, as by hand.
const PRODUCERS: u64 = 256;

fn main() {
    let Some(cluster) = Cluster::start() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        if let Some(cycles) = std::env::var("CYCLES").ok().and_then(|cycles| cycles.parse().ok()) {
            return grow(&cluster, cycles).await;
        }
        let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(7);
        let mut all: [Vec<[Cost; 2]>; 4] = Default::default();
        for round in 0..rounds {
            for (nodes, row) in [(1, 0), (2, 2)] {
                let (ours, by_hand) = if round % 2 == 0 {
                    let ours = spool(&cluster, nodes).await;
                    (ours, bare(&cluster, nodes).await)
                } else {
                    let by_hand = bare(&cluster, nodes).await;
                    (spool(&cluster, nodes).await, by_hand)
                };
                for part in 0..2 {
                    all[row + part].push([ours[part], by_hand[part]]);
                }
            }
        }
        println!("| median of {rounds} | messages/s, spool | bare SQL | ratio | CPU us/message, spool (of it ours) | bare SQL | ratio |");
        println!("|---|---|---|---|---|---|---|");
        let names =
            ["enqueue, 1 node", "claim + settle, 1 node", "enqueue, 2 nodes", "claim + settle, 2 nodes"];
        for (name, rounds) in names.iter().zip(all) {
            let of = |value: &dyn Fn(&[Cost; 2]) -> f64| median(rounds.iter().map(value).collect());
            println!(
                "| {name} | {:.0} | {:.0} | {:.2} | {:.0} ({:.0}) | {:.0} | {:.2} |",
                of(&|round| 1.0 / round[0].time),
                of(&|round| 1.0 / round[1].time),
                of(&|round| round[1].time / round[0].time),
                of(&|round| round[0].cpu * 1e6),
                of(&|round| round[0].own * 1e6),
                of(&|round| round[1].cpu * 1e6),
                of(&|round| round[1].cpu / round[0].cpu),
            );
        }
    });
}

/// What a message costs, in seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    time: f64,
    /// The processor's, of this process and the server.
    cpu: f64,
    /// Of this process.
    own: f64,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Since when something is measured.
struct Meter<'a> {
    cluster: &'a Cluster,
    began: Instant,
    own: f64,
    server: f64,
}

impl<'a> Meter<'a> {
    fn start(cluster: &'a Cluster) -> Self {
        let (own, server) = (own_seconds(), server_seconds(cluster.postmaster()));
        Self { cluster, began: Instant::now(), own, server }
    }

    fn each(self, messages: u64) -> Cost {
        let time = self.began.elapsed().as_secs_f64();
        let own = own_seconds() - self.own;
        let server = server_seconds(self.cluster.postmaster()) - self.server;
        let each = messages as f64;
        Cost { time: time / each, cpu: (own + server) / each, own: own / each }
    }
}

/// A process: its parent, and its time in ticks, with that of its children that have ended.
fn stat(pid: &str) -> Option<(u32, [f64; 4])> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // From field 3 on, behind the name: the parent is field 4, and the times are fields 14 to 17.
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let times: Vec<f64> = fields.get(11..15)?.iter().filter_map(|ticks| ticks.parse().ok()).collect();
    Some((fields.get(1)?.parse().ok()?, times.try_into().ok()?))
}

fn own_seconds() -> f64 {
    stat("self").map_or(0.0, |(_, [user, system, ..])| (user + system) / TICKS)
}

/// Of the server: what runs, and what has ended.
fn server_seconds(postmaster: u32) -> f64 {
    let mut sum = stat(&postmaster.to_string()).map_or(0.0, |(_, times)| times.iter().sum());
    for process in std::fs::read_dir("/proc").unwrap() {
        let name = process.unwrap().file_name();
        if let Some((parent, [user, system, ..])) = name.to_str().and_then(stat)
            && parent == postmaster
        {
            sum += user + system;
        }
    }
    sum / TICKS
}

/// Of `/proc`, on every Linux that there is.
const TICKS: f64 = 100.0;

fn options(cluster: &Cluster) -> PostgresOptions {
    let mut options = PostgresOptions::new();
    options.schema = cluster.schema();
    options
}

fn body() -> Bytes {
    let rng = Rng::seeded(1);
    (0..10_240 / 8).flat_map(|_| rng.bits().to_le_bytes()).collect()
}

fn message(rng: &Rng, body: &Bytes) -> NewMessage {
    let mut message = contract::sample(1);
    message.id = MessageId::new(SystemClock.now().wall, rng);
    message.body = NewBody::Inline(body.clone());
    message
}

fn rate(messages: u64, began: Instant) -> f64 {
    messages as f64 / began.elapsed().as_secs_f64()
}

/// Messages a second through the spool: enqueued one by one by many, then claimed, read and settled.
async fn spool(cluster: &Cluster, nodes: u64) -> [Cost; 2] {
    let (options, body, rng) = (options(cluster), body(), Rng::from_entropy());
    let mut spools = Vec::new();
    for _ in 0..nodes {
        spools.push(PostgresSpool::connect(&cluster.url(), options.clone()).await.unwrap());
    }
    let meter = Meter::start(cluster);
    let producers: Vec<_> = (0..PRODUCERS * nodes)
        .map(|n| {
            let (spool, body, rng) = (spools[(n % nodes) as usize].clone(), body.clone(), rng.clone());
            tokio::spawn(async move {
                for _ in 0..MESSAGES / PRODUCERS / nodes {
                    spool.enqueue(vec![message(&rng, &body)], None).await.unwrap();
                }
            })
        })
        .collect();
    for producer in producers {
        producer.await.unwrap();
    }
    let enqueued = meter.each(MESSAGES);
    let meter = Meter::start(cluster);
    let workers: Vec<_> = (0..4)
        .map(|n| {
            let spool = spools[n % spools.len()].clone();
            tokio::spawn(async move { drain(&spool).await })
        })
        .collect();
    let mut sum = 0;
    for worker in workers {
        sum += worker.await.unwrap();
    }
    assert_eq!(sum, MESSAGES);
    [enqueued, meter.each(MESSAGES)]
}

/// Claims, reads and settles until nothing is left.
async fn drain(spool: &PostgresSpool) -> u64 {
    let mut sum = 0;
    loop {
        let now = SystemClock.now().wall;
        let request = ClaimRequest {
            queue: QueueName::new("q.test"),
            class: Class::Normal,
            now,
            limit: CLAIM,
            lease: now.after(std::time::Duration::from_secs(600)),
        };
        let claims = spool.claim(request).await.unwrap();
        if claims.is_empty() {
            return sum;
        }
        for claim in &claims {
            assert_eq!(contract::octets(spool, &claim.body).await.unwrap().len(), 10_240);
        }
        sum += claims.len() as u64;
        let done = claims.iter().map(contract::remove).collect();
        assert_eq!(spool.settle(done, Durability::Soon).await.unwrap(), []);
    }
}

/// The 16 octets of an id.
#[derive(Debug, Clone, Copy)]
struct Id([u8; 16]);

impl ToSql for Id {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    tokio_postgres::types::accepts!(UUID);
    tokio_postgres::types::to_sql_checked!();
}

impl<'a> FromSql<'a> for Id {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.try_into()?))
    }

    tokio_postgres::types::accepts!(UUID);
}

/// The same by hand: the tables with the same indexes, batches of 64 on as many connections as a node stores
/// with, and the shortest statements that keep the books: message, entry, body; claim with a lease; delete.
async fn bare(cluster: &Cluster, nodes: u64) -> [Cost; 2] {
    let schema = cluster.schema();
    let mut options = PostgresOptions::new();
    options.schema = schema.clone();
    let storing = nodes as usize * options.connections / 2;
    // Makes the tables.
    PostgresSpool::connect(&cluster.url(), options).await.unwrap().close().await.unwrap();
    let body = body();
    let left = Arc::new(AtomicI64::new(MESSAGES as i64));
    let meter = Meter::start(cluster);
    let writers: Vec<_> = (0..storing)
        .map(|_| {
            let (url, schema, body, left) = (cluster.url(), schema.clone(), body.clone(), Arc::clone(&left));
            tokio::spawn(async move {
                let client = connect(&url, &schema).await;
                let insert = client.prepare(INSERT).await.unwrap();
                let rng = Rng::from_entropy();
                while left.fetch_sub(64, Ordering::Relaxed) > 0 {
                    let id = || Id(MessageId::new(SystemClock.now().wall, &rng).to_octets());
                    let ids: Vec<_> = (0..64).map(|_| id()).collect();
                    let bodies: Vec<&[u8]> = ids.iter().map(|_| &*body).collect();
                    client.execute(&insert, &[&ids, &bodies]).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let enqueued = meter.each(MESSAGES);
    let meter = Meter::start(cluster);
    let sum = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (url, schema, sum) = (cluster.url(), schema.clone(), Arc::clone(&sum));
            tokio::spawn(async move {
                let client = connect(&url, &schema).await;
                let claim = client.prepare(CLAIMED).await.unwrap();
                let read = client.prepare("SELECT octets FROM postroad_body WHERE body = $1").await.unwrap();
                let done = client.prepare(DONE).await.unwrap();
                loop {
                    let rows = client.query(&claim, &[&(CLAIM as i64)]).await.unwrap();
                    if rows.is_empty() {
                        return;
                    }
                    let ids: Vec<Id> = rows.iter().map(|row| row.get(0)).collect();
                    let numbers: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
                    for id in &ids {
                        let octets: Vec<u8> = client.query_one(&read, &[id]).await.unwrap().get(0);
                        assert_eq!(octets.len(), 10_240);
                    }
                    client.execute(&done, &[&ids, &numbers]).await.unwrap();
                    sum.fetch_add(ids.len() as u64, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let sum = sum.load(Ordering::Relaxed);
    assert_eq!(sum, MESSAGES);
    [enqueued, meter.each(MESSAGES)]
}

async fn connect(url: &str, schema: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let session = "SET jit = off; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
                   SET enable_hashjoin = off; SET enable_mergejoin = off";
    client.batch_execute(&format!("SET search_path TO \"{schema}\"; {session}")).await.unwrap();
    client
}

const INSERT: &str = "
WITH m AS (
  INSERT INTO postroad_message
    (id, body, sender, handling, tags, accepted, expires, size, entries, head)
  SELECT id, id, '<sender@s.test>', '', '{}', 1, 1000000, 10240, 1, 'Received: from c.test by s.test'
  FROM unnest($1::uuid[]) id
), b AS (
  INSERT INTO postroad_body SELECT id, 0, octets FROM unnest($1::uuid[], $2::bytea[]) b(id, octets)
)
INSERT INTO postroad_entry (message, entry, destination, queue, class, due, wake, recipients)
SELECT id, 0, 'q.test', 'q.test', 1, 0, 0, 'waiting <someone@q.test>' FROM unnest($1::uuid[]) id";

const CLAIMED: &str = "
WITH due AS (
  SELECT message, entry FROM postroad_entry
  WHERE queue = 'q.test' AND class = 1 AND parked IS NULL AND wake <= 1000
  ORDER BY wake, message, entry LIMIT $1 FOR UPDATE SKIP LOCKED
), taken AS (
  UPDATE postroad_entry e SET claim = nextval('postroad_claim'), wake = 9000000000000 FROM due
  WHERE e.message = due.message AND e.entry = due.entry
  RETURNING e.message, e.claim, e.destination, e.queue, e.due, e.attempts, e.recipients
)
SELECT t.message, t.claim, t.destination, t.queue, t.due, t.attempts, t.recipients,
  m.sender, m.handling, m.accepted, m.expires, m.head, m.size
FROM taken t JOIN postroad_message m ON m.id = t.message";

const DONE: &str = "
WITH e AS (
  DELETE FROM postroad_entry e USING unnest($1::uuid[], $2::bigint[]) d(id, claim)
  WHERE e.message = d.id AND e.entry = 0 AND e.claim = d.claim RETURNING e.message
), b AS (
  DELETE FROM postroad_body b USING e WHERE b.body = e.message
)
DELETE FROM postroad_message m USING e WHERE m.id = e.message";

/// How the tables grow when many messages go through them and few are there at a time.
async fn grow(cluster: &Cluster, cycles: u64) {
    let (mut options, rng) = (options(cluster), Rng::from_entropy());
    options.notify = None;
    options.vacuum = std::env::var_os("NO_VACUUM").is_none();
    let shell = connect(&cluster.url(), "public").await;
    let naptime = std::env::var("NAPTIME").unwrap_or_else(|_| "5s".to_owned());
    for set in [
        format!("ALTER SYSTEM SET autovacuum_naptime = '{naptime}'"),
        "ALTER SYSTEM SET autovacuum_vacuum_cost_limit = 2000".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        shell.batch_execute(&set).await.unwrap();
    }
    let spool = PostgresSpool::connect(&cluster.url(), options).await.unwrap();
    let body: Bytes = body().slice(..4_096);
    let (mut began, mut done, mut marked) = (Instant::now(), 0, 0);
    while done < cycles {
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let (spool, body, rng) = (spool.clone(), body.clone(), rng.clone());
                tokio::spawn(async move {
                    for _ in 0..64 {
                        let batch = (0..32).map(|_| message(&rng, &body)).collect();
                        let claims = spool.enqueue(batch, Some(Timestamp::NEVER)).await.unwrap().claims;
                        let settled = claims.iter().map(contract::remove).collect();
                        spool.settle(settled, Durability::Soon).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let before = done;
        done += 4 * 64 * 32;
        if done / 50_000 != before / 50_000 || done >= cycles {
            let health = spool.health().await.unwrap();
            println!(
                "{done} messages, the last {:.0} a second, tables {:.1} MB, {} dead rows (naptime {naptime})",
                rate(
                    done - std::mem::replace(&mut marked, done),
                    std::mem::replace(&mut began, Instant::now())
                ),
                health.size as f64 / 1e6,
                health.dead_rows
            );
        }
    }
}
