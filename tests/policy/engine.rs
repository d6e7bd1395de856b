//! Policies through the engine: each destination's own, also where destinations share hosts; and what a
//! message itself says about TLS.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use postroad::BoxFuture;
use postroad::attempt::{Mailer, Outcome};
use postroad::clock::SystemClock;
use postroad::delivery::{ChannelObserver, Engine, EventRecord};
use postroad::hop::{Require, Tlsa};
use postroad::message::{Envelope, RawMessage};
use postroad::net::tls::{ClientTls, TlsOptions};
use postroad::route::sts::StsPolicy;
use postroad::route::{Hosts, Resolve, Route, RouteError};
use postroad::smtp::address::{Domain, EhloName};
use postroad::spool::MemorySpool;
use tokio::sync::mpsc::Receiver;

use super::certs::{Ca, Cert, Leaf, other_tlsa, with_tlsa};
use super::peer::{Peer, Talk};

/// Routes that a test writes down.
#[derive(Debug, Clone, Default)]
struct Table(Arc<Mutex<BTreeMap<String, Hosts>>>);

impl Table {
    fn set(&self, destination: &str, hosts: Hosts) -> &Self {
        self.0.lock().unwrap().insert(destination.into(), hosts);
        self
    }
}

impl Resolve for Table {
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        let known = self.0.lock().unwrap().get(destination.as_str()).cloned();
        Box::pin(async { known.map(Route::Hosts).ok_or(RouteError::NoRoute) })
    }
}

fn opportunistic(peer: &Peer) -> Hosts {
    Hosts::new(vec![peer.host("mx.test")], Require::Opportunistic)
}

/// The same under a policy that allows `mx`.
fn enforced(mut hosts: Hosts, mx: &str) -> Hosts {
    let text = format!("version: STSv1\nmode: enforce\nmx: {mx}\nmax_age: 86400\n");
    hosts.sts = Some(Arc::new(StsPolicy::parse("1", text.as_bytes()).unwrap()));
    hosts
}

struct Road {
    engine: Engine,
    events: Receiver<EventRecord>,
}

impl Road {
    async fn new(table: &Table, ca: &Ca) -> Self {
        let mut trust = TlsOptions::new();
        trust.without_native_roots = true;
        let trust = trust.trust_pem(ca.pem().as_bytes()).unwrap();
        let (observer, events) = ChannelObserver::new(1000);
        let engine = Engine::builder(MemorySpool::default(), EhloName::new("us.test").unwrap())
            .direct(table.clone())
            .tls(ClientTls::new(trust, Arc::new(SystemClock)).unwrap())
            .observer(observer)
            .start()
            .await
            .unwrap();
        Self { engine, events }
    }

    /// What becomes of a message at the first try, and what is said of it.
    async fn send(&mut self, message: RawMessage) -> (&'static str, String) {
        drop(self.engine.submit(message).await.unwrap());
        loop {
            let event = self.events.recv().await.unwrap();
            if matches!(event.name, "delivered" | "deferred" | "failed") {
                return (event.name, event.text.into());
            }
        }
    }
}

/// Nobody is told when it cannot be delivered.
fn to(recipient: &str) -> RawMessage {
    with_field(recipient, "")
}

fn with_field(recipient: &str, field: &str) -> RawMessage {
    let octets = format!("From: a@us.test\r\n{field}Subject: x\r\n\r\nhello\r\n");
    RawMessage::new(Envelope::parse("", [recipient]).unwrap(), octets.into_bytes())
}

fn private(mut message: RawMessage) -> RawMessage {
    message.envelope.require_tls = true;
    message
}

const OPTIONAL: &str = "TLS-Required: No\r\n";

#[tokio::test]
async fn the_weaker_of_two_domains_at_one_host_lends_the_stricter_no_connection() {
    let ca = Ca::new("ca");
    let wrong = Peer::with_tls(Leaf::SelfSigned.issue(&ca, "mx.test").server()).await;
    let good = Peer::with_tls(ca.issue("mx.test").server()).await;
    for (peer, is_good) in [(&wrong, false), (&good, true)] {
        let table = Table::default();
        table.set("weak.test", opportunistic(peer));
        table.set("strict.test", enforced(opportunistic(peer), "mx.test"));
        let mut road = Road::new(&table, &ca).await;
        let (name, _) = road.send(to("a@weak.test")).await;
        assert_eq!(name, "delivered");
        assert_eq!((peer.connections(), peer.count("MAIL")), (1, 1), "and it is kept");
        let (name, text) = road.send(to("a@strict.test")).await;
        if is_good {
            assert_eq!((name, peer.connections(), peer.count("MAIL")), ("delivered", 2, 2));
        } else {
            assert_eq!((name, peer.connections(), peer.count("MAIL")), ("deferred", 2, 1));
            assert_eq!(
                text,
                "MTA-STS requires a certificate valid for mx.test; \
                 the certificate is from no authority that is trusted"
            );
        }
        let (name, ..) = road.send(to("b@weak.test")).await;
        assert_eq!((name, peer.connections()), ("delivered", 2), "the one that was kept");
    }
}

