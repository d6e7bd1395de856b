//! What only the disk spool promises: it keeps, it is owned once, it can be read.

use postroad::clock::Timestamp;
use postroad::spool::contract::{octets, remove, sample};
use postroad::spool::{DiskSpool, Durability, Selection, Settlement, Spool, SpoolError, Stats, Then};

use super::help::{claim, shell, sized};

#[tokio::test]
async fn a_reopened_spool_has_kept_everything() {
    let dir = tempfile::tempdir().unwrap();
    for closed in [true, false] {
        let spool = DiskSpool::open(dir.path()).unwrap();
        spool.enqueue(vec![sample(1), sized(2, 600_000), sized(3, 0)], None).await.unwrap();
        let stats = spool.stats();
        // A claim is not kept, a retry is.
        let claims = claim(&spool, 2).await;
        let back = Settlement {
            recipients: claims[0].recipients.clone(),
            then: Then::Retry(Timestamp::from_millis(1)),
            ..remove(&claims[0])
        };
        spool.settle(vec![back], Durability::Synced).await.unwrap();
        if closed {
            spool.close().await.unwrap();
            assert!(!dir.path().join("spool.db-wal").exists(), "the log was put away");
        } else {
            drop(spool);
        }
        let spool = DiskSpool::open(dir.path()).unwrap();
        assert!(spool.was_clean());
        assert_eq!(spool.stats(), stats);
        assert_eq!(spool.queues(None, 9).await.unwrap()[0].entries, 3);
        let again = claim(&spool, 9).await;
        assert_eq!(again.len(), 3);
        assert_eq!(again.iter().map(|c| c.attempts).sum::<u32>(), 1);
        let large = again.iter().find(|c| c.body.size == 600_000).unwrap();
        assert_eq!(octets(&spool, &large.body).await.unwrap(), vec![2; 600_000]);
        // A token of the earlier opening is an old one.
        assert_eq!(
            spool.settle(vec![remove(&claims[1])], Durability::Soon).await.unwrap(),
            [claims[1].token]
        );
        spool.settle(again.iter().map(remove).collect(), Durability::Soon).await.unwrap();
        assert_eq!(spool.stats(), Stats::default());
    }
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert_eq!(spool.stats(), Stats::default());
}

#[tokio::test]
async fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert!(matches!(DiskSpool::open(dir.path()), Err(SpoolError::Locked)));
    let other = spool.clone();
    spool.close().await.unwrap();
    let again = DiskSpool::open(dir.path()).unwrap();
    assert!(matches!(other.enqueue(vec![sample(1)], None).await, Err(SpoolError::Closed)));
    assert!(matches!(other.flush().await, Err(SpoolError::Closed)));
    assert!(matches!(other.scan(Selection::all(), None, 1).await, Err(SpoolError::Closed)));
    assert!(matches!(other.close().await, Err(SpoolError::Closed)));
    drop(again);
    DiskSpool::open(dir.path()).unwrap();
}

#[tokio::test]
async fn a_person_can_read_a_stopped_spool() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let mut message = sample(1);
    message.accepted = Timestamp::from_millis(1_790_000_000_000);
    spool.enqueue(vec![message], None).await.unwrap();
    drop(spool);
    let shell = shell(dir.path());
    let text = |sql: &str| shell.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(text("SELECT id FROM mail"), sample(1).id.to_string());
    assert_eq!(text("SELECT sender FROM mail"), "<sender@s.test>");
    assert_eq!(text("SELECT recipients FROM mail"), "waiting <someone@q.test>");
    assert_eq!(text("SELECT accepted FROM mail"), "2026-09-21 14:13:20");
    assert_eq!(text("SELECT head FROM mail"), "Received: from c.test by s.test\r\n");
    assert_eq!(text("SELECT text FROM content"), "Subject: x\r\n\r\nHello.\r\n");
    assert_eq!(text("PRAGMA integrity_check"), "ok");
}

#[tokio::test]
async fn a_token_of_an_earlier_opening_is_an_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue(vec![sample(1)], None).await.unwrap();
    let old = claim(&spool, 1).await;
    drop(spool);
    let spool = DiskSpool::open(dir.path()).unwrap();
    let new = claim(&spool, 1).await;
    assert_eq!(spool.settle(vec![remove(&old[0])], Durability::Synced).await.unwrap(), [old[0].token]);
    assert_eq!(spool.settle(vec![remove(&new[0])], Durability::Synced).await.unwrap(), []);
}

#[tokio::test]
async fn dropping_the_spool_writes_what_was_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let claims = spool.enqueue(vec![sample(1), sample(2)], Some(Timestamp::NEVER)).await.unwrap().claims;
    {
        let mut call = spool.settle(vec![remove(&claims[0])], Durability::Soon);
        let waker = std::task::Waker::noop();
        assert!(call.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
    }
    drop(spool);
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert_eq!(spool.stats().messages, 1);
}

#[tokio::test]
async fn nothing_of_a_message_is_left_when_its_last_entry_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let lease = Some(Timestamp::NEVER);
    let two = |n| {
        let mut message = sized(n, 700);
        message.entries.push(message.entries[0].clone());
        message
    };
    // Claimed as it was stored, and later; of one entry and of several; with and without a body; in a file.
    let mut born = spool.enqueue(vec![sized(1, 900), two(2), sized(3, 0)], lease).await.unwrap().claims;
    born.extend(spool.enqueue(vec![sized(4, 100_000)], lease).await.unwrap().claims);
    spool.enqueue(vec![sized(5, 900), two(6), sized(7, 0)], None).await.unwrap();
    spool.enqueue(vec![sized(8, 100_000)], None).await.unwrap();
    born.extend(claim(&spool, 9).await);
    assert_eq!(born.len(), 10);
    let number = |sql: &str| -> i64 { shell(dir.path()).query_row(sql, [], |row| row.get(0)).unwrap() };
    let rows = || {
        let tables =
            ["message", "entry", "body"].map(|table| number(&format!("SELECT count(*) FROM {table}")));
        (tables, number("SELECT sum(live) FROM seg"))
    };
    assert_eq!(rows(), ([8, 10, 4], 2));
    for claim in &born {
        assert_eq!(spool.settle(vec![remove(claim)], Durability::Synced).await.unwrap(), []);
    }
    assert_eq!(rows(), ([0, 0, 0], 0));
    assert_eq!(spool.stats(), Stats::default());
}
