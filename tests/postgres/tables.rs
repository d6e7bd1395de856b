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
    options.schema = "it's \"quoted\"; --".to_owned();
    let spool = PostgresSpool::connect(&cluster.url(), options).await.unwrap();
    spool.enqueue(vec![contract::sample(1)], None).await.unwrap();
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
    assert!(
        spool.claim(ClaimRequest { now: Timestamp::from_millis(2_000), ..request(9) }).await.unwrap().len()
            == 1
    );
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
    let write = |at: u32| {
        format!(
            "INSERT INTO postroad_log SELECT (pg_current_xact_id()::text::bigint << 20) \
             + (nextval('postroad_log_order') & 1048575), {at}, gen_random_uuid(), NULL, 'accepted', NULL, 0, NULL"
        )
    };
    shell.batch_execute("BEGIN").await.unwrap();
    shell.batch_execute(&write(1)).await.unwrap();
    other.batch_execute(&write(2)).await.unwrap();
    assert_eq!(spool.log(0, 9).await.unwrap(), [], "what comes later may come before");
    shell.batch_execute("COMMIT").await.unwrap();
    let found = async {
        loop {
            // Other tests' transactions count as well.
            let log = spool.log(0, 9).await.unwrap();
            if log.len() == 2 {
                return log;
            }
        }
    };
    let log = tokio::time::timeout(Duration::from_secs(20), found).await.unwrap();
    let at: Vec<_> = log.iter().map(|logged| logged.event.at.as_millis()).collect();
    assert_eq!(at, [1, 2]);
}