#[tokio::test]
async fn a_policy_that_names_none_of_the_hosts_puts_the_mail_off() {
    let ca = Ca::new("ca");
    let peer = Peer::with_tls(ca.issue("mx.test").server()).await;
    let table = Table::default();
    table.set("strict.test", enforced(opportunistic(&peer), "mx2.test"));
    let mut road = Road::new(&table, &ca).await;
    let (name, text) = road.send(to("a@strict.test")).await;
    assert_eq!(
        (name, &*text),
        ("deferred", "no mail server of the domain is one that its MTA-STS policy allows")
    );
    assert_eq!(peer.connections(), 0);
    let (name, ..) = road.send(with_field("a@strict.test", OPTIONAL)).await;
    assert_eq!(name, "delivered");
}

/// Who has TLSA records, and a certificate of nobody's.
async fn self_made(ca: &Ca) -> (Peer, Cert) {
    let cert = Leaf::SelfSigned.issue(ca, "other.test");
    (Peer::with_tls(cert.server()).await, cert)
}

#[tokio::test]
async fn what_dane_says_of_a_host_comes_before_the_domains_policy() {
    let ca = Ca::new("ca");
    let (peer, cert) = self_made(&ca).await;
    let table = Table::default();
    let hosts = |record| {
        let host = with_tlsa(peer.host("mx.test"), vec![record]);
        Hosts::new(vec![host], Require::Opportunistic)
    };
    table.set("match.test", hosts(cert.tlsa(3, 1, 1)));
    table.set("both.test", enforced(hosts(cert.tlsa(3, 1, 1)), "mx.test"));
    table.set("other.test", hosts(other_tlsa(3)));
    let mut failed = opportunistic(&peer);
    failed.hosts[0].tlsa = Tlsa::Failed;
    table.set("failed.test", failed);
    let mut road = Road::new(&table, &ca).await;
    for (destination, expected, text) in [
        ("match.test", "delivered", ""),
        ("both.test", "delivered", ""),
        ("other.test", "deferred", "DANE requires a certificate that matches its TLSA records"),
        ("failed.test", "deferred", ""),
    ] {
        let (name, said) = road.send(to(&format!("a@{destination}"))).await;
        assert_eq!(name, expected, "{destination}: {said}");
        assert!(said.contains(text), "{destination}: {said}");
    }
    assert_eq!(peer.count("MAIL"), 2);
}

#[tokio::test]
async fn a_message_for_which_tls_is_optional_is_stopped_by_no_policy_but_our_own() {
    let ca = Ca::new("ca");
    let (peer, _) = self_made(&ca).await;
    let table = Table::default();
    table.set("sts.test", enforced(opportunistic(&peer), "mx.test"));
    let dane = with_tlsa(peer.host("mx.test"), vec![other_tlsa(3)]);
    table.set("dane.test", Hosts::new(vec![dane], Require::Opportunistic));
    table.set("own.test", Hosts::new(vec![peer.host("mx.test")], Require::Verified));
    let mut road = Road::new(&table, &ca).await;
    for (destination, name) in
        [("dane.test", "delivered"), ("sts.test", "delivered"), ("own.test", "deferred")]
    {
        let recipient = format!("a@{destination}");
        let (got, text) = road.send(with_field(&recipient, OPTIONAL)).await;
        assert_eq!(got, name, "{destination}: {text}");
        // The others are as strict as before, whoever was first.
        let (got, text) = road.send(to(&recipient)).await;
        assert_eq!(got, "deferred", "{destination}: {text}");
    }
    // RFC 8689 §3: the parameter overrules the field.
    let (got, text) = road.send(private(with_field("b@sts.test", OPTIONAL))).await;
    assert_ne!(got, "delivered", "{text}");
}

