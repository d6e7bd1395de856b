//! Where mail comes from, as the host sees it: own addresses, SOCKS5 and HAProxy, over TCP on loopback.
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
#[path = "kit/peer.rs"]
mod peer;
#[path = "sources/witness.rs"]
mod witness;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use postroad::attempt::{Carrier, Cause, ConnectFault, Mailer, MailerOptions, Outcome, RunEnd};
use postroad::clock::SystemClock;
use postroad::delivery::Engine;
use postroad::hop::{Host, Require};
use postroad::message::{Envelope, RawMessage};
use postroad::net::connect::{Connect, FamilyOrder, ProxiedConnect, SocksConnect, SocksLogin, TcpConnect};
use postroad::net::source::{Source, SourceName, Sources, When};
use postroad::net::tls::{ClientTls, TlsOptions};
use postroad::route::{FixedRoutes, Hosts, Match};
use postroad::smtp::address::EhloName;
use postroad::spool::MemorySpool;

use carry::{List, carrier_with, job, options, run};
use peer::Peer;
use witness::{Proxy, Witness};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(name: &str) -> SourceName {
    name.parse().unwrap()
}

fn source(of: &str, connect: impl Connect) -> Source {
    Source::new(name(of), EhloName::new(&format!("{of}.us.test")).unwrap(), connect)
}

/// `a` at 127.0.0.11 and `b` at 127.0.0.12.
fn two() -> Vec<Source> {
    [("a", "127.0.0.11"), ("b", "127.0.0.12")]
        .map(|(name, from)| source(name, TcpConnect::from_address(ip(from))))
        .to_vec()
}

fn trust() -> TlsOptions {
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    trust
}

/// An engine whose mail all goes to these hosts.
async fn engine(hosts: Vec<Host>, sources: Sources) -> Engine {
    let hosts = postroad::route::Route::Hosts(Hosts::new(hosts, Require::Opportunistic));
    Engine::builder(MemorySpool::new(), EhloName::new("us.test").unwrap())
        .direct(FixedRoutes::new().set(Match::Rest, hosts))
        .sources(sources)
        .tls(ClientTls::new(trust(), Arc::new(SystemClock)).unwrap())
        .start()
        .await
        .unwrap()
}

fn mail(from: &str) -> RawMessage {
    RawMessage::new(Envelope::parse(from, ["x@b.test"]).unwrap(), &b"Subject: x\r\n\r\nx\r\n"[..])
}

/// Sends a message and expects it delivered.
async fn send(engine: &Engine, from: &str) {
    let delivery = engine.submit(mail(from)).await.unwrap().finished().await;
    assert!(delivery.is_complete(), "{delivery:?}");
}

fn carrier(sources: Sources) -> Carrier {
    let mut options = options();
    options.sources = Some(sources);
    carrier_with(options, Arc::new(TcpConnect::new()), None, Arc::new(SystemClock))
}

/// One run from a source, with one job.
async fn run_from(carrier: &Carrier, of: &str, hosts: &Hosts) -> RunEnd {
    let carrier = carrier.via(&name(of)).unwrap();
    let mut work = List::of([job(Require::Opportunistic)]);
    let permit = carrier.try_permit("site").unwrap();
    let end = carrier.run(hosts, permit, &mut work).await;
    assert!(end != RunEnd::Drained || work.delivered() == 1);
    end
}

#[tokio::test]
async fn the_host_sees_each_source_at_its_address_under_its_own_name() {
    let host = Witness::plain().await;
    let engine = engine(vec![host.host("mx.test")], Sources::equal(two()).unwrap()).await;
    for _ in 0..20 {
        send(&engine, "x@a.test").await;
    }
    let seen: BTreeSet<_> =
        host.witness.seen().into_iter().map(|seen| (seen.from.ip(), seen.hello)).collect();
    let expected = [(ip("127.0.0.11"), "a.us.test".into()), (ip("127.0.0.12"), "b.us.test".into())];
    assert_eq!(seen, BTreeSet::from(expected));
    assert_eq!(host.witness.seen().len(), 20);
}

