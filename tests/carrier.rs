//! Runs: connections used again and changed, hosts tried in order, content given as it is.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "kit/carry.rs"]
mod carry;
#[path = "kit/peer.rs"]
mod peer;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use postroad::BoxFuture;
use postroad::attempt::{Cause, ConnectFault, Job, Outcome, Phase, Report, RunEnd};
use postroad::clock::SystemClock;
use postroad::hop::{Demand, Host, PolicyKind, Refused, Require};
use postroad::net::connect::{Connect, ConnectError, Io, Opened};
use postroad::route::Hosts;
use postroad::smtp::address::Domain;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use carry::{big, carrier_with, in_memory, job, options, over_tcp, rcpts, run, run_at, streamed, taker};
use peer::{Authority, Peer, Talk};

// The pool

#[tokio::test]
async fn a_connection_is_used_again() {
    let peer = Peer::on_tcp(taker()).await;
    let carrier = over_tcp(None);
    for _ in 0..3 {
        let jobs = [job(Require::Opportunistic), job(Require::Opportunistic)];
        let (end, work) = run(&carrier, &peer, Require::Opportunistic, jobs).await;
        assert_eq!((end, work.delivered()), (RunEnd::Drained, 2));
    }
    assert_eq!((peer.connections(), peer.count("MAIL"), carrier.usage().idle), (1, 6, 1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_died_idle_is_found_before_it_is_used() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.open("PIPELINING").await;
        talk.take(1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        talk.say("421 4.4.2 idle too long").await;
    });
    let carrier = in_memory(&peer, options());
    for _ in 0..2 {
        let (_, work) = run(&carrier, &peer, Require::Opportunistic, [job(Require::Opportunistic)]).await;
        assert_eq!(work.delivered(), 1, "{:?}", work.reports);
        assert_eq!(carrier.usage().idle, 1);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(peer.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_say_goodbye() {
    let peer = Peer::in_memory(65536, taker());
    let carrier = in_memory(&peer, options());
    drop(run(&carrier, &peer, Require::Opportunistic, [job(Require::Opportunistic)]).await);
    assert_eq!(peer.count("QUIT"), 0);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((peer.count("QUIT"), carrier.usage().open), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_worn_connection_is_changed_within_a_run() {
    let peer = Peer::in_memory(65536, taker());
    let mut options = options();
    options.limits.uses = 3;
    let carrier = in_memory(&peer, options);
    let jobs = std::iter::repeat_with(|| job(Require::Opportunistic)).take(7);
    let (end, work) = run(&carrier, &peer, Require::Opportunistic, jobs).await;
    assert_eq!((end, work.delivered(), peer.connections()), (RunEnd::Drained, 7, 3));
}

#[tokio::test]
async fn a_connection_carries_one_message_at_least_however_small_the_limits() {
    for (uses, age) in [(0, 300), (100, 0)] {
        let peer = Peer::in_memory(65536, taker());
        let mut options = options();
        (options.limits.uses, options.limits.age) = (uses, Duration::from_secs(age));
        let carrier = in_memory(&peer, options);
        let jobs = (0..3).map(|_| job(Require::Opportunistic));
        let run = run(&carrier, &peer, Require::Opportunistic, jobs);
        let (end, work) = tokio::time::timeout(Duration::from_secs(10), run).await.expect("an end");
        assert_eq!((end, work.delivered(), peer.connections()), (RunEnd::Drained, 3, 3));
        assert_eq!(carrier.usage().open, 0);
    }
}

#[tokio::test]
async fn a_stricter_job_gets_a_stricter_connection() {
    let authority = Authority::new();
    let tls = authority.issue("mx.test", 2030);
    let peer = Peer::on_tcp(move |mut talk: Talk| {
        let tls = tls.clone();
        async move {
            // The first connection is in clear, as if somebody had stripped STARTTLS.
            if talk.number == 1 {
                talk.open("PIPELINING").await;
                talk.take(9).await;
            } else {
                talk.take_with_tls(&tls).await;
            }
        }
    })
    .await;
    let jobs = [Require::Opportunistic, Require::Verified, Require::Opportunistic].map(job);
    let carrier = over_tcp(Some(&authority));
    let (end, work) = run(&carrier, &peer, Require::Opportunistic, jobs).await;
    assert_eq!((end, work.delivered(), peer.connections()), (RunEnd::Drained, 3, 2));
    let tls: Vec<_> = work
        .reports
        .iter()
        .map(|report| match report {
            Report::Outcomes(o) => matches!(&o[0], Outcome::Delivered(a) if a.tls.is_some()),
            Report::NotAttempted => panic!(),
        })
        .collect();
    assert!(!tls[0] && tls[1], "{tls:?}");
}

#[tokio::test]
async fn a_job_that_no_connection_is_good_enough_for_does_not_stop_the_others() {
    let peer = Peer::on_tcp(taker()).await;
    let jobs = [Require::Opportunistic, Require::Verified, Require::Opportunistic].map(job);
    let (end, work) = run(&over_tcp(None), &peer, Require::Opportunistic, jobs).await;
    assert_eq!((end, work.delivered(), work.reports.len()), (RunEnd::Drained, 2, 3));
    let refused = Report::Outcomes(vec![Outcome::Deferred(Cause::Tls {
        host: Arc::new(peer.host("mx.test")),
        demand: Demand::Verified(PolicyKind::Own),
        refused: Refused::NoTls,
        seen: None,
    })]);
    assert_eq!(work.reports[1], refused);
}

// Hosts

#[tokio::test]
async fn the_next_host_is_tried_after_a_busy_one() {
    let busy = Peer::on_tcp(|mut talk: Talk| async move { talk.say("421 4.3.2 too busy").await }).await;
    let free = Peer::on_tcp(taker()).await;
    let hosts = Hosts::new(vec![busy.host("mx1.test"), free.host("mx2.test")], Require::Opportunistic);
    let carrier = over_tcp(None);
    let (end, work) = run_at(&carrier, &hosts, [job(Require::Opportunistic)]).await;
    assert_eq!((end, work.delivered()), (RunEnd::Drained, 1));
    carrier.close_idle();

    let hosts = Hosts::new(vec![busy.host("mx1.test")], Require::Opportunistic);
    let (end, _) = run_at(&carrier, &hosts, [job(Require::Opportunistic)]).await;
    let RunEnd::Unreachable(Cause::Reply { phase: Phase::Greeting, reply, .. }) = end else {
        panic!("{end:?}")
    };
    assert_eq!(reply.code(), 421);
}

#[tokio::test]
async fn a_temporary_cause_outweighs_a_permanent_one() {
    let never = Peer::on_tcp(|mut talk: Talk| async move { talk.say("554 no mail here").await }).await;
    let mut gone = never.host("mx2.test");
    gone.addresses = vec!["127.0.0.77".parse().unwrap()];
    let hosts = Hosts::new(vec![never.host("mx1.test"), gone], Require::Opportunistic);
    let (end, _) = run_at(&over_tcp(None), &hosts, [job(Require::Opportunistic)]).await;
    assert!(
        matches!(end, RunEnd::Unreachable(Cause::Connect { fault: ConnectFault::Refused, .. })),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_run_tries_five_addresses_and_two_of_a_host_before_more_of_it() {
    #[derive(Debug, Default)]
    struct BlackHole(std::sync::Mutex<Vec<Host>>);
    impl Connect for BlackHole {
        fn connect<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
            self.0.lock().unwrap().push(host.clone());
            Box::pin(async { Err(ConnectError::TimedOut) })
        }
    }
    let host = |name: &str, addresses: std::ops::Range<u8>| {
        let addresses = addresses.map(|n| [192, 0, 2, n].into()).collect();
        Host::new(Domain::parse(name).unwrap(), 25).with_addresses(addresses)
    };
    let hosts = vec![host("mx1.test", 0..9), host("mx2.test", 10..12), host("mx3.test", 20..29)];
    let hole = Arc::new(BlackHole::default());
    let carrier = carrier_with(options(), hole.clone(), None, Arc::new(SystemClock));
    let hosts = Hosts::new(hosts, Require::Opportunistic);
    let (end, _) = run_at(&carrier, &hosts, [job(Require::Opportunistic)]).await;
    assert!(matches!(end, RunEnd::Unreachable(_)), "{end:?}");
    let tried: Vec<_> =
        hole.0.lock().unwrap().iter().map(|host| (host.name.to_string(), host.addresses.len())).collect();
    assert_eq!(tried, [("mx1.test".into(), 2), ("mx2.test".into(), 2), ("mx3.test".into(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_breaks_under_pipelining_is_spoken_to_slowly() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.open("PIPELINING").await;
        // Dies of more than one command at a time.
        while let Some(line) = talk.line().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if line == "DATA" {
                talk.say("354 go").await;
                talk.until(".").await;
                talk.say("250 taken").await;
            } else if talk.has_more().await {
                return;
            } else {
                talk.say("250 ok").await;
            }
        }
    });
    let carrier = in_memory(&peer, options());
    let (end, work) = run(&carrier, &peer, Require::Opportunistic, [job(Require::Opportunistic)]).await;
    assert_eq!((end, &work.reports[..]), (RunEnd::Lost, &[Report::NotAttempted][..]));
    let (end, work) = run(&carrier, &peer, Require::Opportunistic, [job(Require::Opportunistic)]).await;
    assert_eq!((end, work.delivered()), (RunEnd::Drained, 1));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_never_answers_mail_or_talks_nonsense_costs_an_attempt() {
    for (said, expected) in [(None, ConnectFault::TimedOut), (Some("hello?\n250 ok"), ConnectFault::Protocol)]
    {
        for (extensions, untried) in [("", 0), ("PIPELINING", 1)] {
            let peer = Peer::in_memory(65536, move |mut talk: Talk| async move {
                talk.open(extensions).await;
                talk.until("MAIL").await;
                if let Some(said) = said {
                    talk.say(said).await;
                }
                talk.freeze().await;
            });
            let carrier = in_memory(&peer, options());
            // Pipelining may be what broke it, once.
            for _ in 0..untried {
                let (_, work) =
                    run(&carrier, &peer, Require::Opportunistic, [job(Require::Opportunistic)]).await;
                assert_eq!(work.reports, [Report::NotAttempted], "{extensions}");
            }
            let (end, work) =
                run(&carrier, &peer, Require::Opportunistic, [job(Require::Opportunistic)]).await;
            assert_eq!(end, RunEnd::Lost);
            let Outcome::Deferred(Cause::Connect { fault, .. }) = carry::first(&work) else { panic!() };
            assert_eq!(*fault, expected, "{extensions}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_job_that_a_host_went_silent_on_was_attempted() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.open("PIPELINING CHUNKING").await;
        talk.take(1).await;
        talk.freeze().await;
    });
    let jobs = || [job(Require::Opportunistic), big(1_000_000)];
    let (_, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, jobs()).await;
    assert_eq!((work.delivered(), work.reports.len()), (1, 2));
    assert!(matches!(&work.reports[1], Report::Outcomes(_)), "{:?}", work.reports);
    let silent = Peer::in_memory(1 << 16, |mut talk: Talk| async move {
        talk.open("PIPELINING CHUNKING").await;
        talk.until("Hello").await;
        talk.freeze().await;
    });
    let (_, work) = run(&in_memory(&silent, options()), &silent, Require::Opportunistic, jobs()).await;
    let Outcome::Deferred(Cause::Unknown { .. }) = carry::first(&work) else { panic!("{:?}", work.reports) };
    assert_eq!(work.reports[1], Report::NotAttempted);
}

#[tokio::test(start_paused = true)]
async fn the_next_transaction_stands_behind_large_content_and_where_wanted_behind_a_dot() {
    let large = || streamed(100_000, (0..2).map(|_| Ok(Bytes::from(vec![b'x'; 50_000]))).collect());
    let small = || job(Require::Opportunistic);
    let table: [(&str, bool, &dyn Fn() -> Job, bool); 3] = [
        ("PIPELINING CHUNKING", false, &large, true),
        ("PIPELINING", true, &small, true),
        ("PIPELINING", false, &small, false),
    ];
    for (extensions, chain, job, expected) in table {
        let chained = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&chained);
        let peer = Peer::in_memory(1 << 20, move |mut talk: Talk| {
            let seen = Arc::clone(&seen);
            async move {
                talk.open(extensions).await;
                while let Some(line) = talk.line().await {
                    if line.starts_with("BDAT") {
                        talk.octets(100_000).await;
                    } else if line == "DATA" {
                        talk.say("354 go").await;
                        talk.until(".").await;
                    } else {
                        talk.say("250 ok").await;
                        continue;
                    }
                    seen.fetch_add(u64::from(talk.has_more().await), Ordering::SeqCst);
                    talk.say("250 taken").await;
                }
            }
        });
        let mut options = options();
        options.client.session.chain = chain;
        let carrier = in_memory(&peer, options);
        let (end, work) = run(&carrier, &peer, Require::Opportunistic, [job(), job()]).await;
        assert_eq!((end, work.delivered()), (RunEnd::Drained, 2));
        assert_eq!(chained.load(Ordering::SeqCst) > 0, expected, "{extensions} {chain}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_refused_a_chain_gets_one_transaction_at_a_time() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.open("PIPELINING CHUNKING").await;
        while let Some(line) = talk.line().await {
            let Some(size) = line.strip_prefix("BDAT ").and_then(|rest| rest.strip_suffix(" LAST")) else {
                talk.say("250 ok").await;
                continue;
            };
            talk.octets(size.parse().unwrap()).await;
            let chained = talk.has_more().await;
            talk.say("250 taken").await;
            if chained {
                talk.until("BDAT").await;
                talk.octets(size.parse().unwrap()).await;
                talk.say("503 no\n503 no\n503 no\n503 no").await;
            }
        }
    });
    let carrier = in_memory(&peer, options());
    let jobs = || [job(Require::Opportunistic), job(Require::Opportunistic)];
    let (_, work) = run(&carrier, &peer, Require::Opportunistic, jobs()).await;
    assert_eq!((work.delivered(), &work.reports[1]), (1, &Report::NotAttempted));
    let (_, work) = run(&carrier, &peer, Require::Opportunistic, jobs()).await;
    assert_eq!(work.delivered(), 2);
}

/// Counts the writes that reach the transport.
#[derive(Debug)]
struct Counting(Peer, Arc<AtomicU64>);

struct Counted(Box<dyn Io>, Arc<AtomicU64>);

impl Connect for Counting {
    fn connect<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        Box::pin(async move {
            let opened = self.0.connect(host).await?;
            Ok(Opened::new(Counted(opened.io, Arc::clone(&self.1))))
        })
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, to)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write(cx, from)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write_vectored(cx, from)
    }
    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_flight_is_one_write() {
    // Without CHUNKING a message takes two flights: the envelope, and the content with its dot.
    for (extensions, octets, most) in [
        ("PIPELINING CHUNKING", 1000, 10),
        ("PIPELINING CHUNKING", 100_000, 10),
        ("PIPELINING", 1000, 20),
        ("PIPELINING", 100_000, 20),
    ] {
        let peer = Peer::in_memory(1 << 20, move |mut talk: Talk| async move {
            talk.open(extensions).await;
            talk.take(99).await;
        });
        let writes = Arc::new(AtomicU64::new(0));
        let connect = Arc::new(Counting(peer.clone(), Arc::clone(&writes)));
        let carrier = carrier_with(options(), connect, None, Arc::new(SystemClock));
        let jobs = std::iter::repeat_with(|| big(octets)).take(10);
        let (_, work) = run(&carrier, &peer, Require::Opportunistic, jobs).await;
        assert_eq!(work.delivered(), 10);
        // One more for EHLO.
        let writes = writes.load(Ordering::SeqCst);
        assert!(writes <= most + 1, "{extensions}, {octets} octets: {writes} writes");
    }
}

// Content and recipients

#[tokio::test(start_paused = true)]
async fn a_refused_recipient_does_not_stop_the_others() {
    let peer = Peer::in_memory(65536, taker());
    let both = Job { recipients: rcpts(&["r@mx.test", "no@mx.test"]), ..job(Require::Opportunistic) };
    let (_, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, [both]).await;
    let Report::Outcomes(outcomes) = &work.reports[0] else { panic!() };
    assert!(matches!(outcomes[0], Outcome::Delivered(_)));
    assert!(matches!(outcomes[1], Outcome::Failed(Cause::Reply { phase: Phase::Rcpt, .. })));
}

#[tokio::test(start_paused = true)]
async fn streamed_content_arrives_whole() {
    for extensions in ["", "PIPELINING", "PIPELINING CHUNKING"] {
        let peer = Peer::in_memory(100, move |mut talk: Talk| async move {
            talk.open(extensions).await;
            talk.take(9).await;
        });
        let pieces =
            || vec![Ok(Bytes::from_static(b"Subject: x\r\n\r")), Ok(Bytes::from_static(b"\nHello\r\n"))];
        let jobs = [streamed(21, pieces()), streamed(21, pieces())];
        let (end, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, jobs).await;
        assert_eq!((end, work.delivered()), (RunEnd::Drained, 2), "{extensions}");
    }
}

#[tokio::test(start_paused = true)]
async fn content_that_cannot_be_read_is_never_sent_short() {
    for extensions in ["", "PIPELINING", "PIPELINING CHUNKING"] {
        for pieces in [
            vec![Ok(Bytes::from_static(b"Subject: x\r\n")), Err(io::ErrorKind::Other.into())],
            vec![Ok(Bytes::from_static(b"Subject: x\r\n"))],
            vec![Ok(Bytes::from(vec![b'x'; 99]))],
        ] {
            let peer = Peer::in_memory(65536, move |mut talk: Talk| async move {
                talk.open(extensions).await;
                talk.take(9).await;
            });
            let (end, work) =
                run(&in_memory(&peer, options()), &peer, Require::Opportunistic, [streamed(21, pieces)])
                    .await;
            assert_eq!(end, RunEnd::Lost, "{extensions}");
            assert_eq!(work.reports, [Report::Outcomes(vec![Outcome::Deferred(Cause::Damaged)])]);
            assert_eq!(peer.count("."), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_host_lacks_is_told_without_a_word_on_the_wire() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.say("220 mx.test").await;
        talk.until("EHLO").await;
        talk.say("250-mx.test\n250-PIPELINING\n250 SIZE 1000").await;
        talk.take(9).await;
    });
    let jobs = [job(Require::Opportunistic), big(2000), job(Require::Opportunistic)];
    let (end, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, jobs).await;
    assert_eq!((end, work.delivered(), peer.count("MAIL")), (RunEnd::Drained, 2, 2));
    let Report::Outcomes(outcomes) = &work.reports[1] else { panic!("in the order of the jobs") };
    assert!(matches!(outcomes[0], Outcome::Failed(Cause::Lacks { .. })));
}
