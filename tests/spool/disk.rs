//! What only the disk spool promises: it keeps, it is owned once, it can be read, it fills up.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postroad::clock::Timestamp;
use postroad::spool::contract::{octets, remove, sample};
use postroad::spool::{
    Claim, ClaimRequest, Class, DiskOptions, DiskSpool, Durability, KeepLog, Key, Known, LogEvent, LogKind,
    NewBody, NewMessage, QueueName, Selection, Settlement, Spool, SpoolError, Staged, Stats, Then,
};
use rusqlite::Connection;

fn sized(n: u64, size: usize) -> NewMessage {
    let mut message = sample(n);
    message.body = NewBody::Inline(vec![u8::try_from(n % 251).unwrap(); size].into());
    message
}

async fn claim(spool: &DiskSpool, limit: usize) -> Vec<Claim> {
    let (now, lease) = (Timestamp::from_millis(1), Timestamp::from_millis(1000));
    spool
        .claim(ClaimRequest { queue: QueueName::new("q.test"), class: Class::Normal, now, limit, lease })
        .await
        .unwrap()
}

fn shell(dir: &Path) -> Connection {
    Connection::open(dir.join("spool.db")).unwrap()
}

/// The files with bodies, and their sizes.
fn files(dir: &Path) -> Vec<(String, u64)> {
    let files = std::fs::read_dir(dir.join("seg")).unwrap().map(Result::unwrap);
    files.map(|f| (f.file_name().into_string().unwrap(), f.metadata().unwrap().len())).collect()
}

/// A shell that holds the write lock until it is dropped, so that calls gather in front of the writer.
fn holding(dir: &Path) -> Connection {
    let shell = shell(dir);
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    shell
}

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
    shell(dir.path()).execute_batch(include_str!("../fixtures/spool-v1.sql")).unwrap();
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
    // Whoever changes the tables must raise the version and keep this fixture.
    let tables = |dir: &Path| -> Vec<String> {
        let shell = shell(dir);
        let mut sql = shell.prepare("SELECT sql FROM sqlite_schema WHERE sql NOTNULL ORDER BY name").unwrap();
        let sql = sql.query_map([], |row| row.get::<_, String>(0)).unwrap();
        sql.map(|sql| sql.unwrap().split_whitespace().collect()).collect()
    };
    let fresh = tempfile::tempdir().unwrap();
    DiskSpool::open(fresh.path()).unwrap().close().await.unwrap();
    assert_eq!(tables(dir.path()), tables(fresh.path()));
}

#[tokio::test]
async fn a_damaged_row_is_set_aside_and_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue((1..=6).map(sample).collect(), None).await.unwrap();
    spool.close().await.unwrap();
    let damage = shell(dir.path());
    for (n, sql) in [
        (1, "UPDATE message SET sender = 'nonsense' WHERE n = "),
        (2, "UPDATE entry SET recipients = 'waiting <a@b' WHERE e >> 20 = "),
        (3, "UPDATE entry SET destination = '' WHERE e >> 20 = "),
        (4, "UPDATE message SET id = 'x' WHERE n = "),
    ] {
        assert_eq!(damage.execute(&format!("{sql}{n}"), []).unwrap(), 1);
    }
    damage.execute("DELETE FROM body WHERE k >> 20 = 5", []).unwrap();
    drop(damage);
    let spool = DiskSpool::open(dir.path()).unwrap();
    let claims = claim(&spool, 1).await;
    assert_eq!(claims[0].token.message, sample(5).id);
    assert!(octets(&spool, &claims[0].body).await.is_err(), "a lost body is noticed");
    assert_eq!(claim(&spool, 9).await[0].token.message, sample(6).id);
    spool.flush().await.unwrap();
    let queue = &spool.queues(None, 9).await.unwrap()[0];
    assert_eq!(queue.entries, 2, "they do not count as waiting");
    assert_eq!(spool.stats().entries, 6);
    let aside: i64 = shell(dir.path())
        .query_row("SELECT count(*) FROM mail WHERE parked LIKE 'damaged%'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(aside, 4);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_share_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    // Callers that come while the writer is busy share the next transaction.
    let hold = holding(dir.path());
    let callers: Vec<_> = (0..200_u64)
        .map(|n| {
            let spool = spool.clone();
            tokio::spawn(async move { spool.enqueue(vec![sized(n, 1000)], None).await })
        })
        .collect();
    tokio::task::yield_now().await;
    drop(hold);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    let counters = spool.counters();
    assert_eq!(counters.operations, 200);
    assert!(counters.commits <= 50, "{counters:?}");
    assert_eq!(spool.stats().messages, 200);
}

