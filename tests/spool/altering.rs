//! Orders on disk: what outlives the process, and queues that are long.

use std::sync::Arc;
use std::time::Duration;

use postroad::clock::Timestamp;
use postroad::message::Tag;
use postroad::spool::contract::{remove, sample};
use postroad::spool::{
    Alter, Altered, Change, Claim, ClaimRequest, Class, DiskSpool, Durability, MemorySpool, QueueName,
    Selection, SetBack, Spool, Stats, Then,
};

const NOW: Timestamp = Timestamp::from_millis(500);

async fn claim(spool: &DiskSpool, limit: usize) -> Vec<Claim> {
    let (queue, class) = (QueueName::new("q.test"), Class::Normal);
    spool.claim(ClaimRequest { queue, class, now: NOW, limit, lease: Timestamp::NEVER }).await.unwrap()
}

fn alter(which: Selection, change: Change) -> Alter {
    Alter { which, change, now: NOW, after: None, limit: 1_000 }
}

/// All pages of a change: how many, and what was changed.
async fn all(spool: &DiskSpool, which: Selection, change: Change) -> (usize, u64) {
    let (mut alter, mut pages, mut changed) = (alter(which, change), 0, 0);
    loop {
        let Altered { changed: here, next, .. } = spool.alter(alter.clone()).await.unwrap();
        (pages, changed) = (pages + 1, changed + here);
        alter.after = next;
        if next.is_none() {
            return (pages, changed);
        }
    }
}

#[tokio::test]
async fn what_is_wanted_of_a_claimed_entry_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue((1..=4).map(sample).collect(), None).await.unwrap();
    let claims = claim(&spool, 9).await;
    let [held, cancelled, released] = [0, 1, 2].map(|at| Selection::message(claims[at].token.message));
    for (which, change) in [
        (held.clone(), Change::Hold("it's \"wrong\"".into())),
        (cancelled, Change::Cancel),
        (released.clone(), Change::Hold("no".into())),
    ] {
        assert_eq!(spool.alter(alter(which, change)).await.unwrap().claimed, 1);
    }
    assert_eq!(spool.alter(alter(released, Change::Release)).await.unwrap().changed, 1);
    // Nothing is settled: with the process its leases end.
    spool.close().await.unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let again = claim(&spool, 9).await;
    let seen: Vec<_> = again.iter().map(|claim| (claim.token.message, claim.cancelled)).collect();
    let message = |at: usize| claims[at].token.message;
    assert_eq!(seen, [(message(1), true), (message(2), false), (message(3), false)]);
    spool.flush().await.unwrap();
    for _ in 0..2 {
        assert_eq!((spool.stats().entries, spool.stats().parked), (4, 1));
    }
    spool.close().await.unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert_eq!((spool.stats().entries, spool.stats().parked), (4, 1), "counted anew");
    let parked = spool.scan(Selection::parked(), None, 9).await.unwrap();
    assert_eq!(parked[0].parked.as_deref(), Some("it's \"wrong\""));
    assert_eq!(spool.queues(None, 9).await.unwrap()[0].entries, 3);
    spool.alter(alter(held, Change::Release)).await.unwrap();
    let last = claim(&spool, 9).await;
    assert_eq!((last.len(), spool.stats().parked), (4, 0));
    spool.settle(last.iter().map(remove).collect(), Durability::Synced).await.unwrap();
    assert_eq!(spool.stats().entries, 0);
}

#[tokio::test]
async fn a_damaged_row_that_is_held_or_cancelled_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue((1..=4).map(sample).collect(), None).await.unwrap();
    let shell = rusqlite::Connection::open(dir.path().join("spool.db")).unwrap();
    shell.busy_timeout(Duration::from_secs(5)).unwrap();
    let damage = "UPDATE entry SET recipients = 'x' WHERE e IN (SELECT e FROM entry ORDER BY e LIMIT 2)";
    assert_eq!(shell.execute(damage, []).unwrap(), 2);
    let changed = spool.alter(alter(Selection::all(), Change::Cancel)).await.unwrap();
    assert_eq!(changed.changed, 4);
    let claims = claim(&spool, 9).await;
    assert_eq!(claims.len(), 2, "what can be read is");
    spool.settle(claims.iter().map(remove).collect(), Durability::Synced).await.unwrap();
    spool.flush().await.unwrap();
    assert_eq!(spool.stats(), Stats::default(), "the others are gone");
}

