//! The tables, as a person or another program meets them.

use std::time::Duration;

use postroad::clock::Timestamp;
use postroad::spool::{
    ClaimRequest, Class, NewBody, PostgresOptions, PostgresSpool, QueueName, Selection, Spool, SpoolError,
    contract,
};
use tokio_postgres::{Client, NoTls};

use super::cluster::Cluster;
use super::options;

/// A spool, and a person with a shell of the server's.
async fn with_shell() -> Option<(PostgresSpool, PostgresOptions, Client)> {
    let cluster = Cluster::shared()?;
    let options = options(cluster);
    let spool = PostgresSpool::connect(&cluster.url(), options.clone()).await.unwrap();
    let (shell, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    shell.batch_execute(&format!("SET search_path TO \"{}\"", options.schema)).await.unwrap();
    Some((spool, options, shell))
}

async fn count(shell: &Client, of: &str) -> i64 {
    shell.query_one(&format!("SELECT count(*) FROM {of}"), &[]).await.unwrap().get(0)
}

fn request(limit: usize) -> ClaimRequest {
    let at = Timestamp::from_millis;
    ClaimRequest {
        queue: QueueName::new("q.test"),
        class: Class::Normal,
        now: at(9),
        limit,
        lease: at(1_000),
    }
}

#[tokio::test]
async fn a_newer_version_of_the_tables_is_refused() {
    let Some((spool, options, shell)) = with_shell().await else { return };
    shell.execute("UPDATE postroad_meta SET value = 99 WHERE key = 'version'", &[]).await.unwrap();
    drop(spool);
    let error = PostgresSpool::connect(&Cluster::shared().unwrap().url(), options).await.unwrap_err();
    assert!(matches!(error, SpoolError::Version { found: 99, supported: 1 }), "{error}");
}

#[tokio::test]
async fn nodes_that_start_at_once_make_the_tables_once() {
    let Some(cluster) = Cluster::shared() else { return };
    let options = options(cluster);
    let url = cluster.url();
    let start = || PostgresSpool::connect(&url, options.clone());
    let (a, b, c, d) = tokio::join!(start(), start(), start(), start());
    for spool in [a, b, c, d] {
        spool.unwrap().enqueue(vec![contract::sample(1)], None).await.unwrap();
    }
}

#[tokio::test]
async fn names_that_can_be_no_schema_are_refused() {
    let Some(cluster) = Cluster::shared() else { return };
    for name in ["", "a\nb", &"x".repeat(49)] {
        let mut options = options(cluster);
        options.schema = name.to_owned();
        let error = PostgresSpool::connect(&cluster.url(), options).await.unwrap_err();
        assert!(matches!(error, SpoolError::Invalid(_)), "{error}");
    }
    let mut options = options(cluster);
    for name in ["it's \"quoted\"; --", "SCHEMA.", "'SCHEMA.x", "a\\'SCHEMA.SCHEMA.\"'", "$1 %s"] {
        options.schema = name.to_owned();
        let spool = PostgresSpool::connect(&cluster.url(), options.clone()).await.unwrap();
        spool.enqueue(vec![contract::sample(1)], None).await.unwrap();
        let claims = spool.claim(request(9)).await.unwrap();
        assert_eq!(claims.len(), 1, "{name}");
        let done = claims.iter().map(contract::remove).collect();
        assert_eq!(spool.settle(done, postroad::spool::Durability::Soon).await.unwrap(), []);
        assert!(spool.health().await.unwrap().size > 0);
    }
}

#[tokio::test]
async fn what_nobody_named_is_collected_by_the_next_to_open() {
    let Some((spool, options, shell)) = with_shell().await else { return };
    let mut writer = spool.stage().await.unwrap();
    writer.write(vec![7; 600_000].into()).await.unwrap();
    let staged = writer.finish().await.unwrap();
    // The node dies with it in its hands.
    std::mem::forget(staged);
    drop(spool);
    assert_eq!(count(&shell, "postroad_body").await, 3);
    let url = Cluster::shared().unwrap().url();
    let connect = || PostgresSpool::connect(&url, options.clone());
    connect().await.unwrap();
    assert_eq!(count(&shell, "postroad_body").await, 3, "it may still be on its way");
    shell.execute("UPDATE postroad_staged SET touched = touched - interval '25 hours'", &[]).await.unwrap();
    connect().await.unwrap();
    assert_eq!((count(&shell, "postroad_body").await, count(&shell, "postroad_staged").await), (0, 0));
}

#[tokio::test]
async fn a_staged_body_is_dropped_when_it_is_given_up_or_its_message_was_there() {
    let Some((spool, _, shell)) = with_shell().await else { return };
    let stage = async || {
        let mut writer = spool.stage().await.unwrap();
        writer.write(vec![7; 600_000].into()).await.unwrap();
        writer.finish().await.unwrap()
    };
    drop(stage().await);
    let mut message = contract::sample(1);
    message.body = NewBody::Staged(stage().await);
    spool.enqueue(vec![message], None).await.unwrap();
    let mut again = contract::sample(1);
    again.body = NewBody::Staged(stage().await);
    spool.enqueue(vec![again], None).await.unwrap();
    let dropped = async {
        while count(&shell, "postroad_body").await != 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dropped).await.unwrap();
    assert_eq!(count(&shell, "postroad_staged").await, 0);
    let claims = spool.claim(request(9)).await.unwrap();
    assert_eq!(contract::octets(&spool, &claims[0].body).await.unwrap(), vec![7; 600_000]);
    let done = claims.iter().map(contract::remove).collect();
    spool.settle(done, postroad::spool::Durability::Synced).await.unwrap();
    assert_eq!(count(&shell, "postroad_body").await, 0);
}

#[tokio::test]
async fn a_damaged_row_is_set_aside_and_hides_no_other() {
    let Some((spool, _, shell)) = with_shell().await else { return };
    spool.enqueue(vec![contract::sample(1), contract::sample(2)], None).await.unwrap();
    let damage = "UPDATE postroad_entry SET recipients = 'rubbish' \
                  WHERE message = (SELECT id FROM postroad_message ORDER BY id LIMIT 1)";
    assert_eq!(shell.execute(damage, &[]).await.unwrap(), 1);
    let claims = spool.claim(request(9)).await.unwrap();
    assert_eq!(claims.len(), 1);
    let parked: String = shell
        .query_one("SELECT parked FROM postroad_mail WHERE parked IS NOT NULL", &[])
        .await
        .unwrap()
        .get(0);
    assert!(parked.starts_with("damaged"), "{parked}");
    assert_eq!(spool.stats().parked, 1);
    let told = spool.set_aside();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].message, told[0].entry), (Some(contract::sample(1).id), 0));
    assert_eq!((told[0].queue.as_str(), &*told[0].reason), ("q.test", &*parked));
    assert_eq!(spool.set_aside(), [], "once");
    assert!(
        spool.claim(ClaimRequest { now: Timestamp::from_millis(2_000), ..request(9) }).await.unwrap().len()
            == 1
    );
}

