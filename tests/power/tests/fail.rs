//! A disk that fails or is full loses nothing that was acknowledged, and nothing is acknowledged that is
//! not on it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use postroad::spool::SpoolError;
use postroad_power::story::{Call, Known, Letter, Refused, Teller};
use postroad_power::{Disk, Effort, Ended, Fault, Image, Record, cut, fast_folder};

const fn letter(n: u64, size: usize) -> Letter {
    Letter { n, size, entries: 1 }
}

/// What callers do while the disk fails; each line at once.
fn rounds() -> Vec<Vec<Call>> {
    let remove = |n| Call::Remove { place: (letter(n, 0).id(), 0), report: Some(letter(n + 100, 30_000)) };
    vec![
        vec![Call::Enqueue(vec![letter(10, 1000)]), Call::Enqueue(vec![letter(11, 40_000), letter(12, 0)])],
        vec![remove(1), Call::Retry { place: (letter(2, 0).id(), 0), due: 9 }],
        vec![Call::Stage(letter(13, 600_000)), Call::Enqueue(vec![letter(14, 20)])],
        vec![remove(3)],
        vec![Call::Enqueue(vec![letter(15, 300)])],
    ]
}

/// How a story under a fault went.
#[derive(Debug, Default)]
struct Went {
    refused: usize,
    unknown: usize,
    poisoned: usize,
    reopened: usize,
    /// The fault came to pass.
    met: bool,
}

/// Three messages are there; then the disk fails in this way, once or for a while, then it is sound again.
fn under(fault: Fault) -> (Record, Went) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = fast_folder();
    let (image, known) = (Image::default(), Known::default());
    let mut teller = Teller::new(Disk::new(dir.path(), &image), known.clone(), Vec::new());
    // The log is written back now and then.
    teller.options.wal_octets = 100_000;
    let mut went = Went::default();
    runtime.block_on(async {
        teller.open().await.unwrap();
        teller.round(vec![Call::Enqueue(vec![letter(1, 500), letter(2, 500), letter(3, 500)])]).await;
        teller.disk.set(Some(fault));
        for calls in rounds() {
            let there = teller.places();
            let calls = calls.into_iter().filter(|call| match call {
                Call::Remove { place, .. } | Call::Retry { place, .. } => there.contains(place),
                _ => true,
            });
            let answers = teller.round(calls.collect()).await;
            let broken = answers.iter().any(|(_, error)| {
                matches!(error, Some(SpoolError::Unknown(_) | SpoolError::Poisoned | SpoolError::Closed))
            });
            for (ended, error) in answers {
                went.refused += usize::from(ended == Ended::Refused);
                went.unknown += usize::from(ended == Ended::Unknown);
                went.poisoned += usize::from(matches!(error, Some(SpoolError::Poisoned)));
            }
            if broken {
                // Poisoned until it is opened again, whatever the disk does meanwhile.
                let (_, error) = teller.round(vec![Call::Enqueue(vec![letter(99, 1)])]).await.pop().unwrap();
                assert!(matches!(error, Some(SpoolError::Poisoned)), "{fault:?}: {error:?}");
                reopen(&mut teller, fault).await;
                went.reopened += 1;
            }
        }
        let (writes, syncs) = teller.disk.tried();
        went.met = match fault {
            Fault::Full { at, .. } | Fault::Broken { at } => writes > at,
            Fault::Sync { at } => syncs > at,
            Fault::Dies { .. } | Fault::NoSyncs => true,
        };
        // The disk is sound again: so is the spool, in the same handle.
        teller.disk.set(None);
        let mut answers = teller.round(vec![Call::Enqueue(vec![letter(50, 5_000)])]).await;
        if matches!(answers[0].1, Some(SpoolError::Poisoned)) {
            // It broke while nobody asked.
            reopen(&mut teller, fault).await;
            went.reopened += 1;
            answers = teller.round(vec![Call::Enqueue(vec![letter(51, 5_000)])]).await;
        }
        assert!(matches!(answers[..], [(Ended::Done, None)]), "{fault:?}: {answers:?}");
        teller.close().await.unwrap();
        teller.open().await.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        teller.close().await.unwrap();
    });
    (Record { image, known, steps: teller.disk.steps(), calls: teller.calls }, went)
}

async fn reopen(teller: &mut Teller, fault: Fault) {
    teller.drop_spool();
    // Another fault may meet the opening: then it says so, and the next one may do.
    for _ in 0..20 {
        match teller.open().await {
            Ok(()) => return,
            Err(Refused::Open(_)) => {}
            Err(wrong) => panic!("{fault:?}: {wrong:?}"),
        }
    }
    teller.disk.set(None);
    teller.open().await.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
}

/// Goes through all places where a fault can come, until it comes no more; `every`: only each so many-th.
fn everywhere(every: u64, fault: impl Fn(u64) -> Fault, look: impl Fn(Fault, &Went)) {
    let (mut at, mut disks) = (0, 0);
    loop {
        let (record, went) = under(fault(at));
        if !went.met {
            break;
        }
        look(fault(at), &went);
        if at % (every * 4) == 0 {
            // Power may fail as well, then or later.
            let effort = Effort { exhaustive: 0, single: 1, random: 1, seed: at };
            let tried = cut(&record, effort).unwrap_or_else(|why| panic!("{:?}, {went:?}: {why}", fault(at)));
            disks += tried.disks;
        }
        at += every;
    }
    eprintln!("{:?} and before: {disks} disks", fault(at));
    assert!(at > every * 5, "the fault hardly came");
}

#[test]
fn a_failed_sync_poisons_and_loses_nothing_that_was_acknowledged() {
    everywhere(
        1,
        |at| Fault::Sync { at },
        |fault, went| {
            assert!(went.reopened > 0, "{fault:?} went unnoticed: {went:?}");
        },
    );
}

#[test]
fn a_full_disk_is_a_clean_refusal_and_works_again_in_the_same_handle() {
    everywhere(
        3,
        |at| Fault::Full { at, writes: 1 + at % 7 * 40 },
        |fault, went| {
            assert_eq!((went.reopened, went.unknown), (0, 0), "{fault:?}: {went:?}");
        },
    );
}

#[test]
fn a_write_that_fails_otherwise_loses_nothing_either() {
    everywhere(3, |at| Fault::Broken { at }, |_, _| {});
}
