//! The PROXY header: whom it is believed from, and what it changes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use postroad::clock::SystemClock;
use postroad::hop::Host;
use postroad::net::tls::{ClientTls, TlsClass, TlsOptions};
use postroad::server::ServerOptions;
use postroad::server::proxy::{Header, MAX_V2, Parsed, parse};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::tls::pair;
use super::{Book, Client, options, pipe, server};
use postroad::net::tls::ServerTls;

const V1: &str = "PROXY TCP4 203.0.113.5 198.51.100.9 4321 25\r\n";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

fn believing(proxies: &str) -> ServerOptions {
    let mut options = options();
    options.proxy_from = vec![proxies.parse().unwrap()];
    options
}

fn encode(header: &Header, version: u8, behind: &[u8]) -> Vec<u8> {
    let (source, destination) = match header {
        Header::Unknown if version == 1 => return b"PROXY UNKNOWN\r\n".to_vec(),
        // Version 1 has no other word for it.
        Header::Local | Header::Unknown => {
            let length = u16::try_from(behind.len()).unwrap().to_be_bytes();
            let command = if *header == Header::Local { 0x20 } else { 0x21 };
            return [&LOCAL[..12], &[command, 0], &length, behind].concat();
        }
        Header::Proxied { source, destination } => (source, destination),
    };
    let six = source.is_ipv6();
    if version == 1 {
        let (from, to, kind) = (source.ip(), destination.ip(), if six { "TCP6" } else { "TCP4" });
        return format!("PROXY {kind} {from} {to} {} {}\r\n", source.port(), destination.port()).into();
    }
    let ip = |address: &SocketAddr| match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let rest = [&ip(source)[..], &ip(destination), &ports, behind].concat();
    let fixed = [0x21, if six { 0x21 } else { 0x11 }];
    [&LOCAL[..12], &fixed, &u16::try_from(rest.len()).unwrap().to_be_bytes(), &rest].concat()
}

fn headers() -> impl Strategy<Value = Header> {
    let v4 = any::<([u8; 4], [u8; 4], u16, u16)>().prop_map(|(from, to, a, b)| Header::Proxied {
        source: (Ipv4Addr::from(from), a).into(),
        destination: (Ipv4Addr::from(to), b).into(),
    });
    let v6 = any::<([u8; 16], [u8; 16], u16, u16)>().prop_map(|(from, to, a, b)| Header::Proxied {
        source: (Ipv6Addr::from(from), a).into(),
        destination: (Ipv6Addr::from(to), b).into(),
    });
    prop_oneof![Just(Header::Local), Just(Header::Unknown), v4, v6]
}

