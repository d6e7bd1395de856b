//! Bodies that are taken in piece by piece: collected when nobody wants them, and bounded in memory.

use std::sync::Arc;
use std::time::Duration;

use postroad::spool::contract::{octets, sample};
use postroad::spool::{DiskOptions, DiskSpool, NewBody, Spool};

use super::help::{claim, files, sized};

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
