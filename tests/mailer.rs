//! A mailer against scripted relays.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "kit/peer.rs"]
mod peer;

use std::sync::Arc;

use mail_builder::MessageBuilder;
use postroad::attempt::{Cause, ConnectFault, Mailer, Outcome, SendError};
use postroad::hop::{Host, Refused, Require};
use postroad::message::{Envelope, RawMessage};
use postroad::net::tls::TlsOptions;
use postroad::route::{FixedRoutes, Hosts, LocalId, RouteError};
use postroad::smtp::address::{Domain, EhloName};
use postroad::smtp::sasl::Credentials;

use peer::{Authority, Peer, Talk, self_signed};

fn letter() -> MessageBuilder<'static> {
    MessageBuilder::new()
        .from("shop@client.test")
        .to(vec!["ada@mx.test", "no@mx.test"])
        .subject("Your order")
        .text_body("It is on its way.")
}

fn credentials() -> Credentials {
    Credentials::new("shop@client.test", "hunter2")
}

/// A provider's relay: STARTTLS, AUTH, and `235` only for the right password.
async fn provider(tls: postroad::net::tls::ServerTls) -> Peer {
    Peer::on_tcp(move |mut talk: Talk| {
        let tls = tls.clone();
        async move {
            talk.open("STARTTLS PIPELINING").await?;
            talk.until("STARTTLS").await?;
            talk.say("220 go").await;
            if !talk.secure(&tls).await {
                return None;
            }
            talk.until("EHLO").await?;
            talk.say("250-mx.test\n250-PIPELINING\n250 AUTH PLAIN").await;
            // Base64 of NUL shop@client.test NUL hunter2
            match talk.until("AUTH").await?.as_str() {
                "AUTH PLAIN AHNob3BAY2xpZW50LnRlc3QAaHVudGVyMg==" => talk.say("235 welcome").await,
                _ => talk.say("535 5.7.8 who are you?").await,
            }
            talk.take(99).await
        }
    })
    .await
}

fn mailer(peer: &Peer, credentials: Credentials, roots: &Authority) -> Mailer {
    let address = format!("localhost:{}", peer.host("localhost").port);
    let trust = TlsOptions::new().trust_pem(roots.pem.as_bytes()).unwrap();
    Mailer::smarthost(&address, credentials)
        .unwrap()
        .configured(|options| {
            options.tls = trust;
            options.tls.without_native_roots = true;
        })
        .unwrap()
}

#[tokio::test]
async fn a_message_goes_out_and_each_recipient_has_an_answer() {
    let authority = Authority::new();
    let peer = provider(authority.issue("localhost", 2090)).await;
    let mailer = mailer(&peer, credentials(), &authority);
    for _ in 0..2 {
        let delivery = mailer.send(letter()).await.unwrap();
        assert!(!delivery.is_complete());
        let said: Vec<_> = delivery
            .recipients
            .iter()
            .map(|(to, outcome)| (to.to_string(), matches!(outcome, Outcome::Delivered(_))))
            .collect();
        assert_eq!(said, [("<ada@mx.test>".to_owned(), true), ("<no@mx.test>".to_owned(), false)]);
    }
    assert_eq!((peer.connections(), peer.count("MAIL FROM:<shop@client.test>")), (1, 2));
    assert!(
        peer.heard().iter().any(|line| line.starts_with("Message-ID: <") && line.ends_with("@client.test>"))
    );
}

#[tokio::test]
async fn a_relay_that_is_not_who_it_says_gets_no_credentials() {
    let authority = Authority::new();
    let peer = provider(self_signed("localhost")).await;
    let refused = mailer(&peer, credentials(), &authority).send(letter()).await;
    assert!(matches!(
        refused,
        Err(SendError::Unreachable(Cause::Tls { refused: Refused::NotVerified(_), .. }))
    ));
    assert_eq!((peer.count("AUTH"), peer.count("MAIL")), (0, 0));
}

