//! Several nodes on one queue.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use postroad::clock::{Clock, Rng, SystemClock, Timestamp};
use postroad::message::MessageId;
use postroad::smtp::address::Domain;
use postroad::spool::{
    Claim, ClaimRequest, Class, Durability, Key, LogEvent, LogKind, NewMessage, PostgresOptions,
    PostgresSpool, QueueName, Selection, Spool, SpoolError, contract,
};

use super::cluster::Cluster;
use super::options;

/// Two nodes on one schema.
async fn pair(change: impl Fn(&mut PostgresOptions)) -> Option<(PostgresSpool, PostgresSpool)> {
    let cluster = Cluster::shared()?;
    let mut options = options(cluster);
    change(&mut options);
    let one = PostgresSpool::connect(&cluster.url(), options.clone()).await.unwrap();
    let two = PostgresSpool::connect(&cluster.url(), options).await.unwrap();
    Some((one, two))
}

async fn claim(spool: &PostgresSpool, now: u64, limit: usize, lease: u64) -> Vec<Claim> {
    let at = Timestamp::from_millis;
    let queue = QueueName::new("q.test");
    let request = ClaimRequest { queue, class: Class::Normal, now: at(now), limit, lease: at(lease) };
    spool.claim(request).await.unwrap()
}

fn fresh(rng: &Rng) -> NewMessage {
    let mut message = contract::sample(1);
    message.id = MessageId::new(SystemClock.now().wall, rng);
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_claimed_by_two_nodes() {
    let Some((one, two)) = pair(|_| {}).await else { return };
    assert!(one.is_shared());
    let rng = Rng::seeded(1);
    let batch: Vec<_> = (0..600).map(|_| fresh(&rng)).collect();
    let stored: HashSet<_> = batch.iter().map(|message| message.id).collect();
    one.enqueue(batch, None).await.unwrap();
    let claims: Vec<_> = [&one, &two, &one, &two]
        .into_iter()
        .map(|spool| {
            let spool = spool.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let some = claim(&spool, 100, 7, 5_000).await;
                    if some.is_empty() {
                        return mine;
                    }
                    mine.extend(some.iter().map(|claim| claim.token.message));
                }
            })
        })
        .collect();
    let mut all = HashSet::new();
    for task in claims {
        for message in task.await.unwrap() {
            assert!(all.insert(message), "{message} was claimed twice");
        }
    }
    // What one passed over because the other had it locked for a moment is found by asking again.
    all.extend(claim(&one, 100, 1000, 5_000).await.iter().map(|claim| claim.token.message));
    assert_eq!(all, stored);
}

