//! DANE: which certificates match which records (RFC 7672 §3.1).

use postroad::attempt::RunEnd;
use postroad::hop::{Demand, PolicyKind, Refused, Require, TlsFault, Tlsa, TlsaRecord};
use postroad::route::Hosts;

use super::certs::{Ca, Cert, Leaf, PARTS, other_tlsa, with_tlsa};
use super::peer::Peer;
use super::{accepted, job, refused, run_at, send, trusting};

/// Sends to a host that shows `cert` and has these records: `None` when it was delivered.
async fn with(cert: &Cert, records: Vec<TlsaRecord>) -> Option<TlsFault> {
    let peer = Peer::with_tls(cert.server()).await;
    let host = with_tlsa(peer.host("mx.test"), records);
    // Nobody that these tests know is trusted by the roots.
    let carrier = trusting(&Ca::new("somebody else's authority"));
    let (end, work) = send(&carrier, host, Require::Opportunistic).await;
    if end == RunEnd::Drained {
        let accepted = accepted(&work);
        assert_eq!(accepted.demand, Some(Demand::Dane));
        assert!(accepted.tls.as_ref().unwrap().dane);
        return None;
    }
    let (demand, Refused::NoMatch(fault)) = refused(&end) else { panic!("{end:?}") };
    assert_eq!((demand, peer.count("MAIL"), peer.count("EHLO")), (Demand::Dane, 0, 1), "not a word");
    Some(fault)
}

#[tokio::test]
async fn a_record_of_usage_3_is_about_the_certificate_or_its_key_and_nothing_else_counts() {
    let ca = Ca::new("ca");
    let mut leaves = vec![Leaf::Good];
    leaves.extend(Leaf::WRONG);
    for leaf in leaves {
        let cert = leaf.issue(&ca, "mx.test");
        for (selector, matching) in PARTS {
            let record = cert.tlsa(3, selector, matching);
            assert_eq!(with(&cert, vec![record.clone()]).await, None, "{leaf:?} 3 {selector} {matching}");
            let other = Leaf::Good.issue(&ca, "mx.test");
            let fault = with(&other, vec![record]).await;
            assert_eq!(fault, Some(TlsFault::NotValid), "another key than 3 {selector} {matching}");
        }
    }
}

#[tokio::test]
async fn a_record_of_usage_2_is_about_an_authority_and_then_names_and_dates_count() {
    let ca = Ca::new("ca");
    for (selector, matching) in PARTS {
        for (leaf, fault) in [
            (Leaf::Good, None),
            (Leaf::WrongName, Some(TlsFault::WrongName)),
            (Leaf::Expired, Some(TlsFault::Expired)),
            (Leaf::NotYetValid, Some(TlsFault::Expired)),
            (Leaf::SelfSigned, Some(TlsFault::NotValid)),
            (Leaf::UnknownCa, Some(TlsFault::NotValid)),
            (Leaf::IsCa, Some(TlsFault::NotValid)),
        ] {
            let cert = ca.issue_with_root(leaf, "mx.test");
            let record = ca.cert().tlsa(2, selector, matching);
            assert_eq!(with(&cert, vec![record]).await, fault, "{leaf:?} 2 {selector} {matching}");
        }
    }
}

#[tokio::test]
async fn an_authority_that_is_not_sent_matches_only_where_the_record_holds_it() {
    let ca = Ca::new("ca");
    let cert = ca.issue("mx.test");
    for (selector, matching) in PARTS {
        let fault = with(&cert, vec![ca.cert().tlsa(2, selector, matching)]).await;
        let expected = ((selector, matching) != (0, 0)).then_some(TlsFault::NotValid);
        assert_eq!(fault, expected, "2 {selector} {matching}");
    }
}

#[tokio::test]
async fn an_intermediate_authority_can_be_the_one_that_is_named() {
    let (root, other) = (Ca::new("root"), Ca::new("root"));
    let middle = root.under("middle");
    let cert = middle.issue("mx.test");
    for (selector, matching) in PARTS {
        assert_eq!(with(&cert, vec![middle.cert().tlsa(2, selector, matching)]).await, None);
        // One of the same name that has signed nothing here.
        let fake = other.under("middle");
        let fault = with(&cert, vec![fake.cert().tlsa(2, selector, matching)]).await;
        assert_eq!(fault, Some(TlsFault::NotValid));
    }
}

