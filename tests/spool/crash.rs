//! Killing the process that owns a spool loses nothing that was acknowledged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use postroad::clock::{Clock, Rng, SystemClock, Timestamp};
use postroad::message::MessageId;
use postroad::spool::{DiskOptions, DiskSpool, Durability, NewBody, Selection, Spool, contract};

const DIR: &str = "POSTROAD_TEST_CRASH_SPOOL";

/// Not a test by itself: the process that is killed. It says `+` when a message is acknowledged, `?`
/// before it settles one and `-` when that is acknowledged; and `moved` when bodies were copied out of a file
/// with little else in it. Files are small here, so that this goes on all the time.
#[test]
fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = DiskOptions::new();
        options.segment_octets = 256 << 10;
        let spool = Arc::new(DiskSpool::open_with(dir, options).unwrap());
        let rng = Rng::from_entropy();
        for _ in 0..8 {
            let (spool, rng) = (Arc::clone(&spool), rng.clone());
            tokio::spawn(async move {
                loop {
                    let id = MessageId::new(SystemClock.now().wall, &rng);
                    let mut message = contract::sample(1);
                    message.id = id;
                    message.body = if is_large(id) || rng.below(40) == 0 {
                        let mut writer = spool.stage().await.unwrap();
                        for part in body(id).chunks(100_000) {
                            writer.write(part.to_vec().into()).await.unwrap();
                        }
                        NewBody::Staged(writer.finish().await.unwrap())
                    } else {
                        NewBody::Inline(body(id).into())
                    };
                    let claims = spool.enqueue(vec![message], Some(Timestamp::NEVER)).await.unwrap().claims;
                    say('+', id);
                    if rng.below(8) != 0 {
                        say('?', id);
                        let done = claims.iter().map(contract::remove).collect();
                        let soon = if rng.below(2) == 0 { Durability::Soon } else { Durability::Synced };
                        assert_eq!(spool.settle(done, soon).await.unwrap(), []);
                        say('-', id);
                    }
                    if spool.counters().moved > 0 {
                        println!("moved");
                    }
                }
            });
        }
        std::future::pending::<()>().await;
    });
}

fn say(what: char, id: MessageId) {
    let line = format!("{what} {id}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// One in 32 is large enough for a file of its own, most of the time.
fn is_large(id: MessageId) -> bool {
    id.to_octets()[14] < 8
}

/// A body that can be told from its id, of 0 to 2,000,000 octets.
fn body(id: MessageId) -> Vec<u8> {
    let octets = id.to_octets();
    let size = usize::from(octets[15]) * if is_large(id) { 8000 } else { 60 };
    octets.iter().copied().cycle().take(size).collect()
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("spool");
    let mut said = BTreeMap::new();
    let mut moved = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::the_process_that_is_killed", "--exact", "--nocapture", "--test-threads=1"])
            .env(DIR, &dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        // Killed in the middle of its work, each time elsewhere.
        while let Some(Ok(line)) = lines.next() {
            moved += usize::from(line == "moved");
            let Some((what, id)) = line.split_once(' ') else { continue };
            let (Ok(id), Some(what @ ('+' | '?' | '-'))) = (id.parse::<MessageId>(), what.chars().next())
            else {
                continue;
            };
            said.insert(id, what);
            heard += 1;
            if heard == 600 + 137 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(heard >= 600 + 137 * round, "the child worked until it was killed");

        let spool = DiskSpool::open(&dir).unwrap();
        assert!(!spool.was_clean());
        for (id, what) in &said {
            let entries = spool.scan(Selection::message(*id), None, usize::MAX).await.unwrap();
            match what {
                '+' => assert_eq!(entries.len(), 1, "{id} is lost"),
                '-' => assert_eq!(entries.len(), 0, "{id} came back"),
                _ => {}
            }
        }
        // Also what was stored and not yet acknowledged is whole.
        let mut after = None;
        let mut seen = 0;
        let request = |lease| postroad::spool::ClaimRequest {
            class: postroad::spool::Class::Normal,
            queue: postroad::spool::QueueName::new("q.test"),
            now: SystemClock.now().wall,
            limit: 10_000,
            lease,
        };
        for claim in spool.claim(request(Timestamp::NEVER)).await.unwrap() {
            let octets = contract::octets(&spool, &claim.body).await.unwrap();
            assert_eq!(octets, body(claim.token.message), "{} is damaged", claim.token.message);
            seen += 1;
        }
        loop {
            let page = spool.scan(Selection::all(), after, 1000).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some((last.message, last.entry));
            seen -= page.len();
        }
        assert_eq!(seen, 0, "what is listed can be claimed");
        // Dropped without closing: the next round's process opens what this one leaves.
        drop(spool);
    }
    assert!(moved > 0, "it was also killed while bodies were moved");
}
