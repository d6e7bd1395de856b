use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::spool::contract::{remove, sample};

#[tokio::test]
async fn a_failed_sync_is_answered_as_unknown_and_ends_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let claims = spool.enqueue(vec![sample(1)], Some(Timestamp::NEVER)).await.unwrap().claims;
    let mut body = spool.stage().await.unwrap();
    spool.handle.shared.break_commit.store(true, Ordering::Relaxed);
    let (enqueued, flushed) = tokio::join!(spool.enqueue(vec![sample(2)], None), spool.flush());
    assert!(matches!(enqueued, Err(SpoolError::Unknown(_))), "{enqueued:?}");
    assert!(matches!(flushed, Err(SpoolError::Unknown(_) | SpoolError::Poisoned)), "{flushed:?}");
    // Also when the cause is gone: what the disk holds is not known.
    spool.handle.shared.break_commit.store(false, Ordering::Relaxed);
    let request = ClaimRequest {
        queue: QueueName::new("q.test"),
        class: Class::Normal,
        now: Timestamp::NEVER,
        limit: 1,
        lease: Timestamp::NEVER,
    };
    assert!(matches!(spool.enqueue(vec![sample(3)], None).await, Err(SpoolError::Poisoned)));
    assert!(matches!(spool.claim(request.clone()).await, Err(SpoolError::Poisoned)));
    assert!(matches!(
        spool.settle(vec![remove(&claims[0])], Durability::Soon).await,
        Err(SpoolError::Poisoned)
    ));
    assert!(matches!(spool.body(&claims[0].body).await, Err(SpoolError::Poisoned)));
    assert!(matches!(body.write(Bytes::from_static(b"x")).await, Err(SpoolError::Poisoned)));
    assert!(matches!(spool.stage().await.err(), Some(SpoolError::Poisoned)));
    // Opened again, beside the broken handle, it has what was acknowledged before.
    let again = loop {
        match DiskSpool::open(dir.path()) {
            Err(SpoolError::Locked) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    assert!(!again.was_clean());
    assert_eq!(again.stats().messages, 1);
    assert_eq!(again.claim(request).await.unwrap()[0].token.message, sample(1).id);
    assert!(matches!(spool.close().await, Err(SpoolError::Poisoned)));
}

#[tokio::test]
async fn what_could_not_be_read_again_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let mut forged = sample(1);
    // Longer than the parameter may be, so that it would not be read again.
    forged.mail.envid = Some(crate::smtp::params::XText::new(&"x".repeat(101), 500).unwrap());
    assert!(matches!(spool.enqueue(vec![forged], None).await, Err(SpoolError::Invalid(_))));
}

#[tokio::test]
async fn a_shell_that_holds_the_lock_is_waited_for_once_and_not_once_per_call() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let shell = rusqlite::Connection::open(dir.path().join(DATABASE)).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = SystemClock.mono();
    let calls: Vec<_> = (0..50)
        .map(|n| {
            let spool = spool.clone();
            tokio::spawn(async move { spool.enqueue(vec![sample(n)], None).await })
        })
        .collect();
    for call in calls {
        assert!(matches!(call.await.unwrap(), Err(SpoolError::Storage(_))));
    }
    // Fifty waits of 200 ms would be ten seconds.
    assert!(SystemClock.mono() - began < Duration::from_secs(5));
    shell.execute_batch("ROLLBACK").unwrap();
    spool.enqueue(vec![sample(1)], None).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_still_lets_go_of_what_was_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = DiskOptions::new();
    options.ballast_octets = 1 << 20;
    let spool = DiskSpool::open_with(dir.path(), options).unwrap();
    let ballast = dir.path().join("ballast");
    assert_eq!(fs::metadata(&ballast).unwrap().len(), 1 << 20);
    let claims = spool.enqueue(vec![sample(1), sample(2)], Some(Timestamp::NEVER)).await.unwrap().claims;
    spool.handle.shared.fill_disk.store(true, Ordering::Relaxed);
    assert!(matches!(spool.enqueue(vec![sample(3)], None).await, Err(SpoolError::Full)));
    assert!(ballast.exists(), "not for new mail");
    let (settled, refused) = tokio::join!(
        spool.settle(vec![remove(&claims[0])], Durability::Synced),
        spool.enqueue(vec![sample(4)], None)
    );
    assert_eq!(settled.unwrap(), []);
    assert!(matches!(refused, Err(SpoolError::Full)), "{refused:?}");
    assert!(!ballast.exists());
    assert_eq!(spool.settle(vec![remove(&claims[1])], Durability::Synced).await.unwrap(), []);
    assert!(matches!(spool.enqueue(vec![sample(5)], None).await, Err(SpoolError::Full)));
    spool.handle.shared.fill_disk.store(false, Ordering::Relaxed);
    spool.enqueue(vec![sample(6)], None).await.unwrap();
    assert_eq!(fs::metadata(&ballast).unwrap().len(), 1 << 20);
    assert_eq!(spool.stats().messages, 1);
}

#[test]
fn a_look_at_another_queue_parses_nothing_again() {
    use rusqlite::StatementStatus;
    let dir = tempfile::tempdir().unwrap();
    let conn = schema::open_writer(&dir.path().join("spool.db"), &DiskOptions::new()).unwrap();
    for queue in ["a.test", "b.test"] {
        let mut due = conn.prepare_cached(ledger::DUE).unwrap();
        assert!(due.query(rusqlite::params![queue, 1, i64::MAX]).unwrap().next().unwrap().is_none());
        assert_eq!(due.get_status(StatementStatus::RePrepare), 0);
    }
}
