//! The server dies and comes back.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad::clock::{Clock, Rng, SystemClock, Timestamp};
use postroad::message::MessageId;
use postroad::spool::{Durability, NewBody, PostgresSpool, Selection, Spool, SpoolError, contract};

use super::cluster::Cluster;
use super::options;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    // One of its own: the others' would die with it.
    let Some(cluster) = Cluster::start() else { return };
    let spool = PostgresSpool::connect(&cluster.url(), options(&cluster)).await.unwrap();
    let said = Arc::new(Mutex::new((HashSet::new(), HashSet::new())));
    let producers: Vec<_> = (0..16_u64)
        .map(|seed| {
            let (spool, said) = (spool.clone(), Arc::clone(&said));
            tokio::spawn(async move {
                let rng = Rng::seeded(seed);
                loop {
                    let id = MessageId::new(SystemClock.now().wall, &rng);
                    let large = rng.below(20) == 0;
                    let claims = loop {
                        let mut message = contract::sample(1);
                        message.id = id;
                        let body: Vec<u8> = id.to_octets().repeat(if large { 40_000 } else { 400 });
                        message.body = NewBody::Inline(body.into());
                        match spool.enqueue(vec![message], Some(Timestamp::NEVER)).await {
                            Ok(enqueued) => break enqueued.claims,
                            Err(SpoolError::Unknown(_) | SpoolError::Storage(_)) => {}
                            Err(error) => panic!("{error}"),
                        }
                    };
                    said.lock().unwrap().0.insert(id);
                    // Every third is delivered; one whose answer was lost came without its claim.
                    if rng.below(3) == 0 && !claims.is_empty() {
                        said.lock().unwrap().0.remove(&id);
                        let done: Vec<_> = claims.iter().map(contract::remove).collect();
                        if let Ok(fenced) = spool.settle(done, Durability::Synced).await {
                            assert_eq!(fenced, []);
                            said.lock().unwrap().1.insert(id);
                        }
                    }
                }
            })
        })
        .collect();
    let acknowledged = || said.lock().unwrap().0.len();
    for _ in 0..3 {
        let enough = acknowledged() + 150;
        until(|| acknowledged() >= enough).await;
        cluster.kill();
        cluster.begin();
        // The same handle goes on.
        let more = acknowledged() + 20;
        until(|| acknowledged() >= more).await;
    }
    producers.iter().for_each(tokio::task::JoinHandle::abort);
    for producer in producers {
        let _ = producer.await;
    }
    spool.flush().await.unwrap();
    let (kept, gone) = said.lock().unwrap().clone();
    let there = spool.scan(Selection::all(), None, usize::MAX).await.unwrap();
    let there: HashSet<_> = there.iter().map(|entry| entry.message).collect();
    assert_eq!(kept.difference(&there).collect::<Vec<_>>(), Vec::<&MessageId>::new(), "lost");
    assert_eq!(gone.intersection(&there).collect::<Vec<_>>(), Vec::<&MessageId>::new(), "came back");
    println!("{} acknowledged, {} settled, 3 crashes", kept.len(), gone.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_is_said_to_be_and_found_again() {
    let Some(cluster) = Cluster::start() else { return };
    let spool = PostgresSpool::connect(&cluster.url(), options(&cluster)).await.unwrap();
    spool.enqueue(vec![contract::sample(1)], None).await.unwrap();
    cluster.kill();
    let error = spool.enqueue(vec![contract::sample(2)], None).await.unwrap_err();
    assert!(matches!(error, SpoolError::Storage(_) | SpoolError::Unknown(_)), "{error}");
    let error = spool.scan(Selection::all(), None, 9).await.unwrap_err();
    assert!(matches!(error, SpoolError::Storage(_)), "{error}");
    cluster.begin();
    spool.enqueue(vec![contract::sample(2)], None).await.unwrap();
    assert_eq!(spool.scan(Selection::all(), None, 9).await.unwrap().len(), 2);
}

async fn until(done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it goes on");
}
