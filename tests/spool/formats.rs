//! Every format that was ever released can be read: from fixtures that are never edited.

use std::path::Path;

use postroad::clock::Timestamp;
use postroad::spool::contract::{octets, remove, sample};
use postroad::spool::{
    ClaimRequest, Class, DiskSpool, Durability, QueueName, RecipientState, Selection, Spool, SpoolError,
    Stats,
};

use super::help::{claim, shell};

const FIRST: &str = include_str!("../fixtures/spool-v1.sql");
const SECOND: &str = include_str!("../fixtures/spool-v2.sql");

fn all_of(queue: &QueueName) -> ClaimRequest {
    ClaimRequest {
        queue: queue.clone(),
        class: Class::Normal,
        now: Timestamp::from_millis(1 << 45),
        limit: 9,
        lease: Timestamp::NEVER,
    }
}

#[tokio::test]
async fn the_second_format_is_read_brought_up_to_date_and_can_be_emptied() {
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path()).execute_batch(SECOND).unwrap();
    // What is done to it is done once.
    for _ in 0..2 {
        let spool = DiskSpool::open(dir.path()).unwrap();
        assert_eq!((spool.stats().messages, spool.stats().entries, spool.stats().octets), (2, 4, 39));
        let all = spool.scan(Selection::all(), None, 9).await.unwrap();
        assert_eq!(all.iter().filter_map(|e| e.parked.as_deref()).collect::<Vec<_>>(), ["routing loop"]);
        assert!(all[0].handling.tls_optional && all[3].handling.uncounted);
        assert_eq!(all[0].handling.tenant.as_ref().map(|t| t.as_str()), Some("shop-7"));
        spool.close().await.unwrap();
    }
    let spool = DiskSpool::open(dir.path()).unwrap();
    let queues = spool.queues(None, 9).await.unwrap();
    assert!(queues.iter().map(|q| q.queue.as_str()).eq(["[127.0.0.1]", "mx.big.test:25", "q.test"]));
    let first = &spool.claim(all_of(&QueueName::new("q.test"))).await.unwrap()[0];
    assert_eq!(first.token.message, sample(1).id);
    assert_eq!(first.mail.to_string(), "<shop@example.com> BODY=8BITMIME RET=HDRS ENVID=order+2B1");
    assert_eq!((first.attempts, first.accepted.as_millis()), (1, 1_790_000_000_000));
    assert_eq!(first.recipients[0].rcpt.to_string(), "<ada@q.test> NOTIFY=FAILURE ORCPT=rfc822;Ada@q.test");
    assert_eq!(first.recipients[1].state, RecipientState::Delivered);
    assert_eq!(first.recipients[1].note.as_deref(), Some("250 2.0.0 ok\nqueued"));
    assert_eq!(octets(&spool, &first.body).await.unwrap(), "Subject: order\r\n\r\nHi!\r\n");
    let staged = shell(dir.path()).query_row("SELECT count(*) FROM body", [], |row| row.get::<_, i64>(0));
    assert_eq!(staged, Ok(2), "the body that no message names was collected");
    // New mail stands beside the old, and all of it can be settled.
    spool.enqueue(vec![sample(9)], None).await.unwrap();
    spool.settle(vec![remove(first)], Durability::Synced).await.unwrap();
    for queue in &queues {
        let claims = spool.claim(all_of(&queue.queue)).await.unwrap();
        spool.settle(claims.iter().map(remove).collect(), Durability::Synced).await.unwrap();
    }
    assert_eq!((spool.stats().messages, spool.stats().entries), (1, 1), "the one that is set aside");
    assert_ne!(spool.stats(), Stats::default());
    spool.close().await.unwrap();
}

