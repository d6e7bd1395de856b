//! Every kind of host under every policy: opportunistic mail reaches all of them, strict mail none that
//! is not what it is to be.

use postroad::attempt::{Cause, ConnectFault, RunEnd};
use postroad::hop::{Demand, Host, PolicyKind, Refused, Require, TlsFault, Tlsa};
use postroad::route::Hosts;

use super::carry::{job, run_at};
use super::certs::{Ca, Leaf, other_tlsa, with_tlsa};
use super::kit::peers::OldTls;
use super::peer::{Peer, Talk};
use super::{accepted, send, trusting};

/// What becomes of mail under a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It goes over TLS; what is wrong with the certificate, in the eyes of who asks.
    Tls(Option<TlsFault>),
    /// It goes in clear; why.
    Clear(TlsFault),
    /// It does not go.
    Refused(Refused),
    /// It does not go: the handshake failed.
    Handshake,
}

/// The ways of asking for TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Opportunistic,
    Encrypted,
    Verified,
    Unusable,
    NoMatch,
}

const POLICIES: [Policy; 5] =
    [Policy::Opportunistic, Policy::Encrypted, Policy::Verified, Policy::Unusable, Policy::NoMatch];

impl Policy {
    fn ask(self, mut host: Host) -> (Host, Require) {
        match self {
            Self::Opportunistic => (host, Require::Opportunistic),
            Self::Encrypted => (host, Require::Encrypted),
            Self::Verified => (host, Require::Verified),
            Self::Unusable => {
                host.tlsa = Tlsa::Unusable;
                (host, Require::Opportunistic)
            }
            Self::NoMatch => (with_tlsa(host, vec![other_tlsa(2), other_tlsa(3)]), Require::Opportunistic),
        }
    }
}

