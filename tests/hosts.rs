//! Runs against hosts that take less than most, or speak otherwise: limits, refused chunks, LMTP.
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

use std::sync::Arc;

use bytes::Bytes;
use postroad::BoxFuture;
use postroad::attempt::{Cause, Job, Outcome, Phase, Report, RunEnd};
use postroad::hop::{Host, Require};
use postroad::net::connect::{Connect, ConnectError, Opened};
use postroad::route::Hosts;
use postroad::server::{
    self, BodyStream, Conversation, Handler, Server, ServerOptions, SessionInfo, Verdict,
};
use postroad::smtp::Protocol;
use postroad::smtp::address::EhloName;
use postroad::smtp::params::Rcpt;
use postroad::smtp::reply::{EnhancedCode, Reply};

use carry::{big, in_memory, job, options, over_tcp, rcpts, run, run_at, streamed};
use peer::{Peer, Talk};

/// Our own server as a final delivery agent: it has no room for `full`, and knows no `no`.
#[derive(Debug)]
struct Agent(Protocol);
struct Delivery;

impl Connect for Agent {
    fn connect<'a>(&'a self, _: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        let mut options = ServerOptions::new(EhloName::new("mda.test").unwrap());
        options.session.protocol = self.0;
        let (near, far) = tokio::io::duplex(65536);
        let address = ([127, 0, 0, 1], 24).into();
        let peer = server::Peer { address, local: address };
        tokio::spawn(Server::builder(Self(self.0), options).serve_io(Box::new(far), peer));
        Box::pin(async move { Ok(Opened::new(near)) })
    }
}

impl Handler for Agent {
    fn connect<'a>(&'a self, _: &'a server::Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        Box::pin(async { Ok(Box::new(Delivery) as Box<dyn Conversation>) })
    }
}

impl Conversation for Delivery {
    fn recipient<'a>(&'a mut self, rcpt: &'a Rcpt, _: &'a SessionInfo) -> BoxFuture<'a, Result<(), Reply>> {
        let known = !rcpt.to.to_string().starts_with("<no@");
        Box::pin(async move {
            if known { Ok(()) } else { Err(Reply::new(550, EnhancedCode::new(5, 1, 1), "no such user")) }
        })
    }

    fn message(&mut self, transaction: server::Transaction, mut body: BodyStream) -> BoxFuture<'_, Verdict> {
        Box::pin(async move {
            let whole = body.collect(10_000_000).await.is_ok();
            let reply = |rcpt: &Rcpt| match rcpt.to.to_string().starts_with("<full@") {
                false if whole => Reply::new(250, EnhancedCode::new(2, 0, 0), "delivered"),
                _ => Reply::new(452, EnhancedCode::new(4, 2, 2), "mailbox full"),
            };
            Verdict::Each(transaction.recipients.iter().map(reply).collect())
        })
    }
}

fn through(agent: Agent) -> postroad::attempt::Carrier {
    carry::carrier_with(options(), Arc::new(agent), None, Arc::new(postroad::clock::SystemClock))
}

