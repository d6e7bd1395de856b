//! What an engine's own connections come to be counted as, over real TCP and TLS.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use postroad::BoxFuture;
use postroad::clock::Clock;
use postroad::delivery::{Engine, EngineOptions};
use postroad::hop::{Host, Require, Tlsa};
use postroad::message::{Envelope, RawMessage};
use postroad::net::tls::{ClientTls, TlsOptions};
use postroad::route::sts::{MxPattern, StsFault, StsMode, StsPolicy};
use postroad::route::{Hosts, Resolve, Route, RouteError};
use postroad::smtp::address::{Domain, EhloName};
use postroad::spool::MemorySpool;
use postroad::tls_rpt::{Collector, Counted, Tally, TallyMemory};

use crate::carry::{IN_2026, Wall};
use crate::certs::{Ca, Leaf, other_tlsa, with_tlsa};
use crate::peer::Peer;

/// Routes by destination, as if MX had given them.
#[derive(Clone, Default)]
struct Table(BTreeMap<String, Hosts>);

impl Table {
    fn with(mut self, destination: &str, host: Host, change: impl FnOnce(&mut Hosts)) -> Self {
        let mut hosts = Hosts::new(vec![host], Require::Opportunistic).unproven();
        hosts.by_mx = true;
        change(&mut hosts);
        self.0.insert(destination.into(), hosts);
        self
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Table")
    }
}

impl Resolve for Table {
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        let hosts = self.0.get(destination.as_str()).cloned().map(Route::Hosts);
        Box::pin(async move { hosts.ok_or(RouteError::NoSuchDomain) })
    }
}

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn sts(mode: StsMode, mx: &str) -> Option<Arc<StsPolicy>> {
    let text = match mode {
        StsMode::Enforce => "enforce",
        _ => "testing",
    };
    let text = format!("version: STSv1\nmode: {text}\nmx: {mx}\nmax_age: 86400\n");
    let policy = StsPolicy::parse("1", text.as_bytes()).unwrap();
    assert!(policy.mx.contains(&MxPattern { wildcard: false, name: name(mx) }));
    Some(Arc::new(policy))
}

/// The engine, and what its connections are counted by. `roots` is trusted, in 2026.
async fn engine(table: Table, roots: &Ca) -> (Engine, Arc<Collector>) {
    let clock: Arc<dyn Clock> = Wall::at(IN_2026);
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    let trust = trust.trust_pem(roots.pem().as_bytes()).unwrap();
    let collector = Collector::new(Arc::new(TallyMemory::new()), Arc::clone(&clock));
    let mut options = EngineOptions::new();
    options.runs_per_site = 1;
    let engine = Engine::builder(MemorySpool::new(), EhloName::new("us.test").unwrap())
        .direct(table)
        .options(options)
        .observer(collector.clone())
        .tls(ClientTls::new(trust, Arc::clone(&clock)).unwrap())
        .clock(clock);
    (engine.start().await.unwrap(), collector)
}

fn mail(to: &str) -> RawMessage {
    let envelope = Envelope::parse("a@us.test", [to]).unwrap();
    RawMessage::new(envelope, &b"From: a@us.test\r\nSubject: x\r\n\r\nhello\r\n"[..])
}

fn shown(tally: &Tally) -> Vec<String> {
    let line = |counted: &Counted| {
        let failed = counted.failed.iter().map(|(failure, count)| {
            let host = failure.host.as_deref().unwrap_or("?");
            format!(", {} at {host}: {}", failure.result.as_str(), count.all())
        });
        let failed: String = failed.collect();
        format!("{} {} ok: {}{failed}", counted.domain, counted.policy.kind.as_str(), counted.good.all())
    };
    tally.domains().flat_map(|domain| tally.of(domain)).map(line).collect()
}

