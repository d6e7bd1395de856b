//! Senders: whose domain takes no mail is refused, and what was rewritten for one leads back to it.

use std::sync::Arc;

use postroad::BoxFuture;
use postroad::clock::{Clock, SystemClock, Timestamp};
use postroad::message::Srs;
use postroad::relay::SenderCheck;
use postroad::route::RouteError;
use postroad::route::dns::{Answer, Dns, DnsName, Found, Record, RecordKind};
use postroad::route::mx::{Exchange, Mx};
use postroad::smtp::address::{Domain, ReversePath};
use postroad::spool::MemorySpool;

use super::{FRIEND, STRANGER, connect, engine, rules, send, stored};

/// What is wrong with a domain is its name.
#[derive(Debug)]
struct ByName;

impl Dns for ByName {
    fn look_up<'a>(&'a self, name: &'a DnsName, kind: RecordKind) -> BoxFuture<'a, Found> {
        let mx = |exchange| Answer::Records(vec![Record::Mx(Mx::new(0, exchange))]);
        let answer = match (name.as_str(), kind) {
            ("null.test", RecordKind::Mx) => mx(Exchange::Null),
            ("gone.test", _) => Answer::NoName,
            ("empty.test" | "own.test" | "half.test", RecordKind::Mx)
            | ("empty.test" | "half.test", RecordKind::Aaaa) => Answer::NoData,
            ("empty.test", _) => Answer::NoData,
            ("own.test", RecordKind::A) => Answer::Records(vec![Record::A([192, 0, 2, 1].into())]),
            ("broken.test" | "half.test", _) => Answer::Failed(RouteError::Dns),
            ("forged.test", _) => Answer::Failed(RouteError::Bogus),
            ("silent.test", _) => return Box::pin(std::future::pending()),
            _ => mx(Exchange::Host(Domain::parse("mx.test").unwrap())),
        };
        Box::pin(std::future::ready(Found::new(answer, false, name.clone())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_sender_to_whom_nothing_can_go_back_is_refused() {
    let engine = engine(Arc::new(MemorySpool::new())).await;
    let mut checking = rules();
    checking.sender_check = Some(SenderCheck::new(Arc::new(ByName)));
    let mut strict = checking.clone();
    strict.sender_check.as_mut().unwrap().unknown = true;
    let mut stranger = connect(&engine, checking.clone(), STRANGER).await;
    let mut suspect = connect(&engine, strict, STRANGER).await;
    for (sender, usual, strict) in [
        ("<a@null.test>", "550 5.7.27", "550 5.7.27"),
        ("<a@NULL.test> BODY=8BITMIME", "550 5.7.27", "550 5.7.27"),
        ("<a@gone.test>", "250", "550 5.1.8"),
        ("<a@empty.test>", "250", "550 5.1.8"),
        ("<a@broken.test>", "250", "451 4.4.3"),
        ("<a@forged.test>", "250", "451 4.4.3"),
        ("<a@half.test>", "250", "451 4.4.3"),
        ("<a@silent.test>", "250", "451 4.4.3"),
        ("<a@fine.test>", "250", "250"),
        ("<a@own.test>", "250", "250"),
        ("<a@[192.0.2.1]>", "250", "250"),
        ("<>", "250", "250"),
    ] {
        for (session, reply) in [(&mut stranger, usual), (&mut suspect, strict)] {
            session.ask(&format!("MAIL FROM:{sender}"), reply).await;
            session.ask("RSET", "250").await;
        }
    }
    // Those who submit may send as whom they like, and nobody is looked up by default.
    let mut friend = connect(&engine, checking.clone(), FRIEND).await;
    friend.ask("MAIL FROM:<a@null.test>", "250").await;
    let mut user = connect(&engine, checking, STRANGER).await;
    user.ask("AUTH PLAIN AGFkYQBzM2NyZXQ=", "235").await;
    user.ask("MAIL FROM:<a@null.test>", "250").await;
    connect(&engine, rules(), STRANGER).await.ask("MAIL FROM:<a@null.test>", "250").await;
    let mut checking = rules();
    checking.sender_check = Some(SenderCheck::new(Arc::new(ByName)));
    connect(&engine, checking, "127.0.0.1").await.ask("MAIL FROM:<a@null.test>", "250").await;
}

#[tokio::test]
async fn what_comes_back_to_a_rewritten_sender_goes_to_the_sender() {
    let spool = Arc::new(MemorySpool::new());
    let engine = engine(spool.clone()).await;
    let srs = Arc::new(Srs::new("srs.test".parse().unwrap(), &[b"the key of this relay"]).unwrap());
    let mut rules = rules();
    rules.srs = Some(srs.clone());
    let now = SystemClock.now().wall;
    let rewritten = |sender: &str, at| srs.forward(&ReversePath::parse(sender).unwrap(), at).unwrap();
    let ours = rewritten("ada@far.test", now);
    let mut client = connect(&engine, rules, STRANGER).await;

    let reply = send(&mut client, "<>", &ours.to_string(), b"Subject: x\r\n\r\nnot there\r\n").await;
    let (entry, _) = stored(&*spool, &reply).await;
    assert_eq!(entry.destination.as_str(), "far.test");
    let [recipient] = &entry.recipients[..] else { panic!("{entry:?}") };
    assert_eq!(recipient.rcpt.to.to_string(), "<ada@far.test>");
    let known_as = recipient.rcpt.orcpt.as_ref().unwrap().to_string();
    assert_eq!(known_as, format!("rfc822;{}", ours.mailbox().unwrap()).replace('=', "+3D"));

    client.ask("MAIL FROM:<>", "250").await;
    let old = rewritten("ada@far.test", Timestamp::from_millis(now.as_millis() - 40 * 86_400_000));
    let guessed = ours.to_string().replace("ada@", "bob@");
    for (to, code) in [
        (&*guessed, "550 5.1.1"),
        (&*old.to_string(), "550 5.1.1"),
        ("<SRS0=@srs.test>", "550 5.1.1"),
        ("<ada@srs.test>", "550 5.7.1"),
        ("<ada@far.test>", "550 5.7.1"),
        (&*ours.to_string().replace("@srs.test", "@far.test"), "550 5.7.1"),
        (&*ours.to_string().to_lowercase(), "250"),
    ] {
        client.ask(&format!("RCPT TO:{to}"), code).await;
    }
}
