//! Bodies in files: which go there, when their room comes back, and what a damaged or failing one costs.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use postroad::clock::Timestamp;
use postroad::message::{Content, MessageId};
use postroad::spool::contract::{octets, remove, sample};
use postroad::spool::{
    Claim, ClaimRequest, Class, DiskOptions, DiskSpool, Durability, Files, NewBody, NewMessage, QueueName,
    SegmentFile, SegmentFiles, Settlement, Spool, SpoolError, Stats, Then,
};

/// A body that can be told from its number.
fn body(n: u64, size: usize) -> Bytes {
    let mut octets = Vec::with_capacity(size + 8);
    for at in (0_u64..).take(size.div_ceil(8)) {
        octets.extend_from_slice(&(n * 7919 + at * 31).to_le_bytes());
    }
    octets.truncate(size);
    octets.into()
}

fn sized(n: u64, size: usize) -> NewMessage {
    let mut message = sample(n);
    message.body = NewBody::Inline(body(n, size));
    message
}

async fn claim(spool: &DiskSpool, limit: usize) -> Vec<Claim> {
    let (now, lease) = (Timestamp::from_millis(1), Timestamp::NEVER);
    spool
        .claim(ClaimRequest { queue: QueueName::new("q.test"), class: Class::Normal, now, limit, lease })
        .await
        .unwrap()
}

async fn settle(spool: &DiskSpool, claims: &[Claim]) {
    let batch = claims.iter().map(remove).collect();
    assert_eq!(spool.settle(batch, Durability::Synced).await.unwrap(), []);
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("seg")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn small_segments() -> DiskOptions {
    let mut options = DiskOptions::new();
    options.segment_octets = 256 << 10;
    options
}

async fn stage(spool: &DiskSpool, n: u64, size: usize) -> NewMessage {
    let mut writer = spool.stage().await.unwrap();
    for part in body(n, size).chunks(60_000) {
        writer.write(Bytes::copy_from_slice(part)).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut message = sample(n);
    message.body = NewBody::Staged(writer.finish().await.unwrap());
    message
}

/// Waits for what the writer does of itself between two groups.
async fn until(spool: &DiskSpool, mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        spool.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    panic!("it never came to that");
}

#[tokio::test]
async fn little_mail_is_in_the_database_and_more_of_it_in_files() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue(vec![sized(1, 16 << 10), sized(2, 0)], None).await.unwrap();
    assert_eq!(segments(dir.path()).len(), 0);
    spool.enqueue(vec![sized(3, 8 << 10), sized(4, (8 << 10) + 1), sized(5, 0)], None).await.unwrap();
    assert_eq!(fs::metadata(&segments(dir.path())[0]).unwrap().len(), (16 << 10) + 1);
    spool.enqueue(vec![stage(&spool, 6, 500_000).await], None).await.unwrap();
    assert_eq!(segments(dir.path()).len(), 1, "it was in memory until its message came");
    spool.enqueue(vec![stage(&spool, 7, 3_000_000).await], None).await.unwrap();
    assert_eq!(segments(dir.path()).len(), 2);
    for round in 0..2 {
        let claims = claim(&spool, 99).await;
        assert_eq!(claims.len(), 7);
        for claim in &claims {
            let n = sample_number(claim.token.message);
            assert_eq!(octets(&spool, &claim.body).await.unwrap(), body(n, usize_of(claim)), "{n} {round}");
        }
        if round == 0 {
            let back = claims.iter().map(|claim| Settlement {
                recipients: claim.recipients.clone(),
                then: Then::Retry(Timestamp::from_millis(1)),
                ..remove(claim)
            });
            spool.settle(back.collect(), Durability::Synced).await.unwrap();
        } else {
            settle(&spool, &claims).await;
        }
    }
    assert_eq!(spool.stats(), Stats::default());
    assert_eq!(segments(dir.path()).len(), 1, "the file of the large one has gone with it");
    // The file that is appended to goes when there is another, here because of the opening.
    spool.close().await.unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert_eq!(segments(dir.path()).len(), 0);
    drop(spool);
}

fn sample_number(id: MessageId) -> u64 {
    static NUMBERS: OnceLock<HashMap<MessageId, u64>> = OnceLock::new();
    NUMBERS.get_or_init(|| (0..1000).map(|n| (sample(n).id, n)).collect())[&id]
}

fn usize_of(claim: &Claim) -> usize {
    usize::try_from(claim.body.size).unwrap()
}

#[tokio::test]
async fn a_file_goes_with_its_last_body() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open_with(dir.path(), small_segments()).unwrap();
    for n in 0..40 {
        spool.enqueue(vec![sized(n, 30_000)], None).await.unwrap();
    }
    assert_eq!(segments(dir.path()).len(), 5, "eight of them fit into one");
    let claims = claim(&spool, 99).await;
    settle(&spool, &claims).await;
    assert_eq!(segments(dir.path()).len(), 1);
    for n in 40..48 {
        spool.enqueue(vec![sized(n, 30_000)], None).await.unwrap();
    }
    assert_eq!(segments(dir.path()).len(), 1, "also the one that was appended to");
}

