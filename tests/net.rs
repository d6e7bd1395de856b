//! Connections to scripted peers: over real TCP and TLS on loopback, and in memory under a paused clock.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "kit/peer.rs"]
mod peer;

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use postroad::BoxFuture;
use postroad::attempt::{
    Carrier, CarrierOptions, Cause, ConnectFault, Job, Outcome, Phase, Report, RunEnd, Work,
};
use postroad::clock::{Clock, Now, SystemClock, Timestamp};
use postroad::hop::{Host, Refused, Require, TlsStart};
use postroad::message::{Content, ReadBody};
use postroad::net::connect::{Connect, ConnectError, Io, TcpConnect};
use postroad::net::tls::{ClientTls, TlsOptions};
use postroad::route::Hosts;
use postroad::smtp::address::{EhloName, ForwardPath, ReversePath};
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::sasl::Credentials;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use peer::{Authority, Peer, Talk, self_signed};

/// Wall time that a test can move.
#[derive(Debug, Default)]
struct Wall(AtomicU64);

impl Wall {
    fn in_year(year: u64) -> Arc<Self> {
        let clock = Self::default();
        clock.set_year(year);
        Arc::new(clock)
    }
    fn set_year(&self, year: u64) {
        self.0.store((year - 1970) * 31_557_600_000 + 15_000_000_000, Ordering::SeqCst);
    }
}

impl Clock for Wall {
    fn now(&self) -> Now {
        Now { wall: Timestamp::from_millis(self.0.load(Ordering::SeqCst)), ..SystemClock.now() }
    }
}

fn options() -> CarrierOptions {
    CarrierOptions::new(EhloName::new("client.test").unwrap())
}

fn carrier_with(
    options: CarrierOptions,
    connect: Arc<dyn Connect>,
    roots: Option<&Authority>,
    clock: Arc<dyn Clock>,
) -> Carrier {
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    if let Some(authority) = roots {
        trust = trust.trust_pem(authority.pem.as_bytes()).unwrap();
    }
    let tls = ClientTls::new(trust, Arc::clone(&clock)).unwrap();
    Carrier::new(options, connect, tls, clock)
}

fn over_tcp(roots: Option<&Authority>) -> Carrier {
    carrier_with(options(), Arc::new(TcpConnect::new()), roots, Wall::in_year(2026))
}

fn in_memory(peer: &Peer, options: CarrierOptions) -> Carrier {
    carrier_with(options, Arc::new(peer.clone()), None, Arc::new(SystemClock))
}

fn mail() -> Mail {
    Mail::new(ReversePath::parse("s@client.test").unwrap())
}

fn rcpts(to: &[&str]) -> Vec<Rcpt> {
    to.iter().map(|to| Rcpt::new(ForwardPath::parse(to).unwrap())).collect()
}

fn job(require: Require) -> Job {
    Job {
        mail: mail(),
        recipients: rcpts(&["r@mx.test"]),
        content: Content::Whole(Bytes::from_static(b"Subject: x\r\n\r\nHello\r\n")),
        require,
    }
}

fn big(octets: usize) -> Job {
    let line = [b'x'; 78];
    let body: Vec<u8> = line.iter().chain(b"\r\n").copied().cycle().take(octets / 80 * 80).collect();
    Job { content: Content::Whole(body.into()), ..job(Require::Opportunistic) }
}

#[derive(Default)]
struct List {
    jobs: VecDeque<Job>,
    reports: Vec<Report>,
}

impl List {
    fn of(jobs: impl IntoIterator<Item = Job>) -> Self {
        Self { jobs: jobs.into_iter().collect(), reports: Vec::new() }
    }
    fn delivered(&self) -> usize {
        let all = |o: &Vec<Outcome>| o.iter().all(|o| matches!(o, Outcome::Delivered(_)));
        self.reports.iter().filter(|r| matches!(r, Report::Outcomes(o) if all(o))).count()
    }
}