#[tokio::test(start_paused = true)]
async fn our_own_lmtp_server_answers_for_each_recipient() {
    let hosts = Hosts::new(vec![Host::new("mda.test".parse().unwrap(), 24)], Require::Cleartext).lmtp();
    let to = ["a@mx.test", "full@mx.test", "no@mx.test", "b@mx.test"];
    let small = || Job { recipients: rcpts(&to), ..job(Require::Cleartext) };
    let large = Job { content: big(3_000_000).content, ..small() };
    let carrier = through(Agent(Protocol::Lmtp));
    let (end, work) = run_at(&carrier, &hosts, [small(), small(), large]).await;
    assert_eq!((end, work.reports.len(), carrier.usage().idle), (RunEnd::Drained, 3, 1));
    for report in &work.reports {
        let Report::Outcomes(outcomes) = report else { panic!("{report:?}") };
        assert!(
            matches!(
                &outcomes[..],
                [
                    Outcome::Delivered(_),
                    Outcome::Deferred(Cause::Reply { phase: Phase::Content, .. }),
                    Outcome::Failed(Cause::Reply { phase: Phase::Rcpt, .. }),
                    Outcome::Delivered(_),
                ]
            ),
            "{outcomes:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn our_own_server_refuses_what_came_in_chunks_and_takes_the_next_message() {
    let hosts = Hosts::new(vec![Host::new("mda.test".parse().unwrap(), 25)], Require::Cleartext);
    let job = || job(Require::Cleartext);
    let carrier = through(Agent(Protocol::Smtp));
    for next in [job(), Job { content: big(5_000_000).content, ..job() }] {
        let full = Job { recipients: rcpts(&["full@mx.test"]), content: big(5_000_000).content, ..job() };
        let (end, work) = run_at(&carrier, &hosts, [full, next]).await;
        assert_eq!(
            (end, work.delivered(), carrier.usage().idle),
            (RunEnd::Drained, 1, 1),
            "{:?}",
            work.reports
        );
        let Outcome::Deferred(Cause::Reply { reply, .. }) = carry::first(&work) else {
            panic!("{:?}", work.reports)
        };
        assert_eq!(reply.to_string(), "452 4.2.2 mailbox full");
    }
}

#[tokio::test(start_paused = true)]
async fn lmtp_is_never_taken_for_smtp() {
    let hosts = Hosts::new(vec![Host::new("mda.test".parse().unwrap(), 24)], Require::Cleartext);
    for (hosts, server) in [(hosts.clone().lmtp(), Protocol::Smtp), (hosts, Protocol::Lmtp)] {
        let (end, work) = run_at(&through(Agent(server)), &hosts, [job(Require::Cleartext)]).await;
        let RunEnd::Unreachable(Cause::Reply { phase: Phase::Hello, reply, .. }) = end else {
            panic!("{end:?}")
        };
        assert_eq!((reply.code(), work.reports.len()), (500, 0));
    }
}

#[tokio::test]
async fn lmtp_and_smtp_to_one_host_share_no_connection() {
    let peer = Peer::on_tcp(|mut talk: Talk| async move {
        talk.say("220 mda.test").await;
        let hello = talk.line().await.unwrap_or_default();
        talk.extensions("PIPELINING CHUNKING").await;
        if hello.starts_with("EHLO") {
            talk.take(usize::MAX).await;
            return;
        }
        while let Some(line) = talk.line().await {
            if line.starts_with("BDAT") {
                talk.octets("Subject: x\r\n\r\nHello\r\n".len()).await;
                talk.say("250 2.0.0 taken\n452 4.2.2 full").await;
            } else {
                talk.say("250 ok").await;
            }
        }
    })
    .await;
    let two = || Job { recipients: rcpts(&["a@mx.test", "b@mx.test"]), ..job(Require::Cleartext) };
    let carrier = over_tcp(None);
    let smtp = Hosts::new(vec![peer.host("mx.test")], Require::Cleartext);
    let (end, work) = run_at(&carrier, &smtp.clone().lmtp(), [two(), two()]).await;
    assert_eq!((end, work.reports.len()), (RunEnd::Drained, 2));
    for report in &work.reports {
        let Report::Outcomes(outcomes) = report else { panic!("{report:?}") };
        assert!(
            matches!(&outcomes[..], [Outcome::Delivered(_), Outcome::Deferred(Cause::Reply { .. })]),
            "{outcomes:?}"
        );
    }
    let (_, work) = run_at(&carrier, &smtp, [two()]).await;
    assert_eq!(work.delivered(), 1);
    assert_eq!((peer.connections(), peer.count("LHLO"), peer.count("EHLO")), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_takes_few_transactions_costs_connections_and_no_job() {
    // RFC 9422 §4.1: no limit that was announced is ever a failure.
    for (limits, connections) in [("LIMITS=x", 1), ("LIMITS:MAILMAX=2", 3), ("LIMITS:MAILMAX=1", 5)] {
        let peer = Peer::in_memory(65536, move |mut talk: Talk| async move {
            talk.say("220 mx.test").await;
            talk.until("EHLO").await;
            talk.say(&format!("250-mx.test\n250-PIPELINING\n250-{}\n250 CHUNKING", limits.replace(':', " ")))
                .await;
            talk.take(usize::MAX).await;
        });
        let jobs = (0..5).map(|_| job(Require::Opportunistic));
        let carrier = in_memory(&peer, options());
        let (end, work) = run(&carrier, &peer, Require::Opportunistic, jobs).await;
        assert_eq!(
            (end, work.delivered(), peer.connections()),
            (RunEnd::Drained, 5, connections),
            "{limits}"
        );
        // Used up and without work, it does not wait in the pool.
        let idle = usize::from(limits == "LIMITS=x" || limits == "LIMITS:MAILMAX=2");
        assert_eq!(carrier.usage().idle, idle, "{limits}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_over_on_a_connection_that_dies_is_no_attempt_either() {
    // The host has named nobody and taken nobody: all go again at once, over the next connection.
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.say("220 mx.test").await;
        talk.until("EHLO").await;
        talk.say("250-mx.test\n250-LIMITS RCPTMAX=1\n250 CHUNKING").await;
        talk.until("MAIL").await;
    });
    let two = Job { recipients: rcpts(&["a@x.test", "b@x.test"]), ..job(Require::Opportunistic) };
    let (end, work) = run(&in_memory(&peer, options()), &peer, Require::Opportunistic, [two]).await;
    assert_eq!((end, &work.reports[..]), (RunEnd::Lost, &[Report::NotAttempted][..]));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_takes_one_domain_in_a_session_gets_a_connection_for_each() {
    // RFC 9422 §4.3
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.say("220 mx.test").await;
        talk.until("EHLO").await;
        talk.say("250-mx.test\n250-PIPELINING\n250-LIMITS RCPTDOMAINMAX=1\n250 CHUNKING").await;
        talk.take(usize::MAX).await;
    });
    let to = |all: &[&str]| Job { recipients: rcpts(all), ..job(Require::Opportunistic) };
    let jobs = [to(&["a@x.test"]), to(&["b@x.test", "c@y.test"]), to(&["d@y.test"]), to(&["e@y.test"])];
    let carrier = in_memory(&peer, options());
    let (end, work) = run(&carrier, &peer, Require::Opportunistic, jobs).await;
    assert_eq!((end, work.delivered(), peer.connections()), (RunEnd::Drained, 3, 2), "{:?}", work.reports);
    let Report::Outcomes(outcomes) = &work.reports[1] else { panic!() };
    assert!(matches!(&outcomes[..], [Outcome::Delivered(_), Outcome::Deferred(Cause::LeftOver { .. })]));
    // The idle one knows other domains only.
    let (end, work) = run(&carrier, &peer, Require::Opportunistic, [to(&["c@z.test"])]).await;
    assert_eq!((end, work.delivered(), peer.connections()), (RunEnd::Drained, 1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_large_message_that_is_refused_early_leaves_the_connection_for_the_next() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.open("PIPELINING CHUNKING").await;
        while let Some(line) = talk.line().await {
            let size = line.strip_prefix("BDAT ").and_then(|rest| rest.split(' ').next()).map(str::parse);
            let Some(Ok(size)) = size else {
                talk.say("250 ok").await;
                continue;
            };
            talk.octets(size).await;
            talk.say(if size > 1_000_000 { "552 5.3.4 too large" } else { "250 taken" }).await;
        }
    });
    let streamed_large = || {
        let piece = Bytes::from(b"xxxxxxxx\r\n".repeat(10_000));
        streamed(20_000_000, (0..200).map(|_| Ok(piece.clone())).collect())
    };
    for large in [big(20_000_000), streamed_large()] {
        let carrier = in_memory(&peer, options());
        let before = (peer.connections(), peer.count("BDAT"));
        let jobs = [large, job(Require::Opportunistic)];
        let (end, work) = run(&carrier, &peer, Require::Opportunistic, jobs).await;
        assert_eq!((end, work.delivered()), (RunEnd::Drained, 1), "{:?}", work.reports);
        let Outcome::Failed(Cause::Reply { phase: Phase::Content, .. }) = carry::first(&work) else {
            panic!("{:?}", work.reports)
        };
        assert_eq!(peer.connections() - before.0, 1);
        assert!(peer.count("BDAT") - before.1 <= 3, "{}", peer.count("BDAT"));
    }
}
