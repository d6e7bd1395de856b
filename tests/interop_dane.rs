//! DANE with somebody else's server: a Postfix whose certificate stands in a signed zone, or does not.
#![cfg(all(feature = "dns", feature = "mta-sts"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod kit;

#[path = "kit/certs.rs"]
mod certs;
#[path = "kit/dns.rs"]
mod dns;

use postroad::Mailer;
use postroad::attempt::{Cause, Outcome};
use postroad::hop::Demand;
use postroad::message::{Envelope, RawMessage};
use postroad::route::dns::{Anchors, Dnssec};
use postroad::route::{MxOptions, MxResolver};
use postroad::smtp::address::EhloName;

use certs::{Ca, Cert};
use dns::signed::{Kind, SignedDns};
use kit::peers::Postfix;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postfix_gets_mail_where_its_certificate_is_the_one_that_dnssec_names() {
    let ca = Ca::new("nobody's authority");
    let (cert, other) = (ca.issue("mail.postfix.test"), ca.issue("mail.postfix.test"));
    let papers = tempfile::tempdir().unwrap();
    let (chain, key) = (papers.path().join("chain.pem"), papers.path().join("key.pem"));
    std::fs::write(&chain, &cert.chain_pem).unwrap();
    std::fs::write(&key, &cert.key_pem).unwrap();
    let Some(postfix) = Postfix::showing(&chain, &key, "") else { return };
    for (named, delivered) in [(&cert, true), (&other, false)] {
        let outcome = send(&postfix, named).await;
        let log = postfix.log();
        match outcome {
            Outcome::Delivered(accepted) if delivered => {
                assert_eq!(accepted.demand, Some(Demand::Dane));
                assert!(accepted.tls.is_some_and(|tls| tls.dane && tls.verified.is_none()), "{log}");
            }
            Outcome::Deferred(Cause::Tls { demand: Demand::Dane, .. }) if !delivered => {}
            other => panic!("{other:?}\n{log}"),
        }
    }
    // The one that was refused said EHLO once and then only closed the connection.
    assert_eq!(postfix.log().matches("client=").count(), 1, "{}", postfix.log());
}

/// One message to this Postfix, by MX, with TLSA records about `named`.
async fn send(postfix: &Postfix, named: &Cert) -> Outcome {
    let port = postfix.address().port();
    let data: String = named.tlsa_data(1, 1).iter().map(|octet| format!("{octet:02x}")).collect();
    let dns = SignedDns::start(
        &[("postfix.test", Kind::Signed)],
        &format!(
            "postfix.test MX 10 mail.postfix.test\nmail.postfix.test A 127.0.0.1\n\
             _{port}._tcp.mail.postfix.test TLSA 3 1 1 {data}"
        ),
    )
    .await;
    let mut options = MxOptions::new();
    options.servers = vec![dns.address()];
    (options.dnssec, options.anchors) = (Dnssec::Validate, Anchors::of_root(dns.anchors()));
    options.port = port;
    let resolver = MxResolver::new(options).unwrap();
    let mailer = Mailer::direct(resolver, EhloName::new("us.test").unwrap())
        .unwrap()
        .configured(|options| options.tls.without_native_roots = true)
        .unwrap();
    let envelope = Envelope::parse("from@us.test", ["someone@postfix.test"]).unwrap();
    let mail = RawMessage::new(envelope, "From: from@us.test\r\n\r\nhello\r\n");
    mailer.send(mail).await.unwrap().recipients.remove(0).1
}
