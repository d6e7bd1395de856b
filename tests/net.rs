//! Connections to scripted peers: TLS and its policies over loopback, misbehaviour under a paused clock.
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

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use postroad::attempt::{Cause, ConnectFault, Job, Outcome, Report, RunEnd};
use postroad::clock::{Clock, SystemClock};
use postroad::hop::{Refused, Require, TlsFault, TlsStart};
use postroad::message::Content;
use postroad::net::connect::TcpConnect;
use postroad::route::Hosts;
use postroad::smtp::sasl::Credentials;

use carry::{
    IN_2026, List, Wall, big, carrier_with, first, in_memory, job, options, over_tcp, rcpts, run, run_at,
};
use peer::{Authority, Peer, Talk, self_signed};

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
        ("self-signed", self_signed("mx.test"), TlsFault::NotTrusted),
        ("another's name", ours.issue("other.test", 2030), TlsFault::WrongName),
        ("expired", ours.issue("mx.test", 2020), TlsFault::Expired),
        ("an unknown authority", theirs.issue("mx.test", 2030), TlsFault::NotTrusted),
    ];
    for (what, tls, fault) in wrong {
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
            assert_eq!(refused, Refused::NotVerified(fault), "{what}");
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
    // Ten minutes before the certificate ends; a ticket lives for hours.
    let end = 1_924_905_600;
    let clock = Wall::at(end - 600);
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
    clock.set(end + 600);
    let mails = peer.count("MAIL");
    let (end, _) = run(&carrier, &peer, Require::Verified, [job(Require::Verified)]).await;
    assert!(
        matches!(
            end,
            RunEnd::Unreachable(Cause::Tls { refused: Refused::NotVerified(TlsFault::Expired), .. })
        ),
        "{end:?}"
    );
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
            talk.say("235 welcome, hunter2").await;
            talk.take(9).await;
        }
    })
    .await;
    let lines = Arc::new(Mutex::new(Vec::new()));
    let mut options = options();
    options.client.session.credentials = Some(Credentials::new("ada", "hunter2"));
    let sink = Arc::clone(&lines);
    options.client.trace = Some(Arc::new(move |line| sink.lock().unwrap().push(line.to_string())));
    let carrier = carrier_with(options, Arc::new(TcpConnect::new()), Some(&authority), Wall::at(IN_2026));
    let (_, work) = run(&carrier, &peer, Require::Verified, [job(Require::Verified)]).await;
    assert_eq!(work.delivered(), 1);
    let lines = lines.lock().unwrap().join("\n");
    for shown in ["C: EHLO client.test", "S: 235 ********", "-- TLSv1.3", "C: ********", "C: MAIL FROM:"] {
        assert!(lines.contains(shown), "{shown} in\n{lines}");
    }
    // Base64 of \0ada\0hunter2 and its parts.
    assert!(!lines.contains("AGFkYQBodW50ZXIy") && !lines.contains("hunter2"), "{lines}");
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
        assert_eq!(end, RunEnd::Lost, "{extensions}");
        let late = |fault: &ConnectFault| *fault == ConnectFault::TimedOut;
        assert!(
            matches!(first(&work), Outcome::Deferred(Cause::Connect { fault, .. }) if late(fault)),
            "{extensions}: {:?}",
            work.reports
        );
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
