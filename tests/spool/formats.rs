//! Every format that was ever released can be read: from fixtures that are never edited.

use std::path::Path;

use postroad::clock::Timestamp;
use postroad::spool::contract::{octets, remove, sample};
use postroad::spool::{
    ClaimRequest, Class, DiskSpool, Durability, Key, QueueName, RecipientState, Selection, Spool, SpoolError,
    Stats,
};

use super::help::{claim, shell};

const FIRST: &str = include_str!("../fixtures/spool-v1.sql");
const SECOND: &str = include_str!("../fixtures/spool-v2.sql");
const THIRD: &str = include_str!("../fixtures/spool-v3.sql");

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
async fn the_third_format_is_read_brought_up_to_date_and_can_be_emptied() {
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path()).execute_batch(THIRD).unwrap();
    for _ in 0..2 {
        let spool = DiskSpool::open(dir.path()).unwrap();
        let stats = spool.stats();
        assert_eq!((stats.messages, stats.entries, stats.parked, stats.octets), (5, 7, 1, 111));
        spool.close().await.unwrap();
    }
    let spool = DiskSpool::open(dir.path()).unwrap();
    let queues = spool.queues(None, 9).await.unwrap();
    let found: Vec<_> = queues.iter().map(|q| (q.queue.as_str(), q.class, q.entries)).collect();
    assert_eq!(
        found,
        [
            ("mx.big.test:25", Class::Urgent, 1),
            ("q.test", Class::Urgent, 1),
            ("q.test", Class::Normal, 2),
            ("reports to senders", Class::Urgent, 1),
            ("reports to senders", Class::Normal, 1),
        ]
    );
    let urgent = ClaimRequest { class: Class::Urgent, ..all_of(&QueueName::new("q.test")) };
    let first = spool.claim(urgent).await.unwrap().remove(0);
    assert_eq!((first.token.message, first.attempts, first.due.as_millis()), (sample(1).id, 1, 7));
    assert_eq!(first.recipients[1].note.as_deref(), Some("250 2.0.0 ok\nqueued"));
    assert_eq!(first.handling.tenant.as_ref().map(|t| t.as_str()), Some("shop-7"));
    // What was noted of claims: of two one is held, one is cancelled.
    let noted = spool.claim(all_of(&QueueName::new("q.test"))).await.unwrap();
    assert_eq!(
        noted.iter().map(|c| (c.token.message, c.cancelled)).collect::<Vec<_>>(),
        [(sample(4).id, true)]
    );
    spool.flush().await.unwrap();
    assert_eq!(spool.stats().parked, 2);
    let told = spool.claim(all_of(&QueueName::new("reports to senders"))).await.unwrap().remove(0);
    let notes = told.recipients.iter().filter_map(|r| r.note.as_deref());
    assert_eq!(notes.collect::<Vec<_>>(), ["4.4.1 not yet", "and again"]);
    assert_eq!(octets(&spool, &told.body).await.unwrap(), "Subject: x\r\n\r\nHello.\r\n");
    // What outlives a message.
    let results = spool.results(sample(1).id).await.unwrap().unwrap();
    assert!(results.recipients.iter().any(|r| r.state == RecipientState::Failed) && !results.finished);
    assert_eq!(spool.log(0, 9).await.unwrap().len(), 1);
    let mut again = sample(9);
    again.key = Key::new(None, "order-17", [1; 32], Timestamp::NEVER).ok();
    assert_eq!(spool.enqueue(vec![again], None).await.unwrap().known[0].stored, sample(1).id);
    // New mail stands beside the old, and all of it can be settled.
    let born = spool.enqueue(vec![sample(10)], Some(Timestamp::NEVER)).await.unwrap().claims;
    let mut claims: Vec<_> = [first, told].into_iter().chain(noted).chain(born).collect();
    for queue in &queues {
        let request = ClaimRequest { class: queue.class, ..all_of(&queue.queue) };
        claims.extend(spool.claim(request).await.unwrap());
    }
    assert_eq!(spool.settle(claims.iter().map(remove).collect(), Durability::Synced).await.unwrap(), []);
    assert_eq!((spool.stats().entries, spool.stats().parked), (2, 2), "those that are set aside and held");
    spool.close().await.unwrap();
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
    assert_eq!(of(THIRD).await, new);
}

#[tokio::test]
async fn a_format_that_is_not_understood_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    DiskSpool::open(dir.path()).unwrap().close().await.unwrap();
    shell(dir.path()).pragma_update(None, "user_version", 5).unwrap();
    let refused = DiskSpool::open(dir.path());
    assert!(matches!(refused, Err(SpoolError::Version { found: 5, supported: 4 })), "{refused:?}");
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
