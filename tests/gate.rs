//! Nothing is delivered by two nodes: a message whose lease has ended is not ended, however long the
//! connection or the process stood still in the middle of it. Two engines share a queue; the first cannot
//! extend its leases, and its peer stops reading.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

#[path = "kit/carry.rs"]
mod carry;
mod kit;
#[path = "gate/node.rs"]
mod node;
#[path = "kit/peer.rs"]
mod peer;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;

use postroad::attempt::{Job, Outcome, Report, RunEnd};
use postroad::clock::{Clock, Gate, Now, SystemClock, Timestamp};
use postroad::delivery::Engine;
use postroad::hop::Require;
use postroad::message::{Envelope, RawMessage};
use postroad::net::tls::ServerTls;
use postroad::route::Hosts;
use postroad::spool::{MemorySpool, Spool};

use carry::{big, job, options, run_at};
use node::{LEASE, Node, Stubborn, node};
use peer::{Peer, Talk, self_signed};

/// What a peer has seen of messages: the connections on which one was ended.
type Ended = Arc<Mutex<Vec<usize>>>;

/// A peer that on its first connection reads nothing for `stall`, in the middle of the first message, and
/// otherwise takes what it gets.
fn stalling(extensions: &'static str, tls: Option<ServerTls>, stall: Duration) -> (Peer, Ended) {
    let ended = Ended::default();
    let seen = Arc::clone(&ended);
    let peer = Peer::in_memory(WINDOW, move |mut talk: Talk| {
        let (tls, seen) = (tls.clone(), Arc::clone(&seen));
        async move {
            if let Some(tls) = &tls {
                talk.open("STARTTLS").await?;
                talk.until("STARTTLS").await?;
                talk.say("220 go").await;
                assert!(talk.secure(tls).await, "a handshake");
                talk.until("EHLO").await?;
                talk.extensions(extensions).await;
            } else {
                talk.open(extensions).await?;
            }
            let mut stall = Some(stall).filter(|_| talk.number == 1);
            loop {
                let line = talk.line().await?;
                let size = line.strip_prefix("BDAT ").and_then(|rest| rest.split(' ').next()?.parse().ok());
                match (&*line, size) {
                    ("DATA", _) => talk.say("354 go on").await,
                    (_, Some(_)) => {}
                    ("QUIT", _) => {
                        talk.say("221 bye").await;
                        return Some(());
                    }
                    _ => {
                        talk.say("250 ok").await;
                        continue;
                    }
                }
                if let Some(stall) = stall.take() {
                    sleep(stall).await;
                }
                match size {
                    Some(size) => drop(talk.octets(size).await?),
                    None => drop(talk.until(".").await?),
                }
                if size.is_none() || line.ends_with("LAST") {
                    seen.lock().unwrap().push(talk.number);
                }
                talk.say("250 taken").await;
            }
        }
    });
    (peer, ended)
}

fn message(octets: usize) -> RawMessage {
    let envelope = Envelope::parse("a@a.test", ["x@mx.test"]).unwrap();
    let line = [&[b'x'; 78][..], b"\r\n"].concat();
    let head = b"Subject: long\r\n\r\n".to_vec();
    RawMessage::new(envelope, [head, line.repeat(octets / 80)].concat())
}