impl Work for List {
    fn next(&mut self) -> BoxFuture<'_, Option<Job>> {
        let job = self.jobs.pop_front();
        Box::pin(async { job })
    }
    fn done(&mut self, report: Report) {
        self.reports.push(report);
    }
}

async fn run(
    carrier: &Carrier,
    peer: &Peer,
    require: Require,
    jobs: impl IntoIterator<Item = Job>,
) -> (RunEnd, List) {
    run_at(carrier, &Hosts::new(vec![peer.host("mx.test")], require), jobs).await
}

async fn run_at(carrier: &Carrier, hosts: &Hosts, jobs: impl IntoIterator<Item = Job>) -> (RunEnd, List) {
    let mut work = List::of(jobs);
    let permit = carrier.try_permit(&hosts.site()).unwrap();
    let end = carrier.run(hosts, permit, &mut work).await;
    (end, work)
}

fn first(list: &List) -> &Outcome {
    match &list.reports[0] {
        Report::Outcomes(outcomes) => &outcomes[0],
        Report::NotAttempted => panic!("not attempted"),
    }
}

// TLS

#[tokio::test]
async fn opportunistic_mail_goes_over_tls_whatever_the_certificate() {
    let tls = self_signed("other.test");
    let peer = Peer::on_tcp(move |mut talk: Talk| {
        let tls = tls.clone();
        async move {
            let _ = talk.take_with_tls(&tls).await;
        }
    })
    .await;
    let (end, work) =
        run(&over_tcp(None), &peer, Require::Opportunistic, [job(Require::Opportunistic)]).await;
    assert_eq!(end, RunEnd::Drained);
    let Outcome::Delivered(accepted) = first(&work) else { panic!("{:?}", work.reports) };
    let seen = accepted.tls.as_ref().unwrap();
    assert_eq!((&*seen.version, &seen.verified), ("TLSv1.3", &None));
}

#[tokio::test]
async fn verified_mail_is_never_begun_on_a_wrong_certificate() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let wrong = [
        ("self-signed", self_signed("mx.test")),
        ("another's name", ours.issue("other.test", 2030)),
        ("expired", ours.issue("mx.test", 2020)),
        ("an unknown authority", theirs.issue("mx.test", 2030)),
    ];
    for (what, tls) in wrong {
        for start in [TlsStart::StartTls, TlsStart::Implicit] {
            let tls = tls.clone();
            let peer = Peer::on_tcp(move |mut talk: Talk| {
                let tls = tls.clone();
                async move {
                    if start == TlsStart::StartTls {
                        let _ = talk.take_with_tls(&tls).await;
                    } else if talk.secure(&tls).await && talk.open("PIPELINING").await.is_some() {
                        let _ = talk.take(9).await;
                    }
                }
            })
            .await;
            let mut host = peer.host("mx.test");
            host.tls_start = start;
            let hosts = Hosts::new(vec![host], Require::Verified);
            let (end, work) = run_at(&over_tcp(Some(&ours)), &hosts, [job(Require::Verified)]).await;
            let RunEnd::Unreachable(Cause::Tls { refused, .. }) = end else { panic!("{what}: {end:?}") };
            assert_eq!(refused, Refused::NotVerified, "{what}");
            assert!(work.reports.is_empty() && work.jobs.len() == 1, "{what}: nothing was asked for");
            assert_eq!(peer.count("MAIL"), 0, "{what}");
            assert!(peer.count("EHLO") <= 1, "{what}: not a word after the handshake");
            assert_eq!(peer.connections(), 1, "{what}: no second try with less");
        }
    }
}

#[tokio::test]
async fn verified_mail_goes_to_the_right_certificate() {
    let authority = Authority::new();
    let tls = authority.issue("mx.test", 2030);
    let peer = Peer::on_tcp(move |mut talk: Talk| {
        let tls = tls.clone();
        async move {
            let _ = talk.take_with_tls(&tls).await;
        }
    })
    .await;
    let (end, work) =
        run(&over_tcp(Some(&authority)), &peer, Require::Verified, [job(Require::Verified)]).await;
    assert_eq!((end, work.delivered()), (RunEnd::Drained, 1));
}

