//! What is signed and what is not, from the door to the wire: submissions, mail of those who may send to
//! every domain, our own reports, and copies that were converted for a host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![cfg(feature = "dkim")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postroad::clock::Timestamp;
use postroad::delivery::{Engine, SubmitError};
use postroad::hop::Require;
use postroad::message::dkim::{Identity, Selector, Signer, SigningKey};
use postroad::message::{Envelope, RawMessage, Renewed, Sign, SignError, Signing};
use postroad::net::connect::Connect;
use postroad::relay::{Relay, Rules};
use postroad::server::{Peer as Remote, Server, ServerOptions};
use postroad::smtp::address::EhloName;
use postroad::spool::{MemorySpool, Spool};
use postroad::{Mailer, attempt};
use tokio::io::{DuplexStream, duplex};

#[path = "kit/client.rs"]
mod client;
#[path = "kit/peer.rs"]
mod peer;

use client::Client;
use peer::{Peer, Talk};

const FRIEND: &str = "192.0.2.9";
const STRANGER: &str = "198.51.100.1";
const MODERN: &str = "PIPELINING 8BITMIME CHUNKING SMTPUTF8";

fn signer() -> Signer {
    let key = |pem: &[u8]| SigningKey::from_pem(pem).unwrap();
    let identity = |domain: &str| {
        Identity::new(domain.parse().unwrap())
            .key(Selector::parse("rsa").unwrap(), key(include_bytes!("fixtures/dkim/rsa.pem")))
            .key(Selector::parse("ed").unwrap(), key(include_bytes!("fixtures/dkim/ed25519.pem")))
    };
    Signer::new([identity("ours.test"), identity("mx.ours.test")]).unwrap()
}

/// Both algorithms sign the same octets alike each time: what stands in front is what would be put there.
fn is_signed(message: &str) -> bool {
    let mut end = 0;
    while message[end..].starts_with("DKIM-Signature:") {
        end += message[end..]
            .match_indices("\r\n")
            .find(|(at, _)| !message[end + at + 2..].starts_with(' '))
            .unwrap()
            .0
            + 2;
    }
    let (fields, rest) = message.split_at(end);
    assert_eq!(
        message.matches("DKIM-Signature:").count(),
        fields.matches("DKIM-Signature:").count(),
        "{message}"
    );
    let Some((_, time)) = fields.split_once(" t=") else { return false };
    let time: u64 = time.split_once(';').unwrap().0.parse().unwrap();
    let again = signer().sign(rest.as_bytes(), Timestamp::from_millis(time * 1000)).unwrap().into_fields();
    assert_eq!(String::from_utf8_lossy(&again), fields, "the signature is about something else: {message}");
    assert_eq!(fields.matches("DKIM-Signature:").count(), 2);
    true
}

/// A host that takes everything by DATA, and has these extensions.
fn host(extensions: &'static str) -> Peer {
    Peer::in_memory(1 << 16, move |mut talk: Talk| async move {
        talk.open(extensions).await?;
        talk.take(usize::MAX).await
    })
}

/// The messages that a host was given by DATA, as they were before dots were doubled.
fn given(peer: &Peer) -> Vec<String> {
    let mut messages = Vec::new();
    let mut heard = peer.heard().into_iter();
    while heard.by_ref().any(|line| line == "DATA") {
        let content = heard.by_ref().take_while(|line| line != ".");
        messages
            .push(content.map(|line| format!("{}\r\n", line.strip_prefix('.').unwrap_or(&line))).collect());
    }
    messages
}

async fn engine(peer: &Peer, spool: &Arc<MemorySpool>, signer: Arc<dyn Sign>) -> Engine {
    Engine::builder(Arc::clone(spool), EhloName::new("mx.ours.test").unwrap())
        .smarthost(peer.host("next.test"), Require::Cleartext, None)
        .connect(Arc::new(peer.clone()) as Arc<dyn Connect>)
        .signer(signer)
        .start()
        .await
        .unwrap()
}

fn raw(text: &str, to: &str) -> RawMessage {
    RawMessage::new(Envelope::parse("ada@ours.test", [to]).unwrap(), text.to_owned())
}

