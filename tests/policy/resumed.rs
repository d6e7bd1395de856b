//! Sessions are resumed under every demand, and judged again each time.

use std::sync::Arc;

use postroad::attempt::RunEnd;
use postroad::clock::Clock;
use postroad::hop::{Refused, Require, TlsFault, Tlsa};
use postroad::net::connect::TcpConnect;

use super::carry::{IN_2026, Wall, carrier_trusting, options};
use super::certs::{Ca, Leaf, other_tlsa, with_tlsa};
use super::peer::Peer;
use super::{accepted, refused, send, trusting};

#[tokio::test]
async fn a_second_connection_is_resumed_whatever_is_demanded() {
    let ca = Ca::new("ca");
    let cert = ca.issue_with_root(Leaf::Good, "mx.test");
    let peer = Peer::with_tls(cert.server()).await;
    let plain = || peer.host("mx.test");
    let mut unusable = plain();
    unusable.tlsa = Tlsa::Unusable;
    for (what, host, require) in [
        ("opportunistic", plain(), Require::Opportunistic),
        ("encrypted", plain(), Require::Encrypted),
        ("verified", plain(), Require::Verified),
        ("usage 3", with_tlsa(plain(), vec![cert.tlsa(3, 1, 1)]), Require::Opportunistic),
        ("usage 2", with_tlsa(plain(), vec![ca.cert().tlsa(2, 0, 1)]), Require::Opportunistic),
        ("unusable", unusable, Require::Opportunistic),
    ] {
        let carrier = trusting(&ca);
        for resumed in [false, true, true] {
            let (end, work) = send(&carrier, host.clone(), require).await;
            assert_eq!(end, RunEnd::Drained, "{what}");
            let tls = accepted(&work).tls.clone().unwrap();
            assert_eq!(tls.resumed, resumed, "{what}");
            assert_eq!(tls.dane, what.starts_with("usage"), "{what}");
            assert!(tls.verified.is_some(), "{what}");
            carrier.close_idle();
        }
    }
}

#[tokio::test]
async fn records_that_changed_refuse_the_session_that_they_would_have_admitted() {
    let ca = Ca::new("ca");
    let cert = ca.issue_with_root(Leaf::Good, "mx.test");
    let peer = Peer::with_tls(cert.server()).await;
    let carrier = trusting(&ca);
    let with = |record| with_tlsa(peer.host("mx.test"), vec![record]);
    for (good, bad) in
        [(cert.tlsa(3, 1, 1), other_tlsa(3)), (ca.cert().tlsa(2, 0, 1), ca.cert().tlsa(3, 0, 1))]
    {
        for _ in 0..2 {
            let (_, work) = send(&carrier, with(good.clone()), Require::Opportunistic).await;
            assert!(accepted(&work).tls.as_ref().unwrap().dane);
            carrier.close_idle();
        }
        let mails = peer.count("MAIL");
        let (end, _) = send(&carrier, with(bad), Require::Opportunistic).await;
        assert_eq!(refused(&end).1, Refused::NoMatch(TlsFault::NotValid));
        assert_eq!(peer.count("MAIL"), mails);
    }
}

#[tokio::test]
async fn records_that_changed_leave_a_kept_connection_unused() {
    let ca = Ca::new("ca");
    let cert = ca.issue("mx.test");
    let peer = Peer::with_tls(cert.server()).await;
    let carrier = trusting(&ca);
    let with = |records| with_tlsa(peer.host("mx.test"), records);
    let good = cert.tlsa(3, 1, 1);
    for (records, connections) in
        [(vec![good.clone()], 1), (vec![good.clone()], 1), (vec![good, other_tlsa(3)], 2)]
    {
        let (end, _) = send(&carrier, with(records), Require::Opportunistic).await;
        assert_eq!((end, peer.connections()), (RunEnd::Drained, connections));
    }
    let (end, _) = send(&carrier, with(vec![other_tlsa(3)]), Require::Opportunistic).await;
    assert_eq!((refused(&end).1, peer.connections()), (Refused::NoMatch(TlsFault::NotValid), 3));
}

#[tokio::test]
async fn an_authority_named_by_a_record_is_no_reason_to_take_an_old_certificate_on_a_resumed_session() {
    let ca = Ca::new("ca");
    let cert = ca.issue_with_root(Leaf::Good, "mx.test");
    let peer = Peer::with_tls(cert.server()).await;
    let clock = Wall::at(IN_2026);
    let shared = Arc::clone(&clock) as Arc<dyn Clock>;
    let carrier = carrier_trusting(options(), Arc::new(TcpConnect::new()), Some(ca.pem()), shared);
    // The certificate ends with 2049; a ticket lives for hours.
    let end_of_2049 = 2_524_521_600 - 600;
    clock.set(end_of_2049);
    let host = || with_tlsa(peer.host("mx.test"), vec![ca.cert().tlsa(2, 0, 1)]);
    for resumed in [false, true] {
        let (_, work) = send(&carrier, host(), Require::Opportunistic).await;
        assert_eq!(accepted(&work).tls.as_ref().unwrap().resumed, resumed);
        carrier.close_idle();
    }
    clock.set(end_of_2049 + 1200);
    let (end, _) = send(&carrier, host(), Require::Opportunistic).await;
    assert_eq!(refused(&end).1, Refused::NoMatch(TlsFault::Expired));
    // A record of the certificate itself asks for no dates.
    let host = with_tlsa(peer.host("mx.test"), vec![cert.tlsa(3, 1, 1)]);
    let (end, _) = send(&carrier, host, Require::Opportunistic).await;
    assert_eq!(end, RunEnd::Drained);
}