#[tokio::test]
async fn a_queue_too_long_for_its_index_is_gone_through_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let mut batch: Vec<_> = (0..105).map(sample).collect();
    for (n, message) in batch.iter_mut().enumerate() {
        message.handling.tags.extend(Tag::new(if n % 2 == 0 { "even" } else { "odd" }));
        let entry = message.entries[0].clone();
        message.entries = vec![entry; 100];
    }
    batch[104].entries.iter_mut().for_each(|entry| entry.queue = QueueName::new("r.test"));
    spool.enqueue(batch, None).await.unwrap();
    let claimed = claim(&spool, 1).await;
    let queue = Selection::queue(QueueName::new("q.test"));
    let before = spool.counters().commits;
    // Each page is a transaction of its own and looks at no more than it may.
    assert_eq!(all(&spool, queue.clone(), Change::Hold("wait".into())).await, (11, 10_399));
    assert_eq!(spool.counters().commits - before, 11, "the last page has some of another queue");
    assert_eq!((spool.stats().entries, spool.stats().parked), (10_500, 10_399));
    let put_off = Then::Retry(NOW);
    let mut back = remove(&claimed[0]);
    (back.recipients, back.then) = (claimed[0].recipients.clone(), put_off);
    spool.settle(vec![back], Durability::Synced).await.unwrap();
    assert_eq!(spool.stats().parked, 10_400);
    let seen = spool.scan(Selection::parked(), None, 20_000).await.unwrap();
    assert_eq!(seen.len(), 10_000, "a page is bounded");
    assert!(seen.windows(2).all(|w| (w[0].message, w[0].entry) < (w[1].message, w[1].entry)));
    let odd = Selection::tag(Tag::new("odd").unwrap());
    assert_eq!(all(&spool, odd, Change::Release).await.1, 5_200);
    // Few enough now for the index.
    assert_eq!(all(&spool, Selection::parked(), Change::Release).await, (6, 5_200));
    let other = all(&spool, Selection::queue(QueueName::new("r.test")), Change::Cancel).await;
    assert_eq!((other, spool.stats().parked), ((1, 100), 0));
}

#[tokio::test]
async fn a_clock_that_is_set_back_ends_leases_as_if_it_had_given_them() {
    let dir = tempfile::tempdir().unwrap();
    let spools: [Arc<dyn Spool>; 2] =
        [Arc::new(MemorySpool::new()), Arc::new(DiskSpool::open(dir.path()).unwrap())];
    for spool in spools {
        spool.enqueue(vec![sample(1)], None).await.unwrap();
        let claim = async |now: u64| {
            let lease = Timestamp::from_millis(now + 10_000);
            let (queue, now) = (QueueName::new("q.test"), Timestamp::from_millis(now));
            let request = ClaimRequest { queue, class: Class::Normal, now, limit: 9, lease };
            spool.claim(request).await.unwrap().len()
        };
        assert_eq!(claim(500_000).await, 1);
        let (now, lease) = (Timestamp::from_millis(50_000), Timestamp::from_millis(60_000));
        let back = SetBack::new(Duration::from_millis(450_000), Timestamp::NEVER, lease);
        let (which, change) = (Selection::all(), Change::SetBack(back));
        let altered = spool.alter(Alter { which, change, now, after: None, limit: 9 }).await.unwrap();
        assert_eq!((altered.changed, altered.claimed), (0, 1));
        assert_eq!((claim(59_999).await, claim(60_000).await), (0, 1));
    }
}