#[tokio::test]
async fn the_last_bodies_of_a_file_are_copied_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open_with(dir.path(), small_segments()).unwrap();
    for n in 0..800 {
        spool.enqueue(vec![sized(n, 20_000)], None).await.unwrap();
    }
    let many = segments(dir.path()).len();
    assert!(many > 60, "{many}");
    let claims = claim(&spool, 9999).await;
    // A reader of a body that is moved under it.
    let kept: Vec<_> =
        claims.iter().filter(|c| sample_number(c.token.message).is_multiple_of(13)).cloned().collect();
    let Content::Whole(_) = spool.body(&kept[0].body).await.unwrap() else { panic!("it is small") };
    let gone: Vec<_> =
        claims.iter().filter(|c| !sample_number(c.token.message).is_multiple_of(13)).cloned().collect();
    settle(&spool, &gone).await;
    until(&spool, || segments(dir.path()).len() <= 8).await;
    assert!(spool.counters().moved >= 55, "{:?}", spool.counters());
    let check = async |spool: &DiskSpool, claims: &[Claim]| {
        assert_eq!(claims.len(), 62);
        for claim in claims {
            let n = sample_number(claim.token.message);
            assert_eq!(octets(spool, &claim.body).await.unwrap(), body(n, 20_000));
        }
    };
    check(&spool, &kept).await;
    // What is counted is what is there, so that the files go at last.
    spool.close().await.unwrap();
    let spool = DiskSpool::open_with(dir.path(), small_segments()).unwrap();
    let claims = claim(&spool, 9999).await;
    check(&spool, &claims).await;
    settle(&spool, &claims).await;
    until(&spool, || segments(dir.path()).is_empty()).await;
}