/// Waits until something is counted: the engine tells it before the message is settled.
async fn counted(collector: &Collector) -> Vec<String> {
    for _ in 0..1_000 {
        let lines = shown(&collector.today());
        if !lines.is_empty() {
            return lines;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing was counted");
}

#[tokio::test]
async fn what_a_host_shows_is_counted_under_the_policy_it_is_under() {
    let ca = Ca::new("ca");
    let testing = || sts(StsMode::Testing, "mx.test");
    let enforced = || sts(StsMode::Enforce, "mx.test");
    for (leaf, policy, expected) in [
        (Leaf::Good, None, "no-policy-found ok: 1"),
        (Leaf::SelfSigned, None, "no-policy-found ok: 1"),
        (Leaf::Good, testing(), "sts ok: 1"),
        (Leaf::Expired, testing(), "sts ok: 0, certificate-expired at mx.test: 1"),
        (Leaf::WrongName, testing(), "sts ok: 0, certificate-host-mismatch at mx.test: 1"),
        (Leaf::UnknownCa, testing(), "sts ok: 0, certificate-not-trusted at mx.test: 1"),
        (Leaf::Good, sts(StsMode::Testing, "other.test"), "sts ok: 0, validation-failure at mx.test: 1"),
        (Leaf::Good, enforced(), "sts ok: 1"),
        (Leaf::Expired, enforced(), "sts ok: 0, certificate-expired at mx.test: 1"),
        (Leaf::UnknownCa, enforced(), "sts ok: 0, certificate-not-trusted at mx.test: 1"),
        (Leaf::Good, sts(StsMode::Enforce, "other.test"), "sts ok: 0, validation-failure at mx.test: 1"),
    ] {
        let peer = Peer::with_tls(leaf.issue(&ca, "mx.test").server()).await;
        let table = Table::default().with("b.test", peer.host("mx.test"), |hosts| hosts.sts = policy.clone());
        let (engine, collector) = engine(table, &ca).await;
        let receipt = engine.submit(mail("x@b.test")).await.unwrap();
        assert_eq!(counted(&collector).await, [format!("b.test {expected}")], "{leaf:?} {policy:?}");
        drop(receipt);
        engine.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn what_records_say_of_a_host_is_counted_as_theirs() {
    let ca = Ca::new("ca");
    let cert = Leaf::SelfSigned.issue(&ca, "mx.test");
    let peer = Peer::with_tls(cert.server()).await;
    let host = |tlsa| {
        let mut host = peer.host("mx.test");
        host.tlsa = tlsa;
        host
    };
    for (host, expected) in [
        (with_tlsa(peer.host("mx.test"), vec![cert.tlsa(3, 1, 1)]), "tlsa ok: 1"),
        (
            with_tlsa(peer.host("mx.test"), vec![other_tlsa(3)]),
            "tlsa ok: 0, validation-failure at mx.test: 1",
        ),
        (host(Tlsa::Unusable), "tlsa ok: 0, tlsa-invalid at mx.test: 1"),
        (host(Tlsa::Failed), "tlsa ok: 0, dnssec-invalid at mx.test: 1"),
    ] {
        let table = Table::default().with("b.test", host.clone(), |_| {});
        let (engine, collector) = engine(table, &ca).await;
        let receipt = engine.submit(mail("x@b.test")).await.unwrap();
        assert_eq!(counted(&collector).await, [format!("b.test {expected}")], "{host:?}");
        drop(receipt);
        engine.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn a_host_without_tls_and_a_policy_without_host_are_counted() {
    let ca = Ca::new("ca");
    let peer = Peer::on_tcp(crate::carry::taker()).await;
    for (fault, expected) in [
        (None, "b.test no-policy-found ok: 0, starttls-not-supported at mx.test: 1"),
        (Some(StsFault::Fetch), "b.test sts ok: 0, sts-policy-fetch-error at mx.test: 1"),
    ] {
        let table = Table::default().with("b.test", peer.host("mx.test"), |hosts| hosts.sts_fault = fault);
        let (engine, collector) = engine(table, &ca).await;
        let receipt = engine.submit(mail("x@b.test")).await.unwrap();
        assert!(receipt.finished().await.is_complete());
        assert_eq!(counted(&collector).await, [expected]);
    }
}

#[tokio::test]
async fn a_connection_counts_once_for_each_domain_that_it_carries_mail_to() {
    let ca = Ca::new("ca");
    let peer = Peer::with_tls(Leaf::Good.issue(&ca, "mx.test").server()).await;
    let policy = sts(StsMode::Testing, "mx.test");
    let table = Table::default()
        .with("b.test", peer.host("mx.test"), |_| {})
        .with("c.test", peer.host("mx.test"), |hosts| hosts.sts = policy)
        .with("own.test", peer.host("mx.test"), |hosts| hosts.by_mx = false);
    let (engine, collector) = engine(table, &ca).await;
    let to = ["1@b.test", "2@b.test", "3@c.test", "4@c.test", "5@own.test"];
    let envelope = Envelope::parse("a@us.test", to).unwrap();
    let all = RawMessage::new(envelope, &b"From: a@us.test\r\nSubject: x\r\n\r\nhello\r\n"[..]);
    assert!(engine.submit(all).await.unwrap().finished().await.is_complete());
    let lines = shown(&collector.today());
    let connections = peer.connections();
    // However many there were, each was counted for whom it carried mail to.
    assert!(lines.iter().all(|line| line.ends_with(" ok: 1")), "{lines:?} over {connections}");
    assert_eq!(lines, ["b.test no-policy-found ok: 1", "c.test sts ok: 1"], "{connections}");
    // A report is carried and not counted, and neither is mail for which TLS is optional.
    let message = mail("6@c.test");
    let context = postroad::message::SubmitContext::new(
        engine.ehlo().clone(),
        postroad::clock::Timestamp::from_millis(IN_2026 * 1000),
        engine.new_id(),
    );
    let mut report = postroad::message::IntoSubmission::into_submission(message, &context).unwrap();
    report.handling.uncounted = true;
    assert!(engine.submit(report).await.unwrap().finished().await.is_complete());
    assert_eq!(shown(&collector.today()), lines);
}