#[tokio::test]
async fn prioritised_mail_of_an_old_format_is_found_in_its_class() {
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path()).execute_batch(SECOND).unwrap();
    // Three entries of one message, one of another, and a sender whose name looks like a priority.
    let copy = "INSERT INTO message SELECT 3, 'x', sender, accepted, expires, size, entries, head, seg, off, \
         len, crc, handling FROM message WHERE n = 2; \
         INSERT INTO entry SELECT e + (1 << 20), destination, 'third', due, 0, NULL, recipients FROM entry \
         WHERE e >> 20 = 2";
    shell(dir.path()).execute_batch(copy).unwrap();
    for (n, sender) in [
        (1, "<shop@example.com> BODY=8BITMIME MT-PRIORITY=4"),
        (2, "<> MT-PRIORITY=-3"),
        (3, "<\"x MT-PRIORITY=-1\"@example.com> RET=HDRS"),
    ] {
        let sql = "UPDATE message SET sender = ?2 WHERE n = ?1";
        assert_eq!(shell(dir.path()).execute(sql, rusqlite::params![n, sender]), Ok(1));
    }
    shell(dir.path()).execute("UPDATE entry SET parked = NULL", []).unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let queues = spool.queues(None, 9).await.unwrap();
    let classes: Vec<_> = queues.iter().map(|queue| (queue.queue.as_str(), queue.class)).collect();
    assert_eq!(
        classes,
        [
            ("[127.0.0.1]", Class::Urgent),
            ("loop.test", Class::Bulk),
            ("mx.big.test:25", Class::Urgent),
            ("q.test", Class::Urgent),
            ("third", Class::Normal),
        ]
    );
    for queue in &queues {
        let request = ClaimRequest { class: queue.class, ..all_of(&queue.queue) };
        for claim in spool.claim(request).await.unwrap() {
            assert_eq!(Class::of(&claim.mail), queue.class);
        }
    }
}

#[tokio::test]
async fn an_old_format_becomes_the_same_tables_as_a_new_spool_has() {
    // Whoever changes the tables of a version that was released raises it, and keeps these fixtures.
    let tables = |dir: &Path| -> Vec<String> {
        let shell = shell(dir);
        let mut sql = shell.prepare("SELECT sql FROM sqlite_schema WHERE sql NOTNULL ORDER BY name").unwrap();
        let sql = sql.query_map([], |row| row.get::<_, String>(0)).unwrap();
        sql.map(|sql| sql.unwrap().split_whitespace().collect()).collect()
    };
    let of = async |fixture| {
        let dir = tempfile::tempdir().unwrap();
        shell(dir.path()).execute_batch(fixture).unwrap();
        DiskSpool::open(dir.path()).unwrap().close().await.unwrap();
        tables(dir.path())
    };
    let new = of("").await;
    assert_eq!(of(FIRST).await, new);
    assert_eq!(of(SECOND).await, new);
}

#[tokio::test]
async fn a_format_that_is_not_understood_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    DiskSpool::open(dir.path()).unwrap().close().await.unwrap();
    shell(dir.path()).pragma_update(None, "user_version", 4).unwrap();
    let refused = DiskSpool::open(dir.path());
    assert!(matches!(refused, Err(SpoolError::Version { found: 4, supported: 3 })), "{refused:?}");
    // Somebody else's database, and no database at all.
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path()).execute_batch("CREATE TABLE other (x)").unwrap();
    assert!(matches!(DiskSpool::open(dir.path()), Err(SpoolError::Version { found: 0, .. })));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("spool.db"),
        "this is not a database, though it is long enough".repeat(99),
    )
    .unwrap();
    assert!(matches!(DiskSpool::open(dir.path()), Err(SpoolError::Corrupt)));
}

#[tokio::test]
async fn the_first_format_is_read_and_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path()).execute_batch(FIRST).unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert_eq!((spool.stats().messages, spool.stats().entries, spool.stats().octets), (2, 3, 39));
    let claims = claim(&spool, 9).await;
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].mail.to_string(), "<shop@example.com> BODY=8BITMIME ENVID=order+2B1");
    assert_eq!(claims[0].attempts, 2);
    assert_eq!(claims[0].recipients[1].note.as_deref(), Some("250 2.0.0 ok\nqueued"));
    assert_eq!(octets(&spool, &claims[0].body).await.unwrap(), "Subject: order\r\n\r\nHi!\r\n");
    let all = spool.scan(Selection::all(), None, 9).await.unwrap();
    assert_eq!(all.iter().filter_map(|e| e.parked.as_deref()).collect::<Vec<_>>(), ["routing loop"]);
    assert!(
        spool.queues(None, 9).await.unwrap().iter().map(|q| q.queue.as_str()).eq(["other.test", "q.test"])
    );
    spool.close().await.unwrap();
}