#[tokio::test]
async fn what_a_dead_node_had_claimed_is_taken_over_after_its_lease() {
    let Some((one, two)) = pair(|_| {}).await else { return };
    one.enqueue(vec![contract::sample(1)], None).await.unwrap();
    let late = claim(&one, 100, 9, 1_000).await.remove(0);
    assert!(claim(&two, 999, 9, 2_000).await.is_empty(), "its lease holds");
    let taken = claim(&two, 1_000, 9, 2_000).await.remove(0);
    assert_eq!(taken.token.message, late.token.message);
    // The first was not dead, only slow.
    let fenced = one.settle(vec![contract::remove(&late)], Durability::Synced).await.unwrap();
    assert_eq!(fenced, [late.token]);
    assert_eq!(one.extend(vec![late.token], Timestamp::NEVER).await.unwrap(), [late.token]);
    assert_eq!(contract::octets(&two, &taken.body).await.unwrap(), &b"Subject: x\r\n\r\nHello.\r\n"[..]);
    assert_eq!(two.settle(vec![contract::remove(&taken)], Durability::Synced).await.unwrap(), []);
    assert!(one.scan(Selection::all(), None, 9).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_wakes_the_other_node_long_before_it_polls() {
    let minute = Duration::from_secs(60);
    let Some((one, two)) = pair(|options| options.poll = minute).await else { return };
    // Once it hears, it says so.
    two.wait(minute).await;
    let rng = Rng::seeded(2);
    let mut shortest = minute;
    for _ in 0..5 {
        let began = Instant::now();
        one.enqueue(vec![fresh(&rng)], None).await.unwrap();
        two.wait(minute).await;
        shortest = shortest.min(began.elapsed());
        // Its own mail is no news.
        let own = tokio::time::timeout(Duration::from_millis(100), two.wait(minute));
        two.enqueue(vec![fresh(&rng)], Some(Timestamp::NEVER)).await.unwrap();
        assert!(own.await.is_err());
    }
    assert!(shortest < Duration::from_secs(5), "{shortest:?}");
    println!("the other node knew after {shortest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_finds_what_nobody_told() {
    let Some((one, two)) = pair(|options| {
        options.notify = None;
        options.poll = Duration::from_millis(50);
    })
    .await
    else {
        return;
    };
    one.enqueue(vec![contract::sample(1)], None).await.unwrap();
    let found = async {
        loop {
            two.wait(Duration::from_secs(60)).await;
            if !claim(&two, 100, 9, 1_000).await.is_empty() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_at_two_nodes_at_once_is_one_message() {
    let Some((one, two)) = pair(|_| {}).await else { return };
    let rng = Rng::seeded(3);
    let keyed = |name: u32, digest: u8| {
        let mut message = fresh(&rng);
        message.key = Key::new(None, &format!("order {name}"), [digest; 32], Timestamp::NEVER).ok();
        message
    };
    for round in 0..20 {
        let (a, b) = (keyed(round, 1), keyed(round, 1));
        let ids = [a.id, b.id];
        let (a, b) = tokio::join!(one.enqueue(vec![a], None), two.enqueue(vec![b], None));
        let known: Vec<_> = a.unwrap().known.into_iter().chain(b.unwrap().known).collect();
        assert_eq!(known.len(), 1);
        assert!(ids.contains(&known[0].given) && ids.contains(&known[0].stored));
        assert_ne!(known[0].given, known[0].stored);
    }
    let conflict = one.enqueue(vec![keyed(99, 1), keyed(3, 2)], None).await;
    assert!(matches!(conflict, Err(SpoolError::KeyConflict)));
    // Also when two batches bring the same keys the other way round.
    for round in 100..110 {
        let there = || vec![keyed(round, 1), keyed(round + 1000, 1)];
        let back = || vec![keyed(round + 1000, 1), keyed(round, 1)];
        let (a, b) = tokio::join!(one.enqueue(there(), None), two.enqueue(back(), None));
        assert_eq!(a.unwrap().known.len() + b.unwrap().known.len(), 2);
    }
    let all = one.scan(Selection::all(), None, 9999).await.unwrap();
    assert_eq!(all.len(), 20 + 2 * 10, "the message beside the conflict was not stored either");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_appears_in_the_log_behind_what_was_read() {
    let Some((one, two)) = pair(|_| {}).await else { return };
    let rng = Rng::seeded(4);
    let logged = |rng: &Rng| {
        let mut message = fresh(rng);
        let event = |attempt| LogEvent {
            at: Timestamp::from_millis(7),
            message: message.id,
            entry: None,
            kind: LogKind::Accepted,
            recipient: None,
            attempt,
            note: Some("a\0b".into()),
        };
        message.log = vec![event(1), event(2)];
        message
    };
    let writers: Vec<_> = (0..8)
        .map(|n| {
            let (spool, rng) = (if n % 2 == 0 { one.clone() } else { two.clone() }, rng.clone());
            tokio::spawn(async move {
                let mut written = Vec::new();
                for _ in 0..25 {
                    let message = logged(&rng);
                    written.push(message.id);
                    spool.enqueue(vec![message], None).await.unwrap();
                }
                written
            })
        })
        .collect();
    // Reads as it goes and never looks back.
    let (mut read, mut after, mut pages) = (Vec::new(), 0, 0);
    while read.len() < 2 * 8 * 25 {
        assert!(pages < 20_000, "{} of the log were found", read.len());
        pages += 1;
        let page = two.log(after, 17).await.unwrap();
        for logged in page {
            assert!(logged.number > after);
            after = logged.number;
            assert_eq!(logged.event.note.as_deref(), Some("a\u{fffd}b"));
            read.push((logged.event.message, logged.event.attempt));
        }
        tokio::task::yield_now().await;
    }
    let mut written = HashSet::new();
    for writer in writers {
        written.extend(writer.await.unwrap().into_iter().flat_map(|id| [(id, 1), (id, 2)]));
    }
    assert_eq!(read.iter().copied().collect::<HashSet<_>>(), written);
    for two in read.chunks(2) {
        assert!(two[0].0 == two[1].0 && (two[0].1, two[1].1) == (1, 2), "in the order given");
    }
}

#[tokio::test]
async fn settlements_of_one_message_at_two_nodes_leave_nothing() {
    let Some((one, two)) = pair(|_| {}).await else { return };
    let rng = Rng::seeded(5);
    for _ in 0..20 {
        let mut message = fresh(&rng);
        let entry = message.entries[0].clone();
        for n in 0..5 {
            let destination = Domain::parse(&format!("d{n}.test")).unwrap();
            message.entries.push(postroad::spool::NewEntry { destination, ..entry.clone() });
        }
        one.enqueue(vec![message], None).await.unwrap();
        let (a, b) = (claim(&one, 100, 3, 1_000).await, claim(&two, 100, 3, 1_000).await);
        let settle = |claims: Vec<Claim>| claims.iter().rev().map(contract::remove).collect::<Vec<_>>();
        let (a, b) = tokio::join!(
            one.settle(settle(a), Durability::Synced),
            two.settle(settle(b), Durability::Synced)
        );
        assert_eq!((a.unwrap(), b.unwrap()), (vec![], vec![]));
    }
    let cluster = Cluster::shared().unwrap();
    drop((one, two, cluster));
}
