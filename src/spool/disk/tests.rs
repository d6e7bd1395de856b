use std::sync::atomic::Ordering;

use bytes::Bytes;
use rusqlite::Connection;

use super::schema::column;
use super::unlisted::Unlisted;
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
    let shell = Connection::open(dir.path().join(DATABASE)).unwrap();
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
fn who_gets_an_error_has_claimed_nothing() {
    let conn = Connection::open_in_memory().unwrap();
    let tables = "CREATE TABLE message (n INTEGER PRIMARY KEY, id, sender, handling, accepted, expires, head, octets,
           seg, entries, keep);
         CREATE TABLE entry (e INTEGER PRIMARY KEY, destination, queue, due, attempts, parked, recipients, class,
           mark, claimed);";
    conn.execute_batch(tables).unwrap();
    for n in 1..=3_u64 {
        let values = "INSERT INTO message VALUES (?1, ?2, '<>', '', 0, 9, x'', ?3, NULL, 1, NULL)";
        conn.execute(values, rusqlite::params![column(n), sample(n).id.to_string(), 7]).unwrap();
        let values = "INSERT INTO entry VALUES (?1 << 20, 'q.test', 'q.test', ?1, 0, NULL, 'waiting <a@q.test>', 1, NULL, 0)";
        conn.execute(values, [column(n)]).unwrap();
    }
    // Reading the third fails, as it does where a page of the file is broken: SQLite has no abs of this.
    conn.execute("UPDATE message SET octets = -9223372036854775808 WHERE n = 3", []).unwrap();
    conn.execute_batch(
        "ALTER TABLE message RENAME TO stored;
         CREATE VIEW message AS SELECT *, abs(octets) AS size FROM stored;",
    )
    .unwrap();
    let stock = schema::Stock {
        opened: 1,
        clean: true,
        next: 4,
        stats: Stats::default(),
        queues: vec![(QueueName::new("q.test"), Class::Normal, 3)],
    };
    let mut ledger = Ledger::new(&stock, Arc::default());
    let request = |limit| {
        let (queue, class) = (QueueName::new("q.test"), Class::Normal);
        ClaimRequest { queue, class, now: Timestamp::from_millis(9), limit, lease: Timestamp::NEVER }
    };
    let mut damaged = Vec::new();
    ledger.claim(&conn, &request(3), &mut damaged).unwrap_err();
    assert!((1..=3).all(|n| ledger.lease_of(n << 20).is_none()));
    assert_eq!(ledger.claim(&conn, &request(2), &mut damaged).unwrap().claims.len(), 2);
    assert!(damaged.is_empty());
}

#[tokio::test]
async fn what_cannot_be_set_aside_now_is_when_it_is_claimed_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue(vec![sample(1)], Some(Timestamp::from_millis(1))).await.unwrap();
    let shell = Connection::open(dir.path().join(DATABASE)).unwrap();
    shell.execute_batch("UPDATE entry SET recipients = 'x'; BEGIN IMMEDIATE").unwrap();
    let (queue, class) = (QueueName::new("q.test"), Class::Normal);
    let now = Timestamp::from_millis(1);
    let request = ClaimRequest { queue, class, now, limit: 9, lease: Timestamp::NEVER };
    assert!(spool.claim(request.clone()).await.unwrap().is_empty());
    // What comes with it or behind it fails too.
    assert!(matches!(spool.enqueue(vec![sample(2)], None).await, Err(SpoolError::Storage(_))));
    shell.execute_batch("ROLLBACK").unwrap();
    assert_eq!((spool.stats().parked, spool.set_aside().len()), (0, 0));
    assert!(spool.claim(request).await.unwrap().is_empty());
    spool.flush().await.unwrap();
    assert_eq!((spool.stats().parked, spool.set_aside().len()), (1, 1));
}

#[test]
fn a_ballast_that_is_not_wanted_any_more_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = DiskOptions::new();
    options.ballast_octets = 1 << 20;
    drop(DiskSpool::open_with(dir.path(), options).unwrap());
    let ballast = dir.path().join("ballast");
    assert!(ballast.exists());
    drop(DiskSpool::open(dir.path()).unwrap());
    assert!(!ballast.exists());
}

#[test]
fn a_look_at_another_queue_parses_nothing_again() {
    use rusqlite::StatementStatus;
    let dir = tempfile::tempdir().unwrap();
    let conn = schema::open_writer(&dir.path().join("spool.db"), &DiskOptions::new()).unwrap();
    for queue in ["a.test", "b.test"] {
        let mut due = conn.prepare_cached(unlisted::DUE).unwrap();
        assert!(due.query(rusqlite::params![queue, 1, i64::MAX]).unwrap().next().unwrap().is_none());
        assert_eq!(due.get_status(StatementStatus::RePrepare), 0);
    }
}

#[test]
fn what_changes_while_somebody_looks_is_seen_once() {
    let dir = tempfile::tempdir().unwrap();
    let conn = schema::open_writer(&dir.path().join("spool.db"), &DiskOptions::new()).unwrap();
    for n in 1..=2_u64 {
        let message = "INSERT INTO message (n, id, sender, accepted, expires, size, entries, head) \
             VALUES (?1, ?2, '<>', 0, 9, 0, 1, x'')";
        conn.execute(message, rusqlite::params![column(n), sample(n).id.to_string()]).unwrap();
        let entry = "INSERT INTO entry (e, destination, queue, due, recipients, claimed) \
             VALUES (?1 << 20, 'q.test', 'q.test', 0, 'waiting <a@q.test>', ?1 - 1)";
        conn.execute(entry, [column(n)]).unwrap();
    }
    let (which, unlisted) = (Selection::queue(QueueName::new("q.test")), Unlisted::default());
    let seen = || -> Vec<_> {
        let seen = select::summaries(&conn, &unlisted, &which, None, 9).unwrap();
        seen.into_iter().map(|entry| entry.message).collect()
    };
    // Neither had been in the index when its list was made.
    for n in [1, 2] {
        unlisted.lock().insert(n << 20, QueueName::new("q.test"), Class::Normal, Timestamp::default());
    }
    assert_eq!(seen(), [1, 2].map(|n| sample(n).id));
    conn.execute("UPDATE entry SET parked = 'x', claimed = 0", []).unwrap();
    assert_eq!(seen(), [1, 2].map(|n| sample(n).id));
}

#[tokio::test]
async fn the_log_that_a_killed_process_has_left_is_written_back_with_the_first_group() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = DiskOptions::new();
    options.wal_octets = u64::MAX;
    let spool = DiskSpool::open_with(dir.path(), options.clone()).unwrap();
    for n in 0..100 {
        spool.enqueue(vec![sample(n)], None).await.unwrap();
    }
    // It ends as it would by a kill: without a checkpoint.
    spool.handle.shared.break_commit.store(true, Ordering::Relaxed);
    assert!(spool.enqueue(vec![sample(100)], None).await.is_err());
    options.wal_octets = 1 << 20;
    let again = loop {
        match DiskSpool::open_with(dir.path(), options.clone()) {
            Err(SpoolError::Locked) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    again.enqueue(vec![sample(101)], None).await.unwrap();
    // The group is answered before the log is looked at; the next turn comes behind that.
    again.flush().await.unwrap();
    assert_eq!(again.counters().checkpoints, 1);
}