/// Sends by a relay over SMTP, and gives its last reply.
async fn relay(engine: &Engine, from: &str, content: &[u8]) -> String {
    let hostname = EhloName::new("mx.ours.test").unwrap();
    let mut rules = Rules::new(hostname.clone());
    rules.local = vec!["local.test".parse().unwrap()];
    rules.relay_from = vec!["192.0.2.0/24".parse().unwrap()];
    let (ours, theirs) = duplex(64 * 1024);
    let address = format!("{from}:4000").parse().unwrap();
    let remote = Remote { address, local: "198.51.100.25:25".parse().unwrap() };
    let server = Server::builder(Relay::new(engine.clone(), rules), ServerOptions::new(hostname));
    tokio::spawn(server.serve_io(Box::new(theirs), remote));
    let mut client: Client<DuplexStream> = Client(ours);
    client.expect(&["220"]).await;
    client.ask("EHLO c.test", "250").await;
    client.ask("MAIL FROM:<ada@ours.test> BODY=8BITMIME", "250").await;
    client.ask("RCPT TO:<b@local.test>", "250").await;
    client.send(format!("BDAT {} LAST\r\n", content.len())).await;
    client.send(content).await;
    client.reply().await
}

#[tokio::test]
async fn a_submission_is_signed_once_with_the_fields_that_were_added_to_it() {
    let (peer, spool) = (host("PIPELINING 8BITMIME"), Arc::new(MemorySpool::new()));
    let engine = engine(&peer, &spool, Arc::new(signer())).await;
    for (text, signed) in [
        ("From: Ada <ada@ours.test>\nSubject: x\n\nhello\n", true),
        ("From: ada@theirs.test\n\nhello\n", false),
        ("From: ada@ours.test, bob@theirs.test\nSender: ada@ours.test\n\nhello\n", false),
    ] {
        let _ = engine.submit(raw(text, "b@b.test")).await.unwrap().finished().await;
        let got = given(&peer).pop().unwrap();
        assert_eq!(is_signed(&got), signed, "{got}");
        assert!(got.contains("\r\nMessage-ID: <") || got.starts_with("Date: "), "{got}");
    }
    // What is signed already goes as it is.
    let own = given(&peer).remove(0);
    let _ = engine.submit(raw(&own, "b@b.test")).await.unwrap().finished().await;
    assert_eq!(given(&peer).pop().unwrap(), own);
}

#[tokio::test]
async fn a_relay_signs_for_those_who_may_send_everywhere_and_for_nobody_else() {
    let (peer, spool) = (host("PIPELINING 8BITMIME"), Arc::new(MemorySpool::new()));
    let engine = engine(&peer, &spool, Arc::new(signer())).await;
    // One that is staged in the spool while it comes, and one without the end of its last line.
    let large = format!("From: ada@ours.test\r\n\r\n{}", "gr\u{fc}n and so on\r\n".repeat(120_000));
    let small = "From: ada@ours.test\r\nSubject: x\r\n\r\nhello".to_owned();
    for (from, content, signed) in [(FRIEND, &small, true), (FRIEND, &large, true), (STRANGER, &small, false)]
    {
        let before = given(&peer).len();
        let reply = relay(&engine, from, content.as_bytes()).await;
        assert!(reply.starts_with("250"), "{reply}");
        while given(&peer).len() == before || spool.stats().messages > 0 {
            tokio::task::yield_now().await;
        }
        let got = given(&peer).pop().unwrap();
        assert!(got.len() > content.len() && got.contains("Received: "));
        assert_eq!(is_signed(&got), signed, "{from}");
    }
}

#[tokio::test]
async fn our_own_reports_are_signed() {
    let (peer, spool) = (host("PIPELINING 8BITMIME"), Arc::new(MemorySpool::new()));
    let engine = engine(&peer, &spool, Arc::new(signer())).await;
    let _ = engine
        .submit(raw("From: ada@theirs.test\n\nhello\n", "nobody@b.test"))
        .await
        .unwrap()
        .finished()
        .await;
    while given(&peer).is_empty() {
        tokio::task::yield_now().await;
    }
    let report = given(&peer).pop().unwrap();
    assert!(report.contains("From: Mail Delivery System <MAILER-DAEMON@mx.ours.test>"), "{report}");
    assert!(is_signed(&report));
}