/// Reads as the server does: never more than is missing.
fn read_bit_by_bit(octets: &[u8], most: usize) -> Option<Header> {
    let mut have = 0;
    loop {
        match parse(&octets[..have]).ok()? {
            Parsed::Whole { header, length } => {
                assert_eq!(length, have, "read beyond the header");
                return Some(header);
            }
            Parsed::Missing(count) => {
                assert!(count > 0);
                have += count.min(most);
                if have > octets.len() {
                    return None;
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn a_header_is_read_as_it_was_written_however_it_is_cut(
        header in headers(),
        version in 1_u8..=2,
        behind in proptest::collection::vec(any::<u8>(), 0..480),
        most in 1_usize..600,
    ) {
        let octets = encode(&header, version, &behind);
        prop_assert_eq!(parse(&octets), Ok(Parsed::Whole { header, length: octets.len() }));
        let more = [&octets[..], &behind, b"EHLO x\r\n"].concat();
        prop_assert_eq!(read_bit_by_bit(&more, most), Some(header));
        for cut in 0..octets.len() {
            let Ok(Parsed::Missing(count)) = parse(&octets[..cut]) else {
                return Err(TestCaseError::fail(format!("whole or refused at {cut}")));
            };
            prop_assert!(cut + count <= octets.len(), "asks for what is not the header's");
        }
    }

    #[test]
    fn what_was_said_of_a_beginning_stays_true(
        start in proptest::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 1.2.3.4 ", &LOCAL[..12]]),
        rest in proptest::collection::vec(
            prop_oneof![any::<u8>(), proptest::sample::select(b"\r\n 0123456789.:\x21\x11\0".to_vec())],
            0..700
        ),
    ) {
        let octets = [start, &rest].concat();
        let whole = parse(&octets);
        for cut in 0..octets.len() {
            match parse(&octets[..cut]) {
                Ok(Parsed::Missing(count)) => prop_assert!(cut + count <= MAX_V2),
                settled => prop_assert_eq!(&settled, &whole, "cut at {}", cut),
            }
        }
        prop_assert!(octets.len() < MAX_V2 || !matches!(whole, Ok(Parsed::Missing(_))));
    }
}

#[tokio::test]
async fn a_trusted_proxys_header_says_who_the_client_is() {
    let client = Header::Proxied {
        source: "203.0.113.5:4321".parse().unwrap(),
        destination: "198.51.100.9:25".parse().unwrap(),
    };
    for header in [V1.as_bytes().to_vec(), encode(&client, 2, b"\x04\x00\x01x")] {
        let book = Arc::<Book>::default();
        let mut client = pipe(&book, believing("192.0.2.0/24"), "192.0.2.9");
        client.send(&header).await;
        client.expect(&["220 mx.test"]).await;
        client.ask("EHLO c.test", "250").await;
        let peer = book.peers.lock().unwrap()[0];
        assert_eq!(peer.address, "203.0.113.5:4321".parse().unwrap());
        assert_eq!(peer.local, "198.51.100.9:25".parse().unwrap());
    }
}

#[tokio::test]
async fn a_health_check_of_the_proxy_itself_keeps_its_address() {
    let book = Arc::<Book>::default();
    let mut client = pipe(&book, believing("192.0.2.0/24"), "192.0.2.9");
    client.send(LOCAL).await;
    client.expect(&["220"]).await;
    assert_eq!(book.peers.lock().unwrap()[0].address, "192.0.2.9:4000".parse().unwrap());
}

#[tokio::test]
async fn a_client_that_the_proxy_does_not_know_has_not_the_proxys_address() {
    let unspecified = encode(&Header::Unknown, 2, b"");
    for header in [&b"PROXY UNKNOWN\r\n"[..], &unspecified] {
        let book = Arc::<Book>::default();
        let mut options = believing("192.0.2.0/24");
        options.xclient_from = options.proxy_from.clone();
        let mut client = pipe(&book, options, "192.0.2.9");
        client.send(header).await;
        client.expect(&["220"]).await;
        assert_eq!(book.peers.lock().unwrap()[0].address, "0.0.0.0:0".parse().unwrap());
        client.ask("EHLO c.test", "250").await;
        client.ask("XCLIENT ADDR=127.0.0.1", "550 5.7.0").await;
    }
}

#[tokio::test]
async fn what_is_sent_behind_the_header_before_the_greeting_is_still_early_talk() {
    let mut client = pipe(&Arc::default(), believing("192.0.2.9"), "192.0.2.9");
    client.send(format!("{V1}EHLO early.test\r\n")).await;
    client.expect(&["554 5.5.1"]).await;
}

#[tokio::test]
async fn a_header_from_anybody_else_is_early_talk() {
    for header in [V1.as_bytes(), LOCAL] {
        let book = Arc::<Book>::default();
        let mut client = pipe(&book, believing("192.0.2.0/24"), "192.0.3.9");
        client.send(header).await;
        client.expect(&["554 5.5.1"]).await;
        assert_eq!(book.peers.lock().unwrap()[0].address, "192.0.3.9:4000".parse().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_without_a_whole_header_in_time_is_left_without_a_word() {
    let start = tokio::time::Instant::now();
    for (sent, late) in [
        ("", true),
        ("PROXY TCP4 203.0.113.5 ", true),
        ("EHLO c.test\r\n", false),
        ("PROXY TCP4 203.0.113.5 ::1 1 2\r\n", false),
        ("PROXY UNIX x y 1 2\r\n", false),
        (&format!("PROXY UNKNOWN {}", "x".repeat(200)), false),
    ] {
        let book = Arc::<Book>::default();
        let mut client = pipe(&book, believing("192.0.2.0/24"), "192.0.2.9");
        let before = start.elapsed();
        client.send(sent).await;
        assert_eq!(client.rest().await, "", "{sent:?}");
        let waited = if late { Duration::from_secs(5) } else { Duration::ZERO };
        assert_eq!((start.elapsed() - before).as_secs(), waited.as_secs(), "{sent:?}");
        assert!(book.peers.lock().unwrap().is_empty(), "the handler is not asked");
    }
}

/// Sends the header and what is written first in one write.
struct Behind(TcpStream, Vec<u8>);

impl AsyncRead for Behind {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        b: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, b)
    }
}

impl AsyncWrite for Behind {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<std::io::Result<usize>> {
        let header = std::mem::take(&mut self.1);
        let written = Pin::new(&mut self.0).poll_write(cx, &[&header, b].concat());
        written.map_ok(|count| count - header.len())
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn the_header_comes_before_tls_and_takes_nothing_of_it() {
    let (cert, key) = pair("mx.test");
    let tls = ServerTls::from_pem(cert.as_bytes(), key.as_bytes()).unwrap();
    let book = Arc::<Book>::default();
    let running =
        server(&book, believing("127.0.0.0/8")).tls(tls).listen_tls("127.0.0.1:0").start().await.unwrap();
    let stream = TcpStream::connect(running.addresses()[0]).await.unwrap();
    stream.writable().await.unwrap();
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    let client = ClientTls::new(trust, Arc::new(SystemClock)).unwrap();
    let host = Host::new("mx.test".parse().unwrap(), 465);
    let stream = Behind(stream, V1.as_bytes().to_vec());
    let mut client = Client(client.handshake(stream, &host, TlsClass::Accepting).await.unwrap().0);
    client.expect(&["220"]).await;
    assert_eq!(book.peers.lock().unwrap()[0].address, "203.0.113.5:4321".parse().unwrap());
}

#[tokio::test]
async fn limits_count_the_client_behind_the_proxy_and_not_the_proxy() {
    let mut options = believing("127.0.0.0/8");
    options.max_per_network = 1;
    let running = server(&Arc::default(), options).listen("127.0.0.1:0").start().await.unwrap();
    let mut held = Vec::new();
    for (header, code) in [
        (V1.as_bytes(), "220"),
        (V1.as_bytes(), "421 4.7.0"),
        (b"PROXY TCP4 203.0.113.6 198.51.100.9 1 25\r\n", "220"),
        (LOCAL, "220"),
        (LOCAL, "220"),
    ] {
        let mut client = Client(TcpStream::connect(running.addresses()[0]).await.unwrap());
        client.send(header).await;
        client.expect(&[code]).await;
        held.push(client);
    }
    let stats = running.stats();
    assert_eq!(stats.refused, 1);
    held[0].ask("QUIT", "221").await;
    let _ = held[0].0.shutdown().await;
    held[0].rest().await;
    drop(running);
}
