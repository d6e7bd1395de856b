//! What is born claimed is in no index until somebody changes it, and nothing of it is lost by that.

use std::path::Path;
use std::task::{Context, Waker};

use postroad::clock::Timestamp;
use postroad::message::MessageId;
use postroad::smtp::params::Mail;
use postroad::spool::contract::{remove, sample};
use postroad::spool::{
    Alter, Change, ClaimRequest, Class, DiskOptions, DiskSpool, Durability, NewMessage, QueueName, Selection,
    Settlement, Spool, Stats, Then,
};

use super::help::{claim, holding, killed, shell};

const LEASE: Option<Timestamp> = Some(Timestamp::from_millis(1));

/// The messages of the entries that the index of what is due has.
fn listed(dir: &Path) -> Vec<i64> {
    let shell = shell(dir);
    let index =
        "SELECT e >> 20 FROM entry INDEXED BY entry_due WHERE parked IS NULL AND claimed = 0 ORDER BY e";
    let mut rows = shell.prepare(index).unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn samples(some: std::ops::RangeInclusive<u64>) -> Vec<NewMessage> {
    some.map(sample).collect()
}

#[tokio::test]
async fn what_is_delivered_at_the_first_attempt_was_in_no_index_of_what_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let claims = spool.enqueue(samples(1..=3), LEASE).await.unwrap().claims;
    assert!(listed(dir.path()).is_empty());
    // What is not delivered goes into it.
    let retry = Settlement {
        recipients: claims[1].recipients.clone(),
        then: Then::Retry(Timestamp::from_millis(7)),
        ..remove(&claims[1])
    };
    spool.settle(vec![remove(&claims[0]), retry], Durability::Synced).await.unwrap();
    assert_eq!(listed(dir.path()), [2]);
    // And so does what somebody changes, but not what is left as it is.
    for (change, there) in [(Change::Due(Timestamp::NEVER), vec![2]), (Change::Cancel, vec![2, 3])] {
        assert_eq!(spool.alter(order(3, change)).await.unwrap().claimed, 1);
        assert_eq!(listed(dir.path()), there);
    }
    assert_eq!((spool.stats().messages, spool.stats().entries), (2, 2));
}

/// Claims what is due, and names the messages.
async fn claimed(spool: &DiskSpool, class: Class, now: u64) -> Vec<MessageId> {
    let (queue, now, limit) = (QueueName::new("q.test"), Timestamp::from_millis(now), 9);
    let claims =
        spool.claim(ClaimRequest { queue, class, now, limit, lease: Timestamp::NEVER }).await.unwrap();
    claims.into_iter().map(|claim| claim.token.message).collect()
}

fn order(n: u64, change: Change) -> Alter {
    Alter {
        which: Selection::message(sample(n).id),
        change,
        now: Timestamp::default(),
        after: None,
        limit: 9,
    }
}

#[tokio::test]
async fn a_good_end_puts_all_into_the_index_and_after_a_bad_one_it_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let mut messages = samples(1..=5);
    messages[2].entries[0].due = Timestamp::from_millis(900);
    messages[3].mail = Mail::parse("<s@s.test> MT-PRIORITY=-3").unwrap();
    let claims = spool.enqueue(messages, Some(Timestamp::NEVER)).await.unwrap().claims;
    spool.settle(vec![remove(&claims[1])], Durability::Synced).await.unwrap();
    let killed = killed(dir.path());
    spool.close().await.unwrap();
    assert_eq!(listed(dir.path()), [1, 3, 4, 5], "by a good end");
    assert!(listed(killed.path()).is_empty(), "it is as it was left");
    for (dir, clean) in [(dir.path(), true), (killed.path(), false)] {
        let spool = DiskSpool::open(dir).unwrap();
        assert_eq!((spool.was_clean(), spool.stats().messages, spool.stats().entries), (clean, 4, 4));
        let queues = spool.queues(None, 9).await.unwrap();
        let queues: Vec<_> = queues.iter().map(|q| (q.class, q.entries, q.due.as_millis())).collect();
        assert_eq!(queues, [(Class::Normal, 3, 0), (Class::Bulk, 1, 0)]);
        let seen = spool.scan(Selection::queue(QueueName::new("q.test")), None, 9).await.unwrap();
        assert_eq!(seen.len(), 4);
        // What is put off is put off, wherever it was found.
        let later = Change::Due(Timestamp::from_millis(800));
        assert_eq!(spool.alter(order(5, later)).await.unwrap().changed, 1);
        assert_eq!(claimed(&spool, Class::Normal, 799).await, [sample(1).id]);
        assert_eq!(claimed(&spool, Class::Normal, 900).await, [5, 3].map(|n| sample(n).id));
        spool.close().await.unwrap();
        assert_eq!(listed(dir), [1, 3, 4, 5]);
        let spool = DiskSpool::open(dir).unwrap();
        assert!(spool.was_clean());
        assert_eq!(claimed(&spool, Class::Bulk, 1).await, [sample(4).id]);
        assert_eq!(claimed(&spool, Class::Normal, 900).await, [1, 5, 3].map(|n| sample(n).id));
    }
}