#[tokio::test]
async fn a_wrong_password_sends_nothing() {
    let authority = Authority::new();
    let peer = provider(authority.issue("localhost", 2090)).await;
    let wrong = Credentials::new("shop@client.test", "letmein");
    let refused = mailer(&peer, wrong, &authority).send(letter()).await;
    let Err(SendError::Unreachable(Cause::Reply { reply, .. })) = refused else { panic!("{refused:?}") };
    assert_eq!((reply.code(), peer.count("MAIL")), (535, 0));
}

#[tokio::test]
async fn cleartext_is_a_name_of_its_own() {
    let peer = Peer::on_tcp(|mut talk: Talk| async move {
        talk.open("STARTTLS PIPELINING").await?;
        talk.take(99).await
    })
    .await;
    let address = format!("127.0.0.1:{}", peer.host("localhost").port);
    let delivery = Mailer::cleartext(&address).unwrap().send(letter()).await.unwrap();
    assert_eq!(delivery.recipients.len(), 2);
    assert_eq!((peer.count("STARTTLS"), peer.count("EHLO [127.0.0.1]")), (0, 1));
}

fn raw(recipients: usize) -> RawMessage {
    let to: Vec<String> = (0..recipients).map(|n| format!("r{n}@mx.test")).collect();
    let envelope = Envelope::parse("s@client.test", to.iter().map(String::as_str)).unwrap();
    RawMessage::new(envelope, "From: s@client.test\r\nSubject: x\r\n\r\nHello\r\n")
}

fn in_memory(peer: &Peer) -> Mailer {
    Mailer::cleartext("mx.test")
        .unwrap()
        .configured(|options| options.connect = Arc::new(peer.clone()))
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn many_recipients_go_in_several_transactions() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.open("PIPELINING").await?;
        talk.take(99).await
    });
    let delivery = in_memory(&peer).send(raw(250)).await.unwrap();
    assert!(delivery.is_complete() && delivery.recipients.len() == 250);
    assert_eq!(delivery.recipients[249].0.to_string(), "<r249@mx.test>");
    assert_eq!((peer.count("MAIL"), peer.count("RCPT"), peer.connections()), (3, 250, 1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_dies_before_the_message_is_tried_anew() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.open("").await?;
        if talk.number == 1 {
            return talk.until("MAIL").await.map(|_| ());
        }
        talk.take(99).await
    });
    assert!(in_memory(&peer).send(raw(1)).await.unwrap().is_complete());
    assert_eq!(peer.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_always_dies_is_given_up() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.open("").await?;
        talk.until("MAIL").await.map(|_| ())
    });
    let delivery = in_memory(&peer).send(raw(1)).await.unwrap();
    assert!(matches!(delivery.recipients[0].1, Outcome::Deferred(Cause::Connect { .. })));
    assert_eq!(peer.connections(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_takes_one_message_per_connection_gets_them_all() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.open("PIPELINING").await?;
        talk.take(1).await
    });
    let delivery = in_memory(&peer).send(raw(600)).await.unwrap();
    assert!(delivery.is_complete() && delivery.recipients.len() == 600);
    assert_eq!(peer.connections(), 6);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_is_told_when_no_connection_is_left_for_the_rest() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.open("PIPELINING").await?;
        if talk.number > 1 {
            talk.freeze().await;
        }
        talk.take(1).await
    });
    let mailer = in_memory(&peer).configured(|options| options.carrier.limits.total = 1).unwrap();
    let long = mailer.send(raw(200));
    let (delivery, _) = tokio::join!(biased; long, mailer.send(raw(1)));
    let outcomes = delivery.unwrap().recipients;
    let sent = |(_, outcome): &&(_, Outcome)| matches!(outcome, Outcome::Delivered(_));
    assert_eq!((outcomes.iter().filter(sent).count(), outcomes.len()), (100, 200));
    let fault = ConnectFault::Busy;
    let busy = |outcome: &Outcome| matches!(outcome, Outcome::Deferred(Cause::Connect { fault: f, .. }) if *f == fault);
    assert!(outcomes[100..].iter().all(|(_, outcome)| busy(outcome)), "{:?}", outcomes[100]);
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_message_is_refused_before_anything_is_sent() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move { talk.open("").await });
    let refused = in_memory(&peer).send(MessageBuilder::new().subject("to nobody")).await;
    assert!(matches!(refused, Err(SendError::Message(_))));
    assert_eq!(peer.connections(), 0);
}

