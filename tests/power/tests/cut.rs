//! Nothing that was acknowledged is lost when the power goes, wherever it goes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use postroad_power::story::{Call, Known, Letter, Teller};
use postroad_power::{Disk, Effort, Ended, Image, Record, cut, fast_folder};

/// A story on a fresh disk.
fn tell(wal_octets: u64, rounds: impl AsyncFnOnce(&mut Teller)) -> Record {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = fast_folder();
    let (image, known) = (Image::default(), Known::default());
    let mut teller = Teller::new(Disk::new(dir.path(), &image), known.clone(), Vec::new());
    teller.options.wal_octets = wal_octets;
    runtime.block_on(async {
        teller.open().await.unwrap();
        rounds(&mut teller).await;
        teller.close().await.unwrap();
    });
    Record { image, known, steps: teller.disk.steps(), calls: teller.calls }
}

async fn done(teller: &mut Teller, calls: Vec<Call>) {
    for (ended, error) in teller.round(calls).await {
        assert_eq!(ended, Ended::Done, "{error:?}");
    }
}

fn letter(n: u64, size: usize) -> Letter {
    Letter { n, size, entries: 1 }
}

/// Every subset of what a small commit writes is tried: that many loose steps.
const EXHAUSTIVE: usize = 12;

/// Three messages from end to end. The log is never written back, or after each commit.
fn three_messages(wal_octets: u64) {
    let record = tell(wal_octets, async |teller| {
        done(teller, vec![Call::Enqueue(vec![letter(1, 1000)])]).await;
        let two = Letter { n: 3, size: 0, entries: 2 };
        done(teller, vec![Call::Enqueue(vec![letter(2, 3000), two])]).await;
        done(teller, vec![Call::Retry { place: (letter(2, 0).id(), 0), due: 77 }]).await;
        let report = Some(letter(4, 500));
        done(teller, vec![Call::Remove { place: (letter(1, 0).id(), 0), report }]).await;
        for place in teller.places() {
            done(teller, vec![Call::Remove { place, report: None }]).await;
        }
    });
    let tried = cut(&record, Effort { exhaustive: EXHAUSTIVE, random: 30, seed: 1 });
    eprintln!("{:?} of {} steps", tried.unwrap_or_else(|why| panic!("{why}")), record.steps.len());
}

#[test]
fn every_part_of_what_was_not_synced_may_be_lost() {
    three_messages(u64::MAX);
}

#[test]
fn also_while_the_log_is_written_back() {
    three_messages(0);
}