/// Sends under a policy, and looks at what is told of it.
async fn fate(ca: &Ca, host: Host, policy: Policy) -> Fate {
    let (host, require) = policy.ask(host);
    let (end, work) = send(&trusting(ca), host, require).await;
    let [trial] = &work.trials[..] else { panic!("one connection counts: {:?}", work.trials) };
    match end {
        RunEnd::Drained => {
            let accepted = accepted(&work);
            assert_eq!(accepted.tls, trial.tls);
            assert_eq!(accepted.demand.map(Demand::by), Some(trial.by));
            match (&trial.tls, trial.fault) {
                (Some(tls), fault) => {
                    assert!(policy == Policy::Unusable || tls.verified.is_some() == fault.is_none());
                    Fate::Tls(fault)
                }
                (None, Some(fault)) => Fate::Clear(fault),
                (None, None) => panic!("in clear for no reason"),
            }
        }
        RunEnd::Unreachable(Cause::Tls { refused, .. }) => {
            assert_eq!((trial.fault, &trial.tls), (Some(refused.fault()), &None));
            Fate::Refused(refused)
        }
        RunEnd::Unreachable(Cause::Connect { fault: ConnectFault::Handshake, .. }) => {
            assert_eq!((trial.fault, &trial.tls), (Some(TlsFault::NotValid), &None));
            Fate::Handshake
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn opportunistic_mail_goes_whatever_the_certificate_and_verified_mail_to_the_right_one_only() {
    let ca = Ca::new("ca");
    for (leaf, fault) in [
        (Leaf::Good, None),
        (Leaf::WrongName, Some(TlsFault::WrongName)),
        (Leaf::Expired, Some(TlsFault::Expired)),
        (Leaf::NotYetValid, Some(TlsFault::Expired)),
        (Leaf::SelfSigned, Some(TlsFault::NotTrusted)),
        (Leaf::UnknownCa, Some(TlsFault::NotTrusted)),
        (Leaf::IsCa, Some(TlsFault::NotValid)),
    ] {
        let peer = Peer::with_tls(leaf.issue(&ca, "mx.test").server()).await;
        for policy in POLICIES {
            let mails = peer.count("MAIL");
            let expected = match (policy, fault) {
                (Policy::Opportunistic | Policy::Encrypted, fault) => Fate::Tls(fault),
                (Policy::Verified, None) => Fate::Tls(None),
                (Policy::Verified, Some(fault)) => Fate::Refused(Refused::NotVerified(fault)),
                (Policy::Unusable, _) => Fate::Tls(Some(TlsFault::TlsaInvalid)),
                (Policy::NoMatch, _) => Fate::Refused(Refused::NoMatch(TlsFault::NotValid)),
            };
            assert_eq!(fate(&ca, peer.host("mx.test"), policy).await, expected, "{leaf:?} {policy:?}");
            let went = usize::from(matches!(expected, Fate::Tls(_)));
            assert_eq!(peer.count("MAIL") - mails, went, "{leaf:?} {policy:?}");
        }
    }
}

/// Hosts with which no TLS comes about, and how a strict policy ends there.
#[tokio::test]
async fn opportunistic_mail_goes_in_clear_where_there_is_no_tls_and_strict_mail_never() {
    let ca = Ca::new("ca");
    let none = Peer::on_tcp(super::carry::taker()).await;
    let refuses = Peer::on_tcp(|mut talk: Talk| async move {
        talk.open("STARTTLS PIPELINING").await;
        let line = talk.line().await;
        if line.as_deref() == Some("STARTTLS") {
            talk.say("454 4.7.0 not now").await;
        } else {
            talk.say("250 ok").await;
        }
        talk.take(9).await;
    })
    .await;
    let no_tls = Fate::Refused(Refused::NoTls);
    for (what, peer) in [("no STARTTLS", &none), ("STARTTLS refused", &refuses)] {
        for policy in POLICIES {
            let mails = peer.count("MAIL");
            let expected =
                if policy == Policy::Opportunistic { Fate::Clear(TlsFault::NotOffered) } else { no_tls };
            assert_eq!(fate(&ca, peer.host("mx.test"), policy).await, expected, "{what} {policy:?}");
            let went = usize::from(policy == Policy::Opportunistic);
            assert_eq!(peer.count("MAIL") - mails, went, "{what} {policy:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_with_the_tls_of_another_time_get_opportunistic_mail_in_clear_and_no_strict_mail() {
    let ca = Ca::new("ca");
    for old in OldTls::ALL {
        let Some(peer) = OldTls::start(old) else { return };
        let to = peer.address();
        let host = || Host::new("old.test".parse().unwrap(), to.port()).with_addresses(vec![to.ip()]);
        for policy in POLICIES {
            let got = fate(&ca, host(), policy).await;
            let expected = match policy {
                Policy::Opportunistic => Fate::Clear(TlsFault::NotValid),
                // The certificate is looked at first; one that is read is found to be nobody's.
                Policy::Verified if matches!(got, Fate::Refused(Refused::NotVerified(_))) => got,
                _ => Fate::Handshake,
            };
            assert_eq!(got, expected, "{old:?} {policy:?}");
        }
    }
}

#[tokio::test]
async fn what_is_refused_is_told_in_one_line_with_who_demanded_it_and_what_was_seen() {
    let ca = Ca::new("ca");
    let peer = Peer::with_tls(Leaf::WrongName.issue(&ca, "mx.test").server()).await;
    let port = peer.host("mx.test").port;
    let mut hosts = Hosts::new(vec![peer.host("mx.test")], Require::Verified);
    hosts.by = PolicyKind::Sts;
    let (end, _) = run_at(&trusting(&ca), &hosts, [job(Require::Verified)]).await;
    let RunEnd::Unreachable(cause) = end else { panic!("{end:?}") };
    assert_eq!(
        cause.to_string(),
        "MTA-STS requires a certificate valid for mx.test; the certificate is for other names"
    );
    let (host, require) = Policy::NoMatch.ask(peer.host("mx.test"));
    let (end, _) = send(&trusting(&ca), host, require).await;
    let RunEnd::Unreachable(cause) = end else { panic!("{end:?}") };
    assert_eq!(
        cause.to_string(),
        format!(
            "mx.test:{port}: DANE requires a certificate that matches its TLSA records; \
             the certificate does not match"
        )
    );
    let Cause::Tls { demand: Demand::Dane, seen: Some(seen), .. } = cause else { panic!("{cause:?}") };
    assert_eq!(seen.to_string(), "TLSv1.3 TLS_AES_256_GCM_SHA384, not verified");
}