fn direct(routes: FixedRoutes, peer: &Peer) -> Mailer {
    Mailer::direct(routes, EhloName::new("shop.test").unwrap())
        .unwrap()
        .configured(|options| options.connect = Arc::new(peer.clone()))
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn without_a_relay_each_domain_is_tried_on_its_own() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        talk.open("PIPELINING").await?;
        talk.take(99).await
    });
    let domain = |name: &str| Domain::parse(name).unwrap();
    let host = |name: &str| Host::new(domain(name), 25);
    let routes = FixedRoutes::new()
        .host(domain("one.test"), host("mx.one.test"), Require::Cleartext)
        .host(domain("two.test"), host("mx.two.test"), Require::Cleartext)
        .local(domain("here.test"), LocalId::new("maildir"))
        .no_mail(domain("none.test"));
    let to = ["a@none.test", "b@two.test", "c@one.test", "d@unknown.test", "e@two.test", "f@here.test"];
    let envelope = Envelope::parse("s@client.test", to).unwrap();
    let message = RawMessage::new(envelope, "From: s@client.test\r\nSubject: x\r\n\r\nHello\r\n");
    let delivery = direct(routes, &peer).send(message).await.unwrap();
    let said: Vec<_> = delivery.recipients.iter().map(|(to, outcome)| (to.to_string(), outcome)).collect();
    for ((to, outcome), expected) in said.iter().zip(to) {
        assert_eq!(*to, format!("<{expected}>"), "in the order of the envelope");
        match *outcome {
            Outcome::Delivered(by) => {
                let (_, domain) = expected.split_once('@').unwrap();
                assert_eq!(by.host.as_ref().unwrap().name.as_str(), format!("mx.{domain}"));
            }
            Outcome::Failed(Cause::Route(RouteError::NullMx)) => assert_eq!(expected, "a@none.test"),
            Outcome::Failed(Cause::Route(RouteError::NoRoute)) => assert_eq!(expected, "d@unknown.test"),
            Outcome::Deferred(Cause::Local(_)) => assert_eq!(expected, "f@here.test"),
            other => panic!("{to}: {other:?}"),
        }
    }
    assert_eq!((said.len(), peer.count("MAIL"), peer.count("RCPT")), (6, 2, 3));
    assert_eq!(peer.count("EHLO shop.test"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_domain_whose_host_is_not_there_stops_no_other() {
    let peer = Peer::in_memory(65536, |mut talk: Talk| async move {
        if talk.number == 1 {
            talk.say("554 5.3.2 we take no mail").await;
            return None;
        }
        talk.open("").await?;
        talk.take(99).await
    });
    let domain = |name: &str| Domain::parse(name).unwrap();
    let routes = ["one.test", "two.test"].into_iter().fold(FixedRoutes::new(), |routes, name| {
        routes.host(domain(name), Host::new(domain(&format!("mx.{name}")), 25), Require::Cleartext)
    });
    let envelope = Envelope::parse("s@client.test", ["a@one.test", "b@two.test"]).unwrap();
    let message = RawMessage::new(envelope, "From: s@client.test\r\nSubject: x\r\n\r\nHello\r\n");
    let delivery = direct(routes, &peer).send(message).await.unwrap();
    let outcomes: Vec<_> = delivery.recipients.into_iter().map(|(_, outcome)| outcome).collect();
    let refused = outcomes
        .iter()
        .filter(|o| matches!(o, Outcome::Failed(Cause::Reply { reply, .. }) if reply.code() == 554));
    let delivered = outcomes.iter().filter(|o| matches!(o, Outcome::Delivered(_)));
    assert_eq!((refused.count(), delivered.count()), (1, 1), "{outcomes:?}");
}

#[test]
fn a_mailer_for_any_hosts_keeps_what_they_require() {
    let hosts = Hosts::new(Vec::new(), Require::Verified);
    assert!(Mailer::new(hosts, postroad::attempt::MailerOptions::new()).is_ok());
    assert!(Mailer::from_url("smtps://shop:secret@relay.test").is_ok());
    assert!(Mailer::from_url("smtp+insecure://relay.test").is_err());
}