#[tokio::test]
async fn a_mailer_chooses_its_source_too() {
    let host = Witness::plain().await;
    let rule = When::SenderDomain("b.test".parse().unwrap());
    let sources = Sources::new(two(), &[("a", 1)]).unwrap().rule(rule, &[("b", 1)]).unwrap();
    let mut options = MailerOptions::new();
    options.carrier.sources = Some(sources);
    options.tls = trust();
    let hosts = Hosts::new(vec![host.host("mx.test")], Require::Opportunistic);
    let mailer = Mailer::new(hosts, options).unwrap();
    for (from, expected) in [("x@a.test", "127.0.0.11"), ("x@b.test", "127.0.0.12")] {
        assert!(mailer.send(mail(from)).await.unwrap().is_complete());
        assert_eq!(host.witness.seen().last().unwrap().from.ip(), ip(expected));
    }
}

#[tokio::test]
async fn a_connection_is_never_lent_to_another_source() {
    let host = Witness::plain().await;
    let hosts = Hosts::new(vec![host.host("mx.test")], Require::Opportunistic);
    let carrier = carrier(Sources::equal(two()).unwrap());
    for of in ["a", "b", "a", "b"] {
        assert_eq!(run_from(&carrier, of, &hosts).await, RunEnd::Drained);
    }
    let from: Vec<_> = host.witness.seen().into_iter().map(|seen| seen.from).collect();
    assert_eq!(from[0].ip(), ip("127.0.0.11"));
    assert_eq!(from[1].ip(), ip("127.0.0.12"));
    // The port shows that it is the same connection.
    assert_eq!((from[2], from[3]), (from[0], from[1]));
    assert!(carrier.via(&name("c")).is_none());
}

#[tokio::test]
async fn a_carrier_without_sources_is_as_it_was() {
    let peer = Peer::on_tcp(carry::taker()).await;
    let carrier = carry::over_tcp(None);
    let (end, work) = run(&carrier, &peer, Require::Opportunistic, [job(Require::Opportunistic)]).await;
    assert_eq!((end, work.delivered()), (RunEnd::Drained, 1));
    assert_eq!(peer.heard()[0], "EHLO client.test");
    assert!(carrier.via(&name("a")).is_none());
}

#[tokio::test]
async fn mail_goes_through_a_socks_proxy_by_address_and_by_name() {
    let host = Witness::plain().await;
    let proxy = Proxy::start(host.address.ip()).await;
    let mut connect = SocksConnect::new(proxy.address);
    connect.login = Some(SocksLogin::new("ada", "secret").unwrap());
    let sources = || Sources::equal(vec![source("socks", connect.clone())]).unwrap();
    let by_address = engine(vec![host.host("mx.test")], sources()).await;
    send(&by_address, "x@a.test").await;
    let by_name = Host::new("hidden.test".parse().unwrap(), host.address.port());
    send(&engine(vec![by_name], sources()).await, "x@a.test").await;
    for seen in host.witness.seen() {
        assert_eq!((seen.from.ip(), seen.hello.as_str()), (ip("127.0.0.21"), "socks.us.test"));
    }
    assert_eq!(host.witness.seen().len(), 2);
    assert_eq!(*proxy.asked.lock().unwrap(), ["127.0.0.1", "hidden.test", "127.0.0.1"]);
}

#[tokio::test]
async fn a_proxy_that_does_not_let_us_in_is_named_as_what_is_in_the_way() {
    let host = Witness::plain().await;
    let proxy = Proxy::start(host.address.ip()).await;
    let mut connect = SocksConnect::new(proxy.address);
    connect.login = Some(SocksLogin::new("ada", "wrong").unwrap());
    let carrier = carrier(Sources::equal(vec![source("socks", connect)]).unwrap());
    let hosts = Hosts::new(vec![host.host("mx.test")], Require::Opportunistic);
    let end = run_from(&carrier, "socks", &hosts).await;
    let RunEnd::Unreachable(cause) = end else { panic!("{end:?}") };
    assert!(matches!(cause, Cause::Connect { fault: ConnectFault::Proxy, .. }), "{cause:?}");
    assert!(matches!(Outcome::unreachable(cause), Outcome::Deferred(_)));
    assert_eq!(host.witness.seen(), []);
}