/// Has a message of that size stall on its way from one node until its lease is over, and looks who ended
/// it, how often.
async fn taken_over(extensions: &'static str, tls: bool, octets: usize) -> Vec<usize> {
    let cert = tls.then(|| self_signed("mx.test"));
    let (peer, ended) = stalling(extensions, cert, LEASE * 3 / 2);
    let queue = MemorySpool::new();
    let stubborn = Stubborn::over(queue.clone());
    let (one, two): (Engine, Engine) = (node(&peer, stubborn).await, node(&peer, queue.clone()).await);
    let _ = one.submit(message(octets)).await.unwrap();
    sleep(LEASE * 3).await;
    assert_eq!(queue.stats().entries, 0, "settled: {extensions}, {octets} octets, TLS: {tls}");
    assert_eq!((one.stats().delivered, two.stats().delivered), (0, 1));
    one.shutdown(Duration::ZERO).await;
    two.shutdown(Duration::ZERO).await;
    ended.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_message_that_stalled_past_its_lease_is_left_to_the_node_that_took_it_over() {
    for (extensions, octets) in [
        // By DATA, in one flight, and in more than one.
        ("PIPELINING", 30_000),
        ("", 30_000),
        ("PIPELINING", 400_000),
        // By BDAT, in one chunk and in several.
        ("PIPELINING CHUNKING", 30_000),
        ("PIPELINING CHUNKING", 400_000),
        ("PIPELINING CHUNKING", 3_000_000),
    ] {
        for tls in [false, true] {
            let ended = taken_over(extensions, tls, octets).await;
            assert_eq!(ended, [2], "{extensions}, {octets} octets, TLS: {tls}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_spool_that_answers_late_extends_from_when_it_was_asked() {
    let (peer, ended) = stalling("PIPELINING", None, LEASE * 5 / 4);
    let queue = MemorySpool::new();
    // Asked at a third of the lease, answered at its end, and never again.
    let slow = Stubborn::answering_once(queue.clone(), LEASE * 2 / 3);
    let (one, two) = (node(&peer, slow).await, node(&peer, queue.clone()).await);
    let _ = one.submit(message(30_000)).await.unwrap();
    sleep(LEASE * 3).await;
    assert_eq!(*ended.lock().unwrap(), [2]);
    assert_eq!(one.stats().delivered + two.stats().delivered, 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_stalls_while_its_lease_is_extended_is_delivered() {
    let (peer, ended) = stalling("PIPELINING", None, LEASE * 5 / 2);
    let queue = MemorySpool::new();
    let (one, two) = (node(&peer, queue.clone()).await, node(&peer, queue.clone()).await);
    let receipt = one.submit(message(30_000)).await.unwrap();
    assert!(receipt.finished().await.is_complete());
    assert_eq!(*ended.lock().unwrap(), [1]);
    assert_eq!((one.stats().delivered, two.stats().delivered), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_lease_was_only_refused_for_a_while_goes_on_with_its_message() {
    let (peer, ended) = stalling("PIPELINING", None, LEASE * 3 / 2);
    let spool = Stubborn::over(MemorySpool::new());
    let one = node(&peer, spool.clone()).await;
    let receipt = one.submit(message(30_000)).await.unwrap();
    // Less than the lease; failed extensions are tried again soon.
    sleep(LEASE / 2).await;
    spool.relent();
    assert!(receipt.finished().await.is_complete());
    assert_eq!(*ended.lock().unwrap(), [1]);
}

/// A gate that the test shuts.
fn gate() -> Gate {
    let mono = SystemClock.mono() + Duration::from_secs(1 << 20);
    Gate::new(Arc::new(SystemClock), Now { mono, wall: Timestamp::NEVER })
}

/// Two messages in one flight, to a peer that reads the first, stops until the second's gate is shut, and
/// answers then.
async fn window(tls: bool, octets: usize) -> (RunEnd, Vec<Report>, usize) {
    let read = Arc::new(Semaphore::new(0));
    let (shut, seconds) = (gate(), Arc::new(Mutex::new(0)));
    let tls = tls.then(|| self_signed("mx.test"));
    let peer = {
        let (shut, read, seconds) = (shut.clone(), Arc::clone(&read), Arc::clone(&seconds));
        Peer::in_memory(WINDOW, move |mut talk: Talk| {
            let (shut, read, seconds, tls) =
                (shut.clone(), Arc::clone(&read), Arc::clone(&seconds), tls.clone());
            async move {
                if let Some(tls) = &tls {
                    talk.open("STARTTLS").await?;
                    talk.until("STARTTLS").await?;
                    talk.say("220 go").await;
                    assert!(talk.secure(tls).await, "a handshake");
                    talk.until("EHLO").await?;
                    talk.extensions("PIPELINING CHUNKING").await;
                } else {
                    talk.open("PIPELINING CHUNKING").await?;
                }
                let mut taken = 0;
                loop {
                    let line = talk.line().await?;
                    if let Some(rest) = line.strip_prefix("BDAT ") {
                        if taken == 1 {
                            shut.shut();
                            read.add_permits(1);
                        }
                        talk.octets(rest.split(' ').next()?.parse().unwrap()).await?;
                        taken += 1;
                        if taken == 2 {
                            *seconds.lock().unwrap() += 1;
                        }
                        // The first is answered only when the second could have been ended.
                        if taken == 1 {
                            sleep(Duration::from_secs(1)).await;
                        }
                    }
                    if line == "QUIT" {
                        return Some(());
                    }
                    talk.say("250 ok").await;
                }
            }
        })
    };
    let second = Job { gate: Some(shut), ..big(octets) };
    let carrier = carry::in_memory(&peer, options());
    let hosts = Hosts::new(vec![peer.host("mx.test")], Require::Opportunistic);
    let (end, list) =
        run_at(&carrier, &hosts, [Job { gate: Some(gate()), ..job(Require::Opportunistic) }, second]).await;
    let seconds = *seconds.lock().unwrap();
    (end, list.reports, seconds)
}

#[tokio::test(start_paused = true)]
async fn in_one_flight_each_message_has_its_own_gate() {
    for (tls, octets) in [(false, 30_000), (false, 200_000), (true, 200_000)] {
        let (end, reports, seconds) = window(tls, octets).await;
        assert_eq!(seconds, 0, "the second was ended");
        assert_eq!(end, RunEnd::Lost);
        assert!(
            matches!(&reports[0], Report::Outcomes(all) if matches!(all[0], Outcome::Delivered(_))),
            "{reports:?}"
        );
        assert_eq!(reports[1], Report::NotAttempted);
    }
}

#[tokio::test(start_paused = true)]
async fn what_tls_holds_back_of_an_end_does_not_leave_when_the_gate_is_shut() {
    // The whole of it fits into what the TLS session buffers: only breaking off helps.
    let (end, reports, seconds) = window(true, 30_000).await;
    assert_eq!((end, seconds), (RunEnd::Lost, 0));
    assert_eq!(reports[1], Report::NotAttempted);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_asked_too_late_does_not_keep_the_message() {
    // Nothing of this needs a peer, but an engine wants one.
    let (peer, _) = stalling("", None, Duration::ZERO);
    let queue = MemorySpool::new();
    let (store, stored) = node::slow_store(LEASE * 3 / 2);
    let one = Node::new(&peer, Stubborn::over(queue.clone())).store(Arc::clone(&store)).start().await;
    let two = Node::new(&peer, queue.clone()).store(store).start().await;
    let envelope = Envelope::parse("a@a.test", ["x@here.test"]).unwrap();
    let _ = one.submit(RawMessage::new(envelope, &b"Subject: x\r\n\r\nx\r\n"[..])).await.unwrap();
    sleep(LEASE * 4).await;
    assert_eq!(stored.lock().unwrap().len(), 1);
    assert_eq!((one.stats().delivered, two.stats().delivered), (0, 1));
    assert_eq!(queue.stats().entries, 0);
}

/// Octets in flight. With this much, and a TLS record, on the way, no message here is there in whole.
const WINDOW: usize = 4096;
