//! What nodes, and host programs, do at the same time: keys, results, the log.

use std::time::{Duration, Instant};

use postroad::clock::{Clock, Rng, SystemClock, Timestamp};
use postroad::message::MessageId;
use postroad::smtp::address::Domain;
use postroad::spool::{
    ClaimRequest, Class, Durability, KeepLog, Key, NewEntry, NewMessage, PostgresOptions, PostgresSpool,
    QueueName, Spool, SpoolError, contract,
};
use tokio_postgres::{Client, NoTls};

use super::cluster::Cluster;
use super::options;

async fn shell(options: &PostgresOptions) -> Client {
    let cluster = Cluster::shared().unwrap();
    let (shell, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    shell.batch_execute(&format!("SET search_path TO \"{}\"", options.schema)).await.unwrap();
    shell
}

async fn node(options: &PostgresOptions) -> PostgresSpool {
    PostgresSpool::connect(&Cluster::shared().unwrap().url(), options.clone()).await.unwrap()
}

fn fresh(rng: &Rng) -> NewMessage {
    let mut message = contract::sample(1);
    message.id = MessageId::new(SystemClock.now().wall, rng);
    message
}

fn keyed(rng: &Rng, name: &str) -> NewMessage {
    let mut message = fresh(rng);
    message.key = Key::new(None, name, [1; 32], Timestamp::NEVER).ok();
    message
}

async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let wait = async {
        while !done().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect(what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_an_open_transaction_keeps_nobody_else_waiting() {
    let Some(cluster) = Cluster::shared() else { return };
    let options = options(cluster);
    let (spool, mut host, rng) = (node(&options).await, shell(&options).await, Rng::seeded(1));
    let open = host.transaction().await.unwrap();
    let insert = "INSERT INTO postroad_key VALUES ('', 'order', decode(repeat('01', 32), 'hex'), \
                  gen_random_uuid(), 9000000000000)";
    open.execute(insert, &[]).await.unwrap();
    let began = Instant::now();
    // More than there are writers.
    let blocked: Vec<_> = (0..6)
        .map(|_| {
            let (spool, message) = (spool.clone(), keyed(&rng, "order"));
            tokio::spawn(async move { spool.enqueue(vec![message], None).await })
        })
        .collect();
    for n in 0..20 {
        spool.enqueue(vec![fresh(&rng)], None).await.unwrap();
        let other = keyed(&rng, &format!("other {n}"));
        if n == 19 {
            // Other keys wait behind it for a moment, and are stored.
            spool.enqueue(vec![other], None).await.unwrap();
        }
    }
    for blocked in blocked {
        let error = blocked.await.unwrap().unwrap_err();
        let SpoolError::Storage(error) = error else { panic!("{error}") };
        assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy);
    }
    // Two at a time would be 6 s; the server's own limit for a lock is 30.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    open.commit().await.unwrap();
    let known = spool.enqueue(vec![keyed(&rng, "order")], None).await.unwrap().known;
    assert_eq!(known.len(), 1, "tried again, it is known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_mail_passes_what_waits_for_a_key() {
    let Some(cluster) = Cluster::shared() else { return };
    let options = options(cluster);
    let (spool, mut host, rng) = (node(&options).await, shell(&options).await, Rng::seeded(2));
    let open = host.transaction().await.unwrap();
    let insert = "INSERT INTO postroad_key VALUES ('', 'order', decode(repeat('01', 32), 'hex'), \
                  gen_random_uuid(), 9000000000000)";
    open.execute(insert, &[]).await.unwrap();
    let blocked: Vec<_> = (0..4)
        .map(|_| {
            let (spool, message) = (spool.clone(), keyed(&rng, "order"));
            tokio::spawn(async move { spool.enqueue(vec![message], None).await })
        })
        .collect();
    let watcher = shell(&options).await;
    until("one waits", || async {
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                     AND query LIKE '%' || $1 || '_.postroad_key%'";
        watcher.query_one(waits, &[&options.schema]).await.unwrap().get(0)
    })
    .await;
    for _ in 0..50 {
        spool.enqueue(vec![fresh(&rng)], None).await.unwrap();
    }
    assert!(blocked.iter().any(|blocked| !blocked.is_finished()), "they passed");
    open.rollback().await.unwrap();
    let mut stored = 0;
    for blocked in blocked {
        stored += usize::from(blocked.await.unwrap().is_ok());
    }
    assert!(stored > 0, "what waited was stored when the key was free");
}

#[tokio::test]
async fn a_key_that_is_forgotten_while_it_is_looked_up_is_stored_with_its_message() {
    let Some(cluster) = Cluster::shared() else { return };
    let options = options(cluster);
    let (spool, shell, rng) = (node(&options).await, shell(&options).await, Rng::seeded(3));
    let first = keyed(&rng, "order");
    spool.enqueue(vec![first], None).await.unwrap();
    // What pruning does at the one moment that matters, once: found when inserted, and gone when looked for.
    let schema = &options.schema;
    let forget = format!(
        "CREATE TABLE again (n integer); INSERT INTO again VALUES (1);
         CREATE FUNCTION \"{schema}\".forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF EXISTS (SELECT FROM \"{schema}\".again) THEN
             DELETE FROM \"{schema}\".again; DELETE FROM \"{schema}\".postroad_key;
           END IF; RETURN NULL; END $$;
         CREATE TRIGGER forget AFTER INSERT ON postroad_key FOR EACH STATEMENT EXECUTE FUNCTION forget()"
    );
    shell.batch_execute(&forget).await.unwrap();
    let second = keyed(&rng, "order");
    let id = second.id;
    assert_eq!(spool.enqueue(vec![second], None).await.unwrap().known, []);
    let known = spool.enqueue(vec![keyed(&rng, "order")], None).await.unwrap().known;
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].stored, id, "the key is the second message's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_have_an_end_though_two_nodes_settle_the_last_entries_at_once() {
    let Some(cluster) = Cluster::shared() else { return };
    let options = options(cluster);
    let (one, two, rng) = (node(&options).await, node(&options).await, Rng::seeded(4));
    let mut shell = shell(&options).await;
    let mut message = fresh(&rng);
    message.keep = Some(Duration::from_secs(60));
    let entry = NewEntry { destination: Domain::parse("d.test").unwrap(), ..message.entries[0].clone() };
    message.entries.push(entry);
    let id = message.id;
    one.enqueue(vec![message], None).await.unwrap();
    let at = Timestamp::from_millis;
    let queue = QueueName::new("q.test");
    let request = ClaimRequest { queue, class: Class::Normal, now: at(9), limit: 9, lease: at(1_000) };
    let claims = one.claim(request).await.unwrap();
    // Both are under way before either can end.
    let open = shell.transaction().await.unwrap();
    open.query("SELECT FROM postroad_message FOR UPDATE", &[]).await.unwrap();
    let settle = |spool: &PostgresSpool, n: usize| {
        let (spool, settlement) = (spool.clone(), contract::remove(&claims[n]));
        tokio::spawn(async move { spool.settle(vec![settlement], Durability::Synced).await })
    };
    let tasks = [settle(&one, 0), settle(&two, 1)];
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                   AND query LIKE '%' || $1 || '_.postroad_entry%'";
    until("both wait", || async {
        let row = open.query_one(waiting, &[&options.schema]).await.unwrap();
        row.get::<_, i64>(0) == 2
    })
    .await;
    open.commit().await.unwrap();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), []);
    }
    let left = shell.query_one("SELECT count(*) FROM postroad_message", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0, "gone with its last entry, whichever node settled that");
    let results = one.results(id).await.unwrap().unwrap();
    assert_eq!((results.recipients.len(), results.finished), (2, true));
    let until = results.until.expect("an end");
    let log = KeepLog::new();
    let before = at(until.as_millis() - 1);
    one.prune(before, log).await.unwrap();
    assert_eq!(one.results(id).await.unwrap().unwrap().recipients.len(), 2);
    one.prune(until, log).await.unwrap();
    assert_eq!(one.results(id).await.unwrap(), None);
    let left = shell.query_one("SELECT count(*) FROM postroad_result", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn results_are_not_forgotten_while_their_message_waits() {
    let Some(cluster) = Cluster::shared() else { return };
    let spool = node(&options(cluster)).await;
    // Longer than there is time, too.
    for (keep, n) in [(Duration::from_millis(1), 1), (Duration::MAX, 2)] {
        let mut message = contract::sample(n);
        message.keep = Some(keep);
        message.entries.push(message.entries[0].clone());
        spool.enqueue(vec![message], None).await.unwrap();
    }
    let log = KeepLog::new();
    let at = Timestamp::from_millis;
    let queue = QueueName::new("q.test");
    let request = ClaimRequest { queue, class: Class::Normal, now: at(9), limit: 9, lease: at(1_000) };
    let claims = spool.claim(request).await.unwrap();
    let firsts = claims.iter().filter(|claim| claim.token.entry == 0).map(contract::remove).collect();
    assert_eq!(spool.settle(firsts, Durability::Synced).await.unwrap(), []);
    let now = SystemClock.now().wall;
    spool.prune(now, log).await.unwrap();
    for n in [1, 2] {
        let results = spool.results(contract::sample(n).id).await.unwrap().unwrap();
        assert_eq!((results.recipients.len(), results.finished, results.until), (2, false, None));
    }
    let lasts = claims.iter().filter(|claim| claim.token.entry == 1).map(contract::remove).collect();
    assert_eq!(spool.settle(lasts, Durability::Synced).await.unwrap(), []);
    spool.prune(now, log).await.unwrap();
    assert_eq!(spool.results(contract::sample(1).id).await.unwrap(), None);
    assert!(spool.results(contract::sample(2).id).await.unwrap().unwrap().finished);
}
