//! What outlives a message: it survives a crash, and is forgotten in steps.

use std::time::Duration;

use postroad::clock::Timestamp;
use postroad::spool::contract::{remove, sample};
use postroad::spool::{DiskSpool, Durability, KeepLog, Key, Known, LogEvent, LogKind, Spool};

use super::help::{claim, killed, shell};

#[tokio::test]
async fn what_is_remembered_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let remembered = |n: u64| {
        let mut message = sample(n);
        message.key = Key::new(None, "order-17", [1; 32], Timestamp::from_millis(9_000)).ok();
        message.keep = Some(Duration::from_secs(1));
        message.log = vec![LogEvent {
            at: Timestamp::from_millis(n),
            message: message.id,
            entry: None,
            kind: LogKind::Accepted,
            recipient: None,
            attempt: 0,
            note: None,
        }];
        message
    };
    spool.enqueue(vec![remembered(1)], None).await.unwrap();
    let accepted = killed(dir.path());
    spool.settle(claim(&spool, 9).await.iter().map(remove).collect(), Durability::Synced).await.unwrap();
    let settled = killed(dir.path());
    for (copy, waits) in [(accepted, 1), (settled, 0)] {
        let spool = DiskSpool::open(copy.path()).unwrap();
        assert!(!spool.was_clean());
        assert_eq!(spool.stats().messages, waits);
        let known = spool.enqueue(vec![remembered(2)], None).await.unwrap().known;
        assert_eq!(known, [Known { given: sample(2).id, stored: sample(1).id }]);
        let results = spool.results(sample(1).id).await.unwrap().unwrap();
        assert_eq!((results.recipients.len(), results.finished), (1, waits == 0));
        assert_eq!(spool.log(0, 9).await.unwrap().len(), 1);
        // Pruned whole and opened again, it gives no number again.
        let none = KeepLog::default();
        while spool.prune(Timestamp::NEVER, none).await.unwrap() {}
        spool.close().await.unwrap();
        let spool = DiskSpool::open(copy.path()).unwrap();
        let mut message = remembered(3);
        message.key = None;
        spool.enqueue(vec![message], None).await.unwrap();
        assert_eq!(spool.log(0, 9).await.unwrap().iter().map(|l| l.number).collect::<Vec<_>>(), [2]);
    }
}

#[tokio::test]
async fn old_memories_are_forgotten_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    shell(dir.path())
        .execute_batch(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1500)
             INSERT INTO key SELECT '', n, x'00', 'gone', n FROM n;
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1500)
             INSERT INTO result SELECT n, 0, '', n FROM n;
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1500)
             INSERT INTO log (at, message, kind, attempt) SELECT n, 'gone', 'accepted', 0 FROM n;",
        )
        .unwrap();
    let left = || -> (i64, i64, i64) {
        let count = |table| format!("(SELECT count(*) FROM {table})");
        let sql = format!("SELECT {}, {}, {}", count("key"), count("result"), count("log"));
        shell(dir.path()).query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
    };
    assert!(spool.prune(Timestamp::NEVER, KeepLog::default()).await.unwrap(), "there is more");
    assert_eq!(left(), (500, 500, 500));
    assert!(!spool.prune(Timestamp::NEVER, KeepLog::default()).await.unwrap());
    assert_eq!(left(), (0, 0, 0));
}
