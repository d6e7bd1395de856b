//! What is full refuses new mail at once, and can empty itself. (A full disk: *full_disk*.)

use postroad::clock::Timestamp;
use postroad::spool::contract::{octets, remove, sample};
use postroad::spool::{DiskOptions, DiskSpool, Durability, Spool, SpoolError};

use super::help::{claim, holding, sized};

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
