//! Calls share commits, and none pays for another.

use bytes::Bytes;
use postroad::clock::Timestamp;
use postroad::spool::contract::{remove, sample};
use postroad::spool::{DiskSpool, Durability, NewBody, Spool, SpoolError, Staged, Stats};

use super::help::{claim, holding, shell, sized, with_log};

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
async fn what_is_settled_together_goes_whole_and_what_stands_between_stays() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    // The body of the fourth is in a file.
    let mut claims = Vec::new();
    for (n, size) in (0..).zip([1000, 1000, 1000, 300_000, 1000, 0, 1000]) {
        claims.extend(spool.enqueue(vec![sized(n, size)], Some(Timestamp::NEVER)).await.unwrap().claims);
    }
    let gone = [5, 0, 3, 2, 6].map(|at: usize| remove(&claims[at]));
    assert_eq!(spool.settle(gone.into(), Durability::Synced).await.unwrap(), vec![]);
    assert_eq!((spool.stats().messages, spool.stats().octets), (2, 2000));
    let shell = shell(dir.path());
    let left = |sql: &str| -> Vec<i64> {
        let mut rows = shell.prepare(sql).unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let first = i64::try_from(claims[0].body.number).unwrap();
    assert_eq!(left("SELECT n FROM message ORDER BY n"), [first + 1, first + 4]);
    assert_eq!(left("SELECT k >> 20 FROM body ORDER BY k"), [first + 1, first + 4]);
    assert_eq!(left("SELECT e >> 20 FROM entry ORDER BY e"), [first + 1, first + 4]);
}

#[tokio::test]
async fn a_message_that_comes_again_as_it_is_settled_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let claims = spool.enqueue(vec![sample(1)], Some(Timestamp::NEVER)).await.unwrap().claims;
    let hold = holding(dir.path());
    // While the writer waits for the shell with the first, the others become one group.
    let (first, settled, enqueued, ()) = tokio::join!(
        biased;
        spool.enqueue(vec![sample(2)], None),
        spool.settle(vec![remove(&claims[0])], Durability::Synced),
        spool.enqueue(vec![sample(1)], None),
        async { drop(hold) },
    );
    first.unwrap();
    assert_eq!(settled.unwrap(), vec![]);
    enqueued.unwrap();
    assert_eq!(spool.stats().messages, 2);
    assert_eq!(claim(&spool, 10).await.len(), 2);
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
        // Claimed as it comes, once, though the group is done over.
        spool.enqueue(vec![right], Some(Timestamp::from_millis(1))),
        spool.enqueue(vec![wrong, sample(3)], Some(Timestamp::NEVER)),
        spool.enqueue(vec![sample(4)], None),
        release
    );
    assert!(a.is_ok() && c.is_ok());
    assert!(matches!(b, Err(SpoolError::Storage(_))), "{b:?}");
    assert_eq!(spool.stats().messages, 2, "the wrong call stored nothing at all");
    assert_eq!(claim(&spool, 9).await.len(), 2);
}

#[tokio::test]
async fn the_log_is_written_back_before_it_grows_large() {
    let dir = tempfile::tempdir().unwrap();
    let spool = with_log(dir.path(), 1 << 20);
    for n in 0..400 {
        spool.enqueue(vec![sized(n, 16_000)], None).await.unwrap();
    }
    assert!(spool.counters().checkpoints >= 4, "{:?}", spool.counters());
    let log = std::fs::metadata(dir.path().join("spool.db-wal")).unwrap().len();
    assert!(log < 3 << 20, "{log}");
}

#[tokio::test]
async fn the_log_is_written_back_when_nothing_but_rows_changes() {
    let dir = tempfile::tempdir().unwrap();
    let spool = with_log(dir.path(), 1 << 20);
    spool.enqueue((0..2_000).map(|n| sized(n, 8_000)).collect(), None).await.unwrap();
    let before = spool.counters().checkpoints;
    let mut claims = claim(&spool, 2_000).await;
    // Far apart, so that each is in pages of its own.
    claims.sort_by_key(|claim| claim.token.message.to_string().bytes().rev().collect::<Vec<_>>());
    for group in claims.chunks(50) {
        let gone = group.iter().map(remove).collect();
        assert_eq!(spool.settle(gone, Durability::Synced).await.unwrap(), []);
    }
    assert!(spool.counters().checkpoints > before + 2, "{:?}", spool.counters());
    let log = std::fs::metadata(dir.path().join("spool.db-wal")).unwrap().len();
    assert!(log < 3 << 20, "{log}");
}

#[tokio::test]
async fn the_log_is_written_back_when_it_is_long_headers_that_fill_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = with_log(dir.path(), 1 << 20);
    for n in 0..20 {
        let mut message = sample(n);
        message.head = vec![b'h'; 300_000].into();
        spool.enqueue(vec![message], None).await.unwrap();
    }
    let log = std::fs::metadata(dir.path().join("spool.db-wal")).unwrap().len();
    assert!(log < 2 << 20, "{log}");
}