#[tokio::test]
async fn an_entry_whose_message_is_gone_is_set_aside_and_not_claimed_for_ever() {
    let Some((spool, _, shell)) = with_shell().await else { return };
    spool.enqueue(vec![contract::sample(1), contract::sample(2)], None).await.unwrap();
    let delete =
        "DELETE FROM postroad_message WHERE id = (SELECT id FROM postroad_message ORDER BY id LIMIT 1)";
    assert_eq!(shell.execute(delete, &[]).await.unwrap(), 1);
    assert_eq!(spool.claim(request(9)).await.unwrap().len(), 1);
    assert_eq!(spool.set_aside().len(), 1);
    assert_eq!(count(&shell, "postroad_entry WHERE parked LIKE 'damaged%' AND claim IS NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_cannot_be_counted_is_opened_all_the_same() {
    let Some((spool, options, mut shell)) = with_shell().await else { return };
    let some = (1..=50).map(contract::sample).collect();
    spool.enqueue(some, None).await.unwrap();
    shell
        .batch_execute("ANALYZE postroad_message; ANALYZE postroad_entry; ANALYZE postroad_body")
        .await
        .unwrap();
    // As if it took for ever.
    let open = shell.transaction().await.unwrap();
    open.batch_execute("LOCK TABLE postroad_message IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let url = Cluster::shared().unwrap().url();
    let connect = PostgresSpool::connect(&url, options.clone());
    let other = tokio::time::timeout(Duration::from_secs(20), connect).await.expect("soon").unwrap();
    let stats = other.stats();
    assert_eq!((stats.messages, stats.entries), (50, 50), "what the server thinks");
    assert!(stats.octets > 0);
    open.rollback().await.unwrap();
    assert_eq!(other.claim(request(99)).await.unwrap().len(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_settled_is_cleaned_up_behind_though_autovacuum_does_not_come() {
    let Some((spool, _, shell)) = with_shell().await else { return };
    let off = "ALTER TABLE postroad_entry SET (autovacuum_enabled = off);
               ALTER TABLE postroad_message SET (autovacuum_enabled = off)";
    shell.batch_execute(off).await.unwrap();
    for batch in 0..80 {
        let batch = (0..128).map(|n| contract::sample(batch * 128 + n)).collect();
        let claims = spool.enqueue(batch, Some(Timestamp::NEVER)).await.unwrap().claims;
        let done = claims.iter().map(contract::remove).collect();
        assert_eq!(spool.settle(done, postroad::spool::Durability::Soon).await.unwrap(), []);
    }
    let cleaned = "pg_stat_user_tables WHERE relid IN ('postroad_entry'::regclass,
                   'postroad_message'::regclass, 'postroad_body'::regclass) AND vacuum_count > 0";
    let all = async {
        while count(&shell, cleaned).await < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("cleaned up");
}

/// Panics once when it is read, after as many times as said.
#[derive(Debug)]
struct Broken(std::sync::atomic::AtomicI64);

impl postroad::clock::Clock for Broken {
    fn now(&self) -> postroad::clock::Now {
        assert_ne!(self.0.fetch_sub(1, std::sync::atomic::Ordering::SeqCst), 0, "as the test has it");
        postroad::clock::SystemClock.now()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_panics_is_counted_no_more() {
    let Some(cluster) = Cluster::shared() else { return };
    let mut options = options(cluster);
    // One writer.
    options.connections = 3;
    let clock = std::sync::Arc::new(Broken((-1).into()));
    let spool = PostgresSpool::connect_by(&cluster.url(), options, clock.clone()).await.unwrap();
    spool.enqueue(vec![contract::sample(1)], None).await.unwrap();
    clock.0.store(0, std::sync::atomic::Ordering::SeqCst);
    let large = |n| {
        let mut message = contract::sample(n);
        message.body = NewBody::Inline(vec![b'x'; 5 << 20].into());
        message
    };
    // The second is too much for the same batch: somebody has to go on with it.
    let (one, two) = tokio::join!(spool.enqueue(vec![large(2)], None), spool.enqueue(vec![large(3)], None));
    let all = [one, two];
    assert_eq!(
        all.iter().filter(|answer| matches!(answer, Err(SpoolError::Unknown(_)))).count(),
        1,
        "{all:?}"
    );
    spool.enqueue(vec![contract::sample(4)], None).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), spool.flush())
        .await
        .expect("nobody is waited for")
        .unwrap();
    tokio::time::timeout(Duration::from_secs(20), spool.close())
        .await
        .expect("nobody is waited for")
        .unwrap();
}

#[tokio::test]
async fn a_body_that_was_tampered_with_is_noticed() {
    let Some((spool, _, shell)) = with_shell().await else { return };
    spool.enqueue(vec![contract::sample(1)], None).await.unwrap();
    let claims = spool.claim(request(9)).await.unwrap();
    shell.execute("UPDATE postroad_body SET octets = octets || 'x'", &[]).await.unwrap();
    assert!(matches!(spool.body(&claims[0].body).await, Err(SpoolError::Corrupt)));
    shell.execute("DELETE FROM postroad_body", &[]).await.unwrap();
    assert!(matches!(spool.body(&claims[0].body).await, Err(SpoolError::Corrupt)));
}

#[tokio::test]
async fn people_see_the_mail_and_health_tells_of_an_open_transaction() {
    let Some((spool, _, shell)) = with_shell().await else { return };
    let mut never = contract::sample(1);
    never.entries[0].due = Timestamp::NEVER;
    never.expires = Timestamp::NEVER;
    spool.enqueue(vec![never, contract::sample(2)], None).await.unwrap();
    assert_eq!(count(&shell, "postroad_mail WHERE due = 'infinity' AND NOT claimed").await, 1);
    assert_eq!(count(&shell, "postroad_mail WHERE head LIKE 'Received%'").await, 2);
    shell.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    spool.enqueue(vec![contract::sample(3)], None).await.unwrap();
    let health = spool.health().await.unwrap();
    assert!(health.oldest_snapshot > 0 && health.size > 0, "{health:?}");
    assert!(health.clock_off < Duration::from_secs(60), "{health:?}");
    assert_eq!(spool.scan(Selection::all(), None, 9).await.unwrap().len(), 3);
    spool.clone().close().await.unwrap();
    assert!(matches!(spool.enqueue(vec![contract::sample(4)], None).await, Err(SpoolError::Closed)));
    assert!(matches!(spool.clone().close().await, Err(SpoolError::Closed)));
}

#[tokio::test]
async fn the_log_waits_for_what_began_before() {
    let Some((spool, options, shell)) = with_shell().await else { return };
    let cluster = Cluster::shared().unwrap();
    let (other, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    other.batch_execute(&format!("SET search_path TO \"{}\"", options.schema)).await.unwrap();
    // What every writer does.
    let write = |at: u32| {
        format!(
            "SELECT pg_advisory_xact_lock_shared('postroad_log'::regclass::oid::integer, \
             ((last_value - (NOT is_called)::integer) & 2147483647)::integer) FROM postroad_log_number; \
             INSERT INTO postroad_log SELECT nextval('postroad_log_number'), {at}, gen_random_uuid(), NULL, \
             'accepted', NULL, 0, NULL"
        )
    };
    shell.batch_execute("BEGIN").await.unwrap();
    shell.batch_execute(&write(1)).await.unwrap();
    other.batch_execute(&write(2)).await.unwrap();
    assert_eq!(spool.log(0, 9).await.unwrap(), [], "what comes later may come before");
    shell.batch_execute("COMMIT").await.unwrap();
    let log = spool.log(0, 9).await.unwrap();
    let at: Vec<_> = log.iter().map(|logged| logged.event.at.as_millis()).collect();
    assert_eq!(at, [1, 2]);
}