#[tokio::test]
async fn what_is_due_first_is_claimed_first_wherever_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let due_at = |n: u64, due| {
        let mut message = sample(n);
        message.entries[0].due = Timestamp::from_millis(due);
        message
    };
    spool.enqueue(vec![due_at(1, 30), due_at(2, 10), due_at(3, 9_000)], LEASE).await.unwrap();
    spool.enqueue(vec![due_at(4, 20), due_at(5, 10), due_at(6, 40)], None).await.unwrap();
    let claim = async |now, limit| -> Vec<_> {
        let (queue, class, now) = (QueueName::new("q.test"), Class::Normal, Timestamp::from_millis(now));
        let lease = Timestamp::from_millis(5_000);
        let claims = spool.claim(ClaimRequest { queue, class, now, limit, lease }).await.unwrap();
        claims.into_iter().map(|claim| claim.token.message).collect()
    };
    assert_eq!(claim(40, 3).await, [2, 5, 4].map(|n| sample(n).id));
    assert_eq!(claim(35, 9).await, [1].map(|n| sample(n).id));
    assert_eq!(claim(40, 9).await, [6].map(|n| sample(n).id));
    assert_eq!(claim(9_000, 9).await, [2, 5, 4, 1, 6, 3].map(|n| sample(n).id));
}

#[tokio::test]
async fn what_its_caller_did_not_wait_for_is_claimed_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let hold = holding(dir.path());
    let mut enqueue = spool.enqueue(samples(1..=2), Some(Timestamp::NEVER));
    assert!(enqueue.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop((enqueue, hold));
    spool.flush().await.unwrap();
    assert_eq!(spool.stats().entries, 2);
    let queue = spool.queues(None, 9).await.unwrap().remove(0);
    assert_eq!((queue.entries, queue.due), (2, Timestamp::default()), "it is due at once");
    let claims = claim(&spool, 9).await;
    assert_eq!(claims.len(), 2);
    assert_eq!(spool.settle(claims.iter().map(remove).collect(), Durability::Synced).await.unwrap(), []);
}

#[tokio::test]
async fn what_cannot_be_read_of_it_is_set_aside_when_its_lease_ends() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue(samples(1..=3), LEASE).await.unwrap();
    // The second is damaged, the third was removed by a person.
    let damage = "UPDATE entry SET recipients = 'x' WHERE e >> 20 = 2; DELETE FROM entry WHERE e >> 20 = 3";
    shell(dir.path()).execute_batch(damage).unwrap();
    assert_eq!(claim(&spool, 9).await.len(), 1);
    spool.flush().await.unwrap();
    assert_eq!((spool.set_aside().len(), spool.stats().parked), (1, 1));
    assert!(claim(&spool, 9).await.is_empty());
    assert_eq!(spool.queues(None, 9).await.unwrap()[0].due.as_millis(), 1_000, "nothing else is due");
    let born = "SELECT count(*) FROM entry WHERE claimed <> 0 AND parked IS NOT NULL";
    assert_eq!(shell(dir.path()).query_row(born, [], |row| row.get(0)), Ok(0), "a person may let it go");
    let queue = Selection::queue(QueueName::new("q.test"));
    assert_eq!(spool.scan(queue, None, 9).await.unwrap().len(), 1, "what can be read of it");
    let alter = |change| {
        let (which, now) = (Selection::parked(), Timestamp::from_millis(500));
        Alter { which, change, now, after: None, limit: 9 }
    };
    assert_eq!(spool.alter(alter(Change::Cancel)).await.unwrap().changed, 1);
    assert_eq!(
        (spool.stats().entries, spool.stats().parked),
        (2, 0),
        "one of them is nowhere but in the count"
    );
}