#[tokio::test]
async fn verified_mail_is_never_begun_without_tls() {
    let peer = Peer::on_tcp(|mut talk: Talk| async move {
        talk.open("PIPELINING").await;
        talk.take(9).await;
    })
    .await;
    let (end, _) = run(&over_tcp(None), &peer, Require::Verified, [job(Require::Verified)]).await;
    assert!(matches!(end, RunEnd::Unreachable(Cause::Tls { refused: Refused::NoTls, .. })), "{end:?}");
    assert_eq!(peer.count("MAIL"), 0);
}

/// A server that says yes to STARTTLS and then speaks no TLS.
async fn broken_tls() -> Peer {
    Peer::on_tcp(|mut talk: Talk| async move {
        talk.open("STARTTLS PIPELINING").await;
        match talk.line().await.as_deref() {
            Some("STARTTLS") => {
                talk.say("220 go").await;
                talk.octets(10).await;
                talk.say("554 what?").await;
            }
            _ => {
                talk.say("250 ok").await;
                talk.take(9).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn only_opportunistic_mail_goes_in_clear_when_tls_fails() {
    let peer = broken_tls().await;
    let (end, work) =
        run(&over_tcp(None), &peer, Require::Opportunistic, [job(Require::Opportunistic)]).await;
    assert_eq!((end, work.delivered(), peer.connections()), (RunEnd::Drained, 1, 2));

    let (peer, authority) = (broken_tls().await, Authority::new());
    let (end, _) = run(&over_tcp(Some(&authority)), &peer, Require::Verified, [job(Require::Verified)]).await;
    let fault = match end {
        RunEnd::Unreachable(Cause::Connect { fault, .. }) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!((fault, peer.connections(), peer.count("MAIL")), (ConnectFault::Handshake, 1, 0));
}

#[tokio::test]
async fn a_resumed_session_is_judged_like_the_first() {
    let authority = Authority::new();
    let tls = authority.issue("mx.test", 2030);
    let peer = Peer::on_tcp(move |mut talk: Talk| {
        let tls = tls.clone();
        async move {
            let _ = talk.take_with_tls(&tls).await;
        }
    })
    .await;
    let clock = Wall::in_year(2026);
    let connect = Arc::new(TcpConnect::new());
    let carrier = carrier_with(options(), connect, Some(&authority), Arc::clone(&clock) as Arc<dyn Clock>);
    let resumed = |work: &List| match first(work) {
        Outcome::Delivered(accepted) => accepted.tls.as_ref().unwrap().resumed,
        other => panic!("{other:?}"),
    };
    let (_, work) = run(&carrier, &peer, Require::Verified, [job(Require::Verified)]).await;
    assert!(!resumed(&work));
    carrier.close_idle();
    let (_, work) = run(&carrier, &peer, Require::Verified, [job(Require::Verified)]).await;
    assert!(resumed(&work), "so that the next assertions are about resumed sessions");
    carrier.close_idle();
    // Tickets live for hours, so the clock goes to the certificate's end and not years on: it is the
    // wall clock that moved, the session is as young as before.
    clock.set_year(2031);
    let mails = peer.count("MAIL");
    let (end, _) = run(&carrier, &peer, Require::Verified, [job(Require::Verified)]).await;
    assert!(matches!(end, RunEnd::Unreachable(Cause::Tls { refused: Refused::NotVerified, .. })), "{end:?}");
    assert_eq!(peer.count("MAIL"), mails);
}

#[tokio::test]
async fn octets_injected_behind_starttls_end_the_session() {
    let peer = Peer::on_tcp(|mut talk: Talk| async move {
        talk.open("STARTTLS PIPELINING").await;
        talk.until("STARTTLS").await;
        talk.say("220 go\n250-mx.test\n250 CHUNKING").await;
        talk.take(9).await;
    })
    .await;
    let (end, _) = run(&over_tcp(None), &peer, Require::Opportunistic, [job(Require::Opportunistic)]).await;
    let RunEnd::Unreachable(Cause::Connect { fault, .. }) = end else { panic!("{end:?}") };
    assert_eq!((fault, peer.connections(), peer.count("MAIL")), (ConnectFault::Protocol, 1, 0));
}

#[tokio::test]
async fn credentials_never_show_in_a_trace() {
    let authority = Authority::new();
    let tls = authority.issue("mx.test", 2030);
    let peer = Peer::on_tcp(move |mut talk: Talk| {
        let tls = tls.clone();
        async move {
            talk.open("STARTTLS").await;
            talk.until("STARTTLS").await;
            talk.say("220 go").await;
            talk.secure(&tls).await;
            talk.until("EHLO").await;
            talk.say("250-mx.test\n250 AUTH PLAIN").await;
            talk.until("AUTH PLAIN").await;
            talk.say("235 welcome").await;
            talk.take(9).await;
        }
    })
    .await;
    let lines = Arc::new(Mutex::new(Vec::new()));
    let mut options = options();
    options.client.session.credentials = Some(Credentials::new("ada", "hunter2"));
    let sink = Arc::clone(&lines);
    options.client.trace = Some(Arc::new(move |line| sink.lock().unwrap().push(line.to_string())));
    let carrier = carrier_with(options, Arc::new(TcpConnect::new()), Some(&authority), Wall::in_year(2026));
    let (_, work) = run(&carrier, &peer, Require::Verified, [job(Require::Verified)]).await;
    assert_eq!(work.delivered(), 1);
    let lines = lines.lock().unwrap().join("\n");
    for shown in ["C: EHLO client.test", "S: 235 welcome", "-- TLSv1.3", "C: ********", "C: MAIL FROM:"] {
        assert!(lines.contains(shown), "{shown} in\n{lines}");
    }
    // Base64 of \0ada\0hunter2 and its parts.
    assert!(!lines.contains("AGFkYQBodW50ZXIy") && !lines.contains("hunter2"), "{lines}");
}

// The pool

fn taker() -> impl Fn(Talk) -> BoxFuture<'static, ()> + Send + Sync + 'static {
    |mut talk| {
        Box::pin(async move {
            talk.open("PIPELINING CHUNKING").await;
            talk.take(usize::MAX).await;
        })
    }
}

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
        talk.say("421 4.4.2 idle too long").await;
    });
    let carrier = in_memory(&peer, options());
    for _ in 0..2 {
        let (_, work) = run(&carrier, &peer, Require::Opportunistic, [job(Require::Opportunistic)]).await;
        assert_eq!(work.delivered(), 1, "{:?}", work.reports);
        tokio::time::sleep(Duration::from_millis(1)).await;
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
        refused: Refused::NoTls,
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

/// Counts the writes that reach the transport.
#[derive(Debug)]
struct Counting(Peer, Arc<AtomicU64>);

struct Counted(Box<dyn Io>, Arc<AtomicU64>);

impl Connect for Counting {
    fn connect<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Box<dyn Io>, ConnectError>> {
        Box::pin(async move {
            let io = self.0.connect(host).await?;
            Ok(Box::new(Counted(io, Arc::clone(&self.1))) as Box<dyn Io>)
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

// Peers that misbehave

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_is_given_up_in_time() {
    for (extensions, replies) in
        [("PIPELINING", "250 ok\n250 ok\n354 go"), ("PIPELINING CHUNKING", "250 ok\n250 ok")]
    {
        let peer = Peer::in_memory(1024, move |mut talk: Talk| async move {
            talk.open(extensions).await;
            talk.until("MAIL").await;
            talk.say(replies).await;
            talk.freeze().await;
        });
        let start = SystemClock.now().mono;
        let (end, work) =
            run(&in_memory(&peer, options()), &peer, Require::Opportunistic, [big(1_000_000)]).await;
        assert_eq!((end, work.reports), (RunEnd::Lost, vec![Report::NotAttempted]), "{extensions}");
        let took = (SystemClock.now().mono - start).as_secs();
        assert!((180..=301).contains(&took), "{extensions}: {took} s");
    }
}

#[tokio::test(start_paused = true)]
async fn replies_are_read_while_commands_are_written() {
    // The pipe holds less than the commands, and less than the replies: who only writes is stuck.
    let peer = Peer::in_memory(64, |mut talk: Talk| async move {
        talk.open("PIPELINING").await;
        let long = "x".repeat(500);
        while let Some(line) = talk.line().await {
            if line == "DATA" {
                talk.say("354 go").await;
                talk.until(".").await;
                talk.say("250 taken").await;
            } else {
                talk.say(&format!("250 {long}")).await;
            }
        }
    });
    let names: Vec<String> = (0..100).map(|n| format!("recipient{n}@mx.test")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let many = Job { recipients: rcpts(&names), ..job(Require::Opportunistic) };
    let start = SystemClock.now().mono;
    let (end, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, [many]).await;
    assert_eq!((end, work.delivered()), (RunEnd::Drained, 1));
    assert!(SystemClock.now().mono - start < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_reply_before_the_end_of_the_content_is_no_delivery() {
    let peer = Peer::in_memory(1024, |mut talk: Talk| async move {
        talk.open("PIPELINING").await;
        talk.until("DATA").await;
        talk.say("250 ok\n250 ok\n354 go\n250 2.0.0 taken, whatever it is").await;
        talk.freeze().await;
    });
    let (end, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, [big(100_000)]).await;
    assert_eq!((end, work.delivered(), work.reports.len()), (RunEnd::Lost, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn death_after_the_last_octet_is_unknown_and_before_it_is_not() {
    for (sees, unknown) in [(".", true), ("Hello", false)] {
        let peer = Peer::in_memory(8, move |mut talk: Talk| async move {
            talk.open("").await;
            while let Some(line) = talk.line().await {
                match line.as_str() {
                    "DATA" => {
                        talk.say("354 go").await;
                        talk.until(sees).await;
                        return;
                    }
                    _ => talk.say("250 ok").await,
                }
            }
        });
        let long = Job {
            content: Content::Whole(Bytes::from_static(b"Subject: x\r\n\r\nHello\r\nand much more\r\n")),
            ..job(Require::Opportunistic)
        };
        let (end, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, [long]).await;
        assert_eq!(end, RunEnd::Lost);
        if unknown {
            assert!(matches!(first(&work), Outcome::Deferred(Cause::Unknown { .. })), "{:?}", work.reports);
        } else {
            assert_eq!(work.reports, [Report::NotAttempted]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_wide_limit_shortens_every_wait() {
    let silent = Peer::in_memory(1024, |mut talk: Talk| async move { talk.freeze().await });
    let mut options = options();
    options.client.longest_wait = Some(Duration::from_secs(2));
    let start = SystemClock.now().mono;
    let (end, _) = run(&in_memory(&silent, options), &silent, Require::Opportunistic, []).await;
    assert!(matches!(end, RunEnd::Unreachable(Cause::Connect { fault: ConnectFault::TimedOut, .. })));
    let took = SystemClock.now().mono - start;
    assert!((2..3).contains(&took.as_secs()), "{took:?}");
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

struct Pieces(VecDeque<io::Result<Bytes>>);

impl ReadBody for Pieces {
    fn chunk(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        let next = self.0.pop_front().transpose();
        Box::pin(async { next })
    }
}

fn streamed(size: u64, pieces: Vec<io::Result<Bytes>>) -> Job {
    let reader = Box::new(Pieces(pieces.into()));
    Job { content: Content::Stream { size, reader }, ..job(Require::Opportunistic) }
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
