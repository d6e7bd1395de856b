//! A full disk refuses, keeps what it has, and works again in the same handle when there is room.
#![cfg(target_os = "linux")]

use postroad::clock::Timestamp;
use postroad::spool::contract::{octets, remove, sample};
use postroad::spool::{
    Claim, ClaimRequest, Class, DiskOptions, DiskSpool, Durability, NewBody, NewMessage, QueueName, Spool,
    SpoolError, Stats,
};

use super::small::SmallDisk;

fn sized(n: u64, size: usize) -> NewMessage {
    let mut message = sample(n);
    message.body = NewBody::Inline(vec![u8::try_from(n % 251).unwrap(); size].into());
    message
}

async fn claim(spool: &DiskSpool) -> Vec<Claim> {
    let (now, lease) = (Timestamp::from_millis(1), Timestamp::NEVER);
    let queue = QueueName::new("q.test");
    spool.claim(ClaimRequest { queue, class: Class::Normal, now, limit: 10_000, lease }).await.unwrap()
}

#[tokio::test]
async fn a_full_disk_refuses_keeps_what_it_has_and_works_again() {
    let Some(disk) = SmallDisk::new(12) else { return };
    let dir = disk.path().join("spool");
    let mut options = DiskOptions::new();
    // The log is written back while there is room, and cannot be while there is none.
    options.wal_octets = 500_000;
    let spool = DiskSpool::open_with(&dir, options.clone()).unwrap();
    let mut stored = Vec::new();
    for n in 0..20 {
        spool.enqueue(vec![sized(n, if n.is_multiple_of(2) { 700 } else { 40_000 })], None).await.unwrap();
        stored.push(n);
    }
    let filler = disk.fill();
    let mut refused = 0;
    for n in 20..120 {
        // Whole, in a segment, in pieces.
        let size = [900, 60_000, 600_000][usize::try_from(n % 3).unwrap()];
        let result = if size == 600_000 {
            staged(&spool, n, size).await
        } else {
            spool.enqueue(vec![sized(n, size)], None).await.map(drop)
        };
        match result {
            Ok(()) => stored.push(n),
            Err(SpoolError::Full) => refused += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(refused >= 60, "{refused}");
    let claims = claim(&spool).await;
    assert_eq!(claims.len(), stored.len());
    for claim in &claims {
        let n = stored.iter().find(|n| sample(**n).id == claim.token.message).unwrap();
        let body = octets(&spool, &claim.body).await.unwrap();
        assert!(body.iter().all(|octet| u64::from(*octet) == n % 251), "all can be read while it is full");
    }
    // A settlement is done or refused, not half of either.
    let (half, rest) = claims.split_at(claims.len() / 2);
    let mut settled = 0;
    for claim in half {
        match spool.settle(vec![remove(claim)], Durability::Synced).await {
            Ok(fenced) => {
                assert!(fenced.is_empty());
                settled += 1;
            }
            Err(error) => assert!(matches!(error, SpoolError::Full), "{error:?}"),
        }
    }
    assert_eq!(spool.stats().messages, (stored.len() - settled) as u64);

    std::fs::remove_file(&filler).unwrap();
    for n in 200..220 {
        spool.enqueue(vec![sized(n, 100_000)], None).await.unwrap();
    }
    staged(&spool, 300, 600_000).await.unwrap();
    let done = spool.settle(rest.iter().map(remove).collect(), Durability::Synced).await.unwrap();
    assert!(done.is_empty());
    let left = (half.len() - settled + 21) as u64;
    assert_eq!(spool.stats().messages, left);
    spool.close().await.unwrap();
    let spool = DiskSpool::open_with(&dir, options).unwrap();
    assert_eq!(spool.stats().messages, left);
    let claims = claim(&spool).await;
    for claim in &claims {
        assert!(octets(&spool, &claim.body).await.is_ok());
    }
    spool.settle(claims.iter().map(remove).collect(), Durability::Synced).await.unwrap();
    assert_eq!(spool.stats(), Stats::default());
    spool.close().await.unwrap();
}

async fn staged(spool: &DiskSpool, n: u64, size: usize) -> Result<(), SpoolError> {
    let mut writer = spool.stage().await?;
    for _ in 0..size / 50_000 {
        writer.write(vec![u8::try_from(n % 251).unwrap(); 50_000].into()).await?;
    }
    let mut message = sample(n);
    message.body = NewBody::Staged(writer.finish().await?);
    spool.enqueue(vec![message], None).await.map(drop)
}

#[tokio::test]
async fn a_spool_that_is_opened_on_a_full_disk_says_so_and_opens_later() {
    let Some(disk) = SmallDisk::new(6) else { return };
    let dir = disk.path().join("spool");
    let spool = DiskSpool::open(&dir).unwrap();
    spool.enqueue(vec![sized(1, 5_000)], None).await.unwrap();
    spool.close().await.unwrap();
    let filler = disk.fill();
    if let Err(error) = DiskSpool::open(&dir) {
        assert!(matches!(error, SpoolError::Full | SpoolError::Storage(_)), "{error:?}");
    }
    std::fs::remove_file(filler).unwrap();
    let spool = DiskSpool::open(&dir).unwrap();
    assert_eq!(spool.stats().messages, 1);
    assert_eq!(octets(&spool, &claim(&spool).await[0].body).await.unwrap().len(), 5_000);
}

#[tokio::test]
async fn a_limit_of_the_spool_s_own_does_not_cost_the_ballast_and_a_full_disk_does() {
    let Some(disk) = SmallDisk::new(48) else { return };
    let dir = disk.path().join("spool");
    let mut options = DiskOptions::new();
    options.max_octets = Some(2 << 20);
    options.ballast_octets = 4 << 20;
    let spool = DiskSpool::open_with(&dir, options).unwrap();
    let ballast = dir.join("ballast");
    let mut n = 0;
    while spool.enqueue(vec![sized(n, 10_000)], None).await.is_ok() {
        n += 1;
    }
    let claims = claim(&spool).await;
    // Reports beyond what is kept back for them: there is room on the disk, and none in the spool.
    let mut much = remove(&claims[0]);
    much.submit = (0..700).map(|n| sized(1_000 + n, 10_000)).collect();
    let result = spool.settle(vec![much], Durability::Synced).await;
    assert!(matches!(result, Err(SpoolError::Full)), "{result:?}");
    assert!(ballast.exists(), "it would not have helped");
    assert_eq!(std::fs::read_dir(&dir).unwrap().filter(|f| is_probe(f.as_ref().unwrap())).count(), 0);

    let filler = disk.fill();
    let mut settled = 0;
    for claim in &claims {
        let fenced = spool.settle(vec![remove(claim)], Durability::Synced).await.unwrap();
        assert!(fenced.is_empty(), "what is delivered can be noted");
        settled += 1;
        if !ballast.exists() {
            break;
        }
    }
    assert!(!ballast.exists(), "{settled} of {} were settled without it", claims.len());
    assert!(matches!(spool.enqueue(vec![sized(9, 10)], None).await, Err(SpoolError::Full)));
    std::fs::remove_file(filler).unwrap();
}

fn is_probe(file: &std::fs::DirEntry) -> bool {
    file.path().extension().is_some_and(|end| end == "probe")
}