#[tokio::test]
async fn a_settlement_that_may_wait_is_written_without_others() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let lease = Some(Timestamp::NEVER);
    let claims = spool.enqueue(vec![sample(1), sample(2)], lease).await.unwrap().claims;
    let before = spool.counters().commits;
    let (first, second) = tokio::join!(
        spool.settle(vec![remove(&claims[0])], Durability::Soon),
        spool.settle(vec![remove(&claims[1])], Durability::Soon),
    );
    assert_eq!((first.unwrap(), second.unwrap()), (vec![], vec![]));
    assert_eq!(spool.counters().commits, before + 1);
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
async fn a_flush_covers_more_than_one_group() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let lease = Some(Timestamp::NEVER);
    let claims = spool.enqueue((0..1200).map(sample).collect(), lease).await.unwrap().claims;
    let hold = holding(dir.path());
    for claim in &claims {
        // Handed over, and nobody waits for it.
        let mut call = spool.settle(vec![remove(claim)], Durability::Soon);
        let waker = std::task::Waker::noop();
        assert!(call.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
    }
    let release = async { drop(hold) };
    let (flushed, ()) = tokio::join!(spool.flush(), release);
    flushed.unwrap();
    assert_eq!(spool.stats(), Stats::default());
}

#[tokio::test]
async fn one_wrong_call_does_not_fail_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let mut writer = spool.stage().await.unwrap();
    writer.write(Bytes::from_static(b"once")).await.unwrap();
    let staged = writer.finish().await.unwrap();
    let forged = Staged { number: staged.number, size: staged.size, guard: None };
    let (mut right, mut wrong) = (sample(1), sample(2));
    right.body = NewBody::Staged(staged);
    wrong.body = NewBody::Staged(forged);
    let hold = holding(dir.path());
    let release = async {
        tokio::task::yield_now().await;
        drop(hold);
    };
    let (a, b, c, ()) = tokio::join!(
        spool.enqueue(vec![right], None),
        spool.enqueue(vec![wrong, sample(3)], None),
        spool.enqueue(vec![sample(4)], None),
        release
    );
    assert!(a.is_ok() && c.is_ok());
    assert!(matches!(b, Err(SpoolError::Storage(_))), "{b:?}");
    assert_eq!(spool.stats().messages, 2, "the wrong call stored nothing at all");
    assert_eq!(claim(&spool, 9).await.len(), 2);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_lets_old_mail_finish() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = DiskOptions::new();
    options.queue_operations = 4;
    options.queue_octets = 100_000;
    let spool = DiskSpool::open_with(dir.path(), options).unwrap();
    let claims = spool.enqueue(vec![sample(100)], Some(Timestamp::NEVER)).await.unwrap().claims;
    assert!(matches!(spool.enqueue(vec![sized(1, 100_001)], None).await, Err(SpoolError::TooLarge)));
    let hold = holding(dir.path());
    // The first is taken by the writer, which then waits for the lock.
    let mut callers = Vec::new();
    let mut refused = 0;
    for n in 1..=12 {
        let spool = spool.clone();
        let caller = tokio::spawn(async move { spool.enqueue(vec![sized(n, 1000)], None).await });
        tokio::task::yield_now().await;
        if caller.is_finished() {
            assert!(matches!(caller.await.unwrap(), Err(SpoolError::Full)));
            refused += 1;
        } else {
            callers.push(caller);
        }
    }
    assert!(refused >= 4, "{refused}");
    let settled = tokio::spawn({
        let spool = spool.clone();
        async move { spool.settle(vec![remove(&claims[0])], Durability::Synced).await }
    });
    tokio::task::yield_now().await;
    assert!(!settled.is_finished(), "a settlement still finds room");
    drop(hold);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(settled.await.unwrap().unwrap(), []);
    spool.enqueue(vec![sized(50, 1000)], None).await.unwrap();
    assert_eq!(spool.stats().messages, 12 - refused + 1);
}

