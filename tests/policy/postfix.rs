//! Postfix as the host: one that asks for a client's certificate, and one that DANE vouches for.

use std::fs;
use std::sync::Arc;

use postroad::attempt::{Carrier, Cause, Outcome};
use postroad::clock::SystemClock;
use postroad::hop::{Demand, Host, Refused, Require, TlsFault};
use postroad::net::connect::TcpConnect;
use postroad::net::tls::{ClientIdentity, ClientTls, TlsOptions};
use tempfile::TempDir;

use super::carry::{first, options};
use super::certs::{Ca, Cert, Leaf, with_tlsa};
use super::kit::peers::Postfix;
use super::{refused, send};

/// A Postfix that shows `cert`, and asks for certificates of `ca`.
fn postfix(ca: &Ca, cert: &Cert) -> Option<(Postfix, TempDir)> {
    let dir = tempfile::tempdir().unwrap();
    let [roots, chain, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| dir.path().join(name));
    fs::write(&roots, ca.pem()).unwrap();
    fs::write(&chain, &cert.chain_pem).unwrap();
    fs::write(&key, &cert.key_pem).unwrap();
    // Mail is only taken from clients whose certificate is known.
    let settings = format!(
        "smtpd_tls_CAfile = {}\nsmtpd_tls_ask_ccert = yes\nsmtpd_tls_session_cache_database =\n\
         smtpd_relay_restrictions = permit_tls_all_clientcerts, reject",
        roots.display()
    );
    Some((Postfix::showing(&chain, &key, &settings)?, dir))
}

fn host(postfix: &Postfix) -> Host {
    let to = postfix.address();
    Host::new("mx.test".parse().unwrap(), to.port()).with_addresses(vec![to.ip()])
}

fn carrier(ca: &Ca, identity: Option<&Cert>) -> Carrier {
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    trust.identity = identity
        .map(|cert| ClientIdentity::from_pem(cert.chain_pem.as_bytes(), cert.key_pem.as_bytes()).unwrap());
    let trust = trust.trust_pem(ca.pem().as_bytes()).unwrap();
    let tls = ClientTls::new(trust, Arc::new(SystemClock)).unwrap();
    Carrier::new(options(), Arc::new(TcpConnect::new()), tls, Arc::new(SystemClock))
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_takes_mail_from_the_client_whose_certificate_it_knows() {
    let ca = Ca::new("ca");
    let Some((postfix, _dir)) = postfix(&ca, &ca.issue("mx.test")) else { return };
    let ours = ca.issue("client.test");
    let foreign = Leaf::UnknownCa.issue(&ca, "client.test");
    for (identity, is_taken) in [(Some(&ours), true), (None, false), (Some(&foreign), false)] {
        let (_, work) = send(&carrier(&ca, identity), host(&postfix), Require::Verified).await;
        match first(&work) {
            Outcome::Delivered(_) => assert!(is_taken, "{}", postfix.log()),
            Outcome::Failed(Cause::Reply { reply, .. }) => {
                assert!(!is_taken && reply.code() == 554, "{reply} {}", postfix.log());
            }
            other => panic!("{other:?} {}", postfix.log()),
        }
    }
    // It is shown only where the host's own certificate was verified.
    let (_, work) = send(&carrier(&ca, Some(&ours)), host(&postfix), Require::Encrypted).await;
    assert!(matches!(first(&work), Outcome::Failed(_)), "{}", postfix.log());
    assert!(postfix.log().contains("Trusted TLS connection established from"), "{}", postfix.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_is_the_host_that_dane_vouches_for() {
    let ca = Ca::new("ca");
    let cert = Leaf::Expired.issue(&ca, "other.test");
    let Some((postfix, _dir)) = postfix(&ca, &cert) else { return };
    let carrier = carrier(&Ca::new("somebody else's"), None);
    let with = |record| with_tlsa(host(&postfix), vec![record]);
    for resumed in [false, true] {
        let (_, work) = send(&carrier, with(cert.tlsa(3, 1, 1)), Require::Opportunistic).await;
        // It is open to clients with a certificate only; what counts is that the envelope was begun.
        assert!(matches!(first(&work), Outcome::Failed(Cause::Reply { .. })), "{}", postfix.log());
        let tls = work.trials[0].tls.as_ref().unwrap();
        assert!(tls.dane && (tls.resumed || !resumed), "{tls}");
        carrier.close_idle();
    }
    let (end, _) = send(&carrier, with(ca.cert().tlsa(2, 0, 0)), Require::Opportunistic).await;
    assert_eq!(refused(&end), (Demand::Dane, Refused::NoMatch(TlsFault::Expired)));
}