#[tokio::test]
async fn a_converted_copy_is_signed_again_and_a_forged_one_is_not() {
    let (peer, spool) = (host("PIPELINING"), Arc::new(MemorySpool::new()));
    let engine = engine(&peer, &spool, Arc::new(signer())).await;
    let text = "From: ada@ours.test\nSubject: x\n\ngr\u{fc}n\n";
    let _ = engine.submit(raw(text, "b@b.test")).await.unwrap().finished().await;
    let got = given(&peer).pop().unwrap();
    assert!(got.contains("gr=C3=BCn") && is_signed(&got), "{got}");
    // Somebody says that we have signed it.
    let forged = got.replace("gr=C3=BCn", "gr\u{fc}n and blue").replace("quoted-printable", "8bit");
    assert!(relay(&engine, STRANGER, forged.as_bytes()).await.starts_with("250"));
    while given(&peer).len() < 2 {
        tokio::task::yield_now().await;
    }
    let passed = given(&peer).pop().unwrap();
    let old = got.split("\r\nDate: ").next().unwrap();
    assert!(passed.contains("and blue") && passed.contains(old), "{passed}");
    assert_eq!(passed.matches("DKIM-Signature:").count(), 2, "{passed}");
}

#[tokio::test]
async fn a_mailer_with_a_signer_signs_too() {
    let peer = host(MODERN);
    let mailer = Mailer::cleartext("next.test").unwrap();
    let connect: Arc<dyn Connect> = Arc::new(peer.clone());
    let mailer = mailer.configured(|options| {
        options.connect = connect;
        options.carrier.client.session.chunking = false;
        options.carrier.signer = Some(Arc::new(signer()));
    });
    let sent = mailer.unwrap().send(raw("From: ada@ours.test\n\nhello\n", "b@b.test")).await.unwrap();
    assert!(sent.is_complete());
    assert!(is_signed(&given(&peer).pop().unwrap()));
}

/// Cannot sign.
#[derive(Debug)]
struct Broken;

impl Sign for Broken {
    fn begin(&self) -> Box<dyn Signing> {
        Box::new(Self)
    }
    fn renew(&self, _: &[u8], _: &[u8], _: Timestamp) -> Result<Option<Renewed>, SignError> {
        Err(SignError::Failed)
    }
}

impl Signing for Broken {
    fn update(&mut self, _: &[u8]) {}
    fn finish(self: Box<Self>, _: &[u8], _: Timestamp) -> Result<Bytes, SignError> {
        Err(SignError::Failed)
    }
}

#[tokio::test]
async fn what_cannot_be_signed_is_refused_for_now_and_never_sent_without() {
    let (peer, spool) = (host(MODERN), Arc::new(MemorySpool::new()));
    let engine = engine(&peer, &spool, Arc::new(Broken)).await;
    let error = engine.submit(raw("From: ada@ours.test\n\nhello\n", "b@b.test")).await.unwrap_err();
    assert!(matches!(error, SubmitError::Sign(SignError::Failed)), "{error}");
    let reply = relay(&engine, FRIEND, b"From: ada@ours.test\r\n\r\nhello\r\n").await;
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
    assert_eq!(spool.stats().messages, 0);
    engine.shutdown(Duration::ZERO).await;
    let mailer = Mailer::cleartext("next.test").unwrap();
    let mailer = mailer.configured(|options| options.carrier.signer = Some(Arc::new(Broken))).unwrap();
    let error = mailer.send(raw("From: ada@ours.test\n\nhello\n", "b@b.test")).await.unwrap_err();
    assert!(matches!(error, attempt::SendError::Sign(_)), "{error}");
    assert_eq!(peer.connections(), 0);
}

#[tokio::test]
async fn a_copy_that_cannot_be_signed_again_waits() {
    let (peer, spool) = (host("PIPELINING"), Arc::new(MemorySpool::new()));
    let engine = engine(&peer, &spool, Arc::new(Broken)).await;
    let reply = relay(&engine, STRANGER, "From: ada@ours.test\r\n\r\ngr\u{fc}n\r\n".as_bytes()).await;
    assert!(reply.starts_with("250"), "{reply}");
    while engine.stats().deferred == 0 {
        tokio::task::yield_now().await;
    }
    assert!(given(&peer).is_empty());
    assert_eq!(spool.stats().messages, 1);
}
