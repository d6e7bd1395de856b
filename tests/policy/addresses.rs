//! A host with several addresses, of which one does not show what is demanded: the others are tried
//! before the host is given up.

use std::net::IpAddr;

use postroad::attempt::{Cause, RunEnd};
use postroad::hop::{Host, Refused, Require, TlsFault};
use postroad::net::tls::ServerTls;
use tokio::net::TcpListener;

use super::certs::{Ca, Leaf, with_tlsa};
use super::peer::{Peer, Talk};
use super::{accepted, refused, send, trusting};

/// What stands at an address: a server that shows this, or offers no TLS.
type Stand = Option<ServerTls>;

/// Servers at 127.0.0.1, 127.0.0.2 and so on, all on one port, and the host that has these addresses.
async fn stands(all: Vec<Stand>) -> (Host, Vec<Peer>) {
    'ports: loop {
        let mut port = 0;
        let mut listeners = Vec::new();
        for n in 1..=all.len() {
            let ip = IpAddr::from([127, 0, 0, u8::try_from(n).unwrap()]);
            // Somebody else may have the port at one of the others.
            let Ok(listener) = TcpListener::bind((ip, port)).await else { continue 'ports };
            port = listener.local_addr().unwrap().port();
            listeners.push(listener);
        }
        let addresses = listeners.iter().map(|l| l.local_addr().unwrap().ip()).collect();
        let host = Host::new("mx.test".parse().unwrap(), port).with_addresses(addresses);
        let peers = listeners.into_iter().zip(all).map(|(listener, stand)| {
            Peer::listening(listener, move |mut talk: Talk| {
                let stand = stand.clone();
                async move {
                    match stand {
                        Some(tls) => drop(talk.take_with_tls(&tls).await),
                        None => {
                            talk.open("PIPELINING").await;
                            talk.take(9).await;
                        }
                    }
                }
            })
        });
        return (host, peers.collect());
    }
}

#[tokio::test]
async fn what_one_address_does_not_show_another_may() {
    let ca = Ca::new("ca");
    let (good, wrong) = (ca.issue("mx.test"), Leaf::WrongName.issue(&ca, "mx.test"));
    for dane in [false, true] {
        for first in [None, Some(wrong.server())] {
            let (host, peers) = stands(vec![first.clone(), Some(good.server())]).await;
            let (host, require) = if dane {
                (with_tlsa(host, vec![good.tlsa(3, 1, 1)]), Require::Opportunistic)
            } else {
                (host, Require::Verified)
            };
            let (end, work) = send(&trusting(&ca), host, require).await;
            let what = format!("dane {dane}, TLS {}", first.is_some());
            assert_eq!(end, RunEnd::Drained, "{what}");
            assert_eq!((peers[0].count("MAIL"), peers[1].count("MAIL")), (0, 1), "{what}");
            assert!(accepted(&work).tls.is_some());
            let fault = match (first.is_some(), dane) {
                (false, _) => TlsFault::NotOffered,
                (true, false) => TlsFault::WrongName,
                (true, true) => TlsFault::NotValid,
            };
            let told: Vec<_> = work.trials.iter().map(|t| (t.remote.unwrap().to_string(), t.fault)).collect();
            assert_eq!(
                told,
                [("127.0.0.1".to_owned(), Some(fault)), ("127.0.0.2".to_owned(), None)],
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn each_address_is_tried_once_and_no_more_than_five() {
    let ca = Ca::new("ca");
    let (host, peers) = stands(vec![None; 6]).await;
    let (end, work) = send(&trusting(&ca), host, Require::Verified).await;
    assert_eq!(refused(&end).1, Refused::NoTls);
    let connections: Vec<_> = peers.iter().map(Peer::connections).collect();
    assert_eq!((connections, work.trials.len()), (vec![1, 1, 1, 1, 1, 0], 5));
}

#[tokio::test]
async fn an_address_that_does_not_answer_does_not_hide_what_another_lacks() {
    let ca = Ca::new("ca");
    let (mut host, peers) = stands(vec![None]).await;
    host.addresses.push("127.0.0.77".parse().unwrap());
    let (end, _) = send(&trusting(&ca), host, Require::Verified).await;
    assert!(matches!(end, RunEnd::Unreachable(Cause::Tls { refused: Refused::NoTls, .. })), "{end:?}");
    assert_eq!(peers[0].connections(), 1);
}

#[tokio::test]
async fn opportunistic_mail_stays_at_the_address_that_answered() {
    let ca = Ca::new("ca");
    let wrong = Leaf::SelfSigned.issue(&ca, "other.test");
    let (host, peers) = stands(vec![Some(wrong.server()), Some(ca.issue("mx.test").server())]).await;
    let (end, _) = send(&trusting(&ca), host, Require::Opportunistic).await;
    assert_eq!(end, RunEnd::Drained);
    assert_eq!((peers[0].count("MAIL"), peers[1].connections()), (1, 0));
}