#[tokio::test]
async fn a_full_spool_refuses_mail_and_can_empty_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = DiskOptions::new();
    options.max_octets = Some(2 << 20);
    let spool = DiskSpool::open_with(dir.path(), options).unwrap();
    let mut stored = 0;
    let full = loop {
        match spool.enqueue(vec![sized(stored + 1, 50_000)], None).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, SpoolError::Full), "{full:?}");
    assert!((20..=40).contains(&stored), "{stored}");
    // Reports may use what is kept back, and then the storage itself says no.
    let claims = claim(&spool, 2).await;
    let mut settlement = remove(&claims[0]);
    settlement.submit = (0..200).map(|n| sized(1000 + n, 50_000)).collect();
    let result = spool.settle(vec![settlement], Durability::Synced).await;
    assert!(matches!(result, Err(SpoolError::Full)), "{result:?}");
    assert_eq!(spool.stats().messages, stored, "nothing of it was applied");
    let mut settlement = remove(&claims[0]);
    settlement.submit = vec![sized(1000, 50_000)];
    assert_eq!(spool.settle(vec![settlement], Durability::Synced).await.unwrap(), []);
    // All that was acknowledged is still there and goes; then there is room again.
    let rest = claim(&spool, 99).await;
    assert_eq!(rest.len() as u64, stored - 2 + 1);
    for claim in &rest {
        assert_eq!(octets(&spool, &claim.body).await.unwrap().len(), 50_000);
    }
    spool.settle(rest.iter().map(remove).collect(), Durability::Soon).await.unwrap();
    spool.enqueue(vec![sized(2000, 1_000_000)], None).await.unwrap();
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_done_and_its_claims_are_free() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    {
        let mut call = spool.enqueue(vec![sample(1)], Some(Timestamp::NEVER));
        let waker = std::task::Waker::noop();
        assert!(call.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
    }
    spool.flush().await.unwrap();
    let claims = claim(&spool, 9).await;
    assert_eq!(claims.len(), 1, "stored, and not held by nobody for ever");
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
async fn staged_bodies_of_a_process_that_died_are_collected() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue(vec![sized(1, 300_000)], None).await.unwrap();
    let mut writer = spool.stage().await.unwrap();
    writer.write(vec![1; 1_600_000].into()).await.unwrap();
    let staged = writer.finish().await.unwrap();
    assert_eq!(files(dir.path()).len(), 2);
    // The guard finds the spool closed, as after a crash.
    spool.close().await.unwrap();
    drop(staged);
    assert_eq!(files(dir.path()).len(), 2);
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    assert_eq!(octets(&spool, &claim(&spool, 1).await[0].body).await.unwrap(), vec![1; 300_000]);
    // In the living process the guard gives it up.
    let mut writer = spool.stage().await.unwrap();
    writer.write(vec![1; 1_600_000].into()).await.unwrap();
    let staged = writer.finish().await.unwrap();
    assert_eq!(files(dir.path()).len(), 2);
    drop(staged);
    spool.flush().await.unwrap();
    assert_eq!(files(dir.path()).len(), 1);
}

#[tokio::test]
async fn bodies_of_an_earlier_version_that_were_staged_are_collected() {
    let dir = tempfile::tempdir().unwrap();
    DiskSpool::open(dir.path()).unwrap().close().await.unwrap();
    shell(dir.path())
        .execute_batch(
            "INSERT INTO staged VALUES (7); INSERT INTO body VALUES (7 << 20, x'01'), (7 << 20 | 1, x'02')",
        )
        .unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let left = |table| {
        let count = format!("SELECT count(*) FROM {table}");
        shell(dir.path()).query_row(&count, [], |row| row.get::<_, i64>(0))
    };
    assert_eq!((left("body"), left("staged")), (Ok(0), Ok(0)));
    drop(spool);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staging_goes_on_in_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = DiskOptions::new();
    options.staging_octets = 64 << 10;
    let spool = Arc::new(DiskSpool::open_with(dir.path(), options).unwrap());
    // A body that would wait in memory goes to the disk once the memory is used up.
    let mut writer = spool.stage().await.unwrap();
    writer.write(vec![0; 60_000].into()).await.unwrap();
    assert_eq!(files(dir.path()).len(), 0);
    writer.write(vec![0; 10_000].into()).await.unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    drop(writer);
    let writers: Vec<_> = (0..20_u64)
        .map(|n| {
            let spool = Arc::clone(&spool);
            tokio::spawn(async move {
                let mut writer = spool.stage().await.unwrap();
                for piece in 0..40_u8 {
                    writer.write(vec![piece; 10_000].into()).await.unwrap();
                }
                let mut message = sample(n);
                message.body = NewBody::Staged(writer.finish().await.unwrap());
                spool.enqueue(vec![message], None).await.unwrap();
            })
        })
        .collect();
    for writer in writers {
        tokio::time::timeout(Duration::from_secs(60), writer)
            .await
            .expect("no writer waits for ever")
            .unwrap();
    }
    let expected: Vec<u8> = (0..40_u8).flat_map(|piece| vec![piece; 10_000]).collect();
    let claims = claim(&spool, 99).await;
    assert_eq!(claims.len(), 20);
    for claim in claims {
        assert_eq!(octets(&*spool, &claim.body).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn the_log_is_written_back_before_it_grows_large() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = DiskOptions::new();
    options.wal_octets = 1 << 20;
    let spool = DiskSpool::open_with(dir.path(), options).unwrap();
    for n in 0..400 {
        spool.enqueue(vec![sized(n, 16_000)], None).await.unwrap();
    }
    assert!(spool.counters().checkpoints >= 4, "{:?}", spool.counters());
    let log = std::fs::metadata(dir.path().join("spool.db-wal")).unwrap().len();
    assert!(log < 3 << 20, "{log}");
}

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
    // The files as they are at this moment, as a killed process leaves them.
    let killed = || {
        let copy = tempfile::tempdir().unwrap();
        for name in ["spool.db", "spool.db-wal"] {
            std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
        }
        copy
    };
    spool.enqueue(vec![remembered(1)], None).await.unwrap();
    let accepted = killed();
    spool.settle(claim(&spool, 9).await.iter().map(remove).collect(), Durability::Synced).await.unwrap();
    let settled = killed();
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