#[tokio::test]
async fn a_mailer_obeys_policies_too() {
    let ca = Ca::new("ca");
    let (peer, _) = self_made(&ca).await;
    let table = Table::default();
    table.set("sts.test", enforced(opportunistic(&peer), "mx.test"));
    table.set("none.test", enforced(opportunistic(&peer), "mx2.test"));
    table.set("weak.test", opportunistic(&peer));
    let mailer = Mailer::direct(table, EhloName::new("us.test").unwrap()).unwrap();
    let mailer = mailer
        .configured(|options| {
            options.tls.without_native_roots = true;
            options.tls = options.tls.clone().trust_pem(ca.pem().as_bytes()).unwrap();
        })
        .unwrap();
    for (message, goes) in [
        (to("a@weak.test"), true),
        (to("a@sts.test"), false),
        (to("a@none.test"), false),
        (with_field("a@sts.test", OPTIONAL), true),
        (with_field("a@none.test", OPTIONAL), true),
    ] {
        let recipient = message.envelope.recipients[0].to.to_string();
        let delivery = mailer.send(message).await.unwrap();
        let [(_, outcome)] = &delivery.recipients[..] else { panic!("{delivery:?}") };
        assert_eq!(matches!(outcome, Outcome::Delivered(_)), goes, "{recipient}: {outcome:?}");
        assert!(goes || matches!(outcome, Outcome::Deferred(_)), "{recipient}: {outcome:?}");
    }
}

// REQUIRETLS

/// A server that promises, under TLS, to go on as privately as it was asked to.
async fn promises(cert: &Cert) -> Peer {
    let tls = cert.server();
    Peer::on_tcp(move |mut talk: Talk| {
        let tls = tls.clone();
        async move {
            talk.open("STARTTLS PIPELINING").await;
            if talk.until("STARTTLS").await.is_some() {
                talk.say("220 go").await;
                if talk.secure(&tls).await && talk.until("EHLO").await.is_some() {
                    talk.extensions("PIPELINING REQUIRETLS").await;
                    talk.take(9).await;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn mail_with_requiretls_goes_to_the_proven_host_that_dane_vouches_for_and_that_promises_the_same() {
    let ca = Ca::new("ca");
    let (forgetful, first) = self_made(&ca).await;
    let second = Leaf::SelfSigned.issue(&ca, "mx2.test");
    let good = promises(&second).await;
    let hosts = |records: [_; 2]| {
        let [one, two] = records;
        let hosts = vec![
            with_tlsa(forgetful.host("mx1.test"), vec![one]),
            with_tlsa(good.host("mx2.test"), vec![two]),
        ];
        Hosts::new(hosts, Require::Opportunistic)
    };
    let (right, wrong) = ([first.tlsa(3, 1, 1), second.tlsa(3, 1, 1)], [other_tlsa(3), other_tlsa(3)]);
    let table = Table::default();
    table.set("proven.test", hosts(right.clone()));
    table.set("forged.test", hosts(right).unproven());
    table.set("wrong.test", hosts(wrong));
    let mut one = hosts([first.tlsa(3, 1, 1), second.tlsa(3, 1, 1)]);
    one.hosts.truncate(1);
    table.set("forgetful.test", one.clone());
    one.hosts[0].tlsa = Tlsa::Failed;
    table.set("failed.test", one.clone());
    // Neither DANE nor the roots say who this is.
    one.hosts[0].tlsa = Tlsa::Unusable;
    table.set("unusable.test", one);
    let mut road = Road::new(&table, &ca).await;
    // A domain with the same hosts, of which nothing is proven, comes first and is no way around it.
    let (name, ..) = road.send(to("a@forged.test")).await;
    assert_eq!(name, "delivered");
    for (destination, expected, text) in [
        ("forged.test", "failed", "REQUIRETLS"),
        ("proven.test", "delivered", ""),
        ("forged.test", "failed", "REQUIRETLS"),
        ("forgetful.test", "failed", "REQUIRETLS"),
        ("failed.test", "deferred", "could not be looked up"),
    ] {
        let (name, said) = road.send(private(to(&format!("a@{destination}")))).await;
        assert_eq!(name, expected, "{destination}: {said}");
        assert!(said.contains(text), "{destination}: {said}");
    }
    let mails: Vec<_> = good.heard().into_iter().filter(|line| line.starts_with("MAIL")).collect();
    assert_eq!((mails.len(), mails.iter().all(|mail| mail.contains(" REQUIRETLS"))), (1, true), "{mails:?}");
    for destination in ["wrong.test", "unusable.test"] {
        let (name, said) = road.send(private(to(&format!("a@{destination}")))).await;
        assert_ne!(name, "delivered", "{destination}: {said}");
    }
    assert_eq!((good.count("MAIL"), forgetful.count("MAIL")), (1, 1));
}
