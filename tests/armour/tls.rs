//! Versions refused, certificates replaced while connections live, certificates by name.

use std::sync::Arc;

use postroad::clock::SystemClock;
use postroad::hop::Host;
use postroad::net::tls::{ClientTls, ServerTls, TlsClass, TlsConfigError, TlsOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpStream;

use super::{Client, options, server};

/// A certificate for this name and its key, in PEM.
pub(crate) fn pair(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn server_tls((cert, key): &(String, String)) -> ServerTls {
    ServerTls::from_pem(cert.as_bytes(), key.as_bytes()).unwrap()
}

fn trusting(certs: &[&str]) -> ClientTls {
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    for cert in certs {
        trust = trust.trust_pem(cert.as_bytes()).unwrap();
    }
    ClientTls::new(trust, Arc::new(SystemClock)).unwrap()
}

/// A ClientHello that offers no version beyond 3.`version`, and nothing else that could be refused.
fn hello(version: u8) -> Vec<u8> {
    let suites = [0xc0, 0x2b, 0xc0, 0x09, 0xc0, 0x13, 0x00, 0x2f];
    let extensions = [
        0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17, // secp256r1
        0x00, 0x0b, 0x00, 0x02, 0x01, 0x00, // uncompressed points
        0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03, // ECDSA with SHA-256
    ];
    let mut body = vec![3, version];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 8]);
    body.extend(suites);
    body.extend([1, 0]);
    body.extend([0, 22]);
    body.extend(extensions);
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

#[tokio::test]
async fn nothing_older_than_tls_1_2_is_spoken() {
    let tls = server_tls(&pair("mx.test"));
    let running =
        server(&Arc::default(), options()).tls(tls).listen_tls("127.0.0.1:0").start().await.unwrap();
    let answer = async |version| {
        let mut stream = TcpStream::connect(running.addresses()[0]).await.unwrap();
        stream.write_all(&hello(version)).await.unwrap();
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    };
    for (version, what) in [(0, "SSL 3.0"), (1, "TLS 1.0"), (2, "TLS 1.1")] {
        let answer = answer(version).await;
        // RFC 8446 §6: a fatal alert, protocol_version.
        assert_eq!((answer[0], &answer[3..]), (21, &[0, 2, 2, 70][..]), "{what}: {answer:?}");
    }
    let answer = answer(3).await;
    assert_eq!((answer[0], answer[5]), (22, 2), "the same hello is good for TLS 1.2: {answer:?}");
}

#[tokio::test]
async fn a_certificate_is_replaced_while_connections_live() {
    let (old, new) = (pair("mx.test"), pair("mx.test"));
    let tls = server_tls(&old);
    let running =
        server(&Arc::default(), options()).tls(tls.clone()).listen_tls("127.0.0.1:0").start().await.unwrap();
    let host = Host::new("mx.test".parse().unwrap(), 465);
    let open = async |cert: &str| {
        let stream = TcpStream::connect(running.addresses()[0]).await.unwrap();
        trusting(&[cert]).handshake(stream, &host, TlsClass::Verifying).await
    };
    let mut before = Client(open(&old.0).await.unwrap().0);
    before.expect(&["220"]).await;
    tls.replace(new.0.as_bytes(), new.1.as_bytes()).unwrap();
    let mut after = Client(open(&new.0).await.unwrap().0);
    after.expect(&["220"]).await;
    assert!(open(&old.0).await.is_err(), "nobody sees the old one any more");
    before.ask("EHLO c.test", "250").await;
    before.ask("QUIT", "221").await;
}

#[tokio::test]
async fn a_client_sees_the_certificate_of_the_name_it_asks_for() {
    let names = ["mx.test", "a.test", "*.b.test", "exact.b.test"];
    let pairs: Vec<_> = names.iter().map(|name| pair(name)).collect();
    let mut tls = server_tls(&pairs[0]);
    for (name, (cert, key)) in names.iter().zip(&pairs).skip(1) {
        tls = tls.with_name(&name.to_uppercase(), cert.as_bytes(), key.as_bytes()).unwrap();
    }
    let shown = async |tls: &ServerTls, name: &str| {
        for (known, (cert, _)) in names.iter().zip(&pairs) {
            let (ours, theirs) = duplex(16 * 1024);
            let host = Host::new(name.parse().unwrap(), 25);
            let client = trusting(&[cert]);
            let (seen, _) = tokio::join!(client.handshake(ours, &host, TlsClass::Accepting), async {
                tls.accept(theirs).await.map(|(mut io, _)| tokio::spawn(async move { io.flush().await }))
            });
            if seen.unwrap().1.verified.is_some() {
                return (*known).to_owned();
            }
        }
        // No certificate is good for the name: the one in front of the others is shown.
        "(none)".to_owned()
    };
    for (asked, certificate) in [
        ("mx.test", "mx.test"),
        ("a.test", "a.test"),
        ("x.b.test", "*.b.test"),
        ("exact.b.test", "exact.b.test"),
        ("b.test", "(none)"),
        ("y.x.b.test", "(none)"),
        ("elsewhere.test", "(none)"),
    ] {
        assert_eq!(shown(&tls, asked).await, certificate, "{asked}");
    }
    // Each can be replaced and removed while the server runs.
    tls.remove_name("exact.b.test");
    assert_eq!(shown(&tls, "exact.b.test").await, "*.b.test");
    let wrong = tls.replace_name("a.test", pairs[1].0.as_bytes(), pairs[0].1.as_bytes());
    assert!(matches!(wrong, Err(TlsConfigError::Unusable(_))));
    assert_eq!(shown(&tls, "a.test").await, "a.test");
    tls.replace_name("a.test", pairs[0].0.as_bytes(), pairs[0].1.as_bytes()).unwrap();
    assert_eq!(shown(&tls, "a.test").await, "(none)");
    for name in ["", "a b", "*", "[192.0.2.1]", "*.*.test"] {
        let refused = tls.replace_name(name, pairs[0].0.as_bytes(), pairs[0].1.as_bytes());
        assert!(matches!(refused, Err(TlsConfigError::Name)), "{name}");
    }
}