#[tokio::test]
async fn a_records_usage_says_which_certificate_of_the_chain_it_is_about() {
    let ca = Ca::new("ca");
    let cert = ca.issue_with_root(Leaf::Good, "mx.test");
    assert_eq!(with(&cert, vec![ca.cert().tlsa(3, 0, 1)]).await, Some(TlsFault::NotValid));
    assert_eq!(with(&cert, vec![cert.tlsa(2, 0, 1)]).await, Some(TlsFault::NotValid));
    assert_eq!(with(&cert, vec![cert.tlsa(2, 1, 1)]).await, Some(TlsFault::NotValid));
}

#[tokio::test]
async fn one_record_of_several_is_enough() {
    let ca = Ca::new("ca");
    let cert = ca.issue_with_root(Leaf::Good, "mx.test");
    let others = || vec![other_tlsa(2), other_tlsa(3)];
    assert_eq!(with(&cert, others()).await, Some(TlsFault::NotValid));
    for record in [cert.tlsa(3, 1, 1), ca.cert().tlsa(2, 0, 1)] {
        let mut records = others();
        records.push(record);
        assert_eq!(with(&cert, records).await, None);
    }
}

#[tokio::test]
async fn records_that_cannot_be_used_demand_tls_and_records_that_cannot_be_had_forbid_the_host() {
    let ca = Ca::new("ca");
    let cert = Leaf::SelfSigned.issue(&ca, "other.test");
    let peer = Peer::with_tls(cert.server()).await;
    let host = |tlsa| {
        let mut host = peer.host("mx.test");
        host.tlsa = tlsa;
        host
    };
    let carrier = trusting(&ca);
    let (end, work) = send(&carrier, host(Tlsa::Unusable), Require::Opportunistic).await;
    assert_eq!((end, accepted(&work).demand), (RunEnd::Drained, Some(Demand::Encrypted(PolicyKind::Dane))));
    assert_eq!(work.trials[0].fault, Some(TlsFault::TlsaInvalid));

    let connections = peer.connections();
    let (end, work) = send(&carrier, host(Tlsa::Failed), Require::Opportunistic).await;
    assert_eq!(refused(&end), (Demand::Unknown, Refused::Unknown));
    assert_eq!(peer.connections(), connections, "not even connected to");
    assert_eq!((work.trials.len(), work.trials[0].fault), (1, Some(TlsFault::DnssecInvalid)));
    let (end, _) = send(&carrier, host(Tlsa::Failed), Require::Cleartext).await;
    assert_eq!(end, RunEnd::Drained, "where TLS is not tried the records do not count");

    let clear = Peer::on_tcp(super::carry::taker()).await;
    let mut host = clear.host("mx.test");
    host.tlsa = Tlsa::Unusable;
    let (end, _) = send(&carrier, host, Require::Opportunistic).await;
    assert_eq!(refused(&end), (Demand::Encrypted(PolicyKind::Dane), Refused::NoTls));
}

#[tokio::test]
async fn hosts_whose_records_cannot_be_had_do_not_keep_an_attempt_from_the_one_behind_them() {
    let ca = Ca::new("ca");
    let peer = Peer::with_tls(ca.issue("mx.test").server()).await;
    let carrier = trusting(&ca);
    let failed = |n: usize| {
        let mut host = peer.host(&format!("mx{n}.test"));
        host.addresses = (1..=2).map(|ip| [192, 0, 2, ip].into()).collect();
        host.tlsa = Tlsa::Failed;
        host
    };
    let hosts: Vec<_> = (0..9).map(failed).chain([peer.host("mx.test")]).collect();
    let hosts = Hosts::new(hosts, Require::Opportunistic);
    let (end, work) = run_at(&carrier, &hosts, [job(Require::Opportunistic)]).await;
    assert_eq!((end, work.delivered(), peer.connections()), (RunEnd::Drained, 1, 1));
    let faults = work.trials.iter().filter(|trial| trial.fault == Some(TlsFault::DnssecInvalid));
    assert_eq!(faults.count(), 9, "and each is told of");
}

#[tokio::test]
async fn a_host_that_stands_twice_in_a_route_is_asked_for_what_it_shows_first() {
    let ca = Ca::new("ca");
    let peer = Peer::with_tls(ca.issue("mx.test").server()).await;
    let host = peer.host("mx.test");
    let hosts = vec![with_tlsa(host.clone(), vec![other_tlsa(3)]), host];
    let hosts = Hosts::new(hosts, Require::Opportunistic);
    let (end, _) = run_at(&trusting(&ca), &hosts, [job(Require::Opportunistic)]).await;
    assert_eq!((refused(&end).0, peer.count("MAIL")), (Demand::Dane, 0));
}