#[tokio::test]
async fn a_person_may_change_it_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let mut other = sample(8);
    other.entries[0].queue = QueueName::new("other.test");
    spool.enqueue(vec![other], None).await.unwrap();
    let first = spool.enqueue(samples(1..=7), LEASE).await.unwrap().claims[0].body.number;
    for (n, change) in [
        (1, "UPDATE entry SET parked = 'stop'"),
        (2, "UPDATE entry SET claimed = 0"),
        (3, "DELETE FROM entry"),
        (4, "UPDATE entry SET claimed = 0, due = 1"),
        (5, "UPDATE entry SET due = 900"),
        (6, "UPDATE entry SET queue = 'other.test'"),
    ] {
        let change = format!("{change} WHERE e >> 20 = {}", first + n - 1);
        assert_eq!(shell(dir.path()).execute(&change, []), Ok(1));
    }
    shell(dir.path()).execute(&format!("DELETE FROM message WHERE n = {}", first + 2), []).unwrap();
    // The third comes again, as another.
    let again = spool.enqueue(samples(3..=3), Some(Timestamp::NEVER)).await.unwrap().claims;
    assert_eq!(claimed(&spool, Class::Normal, 1).await, [2, 7, 4].map(|n| sample(n).id));
    spool.flush().await.unwrap();
    assert!(claimed(&spool, Class::Normal, 899).await.is_empty());
    assert_eq!(claimed(&spool, Class::Normal, 900).await, [sample(5).id]);
    let (queue, class, now) = (QueueName::new("other.test"), Class::Normal, Timestamp::from_millis(1));
    let claims =
        spool.claim(ClaimRequest { queue, class, now, limit: 9, lease: Timestamp::NEVER }).await.unwrap();
    assert_eq!(claims.len(), 2, "where it was put");
    assert_eq!(spool.settle(again.iter().map(remove).collect(), Durability::Synced).await.unwrap(), []);
    // What it has parked it may let go.
    shell(dir.path()).execute("UPDATE entry SET parked = NULL", []).unwrap();
    assert_eq!(claimed(&spool, Class::Normal, 1).await, [sample(1).id]);
}

#[tokio::test]
async fn what_a_person_has_parked_of_it_after_a_kill_may_be_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue(samples(1..=2), Some(Timestamp::NEVER)).await.unwrap();
    let killed = killed(dir.path());
    shell(killed.path()).execute("UPDATE entry SET parked = 'x' WHERE e >> 20 = 1", []).unwrap();
    let spool = DiskSpool::open(killed.path()).unwrap();
    assert_eq!((spool.stats().entries, spool.stats().parked), (2, 1));
    assert_eq!(spool.queues(None, 9).await.unwrap()[0].entries, 1);
    spool.close().await.unwrap();
    shell(killed.path()).execute("UPDATE entry SET parked = NULL", []).unwrap();
    let spool = DiskSpool::open(killed.path()).unwrap();
    assert_eq!(claimed(&spool, Class::Normal, 1).await, [1, 2].map(|n| sample(n).id));
}

#[tokio::test]
async fn without_room_for_the_index_a_spool_is_closed_and_opened_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let queues: Vec<_> =
        (0..2_000).map(|n| QueueName::new(&format!("{n}.{}.test", "long".repeat(12)))).collect();
    let born = queues.iter().zip(1..).map(|(queue, n)| {
        let mut message = sample(n);
        message.head = vec![b'x'; 3_000].into();
        message.entries[0].queue = queue.clone();
        message
    });
    spool.enqueue(born.collect(), LEASE).await.unwrap();
    let killed = killed(dir.path());
    // With the room that is kept for settlements this is less than it has: it grows no more.
    let mut full = DiskOptions::new();
    full.max_octets = Some(1);
    for clean in [false, true] {
        let spool = DiskSpool::open_with(killed.path(), full.clone()).unwrap();
        assert_eq!((spool.was_clean(), spool.stats().entries), (clean, 2_000));
        assert_eq!(spool.queues(None, 9_999).await.unwrap().len(), 2_000);
        spool.close().await.unwrap();
        assert!(listed(killed.path()).is_empty(), "there was room");
    }
    let spool = DiskSpool::open_with(killed.path(), full).unwrap();
    let mut settled = Vec::new();
    for queue in queues {
        let (class, now, lease) = (Class::Normal, Timestamp::from_millis(1), Timestamp::NEVER);
        let claims = spool.claim(ClaimRequest { queue, class, now, limit: 9, lease }).await.unwrap();
        settled.extend(claims.iter().map(remove));
    }
    assert_eq!(settled.len(), 2_000);
    assert_eq!(spool.settle(settled, Durability::Synced).await.unwrap(), []);
    assert_eq!(spool.stats(), Stats::default());
}

#[tokio::test]
async fn a_long_queue_of_it_is_gone_through_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    // More than are looked for by queue, so that all entries are gone through in order.
    spool.enqueue(samples(1..=10_001), Some(Timestamp::NEVER)).await.unwrap();
    let queue = || Selection::queue(QueueName::new("q.test"));
    let first = spool.scan(queue(), None, 99_999).await.unwrap();
    assert_eq!(first.len(), 10_000, "a page");
    let last = (first[9_999].message, first[9_999].entry);
    let rest = spool.scan(queue(), Some(last), 99_999).await.unwrap();
    assert_eq!(rest.iter().map(|entry| entry.message).collect::<Vec<_>>(), [sample(10_001).id]);
}