#[tokio::test]
async fn a_body_that_is_being_read_can_be_moved_and_settled() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open_with(dir.path(), small_segments()).unwrap();
    spool.enqueue(vec![stage(&spool, 1, 2_000_000).await], None).await.unwrap();
    let claims = claim(&spool, 1).await;
    let Content::Stream { mut reader, .. } = spool.body(&claims[0].body).await.unwrap() else {
        panic!("it is large")
    };
    let mut read = reader.chunk().await.unwrap().unwrap().to_vec();
    settle(&spool, &claims).await;
    assert_eq!(segments(dir.path()).len(), 0);
    while let Some(more) = reader.chunk().await.unwrap() {
        read.extend_from_slice(&more);
    }
    assert_eq!(read, body(1, 2_000_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_large_bodies_are_taken_in_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let senders: Vec<_> = (0..100)
        .map(|n| {
            let spool = spool.clone();
            tokio::spawn(async move {
                let message = stage(&spool, n, 1_200_000).await;
                spool.enqueue(vec![message], None).await.unwrap();
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    assert_eq!(segments(dir.path()).len(), 100);
    let claims = claim(&spool, 999).await;
    assert_eq!(claims.len(), 100);
    for claim in &claims {
        let n = sample_number(claim.token.message);
        assert_eq!(octets(&spool, &claim.body).await.unwrap(), body(n, 1_200_000));
    }
    settle(&spool, &claims).await;
    assert_eq!(segments(dir.path()).len(), 0);
}

#[tokio::test]
async fn what_a_crash_left_in_the_directory_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue(vec![sized(1, 20_000)], None).await.unwrap();
    drop(spool);
    fs::write(dir.path().join("seg/00000077.seg"), "of a body that was never named").unwrap();
    fs::write(dir.path().join("seg/readme.txt"), "not ours").unwrap();
    // And octets behind the last commit.
    fs::File::options().append(true).open(&segments(dir.path())[0]).unwrap().write_all(b"torn").unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert_eq!(segments(dir.path()).len(), 2, "{:?}", segments(dir.path()));
    spool.enqueue(vec![sized(2, 20_000)], None).await.unwrap();
    assert!(dir.path().join("seg/00000078.seg").exists(), "a number is not used twice");
    for claim in claim(&spool, 9).await {
        let n = sample_number(claim.token.message);
        assert_eq!(octets(&spool, &claim.body).await.unwrap(), body(n, 20_000));
    }
}

#[tokio::test]
async fn a_damaged_body_is_noticed_and_costs_no_other() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("an octet is another", |file| {
            let mut octets = fs::read(file).unwrap();
            octets[25_000] ^= 1;
            fs::write(file, octets).unwrap();
        }),
        ("cut", |file| fs::File::options().write(true).open(file).unwrap().set_len(30_000).unwrap()),
        ("missing", |file| fs::remove_file(file).unwrap()),
        ("a directory", |file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let spool = DiskSpool::open_with(dir.path(), small_segments()).unwrap();
        spool.enqueue(vec![sized(1, 20_000), sized(2, 20_000)], None).await.unwrap();
        spool.enqueue(vec![stage(&spool, 3, 1_500_000).await], None).await.unwrap();
        spool.enqueue(vec![sized(4, 5_000)], None).await.unwrap();
        drop(spool);
        let files = segments(dir.path());
        damage(&files[0]);
        damage(&files[1]);
        let spool = DiskSpool::open_with(dir.path(), small_segments()).unwrap();
        assert_eq!(spool.stats().messages, 4);
        for claim in claim(&spool, 9).await {
            let n = sample_number(claim.token.message);
            let whole = what == "cut" || what == "an octet is another";
            match (n, octets(&spool, &claim.body).await) {
                (2 | 3, Err(_)) => {}
                (1, Err(_)) if !whole => {}
                (1 | 4, Ok(octets)) => assert_eq!(octets, body(n, octets.len())),
                (n, read) => panic!("{what}: {n} was read as {:?}", read.map(|r| r.len())),
            }
        }
        // Neither does it end the cleaning of others, or go round and round.
        spool.enqueue(vec![sized(5, 20_000)], None).await.unwrap();
        spool.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_cleaned_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open_with(dir.path(), small_segments()).unwrap();
    spool.enqueue((0..10).map(|n| sized(n, 20_000)).collect(), None).await.unwrap();
    drop(spool);
    let file = segments(dir.path()).remove(0);
    let mut octets_of = fs::read(&file).unwrap();
    octets_of[5_000] ^= 1;
    fs::write(&file, octets_of).unwrap();
    let spool = DiskSpool::open_with(dir.path(), small_segments()).unwrap();
    let claims = claim(&spool, 99).await;
    settle(&spool, &claims[2..]).await;
    until(&spool, || spool.counters().moved == 1).await;
    // The second was copied, the damaged first stays where it is, and is not tried for ever.
    for _ in 0..20 {
        spool.flush().await.unwrap();
    }
    assert_eq!(spool.counters().moved, 1);
    assert!(file.exists());
    assert!(matches!(spool.body(&claims[0].body).await, Err(SpoolError::Corrupt)));
    assert_eq!(octets(&spool, &claims[1].body).await.unwrap(), body(1, 20_000));
    settle(&spool, &claims[..1]).await;
    assert!(!file.exists(), "it goes with what is in it");
}

/// Files that fail when they are told to.
#[derive(Debug, Default)]
struct Failing {
    /// Octets that still find room.
    room: AtomicU64,
    /// Syncs that still succeed.
    syncs: AtomicU64,
}

#[derive(Debug)]
struct File(fs::File, Arc<Failing>);

#[derive(Debug)]
struct Way(Arc<Failing>);

impl SegmentFiles for Way {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let file = fs::File::options().create_new(true).append(true).open(path)?;
        Ok(Box::new(File(file, Arc::clone(&self.0))))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(File(fs::File::open(path)?, Arc::clone(&self.0))))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rewrite(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl SegmentFile for File {
    fn append(&mut self, octets: &[u8]) -> io::Result<()> {
        let room = usize::try_from(self.1.room.load(Ordering::SeqCst)).unwrap();
        let fits = octets.len().min(room);
        // As a full disk does: what fits is written.
        self.0.write_all(&octets[..fits])?;
        self.1.room.fetch_sub(fits as u64, Ordering::SeqCst);
        if fits < octets.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.1.syncs.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::other("the disk is gone")),
        }
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn read_at(&mut self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, into, at)
    }
}

fn failing(room: u64, syncs: u64) -> (Arc<Failing>, DiskOptions) {
    let way = Arc::new(Failing { room: room.into(), syncs: syncs.into() });
    let mut options = DiskOptions::new();
    options.files = Files(Some(Arc::new(Way(Arc::clone(&way)))));
    (way, options)
}

#[tokio::test]
async fn a_full_disk_refuses_what_does_not_fit_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (way, options) = failing(100_000, u64::MAX);
    let spool = DiskSpool::open_with(dir.path(), options).unwrap();
    spool.enqueue(vec![sized(1, 60_000)], None).await.unwrap();
    let full = spool.enqueue(vec![sized(2, 60_000)], None).await;
    assert!(matches!(full, Err(SpoolError::Full)), "{full:?}");
    assert_eq!(fs::metadata(&segments(dir.path())[0]).unwrap().len(), 60_000, "cut back");
    let mut writer = spool.stage().await.unwrap();
    let mut staged = Ok(());
    while staged.is_ok() {
        staged = writer.write(vec![1; 200_000].into()).await;
    }
    assert!(matches!(staged, Err(SpoolError::Full)), "{staged:?}");
    drop(writer);
    // Mail that needs none of the room is still taken, and what is there goes.
    spool.enqueue(vec![sized(3, 1000)], None).await.unwrap();
    assert_eq!(octets(&spool, &claim(&spool, 9).await[0].body).await.unwrap(), body(1, 60_000));
    way.room.store(u64::MAX, Ordering::SeqCst);
    spool.enqueue(vec![sized(2, 60_000)], None).await.unwrap();
    spool.enqueue(vec![stage(&spool, 4, 1_300_000).await], None).await.unwrap();
    drop(spool);
    let spool = DiskSpool::open(dir.path()).unwrap();
    for claim in claim(&spool, 9).await {
        let n = sample_number(claim.token.message);
        assert_eq!(octets(&spool, &claim.body).await.unwrap(), body(n, usize_of(&claim)));
    }
    assert_eq!(spool.stats().messages, 4);
}

#[tokio::test]
async fn a_failed_sync_of_a_file_ends_the_spool() {
    for large in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (_, options) = failing(u64::MAX, 1);
        let spool = DiskSpool::open_with(dir.path(), options).unwrap();
        spool.enqueue(vec![sized(1, 60_000)], None).await.unwrap();
        let failed = if large {
            let mut writer = spool.stage().await.unwrap();
            writer.write(body(2, 1_200_000)).await.unwrap();
            writer.finish().await.err()
        } else {
            spool.enqueue(vec![sized(2, 60_000)], None).await.err()
        };
        assert!(matches!(failed, Some(SpoolError::Unknown(_))), "{failed:?}");
        let refused = spool.enqueue(vec![sized(3, 10)], None).await;
        assert!(matches!(refused, Err(SpoolError::Poisoned)), "{refused:?}");
        assert!(matches!(spool.close().await, Err(SpoolError::Poisoned)));
        let again = loop {
            match DiskSpool::open(dir.path()) {
                Err(SpoolError::Locked) => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        assert_eq!(again.stats().messages, 1);
        assert_eq!(octets(&again, &claim(&again, 9).await[0].body).await.unwrap(), body(1, 60_000));
        assert_eq!(segments(dir.path()).len(), 1);
    }
}
