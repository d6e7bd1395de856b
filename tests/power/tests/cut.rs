//! Nothing that was acknowledged is lost when the power goes, wherever it goes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use postroad_power::story::{Call, Known, Letter, Order, REMEMBERED, Teller};
use postroad_power::tales::Draw;
use postroad_power::{Disk, Effort, Ended, Fault, Image, Record, Tried, cut, fast_folder, somewhere};

/// A story on a disk on which something may be already.
fn tell(
    before: (Image, Known, Vec<Call>),
    wal_octets: u64,
    fault: Option<Fault>,
    rounds: impl AsyncFnOnce(&mut Teller),
) -> Record {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = fast_folder();
    let (image, known, calls) = before;
    let mut teller = Teller::new(Disk::new(dir.path(), &image), known.clone(), calls);
    (teller.options.wal_octets, teller.options.segment_octets) = (wal_octets, SEGMENT);
    teller.disk.set(fault);
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

const fn letter(n: u64, size: usize) -> Letter {
    Letter { n, size, entries: 1 }
}

/// Three messages from end to end.
async fn three_messages(teller: &mut Teller) {
    done(teller, vec![Call::Enqueue(vec![letter(1, 1000)])]).await;
    let two = Letter { n: 3, size: 0, entries: 2 };
    done(teller, vec![Call::Enqueue(vec![letter(2, 3000), two])]).await;
    done(teller, vec![Call::Retry { place: (letter(2, 0).id(), 0), due: 77 }]).await;
    let report = Some(letter(4, 500));
    done(teller, vec![Call::Remove { place: (letter(1, 0).id(), 0), report }]).await;
    for place in teller.places() {
        done(teller, vec![Call::Remove { place, report: None }]).await;
    }
}

fn fresh() -> (Image, Known, Vec<Call>) {
    Default::default()
}

fn told(what: &str, tried: Result<Tried, String>) {
    match tried {
        Ok(tried) => eprintln!("{what}: {tried:?}"),
        Err(why) => panic!("{what}: {why}"),
    }
}

/// Small files, so that bodies are copied out of them.
const SEGMENT: u64 = 256 << 10;

/// Every subset of what a small commit writes is tried: that many loose steps.
const EXHAUSTIVE: usize = 10;

#[test]
fn every_part_of_what_was_not_synced_may_be_lost() {
    let record = tell(fresh(), u64::MAX, None, three_messages);
    told("three messages", cut(&record, Effort { exhaustive: EXHAUSTIVE, single: 100, random: 30, seed: 1 }));
}

#[test]
fn also_while_the_log_is_written_back() {
    let record = tell(fresh(), 0, None, three_messages);
    told(
        "written back after each",
        cut(&record, Effort { exhaustive: EXHAUSTIVE, single: 100, random: 30, seed: 2 }),
    );
}

#[test]
fn large_bodies_come_whole_or_not_at_all() {
    let record = tell(fresh(), 400_000, None, async |teller| {
        done(teller, vec![Call::Stage(letter(1, 700_000)), Call::Enqueue(vec![letter(2, 10)])]).await;
        done(teller, vec![Call::GiveUp(letter(3, 600_000)), Call::Enqueue(vec![letter(4, 300_000)])]).await;
        done(teller, vec![Call::Remove { place: (letter(1, 0).id(), 0), report: None }]).await;
        done(teller, vec![Call::Stage(letter(5, 300_000)), Call::Stage(letter(6, 400_000))]).await;
    });
    told("large bodies", cut(&record, Effort { exhaustive: 6, single: 6, random: 6, seed: 3 }));
}

#[test]
fn what_is_remembered_and_what_was_ordered_comes_whole_or_not_at_all() {
    let record = tell(fresh(), 0, None, async |teller| {
        let [one, two, three] = [0, 1, 2].map(|n| letter(REMEMBERED + n, 500));
        let two = Letter { entries: 2, ..two };
        done(teller, vec![Call::Enqueue(vec![one, two])]).await;
        done(teller, vec![Call::Enqueue(vec![three, letter(4, 20_000)])]).await;
        done(teller, vec![Call::Alter(one.id(), Order::Hold)]).await;
        done(teller, vec![Call::Alter(two.id(), Order::Cancel)]).await;
        done(teller, vec![Call::Remove { place: (two.id(), 1), report: None }]).await;
        done(teller, vec![Call::Alter(letter(4, 0).id(), Order::Hold)]).await;
        done(teller, vec![Call::Alter(one.id(), Order::Release)]).await;
        done(teller, vec![Call::Remove { place: (three.id(), 0), report: Some(letter(5, 100)) }]).await;
        done(teller, vec![Call::Retry { place: (one.id(), 0), due: 9 }]).await;
        done(teller, vec![Call::Alter(letter(4, 0).id(), Order::Cancel)]).await;
    });
    told("memories and orders", cut(&record, Effort { exhaustive: 8, single: 30, random: 10, seed: 6 }));
}

#[test]
fn bodies_that_are_moved_are_in_one_place_or_the_other() {
    let mut moved = 0;
    let record = tell(fresh(), u64::MAX, None, async |teller| {
        // The first file is left, and then nearly emptied.
        let letters: Vec<_> = (1..=40).map(|n| letter(n, 17_000)).collect();
        for some in letters.chunks(10) {
            done(teller, vec![Call::Enqueue(some.to_vec())]).await;
        }
        for some in letters[..14].chunks(7) {
            let gone = some.iter().map(|letter| Call::Remove { place: (letter.id(), 0), report: None });
            done(teller, gone.collect()).await;
        }
        // It is cleaned along with what else is done.
        for n in 50..60 {
            done(teller, vec![Call::Enqueue(vec![letter(n, 100)])]).await;
        }
        moved = teller.moved();
    });
    assert!(moved > 0, "nothing was moved");
    told("moves", cut(&record, Effort { exhaustive: 6, single: 10, random: 6, seed: 7 }));
}

/// A story of `rounds` rounds, with kills and closings in between.
async fn drawn(teller: &mut Teller, draw: &mut Draw, rounds: u64) {
    for _ in 0..rounds {
        let calls = draw.round(teller);
        let what = draw.below(12);
        if what < 3 {
            // Killed in the middle of it, or soon after.
            teller.disk.set(Some(Fault::Dies { at: draw.below(80) }));
            teller.round(calls).await;
        } else {
            done(teller, calls).await;
        }
        match what {
            0..3 => {
                teller.kill();
                teller.open().await.unwrap();
            }
            3 => {
                teller.close().await.unwrap();
                teller.open().await.unwrap();
            }
            _ => {}
        }
    }
}

/// Seeds of stories: `POWER_SEEDS=from-to`, else a few.
fn seeds(few: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("POWER_SEEDS").ok();
    let asked = asked.as_deref().and_then(|range| range.split_once('-'));
    asked.map_or(0..few, |(from, to)| from.parse().unwrap()..to.parse().unwrap())
}

#[test]
fn stories_of_many_calls_survive_cut_after_cut() {
    let mut all = Tried::default();
    for seed in seeds(4) {
        let mut draw = Draw::new(seed, 0);
        let wal_octets = [0, 64 << 10, 300 << 10, u64::MAX][usize::try_from(seed % 4).unwrap()];
        let mut before = fresh();
        // The power goes, the spool goes on from what is left, the power goes again.
        for life in 0..3 {
            let effort = Effort { exhaustive: 1, single: 1, random: 2, seed: seed << 8 | life };
            let record = tell(before, wal_octets, None, async |teller| drawn(teller, &mut draw, 8).await);
            let tried = cut(&record, effort).unwrap_or_else(|why| panic!("seed {seed}, life {life}: {why}"));
            (all.cuts, all.disks) = (all.cuts + tried.cuts, all.disks + tried.disks);
            let (image, known) = somewhere(&record, effort.seed);
            before = (image, known, record.calls);
        }
    }
    told("stories", Ok(all));
}

#[test]
fn a_process_that_is_dead_before_it_claims_answers_nobody() {
    let record = tell(fresh(), 0, None, async |teller| {
        done(teller, vec![Call::Enqueue(vec![letter(1, 1000)])]).await;
        teller.disk.kill();
        let remove = Call::Remove { place: (letter(1, 0).id(), 0), report: None };
        assert_eq!(teller.round(vec![remove]).await[0].0, Ended::Unknown);
        teller.kill();
        teller.open().await.unwrap();
    });
    told("dead before", cut(&record, Effort { exhaustive: 1, single: 1, random: 1, seed: 8 }));
}

/// The proof that the tests above can fail: a disk that answers syncs and does nothing loses mail.
#[test]
fn a_spool_that_did_not_sync_would_be_found_out() {
    let record = tell(fresh(), u64::MAX, Some(Fault::NoSyncs), three_messages);
    let why = cut(&record, Effort { exhaustive: 0, single: 10, random: 10, seed: 4 }).unwrap_err();
    assert!(why.contains("acknowledged") || why.contains("does not open"), "{why}");
    // Also when it is one sync of many that is missing.
    let record = tell(fresh(), u64::MAX, None, three_messages);
    let syncs: Vec<_> = (0..record.steps.len())
        .filter(|at| matches!(record.steps[*at], postroad_power::Step::Sync { .. }))
        .collect();
    let last = record.steps.iter().rposition(|step| matches!(step, postroad_power::Step::Note(_))).unwrap();
    for missing in syncs.into_iter().filter(|at| *at < last).skip(6) {
        let mut broken = record.clone();
        broken.steps.remove(missing);
        // Before the next sync makes up for it.
        let next = broken
            .steps
            .iter()
            .skip(missing)
            .position(|step| matches!(step, postroad_power::Step::Sync { .. }));
        broken.steps.truncate(missing + next.unwrap());
        let found = cut(&broken, Effort { exhaustive: 0, single: 100, random: 0, seed: 5 });
        assert!(found.is_err(), "the sync at step {missing} is not needed?");
    }
}