#[tokio::test]
async fn mail_goes_through_a_proxy_that_is_told_where_it_comes_from() {
    let believed = |options: &mut postroad::server::ServerOptions| {
        options.proxy_from = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let proxy = Witness::listen(&["127.0.0.1:0"], believed).await;
    let connect = ProxiedConnect::new(proxy.address, ip("192.0.2.9"));
    let sources = Sources::equal(vec![source("proxied", connect)]).unwrap();
    let host = Host::new("mx.test".parse().unwrap(), 25).with_addresses(vec![ip("198.51.100.25")]);
    send(&engine(vec![host], sources).await, "x@a.test").await;
    let seen = proxy.witness.seen();
    assert_eq!((seen[0].from.ip(), seen[0].at), (ip("192.0.2.9"), ip("198.51.100.25")));
    assert_eq!(seen[0].hello, "proxied.us.test");
}

#[tokio::test]
async fn each_source_prefers_its_own_family() {
    let both = Witness::listen(&["127.0.0.1:0"], |_| {}).await;
    let port = both.address.port();
    let Ok(six) = tokio::net::TcpListener::bind(("::1", port)).await else {
        assert!(std::env::var_os("CI").is_none(), "no IPv6 on loopback, or its port is taken");
        eprintln!("SKIPPED: there is no IPv6 on loopback, or its port is taken");
        return;
    };
    drop(six);
    let six = Witness::listen(&[&format!("[::1]:{port}")], |_| {}).await;
    let host = both.host("mx.test").with_addresses(vec![ip("::1"), ip("127.0.0.1")]);
    let of = |of: &str, families| {
        let mut connect = TcpConnect::new();
        connect.families = families;
        source(of, connect)
    };
    let sources = vec![
        of("given", FamilyOrder::AsGiven),
        of("v4", FamilyOrder::Ipv4First),
        of("only4", FamilyOrder::Ipv4Only),
        of("v6", FamilyOrder::Ipv6First),
        of("only6", FamilyOrder::Ipv6Only),
    ];
    let carrier = carrier(Sources::equal(sources).unwrap());
    let hosts = Hosts::new(vec![host], Require::Opportunistic);
    for (of, is_six) in [("given", true), ("v4", false), ("only4", false), ("v6", true), ("only6", true)] {
        let before = six.witness.seen().len();
        assert_eq!(run_from(&carrier, of, &hosts).await, RunEnd::Drained);
        assert_eq!(six.witness.seen().len() > before, is_six, "{of}");
    }
    let four = Hosts::new(vec![both.host("four.test")], Require::Opportunistic);
    let end = run_from(&carrier, "only6", &four).await;
    assert!(
        matches!(end, RunEnd::Unreachable(Cause::Connect { fault: ConnectFault::NoAddress, .. })),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_host_without_an_address_of_the_family_makes_room_for_one_that_has_one() {
    let host = Witness::plain().await;
    let hosts = Hosts::new(
        vec![
            host.host("six.test").with_addresses(vec![ip("::1")]),
            // One attempt tries five addresses, two of this host: of those that can be used.
            host.host("mx.test").with_addresses(vec![ip("::2"), ip("::3"), ip("::4"), ip("127.0.0.1")]),
        ],
        Require::Opportunistic,
    );
    let carrier = carrier(Sources::equal(two()).unwrap());
    assert_eq!(run_from(&carrier, "a", &hosts).await, RunEnd::Drained);
    assert_eq!(host.witness.seen()[0].from.ip(), ip("127.0.0.11"));
}
